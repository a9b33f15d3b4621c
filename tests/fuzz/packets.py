"""Packets for the engine, from a seed: sound queries, noise, and sound queries that were damaged.

Damage is what fuzzers find useful: flipped bits, boundary values, octets put in and taken out, ends cut off, two packets
spliced, counts and label lengths changed. Each packet is a bytes object of its own, so that AddressSanitizer sees a read
past its end.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

BOUNDARIES = (0x00, 0x01, 0x0C, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xC1, 0xFF)
TYPES = (1, 28, 65, 64, 15, 2, 5, 6, 16, 12, 33, 43, 41, 249, 250, 251, 252, 255, 257, 0, 1000, 65535)
OPTIONS = (3, 8, 9, 10, 11, 12, 15, 100, 65001)


class Packets:
    """An endless supply; the same seed gives the same packets. `names`: those that the engine's world knows."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self.chance = random.Random(seed)
        self._names = [tuple(label.encode() for label in name.split(".")) for name in names]

    def packet(self) -> bytes:
        """Any packet: half of them are sound."""
        kind = self.chance.random()
        if kind < 0.5:
            return self.query()
        if kind < 0.85:
            return self.damaged(self.query())
        if kind < 0.93:
            return self.spliced(self.query(), self.query())
        return self.noise()

    def query(self) -> bytes:
        """A query that a client could send."""
        chance = self.chance
        flags = chance.choice((0x0100, 0x0100, 0x0120, 0x0110, 0x0000, 0x0140, 0x01B0))
        if chance.random() < 0.03:
            flags |= chance.randrange(16) << 11
        additional = b"" if chance.random() < 0.3 else self.opt()
        rdclass = 1 if chance.random() < 0.97 else chance.choice((0, 3, 4, 254, 255))
        rdtype = chance.choice(TYPES if chance.random() < 0.7 else (1, 1, 28))
        question = self.name() + struct.pack(">HH", rdtype, rdclass)
        header = struct.pack(">HHHHHH", chance.randrange(65536), flags, 1, 0, 0, 1 if additional else 0)
        return header + question + additional

    def name(self) -> bytes:
        """A name in wire form: mostly one that is known, or one below it, in any case."""
        chance = self.chance
        kind = chance.random()
        if kind < 0.6:
            labels = list(chance.choice(self._names))
            if chance.random() < 0.3:
                labels.insert(0, chance.choice((b"www", b"a", b"\0", b"x.y", b"w" * 63)))
        elif kind < 0.9:
            labels = [b"%d" % chance.randrange(100_000), b"example"]
        else:
            labels = self._odd_labels()
        if chance.random() < 0.3:
            labels = [bytes(octet ^ 0x20 if chance.random() < 0.5 and chr(octet).isalpha() else octet for octet in label)
                      for label in labels]  # fmt: skip
        return wire_name(labels)

    def _odd_labels(self) -> list[bytes]:
        chance = self.chance
        kind = chance.randrange(5)
        if kind == 0:
            return []
        if kind == 1:
            return [b"a"] * chance.choice((119, 126, 127, 128))
        if kind == 2:
            return [b"b" * 63] * 3 + [b"c" * chance.choice((60, 61, 62))]
        return [chance.randbytes(chance.randrange(1, 64)) for _ in range(chance.randrange(1, 4))]

    def opt(self) -> bytes:
        """An OPT record with some options, mostly sound."""
        chance = self.chance
        rdata = b""
        for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 5))):
            code, data = self.option()
            rdata += struct.pack(">HH", code, len(data)) + data
        version = 0 if chance.random() < 0.95 else chance.randrange(256)
        size = chance.choice((0, 511, 512, 513, 1232, 1232, 1232, 4096, 65535))
        ttl = chance.choice((0, 0, 0x8000, 0x40, 0x01000000)) | version << 16
        return b"\0" + struct.pack(">HHIH", 41, size, ttl, len(rdata)) + rdata

    def option(self) -> tuple[int, bytes]:
        """An option: half of those that have a form have theirs."""
        chance = self.chance
        code = chance.choice(OPTIONS)
        if chance.random() < 0.5:
            if code == 8:
                family, bits = chance.choice(((1, 24), (1, 32), (1, 0), (1, 17), (2, 56), (2, 128), (2, 3)))
                network = bytearray(chance.randbytes((bits + 7) // 8))
                if bits % 8:
                    network[-1] &= 0xFF00 >> bits % 8 & 0xFF
                return code, struct.pack(">HBB", family, bits, 0) + network
            if code == 10:
                server = struct.pack(">BBHI", 1, 0, 0, chance.randrange(1 << 32)) + chance.randbytes(8)
                return code, chance.choice((bytes(8), chance.randbytes(8), bytes(8) + server))
            if code in (3, 9, 11, 65001):
                return code, b""
        return code, chance.randbytes(chance.choice((0, 4, 8, 8, 16, 24, 40, 7, 300)))

    def noise(self) -> bytes:
        """No packet at all, or a header with noise behind it."""
        octets = self.chance.randbytes(self.chance.choice((0, 1, 11, 12, 13, 17, 40, 300, 600)))
        if self.chance.random() < 0.5:
            return octets
        return struct.pack(">HHHHHH", 1, 0x0100, 1, 0, 0, self.chance.randrange(3)) + octets

    def damaged(self, packet: bytes) -> bytes:
        """`packet` with one to four faults."""
        octets = bytearray(packet)
        for _ in range(self.chance.choice((1, 1, 1, 2, 4))):
            self.chance.choice(_DAMAGES)(self, octets)
        return bytes(octets)

    def spliced(self, first: bytes, second: bytes) -> bytes:
        """The start of one packet and the end of another."""
        return first[: self.chance.randrange(len(first) + 1)] + second[self.chance.randrange(len(second) + 1) :]

    # -- damage -------------------------------------------------------------------------------------------------------
    def _place(self, octets: bytearray) -> int:
        return self.chance.randrange(len(octets)) if octets else 0

    def _flip(self, octets: bytearray) -> None:
        if octets:
            octets[self._place(octets)] ^= 1 << self.chance.randrange(8)

    def _boundary(self, octets: bytearray) -> None:
        if octets:
            octets[self._place(octets)] = self.chance.choice(BOUNDARIES)

    def _cut(self, octets: bytearray) -> None:
        del octets[self._place(octets) :]

    def _remove(self, octets: bytearray) -> None:
        at = self._place(octets)
        del octets[at : at + self.chance.randrange(1, 5)]

    def _insert(self, octets: bytearray) -> None:
        at = self._place(octets)
        octets[at:at] = self.chance.randbytes(self.chance.randrange(1, 20))

    def _repeat(self, octets: bytearray) -> None:
        at = self._place(octets)
        piece = octets[at : at + self.chance.randrange(1, 40)]
        octets[at:at] = piece * self.chance.choice((1, 2, 30))

    def _count(self, octets: bytearray) -> None:
        if len(octets) >= 12:
            at = 4 + 2 * self.chance.randrange(4)
            octets[at : at + 2] = struct.pack(">H", self.chance.choice((0, 1, 2, 3, 255, 65535)))

    def _pointer(self, octets: bytearray) -> None:
        at = self._place(octets)
        octets[at : at + 2] = struct.pack(">H", 0xC000 | self.chance.randrange(max(len(octets), 1) + 2))

    def _append(self, octets: bytearray) -> None:
        octets += self.chance.choice((self.opt(), self.record(), b"\0", self.chance.randbytes(30)))

    # -- upstreams ----------------------------------------------------------------------------------------------------
    def record(self, owner: bytes = b"\xc0\x0c") -> bytes:
        """A sound record, as clients do not send them and upstreams do."""
        chance = self.chance
        kind = chance.choice((1, 1, 28, 5, 2, 15, 16, 6, 64, 65, 39, 46))
        text = chance.randbytes(chance.randrange(80))
        rdata = {
            1: chance.choice((b"\xc0\x00\x02", b"\x0a\0\0", chance.randbytes(3))) + chance.randbytes(1),
            28: chance.choice(
                (b"\x20\x01\x0d\xb8" + bytes(12), bytes(10) + b"\xff\xff\xc0\0\2\1", chance.randbytes(16))
            ),
            5: chance.choice((b"\5alias\0", b"\4zero\7example\0", b"\4many\7example\0")),
            39: b"\4zero\7example\0",
            46: struct.pack(">HBBIIIH", 1, 8, 2, 60, 0, 0, 1) + b"\0" + chance.randbytes(8),
            64: self._service(),
            65: self._service(),
            2: chance.choice((owner, b"\2ns\4host\0")),
            15: b"\0\x0a\xc0\x0c",
            16: bytes([len(text)]) + text,
            6: b"\1m\0\xc0\x0c" + struct.pack(">IIIII", 1, 2, 3, 4, chance.choice((0, 5, 60, 1 << 31))),
        }[kind]
        ttl = chance.choice((0, 1, 60, 60, 86400, 1 << 31))
        return owner + struct.pack(">HHIH", kind, 1, ttl, len(rdata)) + rdata

    def _service(self) -> bytes:
        """Data of SVCB or HTTPS with some parameters, hints among them."""
        chance = self.chance
        values = {
            1: b"\2h2",
            3: b"\1\xbb",
            4: b"\xc0\0\2\7" * chance.randrange(1, 3),
            6: b"\x20\x01\x0d\xb8" + bytes(12),
            65000: chance.randbytes(chance.randrange(9)),
        }
        rdata = struct.pack(">H", 1) + chance.choice((b"\0", b"\4zero\7example\0"))
        for key in sorted(chance.sample(list(values), chance.randrange(4))):
            rdata += struct.pack(">HH", key, len(values[key])) + values[key]
        return rdata

    def answer(self, question: bytes) -> bytes:
        """A sound answer to a question (its octets in a packet)."""
        chance = self.chance
        sections = [[self.record() for _ in range(chance.choice((0, 0, 1, 1, 3)))] for _ in range(3)]
        if chance.random() < 0.7:
            sections[2].append(self.opt())
        flags = 0x8180 | chance.choice((0, 0, 0, 0, 3, 2, 5, 0x0200, 0x0400, 0x0020))
        header = struct.pack(">HHHHHH", 0, flags, 1, *map(len, sections))
        return header + question + b"".join(record for section in sections for record in section)


_DAMAGES: tuple[Callable[[Packets, bytearray], None], ...] = (
    Packets._flip,
    Packets._flip,
    Packets._boundary,
    Packets._boundary,
    Packets._cut,
    Packets._remove,
    Packets._insert,
    Packets._repeat,
    Packets._count,
    Packets._pointer,
    Packets._append,
)


def wire_name(labels: Sequence[bytes]) -> bytes:
    """Labels in wire form."""
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
