"""One question, asked until somebody answers: sans-IO.

Octets and `now` go in, events come out; sockets, timers and tasks are elsewhere (carrier.py, pool.py). The rules:

* A try is one query to one server. Each has its own id, over plain transports its own random case, and over UDP its own
  random port.
* A try that is not answered within the server's `patience` is late: the next server is asked as well, but a late answer
  is still an answer. When every server was asked once, they are asked again, with a patience that doubles from the
  second such try on. A benched server is asked once: it is a last resort.
* Over a connection the patience begins anew when the query leaves. A try that waits for the connection for longer than
  that has the next server asked as well, but not its own once more.
* A first try that takes longer than most answers of its server do (`hedge_after`) has the next one asked as well, as long
  as `hedges` has something to spend; nothing is held against the slow one for that.
* A good answer ends the exchange. An error (SERVFAIL, REFUSED, …) sends it to the next server; the last error is the
  answer if nobody knows better. A server that erred is not asked again in this exchange, nor one that cannot be reached;
  one whose connection broke or whose answer was none is.
* Wrong answers (other id, other question) over UDP are ignored and counted; more than MAX_WRONG for one try look like
  forgery under way, and the rest of the exchange speaks TCP where it spoke UDP. So does it after TC and after an answer in
  another case.
* All is over after 2 × `timeout`, before the client's own patience (5 s in most resolvers) is.

Invariants: after `start` there is either an open try or the exchange is done; exactly one Answer or Failed is ever
returned, as the last event; at most MAX_TRIES + the switches to TCP and away from EDNS (each once a server) are sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from resolver.upstream.carrier import Fault
from resolver.upstream.health import Budget, Health
from resolver.upstream.message import HEADER, Question, Verdict, build, judge, settle
from resolver.vocabulary import EDE, Rcode, Transport

MAX_TRIES = 8
MAX_WRONG = 5
PATIENT = 2  # tries after which patience doubles, or as many as there are servers
ROUNDS_WITH_ERROR = 2  # so often a server is asked while there is an error for an answer
_WITH_QUESTION = (Verdict.GOOD, Verdict.ERROR, Verdict.MALFORMED)  # verdicts on answers that hold the question


class Send(NamedTuple):
    """Send `payload` to the server over `transport` and report what comes back as of try `number`."""

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
    __slots__ = (
        "deadline",
        "health",
        "hedge_at",
        "is_held",
        "is_late",
        "is_open",
        "payload",
        "sent_at",
        "transport",
        "without_edns",
        "wrong",
    )

    def __init__(
        self,
        health: Health,
        payload: bytes,
        transport: Transport,
        *,
        without_edns: bool,
        now: float,
        deadline: float,
        hedge_at: float,
    ):
        self.health = health
        self.payload = payload
        self.transport = transport
        self.hedge_at = hedge_at
        self.without_edns = without_edns  # because the server answered another try so that it seems not to know EDNS
        self.sent_at = now
        self.deadline = deadline
        self.is_open = True
        self.is_late = False
        self.is_held = False  # it waits for a connection, for longer than for an answer
        self.wrong = 0

    @property
    def is_stream(self) -> bool:
        """Whether it goes over a connection, where nobody else can answer."""
        return self.transport is not Transport.UDP


class Exchange:
    """One question's way along `candidates` (in the order to ask them; see health.order).

    `timeout`: the longest patience with one server, in seconds; the whole exchange ends after twice that.
    `parallel`: ask all at once, the first good answer wins. `tcp_only`: never UDP (for ANY). `hedges`: what may be spent
    on asking a second server early. `probe`: one try to one server, to learn whether it answers.
    """

    __slots__ = (
        "_benched",
        "_candidates",
        "_end",
        "_error",
        "_faults",
        "_hedges",
        "_parallel",
        "_probe",
        "_question",
        "_question_end",
        "_random",
        "_sent",
        "_step",
        "_struck",
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
        hedges: Budget | None = None,
        probe: bool = False,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._question = question
        self._question_end = HEADER + len(question.qname) + 4
        self._candidates = candidates
        self._timeout = timeout
        self._end = now + 2 * timeout
        self._parallel = parallel
        self._tcp = tcp_only
        self._probe = probe
        self._hedges = hedges if len(candidates) > 1 and not parallel else None
        self._random = random
        self._tries: list[_Try] = []
        self._sent = 0  # tries against MAX_TRIES
        self._step = 0  # position in the candidates, over all rounds
        self._useless: list[Health] = []  # not to be asked again in this exchange
        self._struck: list[Health] = []  # which broke, or gave no answer
        self._benched = [health for health in candidates if not health.is_available()]
        self._error: Answer | None = None
        self._faults: list[Fault] = []
        self.is_done = False

    @property
    def deadline(self) -> float:
        """When to call `tick`, unless something else comes first."""
        pending = [min(a.deadline, a.hedge_at) for a in self._tries if a.is_open and not a.is_late]
        return min(pending, default=self._end)

    # -- what happens -----------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Event]:
        """The first queries."""
        if self._hedges is not None:
            self._hedges.earn()
        if not self._parallel:
            return self._next(now)
        return [event for _ in self._candidates[:MAX_TRIES] for event in self._next(now)] or self._finish()

    def sent(self, number: int, now: float) -> None:
        """The query of try `number`, which had to wait for a connection, has left: its time begins anew."""
        attempt = self._tries[number]
        moved = now - attempt.sent_at
        attempt.sent_at = now
        attempt.deadline = min(attempt.deadline + moved, self._end)
        attempt.hedge_at = min(attempt.hedge_at + moved, self._end)
        attempt.is_late = attempt.is_held = False

    def receive(self, number: int, message: bytes, now: float) -> list[Event]:
        """A message came in on try `number`."""
        attempt = self._tries[number]
        if self.is_done or not attempt.is_open:
            return []
        health = attempt.health
        any_case = attempt.is_stream or not health.keeps_case(now)
        verdict, rcode = judge(message, attempt.payload, self._question_end, any_case=any_case, tcp=attempt.is_stream)
        if verdict is Verdict.WRONG:
            return self._ignore(attempt, now)
        attempt.is_open = False
        if verdict is Verdict.OTHER_CASE:
            health.misled()
            return self._again(attempt, now)
        elapsed = now - attempt.sent_at
        measure = attempt.transport is health.server.transport
        health.answered(elapsed, now, measure=measure, probe=self._probe)
        if (
            attempt.transport is Transport.TCP
            and verdict in _WITH_QUESTION
            and self._section(message) != self._section(attempt.payload)
        ):
            health.loses_case(now)
        if verdict is Verdict.TRUNCATED:
            return self._again(attempt, now)
        if verdict is Verdict.NO_EDNS:
            return [self._send(health, attempt.transport, now, without_edns=True)]
        if attempt.without_edns and rcode not in (Rcode.FORMERR, Rcode.NOTIMP):
            health.lacks_edns(now)
        if verdict is Verdict.GOOD:
            self.is_done = True
            return [Answer(settle(message, self._question, self._question_end), health)]
        if verdict is Verdict.MALFORMED:
            health.misled()
            self._struck.append(health)
        else:
            self._useless.append(health)
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
        attempt.health.broke(attempt.sent_at, now, fault)
        if fault.is_passing:
            self._struck.append(attempt.health)
        else:
            self._useless.append(attempt.health)
        return self._next(now)

    def tick(self, now: float, held: Collection[int] = ()) -> list[Event]:
        """Time has passed: call it at `deadline`; earlier does no harm. `held`: the tries that wait for a connection."""
        if self.is_done:
            return []
        for number, attempt in enumerate(self._tries):
            attempt.is_held = attempt.is_open and number in held
        has_late = False
        for attempt in self._tries:
            if attempt.is_open and not attempt.is_late and now >= attempt.deadline:
                attempt.is_late = has_late = True
                attempt.health.timed_out(attempt.sent_at, now)
        if now >= self._end:
            return self._finish()
        if has_late and not self._is_in_time():
            return self._next(now)
        return self._hedge(now)

    # -- decisions --------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> list[Event]:
        """Ask the next server; finish if there is none and nothing to wait for."""
        count = len(self._candidates)
        rounds = 1 if self._probe else ROUNDS_WITH_ERROR if self._error is not None else MAX_TRIES
        while self._sent < MAX_TRIES and self._step < count * rounds:
            health = self._candidates[self._step % count]
            if any(a.health is health and a.is_open and not a.is_late for a in self._tries):
                return []  # it still has time for the query it got
            if self._is_held(health) and all(c in self._useless or self._is_held(c) for c in self._candidates):
                return []  # one query more would not leave sooner
            self._step += 1
            if health in self._useless or self._is_held(health):
                continue
            if health in self._benched and self._step > count and health not in self._struck:
                continue  # a last resort, asked once if it is silent
            if self._error is not None and not health.is_available():
                continue  # and there is an answer of sorts
            self._sent += 1
            factor = 1 << max(0, self._sent - 1 - max(count, PATIENT))
            return [self._send(health, self._transport(health), now, factor=factor)]
        return [] if self._is_waiting() else self._finish()

    def _hedge(self, now: float) -> list[Event]:
        """Ask the next server beside one that takes its time."""
        if self._hedges is None or len(self._tries) != 1 or now < self._tries[0].hedge_at:
            return []
        self._tries[0].hedge_at = self._tries[0].deadline
        health = self._candidates[self._step % len(self._candidates)]
        if health is self._tries[0].health or not health.is_available() or not self._hedges.spend():
            return []
        health.hedged()
        return self._next(now)

    def _transport(self, health: Health) -> Transport:
        return Transport.TCP if self._tcp and health.server.is_plain else health.server.transport

    def _again(self, attempt: _Try, now: float) -> list[Event]:
        """Ask the same server over TCP, and speak TCP from now on."""
        self._tcp = True
        if self._waits_on_tcp(attempt.health):
            return []
        return [self._send(attempt.health, self._transport(attempt.health), now, without_edns=attempt.without_edns)]

    def _ignore(self, attempt: _Try, now: float) -> list[Event]:
        """Something else than the answer came: wait on, but not through a flood of forgeries (RFC 5452 section 9.2)."""
        attempt.health.misled()
        attempt.wrong += 1
        if attempt.is_stream:  # no forger, and the one answer to our query on this connection
            attempt.is_open = False
            self._struck.append(attempt.health)
            return self._next(now)
        if attempt.wrong <= MAX_WRONG:
            return []
        attempt.is_open = False
        return self._again(attempt, now)

    def _send(
        self, health: Health, transport: Transport, now: float, *, factor: int = 1, without_edns: bool = False
    ) -> Send:
        qname = self._question.qname
        payload = build(
            self._question,
            self._random(2 + len(qname)),
            edns=not without_edns and health.speaks_edns(now),
            mix_case=not health.server.is_encrypted and health.keeps_case(now),
            padded=health.server.is_encrypted,
        )
        patience = health.patience(self._timeout)
        deadline = min(now + min(patience * factor, self._timeout), self._end)
        hedge_at = deadline if self._hedges is None else min(now + health.hedge_after(self._timeout), deadline)
        health.sent(now, tcp=transport is not Transport.UDP)
        self._tries.append(
            _Try(health, payload, transport, without_edns=without_edns, now=now, deadline=deadline, hedge_at=hedge_at)
        )
        return Send(len(self._tries) - 1, health, transport, payload, deadline)

    def _section(self, message: bytes) -> bytes:
        return message[HEADER : self._question_end]

    def _is_waiting(self) -> bool:
        """Whether an answer is still to be hoped for; with an error in hand, late tries are not waited for."""
        has_error = self._error is not None
        return any(attempt.is_open and not (has_error and attempt.is_late) for attempt in self._tries)

    def _is_in_time(self) -> bool:
        """Whether some try may still be answered as soon as its server usually does."""
        return any(attempt.is_open and not attempt.is_late for attempt in self._tries)

    def _is_held(self, health: Health) -> bool:
        """Whether a try to the server waits for a connection."""
        return any(a.is_held and a.is_open and a.health is health for a in self._tries)

    def _waits_on_tcp(self, health: Health) -> bool:
        """Whether a try to the server that is not late goes over a connection."""
        return any(a.is_open and a.is_stream and not a.is_late and a.health is health for a in self._tries)

    def _finish(self) -> list[Event]:
        self.is_done = True
        if self._error is not None:
            return [self._error]
        if not self._candidates:
            return [Failed(EDE.NO_REACHABLE_AUTHORITY, "no upstream server is configured for this name")]
        if any(attempt.is_late and attempt.is_open for attempt in self._tries):
            return [Failed(EDE.NO_REACHABLE_AUTHORITY, "no upstream server answered in time")]
        if self._faults:
            return [Failed(EDE.NETWORK_ERROR, self._faults[-1].value)]
        return [Failed(EDE.NETWORK_ERROR, "no upstream server gave a usable answer")]
