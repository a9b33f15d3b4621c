"""The cache between two runs: a whole file or none."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from resolver import cachefile
from tests.unit.engine.world import World, block, query, reply_to


def make(folder: Path, names: int) -> World:
    folder.mkdir()
    world = World(folder, block("blocked.example"))
    for number in range(names):
        asked = query(f"n{number}.example")
        assert world.engine.learn(world.punt(asked), reply_to(asked, f"n{number}.example. 600 A 192.0.2.1"))
    return world


def test_answers_come_back_older_by_the_time_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache" / "0"
    assert cachefile.save(path, make(tmp_path / "a", 500).engine, "servers") == 500
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100)
    after = make(tmp_path / "b", 0)
    assert asyncio.run(cachefile.load(path, after.engine, "servers")) == 500
    assert 498 <= after.ask("n7.example").answer[0].ttl <= 501
    assert not path.exists() and asyncio.run(cachefile.load(path, after.engine, "servers")) == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda octets: octets[:-1], "damaged"),
        (lambda octets: octets[:100] + b"x" + octets[101:], "damaged"),
        (lambda _: b"", "damaged"),
        (lambda _: b"x" * 100, "damaged"),
    ],
)
def test_a_damaged_file_is_not_used(
    tmp_path: Path, damage: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache" / "0"
    cachefile.save(path, make(tmp_path / "a", 5).engine, "servers")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert asyncio.run(cachefile.load(path, make(tmp_path / "b", 0).engine, "servers")) == 0
    assert said in caplog.text and str(path) in caplog.text


def test_answers_of_other_servers_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "0"
    cachefile.save(path, make(tmp_path / "a", 5).engine, "servers")
    assert asyncio.run(cachefile.load(path, make(tmp_path / "b", 0).engine, "others")) == 0
