"""Merges the lists' runs into one index file (the bytes: layout.py), and says what its listsets mean.

The walk and the buckets are native (engine/merge.pyx); what rules come to is decided here, in Combiner. A listset is a
set of (list, outcome). Its *shape* is the same with each outcome cut down to its kind, that is without its data: lists
in which each name has data of its own have many listsets but few shapes, and policy is decided a shape.
"""

from __future__ import annotations

import functools
import json
import os
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from resolver.engine.engine import BucketTable, KeyCollision, Merger
from resolver.lists import conditions
from resolver.lists.conditions import Condition
from resolver.lists.container import Damaged, SectionReader, SectionWriter, replacing
from resolver.lists.layout import INDEX, IndexSection
from resolver.lists.ranges import ListTriggers, build_triggers
from resolver.lists.rules import Outcome, TriggerKind
from resolver.lists.runs import Run, RunHeader
from resolver.vocabulary import Action, Scope, Verb

_SELF, _BELOW = int(Scope.SELF), int(Scope.BELOW)  # an IntFlag's & costs a microsecond
MAX_KEYS_TRIED = 4  # a collision happens once in a billion builds; more than one in a row is a fault


class ListRun(NamedTuple):
    """A list to be merged: its name, its run, and whether in it the most specific rule replaces its parents'."""

    name: str
    run: Path
    replaces: bool


@dataclass(frozen=True, order=True)
class Kind:
    """An outcome without its data; the fields are Outcome's."""

    verb: Verb = Verb.BLOCK
    important: bool = False
    action: Action | None = None
    ttl: int | None = None
    condition: str = ""

    @classmethod
    def of(cls, outcome: Outcome) -> Kind:
        """The kind of an outcome."""
        return cls(outcome.verb, outcome.important, outcome.action, outcome.ttl, outcome.condition)


class Member(NamedTuple):
    """One thing that is said of a name: by which list (its index in IndexHeader.lists), and what."""

    list: int
    kind: Kind


class IndexedList(NamedTuple):
    """A list in an index; `run` is its run's file name."""

    name: str
    run: str
    replaces: bool
    names: int


class IndexHeader(NamedTuple):
    """What an index says of itself: its lists in order, and for each shape id its members in order (shape 0: none)."""

    lists: tuple[IndexedList, ...]
    shapes: tuple[tuple[Member, ...], ...]
    entries: int
    names: int
    patterns: tuple[tuple[str, int, tuple[str, ...]], ...] = ()  # text, listset, names left out: snapshot.Policy


class IndexReport(NamedTuple):
    """What was written. `names`: distinct names of all lists; `entries`: those that the index needs, and parents."""

    names: int
    entries: int
    hot: int  # octets that a worker maps
    length: int  # octets of the file
    pairs: int
    listsets: int
    shapes: int
    seconds: Mapping[str, float]  # by stage: merge, fill, write


class Combiner:
    """Decides what rules come to, and numbers listsets and pairs. A member is `list << 32 | outcome`."""

    def __init__(self, replaces: Sequence[bool], badfilters: Mapping[int, frozenset[int]] | None = None) -> None:
        self._replaces = replaces
        self._badfilters = badfilters or {}
        self.listsets: list[tuple[int, ...]] = [()]
        self._ids: dict[tuple[int, ...], int] = {(): 0}
        self.pairs: dict[tuple[int, int], int] = {}

    def __call__(self, inherited: int, rules: Sequence[int]) -> tuple[int, int, int]:
        """The listset of a name, of what is below it, and the pair's id.

        `inherited` is the listset that the parent gives to what is below it; a rule is
        `list << 32 | outcome << 2 | scope`.
        """
        if self._badfilters and not self._badfilters.keys().isdisjoint(map(_member, rules)):
            rules = self._without_cancelled(rules)
        own = self._apply(inherited, rules, _SELF)
        below = self._apply(inherited, rules, _BELOW)
        return own, below, self.pairs.setdefault((own, below), len(self.pairs))

    def _without_cancelled(self, rules: Sequence[int]) -> list[int]:
        """The rules of a name without badfilters and what they cancel: the same rule for the same names."""
        cancelled = {
            (member, rule & 3) for rule in rules for member in self._badfilters.get(_member(rule), frozenset())
        }
        return [
            rule
            for rule in rules
            if _member(rule) not in self._badfilters and (_member(rule), rule & 3) not in cancelled
        ]

    def _apply(self, inherited: int, rules: Sequence[int], scope: int) -> int:
        """Ordinary lists add up; in a list that replaces, what the name itself says takes the place of its parents'."""
        own = {(rule >> 32 << 32) | ((rule & 0xFFFFFFFF) >> 2) for rule in rules if rule & scope}
        if not own:
            return inherited
        replaced = {member >> 32 for member in own if self._replaces[member >> 32]}
        kept = {member for member in self.listsets[inherited] if member >> 32 not in replaced}
        return self.listset(tuple(sorted(own | kept)))

    def listset(self, members: tuple[int, ...]) -> int:
        """The number of the listset with these members, in ascending order."""
        number = self._ids.setdefault(members, len(self.listsets))
        if number == len(self.listsets):
            self.listsets.append(members)
        return number


def _member(rule: int) -> int:
    return (rule >> 32 << 32) | ((rule & 0xFFFFFFFF) >> 2)


def badfilters_of(headers: Sequence[RunHeader]) -> dict[int, frozenset[int]]:
    """The lists' badfilters, each with the members of all lists that it cancels where both stand at one name.

    Lists without adblock rules have none to cancel.
    """
    found: dict[int, frozenset[int]] = {}
    for number, header in enumerate(headers):
        for place, outcome in enumerate(header.outcomes):
            if "badfilter" in outcome.condition and (condition := conditions.parse(outcome.condition)).is_badfilter:
                meant = replace(outcome, condition=str(replace(condition, is_badfilter=False)))
                found[number << 32 | place] = frozenset(
                    other << 32 | headers[other].outcomes.index(meant)
                    for other in range(len(headers))
                    if _has_rules(headers[other]) and meant in headers[other].outcomes
                )
    return found


def _has_rules(header: RunHeader) -> bool:
    formats = {file[2] for file in header.report.get("files", ())}
    return not formats or not formats.isdisjoint(("adblock", "mixed"))


def _patterns(runs: Sequence[Run], combiner: Combiner) -> list[tuple[str, int, tuple[str, ...]]]:
    """The lists' patterns without those that a badfilter cancels, each with a listset of its own outcome alone."""
    found: dict[tuple[str, int, Outcome], Condition] = {}
    cancelled: set[tuple[str, Outcome]] = set()
    for number, run in enumerate(runs):
        if not run.header.triggers.get("pattern"):
            continue
        for trigger in run.triggers():
            if trigger.kind is TriggerKind.PATTERN:
                condition = conditions.parse(trigger.outcome.condition)
                if condition.is_badfilter:
                    meant = str(replace(condition, is_badfilter=False))
                    cancelled.add((trigger.text, replace(trigger.outcome, condition=meant)))
                else:
                    found[trigger.text, number, trigger.outcome] = condition
    return [
        (
            text,
            combiner.listset((number << 32 | runs[number].header.outcomes.index(outcome),)),
            condition.denied,
        )
        for (text, number, outcome), condition in found.items()
        if (text, outcome) not in cancelled
    ]


class _Tables:
    """The index's small sections, from the combiner's listsets."""

    def __init__(
        self, names: Sequence[str], outcomes: Sequence[Sequence[Outcome]], listsets: Iterable[tuple[int, ...]]
    ):
        self._names = names
        self._outcomes = outcomes
        self.kinds: dict[Kind, int] = {}
        self.shapes: dict[tuple[tuple[int, int], ...], int] = {(): 0}
        self.listsets = array("I")
        self.refs = array("I", [0])
        self.data = bytearray(8)  # 0 is no reference
        self._ref_rows: dict[tuple[int, ...], int] = {}
        self._data_refs: dict[int, int] = {}
        self._records: dict[bytes, int] = {}
        self._member_kinds: dict[int, tuple[int, int]] = {}
        for members in listsets:
            shape = tuple(map(self._member, members))
            self.listsets.append(self.shapes.setdefault(shape, len(self.shapes)))
            self.listsets.append(self._ref_row(tuple(self._data_refs.get(member, 0) for member in members)))

    def _member(self, member: int) -> tuple[int, int]:
        """(list, kind) of a member; its data is written when it is seen first."""
        known = self._member_kinds.get(member)
        if known is None:
            number = member >> 32
            outcome = self._outcomes[number][member & 0xFFFFFFFF]
            known = (number, self.kinds.setdefault(Kind.of(outcome), len(self.kinds)))
            self._member_kinds[member] = known
            if outcome.data:
                self._data_refs[member] = self._data_ref(number, outcome)
        return known

    def _data_ref(self, number: int, outcome: Outcome) -> int:
        from resolver.lists.records import encode_records  # most lists have no data, and dnspython takes time to load

        try:
            octets = encode_records(outcome)
        except ValueError as error:
            raise ValueError(f"list {self._names[number]}: {error}") from error
        at = self._records.get(octets)
        if at is None:
            at = self._records[octets] = len(self.data)
            self.data += octets
        return at

    def _ref_row(self, row: tuple[int, ...]) -> int:
        if not any(row):
            return 0
        at = self._ref_rows.get(row)
        if at is None:
            at = self._ref_rows[row] = len(self.refs)
            self.refs.extend(row)
        return at


def write_index(path: Path, lists: Sequence[ListRun], key: bytes | None = None) -> IndexReport:
    """Merge runs into an index at `path`. `key`: 16 octets for the name hash, drawn at random if not given."""
    with ExitStack() as stack:
        runs = [stack.enter_context(Run(entry.run)) for entry in lists]
        for entry, run in zip(lists, runs, strict=True):
            if run.header.replaces != entry.replaces:
                raise Damaged(f"{entry.run}: the run was not written for this dialect")
        for tried in range(1, MAX_KEYS_TRIED + 1):
            try:
                return _write_index(path, lists, runs, key or os.urandom(16))
            except KeyCollision:
                if key or tried == MAX_KEYS_TRIED:
                    raise
    raise AssertionError("unreachable")


def _write_index(path: Path, lists: Sequence[ListRun], runs: Sequence[Run], key: bytes) -> IndexReport:
    started = time.perf_counter()
    combiner = Combiner([entry.replaces for entry in lists], badfilters_of([run.header for run in runs]))
    table = BucketTable()
    merger = Merger(key, [run.reader() for run in runs], combiner, table)
    merger.run()
    merged = time.perf_counter()
    uses = table.pair_uses()
    order = sorted(range(len(uses)), key=uses.__getitem__, reverse=True)  # the pairs in most use get the short ids
    ids = array("I", bytes(4 * len(uses)))
    for new, old in enumerate(order):
        ids[old] = new
    table.fill(ids)
    patterns = _patterns(runs, combiner)
    filled = time.perf_counter()
    triggers = build_triggers(
        [ListTriggers(run.triggers(), run.header.outcomes, run.header.replaces) for run in runs],
        combiner.listset,
        badfilters_of([run.header for run in runs]),
    )
    tables = _Tables([entry.name for entry in lists], [run.header.outcomes for run in runs], combiner.listsets)
    known = list(combiner.pairs)
    header = {
        "lists": [
            [entry.name, entry.run.name, entry.replaces, run.header.names]
            for entry, run in zip(lists, runs, strict=True)
        ],
        "kinds": [[kind.verb, kind.important, kind.action, kind.ttl, kind.condition] for kind in tables.kinds],
        "shapes": list(tables.shapes),
        "entries": table.count,
        "names": merger.names,
        "triggers": [run.header.trigger_digest for run in runs],
        "patterns": patterns,
    }
    with replacing(path) as file:
        writer = SectionWriter(file, INDEX)
        writer.add(table.octets)
        writer.add(table.side)
        writer.add(array("I", [listset for old in order for listset in known[old]]))
        writer.add(tables.listsets)
        writer.add(array("I", map(len, tables.shapes)))
        writer.add(tables.refs)
        writer.add(tables.data)
        for section in triggers:
            writer.add(section)
        hot = writer.tell()
        writer.add(json.dumps(header, separators=(",", ":")).encode())
        length = writer.finish(key, table.buckets, table.reach, table.count, merger.root_self, merger.root_below)
    return IndexReport(
        names=merger.names,
        entries=table.count,
        hot=hot,
        length=length,
        pairs=len(order),
        listsets=len(combiner.listsets),
        shapes=len(tables.shapes),
        seconds={"merge": merged - started, "fill": filled - merged, "write": time.perf_counter() - filled},
    )


def read_header(path: Path) -> IndexHeader:
    """The lists and shapes of an index file. Damaged if it is none."""
    with SectionReader(path, INDEX) as file:
        values: dict[str, Any] = json.loads(file.read(IndexSection.TEXT))
    kinds = [
        Kind(Verb(verb), bool(important), None if action is None else Action(action), ttl, condition)
        for verb, important, action, ttl, condition in values["kinds"]
    ]

    @functools.cache  # a few members make up many shapes
    def member(number: int, kind: int) -> Member:
        return Member(number, kinds[kind])

    return IndexHeader(
        lists=tuple(IndexedList(*entry) for entry in values["lists"]),
        shapes=tuple(tuple(member(number, kind) for number, kind in shape) for shape in values["shapes"]),
        entries=values["entries"],
        names=values["names"],
        patterns=tuple((text, listset, tuple(denied)) for text, listset, denied in values.get("patterns", ())),
    )
