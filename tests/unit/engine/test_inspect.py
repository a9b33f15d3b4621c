"""Answers are inspected: a listed name is blocked behind an alias or a service's target too, for whom its list is."""

from __future__ import annotations

from pathlib import Path

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from resolver.engine.engine import PUNT, REPLY, SuffixTable
from resolver.lists.matrix import GroupPolicy
from resolver.overlay import ALLOW, BLOCK, Entry, words
from resolver.vocabulary import Action, Transport
from tests.unit.engine.world import World, allow, block, client

CHAIN = (
    "www.shop.example. 300 IN CNAME shop.cdn.example.",
    "shop.cdn.example. 300 IN CNAME x.tracker.example.",
    "x.tracker.example. 300 IN A 192.0.2.9",
)


def answered(
    world: World, name: str, qtype: str, *records: str, address: str = "127.0.0.1", learn: bool = True
) -> dns.message.Message:
    """What a client gets when the upstream says `records`: kept first, then asked from the cache; else given once."""
    query = dns.message.make_query(name, qtype, use_edns=0)
    verdict, reply = world.engine.answer(query.to_wire(), client(address), Transport.TCP)
    if verdict == PUNT:
        [punt] = world.engine.take_punts()
        upstream = dns.message.make_response(query, recursion_available=True)
        for owner, ttl, _, kind, data in (line.split(None, 4) for line in records):
            upstream.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
        if learn:
            assert world.engine.learn(punt, upstream.to_wire())
        verdict, reply = world.engine.finish(punt, upstream.to_wire())
    assert verdict == REPLY and reply is not None
    return dns.message.from_wire(reply)


def is_blocked(message: dns.message.Message) -> bool:
    return [item.to_text() for rrset in message.answer for item in rrset] == ["0.0.0.0"]


def test_an_alias_of_a_listed_name_is_blocked_the_first_time_and_from_the_cache(tmp_path: Path) -> None:
    world = World(tmp_path, block("tracker.example"))
    first = answered(world, "www.shop.example", "A", *CHAIN)
    assert is_blocked(first)
    assert b"list blocks" in first.options[0].to_wire()
    assert is_blocked(answered(world, "www.shop.example", "A"))
    assert not is_blocked(answered(world, "other.example", "A", "other.example. 300 IN A 192.0.2.1"))


def test_an_answer_that_is_not_kept_is_inspected_too(tmp_path: Path) -> None:
    world = World(tmp_path, block("tracker.example"))
    assert is_blocked(answered(world, "www.shop.example", "A", *CHAIN, learn=False))


def test_a_reload_inspects_what_is_cached_anew(tmp_path: Path) -> None:
    world = World(tmp_path, block("else.example"))
    assert len(answered(world, "www.shop.example", "A", *CHAIN).answer) == 3
    world.build(block("cdn.example"))
    assert is_blocked(answered(world, "www.shop.example", "A"))
    world.build(block("else.example"))
    assert len(answered(world, "www.shop.example", "A").answer) == 3, "and the kept answer is whole"


def test_allowing_the_name_frees_its_chain(tmp_path: Path) -> None:
    world = World(tmp_path, block("tracker.example"), allow("shop.example"))
    assert len(answered(world, "www.shop.example", "A", *CHAIN).answer) == 3


def test_an_important_block_of_a_target_outranks_an_allow_of_the_name(tmp_path: Path) -> None:
    world = World(tmp_path, block("tracker.example", important=True), allow("shop.example"))
    assert is_blocked(answered(world, "www.shop.example", "A", *CHAIN))


def test_the_cache_serves_groups_that_see_other_lists(tmp_path: Path) -> None:
    free = GroupPolicy("free", lists=frozenset())
    world = World(tmp_path, block("tracker.example"), groups=[(free, ["10.0.0.0/8"])])
    assert is_blocked(answered(world, "www.shop.example", "A", *CHAIN))
    assert len(answered(world, "www.shop.example", "A", address="10.1.2.3").answer) == 3
    assert is_blocked(answered(world, "www.shop.example", "A"))


@pytest.mark.parametrize(
    ("qtype", "records"),
    [
        ("HTTPS", ["svc.example. 300 IN HTTPS 1 x.tracker.example. alpn=h2"]),
        ("SVCB", ["svc.example. 300 IN SVCB 0 TRACKER.example."]),
        (
            "A",
            [
                "example. 300 IN DNAME tracker.example.",
                "svc.example. 300 IN CNAME svc.tracker.example.",
                "svc.tracker.example. 300 IN A 192.0.2.7",
            ],
        ),
    ],
)
def test_service_targets_and_subtree_aliases_count(tmp_path: Path, qtype: str, records: list[str]) -> None:
    world = World(tmp_path, block("tracker.example", action=Action.NXDOMAIN))
    assert answered(world, "svc.example", qtype, *records).rcode() == 3


def say(world: World, *said: tuple[str, int]) -> None:
    """What operators say of names, the oldest first."""
    entries = [Entry(name, word, made) for made, (name, word) in enumerate(said, 1)]
    world.engine.set_overlay(SuffixTable(words(entries, 0.0)) if entries else None)


def test_an_operators_word_on_a_target_acts_on_what_is_cached_and_can_be_taken_back(tmp_path: Path) -> None:
    world = World(tmp_path, block("else.example"))
    assert len(answered(world, "www.shop.example", "A", *CHAIN).answer) == 3
    for _ in range(2):
        say(world, ("tracker.example", BLOCK))
        assert is_blocked(answered(world, "www.shop.example", "A"))
        say(world)
        assert len(answered(world, "www.shop.example", "A").answer) == 3


def test_an_operators_allow_of_a_target_outranks_a_list_that_blocks_it(tmp_path: Path) -> None:
    world = World(tmp_path, block("tracker.example", important=True))
    assert is_blocked(answered(world, "www.shop.example", "A", *CHAIN))
    say(world, ("x.tracker.example", ALLOW))
    assert len(answered(world, "www.shop.example", "A").answer) == 3


@pytest.mark.parametrize(
    ("said", "blocked"),
    [
        ((("tracker.example", BLOCK), ("shop.example", ALLOW)), False),
        ((("shop.example", ALLOW), ("tracker.example", BLOCK)), True),
        ((("cdn.example", ALLOW), ("tracker.example", BLOCK)), True),
        ((("tracker.example", BLOCK), ("cdn.example", ALLOW)), False),
    ],
)
def test_of_the_operators_words_along_a_chain_the_newest_speaks(
    tmp_path: Path, said: tuple[tuple[str, int], ...], blocked: bool
) -> None:
    world = World(tmp_path, block("else.example"))
    say(world, *said)
    assert is_blocked(answered(world, "www.shop.example", "A", *CHAIN)) == blocked
    assert is_blocked(answered(world, "www.shop.example", "A")) == blocked


def test_listed_targets_that_say_the_same_do_not_crowd_out_one_that_says_more(tmp_path: Path) -> None:
    names = [f"n{number}.weak.example" for number in range(12)]
    world = World(tmp_path, allow("weak.example"), block("tracker.example", important=True))
    chain = [
        f"{a}. 300 IN CNAME {b}."
        for a, b in zip(["www.shop.example", *names], [*names, "tracker.example"], strict=True)
    ]
    chain.append("tracker.example. 300 IN A 192.0.2.9")
    assert is_blocked(answered(world, "www.shop.example", "A", *chain))


def test_what_only_mentions_a_listed_name_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path, block("tracker.example"))
    message = answered(world, "shop.example", "MX", "shop.example. 300 IN MX 10 mail.tracker.example.")
    assert message.answer[0].rdtype == dns.rdatatype.MX
    message = answered(world, "own.example", "HTTPS", "own.example. 300 IN HTTPS 1 . alpn=h2")
    assert message.answer[0].rdtype == dns.rdatatype.HTTPS
