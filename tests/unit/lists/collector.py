"""A plain Python sink for rules, by the contract of `RuleSink`, slow and obvious."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from resolver.lists.parse import ListReport, Options, read_list
from resolver.lists.rules import Outcome
from resolver.vocabulary import Scope

_LABEL = re.compile(rb"[A-Za-z0-9_-]{1,63}")


def is_plain(name: bytes) -> bool:
    """Whether a template may take this for its name."""
    labels = name.split(b".")
    return (
        len(labels) > 1
        and len(name) <= 253
        and all(_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
        and labels[0].lower() != b"localhost"
        and not labels[0].lower().startswith(b"ip6-")
    )


@dataclass
class Collector:
    """Keeps every rule as (name, scope, outcome index, line)."""

    use_templates: bool = True
    rules: list[tuple[str, Scope, int, int]] = field(default_factory=list)
    scanned: int = 0  # lines that a template took

    def add(self, name: bytes, scope: int, outcome: int, line: int) -> None:
        self.rules.append((name.decode("ascii"), Scope(scope), outcome, line))

    def scan(
        self, chunk: bytes, first_line: int, templates: Sequence[tuple[bytes, bytes, int, int]]
    ) -> tuple[int, list[tuple[int, bytes]]]:
        assert chunk.endswith(b"\n")
        lines = chunk[:-1].split(b"\n")
        rest = []
        for number, line in enumerate(lines, first_line):
            line = line.removesuffix(b"\r")
            if not line.strip(b" \t"):
                continue
            for prefix, suffix, scope, outcome in templates if self.use_templates else ():
                name = line[len(prefix) : len(line) - len(suffix)]
                fits = line.startswith(prefix) and line.endswith(suffix) and len(prefix) + len(suffix) < len(line)
                if fits and is_plain(name):
                    self.add(name.lower(), scope, outcome, number)
                    self.scanned += 1
                    break
            else:
                rest.append((number, line))
        return len(lines), rest


@dataclass
class Read:
    """A list as read: its rules in the order of their lines, with their outcomes, and the report."""

    rules: list[tuple[int, str, Scope, Outcome]]
    report: ListReport
    scanned: int

    @property
    def names(self) -> set[str]:
        return {name for _, name, _, _ in self.rules}


def read(body: bytes | str, options: Options | None = None, *, use_templates: bool = True) -> Read:
    """Read a body given whole."""
    octets = body.encode() if isinstance(body, str) else body
    if octets and not octets.endswith(b"\n"):
        octets += b"\n"
    collector = Collector(use_templates)
    report = read_list([octets] if octets else [], options or Options(own_names=frozenset({"me", "me.lan"})), collector)
    rules = sorted((line, name, scope, report.outcomes[outcome]) for name, scope, outcome, line in collector.rules)
    return Read(rules, report, collector.scanned)
