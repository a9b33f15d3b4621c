"""Keeps the engine's own way upstream in step with what is known about the servers.

The engine asks each question's first try by itself, over plain UDP (engine/forward.pyx); the pool does the rest. Here is
what joins them: for each UDP server a set of connected sockets on random ports, renewed when they are worn; for each route
the server that the strategy would ask first, chosen anew ten times a second; for each server how long the engine waits
before Python asks another (Health.patience, or Health.hedge_after while there is something to spend on hedges); and the
engine's experience (its counters, and the questions it gave up) told to the server's Health. A server that does not speak
EDNS or keep case, one over connections, a benched one and the parallel strategy are the pool's alone: their routes bypass
the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from resolver.counters import LATENCY_BUCKETS, SECTIONS, SERVERS, UPSTREAM_STRIDE
from resolver.engine.engine import AFTER_CLOSED, AFTER_SLOW, AFTER_TIMEOUT
from resolver.upstream.health import LATENCY_BUCKET, LATENCY_SUM, QUERIES, Health, Strategy, order
from resolver.upstream.server import Server

if TYPE_CHECKING:
    from resolver.engine.engine import Engine, Punt
    from resolver.upstream.pool import Pool

TICK = 0.1  # seconds between looks at which server is best
SHORT_TICK = 0.02  # seconds between looks at time-outs, while questions are under way
SOCKETS = 32  # a server; with random ports, ids and case, some 16 + 5 + (letters of the name) bits to guess
RECEIVE_ROOM = 1 << 20  # octets a socket's answers may take until the loop comes round
PORTS_FROM, PORTS = 16384, 49152
BIND_TRIES = 8


class Native:
    """One worker's. Call `reconfigure` after the pool's; `tick` runs by itself. `on_punts`: Punts.run."""

    def __init__(
        self,
        engine: Engine,
        pool: Pool,
        counters: memoryview,
        *,
        on_punts: Callable[[], None],
        rng: random.Random | None = None,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._counters = counters
        self._on_punts = on_punts
        self._rng = rng or random.Random()
        self._numbers: dict[Server, int] = {}
        self._sockets: dict[int, list[socket.socket]] = {}
        self._slots: dict[Server, int] = {}
        self._seen: dict[Server, tuple[int, int, int]] = {}  # the engine's totals at the last look
        self._loop = asyncio.get_running_loop()
        self.reconfigure()
        self._looked = self._loop.time()
        self._timer = self._loop.call_later(TICK, self._tick)

    def reconfigure(self, *, asks: bool = True) -> None:
        """Follow the pool's servers and routes. `asks`: whether the engine is to ask by itself at all."""
        slots = self._pool.config.slots if asks else {}
        wanted = {
            health.server: slots[health.server.name]
            for health in self._pool.servers
            if health.server.is_plain and slots.get(health.server.name, SERVERS) < SERVERS
        }
        for server in [server for server, slot in self._slots.items() if wanted.get(server) != slot]:
            self._drop(server)
        for server, slot in wanted.items():
            if server not in self._numbers:
                self._add(server, slot)
        self._choose()

    def asked(self, punt: Punt) -> Server | None:
        """The server that the engine asked for a question it gave up; its Health is told. The engine has counted it."""
        server = next((server for server, number in self._numbers.items() if number == punt.upstream), None)
        if server is not None and punt.after in (AFTER_TIMEOUT, AFTER_CLOSED):
            now = self._loop.time()
            self._pool.health(server).missed(now - TICK, now)
        elif server is not None and punt.after == AFTER_SLOW:
            self._pool.hedges.spend()
        return server

    def close(self) -> None:
        """Give every socket back."""
        self._timer.cancel()
        for server in list(self._numbers):
            self._drop(server)

    def _tick(self) -> None:
        under_way = self._engine.tick()
        self._on_punts()
        self._timer = self._loop.call_later(SHORT_TICK if under_way else TICK, self._tick)
        if (now := self._loop.time()) - self._looked < TICK:
            return
        self._looked = now
        for server, number in self._numbers.items():
            self._observe(server)
            for place in self._engine.worn_sockets(number):
                with contextlib.suppress(OSError):  # out of descriptors: the worn one rests until the next tick
                    fresh = _connected(server)
                    self._engine.replace_socket(number, place, fresh.fileno())
                    self._sockets[number][place].close()
                    self._sockets[number][place] = fresh
        self._choose()

    def _choose(self) -> None:
        config, now = self._pool.config, self._loop.time()
        may_hedge = self._pool.hedges.has_some
        hedged = set()
        for route in config.routes:
            best = order(self._pool.route(route), config.strategy, now, self._rng)[:2]
            number = -1
            if best and config.strategy is not Strategy.PARALLEL and _is_plain(best[0], now):
                number = self._numbers.get(best[0].server, -1)
                if may_hedge and len(best) == 2 and best[1].is_available() and best[0].rtt is not None:
                    hedged.add(best[0].server)
            self._engine.set_route(route, number)
        for server, number in self._numbers.items():
            health, slow = self._pool.health(server), server in hedged
            patience = health.hedge_after(config.timeout) if slow else health.patience(config.timeout)
            self._engine.set_timeout(number, patience, slow)

    def _observe(self, server: Server) -> None:
        """Tell Health the mean round trip of the answers that came to the engine since the last look, and the pool what the
        engine has asked."""
        health = self._pool.health(server)
        asked_before, answers_before, microseconds_before = self._seen[server]
        asked, answers, microseconds = self._seen[server] = self._totals(server)
        if asked > asked_before:
            self._pool.used(asked - asked_before)
            health.asked_at = self._loop.time()
        if answers > answers_before:
            mean = max(0, microseconds - microseconds_before) / (answers - answers_before) / 1e6
            health.observed(mean, self._loop.time())

    def _add(self, server: Server, slot: int) -> None:
        number = next(n for n in range(SERVERS + 1) if n not in self._sockets)
        if number == SERVERS:
            return
        sockets = []
        try:
            for _ in range(SOCKETS):
                sockets.append(_connected(server))
        except OSError:  # no route there, or out of descriptors: the pool asks, and says what is wrong
            if not sockets:
                return
        self._engine.set_upstream(number, [sock.fileno() for sock in sockets], slot)
        self._sockets[number] = sockets
        self._numbers[server] = number
        self._slots[server] = slot
        self._seen[server] = self._totals(server)

    def _totals(self, server: Server) -> tuple[int, int, int]:
        """What the engine has sent, how many answers it had and how many microseconds they took: what is counted but for
        what Health has counted itself."""
        start = SECTIONS["upstream"].start + self._slots[server] * UPSTREAM_STRIDE
        buckets = self._counters[start + LATENCY_BUCKET : start + LATENCY_BUCKET + LATENCY_BUCKETS]
        sent, took, health = (
            self._counters[start + QUERIES],
            self._counters[start + LATENCY_SUM],
            self._pool.health(server),
        )
        return sent - health.sends, sum(buckets) - health.answers, took - health.microseconds

    def _drop(self, server: Server) -> None:
        number = self._numbers.pop(server)
        self._slots.pop(server)
        self._seen.pop(server, None)
        self._engine.drop_upstream(number)
        for sock in self._sockets.pop(number):
            sock.close()


def _is_plain(health: Health, now: float) -> bool:
    return health.is_available() and health.speaks_edns(now) and health.keeps_case(now)


def _connected(server: Server) -> socket.socket:
    """A UDP socket on a random port, connected to the server (RFC 5452 section 9.2). OSError: not to be had."""
    sock = socket.socket(socket.AF_INET6 if server.is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_ROOM)
        for _ in range(BIND_TRIES):
            try:
                sock.bind(("::" if server.is_ipv6 else "0.0.0.0", PORTS_FROM + secrets.randbelow(PORTS)))
            except OSError:  # taken: the kernel picks one if all tries fail
                continue
            break
        sock.connect((server.address, server.port))
    except OSError:
        sock.close()
        raise
    return sock
