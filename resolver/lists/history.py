"""Since when a rule stands: what each generation changed, kept longer than the generations' files.

    state_dir/history/generations.jsonl        a line a generation: number, time, parent, each list's run; the last 1,000
    state_dir/history/<list>/<number>.z        what generation <number> changed of a list's served rules: a journal

A journal is text, deflated: `+name` came, `-name` went, `~name<TAB>rule` for each rule (view.rule_key) that is new at a
name that has others, `@rule` for each new one that is no name's: a pattern, or about an address or a name server. So a rule
stands since the newest journal, on the way from a generation to its parents, that has it come; or since the generation in
which its list was first, which has no journal.

What is not known is said to be at least so old, never guessed: beyond the journals that are kept (JOURNALS octets a list,
the oldest go first), beyond a generation that changed more than changes.MAX_CHANGES names of the list, and beyond the last
KEEP generations. A rule that a rollback brought back stands since it came first.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from resolver.lists.changes import Changes
from resolver.lists.container import replacing
from resolver.lists.layout import name_of
from resolver.lists.reading import Reading
from resolver.lists.rules import Outcome, Trigger
from resolver.lists.runs import Item, Run, outcome_to_json
from resolver.snapshot import RUNS, Generation, ListState
from resolver.vocabulary import Scope

FOLDER = "history"  # below state_dir
KEEP = 1000  # generations
SPARE = 200  # more than that before the oldest are dropped
JOURNALS = 32 << 20  # octets a list
_SUFFIX = ".z"


class _Counts(NamedTuple):
    """What came to a list and went from it: fields of its report."""

    added: int = 0
    removed: int = 0
    others_added: int = 0
    others_removed: int = 0


class Since(NamedTuple):
    """The generation since which a rule stands, and when that was made (seconds since the epoch).

    `exact`: it came with that generation; else it stood then already, and before that nothing is known.
    """

    generation: int
    time: float
    exact: bool


def write_changes(
    state_dir: Path, number: int, before: dict[str, ListState], readings: Sequence[Reading], changes: Changes
) -> list[Reading]:
    """Write down what generation `number` changes of each list; returns the readings with these counts in their reports."""
    counted = []
    for reading in readings:
        old = before.get(reading.state.name)
        counts = _write_journal(state_dir, number, old, reading.state, changes)
        counted.append(replace(reading, report=replace(reading.report, **counts._asdict())))
    return counted


def write_generation(state_dir: Path, generation: Generation) -> None:
    """Add a generation to the history."""
    line = {
        "number": generation.number,
        "time": generation.created,
        "parent": generation.parent,
        "returns_to": generation.returns_to,
        "lists": {state.name: state.run for state in generation.lists},
    }
    path = state_dir / FOLDER / "generations.jsonl"
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    lines = path.read_bytes().splitlines(keepends=True)
    if len(lines) > KEEP + SPARE:
        with replacing(path) as file:
            file.writelines(lines[-KEEP:])


def since(
    state_dir: Path,
    number: int,
    name: str,
    rule: tuple[str, Scope, Outcome] | Trigger,
    known: dict[int, Any] | None = None,
) -> Since | None:
    """Since when list `name`, as generation `number` serves it, has a rule (name, scope, outcome), or one that is no name's;
    None: not known.

    `known`: what generations_known() gives, where many rules are asked for.
    """
    known = generations_known(state_dir) if known is None else known
    if isinstance(rule, Trigger):
        signs = [b"\n" + _trigger_line(rule)]
    else:
        text = rule[0].encode()
        signs = [b"\n+" + text + b"\n", b"\n~" + text + b"\t" + _key(*rule).encode() + b"\n"]
    entry = known.get(number)
    if entry is None or not entry["lists"].get(name):
        return None
    while True:
        parent = known.get(entry["returns_to"] or entry["parent"])
        here = Since(entry["number"], entry["time"], True)
        if parent is None:
            return here._replace(exact=entry["parent"] == 0)
        if parent["number"] >= entry["number"]:
            return here._replace(exact=False)
        if not parent["lists"].get(name):
            return here
        if not entry["returns_to"] and parent["lists"][name] != entry["lists"].get(name):
            journal = _journal(state_dir, name, entry["number"])
            if journal is None:
                return here._replace(exact=False)
            if any(sign in journal for sign in signs):
                return here
        entry = parent


def generations_known(state_dir: Path) -> dict[int, Any]:
    """Number → line of the history; lines that are none are left out."""
    found = {}
    try:
        lines = (state_dir / FOLDER / "generations.jsonl").read_bytes().splitlines()
    except OSError:
        return {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            entry["parent"], entry["returns_to"], entry["time"], entry["lists"].get
            found[int(entry["number"])] = entry
    return found


def _write_journal(state_dir: Path, number: int, old: ListState | None, new: ListState, changes: Changes) -> _Counts:
    """Write what came and went; returns how much did."""
    before = old.run if old else ""
    if before == new.run:
        return _Counts()
    if not (before and new.run):
        return _all(state_dir, old, new)
    came = went = 0
    paths = state_dir / RUNS / before, state_dir / RUNS / new.run
    folder = state_dir / FOLDER / new.name
    try:
        found = changes.between(*paths)
        if found.items is not None:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            packer = zlib.compressobj(1)
            with Run(paths[0]) as first, Run(paths[1]) as second, replacing(folder / f"{number}{_SUFFIX}") as file:
                file.write(packer.compress(b"\n"))
                for item in found.items:
                    file.write(packer.compress(b"".join(_lines(item, first.header.outcomes, second.header.outcomes))))
                if first.header.trigger_digest != second.header.trigger_digest:
                    had = set(map(_trigger_line, first.triggers()))
                    for line in map(_trigger_line, second.triggers()):
                        if line not in had:
                            file.write(packer.compress(line))
                            came += 1
                    went = sum(first.header.triggers.values()) + came - sum(second.header.triggers.values())
                file.write(packer.flush())
            _drop_oldest(folder)
    except (OSError, ValueError):  # the old one is damaged: what serves is not
        return _all(state_dir, old, new)
    return _Counts(found.added, found.removed, came, went)


def _all(state_dir: Path, old: ListState | None, new: ListState) -> _Counts:
    """The counts where all of a list is new, or goes."""
    went = old.run if old else ""
    return _Counts(new.names, old.names if old else 0, _others(state_dir, new.run), _others(state_dir, went))


def _others(state_dir: Path, run: str) -> int:
    """How many rules that are no names a run has; 0 where it cannot be read, or there is none."""
    if run:
        with contextlib.suppress(OSError, ValueError), Run(state_dir / RUNS / run) as opened:
            return sum(opened.header.triggers.values())
    return 0


def _lines(item: Item, old: Sequence[Outcome], new: Sequence[Outcome]) -> Iterator[bytes]:
    key, was, now, _ = item
    name = name_of(key)
    if not was:
        yield f"+{name}\n".encode()
    elif not now:
        yield f"-{name}\n".encode()
    else:
        known = {(tag & 3, old[tag >> 2]) for tag in was}
        for tag in now:
            if (tag & 3, new[tag >> 2]) not in known:
                yield f"~{name}\t{_key(name, Scope(tag & 3), new[tag >> 2])}\n".encode()


def _trigger_line(trigger: Trigger) -> bytes:
    said = [int(trigger.kind), trigger.text, outcome_to_json(trigger.outcome)]
    return f"@{json.dumps(said, separators=(',', ':'))}\n".encode()


def _key(name: str, scope: Scope, outcome: Outcome) -> str:
    """As view.rule_key."""
    return json.dumps([name, int(scope), outcome_to_json(outcome)], separators=(",", ":"))


def _journal(state_dir: Path, name: str, number: int) -> bytes | None:
    try:
        return zlib.decompress((state_dir / FOLDER / name / f"{number}{_SUFFIX}").read_bytes())
    except (OSError, zlib.error):
        return None


def _drop_oldest(folder: Path) -> None:
    journals = sorted(
        ((int(path.stem), path) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal()), reverse=True
    )
    kept = 0
    for place, (_, path) in enumerate(journals):
        kept += path.stat().st_size
        if kept > JOURNALS or place >= KEEP:
            path.unlink(missing_ok=True)
