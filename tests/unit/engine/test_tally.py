"""The tally of names asked, against plain dictionaries: its counts, bound, windows, clients and dump."""

from __future__ import annotations

import contextlib
import random
import struct
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver import ring, snapshot
from resolver.engine.engine import Tally
from resolver.ring import Told
from resolver.vocabulary import Action, Transport
from tests.unit.engine.world import World, allow, block, client

KEY = bytes(range(32))
HEAD = struct.Struct("=HBBBBBBQ16sHHHHIHhI")


def record(name: bytes, octets: bytes = bytes(16), **fields: int) -> bytes:
    """A query record; the fields as ring.Record names them."""
    size = (ring.RECORD_SIZE + len(name) + 7) // 8 * 8
    given = {"action": 0, "told": 0, "qclass": 1, "slot": 0xFFFF, "policy_class": 0, "kind": ring.QUERY, **fields}
    head = HEAD.pack(
        size, given["kind"], len(name), 0, given["action"], 6, given["told"], 0, octets, 1, given["qclass"], 0,
        given["slot"], 0, given["policy_class"], -1, 0,
    )  # fmt: skip
    return (head + name).ljust(size, b"\0")


def wire(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def counts(tally: Tally, window: int = 0) -> dict[str, int]:
    return {name: asked for name, asked, *_ in tally.names_asked(window)}


def test_it_counts_what_the_engine_records(tmp_path: Path) -> None:
    world = World(tmp_path, block("bad.example"), block("drop.example", action=Action.DROP), allow("good.example"))
    tally = Tally(100, KEY)
    with world.record() as reader:
        for number in range(30):
            world.ask("WWW.Bad.example", client=client(f"192.0.2.{number % 3}"), transport=Transport.TCP)
        world.answer(world_query("drop.example"))
        world.ask("bad.example", client=client("203.0.113.9"))
        assert tally.add(reader.take(), 7, 1) == 32
    found = {name: rest for name, *rest in tally.names_asked(7)}
    assert found["www.bad.example"] == [30, 30, 3, 0, 1]
    assert found["drop.example"][:3] == [1, 1, 1]
    assert found["bad.example"][:3] == [1, 1, 1]


def world_query(name: str) -> bytes:
    return b"\0\7\1\0\0\1\0\0\0\0\0\0" + wire(name) + b"\0\1\0\1"


@pytest.mark.parametrize(
    "fields",
    [
        {"policy_class": snapshot.REFUSED_CLASS},
        {"policy_class": snapshot.WITHHELD_CLASS},
        {"qclass": 3},
        {"told": Told.TRUNCATED},
        {"told": Told.DROPPED},
    ],
)
def test_queries_that_nobody_was_served_by_do_not_count(fields: dict[str, int]) -> None:
    tally = Tally(10, KEY)
    assert tally.add(record(wire("x.example"), bytes(16), **fields) + record(wire("y.example")), 0, 1) == 1
    assert counts(tally) == {"y.example": 1}


@pytest.mark.parametrize(
    "name", [b"\0", b"\1*\7example\0", b"\3a.b\0", b"\1\xff\0", b"\5short\2x\0", b"\1x", b"\1x\0\0"]
)
def test_names_that_no_list_can_have_do_not_count(name: bytes) -> None:
    tally = Tally(10, KEY)
    assert tally.add(record(name), 0, 1) == 0
    assert not counts(tally)


def test_the_last_query_says_which_list_decided() -> None:
    tally = Tally(10, KEY)
    tally.add(record(wire("x.example"), told=Told.BLOCKED, action=Action.ZERO, slot=4), 0, 1)
    assert tally.names_asked(0) == [("x.example", 1, 1, 1, 4, 1)]
    tally.add(record(wire("x.example"), action=Action.ALLOW, slot=2), 0, 1)
    assert tally.names_asked(0) == [("x.example", 2, 1, 1, 2, 2)]
    tally.add(record(wire("x.example")), 0, 1)
    assert tally.names_asked(0) == [("x.example", 3, 1, 1, 0xFFFF, 0)]


def test_a_day_passes() -> None:
    tally = Tally(10, KEY)
    for window in range(5):
        tally.add(record(wire("x.example"), bytes([window + 1] * 16)) * (window + 1), window, 1)
    tally.add(record(wire("old.example")), 0, 1)
    assert counts(tally, 4) == {"x.example": 15, "old.example": 1}
    assert tally.names_asked(4)[0][3] == 5
    assert counts(tally, 5) == {"x.example": 14}
    tally.add(record(wire("x.example")), 6, 1)  # in the place of the window that no longer counts
    assert counts(tally, 6) == {"x.example": 3 + 4 + 5 + 1}
    assert not counts(tally, 99)


@pytest.mark.parametrize("clients", [1, 3, 9, 50, 1000, 100_000])
def test_clients_are_counted_about(clients: int) -> None:
    tally = Tally(2, KEY)
    for number in range(clients):
        tally.add(record(wire("x.example"), struct.pack(">QQ", 0, number)), number % 3, 1)
    about = tally.names_asked(2)[0][3]
    assert about == clients if clients < 5 else abs(about - clients) <= 0.4 * clients


def test_clients_are_counted_as_the_config_says() -> None:
    near = [client(f"192.0.2.{number}") for number in range(200)] + [
        client(f"2001:db8:0:{number:x}::1") for number in range(200)
    ]
    for mode, least, most in ((0, 0, 0), (1, 240, 560), (2, 2, 2)):
        tally = Tally(2, KEY)
        for octets in near:
            tally.add(record(wire("x.example"), octets), 0, mode)
        assert least <= tally.names_asked(0)[0][3] <= most


def test_names_asked_often_stay_whatever_else_is_asked_once() -> None:
    generator = random.Random(5)
    tally, truth = Tally(64, KEY), Counter[str]()
    for number in range(20_000):
        name = f"popular{generator.randrange(10)}.example" if number % 2 else f"random{number}.example"
        truth[name] += 1
        tally.add(record(wire(name)), 0, 0)
    assert tally.count <= 64
    found = counts(tally)
    for name, count in found.items():
        assert truth[name] - tally.missed <= count <= truth[name]
    assert all(f"popular{number}.example" in found for number in range(10))
    best = sorted(found, key=found.__getitem__, reverse=True)[:10]
    assert all(name.startswith("popular") for name in best)


def test_of_many_records_some_may_stand_for_all() -> None:
    tally, generator = Tally(100, KEY), random.Random(3)
    asked = generator.choices(["x.example", "y.example"], [3, 1], k=20_000)
    records = [record(wire(name), told=Told.BLOCKED if name == "y.example" else 0) for name in asked]
    for at in range(0, len(records), 50):  # which is no multiple of four
        tally.add(b"".join(records[at : at + 50]), 0, 1, 4)
    found = {name: (count, blocked) for name, count, blocked, *_ in tally.names_asked(0)}
    assert found["x.example"][0] + found["y.example"][0] == 20_000
    assert abs(found["x.example"][0] - 15_000) < 600 and found["y.example"][1] == found["y.example"][0]
    for every in (0, 1001):
        with pytest.raises(ValueError, match="one record in"):
            tally.add(b"", 0, 1, every)


def test_a_name_that_is_asked_once_takes_no_place_once_the_table_was_full() -> None:
    tally = Tally(20, KEY)
    for number in range(21):
        tally.add(record(wire(f"first{number}.example")), 0, 1)
    assert (tally.count, tally.missed) == (11, 1)
    tally.add(record(wire("once.example")) + record(wire("twice.example")), 0, 1)
    assert tally.count == 11
    tally.add(record(wire("twice.example")) * 3, 0, 1)
    assert counts(tally)["twice.example"] == 3 and "once.example" not in counts(tally)
    assert tally.missed == 2
    for number in range(1000):
        tally.add(record(wire(f"flood{number}.example")), 0, 1)
    assert "twice.example" in counts(tally)


def test_a_full_table_drops_what_belongs_to_days_gone_by_first() -> None:
    tally = Tally(10, KEY)
    for number in range(9):
        tally.add(record(wire(f"old{number}.example")) * 50, 0, 1)
    tally.add(record(wire("new.example")), 9, 1)
    tally.add(record(wire("newer.example")), 9, 1)
    assert counts(tally, 9) == {"new.example": 1, "newer.example": 1}
    assert tally.missed == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.booleans()), max_size=200), st.integers(2, 40))
def test_any_queries_count_as_in_a_dictionary(asked: list[tuple[int, int, bool]], limit: int) -> None:
    tally, truth, blocked = Tally(limit, KEY), Counter[str](), Counter[str]()
    for number, window, stopped in sorted(asked, key=lambda each: each[1]):
        name = f"n{number}.example"
        truth[name] += 1
        blocked[name] += int(stopped)
        tally.add(record(wire(name), told=Told.BLOCKED if stopped else 0), window, 1)
    found = {name: (count, stopped) for name, count, stopped, *_ in tally.names_asked(3)}
    assert len(found) <= tally.count <= limit
    for name, (count, stops) in found.items():
        assert truth[name] - tally.missed <= count <= truth[name]
        assert stops <= blocked[name]
    if len(truth) <= limit:
        assert found == {name: (truth[name], blocked[name]) for name in truth}
    again = Tally(limit, KEY)
    again.load(tally.dump(), 3, {0xFFFF: 0xFFFF})
    assert sorted(again.names_asked(3)) == sorted(tally.names_asked(3))


def test_a_dump_is_taken_up_with_the_slots_of_now() -> None:
    tally = Tally(10, KEY)
    tally.add(record(wire("x.example"), bytes(range(16)), told=Told.BLOCKED, slot=3), 4, 1)
    tally.add(record(wire("y.example"), told=Told.BLOCKED, slot=5), 0, 1)
    later = Tally(10, KEY)
    later.load(tally.dump(), 5, {3: 7})
    assert later.names_asked(5) == [("x.example", 1, 1, 1, 7, 1)]
    later.add(record(wire("x.example"), bytes(range(16))), 5, 1)
    assert later.names_asked(5)[0][1:4] == (2, 1, 1)  # the same client, as the key is the same
    small = Tally(2, KEY)
    for number in range(6):
        tally.add(record(wire(f"z{number}.example")), 5, 1)
    small.load(tally.dump(), 5, {})
    assert small.count <= 2


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_octets_upset_it(octets: bytes) -> None:
    tally = Tally(4, KEY)
    for take in (lambda: tally.add(octets, 0, 1), lambda: tally.load(octets, 0, {})):
        try:
            take()
        except ValueError:
            pass
    tally.names_asked(0)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_spoilt_dump_or_record_is_refused_or_read_within_bounds(data: st.DataObject) -> None:
    tally = Tally(8, KEY)
    whole = b"".join(record(wire(f"name{number}.example"), bytes([number] * 16)) for number in range(6))
    tally.add(whole, 3, 1)
    dump = tally.dump()
    for octets in (dump, whole):
        spoilt = bytearray(octets)
        for _ in range(data.draw(st.integers(1, 4))):
            spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(spoilt)))
        for bad in (bytes(spoilt), bytes(spoilt[:cut])):
            with contextlib.suppress(ValueError):
                if octets is dump:
                    Tally(8, KEY).load(bad, 3, {})
                else:
                    Tally(8, KEY).add(bad, 0, 1)


def test_a_tally_of_a_wrong_size_or_key_is_refused() -> None:
    for limit, key in ((1, KEY), (1 << 25, KEY), (10, b"short")):
        with pytest.raises(ValueError, match="a tally has"):
            Tally(limit, key)
