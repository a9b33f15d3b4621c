"""Response policy zones as master files (draft-vixie-dnsop-dns-rpz): names that are triggers, and the other triggers.

Which name a record triggers on is its owner relative to the zone, so the zone's name must be known as soon as an owner
is absolute: from the options, else from the SOA's owner or an `$ORIGIN` before the first trigger. While nothing names
it, relative owners are relative to the zone, as in the many published zones that begin with `@ SOA`.

A CNAME says everything about its owner and becomes a rule at once. Other records are local data: those of one owner
that follow each other are gathered into one outcome; CNAME records between them do not part them. Data for the owner
that come later are a rule of their own, a duplicate to whoever builds the list, and the first is kept.

A record without a TTL takes `$TTL`'s, else the SOA's MINIMUM, but not "the last one stated" of RFC 1035: that could be
on a line that the scanner took. None of the three means the profile's TTL.

*Templates* are learned from one-line CNAME records. They hold for a chunk only if every line in it means what it says
by itself: no parenthesis or quote, no line that begins with a blank (an omitted owner) or a `$` (a directive), no
trigger that is an address or a name server. What such a chunk leaves behind for the next one is the last owner.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import dns.rdata
import dns.rdatatype

from resolver.lists.names import normalise, shown
from resolver.lists.parse.addresses import rpz_prefix
from resolver.lists.parse.base import Dialect, Emit, Learned, ListReport, Options
from resolver.lists.parse.master import (
    Entry,
    LogicalLines,
    owner_of,
    rdata_of,
    rdata_text,
    record_of,
    target_of,
    ttl_of,
    unescaped,
)
from resolver.lists.rules import BadLine, Outcome, Template, TriggerKind, Unsupported
from resolver.vocabulary import Action, Scope, Verb

_T = dns.rdatatype.RdataType
_NO_RULES = frozenset(  # item 10 of the specification: what a signed or delegated zone holds beside its triggers
    {_T.DNAME, _T.DNSKEY, _T.RRSIG, _T.NSEC, _T.NSEC3, _T.NSEC3PARAM, _T.DS, _T.CDS, _T.CDNSKEY, _T.CSYNC}
    | {_T.ZONEMD, _T.KEY, _T.SIG, _T.NXT, _T.DLV, _T.SOA, _T.NS}
)
_OTHER_TRIGGER = re.compile(r"(?:(.*)\.)?(rpz-ip|rpz-nsip|rpz-nsdname|rpz-client-ip)", re.ASCII)
_OTHER_TRIGGER_IN = re.compile(rb"\.rpz-(?:ip|nsip|nsdname|client-ip)\b")
_KINDS = {
    "rpz-ip": TriggerKind.ADDRESS,
    "rpz-client-ip": TriggerKind.CLIENT,
    "rpz-nsip": TriggerKind.NSIP,
    "rpz-nsdname": TriggerKind.NSDNAME,
}


class _Data(NamedTuple):
    """Local data being gathered: of a name with a scope, or of a trigger's text with its kind."""

    name: str
    scope: Scope | TriggerKind
    ttl: int | None
    records: list[str]
    line: int


class Rpz(Dialect):
    """A response policy zone: QNAME triggers as names, the other four as triggers."""

    name = "rpz"
    replaces = True

    def __init__(self, options: Options, report: ListReport, emit: Emit) -> None:
        super().__init__(options, report, emit)
        self._lines = LogicalLines()
        self._zone = options.origin.lower().rstrip(".") or None  # absolute, without the final dot; "" is the root
        self._is_zone_given = self._zone is not None
        self._origin = self._zone  # what relative names are relative to; None: the zone, whatever its name
        self._ttl: int | None = None
        self._is_ttl_given = False  # by $TTL, which the SOA does not change
        self._owner: str | None = None  # of the record before, as written; the origin has not changed since
        self._tail = ""  # the last record's line of a chunk that templates were used on
        self._has_soa = False
        self._in_triggers = False  # the head with SOA and NS is over
        self._data: _Data | None = None
        self._learned = Learned()

    # -- templates --------------------------------------------------------------------------------------------------

    def templates(self, chunk: bytes) -> Sequence[Template]:
        """What was learned, as far as it holds for every line of this chunk."""
        if self._tail:
            self._owner, self._tail = owner_of(self._tail), ""
        templates = self._learned.templates()
        if not templates or self._lines.is_open or _lines_depend(chunk):
            return ()
        lowered = chunk.lower()
        if b".rpz-" in lowered and _OTHER_TRIGGER_IN.search(lowered):
            return ()
        self._tail = _last_record(chunk)
        return [template for template in templates if not _may_be_own_target(template, lowered)]

    # -- lines ------------------------------------------------------------------------------------------------------

    def feed(self, line: int, text: str) -> None:
        """Read one physical line."""
        if not self._lines.is_open and text[:1] in ("#", "!"):  # no comments in a zone file, but meant as such
            self.report.comments += 1
            return
        if not self._lines.is_open and text[:1] not in (" ", "\t", ";", "$"):
            self._owner = owner_of(text)
        entry = self._lines.feed(line, text)
        if entry is None:
            if not self._lines.is_open:
                self.report.comments += 1
        elif entry.tokens[0].startswith("$") and not entry.starts_blank:
            self._directive(entry.tokens)
        else:
            self._record(entry)

    def flush(self) -> None:
        """Emit the data gathered so far: records of its owner that come later are data of their own."""
        self._flush()

    def finish(self) -> None:
        """Emit the data gathered so far."""
        self._flush()
        self._lines.finish()

    def _directive(self, tokens: list[str]) -> None:
        self._learned.clear()
        directive = tokens[0].upper()
        if directive in ("$INCLUDE", "$GENERATE"):
            raise BadLine(f"{directive} is not followed")
        if directive not in ("$ORIGIN", "$TTL"):
            raise BadLine(f"the directive {shown(directive)} is unknown")
        if len(tokens) < 2:
            raise BadLine(f"{directive} without a value")
        if directive == "$TTL":
            self._ttl, self._is_ttl_given = ttl_of(tokens[1]), True
            return
        if self._owner is not None:  # later lines may leave it out, and it is relative to the old origin
            self._owner = self._absolute(self._owner)
        self._origin = target_of(tokens[1], self._origin)
        if self._zone is None:
            self._zone = self._origin

    def _absolute(self, owner: str) -> str:
        if owner.endswith(".") or self._origin is None:
            return owner
        if owner == "@":
            return f"{self._origin}."
        return f"{owner}.{self._origin}".rstrip(".") + "."

    def _record(self, entry: Entry) -> None:
        tokens = entry.tokens
        if entry.starts_blank:
            owner = self._owner
            if owner is None:
                raise BadLine("the owner is left out, and no record before has one")
        else:
            owner, *tokens = tokens
            self._owner = owner
        record = record_of(tokens)
        if record.rdtype == _T.SOA:
            self._soa(owner, record.ttl, record.rdata)
            return
        trigger = self._trigger(owner)
        if not trigger or record.rdtype in _NO_RULES:
            self.report.skipped += 1
            return
        self._in_triggers = True
        name, scope = self._name(trigger)
        ttl = self._ttl if record.ttl is None else record.ttl
        if record.rdtype != _T.CNAME:
            self._gather(_Data(name, scope, ttl, [rdata_text(record.rdtype, record.rdata, self._origin)], entry.line))
            return
        if len(record.rdata) != 1:
            raise BadLine("a CNAME has one target")
        if isinstance(scope, TriggerKind):
            self.emit_trigger(scope, name, self._policy(trigger.lower(), Scope.SELF, ttl, record.rdata[0]), entry.line)
            return
        outcome = self._policy(name, scope, ttl, record.rdata[0])
        self.emit(name, scope, outcome, entry.line)
        if (
            entry.text is not None
            and not entry.starts_blank
            and "\\" not in entry.text
            and (self._origin == self._zone or owner.endswith("."))
        ):
            self._learned.learn(entry.text, name, scope, outcome)

    # -- parts of a record ------------------------------------------------------------------------------------------

    def _soa(self, owner: str, ttl: int | None, rdata: list[str]) -> None:
        """The zone's name and serial, and the TTL of records that state none. A transfer repeats the SOA at its end."""
        self.report.skipped += 1
        if self._has_soa or self._in_triggers:
            return
        zone = self._absolute(owner)
        if zone.endswith("."):
            zone = zone.lower().rstrip(".")
            if self._is_zone_given and zone != self._zone:
                raise BadLine(f"the SOA of {shown(zone)}, and the list is said to be the zone {self._zone}")
            self._zone = zone
            if self._origin is None:
                self._origin = zone
        soa = rdata_of(_T.SOA, rdata, self._origin if self._origin is not None else "")
        self._has_soa = True
        self.report.zone = self._zone or ""
        self.report.soa = soa.to_text()
        self.report.soa_serial = int(self.report.soa.split()[2])
        if not self._is_ttl_given:
            self._ttl = int(self.report.soa.split()[6])

    def _trigger(self, owner: str) -> str:
        """The owner relative to the zone; empty for the zone itself."""
        owner = unescaped(owner)
        if not owner.endswith("."):
            if self._origin == self._zone:
                return "" if owner == "@" else owner
            owner = self._absolute(owner)
        if self._zone is None:
            raise BadLine("an absolute owner, and the zone's name is not known: no SOA with it, no $ORIGIN")
        name = owner[:-1]
        if not self._zone:
            return name
        if name.lower() == self._zone:
            return ""
        cut = len(name) - len(self._zone)
        if name[cut:].lower() != self._zone or name[cut - 1 : cut] != ".":
            raise BadLine(f"outside the zone {self._zone}")
        return name[: cut - 1]

    def _name(self, trigger: str) -> tuple[str, Scope | TriggerKind]:
        if other := _OTHER_TRIGGER.fullmatch(trigger.lower()):
            kind = _KINDS[other[2]]
            text = other[1] or ""
            if kind is not TriggerKind.NSDNAME:
                return rpz_prefix(text), kind
            wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
            return wildcard + normalise(name, allow_tld=True), kind
        if trigger == "*":
            raise BadLine("a trigger for every name")
        if trigger.startswith("*."):
            return normalise(trigger[2:], allow_tld=True), Scope.BELOW
        return normalise(trigger, allow_tld=True), Scope.SELF

    def _policy(self, name: str, scope: Scope, ttl: int | None, token: str) -> Outcome:
        """What a CNAME says, by its target."""
        match token.lower():
            case ".":
                return Outcome(action=Action.NXDOMAIN, ttl=ttl)
            case "*.":
                return Outcome(action=Action.NODATA, ttl=ttl)
            case "rpz-passthru.":
                return Outcome(verb=Verb.ALLOW, ttl=ttl)
            case "rpz-drop.":
                return Outcome(action=Action.DROP, ttl=ttl)
            case "rpz-tcp-only.":
                return Outcome(action=Action.TCP_ONLY, ttl=ttl)
            case "*" | "rpz-passthru" | "rpz-drop" | "rpz-tcp-only":
                raise BadLine(f"the target {token} lacks its final dot")
        target = target_of(token, self._origin)
        if target.rpartition(".")[2].startswith("rpz-"):
            raise Unsupported(f"the target {shown(token)} is no action that is known")
        if target == name and scope is Scope.SELF:  # how PASSTHRU was written once
            return Outcome(verb=Verb.ALLOW, ttl=ttl)
        return Outcome(action=Action.CNAME, ttl=ttl, data=(target,))

    def _gather(self, data: _Data) -> None:
        last = self._data
        if last is not None and (last.name, type(last.scope), last.scope) == (data.name, type(data.scope), data.scope):
            if data.records[0] not in last.records:
                last.records.extend(data.records)
            return
        self._flush()
        self._data = data

    def _flush(self) -> None:
        if self._data is not None:
            name, scope, ttl, records, line = self._data
            self._data = None
            outcome = Outcome(action=Action.DATA, ttl=ttl, data=tuple(records))
            if isinstance(scope, TriggerKind):
                self.emit_trigger(scope, name, outcome, line)
            else:
                self.emit(name, scope, outcome, line)


def _lines_depend(chunk: bytes) -> bool:
    """Whether a chunk has lines that do not stand for themselves."""
    return (
        chunk[:1] in (b" ", b"\t", b"$")
        or b"\n " in chunk
        or b"\n\t" in chunk
        or b"\n$" in chunk
        or b"(" in chunk
        or b")" in chunk
        or b'"' in chunk
    )


def _last_record(chunk: bytes) -> str:
    """The last line that is a record, of a chunk in which every line stands for itself."""
    end = len(chunk) - 1
    while end > 0:
        start = chunk.rfind(b"\n", 0, end) + 1
        line = chunk[start:end]
        if line and line[:1] not in b";#!":
            return line.decode("utf-8", "surrogateescape")
        end = start - 1
    return ""


def _may_be_own_target(template: Template, lowered: bytes) -> bool:
    """Whether the chunk may have a record whose target is its own owner, which is an allow and no alias."""
    outcome = template.outcome
    return outcome.action is Action.CNAME and outcome.data[0].encode() + template.suffix.lower() in lowered
