"""Run files: one list, parsed, sorted and without duplicates; the cold part of what is known (the bytes: layout.py).

A run's name is a digest of the source's octets and of all that influences how they are read, so a run that is there is
the right one and is not written again; it never changes. Merge, explain and diff read runs; the workers do not.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import struct
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import zstandard

from resolver.engine.engine import (
    DeltaReader,
    RunBuilder,
    RunDifference,
    RunReader,
    SideReader,
    SkipReader,
    checksum,
    compare_runs,
    find_many,
    find_rules,
    first_from,
    keys_below,
    rules_below,
)
from resolver.lists.container import Damaged, SectionReader, SectionWriter, replacing
from resolver.lists.layout import (
    BLOCK_HEAD,
    BLOCK_KEYS,
    RUN,
    TRIGGER_COUNT,
    TRIGGER_LINE,
    Block,
    RunSection,
    key_of,
    name_of,
    pack_blocks,
    unpack_blocks,
)
from resolver.lists.rules import Outcome, Trigger, TriggerKind
from resolver.snapshot import VIEW_SUFFIX
from resolver.vocabulary import Action, Scope, Verb

if TYPE_CHECKING:
    from resolver.lists.view import LeftOut

# Keys are front-coded already, so more effort saves little. Zstandard at this level packs in 40 % of the time that zlib's
# run lengths take, unpacks in 30 %, and what it makes is a fifth smaller.
COMPRESS_LEVEL = 1
COMPRESS_AHEAD = 8  # blocks under way
MOST_THREADS = 2


class Refused(NamedTuple):
    """A line that was not taken; `reason` is for the list's maintainer."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class RunHeader:
    """What a run says of itself. The counts `names` and `rules`, and what names add to `duplicates`, are filled in by
    write_run(), and so is what it says of triggers.

    `triggers` counts them by the lower-case word of their kind; `trigger_digest` tells whether two runs have the same
    ones, whatever their lines ("": none). `source` says what was read (digest, stat, as its reader wishes), `report` is
    the dialect's: passed through as JSON. `base_outcomes`: so many of `outcomes` are those that the run's BLOCKS speak of;
    the others came with its delta or its triggers.
    """

    outcomes: tuple[Outcome, ...]
    replaces: bool = False
    lines: int = 0
    names: int = 0
    rules: int = 0
    duplicates: int = 0
    refused_count: int = 0
    refused: tuple[Refused, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    triggers: Mapping[str, int] = field(default_factory=dict)
    trigger_digest: str = ""
    base_outcomes: int = 0


class RunRule(NamedTuple):
    """One rule as a run keeps it: which names, what, and the line it came from."""

    scope: Scope
    outcome: Outcome
    line: int


Item: TypeAlias = "tuple[bytes, tuple[int, ...], tuple[int, ...], tuple[int, ...]]"


class RunChanges(NamedTuple):
    """What differs between two runs of a list, in the order of the keys: (key, the rules before, the rules now, the lines
    of these), each rule as outcome << 2 | scope of its run. None: of more than the limit only the counts are known, of names
    that are new, gone, or have other rules."""

    items: list[Item] | None
    added: int
    removed: int
    changed: int


def run_digest(source_digest: str, options: Mapping[str, Any]) -> str:
    """The name of the run of a source with this digest, read with these options (JSON values)."""
    text = json.dumps({"run": RUN.version, "source": source_digest, "options": options}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def run_path(folder: Path, digest: str) -> Path:
    """Where in a folder of runs the run with this digest is."""
    return folder / f"{digest}.run"


class _Effort:
    """How many threads of this process sort and pack lists. One, unless nobody waits for an answer: on a core that answers
    queries, each of several threads that wakes or blocks can make a query wait for a whole tick of the scheduler's, 4 ms."""

    threads = 1


def use_all_cores() -> None:
    """Have lists sorted and packed on several cores from now on."""
    _Effort.threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))


class BlockWriter:
    """Compresses blocks and writes them in order into the section begun. `blocks`: those written."""

    def __init__(self, writer: SectionWriter) -> None:
        self.blocks: list[Block] = []
        self._writer = writer
        self._pool = ThreadPoolExecutor(_Effort.threads) if _Effort.threads > 1 else None
        self._waiting: deque[tuple[bytes, int, int, Future[bytes]]] = deque()

    def put(self, block: tuple[bytes, int, bytes]) -> None:
        """Take a block as RunBuilder.take_block() gives it."""
        first, keys, octets = block
        lines = BLOCK_HEAD.unpack_from(octets)[-1]
        said = checksum(octets[BLOCK_HEAD.size : len(octets) - lines])
        if self._pool is None:
            self._write(first, keys, said, pack(octets))
            return
        self._waiting.append((first, keys, said, self._pool.submit(pack, octets)))
        while len(self._waiting) > COMPRESS_AHEAD:
            self._write_next()

    def flush(self) -> None:
        """Write what was put."""
        while self._waiting:
            self._write_next()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _write_next(self) -> None:
        first, keys, said, future = self._waiting.popleft()
        self._write(first, keys, said, future.result())

    def _write(self, first: bytes, keys: int, said: int, octets: bytes) -> None:
        self.blocks.append(Block(self._writer.tell(), len(octets), keys, checksum(octets), said, first))
        self._writer.write(octets)


def write_blocks(writer: SectionWriter, builder: RunBuilder) -> list[Block]:
    """Write all that a builder has yet to give out into the section begun."""
    blocks = BlockWriter(writer)
    try:
        while block := builder.take_block(BLOCK_KEYS):
            blocks.put(block)
        blocks.flush()
    finally:
        blocks.close()
    return blocks.blocks


def write_run(path: Path, builder: RunBuilder, header: RunHeader, triggers: Sequence[Trigger] = ()) -> RunHeader:
    """Sort what `builder` took and write it to `path`; returns the header with its counts.

    `triggers` have no duplicates, are in the order of kind and line, and their outcomes are among the header's.
    """
    builder.sort(_Effort.threads)
    with replacing(path) as file:
        writer = SectionWriter(file, RUN)
        writer.begin()
        header = finish_run(writer, write_blocks(writer, builder), builder, header, triggers)
    return header


def finish_run(
    writer: SectionWriter, blocks: list[Block], builder: RunBuilder, header: RunHeader, triggers: Sequence[Trigger] = ()
) -> RunHeader:
    """Write what comes behind the BLOCKS of a run without a delta; returns the header with its counts."""
    header = replace(
        header,
        names=builder.names,
        rules=builder.rules,
        duplicates=header.duplicates + builder.duplicates,
        base_outcomes=len(header.outcomes),
    )
    writer.add(pack_blocks(blocks))
    header = add_header(writer, header, triggers)
    writer.add(b"")
    writer.add(pack_blocks([]))
    writer.finish()
    return header


def add_header(writer: SectionWriter, header: RunHeader, triggers: Sequence[Trigger]) -> RunHeader:
    """Write TRIGGERS and TEXT; returns the header with what it says of triggers."""
    header = replace(header, triggers=count_triggers(triggers), trigger_digest=_trigger_digest(triggers))
    writer.add(_pack_triggers(triggers, header.outcomes))
    writer.add(_pack_header(header))
    return header


class _Layer:
    """The blocks of a run or of its delta."""

    def __init__(self, file: SectionReader, number: RunSection) -> None:
        self.blocks = unpack_blocks(file.read(number))
        self._file = file
        self._first_keys = [block.first for block in self.blocks]
        self._loaded: tuple[int, bytes] = (-1, b"")  # the block read last: the next question is often for it too

    def reader(self, first: int = 0) -> RunReader:
        return RunReader(self._load, len(self.blocks), first)

    def reader_against(self, other: _Layer) -> RunReader:
        """Past the blocks that the other layer has as well."""
        known = {(block.first, block.keys, block.said) for block in other.blocks}
        own = [place for place, block in enumerate(self.blocks) if (block.first, block.keys, block.said) not in known]
        return RunReader(lambda number: self._load(own[number]), len(own))

    def place(self, key: bytes) -> int:
        """The block that has this key, if one has."""
        return max(0, bisect.bisect_right(self._first_keys, key) - 1)

    def _load(self, number: int) -> bytes:
        if self._loaded[0] == number:
            return self._loaded[1]
        block = self.blocks[number]
        octets = self._file.read_at(block.offset, block.length, block.checksum)
        try:
            self._loaded = number, unpack(octets)
        except zstandard.ZstdError as error:
            raise self._file.damaged(error) from error
        return self._loaded[1]


class Run:
    """An open run file, its header and block index verified; a block is verified when it is read. Damaged if not.

    `path` may be a view's (view.py): then this is the run without the rules in `left_out`.
    """

    def __init__(self, path: Path) -> None:
        view = None
        if path.name.endswith(VIEW_SUFFIX):
            from resolver.lists.view import read_view, skips  # which knows runs

            view = read_view(path)
        self.left_out: tuple[LeftOut, ...] = view.rules if view else ()
        self._skip: list[tuple[bytes, frozenset[int]]] | None = None
        self._file = SectionReader(path.with_name(view.base) if view else path, RUN)
        try:
            self.header = _unpack_header(self._file.read(RunSection.TEXT))
            self._base = _Layer(self._file, RunSection.INDEX)
            self._delta = _Layer(self._file, RunSection.DELTA_INDEX)
        except (struct.error, KeyError, TypeError, ValueError) as error:
            self._file.close()
            raise error if isinstance(error, Damaged) else self._file.damaged(error) from error
        if view:
            self._skip = skips(view.rules, {outcome: number for number, outcome in enumerate(self.header.outcomes)})
            header = self.header
            names = sum(not rule.trigger for rule in view.rules)
            self.header = replace(header, names=header.names - view.names, rules=header.rules - names)
            if names < len(view.rules):
                kept = self.triggers()
                self.header = replace(self.header, triggers=count_triggers(kept), trigger_digest=_trigger_digest(kept))

    @property
    def file(self) -> SectionReader:
        """The open file."""
        return self._file

    def reader(self, first: int = 0) -> RunReader:
        """A cursor over the keys from block `first` on."""
        if not self._delta.blocks:
            return self._seen(self._base.reader(first))
        start = self._base.blocks[first].first if first else b""
        return self._seen(DeltaReader(self._base.reader(first), self._delta.reader(self._delta.place(start)), start))

    def _seen(self, reader: RunReader) -> RunReader:
        """The same without what a view leaves out."""
        return SkipReader(reader, self._skip) if self._skip else reader

    def find_many(self, names: Iterable[str]) -> Iterator[tuple[str, list[RunRule]]]:
        """Those of the names that the list has, with their rules, in the order of the keys: one pass, block by block."""
        for place, group in groupby(sorted(map(key_of, names)), self._base.place):
            for key, rules in find_many(self.reader(place), list(group)):
                yield name_of(key), [self._rule(*rule) for rule in rules]

    def children(self, name: str) -> Iterator[str]:
        """The names one label below `name` that the list has, without reading what is below those."""
        base = key_of(name)
        at = base + b"\1"  # before all below `name`
        while (key := first_from(self._reader_at(at), at)) is not None and key.startswith(base):
            end = key.index(0, len(base)) + 1
            if len(key) == end:
                yield name_of(key)
            at = key[: end - 1] + b"\1"  # after all below that child

    def shares_blocks(self, before: Run) -> bool:
        """Whether this run and `before` have the same BLOCKS, and differ by their deltas alone."""
        return self._base.blocks == before._base.blocks

    def readers_against(self, before: Run) -> tuple[RunReader, RunReader]:
        """Cursors over `before` and this run that leave out names of which both are known to say the same: but for what
        their deltas say where the BLOCKS are the same, and blocks that both have where there is no delta."""
        ours, theirs = self.header, before.header
        is_known = ours.outcomes[: ours.base_outcomes] == theirs.outcomes[: theirs.base_outcomes]
        if not is_known or ours.replaces != theirs.replaces or (self._skip or []) != (before._skip or []):
            return before.reader(), self.reader()
        if not self.shares_blocks(before):
            if self._delta.blocks or before._delta.blocks:
                return before.reader(), self.reader()
            return (
                self._seen(before._base.reader_against(self._base)),
                self._seen(self._base.reader_against(before._base)),
            )
        return (
            self._seen(SideReader(before._delta.reader(), self._delta.reader())),
            self._seen(SideReader(self._delta.reader(), before._delta.reader())),
        )

    def delta(self) -> list[tuple[bytes, tuple[int, ...]]]:
        """Every key of the delta with its rules, as layout.py describes them: outcome << 1 | side above the scope."""
        return rules_below(self._delta.reader(), [b""], sum(block.keys for block in self._delta.blocks))

    def base_rules(self, keys: Sequence[bytes]) -> list[list[tuple[int, int]]]:
        """(scope, outcome) of what the run's BLOCKS say of each of these ascending keys, whatever its delta says."""
        found: list[list[tuple[int, int]]] = []
        for place, group in groupby(keys, self._base.place):
            found += find_rules(self._base.reader(place), list(group))
        return found

    def rules_below(self, keys: Sequence[bytes], limit: int) -> list[tuple[bytes, tuple[int, ...]]]:
        """As keys_below(), with the rules of each: outcome << 2 | scope. The keys ascend, and none is below another."""
        found: list[tuple[bytes, tuple[int, ...]]] = []
        for place, group in groupby(keys, self._base.place):
            found += rules_below(self.reader(place), list(group), limit - len(found))
            if len(found) > limit:
                break
        return found

    def find(self, name: str) -> list[RunRule]:
        """The rules of exactly this name, in the order of their lines."""
        key = key_of(name)
        return sorted((self._rule(*rule) for rule in self._reader_at(key).find(key)), key=lambda rule: rule.line)

    def below(self, name: str) -> Iterator[tuple[str, list[RunRule]]]:
        """`name` and every name below it that the list has, in the order of their keys."""
        key = key_of(name)
        for found, rules in self._reader_at(key).below(key):
            yield found.decode(), [self._rule(*rule) for rule in rules]

    def names(self) -> Iterator[tuple[str, list[RunRule]]]:
        """Everything the list has, in the order of the keys."""
        return self.below("")

    def triggers(self) -> list[Trigger]:
        """The rules that are not names, in the order of kind and line. Damaged if they are not whole."""
        try:
            every = _unpack_triggers(self._file.read(RunSection.TRIGGERS), self.header.outcomes)
        except (zstandard.ZstdError, struct.error, ValueError, IndexError) as error:
            raise error if isinstance(error, Damaged) else self._file.damaged(error) from error
        gone = {(rule.trigger, rule.name, rule.outcome) for rule in self.left_out if rule.trigger}
        if not gone:
            return every
        return [each for each in every if (each.kind.word, each.text, each.outcome) not in gone]

    def keys_below(self, keys: Iterable[bytes], limit: int) -> list[bytes]:
        """These keys and all below them, as far as the list has them; at most `limit` + 1. Quickest in their order."""
        found: list[bytes] = []
        for key in keys:
            found += keys_below(self._reader_at(key), key, limit - len(found))
            if len(found) > limit:
                break
        return found

    def close(self) -> None:
        """Give the descriptor back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reader_at(self, key: bytes) -> RunReader:
        return self.reader(self._base.place(key))

    def _rule(self, scope: int, outcome: int, line: int) -> RunRule:
        try:
            return RunRule(Scope(scope), self.header.outcomes[outcome], line)
        except IndexError:
            raise self._file.damaged(f"a rule has outcome {outcome}, which is not in the table") from None


def differences(before: Run, after: Run) -> Iterator[tuple[str, list[RunRule], list[RunRule]]]:
    """Every name that differs between two runs of a list: its rules before and after, none where it was not there."""
    ids = {outcome: number for number, outcome in enumerate(after.header.outcomes)}
    outcomes = [ids.get(outcome) for outcome in before.header.outcomes]
    for name, old, new in RunDifference(*after.readers_against(before), outcomes):
        yield name.decode(), [before._rule(*rule) for rule in old], [after._rule(*rule) for rule in new]


def compare(before: Run, after: Run, limit: int) -> RunChanges:
    """What changed from one run of a list to the next; only what may differ is read."""
    ids = {outcome: number for number, outcome in enumerate(after.header.outcomes)}
    outcomes = [ids.get(outcome) for outcome in before.header.outcomes]
    items, counts = compare_runs(*after.readers_against(before), outcomes, limit)
    return RunChanges(items, *counts)


def count_triggers(triggers: Iterable[Trigger]) -> dict[str, int]:
    """How many there are of each kind, by the kind's lower-case word."""
    counts = Counter(trigger.kind for trigger in triggers)
    return {kind.word: counts[kind] for kind in sorted(counts)}


def _trigger_digest(triggers: Sequence[Trigger]) -> str:
    """A digest of what triggers say in their order, lines left out."""
    if not triggers:
        return ""
    said = {outcome: json.dumps(outcome_to_json(outcome)) for outcome in {trigger.outcome for trigger in triggers}}
    text = "\0".join(f"{kind:d} {text}\0{said[outcome]}" for kind, text, outcome, _ in triggers)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _pack_triggers(triggers: Sequence[Trigger], outcomes: Sequence[Outcome]) -> bytes:
    if not triggers:
        return b""
    numbers = {outcome: number for number, outcome in enumerate(outcomes)}
    texts = [trigger.text.encode() for trigger in triggers]
    lines = [
        TRIGGER_LINE.pack(kind, 0, len(text), numbers[outcome], line)
        for (kind, _, outcome, line), text in zip(triggers, texts, strict=True)
    ]
    return pack(TRIGGER_COUNT.pack(len(lines)) + b"".join(lines + texts))


def _unpack_triggers(octets: bytes, outcomes: Sequence[Outcome]) -> list[Trigger]:
    """ValueError, IndexError, struct.error or zstandard.ZstdError if they are not what _pack_triggers() gave."""
    if not octets:
        return []
    body = unpack(octets)
    (count,) = TRIGGER_COUNT.unpack_from(body)
    at = TRIGGER_COUNT.size + count * TRIGGER_LINE.size
    triggers = []
    for kind, _, length, outcome, line in TRIGGER_LINE.iter_unpack(body[TRIGGER_COUNT.size : at]):
        triggers.append(Trigger(TriggerKind(kind), body[at : at + length].decode(), outcomes[outcome], line))
        at += length
    if at != len(body) or len(triggers) != count:
        raise ValueError("its triggers are not whole")
    return triggers


class _Packers(threading.local):
    """Zstandard's contexts, which no two threads may use at a time."""

    def __init__(self) -> None:
        self.packer = zstandard.ZstdCompressor(level=COMPRESS_LEVEL)
        self.unpacker = zstandard.ZstdDecompressor()


_packers = _Packers()


def pack(octets: bytes) -> bytes:
    """A block compressed."""
    return _packers.packer.compress(octets)


def unpack(octets: bytes) -> bytes:
    """A block as it was before it was compressed; ZstdError if it is none."""
    return _packers.unpacker.decompress(octets)


def outcome_to_json(outcome: Outcome) -> list[Any]:
    """An outcome as JSON."""
    return list(asdict(outcome).values())


def outcome_from_json(values: list[Any]) -> Outcome:
    """The outcome that outcome_to_json() was given."""
    verb, important, action, ttl, data, condition = values
    return Outcome(
        Verb(verb), bool(important), None if action is None else Action(action), ttl, tuple(data), str(condition)
    )


def _pack_header(header: RunHeader) -> bytes:
    values = asdict(header)
    values["outcomes"] = [outcome_to_json(outcome) for outcome in header.outcomes]
    return json.dumps(values, separators=(",", ":")).encode()


def _unpack_header(octets: bytes) -> RunHeader:
    values = json.loads(octets)
    values["outcomes"] = tuple(outcome_from_json(outcome) for outcome in values["outcomes"])
    values["refused"] = tuple(Refused(*line) for line in values["refused"])
    return RunHeader(**values)
