"""What would have won is counted once a query, whichever way it was found, and never answered."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import pytest

from resolver import counters as layout
from resolver.engine.engine import PUNT_LOCAL, REPLY, Snapshot, SuffixTable
from resolver.lists.matrix import GroupPolicy
from resolver.vocabulary import Action, Transport
from tests.unit.engine.world import CLIENT, World, allow, block, client, query

SHADOW = {"shadow": True}


def counted(world: World) -> list[int]:
    """The shadow counters of the first lists."""
    start = layout.SECTIONS["shadow"].start
    return list(world.counters[start : start + 4])


def answer_to(packet: bytes, *records: str) -> bytes:
    reply = dns.message.make_response(dns.message.from_wire(packet))
    for text in records:
        reply.answer.append(_rrset(text))
    return reply.to_wire()


def _rrset(text: str) -> dns.rrset.RRset:
    name, ttl, rdclass, rdtype, data = text.split(None, 4)
    return dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data)


def resolve(world: World, name: str, *records: str) -> dns.message.Message:
    """Ask for a name that is nowhere yet, and give the engine the upstream's answer."""
    packet = query(name).to_wire()
    punt = world.punt(packet)
    reply = answer_to(packet, *records)
    world.engine.learn(punt, reply)
    verdict, answer = world.engine.finish(punt, reply)
    assert verdict == REPLY and answer is not None
    return dns.message.from_wire(answer)


def test_a_shadow_list_is_counted_on_forwarded_and_cached_answers(tmp_path: Path) -> None:
    world = World(tmp_path, block("new.example", list="new"), block("ads.example"), lists={"new": SHADOW})
    resolve(world, "x.new.example", "x.new.example. 60 IN A 192.0.2.1")
    assert counted(world)[0] == 1
    world.ask("x.new.example")
    assert counted(world)[0] == 2
    world.ask("ads.example")
    resolve(world, "free.example", "free.example. 60 IN A 192.0.2.1")
    assert counted(world) == [2, 0, 0, 0]


def test_only_what_outranks_the_winner_counts(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        block("both.example", list="early"),
        block("both.example", list="live"),
        block("both.example", list="late"),
        allow("both.example", list="free"),
        lists={"early": SHADOW, "live": {}, "late": SHADOW, "free": SHADOW},
    )
    world.ask("both.example")
    assert counted(world) == [1, 0, 0, 1]
    world.engine.set_overlay(SuffixTable({"both.example": (2, 2)}))
    world.ask("both.example")
    assert counted(world) == [1, 0, 0, 1], "an operator's word is above every list"


def test_targets_of_an_answer_count_too_and_a_query_once(tmp_path: Path) -> None:
    world = World(
        tmp_path, block("hidden.example", list="new"), block("ads.example", important=True), lists={"new": SHADOW}
    )
    records = ("www.example. 60 IN CNAME a.hidden.example.", "a.hidden.example. 60 IN CNAME b.hidden.example.")
    assert resolve(world, "www.example", *records, "b.hidden.example. 60 IN A 192.0.2.1").answer
    assert counted(world)[0] == 1
    resolve(world, "out.example", "out.example. 60 IN CNAME ads.example.", "ads.example. 60 IN CNAME hidden.example.")
    assert counted(world)[0] == 1, "what the live list says outranks it"


def test_an_answer_that_python_writes_counts_once(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        block("x.example", list="new", important=True),
        block("x.example", list="alias", action=Action.CNAME),
        lists={"new": SHADOW, "alias": {"rpz": True}},
    )
    packet = query("x.example").to_wire()
    world.engine.answer(packet, CLIENT, Transport.TCP)
    [punt] = world.engine.take_punts()
    assert punt.reason == PUNT_LOCAL
    world.engine.send(punt, answer_to(packet))
    assert counted(world)[0] == 1


def test_a_shadow_group_counts_and_its_mandatory_lists_hold(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        block("ads.example", list="ads"),
        block("law.example", "ads.example", list="law"),
        lists={"ads": {}, "law": {"mandatory": True}},
        groups=[(GroupPolicy("trial", shadow=True), ["10.0.0.0/8"])],
    )
    kid = client("10.0.0.1")
    assert world.ask("law.example", client=kid).answer and counted(world)[0] == 0
    world.ask("ads.example", client=kid)
    assert counted(world)[0] == 1, "the first list would have answered instead"
    world.ask("ads.example")
    assert counted(world)[0] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"shadows": b""},
        {"shadow_claims": b""},
        {"shadow_claims": struct.pack("<BBH", 255, 1, 0)},
        {"shadow_claims": struct.pack("<BBHBBH", 255, 1, 0, 5, 0, 0)},
        {"shadows": b"\0"},
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    world = World(tmp_path, block("new.example", list="new"), lists={"new": SHADOW})
    with pytest.raises(ValueError):
        Snapshot(world.index, dataclasses.replace(world.policy, **changes), 99)
