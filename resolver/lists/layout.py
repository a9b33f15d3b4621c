"""The bytes of the run file and the index file: the only Python description of them (C: engine/index.pxd).

All numbers are little-endian; offsets count from the file's start; sections start at multiples of 64 octets.

Both files begin alike:

    0      8       12        16       24
    +-------+-------+---------+--------+-------+--------------------+----------+
    | magic |version|sections | length | facts | a line a section:  | checksum |
    |  8    |  u32  |   u32   |  u64   |       | offset length sum  |   u64    |
    +-------+-------+---------+--------+-------+--------------------+----------+

`length` is the whole file's, in octets. `checksum` is XXH64 (seed 0) of all octets before it; a section's sum likewise.

**Index file**, facts: hash key 16, buckets u32, reach u32, entries u64, listsets of the root and below it 2 x u32.

    BUCKETS   64 octets each; all of it is mapped and verified at load, and so is every section but TEXT
        0                                   49                    63
        +----+----+----+----+----+----+----+--+--+--+--+--+--+--+-+
        | f0 | f1 | f2 | f3 | f4 | f5 | f6 |v0|v1|v2|v3|v4|v5|v6|F|
        +----+----+----+----+----+----+----+--+--+--+--+--+--+--+-+
        f: fingerprint, 7 octets, 0 = free. v: u16, bit 15 = longer names are listed below this one, bits 0-14 = pair
        id, or all ones: see SIDE. F: a bit for every entry that found this bucket full and went on to the next
    SIDE      open-addressed cells {u32 bucket * 7 + slot + 1, u32 pair}, 0 = free; for pair ids of 32767 and more
    PAIRS     {u32 listset of the name, u32 listset of what is below it}
    LISTSETS  {u32 shape, u32 index in REFS or 0}; listset 0 is "nobody speaks"
    SHAPES    u32 a shape: how many members; shape 0 has none
    REFS      u32: offset in DATA of a member's records, 0 = it has none; a listset's follow each other
    DATA      {u32 ttl or all ones, u16 flags, u16 count} and count times {u16 type, u16 rdlength, rdata}
    ADDRESSES, CLIENTS, NSIPS   which set speaks of an address in an answer, of a client's, of a name server's; empty where
              none does, else {u32 n, u32 m}, n IPv4 starts and their sets (u32 each, n at least 1), m sets of IPv6
              ranges (u32), m starts (16 octets in network order, m at least 1). A range ends where the next one starts;
              the first starts at 0
    SETS      {u32 listset, u32 index in LENGTHS or 0}; set 0 is "nobody speaks"
    LENGTHS   u8 for each member of a set's listset: how long the prefix is by which an RPZ list speaks
    NSNAMES   a line a name of a name server: {u8 octets, u32 listset of it, u32 of what is below it}, and the name
    TEXT      JSON: lists, kinds, shapes (merge.py), and after a patch what it left (patch.py); never mapped

A name's hash has 128 bits. The upper half of its first word, times the number of buckets, picks the bucket; of the
second word the lower 56 bits are the fingerprint (0 counts as 1) and the upper 3 the filter bit.

**How often a name that is not listed is taken for one that is.** Its walk ends at the first suffix that is not in the
buckets, so one suffix a name can be mistaken. That suffix is compared with the fingerprints of one bucket, 5.6 of them
on average, and in about one of eight cases with those of a second or third: fewer than 8, each equal by chance once in
2**56. So 8 / 2**56 = 1.1e-16 a name, and 1.1e-7 a year at a billion distinct names. The key is drawn at random for each
index and leaves the machine with no answer, so nobody can search for such a name. Listed names are compared when the
index is built: two that share a fingerprint where one could be found for the other make it draw another key. A patch of
an index (patch.py) asks it for each changed name, and takes a new one for another as seldom as a look-up does.

**Run file**, no facts. Sections: BLOCKS (its sum is 0: each block has its own), INDEX, TRIGGERS, TEXT (JSON: RunHeader,
runs.py), DELTA and DELTA_INDEX: as BLOCKS and INDEX, for the keys that changed since BLOCKS was written (splice.py). What
DELTA has of a key is all there is of it. A tag's outcome is there outcome << 1 | side: 0 what is said of the key now, 1 what
BLOCKS say of it; a key that is gone has only the latter.

    INDEX     a line a block: {u64 offset, u32 octets, u32 keys, u64 XXH64 of its octets, u64 of what it says but for the
              lines, u8 key length, first key}
    block     raw DEFLATE (RFC 1951) of
        +------+-------+--------------------+--------+---------+------------+------------+------+-------+
        | keys | rules | octets of the next | shared |  own    | own octets | tags       | lines|
        | u32  |  u32  |    three: 3 x u32  | keys   |  keys   |            |            |      |
        +------+-------+--------------------+--------+---------+------------+------------+------+-------+
        key = the first `shared` octets of the key before it, then `own` octets. tag: varint outcome << 3 | scope << 1
        | another rule of this key follows. line: varint, zigzag difference from the line before it in the block.
    TRIGGERS  raw DEFLATE of u32 count, and a line a trigger, in the order of kind, then of the file: {u8 kind, u8 0, u16
              octets of its text, u32 outcome, u32 line}; then the texts (UTF-8) in the same order. Empty without triggers
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

ALIGN = 64
PROLOGUE = struct.Struct("<8sIIQ")
SECTION = struct.Struct("<QQQ")
CHECKSUM = struct.Struct("<Q")
INDEX_FACTS = struct.Struct("<16sIIQII")
RUN_FACTS = struct.Struct("")

BUCKET = 64
SLOTS = 7
VALUES = 49
FILTER = 63
CHILDREN = 0x8000
PAIR_MASK = 0x7FFF
FINGERPRINT_BITS = 56
MAX_REACH = 1024
MAX_KEY = 254
MAX_LABELS = 127
SIDE_CELL = struct.Struct("<II")
PAIR = struct.Struct("<II")
LISTSET = struct.Struct("<II")
RECORDS = struct.Struct("<IHH")
RECORD = struct.Struct("<HH")
NO_TTL = 0xFFFFFFFF
RANGES = struct.Struct("<II")
RANGE_SET = struct.Struct("<II")
NSNAME = struct.Struct("<BII")

BLOCK_KEYS = 8192  # at most; half as many as a rule
BLOCK_LINE = struct.Struct("<QIIQQB")
BLOCK_HEAD = struct.Struct("<5I")
TRIGGER_COUNT = struct.Struct("<I")
TRIGGER_LINE = struct.Struct("<BBHII")


class RecordsFlag(IntFlag):
    """What else is true of a rule's own records."""

    WILDCARD = 1  # one CNAME, and the qname goes before its target
    TTLS = 2  # the data of each begins with its TTL
    NXDOMAIN = 4  # the name does not exist; an SOA among them says so
    MAPPED = 8  # an alias that is worked out from the qname (RFC 6147 section 5.3.1)


class IndexSection(IntEnum):
    """Sections of an index file, in the file's order."""

    BUCKETS = 0
    SIDE = 1
    PAIRS = 2
    LISTSETS = 3
    SHAPES = 4
    REFS = 5
    DATA = 6
    ADDRESSES = 7
    CLIENTS = 8
    NSIPS = 9
    SETS = 10
    LENGTHS = 11
    NSNAMES = 12
    TEXT = 13


TRIGGER_SECTIONS = tuple(IndexSection(number) for number in range(IndexSection.ADDRESSES, IndexSection.TEXT))


class RunSection(IntEnum):
    """Sections of a run file, in the file's order."""

    BLOCKS = 0
    INDEX = 1
    TRIGGERS = 2
    TEXT = 3
    DELTA = 4
    DELTA_INDEX = 5


@dataclass(frozen=True)
class FileKind:
    """What tells the two files apart: `word` names it in messages."""

    word: str
    magic: bytes
    version: int
    facts: struct.Struct
    sections: int

    @property
    def header(self) -> int:
        """Octets of the header, its checksum included."""
        return PROLOGUE.size + self.facts.size + SECTION.size * self.sections + CHECKSUM.size

    @property
    def start(self) -> int:
        """Where the first section begins."""
        return -(-self.header // ALIGN) * ALIGN


INDEX = FileKind("index", b"TAMPAHIX", 2, INDEX_FACTS, len(IndexSection))
RUN = FileKind("run", b"TAMPAHRN", 4, RUN_FACTS, len(RunSection))


class Section(NamedTuple):
    """Where a section is, in octets, and its XXH64."""

    offset: int
    length: int
    checksum: int


class Block(NamedTuple):
    """A block of a run: where its octets are, their XXH64, that of its keys and tags before they are compressed, and the
    first of its keys."""

    offset: int
    length: int
    keys: int
    checksum: int
    said: int
    first: bytes


def pack_blocks(blocks: list[Block]) -> bytes:
    """The INDEX section of a run."""
    return b"".join(
        BLOCK_LINE.pack(block.offset, block.length, block.keys, block.checksum, block.said, len(block.first))
        + block.first
        for block in blocks
    )


def unpack_blocks(octets: bytes) -> list[Block]:
    """The lines of a run's INDEX section; struct.error if the last is cut off."""
    blocks = []
    at = 0
    while at < len(octets):
        offset, length, keys, checksum, said, size = BLOCK_LINE.unpack_from(octets, at)
        at += BLOCK_LINE.size
        first = octets[at : at + size]
        if len(first) != size:
            raise struct.error("the last line is cut off")
        blocks.append(Block(offset, length, keys, checksum, said, first))
        at += size
    return blocks


def key_of(name: bytes | str) -> bytes:
    """The key of a lower-case name: its labels from the TLD downward, each followed by a zero octet."""
    text = name.encode("ascii") if isinstance(name, str) else name
    return b"".join(label + b"\0" for label in reversed(text.split(b"."))) if text else b""


def name_of(key: bytes) -> str:
    """The name of a key; the root's is empty."""
    return b".".join(reversed(key.split(b"\0")[:-1])).decode("ascii")
