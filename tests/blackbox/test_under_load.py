"""Reloads and killed workers while 20,000 queries a second come in: nothing is lost, nothing is wrong."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox.bulk import ask_all
from tests.blackbox.harness import Server, is_alive, kill, until
from tests.blackbox.test_lists import names_of, sources
from tests.fakes import FakeUpstream

pytestmark = pytest.mark.alone

RATE = 20_000  # queries a second
CHANGES = 9  # reloads
EVERY = 3.0  # seconds


class Dnsperf:
    """A run of dnsperf over alternating blocked (NXDOMAIN) and cached (NOERROR) names."""

    def __init__(self, folder: Path, port: int, blocked: list[str], *options: str) -> None:
        queries = folder / "queries"
        queries.write_text("".join(f"{name} A\nhost{at % 500}.example A\n" for at, name in enumerate(blocked)))
        self._process = subprocess.Popen(
            ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(queries), "-l", "200", "-Q", str(RATE),
             "-c", "16", "-q", "5000", *options],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def end(self) -> tuple[int, int, dict[str, int]]:
        """Stop asking; (sent, lost, how often each rcode came)."""
        assert self._process.poll() is None, "the load ended by itself"
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=30)
        sent, lost = (int(re.search(rf"Queries {word}:\s+(\d+)", output)[1]) for word in ("sent", "lost"))  # type: ignore[index]
        codes = re.search(r"Response codes:\s+(.*)", output)
        return sent, lost, {code: int(count) for code, count in re.findall(r"(\w+) (\d+)", codes[1] if codes else "")}


@pytest.fixture
def served(shared_lists: Path, tmp_path: Path) -> Iterator[tuple[Server, list[str]]]:
    """A server with a quarter of a million names, answered with NXDOMAIN, and some of the names."""
    files = sources(shared_lists)
    lists = [{"name": f"list{at}", "source": str(path), "category": "all"} for at, path in enumerate(files)]
    config = {
        "lists": [*lists, {"name": "live", "source": "live.txt", "category": "live"}],
        "categories": {"all": {"action": "nxdomain"}},
    }
    with FakeUpstream() as upstream:
        server = Server(tmp_path, config, upstream=upstream.port)
        server.write("live.txt", "first.live.example\n")
        with server:
            for _ in range(16):  # into each worker's cache, from many ports: the fake is no match for the load
                ask_all(server.port, [f"host{at}.example" for at in range(500)])
            yield server, names_of(files[0])[:20_000]


@pytest.mark.peer("dnsperf")
def test_reloads_lose_nothing(served: tuple[Server, list[str]], tmp_path: Path) -> None:
    server, names = served
    load = Dnsperf(tmp_path, server.port, names)
    took = []
    for change in range(CHANGES):
        new = f"new{change}.live.example"
        assert not server.is_blocked(new)
        server.write("live.txt", "".join(f"new{at}.live.example\n" for at in range(change + 1)))
        began = time.monotonic()
        report = server.tampah_json("reload")
        took.append(time.monotonic() - began)
        assert report["generation"] > 1
        assert server.is_blocked(new), "a worker does not enforce what 'tampah reload' said was in force"
        time.sleep(max(0.0, EVERY - (time.monotonic() - began)))
    sent, lost, codes = load.end()
    print(f"{sent} queries, {CHANGES} reloads; 'tampah reload' took", ", ".join(f"{seconds:.2f} s" for seconds in took))
    assert lost == 0
    assert set(codes) == {"NOERROR", "NXDOMAIN"}
    # They alternate, but for what dnsperf's 16 clients do with the last few and what was under way when it was told to end:
    # not one was answered otherwise.
    assert abs(codes["NOERROR"] - codes["NXDOMAIN"]) <= 32 + sent - sum(codes.values()), codes
    assert sent > RATE * CHANGES * EVERY * 0.5, "the machine was too slow for this to say anything"


@pytest.mark.peer("dnsperf")
def test_a_killed_worker_comes_back_and_the_others_answer_on(served: tuple[Server, list[str]], tmp_path: Path) -> None:
    server, names = served
    load = Dnsperf(tmp_path, server.port, names, "-t", "2")
    time.sleep(2)
    victim, other = server.worker_pids()
    kill(victim)
    back = until(
        lambda: [pid for pid in server.worker_pids() if pid not in (victim, other, 0)], "a new worker is there"
    )
    assert is_alive(other)
    assert is_alive(back[0])
    for _ in range(50):
        server.ask("host1.example", timeout=2)
    sent, lost, codes = load.end()
    print(f"{sent} queries, {lost} lost with the worker")
    # What the dead worker had read is gone with it, at most a batch, and what came while it was away waited for the next.
    assert lost <= 64 * 4
    assert set(codes) <= {"NOERROR", "NXDOMAIN", "SERVFAIL"}
