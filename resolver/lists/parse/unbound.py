"""Unbound configuration: `local-zone: "name" TYPE` and `local-data: "name … RECORD"` of the server clause.

A zone covers its name and what is below it; what its type answers is `_TYPES`. A redirect zone gives the local data
of its own name; local data of any other name gives that name alone these records. The two are gathered as long as no
other redirect zone or local data follows; zones of the other types between them do not part them, for the scanner takes
those unseen. Settings of other kinds, and what a `view:` says to its clients, are skipped.

*Templates* are learned from zones of types other than redirect, and are not used where a view is near.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import dns.rdatatype

from resolver.lists.names import normalise, shown
from resolver.lists.parse.base import (
    ALLOW,
    NXDOMAIN,
    ZERO,
    Dialect,
    Emit,
    Learned,
    ListReport,
    Options,
    not_built,
)
from resolver.lists.parse.master import rdata_text, record_of, tokens_of
from resolver.lists.rules import BadLine, Outcome, Template, Unsupported
from resolver.vocabulary import Action, Scope

_NODATA = Outcome(action=Action.NODATA)
_DROP = Outcome(action=Action.DROP)
_REFUSED = Outcome(action=Action.REFUSED)
_TYPES = {
    "always_null": ZERO,
    "always_nxdomain": NXDOMAIN,
    "static": NXDOMAIN,  # without data of its own
    "always_nodata": _NODATA,
    "deny": _DROP,
    "always_deny": _DROP,
    "inform_deny": _DROP,
    "refuse": _REFUSED,
    "always_refuse": _REFUSED,
    "transparent": ALLOW,
    "always_transparent": ALLOW,
}
_REDIRECT = frozenset({"redirect", "inform_redirect"})
_CLAUSE = re.compile(
    "server|view|forward-zone|stub-zone|auth-zone|rpz|remote-control|python|dynlib|dnscrypt|cachedb|ipset|dnstap"
)

SETTING = re.compile(r"([a-z0-9-]+)\s*:(?:\s+(.*)|(?=[\"'])(.*)|)", re.IGNORECASE)
_VIEW = re.compile(rb"view\s*:", re.IGNORECASE)
_WORD = re.compile(r"\"([^\"]*)\"|'([^']*)'|([^\s\"'#]\S*)")


class Unbound(Dialect):
    """Local zones and local data."""

    name = "unbound"
    replaces = True

    def __init__(self, options: Options, report: ListReport, emit: Emit) -> None:
        super().__init__(options, report, emit)
        self._learned = Learned()
        self._in_view = False
        self._name = ""  # whose data are being gathered
        self._is_redirect = False
        self._data: list[str] = []
        self._ttl: int | None = None
        self._line = 0

    def templates(self, chunk: bytes) -> Sequence[Template]:
        """What was learned, where no view is near."""
        return () if self._in_view or _VIEW.search(chunk) else self._learned.templates()

    def feed(self, line: int, text: str) -> None:
        """Read one line."""
        body = text.strip()
        if not body or body[0] in "#!;":
            self.report.comments += 1
            return
        match = SETTING.fullmatch(body)
        if match is None:
            raise BadLine("no setting: a name, a colon and a value")
        setting, words = match[1].lower(), _words(match[2] or match[3] or "")
        if not words and _CLAUSE.fullmatch(setting):
            self._in_view = setting == "view"
        if setting in ("include", "include-toplevel"):
            raise Unsupported("an include is not followed")
        if self._in_view or setting not in ("local-zone", "local-data"):
            self.report.skipped += 1
        elif setting == "local-zone":
            self._zone(line, text, words)
        else:
            self._local_data(line, words)

    def _zone(self, line: int, text: str, words: list[str]) -> None:
        if len(words) != 2:
            raise BadLine("local-zone: takes a name and a type")
        name, kind = normalise(words[0]), words[1].lower()
        if kind in _REDIRECT:
            self._gather(line, name)
            self._is_redirect = True
            return
        outcome = _TYPES.get(kind)
        if outcome is None:
            raise Unsupported(f"zones of type {shown(kind)} are no filter")
        self.emit(name, Scope.BOTH, outcome, line)
        self._learned.learn(text, name, Scope.BOTH, outcome)

    def _local_data(self, line: int, words: list[str]) -> None:
        owner, *rest = tokens_of(" ".join(words)) or [""]
        record = record_of(rest)
        if owner.startswith("*"):
            raise not_built("local data of a wildcard; write a redirect zone")
        name = normalise(owner)
        if record.rdtype in (dns.rdatatype.NS, dns.rdatatype.SOA):
            self.report.skipped += 1
            return
        data = rdata_text(record.rdtype, record.rdata, "")
        self._gather(line, name)
        if data not in self._data:
            self._data.append(data)
        if self._ttl is None:
            self._ttl = record.ttl

    def _gather(self, line: int, name: str) -> None:
        if name != self._name:
            self.finish()
            self._name, self._line = name, line

    def finish(self) -> None:
        """Emit the zone or the data gathered so far."""
        if self._name:
            scope = Scope.BOTH if self._is_redirect else Scope.SELF
            outcome = Outcome(action=Action.DATA, ttl=self._ttl, data=tuple(self._data)) if self._data else _NODATA
            self.emit(self._name, scope, outcome, self._line)
        self._name, self._is_redirect, self._data, self._ttl = "", False, [], None


def _words(text: str) -> list[str]:
    """The words of a value, quoted or bare, up to the comment."""
    words = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text[at] == "#":
            break
        elif match := _WORD.match(text, at):
            words.append(next(group for group in match.groups() if group is not None))
            at = match.end()
        else:
            raise BadLine("a quote without its end")
    return words
