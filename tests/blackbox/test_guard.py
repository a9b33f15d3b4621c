"""Bad list updates under a running server: what was there before serves, or the line is left out; the rest is live; and
everything says so. Then somebody decides, or goes back, by real commands."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resolver import control
from resolver.lists.report import Report
from resolver.snapshot import read_generation
from tests.blackbox.harness import Server
from tests.fakes import FakeUpstream

REPORT = [field.name for field in dataclasses.fields(Report)]
NAMES = [f"ads{number}.example" for number in range(100)]


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    with FakeUpstream() as fake:
        yield fake.port


@contextlib.contextmanager
def serving(folder: Path, upstream: int, **config: Any) -> Iterator[Server]:
    """A server with a list that will be attacked and one that goes its way."""
    server = Server(
        folder,
        {
            "lists": [{"name": "ads", "source": "ads.txt"}, {"name": "other", "source": "other.txt"}],
            "upstream": {"servers": [f"udp://dns.isp.example:{upstream}?ip=127.0.0.1"], "timeout": "1s"},
            "guard": {"asked": 1000},
            "query_log": {"what": "all"},
            **config,
        },
    )
    server.write("ads.txt", text(NAMES))
    server.write("other.txt", "other.example\n")
    with server:
        for _ in range(60):
            server.ask("wordpress.com")
        yield server


def text(names: list[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def state_of(server: Server, name: str = "ads") -> dict[str, Any]:
    [state] = [state for state in server.tampah_json("lists") if state["list"] == name]
    return dict(state)


def reload(server: Server) -> str:
    """A reload, quicker than by the command; what its report says."""
    answer = control.ask(server.state_dir / control.SOCKET, control.Reload(), 30)
    assert isinstance(answer, control.Report), answer
    return "\n".join(Report.from_json({key: answer.data[key] for key in REPORT}).lines())


def test_every_attack_leaves_filtering_as_it_was(tmp_path: Path, upstream: int) -> None:
    attacks = [
        ("empty", "", "kept", 0, "empty list"),
        ("HTML", "<!DOCTYPE html><html><body>Sign in\n</body></html>\n", "kept", 0, "HTML"),
        ("10 % of itself", text(NAMES[:10]), "held", 0, "100 names became 10: 90% fewer"),
        ("ten times itself", text([f"new{n}.example" for n in range(1000)]), "held", 0, "100 names became 1,000"),
        ("co.id", text([*NAMES, "co.id"]), "read", 1, "ads.txt:101: co.id is a public suffix"),
        ("a registry's suffix, wholly", text([*NAMES, "*.co.id"]), "read", 1, "co.id is a public suffix"),
        ("com", "".join(f"||{name}^\n" for name in [*NAMES, "com"]), "read", 1, "com is a top-level domain"),
        (
            "most asked",
            text([*NAMES, "wordpress.com"]),
            "read",
            1,
            "wordpress.com is among the names most asked here: ",
        ),
        ("upstream's name", text([*NAMES, "isp.example"]), "read", 1, "isp.example blocks dns.isp.example"),
    ]
    harmed = ["shop.co.id", "good.com", "blog.wordpress.com", "wordpress.com", "dns.isp.example", "new7.example"]
    with serving(tmp_path, upstream) as server:
        for number, (attack, body, state, quarantined, said) in enumerate(attacks):
            before = len(server.log)
            server.write("ads.txt", body)
            server.write("other.txt", f"other.example\nlive{number}.example\n")
            assert said in reload(server), attack
            assert all(server.addresses(name) == ["0.0.0.0"] for name in NAMES[::9]), attack
            assert all(server.addresses(name) != ["0.0.0.0"] for name in harmed), attack
            assert server.is_blocked(f"live{number}.example"), attack  # the rest is live
            told = state_of(server)
            assert said in json.dumps(told, ensure_ascii=False), attack
            assert (told["state"], told["quarantined"], told["names"]) == (state, quarantined, 100), attack
            metrics = server.metrics()
            assert metrics["tampah_list_held", "ads"] == (state == "held"), attack
            assert metrics["tampah_list_quarantined", "ads"] == quarantined, attack
            assert metrics["tampah_list_names", "ads"] == 100, attack
            assert "ads" in server.log[before:] and said in server.log[before:], attack
            server.write("ads.txt", text(NAMES))
            reload(server)
            assert server.metrics()["tampah_list_quarantined", "ads"] == 0, attack


def test_somebody_decides_while_the_server_runs(tmp_path: Path, upstream: int) -> None:
    with serving(tmp_path, upstream) as server:
        server.write("ads.txt", text([*NAMES[:10], "co.id"]))
        assert server.tampah("reload").returncode == 1
        done = server.tampah("approve", "ads", "--reason", "the maintainer wrote to us")
        assert done.returncode == 0, done.stderr
        assert server.addresses(NAMES[50]) != ["0.0.0.0"] and server.is_blocked(NAMES[5])
        assert not server.is_blocked("shop.co.id")  # the size was approved, not this
        assert "waits for a decision" in server.tampah("explain", "shop.co.id").stdout
        server.tampah("reject", "ads", "--name", "co.id", "--reason", "a whole country").check_returncode()
        assert server.metrics()["tampah_list_quarantined", "ads"] == 0
        assert "rejected, co.id is a public suffix" in server.tampah("explain", "shop.co.id").stdout
        server.tampah("approve", "ads", "--name", "co.id").check_returncode()
        assert server.is_blocked("shop.co.id")
        assert "since generation" in server.tampah("explain", "shop.co.id").stdout
        assert server.tampah("approve", "ads").returncode == 1  # nothing waits
        assert server.tampah("approve", "nolist").returncode == 1
        record = server.tampah_json("decisions")
        assert [(each["decision"], each["reason"]) for each in record["decisions"]] == [
            ("approved", "the maintainer wrote to us"),
            ("rejected", "a whole country"),
            ("approved", ""),
        ]
        assert {each["uid"] for each in record["decisions"]} == {os.getuid()}
        generation = record["decisions"][-1]["generation"]
        assert read_generation(server.state_dir, generation).decided == 2


def test_somebody_decides_while_no_server_runs(tmp_path: Path, upstream: int) -> None:
    with serving(tmp_path, upstream) as server:
        server.write("ads.txt", text(NAMES[:10]))
        assert "held" in reload(server)
    server.tampah("approve", "ads").check_returncode()
    with server:
        assert server.addresses(NAMES[50]) != ["0.0.0.0"]
    server.tampah("rollback", "1").check_returncode()
    with server:
        assert server.is_blocked(NAMES[50])


def test_going_back_and_what_changed(tmp_path: Path, upstream: int) -> None:
    with serving(tmp_path, upstream) as server:
        assert "no generation before this one" in server.tampah("rollback").stderr
        for number in (1, 2, 3):
            server.write("ads.txt", text([*NAMES, *(f"more{each}.example" for each in range(number))]))
            reload(server)
        newest = server.status()["generation"]
        changed = server.tampah_json("diff")["lists"][0]
        assert changed["added"] == {"count": 1, "names": ["more2.example"]} and changed["removed"]["count"] == 0
        assert server.tampah("diff", "1", str(newest), "--all").stdout.splitlines() == [
            f"+\tads\tmore{number}.example" for number in range(3)
        ]
        back = server.tampah_json("rollback", "1", "--reason", "customers complain")
        assert back["reload_seconds"] < 10 and back["generation"] == newest + 1
        assert not server.is_blocked("more0.example") and server.is_blocked(NAMES[0])
        for _ in range(2):  # no reload brings it again
            assert "rolled back" in reload(server)
            assert not server.is_blocked("more0.example")
        assert "rejected: " in server.tampah("lists").stderr
        assert server.tampah("rollback", "999").returncode == 1
        server.tampah("reload", "--force").check_returncode()
        assert server.is_blocked("more2.example")
        decided = [each["decision"] for each in server.tampah_json("decisions")["decisions"]]
        assert decided == ["rolled back", "released"]
        assert "customers complain" in server.log
        (tmp_path / "a.txt").write_text("x.example\ny.example\n")
        (tmp_path / "b.txt").write_text("||y.example^\n||z.example^\n")
        files = server.tampah("diff", str(tmp_path / "a.txt"), str(tmp_path / "b.txt")).stdout
        assert "1 added, 1 removed, 0 changed" in files and "+ z.example" in files
