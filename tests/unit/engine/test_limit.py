"""The rate limit: a bucket for each client prefix, TC beyond it, streams never limited, memory shared by engines."""

from __future__ import annotations

import time
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest

from resolver.engine.engine import OVERLAY_ALLOW_VALUE, OVERLAY_BLOCK_VALUE, REPLY, SuffixTable
from resolver.vocabulary import Transport
from tests.unit.engine.world import World, block, client

KEY = bytes(range(16))
RATE = 20


def buckets(octets: int = 1 << 16) -> memoryview:
    return memoryview(bytearray(octets))


def limited(world: World, count: int, address: str, transport: Transport = Transport.UDP) -> int:
    """How many of `count` questions at once are answered with TC."""
    query = dns.message.make_query("bad.example", "A").to_wire()
    found = 0
    for _ in range(count):
        verdict, reply = world.engine.answer(query, client(address), transport)
        assert verdict == REPLY and reply is not None
        answer = dns.message.from_wire(reply)
        if answer.flags & dns.flags.TC:
            assert not answer.answer
            found += 1
    return found


def set_limit(world: World, memory: memoryview, per_second: int = RATE, prefix4: int = 24, prefix6: int = 56) -> None:
    world.engine.set_limit(memory, per_second=per_second, prefix4=prefix4, prefix6=prefix6, key=KEY)


def test_a_prefix_gets_a_seconds_worth_and_then_tc(tmp_path: Path) -> None:
    world = World(tmp_path, block("bad.example"))
    set_limit(world, buckets())
    assert 70 <= limited(world, 100, "192.0.2.1") <= 80
    assert limited(world, 100, "192.0.2.200") >= 95, "the same /24 shares its bucket"
    assert limited(world, RATE, "192.0.3.1") == 0, "another /24 has its own"
    assert 70 <= limited(world, 100, "2001:db8::1") <= 80
    assert limited(world, RATE, "2001:db8:0:100::1") == 0, "another /56 has its own"


def test_a_bucket_fills_again(tmp_path: Path) -> None:
    world = World(tmp_path, block("bad.example"))
    set_limit(world, buckets())
    limited(world, 100, "192.0.2.1")
    time.sleep(0.5)
    assert 100 - limited(world, 100, "192.0.2.1") >= RATE // 3


def test_streams_are_not_limited(tmp_path: Path) -> None:
    world = World(tmp_path, block("bad.example"))
    set_limit(world, buckets())
    assert limited(world, 100, "192.0.2.1", Transport.TCP) == 0


def test_engines_with_the_same_memory_share_the_buckets(tmp_path: Path) -> None:
    memory = buckets()
    one, two = World(tmp_path, block("bad.example")), World(tmp_path, block("bad.example"))
    set_limit(one, memory)
    set_limit(two, memory)
    limited(one, 100, "192.0.2.1")
    assert limited(two, 100, "192.0.2.1") >= 95


def test_prefixes_beyond_the_tables_room_do_not_lock_each_other_out(tmp_path: Path) -> None:
    world = World(tmp_path, block("bad.example"))
    set_limit(world, buckets(64 * 4), prefix4=32)  # four sets of four
    assert sum(limited(world, 1, f"192.0.{number >> 8}.{number & 255}") for number in range(2000)) == 0


def test_a_limit_can_be_lifted_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, block("bad.example"))
    set_limit(world, buckets())
    set_limit(world, buckets(), per_second=0)
    assert limited(world, 100, "192.0.2.1") == 0
    with pytest.raises(ValueError, match="cannot be kept"):
        set_limit(world, buckets(192))
    with pytest.raises(ValueError, match="cannot be kept"):
        set_limit(world, buckets(), prefix4=33)


def test_the_overlay_outranks_every_list(tmp_path: Path) -> None:
    world = World(tmp_path, block("bad.example", important=True))
    world.engine.set_overlay(
        SuffixTable({"bad.example": (OVERLAY_ALLOW_VALUE,) * 2, "new.example": (OVERLAY_BLOCK_VALUE,) * 2})
    )
    assert world.ask("www.new.example").answer[0][0].to_text() == "0.0.0.0"
    query = dns.message.make_query("www.bad.example", "A", flags=0).to_wire()
    _, reply = world.engine.answer(query, client("127.0.0.1"), Transport.UDP)
    assert reply is not None
    assert dns.message.from_wire(reply).rcode() == dns.rcode.REFUSED, "it would be forwarded, and RD is 0"
    world.engine.set_overlay(None)
    assert world.ask("www.bad.example").answer[0][0].to_text() == "0.0.0.0"
