"""Query records: what the engine writes, and that nothing of it is lost, torn or out of bounds."""

from __future__ import annotations

import itertools
import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver import counters as layout
from resolver import ring, snapshot
from resolver.engine.engine import REPLY, Engine
from resolver.ring import Reader, Record, Told
from resolver.vocabulary import EDE, Action, Rank, Rcode, RRType, Transport
from tests.unit.engine.world import CLIENT, World, block, client, query, reply_to, wire_query

RULES = (
    block("bad.example"),
    block("nx.example", action=Action.NXDOMAIN, list="other"),
    block("drop.example", action=Action.DROP),
    block("tcp.example", action=Action.TCP_ONLY),
)


def wire(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, *RULES)


@pytest.fixture
def reader(world: World) -> Iterator[Reader]:
    with world.record() as made:
        yield made


def only(reader: Reader) -> Record:
    [record] = reader
    return record


def test_a_record_says_who_asked_what_and_why_it_was_answered_so(world: World, reader: Reader) -> None:
    began = time.time_ns()
    world.ask("WWW.nx.Example", "AAAA", client=client("2001:db8::7"), transport=Transport.TCP)
    record = only(reader)
    assert began - 10**9 <= record.time <= time.time_ns() + 10**9
    assert record == Record(
        transport=Transport.TCP,
        action=Action.NXDOMAIN,
        rank=Rank.BLOCK,
        told=Told.BLOCKED,
        time=record.time,
        client=client("2001:db8::7"),
        qtype=RRType.AAAA,
        qclass=1,
        rcode=Rcode.NXDOMAIN,
        slot=1,
        listset=world.index.find("nx.example"),
        policy_class=0,
        ede=EDE.BLOCKED,
        duration=0,
        name=wire("www.nx.example"),
    )
    assert (world.count("records", 0), world.count("records", 1)) == (1, 0)


def test_what_waits_for_an_upstream_is_recorded_when_it_ends_with_its_duration(world: World, reader: Reader) -> None:
    asked = query("new.example")
    punt = world.punt(asked)
    assert not reader.batch()
    time.sleep(0.02)
    answer = reply_to(asked, "new.example. 300 A 192.0.2.1")
    world.engine.learn(punt, answer)
    assert world.engine.finish(punt, answer)[0] == REPLY
    record = only(reader)
    assert (record.told, record.action, record.rank, record.slot) == (Told.PUNTED, 0, Rank.NOBODY, layout.NO_LIST)
    assert 20_000 <= record.duration < 20_000_000
    world.ask("new.example")
    again = only(reader)
    assert (again.told, again.duration, again.ede, again.name) == (Told.CACHED, 0, -1, wire("new.example"))
    stride = layout.DURATION_STRIDE
    durations = layout.SECTIONS["durations"].of(world.counters)
    tcp_punted = durations[(Transport.TCP * 3 + 2) * stride : (Transport.TCP * 3 + 3) * stride]
    assert sum(tcp_punted[1:]) == 1 and tcp_punted[0] == record.duration
    udp_at_once = durations[:stride]
    assert sum(udp_at_once[1:]) == 1


def test_a_reply_made_in_python_is_recorded_with_what_decided(world: World, reader: Reader) -> None:
    asked = query("elsewhere.example", rd=True)
    punt = world.punt(asked, client("10.0.0.9"))
    world.engine.send(punt, reply_to(asked, rcode=Rcode.NXDOMAIN))
    record = only(reader)
    assert (record.rcode, record.told, record.rank, record.client) == (3, Told.PUNTED, Rank.NOBODY, client("10.0.0.9"))
    assert record.policy_class == 0


def test_what_gets_no_answer_or_a_cut_one_says_so(world: World, reader: Reader) -> None:
    world.answer(query("drop.example").to_wire())
    world.ask("tcp.example")
    dropped, cut = reader
    assert (dropped.told, dropped.action) == (Told.DROPPED | Told.BLOCKED, Action.DROP)
    assert (cut.told, cut.action) == (Told.TRUNCATED | Told.BLOCKED, Action.TCP_ONLY)


def test_strangers_have_no_class_and_what_has_no_question_no_record(world: World, reader: Reader) -> None:
    world.build(*RULES, allow_from=["10.0.0.0/8"])
    world.ask("bad.example")
    record = only(reader)
    assert (record.rcode, record.policy_class, record.ede) == (5, snapshot.REFUSED_CLASS, EDE.PROHIBITED)
    for packet in (b"", wire_query([b"bad", b"example"])[:20], b"\0\0\x28\0" + wire_query([b"x"])[4:]):
        world.answer(packet)
    assert not reader.batch()


@pytest.mark.parametrize(("what", "seen"), [("all", 2), ("blocked", 1), ("none", 0)])
def test_which_queries_are_recorded_can_be_said(world: World, reader: Reader, what: str, seen: int) -> None:
    world.engine.set_records(ring.WHAT.index(what))
    world.ask("bad.example")
    world.ask("unknown.example", rd=False)
    assert len(list(reader)) == seen == world.count("records", 0)
    assert world.count("records", 1) == 0


def test_without_a_reader_nothing_is_written_or_lost(world: World) -> None:
    with world.record() as reader:
        world.ask("bad.example")
        assert len(list(reader)) == 1
    world.ask("bad.example")
    assert (world.count("records", 0), world.count("records", 1)) == (1, 0)


def test_a_full_ring_drops_the_newest_and_counts_them(world: World) -> None:
    with world.record(1024) as reader:
        for number in range(50):
            world.ask(f"n{number}.bad.example")
        names = [record.name for record in reader]
        assert names == [wire(f"n{number}.bad.example") for number in range(len(names))]
        assert 0 < len(names) < 50
        assert (world.count("records", 0), world.count("records", 1)) == (len(names), 50 - len(names))
        world.ask("late.bad.example")
        assert only(reader).name == wire("late.bad.example"), "and goes on once there is room"


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([1024, 2048, 4096]),
    rounds=st.lists(st.lists(st.lists(st.integers(1, 63), max_size=3), min_size=1, max_size=6), max_size=30),
)
def test_records_of_any_length_arrive_in_order_around_the_end(
    tmp_path_factory: pytest.TempPathFactory, size: int, rounds: list[list[list[int]]]
) -> None:
    world = World(tmp_path_factory.mktemp("ring"), *RULES)
    sent: list[bytes] = []
    got: list[bytes] = []
    with world.record(size) as reader:
        for lengths in itertools.chain.from_iterable(rounds):
            labels = [*(b"x" * length for length in lengths), b"bad", b"example"]
            dropped = world.count("records", 1)
            world.answer(wire_query(labels))
            if world.count("records", 1) == dropped:
                sent.append(b"".join(bytes([len(label)]) + label for label in labels) + b"\0")
            if len(sent) % 3 == 0:
                got += [record.name for record in reader]
        got += [record.name for record in reader]
    assert got == sent


def test_whatever_the_reader_writes_the_engine_stays_inside(tmp_path: Path) -> None:
    world = World(tmp_path, *RULES)
    fd = ring.make("test", 1024)
    guarded = bytearray(b"\xaa" * (64 + ring.HEADER_SIZE + 1024 + 4096))
    inside = memoryview(guarded)[64 : 64 + ring.HEADER_SIZE + 1024]
    inside[: ring.HEADER_SIZE] = os.pread(fd, ring.HEADER_SIZE, 0)
    os.close(fd)
    world.engine.set_ring(inside)
    struct.pack_into("=Q", inside, ring.WANTED_AT, 1)
    for tail in (0, 1, 7, 2**63, 2**64 - 1, 2**64 - 1024, 500, 10**12):
        struct.pack_into("=Q", inside, ring.TAIL_AT, tail)
        for number in range(40):
            world.ask(f"{'n' * (number % 60 + 1)}.bad.example")
    assert guarded[:64] == b"\xaa" * 64 and guarded[-4096:] == b"\xaa" * 4096


@pytest.mark.parametrize(
    "spoil",
    [
        lambda memory: struct.pack_into("=Q", memory, ring.HEAD_AT, 2**40),
        lambda memory: struct.pack_into("=H", memory, ring.HEADER_SIZE, 0),
        lambda memory: struct.pack_into("=H", memory, ring.HEADER_SIZE, 65535),
        lambda memory: struct.pack_into("=B", memory, ring.HEADER_SIZE + 3, 255),
        lambda memory: struct.pack_into("=H", memory, ring.HEADER_SIZE, 16),
    ],
)
def test_a_damaged_ring_is_emptied_and_used_on(world: World, spoil: object) -> None:
    fd = ring.make("test", 4096)
    with mmap.mmap(fd, 0) as memory, Reader(fd) as reader:
        world.engine.set_ring(memoryview(mmap.mmap(fd, 0)))
        world.ask("bad.example")
        spoil(memory)  # type: ignore[operator]
        assert not reader.batch() and reader.damaged == 1
        os.close(fd)
        for _ in range(3):  # the engine keeps its own head and puts the ring's right
            world.ask("n.bad.example")
            found = reader.batch()
        assert [record.name for record in found] == [wire("n.bad.example")]


@pytest.mark.parametrize("size", [0, 64, ring.HEADER_SIZE, ring.HEADER_SIZE + 1024, ring.SIZE])
def test_other_memory_is_refused_by_both_ends(size: int) -> None:
    engine = Engine(counters=memoryview(bytearray(layout.SIZE)), cache_bytes=1 << 20)
    with pytest.raises(ValueError, match="no ring"):
        engine.set_ring(memoryview(bytearray(size)))
    fd = os.memfd_create("other")
    os.ftruncate(fd, max(size, 1))
    try:
        with pytest.raises(ValueError, match="no ring"):
            Reader(fd)
    finally:
        os.close(fd)


def test_a_ring_is_made_in_sizes_that_it_can_have() -> None:
    for size in (0, 512, 1000, 4095):
        with pytest.raises(ValueError, match="power of two"):
            ring.make("test", size)


def _serve(world: World, memory: mmap.mmap, counted: mmap.mmap, first: int, pause: float) -> None:
    """In a process of its own: answer numbered queries until somebody kills it."""
    engine = Engine(counters=memoryview(counted), cache_bytes=1 << 20)
    engine.set_ring(memoryview(memory))
    engine.swap(world.snapshot)
    for number in itertools.count(first):
        engine.answer(wire_query([str(number).encode(), b"x" * (number % 50 + 1), b"bad", b"example"]), CLIENT, 0)
        if number % 100 == 0:
            time.sleep(pause)


def test_a_worker_that_is_killed_leaves_whole_records_and_its_successor_goes_on(world: World) -> None:
    fd = ring.make("test", 1 << 14)
    counted = mmap.mmap(-1, layout.SIZE)
    shared = mmap.mmap(fd, 0)
    words = memoryview(counted).cast("Q")
    read = 0
    with Reader(fd) as reader:
        for life in range(4):
            first = life * 10**9
            pid = os.fork()
            if pid == 0:
                try:
                    _serve(world, shared, counted, first, pause=0.0 if life % 2 else 0.002)
                finally:
                    os._exit(1)
            before, seen, last = read, first - 1, time.monotonic() + 30
            alive = True
            while True:
                records = reader.batch()
                for record in records:
                    number = int(record.name[1 : 1 + record.name[0]])
                    assert number > seen and record.name.endswith(b"\3bad\7example\0")
                    assert record.name[1 + record.name[0]] == number % 50 + 1
                    seen = number
                read += len(records)
                if not alive and not records:
                    break
                if alive and (read - before > 3000 or time.monotonic() > last):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    alive = False
                if life % 2:
                    time.sleep(0.01)  # in which such a worker writes far more than there is room for
            assert read - before > 3000
        written, dropped = (words[layout.SECTIONS["records"].start + place] for place in (0, 1))
        assert 0 <= written - read <= 4, "what a kill tore is at most the record that it was at"
        assert dropped > 0
        assert reader.damaged == 0
    os.close(fd)
