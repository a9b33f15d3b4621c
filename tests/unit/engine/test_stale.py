"""What serves when nobody answers: expired answers, kept failures, early renewal, and what is forgotten by name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from resolver.engine.engine import PUNT, PUNT_FORWARD, PUNT_REFRESH, REPLY
from resolver.vocabulary import EDE, Transport
from tests.unit.engine.world import CLIENT, World, block, query, reply_to

STALE = 7  # in the cache's section of the counters


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, block("blocked.example"), routes={"corp.example": 1})
    made.engine.configure_cache(max_ttl=86400, min_ttl=0, negative_ttl=3600, stale_ttl=60, prefetch=True)
    return made


def learn(world: World, name: str, *records: str, age: int = 0, **options: Any) -> dns.message.Message:
    """Have the engine keep an answer that came `age` seconds ago."""
    asked = query(name)
    message = reply_to(asked, *(records or (f"{name}. 5 A 192.0.2.1",)), **options)
    if age:
        key = world.punt(asked).question
        assert world.engine.keep(key, age, message)
    else:
        assert world.engine.learn(world.punt(asked), message)
    return asked


def infos(message: dns.message.Message) -> list[tuple[int, str | None]]:
    return [(int(o.code), o.text) for o in message.options if isinstance(o, dns.edns.EDEOption)]


def read(reply: bytes | None) -> dns.message.Message:
    assert reply is not None
    return dns.message.from_wire(reply)


def test_an_expired_answer_serves_only_once_upstream_has_failed(world: World) -> None:
    asked = learn(world, "www.example", age=20)
    verdict, _ = world.answer(asked.to_wire())
    [punt] = world.engine.take_punts()
    assert verdict == PUNT and punt.reason == PUNT_FORWARD and world.engine.has_stale(punt)
    first = read(world.engine.finish(punt, None, EDE.NETWORK_ERROR, "no luck")[1])
    assert first.answer[0].to_text() == "www.example. 30 IN A 192.0.2.1" and infos(first) == [(EDE.STALE_ANSWER, None)]
    world.engine.fail(punt, EDE.NETWORK_ERROR)
    again = world.ask("www.example")
    assert again.answer[0].ttl == 30 and infos(again) == [(EDE.STALE_ANSWER, None)]
    assert world.count("cache", STALE) == 2


def test_a_servers_error_is_worth_less_than_what_is_kept(world: World) -> None:
    asked = learn(world, "www.example", age=20)
    punt = world.punt(asked)
    error = reply_to(asked, rcode=dns.rcode.SERVFAIL)
    assert not world.engine.learn(punt, error)
    assert read(world.engine.finish(punt, error)[1]).answer
    assert world.ask("www.example").answer, "and it stays"


def test_a_stale_denial_says_so(world: World) -> None:
    asked = query("no.example")
    denial = reply_to(asked, rcode=dns.rcode.NXDOMAIN, soa="example. 5 SOA a. b. 1 2 3 4 5")
    assert world.engine.keep(world.punt(asked).question, 10, denial)
    punt = world.punt(asked)
    got = read(world.engine.finish(punt, None, EDE.NETWORK_ERROR)[1])
    assert got.rcode() == dns.rcode.NXDOMAIN and infos(got) == [(EDE.STALE_NXDOMAIN, None)]
    assert got.authority[0].ttl == 30


def test_what_is_too_old_does_not_serve(world: World) -> None:
    asked = learn(world, "www.example", age=64)
    punt = world.punt(asked)
    assert world.engine.has_stale(punt)
    world.engine.configure_cache(max_ttl=86400, min_ttl=0, negative_ttl=3600, stale_ttl=30)
    assert not world.engine.has_stale(punt)
    assert read(world.engine.finish(punt, None, EDE.NETWORK_ERROR)[1]).rcode() == dns.rcode.SERVFAIL


def test_a_stale_answer_is_inspected_and_blocked_by_the_policy_of_now(world: World) -> None:
    learn(world, "www.example", age=20)
    world.engine.fail(world.punt(query("www.example")), EDE.NETWORK_ERROR)
    world.build(block("www.example"))
    assert world.ask("www.example").answer[0].to_text().endswith("A 0.0.0.0")


def test_what_serves_expired_is_asked_anew_each_second_and_then_fresh(world: World) -> None:
    asked = learn(world, "www.example", age=20)
    world.engine.fail(world.punt(asked), EDE.NETWORK_ERROR)
    time.sleep(1.1)
    reasons = []
    for _ in range(5):
        assert world.engine.answer(asked.to_wire(), CLIENT, Transport.TCP, token=print)[0] == REPLY
        reasons += [punt.reason for punt in world.engine.take_punts()]
    assert reasons in ([PUNT_REFRESH], [PUNT_REFRESH] * 2), "one a second"
    assert world.engine.learn(world.punt_elsewhere(asked.to_wire()), reply_to(asked, "www.example. 60 A 192.0.2.9"))
    fresh = world.ask("www.example")
    assert fresh.answer[0][0].address == "192.0.2.9" and not infos(fresh)


def test_a_popular_answer_is_renewed_in_its_last_tenth(world: World) -> None:
    popular = learn(world, "www.example", "www.example. 100 A 192.0.2.1", age=92)
    seldom = learn(world, "seldom.example", "seldom.example. 100 A 192.0.2.1", age=92)
    young = learn(world, "young.example", "young.example. 100 A 192.0.2.1", age=80)
    for asked, times in ((seldom, 1), (young, 9), (popular, 9)):
        for _ in range(times):
            assert world.engine.answer(asked.to_wire(), CLIENT, Transport.TCP, token=print)[0] == REPLY
    punts = world.engine.take_punts()
    assert [(punt.reason, punt.qname) for punt in punts] == [(PUNT_REFRESH, b"\3www\7example\0")]
    world.engine.configure_cache(max_ttl=86400, min_ttl=0, negative_ttl=3600, prefetch=False)
    learn(world, "other.example", "other.example. 100 A 192.0.2.1", age=92)
    for _ in range(9):
        world.engine.answer(query("other.example").to_wire(), CLIENT, Transport.TCP, token=print)
    assert not world.engine.take_punts()


def test_failures_are_kept_ever_longer(world: World) -> None:
    asked = query("broken.example")
    lived = []
    punt = world.punt(asked)
    for _ in range(3):
        assert world.engine.learn(punt, reply_to(asked, rcode=dns.rcode.REFUSED))
        got = world.ask("broken.example")
        assert got.rcode() == dns.rcode.REFUSED and infos(got) == [(EDE.CACHED_ERROR, None)]
        began = time.monotonic()
        while world.answer(asked.to_wire())[0] == REPLY:
            time.sleep(0.01)
        lived.append(time.monotonic() - began)
        world.engine.take_punts()
    assert 0 < lived[0] <= 1.5 and 0.9 < lived[1] <= 2.5 and 2.9 < lived[2] <= 4.5, "1, 2, 4 seconds of a coarse clock"


def test_that_nobody_answers_is_kept_for_a_second(world: World) -> None:
    asked = query("www.example", "AAAA")
    punt = world.punt(asked)
    world.engine.fail(punt, EDE.NO_REACHABLE_AUTHORITY)
    got = world.ask("www.example", "AAAA")
    assert got.rcode() == dns.rcode.SERVFAIL and infos(got) == [(EDE.NO_REACHABLE_AUTHORITY, None)]
    assert world.answer(query("www.example").to_wire())[0] == PUNT, "another question"
    assert world.engine.learn(punt, reply_to(asked, "www.example. 60 AAAA 2001:db8::1"))
    assert world.ask("www.example", "AAAA").answer


def test_flush_by_name_by_subtree_and_of_everything(world: World) -> None:
    names = ("example", "www.example", "a.www.example", "xwww.example", "other.test")
    for name in names:
        learn(world, name, f"{name}. 60 A 192.0.2.1")
    assert world.engine.flush("WWW.example") == 1
    left = {name for name in names if world.answer(query(name).to_wire())[0] == REPLY}
    assert left == {"example", "a.www.example", "xwww.example", "other.test"}
    learn(world, "www.example", "www.example. 60 A 192.0.2.1")
    assert world.engine.flush("www.example", subtree=True) == 2
    assert world.engine.flush("", subtree=True) == 3
    assert world.engine.flush() == 0
    with pytest.raises(ValueError, match="no name"):
        world.engine.flush("a..b")


def test_flush_finds_everything_in_a_cache_that_has_gone_round(tmp_path: Path) -> None:
    world = World(tmp_path, block("blocked.example"), cache_bytes=1 << 20)
    for number in range(12_000):
        name = f"n{number}.{'even' if number % 2 == 0 else 'odd'}.example"
        learn(world, name, f"{name}. 60 A 192.0.2.1")
    kept = len(world.engine.kept())
    odd = world.engine.flush("odd.example", subtree=True)
    assert 0 < odd < kept < 12_000
    assert len(world.engine.kept()) == kept - odd
    assert not any(b"\3odd\7example\0" in key for key, _, _ in world.engine.kept())
    assert world.engine.flush("example", subtree=True) == kept - odd


def test_what_was_kept_comes_back_and_nothing_else_does(world: World, tmp_path: Path) -> None:
    learn(world, "www.example", "www.example. 60 A 192.0.2.1")
    learn(world, "old.example", age=20)
    asked = query("signed.example", do=True, cd=True)
    assert world.engine.learn(world.punt(asked), reply_to(asked, "signed.example. 60 A 192.0.2.2"))
    world.engine.fail(world.punt(query("broken.example")), EDE.NETWORK_ERROR)
    kept = world.engine.kept()
    assert len(kept) == 3
    after = World(tmp_path, block("blocked.example"))
    after.engine.configure_cache(max_ttl=86400, min_ttl=0, negative_ttl=3600, stale_ttl=60)
    assert [after.engine.keep(*entry) for entry in kept] == [True] * 3
    assert [after.engine.keep(*entry) for entry in kept] == [False] * 3, "it knows as much already"
    assert after.ask("www.example").answer[0].ttl in (59, 60)
    assert (
        after.ask("signed.example", do=True, cd=True).answer and not after.answer(query("signed.example").to_wire())[1]
    )
    assert after.engine.has_stale(after.punt(query("old.example")))
    key, age, message = kept[0]
    for wrong in (
        (b"", age, message),
        (key[:-1], age, message),
        (b"\x3f" + key[1:], age, message),
        (key, 10**6, message),
        (key, age, message[:-1]),
        (key, age, b""),
        (kept[1][0], age, message),
    ):
        after.engine.flush()
        assert not after.engine.keep(*wrong)


# -- what DNSSEC found -----------------------------------------------------------------------------------------------------


def signed_query(name: str) -> dns.message.Message:
    return dns.message.make_query(name, "A", want_dnssec=True)


def test_what_is_stale_is_not_authentic(world: World) -> None:
    asked = signed_query("www.example")
    message = bytearray(reply_to(asked, "www.example. 5 A 192.0.2.1"))
    message[3] |= 0x20
    punt = world.punt(asked)
    key = punt.question
    assert world.engine.keep(key, 1, bytes(message))
    assert read(world.answer(asked.to_wire())[1]).flags & dns.flags.AD
    world.engine.flush()
    assert world.engine.keep(key, 20, bytes(message))
    world.engine.fail(punt, EDE.NETWORK_ERROR)
    stale = read(world.answer(asked.to_wire())[1])
    assert infos(stale) == [(EDE.STALE_ANSWER, None)] and not stale.flags & dns.flags.AD


def test_that_an_answer_is_bogus_is_kept_longer_each_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = query("www.example")
    punt = world.punt(asked)
    for _ in range(3):  # 1, 2, 4 seconds
        world.engine.fail(punt, EDE.DNSSEC_BOGUS)
    began = time.monotonic()
    failed = world.ask("www.example")
    assert failed.rcode() == dns.rcode.SERVFAIL and infos(failed) == [(EDE.DNSSEC_BOGUS, None)]
    while world.answer(asked.to_wire())[0] == REPLY:
        assert time.monotonic() - began < 20
        time.sleep(0.05)
    assert time.monotonic() - began > 2
