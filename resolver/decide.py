"""What holds where a rule depends on who asks for which type, or where rewrites add up: the engine hands such queries up.

The policy file has, for each conditional (class, shape), the claims on it, the strongest first; which of them hold is
worked out here, and which of those decide in lists/conditions.py. A worker asks for each such query, and so does explain.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from resolver.engine.engine import Index
from resolver.lists import conditions
from resolver.lists.conditions import NOTHING, Condition
from resolver.lists.patterns import PatternSet
from resolver.punt import Decided
from resolver.snapshot import CELL, Policy
from resolver.upstream.message import HEADER, PAYLOAD_SIZE, name_text, walk
from resolver.vocabulary import Action, Rank, RRType, Transport

if TYPE_CHECKING:
    from resolver.engine.engine import Punt

_NOBODY = CELL.pack(Rank.NOBODY, Action.FORWARD, 0, 0xFF, 0xFFFF, 0)
_NAME_OF_QUESTION = 0xC00C
MAX_FOUND = 6  # TARGETS in engine/query.pxd
QUESTION_ONLY = 8  # CELL_QUESTION_ONLY there


class _Claim(NamedTuple):
    condition: Condition
    cell: bytes


class Decisions:
    """The decisions of one generation."""

    def __init__(self, index: Index, policy: Policy, number: int) -> None:
        self._index = index
        self._policy = policy
        self._number = number
        self._set = PatternSet([text for text, _, _ in policy.patterns]) if policy.patterns else None
        parsed = {text: conditions.parse(text) for claims in policy.decisions.values() for text, _ in claims}
        self._claims = {
            place: tuple(_Claim(parsed[text], cell) for text, cell in claims)
            for place, claims in policy.decisions.items()
        }

    def decide(self, punt: Punt) -> Decided | bytes | None:
        """What is decided for a PUNT_CONDITIONAL: a cell, or a whole reply; None if it is of another generation.

        The name's own listset and those of what its answer leads to speak; the lowest rank wins, then the config's order of
        lists, then this order.
        """
        if punt.generation != self._number:
            return None
        listsets = (punt.listset, *punt.targets)
        best, chosen = self.best(punt.row, listsets, punt.qtype, punt.client)
        if len(best) > 1:
            return self._added_up(punt, best, chosen)
        return Decided(best[0].cell, chosen)

    def best(self, policy_class: int, listsets: Sequence[int], qtype: int, client: bytes) -> tuple[list[_Claim], int]:
        """The claims that decide between listsets, one that says nothing where none does, and whose they are.

        Of one rank the first listset, which is the name's own, goes before the others, as it does in the engine: patterns
        are not tried and upstream is not asked where it settles the question.
        """
        best, chosen = [_Claim(NOTHING, _NOBODY)], listsets[0]
        least = self._place(_NOBODY)  # the others have to be before this
        for place, listset in enumerate(listsets):
            winners = self._winners(policy_class, listset, qtype, client)
            if not winners or (place and CELL.unpack(winners[0].cell)[2] & QUESTION_ONLY):
                continue
            rank, order = self._place(winners[0].cell)
            if (rank, order) < least:
                best, chosen = winners, listset
                least = (rank, order) if place else (rank, -1)
        return best, chosen

    def _place(self, cell: bytes) -> tuple[int, int]:
        """Where a cell stands in the total order: its rank, and its list's place in the config."""
        rank, _, _, _, slot, _ = CELL.unpack(cell)
        known = self._policy.order[2 * slot : 2 * slot + 2]
        return rank, int.from_bytes(known, "little") if known else 0xFFFF

    def fits(self, name: bytes) -> list[int]:
        """The listsets of the patterns that a name in wire form fits, at most MAX_FOUND, those of the lowest ranks."""
        if self._set is None:
            return []
        text = name_text(name)
        found = dict.fromkeys(
            listset
            for _, listset, denied in map(self._policy.patterns.__getitem__, self._set.matches(text))
            if not any(text == below or text.endswith(f".{below}") for below in denied)
        )
        if len(found) <= MAX_FOUND:
            return list(found)
        return sorted(found, key=self._rank)[:MAX_FOUND]

    def _rank(self, listset: int) -> int:
        shape = self._index.shape(listset)
        return min(self._policy.cell(policy_class, shape)[0] for policy_class in range(self._policy.classes))

    def _winners(self, policy_class: int, listset: int, qtype: int, client: bytes) -> list[_Claim]:
        """The claims that decide by a listset: none, one, or rewrites that add up."""
        shape = self._index.shape(listset)
        claims: Sequence[_Claim] | None = self._claims.get((policy_class, shape))
        if claims is None:
            cell = CELL.pack(*self._policy.cell(policy_class, shape))
            return [] if cell[0] == Rank.NOBODY else [_Claim(NOTHING, cell)]
        holding = (claim for claim in claims if claim.condition.holds(qtype, client))
        return conditions.choose(holding, lambda claim: (claim.condition, claim.cell[1] == Action.ALLOW))

    def _added_up(self, punt: Punt, winners: Sequence[_Claim], listset: int) -> Decided | bytes:
        """The records of several rewrites in one reply; where fewer than two have any of the type the engine does it."""
        records: list[tuple[int, int, bytes]] = []
        having: list[_Claim] = []
        for claim in winners:
            _, _, _, member, _, profile = CELL.unpack(claim.cell)
            reference = self._index.data(listset, member)
            own, _, data = self._index.records(reference) if reference else (None, False, [])
            ttl = self._policy.profiles[profile].ttl if own is None else own
            found = [(rtype, ttl, rdata) for rtype, rdata in data if punt.qtype in (rtype, RRType.ANY)]
            records += found
            if found:
                having.append(claim)
        if len(having) < 2:
            return Decided((having or winners)[0].cell, listset)
        profile = self._policy.profiles[CELL.unpack(having[0].cell)[5]]
        return _reply(punt, list(dict.fromkeys(records)), *profile.reason(structured=punt.structured))


def _reply(punt: Punt, records: Sequence[tuple[int, int, bytes]], ede: int, text: str) -> bytes:
    """The reply with these records (type, TTL, rdata) for the name asked; over UDP with TC where they do not fit."""
    packet = punt.packet
    question_end = HEADER + len(punt.qname) + 4
    ident, flags = struct.unpack_from(">HH", packet)
    opt = walk(packet, question_end)
    tail = b""
    limit = 65535
    if punt.transport == Transport.UDP:
        limit = min(PAYLOAD_SIZE, max(512, int.from_bytes(packet[opt + 3 : opt + 5], "big"))) if opt > 0 else 512
    if opt > 0:
        option = b""
        if ede >= 0:
            words = text.encode()
            option = struct.pack(">HHH", 15, 2 + len(words), ede) + words
        do = packet[opt + 7] & 0x80
        tail = struct.pack(">BHHIH", 0, RRType.OPT, PAYLOAD_SIZE, do << 8, len(option)) + option
    qclass = packet[question_end - 2 : question_end]
    answers = [
        struct.pack(">HH", _NAME_OF_QUESTION, rtype) + qclass + struct.pack(">IH", ttl, len(rdata)) + rdata
        for rtype, ttl, rdata in records
    ]
    flags = 0x8080 | (flags & 0x0110)
    body = packet[HEADER:question_end] + b"".join(answers) + tail
    count = len(answers)
    if HEADER + len(body) > limit:
        flags |= 0x0200
        count, body = 0, packet[HEADER:question_end] + tail
    return struct.pack(">HHHHHH", ident, flags, 1, count, 0, 1 if opt > 0 else 0) + body
