"""What happens to the server under soak: reloads, operators' words, flaps of upstreams, kills, steps of the clock.

Each is told to `Truth` before it can show and after it must. Reloads are made in each of the ways there are (command,
SIGHUP, the watch on files); as those of the latter two answer nobody, a toggled name is asked for until it shows that
they took place, and then a reload by command is the barrier behind which only the new state is right.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from resolver import control, overlay
from tests.bench.processes import Process
from tests.soak.load import Tally
from tests.soak.server import ROOT, WORKERS, Server
from tests.soak.truth import State, Truth
from tests.soak.wire import WireError, query, read_answer

SINKHOLES = ("192.0.2.53", "192.0.2.99")
HOUR = 3600
STEPS = (HOUR, -HOUR, 30 * 24 * HOUR, -30 * 24 * HOUR, 1, -1, 0)  # seconds that the wall clock is off
EFFECT = 20.0  # seconds in which SIGHUP or a changed file must show
BACK = 10.0  # seconds in which a killed worker must be back


@dataclass(slots=True)
class Journal:
    """What happened. `back`: seconds until a killed worker's place was taken; `reloads`: seconds of each by command."""

    happened: Counter[str] = field(default_factory=Counter)
    back: list[float] = field(default_factory=list)
    reloads: list[float] = field(default_factory=list)


class Upstream:
    """One upstream process that can be stopped, killed and started again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: Process | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.soak.upstream", str(self.port)]
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self._process = Process(command, cores, cwd=ROOT)

    async def ready(self) -> None:
        """Wait until it answers."""
        for _ in range(300):
            with socket.socket() as sock, contextlib.suppress(OSError):
                sock.connect(("127.0.0.1", self.port))
                return
            await asyncio.sleep(0.05)
        raise TimeoutError(f"the upstream on port {self.port} does not start")

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send(number)

    def end(self) -> None:
        if self._process is not None:
            self._process.send(signal.SIGCONT)
            self._process.end(grace=0.2)
            self._process = None


class Events:
    """Everything that happens, as tasks beside the load; `start` and `stop` may alternate."""

    def __init__(
        self,
        server: Server,
        upstreams: list[Upstream],
        truth: Truth,
        tally: Tally,
        toggled: list[str],
        clock: Path | None,
        rng: random.Random,
        *,
        kill_every: float,
    ) -> None:
        self.journal = Journal()
        self._server = server
        self._upstreams = upstreams
        self._truth = truth
        self._tally = tally
        self._toggled = toggled
        self._listed = truth.state.blocked
        self._overlaid: frozenset[str] = frozenset()
        self._clock = clock
        self._rng = rng
        self._kill_every = kill_every
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._last_kill = -1e9

    def start(self) -> None:
        self._stopping.clear()
        turns: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self._change, 1.5),
            (self._flap, 4.0),
            (self._kill, 2.0),
        ]
        if self._clock is not None:
            turns.append((self._step, 3.0))
        self._tasks = [asyncio.create_task(self._repeat(turn, pause)) for turn, pause in turns]

    async def stop(self) -> None:
        """End after what is under way, with lists, config, upstreams and clock as they were in the beginning."""
        self._stopping.set()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        self._tasks = []
        for name in sorted(self._overlaid):
            await self._say(self._overlaid - {name}, control.TakeBack(name))
        if self._clock is not None:
            step_clock(self._clock, 0)
        await self._enforce(frozenset(self._toggled[::2]), SINKHOLES[0], "command")

    async def _repeat(self, turn: Callable[[], Awaitable[None]], pause: float) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * (0.5 + self._rng.random())):
                    await self._stopping.wait()
                return
            await turn()

    # -- reloads ------------------------------------------------------------------------------------------------------
    async def _change(self) -> None:
        rng = self._rng
        match rng.randrange(8):
            case 0 | 1 | 2:
                names = frozenset(rng.sample(self._toggled, len(self._toggled) // 2))
                await self._enforce(names, self._truth.state.sinkhole, rng.choice(("command", "SIGHUP", "watch")))
            case 3:
                sinkhole = SINKHOLES[self._truth.state.sinkhole == SINKHOLES[0]]
                await self._enforce(self._listed, sinkhole, rng.choice(("command", "SIGHUP", "watch")))
            case 4:
                await self._break_config()
            case 5:
                await self._storm()
            case _:
                await self._speak()

    async def _enforce(self, listed: frozenset[str], sinkhole: str, way: str) -> None:
        """Change list and config, and have it enforced in one of three ways."""
        old = self._truth.state
        new = State(listed | self._overlaid, sinkhole)
        self._truth.begin(new, time.monotonic())
        self._listed = listed
        self._server.write_toggles(listed)
        if sinkhole != old.sinkhole:
            self._server.write_config(sinkhole)
        if way == "SIGHUP" and self._server.process is not None:
            self._server.process.send(signal.SIGHUP)
        if way != "command" and (new.blocked != old.blocked or sinkhole != old.sinkhole):
            await self._wait_for(old, new, way)
        began = time.monotonic()
        if await self._command(control.Reload()):
            self._truth.settle(time.monotonic())
            self.journal.reloads.append(time.monotonic() - began)
        self.journal.happened[f"reload by {way}"] += 1

    async def _wait_for(self, old: State, new: State, way: str) -> None:
        """Ask for a name that tells the states apart until it shows the new one."""
        changed = sorted(new.blocked - old.blocked)
        name = changed[0] if changed else min(new.blocked)
        began = time.monotonic()
        while time.monotonic() < began + EFFECT:
            address = await asyncio.to_thread(ask_once, self._server.port, name)
            if address == new.sinkhole:
                return
            await asyncio.sleep(0.05)
        self._tally.note(f"change by {way} does not show: {name} after {EFFECT:g} s")

    async def _break_config(self) -> None:
        """A config that cannot be read: the reload says so, and nothing changes."""
        self._server.break_config()
        try:
            await asyncio.to_thread(self._server.ask, control.Reload())
            self._tally.note("broken config was taken")
        except control.ControlError:
            pass
        self._server.write_config(self._truth.state.sinkhole)
        await self._command(control.Reload())
        self.journal.happened["broken config"] += 1

    async def _storm(self) -> None:
        """Several reloads at once, of nothing new."""
        await asyncio.gather(*(self._command(control.Reload()) for _ in range(4)))
        self.journal.happened["storm of reloads"] += 1

    async def _speak(self) -> None:
        """An operator blocks a name at once, or takes it back."""
        state = self._truth.state
        free = [name for name in self._toggled if name not in state.blocked]
        if self._overlaid and (len(self._overlaid) >= 5 or not free or self._rng.random() < 0.5):
            name = self._rng.choice(sorted(self._overlaid))
            await self._say(self._overlaid - {name}, control.TakeBack(name))
        else:
            name = self._rng.choice(free)
            await self._say(self._overlaid | {name}, control.Override(name, overlay.BLOCK))
        self.journal.happened["operator's word"] += 1

    async def _say(self, overlaid: frozenset[str], message: control.Message) -> None:
        self._truth.begin(State(self._listed | overlaid, self._truth.state.sinkhole), time.monotonic())
        self._overlaid = overlaid
        if await self._command(message):
            self._truth.settle(time.monotonic())

    async def _command(self, message: control.Message) -> bool:
        """Whether the server did what it was told; if not, that is a fault."""
        try:
            await asyncio.to_thread(self._server.ask, message)
        except control.ControlError as error:
            self._tally.note(f"command {type(message).__name__} failed: {error}")
            return False
        return True

    # -- upstreams, workers, clock ------------------------------------------------------------------------------------
    async def _flap(self) -> None:
        """Stop or kill one upstream for a while, or both: then questions may fail, and must fail soon."""
        victims = self._upstreams if self._rng.random() < 0.3 else [self._rng.choice(self._upstreams)]
        is_outage, kills = len(victims) == len(self._upstreams), self._rng.random() < 0.5
        self._truth.begin_trouble(time.monotonic())
        if is_outage:
            self._truth.begin_outage(time.monotonic())
        for upstream in victims:
            if kills:
                upstream.end()
            else:
                upstream.send(signal.SIGSTOP)
        await asyncio.sleep(0.3 + self._rng.random())
        for upstream in victims:
            if kills:
                upstream.start()
            else:
                upstream.send(signal.SIGCONT)
        for upstream in victims:
            await upstream.ready()
        self._truth.end_trouble(time.monotonic())
        if is_outage:
            self._truth.end_outage(time.monotonic())
        what = "both upstreams" if is_outage else "an upstream"
        self.journal.happened[f"{what} {'killed' if kills else 'stopped'}"] += 1
        await asyncio.sleep(1.5)  # until it is trusted again

    async def _kill(self) -> None:
        """SIGKILL for the last worker. The first one lives throughout: what it leaks shows."""
        if time.monotonic() < self._last_kill + self._kill_every:
            return
        pid = (await asyncio.to_thread(self._server.workers)).get(WORKERS - 1)
        if pid is None:
            self._tally.note("a worker does not answer though none was killed")
            return
        self._last_kill = began = time.monotonic()
        self._truth.kill(began)
        os.kill(pid, signal.SIGKILL)
        self.journal.happened["worker killed"] += 1
        while time.monotonic() < began + BACK:
            workers = await asyncio.to_thread(self._server.workers)
            if len(workers) == WORKERS and workers[WORKERS - 1] != pid:
                self.journal.back.append(time.monotonic() - began)
                return
            await asyncio.sleep(0.02)
        self._tally.note(f"a killed worker is not back after {BACK:g} s")

    async def _step(self) -> None:
        assert self._clock is not None
        step_clock(self._clock, self._rng.choice(STEPS))
        self.journal.happened["clock stepped"] += 1


def step_clock(path: Path, seconds: float) -> None:
    """Set how far the server's wall clock is off; see clock.c."""
    with path.open("r+b") as file:
        file.write(struct.pack("=q", int(seconds * 1e9)))


def ask_once(port: int, name: str) -> str:
    """The address that a name has now, or "" without an answer."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect(("127.0.0.1", port))
            sock.send(query(1, name))
            answer = read_answer(sock.recv(4096))
        except (OSError, WireError):
            return ""
    return answer.addresses[0][0] if answer.addresses else ""
