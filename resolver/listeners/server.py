"""The stream connections of one worker, whatever is spoken on them: places, time-outs, and whose handshake is next.

Limits: connections in all and per client, TCP, TLS and HTTP together. A new one beyond a limit takes the place of the
idlest that waits for nothing (of the same client, if it is the client's limit); if none is idle the new one is closed. A
place is taken before the handshake, so that half-open ones count. Only whole queries and answers count as activity, so
that trickling octets does not keep a connection alive; what is begun and not finished (a frame, a handshake, a PROXY header)
has a time of its own. The idle time shrinks from `idle` to `idle / 10` as the second half of the places fills (RFC 7766
section 6.2.3).

A handshake costs what a hundred queries cost. So they queue, and one turn of the loop does `BURST` seconds' worth of them
at most, at least one: between turns UDP is answered, however many connections knock.

Invariants: `_order` holds every open connection, the idlest first; `_shaking` holds no connection twice.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

SWEEP = 0.5  # seconds between looks for connections to close
LINGER = 0.05  # seconds in which a draining server still reads what clients had sent
SCAN = 32  # how many of the idlest are looked at for one that waits for nothing
BURST = 0.0005  # seconds of handshakes in one turn of the loop


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

    def shake(self) -> None:
        """Go on with the handshake: its turn has come."""

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


class StreamServer:
    """All stream connections of one worker. `on_punts` is called when the engine has punts to take (Punts.run)."""

    def __init__(self, engine: Answerer, on_punts: Callable[[], None], *, limits: Limits | None = None) -> None:
        self.engine = engine
        self.on_punts = on_punts
        self.limits = limits or Limits()
        self.is_draining = False
        self.loop = asyncio.get_running_loop()
        self._order: OrderedDict[Held, None] = OrderedDict()
        self._clients: dict[bytes, OrderedDict[Held, None]] = {}  # in the same order
        self._halves: set[Held] = set()  # with something unfinished
        self._shaking: deque[Held] = deque()
        self._will_shake = False
        self._servers: list[asyncio.Server] = []
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._sweeper = self.loop.call_later(SWEEP, self._sweep)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._order)

    async def listen(self, sock: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        """Accept on a bound socket, which from now on belongs to this server; `make` makes a connection's protocol."""
        self._servers.append(await self.loop.create_server(make, sock=sock, backlog=1024))

    async def drain(self, grace: float) -> None:
        """Accept no more, answer what is in flight, close. Whatever is open after `grace` seconds is cut."""
        self.is_draining = True
        for server in self._servers:
            server.close()
        await asyncio.sleep(min(LINGER, grace))
        for held in list(self._order):
            held.finish()
        try:
            async with asyncio.timeout(grace):
                await self._is_empty.wait()
        except TimeoutError:
            for held in list(self._order):
                held.cut(at_once=True)
            await self._is_empty.wait()
        self._sweeper.cancel()

    # -- called by connections --------------------------------------------------------------------------------------

    def admit(self, held: Held, client: bytes, *, is_proxy: bool = False) -> bool:
        """Give a new connection a place, by taking an idle one's if need be. `is_proxy`: it speaks for many clients."""
        if self.is_draining:
            return False
        mates = self._clients.get(client)
        if mates is not None and len(mates) >= self.limits.per_client and not is_proxy:
            idlest = next((mate for mate in mates if mate.is_spare), None)
            if idlest is None:
                return False
            self.leave(idlest, client)
            idlest.cut()
        elif len(self._order) >= self.limits.connections:
            idlest = next((s for _, s in zip(range(SCAN), self._order, strict=False) if s.is_spare), None)
            if idlest is None:
                return False
            self.leave(idlest, idlest.client)
            idlest.cut()
        self._order[held] = None
        self._is_empty.clear()
        self._clients.setdefault(client, OrderedDict())[held] = None
        return True

    def leave(self, held: Held, client: bytes) -> None:
        """Take a connection's place away. Harmless if it has none."""
        self._order.pop(held, None)
        self._halves.discard(held)
        if not self._order:
            self._is_empty.set()
        mates = self._clients.get(client)
        if mates is not None:
            mates.pop(held, None)
            if not mates:
                del self._clients[client]

    def active(self, held: Held) -> None:
        """A whole query came in, or an answer went out."""
        if held in self._order:
            self._order.move_to_end(held)
            self._clients[held.client].move_to_end(held)

    def half(self, held: Held, is_half: bool) -> None:
        """Whether a connection has something unfinished."""
        if is_half:
            self._halves.add(held)
        else:
            self._halves.discard(held)

    def queue(self, held: Held) -> None:
        """Have its `shake` called when its turn comes. A connection that waits already must not ask again."""
        self._shaking.append(held)
        if not self._will_shake:
            self._will_shake = True
            self.loop.call_soon(self._shake)

    def _shake(self) -> None:
        self._will_shake = False
        end = time.perf_counter() + BURST
        while self._shaking:
            self._shaking.popleft().shake()
            if self._shaking and time.perf_counter() >= end:
                self._will_shake = True
                self.loop.call_soon(self._shake)
                break

    def idle_time(self) -> float:
        """Seconds a connection may be idle now."""
        pressure = max(0.0, 2 * len(self._order) / self.limits.connections - 1)
        return self.limits.idle * (1 - 0.9 * min(pressure, 1.0))

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(SWEEP, self._sweep)
        now = self.loop.time()
        idle = self.idle_time()
        frame = min(self.limits.frame, max(idle, self.limits.frame / 5))
        for held in [h for h in self._halves if now - h.frame_since >= frame]:
            held.cut()
        old = []
        for held in self._order:
            if now - held.active_at < idle:
                break
            if held.is_spare:
                old.append(held)
        for held in old:
            held.cut()


def client_octets(address: str) -> bytes:
    """An address as 16 octets, IPv4 as ::ffff:a.b.c.d. The scope of a link-local address is left out."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed
