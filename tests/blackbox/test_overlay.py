"""tampah block and allow: at once on every worker, above every list, over a restart, and gone when their time is."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox.harness import Server, kill, until
from tests.fakes import FakeUpstream, address_of


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake


def make(folder: Path, upstream: FakeUpstream) -> Server:
    (folder / "ads.txt").write_text("ads.example\n")
    return Server(folder, {"lists": [{"name": "ads", "source": "ads.txt"}]}, upstream=upstream.port)


def is_answered(server: Server, name: str) -> bool:
    return all(server.addresses(name) == [address_of(name)] for _ in range(16))


def test_block_and_allow_act_at_once_on_every_worker(tmp_path: Path, upstream: FakeUpstream) -> None:
    with make(tmp_path, upstream) as server:
        assert is_answered(server, "www.new.example"), "and now it is in the caches"
        said = server.tampah("block", "New.Example")
        assert said.stdout == "new.example and all below it: blocked by hand, on every worker\n"
        assert server.is_blocked("www.new.example")
        assert server.is_blocked("ads.example")
        server.tampah("allow", "ads.example").check_returncode()
        assert is_answered(server, "ads.example")
        server.tampah("allow", "www.new.example").check_returncode()
        assert is_answered(server, "www.new.example"), "the newest word speaks"
        assert server.is_blocked("other.new.example")
        [newest, *_] = server.tampah_json("explain", "www.new.example")["matches"]
        assert (newest["list"], newest["wins"]) == ("overlay", True)
        explained = server.tampah_json("explain", "x.new.example")
        assert (explained["rank"], explained["list"], explained["action"]) == ("overlay", "overlay", "zero")
        assert server.metrics()[("tampah_answers_total", "zero", "", "overlay")] >= 32
        server.tampah("block", "--undo", "new.example").check_returncode()
        assert is_answered(server, "other.new.example")
        for line in ("blocked by hand, says root", "no longer blocked by hand, says root"):
            assert f"new.example and all below it: {line}".replace("root", getpass.getuser()) in server.log
        gone = server.tampah("block", "--undo", "new.example")
        assert gone.returncode == 1 and "neither blocked nor allowed by hand" in gone.stderr


def test_words_survive_a_reload_a_killed_worker_and_a_restart(tmp_path: Path, upstream: FakeUpstream) -> None:
    server = make(tmp_path, upstream)
    with server:
        server.tampah("block", "new.example").check_returncode()
        server.tampah("reload").check_returncode()
        assert server.is_blocked("new.example")
        before = server.worker_pids()
        for pid in before:
            kill(pid)
        until(lambda: not set(server.worker_pids()) & {*before, 0}, "the workers are back")
        until(lambda: server.http("/readyz")[0] == 200, "they are ready")
        assert server.is_blocked("new.example")
    again = Server(tmp_path, {"lists": [{"name": "ads", "source": "ads.txt"}]}, upstream=upstream.port)
    (tmp_path / "log").unlink()
    with again:
        assert again.is_blocked("new.example")
        assert [entry["name"] for entry in again.tampah_json("block")] == ["new.example"]


def test_a_timed_word_ends_by_itself(tmp_path: Path, upstream: FakeUpstream) -> None:
    with make(tmp_path, upstream) as server:
        assert "until" in server.tampah("block", "new.example", "--for", "2s").stdout
        assert server.is_blocked("new.example")
        until(lambda: is_answered(server, "new.example"), "the block has ended")
        assert server.tampah_json("allow") == []


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["block", "no name"], 1, "'no name': a blank inside the name"),
        (["block", "x.example", "--for", "soon"], 2, "expected a duration such as"),
        (["block", "--undo", "x.example"], 1, "neither blocked nor allowed"),
    ],
)
def test_bad_words_are_refused(
    tmp_path: Path, upstream: FakeUpstream, arguments: list[str], status: int, says: str
) -> None:
    with make(tmp_path, upstream) as server:
        done = server.tampah(*arguments)
        assert done.returncode == status
        assert says in done.stderr


def test_without_a_server_the_command_says_so(tmp_path: Path, upstream: FakeUpstream) -> None:
    done = make(tmp_path, upstream).tampah("block", "x.example")
    assert done.returncode == 1
    assert "no server answers" in done.stderr
