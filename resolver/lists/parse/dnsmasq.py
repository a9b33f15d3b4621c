"""dnsmasq configuration: `address=/name/…/ANSWER`, `server=/name/…/` and `local=/name/…/`.

Each covers the name and what is below it. An empty answer is NXDOMAIN, `#` and an unspecified address the null answer,
another address is given as it is. `server=/name/ADDRESS` forwards and is no block. `bogus-nxdomain=ADDRESS` is a rule for
answers with that address or prefix. Other settings are skipped.

Addresses given to the same names by `address=` lines that follow each other (an IPv4 and an IPv6 one, as a rule) are
one answer. Lines of the other kinds between them do not part them, for the scanner takes those unseen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from resolver.lists.names import normalise
from resolver.lists.parse.addresses import is_special, prefix_of
from resolver.lists.parse.base import (
    NXDOMAIN,
    ZERO,
    Dialect,
    Emit,
    ListReport,
    Options,
    Several,
    address_outcome,
    without_comment,
)
from resolver.lists.patterns import canonical
from resolver.lists.rules import BadLine, Outcome, Template, TriggerKind, Unsupported
from resolver.vocabulary import Action, Scope

RULE = re.compile(r"(?:--)?(address|server|local)\s*=\s*(/.*)", re.IGNORECASE)
BOGUS = re.compile(r"(?:--)?bogus-nxdomain\s*=\s*(\S+)", re.IGNORECASE)
_SETTING = re.compile(r"(?:--)?[a-z][a-z0-9-]*(?:\s*=.*)?", re.IGNORECASE)

_TEMPLATES = (
    Template(b"address=/", b"/#", Scope.BOTH, ZERO),
    Template(b"address=/", b"/0.0.0.0", Scope.BOTH, ZERO),
    Template(b"address=/", b"/::", Scope.BOTH, ZERO),
    Template(b"address=/", b"/", Scope.BOTH, NXDOMAIN),
    Template(b"server=/", b"/", Scope.BOTH, NXDOMAIN),
    Template(b"local=/", b"/", Scope.BOTH, NXDOMAIN),
)


class Dnsmasq(Dialect):
    """Name settings of dnsmasq."""

    name = "dnsmasq"
    replaces = True

    def __init__(self, options: Options, report: ListReport, emit: Emit) -> None:
        super().__init__(options, report, emit)
        self._names: tuple[str, ...] = ()  # whose addresses are being gathered
        self._data: list[str] = []
        self._line = 0

    def templates(self, chunk: bytes) -> Sequence[Template]:
        """Lines without addresses stand for themselves."""
        return _TEMPLATES

    def feed(self, line: int, text: str) -> None:
        """Read one line."""
        body = without_comment(text)
        if not body:
            self.report.comments += 1
        elif match := RULE.fullmatch(body):
            self.take(line, match[1].lower(), match[2])
        elif match := BOGUS.fullmatch(body):
            prefix = prefix_of(match[1])
            self.report.special += is_special(prefix)
            self.emit_trigger(TriggerKind.ADDRESS, prefix, NXDOMAIN, line)
        elif _SETTING.fullmatch(body):
            self.report.skipped += 1
        else:
            raise BadLine("neither address=/…/, server=/…/ nor local=/…/")

    def take(self, line: int, setting: str, value: str) -> None:
        """Take a setting whose value begins with a slash."""
        _, *domains, answer = value.split("/")
        if not domains:
            raise BadLine("no slash after the name")
        outcome = _outcome(setting, answer.strip())
        refused = Several()
        names = []
        for domain in domains:
            try:
                if pattern := _pattern(domain.strip()):
                    self.emit_trigger(TriggerKind.PATTERN, pattern, outcome, line)
                else:
                    names.append(_name(domain.strip()))
            except BadLine as error:
                refused.add(domain, error)
        if outcome.action is Action.DATA:
            self._gather(line, tuple(names), outcome)
        else:
            for name in names:
                self.emit(name, Scope.BOTH, outcome, line)
        refused.check()

    def _gather(self, line: int, names: tuple[str, ...], outcome: Outcome) -> None:
        if names != self._names:
            self.finish()
            self._names, self._line = names, line
        if outcome.data[0] not in self._data:
            self._data.append(outcome.data[0])

    def finish(self) -> None:
        """Emit the addresses gathered so far."""
        outcome = Outcome(action=Action.DATA, data=tuple(self._data))
        for name in self._names:
            self.emit(name, Scope.BOTH, outcome, self._line)
        self._names, self._data = (), []


def _outcome(setting: str, answer: str) -> Outcome:
    if not answer:
        return NXDOMAIN
    if setting != "address":
        raise Unsupported("a forwarding rule, not a block: it names the servers to ask")
    return ZERO if answer == "#" else address_outcome(answer)


def _name(domain: str) -> str:
    if not domain:
        raise BadLine("no name between two slashes")
    if domain == "#":
        raise Unsupported("# stands for every name")
    return normalise(domain.removeprefix("."))


def _pattern(domain: str) -> str:
    """The pattern of a name that begins with `*`, which stands for any number of octets; "" for other names."""
    if not domain.startswith("*"):
        return ""
    normalise(domain.lstrip("*."), allow_tld=True)
    return canonical(f"{domain.lstrip('*')}|")
