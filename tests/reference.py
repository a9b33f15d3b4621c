"""A slow, obvious oracle: what lists say of a name, by plain loops over its suffixes. Read it as the definition."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from resolver.lists.rules import Outcome, Rule, Trigger, TriggerKind
from resolver.vocabulary import Scope


class ReferenceList(NamedTuple):
    """A list's rules in the order of their lines; `replaces`: the most specific name's rules take the others' place."""

    rules: Sequence[Rule]
    replaces: bool = False
    triggers: Sequence[Trigger] = ()


def suffixes(name: str) -> Iterator[str]:
    """The root (""), the TLD, and so on down to the name itself."""
    labels = name.split(".") if name else []
    for count in range(len(labels) + 1):
        yield ".".join(labels[len(labels) - count :])


def rules_at(entry: ReferenceList, name: str, scope: Scope) -> set[Outcome]:
    """What the list's rules for exactly this name say to `scope`; in a list that replaces, the first line alone."""
    outcomes = [rule.outcome for rule in entry.rules if rule.name == name and rule.scope & scope]
    return set(outcomes[:1] if entry.replaces else outcomes)


def said_of(lists: Sequence[ReferenceList], name: str) -> set[tuple[int, Outcome]]:
    """Everything that is said of `name`, as (index of the list, outcome)."""
    said = set()
    for number, entry in enumerate(lists):
        outcomes: set[Outcome] = set()
        for suffix in suffixes(name):
            own = rules_at(entry, suffix, Scope.SELF if suffix == name else Scope.BELOW)
            if own:
                outcomes = own if entry.replaces else outcomes | own
        said |= {(number, outcome) for outcome in outcomes}
    return said


def prefixes_at(entry: ReferenceList, kind: TriggerKind, address: str) -> list[tuple[int, Outcome]]:
    """The list's rules of a kind that hold an address, as (prefix length, outcome); the longest alone if it replaces."""
    wanted = ipaddress.ip_address(address)
    found = []
    for trigger in entry.triggers:
        if trigger.kind is kind and wanted in (network := ipaddress.ip_network(trigger.text)):
            found.append((network.prefixlen, trigger.outcome))
    longest = max((length for length, _ in found), default=0)
    return [item for item in found if item[0] == longest][:1] if entry.replaces else found


def said_of_address(lists: Sequence[ReferenceList], kind: TriggerKind, address: str) -> set[tuple[int, Outcome]]:
    """Everything that is said of an address, as (index of the list, outcome)."""
    return {(number, outcome) for number, entry in enumerate(lists) for _, outcome in prefixes_at(entry, kind, address)}


def said_of_server(lists: Sequence[ReferenceList], name: str) -> set[tuple[int, Outcome]]:
    """Everything that is said of the name of a name server: as of other names."""
    rules = [
        ReferenceList(
            [
                Rule(trigger.text.removeprefix("*."), scope, trigger.outcome)
                for trigger in entry.triggers
                for scope in [Scope.BELOW if trigger.text.startswith("*.") else Scope.SELF]
                if trigger.kind is TriggerKind.NSDNAME
            ],
            entry.replaces,
        )
        for entry in lists
    ]
    return said_of(rules, name)


def value_of(names: Mapping[str, tuple[int, int]], name: str) -> int:
    """What a table of names with a value for themselves and one for what is below them has for `name`; 0: nothing."""
    value = 0
    for suffix in suffixes(name):
        own, below = names.get(suffix, (0, 0))
        value = (own if suffix == name else below) or value
    return value
