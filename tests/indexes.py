"""Builds runs and indexes for tests, and damages them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from resolver.engine.engine import Index, RunBuilder, checksum
from resolver.lists.layout import CHECKSUM, PROLOGUE, SECTION, FileKind
from resolver.lists.merge import IndexHeader, Kind, ListRun, read_header, write_index
from resolver.lists.ranges import RANGE_KINDS
from resolver.lists.records import encode_records
from resolver.lists.rules import Outcome, Rule, Trigger, TriggerKind
from resolver.lists.runs import RunHeader, write_run
from tests.reference import ReferenceList


def make_run(path: Path, rules: Sequence[Rule], replaces: bool = False, triggers: Sequence[Trigger] = ()) -> RunHeader:
    """A run of these rules; the first has line 1. Triggers are as a reader settles them."""
    outcomes: dict[Outcome, int] = {}
    builder = RunBuilder(replaces)
    for line, rule in enumerate(rules, 1):
        builder.add(rule.name.encode(), rule.scope, outcomes.setdefault(rule.outcome, len(outcomes)), line)
    for trigger in triggers:
        outcomes.setdefault(trigger.outcome, len(outcomes))
    return write_run(path, builder, RunHeader(tuple(outcomes), replaces, lines=len(rules)), triggers)


def make_index(folder: Path, lists: Sequence[ReferenceList], key: bytes | None = None) -> Path:
    """An index of these lists, which are called list0, list1 and so on."""
    runs = [folder / f"list{number}.run" for number in range(len(lists))]
    for path, entry in zip(runs, lists, strict=True):
        make_run(path, entry.rules, entry.replaces, entry.triggers)
    path = folder / "1.index"
    entries = zip(runs, lists, strict=True)
    write_index(path, [ListRun(run.stem, run, entry.replaces) for run, entry in entries], key)
    return path


class Asked:
    """An index as a reader of shapes sees it."""

    def __init__(self, path: Path) -> None:
        self.index = Index(path)
        self.header: IndexHeader = read_header(path)

    def said_of(self, name: str) -> list[tuple[int, Kind, object]]:
        """(list, kind, records) of each member of the name's listset."""
        return self.members(self.index.find(name))

    def said_of_address(self, kind: TriggerKind, address: str) -> list[tuple[int, Kind, object]]:
        """The same for an address, as triggers of a kind speak of it."""
        parsed = ipaddress.ip_address(address)
        octets = bytes(10) + b"\xff\xff" + parsed.packed if parsed.version == 4 else parsed.packed
        return self.members(self.index.find_address(octets, RANGE_KINDS.index(kind)))

    def said_of_server(self, name: str) -> list[tuple[int, Kind, object]]:
        """The same for the name of a name server."""
        return self.members(self.index.find_server(name))

    def members(self, listset: int) -> list[tuple[int, Kind, object]]:
        """(list, kind, records) of each member of a listset."""
        said: list[tuple[int, Kind, object]] = []
        for number, member in enumerate(self.header.shapes[self.index.shape(listset)]):
            reference = self.index.data(listset, number)
            said.append((member.list, member.kind, self.index.records(reference) if reference else None))
        return said


def expected(index: Index, said: set[tuple[int, Outcome]]) -> list[tuple[int, Kind, object]]:
    """What Asked.said_of() is to give, in any order, for what the oracle says."""
    return [
        (number, Kind.of(outcome), decode_records(encode_records(outcome)) if outcome.data else None)
        for number, outcome in said
    ]


def decode_records(octets: bytes) -> tuple[int | None, bool, list[tuple[int, bytes]]]:
    """A record set as Index.records() gives it."""
    ttl, flags, count = (
        int.from_bytes(octets[:4], "little"),
        int.from_bytes(octets[4:6], "little"),
        int.from_bytes(octets[6:8], "little"),
    )
    at = 8
    records = []
    for _ in range(count):
        rrtype, size = int.from_bytes(octets[at : at + 2], "little"), int.from_bytes(octets[at + 2 : at + 4], "little")
        records.append((rrtype, octets[at + 4 : at + 4 + size]))
        at += 4 + size
    return None if ttl == 0xFFFFFFFF else ttl, bool(flags & 1), records


def read_table(octets: bytes, kind: FileKind) -> list[tuple[int, int, int]]:
    """(offset, length, checksum) of each section."""
    start = PROLOGUE.size + kind.facts.size
    return [SECTION.unpack_from(octets, start + SECTION.size * number) for number in range(kind.sections)]


def with_sums(octets: bytes, kind: FileKind) -> bytes:
    """The file with the checksums of its sections and header made right, as a writer gone wrong would leave it."""
    changed = bytearray(octets)
    start = PROLOGUE.size + kind.facts.size
    for number, (offset, length, old) in enumerate(read_table(octets, kind)):
        if old:
            SECTION.pack_into(
                changed, start + SECTION.size * number, offset, length, checksum(changed[offset : offset + length])
            )
    CHECKSUM.pack_into(changed, kind.header - CHECKSUM.size, checksum(changed[: kind.header - CHECKSUM.size]))
    return bytes(changed)
