"""A soak from start to verdict.

    start → (load and events → quiet → sample) again and again → SIGTERM → verdict

A sample is taken without load: clients have gone, nothing is in flight, lists and config are as in the beginning. The
first is the base; what the server holds in the last may not be more, but for GROWTH of memory. The first comes after a
minute (a third of a shorter run), when caches are full and every path has been taken.

Memory is what the processes that live throughout have gained, as a share of what all had. One that took a killed one's
place has less behind it, so it tells nothing of growth; it may only not be much larger than the worker that lived on.
In a long run its base is the second sample: in the second minute Python doubles its table of interned strings, once, as
what is interned for a moment fills it, and the allocator takes one more arena.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resolver.control import ControlError
from resolver.upstream.connection import IDLE
from tests.bench.names import generate
from tests.ports import free_port
from tests.soak.events import SINKHOLES, Events, Journal, Upstream
from tests.soak.load import Catalogue, Clients, Tally
from tests.soak.server import WORKERS, Sample, Server
from tests.soak.truth import Kind, State, Truth

BLOCKED, TOGGLED, POPULAR = 50_000, 100, 300  # names
MINUTE = 60.0
GROWTH = 0.01  # of memory, from the second sample to the last
GROWTH_SHORT = 0.05  # of a run of less than LONG seconds, from the first, which comes before everything is warm
RECORDER_MOST = 100 << 20  # octets: LIMIT names of records/sketch.py, and what writing them down takes for a moment
LARGER = 1.15  # how much larger than the oldest worker one may be
FILES = 6  # more in state_dir: whether the generations that are kept share an index and a policy is chance
LONG = 300.0
KILL_EVERY = 35.0  # seconds: later than a worker that lived for long is started again at once
SETTLE = (
    12.0  # seconds that clients' connections and sockets have to go away once the load ends; those upstream have IDLE
)


@dataclass(slots=True)
class Verdict:
    """What a soak found. `faults` is empty if all is well."""

    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    journal: Journal = field(default_factory=Journal)
    samples: list[tuple[float, Sample]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The report."""
        tally, journal = self.tally, self.journal
        yield f"{self.seconds:.0f} s; asked {tally.asked.total():,}, answered {tally.answered:,}"
        yield "  " + ", ".join(f"{what} {count:,}" for what, count in sorted(tally.asked.items()))
        yield f"  malformed {tally.malformed:,}, of which answered {tally.malformed_answered:,}"
        yield f"  without an address while no upstream was there: {tally.failed:,}"
        yield f"  lost: {tally.lost:,}, and {tally.excused:,} in flight in workers that were killed"
        yield "happened: " + ", ".join(f"{what} {count}" for what, count in sorted(journal.happened.items()))
        if journal.reloads:
            middle, worst = sorted(journal.reloads)[len(journal.reloads) // 2], max(journal.reloads)
            yield f"reloads by command: {middle:.2f} s in the middle, {worst:.2f} at worst"
        if journal.back:
            yield f"killed workers were back after {max(journal.back):.2f} s at worst"
        yield "second  memory KiB (supervisor, workers) + recorder descriptors    in flight  files"
        for moment, sample in self.samples:
            own = [sample.memory.get(pid, 0) // 1024 for pid in (sample.supervisor, *sample.workers.values())]
            held = [sample.descriptors.get(pid, 0) for pid in (sample.supervisor, *sample.workers.values())]
            memory = (
                f"{sample.total // 1024:>9,} ({', '.join(f'{kib:,}' for kib in own)}) + {sample.recorder // 1024:,}"
            )
            counts = "+".join(map(str, held))
            yield f"{moment:>6.0f}  {memory:<42}  {counts:<13}  {sample.in_flight:>9}  {sample.files:>5}"
        yield from (f"FAULT {fault}" for fault in self.faults)
        yield "failed" if self.faults else "passed"


async def soak(
    seconds: float, *, rate: int, seed: int, steps_clock: bool, say: Callable[[str], None] = lambda text: None
) -> Verdict:
    """Put a server of its own under load and mishaps for about `seconds`."""
    rng = random.Random(seed)
    verdict = Verdict()
    toggled = [f"toggle{number}.example" for number in range(TOGGLED)]
    truth = Truth(State(frozenset(toggled[::2]), SINKHOLES[0]))
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tampah-soak-")))
        clock = folder / "clock" if steps_clock else None
        if clock is not None:
            clock.write_bytes(bytes(8))
        blocked = list(generate(BLOCKED, seed))
        (folder / "base.txt").write_text("".join(f"{name}\n" for name in blocked))
        upstreams = [Upstream(free_port()) for _ in range(2)]
        for upstream in upstreams:
            cleanup.callback(upstream.end)
            upstream.start()
        server = Server(folder, [upstream.port for upstream in upstreams], clock)
        cleanup.callback(server.end)
        for upstream in upstreams:
            await upstream.ready()
        await asyncio.to_thread(server.start, truth.state)
        popular = [f"popular{number}.example" for number in range(POPULAR)]
        clients = Clients(server.port, truth, Catalogue(blocked, toggled, popular), rate, rng)
        verdict.tally = clients.tally
        is_long = seconds >= LONG
        kill_every = KILL_EVERY if is_long else max(5.0, seconds / 3)
        events = Events(server, upstreams, truth, clients.tally, toggled, clock, rng, kill_every=kill_every)
        verdict.journal = events.journal
        began = time.monotonic()
        stretch = MINUTE if is_long else max(1.0, seconds / 3)
        while time.monotonic() - began < seconds - stretch / 2:
            clients.start()
            events.start()
            await asyncio.sleep(min(stretch, seconds - (time.monotonic() - began)))
            await events.stop()
            await clients.stop()
            base = verdict.samples[0][1] if verdict.samples else None
            try:
                sample = await _quiet_sample(server, base)
            except ControlError as error:
                verdict.faults.append(f"the server does not answer, {server.describe_end()}: {error}")
                break
            verdict.samples.append((time.monotonic() - began, sample))
            tally = clients.tally
            seen = f"{tally.answered:,} answers, {tally.faults.total()} faults, {tally.lost} lost"
            say(f"{verdict.samples[-1][0]:.0f} s: {sample.total / 2**20:.1f} MiB, {seen}")
        verdict.seconds = time.monotonic() - began
        status = await asyncio.to_thread(server.end)
        verdict.faults += [*_faults(verdict, is_long), *_log_faults(server.log)]
        if status != 0:
            verdict.faults.append(f"the server ended with status {status} after SIGTERM")
    return verdict


async def _quiet_sample(server: Server, base: Sample | None) -> Sample:
    """A sample once everything the load left behind has gone, or the last one when there was time enough for that."""
    deadline = time.monotonic() + (SETTLE if base is None else SETTLE + IDLE)
    while True:
        await asyncio.sleep(1.0)
        sample = await asyncio.to_thread(server.sample)
        is_quiet = not sample.in_flight and not sample.connections
        if is_quiet and base is not None:
            is_quiet = _held(sample) <= _held(base)
        if (is_quiet and base is not None) or time.monotonic() > deadline:
            return sample


def _held(sample: Sample) -> int:
    return sum(sample.descriptors.values())


def _faults(verdict: Verdict, is_long: bool) -> Iterator[str]:
    tally = verdict.tally
    yield from (f"{count} × {what}, as {tally.examples[what]}" for what, count in tally.faults.most_common())
    if tally.lost:
        yield f"{tally.lost} queries without an answer though no worker was killed"
    for kind in Kind:
        for transport in ("udp", "tcp"):
            if not tally.asked[f"{transport} {kind.value}"]:
                yield f"nothing of kind {kind.value} was asked over {transport}: the soak proves nothing"
    if not verdict.samples:
        return
    (_, first), (_, last) = verdict.samples[0], verdict.samples[-1]
    warm_at, warm = verdict.samples[1 if is_long and len(verdict.samples) > 1 else 0]
    most = GROWTH if is_long else GROWTH_SHORT
    lasting = warm.memory.keys() & last.memory.keys()
    growth = sum(last.memory[pid] - warm.memory[pid] for pid in lasting) / warm.total
    if growth > most:
        yield f"memory grew by {growth:.1%} from the sample at {warm_at:.0f} s to the last; allowed: {most:.0%}"
    if last.recorder > RECORDER_MOST:
        yield f"the recorder takes {last.recorder >> 20} MiB"
    oldest = last.memory.get(last.workers.get(0, 0), 0)
    for number, pid in last.workers.items():
        if last.memory.get(pid, 0) > oldest * LARGER:
            yield f"worker {number} takes {last.memory[pid] / oldest:.0%} of what worker 0 does, which is older"
    if _held(last) > _held(first):
        yield f"descriptors: {_held(first)} in the first sample, {_held(last)} in the last"
    third = -(-len(verdict.samples) // 3)
    early = max(sample.files for _, sample in verdict.samples[:third])
    late = min(sample.files for _, sample in verdict.samples[-third:])
    if late > early + FILES:
        yield f"files in state_dir: {early} at most in the first samples, {late} at least in the last"
    if last.in_flight or last.connections:
        yield f"without load {last.in_flight} questions and {last.connections} connections are still there"
    if len(last.memory) != len(first.memory) or len(last.workers) != WORKERS:
        yield f"processes: {len(first.memory)} in the first sample, {len(last.memory)} in the last"
    if first.workers.get(0) != last.workers.get(0) or first.supervisor != last.supervisor:
        yield "a process that nobody killed was started again"


def _log_faults(log: Path) -> Iterator[str]:
    """Tracebacks, internal errors and a sanitizer's finding in the server's log."""
    text = log.read_text(errors="replace")
    for sign in ("Traceback", "internal error", "Sanitizer"):
        if (at := text.find(sign)) >= 0:
            yield f"the server's log: {text[max(0, at - 200) : at + 1500]}"
            return
