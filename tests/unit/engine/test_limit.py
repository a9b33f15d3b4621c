"""Rate limits: a client prefix that has spent its tokens is sent to TCP, and nobody else pays for it."""

from __future__ import annotations

from pathlib import Path

import dns.flags
import dns.message
import pytest

from resolver.vocabulary import Transport
from tests.unit.engine.world import World, block, client

KEY = bytes(range(16))
BUCKETS = 4 * 16 * 256


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, block("blocked.example"))
    made.engine.set_limit(memoryview(bytearray(BUCKETS)), per_second=5, prefix4=24, prefix6=56, key=KEY)
    return made


def answers(world: World, address: str, count: int, transport: Transport = Transport.UDP) -> int:
    """How many of `count` queries are answered in full."""
    replies = [world.ask("blocked.example", client=client(address), transport=transport) for _ in range(count)]
    assert all(bool(reply.answer) != bool(reply.flags & dns.flags.TC) for reply in replies)
    return sum(bool(reply.answer) for reply in replies)


def test_a_second_worth_of_queries_is_answered_then_tc(world: World) -> None:
    assert 5 <= answers(world, "192.0.2.1", 50) < 50
    assert world.count("engine", 7) > 0


@pytest.mark.parametrize(
    ("first", "other", "shared"),
    [
        ("192.0.2.1", "192.0.2.200", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8:0:1::1", "2001:db8:0:ff::1", True),
        ("2001:db8:0:1::1", "2001:db8:0:100::1", False),
        ("::ffff:192.0.2.1", "192.0.2.9", True),
    ],
)
def test_a_prefix_has_one_bucket(world: World, first: str, other: str, shared: bool) -> None:
    answers(world, first, 1000)
    if shared:
        assert answers(world, other, 100) < 100  # some come back with time
    else:
        assert answers(world, other, 5) == 5


def test_streams_are_not_limited(world: World) -> None:
    assert answers(world, "192.0.2.1", 100, Transport.TCP) == 100


def test_a_flood_from_many_prefixes_locks_nobody_out(world: World) -> None:
    for number in range(5000):
        answers(world, f"10.{number >> 8}.{number & 255}.1", 1)
    assert answers(world, "192.0.2.1", 5) == 5


@pytest.mark.parametrize(("prefix4", "prefix6"), [(0, 0), (32, 128), (7, 9), (31, 127)])
def test_any_length_of_prefix(world: World, prefix4: int, prefix6: int) -> None:
    world.engine.set_limit(memoryview(bytearray(BUCKETS)), per_second=5, prefix4=prefix4, prefix6=prefix6, key=KEY)
    for address in ("255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"):
        assert answers(world, address, 5) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"buckets": bytearray(63)},
        {"buckets": bytearray(64 * 3)},
        {"per_second": 1_000_001},
        {"prefix4": 33},
        {"prefix6": 129},
        {"prefix4": -1},
        {"key": b"short"},
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused_and_changes_nothing(world: World, changes: dict[str, object]) -> None:
    options = {"per_second": 7, "prefix4": 24, "prefix6": 56, "key": KEY, "buckets": bytearray(1 << 20), **changes}
    with pytest.raises(ValueError):
        world.engine.set_limit(memoryview(options.pop("buckets")), **options)  # type: ignore[arg-type]
    for number in range(1000):  # a table of the refused size would be read beyond the old one's end
        answers(world, f"10.{number >> 8}.{number & 255}.1", 1)


def test_without_a_limit_everything_is_answered(world: World) -> None:
    world.engine.set_limit(None, per_second=0, prefix4=24, prefix6=56, key=KEY)
    assert answers(world, "192.0.2.1", 100) == 100
