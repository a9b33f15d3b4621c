"""Special names, canaries, encrypted resolvers and SafeSearch: who is answered what, and what switches it off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest

from resolver import overlay
from resolver.config import types
from resolver.config.model import SpecialNames
from resolver.explain import explain_name
from resolver.lists.own import search, shipped
from resolver.vocabulary import Action
from tests.unit.lists.own.served import Served

# RFC 6303 sections 4.1 to 4.6, and RFC 7793, written out once more from the text
ZONES = """
10.IN-ADDR.ARPA 16.172.IN-ADDR.ARPA 17.172.IN-ADDR.ARPA 18.172.IN-ADDR.ARPA 19.172.IN-ADDR.ARPA 20.172.IN-ADDR.ARPA
21.172.IN-ADDR.ARPA 22.172.IN-ADDR.ARPA 23.172.IN-ADDR.ARPA 24.172.IN-ADDR.ARPA 25.172.IN-ADDR.ARPA 26.172.IN-ADDR.ARPA
27.172.IN-ADDR.ARPA 28.172.IN-ADDR.ARPA 29.172.IN-ADDR.ARPA 30.172.IN-ADDR.ARPA 31.172.IN-ADDR.ARPA 168.192.IN-ADDR.ARPA
0.IN-ADDR.ARPA 127.IN-ADDR.ARPA 254.169.IN-ADDR.ARPA 2.0.192.IN-ADDR.ARPA 100.51.198.IN-ADDR.ARPA 113.0.203.IN-ADDR.ARPA
255.255.255.255.IN-ADDR.ARPA
0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.IP6.ARPA
D.F.IP6.ARPA 8.E.F.IP6.ARPA 9.E.F.IP6.ARPA A.E.F.IP6.ARPA B.E.F.IP6.ARPA 8.B.D.0.1.0.0.2.IP6.ARPA
64.100.IN-ADDR.ARPA 100.100.IN-ADDR.ARPA 127.100.IN-ADDR.ARPA
HOME.ARPA
"""
BESIDE = """
11.in-addr.arpa 15.172.in-addr.arpa 32.172.in-addr.arpa 167.192.in-addr.arpa 1.0.192.in-addr.arpa 63.100.in-addr.arpa
128.100.in-addr.arpa c.e.f.ip6.arpa 9.b.d.0.1.0.0.2.ip6.arpa in-addr.arpa
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("zone", ZONES.split())
def test_an_empty_zone_has_soa_and_ns_and_nothing_else(plain: Served, zone: str) -> None:
    soa = f"{zone.lower()}. nobody.invalid. 1 3600 1200 604800 10800"
    assert plain.says(zone, "SOA") == [f"SOA {soa}"]
    assert plain.says(zone, "NS") == [f"NS {zone.lower()}."]
    for name, rcode in (
        (zone, dns.rcode.NOERROR),
        (f"x.{zone}", dns.rcode.NXDOMAIN),
        (f"a.B.x.{zone}", dns.rcode.NXDOMAIN),
    ):
        message = plain.ask(name, "PTR")
        assert message is not None and message.rcode() == rcode and not message.answer
        [said] = message.authority
        assert said.name.to_text().lower() == f"{zone.lower()}." and said.ttl == 10800 and str(said[0]) == soa
        assert not message.extended_errors()


@pytest.mark.parametrize(
    "name", [*BESIDE.split(), "example", "www.example", "com", "arpa", "ip6.arpa", "ipv4only.arpa"]
)
def test_other_names_are_resolved(plain: Served, name: str) -> None:
    assert plain.says(name, "PTR") == ["upstream"]


@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [
        ("localhost", "A", ["A 127.0.0.1"]),
        ("LocalHost", "AAAA", ["AAAA ::1"]),
        ("a.b.localhost", "A", ["A 127.0.0.1"]),
        ("localhost", "MX", ["NODATA"]),
        ("1.0.0.127.in-addr.arpa", "PTR", ["PTR localhost."]),
        ("2.0.0.127.in-addr.arpa", "PTR", ["NXDOMAIN"]),
        ("1." + "0." * 31 + "ip6.arpa", "PTR", ["PTR localhost."]),
        ("invalid", "A", ["NXDOMAIN"]),
        ("a.invalid", "TXT", ["NXDOMAIN"]),
        ("test", "A", ["NXDOMAIN"]),
        ("www.test", "SOA", ["NXDOMAIN"]),
        ("onion", "A", ["NXDOMAIN"]),
        ("duskgytldkxiuqc6.onion", "HTTPS", ["NXDOMAIN"]),
        ("resolver.arpa", "A", ["NODATA"]),
        ("_dns.resolver.arpa", "SVCB", ["NODATA"]),
        ("x.resolver.arpa", "SVCB", ["NODATA"]),
        ("use-application-dns.net", "A", ["NXDOMAIN"]),
        ("mask.icloud.com", "A", ["NXDOMAIN"]),
        ("mask-h2.icloud.com", "AAAA", ["NXDOMAIN"]),
        ("icloud.com", "A", ["upstream"]),
    ],
)
def test_each_name_is_answered_as_its_rfc_says(plain: Served, name: str, rdtype: str, expected: list[str]) -> None:
    assert plain.says(name, rdtype) == expected


SWITCHES = {
    "localhost": "localhost",
    "invalid": "a.invalid",
    "test": "a.test",
    "onion": "a.onion",
    "home_arpa": "nas.home.arpa",
    "private_reverse": "5.1.168.192.in-addr.arpa",
    "resolver_arpa": "_dns.resolver.arpa",
    "firefox_canary": "use-application-dns.net",
    "icloud_relay": "mask.icloud.com",
}


def test_each_kind_has_a_switch(tmp_path: Path) -> None:
    assert set(SWITCHES) == set(SpecialNames.model_fields)
    served = Served(tmp_path)
    for off in SWITCHES:
        served.build(special_names={off: False})
        answered = {key for key, name in SWITCHES.items() if served.says(name) != ["upstream"]}
        assert answered == set(SWITCHES) - {off}
    served.build(special_names=dict.fromkeys(SWITCHES, False))
    assert served.generation.own == ()


def test_what_is_routed_is_asked_there(tmp_path: Path) -> None:
    zones = ["home.arpa", "1.10.in-addr.arpa", "a.test", "172.in-addr.arpa"]
    served = Served(tmp_path, upstream={"routes": [{"zones": zones, "servers": ["127.0.0.1"]}]})
    for name in (
        "nas.home.arpa",
        "home.arpa",
        "2.3.1.10.in-addr.arpa",
        "1.10.in-addr.arpa",
        "x.a.test",
        "1.16.172.in-addr.arpa",
    ):
        assert served.says(name, "PTR") == ["upstream"]
        assert served.punts[0].route == 1
    for name in ("2.10.in-addr.arpa", "b.test", "168.192.in-addr.arpa"):
        assert served.says(name, "PTR") != ["upstream"]


def test_local_records_stand_in_special_zones(tmp_path: Path) -> None:
    rewrites = [{"name": "nas.home.arpa", "answers": ["10.0.0.5"]}, {"name": "*.test", "answers": ["10.0.0.6"]}]
    served = Served(tmp_path, rewrites=rewrites, records=["localhost. IN A 127.0.0.9"])
    assert served.says("nas.home.arpa") == ["A 10.0.0.5"] and served.says("x.home.arpa") == ["NXDOMAIN"]
    assert served.says("www.test") == ["A 10.0.0.6"] and served.says("test") == ["NXDOMAIN"]
    assert served.says("5.0.0.10.in-addr.arpa", "PTR") == ["PTR nas.home.arpa."]
    assert served.says("localhost") == ["A 127.0.0.9"] and served.says("x.localhost") == ["A 127.0.0.1"]


def test_a_local_zone_holds_what_the_config_says_and_no_more(tmp_path: Path) -> None:
    rewrites = [{"name": "nas.lan", "answers": ["10.0.0.5"]}, {"name": "*.dev.lan", "answers": ["10.0.0.6"]}]
    served = Served(tmp_path, rewrites=rewrites, local_zones=["lan"])
    assert served.says("nas.lan") == ["A 10.0.0.5"] and served.says("x.dev.lan") == ["A 10.0.0.6"]
    assert served.says("tv.lan") == served.says("x.nas.lan") == ["NXDOMAIN"]
    assert served.says("lan") == ["NODATA"] and served.says("lan", "NS") == ["NS lan."]
    assert served.says("flan") == ["upstream"]
    told = explain_name(served.config, "tv.lan", "127.0.0.1", "A")
    assert told.matches[-1].file == "local_zones[0]"


def test_they_are_told_by_explain(plain: Served) -> None:
    told = explain_name(plain.config, "1.168.192.in-addr.arpa", "127.0.0.1", "PTR")
    assert told.action == "local" and told.matches[-1].file == "special name (RFC 6303)"
    told = explain_name(plain.config, "mask.icloud.com", "127.0.0.1", "A")
    assert (told.action, told.list, told.matches[-1].file) == (
        "nxdomain",
        "built-in:canaries",
        "special_names.icloud_relay",
    )


# -- canaries, encrypted resolvers ------------------------------------------------------------------------------------


def test_an_allow_frees_a_canary(tmp_path: Path) -> None:
    (tmp_path / "allow.txt").write_text("mask.icloud.com\n")
    served = Served(tmp_path, lists=[{"name": "allow", "source": "allow.txt", "kind": "allow"}])
    assert served.says("mask.icloud.com") == ["upstream"] and served.says("mask-h2.icloud.com") == ["NXDOMAIN"]
    served.lay_over("mask-h2.icloud.com", overlay.ALLOW)
    assert served.says("mask-h2.icloud.com") == ["upstream"]


@pytest.mark.parametrize("general", [False, True])
def test_encrypted_resolvers_are_blocked_for_whom_it_is_said(tmp_path: Path, general: bool) -> None:
    groups = [
        {"name": "yes", "clients": ["10.0.0.0/24"], "block_encrypted_dns": True, "lists": []},
        {"name": "no", "clients": ["10.0.1.0/24"], "block_encrypted_dns": False},
        {"name": "unsaid", "clients": ["10.0.2.0/24"]},
    ]
    categories = {"encrypted-dns": {"action": "nxdomain"}}
    served = Served(
        tmp_path, block_encrypted_dns=general, groups=groups, categories=categories, allow_from=["10.0.0.0/8"]
    )
    blocked, free = ["NXDOMAIN"], ["upstream"]
    expected = [blocked, free, blocked if general else free, blocked if general else free]
    for by, says in zip(("10.0.0.1", "10.0.1.1", "10.0.2.1", "10.0.3.1"), expected, strict=True):
        assert served.says("dns.google", by=by) == says
        assert served.says("doh.mullvad.net", "HTTPS", by=by) == says
    assert served.says("google.com", by="10.0.0.1") == free


def test_the_list_of_encrypted_resolvers_is_one() -> None:
    names = shipped("encrypted-dns.txt")
    assert names == sorted(set(names)) and len(names) > 100
    assert {"dns.google", "cloudflare-dns.com", "dns.quad9.net", "dns.nextdns.io", "doh.opendns.com"} <= set(names)
    assert all(name == name.lower() and "." in name for name in names)


# -- SafeSearch -------------------------------------------------------------------------------------------------------

SAFE = [
    ("www.google.com", "forcesafesearch.google.com."),
    ("www.google.co.id", "forcesafesearch.google.com."),
    ("WWW.google.DE", "forcesafesearch.google.com."),
    ("www.google.cat", "forcesafesearch.google.com."),
    ("www.youtube.com", "restrict.youtube.com."),
    ("youtubei.googleapis.com", "restrict.youtube.com."),
    ("www.bing.com", "strict.bing.com."),
    ("duckduckgo.com", "safe.duckduckgo.com."),
]


@pytest.mark.parametrize("rdtype", ["A", "AAAA", "HTTPS", "SVCB", "TXT", "ANY"])
def test_search_engines_are_aliases_for_every_type(tmp_path: Path, rdtype: str) -> None:
    served = Served(tmp_path, safe_search=True)
    for name, target in SAFE:
        assert served.says(name, rdtype) == [f"CNAME {target}"]
    for name in ("google.com", "maps.google.com", "www.google.com.example", "forcesafesearch.google.com", "bing.com"):
        expected = "NODATA" if rdtype == "ANY" else "upstream"  # ANY is asked over TCP only
        assert served.says(name, rdtype) == [expected]


def test_each_group_has_its_own(tmp_path: Path) -> None:
    groups: list[dict[str, Any]] = [
        {"name": "kids", "clients": ["10.0.0.0/24"], "safe_search": ["google", "youtube-moderate"], "categories": []},
        {"name": "free", "clients": ["10.0.1.0/24"], "safe_search": False},
        {"name": "watched", "clients": ["10.0.2.0/24"], "safe_search": True, "shadow": True},
    ]
    (tmp_path / "allow.txt").write_text("www.bing.com\n")
    lists = [{"name": "allow", "source": "allow.txt", "kind": "allow"}]
    served = Served(tmp_path, safe_search=["bing", "google"], groups=groups, allow_from=["10.0.0.0/8"], lists=lists)
    google, moderate = ["CNAME forcesafesearch.google.com."], ["CNAME restrictmoderate.youtube.com."]
    for by, expected in (
        ("10.0.0.1", [google, moderate, ["upstream"]]),
        ("10.0.1.1", [["upstream"]] * 3),
        ("10.0.2.1", [["upstream"]] * 3),  # only counted
        ("10.0.3.1", [google, ["upstream"], ["upstream"]]),  # and bing is allowed
    ):
        assert [served.says(name, by=by) for name in ("www.google.com", "www.youtube.com", "www.bing.com")] == expected
    shape = served.index.shape(served.index.find("www.google.com"))
    actions = {name: served.policy.cell(number, shape)[1] for name, number in served.policy.paused.items()}
    assert set(actions.values()) == {Action.FORWARD}  # a pause switches it off


def test_a_block_goes_before_and_an_alias_in_an_answer_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "block.txt").write_text("google.de\n")
    served = Served(tmp_path, safe_search=True, lists=[{"name": "b", "source": "block.txt", "subdomains": "yes"}])
    assert served.says("www.google.de") == ["A 0.0.0.0"]
    assert served.says("www.google.fr") == ["CNAME forcesafesearch.google.com."]
    assert served.ask("search.example.org") is None
    made = dns.message.make_response(dns.message.from_wire(served.punts[0].packet), recursion_available=True)
    made.answer = [
        dns.rrset.from_text("search.example.org.", 60, "IN", "CNAME", "www.google.fr."),
        dns.rrset.from_text("www.google.fr.", 60, "IN", "A", "192.0.2.1"),
    ]
    served.engine.learn(served.punts[0], made.to_wire())
    message = served.ask("search.example.org")
    assert message is not None and len(message.answer) == 2


def test_google_has_a_domain_in_every_country() -> None:
    domains = shipped("google.txt")
    assert len(domains) == len(set(domains)) == 187
    assert all(domain.startswith("google.") for domain in domains)
    assert {"google.com", "google.ad", "google.co.zw", "google.com.vn", "google.cat", "google.co.uk"} <= set(domains)
    assert search.SERVICES == types.SAFE_SEARCH
