"""The slow, obvious oracle of lists as they are written: what a query comes to, said of the lines and not of what they are
read into. It shares nothing with `resolver/` but numbers.

A line is made by a test as a `Line`, which can be written down in its dialect; what it says is asked of its fields, one
rule of spec and README after the other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

TYPES = {"A": 1, "AAAA": 28, "TXT": 16}
PATTERNS = ("prefix", "ends", "regex")
ZONE_NETWORKS = ("zone-network", "zone-network-passthru")
PASSES = ("passthru", "zone-network-passthru")
RCODES = {"NXDOMAIN": 3, "REFUSED": 5, "SERVFAIL": 2}


@dataclass(frozen=True)
class Line:
    """A rule. `form`: how its name, pattern or network is written; the rest are modifiers of adblock rules."""

    form: str
    name: str
    exception: bool = False
    important: bool = False
    types: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    rewrite: str | None = None
    badfilter: bool = False

    def text(self) -> str:
        """The line in a file."""
        forms = {
            "plain": "{}",
            "hosts": "0.0.0.0 {}",
            "name": "||{}^",
            "below": "||*.{}^",
            "self": "|{}^",
            "prefix": "||{}",
            "ends": "{}^",
            "regex": "/{}/",
            "null": "address=/{}/#",
            "nxdomain": "server=/{}/",
            "zone": "{} CNAME .",
            "zone-below": "*.{} CNAME .",
            "passthru": "{} CNAME rpz-passthru.",
            "zone-null": 'local-zone: "{}" always_null',
            "zone-refuse": 'local-zone: "{}" refuse',
            "zone-free": 'local-zone: "{}" transparent',
            "every": "*",
            "network": "{}",
            "zone-network": "{} CNAME .",
            "zone-network-passthru": "{} CNAME rpz-passthru.",
        }
        name = _reversed(self.name) if self.form in ZONE_NETWORKS else self.name
        modifiers = ["important"] * self.important
        for word, values in (
            ("dnstype", self.types),
            ("client", self.clients),
            ("ctag", self.tags),
            ("denyallow", self.denied),
        ):
            modifiers += [f"{word}={'|'.join(values)}"] * bool(values)
        if self.rewrite is not None:
            modifiers.append(f"dnsrewrite={self.rewrite}" if self.rewrite else "dnsrewrite")
        modifiers += ["badfilter"] * self.badfilter
        return (
            "@@" * (self.exception and self.is_rule)
            + forms[self.form].format(name)
            + "$" * bool(modifiers)
            + ",".join(modifiers)
        )

    @property
    def is_rule(self) -> bool:
        """Whether it is an adblock rule and no hosts or plain line."""
        return self.form in ("name", "below", "self", "prefix", "ends", "regex", "every")

    @property
    def outcome(self) -> Line:
        """What it says, whatever the name."""
        return replace(self, form="rule" if self.is_rule else self.form, name="", badfilter=False)

    def covers(self, name: str) -> bool:
        """Whether it speaks of a name."""
        is_below = name.endswith(f".{self.name}")
        match self.form:
            case "plain" | "name" | "null" | "nxdomain" | "zone-null" | "zone-refuse" | "zone-free":
                return name == self.name or is_below
            case "hosts" | "self" | "zone" | "passthru":
                return name == self.name
            case "below" | "zone-below":
                return is_below
            case "prefix":
                return any(part.startswith(self.name) for part in _endings(name))
            case "ends":
                return name.endswith(self.name)
            case "regex":
                return re.search(self.name, name) is not None
            case "every":
                return True
            case "network" | "zone-network" | "zone-network-passthru":
                return False
        raise AssertionError(self.form)

    def covers_address(self, address: str) -> bool:
        """Whether it speaks of answers with an address."""
        return self.form in (*ZONE_NETWORKS, "network") and _is_in(ipaddress.ip_address(address), self.name)

    def holds(self, asked: Asked) -> bool:
        """Whether its modifiers allow it to speak of a query."""
        address = ipaddress.ip_address(asked.address)
        return (
            _asks_for(self.types, lambda text: text == asked.qtype)
            and _asks_for(self.clients, lambda text: text == asked.group or _is_in(address, text))
            and _asks_for(self.tags, lambda text: text in asked.tags)
            and not any(asked.name == name or asked.name.endswith(f".{name}") for name in self.denied)
        )


class Written(NamedTuple):
    """A list: its dialect and lines."""

    format: str
    lines: tuple[Line, ...]


class Asked(NamedTuple):
    """A query, its client's address, and the group it is in ("": none) with its tags and lists (None: all)."""

    name: str
    qtype: str
    address: str
    group: str = ""
    tags: frozenset[str] = frozenset()
    lists: frozenset[int] | None = None


Answer = tuple[int, frozenset[str]] | None  # rcode and the answer's data; None: the upstream is asked


def answer(lists: Sequence[Written], asked: Asked, address: str = "") -> Answer:
    """What a query comes to; `address`: the one that the upstream answers, "" if it has none."""
    seen = [number for number in range(len(lists)) if asked.lists is None or number in asked.lists]
    bad = [line for written in lists for line in written.lines if line.badfilter]
    said: list[tuple[int, Line]] = []
    for number in seen:
        written = lists[number]
        alive = [
            line
            for line in written.lines
            if not line.badfilter and not (line.is_rule and replace(line, badfilter=True) in bad)
        ]
        if written.format in ("dnsmasq", "rpz", "unbound"):
            said += [(number, line) for line in _most_specific(alive, asked.name)]
        else:
            said += [(number, line) for line in alive if line.covers(asked.name) and line.holds(asked)]
    adblock = [(number, line) for number, line in said if lists[number].format != "rpz"]
    rules = [line for _, line in adblock if line.rewrite is None]
    if any(line.exception and line.important for line in rules):
        return None
    if rewrites := list(_rewrites(lists, adblock)):
        return _rewritten(rewrites, asked.qtype)
    if any(line.important for line in rules):
        return _null(asked.qtype)
    if any(line.exception for line in rules):
        return None
    for number in seen:
        if lists[number].format == "rpz":
            forms = [line.form for at, line in said if at == number] or _longest(lists[number].lines, address)
            if forms:
                return None if forms[0] in PASSES else (3, frozenset())
    # Of rules of one rank those that name the name go before patterns, so that patterns cost nothing on a hit.
    for _, line in sorted(adblock, key=lambda item: (item[1].form in PATTERNS, item[0])):
        if line.rewrite is None:
            rcode = {"nxdomain": 3, "zone-refuse": 5}.get(line.form)
            return _null(asked.qtype) if rcode is None else (rcode, frozenset())
    # And rules for names before those for what the upstream has to be asked for.
    others = [line for number in seen if lists[number].format != "rpz" for line in lists[number].lines]
    if address and any(line.covers_address(address) for line in others):
        return _null(asked.qtype)
    return None


def _longest(lines: Sequence[Line], address: str) -> list[str]:
    """The form of the rule of a zone that speaks of an address: the first of those with the longest prefix."""
    covering = [line for line in lines if address and line.covers_address(address)]
    return [max(covering, key=lambda line: ipaddress.ip_network(line.name).prefixlen).form] if covering else []


def _reversed(network: str) -> str:
    """A network as a policy zone writes it."""
    parsed = ipaddress.ip_network(network)
    parts = (
        str(parsed.network_address).split(".")
        if parsed.version == 4
        else [f"{int(part, 16):x}" for part in parsed.network_address.exploded.split(":")]
    )
    return f"{parsed.prefixlen}.{'.'.join(reversed(parts))}.rpz-ip"


def _most_specific(lines: Sequence[Line], name: str) -> list[Line]:
    """In a list in which rules replace each other: the first line of the longest name that speaks of this one.

    A wildcard and a name of its own are of the same length where the wildcard's parent is; the name itself is longer.
    """
    covering = [line for line in lines if line.covers(name)]
    longest = max((len(line.name) for line in covering), default=0)
    return [line for line in covering if len(line.name) == longest][:1]


def _rewrites(lists: Sequence[Written], said: Sequence[tuple[int, Line]]) -> Iterator[Line]:
    """The rewrites that no exception takes back, in their order."""

    def order(item: tuple[int, Line]) -> tuple[bool, int, int]:
        number, line = item
        outcomes = [each.outcome for each in lists[number].lines if each.denied == () or not each.badfilter]
        return not line.important, number, outcomes.index(line.outcome)

    exceptions = [line for _, line in said if line.exception and line.rewrite is not None]
    for _, line in sorted((item for item in said if item[1].rewrite is not None), key=order):
        if not line.exception and not any(
            each.rewrite in ("", line.rewrite) and (each.important or not line.important) for each in exceptions
        ):
            yield line


def _rewritten(rewrites: Sequence[Line], qtype: str) -> Answer:
    for line in rewrites:
        if line.rewrite in RCODES:
            return RCODES[line.rewrite], frozenset()
        if line.rewrite == "target.example":
            return 0, frozenset({"target.example."})
    given = {str(line.rewrite) for line in rewrites}
    return 0, frozenset(text for text in given if text and (":" in text) == (qtype == "AAAA") and qtype != "TXT")


def _null(qtype: str) -> Answer:
    return 0, frozenset({"A": {"0.0.0.0"}, "AAAA": {"::"}}.get(qtype, set()))


def _asks_for(values: Sequence[str], fits: object) -> bool:
    assert callable(fits)
    wanted = [value for value in values if not value.startswith("~")]
    if any(fits(value[1:]) for value in values if value.startswith("~")):
        return False
    return not wanted or any(fits(value) for value in wanted)


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> bool:
    try:
        return address in ipaddress.ip_network(text)
    except ValueError:
        return False


def _endings(name: str) -> list[str]:
    labels = name.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]
