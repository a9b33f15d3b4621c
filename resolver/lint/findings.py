"""What is wrong, idle or risky in lists that were read: findings of a kind, each with a place and a word on why."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resolver.lint import broad
from resolver.lint.forms import FORMS
from resolver.lint.read import EVERY, File, Linted, cancelled_patterns, cancelled_rules, read_paths, texts_of
from resolver.lists.parse import Options
from resolver.lists.rules import Outcome, Trigger, TriggerKind
from resolver.vocabulary import Verb

EXAMPLES = 5  # of each kind that are shown where not all are asked for

# Kinds in the order in which they are told: the first five are Survey.findings()'s.
KINDS = {
    "duplicate": "say what an earlier line says",
    "overruled": "can never match: an earlier line for the same name says something else, and counts",
    "silenced": "can never match: a stronger rule speaks against them for all they name",
    "covered": "are covered by a parent's rule, or by a wider or stronger one for the same name",
    "elsewhere": "are covered by another of these files",
    "cancelled": "can never match: a badfilter cancels them",
    "no such TLD": "can match in a private zone at most: there is no such top-level domain",
    "over-broad": "reach far: check that this is meant",
}
_BY_SURVEY = list(KINDS)[:5]


@dataclass(slots=True)
class Finding:
    """A line of a file that something is to be said about. `text`: as it stands there, once it has been looked up."""

    line: int
    name: str
    why: str
    text: str = ""


@dataclass(slots=True)
class Verdict:
    """All about one file; of findings and forms the first examples."""

    file: File
    counts: dict[str, int] = field(default_factory=dict)
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)

    def add(self, kind: str, finding: Finding, examples: int, count: int = 1) -> None:
        """Count a finding, and keep it if it is one of the first."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        kept = self.findings.setdefault(kind, [])
        if len(kept) < examples:
            kept.append(finding)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        report = self.file.report
        return {
            "path": str(self.file.path),
            "refused": self.file.fault,
            "format": report.format,
            "lines": report.lines,
            "comments": report.comments,
            "rules": report.names + len(report.read_triggers),
            "skipped": report.skipped,
            "repaired": report.repaired,
            "lines_refused": report.refused,
            "reasons": dict(report.reasons.most_common()),
            "refused_lines": [line._asdict() for line in report.refused_lines],
            "forms": [
                {
                    "form": key,
                    "lines": tally.count,
                    "example": self.texts.get(tally.lines[0], "") if tally.lines else "",
                    "at": tally.lines,
                    "here": str(FORMS[key].here) if key in FORMS else "",
                    "elsewhere": FORMS[key].differing() if key in FORMS else {},
                }
                for key, tally in self.forms()
            ],
            "findings": {
                kind: {
                    "count": self.counts[kind],
                    "lines": [
                        {"line": each.line, "text": each.text, "name": each.name, "why": each.why}
                        for each in self.findings[kind]
                    ],
                }
                for kind in KINDS
                if kind in self.counts
            },
        }

    def forms(self) -> list[tuple[str, Any]]:
        """The forms of the file's lines, those of the most lines first."""
        return sorted(self.file.forms.items(), key=lambda item: (-item[1].count, item[0]))


def lint(paths: Iterable[Path], options: Options, examples: int = EXAMPLES) -> list[Verdict]:
    """Read files as lists and judge them. OSError for one that cannot be read."""
    linted = read_paths(paths, options, examples)
    verdicts = [Verdict(file) for file in linted.files]
    by_file = {id(verdict.file): verdict for verdict in verdicts}
    _judge_names(linted, verdicts, examples)
    for each in broad.broad_names(linted):
        file, line = linted.place(each.line)
        what = "allows" if each.verb is Verb.ALLOW else "blocks"
        by_file[id(file)].add("over-broad", Finding(line, each.name, f"{what} {each.why}"), examples)
    for name, count, first in broad.unknown_tlds(linted):
        file, line = linted.place(first)
        more = f", and {count - 1:,} more rules" if count > 1 else ""
        by_file[id(file)].add(
            "no such TLD", Finding(line, name, f"“.{name}” is not in the root zone{more}"), examples, count
        )
    for verdict in verdicts:
        _judge_triggers(verdict, examples)
        for cancelled, line, by in cancelled_rules(linted, verdict.file):
            verdict.add(
                "cancelled",
                Finding(line - verdict.file.first, cancelled, f"by line {by - verdict.file.first}"),
                examples,
            )
        _look_up(verdict, everything=examples == EVERY)
    return verdicts


def _judge_names(linted: Linted, verdicts: list[Verdict], examples: int) -> None:
    """What the survey finds of names."""
    counts, found = linted.survey.findings(examples)
    for number, row in enumerate(counts):
        for kind, count in zip(_BY_SURVEY, row, strict=True):
            if count:
                verdicts[number].counts[kind] = count
                verdicts[number].findings[kind] = []
    for kind_number, line, by, name in sorted(found, key=lambda item: item[1]):
        kind = _BY_SURVEY[kind_number]
        file, number = linted.place(line)
        other, other_line = linted.place(by)
        where = f"line {other_line}" if other is file else f"{other.path}:{other_line}"
        verdict = verdicts[linted.files.index(file)]
        verdict.findings[kind].append(Finding(number, name.decode(), f"by {where}"))


def _judge_triggers(verdict: Verdict, examples: int) -> None:
    """What is to be said of rules that are not names: duplicates, covered networks, broad ones."""
    report = verdict.file.report
    triggers = sorted(report.read_triggers, key=lambda trigger: trigger.line)
    kept: dict[tuple[TriggerKind, str, Outcome | None], Trigger] = {}
    for trigger in triggers:
        key = trigger.kind, trigger.text, None if report.replaces else trigger.outcome
        earlier = kept.setdefault(key, trigger)
        if earlier is not trigger:
            kind = "duplicate" if earlier.outcome == trigger.outcome else "overruled"
            verdict.add(kind, Finding(trigger.line, trigger.text, f"by line {earlier.line}"), examples)
    first = list(kept.values())
    for trigger, cover in _covered_networks(first):
        verdict.add("covered", Finding(trigger.line, trigger.text, f"by line {cover.line}, {cover.text}"), examples)
    for trigger in cancelled_patterns(first):
        verdict.add("cancelled", Finding(trigger.line, trigger.text, "by a badfilter for the same pattern"), examples)
    for trigger, why in broad.broad_triggers(first):
        verdict.add("over-broad", Finding(trigger.line, trigger.text, why), examples)
    for findings in verdict.findings.values():
        findings.sort(key=lambda finding: finding.line)


def _covered_networks(triggers: list[Trigger]) -> Iterator[tuple[Trigger, Trigger]]:
    """Address rules that a shorter prefix with the same outcome covers, each with it."""
    nets = {(trigger.kind, trigger.text, trigger.outcome): trigger for trigger in triggers if "/" in trigger.text}
    nets = {
        key: trigger for key, trigger in nets.items() if trigger.kind not in (TriggerKind.PATTERN, TriggerKind.NSDNAME)
    }
    lengths: dict[int, set[int]] = {4: set(), 6: set()}
    for trigger in nets.values():
        lengths[6 if ":" in trigger.text else 4].add(int(trigger.text.rpartition("/")[2]))
    shorter = {version: sorted(found) for version, found in lengths.items()}
    for trigger in nets.values():
        version = 6 if ":" in trigger.text else 4
        length = int(trigger.text.rpartition("/")[2])
        if shorter[version][0] == length:
            continue
        network = ipaddress.ip_network(trigger.text)
        for each in shorter[version]:
            if each >= length:
                break
            above = network.supernet(new_prefix=each)
            if cover := nets.get((trigger.kind, str(above), trigger.outcome)):
                yield trigger, cover
                break


def _look_up(verdict: Verdict, everything: bool) -> None:
    """Read the texts of the lines that are to be shown."""
    wanted = {finding.line for findings in verdict.findings.values() for finding in findings}
    for tally in verdict.file.forms.values():
        wanted |= set(tally.lines if everything else tally.lines[:1])
    verdict.texts = texts_of(verdict.file.path, wanted)
    for findings in verdict.findings.values():
        for finding in findings:
            finding.text = verdict.texts.get(finding.line, "")
