"""Who the servers of a name are, as an upstream tells it: a table of zones, and what goes wrong."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import dns.message
import dns.rcode
import dns.rrset
import pytest

from resolver import delegations
from resolver.delegations import Delegations, Servers
from resolver.upstream.message import Question, name_text, wire_name
from resolver.upstream.pool import Pool, Result

SOA = "ns. root. 1 2 3 4 5"


class Site(NamedTuple):
    """(name, type) → records of the three sections as zone text, or an rcode."""

    records: dict[tuple[str, str], tuple[str, ...] | int]

    def answer(self, question: Question) -> bytes:
        """An upstream's answer; NODATA with the SOA of `zone.example` and its like for what is not there."""
        name, kind = name_text(question.qname), dns.rdatatype.to_text(dns.rdatatype.RdataType(question.qtype))
        reply = dns.message.make_response(dns.message.make_query(f"{name}.", kind))
        said = self.records.get((name, kind), ())
        if isinstance(said, int):
            reply.set_rcode(dns.rcode.Rcode(said))
            return reply.to_wire()
        for line in said:
            where, owner, ttl, rtype, data = line.split(None, 4)
            section = {"answer": reply.answer, "authority": reply.authority, "additional": reply.additional}[where]
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", rtype, data))
        return reply.to_wire()


class FakePool:
    """Answers at the loop's next turn; `silent` names never."""

    def __init__(self, site: Site, silent: tuple[str, ...] = ()) -> None:
        self.site = site
        self.silent = silent
        self.asked: list[tuple[str, str]] = []

    def start(self, question: Question, route: int, done: Callable[[Result], None], **_: Any) -> None:
        """As Pool.start."""
        name = name_text(question.qname)
        self.asked.append((name, dns.rdatatype.to_text(dns.rdatatype.RdataType(question.qtype))))
        if name not in self.silent:
            asyncio.get_running_loop().call_soon(done, Result(self.site.answer(question)))


def seek(pool: FakePool, *names: str, wants_addresses: bool = True, times: int = 1) -> list[Servers]:
    """What is found for each name."""

    async def body() -> list[Servers]:
        found = Delegations(cast(Pool, pool))
        found.wants_addresses = wants_addresses
        for _ in range(times):
            came: asyncio.Future[Sequence[Servers]] = asyncio.get_running_loop().create_future()
            found.seek([wire_name(name) for name in names], 0, came.set_result)
            answer = list(await asyncio.wait_for(came, 20))
        found.close()
        return answer

    return asyncio.run(body())


def texts(servers: Servers) -> tuple[set[str], set[str]]:
    """Names and addresses, IPv4 as such."""
    addresses = {ipaddress.IPv6Address(each) for each in servers.addresses}
    return {name_text(each) for each in servers.names}, {str(each.ipv4_mapped or each) for each in addresses}


NS, GLUE = "answer zone.example. 300 NS ns.zone.example.", "additional ns.zone.example. 300 A 192.0.2.1"
ABOVE = ("answer example. 300 NS ns.registry.",)
NODATA = (f"authority zone.example. 60 SOA {SOA}",)
CASES: dict[str, tuple[dict[tuple[str, str], tuple[str, ...] | int], str, set[str], set[str], int]] = {
    "the apex itself": ({("zone.example", "NS"): (NS, GLUE)}, "zone.example", {"ns.zone.example"}, {"192.0.2.1"}, 1),
    "a name below, by the SOA": (
        {("zone.example", "NS"): (NS, GLUE), ("a.b.c.zone.example", "NS"): NODATA},
        "a.b.c.zone.example",
        {"ns.zone.example"},
        {"192.0.2.1"},
        2,
    ),
    "every zone on the way": (
        {
            ("zone.example", "NS"): (NS, GLUE),
            ("sub.zone.example", "NS"): (
                "answer sub.zone.example. 300 NS ns.other.",
                "additional ns.other. 300 AAAA 2001:db8::1",
            ),
        },
        "sub.zone.example",
        {"ns.zone.example", "ns.other"},
        {"192.0.2.1", "2001:db8::1"},
        2,
    ),
    "without glue": (
        {
            ("zone.example", "NS"): (NS,),
            ("ns.zone.example", "A"): ("answer ns.zone.example. 300 A 192.0.2.2",),
            ("ns.zone.example", "AAAA"): ("answer ns.zone.example. 300 AAAA 2001:db8::2",),
        },
        "zone.example",
        {"ns.zone.example"},
        {"192.0.2.2", "2001:db8::2"},
        3,
    ),
    "a TLD is not asked": ({("example", "NS"): ABOVE}, "zone.example", set(), set(), 1),
    "an alias is no zone": (
        {
            ("www.zone.example", "NS"): ("answer www.zone.example. 300 CNAME y.example.", "answer y.example. 300 NS ns.y."),
            ("zone.example", "NS"): (NS, GLUE),
        },
        "www.zone.example",
        {"ns.zone.example"},
        {"192.0.2.1"},
        2,
    ),
    "an error is passed over": (
        {("www.zone.example", "NS"): 2, ("zone.example", "NS"): (NS, GLUE)},
        "www.zone.example",
        {"ns.zone.example"},
        {"192.0.2.1"},
        2,
    ),
    "an SOA that is not above is no guide": (
        {("www.zone.example", "NS"): (f"authority other.example. 60 SOA {SOA}",), ("zone.example", "NS"): (NS, GLUE)},
        "www.zone.example",
        {"ns.zone.example"},
        {"192.0.2.1"},
        2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_found_and_asked(case: str) -> None:
    records, name, names, addresses, questions = CASES[case]
    pool = FakePool(Site(records))
    for times in (1, 2):
        pool.asked.clear()
        [servers] = seek(pool, name, times=times)
        assert texts(servers) == (names, addresses)
        assert len(pool.asked) == questions, pool.asked  # the second time nobody is asked


def test_addresses_are_asked_for_only_where_they_matter() -> None:
    pool = FakePool(Site({("zone.example", "NS"): (NS,)}))
    [servers] = seek(pool, "zone.example", wants_addresses=False)
    assert texts(servers) == ({"ns.zone.example"}, set()) and pool.asked == [("zone.example", "NS")]


def test_names_of_one_zone_ask_for_it_once() -> None:
    records: dict[tuple[str, str], tuple[str, ...] | int] = {("zone.example", "NS"): (NS, GLUE)}
    pool = FakePool(Site(records))
    found = seek(pool, *(f"n{number}.zone.example" for number in range(20)))
    assert {texts(servers)[0].pop() for servers in found} == {"ns.zone.example"}
    assert pool.asked.count(("zone.example", "NS")) == 1 and len(pool.asked) == 21


def test_who_waits_too_long_gets_what_is_known_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegations, "PATIENCE", 0.1)
    sub = ("answer sub.zone.example. 300 NS ns.other.", "additional ns.other. 300 A 192.0.2.3")
    pool = FakePool(Site({("sub.zone.example", "NS"): sub}), silent=("zone.example",))
    [servers] = seek(pool, "sub.zone.example")
    assert texts(servers) == ({"ns.other"}, {"192.0.2.3"}) and servers.ttl <= delegations.FAILED


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegations, "KEPT", 3)
    many = tuple(f"answer zone.example. 300 NS ns{number}.zone.example." for number in range(40))
    pool = FakePool(Site({("zone.example", "NS"): many}))
    [servers] = seek(pool, "zone.example")
    assert len(servers.names) == delegations.SERVERS
    assert len(pool.asked) == 1 + 2 * delegations.SERVERS
