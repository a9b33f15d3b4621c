"""Every upstream dead: what was asked before is still answered, what is blocked stays so, and recovery is quick.

TAMPAH_DEAD_SECONDS=60 keeps the upstreams dead for that long instead of a few seconds.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.edns
import dns.message

from tests.blackbox.harness import Server, until
from tests.fakes import Act, FakeUpstream, address_of

DEAD = float(os.environ.get("TAMPAH_DEAD_SECONDS", "4"))
NAMES = [f"n{number}.example" for number in range(60)]


def make(folder: Path, upstream: FakeUpstream, **config: object) -> Server:
    (folder / "ads.txt").write_text("ads.example\n")
    lists = [{"name": "ads", "source": "ads.txt"}]
    return Server(folder, {"lists": lists, "workers": 1, **config}, upstream=upstream.port)


def info_codes(answer: dns.message.Message) -> list[int]:
    return [int(option.code) for option in answer.options if isinstance(option, dns.edns.EDEOption)]


def timed(server: Server, name: str) -> tuple[str, dns.message.Message, float]:
    began = time.monotonic()
    return name, server.ask(name), time.monotonic() - began


def ask_the_dead(server: Server) -> None:
    end, askers = time.monotonic() + DEAD, ThreadPoolExecutor(len(NAMES))
    slowest, rounds = 0.0, 0
    while time.monotonic() < end or rounds < 2:
        for name, answer, seconds in askers.map(lambda name: timed(server, name), NAMES):
            slowest = max(slowest, seconds)
            assert [rr.to_text() for rr in answer.answer[0]] == [address_of(name)], name
            assert info_codes(answer) == [3] and answer.answer[0].ttl == 30
        assert server.is_blocked("ads.example")
        rounds += 1
    askers.shutdown()
    assert slowest < 2.5, "RFC 8767 section 5: clients give up later"
    assert server.total("tampah_cache_stale_answers_total") >= rounds * len(NAMES)


def test_names_asked_before_are_answered_while_every_upstream_is_dead(tmp_path: Path) -> None:
    upstream = FakeUpstream(script={name: [Act(ttl=1)] for name in NAMES})
    with upstream, make(tmp_path, upstream) as server:
        for name in NAMES:
            assert server.addresses(name) == [address_of(name)]
        time.sleep(1.1)  # every answer has expired
        answering = dict(upstream.script)
        upstream.script.clear()
        upstream.on("*", Act(drop=True))
        ask_the_dead(server)
        upstream.script.clear()
        upstream.script.update(answering)
        began = time.monotonic()
        until(lambda: not info_codes(server.ask(NAMES[0])), "a fresh answer", 30)
        assert time.monotonic() - began < 10, "some two seconds on a machine with nothing else to do"
        assert server.rcode("never.asked.example") == "NOERROR"


def test_the_cache_survives_a_restart_and_a_flush_empties_it(tmp_path: Path) -> None:
    with FakeUpstream() as upstream:
        server = make(tmp_path, upstream)
        with server:
            for name in NAMES[:20]:
                server.ask(name)
        asked = len(upstream.seen)
        with server:
            until(lambda: "answers of the last run are in the cache again" in server.log, "the cache of the last run")
            for name in NAMES[:20]:
                assert server.addresses(name) == [address_of(name)]
            assert len(upstream.seen) == asked, "nothing was asked again"
            assert server.tampah("flush", NAMES[0]).stdout == "1 cached answers forgotten\n"
            server.ask(NAMES[0])
            server.ask(NAMES[1])
            assert len(upstream.seen) == asked + 1
            assert server.tampah_json("flush", "--subtree", "example") == {"flushed": 20}
            assert server.tampah("flush", "--all").returncode == 0
            assert server.tampah("flush").returncode == 2 and server.tampah("flush", "a..b").returncode == 1
