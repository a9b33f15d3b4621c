"""What there is to say about a running server: the workers' counters, and what the supervisor knows beside them.

metrics.py puts it into words for Prometheus and for `tampah stats`; here is nothing that takes time to import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from resolver import counters as layout

CACHE_GAUGES = (4, 5)  # of the section "cache": entries and octets, which a new worker begins at zero


@dataclass(frozen=True, slots=True)
class ListFacts:
    """What is known of a list beside its counters; `slot` is where it is counted. `held`: its newest version waits for a
    decision; `quarantined`: how many of its rules do."""

    name: str
    category: str
    slot: int
    names: int
    refused: int
    held: bool = False
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """How fetching a list from another machine goes. `copied`: when the copy in force came, `checked`: when the source
    last said what its list is (since the epoch; 0: never); `failures` in a row; `octets` that came over the network;
    `outcomes`: "changed", "unchanged" or "failed" → attempts. Of a zone: its `serial` (-1: none yet), (kind, outcome) →
    `transfers`, a refresh without one being of kind "probe", and the seconds that they took."""

    copied: float = 0.0
    checked: float = 0.0
    failures: int = 0
    octets: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    serial: int = -1
    transfers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    transfer_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A group's state: whether its schedule lets it apply, and whether filtering is paused for it."""

    name: str
    applies: bool
    paused: bool


@dataclass(slots=True)
class Facts:
    """What the supervisor knows beside the counters. Times in seconds, `last_success` since the epoch (0: none yet).

    `servers`: names of the upstream servers by slot. `processes`: name → pid, `helpers`: of those
    beside the workers. `sources`: list → how fetching it goes, of lists from other machines.
    `pauses`: target → end, since the epoch. `client_files`: file → (lines that name clients, lines that do not).
    `certificate_expiry`: since the epoch; 0 while none is shown.
    """

    generation: int = 0
    lists: Sequence[ListFacts] = ()
    servers: Sequence[str] = ()
    processes: Mapping[str, int] = field(default_factory=dict)
    worker_restarts: int = 0
    reloads: int = 0
    reload_failures: int = 0
    reload_duration: float = 0.0
    last_success: float = 0.0
    helpers: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, SourceFacts] = field(default_factory=dict)
    groups: Sequence[GroupFacts] = ()
    pauses: Mapping[str, float] = field(default_factory=dict)
    client_files: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    client_maps: int = 0
    certificate_expiry: float = 0.0
    certificate_renewals: int = 0
    certificate_failures: int = 0


class Source:
    """Where the numbers come from: the workers' counters and the supervisor's facts."""

    def __init__(self, counters: Sequence[memoryview], facts: Facts) -> None:
        self._counters = [memory.cast("B").cast("Q") for memory in counters]
        self.facts = facts

    def totals(self) -> dict[str, list[int]]:
        """Every section of counters.py, summed over the workers."""
        workers = [memory.tolist() for memory in self._counters]
        summed = list(map(sum, zip(*workers, strict=True))) if workers else [0] * layout.COUNT
        return {name: list(section.of(summed)) for name, section in layout.SECTIONS.items()}
