"""The supervisor's end of its workers: as many as desired, each alive, all on the newest generation.

Each worker has a keeper, a task that starts its process, hands it the sockets and counters that belong to its number,
and starts it again when it ends: at once the first time, then after 0.1 s, doubled up to 10 s, until one has lived for
`STEADY`. The sockets stay open here meanwhile, so what arrives waits for the next worker. The first lives are forked
(`fork`) before there are threads here, later ones are fresh interpreters.

`_desired` is the newest generation that the workers were told to enforce; a worker that comes up later is told so as
its first order. A swap is done when every worker that is up has said so; if one refuses or stays silent all go back,
so that they never disagree for longer than a swap.

A worker that hangs is as good as dead, but no process ends: so each that serves is asked for its state every second,
and killed when it has stayed silent twice for `HANG_PATIENCE`. Twice, since after a sleep of the whole machine, or of
this process, the first silence may be ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from resolver import control, counters, overlay, ring, spawn
from resolver.channel import Channel
from resolver.control import ControlError
from resolver.facts import CACHE_GAUGES, Facts
from resolver.sockets import Sockets

SWAP_PATIENCE = 10.0  # seconds for a worker to enforce a generation
FIRST_DELAY, LONGEST_DELAY = 0.1, 10.0  # seconds before a restart
LOOK_EVERY = 1.0  # seconds between questions whether a worker hangs
HANG_PATIENCE = 3.0  # seconds for a worker that serves to answer one
BUCKETS = 1 << 20  # octets for clients' token buckets: 65,536 prefixes of late
STEADY = 30.0  # seconds of life after which a death counts as the first again

_log = logging.getLogger(__name__)


class WorkersError(Exception):
    """Workers did not do what was asked; the text says which and why."""


class _Keeper:
    """One worker's process and the conversation with it."""

    def __init__(self, workers: Workers, number: int, configure: control.Configure) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | spawn.Forked | None = None
        self.channel: Channel | None = None  # while it is up: from its Ready to its end
        self.settled = asyncio.Event()  # it came up, or its first life ended
        self.enforced = 0  # the generation that it has confirmed
        self.overlaid = 0  # the overlay that it has confirmed
        self.mapped = 0  # the client map that it has confirmed
        self.certified = 0  # the certificate that it has confirmed
        self.first_end = ""  # how its first life ended, if it did before it came up
        self._last_words = ""
        self._workers = workers
        self._configure = configure
        self._ours: socket.socket | None = None  # the channel to a first life that was forked, until it is kept
        self._heard = asyncio.Condition()
        self._inspected: control.Inspected | None = None
        self._flushed: control.Flushed | None = None
        self._refused: control.Failed | None = None

    async def keep(self) -> None:
        """Run the worker for as long as workers are wanted."""
        delay = 0.0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            reason = await self._live()
            if not self.settled.is_set():
                self.first_end = reason
                self.settled.set()
            if not self._workers.wanted:
                return
            if loop.time() - began > STEADY:
                delay = 0.0
            _log.error("worker %d ended (%s); starting it again in %.1f s", self.number, reason, delay)
            self._workers.facts.worker_restarts += 1
            await self._workers.pause(delay)
            if not self._workers.wanted:
                return
            delay = min(max(2 * delay, FIRST_DELAY), LONGEST_DELAY)
            self._forget_gauges()

    async def _live(self) -> str:
        """One life of the worker; returns how it ended."""
        self._last_words, self.enforced, self.overlaid, self.mapped, self.certified = "", 0, 0, 0, 0
        ours, process = await self._begin()
        self.process = process
        self._workers.tell_processes()
        if not self._workers.wanted:
            process.kill()
        watching = asyncio.create_task(self._watch(process))
        try:
            async with await Channel.over(ours) as channel:
                channel.send(self._configure)
                with contextlib.suppress(ControlError):
                    while message := await channel.receive():
                        await self._take(channel, message)
        finally:
            watching.cancel()
            self.channel = None
            async with self._heard:
                self._heard.notify_all()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    # It has closed the channel: either it is about to end, or it is beyond help.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(process.wait(), 1)
                    if process.returncode is None:
                        process.kill()
        return self._last_words or _ending(await process.wait())

    async def _begin(self) -> tuple[socket.socket, asyncio.subprocess.Process | spawn.Forked]:
        """The worker's process, and our end of the channel to it: the one that was forked, else a new one."""
        ours, self._ours = self._ours, None
        if ours is not None and self.process is not None:
            return ours, self.process
        ours, theirs = socket.socketpair()
        with theirs:
            return ours, await asyncio.create_subprocess_exec(
                *spawn.command("resolver.worker", str(theirs.fileno())),
                env=spawn.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=self._handed(theirs),
            )

    def _handed(self, theirs: socket.socket) -> list[int]:
        """The descriptors that a worker gets."""
        shared = (self._configure.counters_fd, self._configure.ring_fd, self._configure.buckets_fd)
        return [theirs.fileno(), *shared, *(bound.fd for bound in self._configure.sockets)]

    def fork(self, work: Callable[[int], None]) -> None:
        """Begin the first life as a fork of this process that does `work` with its end of the channel."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = spawn.fork(lambda: work(theirs.fileno()), self._handed(theirs))
        self._ours = ours

    async def _watch(self, process: asyncio.subprocess.Process | spawn.Forked) -> None:
        """Kill the worker if it hangs."""
        silent = 0
        while silent < 2:
            await asyncio.sleep(LOOK_EVERY)
            if self.enforced and self.channel is not None and self._workers.wanted:
                silent = 0 if await self.inspect(HANG_PATIENCE) else silent + 1
        if self.channel is not None and process.returncode is None and self._workers.wanted:
            self._last_words = f"hung: no answer within {HANG_PATIENCE:g} s, twice; killed"
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _take(self, channel: Channel, message: control.Message) -> None:
        async with self._heard:
            match message:
                case control.Ready():
                    self.channel = channel
                    self.settled.set()
                    if self._workers.certificate:
                        channel.send(self._workers.certificate)
                    channel.send(self._workers.overlay)  # before the first query is read
                    if self._workers.desired:
                        channel.send(self._workers.desired)
                case control.Swapped(number):
                    self.enforced = number
                case control.Overlaid(serial):
                    self.overlaid = serial
                case control.Mapped(serial):
                    self.mapped = serial
                case control.Certified(serial):
                    self.certified = serial
                case control.Failed(text):
                    self._refused = message
                    self._last_words = "" if self.enforced else text  # it ends after refusing its first generation
                case control.Notified(lists):
                    self._workers.on_notify(lists)
                case control.Inspected():
                    self._inspected = message
                case control.Flushed():
                    self._flushed = message
            self._heard.notify_all()

    async def _order(self, order: control.Message, is_done: Callable[[], bool], patience: float | None = None) -> bool:
        """Send an order and wait until it is done, or nobody is there to do it; False if that takes too long.

        `patience` in seconds, else SWAP_PATIENCE. Call it with `_heard` held.
        """
        if self.channel is None:
            return True
        self.channel.send(order)
        try:
            async with asyncio.timeout(SWAP_PATIENCE if patience is None else patience):
                await self._heard.wait_for(lambda: self.channel is None or is_done())
        except TimeoutError:
            return False
        return True

    async def swap(self, order: control.Swap) -> str:
        """Order a generation; returns "" once it is enforced, else why not. A worker that is down gets it later."""
        async with self._heard:
            self._refused = None

            def is_done() -> bool:
                is_refused = self._refused is not None and self._refused.number == order.number
                return self.enforced == order.number or is_refused

            if not await self._order(order, is_done):
                return f"worker {self.number} did not enforce generation {order.number} within {SWAP_PATIENCE:g} s"
            refused: control.Failed | None = self._refused
            return f"worker {self.number}: {refused.text}" if refused else ""

    async def lay_over(self, order: control.Overlay) -> str:
        """Order an overlay; returns "" once it speaks, else why not. A worker that is down gets it on its way up."""
        async with self._heard:
            if await self._order(order, lambda: self.overlaid >= order.serial):
                return ""
            return f"worker {self.number} did not take the change within {SWAP_PATIENCE:g} s"

    async def map_clients(self, order: control.Clients) -> str:
        """Order a client map; returns "" once it is enforced, else why not. A worker that is down gets it later."""
        async with self._heard:
            if await self._order(order, lambda: self.mapped >= order.serial):
                return ""
            return f"worker {self.number} did not take the client map within {SWAP_PATIENCE:g} s"

    async def certify(self, order: control.Certificate) -> str:
        """Order a certificate; returns "" once it is shown, else why not. A worker that is down gets it on its way up."""
        async with self._heard:
            if await self._order(order, lambda: self.certified >= order.serial):
                return ""
            return f"worker {self.number} did not take the certificate within {SWAP_PATIENCE:g} s"

    async def inspect(self, patience: float) -> control.Inspected | None:
        """The worker's state; None if it does not answer."""
        async with self._heard:
            self._inspected = None
            await self._order(control.Inspect(), lambda: self._inspected is not None, patience)
            return self._inspected

    async def flush(self, order: control.Flush) -> int | None:
        """How many answers the worker has forgotten; None if it does not answer. One that is down has none."""
        async with self._heard:
            self._flushed = None
            if not await self._order(order, lambda: self._flushed is not None):
                return None
            flushed: control.Flushed | None = self._flushed
            return flushed.count if flushed else 0

    def _forget_gauges(self) -> None:
        """What counted the dead worker's cache is zero again; counters go on."""
        section = counters.SECTIONS["cache"]
        for gauge in CACHE_GAUGES:
            at = (section.start + gauge) * 8
            os.pwrite(self._configure.counters_fd, bytes(8), at)


def _ending(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


class Workers:
    """All workers. `counters_fds`: one memfd of counters.SIZE octets a worker. `facts` is told of lives and deaths.

    `ring_fds`: each worker's ring of query records, for a ring.Reader.

    `cache_folder`: where each worker's cache is between its end and the next start. `cookie_key`: of cookies.py.
    """

    def __init__(
        self,
        sockets: Sockets,
        counters_fds: list[int],
        cache_bytes: int,
        facts: Facts,
        cache_folder: Path | None = None,
        cookie_key: bytes = b"",
        https_path: str = "/dns-query",
        proxy_from: tuple[str, ...] = (),
    ) -> None:
        self._unwanted = asyncio.Event()
        self.desired: control.Swap | None = None
        self.overlay = control.Overlay(0, ())
        self.certificate: control.Certificate | None = None
        self._maps = 0
        self.facts = facts
        self.on_notify: Callable[[Sequence[str]], None] = lambda _: None  # told of lists whose primaries notified
        self._started = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        share = cache_bytes // len(counters_fds)
        buckets_fd, key = make_buckets(), secrets.token_hex(16)
        cookie_key = cookie_key or secrets.token_bytes(16)
        self.ring_fds = [ring.make(f"tampah-records-{number}") for number in range(len(counters_fds))]
        self._keepers = [
            _Keeper(
                self,
                number,
                control.Configure(
                    number,
                    sockets.of(number),
                    *fds,
                    buckets_fd,
                    key,
                    share,
                    str(cache_folder / str(number)) if cache_folder else "",
                    cookie_key.hex(),
                    https_path,
                    proxy_from,
                    len(counters_fds),
                ),
            )
            for number, fds in enumerate(zip(counters_fds, self.ring_fds, strict=True))
        ]

    @property
    def wanted(self) -> bool:
        """Whether a worker that ends is started again."""
        return not self._unwanted.is_set()

    async def pause(self, seconds: float) -> None:
        """Wait, but not for longer than workers are wanted."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._unwanted.wait(), seconds)

    def tell_processes(self) -> None:
        """Tell `facts` which processes there are."""
        self.facts.processes = {"supervisor": os.getpid(), **{f"worker-{at}": pid for at, pid in self.pids.items()}}

    @property
    def pids(self) -> dict[int, int]:
        """Worker number → pid, of those that have a process."""
        return {
            keeper.number: keeper.process.pid
            for keeper in self._keepers
            if keeper.process and keeper.process.returncode is None
        }

    def fork(self, work: Callable[[int], None]) -> None:
        """Begin all first lives by forks of this process; `start` keeps them. `work` gets its end of the channel."""
        for keeper in self._keepers:
            keeper.fork(work)

    async def start(self) -> None:
        """Start all; WorkersError with the reason if none comes up."""
        self._tasks = [asyncio.create_task(keeper.keep()) for keeper in self._keepers]
        for keeper in self._keepers:
            await keeper.settled.wait()
        if not any(keeper.channel for keeper in self._keepers):
            raise WorkersError(f"no worker could be started: {self._keepers[0].first_end}; see the lines above")
        self._started.set()

    async def swap(self, order: control.Swap) -> None:
        """Have every worker enforce a generation; WorkersError if one does not: then all go back to the one before."""
        await self._started.wait()
        before, self.desired = self.desired, order
        faults = [fault for fault in await asyncio.gather(*(keeper.swap(order) for keeper in self._keepers)) if fault]
        if faults:
            self.desired = before
            if before is not None:
                await asyncio.gather(*(keeper.swap(before) for keeper in self._keepers))
            raise WorkersError("; ".join(faults))

    async def lay_over(self, entries: Iterable[overlay.Entry]) -> None:
        """Have every worker let these operators' words speak; WorkersError if one does not in time."""
        words = tuple(control.OverlayEntry(entry.name, entry.word, entry.made, entry.until) for entry in entries)
        self.overlay = order = control.Overlay(self.overlay.serial + 1, words)
        faults = [fault for fault in await asyncio.gather(*(k.lay_over(order) for k in self._keepers)) if fault]
        if faults:
            raise WorkersError("; ".join(faults))

    async def certify(self, chain: str, key: str, algorithm: str) -> None:
        """Have every worker show this certificate; WorkersError if one does not in time."""
        serial = self.certificate.serial + 1 if self.certificate else 1
        self.certificate = order = control.Certificate(serial, chain, key, algorithm)
        faults = [fault for fault in await asyncio.gather(*(k.certify(order) for k in self._keepers)) if fault]
        if faults:
            raise WorkersError("; ".join(faults))

    async def flush(self, order: control.Flush) -> int:
        """Have every worker forget answers; how many. WorkersError if one does not in time."""
        counts = await asyncio.gather(*(keeper.flush(order) for keeper in self._keepers))
        if None in counts:
            raise WorkersError(f"worker {counts.index(None)} did not flush its cache within {SWAP_PATIENCE:g} s")
        return sum(count for count in counts if count is not None)

    async def map_clients(self, path: str) -> None:
        """Have every worker enforce the client map at `path` with the generation it has; WorkersError if one does not."""
        if self.desired is None:
            return
        self._maps += 1
        self.desired = replace(self.desired, clients=path)
        order = control.Clients(self._maps, self.desired.number, path)
        faults = [fault for fault in await asyncio.gather(*(k.map_clients(order) for k in self._keepers)) if fault]
        if faults:
            raise WorkersError("; ".join(faults))

    async def inspect(self, patience: float = 2.0) -> dict[int, control.Inspected | None]:
        """Worker number → its state, None where a worker does not answer within `patience` seconds."""
        states = await asyncio.gather(*(keeper.inspect(patience) for keeper in self._keepers))
        return {keeper.number: state for keeper, state in zip(self._keepers, states, strict=True)}

    async def stop(self, seconds: float) -> None:
        """Let every worker answer what is in flight, for `seconds` at most, then end it."""
        self._unwanted.set()
        for keeper in self._keepers:
            if keeper.channel:
                keeper.channel.send(control.Drain(seconds))
            else:
                self._signal(keeper, signal.SIGTERM)
        done, late = await asyncio.wait(self._tasks, timeout=seconds + 1) if self._tasks else (set(), set())
        if late:
            self.kill()
            await asyncio.wait(late)
        for task in done | late:
            with contextlib.suppress(asyncio.CancelledError):
                task.result()

    def kill(self) -> None:
        """End every worker at once."""
        self._unwanted.set()
        for keeper in self._keepers:
            self._signal(keeper, signal.SIGKILL)

    @staticmethod
    def _signal(keeper: _Keeper, number: signal.Signals) -> None:
        if keeper.process and keeper.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                keeper.process.send_signal(number)


def make_buckets() -> int:
    """A memfd for the token buckets that all workers share; it takes memory only once a limit is set."""
    fd = os.memfd_create("tampah-buckets")
    os.ftruncate(fd, BUCKETS)
    return fd


def make_counters(count: int) -> list[int]:
    """One memfd a worker, of counters.SIZE zero octets."""
    made = []
    for number in range(count):
        fd = os.memfd_create(f"tampah-counters-{number}")
        os.ftruncate(fd, counters.SIZE)
        made.append(fd)
    return made
