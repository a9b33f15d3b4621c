"""Which lists speak about a name or an address, and by which lines: read from the runs, so the server need not run."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from resolver.lists.patterns import PatternSet
from resolver.lists.rules import Outcome, Trigger, TriggerKind
from resolver.lists.runs import Run
from resolver.lists.view import LeftOut
from resolver.vocabulary import Scope


class Match(NamedTuple):
    """A rule that covers the name asked for: its list and line, the name it stands at, whom it covers, what it says."""

    list: str
    line: int
    name: str
    scope: Scope
    outcome: Outcome
    left_out: str = ""  # why the guard keeps it from what is served


class TriggerMatch(NamedTuple):
    """A rule that is not a name, and the list that has it."""

    list: str
    trigger: Trigger
    left_out: str = ""  # as of a Match


def trigger_matches(
    lists: Iterable[tuple[str, Path]], kinds: frozenset[TriggerKind], covers: Callable[[str], bool]
) -> list[TriggerMatch]:
    """The triggers of some kinds whose text `covers` what is asked about, in lists given as (name, run), list by list.

    Those that the guard left out are among them, but for patterns, which `matches` has.
    """
    words = {kind.word: kind for kind in kinds - {TriggerKind.PATTERN}}
    found: list[TriggerMatch] = []
    for label, path in lists:
        with Run(path) as run:
            found += [
                TriggerMatch(label, Trigger(words[left.trigger], left.name, left.outcome, left.line), _why(left))
                for left in run.left_out
                if left.trigger in words and covers(left.name)
            ]
            if any(run.header.triggers.get(kind.word) for kind in kinds):
                found += [
                    TriggerMatch(label, trigger)
                    for trigger in run.triggers()
                    if trigger.kind in kinds and covers(trigger.text)
                ]
    return found


def covers_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Callable[[str], bool]:
    """Whether a prefix, as a Trigger's text, holds an address; an IPv4 address mapped into IPv6 is the IPv4 one."""
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    wanted = {
        str(ipaddress.ip_network((address, length), strict=False)) for length in range(1, address.max_prefixlen + 1)
    }
    return wanted.__contains__


def covers_name(name: str) -> Callable[[str], bool]:
    """Whether a name, as an NSDNAME trigger's text, is this one, or `*.` and one above it."""
    wanted = {name, *(f"*.{parent}" for parent in _suffixes(name) if parent not in ("", name))}
    return wanted.__contains__


def covers_pattern(name: str) -> Callable[[str], bool]:
    """Whether a name fits a pattern, as a Trigger's text."""
    return lambda text: bool(PatternSet([text]).matches(name))


def matches(lists: Iterable[tuple[str, Path]], name: str) -> list[Match]:
    """Every rule that covers `name` in lists given as (name, run): list by list, from the root down to the name.

    In a list in which the most specific rule replaces its parents' the last one speaks; elsewhere all of them do.
    """
    asked = name.lower().removesuffix(".")
    return [match for label, path in lists for match in _matches(label, path, asked)]


def _matches(label: str, path: Path, asked: str) -> Iterator[Match]:
    with Run(path) as run:
        for suffix in _suffixes(asked):
            wanted = Scope.SELF if suffix == asked else Scope.BELOW
            for rule in run.find(suffix):
                if rule.scope & wanted:
                    yield Match(label, rule.line, suffix, rule.scope, rule.outcome)
            for left in run.left_out:
                speaks = left.name == suffix and bool(left.scope & wanted)
                if left.trigger:
                    is_pattern = left.trigger == TriggerKind.PATTERN.word
                    speaks = is_pattern and suffix == asked and covers_pattern(asked)(left.name)
                if speaks:
                    yield Match(label, left.line, left.name, left.scope, left.outcome, _why(left))


def _why(left: LeftOut) -> str:
    """Why a rule is not served."""
    return f"{left.decided or 'waits for a decision'}, {left.protected} is {left.why}"


def _suffixes(name: str) -> Iterator[str]:
    """The root, the TLD and so on down to the name."""
    yield ""
    labels = name.split(".") if name else []
    for start in range(len(labels) - 1, -1, -1):
        yield ".".join(labels[start:])
