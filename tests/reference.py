"""A slow, obvious oracle: what lists say of a name, by plain loops over its suffixes. Read it as the definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from resolver.lists.rules import Outcome, Rule
from resolver.vocabulary import Scope


class ReferenceList(NamedTuple):
    """A list's rules in the order of their lines; `replaces`: the most specific name's rules take the others' place."""

    rules: Sequence[Rule]
    replaces: bool = False


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


def value_of(names: Mapping[str, tuple[int, int]], name: str) -> int:
    """What a table of names with a value for themselves and one for what is below them has for `name`; 0: nothing."""
    value = 0
    for suffix in suffixes(name):
        own, below = names.get(suffix, (0, 0))
        value = (own if suffix == name else below) or value
    return value
