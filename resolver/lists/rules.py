"""What every list dialect is read into: names with a scope and an outcome, and triggers, which are no names.

A dialect's module turns lines into `Rule`s; lines that are nothing but a fixed prefix, a plain name and a fixed suffix
(all but a handful in any real list) are described by `Template`s instead and taken by the engine's native scanner. For
such a line the two must give the same rule: `tests/unit/lists/parse/` holds them against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

from resolver.vocabulary import Action, Scope, Verb

MAX_REFUSED_KEPT = 1000  # refused lines of a list that are kept with their number and reason
MAX_REFUSED_SHARE = 0.20  # a file with a larger share of bad rule lines is no list
MAX_LINE = 64 * 1024  # octets; a longer line is refused unread


@dataclass(frozen=True, slots=True, order=True)
class Outcome:
    """What a rule says once it matches; equal outcomes of a list are stored once.

    `action` None means "as the list's category says". `ttl` is in seconds, None means the profile's. `data` holds the
    rule's own records (Action.DATA: text form, one `TYPE RDATA` an item; Action.CNAME: one target name; Action.LOCAL: as
    records.py says). `condition` is the text of what restricts it by type, client or name, and of what rules do to each
    other (conditions.py).
    """

    verb: Verb = Verb.BLOCK
    important: bool = False
    action: Action | None = None
    ttl: int | None = None
    data: tuple[str, ...] = ()
    condition: str = ""


class Rule(NamedTuple):
    """One name, whom it covers, and what is said of it. `name`: lower-case A-labels, no trailing dot, no `*.`."""

    name: str
    scope: Scope
    outcome: Outcome


class TriggerKind(IntEnum):
    """What a rule that is not a name speaks of."""

    ADDRESS = 0  # an address in an answer (rpz-ip and address lists)
    CLIENT = 1  # the address that asks (rpz-client-ip)
    NSDNAME = 2  # the name of a name server of the name asked for (rpz-nsdname)
    NSIP = 3  # the address of such a name server (rpz-nsip)
    PATTERN = 4  # names that fit a pattern

    @property
    def word(self) -> str:
        """How a report calls the kind."""
        return self.name.lower()


class Trigger(NamedTuple):
    """A rule that is not a name.

    `text` is canonical, so that equal triggers have equal texts. ADDRESS, CLIENT, NSIP: a prefix as `ADDRESS/LENGTH` with
    no bit set behind the length, IPv4 never as mapped IPv6. NSDNAME: a normal name, with `*.` before it for what is below
    it only. PATTERN: as whoever emits and evaluates it agree. `line` counts from 1.
    """

    kind: TriggerKind
    text: str
    outcome: Outcome
    line: int


class Template(NamedTuple):
    """A line that is `prefix`, a plain name, `suffix`: read natively as a rule with this scope and outcome."""

    prefix: bytes
    suffix: bytes
    scope: Scope
    outcome: Outcome


class BadLine(ValueError):
    """A line that is no rule of its dialect; the text says why, for the list's maintainer."""


class Unsupported(BadLine):
    """A well-formed line that says nothing here: a page-level rule, or a kind not built yet.

    Refused like any BadLine, but a file is not judged by how many of these it has.
    """


class NotAList(ValueError):
    """A whole file that must not be taken for a list; the text says why. The last good copy serves on."""


class RuleSink(Protocol):
    """Takes a list's rules: the native run builder, or a plain collector in tests."""

    def add(self, name: bytes, scope: int, outcome: int, line: int) -> None:
        """Take one rule; `outcome` is an index into the list's table of outcomes, `line` counts from 1."""

    def scan(
        self, chunk: bytes, first_line: int, templates: Sequence[tuple[bytes, bytes, int, int]]
    ) -> tuple[int, list[tuple[int, bytes]]]:
        """Take every line of `chunk` that fits a template (prefix, suffix, scope, outcome index), tried in order.

        `chunk` ends at a line's end. Returns how many lines the chunk had, and the (number, text) of those that fit no
        template, blank lines left out. Text is without its line end.
        """
