"""What all dialects share: the options that shape reading, the report that is filled, and the dialect's interface.

A dialect is fed the lines of one file in order and *emits* rules. For lines that need no thought it offers templates,
which the native scanner takes from a whole chunk before the remaining lines are fed. Both ways must give the same
rules, so a template may only be offered for a chunk in which no line's meaning depends on another: that is why
`templates()` sees the chunk. A rule may be emitted later than its line, with the line's number; which of two rules for
a name is the first is told by line number, not by the order in which they come.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from resolver.lists.layout import RUN
from resolver.lists.names import shown
from resolver.lists.rules import MAX_REFUSED_KEPT, BadLine, Outcome, Template, Trigger, TriggerKind, Unsupported
from resolver.vocabulary import Action, Scope, Verb

PARSER_VERSION = 3  # raised whenever the same octets and options would give other rules
REFUSED_TEXT = 200  # characters kept of a refused line

BLOCK = Outcome()
ALLOW = Outcome(verb=Verb.ALLOW)
PLAIN = Outcome(condition="plain")  # a hosts or plain line between adblock rules: see lists/conditions.py

Emit = Callable[[str, Scope, Outcome, int], None]
"""Takes a rule: normal name, scope, outcome, line number."""


def own_names() -> frozenset[str]:
    """The names this machine calls itself by; a hosts file's lines about them are no rules."""
    host = socket.gethostname().lower().rstrip(".")
    return frozenset(name for name in (host, host.partition(".")[0]) if name)


@dataclass(frozen=True, slots=True)
class Options:
    """What of a list's configuration shapes how its lines are read."""

    format: str = "auto"
    kind: str = "block"  # or allow: every block is read as an allow
    subdomains: str = "auto"  # yes widens hosts lines, no narrows plain lines
    rewrite: bool = False  # a hosts line with a routable address gives that address
    origin: str = ""  # the name of an RPZ zone; empty: as its SOA or $ORIGIN says
    own_names: frozenset[str] = field(default_factory=own_names)
    allow_empty: bool = False

    def fingerprint(self) -> str:
        """A text that differs whenever the same octets could be read into other rules, or a run be written otherwise."""
        fields = asdict(self) | {"own_names": sorted(self.own_names), "version": PARSER_VERSION, "run": RUN.version}
        return json.dumps(fields, sort_keys=True)


class Refused(NamedTuple):
    """A line that was not taken, with the reason."""

    line: int
    text: str  # at most REFUSED_TEXT characters
    reason: str


class FileLines(NamedTuple):
    """Which of a list's lines are a file's: those from `first` on, up to the next file's."""

    path: str
    first: int
    format: str


@dataclass(slots=True)
class ListReport:
    """What was read: counts, and what a maintainer wants to see."""

    names: int = 0  # rules taken, duplicates included
    lines: int = 0
    comments: int = 0
    refused: int = 0  # lines
    refused_lines: list[Refused] = field(default_factory=list)  # the first MAX_REFUSED_KEPT
    repaired: int = 0  # rules read out of something that is not quite one, as the host of a URL
    skipped: int = 0  # names and records that are right where they stand and are no rules
    duplicates: int = 0  # filled by the run's builder
    format: str = ""
    replaces: bool = False  # the most specific rule of this list replaces its parents' instead of adding to them
    zone: str = ""  # an RPZ zone's name, as its SOA has it, without the final dot
    soa: str = ""  # an RPZ zone's SOA: MNAME RNAME SERIAL REFRESH RETRY EXPIRE MINIMUM
    soa_serial: int | None = None
    special: int = 0  # address rules for special-purpose addresses (RFC 6890): taken as written, but a slip perhaps
    badfilters: list[str] = field(default_factory=list)  # the names at which rules of any list are cancelled
    triggers: list[Trigger] = field(default_factory=list)  # in the order of their lines, duplicates included
    outcomes: list[Outcome] = field(default_factory=list)
    files: list[FileLines] = field(default_factory=list)

    def refuse(self, line: int, text: str, reason: str) -> None:
        """Count a refused line, and keep it if it is one of the first."""
        self.refused += 1
        if len(self.refused_lines) < MAX_REFUSED_KEPT:
            self.refused_lines.append(Refused(line, shown(text, REFUSED_TEXT), reason))

    def place(self, line: int) -> tuple[str, int]:
        """The file a line number belongs to, and the number within that file."""
        for file in reversed(self.files):
            if line >= file.first:
                return file.path, line - file.first + 1
        return "", line

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON types, without what the run keeps elsewhere: outcomes and triggers."""
        return asdict(replace(self, triggers=[], outcomes=[]), dict_factory=_without_rules)


def _without_rules(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if name not in ("triggers", "outcomes")}


class Dialect(ABC):
    """Reads the lines of one file."""

    name: ClassVar[str]
    replaces: ClassVar[bool] = False

    def __init__(self, options: Options, report: ListReport, emit: Emit) -> None:
        self.options = options
        self.report = report
        self.emit = emit

    def templates(self, chunk: bytes) -> Sequence[Template]:
        """The templates that may be used on `chunk`, the whole lines that come next. Asked once a chunk, in order."""
        return ()

    def emit_trigger(self, kind: TriggerKind, text: str, outcome: Outcome, line: int) -> None:
        """Take a rule that is not a name; `text` as Trigger has it. Like a name, it may come later than its line."""
        self.report.triggers.append(Trigger(kind, text, outcome, line))

    @abstractmethod
    def feed(self, line: int, text: str) -> None:
        """Read the next line that no template took; blank lines are left out.

        What is good in it is emitted even if BadLine is raised for another part.
        """

    def finish(self) -> None:  # noqa: B027 (most dialects gather nothing)
        """The file ended: emit what was still being gathered. BadLine when it ended in the middle of something."""


class Several:
    """The refused parts of one line that may also have good ones."""

    def __init__(self) -> None:
        self._first: BadLine | None = None
        self._more = 0

    def add(self, part: str, error: BadLine) -> None:
        """Note that `part` was refused."""
        if self._first is None:
            self._first = type(error)(f"{shown(part)}: {error}")
        else:
            self._more += 1

    def check(self) -> None:
        """Raise one error for all parts that were refused."""
        if self._first is not None:
            raise type(self._first)(f"{self._first}{f' (and {self._more} more)' if self._more else ''}")


_TRAILING_COMMENT = re.compile(r"\s#")


def without_comment(text: str) -> str:
    """A line without blanks around it and without its comment; empty where nothing is left."""
    text = text.strip()
    if not text or text[0] in "#!;" or (text[0] == "[" and text[-1] == "]"):
        return ""
    if "#" in text and (comment := _TRAILING_COMMENT.search(text)):
        return text[: comment.start()].rstrip()
    return text


def is_address(text: str) -> bool:
    """Whether a text is an IPv4 or IPv6 address (a zone index allowed)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_network(text: str) -> bool:
    """Whether a text is an address or a prefix in CIDR form."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def address_outcome(text: str) -> Outcome:
    """What an address written as a rule's answer says: the unspecified one is the null answer, others are data."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise BadLine(f"{shown(text)} is no address") from None
    if address.is_unspecified:
        return ZERO
    return Outcome(action=Action.DATA, data=(f"{'A' if address.version == 4 else 'AAAA'} {address}",))


ZERO = Outcome(action=Action.ZERO)
NXDOMAIN = Outcome(action=Action.NXDOMAIN)


def not_built(what: str) -> Unsupported:
    """The refusal of a kind of rule that later versions will read."""
    return Unsupported(f"not built yet: {what}")


class Learned:
    """Templates taken from lines that were read: what stands around the name, and what it came to.

    Right only for lines whose meaning does not change with the name; the dialect answers for that.
    """

    LIMIT = 16  # templates; the scanner tries them in turn
    LENGTH = 300  # octets before and behind the name

    def __init__(self) -> None:
        self._templates: dict[tuple[bytes, bytes], Template] = {}

    def learn(self, text: str, name: str, scope: Scope, outcome: Outcome) -> None:
        """Learn from `text`, which is the rule (name, scope, outcome) and nothing else."""
        lowered = text.lower()
        if len(text) > self.LENGTH or not text.isascii() or lowered.count(name) != 1:
            return
        at = lowered.index(name)
        around = text[:at].encode(), text[at + len(name) :].encode()
        if around not in self._templates:
            if len(self._templates) >= self.LIMIT:
                del self._templates[next(iter(self._templates))]
            self._templates[around] = Template(*around, scope, outcome)

    def clear(self) -> None:
        """Forget everything: a directive changed what lines mean."""
        self._templates.clear()

    def templates(self) -> list[Template]:
        """What was learned."""
        return list(self._templates.values())
