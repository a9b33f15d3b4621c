"""Query records from workers to whoever keeps them: the layout of a worker's ring, and the end that reads it.

A ring is a memory file a worker, made by the supervisor and mapped by both (memfd). The worker's engine writes a record
for each query that has come to its end (`engine/ring.pyx`, which states the same layout; a test proves that both
agree); one reader takes them. Nothing is locked and nobody waits: a record that finds no room is dropped and counted.
While no reader is attached nothing is written, and nothing counts as lost.

    header, native byte order, each word on a cache line of its own      data: a power of two of octets from HEADER_SIZE
    ┌────────────┬─────────────┬───────────┬────────┬───────┬────────┐   ┌────────┬────────┬─────┬────────┬────────────┐
    │ 0 magic 8  │ 8 version 4 │ 16 size 8 │ 64     │ 128   │ 192    │   │ record │ record │ …   │ record │ filler up  │
    │            │             │ of data   │ head 8 │ tail 8│ wanted │   │        │        │     │        │ to the end │
    └────────────┴─────────────┴───────────┴────────┴───────┴────────┘   └────────┴────────┴─────┴────────┴────────────┘

`head` counts all octets ever written and is the engine's, `tail` all that were ever read and is the reader's, each in
data modulo its size; `wanted` is 1 while a reader is attached. A record is written first and head then stored with
release; the reader loads head with acquire, copies, and stores tail with release: so neither sees what is half done, on
any processor, and a worker that dies in the middle of a record has not written it. Its successor goes on at `head`.

    record, from an offset that is a multiple of 8 and never across the end of data
    ┌────────┬────────┬─────────────┬──────┬────────┬───────────┬─────────────┬──────────────────────────────────────┐
    │ 0 size │ 2 kind │ 3 name size │ 4 …  │ 8 time │ 16 client │ 32 … 51     │ 52 name, lower-case in wire form, and │
    │ u16    │ u8     │ u8          │ u8×4 │ u64    │ 16        │ see Record  │ what is missing to a multiple of 8    │
    └────────┴────────┴─────────────┴──────┴────────┴───────────┴─────────────┴──────────────────────────────────────┘
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Iterator
from enum import IntFlag
from types import TracebackType
from typing import NamedTuple

MAGIC = b"TAMPAHQR"
VERSION = 1
HEAD_AT, TAIL_AT, WANTED_AT = 64, 128, 192
HEADER_SIZE = 256
DATA_SIZE = 2 << 20  # octets: some 20,000 records, or what 200,000 queries a second leave in a tenth of a second
SIZE = HEADER_SIZE + DATA_SIZE

FILLER, QUERY = 0, 1  # a record's kind
_HEADER = struct.Struct("=8sIIQ")
_KIND = struct.Struct("=HB")
_RECORD = struct.Struct("=HBBBBBBQ16sHHHHIHhI")
RECORD_SIZE = _RECORD.size  # before the name
assert _HEADER.size == 24 and RECORD_SIZE == 52
MAX_RECORD = (RECORD_SIZE + 255 + 7) // 8 * 8

WHAT = ("none", "blocked", "all")  # of query_log.what, by the engine's number for it


class Told(IntFlag):
    """What became of a query, beside its action and rcode."""

    BLOCKED = 1  # the upstream's answer, if there was one, was kept from the client
    CACHED = 2  # answered from the cache
    FORWARDED = 4  # the engine asked upstream for it, or it waited with another that did
    PUNTED = 8  # Python had it
    TRUNCATED = 16  # the answer had TC
    DROPPED = 32  # no answer was sent
    INNER = 64  # nobody asked it: never in a record


class Record(NamedTuple):
    """One query that has come to its end."""

    transport: int  # vocabulary.Transport
    action: int  # vocabulary.Action
    rank: int  # vocabulary.Rank of what decided
    told: int  # Told
    time: int  # nanoseconds since the epoch, when the answer was made; good to about a millisecond
    client: bytes  # 16 octets, IPv4 as ::ffff:a.b.c.d
    qtype: int
    qclass: int
    rcode: int  # with the extended bits (RFC 6891 section 6.1.3); says nothing of what was dropped
    slot: int  # of the list that won (counters.py)
    listset: int  # of the generation in force then; 0: nobody speaks of the name
    policy_class: int  # of the client; snapshot.REFUSED_CLASS for strangers and for what ended before that was asked
    ede: int  # INFO-CODE (RFC 8914) or -1, whether or not the client had EDNS to see it
    duration: int  # microseconds from query to answer; 0 where it was answered at once
    name: bytes  # qname, lower-case, wire form


def make(name: str, data_size: int = DATA_SIZE) -> int:
    """A memfd with an empty ring of `data_size` octets, a power of two; it takes memory only once it is written to."""
    if data_size < 2 * MAX_RECORD or data_size & (data_size - 1):
        raise ValueError(f"a ring of {data_size} octets: expected a power of two, at least {2 * MAX_RECORD}")
    fd = os.memfd_create(name)
    os.ftruncate(fd, HEADER_SIZE + data_size)
    os.pwrite(fd, _HEADER.pack(MAGIC, VERSION, 0, data_size), 0)
    return fd


def parse(octets: bytes) -> Iterator[Record]:
    """The records of octets that `Reader.take` gave. ValueError where they are none."""
    at, end = 0, len(octets)
    while at < end:
        if end - at < 8:
            raise ValueError(f"a record is cut at octet {at}")
        size, kind = _KIND.unpack_from(octets, at)
        if size < 8 or size % 8 or size > end - at:
            raise ValueError(f"a record of {size} octets at octet {at}")
        if kind == QUERY:
            if size < RECORD_SIZE:
                raise ValueError(f"a record of {size} octets at octet {at}")
            (_, _, length, transport, action, rank, told, time, client, qtype, qclass, rcode, slot, listset, group,
             ede, duration) = _RECORD.unpack_from(octets, at)  # fmt: skip
            if length > size - RECORD_SIZE:
                raise ValueError(f"a name of {length} octets in a record of {size} at octet {at}")
            name = octets[at + RECORD_SIZE : at + RECORD_SIZE + length]
            yield Record(
                transport, action, rank, told, time, client, qtype, qclass, rcode, slot, listset, group, ede, duration,
                name,
            )  # fmt: skip
        at += size


def want(fd: int) -> None:
    """Have the worker write before there is a reader: the one to come takes what is there then."""
    os.pwrite(fd, (1).to_bytes(8, sys.byteorder), WANTED_AT)


class Reader:
    """The one reader of a worker's ring. While it is open the worker writes; it outlives the worker. One that died without
    closing its end has a successor that goes on where it was.

    `fd` stays the caller's. ValueError: it holds no ring. Use from one thread.
    """

    def __init__(self, fd: int) -> None:
        from resolver.engine.engine import RingEnd  # not at the supervisor's start

        self._memory = mmap.mmap(fd, 0)
        self._end = RingEnd(self._memory)
        self.damaged = 0  # times that a ring held what no engine writes; what was in it then is lost
        self._end.want(True)

    def take(self, octets: int = 1 << 20) -> bytes:
        """Whole records of about that many octets at most, oldest first; empty if there are none."""
        return self._end.take(max(octets, MAX_RECORD))

    def batch(self, octets: int = 1 << 20) -> list[Record]:
        """The same as a list. A damaged ring is emptied and counted in `damaged`."""
        try:
            while taken := self.take(octets):
                if records := list(parse(taken)):  # else it was the filler before data's end
                    return records
        except ValueError:
            self.damaged += 1
            self._end.skip()
        return []

    def __iter__(self) -> Iterator[Record]:
        """All that is there now."""
        while records := self.batch():
            yield from records

    def skip(self) -> None:
        """Forget what is there."""
        self._end.skip()

    def close(self) -> None:
        """Let the worker write no more."""
        self._end.want(False)
        self._end.close()
        self._memory.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
