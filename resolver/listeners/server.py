"""The stream connections of one worker, whatever is spoken on them: places, time-outs, and whose handshake is next.

Limits: connections in all and per client, TCP, TLS and HTTP together (places.py). A place is taken before the handshake, so
that half-open ones count. Only whole queries and answers count as activity, so that trickling octets does not keep a
connection alive; what is begun and not finished (a frame, a handshake, a PROXY header) has a time of its own.

A handshake costs what a hundred queries cost. So they queue, and a thread does one after the other, in OpenSSL and without
Python's lock: UDP is answered meanwhile, however many connections knock. Clients that let handshakes lie,
SUSPECT of them in FORGET seconds, queue apart, and one of that queue is done every PACE seconds: who begins handshakes to
waste our time gets little of it; whoever shares the address waits with it, and nobody else does. Connections whose time is
over are closed a few in a turn of the loop, as those of a flood come to their ends together.

In one turn the loop hands on every socket that is ready, a thousand it may be, before UDP's turn comes. So `glance` sees
after each of them whether streams were worked on for long, and then has UDP answered in between.

Invariants: `places` holds every open connection; `_shaking` and `_suspects` together hold no connection twice, nor the one
that the thread has; `_failed` counts `_failures`; a connection with something unfinished is in `_halves` or `_late`, and
each of them is in the order of `frame_since`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from queue import SimpleQueue
from time import perf_counter
from typing import Protocol

from resolver import spawn
from resolver.listeners.gate import prefix
from resolver.listeners.places import Places

SWEEP = 0.5  # seconds between looks for connections to close
LINGER = 0.05  # seconds in which a draining server still reads what clients had sent
TURN = 4  # connections that are closed in one turn of the loop
NICE = 10  # of the thread below the loop, which else might wait for a tick of the scheduler's; a tenth of a core is its own
LATE = 1.0  # seconds after which a handshake counts as one that was let lie
PATIENCE = 0.00005  # seconds of work on streams after which UDP is looked at
SUSPECT = 4  # such handshakes, or ones that failed, of one client (gate.prefix)
FORGET = 60.0  # seconds for which they are remembered
PACE = 0.05  # seconds between the handshakes of such clients


class Answerer(Protocol):
    """The engine, as far as a listener knows it."""

    def answer(self, packet: bytes, client: bytes, transport: int, token: object = None) -> tuple[int, bytes | None]:
        """(verdict, reply); `token` travels with a punt."""


class Held(Protocol):
    """A connection, as far as the server knows it."""

    client: bytes  # 16 octets
    active_at: float  # when a whole query came in or an answer went out; loop's time
    frame_since: float  # since when something is unfinished

    @property
    def is_spare(self) -> bool:
        """Whether nobody waits for an answer on it."""

    def shake(self) -> Callable[[], bool] | None:
        """The next step of the handshake, as its turn has come, for another thread to do: whether the handshake is done. It
        may raise. None: there is nothing to do any more."""

    def shaken(self, is_open: bool | None) -> None:
        """The step was done; None: it failed."""

    def judge(self) -> None:
        """It has been unfinished for a while: a handshake that the client lets lie counts as failed."""

    def finish(self) -> None:
        """Take no more from the client than is here, answer that, close."""

    def cut(self, *, at_once: bool = False) -> None:
        """Close without waiting for a client that does not read; `at_once`: nor for anything."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds."""

    connections: int = 20_000
    per_client: int = 64
    pipeline: int = 128  # queries of one connection that wait for an answer
    idle: float = 10.0
    frame: float = 5.0  # for a frame, or a handshake, from its first octet to its last


class Aside:
    """A thread that does what takes long without Python's lock; `then` is called in the loop, with None if it failed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Callable[[], bool], Callable[[bool | None], None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], bool], then: Callable[[bool | None], None]) -> None:
        """Do this after what was given before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._jobs.put((work, then))

    def end(self) -> None:
        """Do nothing more after what was given."""
        self._jobs.put(None)

    def _run(self) -> None:
        spawn.take_usual_turns()  # the loop, which takes short ones, goes before
        os.nice(NICE)
        while (job := self._jobs.get()) is not None:
            work, then = job
            done: bool | None = None
            with contextlib.suppress(Exception):
                done = work()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(then, done)
            del job, work, then  # they hold a connection


class StreamServer:
    """All stream connections of one worker. `on_punts` is called when the engine has punts to take (Punts.run), `look` when
    UDP may have waited: it answers what has come in, a bounded amount, and may call tokens."""

    def __init__(
        self,
        engine: Answerer,
        on_punts: Callable[[], None],
        look: Callable[[], object] = lambda: None,
        *,
        limits: Limits | None = None,
    ) -> None:
        self.engine = engine
        self.on_punts = on_punts
        self._look = look
        self._worked = 0.0  # seconds since the last look
        self.is_draining = False
        self.loop = asyncio.get_running_loop()
        self.places: Places[Held] = Places(0, 0, 0)
        self.limits = limits or Limits()
        self._halves: OrderedDict[Held, None] = OrderedDict()  # with something unfinished, not yet judged
        self._late: OrderedDict[Held, None] = OrderedDict()  # the same, judged
        self._shaking: deque[Held] = deque()
        self._is_shaking = False  # the thread has one
        self._aside = Aside(self.loop)
        self._suspects: deque[Held] = deque()
        self._will_pace = False
        self._failures: deque[tuple[float, bytes]] = deque()  # when each is forgotten, and whose it was
        self._failed: Counter[bytes] = Counter()
        self._servers: list[asyncio.Server] = []
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._sweeper = self.loop.call_later(SWEEP, self._sweep)

    @property
    def limits(self) -> Limits:
        """What holds from now on, for open connections too."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        places = self.places
        places.connections, places.per_client, places.idle = limits.connections, limits.per_client, limits.idle

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.places)

    async def listen(self, sock: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        """Accept on a bound socket, which from now on belongs to this server; `make` makes a connection's protocol."""
        self._servers.append(await self.loop.create_server(make, sock=sock, backlog=1024))

    async def drain(self, grace: float) -> None:
        """Accept no more, answer what is in flight, close. Whatever is open after `grace` seconds is cut."""
        self.is_draining = True
        for server in self._servers:
            server.close()
        await asyncio.sleep(min(LINGER, grace))
        for held in self.places.holders:
            held.finish()
        try:
            async with asyncio.timeout(grace):
                await self._is_empty.wait()
        except TimeoutError:
            for held in self.places.holders:
                held.cut(at_once=True)
            await self._is_empty.wait()
        self._sweeper.cancel()
        self._aside.end()

    # -- called by connections --------------------------------------------------------------------------------------

    def admit(self, held: Held, *, is_proxy: bool = False) -> bool:
        """Give a new connection a place, by taking an idle one's if need be. `is_proxy`: it speaks for many clients."""
        if self.is_draining or not self.places.take(held, is_proxy=is_proxy):
            return False
        self._is_empty.clear()
        return True

    def leave(self, held: Held) -> None:
        """Take a connection's place away. Harmless if it has none."""
        self.places.leave(held)
        self.whole(held)
        if not len(self.places):
            self._is_empty.set()

    def active(self, held: Held) -> None:
        """A whole query came in, or an answer went out."""
        self.places.active(held, self.loop.time())

    def glance(self, began: float) -> None:
        """A piece of work that began then (perf_counter) is done: look at UDP if that is due. Tokens may be called."""
        self._worked += perf_counter() - began
        if self._worked >= PATIENCE:
            self._look()
            self._worked = 0.0

    def half(self, held: Held) -> None:
        """A connection has begun something, now: `frame_since` says so."""
        self._halves[held] = None

    def whole(self, held: Held) -> None:
        """What a connection had begun is finished, or given up. Harmless if there was nothing."""
        self._halves.pop(held, None)
        self._late.pop(held, None)

    def queue(self, held: Held) -> None:
        """Have its `shake` called when its turn comes. A connection that waits already must not ask again."""
        if self._failed.get(prefix(held.client), 0) >= SUSPECT:
            self._suspects.append(held)
            if not self._will_pace:
                self._will_pace = True
                self.loop.call_later(PACE, self._pace)
            return
        self._shaking.append(held)
        self._shake()

    def failed(self, client: bytes) -> None:
        """A handshake of this client has failed, or lies."""
        who = prefix(client)
        self._failed[who] += 1
        self._failures.append((self.loop.time() + FORGET, who))

    def _pace(self) -> None:
        self._will_pace = False
        while self._suspects:
            held = self._suspects.popleft()
            if held in self._halves or held in self._late:  # else it is gone
                self._shaking.append(held)
                self._shake()
                break
        if self._suspects:
            self._will_pace = True
            self.loop.call_later(PACE, self._pace)

    def _shake(self) -> None:
        while self._shaking and not self._is_shaking:
            held = self._shaking.popleft()
            if (work := held.shake()) is not None:
                self._is_shaking = True
                self._aside.do(work, partial(self._shaken, held))

    def _shaken(self, held: Held, is_open: bool | None) -> None:
        began = perf_counter()
        self._is_shaking = False
        self._shake()
        held.shaken(is_open)
        self.glance(began)

    def _sweep(self) -> None:
        now = self.loop.time()
        while self._failures and self._failures[0][0] <= now:
            _, who = self._failures.popleft()
            self._failed[who] -= 1
            if not self._failed[who]:
                del self._failed[who]
        steps = 0
        for step in islice(self._due(now), TURN):
            began = perf_counter()
            step()
            steps += 1
            self.glance(began)
        self._sweeper = self.loop.call_later(0 if steps == TURN else SWEEP, self._sweep)

    def _due(self, now: float) -> Iterator[Callable[[], None]]:
        """What is to be done about connections whose time is over; each is to be called before the next is asked for."""
        frame = min(self.limits.frame, max(self.places.idle_time(), self.limits.frame / 5))
        while self._halves and now - (held := next(iter(self._halves))).frame_since >= min(LATE, frame):
            del self._halves[held]
            self._late[held] = None
            yield held.judge
        while self._late and now - (held := next(iter(self._late))).frame_since >= frame:
            yield partial(self._end, held)
        while idle := list(islice(self.places.overdue(now), TURN)):
            yield from (partial(self._end, held) for held in idle)

    def _end(self, held: Held) -> None:
        self.leave(held)
        held.cut()


def client_octets(address: str) -> bytes:
    """An address as 16 octets, IPv4 as ::ffff:a.b.c.d. The scope of a link-local address is left out."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed
