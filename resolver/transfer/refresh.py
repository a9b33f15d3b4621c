"""Decides what one refresh of a zone does next; asks nobody itself.

    Probe ─ serial the same: Done ─ older: an alarm, and the next primary ─ newer: Transfer ─ Done
      └ no answer: by TCP, then the next primary          └ what is no delta: all of it ─ any other fault: Failed

Serials compare by RFC 1982. A zone of which there is no copy, or one that was read in another way, is transferred whole
whatever its serial. A transfer that fails ends the refresh: what came of it is thrown away, the copy serves on, and after
the SOA's RETRY the next refresh begins with the next primary (RFC 1035 section 3.3.13, RFC 5936 section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from resolver.transfer.zone import DEFAULT_RETRY, Order, Soa, compare


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask primary number `primary` for its SOA."""

    primary: int
    tcp: bool


@dataclass(frozen=True, slots=True)
class Transfer:
    """Transfer the zone from a primary: what changed since `base` (RFC 1995), or all of it (None; RFC 5936)."""

    primary: int
    base: Soa | None


@dataclass(frozen=True, slots=True)
class Done:
    """The copy is what a primary has. `alarm`: what nevertheless needs a look."""

    primary: int
    changed: bool
    alarm: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing came of it: try again after `retry` seconds, with primary `first` first."""

    text: str
    retry: float
    first: int


Step = Probe | Transfer | Done | Failed


class Refresh:
    """One refresh: do what `step` says, tell how it went, until it is Done or Failed.

    `primaries`: their names, for messages. `known`: the SOA of the copy, None if there is none that may serve as a base.
    """

    def __init__(self, primaries: tuple[str, ...], known: Soa | None, *, first: int = 0, deltas: bool = True) -> None:
        self._primaries = primaries
        self._known = known
        self._deltas = deltas
        count = len(primaries)
        self._order = [(first + place) % count for place in range(count)]
        self._faults: list[str] = []
        self._alarm = ""
        self.step: Step = Probe(self._order.pop(0), tcp=False)

    def probed(self, soa: Soa) -> None:
        """A primary's SOA."""
        assert isinstance(self.step, Probe)
        primary = self.step.primary
        order = Order.NEWER if self._known is None else compare(soa.serial, self._known.serial)
        if order is Order.NEWER:
            self.step = Transfer(primary, self._known if self._deltas else None)
        elif order is Order.SAME:
            self.step = Done(primary, False, self._alarm)
        else:
            assert self._known is not None
            self._alarm = (
                f"{self._primaries[primary]}: serial {soa.serial} is older than the {self._known.serial} that is here; "
                "nothing is transferred until it is newer"
            )
            self._faults.append(self._alarm)
            self._next()

    def probe_failed(self, text: str) -> None:
        """No SOA came."""
        assert isinstance(self.step, Probe)
        if not self.step.tcp:
            self.step = Probe(self.step.primary, tcp=True)
        else:
            self._faults.append(f"{self._primaries[self.step.primary]}: {text}")
            self._next()

    def transferred(self, changed: bool = True) -> None:
        """The copy is the primary's."""
        assert isinstance(self.step, Transfer)
        self.step = Done(self.step.primary, changed, self._alarm)

    def transfer_failed(self, text: str, *, no_delta: bool = False) -> None:
        """Nothing came of a transfer. `no_delta`: it was a delta that cannot be had or does not fit."""
        assert isinstance(self.step, Transfer)
        if no_delta and self.step.base is not None:
            self.step = Transfer(self.step.primary, None)
            return
        self._faults.append(f"{self._primaries[self.step.primary]}: {text}")
        self._fail((self.step.primary + 1) % len(self._primaries))

    def _next(self) -> None:
        if self._order:
            self.step = Probe(self._order.pop(0), tcp=False)
        else:
            self._fail(0)

    def _fail(self, first: int) -> None:
        retry = self._known.retry_seconds if self._known else float(DEFAULT_RETRY)
        self.step = Failed("; ".join(self._faults), retry, first)
