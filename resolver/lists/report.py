"""What a build has to say: for `tampah reload` and `compile`, the log, the metrics and the record of a generation.

Plain data that goes through JSON unharmed; the supervisor gets it from the build's process without importing the build.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

REFUSED_SHOWN = 5  # refused lines a list that a report carries; the run keeps more


_SHOWN = {  # what a person calls triggers of a kind
    "address": "addresses",
    "client": "client addresses",
    "nsdname": "names of name servers",
    "nsip": "addresses of name servers",
    "pattern": "patterns",
}


class ListOutcome(StrEnum):
    """What became of a list in a build."""

    READ = "read"  # its source was read
    REUSED = "reused"  # unchanged: its run of an earlier build serves
    KEPT = "kept"  # its source is missing or refused: the last good copy serves on
    MISSING = "missing"  # missing or refused, and there is no good copy: it blocks nothing
    GONE = "gone"  # no longer in the config, or switched off
    HELD = "held"  # changed more than it may: what it was before serves on until somebody decides
    REJECTED = "rejected"  # its newest version was rejected, or rolled back: what it was before serves on


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that was skipped: its file, its number there from 1, the beginning of its text, and why."""

    path: str
    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class QuarantinedRule:
    """A rule that the guard left out: its file, line and text, the name it stands at, which protected name it would
    block, and why that one is protected. The text is "" where the file cannot be read now."""

    path: str
    line: int
    text: str
    name: str
    protected: str
    why: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.path else f"line {self.line}"
        above = "" if self.name == self.protected else f" blocks {self.protected},"
        text = f": {self.text}" if self.text else ""
        return f"{place}: {self.name}{above} {'is ' if not above else 'which is '}{self.why}{text}"


@dataclass(frozen=True, slots=True)
class ListReport:
    """One list in one build.

    `names`, `added` and `removed` count names against the generation before; `triggers` counts the rules that are not
    names by the word of their kind: address, client, nsdname, nsip, pattern; of these `others_added` and `others_removed`
    came and went. `refused` counts lines, of which the first
    are in `refused_lines`; `duplicates` counts rules said twice. `error` says why a list is kept or missing. `age`:
    seconds since its source was last found good; `seconds`: what this build spent on it. `guard`: what the guard has to say
    of it; `pending_names`: of the version that is held or rejected; `quarantined`: rules left out that wait for a
    decision, of which the first are in `quarantined_rules`.
    """

    name: str
    outcome: ListOutcome
    format: str = ""
    names: int = 0
    triggers: dict[str, int] = field(default_factory=dict)
    added: int = 0
    removed: int = 0
    others_added: int = 0
    others_removed: int = 0
    duplicates: int = 0
    refused: int = 0
    refused_lines: tuple[RefusedLine, ...] = ()
    shadow: bool = False
    error: str = ""
    age: float = 0.0
    seconds: float = 0.0
    guard: str = ""
    pending_names: int = 0
    quarantined: int = 0
    quarantined_rules: tuple[QuarantinedRule, ...] = ()

    @property
    def is_alarm(self) -> bool:
        """Whether somebody should look at this list."""
        return self.outcome in (ListOutcome.KEPT, ListOutcome.MISSING, ListOutcome.HELD)

    @property
    def fault(self) -> str:
        """What is wrong with the list, in words; "" if nothing is."""
        if self.outcome is not ListOutcome.HELD:
            return self.error
        return "; ".join(part for part in (self.error, f"held: {self.guard}; {self.advice}") if part)

    @property
    def advice(self) -> str:
        """What to do about what the guard did; "" if nothing is to be done."""
        if not self.quarantined and self.outcome is not ListOutcome.HELD:
            return ""
        return f"'tampah approve {self.name}' lets it go live, 'tampah reject {self.name}' keeps it out"

    def line(self) -> str:
        """The list's state in one line for a person."""
        if self.outcome is ListOutcome.GONE:
            return f"{self.name}: gone (−{self.removed:,})"
        text = f"{self.name}: {self.names:,} names"
        if self.added or self.removed:
            text += f" (+{self.added:,} −{self.removed:,})"
        for kind, count in self.triggers.items():
            text += f", {count:,} {_SHOWN.get(kind, kind)}"
        if self.others_added or self.others_removed:
            text += f" (+{self.others_added:,} −{self.others_removed:,})"
        if self.refused:
            text += f", {self.refused:,} lines refused"
        if self.outcome in (ListOutcome.HELD, ListOutcome.REJECTED):
            text += f"; {self.outcome}: {self.guard}; what it was before serves on"
        elif self.guard:
            text += f"; {self.guard}"
        if self.quarantined:
            text += f", quarantined rules: {self.quarantined:,}"
        if self.advice:
            text += f"; {self.advice}"
        if self.outcome is ListOutcome.KEPT:
            text += f"; {self.error}; the copy of {duration(self.age)} ago serves on"
        elif self.outcome is ListOutcome.MISSING:
            text += f"; {self.error}; there is no earlier copy, so nothing of it is enforced"
        return text

    def lines(self) -> Iterator[str]:
        """The list's state for a person, its first refused lines included."""
        yield self.line()
        for refused in self.refused_lines:
            yield f"  {refused.path}:{refused.line}: {refused.reason}: {refused.text}"
        for rule in self.quarantined_rules:
            yield f"  quarantined: {rule}"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """One build. `index`: "built", "patched", "tidied" (merged anew, nothing else) or "reused"; `warnings`: what the config
    says that will not do what it seems to."""

    generation: int
    parent: int
    index: str
    names: int
    added: int
    removed: int
    refused: int
    seconds: float
    lists: tuple[ListReport, ...]
    warnings: tuple[str, ...] = ()

    @property
    def served(self) -> tuple[ListReport, ...]:
        """The lists of this generation, those that are gone left out."""
        return tuple(report for report in self.lists if report.outcome is not ListOutcome.GONE)

    @property
    def quarantines(self) -> tuple[ListReport, ...]:
        """The lists of which rules are left out and somebody has to decide."""
        return tuple(report for report in self.lists if report.quarantined)

    @property
    def alarms(self) -> tuple[ListReport, ...]:
        """The lists that somebody should look at."""
        return tuple(report for report in self.lists if report.is_alarm)

    def lines(self) -> Iterator[str]:
        """The whole report for a person, a line each."""
        yield (
            f"generation {self.generation}: {self.names:,} names in {len(self.served)} lists "
            f"(+{self.added:,} −{self.removed:,}), {self.refused:,} lines refused, "
            f"index {self.index}, {self.seconds:.2f} s"
        )
        for report in self.lists:
            yield from (f"  {line}" for line in report.lines())
        for warning in self.warnings:
            yield f"  warning: {warning}"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Report:
        """What to_json gave, once it has been through JSON; TypeError or KeyError if it is something else."""
        lists = tuple(
            ListReport(
                **{
                    **item,
                    "outcome": ListOutcome(item["outcome"]),
                    "refused_lines": tuple(RefusedLine(**refused) for refused in item["refused_lines"]),
                    "quarantined_rules": tuple(QuarantinedRule(**rule) for rule in item.get("quarantined_rules", ())),
                }
            )
            for item in body["lists"]
        )
        return cls(**{**body, "lists": lists, "warnings": tuple(body["warnings"])})


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would choose."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
