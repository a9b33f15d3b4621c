"""What is known about an upstream server, and in which order servers are asked.

One `Health` per server and worker, shared by all routes that name the server, kept over reloads. It learns from every
exchange: smoothed round-trip time (RFC 6298), failures in a row, and two habits that are remembered for a while: no
EDNS, and not keeping the letters' case.

Back-off: THRESHOLD failures in a row bench a server for 1 s, doubled up to 60 s at each failed probe, with jitter so
that the workers do not probe in step. A failure only counts if the server has answered nothing since that query was
sent: names whose own servers are dead make any resolver slow, and must not bench one that answers everything else.
When a bench ends, one query is the probe; others stay away until it is answered or its window is over.
"""

from __future__ import annotations

import bisect
import ipaddress
import random
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from resolver.counters import LATENCY_BOUNDS, UPSTREAM_STRIDE

THRESHOLD = 3  # failures in a row that bench a server
FIRST_BENCH, LONGEST_BENCH = 1.0, 60.0  # seconds
PROBE_WINDOW = 2.0  # seconds in which a probe keeps others away
HABIT_TTL = 900.0  # seconds for which "no EDNS" and "does not keep case" are believed
UNKNOWN_RTO, SHORTEST_RTO = 0.4, 0.2  # seconds before another server is asked as well
EXPLORE = 32  # one query in so many goes to another than the fastest server first

# Offsets in a server's counters: see resolver/counters.py, section "upstream".
QUERIES, FAILURES, TIMEOUTS, BAD, TCP, LATENCY_SUM, LATENCY_BUCKET = 0, 1, 2, 3, 4, 7, 8


class Strategy(StrEnum):
    """Which server is asked first (config: upstream.strategy)."""

    ORDERED = "ordered"
    FASTEST = "fastest"
    RANDOM = "random"
    PARALLEL = "parallel"


@dataclass(frozen=True, slots=True)
class Server:
    """An upstream server: `name` is what the operator wrote and what metrics call it."""

    name: str
    address: str
    port: int = 53
    tcp_only: bool = False

    @property
    def is_ipv6(self) -> bool:
        """Whether `address` is an IPv6 address."""
        return ":" in self.address

    @classmethod
    def parse(cls, text: str) -> Server:
        """A server from `9.9.9.9`, `9.9.9.9:5353`, `2620:fe::fe`, `[2620:fe::fe]:53`, `udp://…` or `tcp://…`;
        after a name, `?ip=` says where it is.

        ValueError says what was expected.
        """
        rest, scheme = text, "udp"
        if "://" in text:
            scheme, _, rest = text.partition("://")
            if scheme not in ("udp", "tcp"):
                raise ValueError(f"{text}: upstream servers are udp:// or tcp://, {scheme}:// is not supported")
        place, _, option = rest.partition("?")
        if place.count(":") > 1 and not place.startswith("["):
            place = f"[{place}]"
        try:
            split = urlsplit(f"//{place}")
            port = 53 if split.port is None else split.port
            address = str(ipaddress.ip_address(option.removeprefix("ip=") or split.hostname or ""))
        except ValueError:
            address = ""
        if not address or not port or split.path or split.username is not None:
            raise ValueError(f"{text}: expected an IP address, with :port if it is not 53, or ?ip=ADDRESS after a name")
        return cls(text, address, port, scheme == "tcp")


class Health:
    """The state of one server. Times are those of CLOCK_MONOTONIC, in seconds."""

    __slots__ = (
        "_case_until",
        "_counters",
        "_edns_until",
        "_probe_at",
        "_rng",
        "bench",
        "failures",
        "last_answer",
        "last_failure",
        "rtt",
        "rttvar",
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

    def is_available(self, now: float) -> bool:
        """Whether the server is not benched."""
        return now >= self.until

    def is_probe_due(self, now: float) -> bool:
        """Whether the next query to it is the probe that ends or doubles its bench."""
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

    # -- events -----------------------------------------------------------------------------------------------------

    def sent(self, now: float, *, tcp: bool) -> None:
        """A query goes out to it."""
        self._counters[QUERIES] += 1
        if tcp:
            self._counters[TCP] += 1
        if self.is_probe_due(now):
            self.until = now + PROBE_WINDOW
            self._probe_at = now

    def answered(self, elapsed: float, now: float, *, measure: bool = True) -> None:
        """It answered, whatever it said. `measure`: `elapsed` is a round trip (no TCP connection in it)."""
        self.failures, self.bench, self.until = 0, 0.0, float("-inf")
        self.last_answer = now
        if measure:
            self._measure(elapsed)
        self._counters[LATENCY_SUM] += int(elapsed * 1_000_000)
        self._counters[LATENCY_BUCKET + bisect.bisect_left(LATENCY_BOUNDS, elapsed)] += 1

    def observed(self, mean: float, now: float) -> None:
        """The engine had answers from it, `mean` seconds each; it has counted them."""
        self.failures, self.bench, self.until = 0, 0.0, float("-inf")
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

    def broke(self, sent_at: float, now: float) -> None:
        """The network refused the query of `sent_at`: refused, reset, unreachable."""
        self._counters[FAILURES] += 1
        self._failed(sent_at, now)

    def erred(self) -> None:
        """It answered SERVFAIL or the like: alive, but of no use for this question."""
        self._counters[FAILURES] += 1

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


def order(servers: Sequence[Health], strategy: Strategy, now: float, rng: random.Random) -> list[Health]:
    """`servers` in the order in which to ask them: available ones as `strategy` says, then the benched ones, least
    recently failed first (when all are benched, one is asked all the same)."""
    if len(servers) < 2:
        return list(servers)
    ready = [health for health in servers if health.is_available(now)]
    if strategy is Strategy.RANDOM:
        rng.shuffle(ready)
    elif strategy is Strategy.FASTEST and len(ready) > 1:
        ready.sort(key=_rtt)
        if not rng.randrange(EXPLORE):
            ready.insert(0, ready.pop(rng.randrange(1, len(ready))))
    if strategy is not Strategy.ORDERED:
        # A probe goes first, or a server that failed would never be asked again. In ORDERED it does so by itself.
        ready.sort(key=lambda health: not health.is_probe_due(now))
    if len(ready) < len(servers):
        ready += sorted((health for health in servers if not health.is_available(now)), key=_failure)
    return ready


def _rtt(health: Health) -> float:
    return health.rtt or 0.0


def _failure(health: Health) -> float:
    return health.last_failure
