"""What each list is worth beside the others: `tampah lists --value`.

A list *covers* what another says of a name if it says the same, block or allow, of all that the other speaks of there: at
the name itself or by a parent of it. How it blocks does not matter here, and what is restricted (by type or client, or by a
badfilter) neither covers nor is covered. Names are counted natively, by walking all runs together once (engine/survey.pyx);
networks and other rules that are no names are few and counted here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resolver.engine.engine import Shares
from resolver.lists.rules import Outcome, Trigger, TriggerKind
from resolver.lists.runs import Run
from resolver.snapshot import RUNS, ListState
from resolver.vocabulary import Verb

_RESTRICTED = 2
_NETWORKS = (TriggerKind.ADDRESS, TriggerKind.CLIENT, TriggerKind.NSIP)
_Said = tuple[TriggerKind, str, Verb]


@dataclass(frozen=True, slots=True)
class ListValue:
    """A list's worth. `names` and `others` (rules that are no names), and how many of these no other list covers;
    `overlap`: list → how many of both it covers. `hits`: queries that the list decided, None where no server runs."""

    list: str
    names: int
    unique: int
    others: int
    unique_others: int
    hits: int | None
    overlap: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def values_of(state_dir: Path, lists: Sequence[ListState], hits: Mapping[str, int] | None) -> list[ListValue]:
    """The worth of each of a generation's lists. Damaged or OSError where a run is not whole."""
    listed = [state for state in lists if state.run]
    with ExitStack() as stack:
        runs = [stack.enter_context(Run(state_dir / RUNS / state.run)) for state in listed]
        verbs = [bytes(_verb_of(outcome) for outcome in run.header.outcomes) for run in runs]
        counted = Shares([run.reader() for run in runs], verbs).count()
        said = [_said(run.triggers()) for run in runs]
    others = [_compare(number, said) for number in range(len(listed))]
    return [
        ListValue(
            list=state.name,
            names=names,
            unique=unique,
            others=sum(said[number].values()),
            unique_others=others[number][0],
            hits=None if hits is None else hits.get(state.name, 0),
            overlap={
                other.name: shared[place] + others[number][1][place]
                for place, other in enumerate(listed)
                if place != number
            },
        )
        for number, (state, (names, unique, shared)) in enumerate(zip(listed, counted, strict=True))
    ]


def _verb_of(outcome: Outcome) -> int:
    if outcome.condition not in ("", "plain"):
        return _RESTRICTED
    return int(outcome.verb is Verb.ALLOW)


def _said(triggers: Sequence[Trigger]) -> dict[_Said, int]:
    """What a list's triggers say, and how many say it; a restricted one as something that no other list can say."""
    found: dict[_Said, int] = {}
    for trigger in triggers:
        restricted = f" {trigger.outcome.condition}" if _verb_of(trigger.outcome) == _RESTRICTED else ""
        key = trigger.kind, trigger.text + restricted, trigger.outcome.verb
        found[key] = found.get(key, 0) + 1
    return found


def _compare(number: int, said: Sequence[Mapping[_Said, int]]) -> tuple[int, list[int]]:
    """How many of a list's triggers no other list covers, and how many each covers."""
    shared, unique = [0] * len(said), 0
    lengths = [_lengths(each) for each in said]
    for (kind, text, verb), count in said[number].items():
        covering = [
            place
            for place, other in enumerate(said)
            if place != number and other and _covers(other, lengths[place], kind, text, verb)
        ]
        unique += 0 if covering else count
        for place in covering:
            shared[place] += count
    return unique, shared


def _lengths(said: Mapping[_Said, int]) -> dict[int, list[int]]:
    """The lengths of the networks in it, by IP version."""
    found: dict[int, set[int]] = {4: set(), 6: set()}
    for kind, text, _ in said:
        if kind in _NETWORKS and " " not in text:
            found[6 if ":" in text else 4].add(int(text.rpartition("/")[2]))
    return {version: sorted(lengths) for version, lengths in found.items()}


def _covers(
    other: Mapping[_Said, int], lengths: Mapping[int, list[int]], kind: TriggerKind, text: str, verb: Verb
) -> bool:
    if (kind, text, verb) in other and " " not in text:
        return True
    if kind not in _NETWORKS or " " in text:
        return False
    length = int(text.rpartition("/")[2])
    shorter = [each for each in lengths[6 if ":" in text else 4] if each < length]
    if not shorter:
        return False
    network = ipaddress.ip_network(text)
    return any((kind, str(network.supernet(new_prefix=each)), verb) in other for each in shorter)
