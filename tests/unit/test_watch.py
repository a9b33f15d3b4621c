"""A change of a watched file is reported once, when it is whole, however it was made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from resolver import watch
from resolver.watch import Watch, folders_of, state_of

Changes = AsyncIterator[list[str]]


def _run(
    folder: Path, sources: list[str], test: Callable[[Watch, Callable[[], Awaitable[list[str]]]], Awaitable[None]]
) -> None:
    """Run `test` with a watch on `sources` (relative to `folder`) and a function that waits for the next change."""

    async def go() -> None:
        watching = Watch(folder / "state")
        paths = [str(folder / source) for source in sources]
        watching.follow(paths, state_of(paths))
        async with aclosing(watching.changes()) as changes:

            async def following() -> list[str]:
                changed = await asyncio.wait_for(anext(changes), 20)
                return [str(Path(path).relative_to(folder)) for path in changed]

            await test(watching, following)

    asyncio.run(go())


def _later(change: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(0.3, change)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lists").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "config.yaml").write_text("a")
    (tmp_path / "lists" / "ads.txt").write_text("a")
    return tmp_path


def test_writing_replacing_and_removing_are_changes(folder: Path) -> None:
    ads = folder / "lists" / "ads.txt"

    async def test(_: Watch, following: Callable[[], Awaitable[list[str]]]) -> None:
        _later(lambda: ads.write_text("longer"))
        assert await following() == ["lists/ads.txt"]
        (folder / "lists" / "new").write_text("b")
        _later(lambda: (folder / "lists" / "new").replace(ads))
        assert await following() == ["lists/ads.txt"]
        _later(ads.unlink)
        assert await following() == ["lists/ads.txt"]
        _later(lambda: (ads.write_text("back"), (folder / "config.yaml").write_text("bc")))
        assert await following() == ["config.yaml", "lists/ads.txt"]

    _run(folder, ["config.yaml", "lists/ads.txt"], test)


def test_a_swapped_link_is_a_change(folder: Path) -> None:
    """Kubernetes replaces a folder behind a link; the file's own name is never touched."""
    for version in ("1", "2"):
        (folder / version).mkdir()
        (folder / version / "list").write_text(version * 3)
    (folder / "data").symlink_to("1")
    (folder / "list").symlink_to("data/list")

    def swap() -> None:
        (folder / "new").symlink_to("2")
        (folder / "new").replace(folder / "data")

    async def test(_: Watch, following: Callable[[], Awaitable[list[str]]]) -> None:
        _later(swap)
        assert await following() == ["list"]

    _run(folder, ["list"], test)


def test_a_new_file_of_a_pattern_and_of_a_missing_folder_is_a_change(folder: Path) -> None:
    def appear() -> None:
        (folder / "later" / "deep").mkdir(parents=True)
        (folder / "later" / "deep" / "x.txt").write_text("x")

    async def test(_: Watch, following: Callable[[], Awaitable[list[str]]]) -> None:
        _later(lambda: (folder / "lists" / "more.txt").write_text("x"))
        assert await following() == ["lists/more.txt"]
        _later(appear)
        assert await following() == ["later/deep/x.txt"]

    _run(folder, ["lists/*.txt", "later/deep/x.txt"], test)


def test_a_file_being_written_is_waited_for(folder: Path) -> None:
    ads = folder / "lists" / "ads.txt"

    async def write() -> None:
        await asyncio.sleep(0.2)
        with ads.open("w") as file:
            for _ in range(10):
                file.write("half\n")
                file.flush()
                await asyncio.sleep(watch.SETTLE / 4)
            file.write("whole\n")

    async def test(_: Watch, following: Callable[[], Awaitable[list[str]]]) -> None:
        writing = asyncio.ensure_future(write())
        assert await following() == ["lists/ads.txt"]
        assert ads.read_text().endswith("whole\n")
        await writing

    _run(folder, ["lists/ads.txt"], test)


@pytest.mark.parametrize("how", ["replaced", "written", "removed and written", "another too"])
def test_what_came_by_a_rename_need_not_settle_where_that_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(watch, "SETTLE", 60.0)
    ads = folder / "lists" / "ads.txt"

    def change() -> None:
        if how.startswith("removed"):
            ads.unlink()
        new = ads if "written" in how else folder / "lists" / "new"
        new.write_text("longer")
        if how == "another too":
            (folder / "config.yaml").write_text("longer")
        if new != ads:
            new.replace(ads)

    async def test(watching: Watch, following: Callable[[], Awaitable[list[str]]]) -> None:
        paths = [str(ads), str(folder / "config.yaml")]
        watching.follow(paths, state_of(paths), [ads])
        _later(change)
        if how == "replaced":
            assert await following() == ["lists/ads.txt"]
            (folder / "lists" / "more").write_text("other")
            _later(lambda: (folder / "lists" / "more").replace(ads))
            assert await following() == ["lists/ads.txt"]
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(following(), 3)

    _run(folder, ["lists/ads.txt", "config.yaml"], test)


def test_a_file_that_never_stands_still_is_reported_in_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 1.0)
    ads = folder / "lists" / "ads.txt"

    async def grow() -> None:
        while True:
            ads.write_text(ads.read_text() + "more\n")
            await asyncio.sleep(watch.SETTLE / 4)

    async def test(_: Watch, following: Callable[[], Awaitable[list[str]]]) -> None:
        growing = asyncio.ensure_future(grow())
        assert await following() == ["lists/ads.txt"]
        growing.cancel()

    _run(folder, ["lists/ads.txt"], test)


def test_other_files_and_state_are_not_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK", 0.5)

    async def test(_: Watch, following: Callable[[], Awaitable[list[str]]]) -> None:
        _later(lambda: (folder / "lists" / "other.txt").write_text("x"))
        _later(lambda: (folder / "state" / "current.json").write_text("x"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(following(), 2)

    _run(folder, ["lists/ads.txt", "state/inner.txt"], test)
    assert folders_of([str(folder / "state" / "inner.txt")], folder / "state") == set()


def test_sources_are_replaced_while_it_runs_and_what_changed_before_is_noticed(folder: Path) -> None:
    other = folder / "other.txt"
    other.write_text("a")

    async def test(watching: Watch, following: Callable[[], Awaitable[list[str]]]) -> None:
        def replace() -> None:
            known = state_of([str(other)])
            other.write_text("changed after it was read")
            watching.follow([str(other)], known)

        _later(replace)
        assert await following() == ["other.txt"]
        _later(lambda: other.write_text("again"))
        assert await following() == ["other.txt"]

    _run(folder, ["lists/ads.txt"], test)
