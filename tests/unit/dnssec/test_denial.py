"""What NSEC and NSEC3 records prove, as a table. All records are taken as verified."""

from __future__ import annotations

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdatatype
import pytest
from dns.dnssectypes import NSEC3Hash
from dns.rdtypes.ANY.NSEC import NSEC
from dns.rdtypes.ANY.NSEC3 import NSEC3

from resolver.dnssec.denial import ByHash, ByName, Cut, Proof, TooCostly, has_type
from resolver.dnssec.signatures import Bogus, Budget

ZONE = dns.name.from_text("example.")
# owner, next, types
NSECS = {
    "apex": ("example.", "a.example.", "NS SOA RRSIG NSEC DNSKEY"),
    "a": ("a.example.", "alias.example.", "A RRSIG NSEC"),
    "alias": ("alias.example.", "b.c.example.", "CNAME RRSIG NSEC"),
    "bc": ("b.c.example.", "cut.example.", "A RRSIG NSEC"),
    "cut": ("cut.example.", "moved.example.", "NS RRSIG NSEC"),
    "moved": ("moved.example.", "signed.example.", "DNAME RRSIG NSEC"),
    "signed": ("signed.example.", "*.w.example.", "NS DS RRSIG NSEC"),
    "wild": ("*.w.example.", "x.w.example.", "A RRSIG NSEC"),
    "xw": ("x.w.example.", "z.example.", "A RRSIG NSEC"),
    "z": ("z.example.", "example.", "A RRSIG NSEC"),
}
NOT, YES, OPT = Proof.NONE, Proof.PROVEN, Proof.OPT_OUT


def name(text: str) -> dns.name.Name:
    return dns.name.from_text(text)


def nsec(*which: str) -> ByName:
    records = []
    for key in which:
        owner, following, types = NSECS[key]
        rdata = dns.rdata.from_text("IN", "NSEC", f"{following} {types}")
        assert isinstance(rdata, NSEC)
        records.append((name(owner), rdata))
    return ByName(ZONE, records)


@pytest.mark.parametrize(
    ("records", "asked", "proof"),
    [
        (["a", "apex"], "aa.example.", YES),  # after a, before alias; the wildcard is before a
        (["a"], "aa.example.", NOT),  # nothing of the wildcard
        (["apex"], "aa.example.", NOT),
        (["a", "apex"], "a.example.", NOT),  # it exists
        (["alias", "apex"], "c.example.", NOT),  # an empty non-terminal exists
        (["z", "apex"], "zz.example.", YES),  # the last record
        (["cut", "apex"], "below.cut.example.", NOT),  # the parent knows nothing of names below a cut
        (["moved", "apex"], "below.moved.example.", NOT),  # nor is there anything to know below a DNAME
        (["cut", "apex"], "d.example.", YES),  # beside a cut it does
        (["xw", "wild"], "y.w.example.", NOT),  # there is a wildcard
        (["wild", "apex"], "b.x.w.example.", NOT),
    ],
)
def test_nsec_no_name(records: list[str], asked: str, proof: Proof) -> None:
    assert nsec(*records).no_name(name(asked)) is proof


@pytest.mark.parametrize(
    ("records", "asked", "rdtype", "proof"),
    [
        (["a"], "a.example.", "AAAA", YES),
        (["a"], "a.example.", "A", NOT),
        (["alias"], "alias.example.", "A", NOT),  # the alias is to be followed
        (["alias"], "c.example.", "A", YES),  # an empty non-terminal
        (["cut"], "cut.example.", "A", NOT),  # the child has to say so
        (["cut"], "cut.example.", "DS", YES),
        (["signed"], "signed.example.", "DS", NOT),
        (["apex"], "example.", "DS", NOT),  # the child's word on what is the parent's
        (["apex"], "example.", "A", YES),
        (["xw", "wild"], "y.w.example.", "TXT", YES),
        (["xw", "wild"], "y.w.example.", "A", NOT),
        (["xw"], "y.w.example.", "TXT", NOT),
    ],
)
def test_nsec_no_type(records: list[str], asked: str, rdtype: str, proof: Proof) -> None:
    assert nsec(*records).no_type(name(asked), dns.rdatatype.from_text(rdtype)) is proof


@pytest.mark.parametrize(
    ("records", "asked", "labels", "proof"),
    [
        (["xw"], "y.w.example.", 2, YES),
        (["xw"], "b.x.w.example.", 2, NOT),  # x.w.example is closer: no wildcard of w.example stands for it
        (["apex"], "y.w.example.", 2, NOT),
        (["xw"], "y.w.example.", 1, NOT),
    ],
)
def test_nsec_no_closer(records: list[str], asked: str, labels: int, proof: Proof) -> None:
    assert nsec(*records).no_closer(name(asked), labels) is proof


@pytest.mark.parametrize(
    ("records", "asked", "cut"),
    [
        (["cut"], "cut.example.", Cut.UNSIGNED),
        (["signed"], "signed.example.", Cut.UNPROVEN),  # it has a DS record
        (["a"], "a.example.", Cut.NONE),
        (["alias"], "alias.example.", Cut.NONE),
        (["alias"], "c.example.", Cut.NONE),
        (["apex"], "example.", Cut.UNPROVEN),
        (["z"], "zz.example.", Cut.NONE),
        (["cut"], "below.cut.example.", Cut.UNPROVEN),
        (["a"], "zz.example.", Cut.UNPROVEN),
    ],
)
def test_nsec_no_delegation(records: list[str], asked: str, cut: Cut) -> None:
    assert nsec(*records).no_delegation(name(asked)) is cut


# -- NSEC3 ------------------------------------------------------------------------------------------------------------

HASHED = {
    "example.": "NS SOA RRSIG DNSKEY NSEC3PARAM",
    "a.example.": "A RRSIG",
    "c.example.": "",
    "b.c.example.": "A RRSIG",
    "cut.example.": "NS",
    "moved.example.": "DNAME RRSIG",
    "signed.example.": "NS DS RRSIG",
    "w.example.": "",
    "*.w.example.": "A RRSIG",
}


def nsec3(*, opt_out: bool = False, leave_out: tuple[str, ...] = (), budget: Budget | None = None) -> ByHash:
    """The whole chain, without some records. With `opt_out`, cut.example is not in it."""
    names = [owner for owner in HASHED if not (opt_out and owner == "cut.example.")]
    hashes = sorted((dns.dnssec.nsec3_hash(owner, "AB", 1, NSEC3Hash.SHA1), owner) for owner in names)
    records = []
    for at, (hashed, owner) in enumerate(hashes):
        following = hashes[(at + 1) % len(hashes)][0]
        rdata = dns.rdata.from_text("IN", "NSEC3", f"1 {int(opt_out)} 1 AB {following} {HASHED[owner]}")
        assert isinstance(rdata, NSEC3)
        if owner not in leave_out:
            records.append((name(f"{hashed}.example."), rdata))
    return ByHash(ZONE, records, budget or Budget())


def test_nsec3_of_a_whole_zone() -> None:
    for opt_out, proof in ((False, YES), (True, OPT)):
        zone = nsec3(opt_out=opt_out)
        assert zone.no_name(name("nothing.example.")) is proof
        assert zone.no_name(name("x.y.z.example.")) is proof
        assert zone.no_name(name("a.example.")) is NOT
        assert zone.no_name(name("c.example.")) is NOT
        assert zone.no_name(name("y.w.example.")) is NOT, "a wildcard stands for it"
        assert zone.no_name(name("below.moved.example.")) is NOT
        assert zone.no_type(name("a.example."), dns.rdatatype.AAAA) is YES
        assert zone.no_type(name("a.example."), dns.rdatatype.A) is NOT
        assert zone.no_type(name("c.example."), dns.rdatatype.A) is YES
        assert zone.no_type(name("y.w.example."), dns.rdatatype.TXT) is proof
        assert zone.no_type(name("y.w.example."), dns.rdatatype.A) is NOT
        assert zone.no_type(name("signed.example."), dns.rdatatype.A) is NOT, "that is the child's to say"
        assert zone.no_closer(name("y.w.example."), 2) is proof
        assert zone.no_closer(name("b.c.example."), 1) is NOT, "c.example is there"
        assert zone.no_delegation(name("signed.example.")) is Cut.UNPROVEN
        assert zone.no_delegation(name("a.example.")) is Cut.NONE
        assert zone.no_delegation(name("cut.example.")) is Cut.UNSIGNED
        assert zone.no_delegation(name("nothing.example.")) is (Cut.UNSIGNED if opt_out else Cut.NONE)


@pytest.mark.parametrize("missing", ["example."])
def test_nsec3_without_the_closest_encloser_proves_nothing(missing: str) -> None:
    zone = nsec3(leave_out=(missing,))
    assert zone.no_name(name("nothing.example.")) is NOT
    assert zone.no_delegation(name("nothing.example.")) is Cut.UNPROVEN


def test_nsec3_records_of_other_zones_kinds_and_parameters_do_not_count() -> None:
    hashed = dns.dnssec.nsec3_hash("a.example.", "AB", 1, NSEC3Hash.SHA1)
    rest = f"AB {hashed} A"

    def records(owner: str, text: str) -> list[tuple[dns.name.Name, NSEC3]]:
        rdata = dns.rdata.from_text("IN", "NSEC3", text)
        assert isinstance(rdata, NSEC3)
        return [(name(owner), rdata)]

    own = records(f"{hashed}.example.", f"1 0 1 {rest}")
    assert ByHash(ZONE, own, Budget()).no_type(name("a.example."), dns.rdatatype.TXT) is YES
    for others in (
        records(f"{hashed}.below.example.", f"1 0 1 {rest}"),
        records(f"{hashed}.example.", f"2 0 1 {rest}"),
        records(f"{hashed}.example.", f"1 2 1 {rest}"),
        records("nohash.example.", f"1 0 1 {rest}"),
        records(f"{hashed[:-2]}.example.", f"1 0 1 {rest}"),
    ):
        assert ByHash(ZONE, others, Budget()).no_type(name("a.example."), dns.rdatatype.TXT) is NOT
    mixed = [*records(f"{hashed}.example.", f"1 0 2 {rest}"), *own]
    assert ByHash(ZONE, mixed, Budget()).no_type(name("a.example."), dns.rdatatype.TXT) is NOT


def test_hashes_are_bounded() -> None:
    budget = Budget(hashes=10)
    with pytest.raises(Bogus, match="too many names to hash"):
        nsec3(leave_out=("example.",), budget=budget).no_name(name("1.2.3.4.5.6.7.8.9.10.11.example."))
    assert budget.hashes == -1


def test_a_zone_that_is_too_costly_proves_neither() -> None:
    assert TooCostly().no_name(ZONE) is Proof.TOO_COSTLY and TooCostly().no_delegation(ZONE) is Cut.TOO_COSTLY


def test_bitmaps() -> None:
    rdata = dns.rdata.from_text("IN", "NSEC", "a.example. A MX RRSIG NSEC TYPE1234")
    assert isinstance(rdata, NSEC)
    found = [rdtype for rdtype in range(2000) if has_type(rdata, rdtype)]
    assert found == [1, 15, 46, 47, 1234]
