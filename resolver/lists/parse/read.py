"""Drives a dialect over a list's chunks: native scan first, the remaining lines one by one, and the report of it all.

A whole file is refused, with NotAList, where taking it would replace a good list by rubbish:
- it begins as an HTML or XML page, or holds a NUL within its first lines;
- more than MAX_REFUSED_SHARE of its rule lines are bad, judged from MIN_JUDGED rule lines on: a slip in a list of five
  names does not make it rubbish. Lines that are well-formed but say nothing here (`Unsupported`) are no bad lines: a
  list made for browsers as well still gives its names;
- no rule at all comes out of the list, unless it may be empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from resolver.engine.engine import count_blank
from resolver.lists.names import shown
from resolver.lists.parse.adblock import Adblock
from resolver.lists.parse.addresses import Addresses
from resolver.lists.parse.base import Dialect, FileLines, ListReport, Options
from resolver.lists.parse.detect import DETECT_LINES, detect
from resolver.lists.parse.dnsmasq import Dnsmasq
from resolver.lists.parse.domains import Domains
from resolver.lists.parse.hosts import Hosts
from resolver.lists.parse.mixed import Mixed
from resolver.lists.parse.rpz import Rpz
from resolver.lists.parse.unbound import Unbound
from resolver.lists.rules import (
    MAX_LINE,
    MAX_REFUSED_SHARE,
    BadLine,
    NotAList,
    Outcome,
    RuleSink,
    Trigger,
    TriggerKind,
    Unsupported,
)
from resolver.vocabulary import Scope, Verb

MIN_JUDGED = 20  # rule lines
HEAD_LINES = 100  # fed one by one, so that a zone's head and the templates are known before the bulk is scanned
MAX_HEAD = 4 << 20  # octets held while rule lines are looked for to tell the dialect

DIALECTS: dict[str, type[Dialect]] = {
    dialect.name: dialect for dialect in (Hosts, Domains, Addresses, Adblock, Dnsmasq, Unbound, Rpz, Mixed)
}

_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body|\?xml|script|meta|title|!--)\b", re.IGNORECASE)


def read_list(chunks: Iterable[bytes], options: Options, sink: RuleSink, path: str = "") -> ListReport:
    """Read one body into `sink`; NotAList when it is none."""
    return read_files([(path, chunks)], options, sink)


def read_files(
    files: Iterable[tuple[str, Iterable[bytes]]], options: Options, sink: RuleSink, report: ListReport | None = None
) -> ListReport:
    """Read the files (path, chunks) of one list into `sink`, line numbers running on from file to file.

    Chunks are whole lines ending in LF, as `source.open_source` gives them. NotAList names the file at fault; `report`,
    an empty one, then has what was read until there.
    """
    reader = _Reader(options, sink, report if report is not None else ListReport())
    for path, chunks in files:
        reader.read(path, chunks)
    reader.check_not_empty()
    reader.settle_triggers()
    return reader.report


class _Reader:
    def __init__(self, options: Options, sink: RuleSink, report: ListReport) -> None:
        self.report = report
        self._options = options
        self._sink = sink
        self._add = sink.add
        self._allows = options.kind == "allow"
        self._index: dict[Outcome, int] = {}
        self._last_outcome: Outcome | None = None
        self._last_index = 0
        self._rule_lines = 0  # of this file: all but comments
        self._bad_lines = 0  # of this file

    # -- rules ------------------------------------------------------------------------------------------------------

    def _emit(self, name: str, scope: Scope, outcome: Outcome, line: int) -> None:
        if outcome is not self._last_outcome:
            self._last_index = self._index_of(outcome)
            self._last_outcome = outcome
        self._add(name.encode("ascii"), scope, self._last_index, line)
        self.report.names += 1

    def _index_of(self, outcome: Outcome) -> int:
        outcome = self._said(outcome)
        index = self._index.get(outcome)
        if index is None:
            index = self._index[outcome] = len(self.report.outcomes)
            self.report.outcomes.append(outcome)
        return index

    def _said(self, outcome: Outcome) -> Outcome:
        """An outcome as a list of this kind means it."""
        if not self._allows:
            return outcome
        return Outcome(verb=Verb.ALLOW, important=outcome.important, condition=outcome.condition)

    def settle_triggers(self) -> None:
        """Let the triggers' outcomes be among the list's, and leave out those that say nothing new: the first is kept.

        As with names, a trigger is a duplicate of an earlier one with the same outcome, or, where rules replace each
        other, with any.
        """
        report = self.report
        taken: dict[tuple[TriggerKind, str, int], Trigger] = {}
        for trigger in sorted(report.triggers, key=lambda trigger: trigger.line):
            number = self._index_of(trigger.outcome)
            key = trigger.kind, trigger.text, -1 if report.replaces else number
            taken.setdefault(key, trigger._replace(outcome=report.outcomes[number]))
        report.duplicates += len(report.triggers) - len(taken)
        report.triggers = sorted(taken.values(), key=lambda trigger: (trigger.kind, trigger.line))

    # -- one file ---------------------------------------------------------------------------------------------------

    def read(self, path: str, chunks: Iterable[bytes]) -> None:
        report = self.report
        stream = iter(chunks)
        head = _head(path, stream)
        name = self._options.format
        if name == "auto":
            name = detect(_decoded(line) for chunk in head for line in chunk.splitlines())
        first_file = not report.files
        dialect = DIALECTS[name](self._options, report, self._emit)
        report.files.append(FileLines(path, report.lines + 1, name))
        report.format = name if first_file or report.format == name else "mixed"
        report.replaces = dialect.replaces and (first_file or report.replaces)
        self._rule_lines = self._bad_lines = 0
        comments = report.comments
        for chunk in chain(_cut_head(head), stream):
            self._read_chunk(dialect, chunk)
        try:
            dialect.finish()
        except BadLine as error:
            self._refuse(report.lines, "", error)
        self._rule_lines -= report.comments - comments
        if self._rule_lines >= MIN_JUDGED and self._bad_lines > MAX_REFUSED_SHARE * self._rule_lines:
            raise NotAList(
                f"{_at(path)}{self._bad_lines} of {self._rule_lines} lines are no rules, read as {name}: "
                f"{self._example(report.files[-1].first)}; at most {MAX_REFUSED_SHARE:.0%} may be bad"
            )

    def _read_chunk(self, dialect: Dialect, chunk: bytes) -> None:
        report = self.report
        first = report.lines + 1
        templates = [(t.prefix, t.suffix, int(t.scope), self._index_of(t.outcome)) for t in dialect.templates(chunk)]
        lines, rest = self._sink.scan(chunk, first, templates)
        rest = [item for item in rest if item[1].strip()]
        filled = lines - count_blank(chunk)
        report.lines += lines
        report.names += filled - len(rest)
        self._rule_lines += filled
        feed = dialect.feed
        for line, octets in rest:
            if len(octets) > MAX_LINE:
                self._refuse(line, _decoded(octets[:300]), BadLine(f"a line of more than {MAX_LINE} octets"))
                continue
            text = _decoded(octets)
            try:
                feed(line, text)
            except BadLine as error:
                self._refuse(line, text, error)

    def _refuse(self, line: int, text: str, error: BadLine) -> None:
        self.report.refuse(line, text, str(error))
        if not isinstance(error, Unsupported):
            self._bad_lines += 1

    # -- verdicts ---------------------------------------------------------------------------------------------------

    def check_not_empty(self) -> None:
        """NotAList when no rule came out."""
        report = self.report
        if report.names or report.triggers or self._options.allow_empty:
            return
        path = report.files[0].path if len(report.files) == 1 else ""
        if report.refused:
            raise NotAList(
                f"{_at(path)}none of {report.refused} lines is a rule, read as {report.format}: {self._example()}"
            )
        raise NotAList(f"{_at(path)}empty list: {report.lines} lines, and no rule among them")

    def _example(self, first: int = 1) -> str:
        """One refused line, from line number `first` on if it was kept."""
        kept = self.report.refused_lines
        line, text, reason = next((refused for refused in kept if refused.line >= first), kept[-1])
        return f"line {self.report.place(line)[1]}, “{shown(text)}”: {reason}"


def _at(path: str) -> str:
    return f"{path}: " if path else ""


def _decoded(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _head(path: str, stream: Iterator[bytes]) -> list[bytes]:
    """The first chunks, up to enough rule lines to tell the dialect; NotAList for what is plainly no list."""
    head: list[bytes] = []
    rules = size = 0
    for chunk in stream:
        if not size:
            if _PAGE.match(chunk):
                raise NotAList(f"{_at(path)}a page in HTML or XML, not a list")
            if b"\0" in chunk[: 1 << 16]:
                raise NotAList(f"{_at(path)}binary data, not a list")
        head.append(chunk)
        size += len(chunk)
        rules += sum(1 for line in chunk.splitlines() if line.strip() and line.strip()[:1] not in b"#!;")
        if rules >= DETECT_LINES or size >= MAX_HEAD:
            break
    return head


def _cut_head(head: list[bytes]) -> Iterator[bytes]:
    """The same chunks, the first HEAD_LINES lines as a chunk of their own."""
    for number, chunk in enumerate(head):
        cut = 0
        if number == 0:
            for _ in range(HEAD_LINES):
                cut = chunk.find(b"\n", cut) + 1
                if not cut:
                    break
            else:
                yield chunk[:cut]
        if cut < len(chunk):
            yield chunk[cut:]
