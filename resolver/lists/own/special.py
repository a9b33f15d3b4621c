"""Names that are answered here and never asked upstream, whatever the lists say.

| names | answer | RFC |
|---|---|---|
| localhost and below | 127.0.0.1 and ::1 | 6761, 6.3 |
| invalid, test and below | NXDOMAIN | 6761, 6.2 and 6.4 |
| onion and below | NXDOMAIN | 7686, 2 |
| home.arpa and below | empty zone | 8375, 4 |
| the reverse zones of private and special addresses | empty zones, with PTR of 127.0.0.1 and ::1 | 6303, 7793 |
| resolver.arpa and below | NODATA, but for the server's encrypted listeners | 9462, 6.4 |
| the config's `local_zones` | empty zones | as 6303 |
| ipv4only.arpa, where DNS64 is on | its addresses, and those made from them | 8880, 7.1 |
| reverse names below the prefix of DNS64 | an alias of the IPv4 address's | 6147, 5.3.1 |

An empty zone has SOA and NS as RFC 6303 section 3 says: MNAME and the name server are the zone itself. A zone that
`upstream.routes` sends somewhere is not answered here, and neither is what is routed below one. Local records go before.
`example` is resolved like any name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from resolver.config.model import Config
from resolver.lists.own.ddr import designations
from resolver.lists.own.rules import OwnRule
from resolver.lists.rules import Outcome
from resolver.vocabulary import Action, Scope, Verb

TTL = 10_800  # seconds (RFC 6303 section 3)
SHORT = 300  # of what follows from the config and may change with it

PRIVATE_REVERSE = (
    # RFC 6303 section 4.1: private addresses (RFC 1918)
    "10.in-addr.arpa",
    *(f"{second}.172.in-addr.arpa" for second in range(16, 32)),
    "168.192.in-addr.arpa",
    # 4.2: this network, loopback, link-local, documentation, broadcast
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "254.169.in-addr.arpa",
    "2.0.192.in-addr.arpa",
    "100.51.198.in-addr.arpa",
    "113.0.203.in-addr.arpa",
    "255.255.255.255.in-addr.arpa",
    # 4.3: :: and ::1
    f"{'0.' * 32}ip6.arpa",
    f"1.{'0.' * 31}ip6.arpa",
    # 4.4: locally assigned addresses
    "d.f.ip6.arpa",
    # 4.5: link-local
    "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa",
    "b.e.f.ip6.arpa",
    # 4.6: documentation
    "8.b.d.0.1.0.0.2.ip6.arpa",
    # RFC 7793: shared address space
    *(f"{second}.100.in-addr.arpa" for second in range(64, 128)),
)
IPV4_ONLY = ("192.0.0.170", "192.0.0.171")  # RFC 7050 section 8.2


def special_rules(config: Config, local: Sequence[OwnRule]) -> tuple[list[OwnRule], tuple[Path, ...]]:
    """The local records' rules with those of special names behind them, and the files that these came from."""
    taken = {(rule.name, scope) for rule in local for scope in (Scope.SELF, Scope.BELOW) if rule.scope & scope}
    routed = {zone for route in config.upstream.routes for zone in route.zones}
    found = list(local)
    designated, sources = designations(config)
    for rule in _rules(config, designated):
        zones = _above(rule.name)
        if not routed.isdisjoint(zones):
            continue
        left = Scope(sum(scope for scope in (Scope.SELF, Scope.BELOW) if (rule.name, scope) not in taken) & rule.scope)
        if left:
            found.append(rule._replace(scope=left))
            taken |= {(rule.name, scope) for scope in (Scope.SELF, Scope.BELOW) if left & scope}
    zones = {rule.name for rule in found[len(local) :]}
    for zone in sorted(routed):
        if not zones.isdisjoint(_above(zone)):  # what is routed below is asked there
            left = Scope(sum(scope for scope in (Scope.SELF, Scope.BELOW) if (zone, scope) not in taken))
            if left:
                found.append(OwnRule(zone, left, Outcome(Verb.ALLOW, action=Action.FORWARD), "upstream.routes"))
    return found, sources


def _above(name: str) -> set[str]:
    """A name and all that are above it."""
    labels = name.split(".")
    return {".".join(labels[at:]) for at in range(len(labels))}


def _rules(config: Config, designated: Sequence[str]) -> Iterator[OwnRule]:
    kinds = config.special_names
    for number, zone in enumerate(config.local_zones):
        yield from _zone(zone, f"local_zones[{number}]")
    if config.dns64.prefix is not None:
        yield from _dns64(config.dns64.prefix)
    if kinds.localhost:
        yield OwnRule("localhost", Scope.BOTH, _says("A 127.0.0.1", "AAAA ::1", _soa("localhost")), _named("6761"))
        for address in ("127.0.0.1", "::1"):
            name = ipaddress.ip_address(address).reverse_pointer
            yield OwnRule(name, Scope.SELF, _says("PTR localhost."), _named("6303"))
    for name, kept in (("invalid", kinds.invalid), ("test", kinds.test), ("onion", kinds.onion)):
        if kept:
            place = _named("7686" if name == "onion" else "6761")
            yield OwnRule(name, Scope.BOTH, _nothing(name), place)
    if kinds.home_arpa:
        yield from _zone("home.arpa", _named("8375"))
    if kinds.private_reverse:
        for zone in PRIVATE_REVERSE:
            yield from _zone(zone, _named("7793" if zone.endswith(".100.in-addr.arpa") else "6303"))
    if kinds.resolver_arpa:
        if designated:
            data = tuple(f"{SHORT} {record}" for record in designated)
            listed = Outcome(action=Action.LOCAL, ttl=SHORT, data=data)
            yield OwnRule("_dns.resolver.arpa", Scope.SELF, listed, "encrypted listeners (RFC 9462)")
        yield OwnRule("resolver.arpa", Scope.BOTH, _says(_soa("resolver.arpa"), ttl=SHORT), _named("9462"))


def _named(rfc: str) -> str:
    return f"special name (RFC {rfc})"


def _soa(zone: str) -> str:
    return f"SOA {zone}. nobody.invalid. 1 3600 1200 604800 10800"


def _says(*records: str, ttl: int = TTL) -> Outcome:
    return Outcome(action=Action.LOCAL, ttl=ttl, data=tuple(f"{ttl} {record}" for record in records))


def _nothing(zone: str) -> Outcome:
    """NXDOMAIN, as the zone's SOA says."""
    said = _says(_soa(zone))
    return replace(said, data=("NXDOMAIN", *said.data))


def _zone(zone: str, place: str, *records: str) -> Iterator[OwnRule]:
    """A zone with nothing in it but what its top has."""
    yield OwnRule(zone, Scope.SELF, _says(_soa(zone), f"NS {zone}.", *records), place)
    yield OwnRule(zone, Scope.BELOW, _nothing(zone), place)


def _dns64(prefix: ipaddress.IPv6Network) -> Iterator[OwnRule]:
    made = [f"AAAA {embed(prefix, ipaddress.IPv4Address(four))}" for four in IPV4_ONLY]
    yield from _zone("ipv4only.arpa", _named("8880"), *(f"A {four}" for four in IPV4_ONLY), *made)
    for four in IPV4_ONLY:
        name = ipaddress.ip_address(four).reverse_pointer
        yield OwnRule(name, Scope.SELF, _says("PTR ipv4only.arpa."), _named("8880"))
    zone = ".".join(reversed(prefix.network_address.exploded.replace(":", "")[: prefix.prefixlen // 4])) + ".ip6.arpa"
    mapped = Outcome(action=Action.LOCAL, ttl=TTL, data=("MAPPED", f"{TTL} {_soa(zone)}"))
    yield OwnRule(zone, Scope.BELOW, mapped, "dns64")


def embed(prefix: ipaddress.IPv6Network, four: ipaddress.IPv4Address) -> ipaddress.IPv6Address:
    """The IPv6 address that stands for an IPv4 one behind a prefix of DNS64 (RFC 6052 section 2.2)."""
    octets = bytearray(prefix.network_address.packed)
    at = prefix.prefixlen // 8
    for octet in four.packed:
        at += at == 8  # bits 64 to 71 are zero
        octets[at] = octet
        at += 1
    return ipaddress.IPv6Address(bytes(octets))
