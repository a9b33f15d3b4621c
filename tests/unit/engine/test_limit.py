"""Rate limits: a client prefix that has spent its tokens is sent to TCP, and nobody else pays for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from resolver.engine.engine import DROP
from resolver.vocabulary import Transport
from tests.unit.engine.world import World, block, client, query

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


# -- what is done beyond it, and the limit of responses ---------------------------------------------------------------
def limit(world: World, **options: Any) -> None:
    given = {"per_second": 0, "prefix4": 24, "prefix6": 56, "key": KEY, **options}
    world.engine.set_limit(memoryview(bytearray(BUCKETS)), **given)


def outcomes(world: World, name: str, count: int, rdtype: str = "A", **options: Any) -> Counter[str]:
    """What came of `count` queries: full, tc, drop or an rcode."""
    seen: Counter[str] = Counter()
    for _ in range(count):
        asked = query(name, rdtype, options=options.get("options", ()))
        verdict, reply = world.answer(
            asked.to_wire(), client(options.get("address", "192.0.2.1")), options.get("transport", Transport.UDP)
        )
        if reply is None:
            assert verdict == DROP
            seen["drop"] += 1
            continue
        message = dns.message.from_wire(reply)
        assert asked.is_response(message)
        if message.rcode():
            seen[dns.rcode.to_text(message.rcode())] += 1
        else:
            seen["tc" if message.flags & dns.flags.TC else "full"] += 1
    return seen


@pytest.mark.parametrize(("action", "outcome"), [("truncate", "tc"), ("drop", "drop"), ("refuse", "REFUSED")])
def test_the_action_beyond_the_limit(world: World, action: str, outcome: str) -> None:
    limit(world, per_second=5, action=action)
    seen = outcomes(world, "blocked.example", 50)
    assert set(seen) == {"full", outcome} and seen["full"] < 20


def test_errors_count_too_and_are_dropped(world: World) -> None:
    limit(world, per_second=5)
    seen = outcomes(world, "x.example", 50, "AXFR")
    assert set(seen) == {"REFUSED", "drop"} and seen["drop"] > 30


@pytest.mark.parametrize(("slip", "share"), [(0, 0.0), (1, 1.0), (2, 0.5), (10, 0.1)])
def test_answers_of_one_kind_are_limited_and_some_slip(world: World, slip: int, share: float) -> None:
    limit(world, responses=5, slip=slip)
    seen = outcomes(world, "blocked.example", 600)
    beyond = seen["tc"] + seen["drop"]
    assert beyond > 500 and abs(seen["tc"] / beyond - share) < 0.1
    assert world.count("engine", 7) == beyond


def test_kinds_are_names_and_types_where_there_is_an_answer_else_what_it_says(world: World) -> None:
    limit(world, responses=5, slip=0)
    assert outcomes(world, "blocked.example", 100)["drop"] > 80
    assert outcomes(world, "www.blocked.example", 5) == {"full": 5}  # another name
    assert outcomes(world, "blocked.example", 5, "AAAA") == {"full": 5}  # and type
    assert outcomes(world, "blocked.example", 5, address="192.0.3.1") == {"full": 5}  # and network
    assert sum(outcomes(world, f"{n}.blocked.example", 1, "MX")["full"] for n in range(100)) < 20  # NODATA is one kind
    assert sum(outcomes(world, f"{n}.example", 1, "AXFR")["REFUSED"] for n in range(100)) < 20


def test_streams_and_proven_clients_are_not_limited(world: World) -> None:
    limit(world, responses=5)
    world.engine.configure_edns(cookies=1, cookie_key=KEY)
    assert outcomes(world, "blocked.example", 50, transport=Transport.TCP) == {"full": 50}
    first = world.ask("blocked.example", options=[cookie(bytes(8))], client=client("192.0.2.1"))
    ours = next(each for each in first.options if each.otype == dns.edns.OptionType.COOKIE)
    assert outcomes(world, "blocked.example", 50, options=[ours]) == {"full": 50}
    assert outcomes(world, "blocked.example", 50, options=[cookie(bytes(8))])["full"] < 20


def cookie(data: bytes) -> dns.edns.Option:
    return dns.edns.GenericOption(dns.edns.OptionType.COOKIE, data)


@pytest.mark.parametrize("changes", [{"responses": 1_000_001}, {"action": "shout"}])
def test_an_action_that_is_none_is_refused(world: World, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        limit(world, **{"per_second": 5, **changes})
