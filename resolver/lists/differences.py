"""What differs between two generations, or between two files of lists: `tampah diff`. Reads runs; keeps no names.

Rules that are no names come after the names, by what they are about: a network, a pattern, `client` and a network, `name
server` and a name or a network.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resolver import snapshot
from resolver.engine.engine import RunBuilder
from resolver.lists.parse import Options, read_files
from resolver.lists.rules import Outcome, TriggerKind
from resolver.lists.runs import Run, RunHeader, differences, write_run
from resolver.lists.source import open_source
from resolver.snapshot import RUNS, Generation


@dataclass(frozen=True, slots=True)
class ListDifference:
    """A list and its two runs; None where it is not there."""

    list: str
    old: Path | None
    new: Path | None

    def stream(self) -> Iterator[tuple[str, str]]:
        """("+", "-" or "~", name) of everything added, removed or changed: names in the order of their keys, then others."""
        if self.old == self.new:
            return
        yield from self._names()
        before, after = _others(self.old), _others(self.new)
        for about in sorted({*before, *after}):
            was, now = before.get(about), after.get(about)
            if was != now:
                yield "+" if was is None else "-" if now is None else "~", f"{_ABOUT.get(about[0], '')}{about[1]}"

    def _names(self) -> Iterator[tuple[str, str]]:
        if self.old and self.new:
            with Run(self.old) as before, Run(self.new) as after:
                for name, was, now in differences(before, after):
                    yield "+" if not was else "-" if not now else "~", name
            return
        with Run(self.old or self.new or Path()) as run:
            for name, _ in run.names():
                yield ("-" if self.old else "+"), name

    def first(self, limit: int) -> dict[str, Any]:
        """For each kind of change how many names, and the first of them."""
        found: dict[str, Any] = {word: {"count": 0, "names": []} for word in ("added", "removed", "changed")}
        for sign, name in self.stream():
            kind = found[{"+": "added", "-": "removed", "~": "changed"}[sign]]
            kind["count"] += 1
            if len(kind["names"]) < limit:
                kind["names"].append(name)
        return found


_ABOUT = {
    TriggerKind.CLIENT: "client ",
    TriggerKind.NSDNAME: "name server ",
    TriggerKind.NSIP: "name server ",
}


def _others(path: Path | None) -> dict[tuple[TriggerKind, str], set[Outcome]]:
    """What a run says of what is no name."""
    found: dict[tuple[TriggerKind, str], set[Outcome]] = {}
    if path is not None:
        with Run(path) as run:
            for trigger in run.triggers():
                found.setdefault((trigger.kind, trigger.text), set()).add(trigger.outcome)
    return found


@contextlib.contextmanager
def generations(state_dir: Path, old: int, new: int) -> Iterator[list[ListDifference]]:
    """The lists that two generations serve; 0: for `new` the one in force, for `old` the one before `new`.

    ValueError if one is not kept any more.
    """
    kept = {each.number: each for each in snapshot.generations(state_dir)}
    last = new or snapshot.in_force(state_dir) or max(kept, default=0)
    first = old or max((number for number in kept if number < last), default=0)
    before, after = _kept(state_dir, kept, first), _kept(state_dir, kept, last)
    names = dict.fromkeys([*before, *after])
    yield [ListDifference(name, before.get(name), after.get(name)) for name in names]


def _kept(state_dir: Path, kept: dict[int, Generation], number: int) -> dict[str, Path]:
    if number not in kept:
        numbers = ", ".join(map(str, sorted(kept)))
        raise ValueError(f"generation {number or 'before'} is not kept; there are {numbers or 'none'}")
    return {state.name: state_dir / RUNS / state.run for state in kept[number].lists if state.run}


@contextlib.contextmanager
def files(old: Path, new: Path) -> Iterator[list[ListDifference]]:
    """Two files of lists, read as `format: auto` reads them. OSError or ValueError if one is none."""
    with tempfile.TemporaryDirectory(prefix="tampah-diff-") as folder:
        runs = [_read(path, Path(folder) / f"{place}.run") for place, path in enumerate((old, new))]
        yield [ListDifference(new.name, *runs)]


def _read(path: Path, run: Path) -> Path:
    builder = RunBuilder()
    report = read_files([(str(path), open_source(path))], Options(), builder)
    builder.replaces = report.replaces
    write_run(run, builder, RunHeader(outcomes=tuple(report.outcomes), replaces=report.replaces), report.triggers)
    return run
