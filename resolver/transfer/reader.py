"""Reads a transfer, message by message: a whole zone into a run, or a delta into changes of one.

    whole   SOA  records …                                         SOA     (RFC 5936 section 2.2)
    delta   SOA  SOA(base) what goes … SOA(next) what comes … …    SOA     (RFC 1995 section 4)
    none    SOA                                                            nothing has changed

An answer to IXFR may be any of the three: the second record tells. Records of the policy kind are taken natively
(engine/transfer.pyx); the others are written out as master file lines for the dialect that reads zones from files, so
both mean the same.

Nothing of a transfer counts before its end is there. Each fault is a TransferError: a message that is malformed, is not
signed as it should be or has an rcode, an end that is missing, records behind the end, a chain of deltas that does not
begin with our serial or whose serials do not meet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from resolver.engine.engine import TransferScanner
from resolver.lists.parse.base import ListReport, Options
from resolver.lists.parse.rpz import Rpz
from resolver.lists.rules import BadLine, Outcome, Trigger, TriggerKind
from resolver.lists.runs import Refused, Run, RunHeader
from resolver.lists.splice import RunStream, Splice
from resolver.transfer.messages import HEADER, Request, Signatures, TransferError, parser_of, soa_of, wire_of
from resolver.transfer.zone import Order, Soa, compare
from resolver.vocabulary import Action, Scope, Verb

MAX_CHANGES = 2_000_000  # records of a delta: more are quicker and smaller as a whole transfer
_T = dns.rdatatype.RdataType


class _At(Enum):
    FIRST = "the first SOA"
    SECOND = "the second record"
    WHOLE = "records"
    GOES = "what goes"
    COMES = "what comes"
    END = "the end"


class Change(NamedTuple):
    """A rule of a record that comes or goes."""

    comes: bool
    outcome: Outcome


class Result(NamedTuple):
    """A whole transfer: the SOA now, and the header of the run that was written; None: nothing had changed."""

    soa: Soa
    header: RunHeader | None


class TransferReader:
    """Takes the messages that answer `request`; `receive` is True once the transfer is whole.

    `base`: the SOA that an IXFR asked by. `options` as a file of the zone would be read by. `path`: where the run goes;
    `old`: the run that a delta changes. Use it in a `with` statement, which throws away what is not finished.
    """

    def __init__(
        self, request: Request, options: Options, path: Path, *, base: Soa | None = None, old: Path | None = None
    ) -> None:
        self.octets = 0
        self._request = request
        self._path, self._old, self._base = path, old, base
        self._signatures = Signatures(request)
        self._at: _At = _At.FIRST
        self._soa: Soa | None = None
        self._reached: int | None = None  # the serial that the deltas so far lead to
        self._stream = RunStream(path)
        self._scanner = TransferScanner(wire_of(request.zone), self._stream.builder)
        zone = request.zone.to_text(omit_final_dot=True).lower()
        self._rules = _Rules(replace(options, format="rpz", origin=zone), self._scanner, self._take)
        self._changes: dict[tuple[bytes, int], list[Change]] = {}
        self._trigger_changes: dict[tuple[TriggerKind, str], list[Change]] = {}
        self._count = 0

    def __enter__(self) -> TransferReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__(None, None, None)

    @property
    def is_delta(self) -> bool:
        """Whether what comes is a delta, as far as that is known yet."""
        return self._at in (_At.GOES, _At.COMES) or self._reached is not None

    def receive(self, message: bytes, now: float | None = None) -> bool:
        """Read a message. TransferError says what is wrong; the transfer is worth nothing then."""
        self.octets += len(message)
        if self._is_at_end():
            raise TransferError("records behind the closing SOA")
        try:
            at, answers = self._open(message, now)
            while answers:
                at, done = self._scan(message, at, answers)
                answers -= done
                if answers and self._is_at_end():
                    raise TransferError("records behind the closing SOA")
        except (ValueError, struct.error, dns.exception.DNSException) as error:
            raise TransferError(f"a malformed message: {error}") from None
        self._stream.pour()
        if self._is_at_end() or (self._at is _At.SECOND and self._is_no_news()):
            self._signatures.finish()
            return True
        return False

    def finish(self) -> Result:
        """Write the run. TransferError if the transfer is not whole, or brings nothing where there was something."""
        assert self._soa is not None
        if self._at is _At.SECOND:
            return Result(self._soa, None)
        if self._at is not _At.END:
            raise TransferError(f"it ended before the closing SOA, in {self._at.value}")
        return Result(self._soa, self._finish_delta() if self.is_delta else self._finish_whole())

    # -- messages -------------------------------------------------------------------------------------------------------
    def _open(self, message: bytes, now: float | None) -> tuple[int, int]:
        """Check a message as a whole: (where its answers begin, how many there are)."""
        if len(message) < HEADER:
            raise TransferError("a message without a header")
        ident, flags, questions, answers, authority, additional = struct.unpack_from(">6H", message)
        if ident != self._request.id or not flags & 0x8000 or flags & 0x7800:
            raise TransferError("a message that answers nothing we asked")
        start, _, _ = self._past_questions(message, questions)
        end, last, rtype = self._scanner.skip(message, start, answers + authority + additional)
        if end != len(message):
            raise TransferError("octets behind a message's records")
        self._signatures.check(message, last if additional and rtype == _T.TSIG else 0, now)
        rcode = flags & 0xF
        if rcode:
            refused = rcode in (dns.rcode.NOTIMP, dns.rcode.FORMERR, dns.rcode.REFUSED, dns.rcode.NOTAUTH)
            raise TransferError(
                f"{dns.rcode.to_text(dns.rcode.Rcode(rcode))} for the transfer",
                no_delta=refused and self._at is _At.FIRST and rcode != dns.rcode.NOTAUTH,
            )
        if not answers and self._at is _At.FIRST:
            raise TransferError("an answer without records")
        return start, answers

    @staticmethod
    def _past_questions(message: bytes, questions: int) -> tuple[int, int, int]:
        parser = dns.wire.Parser(message, HEADER)
        for _ in range(questions):
            parser.get_name(decompress=True)
            parser.get_struct("!HH")
        return parser.current, 0, 0

    def _scan(self, message: bytes, at: int, count: int) -> tuple[int, int]:
        """Read records up to a SOA, or a SOA: (where the next record begins, how many were read)."""
        after, done, others = self._scanner.scan(message, at, count)
        if done:
            if self._at is _At.FIRST:
                raise TransferError("the first record is no SOA")
            if self._at is _At.SECOND:
                self._at = _At.WHOLE
            if self._at is not _At.WHOLE:
                self._gathered()
            for other in others:
                self._rules.read(message, *other)
            if self._at is not _At.WHOLE:
                for kind, text, outcome, _ in self._rules.take_triggers():
                    self._trigger_changes.setdefault((kind, text), []).append(self._change(outcome))
        if done == count:
            return after, done
        return self._read_soa(message, after), done + 1

    def _read_soa(self, message: bytes, at: int) -> int:
        parser = dns.wire.Parser(message, at)
        owner = parser.get_name(decompress=True)
        _, rdclass, _, length = parser.get_struct("!HHIH")
        if owner != self._request.zone or rdclass != dns.rdataclass.IN:
            raise TransferError(f"the SOA of another zone: {owner.to_text()}")
        data = parser_of(message, parser.current, length)
        rdata = dns.rdata.from_wire_parser(dns.rdataclass.IN, _T.SOA, data)
        self._meet(soa_of(rdata))
        return data.end

    def _meet(self, soa: Soa) -> None:
        """What a SOA is by its place."""
        first = self._soa
        if self._at is _At.FIRST or first is None:
            self._soa = soa
            self._at = _At.SECOND
            if self._base is not None and compare(soa.serial, self._base.serial) is Order.OLDER:
                raise TransferError(f"serial {soa.serial} is older than the {self._base.serial} that is here")
        elif self._at is _At.SECOND and self._base is not None and soa.serial != first.serial:
            if soa.serial != self._base.serial:
                raise TransferError(f"a delta from serial {soa.serial}, and {self._base.serial} is here", no_delta=True)
            self._begin_delta()
        elif self._at in (_At.SECOND, _At.WHOLE):
            if soa.serial != first.serial:
                raise TransferError(f"it began with serial {first.serial} and ends with {soa.serial}")
            self._at = _At.END
        elif self._at is _At.GOES:
            self._reached = soa.serial
            self._at = _At.COMES
        elif self._reached == first.serial:
            if soa.serial != first.serial:
                raise TransferError(f"serial {soa.serial} where {first.serial} was reached", no_delta=True)
            self._at = _At.END
        elif soa.serial != self._reached:
            raise TransferError(f"a delta to serial {self._reached} and then one from {soa.serial}", no_delta=True)
        else:
            self._at = _At.GOES

    def _is_at_end(self) -> bool:
        return self._at is _At.END

    def _is_no_news(self) -> bool:
        """Whether a single SOA is the whole answer to IXFR: the primary has what we have."""
        return self._base is not None and self._soa is not None and self._soa.serial == self._base.serial

    # -- a whole zone -----------------------------------------------------------------------------------------------------
    def _take(self, name: str, scope: Scope, outcome: Outcome, line: int) -> None:
        number = self._rules.number(outcome)
        if not self.is_delta:
            self._stream.builder.add(name.encode(), scope, number, line)
        else:
            key = b"".join(label + b"\0" for label in reversed(name.encode().split(b".")))
            self._changed(key, scope, outcome)

    def _finish_whole(self) -> RunHeader:
        self._rules.finish()
        report = self._rules.report
        triggers = sorted(self._first_of_each(), key=lambda trigger: trigger.kind)
        if not self._rules.count and self._old is not None:
            with Run(self._old) as run:
                if run.header.names:
                    raise TransferError(
                        f"it brought SOA and NS and no rule, where there were {run.header.names} names; that is how some "
                        "primaries refuse"
                    )
        return self._stream.finish(self._header(report), triggers)

    def _first_of_each(self) -> Iterator[Trigger]:
        seen = set()
        for kind, text, outcome, _ in self._rules.take_triggers():
            if (kind, text) not in seen:
                seen.add((kind, text))
                self._rules.number(outcome)
                yield Trigger(kind, text, outcome, 0)

    def _header(self, report: ListReport) -> RunHeader:
        assert self._soa is not None
        report.soa, report.soa_serial = self._soa.text, self._soa.serial
        report.format, report.replaces = "rpz", True
        facts = report.as_json()
        del facts["refused_lines"]
        return RunHeader(
            outcomes=tuple(report.outcomes),
            replaces=True,
            refused_count=report.refused,
            refused=tuple(Refused(*refused) for refused in report.refused_lines),
            source={"zone": self._request.zone.to_text(omit_final_dot=True).lower()},
            report=facts,
        )

    # -- a delta ----------------------------------------------------------------------------------------------------------
    def _begin_delta(self) -> None:
        if self._old is None:
            raise TransferError("a delta, and there is nothing to change", no_delta=True)
        self._scanner.gather()
        self._at = _At.GOES

    def _gathered(self) -> None:
        outcomes = self._rules.report.outcomes
        for key, scope, outcome in self._scanner.take_gathered():
            self._changed(key, scope, outcomes[outcome])

    def _changed(self, key: bytes, scope: int, outcome: Outcome) -> None:
        self._changes.setdefault((key, scope), []).append(self._change(outcome))

    def _change(self, outcome: Outcome) -> Change:
        self._count += 1
        if self._count > MAX_CHANGES:
            raise TransferError(f"a delta of more than {MAX_CHANGES} records", no_delta=True)
        return Change(self._at is _At.COMES, outcome)

    def _finish_delta(self) -> RunHeader:
        assert self._old is not None and self._soa is not None
        with Splice(self._old) as splice:
            header = splice.header
            outcomes = list(header.outcomes)
            numbers = {outcome: number for number, outcome in enumerate(outcomes)}
            rules: dict[bytes, dict[int, Outcome | None]] = {}
            current = splice.rules({key for key, _ in self._changes})
            for (key, scope), changes in self._changes.items():
                said = rules.get(key)
                if said is None:
                    said = rules[key] = {
                        one: next((outcomes[number] for bits, number in current[key] if bits & one), None)
                        for one in (1, 2)
                    }
                said[scope] = _after(said[scope], changes)

            def number_of(outcome: Outcome) -> int:
                if outcome not in numbers:
                    numbers[outcome] = len(outcomes)
                    outcomes.append(outcome)
                return numbers[outcome]

            found = {
                key: [(scope, number_of(outcome)) for scope, outcome in said.items() if outcome is not None]
                for key, said in rules.items()
            }
            spoken = {(trigger.kind, trigger.text): trigger.outcome for trigger in splice.triggers()}
            for trigger, changes in self._trigger_changes.items():
                if (after := _after(spoken.pop(trigger, None), changes)) is not None:
                    number_of(after)
                    spoken[trigger] = after
            triggers = [Trigger(kind, text, outcome, 0) for (kind, text), outcome in spoken.items()]
            triggers.sort(key=lambda trigger: trigger.kind)
            report = {**header.report, "soa": self._soa.text, "soa_serial": self._soa.serial}
            return splice.write(self._path, found, replace(header, outcomes=tuple(outcomes), report=report), triggers)


def _after(outcome: Outcome | None, changes: list[Change]) -> Outcome | None:
    """What is said after changes in their order; TransferError where they do not fit what was said."""
    for comes, change in changes:
        fits: bool
        if change.action is Action.DATA:
            held = outcome.data if outcome is not None and outcome.action is Action.DATA else ()
            fits = (outcome is None or bool(held)) if comes else set(change.data) <= set(held)
            data = tuple(item for item in held if item not in change.data) + (change.data if comes else ())
            ttl = outcome.ttl if outcome is not None and not comes else change.ttl
            outcome = replace(change, ttl=ttl, data=data) if data else None
        else:
            same = outcome is not None and (
                outcome == change or replace(outcome, ttl=None) == replace(change, ttl=None)
            )
            fits = same or (comes and outcome is None)
            outcome = change if comes else None
        if not fits:
            raise TransferError("a delta that does not fit the zone that is here", no_delta=True)
    return outcome


class _Rules:
    """Turns the records that the native reader leaves into rules, by the dialect that reads zones from files."""

    def __init__(
        self, options: Options, scanner: TransferScanner, take: Callable[[str, Scope, Outcome, int], None]
    ) -> None:
        self.report = ListReport()
        self.count = 0  # rules taken here; the native reader's are learned from one of these
        self._allows = options.kind == "allow"
        self._scanner = scanner
        self._take = take
        self._numbers: dict[Outcome, int] = {}
        self._emitted: list[tuple[str, Outcome]] = []
        self._dialect = Rpz(options, self.report, self._emit)

    def number(self, outcome: Outcome) -> int:
        """An outcome's number in the report's table."""
        number = self._numbers.get(outcome)
        if number is None:
            number = self._numbers[outcome] = len(self.report.outcomes)
            self.report.outcomes.append(outcome)
        return number

    def _emit(self, name: str, scope: Scope, outcome: Outcome, line: int) -> None:
        outcome = self._said(outcome)
        self.count += 1
        self._emitted.append((name, outcome))
        self._take(name, scope, outcome, line)

    def read(self, message: bytes, at: int, rtype: int, rdclass: int, ttl: int, rdata_at: int, rdlength: int) -> None:
        """A record that the native reader left. DNSException or ValueError if it is malformed."""
        owner, _ = dns.name.from_wire(message, at)
        data = dns.rdata.from_wire_parser(
            dns.rdataclass.RdataClass(rdclass), _T.make(rtype), parser_of(message, rdata_at, rdlength)
        )
        ttl = 0 if ttl >> 31 else ttl  # RFC 2181 section 8
        text = f"{owner.to_text()} {ttl} {dns.rdataclass.to_text(dns.rdataclass.RdataClass(rdclass))} "
        text += f"{dns.rdatatype.to_text(_T.make(rtype))} {data.to_text()}"
        self._emitted.clear()
        try:
            self._dialect.feed(self._scanner.records, text)
        except BadLine as error:
            self.report.refuse(0, text, str(error))
            return
        if rtype == _T.CNAME and len(self._emitted) == 1:
            name, outcome = self._emitted[0]
            target: dns.name.Name = data.target  # type: ignore[attr-defined]
            if target.to_text(omit_final_dot=True).lower() != name:
                self._scanner.learn(wire_of(target), ttl, self.number(outcome))

    def take_triggers(self) -> list[Trigger]:
        """The rules that are not names since the last call; data that waits for more of its owner is emitted before."""
        self._dialect.flush()
        taken = [trigger._replace(outcome=self._said(trigger.outcome)) for trigger in self.report.triggers]
        self.report.triggers.clear()
        self.count += len(taken)
        return taken

    def _said(self, outcome: Outcome) -> Outcome:
        return Outcome(verb=Verb.ALLOW, important=outcome.important) if self._allows else outcome

    def finish(self) -> None:
        """The zone ended."""
        try:
            self._dialect.finish()
        except BadLine as error:
            self.report.refuse(0, "", str(error))
