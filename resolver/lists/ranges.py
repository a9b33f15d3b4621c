"""Rules that are not names, as an index has them: addresses flattened into ranges, names of name servers in a table.

    every list's prefixes of a kind ─ sorted, each taking over what the ones around it say ─ ascending ranges ─ sets

Ordinary lists add up: an address has what all prefixes say that hold it. In a list in which the most specific rule replaces
the others (an RPZ zone) the longest prefix speaks alone, and how long it is goes with it, as of several addresses in one
answer the one with the longest prefix decides (rpz.md, 14). What a range comes to is a *set*: a listset, and a length for
each of its members that is of such a list. Names of name servers come to listsets as other names do.

A hundred thousand addresses take half a second. The bytes are drawn in layout.py.
"""

from __future__ import annotations

import ipaddress
import socket
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from resolver.lists.layout import NSNAME, RANGES
from resolver.lists.rules import Outcome, Trigger, TriggerKind

Members: TypeAlias = "tuple[int, ...]"  # `list << 32 | outcome`, ascending
Said: TypeAlias = "tuple[tuple[int, int], ...]"  # members, each with the length of its prefix, or 0 where lists add up
Prefix: TypeAlias = "tuple[int, int]"  # first address, length

RANGE_KINDS = (TriggerKind.ADDRESS, TriggerKind.CLIENT, TriggerKind.NSIP)  # in the order of the index's sections


class ListTriggers(NamedTuple):
    """A list's triggers, its table of outcomes, and whether in it the most specific rule replaces the others."""

    triggers: Sequence[Trigger]
    outcomes: Sequence[Outcome]
    replaces: bool


class TriggerSections(NamedTuple):
    """The index's sections of triggers, in the file's order."""

    addresses: bytes
    clients: bytes
    nsips: bytes
    sets: bytes
    lengths: bytes
    nsnames: bytes


def build_triggers(
    lists: Sequence[ListTriggers], listset: Callable[[Members], int], badfilters: Mapping[int, frozenset[int]]
) -> TriggerSections:
    """The sections for these lists; `listset` gives the number of the listset with these members.

    `badfilters`: members that cancel others where both speak of the same prefix (merge.badfilters_of).
    """
    return _Builder([entry.replaces for entry in lists], listset, badfilters).build(lists)


class _Builder:
    def __init__(
        self, replaces: Sequence[bool], listset: Callable[[Members], int], badfilters: Mapping[int, frozenset[int]]
    ) -> None:
        self._replaces = replaces
        self._badfilters = badfilters
        self._listset = listset
        self._sets = array("I", [0, 0])
        self._set_ids: dict[Said, int] = {(): 0}
        self._lengths = bytearray(1)  # 0 is no row
        self._rows: dict[bytes, int] = {}
        self._known: dict[tuple[Said, Members, int], Said] = {}

    def build(self, lists: Sequence[ListTriggers]) -> TriggerSections:
        four: dict[TriggerKind, dict[Prefix, list[int]]] = {kind: {} for kind in RANGE_KINDS}
        six: dict[TriggerKind, dict[Prefix, list[int]]] = {kind: {} for kind in RANGE_KINDS}
        names: dict[str, list[int]] = {}
        for number, (triggers, outcomes, _) in enumerate(lists):
            ids = {outcome: place for place, outcome in enumerate(outcomes)}
            for kind, text, outcome, _ in triggers:
                member = number << 32 | ids[outcome]
                if kind is TriggerKind.NSDNAME:
                    names.setdefault(text, []).append(member)
                elif kind in four:
                    version, prefix = bounds(text)
                    (four if version == 4 else six)[kind].setdefault(prefix, []).append(member)
        addresses, clients, nsips = (self._section(four[kind], six[kind]) for kind in RANGE_KINDS)
        nsnames = self._nsnames(names)
        return TriggerSections(addresses, clients, nsips, self._sets.tobytes(), bytes(self._lengths), nsnames)

    def _section(self, four: dict[Prefix, list[int]], six: dict[Prefix, list[int]]) -> bytes:
        """RANGES: empty where nobody speaks of an address."""
        if not four and not six:
            return b""
        starts4, sets4 = self._flatten(four, 32)
        starts6, sets6 = self._flatten(six, 128)
        return b"".join(
            (
                RANGES.pack(len(starts4), len(starts6)),
                array("I", starts4).tobytes(),
                array("I", sets4).tobytes(),
                array("I", sets6).tobytes(),
                b"".join(start.to_bytes(16, "big") for start in starts6),
            )
        )

    def _flatten(self, prefixes: dict[Prefix, list[int]], bits: int) -> tuple[list[int], list[int]]:
        """Ascending starts from 0, and the set of each range; neighbours differ."""
        starts, sets = [0], [0]

        def put(start: int, number: int) -> None:
            if starts[-1] == start:
                starts.pop()
                sets.pop()
            if not sets or sets[-1] != number:
                starts.append(start)
                sets.append(number)

        around: list[tuple[int, int, Said]] = []  # prefixes that hold the place: end, set, what is said
        for start, length in sorted(prefixes):
            while around and around[-1][0] <= start:
                end = around.pop()[0]
                put(end, around[-1][1] if around else 0)
            # An IPv4 prefix is as long as the one that it is mapped to, so that the two families can be compared.
            long = length + 128 - bits
            said = self._combined(around[-1][2] if around else (), tuple(prefixes[start, length]), long)
            number = self._set(said)
            put(start, number)
            around.append((start + (1 << (bits - length)), number, said))
        while around:
            end = around.pop()[0]
            if end < 1 << bits:
                put(end, around[-1][1] if around else 0)
        return starts, sets

    def _combined(self, parents: Said, own: Members, length: int) -> Said:
        """What is said within a prefix: its own members, and its parents' where these are not replaced."""
        asked = (parents, own, length)
        known = self._known.get(asked)
        if known is None:
            cancelled = frozenset[int]().union(*(self._badfilters.get(member, frozenset()) for member in own))
            own = tuple(member for member in own if member not in cancelled and member not in self._badfilters)
            replaced = {member >> 32 for member in own if self._replaces[member >> 32]}
            kept = {said for said in parents if said[0] >> 32 not in replaced}
            kept |= {(member, length if member >> 32 in replaced else 0) for member in own}
            known = self._known[asked] = tuple(sorted(kept))
        return known

    def _set(self, said: Said) -> int:
        number = self._set_ids.get(said)
        if number is None:
            number = self._set_ids[said] = len(self._sets) // 2
            row = bytes(length for _, length in said)
            self._sets.extend((self._listset(tuple(member for member, _ in said)), self._row(row)))
        return number

    def _row(self, row: bytes) -> int:
        if not any(row):
            return 0
        at = self._rows.get(row)
        if at is None:
            at = self._rows[row] = len(self._lengths)
            self._lengths += row
        return at

    def _nsnames(self, names: dict[str, list[int]]) -> bytes:
        """NSNAMES: each name with its listset and that of what is below it, parents' words taken over."""
        own = {name: members for name, members in names.items() if not name.startswith("*.")}
        wild = {name[2:]: members for name, members in names.items() if name.startswith("*.")}
        below: dict[str, Said] = {}
        octets = bytearray()
        for name in sorted({*own, *wild}, key=lambda name: (name.count("."), name)):
            parents: Said = ()
            parent = name
            while "." in parent and parents == ():
                parent = parent.partition(".")[2]
                parents = below.get(parent, ())
            here = self._combined(parents, tuple(own[name]), 0) if name in own else parents
            deeper = below[name] = self._combined(parents, tuple(wild[name]), 0) if name in wild else parents
            text = name.encode()
            octets += NSNAME.pack(len(text), *(self._listset(tuple(m for m, _ in said)) for said in (here, deeper)))
            octets += text
        return bytes(octets)


def bounds(text: str) -> tuple[int, Prefix]:
    """(4 or 6, (first address, length)) of a prefix as Trigger.text has it. ValueError if it is none."""
    address, _, length = text.partition("/")
    if ":" in address:
        network = ipaddress.IPv6Network(text)
        return 6, (int(network.network_address), network.prefixlen)
    try:
        start = int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")
    except OSError:
        raise ValueError(f"{text!r} is no prefix") from None
    bits = int(length)
    if not 0 < bits <= 32 or start & ((1 << (32 - bits)) - 1):
        raise ValueError(f"{text!r} is no prefix")
    return 4, (start, bits)
