"""Response policy zones; the numbers are the items of the specification."""

from __future__ import annotations

import re

import pytest

from resolver.lists.parse import Options, read_list
from resolver.lists.rules import Outcome, TriggerKind
from resolver.vocabulary import Action, Scope, Verb
from tests.unit.lists.collector import Collector, Read, read

SELF, BELOW = Scope.SELF, Scope.BELOW
ALLOW = Outcome(verb=Verb.ALLOW)
NXDOMAIN = Outcome(action=Action.NXDOMAIN)

HEAD = "$TTL 60\n@ SOA localhost. root.localhost. 26072101 300 1800 604800 30\n  NS localhost.\n"


def read_zone(body: str, origin: str = "") -> Read:
    """Read a zone both ways: with templates and without."""
    options = Options(format="rpz", origin=origin, own_names=frozenset(), allow_empty=True)
    by_template = read(body, options)
    fed = read(body, options, use_templates=False)
    assert by_template.rules == fed.rules
    assert by_template.report.as_json() == fed.report.as_json()
    return by_template


def alias(target: str, ttl: int | None = None) -> Outcome:
    return Outcome(action=Action.CNAME, ttl=ttl, data=(target,))


def data(*records: str, ttl: int | None = None) -> Outcome:
    return Outcome(action=Action.DATA, ttl=ttl, data=records)


@pytest.mark.parametrize(
    ("line", "scope", "outcome"),
    [
        ("x.com CNAME .", SELF, NXDOMAIN),  # 1, 3
        ("X.COM cname .", SELF, NXDOMAIN),
        ("*.x.com CNAME .", BELOW, NXDOMAIN),
        ("x.com CNAME *.", SELF, Outcome(action=Action.NODATA)),  # 3
        ("x.com CNAME rpz-passthru.", SELF, ALLOW),  # 4
        ("x.com CNAME RPZ-Passthru.", SELF, ALLOW),
        ("x.com CNAME x.com.", SELF, ALLOW),  # as it was written once
        ("x.com CNAME X.Com.", SELF, ALLOW),
        ("x.com CNAME rpz-drop.", SELF, Outcome(action=Action.DROP)),  # 5
        ("x.com CNAME rpz-tcp-only.", SELF, Outcome(action=Action.TCP_ONLY)),  # 6
        ("x.com CNAME garden.example.", SELF, alias("garden.example")),
        ("*.x.com CNAME x.com.", BELOW, alias("x.com")),
        ("x.com CNAME *.garden.example.", SELF, alias("*.garden.example")),  # 9
        ("x.com A 192.0.2.1", SELF, data("A 192.0.2.1")),  # 8
        ("x.com AAAA 2001:DB8::1", SELF, data("AAAA 2001:db8::1")),
        ("x.com MX 10 Mail.x.com.", SELF, data("MX 10 Mail.x.com.")),
        ('x.com TXT "a;b (c" d', SELF, data('TXT "a;b (c" "d"')),
        ("x.com TYPE65400 \\# 2 abcd", SELF, data("TYPE65400 \\# 2 abcd")),
        ("x.com 300 IN CNAME .", SELF, Outcome(action=Action.NXDOMAIN, ttl=300)),
        ("x.com IN 1h CNAME .", SELF, Outcome(action=Action.NXDOMAIN, ttl=3600)),
        ("x.com\tIN\tCNAME\t.\t; why", SELF, NXDOMAIN),
        ("x.com ( CNAME ; why\n . )", SELF, NXDOMAIN),
        ("\\120.com CNAME .", SELF, NXDOMAIN),
        ("\\x.com CNAME .", SELF, NXDOMAIN),
    ],
)
def test_what_a_record_says(line: str, scope: Scope, outcome: Outcome) -> None:
    assert read_zone(line).rules == [(1, "x.com", scope, outcome)]


def test_a_top_level_domain_may_be_listed() -> None:
    assert read_zone("zip CNAME .\n*.zip CNAME .").rules == [(1, "zip", SELF, NXDOMAIN), (2, "zip", BELOW, NXDOMAIN)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x.com CNAME rpz-foo.", "the target rpz-foo. is no action that is known"),  # 7
        ("x.com CNAME a.rpz-foo.", "is no action that is known"),
        ("x.com CNAME rpz-passthru", "the target rpz-passthru lacks its final dot"),
        ("x.com CNAME *", "lacks its final dot"),
        ("x.com CNAME a. b.", "a CNAME has one target"),
        ("x.com CNAME garden", "a relative target, and the zone's name is not known"),
        ("x.com MX 10 mail", "a relative name, and the zone's name is not known"),
        ("x.com. CNAME .", "an absolute owner, and the zone's name is not known"),
        ("* CNAME .", "a trigger for every name"),
        ("x.com A 1.2.3", "not the data of a record of type A"),
        ("x.com CNAME", "a CNAME has one target"),
        ("x.com FOO bar", "FOO is no record type"),
        ("x.com ANY bar", "no record type|no type that a zone can hold|class ANY"),
        ("x.com AXFR bar", "no type that a zone can hold"),
        ("x.com CH TXT bar", "the class CH"),
        ("x.com 99999999999 A 192.0.2.1", "the TTL 99999999999 is out of range"),
        ("x.com 1y A 192.0.2.1", "1y is no TTL"),
        ("x.com", "a record without a type"),
        ("  CNAME .", "the owner is left out"),
        ('x.com TXT "abc', "a quoted string without its end"),
        ("x.com TXT abc\\", "a stray backslash"),
        ("x.com ) CNAME .", "never opened"),
        ("x.com ( ( CNAME .", "a parenthesis within another"),
        ("x.com ( CNAME .", "the parenthesis opened in line 1 is never closed"),
        ("x\\.y.com CNAME .", "a dot inside a label"),
        ("\\255x.com CNAME .", "the octet 255"),
        ("\\999x.com CNAME .", "999 is no octet"),
        ("a..com CNAME .", "empty label"),
        ("$INCLUDE other.zone", "INCLUDE is not followed"),
        ("$GENERATE 1-9 a$ CNAME .", "GENERATE is not followed"),
        ("$FOO", "the directive .FOO is unknown"),
        ("$TTL", "TTL without a value"),
        ("$TTL x", "x is no TTL"),
        ("24.1.2.0.192.rpz-ip CNAME .", "host bits set"),
        ("33.1.2.0.192.rpz-ip CNAME .", "33.1.2.0.192"),
        ("32.1.2.0.256.rpz-ip CNAME .", "256.0.2.1"),
        ("32.01.2.0.192.rpz-ip CNAME .", "192.0.2.01"),
        ("0.0.0.0.0.rpz-ip CNAME .", "every address"),
        ("x.1.2.0.192.rpz-ip CNAME .", "x is no prefix length"),
        ("24.2.0.192.rpz-ip CNAME .", "no address and length in reverse"),
        ("128.1.zz.db8.zz.rpz-ip CNAME .", "no address and length in reverse"),
        ("128.1.zz.db8g.2001.rpz-ip CNAME .", "no address and length in reverse"),
        ("129.1.zz.2001.rpz-nsip CNAME .", "129"),
        ("rpz-client-ip CNAME .", "no prefix length"),
        ("rpz-nsdname CNAME .", "no name"),
    ],
)
def test_why_a_record_is_refused(line: str, reason: str) -> None:
    report = read_zone(line + "\n").report
    assert report.names == 0
    assert report.refused == 1
    assert re.search(reason, report.refused_lines[0].reason), report.refused_lines[0].reason


def test_what_a_zone_holds_beside_its_triggers_is_skipped() -> None:  # 10
    body = (
        HEAD
        + "x.com DNAME y.com.\nx.com NS ns.y.com.\nx.com RRSIG junk\n@ ZONEMD 1 1 1 00\n@ TXT hello\nx.com DS junk\n"
    )
    report = read_zone(body).report
    assert (report.names, report.refused, report.skipped) == (0, 0, 8)


def test_the_soa_is_kept() -> None:
    report = read_zone(HEAD + "x.com CNAME .\n@ SOA localhost. root.localhost. 99 300 1800 604800 30\n").report
    assert report.soa_serial == 26072101
    assert report.soa == "localhost. root.localhost. 26072101 300 1800 604800 30"
    assert report.replaces
    multi = "@ IN SOA ns.a. root.a. ( 7 ; serial\n 300\n\n 1800 604800 30 )\nx.com CNAME .\n"
    result = read_zone(multi)
    assert result.report.soa_serial == 7
    assert result.rules == [(5, "x.com", SELF, Outcome(action=Action.NXDOMAIN, ttl=30))]


def test_triggers_that_are_no_names() -> None:  # 2
    body = HEAD + (
        "24.0.2.0.192.rpz-ip CNAME .\n"
        "128.1.zz.db8.2001.RPZ-IP CNAME *.\n"
        "48.zz.2.db8.2001.rpz-ip CNAME rpz-passthru.\n"
        "64.0.0.0.0.0.0.db8.2001.rpz-ip 60 CNAME garden.example.\n"
        "120.zz.200.c000.ffff.0.0.0.0.0.rpz-ip CNAME .\n"
        "120.100.c000.ffff.0.0.0.0.0.rpz-ip CNAME .\n"
        "8.0.0.0.10.rpz-nsip CNAME rpz-drop.\n"
        "24.0.2.0.192.rpz-client-ip CNAME rpz-tcp-only.\n"
        "NS.x.com.rpz-nsdname CNAME .\n"
        "*.ns.x.com.rpz-nsdname CNAME .\n"
        "x.com CNAME .\n"
    )
    report = read_zone(body).report
    kinds = [(trigger.kind, trigger.text, trigger.outcome.action) for trigger in report.triggers]
    nxdomain = Action.NXDOMAIN
    assert kinds == [
        (TriggerKind.ADDRESS, "192.0.2.0/24", nxdomain),
        (TriggerKind.ADDRESS, "2001:db8::1/128", Action.NODATA),
        (TriggerKind.ADDRESS, "2001:db8:2::/48", None),
        (TriggerKind.ADDRESS, "2001:db8::/64", Action.CNAME),
        (TriggerKind.ADDRESS, "192.0.1.0/24", nxdomain),
        (TriggerKind.CLIENT, "192.0.2.0/24", Action.TCP_ONLY),
        (TriggerKind.NSDNAME, "ns.x.com", nxdomain),
        (TriggerKind.NSDNAME, "*.ns.x.com", nxdomain),
        (TriggerKind.NSIP, "10.0.0.0/8", Action.DROP),
    ]
    assert report.triggers[2].outcome.verb is Verb.ALLOW
    assert (report.names, report.refused) == (1, 1)  # ten hextets are none


def test_local_data_of_a_trigger_are_one_outcome() -> None:
    body = HEAD + "32.1.2.0.192.rpz-ip A 192.0.2.9\n A 192.0.2.8\n AAAA 2001:db8::1\nns.x.com A 192.0.2.7\n"
    result = read_zone(body)
    [trigger] = result.report.triggers
    assert trigger.outcome.data == ("A 192.0.2.9", "A 192.0.2.8", "AAAA 2001:db8::1")
    assert [name for _, name, _, _ in result.rules] == ["ns.x.com"]


def test_of_two_records_for_a_trigger_the_first_is_kept() -> None:  # 22
    body = HEAD + "32.1.2.0.192.rpz-ip CNAME .\n32.1.2.0.192.rpz-ip CNAME *.\n32.1.2.0.192.rpz-nsip CNAME *.\n"
    report = read_zone(body).report
    assert [(trigger.kind, trigger.outcome.action) for trigger in report.triggers] == [
        (TriggerKind.ADDRESS, Action.NXDOMAIN),
        (TriggerKind.NSIP, Action.NODATA),
    ]
    assert report.duplicates == 1


def test_local_data_of_one_owner_are_one_outcome() -> None:  # 8
    body = HEAD + (
        "x.com 300 A 192.0.2.1\n"
        "      A 192.0.2.2\n"
        "\n"
        "x.com 99 TXT hello ; the TTL of the first counts\n"
        "y.com CNAME .\n"
        "X.COM A 192.0.2.2\n"
        "*.x.com A 192.0.2.3\n"
        "x.com A 192.0.2.4\n"
    )
    assert read_zone(body).rules == [
        (4, "x.com", SELF, data("A 192.0.2.1", "A 192.0.2.2", 'TXT "hello"', ttl=300)),
        (8, "y.com", SELF, Outcome(action=Action.NXDOMAIN, ttl=60)),
        (10, "x.com", BELOW, data("A 192.0.2.3", ttl=60)),
        (11, "x.com", SELF, data("A 192.0.2.4", ttl=60)),  # a duplicate to the builder, which keeps the first (22)
    ]


# -- the zone's name ------------------------------------------------------------------------------------------------

ABSOLUTE = "rpz.local. 3600 IN SOA ns.rpz.local. root.rpz.local. 1 2 3 4 5\n"


@pytest.mark.parametrize(
    ("body", "origin"),
    [
        ("x.com CNAME .\n*.x.com CNAME .\n", ""),
        ("x.com CNAME .\n*.x.com CNAME .\n", "rpz.local"),
        ("x.com.rpz.local. CNAME .\n*.x.com.RPZ.Local. CNAME .\n", "RPZ.local."),
        ("$ORIGIN rpz.local.\nx.com CNAME .\n*.x.com.rpz.local. CNAME .\n", ""),
        (ABSOLUTE + "x.com CNAME .\n*.x.com.rpz.local. CNAME .\n", ""),
        ("$ORIGIN rpz.local.\n@ SOA a. b. 1 2 3 4 5\nx.com CNAME .\n*.x.com.rpz.local. CNAME .\n", ""),
        ("$ORIGIN .\nrpz.local SOA a. b. 1 2 3 4 5\n$ORIGIN rpz.local.\nx.com CNAME .\n*.x.com CNAME .\n", ""),
        ("$ORIGIN .\nrpz.local SOA a. b. 1 2 3 4 5\nx.com.rpz.local CNAME .\n*.x.com.rpz.local CNAME .\n", ""),
        (ABSOLUTE + "$ORIGIN com.rpz.local.\nx CNAME .\n*.x CNAME .\n", ""),
        (ABSOLUTE + "$ORIGIN com\nx CNAME .\n*.x CNAME .\n", ""),
        (ABSOLUTE + "$ORIGIN x.com.rpz.local.\n@ CNAME .\n* CNAME .\n", ""),
    ],
)
def test_a_trigger_is_the_owner_relative_to_the_zone(body: str, origin: str) -> None:
    result = read_zone(body, origin)
    assert [rule[1:3] for rule in result.rules] == [("x.com", SELF), ("x.com", BELOW)]
    assert result.report.refused == 0


@pytest.mark.parametrize("owner", ["x.com.", "x.com.rpz.elsewhere.", "x.comrpz.local.", "local."])
def test_an_owner_outside_the_zone_is_refused(owner: str) -> None:
    report = read_zone(ABSOLUTE + f"{owner} CNAME .\n").report
    assert [refused.reason for refused in report.refused_lines] == ["outside the zone rpz.local"]


def test_another_zones_soa_is_refused_where_the_zone_is_given() -> None:
    report = read_zone(ABSOLUTE + "x.com CNAME .\n", "rpz.elsewhere").report
    assert "the list is said to be the zone rpz.elsewhere" in report.refused_lines[0].reason


def test_relative_names_in_records_are_made_absolute() -> None:
    body = (
        ABSOLUTE + "x.com 9 CNAME garden\ny.com 9 MX 10 mail\n$ORIGIN sub.rpz.local.\nz.com.rpz.local. 9 CNAME garden\n"
    )
    assert [rule[3] for rule in read_zone(body).rules] == [
        alias("garden.rpz.local", 9),
        data("MX 10 mail.rpz.local.", ttl=9),
        alias("garden.sub.rpz.local", 9),
    ]


def test_an_owner_left_out_is_the_one_before_wherever_it_was() -> None:
    body = ABSOLUTE + "x.com A 192.0.2.1\n$ORIGIN com.rpz.local.\n; comment\n  A 192.0.2.2\n"
    assert [rule[1:] for rule in read_zone(body).rules] == [("x.com", SELF, data("A 192.0.2.1", "A 192.0.2.2", ttl=5))]


# -- time to live ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "ttls"),
    [
        ("", [None, 7, None]),
        ("$TTL 1m\n", [60, 7, 60]),
        ("@ SOA a. b. 1 2 3 4 5\n", [5, 7, 5]),
        ("$TTL 60\n@ 9 SOA a. b. 1 2 3 4 5\n", [60, 7, 60]),
    ],
)
def test_a_record_without_a_ttl_takes_the_zones(head: str, ttls: list[int | None]) -> None:
    body = head + "a.com CNAME .\nb.com 7 CNAME .\nc.com CNAME .\n"
    assert [rule[3].ttl for rule in read_zone(body).rules] == ttls


# -- templates ------------------------------------------------------------------------------------------------------


def test_one_record_a_line_is_taken_by_templates() -> None:
    lines = [
        f"a{n}.com 3600 IN CNAME landing.example.\n*.a{n}.com 3600 IN CNAME landing.example.\n" for n in range(500)
    ]
    result = read_zone(HEAD + "".join(lines))
    assert len(result.rules) == 1000
    assert result.scanned >= 900
    lines = [f"a{n}.com.rpz.local.\t3600\tIN\tCNAME\t.\n" for n in range(1000)]
    assert read_zone(ABSOLUTE + "".join(lines)).scanned >= 890


def test_a_target_that_is_listed_itself_stays_an_allow() -> None:
    lines = [f"a{n}.com CNAME landing.example.\n" for n in range(200)] + ["Landing.Example CNAME landing.example.\n"]
    result = read_zone(HEAD + "".join(lines))
    assert result.rules[-1][1:] == ("landing.example", SELF, Outcome(verb=Verb.ALLOW, ttl=60))


@pytest.mark.parametrize(
    ("line", "chunks", "last"),
    [
        ("{}.com CNAME .", ["$TTL 61\nb.com CNAME .\n"], Outcome(action=Action.NXDOMAIN, ttl=61)),
        ("{}.com CNAME .", ["a.com CNAME .\n$TTL 61\nb.com CNAME .\n"], Outcome(action=Action.NXDOMAIN, ttl=61)),
        ("{}.com CNAME .", ["b.com TXT (\nc.com CNAME .\n)\n"], data('TXT "c.com" "CNAME" "."', ttl=60)),
        ("{}.com CNAME .", ["b.com TXT (\n", "c.com CNAME .\n", ")\n"], data('TXT "c.com" "CNAME" "."', ttl=60)),
        ("{}.com CNAME .", ["b.com CNAME .\n", " 9 A 192.0.2.1\n"], data("A 192.0.2.1", ttl=9)),
        ("{}.com CNAME .", ["b.com CNAME .\n; comment\n", "\t9 A 192.0.2.1\n"], data("A 192.0.2.1", ttl=9)),
        ("{}.com CNAME .", ["b.com CNAME .\n 9 A 192.0.2.1\n"], data("A 192.0.2.1", ttl=9)),
        ("{}.com CNAME .", ["b.com TXT (\nc.com CNAME .\n", ")\n"], data('TXT "c.com" "CNAME" "."', ttl=60)),
        ("{}.com CNAME .", ["$TTL 61\n", "b.com CNAME .\n"], Outcome(action=Action.NXDOMAIN, ttl=61)),
        ("\\120.com CNAME . ; x.com", ["b.com CNAME .\n\\120.com CNAME . ; c.com\n"], None),
    ],
)
def test_templates_are_left_where_lines_lean_on_each_other(line: str, chunks: list[str], last: Outcome | None) -> None:
    head = HEAD + "".join(line.format(f"a{number}") + "\n" for number in range(150))
    found = []
    for use_templates in (True, False):
        collector = Collector(use_templates)
        report = read_list([head.encode(), *(chunk.encode() for chunk in chunks)], Options(format="rpz"), collector)
        found.append(sorted((line, name, report.outcomes[outcome]) for name, _, outcome, line in collector.rules))
        assert (
            last is None
            or report.outcomes[max(collector.rules, key=lambda rule: (rule[0] == "b.com", rule[3]))[2]] == last
        )
    assert found[0] == found[1]
