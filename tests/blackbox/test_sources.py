"""Lists from other machines: whatever a source does, what was enforced stays enforced, and what is new comes."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resolver import control
from resolver.config.load import load
from resolver.explain import list_states
from tests.blackbox.harness import Server, is_alive, kill, until
from tests.fakes import FakeUpstream
from tests.listserver import Act, Authority, Document, ListServer, Octets, Silence, Status, full_backlog
from tests.signer import Signer

ADS = b"ads.example\n"
PAGE = b"<!DOCTYPE html><html><body>Gone shopping</body></html>\n" * 30
BIG = b"".join(b"name%d.example\n" % number for number in range(5000))


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake


@pytest.fixture
def maintainer() -> Iterator[ListServer]:
    with ListServer() as server:
        server.serve("/ads.txt", Document(ADS, etag='"1"'))
        server.serve("/malware.txt", Document(b"malware.example\n"))
        yield server


def config(maintainer: ListServer, **options: Any) -> dict[str, Any]:
    """Two lists that are fetched on command alone, but for what `options` say of the first."""
    return {
        "workers": 1,
        "fetch": {"timeout": "2s", "deadline": "5s"},
        "lists": [
            {"name": "ads", "source": maintainer.url("/ads.txt"), **options},
            {"name": "malware", "source": maintainer.url("/malware.txt")},
        ],
    }


def fetch(server: Server, *lists: str) -> list[str]:
    """Have lists fetched now and enforced; what could not be fetched."""
    answer = control.ask(server.state_dir / control.SOCKET, control.Reload(True, lists), 120)
    assert isinstance(answer, control.Report), answer
    return [str(fault) for fault in answer.data["not_fetched"]]


def wait_blocked(server: Server, name: str) -> None:
    until(lambda: server.is_blocked(name), f"{name} is blocked; the log:\n{server.log}")


def state(server: Server, name: str) -> dict[str, Any]:
    """What `tampah lists` says of a list."""
    states = list_states(load(server.config_path), server.status())
    [found] = [found for found in states if found.list == name]
    return found.to_json()


def test_a_cold_start_without_a_network(tmp_path: Path, upstream: FakeUpstream) -> None:
    maintainer = ListServer()  # which nobody has switched on yet
    (tmp_path / "own.txt").write_text("own.example\n")
    given = config(maintainer, refresh="1s")
    given["lists"].append({"name": "own", "source": "own.txt"})
    with Server(tmp_path, given, upstream=upstream.port) as server:
        assert server.is_blocked("own.example")
        assert not server.is_blocked("ads.example")
        until(lambda: state(server, "ads")["failures"], "the source was tried")
        ads = state(server, "ads")
        assert ads["state"] == "waiting" and "Connection refused" in ads["error"]
        assert "waiting for the first copy" in server.log
        maintainer.serve("/ads.txt", Document(ADS))
        maintainer.serve("/malware.txt", Status(404))
        with maintainer:
            wait_blocked(server, "ads.example")  # with no command
            assert server.is_blocked("own.example")
        ads = state(server, "ads")
        assert ads["state"] == "read" and ads["names"] == 1 and ads["source"] == maintainer.url("/ads.txt")


FAULTS: list[tuple[str, Act, str]] = [
    ("404", Status(404), "HTTP 404"),
    ("500", Status(500), "HTTP 500"),
    ("no answer", Silence(), "no answer within"),
    ("no HTTP", Octets(b"SSH-2.0-OpenSSH\r\n\r\n"), "illegal"),
    ("body stalls", Document(BIG, cut=1000, stall=True), "no further octets"),
    ("body cut", Document(BIG, cut=1000), "peer closed"),
    ("body cut, chunked", Document(BIG, cut=1000, chunked=True), "peer closed"),
    ("redirect loop", Status(302, {"Location": "/ads.txt"}), "redirect loop"),
    ("slow drip", Document(BIG, cut=10, drip=0.1), "not done after"),
    ("too large", Document(BIG * 4), "max_size"),
    ("HTML", Document(PAGE, content_type="text/html"), "a page in HTML"),
    ("empty", Document(b""), "empty list"),
    ("wrong checksum", Document(BIG), "its checksum says"),
]


def sum_of(body: bytes) -> Document:
    return Document(hashlib.sha256(body).hexdigest().encode())


def test_no_fault_of_a_source_changes_what_is_enforced(
    tmp_path: Path, maintainer: ListServer, upstream: FakeUpstream
) -> None:
    """And the other list is renewed each time."""
    given = config(maintainer, max_size="200kB", max_grow=False, checksum=maintainer.url("/sum"))
    maintainer.serve("/sum", sum_of(ADS))
    with Server(tmp_path, given, upstream=upstream.port) as server:
        wait_blocked(server, "ads.example")
        for number, (name, act, says) in enumerate(FAULTS):
            right = isinstance(act, Document) and name != "wrong checksum"
            maintainer.serve("/sum", sum_of(act.body if right and isinstance(act, Document) else b"another"))
            maintainer.serve("/ads.txt", act)
            if number % 3 == 0:
                maintainer.serve("/malware.txt", Document(b"malware.example\nnew%d.example\n" % number))
            [fault] = fetch(server)
            assert says in fault and fault.startswith("lists.ads: http://"), name
            assert server.is_blocked("ads.example") and server.is_blocked(f"new{number // 3 * 3}.example"), name
        assert not server.is_blocked("name1.example")
        metrics = server.metrics()
        failures = metrics["tampah_source_failures", "ads"]  # the schedule may have tried once more
        assert failures == metrics["tampah_source_fetches_total", "ads", "failed"] >= len(FAULTS)
        assert metrics["tampah_source_failures", "malware"] == 0
        assert metrics["tampah_source_fetches_total", "malware", "changed"] == len(FAULTS[::3]) + 1
        assert metrics["tampah_source_age_seconds", "ads"] > metrics["tampah_source_age_seconds", "malware"]
        ads = state(server, "ads")
        assert ads["failures"] >= len(FAULTS) and ads["next"] and "its checksum says" in ads["error"]
        maintainer.serve("/sum", sum_of(BIG))
        maintainer.serve("/ads.txt", Document(BIG))
        assert fetch(server) == []
        assert server.is_blocked("name1.example") and not server.is_blocked("ads.example")
        assert state(server, "ads")["error"] == ""
        said = [line for line in server.log.splitlines() if " fetcher: " in line]
        assert len(said) == 2 and "HTTP 404" in said[0] and "is back after" in said[1], said


def test_no_fault_of_connection_or_certificate_does_either(tmp_path: Path, upstream: FakeUpstream) -> None:
    authority = Authority(tmp_path)
    contexts = [
        authority.context("localhost"),
        authority.context("other.example"),
        authority.context("localhost", days=-1),
    ]
    contexts.append(Authority(tmp_path, "Someone else").context("localhost"))
    with ListServer(contexts[0]) as good:
        good.serve("/ads.txt", Document(ADS))
        given = config(good)
        given["fetch"]["ca"] = authority.path.name
        given["lists"] = [{"name": "ads", "source": good.url("/ads.txt", "localhost")}]
        with Server(tmp_path, given, upstream=upstream.port) as server:
            wait_blocked(server, "ads.example")
            good.serve("/ads.txt", Status(404))

            def says(source: str, text: str) -> None:
                # Another source is another list to fetch, and until it has come the last run serves.
                server.configure(lists=[{"name": "ads", "source": source}])
                [fault] = fetch(server)
                assert text in fault, fault
                assert server.is_blocked("ads.example")

            for context, text in zip(contexts[1:], ("not valid for", "has expired", "local issuer"), strict=True):
                with ListServer(context) as bad:
                    bad.serve("/ads.txt", Document(BIG))
                    says(bad.url("/ads.txt", "localhost"), text)
            with ListServer(silent_tls=True) as bad:
                says(bad.url("/ads.txt"), "no TLS handshake within")
            with full_backlog() as port:
                says(f"http://127.0.0.1:{port}/ads.txt", "no connection within")


def test_the_schedule_renews_lists_and_only_what_is_new_is_sent(
    tmp_path: Path, maintainer: ListServer, upstream: FakeUpstream
) -> None:
    with Server(tmp_path, config(maintainer, refresh="1s"), upstream=upstream.port) as server:
        wait_blocked(server, "ads.example")
        until(lambda: [r.status for r in maintainer.asked("/ads.txt")][:2] == [200, 304], "it was asked again")
        assert len(maintainer.asked("/malware.txt")) == 1
        generation = server.status()["generation"]
        maintainer.serve("/ads.txt", Document(BIG, etag='"2"', cut=30_000), Document(BIG, etag='"2"'))
        wait_blocked(server, "name4999.example")
        assert server.status()["generation"] == generation + 1
        statuses = [(r.status, r.sent) for r in maintainer.asked("/ads.txt") if r.sent]
        assert statuses == [(200, len(ADS)), (200, 30_000), (206, len(BIG) - 30_000)]
        with ListServer() as mirror:
            mirror.serve("/copy.txt", Document(b"mirrored.example\n"))
            maintainer.serve("/ads.txt", Status(500))
            given = config(maintainer, refresh="1s", mirrors=[mirror.url("/copy.txt")])
            server.configure(lists=given["lists"])
            wait_blocked(server, "mirrored.example")


def test_a_restart_needs_no_source_and_the_fetcher_is_started_again(
    tmp_path: Path, maintainer: ListServer, upstream: FakeUpstream
) -> None:
    with Server(tmp_path, config(maintainer), upstream=upstream.port) as server:
        wait_blocked(server, "ads.example")
        wait_blocked(server, "malware.example")
    generation = json.loads((tmp_path / "state" / "current.json").read_text())["generation"]
    maintainer.seen.clear()
    with Server(tmp_path, config(maintainer, refresh="1s"), upstream=upstream.port) as server:
        assert server.is_blocked("ads.example")
        maintainer.serve("/ads.txt", Document(b"second.example\n"))
        wait_blocked(server, "second.example")
        assert maintainer.asked("/malware.txt") == []  # not due for a day
        [pid] = server.helper_pids("resolver.fetch.process")
        kill(pid)
        maintainer.serve("/ads.txt", Document(b"third.example\n"))
        wait_blocked(server, "third.example")
        assert "the fetcher ended (" in server.log
        [pid] = server.helper_pids("resolver.fetch.process")
        workers = server.worker_pids()
        server.stop(signal.SIGKILL)
        until(lambda: not is_alive(pid), "the fetcher ends with its supervisor")
        for worker in workers:
            kill(worker)
    assert generation >= 1


def test_commands(tmp_path: Path, maintainer: ListServer, upstream: FakeUpstream) -> None:
    server = Server(tmp_path, config(maintainer), upstream=upstream.port)
    maintainer.serve("/malware.txt", Status(404))
    checked = server.tampah("check")
    assert checked.returncode == 1 and "ads: 1 names" in checked.stdout
    assert "lists.malware: " in checked.stderr and "HTTP 404" in checked.stderr
    assert not (tmp_path / "state").exists()
    compiled = server.tampah("compile")
    assert compiled.returncode == 1 and "ads: 1 names" in compiled.stdout and "HTTP 404" in compiled.stderr
    maintainer.seen.clear()
    maintainer.serve("/malware.txt", Document(b"malware.example\n"))
    assert server.tampah("compile").returncode == 0
    assert [request.path for request in maintainer.seen] == ["/malware.txt"]
    assert maintainer.url("/ads.txt") + ":1: " in server.tampah("explain", "ads.example").stdout
    with server:
        assert server.is_blocked("ads.example")
        maintainer.serve("/ads.txt", Document(b"new.example\n"))
        control.ask(server.state_dir / control.SOCKET, control.Reload(), 30)
        assert not server.is_blocked("new.example")
        assert server.tampah("reload", "--fetch").returncode == 0
        assert server.is_blocked("new.example")
        maintainer.serve("/ads.txt", Document(b"newer.example\n"))
        assert fetch(server, "malware") == []
        assert not server.is_blocked("newer.example")
        fetched = server.tampah("fetch", "ads")
        assert fetched.returncode == 0 and server.is_blocked("newer.example")
        maintainer.serve("/ads.txt", Document(b"newer.example\n||co.id^\n"))
        assert fetch(server, "ads") == []
        listed = server.tampah("lists").stderr
        assert f"{maintainer.url('/ads.txt')}:2: co.id is a public suffix" in listed and "||co.id^" in listed
        assert "it reads ||co.id^; quarantined: " in server.tampah("explain", "shop.co.id").stdout
        unknown = control.ask(server.state_dir / control.SOCKET, control.Reload(True, ("adz",)), 30)
        assert isinstance(unknown, control.Failed) and "adz: no list of the config" in unknown.text
        maintainer.serve("/ads.txt", Status(500))
        failed = server.tampah("fetch")
        assert failed.returncode == 1 and "lists.ads: " in failed.stderr and "HTTP 500" in failed.stderr
        assert "next\tsource\terror" in server.tampah("lists").stdout


@pytest.mark.peer("minisign")
def test_a_list_is_taken_only_if_its_maintainer_has_signed_it(
    tmp_path: Path, maintainer: ListServer, upstream: FakeUpstream
) -> None:
    good = ADS + b"good.example\n"
    signer = Signer(tmp_path / "signer")
    maintainer.serve("/ads.txt.minisig", Document(signer.sign(ADS)))
    given = config(maintainer, signature="auto", public_key=signer.public_key)
    given["fetch"] = {"timeout": "20s", "deadline": "60s"}
    with Server(tmp_path, given, upstream=upstream.port) as server:
        wait_blocked(server, "ads.example")
        maintainer.serve("/ads.txt", Document(b"bank.example\n"))
        [fault] = fetch(server)
        assert "its signature does not fit it" in fault and fault.startswith("lists.ads: http://")
        assert server.is_blocked("ads.example") and not server.is_blocked("bank.example")
        assert "its signature does not fit it" in state(server, "ads")["error"]
        assert server.metrics()["tampah_source_failures", "ads"] >= 1
        maintainer.serve("/ads.txt", Document(good))
        maintainer.serve("/ads.txt.minisig", Document(signer.sign(good, legacy=True)))
        assert fetch(server) == []
        assert server.is_blocked("good.example") and not state(server, "ads")["error"]
