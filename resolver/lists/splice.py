"""Run files made without reading a whole list: streamed as its rules come, or as the last run with a delta on top.

RunStream writes a run whose rules come nearly in the order of their keys, as a zone transfer brings them: it holds a window
of rules, sorts it, and writes out all but its end. A rule that comes too late for its place begins another stretch; if
there was more than one at the end, all are read back and sorted at once, which takes the memory that any list takes.

Splice makes the next run of a list of which few keys changed: the last one's BLOCKS, copied octet by octet, with a
delta of all keys that changed since those were written (layout.py draws it). It holds what is said of a key now and what
the BLOCKS say of it, so two runs with the same BLOCKS can be told apart by their deltas alone: time and reading are the
change's, not the list's. flatten_run() makes a run without a delta once that has grown.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from resolver.engine.engine import RunBuilder, RunReader
from resolver.lists.container import SectionWriter, replacing
from resolver.lists.layout import BLOCK_KEYS, RUN, RunSection, pack_blocks
from resolver.lists.rules import Trigger
from resolver.lists.runs import BlockWriter, Run, RunHeader, add_header, finish_run, unpack, write_blocks

WINDOW = 1 << 18  # rules
KEPT = 2 * BLOCK_KEYS  # rules: with fewer no block is taken, so what comes some thousands late is still in order
MAX_DELTA = 100_000  # keys

Rules: TypeAlias = "Sequence[tuple[int, int]]"  # (scope, outcome), at most one for each scope


class RunStream:
    """See the module. Put rules into `builder`, call pour() now and then, and finish() at the end; a `with` statement
    that is left without finish() leaves nothing behind. Of two rules for one name the first counts (`replaces`)."""

    def __init__(self, path: Path, window: int = WINDOW, kept: int = KEPT) -> None:
        self.builder = RunBuilder(replaces=True)
        self.builder.lineless = True
        self._window, self._kept = window, kept
        self._undo = contextlib.ExitStack()
        self._file = self._undo.enter_context(replacing(path))
        self._begin()
        self._undo.callback(lambda: self._blocks.close())

    def _begin(self) -> None:
        self._writer = SectionWriter(self._file, RUN)
        self._writer.begin()
        self._blocks = BlockWriter(self._writer)
        self._stretches = [0]  # the first block of each
        self._put = 0
        self._last = b""

    def pour(self) -> None:
        """Write out what is sorted for good, if there is enough of it."""
        if self.builder.taken >= self._window:
            self.builder.sort()
            self._write(self._kept)
            self.builder.reopen()

    def _write(self, kept: int) -> None:
        while self.builder.left > kept and (block := self.builder.take_block(BLOCK_KEYS)):
            if self._put and block[0] <= self._last:
                self._stretches.append(self._put)
            self._blocks.put(block)
            self._put += 1
            self._last = self.builder.last_key

    def finish(self, header: RunHeader, triggers: Sequence[Trigger] = ()) -> RunHeader:
        """Write the rest and put the file in its place; returns the header with its counts. `triggers`: see write_run()."""
        self.builder.sort()
        self._write(0)
        self._blocks.flush()
        blocks, builder = self._blocks.blocks, self.builder
        if len(self._stretches) > 1:
            builder = self._gather()
            self._blocks.close()
            self._file.seek(0)
            self._file.truncate()
            self._begin()
            blocks = write_blocks(self._writer, builder)
        header = finish_run(self._writer, blocks, builder, header, triggers)
        self._undo.close()
        return header

    def _gather(self) -> RunBuilder:
        """All stretches in one builder, sorted; rules keep the order of the stretches."""
        self._file.flush()
        fd = os.open(self._file.name, os.O_RDONLY)
        self._undo.callback(os.close, fd)
        builder, count = RunBuilder(replaces=True), 0
        builder.lineless = True
        for start, end in zip(self._stretches, [*self._stretches[1:], self._put], strict=True):
            stretch = self._blocks.blocks[start:end]

            def load(number: int, stretch: list = stretch) -> bytes:  # type: ignore[type-arg]
                return unpack(os.pread(fd, stretch[number].length, stretch[number].offset))

            count += builder.absorb(RunReader(load, len(stretch)), count, 1 << 40)
        builder.sort()
        return builder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            kind, error = RuntimeError, RuntimeError("not finished")  # without effect after finish()
        with contextlib.suppress(RuntimeError):
            self._undo.__exit__(kind, error, trace)


class Splice:
    """The run at `old`, to be made into the next one. Use it in a `with` statement."""

    def __init__(self, old: Path) -> None:
        self._run = Run(old)
        self._entries = {key: _sides(tags) for key, tags in self._run.delta()}  # (now, was)

    @property
    def header(self) -> RunHeader:
        """The run's."""
        return self._run.header

    def rules(self, keys: Iterable[bytes]) -> Mapping[bytes, Rules]:
        """What is said of these keys, in the one form that compares; nothing of those that the list does not have."""
        keys = set(keys)
        fresh = sorted(key for key in keys if key not in self._entries)
        for key, was in zip(fresh, map(canonical, self._run.base_rules(fresh)), strict=True):
            self._entries[key] = was, was
        return {key: self._entries[key][0] for key in keys}

    def triggers(self) -> list[Trigger]:
        """The run's rules that are not names."""
        return self._run.triggers()

    def write(
        self, new: Path, changes: Mapping[bytes, Rules], header: RunHeader, triggers: Sequence[Trigger] = ()
    ) -> RunHeader:
        """Write at `new` the run with what `changes` say of their keys, nothing of a key that goes.

        `triggers` are all that there are now. `header`: the old one's with what is new; its outcomes begin with the old
        one's, and its counts are made here. If the delta would have more than MAX_DELTA keys the run is written without
        one, which reads all of the old one.
        """
        run = self._run
        if header.outcomes[: len(run.header.outcomes)] != run.header.outcomes:
            raise ValueError(f"{new}: the outcomes do not begin with those of {run.file.path}")
        names, rules = run.header.names, run.header.rules
        entries = {key: entry for key, entry in self._entries.items() if entry[0] != entry[1]}
        for key, before in self.rules(changes).items():
            now = canonical(changes[key])
            names += bool(now) - bool(before)
            rules += len(now) - len(before)
            entries[key] = now, self._entries[key][1]
        builder = RunBuilder()
        builder.lineless = True
        for key, (now, was) in entries.items():
            if now != was:
                name = b".".join(reversed(key[:-1].split(b"\0"))) if key else b""
                for side, sayings in enumerate((now, was)):
                    for scope, outcome in sayings:
                        builder.add(name, scope, outcome << 1 | side, 0)
        builder.sort()
        header = replace(header, names=names, rules=rules, base_outcomes=run.header.base_outcomes)
        with replacing(new) as file:
            writer = SectionWriter(file, RUN)
            writer.copy(run.file, RunSection.BLOCKS)
            writer.copy(run.file, RunSection.INDEX)
            header = add_header(writer, header, triggers)
            writer.begin()
            blocks = write_blocks(writer, builder)
            writer.add(pack_blocks(blocks))
            writer.finish()
        if sum(block.keys for block in blocks) > MAX_DELTA:
            header = flatten_run(new, new)
        return header

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run.close()


def splice_run(old: Path, new: Path, changes: Mapping[bytes, Rules], header: RunHeader) -> RunHeader:
    """See Splice.write()."""
    with Splice(old) as splice:
        return splice.write(new, changes, header)


def flatten_run(old: Path, new: Path) -> RunHeader:
    """Write at `new` the run `old` without a delta; they may be the same."""
    with Run(old) as run, RunStream(new) as stream:
        reader, count = run.reader(), 0
        while taken := stream.builder.absorb(reader, count, WINDOW):
            count += taken
            stream.pour()
        return stream.finish(run.header, run.triggers())


def canonical(rules: Rules) -> tuple[tuple[int, int], ...]:
    """Rules of a key in the one form that compares: what says the same of the name and of those below it is one rule."""
    if len(rules) == 1:
        return (rules[0],)
    scopes: dict[int, int] = {}
    for scope, outcome in rules:
        scopes[outcome] = scopes.get(outcome, 0) | scope
    return tuple(sorted((scope, outcome) for outcome, scope in scopes.items()))


def _sides(tags: Sequence[int]) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """(now, was) of a key of a delta."""
    now, was = (canonical([(tag & 3, tag >> 3) for tag in tags if tag >> 2 & 1 == side]) for side in (0, 1))
    return now, was
