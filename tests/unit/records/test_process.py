"""The recorder: it takes what is in the rings, does not lose its place, and writes what it is asked for."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from resolver import control, ring
from resolver.asked import FILE, TALLY_FILE
from resolver.records import process
from resolver.records.process import Recording
from resolver.ring import Reader
from tests.unit.engine.world import World, block


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, block("bad.example", list="ads"))


@pytest.fixture
def rings(world: World) -> Iterator[int]:
    fd = ring.make("test", 1 << 16)
    world.engine.set_ring(memoryview(mmap.mmap(fd, 0)))
    yield fd
    os.close(fd)


def order(folder: Path, what: str = "all", clients: str = "full") -> control.Count:
    return control.Count(str(folder), what, clients, (control.Counted(0, "ads", "general"),))


def counts(folder: Path) -> dict[str, int]:
    return {entry["name"]: entry["count"] for entry in json.loads((folder / FILE).read_text())["names"]}


def test_what_a_ring_holds_is_counted_and_written_when_asked(world: World, rings: int, tmp_path: Path) -> None:
    async def main() -> None:
        with Reader(rings) as reader:
            recording = Recording([reader])
            await recording.write()  # nothing is known yet of where
            recording.count(order(tmp_path))
            for number in range(300):  # more than once around
                world.ask(f"n{number % 3}.bad.example")
                if number % 100 == 0:
                    recording.look()
            await recording.write()

    asyncio.run(main())
    assert counts(tmp_path) == {f"n{number}.bad.example": 100 for number in range(3)}


def test_a_flood_is_counted_by_samples_and_what_comes_after_it_one_by_one(
    world: World, rings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "FLOOD", 1)
    monkeypatch.setattr(process, "LOOK_EVERY", 0.01)
    taken: list[int] = []

    async def main() -> None:
        with Reader(rings) as reader:
            recording = Recording([reader])
            look = recording.look

            def watched(every: int = 1) -> int:
                taken.append(every)
                return look(every)

            monkeypatch.setattr(recording, "look", watched)
            recording.count(order(tmp_path))
            running = asyncio.ensure_future(recording.run())
            for _ in range(40):
                for _ in range(20):
                    world.ask("flood.bad.example")
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert set(taken) == {1, process.SAMPLE} and taken[-1] == 1
            running.cancel()
            await recording.write()

    asyncio.run(main())
    assert counts(tmp_path)["flood.bad.example"] == pytest.approx(800, abs=100)


def test_a_successor_goes_on_where_one_died_and_a_closed_end_leaves_nothing(world: World, rings: int) -> None:
    first = Reader(rings)
    world.ask("one.bad.example")
    assert len(first.batch()) == 1
    world.ask("two.bad.example")  # then it dies: nothing is closed
    second = Reader(rings)
    world.ask("three.bad.example")
    assert [record.name[1:4] for record in second] == [b"two", b"thr"]
    second.close()
    world.ask("four.bad.example")
    with Reader(rings) as third:
        world.ask("five.bad.example")
        assert [record.name[1:5] for record in third] == [b"five"]
    first.close()


def test_what_was_asked_before_there_was_a_reader_is_there_where_that_is_wanted(world: World, rings: int) -> None:
    world.ask("unwanted.bad.example")
    ring.want(rings)
    world.ask("early.bad.example")
    with Reader(rings) as reader:
        assert [record.name[1:6] for record in reader] == [b"early"]


def test_a_damaged_ring_is_used_on(world: World, rings: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with Reader(rings) as reader, mmap.mmap(rings, 0) as memory:
            recording = Recording([reader])
            recording.count(order(tmp_path))
            world.ask("bad.example")
            memory[ring.HEADER_SIZE + 3] = 255  # the name's size
            recording.look()
            for _ in range(3):
                world.ask("n.bad.example")
                recording.look()
            await recording.write()

    asyncio.run(main())
    assert counts(tmp_path).keys() == {"n.bad.example"}
    assert "damaged" in caplog.text


def test_it_keeps_what_it_knows_from_time_to_time_and_at_its_end(
    world: World, rings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOOK_EVERY", 0.01)
    now = [1_700_000_000.0]

    async def main() -> None:
        with Reader(rings) as reader:
            recording = Recording([reader], lambda: now[0])
            running = asyncio.ensure_future(recording.run())
            recording.count(order(tmp_path))
            world.ask("bad.example")
            await asyncio.sleep(0.1)
            assert not (tmp_path / FILE).exists()
            now[0] += process.KEEP_EVERY + 1
            async with asyncio.timeout(20):
                while not (tmp_path / TALLY_FILE).exists():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert counts(tmp_path) == {"bad.example": 1}
            world.ask("bad.example")
            running.cancel()
            await recording.end()
            assert counts(tmp_path) == {"bad.example": 2}
        with Reader(rings) as reader:
            later = Recording([reader], lambda: now[0])
            later.count(order(tmp_path))
            world.ask("bad.example")
            await later.write()
            assert counts(tmp_path) == {"bad.example": 3}
            later.count(order(tmp_path))  # the next generation: nothing is lost
            await later.write()
            assert counts(tmp_path) == {"bad.example": 3}
            later.count(order(tmp_path, clients="none"))
            await later.write()
            assert counts(tmp_path) == {}

    asyncio.run(main())


def test_a_folder_that_cannot_be_written_is_told_and_tried_again(
    world: World, rings: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with Reader(rings) as reader:
            recording = Recording([reader])
            folder = tmp_path / "folder"
            folder.write_text("in the way")
            recording.count(order(folder))
            world.ask("bad.example")
            with pytest.raises(OSError, match="folder"):
                await recording.write()
            await recording.end()
            assert "cannot be kept" in caplog.text
            folder.unlink()
            await recording.write()
            assert counts(folder) == {"bad.example": 1}

    asyncio.run(main())
