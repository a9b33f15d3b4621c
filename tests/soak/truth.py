"""What a right answer is at any moment, while lists, config, workers and upstreams change under load.

A change is *begun* when its file is in place and *settled* when the server has said that it is in force. In between
either state is right; after it only the new one is, for every query sent from then on. A query is judged by the whole
time from when it was sent to when its answer came. Moments are seconds on one monotonic clock; nothing here reads one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tests.soak.wire import NOERROR, SERVFAIL, TTL, Answer, address_of

PATIENCE = 5.0  # seconds for which a client waits for an answer
KEPT = 4 * PATIENCE  # seconds that a past state is remembered
AFTER_KILL = 0.5  # seconds in which a worker's death may still take queries with it
STALE_TTL = 30  # seconds, of an expired answer that serves while upstream fails (RFC 8767 section 4)
AFTER_OUTAGE = 3.0  # seconds in which questions from an outage may still fail


class Kind(Enum):
    """What a name is."""

    BLOCKED = "blocked"
    TOGGLED = "toggled"  # on the list at times
    POPULAR = "popular"
    MISS = "miss"


@dataclass(frozen=True, slots=True)
class State:
    """What the files say: which of the toggled names are blocked, and the address that blocked names get."""

    blocked: frozenset[str]
    sinkhole: str


@dataclass(slots=True)
class _Span:
    begin: float
    end: float

    def touches(self, begin: float, end: float) -> bool:
        return self.begin <= end and begin <= self.end


@dataclass(slots=True)
class Truth:
    """The states that were or are right, outages of all upstreams, and kills of workers."""

    state: State
    _states: list[tuple[State, _Span]] = field(default_factory=list)
    _outages: list[_Span] = field(default_factory=list)
    _troubles: list[_Span] = field(default_factory=list)  # of one upstream at least
    _kills: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._states.append((self.state, _Span(-math.inf, math.inf)))

    def begin(self, state: State, now: float) -> None:
        """The files say `state` from now on; the server may."""
        self.state = state
        self._states.append((state, _Span(now, math.inf)))

    def settle(self, now: float) -> None:
        """The server has said that the newest state is in force."""
        for _, span in self._states[:-1]:
            span.end = min(span.end, now)
        self._states = [item for item in self._states if item[1].end > now - KEPT]

    def begin_outage(self, now: float) -> None:
        """No upstream answers from now on."""
        self._outages = [span for span in self._outages if span.end > now - KEPT]
        self._outages.append(_Span(now, math.inf))

    def end_outage(self, now: float) -> None:
        """An upstream answers again; what it was asked for meanwhile may fail a little longer."""
        self._outages[-1].end = now + AFTER_OUTAGE

    def begin_trouble(self, now: float) -> None:
        """An upstream, or all, fail from now on."""
        self._troubles = [span for span in self._troubles if span.end > now - 2 * KEPT]
        self._troubles.append(_Span(now, math.inf))

    def end_trouble(self, now: float) -> None:
        """All upstreams answer again."""
        self._troubles[-1].end = now

    def kill(self, now: float) -> None:
        """A worker was killed."""
        self._kills = [moment for moment in self._kills if moment > now - KEPT]
        self._kills.append(now)

    def _possible(self, sent: float, now: float) -> Iterator[State]:
        return (state for state, span in self._states if span.touches(sent, now))

    def fault(self, kind: Kind, name: str, answer: Answer, sent: float, now: float) -> str:
        """What is wrong with an answer; "" if nothing."""
        if answer.qname != name:
            return f"answer to another question: asked {name}, answered {answer.qname!r}"
        if answer.rcode == SERVFAIL and kind is not Kind.BLOCKED:
            if any(span.touches(sent, now) for span in self._outages):
                return ""
            return f"SERVFAIL though an upstream was there: {name} after {now - sent:.2f} s"
        if answer.rcode != NOERROR or answer.is_cut or len(answer.addresses) != 1:
            count = len(answer.addresses)
            return f"answer without one address: {name}: rcode {answer.rcode}, TC {answer.is_cut}, {count} addresses"
        ((address, ttl),) = answer.addresses
        right: set[str] = set()
        blocked_by: set[str] = set()
        for state in self._possible(sent, now):
            blocked = kind is Kind.BLOCKED or (kind is Kind.TOGGLED and name in state.blocked)
            right.add(state.sinkhole if blocked else address_of(name))
            blocked_by.update({state.sinkhole} if blocked else ())
        if address not in right:
            return f"wrong address of a {kind.value} name: {name}: {address} instead of {' or '.join(sorted(right))}"
        if ttl > TTL and (right == blocked_by or ttl != STALE_TTL or not self._may_be_stale(sent, now)):
            return f"TTL longer than the upstream's: {name}: {ttl}"
        return ""

    def _may_be_stale(self, sent: float, now: float) -> bool:
        """Whether asking upstream may have failed, so that an expired answer serves."""
        return any(_Span(span.begin, span.end + KEPT).touches(sent, now) for span in self._troubles)

    def may_be_lost(self, sent: float) -> bool:
        """Whether a query that got no answer was in flight when a worker was killed."""
        return any(sent - AFTER_KILL <= moment <= sent + PATIENCE for moment in self._kills)
