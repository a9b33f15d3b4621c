"""A worker's end of its validator: questions whose answers are checked before anybody gets them.

`Checked` stands where a Pool stands: `start` has a question asked, and gives the Result when it is known what the answer is
worth. The question goes upstream with DO and CD whatever the client set, so one exchange and one check serve clients with
and without DO that ask at a time. A bogus answer is asked for once more, of another server where there is one: one server
that is broken or lies must not take signed names away. What is not to be checked (CD, negative trust anchors, errors) goes
by as it is, without AD: that bit is nobody's word but ours.

The validator (process.py) is started with the first configuration that wants it and again whenever it ends. What it was
checking is given to the next one, once: an answer that kills two validators is a SERVFAIL. Nothing is ever given unchecked
for want of a validator: beyond MOST at a time, or after PATIENCE, the result is SERVFAIL with EDE 5.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from resolver import spawn
from resolver.control import Trust
from resolver.counters import SECTIONS
from resolver.dnssec import frames
from resolver.dnssec.frames import Asked, Frame, Judged, Kind
from resolver.upstream.message import Question, wire_name
from resolver.upstream.pool import Done, Result
from resolver.vocabulary import EDE, Rcode

if TYPE_CHECKING:
    from resolver.upstream.pool import Pool
    from resolver.upstream.server import Server

MOST: Final = 1_000  # answers under check
PATIENCE: Final = 10.0  # seconds for one of them: the chain may be long and its servers slow
LOOK: Final = 0.5  # seconds between looks at the patience
HANG: Final = 10.0  # seconds after which a validator that does not answer a PING is killed
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds before a restart
STEADY = 10.0  # seconds of life after which a death counts as the first again
SECURE, INSECURE, BOGUS, INDETERMINATE = range(4)  # validate.Status, without importing what it needs
_AD = 0x20
_DOUBT = EDE.DNSSEC_INDETERMINATE
_CHECKED = frozenset({Rcode.NOERROR, Rcode.NXDOMAIN, 6})  # 6: YXDOMAIN

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Exchange:
    """A question under way, with all who wait for it: (whether with DO, whom to tell). `trust`: in force when it began."""

    question: Question
    route: int
    waiting: list[tuple[bool, Done]]
    trust: Trust
    server: str = ""  # that gave the answer
    answer: bytes = b""
    is_again: bool = False
    was_moved: bool = False  # to a second validator
    until: float = 0.0


@dataclass(slots=True, eq=False)
class _Process:
    """One validator: its process, our end of the socket; `pinged`: when a PING went out that is not answered yet, or 0."""

    process: asyncio.subprocess.Process
    transport: asyncio.WriteTransport
    protocol: _Protocol
    pinged: float = 0.0


class Checked:
    """See the module. `counters`: the worker's, cast to "Q"."""

    def __init__(self, pool: Pool, counters: memoryview | None = None) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        section = SECTIONS["dnssec"]
        self._counts = counters[section.start : section.start + section.length] if counters is not None else None
        self._trust = Trust()
        self._negative: frozenset[bytes] = frozenset()
        self._exchanges: dict[tuple[Question, int], _Exchange] = {}
        self._checks: dict[int, _Exchange] = {}
        self._next = 1
        self._blamed: dict[int, Server] = {}  # by route: whose answer was bogus last
        self._life: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()  # lives that are being ended
        self._process: _Process | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def room(self) -> int:
        """How many more questions may be under way."""
        return self._pool.room

    @property
    def is_on(self) -> bool:
        """Whether answers are checked."""
        return bool(self._trust.anchors)

    @property
    def trust(self) -> Trust:
        """What is checked by."""
        return self._trust

    @property
    def pid(self) -> int:
        """The validator's process, 0 if there is none."""
        return self._process.process.pid if self._process else 0

    def reconfigure(self, trust: Trust) -> bool:
        """Check by `trust` from now on; whether that is another one, so that what is cached was not checked by it."""
        if trust == self._trust:
            return False
        self._trust = trust
        self._negative = frozenset(wire_name(name) for name in trust.negative)
        if self._process and self.is_on:
            self._configure(self._process)
        if self.is_on and self._life is None:
            self._life = asyncio.ensure_future(self._live())
            self._timer = self._loop.call_later(LOOK, self._look)
        elif not self.is_on:
            self._end()
        return True

    # -- questions ----------------------------------------------------------------------------------------------------

    def start(
        self,
        question: Question,
        route: int,
        done: Done,
        *,
        tcp_only: bool = False,
        first: Server | None = None,
        last: Server | None = None,
    ) -> None:
        """As Pool.start."""
        trust = self._trust
        if not self.is_on or question.cd or self._is_exempt(question.qname):

            def tell(result: Result) -> None:
                if self._trust is trust:
                    done(_without_ad(result) if self.is_on else result)
                else:  # it began before this was to be checked
                    self.start(question, route, done, tcp_only=tcp_only)

            self._pool.start(question, route, tell, tcp_only=tcp_only, first=first, last=last)
            return
        asked = question._replace(do=True, cd=True)
        exchange = self._exchanges.get((asked, route))
        if exchange is not None:
            exchange.waiting.append((question.do, done))
            return
        exchange = _Exchange(asked, route, [(question.do, done)], trust)
        self._exchanges[asked, route] = exchange
        self._pool.start(
            exchange.question,
            route,
            lambda result: self._came(exchange, result),
            tcp_only=tcp_only,
            first=first,
            last=last,
        )

    def _is_exempt(self, qname: bytes) -> bool:
        at = 0
        while self._negative:
            if qname[at:] in self._negative:
                return True
            if not qname[at]:
                break
            at += qname[at] + 1
        return False

    def _came(self, exchange: _Exchange, result: Result) -> None:
        if result.answer is None or result.answer[3] & 0xF not in _CHECKED or exchange.question.qclass != 1:
            self._finish(exchange, _without_ad(result), _without_ad(result))
        elif exchange.trust is not self._trust:
            self._anew(exchange)
        elif len(self._checks) >= MOST:
            self._doubt(exchange, "too many answers to check")
        else:
            exchange.server, exchange.answer = result.server, result.answer
            exchange.until = self._loop.time() + PATIENCE
            number, self._next = self._next, self._next % 0xFFFFFFFF + 1
            self._checks[number] = exchange
            self._check(number, exchange)

    def _anew(self, exchange: _Exchange) -> None:
        """Begin again by the trust in force, for each who waits."""
        self._forget(exchange)
        for do, done in exchange.waiting:
            self.start(exchange.question._replace(do=do, cd=False), exchange.route, done)

    def _again(self, exchange: _Exchange, last: Server) -> None:
        """Ask another server than `last`."""
        exchange.is_again = True
        self._blamed[exchange.route] = last
        self._pool.start(exchange.question, exchange.route, lambda result: self._came(exchange, result), last=last)

    def _forget(self, exchange: _Exchange) -> None:
        key = (exchange.question, exchange.route)
        if self._exchanges.get(key) is exchange:
            del self._exchanges[key]

    def _finish(self, exchange: _Exchange, whole: Result, plain: Result) -> None:
        self._forget(exchange)
        for do, done in exchange.waiting:
            try:
                done(whole if do else plain)
            except Exception:
                _log.exception("an answer could not be given")

    def _doubt(self, exchange: _Exchange, text: str) -> None:
        self._count(INDETERMINATE)
        result = Result(None, _DOUBT, text, exchange.server)
        self._finish(exchange, result, result)

    def _count(self, status: int) -> None:
        if self._counts is not None:
            self._counts[status] += 1

    def _judged(self, exchange: _Exchange, judged: Judged) -> None:
        if exchange.trust is not self._trust:
            self._anew(exchange)
            return
        other = self._other(exchange) if judged.status == BOGUS and not exchange.is_again else None
        if other is not None:
            _log.debug("%s: %s; asking another server", exchange.question.qname, judged.text)
            self._again(exchange, other)
            return
        if judged.status not in (SECURE, INSECURE):
            self._count(judged.status)
            result = Result(None, judged.ede, judged.text, exchange.server)
            self._finish(exchange, result, result)
            return
        self._count(judged.status)
        whole = Result(judged.whole, server=exchange.server)
        self._finish(exchange, whole, replace(whole, answer=judged.plain))

    def _other(self, exchange: _Exchange) -> Server | None:
        """The server to ask last, if there is another one than that which has answered."""
        servers = [health.server for health in self._pool.route(exchange.route)]
        found = [server for server in servers if server.name == exchange.server]
        return found[0] if found and len(servers) > 1 else None

    # -- the validator ------------------------------------------------------------------------------------------------

    def _check(self, number: int, exchange: _Exchange) -> None:
        if self._process is not None:  # else it is sent when there is one
            question = exchange.question
            head = frames.put_question(Asked(exchange.route, exchange.is_again, question.qtype, question.qname))
            self._send(self._process, Kind.CHECK, number, head + exchange.answer)

    @staticmethod
    def _send(process: _Process, kind: Kind, number: int, body: bytes) -> None:
        process.transport.write(frames.frame(kind, number, body))

    def _configure(self, process: _Process) -> None:
        body = json.dumps({"anchors": self._trust.anchors, "negative": self._trust.negative}).encode()
        self._send(process, Kind.CONFIGURE, 0, body)

    def take(self, process: _Process, frame: Frame) -> None:
        """The validator has said something. ValueError if that is not understood."""
        match frame.kind:
            case Kind.VERDICT:
                exchange = self._checks.pop(frame.number, None)
                if exchange is not None:  # else it came too late
                    self._judged(exchange, frames.take_verdict(frame.body))
            case Kind.ASK:
                asked, _ = frames.take_question(frame.body)
                self._ask(process, frame.number, asked)
            case Kind.PONG:
                process.pinged = 0.0
            case _:
                raise ValueError(f"{frame.kind.name} is not for a worker")

    def _ask(self, process: _Process, number: int, asked: Asked) -> None:
        """Have a question about the chain asked for the validator."""

        def told(result: Result) -> None:
            if process is self._process:
                self._send(process, Kind.TOLD, number, result.answer or b"")

        last = self._blamed.get(asked.route) if asked.afresh else None
        self._pool.start(Question(asked.qname, asked.qtype, 1, True, True), asked.route, told, last=last)

    async def _live(self) -> None:
        """Keep a validator running, until cancelled."""
        delay = 0.0
        while True:
            began = self._loop.time()
            try:
                reason = await self._one_life()
            except OSError as error:
                reason = error.strerror or str(error)
            delay = (
                FIRST_DELAY if self._loop.time() - began > STEADY else min(max(2 * delay, FIRST_DELAY), LONGEST_DELAY)
            )
            _log.error("the validator ended (%s); starting it again in %.1f s", reason, delay)
            for number, exchange in list(self._checks.items()):
                if exchange.was_moved:
                    del self._checks[number]
                    self._doubt(exchange, "the answer could not be checked")
                exchange.was_moved = True
            await asyncio.sleep(delay)

    async def _one_life(self) -> str:
        """One life of the process; returns how it ended."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            process = await asyncio.create_subprocess_exec(
                *spawn.command("resolver.dnssec.process", str(theirs.fileno())),
                env=spawn.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
            undo.pop_all()
        own: _Process | None = None
        try:
            transport, protocol = await self._loop.create_unix_connection(lambda: _Protocol(self), sock=ours)
            self._process = protocol.process = own = _Process(process, transport, protocol)
            self._configure(own)
            for number, exchange in list(self._checks.items()):
                self._check(number, exchange)
            fault = await protocol.ended
        finally:
            if own is not None:
                own.transport.close()
            else:
                ours.close()
            if self._process is own:
                self._process = None
            with contextlib.suppress(TimeoutError):  # it has closed the socket: it is about to end, or beyond help
                async with asyncio.timeout(1):
                    await process.wait()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            status = await process.wait()
        return fault or f"status {status}"

    def _look(self) -> None:
        """End checks that take too long, and a validator that hangs."""
        now = self._loop.time()
        self._timer = self._loop.call_later(LOOK, self._look)
        process = self._process
        if process is not None and process.pinged and now - process.pinged > HANG:
            process.protocol.end(f"hung: no word for {HANG:g} s; killed")
            with contextlib.suppress(ProcessLookupError):
                process.process.kill()
        elif process is not None and not process.pinged and self._checks:
            process.pinged = now
            self._send(process, Kind.PING, 0, b"")
        for number, exchange in list(self._checks.items()):
            if now < exchange.until:
                break  # the later ones have begun later
            del self._checks[number]
            self._doubt(exchange, "the chain of trust took too long")

    def _end(self) -> None:
        """End the validator, and every check."""
        if self._life is not None:
            self._life.cancel()
            self._ending.add(self._life)
            self._life.add_done_callback(self._ending.discard)
        if self._timer is not None:
            self._timer.cancel()
        self._life = self._process = None
        for number, exchange in list(self._checks.items()):
            del self._checks[number]
            if exchange.trust is self._trust:
                self._doubt(exchange, "the server is shutting down")
            else:
                self._anew(exchange)

    async def close(self) -> None:
        """End the validator, and every check with a failure; returns when its process has ended."""
        self._end()
        await asyncio.gather(*self._ending, return_exceptions=True)


class _Protocol(asyncio.Protocol):
    """The octets between a worker and its validator."""

    def __init__(self, checked: Checked) -> None:
        self._checked = checked
        self._parser = frames.Parser()
        self._transport: asyncio.BaseTransport | None = None
        self.process: _Process | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._parser.feed(data):
                if self.process is not None and not self.ended.done():
                    self._checked.take(self.process, frame)
        except (ValueError, struct.error) as error:
            self.end(f"it said what is not understood: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("")

    def end(self, fault: str) -> None:
        """It is over; `fault` says why, "" if it closed."""
        if self._transport is not None:
            self._transport.close()
        if not self.ended.done():
            self.ended.set_result(fault)


def _without_ad(result: Result) -> Result:
    if result.answer is None or not result.answer[3] & _AD:
        return result
    answer = result.answer
    return replace(result, answer=answer[:3] + bytes((answer[3] & ~_AD,)) + answer[4:])
