"""The supervisor's end of its workers, against processes that speak the protocol and do as a file says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from resolver import control, counters, spawn, workers
from resolver.facts import CACHE_GAUGES, Facts
from resolver.sockets import Sockets
from resolver.workers import Workers, WorkersError, make_counters
from tests.blackbox.harness import is_alive

# What a worker does is read anew in each of its lives: {"0": {"refuse": [2]}, …}.
FAKE = """
import json, os, socket, sys
from pathlib import Path
from resolver import control
folder = Path(os.environ["FAKE_WORKERS"])
link = socket.socket(fileno=int(sys.argv[1])).makefile("rwb", buffering=0)
say = lambda message: link.write(control.encode(message))
me = control.decode(link.readline())
todo = json.loads((folder / "todo").read_text()).get(str(me.worker), {})
with (folder / f"lives-{me.worker}").open("a") as lives:
    lives.write("x")
if "words" in todo:
    say(control.Failed(todo["words"]))
if "end" in todo:
    sys.exit(todo["end"])
say(control.Ready())
current = 0
for line in link:
    match control.decode(line):
        case control.Swap(number) if number in todo.get("refuse", ()):
            say(control.Failed("no such index", number))
        case control.Swap(number) if number not in todo.get("ignore", ()):
            current = number
            say(control.Swapped(number))
        case control.Inspect():
            say(control.Inspected(current, 0, 0))
        case control.Drain():
            sys.exit(0)
"""


def _swap(number: int) -> control.Swap:
    upstream = control.Upstream(((),), "fastest", 1.0, {})
    return control.Swap(number, "i", "p", control.CacheLimits(1, 0, 1), upstream, control.RateLimit(0, 24, 56))


class Crew:
    """Workers of the fake kind; `todo` says what each does in lives to come."""

    def __init__(self, folder: Path, todo: dict[str, Any]) -> None:
        self.folder = folder
        self.do(todo)
        self.facts = Facts()
        self.fds = make_counters(2)
        self.workers = Workers(Sockets({}, 2), self.fds, 2 << 20, self.facts)

    def do(self, todo: dict[str, Any]) -> None:
        (self.folder / "todo").write_text(json.dumps(todo))

    def lives(self, worker: int) -> int:
        return len((self.folder / f"lives-{worker}").read_text())

    async def generations(self) -> list[int | None]:
        states = await self.workers.inspect(5)
        return [state.generation if state else None for state in states.values()]

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while not await condition():  # noqa: ASYNC110  what is waited for is another process
                await asyncio.sleep(0.02)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.setenv("FAKE_WORKERS", str(tmp_path))
    monkeypatch.setattr(spawn, "command", lambda _, fd: [sys.executable, "-c", FAKE, fd])

    def go(test: Callable[[Crew], Awaitable[None]], todo: dict[str, Any] | None = None) -> None:
        async def main() -> None:
            crew = Crew(tmp_path, todo or {})
            try:
                await test(crew)
            finally:
                pids = list(crew.workers.pids.values())
                await crew.workers.stop(2)
                assert not any(map(is_alive, pids))

        asyncio.run(main())

    return go


def test_a_swap_returns_when_every_worker_enforces_it(run: Callable[..., None]) -> None:
    async def test(crew: Crew) -> None:
        await crew.workers.start()
        assert await crew.generations() == [0, 0]
        await crew.workers.swap(_swap(1))
        assert await crew.generations() == [1, 1]
        assert crew.facts.processes.keys() == {"supervisor", "worker-0", "worker-1"}

    run(test)


def test_a_swap_waits_for_the_start(run: Callable[..., None]) -> None:
    async def test(crew: Crew) -> None:
        swapping = asyncio.ensure_future(crew.workers.swap(_swap(1)))
        await crew.workers.start()
        await swapping
        assert await crew.generations() == [1, 1]

    run(test)


def test_one_refusal_brings_all_back_to_the_generation_before(run: Callable[..., None]) -> None:
    async def test(crew: Crew) -> None:
        await crew.workers.start()
        await crew.workers.swap(_swap(1))
        with pytest.raises(WorkersError, match="worker 1: no such index"):
            await crew.workers.swap(_swap(2))
        assert await crew.generations() == [1, 1]
        await crew.workers.swap(_swap(3))
        assert await crew.generations() == [3, 3]

    run(test, {"1": {"refuse": [2]}})


def test_a_worker_that_stays_silent_is_named(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SWAP_PATIENCE", 0.5)

    async def test(crew: Crew) -> None:
        await crew.workers.start()
        await crew.workers.swap(_swap(1))
        with pytest.raises(WorkersError, match=r"worker 0 did not enforce generation 2 within 0\.5 s"):
            await crew.workers.swap(_swap(2))
        assert await crew.generations() == [1, 1]

    run(test, {"0": {"ignore": [2]}})


def test_a_killed_worker_comes_back_with_its_counters_and_the_newest_generation(run: Callable[..., None]) -> None:
    async def test(crew: Crew) -> None:
        await crew.workers.start()
        await crew.workers.swap(_swap(1))
        cache = counters.SECTIONS["cache"].start * 8
        for place in range(8):
            os.pwrite(crew.fds[1], (7).to_bytes(8, sys.byteorder), cache + 8 * place)
        os.kill(crew.workers.pids[1], signal.SIGKILL)
        await crew.workers.swap(_swap(2))  # whatever state it is in

        async def back() -> bool:
            return crew.lives(1) == 2 and await crew.generations() == [2, 2]

        await crew.until(back)
        assert crew.facts.worker_restarts == 1
        values = [int.from_bytes(os.pread(crew.fds[1], 8, cache + 8 * place), sys.byteorder) for place in range(8)]
        assert values == [0 if place in CACHE_GAUGES else 7 for place in range(8)]

    run(test)


def test_no_worker_at_all_is_an_error_with_the_first_ones_words(run: Callable[..., None]) -> None:
    async def test(crew: Crew) -> None:
        with pytest.raises(WorkersError, match="no worker could be started: no memory left"):
            await crew.workers.start()

    run(test, {"0": {"words": "no memory left", "end": 1}, "1": {"end": 3}})


def test_one_worker_that_cannot_start_is_tried_again_ever_more_slowly(
    run: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(crew: Crew) -> None:
        await crew.workers.start()
        await crew.workers.swap(_swap(1))

        async def tried() -> bool:
            return crew.lives(1) >= 4

        await crew.until(tried)
        crew.do({})

        async def back() -> bool:
            return await crew.generations() == [1, 1]

        await crew.until(back)

    run(test, {"1": {"end": 3}})
    delays = [record.args[2] for record in caplog.records if isinstance(record.args, tuple)]
    assert delays[:4] == [0.0, 0.1, 0.2, 0.4]
    assert "exit status 3" in caplog.text


def test_a_stop_does_not_wait_for_a_worker_that_is_about_to_be_tried_again(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FIRST_DELAY", 30.0)
    monkeypatch.setattr(workers, "LONGEST_DELAY", 30.0)

    async def test(crew: Crew) -> None:
        await crew.workers.start()

        async def tried() -> bool:
            return crew.lives(1) == 2

        await crew.until(tried)
        await asyncio.sleep(0.2)  # its second life is over
        began = time.monotonic()
        await crew.workers.stop(20)
        assert time.monotonic() - began < 5

    run(test, {"1": {"end": 3}})


def test_a_worker_that_hangs_is_killed_and_replaced(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(workers, "HANG_PATIENCE", 0.5)

    async def test(crew: Crew) -> None:
        await crew.workers.start()
        await crew.workers.swap(_swap(1))
        hung = crew.workers.pids[1]
        os.kill(hung, signal.SIGSTOP)

        async def back() -> bool:
            return crew.lives(1) == 2 and await crew.generations() == [1, 1]

        await crew.until(back)
        assert not is_alive(hung)
        assert (crew.lives(0), crew.facts.worker_restarts) == (1, 1)

    run(test)
    assert "worker 1 ended (hung: no answer within 0.5 s, twice; killed)" in caplog.text


def test_a_worker_that_hangs_for_a_moment_goes_on(run: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOOK_EVERY", 0.05)
    monkeypatch.setattr(workers, "HANG_PATIENCE", 1.0)

    async def test(crew: Crew) -> None:
        await crew.workers.start()
        await crew.workers.swap(_swap(1))
        pid = crew.workers.pids[1]
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.3)
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.5)
        assert crew.workers.pids[1] == pid and await crew.generations() == [1, 1]

    run(test)
