"""The rows of the specification of dialects, one line each: what a line says, and why it says nothing."""

from __future__ import annotations

import re

import pytest

from resolver.lists.parse import Options
from resolver.lists.rules import Outcome
from resolver.vocabulary import Action, Scope, Verb
from tests.unit.lists.collector import Read, read

SELF, BELOW, BOTH = Scope.SELF, Scope.BELOW, Scope.BOTH
BLOCK = Outcome()
ALLOW = Outcome(verb=Verb.ALLOW)
PLAIN = Outcome(condition="plain")
IMPORTANT = Outcome(important=True)
IMPORTANT_ALLOW = Outcome(verb=Verb.ALLOW, important=True)
ZERO = Outcome(action=Action.ZERO)
NXDOMAIN = Outcome(action=Action.NXDOMAIN)
NODATA = Outcome(action=Action.NODATA)
DROP = Outcome(action=Action.DROP)
REFUSED = Outcome(action=Action.REFUSED)


def data(*records: str, ttl: int | None = None) -> Outcome:
    return Outcome(action=Action.DATA, ttl=ttl, data=records)


def read_line(dialect: str, line: str, **options: str) -> Read:
    """Read one line in a file of that dialect, both ways: by template and fed."""
    chosen = Options(
        format=dialect,
        own_names=frozenset({"me", "me.lan"}),
        allow_empty=True,
        kind=options.get("kind", "block"),
        subdomains=options.get("subdomains", "auto"),
    )
    by_template = read(line, chosen)
    fed = read(line, chosen, use_templates=False)
    assert by_template.rules == fed.rules
    assert by_template.report.as_json() == fed.report.as_json()
    return fed


TAKEN = [
    # plain lists
    ("domains", "x.com", [("x.com", BOTH, BLOCK)]),
    ("domains", "  X.COM.\t", [("x.com", BOTH, BLOCK)]),
    ("domains", "x.com # why", [("x.com", BOTH, BLOCK)]),
    ("domains", "x.com\t#why", [("x.com", BOTH, BLOCK)]),
    ("domains", "*.x.com", [("x.com", BOTH, BLOCK)]),
    ("domains", ".x.com", [("x.com", BOTH, BLOCK)]),
    ("domains", "bücher.de", [("xn--bcher-kva.de", BOTH, BLOCK)]),
    ("domains", "localhost.x.com", [("localhost.x.com", BOTH, BLOCK)]),
    ("domains", "https://x.com/path?q#f", [("x.com", BOTH, BLOCK)]),
    # hosts
    ("hosts", "0.0.0.0 x.com", [("x.com", SELF, BLOCK)]),
    ("hosts", "127.0.0.1\tx.com", [("x.com", SELF, BLOCK)]),
    ("hosts", "0.0.0.0 x.com y.com\tZ.com # why", [(n, SELF, BLOCK) for n in ("x.com", "y.com", "z.com")]),
    ("hosts", ":: x.com", [("x.com", SELF, BLOCK)]),
    ("hosts", "0 x.com", [("x.com", SELF, BLOCK)]),
    ("hosts", "192.0.2.7    x.com", [("x.com", SELF, BLOCK)]),
    ("hosts", "2001:db8::1 x.com", [("x.com", SELF, BLOCK)]),
    ("hosts", "0.0.0.0 localhost.x.com", [("localhost.x.com", SELF, BLOCK)]),
    ("hosts", "0.0.0.0 ip6-x.com", [("ip6-x.com", SELF, BLOCK)]),
    ("hosts", "127.0.0.1 localhost localhost.localdomain me me.lan x.com", [("x.com", SELF, BLOCK)]),
    ("hosts", "::1 ip6-localhost ip6-loopback", []),
    ("hosts", "fe80::1%lo0 localhost", []),
    ("hosts", "255.255.255.255 broadcasthost", []),
    ("hosts", "0.0.0.0 0.0.0.0", []),
    ("hosts", "0.0.0.0 me.lan", []),
    ("hosts", "0.0.0.0 ME.LAN.", []),
    # adblock
    ("adblock", "||x.com^", [("x.com", BOTH, BLOCK)]),
    ("adblock", "||X.com^ # why", [("x.com", BOTH, BLOCK)]),
    ("adblock", "||x.com^|", [("x.com", BOTH, BLOCK)]),
    ("adblock", "@@||x.com^", [("x.com", BOTH, ALLOW)]),
    ("adblock", "||x.com^$important", [("x.com", BOTH, IMPORTANT)]),
    ("adblock", "@@||x.com^$important", [("x.com", BOTH, IMPORTANT_ALLOW)]),
    ("adblock", "||*.x.com^", [("x.com", BELOW, BLOCK)]),
    ("adblock", "@@||*.x.com^$important", [("x.com", BELOW, IMPORTANT_ALLOW)]),
    ("adblock", "*.x.com", [("x.com", BELOW, PLAIN)]),
    ("adblock", "x.com", [("x.com", BOTH, PLAIN)]),
    ("adblock", "||zip^", [("zip", BOTH, BLOCK)]),
    ("adblock", "||bücher.de^", [("xn--bcher-kva.de", BOTH, BLOCK)]),
    ("adblock", "0.0.0.0 x.com y.com", [("x.com", SELF, PLAIN), ("y.com", SELF, PLAIN)]),
    # dnsmasq
    ("dnsmasq", "address=/x.com/", [("x.com", BOTH, NXDOMAIN)]),
    ("dnsmasq", "address=/x.com/#", [("x.com", BOTH, ZERO)]),
    ("dnsmasq", "address=/x.com/0.0.0.0", [("x.com", BOTH, ZERO)]),
    ("dnsmasq", "address=/x.com/::", [("x.com", BOTH, ZERO)]),
    ("dnsmasq", "address=/X.com/192.0.2.1 # why", [("x.com", BOTH, data("A 192.0.2.1"))]),
    ("dnsmasq", "address=/x.com/2001:DB8::1", [("x.com", BOTH, data("AAAA 2001:db8::1"))]),
    ("dnsmasq", "server=/x.com/", [("x.com", BOTH, NXDOMAIN)]),
    ("dnsmasq", "local=/x.com/", [("x.com", BOTH, NXDOMAIN)]),
    ("dnsmasq", "address=/a.com/b.com/", [("a.com", BOTH, NXDOMAIN), ("b.com", BOTH, NXDOMAIN)]),
    ("dnsmasq", "server=/a.com/b.com/", [("a.com", BOTH, NXDOMAIN), ("b.com", BOTH, NXDOMAIN)]),
    ("dnsmasq", "address=/.x.com/#", [("x.com", BOTH, ZERO)]),
    ("dnsmasq", "port=53", []),
    ("dnsmasq", "no-resolv", []),
    ("dnsmasq", "server=9.9.9.9", []),
    # Unbound
    *[
        ("unbound", f'local-zone: "x.com" {kind}', [("x.com", BOTH, outcome)])
        for kind, outcome in {
            "always_null": ZERO,
            "always_nxdomain": NXDOMAIN,
            "static": NXDOMAIN,
            "deny": DROP,
            "always_deny": DROP,
            "inform_deny": DROP,
            "refuse": REFUSED,
            "always_refuse": REFUSED,
            "always_nodata": NODATA,
            "redirect": NODATA,
            "transparent": ALLOW,
            "always_transparent": ALLOW,
        }.items()
    ],
    ("unbound", "\tlocal-zone:   'X.com.'   Static  # why", [("x.com", BOTH, NXDOMAIN)]),
    ("unbound", "local-zone: x.com. static", [("x.com", BOTH, NXDOMAIN)]),
    ("unbound", 'local-zone:"x.com"static', [("x.com", BOTH, NXDOMAIN)]),
    ("unbound", 'local-data: "x.com A 192.0.2.1"', [("x.com", SELF, data("A 192.0.2.1"))]),
    ("unbound", "local-data: 'x.com. 300 IN TXT \"a b\"'", [("x.com", SELF, data('TXT "a b"', ttl=300))]),
    ("unbound", "local-data: x.com AAAA 2001:db8::1", [("x.com", SELF, data("AAAA 2001:db8::1"))]),
    ("unbound", "server:", []),
    ("unbound", "  verbosity: 1", []),
    ("unbound", 'local-data-ptr: "192.0.2.1 x.com"', []),
]


@pytest.mark.parametrize(("dialect", "line", "rules"), TAKEN)
def test_what_a_line_says(dialect: str, line: str, rules: list[tuple[str, Scope, Outcome]]) -> None:
    result = read_line(dialect, line)
    assert [rule[1:] for rule in result.rules] == sorted(rules)
    assert result.report.names == len(rules)
    assert result.report.refused == 0
    assert result.report.comments == 0
    assert bool(result.report.skipped) == (not rules or "localhost.localdomain" in line)


REFUSED_LINES = [
    ("domains", "com", "bare top-level domain"),
    ("domains", "x.com y.com", "a blank inside the name"),
    ("domains", "x..com", "empty label"),
    ("domains", "x.com/path", "a path"),
    ("domains", "http:///", "no name"),
    ("domains", "x\x1b.com", r"the character '\\x1b'"),
    ("hosts", "x.com", "no address at the start"),
    ("hosts", "0.0.0.0", "an address without a name"),
    ("hosts", "0.0.0.0 com", "com: a bare top-level domain"),
    ("adblock", "||x y.com^", "a blank inside the rule"),
    ("adblock", "||.x.com^", "empty label"),
    ("adblock", "||*.zip^", "bare top-level domain"),
    ("dnsmasq", "address=/x.com", "no slash after the name"),
    ("dnsmasq", "address=/x.com/y", "y is no address"),
    ("dnsmasq", "address=//", "no name between two slashes"),
    ("dnsmasq", "address=/zip/#", "bare top-level domain"),
    ("dnsmasq", "x.com", "neither address="),
    ("unbound", "x.com", "no setting"),
    ("unbound", "http://x.com/", "no setting"),
    ("unbound", 'local-zone: "x.com"', "takes a name and a type"),
    ("unbound", 'local-zone: "x.com static', "a quote without its end"),
    ("unbound", 'local-zone: "." static', "every name"),
    ("unbound", 'local-data: "x.com A 1.2.3"', "not the data of a record of type A"),
    ("unbound", 'local-data: "x.com FOO 1.2.3"', "FOO is no record type"),
    ("unbound", 'local-data: "x.com 300 IN"', "a record without a type"),
    ("unbound", 'local-data: ""', "a record without a type"),
]

SAYS_NOTHING = [
    ("adblock", "||x.com^path", "pattern"),
    ("adblock", "||x.com/path^", "a path"),
    ("adblock", "https://x.com/ads.js", "a path"),
    ("adblock", "||x.com:8080^", "a port"),
    ("adblock", "||x.com^$third-party", r"page-level modifier \$third-party says nothing about DNS"),
    ("adblock", "||x.com^$important,~third-party", r"page-level modifier \$third-party"),
    ("adblock", "||x.com^$domain=y.com", r"page-level modifier \$domain"),
    ("adblock", "||x.com^$popup", r"page-level modifier \$popup"),
    ("adblock", "||x.com^$sparkle", r"modifier \$sparkle is unknown"),
    ("adblock", "x.com##.ad", "cosmetic"),
    ("adblock", "##.ad", "cosmetic"),
    ("adblock", "###ad", "cosmetic"),
    ("adblock", "x.com#@#.ad", "cosmetic"),
    ("adblock", "x.com#?#div:has(a)", "cosmetic"),
    ("adblock", "x.com#$#body { }", "cosmetic"),
    ("adblock", "x.com#%#//scriptlet('a')", "cosmetic"),
    ("adblock", "x.com$$script[a]", "cosmetic"),
    ("dnsmasq", "server=/x.com/192.0.2.1", "a forwarding rule, not a block"),
    ("dnsmasq", "server=/x.com/#", "a forwarding rule, not a block"),
    ("dnsmasq", "address=/#/0.0.0.0", "every name"),
    ("unbound", 'local-zone: "x.com" nodefault', "no filter"),
    ("unbound", "include: /etc/unbound/more.conf", "include is not followed"),
    ("unbound", 'local-data: "*.x.com A 192.0.2.1"', "local data of a wildcard"),
]


@pytest.mark.parametrize(("dialect", "line", "reason"), REFUSED_LINES + SAYS_NOTHING)
def test_why_a_line_is_refused(dialect: str, line: str, reason: str) -> None:
    result = read_line(dialect, "\n\n" + line)
    assert result.rules == []
    assert result.report.refused == 1
    [refused] = result.report.refused_lines
    assert refused.line == 3
    assert re.search(reason, refused.reason), refused.reason


COMMENTS = {
    "domains": ["# x.com", "! x.com", "; x.com", "  # x.com", "#", "[Adblock Plus 2.0]", "## Section", "#######"],
    "hosts": ["# 0.0.0.0 x.com", "#0.0.0.0 x.com"],
    "adblock": ["! ||x.com^", "[Adblock Plus 2.0]", "# x.com", "## Section", "#### Section"],
    "dnsmasq": ["# address=/x.com/#"],
    "unbound": ['# local-zone: "x.com" static'],
    "rpz": ["; x.com CNAME .", "  ; x.com CNAME .", "# x.com CNAME ."],
}


@pytest.mark.parametrize(("dialect", "line"), [(d, line) for d, lines in COMMENTS.items() for line in lines])
def test_comments_are_counted_and_say_nothing(dialect: str, line: str) -> None:
    report = read_line(dialect, f"\n{line}\n \t\n").report
    assert (report.lines, report.comments, report.names, report.refused) == (3, 1, 0, 0)


def test_a_bad_part_does_not_spoil_its_line() -> None:
    result = read_line("hosts", "0.0.0.0 a.com com b.com 1.2 c.com")
    assert result.names == {"a.com", "b.com", "c.com"}
    [refused] = result.report.refused_lines
    assert refused.reason == "com: a bare top-level domain (and 1 more)"
    result = read_line("dnsmasq", "address=/a.com/zip/b.com/192.0.2.1")
    assert result.names == {"a.com", "b.com"}
    assert result.report.refused == 1


def test_a_url_counts_as_repaired() -> None:
    report = read_line("domains", "https://x.com/\ny.com\nhttp://com/\n").report
    assert (report.names, report.repaired, report.refused) == (2, 1, 1)


@pytest.mark.parametrize(
    ("dialect", "line", "auto", "yes", "no"),
    [
        ("domains", "x.com", BOTH, BOTH, SELF),
        ("domains", "*.x.com", BOTH, BOTH, BOTH),
        ("domains", ".x.com", BOTH, BOTH, BOTH),
        ("hosts", "0.0.0.0 x.com", SELF, BOTH, SELF),
        ("hosts", "192.0.2.1 x.com", SELF, BOTH, SELF),
        ("adblock", "||x.com^", BOTH, BOTH, BOTH),
        ("adblock", "x.com", BOTH, BOTH, SELF),
        ("adblock", "0.0.0.0 x.com", SELF, BOTH, SELF),
        ("dnsmasq", "address=/x.com/#", BOTH, BOTH, BOTH),
        ("unbound", "local-zone: x.com static", BOTH, BOTH, BOTH),
        ("mixed", "x.com", BOTH, BOTH, SELF),
        ("mixed", "0.0.0.0 x.com", SELF, BOTH, SELF),
    ],
)
def test_the_option_subdomains_widens_hosts_and_narrows_plain_lines(
    dialect: str, line: str, auto: Scope, yes: Scope, no: Scope
) -> None:
    for option, scope in (("auto", auto), ("yes", yes), ("no", no)):
        assert [rule[2] for rule in read_line(dialect, line, subdomains=option).rules] == [scope]


@pytest.mark.parametrize(
    ("dialect", "line", "outcome"),
    [
        ("domains", "x.com", ALLOW),
        ("hosts", "0.0.0.0 x.com", ALLOW),
        ("adblock", "||x.com^", ALLOW),
        ("adblock", "@@||x.com^", ALLOW),
        ("adblock", "||x.com^$important", IMPORTANT_ALLOW),
        ("dnsmasq", "address=/x.com/192.0.2.1", ALLOW),
        ("unbound", "local-zone: x.com static", ALLOW),
        ("rpz", "x.com CNAME .", ALLOW),
    ],
)
def test_in_an_allow_list_every_rule_is_an_allow(dialect: str, line: str, outcome: Outcome) -> None:
    assert [rule[3] for rule in read_line(dialect, line, kind="allow").rules] == [outcome]


def test_addresses_of_the_same_names_are_one_answer() -> None:
    body = "address=/x.com/192.0.2.1\naddress=/y.com/#\naddress=/x.com/2001:db8::1\naddress=/x.com/192.0.2.1\n"
    body += "address=/z.com/192.0.2.2"
    assert read_line("dnsmasq", body).rules == [
        (1, "x.com", BOTH, data("A 192.0.2.1", "AAAA 2001:db8::1")),
        (2, "y.com", BOTH, ZERO),
        (5, "z.com", BOTH, data("A 192.0.2.2")),
    ]


def test_a_redirect_zone_gives_its_local_data() -> None:
    body = """server:
        local-zone: "x.com" redirect
        local-data: "x.com 60 A 192.0.2.1"
        local-zone: "y.com" static
        local-data: 'x.com. AAAA 2001:db8::1'
        local-data: "z.com A 192.0.2.3"
        local-zone: "z.com." redirect
        local-data: "a.z.com A 192.0.2.4"
        local-zone: "w.com" redirect
    """
    assert read_line("unbound", body).rules == [
        (2, "x.com", BOTH, data("A 192.0.2.1", "AAAA 2001:db8::1", ttl=60)),
        (4, "y.com", BOTH, NXDOMAIN),
        (6, "z.com", BOTH, data("A 192.0.2.3")),
        (8, "a.z.com", SELF, data("A 192.0.2.4")),
        (9, "w.com", BOTH, NODATA),
    ]


def test_what_a_view_says_is_not_for_everybody() -> None:
    body = "".join(f'local-zone: "a{number}.com" static\n' for number in range(200))
    body += 'view:\n  name: "kids"\nlocal-zone: "in.view.com" static\nserver:\nlocal-zone: "b.com" static\n'
    result = read_line("unbound", body)
    assert result.names == {f"a{number}.com" for number in range(200)} | {"b.com"}


def test_a_mixed_file_is_read_line_by_line() -> None:
    body = """! comment
    x.com
    *.w.com
    0.0.0.0 h.com
    ||a.com^
    @@||b.com^$important
    address=/d.com/192.0.2.1
    local-zone: "u.com" always_null
    x.com##.ad
    """
    assert read_line("mixed", body).rules == [
        (2, "x.com", BOTH, PLAIN),
        (3, "w.com", BOTH, PLAIN),
        (4, "h.com", SELF, PLAIN),
        (5, "a.com", BOTH, BLOCK),
        (6, "b.com", BOTH, IMPORTANT_ALLOW),
        (7, "d.com", BOTH, data("A 192.0.2.1")),
        (8, "u.com", BOTH, ZERO),
    ]
