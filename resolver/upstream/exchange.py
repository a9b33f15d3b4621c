"""One question, asked until somebody answers: sans-IO.

Octets and `now` go in, events come out; sockets, timers and tasks are elsewhere (plain.py, pool.py). The rules:

* A try is one query to one server. Each has its own id, its own random case, and (plain.py) its own random port.
* A try that is not answered within the server's `patience` is late: the next server is asked as well, but a late answer
  is still an answer. When every server was asked once, they are asked again, with twice the patience.
* A good answer ends the exchange. An error (SERVFAIL, REFUSED, …) sends it to the next server; the last error is the
  answer if nobody knows better. A server that erred or broke is not asked again in this exchange.
* Wrong answers (other id, other question) over UDP are ignored and counted; more than MAX_WRONG for one try look like
  forgery under way, and the rest of the exchange speaks TCP. So does it after TC and after an answer in another case.
* All is over after 2 × `timeout`, before the client's own patience (5 s in most resolvers) is.

Invariants: after `start` there is either an open try or the exchange is done; exactly one Answer or Failed is ever
returned, as the last event; at most MAX_TRIES + the switches to TCP and away from EDNS (each once a server) are sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from resolver.upstream.health import Health
from resolver.upstream.message import HEADER, Question, Verdict, build, judge, settle
from resolver.vocabulary import EDE, Rcode, Transport

MAX_TRIES = 8
MAX_WRONG = 5
ROUNDS = 2
_WITH_QUESTION = (Verdict.GOOD, Verdict.ERROR, Verdict.MALFORMED)  # verdicts on answers that hold the question


class Fault(Enum):
    """What a transport can report instead of an answer; the value is for users."""

    REFUSED = "connection refused"
    RESET = "connection reset"
    CLOSED = "connection closed"
    UNREACHABLE = "network unreachable"
    OVERLOAD = "too many queries in flight"
    ENDING = "the server is shutting down"


class Send(NamedTuple):
    """Send `payload` to the server over UDP or TCP and report what comes back as of try `number`."""

    number: int
    health: Health
    transport: Transport
    payload: bytes
    deadline: float  # when the next server is asked as well; the try itself stays open


class Answer(NamedTuple):
    """The end: a checked answer, its question in lower case. Close all tries."""

    message: bytes
    health: Health


class Failed(NamedTuple):
    """The end without an answer. Close all tries."""

    ede: EDE
    text: str


Event = Send | Answer | Failed


class _Try:
    __slots__ = ("deadline", "health", "is_late", "is_open", "payload", "sent_at", "tcp", "without_edns", "wrong")

    def __init__(self, health: Health, payload: bytes, *, tcp: bool, without_edns: bool, now: float, deadline: float):
        self.health = health
        self.payload = payload
        self.tcp = tcp
        self.without_edns = without_edns  # because the server answered another try so that it seems not to know EDNS
        self.sent_at = now
        self.deadline = deadline
        self.is_open = True
        self.is_late = False
        self.wrong = 0


class Exchange:
    """One question's way along `candidates` (in the order to ask them; see health.order).

    `timeout`: the longest patience with one server, in seconds; the whole exchange ends after twice that.
    `parallel`: ask all at once, the first good answer wins. `tcp_only`: never UDP (for ANY).
    """

    __slots__ = (
        "_candidates",
        "_end",
        "_error",
        "_faults",
        "_parallel",
        "_question",
        "_question_end",
        "_random",
        "_sent",
        "_step",
        "_tcp",
        "_timeout",
        "_tries",
        "_useless",
        "is_done",
    )

    def __init__(
        self,
        question: Question,
        candidates: Sequence[Health],
        *,
        timeout: float,
        now: float,
        parallel: bool = False,
        tcp_only: bool = False,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._question = question
        self._question_end = HEADER + len(question.qname) + 4
        self._candidates = candidates
        self._timeout = timeout
        self._end = now + 2 * timeout
        self._parallel = parallel
        self._tcp = tcp_only
        self._random = random
        self._tries: list[_Try] = []
        self._sent = 0  # tries against MAX_TRIES
        self._step = 0  # position in the candidates, over all rounds
        self._useless: list[Health] = []  # not to be asked again in this exchange
        self._error: Answer | None = None
        self._faults: list[Fault] = []
        self.is_done = False

    @property
    def deadline(self) -> float:
        """When to call `tick`, unless something else comes first."""
        pending = [a.deadline for a in self._tries if a.is_open and not a.is_late]
        return min(pending, default=self._end)

    # -- what happens -----------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Event]:
        """The first queries."""
        if not self._parallel:
            return self._next(now)
        return [event for _ in self._candidates[:MAX_TRIES] for event in self._next(now)] or self._finish()

    def receive(self, number: int, message: bytes, now: float) -> list[Event]:
        """A datagram or a framed message came in on try `number`."""
        attempt = self._tries[number]
        if self.is_done or not attempt.is_open:
            return []
        health = attempt.health
        any_case = attempt.tcp or not health.keeps_case(now)
        verdict, rcode = judge(message, attempt.payload, self._question_end, any_case=any_case, tcp=attempt.tcp)
        if verdict is Verdict.WRONG:
            return self._ignore(attempt, now)
        attempt.is_open = False
        if verdict is Verdict.OTHER_CASE:
            health.misled()
            return self._again(attempt, now)
        elapsed = now - attempt.sent_at
        health.answered(elapsed, now, measure=not attempt.tcp or health.server.tcp_only)
        if attempt.tcp and verdict in _WITH_QUESTION and self._section(message) != self._section(attempt.payload):
            health.loses_case(now)
        if verdict is Verdict.TRUNCATED:
            return self._again(attempt, now)
        if verdict is Verdict.NO_EDNS:
            return [self._send(health, attempt.tcp, now, without_edns=True)]
        if attempt.without_edns and rcode not in (Rcode.FORMERR, Rcode.NOTIMP):
            health.lacks_edns(now)
        if verdict is Verdict.GOOD:
            self.is_done = True
            return [Answer(settle(message, self._question, self._question_end), health)]
        self._useless.append(health)
        if verdict is Verdict.MALFORMED:
            health.misled()
        else:
            health.erred()
            if verdict is Verdict.ERROR:
                self._error = Answer(settle(message, self._question, self._question_end), health)
        return self._next(now)

    def fail(self, number: int, fault: Fault, now: float) -> list[Event]:
        """The transport of try `number` broke, or could not be opened."""
        attempt = self._tries[number]
        if self.is_done or not attempt.is_open:
            return []
        attempt.is_open = False
        self._faults.append(fault)
        if fault is Fault.OVERLOAD or fault is Fault.ENDING:  # ours, not the server's
            return [] if self._is_waiting() else self._finish()
        attempt.health.broke(attempt.sent_at, now)
        self._useless.append(attempt.health)
        return self._next(now)

    def tick(self, now: float) -> list[Event]:
        """Time has passed: call it at `deadline`; earlier does no harm."""
        if self.is_done:
            return []
        has_late = False
        for attempt in self._tries:
            if attempt.is_open and not attempt.is_late and now >= attempt.deadline:
                attempt.is_late = has_late = True
                attempt.health.timed_out(attempt.sent_at, now)
        if now >= self._end:
            return self._finish()
        return self._next(now) if has_late else []

    # -- decisions --------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> list[Event]:
        """Ask the next server; finish if there is none and nothing to wait for."""
        count = len(self._candidates)
        while self._sent < MAX_TRIES and self._step < count * ROUNDS:
            health = self._candidates[self._step % count]
            if any(a.health is health and a.is_open and not a.is_late for a in self._tries):
                return []  # it still has time for the query it got
            factor = 1 << self._step // count
            self._step += 1
            if health in self._useless or self._waits_on_tcp(health):
                continue
            if self._error is not None and not health.is_available(now):
                continue  # a benched server is a last resort, and there is an answer of sorts
            self._sent += 1
            return [self._send(health, self._tcp or health.server.tcp_only, now, factor=factor)]
        return [] if self._is_waiting() else self._finish()

    def _again(self, attempt: _Try, now: float) -> list[Event]:
        """Ask the same server over TCP, and speak TCP from now on."""
        self._tcp = True
        if self._waits_on_tcp(attempt.health):
            return []
        return [self._send(attempt.health, True, now, without_edns=attempt.without_edns)]

    def _ignore(self, attempt: _Try, now: float) -> list[Event]:
        """Something else than the answer came: wait on, but not through a flood of forgeries (RFC 5452 section 9.2)."""
        attempt.health.misled()
        attempt.wrong += 1
        if attempt.tcp:  # no forger, and the one answer to our query on this connection
            attempt.is_open = False
            self._useless.append(attempt.health)
            return self._next(now)
        if attempt.wrong <= MAX_WRONG:
            return []
        attempt.is_open = False
        return self._again(attempt, now)

    def _send(self, health: Health, tcp: bool, now: float, *, factor: int = 1, without_edns: bool = False) -> Send:
        qname = self._question.qname
        payload = build(
            self._question,
            self._random(2 + len(qname)),
            edns=not without_edns and health.speaks_edns(now),
            mix_case=health.keeps_case(now),
        )
        patience = self._timeout if tcp else min(health.patience(self._timeout) * factor, self._timeout)
        deadline = min(now + patience, self._end)
        health.sent(now, tcp=tcp)
        attempt = _Try(health, payload, tcp=tcp, without_edns=without_edns, now=now, deadline=deadline)
        self._tries.append(attempt)
        return Send(len(self._tries) - 1, health, Transport.TCP if tcp else Transport.UDP, payload, deadline)

    def _section(self, message: bytes) -> bytes:
        return message[HEADER : self._question_end]

    def _is_waiting(self) -> bool:
        """Whether an answer is still to be hoped for; with an error in hand, late tries are not waited for."""
        has_error = self._error is not None
        return any(attempt.is_open and not (has_error and attempt.is_late) for attempt in self._tries)

    def _waits_on_tcp(self, health: Health) -> bool:
        """Whether a try over TCP is open to the server: TCP repeats by itself."""
        return any(attempt.is_open and attempt.tcp and attempt.health is health for attempt in self._tries)

    def _finish(self) -> list[Event]:
        self.is_done = True
        if self._error is not None:
            return [self._error]
        if not self._candidates:
            return [Failed(EDE.NO_REACHABLE_AUTHORITY, "no upstream server is configured for this name")]
        if any(attempt.is_late for attempt in self._tries):
            return [Failed(EDE.NO_REACHABLE_AUTHORITY, "no upstream server answered in time")]
        if self._faults:
            return [Failed(EDE.NETWORK_ERROR, self._faults[-1].value)]
        return [Failed(EDE.NETWORK_ERROR, "no upstream server gave a usable answer")]
