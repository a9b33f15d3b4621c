"""What changed in the lists of one build: worked out once, for the guard, the history and the patch.

A comparison is of two runs as they were read. What is served may be views of them (view.py), which differ from their runs
in a few names: these are looked up, the rest is taken over.
"""

from __future__ import annotations

from pathlib import Path

from resolver.lists.layout import key_of
from resolver.lists.runs import Run, RunChanges, RunRule, compare
from resolver.snapshot import base_of

MAX_CHANGES = 200_000  # names of one list that are told one by one


class Changes:
    """The comparisons of one build."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, Path], RunChanges] = {}

    def between(self, old: Path, new: Path) -> RunChanges:
        """What differs between two runs or views of a list. OSError or ValueError if one is not there or damaged."""
        known = self._known.get((old, new))
        if known is None:
            known = self._known[old, new] = self._compare(old, new)
        return known

    def _compare(self, old: Path, new: Path) -> RunChanges:
        bases = old.with_name(base_of(old.name)), new.with_name(base_of(new.name))
        with Run(old) as before, Run(new) as after:
            if bases == (old, new):
                return compare(before, after, MAX_CHANGES)
            items = self.between(*bases).items if bases[0] != bases[1] else []
            if items is None:
                return compare(before, after, MAX_CHANGES)
            names = {rule.name for run in (before, after) for rule in run.left_out if not rule.trigger}
            keys = set(map(key_of, names))
            found = {item[0]: item for item in items if item[0] not in keys}
            was, now = dict(before.find_many(names)), dict(after.find_many(names))
            for name in names:
                rules, fresh = was.get(name, ()), now.get(name, ())
                if {rule[:2] for rule in rules} != {rule[:2] for rule in fresh}:
                    lines = tuple(rule.line for rule in fresh)
                    key = key_of(name)
                    found[key] = key, _tags(before, rules), _tags(after, fresh), lines
            ordered = [found[key] for key in sorted(found)]
            added, removed = (sum(not item[side] for item in ordered) for side in (1, 2))
            return RunChanges(ordered, added, removed, len(ordered) - added - removed)


def _tags(run: Run, rules: list[RunRule] | tuple[RunRule, ...]) -> tuple[int, ...]:
    return tuple(run.header.outcomes.index(rule.outcome) << 2 | rule.scope for rule in rules)
