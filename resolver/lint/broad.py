"""Rules that reach further than a list should: whole top-level domains, public suffixes, hosting domains, networks; and
names that nobody can have.

What suffixes there are, publicsuffixlist says: those of registries (ICANN) and those of companies below whose names others
have their sites (private).
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from resolver.lint.read import Linted
from resolver.lists.guard import MIN_PREFIX, public_suffixes
from resolver.lists.names import key
from resolver.lists.parse.addresses import is_special
from resolver.lists.patterns import TooLarge
from resolver.lists.rules import Trigger, TriggerKind
from resolver.vocabulary import Scope, Verb

PROBE = "0"  # a name below a suffix that nothing but the suffix tells from others
# Names that have no place below the root and are used all the same: RFC 6761, 6762, 7686, 8375, 9476 and ICANN's .internal.
_SPECIAL_USE = frozenset({"alt", "example", "internal", "invalid", "local", "localhost", "onion", "test"})


class Broad(NamedTuple):
    """A rule that reaches far: its line in the survey, what it says, and why that is much."""

    line: int
    name: str
    verb: Verb
    why: str


class Suffixes(NamedTuple):
    """The public suffix list's rules: names, names every child of which is a suffix, and children that are none."""

    registries: frozenset[str]
    companies: frozenset[str]
    wildcards: frozenset[str]
    exceptions: frozenset[str]
    parents: dict[str, str]  # a name that is no suffix, above this one that is


@functools.cache
def suffixes() -> Suffixes:
    """What publicsuffixlist knows, as A-labels."""
    every, registries = public_suffixes("all"), public_suffixes("registries")
    plain = frozenset(rule for rule in every if rule[0] not in "*!")
    wildcards = frozenset(rule[2:] for rule in every if rule.startswith("*."))
    parents: dict[str, str] = {}
    for rule in sorted(plain | wildcards):
        parent = rule.partition(".")[2]
        while "." in parent and parent not in plain:
            parents.setdefault(parent, rule)
            parent = parent.partition(".")[2]
    return Suffixes(
        plain & registries,
        plain - registries,
        wildcards,
        frozenset(rule[1:] for rule in every if rule.startswith("!")),
        parents,
    )


def broad_names(linted: Linted) -> Iterator[Broad]:
    """The rules for names that reach too far, and names in top-level domains that there are not."""
    known = suffixes()
    reasons = dict.fromkeys(known.registries, "a public suffix: names are registered below it")
    reasons |= dict.fromkeys(known.companies, "a whole hosting domain: others have their sites below it")
    reasons |= {name: f"has public suffixes below it, such as {below}" for name, below in known.parents.items()}
    reasons |= {name: f"every name below it is a public suffix: *.{name}" for name in known.wildcards if "." in name}
    for name, why in reasons.items():
        yield from _found(linted, name, why if "." in name else "a whole top-level domain")
    for parent in known.wildcards:
        for child, _, _ in linted.survey.children(key(parent)):
            name = child.decode()
            if name not in known.exceptions and name not in reasons:
                yield from _found(linted, name, f"a public suffix by *.{parent}: names are registered below it")


def _found(linted: Linted, name: str, why: str) -> Iterator[Broad]:
    for scope, outcome, line in linted.survey.find(key(name)):
        if scope & Scope.BELOW:
            yield Broad(line, name, linted.rules[outcome].outcome.verb, why)


def unknown_tlds(linted: Linted) -> Iterator[tuple[str, int, int]]:
    """Top-level domains that there are not: (name, how many rules are in it, line of the first by name)."""
    known = suffixes()
    tlds = {name.rpartition(".")[2] for name in known.registries | known.wildcards} | _SPECIAL_USE
    for name, count, line in linted.survey.children(b""):
        if name.decode() not in tlds:
            yield name.decode(), count, line


def broad_triggers(triggers: Sequence[Trigger]) -> Iterator[tuple[Trigger, str]]:
    """Patterns that fit every name below a suffix, networks that are large, addresses that no server has."""
    for trigger in triggers:
        if trigger.kind is TriggerKind.ADDRESS:
            network = ipaddress.ip_network(trigger.text)
            if network.prefixlen < MIN_PREFIX[network.version]:
                yield trigger, f"a network of {network.num_addresses:,} addresses"
            elif is_special(trigger.text):
                yield trigger, "a special-purpose address (RFC 6890): no server on the Internet has it"
    patterns = [trigger for trigger in triggers if trigger.kind is TriggerKind.PATTERN]
    fits: dict[int, list[str]] = {}
    if patterns:
        from resolver.lists.patterns import PatternSet

        try:
            together = PatternSet([trigger.text for trigger in patterns])
        except TooLarge:
            return
        for suffix in sorted(suffixes().registries, key=lambda name: (name.count("."), name != "com", name)):
            for number in together.matches(f"{PROBE}.{suffix}"):
                fits.setdefault(number, []).append(suffix)
    for number, found in sorted(fits.items()):
        more = f" and {len(found) - 1:,} more public suffixes" if len(found) > 1 else ""
        yield patterns[number], f"fits every name below {found[0]}{more}"
