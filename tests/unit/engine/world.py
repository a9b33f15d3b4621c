"""A small world for the engine's tests: rules in, an engine with a real index and policy out, in a few lines.

    world = World(tmp_path, block("bad.example"), block("nx.example", action=Action.NXDOMAIN), allow("ok.bad.example"))
    assert world.ask("www.bad.example").rcode() == NOERROR

Everything goes the way that a build goes: a run a list, one index, a policy, a snapshot.
"""

from __future__ import annotations

import dataclasses
import itertools
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype

from resolver import counters as layout
from resolver import ring
from resolver.decide import Decisions
from resolver.engine.engine import (
    PUNT,
    PUNT_CONDITIONAL,
    PUNT_LOCAL,
    PUNT_PATTERN,
    REPLY,
    Engine,
    Index,
    Punt,
    RunBuilder,
    Snapshot,
)
from resolver.lists.clients import build_clients
from resolver.lists.matrix import (
    CategoryPolicy,
    GroupPolicy,
    ListPolicy,
    PolicyRules,
    Sinkhole,
    build_matrix,
)
from resolver.lists.merge import ListRun, read_header, write_index
from resolver.lists.parse.addresses import prefix_of
from resolver.lists.rules import Outcome, Trigger, TriggerKind
from resolver.lists.runs import RunHeader, write_run
from resolver.local import Aliases
from resolver.punt import alias_reply
from resolver.ring import Reader
from resolver.snapshot import CELL, Dns64, Policy
from resolver.vocabulary import Scope, Transport, Verb

CLIENT = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
_number = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Names of one list with one outcome."""

    names: tuple[str, ...]
    outcome: Outcome
    scope: Scope
    list: str
    kind: TriggerKind | None = None  # not None: the names are texts of triggers


def block(*names: str, list: str = "blocks", scope: Scope = Scope.BOTH, **outcome: Any) -> Rules:
    """Blocked names; `outcome`: fields of rules.Outcome."""
    return Rules(names, Outcome(Verb.BLOCK, **outcome), scope, list)


def allow(*names: str, list: str = "allows", scope: Scope = Scope.BOTH, **outcome: Any) -> Rules:
    """Allowed names."""
    return Rules(names, Outcome(Verb.ALLOW, **outcome), scope, list)


def trigger(kind: TriggerKind, *texts: str, list: str = "blocks", verb: Verb = Verb.BLOCK, **outcome: Any) -> Rules:
    """Rules that are not names; addresses in any form."""
    if kind is not TriggerKind.NSDNAME:
        texts = tuple(prefix_of(text) for text in texts)
    return Rules(texts, Outcome(verb, **outcome), Scope.BOTH, list, kind)


def fits(*patterns: str, verb: Verb = Verb.BLOCK, list: str = "blocks", **outcome: Any) -> Rules:
    """Patterns with one outcome."""
    return Rules(patterns, Outcome(verb, **outcome), Scope.BOTH, list, TriggerKind.PATTERN)


def client(address: str) -> bytes:
    """A client's 16 octets."""
    import ipaddress

    parsed = ipaddress.ip_address(address)
    return bytes(10) + b"\xff\xff" + parsed.packed if parsed.version == 4 else parsed.packed


class World:
    """An engine in force with what the rules say. `lists`: options of ListPolicy by list name."""

    def __init__(self, folder: Path, *rules: Rules, cache_bytes: int = 1 << 20, **policy: Any) -> None:
        self.folder = folder
        self.memory = bytearray(layout.SIZE)
        self.counters = memoryview(self.memory).cast("Q")
        self.engine = Engine(counters=memoryview(self.memory), cache_bytes=cache_bytes)
        self._elsewhere: Engine | None = None
        self.policy: Policy
        self.index: Index
        self.snapshot: Snapshot
        self.build(*rules, **policy)

    def build(
        self,
        *rules: Rules,
        lists: Mapping[str, dict[str, Any]] | None = None,
        sinkhole: Sinkhole | None = None,
        categories: Mapping[str, CategoryPolicy] | None = None,
        groups: Sequence[tuple[GroupPolicy, Sequence[str]]] = (),
        allow_from: Sequence[str] = ("0.0.0.0/0", "::/0"),
        routes: Mapping[str, int] | None = None,
        guard: Sequence[str] = (),
        unguarded: Sequence[str] = (),
        dns64: Dns64 | None = None,
    ) -> None:
        """Build a generation and put it in force."""
        number = next(_number)
        options = dict(lists or {})
        for item in rules:
            options.setdefault(item.list, {})
        self.slots = {name: slot for slot, name in enumerate(options)}
        runs, policies = [], []
        for slot, (name, given) in enumerate(options.items()):
            replaces = bool(given.pop("replaces", False))
            runs.append(self._run(f"{number}-{slot}", name, [item for item in rules if item.list == name], replaces))
            policies.append(ListPolicy(name, slot=slot, **given))
        path = self.folder / f"{number}.index"
        write_index(path, runs)
        header = read_header(path)
        shapes = header.shapes
        matrix = build_matrix(
            PolicyRules(policies, categories or {}, [group for group, _ in groups], sinkhole or Sinkhole()), shapes
        )
        clients = build_clients(
            allow_from,
            [(prefixes, number) for (_, prefixes), number in zip(groups, matrix.group_classes, strict=True)],
        )
        self.index = Index(path)
        self.policy = Policy(
            matrix.classes,
            matrix.shapes,
            matrix.cells,
            matrix.profiles,
            clients,
            routes or {},
            decisions=matrix.decisions,
            patterns=header.patterns,
            order=matrix.order,
            variants=matrix.variants,
            zones=matrix.zones,
            guard=build_clients(guard, []) if guard else None,
            unguarded=tuple(unguarded),
            dns64=dns64,
            shadows=matrix.shadows,
            shadow_claims=matrix.shadow_claims,
            seeks=matrix.seeks,
        )
        self._swap(number)

    def _run(self, stem: str, name: str, rules: list[Rules], replaces: bool) -> ListRun:
        builder = RunBuilder(replaces)
        outcomes: list[Outcome] = []
        triggers: list[Trigger] = []
        for line, item in enumerate(rules, start=1):
            if item.outcome not in outcomes:
                outcomes.append(item.outcome)
            for listed in item.names:
                if item.kind is None:
                    builder.add(listed.encode(), item.scope, outcomes.index(item.outcome), line)
                else:
                    triggers.append(Trigger(item.kind, listed, item.outcome, line))
        path = self.folder / f"{stem}.run"
        write_run(path, builder, RunHeader(tuple(outcomes), replaces), triggers)
        return ListRun(name, path, replaces)

    def cell(self, name: str, **changes: int) -> bytes:
        """The cell of a name for a client in no group, with fields changed."""
        fields = ("rank", "action", "flags", "member", "slot", "profile")
        values = dict(zip(fields, self.policy.cell(0, self.index.shape(self.index.find(name))), strict=True))
        return CELL.pack(*(changes.get(field, values[field]) for field in fields))

    def patch(self, name: str, **changes: int) -> None:
        """Put a generation in force in which the cell of `name` (and all of its shape) is changed."""
        at = self.index.shape(self.index.find(name)) * CELL.size
        cells = self.policy.cells
        cells = cells[:at] + self.cell(name, **changes) + cells[at + CELL.size :]
        self.policy = dataclasses.replace(self.policy, cells=cells)
        self._swap(next(_number))

    def _swap(self, number: int) -> None:
        self.snapshot = Snapshot(self.index, self.policy, number)
        self.engine.swap(self.snapshot)

    def comes_to(
        self, name: str, rdtype: str = "A", client: bytes = CLIENT, answer: bytes | None = None
    ) -> dns.message.Message | None:
        """The reply to a query, decided in Python where need be; None if the upstream has to be asked.

        `answer`: what the upstream says then, and is kept.
        """
        asked = query(name, rdtype).to_wire()
        verdict, reply = self.engine.answer(asked, client, Transport.TCP)
        decisions = Decisions(self.index, self.policy, self.snapshot.number)
        while verdict == PUNT:
            [punt] = self.engine.take_punts()
            if punt.reason == PUNT_CONDITIONAL:
                decided = decisions.decide(punt)
                if isinstance(decided, bytes):
                    return dns.message.from_wire(decided)
                verdict, reply = self.engine.decide(punt, *(decided or (None, 0)))
            elif punt.reason == PUNT_PATTERN:
                for each in punt.names:
                    self.engine.remember(each, decisions.fits(each), punt.generation)
                verdict, reply = self.engine.resume(punt)
            elif punt.reason == PUNT_LOCAL:
                alias = Aliases(self.index, self.policy).describe(punt)
                if isinstance(alias, bytes):
                    return dns.message.from_wire(alias)
                return dns.message.from_wire(alias_reply(punt.packet, len(punt.qname), alias, None, None))
            elif answer is None:
                return None
            else:
                self.engine.learn(punt, answer)
                verdict, reply = self.engine.finish(punt, answer)
        assert verdict == REPLY and reply is not None
        return dns.message.from_wire(reply)

    def answer(
        self, packet: bytes, client: bytes = CLIENT, transport: Transport = Transport.UDP
    ) -> tuple[int, bytes | None]:
        """Engine.answer()."""
        return self.engine.answer(packet, client, transport)

    def ask(
        self, name: str, rdtype: str = "A", client: bytes = CLIENT, transport: Transport = Transport.UDP, **options: Any
    ) -> dns.message.Message:
        """The answer to a query, which must be a REPLY and an answer to it; `options` as query() takes them."""
        asked = query(name, rdtype, **options)
        verdict, reply = self.answer(asked.to_wire(), client, transport)
        assert verdict == REPLY and reply is not None
        message = dns.message.from_wire(reply)
        assert asked.is_response(message)
        return message

    def punt(self, packet: bytes | dns.message.Message, client: bytes = CLIENT, transport: int = Transport.TCP) -> Punt:
        """The punt that a query becomes."""
        wire = packet if isinstance(packet, bytes) else packet.to_wire()
        self.engine.answer(wire, client, transport)
        return self.engine.take_punts()[-1]

    def punt_elsewhere(self, packet: bytes) -> Punt:
        """The punt that a query becomes in another engine, which has nothing in its cache."""
        if self._elsewhere is None:
            self._elsewhere = Engine(counters=memoryview(bytearray(layout.SIZE)), cache_bytes=1 << 20)
        self._elsewhere.swap(self.snapshot)
        self._elsewhere.answer(packet, CLIENT, Transport.TCP)
        return self._elsewhere.take_punts()[-1]

    def record(self, data_size: int = 1 << 16) -> Reader:
        """Have the engine write query records from now on; the reader's end of them, open."""
        fd = ring.make("test", data_size)
        try:
            self.engine.set_ring(memoryview(mmap.mmap(fd, 0)))
            return Reader(fd)
        finally:
            os.close(fd)

    def count(self, section: str, place: int) -> int:
        """One counter."""
        return self.counters[layout.SECTIONS[section].start + place]


def query(
    name: str,
    rdtype: str = "A",
    *,
    edns: int | None = 0,
    payload: int = 1232,
    do: bool = False,
    rd: bool = True,
    cd: bool = False,
    ad: bool = False,
    options: Sequence[dns.edns.Option] = (),
) -> dns.message.QueryMessage:
    """A query with EDNS unless `edns` is None."""
    flags = (dns.flags.RD if rd else 0) | (dns.flags.CD if cd else 0) | (dns.flags.AD if ad else 0)
    made = dns.message.make_query(name, rdtype, flags=flags)
    if edns is not None:
        made.use_edns(edns, dns.flags.DO if do else 0, payload, options=list(options))
    return made


def wire_query(labels: Sequence[bytes], rdtype: int = 1, rdclass: int = 1, ident: int = 0x1234) -> bytes:
    """A query without EDNS whose labels are any octets."""
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack(">HHHHHH", ident, 0x0100, 1, 0, 0, 0) + name + struct.pack(">HH", rdtype, rdclass)


def reply_to(asked: dns.message.Message | bytes, *records: str, rcode: int = 0, soa: str = "") -> bytes:
    """An upstream's answer: `records` in zone file form for ANSWER, `soa` for AUTHORITY."""
    parsed = dns.message.from_wire(asked) if isinstance(asked, bytes) else asked
    made = dns.message.make_response(parsed, recursion_available=True)
    made.set_rcode(dns.rcode.Rcode(rcode))
    for section, texts in ((made.answer, records), (made.authority, (soa,) if soa else ())):
        for text in texts:
            owner, ttl, kind, data = text.split(maxsplit=3)
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
    return made.to_wire(max_size=65535)
