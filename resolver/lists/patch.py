"""Makes the next index out of the last one where few names of its lists changed, in time for the change, not the whole.

    changed names of a list ─ with all names below them ─ new pairs into a copy of the buckets ─ the next changed list

Lists decide each for themselves, and a listset is what they say together. So a name's new listset is its old one with the
changed list's members exchanged; what the others say need not be read again, but for which names below a changed one have
entries of their own. That the walk (engine/patch.pyx) finds in their runs, and only where an entry says that there are
such names.

Ids of pairs, listsets, shapes and data stay; new ones are appended, and may repeat one that no name met here has. What
is no longer used stays too; patch_index() gives up, and a full build clears up, when that would grow. Triggers are worked
out anew if a list's changed, and copied else, as listsets stay. The index's TEXT
has, beside what merge.py writes, "patched": [patches since the full build, names changed by them, names left behind].
Names left behind may have entries although no list has them nor a name below them; they are visited like listed ones.
"""

from __future__ import annotations

import bisect
import json
import time
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from resolver.engine.engine import Index, IndexPatch, KeyCollision
from resolver.lists.changes import MAX_CHANGES, Changes
from resolver.lists.container import SectionReader, SectionWriter, replacing
from resolver.lists.layout import INDEX, NO_TTL, RECORD, RECORDS, SLOTS, TRIGGER_SECTIONS, IndexSection, key_of
from resolver.lists.merge import IndexReport, Kind, ListRun, badfilters_of
from resolver.lists.ranges import ListTriggers, build_triggers
from resolver.lists.rules import Outcome
from resolver.lists.runs import Run
from resolver.vocabulary import Action, Scope, Verb

MAX_SHARE = 0.02  # of the index's names: with more changed at once a full build is as quick
# Changed names of a transfer's delta, below each of which is looked; with more of them that is the next full build's to do.
MAX_SILENCED = 1000
MAX_PATCHES = 64  # since the last full build; long before, that is made anew while nobody waits (reload.py)
MAX_SUM = 0.10  # of the index's names: changed since the last full build
MAX_FILL = 0.88  # of the slots: fuller buckets make look-ups slower
MAX_LEFT_BEHIND = 100_000  # names
COMMON = 4096  # of the old listsets and pairs, the first ones: these are used again where they fit

Member: TypeAlias = "tuple[int, int, bytes]"  # list, kind, octets of its records
Visits: TypeAlias = "dict[bytes, tuple[tuple[int, ...], bool]]"  # key: rules, whether the list has it no more


class _GiveUp(Exception):
    """A full build is due."""


def _uppermost(keys: list[bytes]) -> list[bytes]:
    """Those of some keys that are not below another, in their order."""
    found: list[bytes] = []
    for key in sorted(keys):
        if not found or not key.startswith(found[-1]):
            found.append(key)
    return found


class _Patched(NamedTuple):
    """What earlier patches left; as JSON in the index's TEXT."""

    patches: int = 0
    names: int = 0
    left_behind: Sequence[str] = ()


def patch_index(old: Path, new: Path, lists: Sequence[ListRun], changes: Changes | None = None) -> IndexReport | None:
    """An index at `new` for these lists, out of the index `old`; None where a full build is due, and nothing is written.

    Look-ups in it come to what they would in a full build; it may hold entries and listsets that one would not. The
    lists must be those of `old` in the same order, and the runs of the changed ones still be beside the new ones.
    `names` of the report and header is a guess until the next full build: how many changed names other lists have is not
    counted.
    OSError or ValueError if a file is missing or damaged.
    """
    try:
        with ExitStack() as stack:
            return _Patch(stack, old, lists, changes or Changes()).write(new)
    except (_GiveUp, KeyCollision):
        return None


class _Patch:
    """One patch under way: the old index's tables with what is appended, and its buckets' copy."""

    def __init__(self, stack: ExitStack, old: Path, lists: Sequence[ListRun], changes: Changes) -> None:
        self._started = time.perf_counter()
        self._known = changes
        self._stack = stack
        self._lists = lists
        file = stack.enter_context(SectionReader(old, INDEX))
        self._text: dict[str, Any] = json.loads(file.read(IndexSection.TEXT))
        known = self._text["lists"]
        if [(name, replaces) for name, _, replaces, _ in known] != [(entry.name, entry.replaces) for entry in lists]:
            raise _GiveUp
        self._before = _Patched(*self._text.get("patched", ()))
        if self._before.patches >= MAX_PATCHES:
            raise _GiveUp
        self._paths = [entry.run.with_name(run) for entry, (_, run, _, _) in zip(lists, known, strict=True)]
        self._runs: dict[Path, Run] = {}
        self._left_behind = sorted(key_of(name.encode("latin-1")) for name in self._before.left_behind)
        self._changed = 0
        self._names = int(self._text["names"])
        self._facts = file.facts
        self._cancelled = self._badfilters()
        changed = [self._changes(number) for number in range(len(lists)) if self._paths[number] != lists[number].run]
        self.seconds = {"diff": time.perf_counter() - self._started}
        self._buckets = IndexPatch(Index(old))
        self._tables = _Tables(file, self._text, self._buckets)
        for number, items, covers in changed:
            self._patch_list(number, items, covers)
        self._triggers = self._trigger_sections(file)

    def _run(self, path: Path) -> Run:
        if path not in self._runs:
            self._runs[path] = self._stack.enter_context(Run(path))
        return self._runs[path]

    def _badfilters(self) -> frozenset[bytes]:
        """The names at which a list, as it was or as it is, cancels rules of others: lists decide apart but there."""
        paths = {*self._paths, *(entry.run for entry in self._lists)}
        return frozenset(key_of(name) for path in paths for name in self._run(path).header.report.get("badfilters", ()))

    def _changes(self, number: int) -> tuple[int, Visits, list[bytes]]:
        """What changed in a list, and the uppermost of these names."""
        before, after = self._run(self._paths[number]), self._run(self._lists[number].run)
        if after.header.replaces != self._lists[number].replaces:
            raise _GiveUp
        if before.header.trigger_digest != after.header.trigger_digest and "pattern" in {
            *before.header.triggers,
            *after.header.triggers,
        }:
            raise _GiveUp  # a pattern has a listset of its own
        ids = {outcome: place for place, outcome in enumerate(after.header.outcomes)}
        outcomes = [ids.get(outcome) for outcome in before.header.outcomes]
        kept = [place for place in outcomes if place is not None]
        if kept != sorted(kept):  # a listset's members are in the order of their outcomes, also where no name changed
            raise _GiveUp
        limit = min(MAX_CHANGES, int(MAX_SHARE * self._names) - self._changed)
        limit = min(limit, int(MAX_SUM * self._names) - self._before.names - self._changed)
        items, added, removed, changed = self._known.between(self._paths[number], self._lists[number].run)
        if items is None or added + removed + changed > limit:
            raise _GiveUp
        if items and not items[0][0]:
            raise _GiveUp  # what is said of the root is said of every name
        self._changed += added + removed + changed
        self._names += added - removed
        visits = {key: (tags, not tags) for key, _, tags, _ in items}
        # Names below that said no more than one of these, and so have no entry, may have to speak for themselves now.
        others = after.header.replaces and len(after.header.outcomes) > 1
        silenced = _uppermost([key for key, was, _, _ in items if was or others])
        if len(silenced) <= MAX_SILENCED or not after.shares_blocks(before):
            self._add_below(visits, after, silenced)
        return number, visits, _uppermost(list(visits))

    @staticmethod
    def _add_below(visits: Visits, run: Run, keys: Sequence[bytes]) -> None:
        """Visit what a list has below these keys."""
        below = run.rules_below(keys, MAX_CHANGES)
        if len(below) > MAX_CHANGES:
            raise _GiveUp
        for key, rules in below:
            visits.setdefault(key, (rules, False))

    def _patch_list(self, number: int, visits: Visits, covers: list[bytes]) -> None:
        """Exchange what one list says. The index is right before and after; the other lists' runs are as it has them."""
        parents = self._buckets.with_children(covers)
        if parents:
            self._add_below(visits, self._run(self._lists[number].run), parents)
            for other in range(len(self._lists)):
                if other != number:
                    self._visit(visits, self._run(self._paths[other]).keys_below(parents, MAX_CHANGES))
            for parent in parents:
                start = bisect.bisect_left(self._left_behind, parent)
                end = bisect.bisect_left(self._left_behind, parent[:-1] + b"\1")
                self._visit(visits, self._left_behind[start:end])
        if not self._cancelled.isdisjoint(visits):
            raise _GiveUp
        run = self._run(self._lists[number].run)
        combine = _Combine(self._tables, number, self._lists[number], run.header.outcomes)
        ordered = [(key, *visits[key]) for key in sorted(visits)]
        self._left_behind = sorted({*self._left_behind, *self._buckets.walk(ordered, combine)})
        if len(self._left_behind) > MAX_LEFT_BEHIND:
            raise _GiveUp
        self._paths[number] = self._lists[number].run

    def _trigger_sections(self, file: SectionReader) -> list[bytes]:
        """The old index's, as listsets stay; worked out anew if some list's triggers changed."""
        runs = [self._run(entry.run) for entry in self._lists]
        if self._text["triggers"] == [run.header.trigger_digest for run in runs]:
            return [file.read(section) for section in TRIGGER_SECTIONS]
        combines = [
            _Combine(self._tables, number, entry, run.header.outcomes)
            for number, (entry, run) in enumerate(zip(self._lists, runs, strict=True))
        ]

        def listset(members: tuple[int, ...]) -> int:
            return self._tables.listset(tuple(combines[member >> 32].member(member & 0xFFFFFFFF) for member in members))

        lists = [ListTriggers(run.triggers(), run.header.outcomes, run.header.replaces) for run in runs]
        return list(build_triggers(lists, listset, badfilters_of([run.header for run in runs])))

    @staticmethod
    def _visit(visits: Visits, keys: Sequence[bytes]) -> None:
        for key in keys:
            visits.setdefault(key, ((), False))
        if len(visits) > 6 * MAX_CHANGES:
            raise _GiveUp

    def write(self, path: Path) -> IndexReport:
        buckets, tables = self._buckets, self._tables
        if buckets.entries > MAX_FILL * SLOTS * buckets.buckets:
            raise _GiveUp
        patched = time.perf_counter()
        left_behind = [".".join(reversed(key.decode("latin-1")[:-1].split("\0"))) for key in self._left_behind]
        header = {
            "lists": [
                [entry.name, entry.run.name, entry.replaces, self._run(entry.run).header.names] for entry in self._lists
            ],
            "kinds": [[kind.verb, kind.important, kind.action, kind.ttl, kind.condition] for kind in tables.kinds],
            "shapes": list(tables.shapes),
            "entries": buckets.entries,
            "names": self._names,
            "triggers": [self._run(entry.run).header.trigger_digest for entry in self._lists],
            "patterns": self._text.get("patterns", []),
            "patched": _Patched(self._before.patches + 1, self._before.names + self._changed, left_behind),
        }
        key, _, _, _, root_self, root_below = self._facts
        with replacing(path) as file:
            writer = SectionWriter(file, INDEX)
            writer.add(buckets.octets)
            writer.add(buckets.side)
            writer.add(buckets.pairs)
            for table in (tables.listsets, tables.sizes, tables.refs, tables.data):
                writer.add(table)
            for section in self._triggers:
                writer.add(section)
            hot = writer.tell()
            writer.add(json.dumps(header, separators=(",", ":")).encode())
            length = writer.finish(key, buckets.buckets, buckets.reach, buckets.entries, root_self, root_below)
        self.seconds |= {
            "patch": patched - self._started - self.seconds["diff"],
            "write": time.perf_counter() - patched,
        }
        return IndexReport(
            names=self._names,
            entries=buckets.entries,
            hot=hot,
            length=length,
            pairs=len(buckets.pairs) // 8,
            listsets=len(tables.listsets) // 2,
            shapes=len(tables.shapes),
            seconds=self.seconds,
        )


class _Tables:
    """An index's small sections, read a listset at a time, and what is appended to them."""

    def __init__(self, file: SectionReader, text: dict[str, Any], buckets: IndexPatch) -> None:
        self._buckets = buckets
        self.kinds = {
            Kind(Verb(verb), bool(important), None if action is None else Action(action), ttl, condition): number
            for number, (verb, important, action, ttl, condition) in enumerate(text["kinds"])
        }
        self.shapes = {tuple(map(tuple, members)): number for number, members in enumerate(text["shapes"])}
        self._shape_members = list(self.shapes)
        self.sizes = array("I", file.read(IndexSection.SHAPES))
        self.listsets = array("I", file.read(IndexSection.LISTSETS))
        self.refs = array("I", file.read(IndexSection.REFS))
        self.data = bytearray(file.read(IndexSection.DATA))
        self._members: dict[int, tuple[Member, ...]] = {}
        self._ids: dict[tuple[Member, ...], int] = {}
        self._records: dict[int, bytes] = {0: b""}
        self._references: dict[bytes, int] = {b"": 0}
        self._rows: dict[tuple[int, ...], int] = {}
        for listset in range(min(COMMON, len(self.listsets) // 2)):
            self.members(listset)
        pairs = array("I", buckets.pairs[: 8 * COMMON])
        self._pairs: dict[tuple[int, int], int] = {}
        for number, pair in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            self._pairs.setdefault(pair, number)

    def members(self, listset: int) -> tuple[Member, ...]:
        """Who says what in a listset."""
        known = self._members.get(listset)
        if known is None:
            shape = self._shape_members[self.listsets[2 * listset]]
            row = self.listsets[2 * listset + 1]
            references = self.refs[row : row + len(shape)] if row else [0] * len(shape)
            known = tuple(
                (number, kind, self._read(reference))
                for (number, kind), reference in zip(shape, references, strict=True)
            )
            self._members[listset] = known
            self._ids.setdefault(known, listset)
        return known

    def listset(self, members: tuple[Member, ...]) -> int:
        """The listset with these members, appended if none that was met has them."""
        known = self._ids.get(members)
        if known is None:
            known = self._ids[members] = len(self.listsets) // 2
            self._members[known] = members
            shape = tuple((number, kind) for number, kind, _ in members)
            place = self.shapes.setdefault(shape, len(self.shapes))
            if place == len(self._shape_members):
                self._shape_members.append(shape)
                self.sizes.append(len(shape))
            self.listsets.extend((place, self._row(tuple(self._reference(octets) for _, _, octets in members))))
        return known

    def pair(self, own: int, below: int) -> int:
        """The pair of two listsets, appended likewise."""
        known = self._pairs.get((own, below))
        if known is None:
            known = self._pairs[own, below] = self._buckets.add_pair(own, below)
        return known

    def _read(self, reference: int) -> bytes:
        known = self._records.get(reference)
        if known is None:
            end = reference + RECORDS.size
            for _ in range(RECORDS.unpack_from(self.data, reference)[2]):
                end += RECORD.size + RECORD.unpack_from(self.data, end)[1]
            known = self._records[reference] = bytes(self.data[reference:end])
            self._references.setdefault(known, reference)
        return known

    def _reference(self, octets: bytes) -> int:
        known = self._references.get(octets)
        if known is None:
            known = self._references[octets] = len(self.data)
            self._records[known] = octets
            self.data += octets
            if len(self.data) > NO_TTL:
                raise _GiveUp  # references have 32 bits
        return known

    def _row(self, row: tuple[int, ...]) -> int:
        if not any(row):
            return 0
        known = self._rows.get(row)
        if known is None:
            known = self._rows[row] = len(self.refs)
            self.refs.extend(row)
        return known


class _Combine:
    """Decides what names come to when one list's rules are exchanged: merge.Combiner's way, for that list alone."""

    def __init__(self, tables: _Tables, number: int, entry: ListRun, outcomes: Sequence[Outcome]) -> None:
        self._tables = tables
        self._number = number
        self._entry = entry
        self._outcomes = outcomes
        self._known: dict[tuple[int, int, int, tuple[int, ...]], tuple[int, int, bool]] = {}
        self._members: dict[int, Member] = {}
        self._order: dict[Member, int] = {}

    def __call__(self, own: int, below: int, inherited: int, rules: tuple[int, ...]) -> tuple[int, int, bool]:
        """See IndexPatch.walk."""
        asked = (own, below, inherited, rules)
        known = self._known.get(asked)
        if known is None:
            tables = self._tables
            parents = tables.members(inherited)
            here = self._exchanged(own, parents, rules, Scope.SELF)
            deeper = self._exchanged(below, parents, rules, Scope.BELOW)
            pair = tables.pair(tables.listset(here), tables.listset(deeper))
            known = self._known[asked] = (tables.listset(deeper), pair, not here == deeper == parents)
        return known

    def _exchanged(
        self, listset: int, parents: tuple[Member, ...], rules: tuple[int, ...], scope: Scope
    ) -> tuple[Member, ...]:
        number = self._number
        others = self._tables.members(listset)
        said = self._said([member for member in parents if member[0] == number], rules, scope)
        first = [member for member in others if member[0] < number]
        return (*first, *said, *(member for member in others if member[0] > number))

    def _said(self, parents: list[Member], rules: tuple[int, ...], scope: Scope) -> list[Member]:
        """What the list says of a name; `parents`: what it says of all names below the name's parent."""
        own = [self.member(outcome) for outcome in sorted({rule >> 2 for rule in rules if rule & scope})]
        if not own:
            return parents
        if self._entry.replaces or not parents:
            return own
        added = [member for member in own if member not in parents]
        if not added:
            return parents
        if not self._order:
            for outcome in range(len(self._outcomes)):
                self._order.setdefault(self.member(outcome), outcome)
        return sorted([*parents, *added], key=lambda member: self._order.get(member, -1))

    def member(self, number: int) -> Member:
        """An outcome of the list as a listset's member."""
        known = self._members.get(number)
        if known is None:
            outcome = self._outcomes[number]
            kinds = self._tables.kinds
            kind = kinds.setdefault(Kind.of(outcome), len(kinds))
            known = self._members[number] = (self._number, kind, self._octets(outcome))
        return known

    def _octets(self, outcome: Outcome) -> bytes:
        if not outcome.data:
            return b""
        from resolver.lists.records import encode_records  # most lists have no data, and dnspython takes time to load

        try:
            return encode_records(outcome)
        except ValueError as error:
            raise ValueError(f"list {self._entry.name}: {error}") from error
