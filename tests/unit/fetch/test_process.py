"""The fetcher's process: lists are fetched when due, each for itself, and the supervisor is told what came of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from resolver import control
from resolver.config.model import Config, ListConfig
from resolver.fetch import process
from resolver.fetch.base import Fetched, Fetcher, FetchError
from resolver.fetch.process import Fetching
from resolver.fetch.store import FOLDER, Meta, Place, State


class Fake:
    """A fetcher that does what the test says, list by list."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.now: dict[str, Any] = {}  # list → Fetched, an exception, or an event to wait for
        self.closed = 0
        self.cancelled: list[str] = []
        self.hurry: Callable[[str], None] = lambda name: None

    def make(self, config: Config, hurry: Callable[[str], None]) -> Mapping[str, Fetcher]:
        self.hurry = hurry
        return {"http": self}

    async def fetch(self, listed: ListConfig, now: float) -> Fetched:
        self.fetched.append(listed.name)
        what = self.now.get(listed.name, Fetched(True, 10))
        if isinstance(what, asyncio.Event):
            try:
                await what.wait()
            except asyncio.CancelledError:
                self.cancelled.append(listed.name)
                raise
            what = Fetched(True, 10)
        if isinstance(what, Exception):
            raise what
        assert isinstance(what, Fetched)
        return what

    async def close(self) -> None:
        self.closed += 1


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = Fake()
        self.told: list[control.Message] = []
        self.fetching = Fetching(self.told.append, self.fake.make)

    def config(self, *names: str, **options: Any) -> Config:
        lists = [{"name": name, "source": f"http://lists.example/{name}", **options} for name in names]
        return Config.model_validate({"state_dir": str(self.folder), "lists": [*lists, {"name": "own", "source": "x"}]})

    def messages(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.told if isinstance(message, kind)]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 (it is about anything)
                await asyncio.sleep(0.005)

    def run(self, scenario: Callable[[], Any]) -> None:
        async def go() -> None:
            running = asyncio.ensure_future(self.fetching.run())
            try:
                await scenario()
            finally:
                running.cancel()
                await asyncio.wait([running])

        asyncio.run(go())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def put_copy(folder: Path, name: str, *, source: str = "", next_try: float = 0.0) -> None:
    place = Place(folder, name)
    place.folder.mkdir(parents=True)
    source = source or f"http://lists.example/{name}"
    (place.folder / "body").write_bytes(b"x.example\n")
    place.adopt(place.folder / "body", Meta(source, source, "a.body", "0" * 64, 10, 1.0))
    place.write_state(State(source, checked=1.0, tried=1.0, next_try=next_try))


def test_lists_without_a_copy_are_fetched_at_once_and_told_together(world: World) -> None:
    async def scenario() -> None:
        await world.fetching.follow(world.config("a", "b"))
        await world.until(lambda: world.messages(control.Changed))
        assert sorted(world.fake.fetched) == ["a", "b"]
        [changed] = world.messages(control.Changed)
        assert sorted(changed.lists) == ["a", "b"]

    world.run(scenario)
    state = Place(world.folder, "a").state("http://lists.example/a")
    assert state.failures == 0 and state.checked > 0
    assert 0.89 * 86_400 < state.next_try - time.time() <= 86_400
    assert world.fake.closed == 1


def test_one_failure_never_touches_another_list(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        world.fake.now = {"bad": FetchError("http://lists.example/bad: HTTP 500", octets=7), "odd": RuntimeError("bug")}
        await world.fetching.follow(world.config("bad", "good", "odd"))
        await world.until(lambda: len([m for m in world.messages(control.Fetched) if m.outcome]) == 3)

    world.run(scenario)
    assert [changed.lists for changed in world.messages(control.Changed)] == [("good",)]
    outcomes = {m.list: (m.outcome, m.octets, m.failures) for m in world.messages(control.Fetched) if m.outcome}
    assert outcomes == {"bad": ("failed", 7, 1), "good": ("changed", 10, 0), "odd": ("failed", 0, 1)}
    state = Place(world.folder, "bad").state("http://lists.example/bad")
    assert state.error == "http://lists.example/bad: HTTP 500"
    assert 5 < state.next_try - time.time() < 15


def test_the_log_says_once_that_a_source_fails_and_once_that_it_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def scenario() -> None:
        async def again(count: int) -> None:
            world.fetching.hurry("a")
            await world.until(lambda: len(world.fake.fetched) == count and not world.fetching._tasks)

        world.fake.now = {"a": FetchError("HTTP 404")}
        await world.fetching.follow(world.config("a"))
        for count in (1, 2, 3):
            await again(count)
        world.fake.now = {"a": Fetched(False, 0)}
        for count in (4, 5):
            await again(count)

    world.run(scenario)
    lines = [record.getMessage() for record in caplog.records if record.name == process.__name__]
    assert [line.partition("lists.a: ")[2][:8] for line in lines] == ["HTTP 404", "http://l"]
    assert "is back after 3 failures" in lines[1]


def test_an_order_is_done_when_each_list_was_fetched_after_it(world: World) -> None:
    async def scenario() -> None:
        gate = world.fake.now["slow"] = asyncio.Event()
        put_copy(world.folder, "known", next_try=time.time() + 5000)
        await world.fetching.follow(world.config("slow", "known", "bad"))
        await world.until(lambda: world.fake.fetched == ["slow", "bad"])
        world.fake.now["bad"] = FetchError("HTTP 404")
        world.fetching.fetch(7, ())
        await world.until(lambda: "known" in world.fake.fetched)
        assert not world.messages(control.Done)
        gate.set()  # that fetch began before the order: there has to be another
        await world.until(lambda: world.messages(control.Done))
        assert world.messages(control.Done) == [control.Done(7, {"bad": "HTTP 404"})]
        assert world.fake.fetched.count("slow") == 2
        world.fetching.fetch(8, ("known",))
        await world.until(lambda: len(world.messages(control.Done)) == 2)
        assert world.fake.fetched.count("bad") == 2

    world.run(scenario)


def test_an_order_does_not_wait_for_what_left_the_config(world: World) -> None:
    async def scenario() -> None:
        world.fake.now["slow"] = asyncio.Event()
        await world.fetching.follow(world.config("slow"))
        await world.until(lambda: world.fake.fetched)
        world.fetching.fetch(1, ())
        await world.fetching.follow(world.config())
        assert world.messages(control.Done) == [control.Done(1, {"slow": "no longer in the config"})]
        assert world.fake.cancelled == ["slow"]

    world.run(scenario)


def test_the_same_config_again_disturbs_nothing_and_another_source_begins_anew(world: World) -> None:
    async def scenario() -> None:
        world.fake.now["slow"] = asyncio.Event()
        await world.fetching.follow(world.config("slow", "a"))
        await world.until(lambda: len(world.fake.fetched) == 2)
        await world.fetching.follow(world.config("slow", "a"))
        await asyncio.sleep(0.02)
        assert sorted(world.fake.fetched) == ["a", "slow"] and not world.fake.cancelled
        await world.fetching.follow(world.config("slow", "a", mirrors=["http://other.example/a"]))
        await world.until(lambda: len(world.fake.fetched) == 4)
        assert world.fake.cancelled == ["slow"]

    world.run(scenario)


def test_a_restart_goes_on_where_the_schedule_was(world: World) -> None:
    put_copy(world.folder, "later", next_try=time.time() + 5000)
    put_copy(world.folder, "moved", source="http://old.example/moved", next_try=time.time() + 5000)

    async def scenario() -> None:
        await world.fetching.follow(world.config("later", "moved"))
        await world.until(lambda: world.fake.fetched)
        await asyncio.sleep(0.02)
        assert world.fake.fetched == ["moved"]
        wait = world.fetching._schedule.wait(asyncio.get_running_loop().time())
        assert wait is not None and 4900 < wait <= 5000

    world.run(scenario)


def test_a_source_that_wants_to_be_asked_sooner_is(world: World) -> None:
    async def scenario() -> None:
        world.fake.now["a"] = Fetched(False, 0, refresh=100)
        await world.fetching.follow(world.config("a"))
        await world.until(lambda: [m for m in world.messages(control.Fetched) if m.outcome])
        [told] = [m for m in world.messages(control.Fetched) if m.outcome]
        assert 85 < told.next_try - time.time() <= 100
        world.fake.hurry("a")  # as a NOTIFY would
        await world.until(lambda: len(world.fake.fetched) == 2)

    world.run(scenario)


def test_copies_of_lists_that_left_long_ago_are_deleted(world: World) -> None:
    put_copy(world.folder, "gone")
    put_copy(world.folder, "left")
    Place(world.folder, "left").write_state(State("s", tried=time.time()))

    async def scenario() -> None:
        await world.fetching.follow(world.config("a"))

    world.run(scenario)
    assert {path.name for path in (world.folder / FOLDER).iterdir()} - {"a"} == {"left"}


def test_a_full_disk_is_a_failure_like_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        world.fake.now["a"] = OSError(28, "No space left on device")
        await world.fetching.follow(world.config("a"))
        await world.until(lambda: [m for m in world.messages(control.Fetched) if m.outcome])
        [told] = [m for m in world.messages(control.Fetched) if m.outcome]
        assert "No space left on device" in told.error

    world.run(scenario)
    assert json.loads((world.folder / FOLDER / "a" / "state.json").read_bytes())["failures"] == 1
