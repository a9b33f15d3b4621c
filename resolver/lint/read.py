"""Files through the parsers that compile uses, into one sorted survey: nothing here reads a line in a way of its own.

The sink stands between a dialect and the builder. It gives each rule's outcome a number that also tells file and form,
so that the builder's octets know all that is asked later; lines that no template took are told apart by their text. Line
numbers run on from file to file, `File.first` being a file's first.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resolver.engine.engine import RunBuilder, Survey
from resolver.lint.forms import COMMENT, REFUSED_FORMS, form_of
from resolver.lists import conditions
from resolver.lists.names import shown
from resolver.lists.parse import ListReport, Options, read_files
from resolver.lists.parse.base import Refused
from resolver.lists.reading import describe
from resolver.lists.rules import NotAList, Outcome, Trigger
from resolver.lists.source import open_source
from resolver.vocabulary import Verb

MAX_REASONS = 1000  # different reasons for refusing lines that are told apart
EVERY = 0xFFFFFFFF  # examples: all there are
_TRAIT = struct.Struct("=3I4B")  # SurveyTrait of engine/survey.pyx
_COVERS, _COVERABLE, _SILENCES, _MORTAL, _CANCELS, _PLAIN = (1 << bit for bit in range(6))


class Reported(ListReport):
    """A list's report that also counts why lines were refused, and keeps as many of those as are wanted."""

    def __init__(self, examples: int, on_refused: Callable[[int], None]) -> None:
        super().__init__()
        self._on_refused = on_refused
        self.reasons: Counter[str] = Counter()
        self.read_triggers = self.triggers  # those with duplicates, as they were read
        self._examples = examples

    def refuse(self, line: int, text: str, reason: str) -> None:
        """As for any list; the reason without what it quotes of the line."""
        super().refuse(line, text, reason)
        kept = self.refused_lines
        if len(kept) < self.refused and self.refused <= self._examples:
            kept.append(Refused(line, shown(text, 200), reason))
        quoted = f"{shown(text.strip())} is "
        kind = f"… is {reason[len(quoted) :]}" if reason.startswith(quoted) else reason.rpartition(": ")[2]
        self._on_refused(line)
        if kind in self.reasons or len(self.reasons) < MAX_REASONS:
            self.reasons[kind] += 1


@dataclass(slots=True)
class Tally:
    """How many lines have a form, and the first of them, numbered in their file."""

    count: int = 0
    lines: list[int] = field(default_factory=list)


@dataclass(slots=True)
class File:
    """A file as it was read. `fault`: why it would be refused, "" if it would not."""

    path: Path
    report: Reported
    first: int  # what is added to its line numbers
    fault: str = ""
    forms: dict[str, Tally] = field(default_factory=dict)


@dataclass(slots=True)
class Rule:
    """What an outcome's number in the survey stands for."""

    file: int
    outcome: Outcome
    form: str


@dataclass(slots=True)
class Linted:
    """Files that were read, and the survey of their names."""

    files: list[File]
    builder: RunBuilder
    survey: Survey
    rules: list[Rule]

    def place(self, line: int) -> tuple[File, int]:
        """The file of a line of the survey, and its number there."""
        file = next(file for file in reversed(self.files) if line > file.first)
        return file, line - file.first


class _Sink:
    """Takes rules for the builder (rules.RuleSink)."""

    def __init__(self, builder: RunBuilder, examples: int) -> None:
        self.numbers: dict[tuple[int, int, str], int] = {}
        self._builder = builder
        self._examples = examples
        self._files: list[File] = []
        self._template_forms: dict[tuple[bytes, bytes, str], str] = {}
        self._subdomains = ""
        self._fed: dict[int, str] = {}  # of this chunk, the forms of lines that no template took

    def begin(self, file: File, options: Options) -> None:
        """What comes from now on is this file's."""
        self._files.append(file)
        self._subdomains = options.subdomains

    def add(self, name: bytes, scope: int, outcome: int, line: int) -> None:
        """Take one rule of a line that scan() gave back."""
        self._builder.add(name, scope, self._number(outcome, ""), self._files[-1].first + line)

    def scan(
        self, chunk: bytes, first_line: int, templates: Sequence[tuple[bytes, bytes, int, int]]
    ) -> tuple[int, list[tuple[int, bytes]]]:
        """Take the lines that fit a template, tell the form of the others."""
        file = self._files[-1]
        dialect = file.report.files[-1].format
        known = [
            (prefix, suffix, scope, self._number(outcome, self._template_form(prefix, suffix, dialect)))
            for prefix, suffix, scope, outcome in templates
        ]
        lines, rest = self._builder.scan(chunk, file.first + first_line, known)
        mine = [(number - file.first, octets) for number, octets in rest]
        self.settle()
        for number, octets in mine:
            form = form_of(octets[:4096].decode("utf-8", "surrogateescape"), dialect, self._subdomains)
            if form != COMMENT:
                self._fed[number] = form
        return lines, mine

    def refused(self, line: int) -> None:
        """A line has no form after all, unless it is one that is always refused."""
        if self._fed.get(line) not in REFUSED_FORMS:
            self._fed.pop(line, None)

    def settle(self) -> None:
        """Count the forms of the lines that were given back last: they have been read meanwhile."""
        for number, form in self._fed.items():
            tally = self._files[-1].forms.setdefault(form, Tally())
            tally.count += 1
            if len(tally.lines) < self._examples:
                tally.lines.append(number)
        self._fed.clear()

    def _template_form(self, prefix: bytes, suffix: bytes, dialect: str) -> str:
        key = prefix, suffix, dialect
        form = self._template_forms.get(key)
        if form is None:
            text = (prefix + b"name.example" + suffix).decode()
            form = self._template_forms[key] = form_of(text, dialect, self._subdomains)
        return form

    def _number(self, outcome: int, form: str) -> int:
        return self.numbers.setdefault((len(self._files) - 1, outcome, form), len(self.numbers))


def read_paths(paths: Iterable[Path], options: Options, examples: int) -> Linted:
    """Read files, each as a list of its own. OSError for one that cannot be read."""
    builder = RunBuilder()
    sink = _Sink(builder, examples)
    files: list[File] = []
    first = 0
    for path in paths:
        file = File(path, Reported(examples, sink.refused), first)
        files.append(file)
        sink.begin(file, options)
        try:
            read_files([(str(path), open_source(path))], options, sink, file.report)
        except NotAList as fault:
            file.fault = describe(fault)
        sink.settle()
        first += file.report.lines + 1
    builder.sort()
    rules = [Rule(file, files[file].report.outcomes[outcome], form) for file, outcome, form in sink.numbers]
    starts = array("I", [file.first + 1 for file in files])
    replacing = bytes(file.report.replaces for file in files)
    survey = Survey(builder, traits_of([rule.outcome for rule in rules]), starts.tobytes(), replacing)
    counts, lines = survey.lines(examples)
    for rule, count, found in zip(rules, counts, lines, strict=True):
        if rule.form and count:
            file = files[rule.file]
            tally = file.forms.setdefault(rule.form, Tally())
            tally.count += count
            tally.lines = sorted([*tally.lines, *(line - file.first for line in found)])[:examples]
    return Linted(files, builder, survey, rules)


def traits_of(outcomes: Sequence[Outcome]) -> bytes:
    """What outcomes are to each other, as the survey reads it."""
    same: dict[Outcome, int] = {}
    groups: dict[tuple[object, ...], int] = {}
    packed = bytearray()
    for outcome in outcomes:
        condition = conditions.parse(outcome.condition)
        restricted = "" if condition.is_plain else outcome.condition
        said = outcome.verb, outcome.action, outcome.ttl, outcome.data, restricted
        acts = condition.rewrite is not None or condition.is_badfilter or condition.is_denial or bool(condition.denied)
        flags = _PLAIN if condition.is_plain else _CANCELS if condition.is_badfilter else 0
        flags |= 0 if acts else _COVERS | _COVERABLE | _MORTAL
        flags |= _SILENCES if not acts and not condition.restricts else 0
        packed += _TRAIT.pack(
            same.setdefault(outcome, len(same)),
            groups.setdefault(said, len(groups)),
            groups.setdefault((outcome.verb, restricted), len(groups)),
            2 if outcome.important else 0 if condition.is_plain else 1,
            _rank(outcome),
            outcome.verb is Verb.ALLOW,
            flags,
        )
    return bytes(packed)


def _rank(outcome: Outcome) -> int:
    """vocabulary.Rank of ordinary lists' rules, as far as it orders them."""
    if outcome.verb is Verb.ALLOW:
        return 1 if outcome.important else 3
    return 2 if outcome.important else 5


def texts_of(path: Path, wanted: set[int]) -> dict[int, str]:
    """The texts of some lines of a file, read once more. Lines of a file that has changed since may be missing."""
    found: dict[int, str] = {}
    if not wanted:
        return found
    last, at = max(wanted), 0
    left = sorted(wanted, reverse=True)
    try:
        for chunk in open_source(path):
            count = chunk.count(b"\n")
            if left and left[-1] <= at + count:
                lines = chunk.split(b"\n")
                while left and left[-1] <= at + count:
                    number = left.pop()
                    found[number] = shown(lines[number - at - 1].strip().decode("utf-8", "surrogateescape"), 120)
            at += count
            if at >= last:
                break
    except (OSError, NotAList):
        pass
    return found


def cancelled_patterns(triggers: Sequence[Trigger]) -> list[Trigger]:
    """The patterns that a badfilter of the same file cancels."""
    meant = set()
    for trigger in triggers:
        if "badfilter" in trigger.outcome.condition:
            meant.add((trigger.text, _without_badfilter(trigger.outcome)))
    return [trigger for trigger in triggers if (trigger.text, trigger.outcome) in meant]


def _without_badfilter(outcome: Outcome) -> Outcome:
    from dataclasses import replace

    condition = conditions.parse(outcome.condition)
    return replace(outcome, condition=str(replace(condition, is_badfilter=False)))


def cancelled_rules(linted: Linted, file: File) -> list[tuple[str, int, int]]:
    """The rules for names that a badfilter of the same file cancels: (name, line, the badfilter's line) in the survey."""
    from resolver.lists.names import key

    number = linted.files.index(file)
    found = []
    for name in dict.fromkeys(file.report.badfilters):
        here = [
            (scope, linted.rules[outcome], line)
            for scope, outcome, line in linted.survey.find(key(name))
            if linted.rules[outcome].file == number
        ]
        meant = {
            (scope, _without_badfilter(rule.outcome)): line
            for scope, rule, line in here
            if conditions.parse(rule.outcome.condition).is_badfilter
        }
        found += [
            (name, line, meant[scope, rule.outcome]) for scope, rule, line in here if (scope, rule.outcome) in meant
        ]
    return sorted(found, key=lambda item: item[1])
