"""What is known about an upstream server, and in which order servers are asked.

One `Health` per server and worker, shared by all routes that name the server, kept over reloads. It learns from every
exchange: smoothed round-trip time (RFC 6298), failures in a row, and two habits that are remembered for a while: no
EDNS, and not keeping the letters' case.

Back-off: THRESHOLD failures in a row bench a server, and clients' questions stay away from it. After 1 s, doubled up to
60 s at each failure, with jitter so that the workers do not do it in step, a probe is sent in the background (pool.py), and
only an answer ends the bench. A failure only counts if the server has answered nothing since that query was sent: names
whose own servers are dead make any resolver slow, and must not bench one that answers everything else. After a probe's
answer the circuit is half open: one more failure benches the server again, for twice as long, until a client's question has
been answered. Where all servers of a route are benched, clients' questions are probes as well.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import MutableSequence, Sequence
from enum import StrEnum

from resolver.counters import LATENCY_BOUNDS, LATENCY_BUCKETS, UPSTREAM_STRIDE
from resolver.upstream.carrier import Fault
from resolver.upstream.message import Question
from resolver.upstream.server import Server

THRESHOLD = 3  # failures in a row that bench a server
FIRST_BENCH, LONGEST_BENCH = 1.0, 60.0  # seconds
PROBE_WINDOW = 2.0  # seconds in which a probe keeps others away
HABIT_TTL = 900.0  # seconds for which "no EDNS" and "does not keep case" are believed
UNKNOWN_RTO, SHORTEST_RTO = 0.4, 0.05  # seconds before another server is asked as well
SHORTEST_HEDGE = 0.02  # seconds before another server is asked although this one is not late
HEDGE_SHARE, HEDGE_BURST = 0.1, 10.0  # of the questions, and at once
ROOT_PROBE = Question(b"\0", 2)  # . NS: every resolver answers it, whatever it thinks of it

# Offsets in a server's counters: see resolver/counters.py, section "upstream".
QUERIES, FAILURES, TIMEOUTS, BAD, TCP, CONNECTIONS, CONNECTIONS_OPEN, LATENCY_SUM, LATENCY_BUCKET = range(9)
HEDGES, ERRORS, CERTIFICATES, HANDSHAKES, PROTOCOL, LOOKUPS, BENCHED = range(
    LATENCY_BUCKET + LATENCY_BUCKETS, LATENCY_BUCKET + LATENCY_BUCKETS + 7
)


def _kind(fault: Fault) -> int:
    """The counter, beside FAILURES, of what broke; FAILURES itself for the network."""
    if fault.is_certificates:
        return CERTIFICATES
    kinds = {
        Fault.HANDSHAKE: HANDSHAKES,
        Fault.PROTOCOL: PROTOCOL,
        Fault.HTTP_STATUS: PROTOCOL,
        Fault.LOOKUP: LOOKUPS,
    }
    return kinds.get(fault, FAILURES)


class Budget:
    """What may be spent on asking a second server early: a share of the questions, so that servers which have all become
    slow are not asked twice as much for it."""

    def __init__(self) -> None:
        self._saved = HEDGE_BURST

    def earn(self, questions: int = 1) -> None:
        """So many questions were asked."""
        self._saved = min(self._saved + questions * HEDGE_SHARE, HEDGE_BURST)

    def spend(self, hedges: int = 1) -> bool:
        """Whether that many may be; then they are."""
        if self._saved < 1:
            return False
        self._saved -= hedges
        return True

    @property
    def has_some(self) -> bool:
        """Whether there is something to spend."""
        return self._saved >= 1


class Strategy(StrEnum):
    """Which server is asked first (config: upstream.strategy)."""

    ORDERED = "ordered"
    FASTEST = "fastest"
    RANDOM = "random"
    PARALLEL = "parallel"


class Health:
    """The state of one server. Times are those of CLOCK_MONOTONIC, in seconds."""

    __slots__ = (
        "_case_until",
        "_counters",
        "_edns_until",
        "_probe_at",
        "_rng",
        "answers",
        "asked_at",
        "bench",
        "failures",
        "last_answer",
        "last_failure",
        "microseconds",
        "rtt",
        "rttvar",
        "sends",
        "server",
        "until",
    )

    def __init__(
        self,
        server: Server,
        counters: MutableSequence[int] | memoryview | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.server = server
        self.rtt: float | None = None  # smoothed; None: never measured
        self.rttvar = 0.0
        self.failures = 0  # in a row
        self.bench = 0.0  # length of the current or last bench
        self.until = float("-inf")  # benched until
        self.asked_at = float("-inf")  # when it was last asked anything
        self.sends = self.answers = self.microseconds = 0  # counted here, and not by the engine
        self.last_answer = float("-inf")
        self.last_failure = float("-inf")
        self._edns_until = self._case_until = float("-inf")
        self._probe_at = float("inf")  # when the probe under way was sent
        self.count_into(counters)
        self._rng = rng or random.Random()

    def count_into(self, counters: MutableSequence[int] | memoryview | None) -> None:
        """Count into this slot from now on, or nowhere."""
        self._counters: MutableSequence[int] | memoryview = [0] * UPSTREAM_STRIDE if counters is None else counters

    # -- questions --------------------------------------------------------------------------------------------------

    def is_available(self) -> bool:
        """Whether the server is not benched."""
        return self.failures < THRESHOLD

    def is_probe_due(self, now: float) -> bool:
        """Whether it is time for a query that ends or doubles its bench."""
        return self.failures >= THRESHOLD and now >= self.until

    def speaks_edns(self, now: float) -> bool:
        """Whether queries to it may carry an OPT record."""
        return now >= self._edns_until

    def keeps_case(self, now: float) -> bool:
        """Whether its answers repeat the question's case (0x20)."""
        return now >= self._case_until

    def patience(self, timeout: float) -> float:
        """Seconds to wait for it before another server is asked as well, at most `timeout`."""
        estimate = UNKNOWN_RTO if self.rtt is None else self.rtt + 4 * self.rttvar
        return min(max(estimate, SHORTEST_RTO), timeout)

    def hedge_after(self, timeout: float) -> float:
        """Seconds within which it answers most questions, some 95 of 100; at most its patience."""
        patience = self.patience(timeout)
        return patience if self.rtt is None else min(max(self.rtt + 2 * self.rttvar, SHORTEST_HEDGE), patience)

    # -- events -----------------------------------------------------------------------------------------------------

    def sent(self, now: float, *, tcp: bool) -> None:
        """A query goes out to it."""
        self._counters[QUERIES] += 1
        self.sends += 1
        self.asked_at = now
        if tcp:
            self._counters[TCP] += 1
        if self.is_probe_due(now):
            self.until = now + PROBE_WINDOW
            self._probe_at = now

    def answered(self, elapsed: float, now: float, *, measure: bool = True, probe: bool = False) -> None:
        """It answered, whatever it said. `measure`: `elapsed` is a round trip of its own transport. `probe`: to a question
        of ours, which proves less than one to a client's."""
        if probe and self.bench:
            self.failures, self.until = THRESHOLD - 1, float("-inf")
        else:
            self.failures, self.bench, self.until = 0, 0.0, float("-inf")
        self._counters[BENCHED] = 0
        self.last_answer = now
        if measure:
            self._measure(elapsed)
        self.answers += 1
        self.microseconds += int(elapsed * 1_000_000)
        self._counters[LATENCY_SUM] += int(elapsed * 1_000_000)
        self._counters[LATENCY_BUCKET + bisect.bisect_left(LATENCY_BOUNDS, elapsed)] += 1

    def observed(self, mean: float, now: float) -> None:
        """The engine had answers from it, `mean` seconds each; it has counted them."""
        self.failures, self.bench, self.until = 0, 0.0, float("-inf")
        self._counters[BENCHED] = 0
        self.last_answer = now
        self._measure(mean)

    def missed(self, sent_at: float, now: float) -> None:
        """The engine had no answer to a query sent at or after `sent_at`; it has counted that."""
        self._failed(sent_at, now)

    def timed_out(self, sent_at: float, now: float) -> None:
        """The query of `sent_at` was not answered in time."""
        self._counters[TIMEOUTS] += 1
        if self.last_answer < sent_at and self.rtt is not None:
            self.rtt = max(self.rtt, min(2 * self.rtt, now - sent_at))
        self._failed(sent_at, now)

    def broke(self, sent_at: float, now: float, fault: Fault) -> None:
        """The query of `sent_at` could not be brought to it, or its answer back."""
        self._counters[FAILURES] += 1
        if (kind := _kind(fault)) != FAILURES:
            self._counters[kind] += 1
        self._failed(sent_at, now)

    def hedged(self) -> None:
        """It is asked beside one that takes its time."""
        self._counters[HEDGES] += 1

    def connected(self, change: int) -> None:
        """A connection to it was opened (+1) or has ended (-1)."""
        self._counters[CONNECTIONS_OPEN] = max(0, self._counters[CONNECTIONS_OPEN] + change)
        if change > 0:
            self._counters[CONNECTIONS] += change

    def erred(self) -> None:
        """It answered SERVFAIL or the like: alive, but of no use for this question."""
        self._counters[FAILURES] += 1
        self._counters[ERRORS] += 1

    def misled(self) -> None:
        """Something came back that is not a readable answer to what was asked."""
        self._counters[BAD] += 1

    def lacks_edns(self, now: float) -> None:
        """It answered only without EDNS."""
        self._edns_until = now + HABIT_TTL

    def loses_case(self, now: float) -> None:
        """It changed the question's case over TCP, where no stranger can."""
        self._case_until = now + HABIT_TTL

    def _measure(self, elapsed: float) -> None:
        if self.rtt is None:
            self.rtt, self.rttvar = elapsed, elapsed / 2
        else:
            self.rttvar += (abs(elapsed - self.rtt) - self.rttvar) / 4
            self.rtt += (elapsed - self.rtt) / 8

    def _failed(self, sent_at: float, now: float) -> None:
        self.last_failure = now
        if self.last_answer >= sent_at:
            return
        self.failures += 1
        # While benched, only a probe's failure says something new: not what was in flight when the bench began, nor
        # what was sent to it all the same because no other server answered.
        if self.failures >= THRESHOLD and (self.bench == 0.0 or sent_at >= self._probe_at):
            self.bench = min(self.bench * 2, LONGEST_BENCH) or FIRST_BENCH
            self.until = now + self.bench * self._rng.uniform(0.75, 1.25)
            self._probe_at = float("inf")
            self._counters[BENCHED] = 1


def order(servers: Sequence[Health], strategy: Strategy, now: float, rng: random.Random) -> list[Health]:
    """`servers` in the order in which to ask them: available ones as `strategy` says, then the benched ones, least
    recently failed first (when all are benched, one is asked all the same)."""
    if len(servers) < 2:
        return list(servers)
    ready = [health for health in servers if health.is_available()]
    if strategy is Strategy.RANDOM:
        rng.shuffle(ready)
    elif strategy is Strategy.FASTEST and len(ready) > 1:
        ready.sort(key=_rtt)  # the others' are measured in the background (pool.py)
    if len(ready) < len(servers):
        ready += sorted((health for health in servers if not health.is_available()), key=_failure)
    return ready


def _rtt(health: Health) -> float:
    return health.rtt or 0.0


def _failure(health: Health) -> float:
    return health.last_failure
