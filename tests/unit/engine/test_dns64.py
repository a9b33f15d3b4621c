"""AAAA records made from A records: for which questions and clients, from which addresses, in which form."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from resolver.engine.engine import PUNT, PUNT_DNS64, PUNT_FORWARD, Punt
from resolver.lists.own.special import embed
from resolver.local import mapped_target
from resolver.vocabulary import Transport
from tests.unit.engine.world import client, query, reply_to
from tests.unit.lists.own.served import Served

SOA = "example. 30 SOA a. b. 1 2 3 4 300"
GLOBAL = {"prefix": "64:ff9b::/96"}
OWN = {"prefix": "2001:db8:64::/96"}


def serve(folder: Path, dns64: dict[str, Any] = GLOBAL, **settings: Any) -> Served:
    return Served(folder, dns64=dns64, **settings)


def learn(served: Served, name: str, rdtype: str, *records: str, soa: str = "", rcode: int = 0, **options: Any) -> None:
    """Put an upstream's answer into the cache."""
    served.engine.answer(query(name, rdtype, **options).to_wire(), client("127.0.0.1"), Transport.TCP)
    for punt in served.engine.take_punts():
        assert punt.reason in (PUNT_FORWARD, PUNT_DNS64)
        forward = punt if punt.reason == PUNT_FORWARD else None
        if forward:
            served.engine.learn(forward, reply_to(forward.packet, *records, soa=soa, rcode=rcode))


def texts(message: dns.message.Message | None) -> list[str]:
    assert message is not None
    return [text for rrset in message.answer for text in rrset.to_text().splitlines()]


def only(served: Served) -> Punt:
    [punt] = served.engine.take_punts()
    return punt


def test_an_empty_answer_gets_the_addresses_of_the_other_family(tmp_path: Path) -> None:
    served = serve(tmp_path)
    learn(served, "www.example", "A", "www.example. 60 A 198.41.0.4", "www.example. 60 A 9.9.9.9")
    learn(served, "www.example", "AAAA", soa=SOA)
    message = served.ask("www.example", "AAAA")
    assert texts(message) == ["www.example. 30 IN AAAA 64:ff9b::c629:4", "www.example. 30 IN AAAA 64:ff9b::909:909"]
    assert message is not None and not message.flags & dns.flags.AD and not message.authority
    assert texts(served.ask("www.example", "A")) == ["www.example. 60 IN A 198.41.0.4", "www.example. 60 IN A 9.9.9.9"]
    assert texts(served.ask("www.example", "AAAA", rd=False)) == texts(message)


def test_a_name_with_aliases_keeps_them(tmp_path: Path) -> None:
    served = serve(tmp_path)
    chain = ("Www.example. 60 CNAME a.example.", "a.example. 50 CNAME b.net.")
    learn(served, "www.example", "A", *chain, "b.net. 20 A 9.9.9.9", "b.net. 20 A 9.9.9.10")
    learn(served, "www.example", "AAAA", *chain, soa=SOA.replace("example.", "net."))
    assert texts(served.ask("WWW.example", "AAAA")) == [
        "WWW.example. 60 IN CNAME a.example.",
        "a.example. 50 IN CNAME b.net.",
        "b.net. 20 IN AAAA 64:ff9b::909:909",
        "b.net. 20 IN AAAA 64:ff9b::909:90a",
    ]


def test_what_is_not_cached_is_asked_for(tmp_path: Path) -> None:
    served = serve(tmp_path)
    asked = query("www.example", "AAAA").to_wire()
    assert served.engine.answer(asked, client("127.0.0.1"), Transport.TCP)[0] == PUNT
    first = only(served)
    assert first.reason == PUNT_FORWARD
    empty = reply_to(first.packet, soa=SOA)
    assert served.engine.finish(first, empty)[0] == PUNT  # not in the cache: it is given along
    second = only(served)
    assert second.reason == PUNT_DNS64
    a = reply_to(query("www.example", "A"), "www.example. 60 A 9.9.9.9")
    _, reply = served.engine.synthesise(second, a)
    assert reply is not None and texts(dns.message.from_wire(reply)) == ["www.example. 30 IN AAAA 64:ff9b::909:909"]


@pytest.mark.parametrize("answer", ["none", "empty", "servfail", "nonsense", "nxdomain"])
def test_without_addresses_the_empty_answer_stands(tmp_path: Path, answer: str) -> None:
    served = serve(tmp_path)
    served.engine.answer(query("www.example", "AAAA").to_wire(), client("127.0.0.1"), Transport.TCP)
    first = only(served)
    served.engine.finish(first, reply_to(first.packet, soa=SOA))
    asked = query("www.example", "A")
    given = {
        "none": None,
        "empty": reply_to(asked, soa=SOA),
        "servfail": reply_to(asked, rcode=2),
        "nonsense": b"\0" * 40,
        "nxdomain": reply_to(asked, soa=SOA, rcode=3),
    }[answer]
    _, reply = served.engine.synthesise(only(served), given)
    assert reply is not None
    message = dns.message.from_wire(reply)
    assert message.rcode() == dns.rcode.NOERROR and not message.answer and message.authority


def test_nothing_is_made_where_there_is_no_need(tmp_path: Path) -> None:
    served = serve(tmp_path, {**GLOBAL, "clients": ["10.0.0.0/8"]}, allow_from=["0.0.0.0/0"])
    learn(served, "six.example", "AAAA", "six.example. 60 AAAA 2001:db8::1")
    learn(served, "not.example", "AAAA", soa=SOA, rcode=3)
    learn(served, "four.example", "AAAA", soa=SOA)
    learn(served, "four.example", "AAAA", soa=SOA, do=True, cd=True)
    learn(served, "four.example", "A", "four.example. 60 A 9.9.9.9")
    assert served.says("six.example", "AAAA", by="10.0.0.1") == ["AAAA 2001:db8::1"]
    assert served.says("not.example", "AAAA", by="10.0.0.1") == ["NXDOMAIN"]
    assert served.says("four.example", "AAAA", by="127.0.0.1") == ["NODATA"]  # not a client of it
    assert served.says("four.example", "AAAA", by="10.0.0.1") == ["AAAA 64:ff9b::909:909"]
    assert served.says("four.example", "AAAA", by="10.0.0.1", do=True, cd=True) == ["NODATA"]  # it verifies itself
    served.build(allow_from=["0.0.0.0/0"])
    assert served.says("four.example", "AAAA", by="10.0.0.1") == ["NODATA"]  # off


def test_excluded_addresses_are_as_good_as_none(tmp_path: Path) -> None:
    served = serve(tmp_path, {**OWN, "exclude": ["2001:db8:bad::/48", "203.0.113.0/24"]})
    learn(served, "a.example", "AAAA", "a.example. 60 AAAA 2001:db8:bad::1", "a.example. 60 AAAA ::ffff:192.0.2.1")
    learn(served, "a.example", "A", "a.example. 60 A 203.0.113.9", "a.example. 60 A 10.0.0.1")
    assert texts(served.ask("a.example", "AAAA")) == ["a.example. 60 IN AAAA 2001:db8:64::a00:1"]
    learn(served, "b.example", "AAAA", "b.example. 60 AAAA 2001:db8:bad::1", "b.example. 60 AAAA 2001:db8::1")
    assert len(texts(served.ask("b.example", "AAAA"))) == 2


def test_the_well_known_prefix_is_for_global_addresses_alone(tmp_path: Path) -> None:
    served = serve(tmp_path, rewrites=[{"name": "nas.lan", "answers": ["192.168.1.5"]}])
    learn(served, "in.example", "AAAA", soa=SOA)
    learn(served, "in.example", "A", "in.example. 60 A 10.0.0.1", "in.example. 60 A 192.168.1.1")
    assert served.says("in.example", "AAAA") == ["NODATA"]
    assert served.says("nas.lan", "AAAA") == ["NODATA"]
    served.build(dns64=OWN, rewrites=[{"name": "nas.lan", "answers": ["192.168.1.5"]}])
    assert served.says("in.example", "AAAA") == ["AAAA 2001:db8:64::a00:1", "AAAA 2001:db8:64::c0a8:101"]
    assert served.says("nas.lan", "AAAA") == ["AAAA 2001:db8:64::c0a8:105"]


def test_what_is_blocked_stays_blocked(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("bad.example\n")
    (tmp_path / "addresses.txt").write_text("198.41.0.4\n")
    lists = [
        {"name": "names", "source": "names.txt"},
        {"name": "addresses", "source": "addresses.txt", "format": "addresses"},
    ]
    served = serve(tmp_path, lists=lists)
    assert served.says("bad.example", "AAAA") == ["AAAA ::"]
    learn(served, "ok.example", "AAAA", soa=SOA)
    learn(served, "ok.example", "A", "ok.example. 60 A 198.41.0.4")
    message = served.ask("ok.example", "AAAA")
    assert texts(message) == ["ok.example. 10 IN AAAA ::"]  # a rule about the address that it would have been made from
    assert message is not None and message.extended_errors()[0].to_text().endswith(
        "blocked by list addresses (category general)"
    )


RFC6052 = [  # section 2.4
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
]


@pytest.mark.parametrize(("prefix", "made"), RFC6052)
def test_addresses_have_the_form_of_their_prefix(tmp_path: Path, prefix: str, made: str) -> None:
    wanted = str(ipaddress.ip_address(made))
    assert str(embed(ipaddress.IPv6Network(prefix), ipaddress.IPv4Address("192.0.2.33"))) == wanted
    served = serve(tmp_path, {"prefix": prefix})
    learn(served, "www.example", "AAAA", soa=SOA)
    learn(served, "www.example", "A", "www.example. 60 A 192.0.2.33")
    assert served.says("www.example", "AAAA") == [f"AAAA {wanted}"]
    reverse = ipaddress.ip_address(made).reverse_pointer
    assert served.says(reverse, "PTR") == ["CNAME 33.2.0.192.in-addr.arpa."]
    assert served.says(reverse.partition(".")[2], "PTR") == ["NODATA"]  # not a whole address
    assert served.says(f"0.{reverse}", "PTR") == ["NXDOMAIN"]
    assert served.says("f" + reverse[1:], "PTR") == (
        ["NXDOMAIN"] if not prefix.endswith("96") else ["CNAME 47.2.0.192.in-addr.arpa."]
    )


def test_the_u_octet_and_what_follows_are_zero() -> None:
    prefix = bytes.fromhex("20010db801220344")
    for octet, sound in ((8, False), (9, True), (12, True), (13, False), (15, False)):
        address = bytearray(prefix + bytes(8))
        address[octet] = 1
        name = ipaddress.IPv6Address(bytes(address)).reverse_pointer
        wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
        assert (mapped_target(wire, prefix) is not None) == sound


def test_ipv4only_is_known_here(tmp_path: Path) -> None:
    served = serve(tmp_path, OWN)
    assert served.says("ipv4only.arpa", "A") == ["A 192.0.0.170", "A 192.0.0.171"]
    assert served.says("ipv4only.arpa", "AAAA") == ["AAAA 2001:db8:64::c000:aa", "AAAA 2001:db8:64::c000:ab"]
    assert served.says("x.ipv4only.arpa", "A") == ["NXDOMAIN"] and served.says("ipv4only.arpa", "MX") == ["NODATA"]
    assert served.says("170.0.0.192.in-addr.arpa", "PTR") == ["PTR ipv4only.arpa."]


def test_a_large_answer_is_truncated_over_udp(tmp_path: Path) -> None:
    served = serve(tmp_path)
    learn(served, "many.example", "AAAA", soa=SOA)
    learn(served, "many.example", "A", *(f"many.example. 60 A 9.9.8.{number}" for number in range(60)))
    message = served.ask("many.example", "AAAA", edns=None)
    assert message is not None and message.flags & dns.flags.TC and not message.answer
    _, reply = served.engine.answer(query("many.example", "AAAA").to_wire(), client("127.0.0.1"), Transport.TCP)
    assert reply is not None and len(texts(dns.message.from_wire(reply))) == 60
