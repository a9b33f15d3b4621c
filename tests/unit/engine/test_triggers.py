"""Answers are held against rules for addresses, name servers and clients, in the one total order and RPZ's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dns.message
import pytest

from resolver.counters import LIST_SLOTS, REBINDING_SLOT
from resolver.engine.engine import OVERLAY_ALLOW_VALUE, PUNT, PUNT_SERVERS, SuffixTable
from resolver.lists.rules import TriggerKind
from resolver.upstream.message import name_text, wire_name
from resolver.vocabulary import Action, Transport, Verb
from tests.unit.engine.asked import answered, says
from tests.unit.engine.world import CLIENT as CLIENT_OCTETS
from tests.unit.engine.world import Rules, World, allow, block, client, query, reply_to, trigger

ADDRESS, CLIENT, NSDNAME, NSIP = TriggerKind.ADDRESS, TriggerKind.CLIENT, TriggerKind.NSDNAME, TriggerKind.NSIP
RPZ = {"replaces": True, "rpz": True, "answer_triggers": True}


A = "x.example. 300 IN A 192.0.2.9"


@pytest.mark.parametrize(
    ("qtype", "record"),
    [
        ("A", A),
        ("AAAA", "x.example. 300 IN AAAA 2001:db8::9"),
        ("AAAA", "x.example. 300 IN AAAA ::ffff:192.0.2.9"),
        ("HTTPS", "x.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=198.51.100.1,192.0.2.9"),
        ("SVCB", "x.example. 300 IN SVCB 1 svc.example. ipv4hint=198.51.100.1 ipv6hint=2001:db8::9"),
    ],
)
def test_a_listed_address_blocks_the_answer_at_first_and_from_the_cache(
    tmp_path: Path, qtype: str, record: str
) -> None:
    world = World(tmp_path, trigger(ADDRESS, "192.0.2.0/24", "2001:db8::9", action=Action.NXDOMAIN))
    for _ in range(2):
        assert says(answered(world, "x.example", qtype, record)) == "nxdomain"
    world.build(trigger(ADDRESS, "203.0.113.0/24"))
    assert says(answered(world, "x.example", qtype)) != "nxdomain", "the kept answer is whole"


def test_an_allow_of_name_or_address_frees_an_answer(tmp_path: Path) -> None:
    rule = trigger(ADDRESS, "192.0.2.0/24", action=Action.NXDOMAIN)
    world = World(tmp_path, rule, allow("x.example"))
    assert says(answered(world, "x.example", "A", A)) == "192.0.2.9"
    world.build(rule, trigger(ADDRESS, "192.0.2.9", list="allows", verb=Verb.ALLOW))
    assert says(answered(world, "x.example")) == "192.0.2.9"
    world.build(trigger(ADDRESS, "192.0.2.0/24", action=Action.NXDOMAIN, important=True), allow("x.example"))
    assert says(answered(world, "x.example")) == "nxdomain"


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_of_two_lists_at_one_rank_the_configs_order_decides(tmp_path: Path, order: tuple[str, str]) -> None:
    world = World(
        tmp_path,
        trigger(ADDRESS, "192.0.2.0/24", list="first", action=Action.NXDOMAIN),
        block("cdn.example", list="second", action=Action.NODATA),
        lists={name: {} for name in order},
    )
    chain = ("x.example. 300 IN CNAME cdn.example.", "cdn.example. 300 IN A 192.0.2.9")
    assert says(answered(world, "x.example", "A", *chain)) == {"first": "nxdomain", "second": "nodata"}[order[0]]


def zone(kind: TriggerKind | None, text: str, action: Action | Verb, name: str = "zone") -> Rules:
    said = {"verb": action} if isinstance(action, Verb) else {"action": action}
    if kind is None:
        return allow(text, list=name) if action is Verb.ALLOW else block(text, list=name, action=action)
    return trigger(kind, text, list=name, **said)


SERVERS = ("x.example. 300 IN NS ns.host.example.",)
GLUE = ("ns.host.example. 300 IN A 198.51.100.7", "mail.example. 300 IN A 198.51.100.8")
EACH = {  # weakest first
    NSIP: "198.51.100.7",
    NSDNAME: "*.host.example",
    ADDRESS: "192.0.2.0/24",
    None: "x.example",
    CLIENT: "127.0.0.0/8",
}


@pytest.mark.parametrize("kind", EACH)
def test_each_kind_of_trigger_is_found(tmp_path: Path, kind: TriggerKind | None) -> None:
    world = World(tmp_path, zone(kind, EACH[kind], Action.NXDOMAIN), lists={"zone": dict(RPZ)})
    assert says(answered(world, "x.example", "A", A, authority=SERVERS, additional=GLUE)) == "nxdomain"
    other = "host.example" if kind in (None, NSDNAME) else "203.0.113.1"
    world.build(zone(kind, other, Action.NXDOMAIN), lists={"zone": dict(RPZ)})
    assert says(answered(world, "x.example", "A", A, authority=SERVERS, additional=GLUE)) == "192.0.2.9"


@pytest.mark.parametrize("weaker", list(EACH)[:-1])
def test_within_a_zone_the_kind_of_trigger_decides(tmp_path: Path, weaker: TriggerKind | None) -> None:  # 12
    kinds = list(EACH)
    for stronger in kinds[kinds.index(weaker) + 1 :]:
        rules = [zone(weaker, EACH[weaker], Action.NODATA), zone(stronger, EACH[stronger], Action.NXDOMAIN)]
        world = World(tmp_path, *rules, lists={"zone": dict(RPZ)})
        assert says(answered(world, "x.example", "A", A, authority=SERVERS, additional=GLUE)) == "nxdomain", stronger


@pytest.mark.parametrize("weaker", list(EACH)[:-1])
def test_an_earlier_zone_wins_whatever_the_trigger(tmp_path: Path, weaker: TriggerKind | None) -> None:  # 11, 19
    kinds = list(EACH)
    for stronger in kinds[kinds.index(weaker) + 1 :]:
        rules = [zone(weaker, EACH[weaker], Action.NODATA, "early"), zone(stronger, EACH[stronger], Action.NXDOMAIN)]
        world = World(tmp_path, *rules, lists={"early": dict(RPZ), "zone": dict(RPZ)})
        assert says(answered(world, "x.example", "A", A, authority=SERVERS, additional=GLUE)) == "nodata", stronger


def test_the_earliest_place_in_a_chain_wins_over_an_earlier_zone(tmp_path: Path) -> None:  # 15
    chain = (
        "x.example. 300 IN CNAME a.example.",
        "a.example. 300 IN CNAME b.example.",
        "b.example. 300 IN A 192.0.2.9",
    )
    rules = [zone(None, "b.example", Action.NODATA, "early"), zone(None, "a.example", Action.NXDOMAIN)]
    world = World(tmp_path, *rules, lists={"early": dict(RPZ), "zone": dict(RPZ)})
    assert says(answered(world, "x.example", "A", *chain)) == "nxdomain"
    world.build(
        zone(ADDRESS, "192.0.2.9", Action.NODATA, "early"),
        zone(None, "a.example", Verb.ALLOW),
        lists={"early": dict(RPZ), "zone": dict(RPZ)},
    )
    assert says(answered(world, "x.example")).endswith("192.0.2.9")


def test_of_several_addresses_the_longest_prefix_then_the_smallest_address_decides(tmp_path: Path) -> None:  # 14
    records = [f"x.example. 300 IN A {address}" for address in ("192.0.2.9", "198.51.100.3", "203.0.113.5")]
    rules = [
        zone(ADDRESS, "203.0.113.0/24", Action.NODATA),
        zone(ADDRESS, "192.0.2.0/25", Action.REFUSED),
        zone(ADDRESS, "198.51.100.0/25", Action.NXDOMAIN),
    ]
    world = World(tmp_path, *rules, lists={"zone": dict(RPZ)})
    for order in (records, records[::-1]):
        world.engine.flush()
        assert says(answered(world, "x.example", "A", *order)) == "refused"
    world.build(*rules, zone(ADDRESS, "198.51.100.3", Verb.ALLOW), lists={"zone": dict(RPZ)})
    assert "198.51.100.3" in says(answered(world, "x.example"))


def test_no_crowd_of_weak_findings_hides_the_strongest(tmp_path: Path) -> None:
    crowd = [block(f"n{number}.example", list=f"l{number}", action=Action.NODATA) for number in range(20)]
    strong = block("last.example", list="last", action=Action.NXDOMAIN, important=True)
    chain = ["x.example. 300 IN CNAME n0.example."]
    chain += [f"n{number}.example. 300 IN CNAME n{number + 1}.example." for number in range(19)]
    chain += ["n19.example. 300 IN CNAME last.example.", "last.example. 300 IN A 192.0.2.9"]
    world = World(tmp_path, *crowd, strong)
    for _ in range(2):
        assert says(answered(world, "x.example", "A", *chain)) == "nxdomain"
    zones = [zone(ADDRESS, f"192.0.2.{number}", Action.NODATA) for number in range(40, 80)]
    world.build(*zones, zone(ADDRESS, "192.0.2.10", Action.NXDOMAIN), lists={"zone": dict(RPZ)})
    records = [f"y.example. 300 IN A 192.0.2.{number}" for number in (*range(40, 80), 10)]
    for _ in range(2):
        assert says(answered(world, "y.example", "A", *records)) == "nxdomain"


def test_lists_leave_queries_without_rd_alone(tmp_path: Path) -> None:  # 17
    world = World(tmp_path, block("x.example", list="zone", action=Action.NXDOMAIN), lists={"zone": dict(RPZ)})
    assert says(answered(world, "x.example")) == "nxdomain"
    assert says(answered(world, "x.example", rd=False)) == "refused", "nothing is kept, and nobody is asked"
    world.build(
        block("x.example", list="zone", action=Action.NXDOMAIN), lists={"zone": RPZ | {"recursive_only": False}}
    )
    assert says(answered(world, "x.example", rd=False)) == "nxdomain"


def test_a_list_may_leave_signed_answers_alone(tmp_path: Path) -> None:  # 18
    signature = "x.example. 300 IN RRSIG A 8 2 300 20300101000000 20200101000000 1 example. AAAA"
    rule = block("x.example", list="zone", action=Action.NXDOMAIN)
    world = World(tmp_path, rule, lists={"zone": RPZ | {"break_dnssec": False}})
    assert says(answered(world, "x.example", "A", A, signature, do=True)).startswith("192.0.2.9")
    assert says(answered(world, "x.example")) == "nxdomain"
    world.engine.flush()
    assert says(answered(world, "x.example", "A", A, do=True)) == "nxdomain", "not signed"
    world.build(rule, lists={"zone": dict(RPZ)})
    message = answered(world, "x.example", "A", A, signature, do=True)
    assert message is not None and says(message) == "nxdomain"
    assert not message.flags & 0x20


WANTS = RPZ | {"ns_triggers": True}


def looked_up(world: World, name: str, *records: str, servers: Mapping[str, tuple[str, tuple[str, ...]]]) -> str:
    """What a client gets whose upstream says this, where servers (their name, addresses) of some names are looked up."""
    asked = query(name)
    verdict, reply = world.engine.answer(asked.to_wire(), CLIENT_OCTETS, Transport.TCP)
    while verdict == PUNT:
        [punt] = world.engine.take_punts()
        if punt.reason == PUNT_SERVERS:
            for each in punt.names:
                server, addresses = servers.get(name_text(each), ("", ()))
                found = [client(address) for address in addresses]
                names = [wire_name(server)] if server else []
                world.engine.remember_servers(each, names, found, 60, punt.generation)
            verdict, reply = world.engine.resume(punt)
        else:
            wire = reply_to(asked, *(record.replace(" IN ", " ") for record in records))
            world.engine.learn(punt, wire)
            verdict, reply = world.engine.finish(punt, wire)
    assert reply is not None
    return says(dns.message.from_wire(reply))


def test_servers_that_are_looked_up_count_like_those_that_an_answer_carries(tmp_path: Path) -> None:  # 30, 12, 14, 15
    servers = {"x.example": ("ns.host.example", ("198.51.100.7", "198.51.100.9"))}
    for kind, text in ((NSDNAME, "*.host.example"), (NSIP, "198.51.100.0/25")):
        rule = zone(kind, text, Action.NXDOMAIN)
        world = World(tmp_path, rule, lists={"zone": dict(WANTS)})
        for _ in range(2):
            assert looked_up(world, "x.example", A, servers=servers) == "nxdomain"
            assert looked_up(world, "y.example", A.replace("x", "y"), servers=servers) == "192.0.2.9"
        world.build(rule, lists={"zone": dict(WANTS)})
        assert looked_up(world, "x.example", servers={}) == "192.0.2.9", "they are asked for anew after a reload"
        world.build(rule, lists={"zone": dict(RPZ)})
        assert looked_up(world, "x.example", servers=servers) == "192.0.2.9", "nobody looks"
        world.build(rule, allow("x.example"), lists={"zone": dict(WANTS)})
        assert says(answered(world, "x.example")) == "192.0.2.9", "what outranks RPZ needs no look"
    world.build(
        zone(NSIP, "198.51.100.0/24", Action.REFUSED),
        zone(NSIP, "198.51.100.9", Action.NODATA),
        zone(NSIP, "198.51.100.7", Action.NXDOMAIN),
        lists={"zone": dict(WANTS)},
    )
    assert looked_up(world, "x.example", servers=servers) == "nxdomain", "the longest prefix, the smallest address"
    world.build(
        zone(NSIP, "198.51.100.7", Action.NXDOMAIN), zone(NSDNAME, "ns.host.example", Action.NODATA),
        lists={"zone": dict(WANTS)},
    )  # fmt: skip
    assert looked_up(world, "x.example", servers=servers) == "nodata"
    world.build(
        zone(NSDNAME, "ns.early.example", Action.NODATA, "early"), zone(NSDNAME, "ns.host.example", Action.NXDOMAIN),
        lists={"early": dict(WANTS), "zone": dict(WANTS)},
    )  # fmt: skip
    chain = ("c.example. 300 IN CNAME d.example.", "d.example. 300 IN A 192.0.2.9")
    said = {"c.example": ("ns.host.example", ()), "d.example": ("ns.early.example", ())}
    assert looked_up(world, "c.example", *chain, servers=said) == "nxdomain", "the earliest place in the chain"
    assert looked_up(world, "e.example", chain[0].replace("c.", "e."), chain[1], servers=said) == "nodata"


def test_of_many_servers_that_lists_speak_of_the_strongest_count(tmp_path: Path) -> None:
    crowd = [zone(NSDNAME, f"n{number}.example", Verb.ALLOW, f"late{number}") for number in range(20)]
    strong = zone(NSDNAME, "bad.example", Action.NXDOMAIN, "first")
    lists = {name: dict(WANTS) for name in ("first", *(f"late{number}" for number in range(20)))}
    world = World(tmp_path, strong, *crowd, lists=lists)
    assert world.engine.answer(query("x.example").to_wire(), CLIENT_OCTETS, Transport.TCP)[0] == PUNT
    [punt] = world.engine.take_punts()
    wire = reply_to(query("x.example"), "x.example. 300 A 192.0.2.9")
    world.engine.finish(punt, wire)
    [punt] = world.engine.take_punts()
    names = [wire_name(f"n{number}.example") for number in range(20)] + [wire_name("bad.example")]
    world.engine.remember_servers(punt.names[0], names, [], 60, punt.generation)
    _, reply = world.engine.resume(punt)
    assert reply is not None and says(dns.message.from_wire(reply)) == "nxdomain"
    with pytest.raises(ValueError, match="16 octets"):
        world.engine.remember_servers(punt.names[0], [], [b"1234"], 60, punt.generation)
    with pytest.raises(ValueError, match="wire form"):
        world.engine.remember_servers(punt.names[0], [b"no"], [], 60, punt.generation)


SOA = (b"\4zone\0", b"\2ns\4zone\0\4root\4zone\0" + bytes(range(20)))


@pytest.mark.parametrize("action", [Action.NXDOMAIN, Action.NODATA, Action.ZERO, Action.DATA])
def test_the_zones_soa_stands_in_additional(tmp_path: Path, action: Action) -> None:  # 20
    data = ("A 192.0.2.7",) if action is Action.DATA else ()
    rule = block("x.example", list="zone", action=action, ttl=600, data=data)
    world = World(tmp_path, rule, lists={"zone": RPZ | {"soa": SOA, "max_ttl": 60}})
    message = answered(world, "x.example")
    assert message is not None
    [rrset] = message.additional
    assert (rrset.name.to_text(), rrset.rdtype, rrset.ttl) == ("zone.", 6, 60)
    assert message.authority == []
    assert all(rrset.ttl == 60 for rrset in message.answer)
    world.build(rule, lists={"zone": dict(RPZ)})
    message = answered(world, "x.example")
    assert message is not None and message.additional == []


INSIDE = ("10.0.0.0/8", "192.168.0.0/16", "fc00::/7")


@pytest.mark.parametrize(
    ("qtype", "record"),
    [
        ("A", "x.example. 300 IN A 192.168.1.1"),
        ("AAAA", "x.example. 300 IN AAAA fd00::1"),
        ("AAAA", "x.example. 300 IN AAAA ::ffff:10.0.0.1"),
        ("HTTPS", "x.example. 300 IN HTTPS 1 . ipv4hint=10.0.0.1"),
    ],
)
def test_a_name_outside_may_not_point_inside(tmp_path: Path, qtype: str, record: str) -> None:
    world = World(tmp_path, guard=INSIDE)
    for _ in range(2):
        message = answered(world, "x.example", qtype, record)
        assert message is not None and says(message) == "nodata"
        assert b"rebinding" in message.options[0].to_wire()
    assert world.count("answers", Action.NODATA * LIST_SLOTS + REBINDING_SLOT) == 2
    assert says(answered(world, "out.example", "A", "out.example. 300 IN A 192.0.2.1")) == "192.0.2.1"


def test_who_may_point_inside(tmp_path: Path) -> None:
    record = "x.example. 300 IN A 192.168.1.1"
    world = World(tmp_path, guard=INSIDE, unguarded=["example"])
    assert says(answered(world, "x.example", "A", record)) == "192.168.1.1"
    world.build(guard=INSIDE, routes={"example": 1})
    world.engine.flush()
    assert says(answered(world, "x.example", "A", record)) == "192.168.1.1"
    world.build(allow("x.example"), guard=INSIDE)
    world.engine.flush()
    assert says(answered(world, "x.example", "A", record)) == "nodata", "a list's exception opens no way inside"
    world.build(allow("x.example", important=True), guard=INSIDE)
    assert says(answered(world, "x.example")) == "192.168.1.1"
    world.build(guard=INSIDE)
    world.engine.set_overlay(SuffixTable({"x.example": (OVERLAY_ALLOW_VALUE, OVERLAY_ALLOW_VALUE)}))
    assert says(answered(world, "x.example")) == "192.168.1.1"
