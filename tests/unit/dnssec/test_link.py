"""A worker's end of its validator, with the real process behind it and upstreams that say what a test has them say."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import dns.dnssec
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
import uvloop

from resolver import counters, spawn
from resolver.control import Trust
from resolver.dnssec import frames, link
from resolver.dnssec.frames import Asked, Frame, Judged, Kind
from resolver.dnssec.link import Checked
from resolver.upstream.message import Question, wire_name
from resolver.upstream.pool import Pool, Result, result_of
from resolver.vocabulary import EDE
from tests.unit.dnssec.signer import Signer

ZONE = Signer("example.", now=int(time.time()))
STRANGER = Signer("example.", now=int(time.time()))
TRUST = Trust((ZONE.ds().replace(" 3600 ", " "),))
WWW = wire_name("www.example")


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(coroutine, 60))


@dataclass(frozen=True)
class FakeServer:
    name: str


@dataclass(frozen=True)
class FakeHealth:
    server: FakeServer


@dataclass
class FakePool:
    """Servers in order; each answers by its signer, the first that is not asked last."""

    signers: dict[str, Signer]
    asked: list[tuple[str, Question]] = field(default_factory=list)
    rcode: int = 0
    silent: bool = False

    def route(self, route: int) -> list[FakeHealth]:
        return [FakeHealth(FakeServer(name)) for name in self.signers]

    def start(self, question: Question, route: int, done: Callable[[Result], None], **given: Any) -> None:
        last = given.get("last")
        names = sorted(self.signers, key=lambda name: last is not None and name == last.name)
        self.asked.append((names[0], question))
        asyncio.get_running_loop().call_soon(done, self.answer(names[0], question))

    def answer(self, server: str, question: Question) -> Result:
        if self.silent:
            return Result(None, EDE.NO_REACHABLE_AUTHORITY, "silence")
        signer = self.signers[server]
        rdtype = dns.rdatatype.RdataType.make(question.qtype)
        name = ".".join(part.decode() for part in _labels(question.qname)) + "."
        reply = dns.message.make_response(dns.message.make_query(name, rdtype, want_dnssec=True))
        reply.set_rcode(dns.rcode.Rcode(self.rcode))
        reply.flags |= dns.flags.AD
        reply.answer = signer.keys() if rdtype == dns.rdatatype.DNSKEY else signer.sign(f"{name} 300 A 192.0.2.1")
        return Result(reply.to_wire(max_size=65535), server=server)


def _labels(qname: bytes) -> list[bytes]:
    found, at = [], 0
    while qname[at]:
        found.append(qname[at + 1 : at + 1 + qname[at]])
        at += qname[at] + 1
    return found


def checked_by(pool: FakePool, words: memoryview | None = None) -> Checked:
    return Checked(cast(Pool, pool), words)


async def ask(checked: Checked, question: Question, route: int = 0) -> Result:
    return await result_of(lambda done: checked.start(question, route, done))


def has_ad(result: Result) -> bool:
    assert result.answer is not None
    return bool(result.answer[3] & 0x20)


def types(result: Result) -> list[str]:
    assert result.answer is not None
    return [rrset.rdtype.name for rrset in dns.message.from_wire(result.answer).answer]


def test_one_exchange_serves_clients_with_and_without_do() -> None:
    async def main() -> None:
        words = memoryview(bytearray(counters.SIZE)).cast("Q")
        pool = FakePool({"a": ZONE})
        checked = checked_by(pool, words)
        assert checked.reconfigure(TRUST) and not checked.reconfigure(TRUST)
        whole, plain = await asyncio.gather(
            ask(checked, Question(WWW, 1, do=True)), ask(checked, Question(WWW, 1, do=False))
        )
        assert has_ad(whole) and has_ad(plain)
        assert types(whole) == ["A", "RRSIG"] and types(plain) == ["A"]
        assert [question.qtype for _, question in pool.asked] == [1, 48]
        assert all(question.do and question.cd for _, question in pool.asked)
        assert list(counters.SECTIONS["dnssec"].of(words))[:4] == [1, 0, 0, 0]
        await checked.close()

    run(main())


def test_what_is_not_checked_goes_by_without_ad() -> None:
    async def main() -> None:
        pool = FakePool({"a": STRANGER})
        checked = checked_by(pool)
        assert has_ad(await ask(checked, Question(WWW, 1))), "off: the upstream's word counts"
        checked.reconfigure(Trust(TRUST.anchors, ("below.example", "other")))
        for question in (
            Question(WWW, 1, cd=True),
            Question(wire_name("other"), 1),
            Question(wire_name("a.below.example"), 1),
        ):
            assert not has_ad(await ask(checked, question)) and pool.asked[-1][1] == question
        assert (await ask(checked, Question(WWW, 1))).ede == EDE.DNSKEY_MISSING
        pool.rcode = 5
        assert not has_ad(await ask(checked, Question(wire_name("refused.example"), 1)))
        pool.silent = True
        silent = await ask(checked, Question(wire_name("silent.example"), 1))
        assert silent.answer is None and silent.ede == EDE.NO_REACHABLE_AUTHORITY
        checked.reconfigure(Trust(TRUST.anchors, ("",)))
        pool.silent, pool.rcode = False, 0
        assert not has_ad(await ask(checked, Question(WWW, 1))), "the root is exempt, so everything is"
        await checked.close()

    run(main())


def test_another_server_is_asked_where_one_gives_what_is_bogus() -> None:
    async def main() -> None:
        pool = FakePool({"liar": STRANGER, "honest": ZONE})
        checked = checked_by(pool)
        checked.reconfigure(TRUST)
        result = await ask(checked, Question(WWW, 1, do=True))
        assert has_ad(result) and result.server == "honest"
        assert [(server, question.qtype) for server, question in pool.asked] == [
            ("liar", 1),
            ("liar", 48),
            ("honest", 1),
            ("honest", 48),
        ]
        await checked.close()
        both = FakePool({"liar": STRANGER, "other": STRANGER})
        checked = checked_by(both)
        checked.reconfigure(TRUST)
        assert (await ask(checked, Question(WWW, 1, do=True))).ede == EDE.DNSKEY_MISSING
        assert [server for server, question in both.asked if question.qtype == 1] == ["liar", "other"], (
            "once more, no more"
        )
        await checked.close()

    run(main())


def test_a_change_of_trust_has_what_is_under_way_looked_at_again() -> None:
    async def main() -> None:
        pool = FakePool({"a": ZONE})
        checked = checked_by(pool)
        before = asyncio.ensure_future(ask(checked, Question(WWW, 1)))  # under way when it is switched on
        await asyncio.sleep(0)
        checked.reconfigure(Trust((STRANGER.ds().replace(" 3600 ", " "),)))
        assert (await before).ede == EDE.DNSKEY_MISSING
        under_way = asyncio.ensure_future(ask(checked, Question(WWW, 1)))
        await asyncio.sleep(0)
        checked.reconfigure(TRUST)
        assert has_ad(await under_way)
        under_way = asyncio.ensure_future(ask(checked, Question(WWW, 1, do=True)))
        await asyncio.sleep(0)
        checked.reconfigure(Trust())
        assert has_ad(await under_way), "off again: as the upstream says"
        await checked.close()

    run(main())


@pytest.mark.parametrize(
    "program", ["pass", "import time; time.sleep(60)", "import os, sys; os.write(int(sys.argv[1]), b'x' * 100)"]
)
def test_without_a_validator_nothing_is_given(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(spawn, "command", lambda module, fd: [sys.executable, "-c", program, fd])
    monkeypatch.setattr(link, "PATIENCE", 2.0)
    monkeypatch.setattr(link, "HANG", 0.5)
    monkeypatch.setattr(link, "LOOK", 0.1)

    async def main() -> None:
        checked = checked_by(FakePool({"a": ZONE}))
        checked.reconfigure(TRUST)
        result = await ask(checked, Question(WWW, 1))
        assert result.answer is None and result.ede == EDE.DNSSEC_INDETERMINATE
        monkeypatch.undo()
        while (again := await ask(checked, Question(WWW, 1))).answer is None:  # the next one is as it should be
            assert again.ede == EDE.DNSSEC_INDETERMINATE
        assert has_ad(again)
        await checked.close()

    run(main())


def test_too_many_at_a_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "MOST", 3)

    async def main() -> None:
        checked = checked_by(FakePool({"a": ZONE}))
        checked.reconfigure(TRUST)
        names = [wire_name(f"n{at}.example") for at in range(10)]
        results = await asyncio.gather(*(ask(checked, Question(name, 1)) for name in names))
        refused = [result for result in results if result.answer is None]
        assert len(refused) == 7
        assert {(result.ede, result.text) for result in refused} == {
            (EDE.DNSSEC_INDETERMINATE, "too many answers to check")
        }
        assert has_ad(await ask(checked, Question(WWW, 1)))
        await checked.close()

    run(main())


def test_a_waiter_that_fails_keeps_no_other_from_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        checked = checked_by(FakePool({"a": ZONE}))
        checked.reconfigure(TRUST)

        def fail(result: Result) -> None:
            raise RuntimeError("a fault of ours")

        checked.start(Question(WWW, 1), 0, fail)
        assert has_ad(await ask(checked, Question(WWW, 1)))
        await checked.close()

    run(main())
    assert "an answer could not be given" in caplog.text


# -- frames -----------------------------------------------------------------------------------------------------------


def test_frames_come_out_whole_however_they_come_in() -> None:
    asked = Asked(7, True, 65, WWW)
    sent = [
        Frame(Kind.CHECK, 1, frames.put_question(asked) + b"answer"),
        Frame(Kind.PING, 0, b""),
        Frame(Kind.VERDICT, 2**32 - 1, frames.put_verdict(Judged(2, -1, "ü" * 150, b"whole", b"plain"))),
    ]
    octets = b"".join(frames.frame(*frame) for frame in sent)
    for step in (1, 7, len(octets)):
        parser = frames.Parser()
        got = [f for at in range(0, len(octets), step) for f in parser.feed(octets[at : at + step])]
        assert got == sent
    assert frames.take_question(sent[0].body) == (asked, b"answer")
    judged = frames.take_verdict(sent[2].body)
    assert judged == Judged(2, -1, "ü" * 100, b"whole", b"plain")


@pytest.mark.parametrize("octets", [b"\xff" * 9, b"\0\0\0\0\x63\0\0\0\0"])
def test_what_is_no_frame(octets: bytes) -> None:
    with pytest.raises(ValueError, match=r"frame|Kind"):
        list(frames.Parser().feed(octets))


def test_bodies_that_are_cut_short() -> None:
    with pytest.raises(ValueError, match="a name without an end"):
        frames.take_question(frames.put_question(Asked(0, False, 1, WWW))[:-1])
    with pytest.raises(ValueError, match="cut short"):
        frames.take_verdict(frames.put_verdict(Judged(0, 0, "", b"whole", b""))[:-1])
