"""The way of an answer through validation, with zones that are signed here: what no honest server sends included."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from resolver.dnssec.anchors import Anchors, negative, parse
from resolver.dnssec.chain import BROKEN_FOR, Session, State, Zone, Zones
from resolver.dnssec.validate import Outcome, Status, validate
from resolver.dnssec.validate import parse as parse_message
from resolver.vocabulary import EDE
from tests.unit.dnssec.signer import NOW, RRsets, Signer, rrset

EXAMPLE, CHILD, STRANGER = Signer("example."), Signer("child.example."), Signer("example.")
NO_KEY_BIT = Signer("nobit.example.", flags=0)
SOA = "example. 300 SOA ns.example. host.example. 1 2 3 4 60"
APEX = "example. 60 NSEC cut.example. NS SOA RRSIG NSEC DNSKEY"
CUT = "cut.example. 60 NSEC ns.example. NS RRSIG NSEC"
ANCHORS = parse([EXAMPLE.ds().replace(" 3600 ", " ")])


class World:
    """What the upstream says to questions about the chain; all others have no answer."""

    def __init__(self) -> None:
        self.said: dict[tuple[str, str], tuple[RRsets, RRsets]] = {
            ("example.", "DNSKEY"): (EXAMPLE.keys(), []),
            ("child.example.", "DNSKEY"): (CHILD.keys(), []),
            ("child.example.", "DS"): (EXAMPLE.sign(CHILD.ds()), []),
            ("nobit.example.", "DNSKEY"): (NO_KEY_BIT.keys(), []),
            ("nobit.example.", "DS"): (EXAMPLE.sign(NO_KEY_BIT.ds()), []),
            ("cut.example.", "DS"): ([], EXAMPLE.sign(SOA, CUT)),
            ("www.example.", "DS"): ([], EXAMPLE.sign(SOA, "www.example. 60 NSEC example. A RRSIG NSEC")),
        }
        self.asked: list[tuple[str, str]] = []
        self.zones = Zones()
        self.now = float(NOW)

    def check(
        self,
        name: str,
        answer: RRsets,
        authority: RRsets | None = None,
        *,
        additional: RRsets | None = None,
        qtype: str = "A",
        rcode: int = dns.rcode.NOERROR,
        anchors: Anchors = ANCHORS,
        exempt: tuple[str, ...] = (),
        afresh: bool = False,
    ) -> Outcome:
        octets = _message(name, qtype, answer, authority or [], additional or [], rcode)
        session = Session(anchors, negative(exempt), self.zones, afresh=afresh, now=self.now)
        steps = validate(dns.name.from_text(name), dns.rdatatype.from_text(qtype), octets, session)
        told = None
        self.asked.clear()
        try:
            while True:
                need = steps.send(told)
                asked = str(need.name), dns.rdatatype.to_text(dns.rdatatype.RdataType.make(need.rdtype))
                self.asked.append(asked)
                said = self.said.get(asked)
                told = None if said is None else parse_message(_message(asked[0], asked[1], *said, [], 0))
        except StopIteration as end:
            assert isinstance(end.value, Outcome)
            return end.value


def _message(name: str, qtype: str, answer: RRsets, authority: RRsets, additional: RRsets, rcode: int) -> bytes:
    reply = dns.message.make_response(dns.message.make_query(name, qtype, want_dnssec=True))
    reply.answer, reply.authority, reply.additional = list(answer), list(authority), list(additional)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    reply.flags |= dns.flags.AA
    return reply.to_wire(max_size=65535)


@pytest.fixture
def world() -> World:
    return World()


WWW = EXAMPLE.sign("www.example. 300 A 192.0.2.1")


def records(octets: bytes, section: int) -> set[str]:
    return {f"{each.name} {dns.rdatatype.to_text(each.rdtype)}" for each in parse_message(octets).sections[section]}


def test_what_is_signed_is_secure_and_nothing_else_goes_with_it(world: World) -> None:
    extra = [rrset("other.example. 300 A 192.0.2.66"), rrset("example. 300 NS ns.evil.")]
    outcome = world.check("www.example.", [*WWW, extra[0]], [extra[1]], additional=[rrset("ns.evil. 300 A 192.0.2.66")])
    assert outcome.status is Status.SECURE and outcome.ede == -1
    assert world.asked == [("example.", "DNSKEY")]
    message = parse_message(outcome.whole)
    assert message.flags & dns.flags.AD and not message.flags & dns.flags.AA and not message.options
    assert records(outcome.whole, 1) == {"www.example. A", "www.example. RRSIG"}
    assert not records(outcome.whole, 2) and not records(outcome.whole, 3)
    assert records(outcome.plain, 1) == {"www.example. A"} and parse_message(outcome.plain).flags & dns.flags.AD


def test_the_zones_name_servers_stay_where_they_are_signed(world: World) -> None:
    outcome = world.check("www.example.", WWW, EXAMPLE.sign("example. 300 NS ns.example."))
    assert records(outcome.whole, 2) == {"example. NS", "example. RRSIG"}
    forged = world.check("www.example.", WWW, STRANGER.sign("example. 300 NS ns.evil."))
    assert forged.status is Status.SECURE and not records(forged.whole, 2)


def test_the_chain_is_asked_for_once(world: World) -> None:
    answer = CHILD.sign("www.child.example. 300 A 192.0.2.1")
    assert world.check("www.child.example.", answer).status is Status.SECURE
    assert sorted(world.asked) == [("child.example.", "DNSKEY"), ("child.example.", "DS"), ("example.", "DNSKEY")]
    assert world.check("www.child.example.", answer).status is Status.SECURE and not world.asked
    world.now += 4000  # the keys' TTL is over, the signatures hold
    assert world.check("www.child.example.", answer).status is Status.SECURE and len(world.asked) == 3


@pytest.mark.parametrize(
    ("name", "answer", "authority", "ede"),
    [
        ("www.example.", STRANGER.sign("www.example. 300 A 192.0.2.1"), [], EDE.DNSSEC_BOGUS),
        ("www.example.", CHILD.sign("www.example. 300 A 192.0.2.1"), [], EDE.DNSSEC_BOGUS),
        # A name that is no zone signs for itself.
        ("www.example.", Signer("www.example.").sign("www.example. 300 A 192.0.2.1"), [], EDE.DNSSEC_BOGUS),
        ("www.child.example.", [rrset("www.child.example. 300 A 192.0.2.1")], [], EDE.RRSIGS_MISSING),
        ("www.nobit.example.", NO_KEY_BIT.sign("www.nobit.example. 300 A 192.0.2.1"), [], EDE.NO_ZONE_KEY_BIT_SET),
        # Expanded from a wildcard: nothing proves that there is nothing closer, or something does not.
        ("a.example.", EXAMPLE.sign("*.example. 300 A 192.0.2.1", owner="a.example."), [], EDE.NSEC_MISSING),
        (
            "x.www.example.",
            EXAMPLE.sign("*.example. 300 A 192.0.2.1", owner="x.www.example."),
            EXAMPLE.sign("www.example. 60 NSEC example. A RRSIG NSEC"),
            EDE.NSEC_MISSING,
        ),
        # A DNAME, and a CNAME that it does not make.
        (
            "www.old.example.",
            [*EXAMPLE.sign("old.example. 300 DNAME new.example."), rrset("www.old.example. 300 CNAME evil.")],
            [],
            EDE.DNSSEC_BOGUS,
        ),
        ("nothing.example.", [], [], EDE.NSEC_MISSING),
        ("nothing.example.", [], EXAMPLE.sign(SOA), EDE.NSEC_MISSING),
        ("nothing.example.", [], [rrset(SOA), rrset(CUT)], EDE.RRSIGS_MISSING),
        ("nothing.example.", [], EXAMPLE.sign(SOA, CUT), EDE.NSEC_MISSING),
        ("nothing.example.", [], STRANGER.sign(SOA, CUT, APEX), EDE.DNSSEC_BOGUS),
        ("below.cut.example.", [], EXAMPLE.sign(SOA, CUT, APEX), EDE.NSEC_MISSING),
        # A child's own record says nothing of the parent's DS record.
        ("child.example. DS", [], CHILD.sign("child.example. 60 NSEC child.example. NS SOA"), EDE.NSEC_MISSING),
    ],
)
def test_what_is_wrong_is_bogus(world: World, name: str, answer: RRsets, authority: RRsets, ede: EDE) -> None:
    qname, _, qtype = name.partition(" ")
    for denied in ("a.example.", "nothing.example.", "x.www.example.", "old.example."):
        world.said[denied, "DS"] = ([], EXAMPLE.sign(SOA, CUT, "ns.example. 60 NSEC example. A RRSIG NSEC", APEX))
    world.said["www.child.example.", "DS"] = ([], CHILD.sign("child.example. 60 NSEC child.example. NS SOA RRSIG NSEC"))
    outcome = world.check(qname, answer, authority, qtype=qtype or "A")
    assert (outcome.status, outcome.ede) == (Status.BOGUS, ede), outcome
    assert not outcome.whole and not outcome.plain and outcome.text


def test_the_rcode_is_what_was_proven(world: World) -> None:
    forged = world.check("www.example.", WWW, rcode=dns.rcode.NXDOMAIN)
    assert forged.status is Status.SECURE and parse_message(forged.whole).rcode() == dns.rcode.NOERROR
    proof = EXAMPLE.sign(SOA, APEX, CUT)
    absent = world.check("e.example.", [], proof, rcode=dns.rcode.NXDOMAIN)
    assert absent.status is Status.SECURE and parse_message(absent.whole).rcode() == dns.rcode.NXDOMAIN
    assert records(absent.whole, 2) == {
        "example. SOA",
        "example. NSEC",
        "cut.example. NSEC",
        "example. RRSIG",
        "cut.example. RRSIG",
    }
    assert records(absent.plain, 2) == {"example. SOA"}
    assert world.check("e.example.", [], proof).ede == EDE.NSEC_MISSING, "there is such a name, it says"
    empty = world.check(
        "b.example.", [], EXAMPLE.sign(SOA, "a.example. 60 NSEC c.b.example. A"), rcode=dns.rcode.NXDOMAIN
    )
    assert empty.status is Status.SECURE and parse_message(empty.whole).rcode() == dns.rcode.NOERROR


def test_below_an_unsigned_delegation_all_is_insecure(world: World) -> None:
    outcome = world.check(
        "www.cut.example.", [rrset("www.cut.example. 300 A 192.0.2.1")], [rrset("cut.example. 3 NS ns.")]
    )
    assert outcome.status is Status.INSECURE and not parse_message(outcome.whole).flags & dns.flags.AD
    assert records(outcome.whole, 2) == {"cut.example. NS"}, "it stays as it came"
    stray = world.check("www.cut.example.", Signer("cut.example.").sign("www.cut.example. 300 A 192.0.2.1"))
    assert stray.status is Status.INSECURE and records(stray.plain, 1) == {"www.cut.example. A"}
    mixed = [*EXAMPLE.sign("w.example. 300 CNAME www.cut.example."), rrset("www.cut.example. 300 A 192.0.2.1")]
    assert world.check("w.example.", mixed).status is Status.INSECURE
    mixed = [rrset("w.cut.example. 300 CNAME www.example."), *STRANGER.sign("www.example. 300 A 192.0.2.1")]
    assert world.check("w.cut.example.", mixed).status is Status.BOGUS


def test_an_upstream_that_takes_signatures_out_does_not_make_a_zone_unsigned(world: World) -> None:
    world.said["www.example.", "DS"] = ([], [rrset(SOA)])
    assert world.check("www.example.", [rrset("www.example. 300 A 192.0.2.1")]).status is Status.BOGUS
    world = World()
    world.said["child.example.", "DS"] = ([], [])
    outcome = world.check("www.child.example.", [rrset("www.child.example. 300 A 192.0.2.1")])
    assert (outcome.status, outcome.ede) == (Status.BOGUS, EDE.NSEC_MISSING)


def test_no_answer_about_the_chain_leaves_it_open(world: World) -> None:
    for missing in (("example.", "DNSKEY"), ("child.example.", "DS"), ("child.example.", "DNSKEY")):
        world = World()
        del world.said[missing]
        outcome = world.check("www.child.example.", CHILD.sign("www.child.example. 300 A 192.0.2.1"))
        assert (outcome.status, outcome.ede) == (Status.INDETERMINATE, EDE.DNSSEC_INDETERMINATE)
        assert missing[0] in outcome.text and missing[1] in outcome.text


def test_a_broken_zone_is_remembered_for_a_moment(world: World) -> None:
    answer = CHILD.sign("www.child.example. 300 A 192.0.2.1")
    good = world.said["child.example.", "DNSKEY"]
    world.said["child.example.", "DNSKEY"] = (Signer("child.example.").keys(), [])
    assert world.check("www.child.example.", answer).ede == EDE.DNSKEY_MISSING and world.asked
    world.said["child.example.", "DNSKEY"] = good
    assert world.check("www.child.example.", answer).ede == EDE.DNSKEY_MISSING and not world.asked
    assert world.check("www.child.example.", answer, afresh=True).status is Status.SECURE
    world.zones = Zones()
    world.said["child.example.", "DNSKEY"] = (Signer("child.example.").keys(), [])
    assert world.check("www.child.example.", answer).status is Status.BOGUS
    world.said["child.example.", "DNSKEY"] = good
    world.now += BROKEN_FOR + 1
    assert world.check("www.child.example.", answer).status is Status.SECURE


def test_where_trust_ends_and_where_it_never_began(world: World) -> None:
    forged = STRANGER.sign("www.example. 300 A 192.0.2.1")
    assert world.check("www.example.", forged, exempt=("example",)).status is Status.INSECURE and not world.asked
    assert world.check("www.example.", forged, exempt=("www.example",)).status is Status.BOGUS, (
        "its signer is above that"
    )
    assert world.check("www.example.", WWW, anchors=parse([CHILD.ds()])).status is Status.INSECURE
    below = parse([CHILD.ds().replace(" 3600 ", " ")])
    answer = CHILD.sign("www.child.example. 300 A 192.0.2.1")
    assert World().check("www.child.example.", answer, anchors=below, exempt=("example",)).status is Status.SECURE
    key = parse([f"example. IN DNSKEY {EXAMPLE.key}"])
    assert World().check("www.example.", WWW, anchors=key).status is Status.SECURE
    other = parse([f"example. IN DNSKEY {STRANGER.key}"])
    assert World().check("www.example.", WWW, anchors=other).ede == EDE.DNSKEY_MISSING


def test_for_which_network_an_answer_is_stays_with_it(world: World) -> None:
    reply = parse_message(_message("www.example.", "A", WWW, [], [], 0))
    network = dns.edns.ECSOption("192.0.2.0", 24, 24)
    reply.use_edns(0, options=[network, dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS, "says somebody")])
    session = Session(ANCHORS, frozenset(), world.zones, now=NOW)
    steps = validate(dns.name.from_text("www.example."), 1, reply.to_wire(max_size=65535), session)
    next(steps)
    try:
        steps.send(parse_message(_message("example.", "DNSKEY", *world.said["example.", "DNSKEY"], [], 0)))
    except StopIteration as end:
        assert end.value.status is Status.SECURE
        for octets in (end.value.whole, end.value.plain):
            assert list(parse_message(octets).options) == [network]
    else:
        pytest.fail("it asks on")


def test_octets_that_are_no_message(world: World) -> None:
    for octets in (b"", bytes(11), b"\0\0\x81\x80\0\1\0\1\0\0\0\0\3www\xc0\x0c\0\1\0\1"):
        steps = validate(dns.name.from_text("www.example."), 1, octets, Session(ANCHORS, frozenset(), Zones(), now=NOW))
        try:
            next(steps)
        except StopIteration as end:
            assert end.value.status is Status.BOGUS
        else:
            pytest.fail("it was read")


def test_questions_for_one_answer_are_bounded(world: World) -> None:
    name = "x." * 100 + "example."
    owner = dns.name.from_text(name)
    for depth in range(3, len(owner.labels) + 1):
        above = str(owner.split(depth)[1])
        world.said[above, "DS"] = ([], EXAMPLE.sign(SOA, f"example. 60 NSEC {name} NS SOA"))  # empty non-terminals
    outcome = world.check(name, [rrset(f"{name} 300 A 192.0.2.1")])
    assert outcome.status is Status.BOGUS and "too many zones" in outcome.text
    assert len(world.asked) < 60


def test_aliases_in_a_circle_come_to_an_end(world: World) -> None:
    circle = EXAMPLE.sign("a.example. 300 CNAME b.example.", "b.example. 300 CNAME a.example.")
    assert world.check("a.example.", circle).status is Status.SECURE
    long = EXAMPLE.sign(*(f"n{at}.example. 300 CNAME n{at + 1}.example." for at in range(30)))
    assert world.check("n0.example.", long).status is Status.SECURE


def test_what_is_kept_of_zones_is_bounded() -> None:
    zones = Zones(3)
    for at in range(10):
        zones.put(Zone(dns.name.from_text(f"z{at}."), State.INSECURE, 10))
        zones.get(dns.name.from_text("z0."), 5)
    assert len(zones) == 3
    assert zones.get(dns.name.from_text("z0."), 5) and not zones.get(dns.name.from_text("z0."), 10)
    assert not zones.get(dns.name.from_text("z1."), 5)


@pytest.mark.parametrize("lines", [[], ["nonsense"], [". IN A 192.0.2.1"], [". IN DS 1 2"], [". CH DS 1 8 2 AB"]])
def test_anchors_that_are_none(lines: list[str]) -> None:
    with pytest.raises(ValueError, match="expected DS and DNSKEY records"):
        parse(lines)


def test_anchors_as_tools_write_them() -> None:
    key = (
        f"; This is a key-signing key, keyid 1\nexample. 3600 IN DNSKEY 257 3 15 (\n {str(EXAMPLE.key).split()[3]} )\n"
    )
    assert list(parse(key.splitlines())) == [dns.name.from_text("example.")]
