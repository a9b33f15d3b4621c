"""Requests share reloads that began after them; builds happen elsewhere, and their deaths are told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from resolver import control, reload, snapshot
from resolver.config.load import load
from resolver.config.model import Config
from resolver.facts import Facts
from resolver.lists.report import Report
from resolver.reload import AT_START, Builder, Outcome, Reading, Reloader, ReloadError
from resolver.watch import Watch
from resolver.workers import Workers


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "ads.txt").write_text("ads.example\n")
    (tmp_path / "config.yaml").write_text("lists: [{name: ads, source: ads.txt}]\n")
    return load(tmp_path / "config.yaml")


class Slow(Reloader):
    """A reloader whose reloads last until they are let go, and fail when told to."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.base / "config.yaml", config, cast(Workers, None), Facts(), Watch(config.state_path))
        self.begun = 0
        self.gate = asyncio.Event()
        self.fails = False

    async def reload(self, read: Reading | None = None) -> Outcome:
        self.begun += 1
        number = self.begun
        await self.gate.wait()
        if self.fails:
            raise ReloadError("broken")
        return Outcome(Report(number, 0, "built", 0, 0, 0, 0, 0.0, ()), (), 0.0)


def test_requests_during_a_reload_share_the_next_one(config: Config) -> None:
    async def go() -> None:
        reloader = Slow(config)
        first = asyncio.ensure_future(reloader.request())
        await asyncio.sleep(0.01)
        later = [asyncio.ensure_future(reloader.request()) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert reloader.begun == 1  # one at a time
        reloader.gate.set()
        assert (await first).report.generation == 1
        assert {(await task).report.generation for task in later} == {2}
        assert (await reloader.request()).report.generation == 3
        await reloader.builder.stop()

    asyncio.run(go())


def test_a_failure_is_told_to_all_who_asked_for_it_and_to_nobody_else(config: Config) -> None:
    async def go() -> None:
        reloader = Slow(config)
        reloader.gate.set()
        reloader.fails = True
        results = await asyncio.gather(*(reloader.request() for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["broken"] * 3
        reloader.fails = False
        assert (await reloader.request()).report.generation == 2
        await reloader.builder.stop()

    asyncio.run(go())


def test_one_who_gives_up_waiting_does_not_end_the_reload_of_the_others(config: Config) -> None:
    async def go() -> None:
        reloader = Slow(config)
        impatient, patient = (asyncio.ensure_future(reloader.request()) for _ in range(2))
        await asyncio.sleep(0.01)
        impatient.cancel()
        reloader.gate.set()
        assert (await patient).report.generation == 1
        await reloader.builder.stop()

    asyncio.run(go())


def test_a_build_reports_what_it_found(config: Config) -> None:
    async def go() -> None:
        builder = Builder()
        first = await builder.build(config)
        await builder.prepare()  # as the supervisor does: the next one waits
        (config.base / "ads.txt").write_text("ads.example\nmore.example\n")
        second = await builder.build(config)
        assert (first.generation, first.added) == (1, 1)
        assert (second.generation, second.added) == (2, 1)
        await builder.stop()

    asyncio.run(go())


def test_a_builder_that_rolled_back_waits_for_the_next_build(config: Config) -> None:
    """So rollbacks in a row do not wait for a new process each, which takes longer than all the rest of them."""

    async def go() -> None:
        builder = Builder()
        assert (await builder.build(config)).generation == 1
        (config.base / "ads.txt").write_text("ads.example\nmore.example\n")
        assert (await builder.build(config)).generation == 2
        await builder.prepare()
        waiting = builder._process
        assert waiting is not None
        for number, target, names in ((3, 1, 1), (4, 2, 2), (5, 1, 1)):
            report = await builder.build(config, rollback=target)
            assert (report.generation, report.names) == (number, names)
            await builder.prepare()
            assert builder._process is waiting and waiting.returncode is None
        assert (await builder.build(config, force=True)).generation == 6
        assert waiting.returncode == 0
        with pytest.raises(ReloadError, match="generation 99 is not kept"):
            await builder.build(config, rollback=99)
        assert (await builder.build(config, rollback=2)).generation == 7
        assert builder._process is not None
        builder._process.kill()
        await builder._process.wait()
        assert (await builder.build(config, rollback=1)).generation == 8
        await builder.stop()

        await builder.prepare()
        os.kill(builder._process.pid, signal.SIGSTOP)
        building = asyncio.ensure_future(builder.build(config, rollback=2))
        await asyncio.sleep(0.1)
        os.kill(builder._process.pid, signal.SIGKILL)
        with pytest.raises(ReloadError, match="ended with status -9 and no result"):
            await building

    asyncio.run(go())


def test_a_dead_builder_is_replaced_and_one_that_dies_at_work_is_told(config: Config) -> None:
    async def go() -> None:
        builder = Builder()
        await builder.prepare()
        assert builder._process is not None
        builder._process.kill()
        await builder._process.wait()
        assert (await builder.build(config)).generation == 1

        await builder.prepare()
        os.kill(builder._process.pid, signal.SIGSTOP)  # so that it is at work when it dies
        building = asyncio.ensure_future(builder.build(config))
        await asyncio.sleep(0.1)
        os.kill(builder._process.pid, signal.SIGKILL)
        with pytest.raises(ReloadError, match="ended with status -9 and no result"):
            await building
        assert (await builder.build(config)).generation == 2
        await builder.stop()

    asyncio.run(go())


def test_a_build_that_cannot_be_says_why(config: Config) -> None:
    config.state_path.write_text("in the way")

    async def go() -> None:
        with pytest.raises(ReloadError, match="state"):
            await Builder().build(config)

    asyncio.run(go())


def test_every_key_that_is_read_at_the_start_is_a_key(config: Config) -> None:
    for key, read in AT_START.items():
        read(config)
        value: object = config
        for part in key.split("."):
            value = getattr(value, part)


class Crew:
    """Workers that do as they are told."""

    def __init__(self) -> None:
        self.swapped: list[int] = []

    async def swap(self, order: control.Swap) -> None:
        self.swapped.append(order.number)


def _patchable(config: Config) -> Callable[[str], None]:
    """Make the list long enough to be patched; the returned function adds a name to it."""
    names = [f"name{number}.example" for number in range(1000)]

    def add(name: str) -> None:
        names.append(name)
        (config.base / "ads.txt").write_text("".join(f"{each}\n" for each in names))

    add("first.example")
    return add


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError


@pytest.mark.alone  # the merge gets what nobody else wants of the cores
def test_a_patched_index_is_merged_anew_in_a_pause(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "TIDY_AFTER", 0.1)
    add = _patchable(config)

    async def go() -> None:
        crew, facts = Crew(), Facts()
        reloader = Reloader(config.base / "config.yaml", config, cast(Workers, crew), facts, Watch(config.state_path))
        assert (await reloader.request()).report.index == "built"
        add("more.example")
        assert (await reloader.request()).report.index == "patched"
        await _until(lambda: facts.generation == 3)
        assert crew.swapped == [1, 2, 3] and snapshot.in_force(config.state_path) == 3
        assert reloader.generation is not None and reloader.generation.report["index"] == "tidied"
        add("again.example")
        assert (await reloader.request()).report.parent == 3
        await reloader.stop()

    asyncio.run(go())


def test_a_change_ends_the_merge_and_does_not_wait_for_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "TIDY_AFTER", 0.0)
    add = _patchable(config)

    async def go() -> None:
        crew = Crew()
        reloader = Reloader(config.base / "config.yaml", config, cast(Workers, crew), Facts(), Watch(config.state_path))
        await reloader.request()
        add("more.example")
        await reloader.request()
        tidier = reloader._tidier
        await _until(lambda: tidier._process is not None)
        assert tidier._process is not None
        os.kill(tidier._process.pid, signal.SIGSTOP)  # it would never end, and may hold the lock
        add("again.example")
        async with asyncio.timeout(20):
            outcome = await reloader.request()
        assert (outcome.report.index, outcome.report.added) == ("patched", 1)
        await reloader.stop()
        assert tidier._process is None

    asyncio.run(go())


@pytest.mark.alone  # the merge gets what nobody else wants of the cores
def test_a_merge_never_takes_the_place_of_what_came_after_it(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "TIDY_AFTER", 0.0)
    add = _patchable(config)

    async def go() -> None:
        crew = Crew()
        reloader = Reloader(config.base / "config.yaml", config, cast(Workers, crew), Facts(), Watch(config.state_path))
        await reloader.request()
        add("more.example")
        first = asyncio.ensure_future(reloader.request())
        await _until(reloader._running.locked)
        second = asyncio.ensure_future(reloader.request())  # it waits while the first one begins a merge
        await first
        add("again.example")
        reached = (await second).report.generation
        names = reloader.generation.lists[0].names if reloader.generation else 0
        merges = [task for task in asyncio.all_tasks() if "_tidy" in repr(task.get_coro())]
        assert len(merges) <= 1
        await _until(lambda: reloader._patches == 0)
        assert crew.swapped == sorted(crew.swapped) and crew.swapped[-1] > reached
        assert reloader.generation is not None and reloader.generation.lists[0].names == names
        await reloader.stop()

    asyncio.run(go())
