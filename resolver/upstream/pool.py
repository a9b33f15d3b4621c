"""The upstream servers of one worker: which serve which route, and the exchanges under way.

`start` is the whole path of a query that is not cached: order the route's servers (health.py), run an Exchange over the
transports that they speak (carrier.py), give the Result to a callback. No task is made for it. `reconfigure` swaps routes
and strategy for exchanges to come; those under way keep the candidates they have, and servers that stay keep what is known
about them.

In the background, while there are questions, servers are probed with a question of our own: benched ones when it is time
(health.py), every PROBE_EVERY seconds where a whole route is dead, and with the strategy `fastest` those that have not been
asked for EXPLORE_EVERY seconds, so that it is known when another has become the fastest. No client waits for a probe.

Times are those of CLOCK_MONOTONIC: a loop's own clock may stand still for a round and counts milliseconds under uvloop,
too coarse for a server next door.

Counters: each server counts into the slot of the "upstream" section that the caller assigns by the server's name
(resolver/counters.py). A server without a slot counts nowhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from resolver.counters import SECTIONS, SERVERS, UPSTREAM_STRIDE
from resolver.upstream.carrier import Carriers, Fault, Surroundings, Ticket, TransportError
from resolver.upstream.exchange import Answer, Event, Exchange, Send
from resolver.upstream.health import ROOT_PROBE, Budget, Health, Strategy, order
from resolver.upstream.message import Question
from resolver.upstream.server import Server
from resolver.upstream.udp import LIMIT
from resolver.vocabulary import EDE

if TYPE_CHECKING:
    from resolver.upstream.bootstrap import Bootstrap

LOOK = 0.25  # seconds between looks at what is to be probed
PROBE_EVERY = 0.75  # seconds, where no server of a route answers
PROBE_TIMEOUT = 1.0  # seconds; an answer may take twice as long
EXPLORE_EVERY = 5.0  # seconds
ACTIVE_FOR = 60.0  # seconds after the last question in which more is probed than the benched servers that are due

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Routes (0 is the default) to their servers, how to choose, how long to wait (seconds, for one server), and each
    server name's slot in the counters. `bootstrap`: who is asked where servers are that are written by name;
    `authorities`: a PEM file of those to trust besides the system's."""

    routes: Mapping[int, Sequence[Server]]
    strategy: Strategy = Strategy.FASTEST
    timeout: float = 2.0
    slots: Mapping[str, int] = field(default_factory=dict)
    bootstrap: Sequence[Server] = ()
    authorities: Path | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a question: `answer` (question in lower case, id arbitrary, OPT as the server sent it), or None and
    why as an Extended DNS Error. `server` is the name of the one that answered."""

    answer: bytes | None
    ede: int = -1
    text: str = ""
    server: str = ""


Done = Callable[[Result], None]


async def result_of(start: Callable[[Done], None]) -> Result:
    """What a `start` comes to, for coroutines."""
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def done(result: Result) -> None:
        if not future.done():
            future.set_result(result)

    start(done)
    return await future


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
        self._surroundings = Surroundings(self._loop, where=self._where, connected=self._connected)
        self._carriers = Carriers(self._surroundings, limit=2 * limit)
        self._bootstrap: Bootstrap | None = None
        self.hedges = Budget()
        self._running: set[_Run] = set()
        self._health: dict[Server, Health] = {}
        self._routes: dict[int, list[Health]] = {}
        self._config = config
        self._probed: set[Health] = set()  # whose probe is under way
        self._active = float("-inf")
        self._timer = self._loop.call_later(LOOK, self._look)
        self.reconfigure(config)

    def reconfigure(self, config: PoolConfig) -> None:
        """Serve `config` from the next question on."""
        self._config = config
        servers = dict.fromkeys(server for route in config.routes.values() for server in route)
        names = {server.host for server in servers if not server.address}
        servers.update(dict.fromkeys(config.bootstrap if names else ()))
        self._health = {server: self._health.get(server) or Health(server, rng=self._rng) for server in servers}
        for health in self._health.values():
            health.count_into(self._slot(health.server.name))
        self._routes = {route: [self._health[server] for server in names] for route, names in config.routes.items()}
        self._surroundings.authorities = config.authorities
        self._carriers.keep(set(servers))
        if names and self._bootstrap is None:
            from resolver.upstream.bootstrap import Bootstrap

            self._bootstrap = Bootstrap(self._loop, self._look_up)
        if self._bootstrap is not None:
            self._bootstrap.keep(names)

    def _slot(self, name: str) -> memoryview | None:
        slot = self._config.slots.get(name, SERVERS)
        if self._counters is None or slot >= SERVERS:
            return None
        start = SECTIONS["upstream"].start + slot * UPSTREAM_STRIDE
        return self._counters[start : start + UPSTREAM_STRIDE]

    @property
    def room(self) -> int:
        """How many more questions may be under way."""
        return self._limit - len(self._running)

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
        now = self._active = monotonic()
        candidates = order(self.route(route), config.strategy, now, self._rng)
        if first is not None:
            candidates.sort(key=lambda health: health.server != first)
        if last is not None:
            candidates.sort(key=lambda health: health.server == last)
        self._run(question, candidates, done, now, tcp_only=tcp_only)

    def _run(
        self,
        question: Question,
        candidates: Sequence[Health],
        done: Done,
        now: float,
        *,
        tcp_only: bool = False,
        probe: bool = False,
    ) -> None:
        exchange = Exchange(
            question,
            candidates,
            timeout=min(self._config.timeout, PROBE_TIMEOUT) if probe else self._config.timeout,
            now=now,
            parallel=self._config.strategy is Strategy.PARALLEL,
            tcp_only=tcp_only,
            hedges=self.hedges,
            probe=probe,
            random=self._random_octets,
        )
        run = _Run(self._loop, self._carriers, self._running, exchange, done)
        self._running.add(run)
        run.perform(exchange.start(now))

    async def ask(self, question: Question, route: int = 0, *, tcp_only: bool = False) -> Result:
        """`start` for coroutines."""
        return await result_of(lambda done: self.start(question, route, done, tcp_only=tcp_only))

    def close(self) -> None:
        """End every exchange with a failure and close all sockets."""
        self._timer.cancel()
        for run in list(self._running):
            run.end(Result(None, EDE.NETWORK_ERROR, Fault.ENDING.value))
        if self._bootstrap is not None:
            self._bootstrap.close()
        self._carriers.close()

    # -- probes -----------------------------------------------------------------------------------------------------

    def used(self, questions: int) -> None:
        """The engine has asked servers of this pool so many questions."""
        self._active = monotonic()
        self.hedges.earn(questions)

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK, self._look)
        now = monotonic()
        wanted = {health for health in self._health.values() if health.is_probe_due(now)}
        if now - self._active < ACTIVE_FOR:
            for servers in self._routes.values():
                if not any(health.is_available() for health in servers):
                    wanted.update(health for health in servers if now - health.asked_at >= PROBE_EVERY)
                elif self._config.strategy is Strategy.FASTEST and len(servers) > 1:
                    wanted.update(
                        health for health in servers if health.is_available() and now - health.asked_at >= EXPLORE_EVERY
                    )
        for health in wanted - self._probed:
            self._probed.add(health)
            self._run(ROOT_PROBE, [health], partial(self._learned, health), now, probe=True)

    def _learned(self, health: Health, result: Result) -> None:
        self._probed.discard(health)  # its Health knows all

    # -- servers that are written by name ---------------------------------------------------------------------------

    async def _where(self, server: Server) -> Sequence[str]:
        if server.address:
            return [server.address]
        if self._bootstrap is None:
            raise TransportError(Fault.LOOKUP)
        return await self._bootstrap.addresses(server.host)

    async def _look_up(self, question: Question) -> Result:
        servers = [self._health[server] for server in self._config.bootstrap if server in self._health]
        return await result_of(lambda done: self._run(question, servers, done, monotonic()))

    def _connected(self, server: Server, change: int) -> None:
        if health := self._health.get(server):
            health.connected(change)


class _Run:
    """The I/O around one exchange: a Receiver."""

    __slots__ = ("_alarm", "_carriers", "_done", "_exchange", "_loop", "_running", "_tickets", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, carriers: Carriers, running: set[_Run], exchange: Exchange, done: Done
    ) -> None:
        self._loop = loop
        self._carriers = carriers
        self._running = running
        self._exchange = exchange
        self._done = done
        self._tickets: dict[int, Ticket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._alarm = 0.0  # when it fires

    def sent(self, number: int) -> None:
        self._exchange.sent(number, monotonic())
        self.perform([])

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
                        self._tickets[event.number] = self._carriers.send(
                            event.health.server, event.transport, event.payload, self, event.number
                        )
                    except TransportError as error:
                        further += self._exchange.fail(event.number, error.fault, monotonic())
                    except Exception:  # whatever it is, those who wait for this exchange must hear of its end
                        _log.exception("a query could not be sent to %s", event.health.server.name)
                        further += self._exchange.fail(event.number, Fault.PROTOCOL, monotonic())
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
        for ticket in self._tickets.values():
            ticket.cancel()
        self._done(result)

    def _tick(self) -> None:
        self._timer = None
        held = [number for number, ticket in self._tickets.items() if ticket.is_waiting]
        self.perform(self._exchange.tick(monotonic(), held))
