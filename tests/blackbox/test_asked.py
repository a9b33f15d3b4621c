"""Which names are asked most, on a real server: counted by a process of its own, there after a restart, and what the guard
and the config make of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resolver import control
from tests.blackbox.harness import Server, is_alive, kill, until
from tests.fakes import FakeUpstream

RECORDER = "resolver.records.process"


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    with FakeUpstream() as fake:
        yield fake.port


def made(folder: Path, upstream: int, **config: Any) -> Server:
    (folder / "ads.txt").write_text("ads.example\n")
    lists = [{"name": "ads", "source": "ads.txt", "category": "ads"}]
    return Server(
        folder, {"lists": lists, "guard": {"asked": 1000}, "query_log": {"what": "all"}, **config}, upstream=upstream
    )


def write(server: Server) -> None:
    """Have the file written now."""
    answer = control.ask(server.state_dir / control.SOCKET, control.Asked(), 10)
    assert isinstance(answer, control.Report)


def names(server: Server) -> dict[str, dict[str, Any]]:
    """What asked.json says by now."""
    write(server)
    try:
        return {entry["name"]: entry for entry in json.loads((server.state_dir / "asked.json").read_text())["names"]}
    except FileNotFoundError:
        return {}


def test_names_are_counted_with_verdict_and_clients_and_outlive_process_and_server(
    tmp_path: Path, upstream: int
) -> None:
    with made(tmp_path, upstream) as server:
        for number in range(20):
            server.ask("wordpress.com", source=f"127.0.0.{1 + number % 4}", tcp=number % 2 == 0)
            server.ask("www.ads.example")
        until(lambda: names(server).get("wordpress.com", {}).get("count") == 20, "all are counted")
        found = names(server)
        assert found["wordpress.com"].pop("clients") in (3, 4)  # about
        assert found == {
            "wordpress.com": {"name": "wordpress.com", "count": 20, "blocked": 0, "verdict": "forwarded"},
            "www.ads.example": {
                "name": "www.ads.example", "count": 20, "blocked": 20, "clients": 1, "verdict": "blocked", "list": "ads",
                "category": "ads",
            },
        }  # fmt: skip
        assert server.metrics()["tampah_process_resident_memory_bytes", "anonymous", "recorder"] > 1 << 20

        # It is stopped, asked over, and killed: its successor takes what is in the rings. What was not kept is lost with it.
        [pid] = server.helper_pids(RECORDER)
        kill(pid, signal.SIGSTOP)
        for _ in range(10):
            server.ask("later.example")
        kill(pid)
        until(lambda: names(server).get("later.example", {}).get("count") == 10, "the successor counts them")
        assert "the recorder ended (killed" in server.log or "the recorder ended (status -9" in server.log
        assert server.total("tampah_query_records_dropped_total") == 0
        [pid] = server.helper_pids(RECORDER)
    assert not is_alive(pid)
    with server:
        server.ask("later.example")
        until(lambda: names(server).get("later.example", {}).get("count") == 11, "a restart goes on")


def test_a_name_asked_most_here_is_protected_from_the_next_update(tmp_path: Path, upstream: int) -> None:
    with made(tmp_path, upstream) as server:
        for _ in range(60):
            server.ask("blog.wordpress.com")
            server.ask("www.ads.example")  # blocked already: another list may block it too
        (tmp_path / "ads.txt").write_text("ads.example\nwww.ads.example\nwordpress.com\nnew.example\n")
        server.ask("new.example")  # asked once is not asked most
        said = server.tampah("reload").stdout
        assert "ads.txt:3: wordpress.com blocks blog.wordpress.com" in said and "60 times by 1 clients" in said
        assert server.is_blocked("new.example") and not server.is_blocked("blog.wordpress.com")
        [state] = server.tampah_json("lists")
        assert state["quarantined"] == 1
        server.tampah("approve", "ads", "--name", "wordpress.com").check_returncode()
        assert server.is_blocked("blog.wordpress.com")

        # Where more clients must have asked it is not one of them; a first version is somebody's wish.
        for _ in range(60):
            server.ask("only.here.example")
            server.ask("first.example")
        (tmp_path / "more.txt").write_text("first.example\n")
        server.configure(
            guard={"asked_by": 2},
            lists=[{"name": "ads", "source": "ads.txt"}, {"name": "more", "source": "more.txt"}],
        )
        (tmp_path / "ads.txt").write_text("ads.example\nwordpress.com\nonly.here.example\n")
        server.tampah("reload").check_returncode()
        assert server.is_blocked("only.here.example") and server.is_blocked("first.example")


def test_nothing_is_counted_that_may_not_be(tmp_path: Path, upstream: int) -> None:
    with made(tmp_path, upstream, query_log={"what": "blocked", "clients": "none"}) as server:
        assert "query_log" not in server.log
        for _ in range(5):
            server.ask("wordpress.com")
            server.ask("ads.example")
        until(lambda: names(server).get("ads.example", {}).get("count") == 5, "blocked ones are counted")
        assert names(server).keys() == {"ads.example"} and names(server)["ads.example"]["clients"] == 0
        [pid] = server.helper_pids(RECORDER)

        server.configure(query_log={"what": "none"})
        server.tampah("reload").check_returncode()
        until(lambda: not is_alive(pid), "the recorder ends")
        until(lambda: not list(server.state_dir.glob("asked.*")), "what was counted is deleted")
        before = server.total("tampah_query_records_total")
        server.ask("ads.example")
        assert server.total("tampah_query_records_total") == before
        assert not names(server)

        server.configure(query_log={"what": "all"})
        server.tampah("reload").check_returncode()
        server.ask("other.example")
        until(lambda: names(server).keys() == {"other.example"}, "counting begins anew")


def test_the_recorder_ends_with_its_supervisor_and_keeps_what_it_knows(tmp_path: Path, upstream: int) -> None:
    with made(tmp_path, upstream) as server:
        server.ask("wordpress.com")
        until(lambda: "wordpress.com" in names(server), "it is counted")
        server.ask("example.org")
        [pid] = server.helper_pids(RECORDER)
        workers = server.worker_pids()
        server.stop(signal.SIGKILL)
        until(lambda: not is_alive(pid), "the recorder ends")
        for worker in workers:
            kill(worker)
        found = json.loads((server.state_dir / "asked.json").read_text())["names"]
        assert {entry["name"] for entry in found} == {"wordpress.com", "example.org"}
        assert (server.state_dir / "asked.tally").stat().st_size > 100


def test_a_list_is_previewed_by_what_was_asked_here(tmp_path: Path, upstream: int) -> None:
    with made(tmp_path, upstream) as server:
        for number in range(12):
            server.ask("www.new.example", source=f"127.0.0.{1 + number % 3}")
            server.ask("x.ads.example")
        new = tmp_path / "new.txt"
        new.write_text("||new.example^\n||ads.example^\n||nobody.example^\n")
        found = server.tampah_json("preview", str(new))
        assert found["blocked"]["names"] == 1 and found["already"]["names"] == 1
        [effect] = found["blocked"]["list"]
        assert (effect["name"], effect["count"], effect["rule"], effect["line"]) == (
            "www.new.example",
            12,
            "new.example",
            1,
        )
        assert effect["clients"] in (2, 3)  # about
        assert found["already"]["list"][0]["by"] == "ads"
        assert not server.is_blocked("www.new.example")  # nothing is changed
        text = server.tampah("preview", str(new), "--list", "ads", "--format", "adblock").stdout
        assert "would newly block: 1 names" in text and "line 1: new.example" in text
        new.write_text("<html>Sign in\n</html>\n")
        done = server.tampah("preview", str(new))
        assert done.returncode == 1 and "HTML" in done.stderr
    assert server.tampah("preview", str(tmp_path / "ads.txt")).returncode == 0  # no server is needed
    assert server.tampah("preview", str(tmp_path / "nothing.txt")).returncode == 2
