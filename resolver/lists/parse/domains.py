"""Plain lists: one name a line, also as `*.name`, `.name` or a URL; addresses between them are rules for answers, and
`/expression/` or a name with `*` in it is a pattern (lists/patterns.py).

All three forms cover the name and what is below it; `subdomains: no` makes the bare form exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from resolver.lists.names import host_of_url, normalise
from resolver.lists.parse.addresses import is_special, prefix_of
from resolver.lists.parse.base import BLOCK, Dialect, Emit, ListReport, Options, is_network, without_comment
from resolver.lists.patterns import canonical
from resolver.lists.rules import BadLine, Outcome, Template, TriggerKind
from resolver.vocabulary import Scope


class Domains(Dialect):
    """One name a line."""

    name = "domains"

    def __init__(self, options: Options, report: ListReport, emit: Emit, says: Outcome = BLOCK) -> None:
        super().__init__(options, report, emit)
        self._says = says
        self._bare = Scope.SELF if options.subdomains == "no" else Scope.BOTH
        self._templates = (
            Template(b"", b"", self._bare, says),
            Template(b"*.", b"", Scope.BOTH, says),
            Template(b".", b"", Scope.BOTH, says),
        )

    def templates(self, chunk: bytes) -> Sequence[Template]:
        """Every line stands for itself."""
        return self._templates

    def feed(self, line: int, text: str) -> None:
        """Read one line."""
        body = without_comment(text)
        if not body:
            self.report.comments += 1
        else:
            self.take(line, body, Scope.BOTH)

    def take(self, line: int, body: str, wildcard: Scope) -> None:
        """Take a line that has no comment; `wildcard` is what `*.name` covers."""
        try:
            if body.startswith("*."):
                self.emit(normalise(body[2:]), wildcard, self._says, line)
            elif body.startswith("."):
                self.emit(normalise(body[1:]), Scope.BOTH, self._says, line)
            elif "://" in body and (host := host_of_url(body)) is not None:
                body = host
                self.emit(normalise(host), self._bare, self._says, line)
                self.report.repaired += 1
            else:
                self.emit(normalise(body), self._bare, self._says, line)
        except BadLine as error:
            if is_pattern(body):
                self.emit_trigger(TriggerKind.PATTERN, canonical(body), self._says, line)
                return
            if not is_network(body):
                raise _better_reason(body, error) from None
            prefix = prefix_of(body)
            self.report.special += is_special(prefix)
            self.emit_trigger(TriggerKind.ADDRESS, prefix, BLOCK, line)


def is_pattern(body: str) -> bool:
    """Whether a line that is no name is an expression between slashes, or a name with `*` or `^` in it."""
    return (len(body) > 2 and body.startswith("/") and body.endswith("/")) or (
        ("*" in body or "^" in body) and "/" not in body
    )


def _better_reason(body: str, error: BadLine) -> BadLine:
    """What a line that is no name probably is."""
    if "/" in body:
        return BadLine("a path: only whole names can be filtered")
    return error
