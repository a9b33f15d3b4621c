"""The upstream servers of one worker: which serve which route, and the exchanges under way.

`start` is the whole path of a query that is not cached: order the route's servers (health.py), run an Exchange over
plain sockets, give the Result to a callback. No task is made for it. `reconfigure` swaps routes and strategy for
exchanges to come; those under way keep the candidates they have, and servers that stay keep what is known about them.

Times are those of CLOCK_MONOTONIC: a loop's own clock may stand still for a round and counts milliseconds under uvloop,
too coarse for a server next door.

Counters: each server counts into the slot of the "upstream" section that the caller assigns by the server's name
(resolver/counters.py). A server without a slot counts nowhere.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from resolver.counters import SECTIONS, SERVERS, UPSTREAM_STRIDE
from resolver.upstream.exchange import Answer, Event, Exchange, Fault, Send
from resolver.upstream.health import Health, Server, Strategy, order
from resolver.upstream.message import Question
from resolver.upstream.plain import LIMIT, Plain, Ticket, TransportError
from resolver.vocabulary import EDE


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Routes (0 is the default) to their servers, how to choose, how long to wait (seconds, for one server), and each
    server name's slot in the counters."""

    routes: Mapping[int, Sequence[Server]]
    strategy: Strategy = Strategy.FASTEST
    timeout: float = 2.0
    slots: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a question: `answer` (question in lower case, id arbitrary, OPT as the server sent it), or None and
    why as an Extended DNS Error; of an answer, what there is to say of it. `server` is the name of the one that answered."""

    answer: bytes | None
    ede: int = -1
    text: str = ""
    server: str = ""


Done = Callable[[Result], None]


class Pool:
    """See the module. One a worker, on the running loop.

    `counters`: the worker's, cast to "Q". `limit`: exchanges at a time; beyond it a question fails at once, since with
    upstreams that answer the limit is out of reach, and with ones that do not a queue only makes clients wait.
    """

    def __init__(
        self,
        config: PoolConfig,
        *,
        counters: memoryview | None = None,
        rng: random.Random | None = None,
        random_octets: Callable[[int], bytes] = os.urandom,
        limit: int = LIMIT,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._counters = counters
        self._rng = rng or random.Random()
        self._random_octets = random_octets
        self._limit = limit
        self._plain = Plain(self._loop, limit=2 * limit)
        self._running: set[_Run] = set()
        self._health: dict[Server, Health] = {}
        self._routes: dict[int, list[Health]] = {}
        self._config = config
        self.reconfigure(config)

    def reconfigure(self, config: PoolConfig) -> None:
        """Serve `config` from the next question on."""
        self._config = config
        servers = dict.fromkeys(server for route in config.routes.values() for server in route)
        self._health = {server: self._health.get(server) or Health(server, rng=self._rng) for server in servers}
        for health in self._health.values():
            health.count_into(self._slot(health.server.name))
        self._routes = {route: [self._health[server] for server in names] for route, names in config.routes.items()}
        self._plain.keep(set(servers))

    def _slot(self, name: str) -> memoryview | None:
        slot = self._config.slots.get(name, SERVERS)
        if self._counters is None or slot >= SERVERS:
            return None
        start = SECTIONS["upstream"].start + slot * UPSTREAM_STRIDE
        return self._counters[start : start + UPSTREAM_STRIDE]

    @property
    def in_flight(self) -> int:
        """Questions under way."""
        return len(self._running)

    @property
    def config(self) -> PoolConfig:
        """What is served."""
        return self._config

    def route(self, route: int) -> Sequence[Health]:
        """The servers of a route; of the default one where it is unknown."""
        servers = self._routes.get(route)
        return self._routes.get(0, []) if servers is None else servers

    def health(self, server: Server) -> Health:
        """What is known of a server of this pool."""
        return self._health[server]

    @property
    def servers(self) -> Sequence[Health]:
        """What is known of each server, in the config's order."""
        return list(self._health.values())

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
        """Ask `question` along `route` (unknown ones: the default) and call `done` once, maybe before this returns.

        `first`, `last`: ask this server of the route before or after all others, whatever the strategy says, because
        of what came of asking it already.
        """
        if len(self._running) >= self._limit:
            done(Result(None, EDE.NETWORK_ERROR, Fault.OVERLOAD.value))
            return
        config = self._config
        now = monotonic()
        candidates = order(self.route(route), config.strategy, now, self._rng)
        if first is not None:
            candidates.sort(key=lambda health: health.server != first)
        if last is not None:
            candidates.sort(key=lambda health: health.server == last)
        exchange = Exchange(
            question,
            candidates,
            timeout=config.timeout,
            now=now,
            parallel=config.strategy is Strategy.PARALLEL,
            tcp_only=tcp_only,
            random=self._random_octets,
        )
        run = _Run(self._loop, self._plain, self._running, exchange, done)
        self._running.add(run)
        run.perform(exchange.start(now))

    async def ask(self, question: Question, route: int = 0, *, tcp_only: bool = False) -> Result:
        """`start` for coroutines."""
        future: asyncio.Future[Result] = self._loop.create_future()

        def done(result: Result) -> None:
            if not future.done():
                future.set_result(result)

        self.start(question, route, done, tcp_only=tcp_only)
        return await future

    def close(self) -> None:
        """End every exchange with a failure and close all sockets."""
        for run in list(self._running):
            run.end(Result(None, EDE.NETWORK_ERROR, Fault.ENDING.value))
        self._plain.close()


class _Run:
    """The I/O around one exchange: a Receiver."""

    __slots__ = ("_alarm", "_done", "_exchange", "_loop", "_plain", "_running", "_tickets", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, plain: Plain, running: set[_Run], exchange: Exchange, done: Done
    ) -> None:
        self._loop = loop
        self._plain = plain
        self._running = running
        self._exchange = exchange
        self._done = done
        self._tickets: list[Ticket] = []
        self._timer: asyncio.TimerHandle | None = None
        self._alarm = 0.0  # when it fires

    def received(self, number: int, message: bytes) -> None:
        self.perform(self._exchange.receive(number, message, monotonic()))

    def failed(self, number: int, fault: Fault) -> None:
        self.perform(self._exchange.fail(number, fault, monotonic()))

    def perform(self, events: list[Event]) -> None:
        """Do what the exchange says. A send that fails at once brings further events."""
        while events:
            further: list[Event] = []
            for event in events:
                if isinstance(event, Send):
                    try:
                        self._tickets.append(
                            self._plain.send(event.health.server, event.transport, event.payload, self, event.number)
                        )
                    except TransportError as error:
                        further += self._exchange.fail(event.number, error.fault, monotonic())
                elif isinstance(event, Answer):
                    self.end(Result(event.message, server=event.health.server.name))
                    return
                else:
                    self.end(Result(None, event.ede, event.text))
                    return
            events = further
        # A timer that fires early does no harm, so one that is early enough stays.
        deadline = self._exchange.deadline
        if self._timer is None or self._alarm > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._alarm = deadline
            self._timer = self._loop.call_later(max(deadline - monotonic(), 0.001), self._tick)

    def end(self, result: Result) -> None:
        """Close everything and report."""
        self._running.discard(self)
        self._exchange.is_done = True
        if self._timer is not None:
            self._timer.cancel()
        for ticket in self._tickets:
            ticket.cancel()
        self._done(result)

    def _tick(self) -> None:
        self._timer = None
        self.perform(self._exchange.tick(monotonic()))
