"""The sketch of asked names: what it writes for others, and that it goes on after a restart."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest

from resolver.asked import FILE, TALLY_FILE, most_asked, read_day
from resolver.records.sketch import LIMIT, WINDOW, Sketch
from resolver.ring import Told
from resolver.vocabulary import Action
from tests.unit.engine.test_tally import record, wire

NOW = 1_700_000_000.0
LISTS = {3: ("ads", "ads"), 4: ("good", "general")}


@pytest.fixture(autouse=True)
def _one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few clients are counted exactly by this one."""
    monkeypatch.setattr(secrets, "token_bytes", lambda count: bytes(range(count)))


def made(folder: Path, what: str = "all", clients: str = "full", now: float = NOW) -> Sketch:
    sketch = Sketch(folder, what, clients, now)
    sketch.know(LISTS)
    return sketch


def fill(sketch: Sketch) -> None:
    for number in range(30):
        sketch.add(record(wire("wordpress.com"), bytes([number % 3] * 16)), NOW)
    sketch.add(record(wire("www.ads.example"), told=Told.BLOCKED, action=Action.ZERO, slot=3) * 4, NOW)
    sketch.add(record(wire("www.good.example"), action=Action.ALLOW, slot=4) * 2, NOW)


def written(folder: Path) -> Any:
    return json.loads((folder / FILE).read_text())


def test_what_is_asked_most_is_written_with_verdict_and_list(tmp_path: Path) -> None:
    sketch = made(tmp_path)
    fill(sketch)
    sketch.write(NOW + 60)
    assert written(tmp_path) == {
        "since": NOW,
        "written": NOW + 60,
        "what": "all",
        "clients": "full",
        "missed": 0,
        "names": [
            {"name": "wordpress.com", "count": 30, "blocked": 0, "clients": 3, "verdict": "forwarded"},
            {
                "name": "www.ads.example", "count": 4, "blocked": 4, "clients": 1, "verdict": "blocked",
                "list": "ads", "category": "ads",
            },
            {
                "name": "www.good.example", "count": 2, "blocked": 0, "clients": 1, "verdict": "allowed",
                "list": "good", "category": "general",
            },
        ],
    }  # fmt: skip
    assert [asked.name for asked in most_asked(tmp_path, 10)] == ["wordpress.com", "www.good.example"]
    assert [asked.name for asked in most_asked(tmp_path, 1)] == ["wordpress.com"]
    assert [asked.name for asked in most_asked(tmp_path, 10, times=30, clients=2)] == ["wordpress.com"]
    day = read_day(tmp_path)
    assert day and (day.since, day.what, len(list(day.names))) == (NOW, "all", 3)


def test_it_goes_on_after_a_restart_although_lists_have_other_slots(tmp_path: Path) -> None:
    sketch = made(tmp_path)
    fill(sketch)
    sketch.keep()
    later = Sketch(tmp_path, "all", "full", NOW + 100)
    later.know({0: ("good", "general"), 9: ("ads", "trackers")})
    assert later.take_up(NOW + 100) == ""
    later.add(record(wire("wordpress.com"), bytes(16)), NOW + 100)
    later.write(NOW + 100)
    found = {entry["name"]: entry for entry in written(tmp_path)["names"]}
    assert (found["wordpress.com"]["count"], found["wordpress.com"]["clients"]) == (31, 3)
    assert (found["www.ads.example"]["list"], found["www.ads.example"]["category"]) == ("ads", "trackers")
    assert written(tmp_path)["since"] == NOW


def test_a_list_that_is_gone_is_not_named(tmp_path: Path) -> None:
    sketch = made(tmp_path)
    fill(sketch)
    sketch.keep()
    later = Sketch(tmp_path, "all", "full", NOW)
    assert later.take_up(NOW) == ""
    later.write(NOW)
    assert all("list" not in entry for entry in written(tmp_path)["names"])


def test_days_pass_over_restarts(tmp_path: Path) -> None:
    sketch = made(tmp_path)
    fill(sketch)
    sketch.keep()
    for passed, names in ((4 * WINDOW, 3), (5 * WINDOW, 0)):
        later = made(tmp_path, now=NOW + passed)
        later.take_up(NOW + passed)
        later.write(NOW + passed)
        assert len(written(tmp_path)["names"]) == names
        assert NOW + passed - written(tmp_path)["since"] <= 5 * WINDOW


@pytest.mark.parametrize(("what", "clients"), [("blocked", "full"), ("all", "none"), ("all", "prefix")])
def test_what_was_counted_by_other_rules_is_not_taken_up(tmp_path: Path, what: str, clients: str) -> None:
    sketch = made(tmp_path)
    fill(sketch)
    sketch.keep()
    later = made(tmp_path, what, clients)
    assert later.take_up(NOW) == ""
    later.write(NOW)
    assert written(tmp_path)["names"] == []


def test_clients_that_are_not_to_be_counted_are_not(tmp_path: Path) -> None:
    sketch = made(tmp_path, clients="none")
    fill(sketch)
    sketch.write(NOW)
    assert {entry["clients"] for entry in written(tmp_path)["names"]} == {0}
    assert most_asked(tmp_path, 10, clients=5)[0].name == "wordpress.com"  # nobody knows better


@pytest.mark.parametrize(
    "spoil",
    [
        lambda octets: b"",
        lambda octets: octets[:-1],
        lambda octets: octets.replace(b"wordpress", b"wordpresS"),
        lambda octets: b"{}\n" + octets,
        lambda octets: b"[]\n",
        lambda octets: octets.replace(b'"key": "', b'"key": "zz'),
    ],
)
def test_a_damaged_file_begins_anew_and_says_so(tmp_path: Path, spoil: Any) -> None:
    sketch = made(tmp_path)
    fill(sketch)
    sketch.keep()
    path = tmp_path / TALLY_FILE
    path.write_bytes(spoil(path.read_bytes()))
    later = made(tmp_path)
    assert "counting begins anew" in later.take_up(NOW)
    fill(later)
    assert later.asked(NOW)[0][1] == 30


def test_memory_is_bounded(tmp_path: Path) -> None:
    sketch = Sketch(tmp_path, "all", "full", NOW, limit=100)
    for number in range(1000):
        sketch.add(record(wire("popular.example")) + record(wire(f"n{number}.example")), NOW)
    sketch.write(NOW)
    names = written(tmp_path)["names"]
    assert len(names) <= 100 and names[0] == {
        "name": "popular.example", "count": 1000, "blocked": 0, "clients": 1, "verdict": "forwarded"
    }  # fmt: skip
    assert written(tmp_path)["missed"] > 0
    assert LIMIT == 100_000


@pytest.mark.parametrize(
    "body",
    [
        "", "[]", "{}", '{"names": 3}', '{"names": [], "since": []}', '{"names": [3, null, {"name": 4, "count": "x"}]}',
        '{"names": [{"name": "*.x.example", "count": 3}, {"count": 3}, {"name": "com", "count": 3}]}',
    ],
)  # fmt: skip
def test_what_is_no_such_file_says_nothing(tmp_path: Path, body: str) -> None:
    (tmp_path / FILE).write_text(body)
    assert most_asked(tmp_path, 10) == []
