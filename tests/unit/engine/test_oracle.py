"""The whole way against the oracles: rules into runs, index, matrix and engine, a packet in, and what comes out of it is
what the two slow references say, for every client."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import dns.message
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.engine.engine import DROP, PUNT, REPLY
from resolver.lists.matrix import CategoryPolicy, GroupPolicy, ListPolicy, PolicyRules, Sinkhole
from resolver.lists.merge import Kind, Member
from resolver.lists.rules import Outcome, Rule
from resolver.snapshot import CELL
from resolver.vocabulary import Action, Scope, Transport, Verb
from tests import reference, reference_policy
from tests.unit.engine.world import Rules, World, client, query

LISTS: dict[str, dict[str, Any]] = {
    "ads": {"category": "ads"},
    "zone": {"category": "order", "rpz": True, "replaces": True},
    "more": {"category": "order"},
    "late": {"rpz": True, "replaces": True},
}
CATEGORIES = {"ads": CategoryPolicy(), "order": CategoryPolicy(action=Action.NXDOMAIN)}
GROUPS = (
    (GroupPolicy("few", lists=frozenset({"ads", "late"})), ["10.1.0.0/16"]),
    (GroupPolicy("other", actions={"order": Action.REFUSED}), ["10.2.0.0/16"]),
    (GroupPolicy("free", categories=frozenset()), ["10.3.0.0/16"]),
)
CLIENTS = {"10.1.2.3": GROUPS[0][0], "10.2.2.3": GROUPS[1][0], "10.3.2.3": GROUPS[2][0], "10.4.2.3": None}
NAMES = st.builds(
    ".".join, st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(lambda labels: [*labels, "tld"])
)
BLOCKS = st.sampled_from([None, Action.ZERO, Action.NXDOMAIN, Action.NODATA, Action.REFUSED, Action.DROP])
OUTCOMES = st.one_of(
    st.builds(Outcome, st.just(Verb.BLOCK), st.booleans(), BLOCKS),
    st.builds(Outcome, st.just(Verb.ALLOW), st.booleans()),
)
RULES = st.builds(
    Rules, NAMES.map(lambda name: (name,)), OUTCOMES, st.sampled_from(list(Scope)), st.sampled_from([*LISTS])
)


def comes_out(world: World, name: str, address: str) -> tuple[str, int]:
    """What a client sees of an A query, in a word, and the slot of the list that decided."""
    verdict, reply = world.engine.answer(query(name).to_wire(), client(address), Transport.TCP)
    _, _, _, cell = world.snapshot.decide(name, client(address))
    slot = CELL.unpack(cell)[4]
    if verdict == PUNT:
        world.engine.take_punts()
        return "asked upstream", slot
    if verdict == DROP:
        return "drop", slot
    assert verdict == REPLY and reply is not None
    message = dns.message.from_wire(reply)
    addresses = [item.to_text() for rrset in message.answer for item in rrset]
    return {0: "zero" if addresses == ["0.0.0.0"] else "nodata", 3: "nxdomain", 5: "refused"}[message.rcode()], slot


def should_come_out(rules: list[Rules], name: str, group: GroupPolicy | None) -> tuple[str, int]:
    """The same by the references."""
    said = [[item for item in rules if item.list == listed] for listed in LISTS]
    lists = [
        reference.ReferenceList([Rule(item.names[0], item.scope, item.outcome) for item in items], "rpz" in options)
        for items, options in zip(said, LISTS.values(), strict=True)
    ]
    order = [list(dict.fromkeys(item.outcome for item in items)) for items in said]
    members = sorted(reference.said_of(lists, name), key=lambda member: (member[0], order[member[0]].index(member[1])))
    shape = tuple(Member(number, Kind.of(outcome)) for number, outcome in members)
    policies = [
        ListPolicy(listed, category=str(options.get("category", "")), slot=slot, rpz="rpz" in options)
        for slot, (listed, options) in enumerate(LISTS.items())
    ]
    groups = [known for known, _ in GROUPS]
    verdict = reference_policy.decide(PolicyRules(policies, CATEGORIES, groups, Sinkhole()), group, shape)
    passes = verdict.action in (Action.FORWARD, Action.ALLOW)
    word = "asked upstream" if passes else verdict.action.name.lower()
    return word, 0xFFFF if verdict.member is None else shape[verdict.member].list


@settings(max_examples=150, deadline=None)
@given(st.lists(RULES, max_size=14), st.lists(NAMES, min_size=1, max_size=6))
def test_engine_and_references_agree(rules: list[Rules], names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(
            Path(folder),
            *rules,
            lists={listed: dict(options) for listed, options in LISTS.items()},
            categories=CATEGORIES,
            groups=GROUPS,
        )
        for name in [*names, *(item.names[0] for item in rules)]:
            for address, group in CLIENTS.items():
                word, slot = comes_out(world, name, address)
                assert (word, slot if slot < 1000 else 0xFFFF) == should_come_out(rules, name, group), (name, address)
