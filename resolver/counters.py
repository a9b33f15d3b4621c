"""The layout of a worker's counters in shared memory: the only Python description of it.

One file a worker, made by the supervisor (memfd), an array of u64 in native byte order. The engine writes its sections
through `engine/query.pxd`, which states the same offsets; `Engine` refuses a buffer of another size. Upstream counters are
written by `upstream/pool.py`. Only the worker writes, only the supervisor reads; a torn read is impossible for an
aligned u64 and a sum over workers needs no lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TRANSPORTS = 5  # vocabulary.Transport
TYPE_SLOTS = 72  # qtypes 0–65 by number, then ANY, CAA and all others
TYPE_ANY, TYPE_CAA, TYPE_OTHER = 66, 67, 71
RCODES = 24
ACTIONS = 16  # vocabulary.Action
LIST_SLOTS = 1024  # the supervisor gives each list name a slot for its lifetime; the last counts "no list"
NO_LIST = LIST_SLOTS - 1
OVERLAY_SLOT = LIST_SLOTS - 2  # what operators blocked and allowed at once
REBINDING_SLOT = LIST_SLOTS - 3  # answers with addresses inside for names outside
SERVERS = 64
LATENCY_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds
LATENCY_BUCKETS = len(LATENCY_BOUNDS) + 1
WAYS = (
    "at_once",
    "forwarded",
    "punted",
)  # how an answer came about: here, by the engine's question upstream, by Python
DURATION_BOUNDS = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, *LATENCY_BOUNDS)  # seconds
DURATION_STRIDE = 1 + len(DURATION_BOUNDS) + 1


@dataclass(frozen=True, slots=True)
class Section:
    """`length` counters from index `start`."""

    start: int
    length: int

    def of(self, counters: memoryview | Sequence[int]) -> Sequence[int]:
        """This section of a worker's counters (cast to "Q")."""
        return counters[self.start : self.start + self.length]


def _lay_out(lengths: dict[str, int]) -> Iterator[tuple[str, Section]]:
    start = 0
    for name, length in lengths.items():
        yield name, Section(start, length)
        start += length


SECTIONS = dict(
    _lay_out(
        {
            "queries": TRANSPORTS * TYPE_SLOTS,  # [transport][type]
            "responses": RCODES,
            "answers": ACTIONS * LIST_SLOTS,  # [action][list slot]
            # hits, misses, stores, evictions, entries, octets in use, octets in all, stale answers
            "cache": 8,
            # malformed, refused by allow_from, truncated, punts, send failures, receive rounds, dropped, over the rate limit
            "engine": 8,
            # per server: queries, failures, time-outs, bad answers, sent over connections, connections ever and now, latency
            # sum (µs), latency buckets; hedges; of the failures: errors, certificates, handshakes, protocol, look-ups (the
            # rest: network); whether it is benched; spare ×3
            "upstream": SERVERS * (8 + LATENCY_BUCKETS + 10),
            # [transport][way]: from query to answer, sum (µs), buckets; what is answered at once counts as long as its batch
            "durations": TRANSPORTS * len(WAYS) * DURATION_STRIDE,
            # query records (ring.py): written, dropped as there was no room, spare ×6
            "records": 8,
            "shadow": LIST_SLOTS,  # [list slot]: what a list that only counts would have decided
            "dnssec": 8,  # answers found secure, insecure, bogus, indeterminate (dnssec/validate.py), spare ×4
        }
    )
)
COUNT = sum(section.length for section in SECTIONS.values())
SIZE = COUNT * 8
UPSTREAM_STRIDE = 8 + LATENCY_BUCKETS + 10
