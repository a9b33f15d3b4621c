"""What a correct reader of response policy zones does, an entry a case, from the zones' text to the answer.

A case has the number of the item that it proves, the zones in the order of the config, what is asked, what the upstream
says to it, and what the client sees. Items 23 to 28 are about transfers, 30 is `NSDNAME` and `NSIP` below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import dns.message
import pytest
import yaml

from resolver import counters
from resolver.config.load import load
from resolver.engine.engine import PUNT, Engine, Index, Snapshot
from resolver.lists.compile import build_generation
from resolver.lists.report import Report
from resolver.local import Aliases
from resolver.punt import Alias
from resolver.snapshot import read_policy
from resolver.vocabulary import Transport
from tests.unit.engine.asked import answered, says
from tests.unit.engine.world import client

HEAD = "$TTL 3600\n@ SOA ns.{zone}. root.{zone}. 7 3600 600 86400 60\n@ NS localhost.\n"
X = "x.example. 300 IN A 192.0.2.9"
ALIAS = ("x.example. 300 IN CNAME y.example.", "y.example. 300 IN A 192.0.2.9")
NS = ("x.example. 300 IN NS ns.host.example.",)
GLUE = ("ns.host.example. 300 IN A 198.51.100.7",)


class Case(NamedTuple):
    """One entry. `zones`: (text, options of the list); `asks`: of answered()."""

    item: int
    what: str
    zones: tuple[tuple[str, dict[str, Any]], ...]
    name: str
    records: tuple[str, ...]
    sees: str
    qtype: str = "A"
    asks: dict[str, Any] = {}  # noqa: RUF012 – never changed


def zone(*lines: str, **options: Any) -> tuple[tuple[str, dict[str, Any]], ...]:
    return (("\n".join(lines) + "\n", options),)


class Site:
    """Zones read, compiled and in force, as a build does it."""

    def __init__(self, folder: Path, zones: tuple[tuple[str, dict[str, Any]], ...]) -> None:
        lists = []
        for number, (text, options) in enumerate(zones):
            (folder / f"zone{number}.rpz").write_text(HEAD.format(zone=f"zone{number}") + text)
            lists.append({"name": f"zone{number}", "source": f"zone{number}.rpz", "format": "rpz", **options})
        file = folder / "config.yaml"
        config = {"lists": lists, "allow_from": ["0.0.0.0/0", "::/0"], "guard": {"public_suffixes": "none"}}
        file.write_text(yaml.safe_dump(config))
        self.config = load(file)
        self.engine = Engine(counters=memoryview(bytearray(counters.SIZE)), cache_bytes=1 << 20)
        self.reload()

    def reload(self) -> None:
        state_dir = self.config.state_path
        generation = build_generation(self.config)
        self.report = Report.from_json(generation.report)
        self.policy = read_policy(generation.policy_path(state_dir))
        self.index = Index(generation.index_path(state_dir))
        self.engine.swap(Snapshot(self.index, self.policy, generation.number))


CASES = [
    Case(1, "a name is itself alone", zone("x.example CNAME ."), "x.example", (X,), "nxdomain"),
    Case(1, "a name is itself alone", zone("example CNAME ."), "x.example", (X,), "192.0.2.9"),
    Case(1, "a wildcard is what is below", zone("*.example CNAME ."), "X.Example", (X,), "nxdomain"),
    Case(1, "a wildcard is not the name", zone("*.x.example CNAME ."), "x.example", (X,), "192.0.2.9"),
    Case(2, "octets reversed", zone("24.0.2.0.192.rpz-ip CNAME ."), "x.example", (X,), "nxdomain"),
    Case(
        2,
        "hextets reversed",
        zone("48.zz.db8.2001.rpz-ip CNAME ."),
        "x.example",
        ("x.example. 9 IN AAAA 2001:db8::9",),
        "nxdomain",
        "AAAA",
    ),
    Case(2, "a bad entry is skipped", zone("33.0.2.0.192.rpz-ip CNAME .", "z CNAME ."), "x.example", (X,), "192.0.2.9"),
    Case(3, "NXDOMAIN", zone("x.example CNAME ."), "x.example", (X,), "nxdomain"),
    Case(3, "NODATA", zone("x.example CNAME *."), "x.example", (X,), "nodata"),
    Case(
        4,
        "passthru ends it for later zones",
        zone("x.example CNAME rpz-passthru.") + zone("x.example CNAME ."),
        "x.example",
        (X,),
        "192.0.2.9",
    ),
    Case(
        4,
        "by address too",
        zone("32.9.2.0.192.rpz-ip CNAME rpz-passthru.") + zone("x.example CNAME ."),
        "x.example",
        (X,),
        "192.0.2.9",
    ),
    Case(5, "nothing is sent", zone("x.example CNAME rpz-drop."), "x.example", (X,), "drop"),
    Case(
        6,
        "cut over UDP",
        zone("x.example CNAME rpz-tcp-only."),
        "x.example",
        (X,),
        "nodata",
        asks={"transport": Transport.UDP},
    ),
    Case(6, "whole over TCP", zone("x.example CNAME rpz-tcp-only."), "x.example", (X,), "192.0.2.9"),
    Case(7, "no action is known", zone("x.example CNAME rpz-law.", "z CNAME ."), "x.example", (X,), "192.0.2.9"),
    Case(8, "the type asked for", zone("x.example A 192.0.2.7"), "x.example", (X,), "192.0.2.7"),
    Case(8, "another type", zone("x.example A 192.0.2.7"), "x.example", (), "nodata", "AAAA"),
    Case(
        8,
        "every type",
        zone("x.example A 192.0.2.7", "x.example TXT hello"),
        "x.example",
        (),
        '192.0.2.7 "hello"',
        "ANY",
    ),
    Case(8, "by address", zone("32.9.2.0.192.rpz-ip A 192.0.2.7"), "x.example", (X,), "192.0.2.7"),
    Case(
        10,
        "apex and DNSSEC are no rules",
        zone("@ A 192.0.2.1", "x.example DNAME y.", "z CNAME ."),
        "x.example",
        (X,),
        "192.0.2.9",
    ),
    Case(11, "the first zone", zone("x.example CNAME *.") + zone("x.example CNAME ."), "x.example", (X,), "nodata"),
    Case(
        11,
        "whatever its trigger",
        zone("32.9.2.0.192.rpz-ip CNAME *.") + zone("x.example CNAME ."),
        "x.example",
        (X,),
        "nodata",
    ),
    Case(
        12,
        "client before name",
        zone("x.example CNAME .", "32.1.0.0.127.rpz-client-ip CNAME *."),
        "x.example",
        (X,),
        "nodata",
    ),
    Case(
        12,
        "name before address",
        zone("32.9.2.0.192.rpz-ip CNAME .", "x.example CNAME *."),
        "x.example",
        (X,),
        "nodata",
    ),
    Case(
        12,
        "address before name server",
        zone("ns.host.example.rpz-nsdname CNAME .", "32.9.2.0.192.rpz-ip CNAME *."),
        "x.example",
        (X,),
        "nodata",
        asks={"authority": NS},
    ),
    Case(
        12,
        "a name server before its address",
        zone("32.7.100.51.198.rpz-nsip CNAME .", "*.host.example.rpz-nsdname CNAME *."),
        "x.example",
        (X,),
        "nodata",
        asks={"authority": NS, "additional": GLUE},
    ),
    Case(13, "exact beats wildcard", zone("*.example CNAME .", "x.example CNAME *."), "x.example", (X,), "nodata"),
    Case(13, "the longest wildcard", zone("*.a.example CNAME *.", "*.example CNAME ."), "x.a.example", (), "nodata"),
    Case(
        14,
        "the longest prefix",
        zone("24.0.2.0.192.rpz-ip CNAME .", "25.0.2.0.192.rpz-ip CNAME *."),
        "x.example",
        (X,),
        "nodata",
    ),
    Case(
        14,
        "of several addresses too",
        zone("24.0.2.0.192.rpz-ip CNAME .", "32.5.113.0.203.rpz-ip CNAME *."),
        "x.example",
        (X, "x.example. 9 IN A 203.0.113.5"),
        "nodata",
    ),
    Case(
        14,
        "then the smallest address",
        zone("32.5.113.0.203.rpz-ip CNAME .", "32.9.2.0.192.rpz-ip CNAME *."),
        "x.example",
        ("x.example. 9 IN A 203.0.113.5", X),
        "nodata",
    ),
    Case(15, "an alias counts", zone("y.example CNAME ."), "x.example", ALIAS, "nxdomain"),
    Case(
        15,
        "the earliest place wins",
        zone("32.9.2.0.192.rpz-ip CNAME .") + zone("y.example CNAME *."),
        "x.example",
        (ALIAS[0], "y.example. 9 IN CNAME z.example.", "z.example. 9 IN A 192.0.2.9"),
        "nodata",
    ),
    Case(
        16,
        "our own data is left alone",
        zone("x.example A 192.0.2.9", "32.9.2.0.192.rpz-ip CNAME ."),
        "x.example",
        (),
        "192.0.2.9",
    ),
    Case(17, "not without RD", zone("x.example CNAME *."), "x.example", (), "refused", asks={"rd": False}),
    Case(
        17,
        "unless told to",
        zone("x.example CNAME *.", recursive_only=False),
        "x.example",
        (),
        "nodata",
        asks={"rd": False},
    ),
    Case(18, "signed data too", zone("x.example CNAME *."), "x.example", (X,), "nodata", asks={"do": True}),
    Case(
        19,
        "an earlier zone may need the answer",
        zone("32.9.2.0.192.rpz-ip CNAME rpz-drop.") + zone("x.example CNAME ."),
        "x.example",
        (X,),
        "drop",
    ),
    Case(
        19,
        "and if it finds nothing the name decides",
        zone("32.1.2.0.192.rpz-ip CNAME *.") + zone("x.example CNAME ."),
        "x.example",
        (X,),
        "nxdomain",
    ),
    *(
        Case(21, word, zone("x.example A 192.0.2.7", override=word), "x.example", (X,), sees)
        for word, sees in {
            "given": "192.0.2.7",
            "disabled": "192.0.2.9",
            "passthru": "192.0.2.9",
            "drop": "drop",
            "nxdomain": "nxdomain",
            "nodata": "nodata",
            "tcp-only": "192.0.2.9",
        }.items()
    ),
    Case(
        21,
        "disabled does not consume the match",
        zone("x.example CNAME .", override="disabled") + zone("x.example CNAME *."),
        "x.example",
        (X,),
        "nodata",
    ),
    Case(22, "the first is kept", zone("x.example CNAME *.", "x.example CNAME ."), "x.example", (X,), "nodata"),
    Case(
        30,
        "NSDNAME",
        zone("ns.host.example.rpz-nsdname CNAME ."),
        "x.example",
        (X,),
        "nxdomain",
        asks={"authority": NS},
    ),
    Case(
        30,
        "NSIP",
        zone("24.0.100.51.198.rpz-nsip CNAME ."),
        "x.example",
        (X,),
        "nxdomain",
        asks={"authority": NS, "additional": GLUE},
    ),
    Case(30, "not asked for", zone("24.0.100.51.198.rpz-nsip CNAME ."), "x.example", (X,), "192.0.2.9"),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.item}-{case.what}" for case in CASES])
def test_what_a_client_sees(tmp_path: Path, case: Case) -> None:
    site = Site(tmp_path, case.zones)
    assert says(answered(site, case.name, case.qtype, *case.records, **case.asks)) == case.sees


def test_every_item_has_a_case() -> None:
    elsewhere = {9, 20, 29}  # below
    assert {case.item for case in CASES} | elsewhere == {*range(1, 23), 29, 30}


def test_a_wildcard_target_has_the_name_before_it(tmp_path: Path) -> None:  # 9
    site = Site(tmp_path, zone("x.example CNAME *.garden."))
    _, prefixed, [(rtype, target)] = site.index.records(site.index.data(site.index.find("x.example"), 0))
    assert (prefixed, rtype, target) == (True, 5, b"\6garden\0")


@pytest.mark.parametrize(("options", "ttl"), [({}, 3600), ({"max_ttl": "1m"}, 60)])
def test_ttl_and_soa(tmp_path: Path, options: dict[str, Any], ttl: int) -> None:  # 20, 18
    site = Site(tmp_path, zone("x.example A 192.0.2.7", "y.example CNAME .", **options))
    for name in ("x.example", "y.example"):
        message = answered(site, name, do=True)
        assert message is not None
        assert [rrset.ttl for rrset in message.answer] == [ttl] * (name == "x.example")
        [soa] = message.additional
        assert (soa.name.to_text(), soa.ttl) == ("zone0.", ttl)
        assert soa[0].to_text() == "ns.zone0. root.zone0. 7 3600 600 86400 60"
        assert not message.authority and not message.flags & 0x20
    site = Site(tmp_path, zone("y.example CNAME .", "z.example CNAME garden.", add_soa=False))
    message = answered(site, "y.example")
    assert message is not None and not message.additional
    assert alias_of(site, "z.example").zone is None


def alias_of(site: Site, name: str) -> Alias:
    """What a worker's Python makes of a name that is an alias by a rule."""
    verdict, _ = site.engine.answer(dns.message.make_query(name, "A").to_wire(), client("127.0.0.1"), Transport.TCP)
    assert verdict == PUNT
    [punt] = site.engine.take_punts()
    alias = Aliases(site.index, site.policy).describe(punt)
    assert isinstance(alias, Alias)
    return alias


@pytest.mark.parametrize("rule", ["CNAME garden.", "CNAME *.garden.", "A 192.0.2.7"])
def test_ttl_and_soa_of_an_alias(tmp_path: Path, rule: str) -> None:  # 20, 9, 21
    override = {"override": "cname:garden"} if rule.startswith("A") else {}
    alias = alias_of(Site(tmp_path, zone(f"x.example {rule}", max_ttl="1m", **override)), "x.example")
    assert alias.target.endswith(b"\6garden\0")
    assert alias.ttl == 60
    name, rdata = alias.zone or (b"", b"")
    assert name == b"\5zone0\0" and rdata.startswith(b"\2ns\5zone0\0\4root\5zone0\0\0\0\0\7")


def test_duplicates_and_bad_entries_are_counted(tmp_path: Path) -> None:  # 2, 22
    lines = ["32.9.2.0.192.rpz-ip CNAME .", "32.9.2.0.192.rpz-ip CNAME *.", "24.9.2.0.192.rpz-ip CNAME .", "x CNAME ."]
    [report] = Site(tmp_path, zone(*lines)).report.lists
    assert (report.triggers, report.duplicates, report.refused, report.names) == ({"address": 1}, 1, 1, 1)


def test_a_reload_takes_effect_on_what_is_cached(tmp_path: Path) -> None:  # 29
    site = Site(tmp_path, zone("32.1.2.0.192.rpz-ip CNAME ."))
    assert says(answered(site, "x.example", "A", X)) == "192.0.2.9"
    file = tmp_path / "zone0.rpz"
    good = file.read_text()
    file.write_text(good + "32.9.2.0.192.rpz-ip CNAME .\n")
    site.reload()
    assert says(answered(site, "x.example")) == "nxdomain"
    file.write_text(good)
    site.reload()
    assert says(answered(site, "x.example")) == "192.0.2.9", "and the kept answer is unmodified"
