"""Address rules: how every dialect writes them, the one text they come to, and what is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.lists.parse import Options
from resolver.lists.parse.addresses import is_special, prefix_of, rpz_prefix
from resolver.lists.rules import BadLine, Outcome, Trigger, TriggerKind
from resolver.vocabulary import Action, Verb
from tests.unit.lists.collector import read

BLOCK = Outcome()
ALLOW = Outcome(verb=Verb.ALLOW)


def triggers(dialect: str, body: str, kind: str = "block") -> list[Trigger]:
    return read(body, Options(format=dialect, kind=kind, own_names=frozenset())).report.triggers


@pytest.mark.parametrize(
    ("dialect", "line", "text", "outcome"),
    [
        ("addresses", "1.2.3.4", "1.2.3.4/32", BLOCK),
        ("addresses", " 1.2.3.4 # why", "1.2.3.4/32", BLOCK),
        ("addresses", "1.2.3.4/24", "1.2.3.0/24", BLOCK),
        ("addresses", "2001:DB8::/32", "2001:db8::/32", BLOCK),
        ("addresses", "2001:db8:0::1", "2001:db8::1/128", BLOCK),
        ("addresses", "::ffff:1.2.3.4", "1.2.3.4/32", BLOCK),
        ("addresses", "::ffff:1.2.3.0/120", "1.2.3.0/24", BLOCK),
        ("domains", "1.2.3.4", "1.2.3.4/32", BLOCK),
        ("domains", "2001:db8::/32", "2001:db8::/32", BLOCK),
        ("mixed", "1.2.3.0/24", "1.2.3.0/24", BLOCK),
        ("adblock", "1.2.3.4", "1.2.3.4/32", BLOCK),
        ("adblock", "1.2.3.0/24", "1.2.3.0/24", BLOCK),
        ("adblock", "||1.2.3.4^", "1.2.3.4/32", BLOCK),
        ("adblock", "@@||1.2.3.4^", "1.2.3.4/32", ALLOW),
        ("adblock", "||2001:db8::1^$important", "2001:db8::1/128", Outcome(important=True)),
        ("dnsmasq", "bogus-nxdomain=1.2.3.4", "1.2.3.4/32", Outcome(action=Action.NXDOMAIN)),
    ],
)
def test_how_an_address_rule_is_written(dialect: str, line: str, text: str, outcome: Outcome) -> None:
    assert triggers(dialect, f"\n{line}") == [Trigger(TriggerKind.ADDRESS, text, outcome, 2)]


@pytest.mark.parametrize(
    "line", ["0.0.0.0/0", "::/0", "::ffff:0:0/96", "1.2.3", "1.2.3.4/33", "01.2.3.4", "x.com", "1.2.3.4-9", "ü"]
)
def test_what_is_no_address_rule(line: str) -> None:
    report = read(f"192.0.2.1\n{line}", Options(format="addresses")).report
    assert len(report.triggers) == 1
    assert report.refused == 1


def test_duplicates_are_counted_and_the_first_is_kept() -> None:
    report = read("1.2.3.4\n1.2.3.4/32\n::ffff:1.2.3.4\n1.2.3.0/24\n", Options(format="addresses")).report
    assert [(trigger.text, trigger.line) for trigger in report.triggers] == [("1.2.3.4/32", 1), ("1.2.3.0/24", 4)]
    assert report.duplicates == 2


def test_an_allow_list_allows_answers() -> None:
    assert triggers("addresses", "1.2.3.4", kind="allow") == [Trigger(TriggerKind.ADDRESS, "1.2.3.4/32", ALLOW, 1)]


def test_a_list_of_addresses_is_told_by_its_lines() -> None:
    report = read("# a comment\n1.2.3.4\n1.2.3.5\n2001:db8::1\n").report
    assert (report.format, len(report.triggers), report.special) == ("addresses", 3, 1)
    report = read("1.2.3.4\nx.com\ny.com\n").report
    assert (report.format, len(report.triggers), report.names) == ("mixed", 1, 2)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(addresses, st.integers(1, 128), st.integers(-1, 7))
def test_rpz_and_plain_lists_come_to_one_text(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int, squeeze: int
) -> None:
    network = ipaddress.ip_network((address, min(length, address.max_prefixlen)), strict=False)
    if network.version == 4:
        parts = str(network.network_address).split(".")
    else:
        parts = [f"{int(part, 16):x}" for part in network.network_address.exploded.split(":")]
        if squeeze >= 0 and parts[squeeze] == "0":
            end = squeeze
            while end < 8 and parts[end] == "0":
                end += 1
            parts[squeeze:end] = ["zz"]
    written = ".".join([str(network.prefixlen), *reversed(parts)])
    try:
        expected = prefix_of(str(network))
    except BadLine:
        with pytest.raises(BadLine):
            rpz_prefix(written)
    else:
        assert rpz_prefix(written) == expected
        assert prefix_of(expected) == expected


@given(addresses)
def test_special_addresses(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.version == 6 and address.ipv4_mapped:
        return
    if address.is_private or address.is_multicast or address.is_reserved or address.is_link_local:
        assert is_special(prefix_of(str(address)))
