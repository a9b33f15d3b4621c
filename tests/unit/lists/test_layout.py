"""The Python and the C description of the files agree, and the checksum is the one they name."""

from __future__ import annotations

import struct

import pytest

from resolver.engine.engine import checksum, index_layout
from resolver.lists import layout


def test_c_and_python_agree() -> None:
    assert index_layout() == {
        "version": layout.INDEX.version,
        "sections": len(layout.IndexSection),
        "align": layout.ALIGN,
        "header": layout.INDEX.header,
        "section": layout.SECTION.size,
        "bucket": layout.BUCKET,
        "slots": layout.SLOTS,
        "values": layout.VALUES,
        "filter": layout.FILTER,
        "children": layout.CHILDREN,
        "pair_mask": layout.PAIR_MASK,
        "reach": layout.MAX_REACH,
        "side": layout.SIDE_CELL.size,
        "pair": layout.PAIR.size,
        "listset": layout.LISTSET.size,
        "key": layout.MAX_KEY,
        "labels": layout.MAX_LABELS,
        "records": layout.RECORDS.size,
        "record": layout.RECORD.size,
        "wildcard": layout.RecordsFlag.WILDCARD,
        "ttls": layout.RecordsFlag.TTLS,
        "nxdomain": layout.RecordsFlag.NXDOMAIN,
        "mapped": layout.RecordsFlag.MAPPED,
        "ranges": layout.RANGES.size,
        "range_set": layout.RANGE_SET.size,
        "nsname": layout.NSNAME.size,
        "no_ttl": layout.NO_TTL,
        "fingerprint_bits": layout.FINGERPRINT_BITS,
    }


def test_a_bucket_is_a_cache_line() -> None:
    assert layout.SLOTS * layout.FINGERPRINT_BITS == layout.VALUES * 8
    assert layout.VALUES + layout.SLOTS * 2 == layout.FILTER == layout.BUCKET - 1
    assert layout.INDEX.start % layout.BUCKET == 0


@pytest.mark.parametrize(
    ("octets", "value"),
    [  # of the reference implementation, seed 0
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"abcdefghijklmnopqrstuvwxyz", 0xCFE1F278FA89835C),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 0xAAA46907D3047814),
    ],
)
def test_the_checksum_is_xxh64(octets: bytes, value: int) -> None:
    assert checksum(octets) == value


@pytest.mark.parametrize(
    ("name", "key"), [("", b""), ("com", b"com\0"), ("www.x.com", b"com\0x\0www\0"), (b"x.com", b"com\0x\0")]
)
def test_a_key_is_a_names_labels_from_the_tld_down(name: str | bytes, key: bytes) -> None:
    assert layout.key_of(name) == key


def test_the_block_index_reads_back_and_is_checked() -> None:
    blocks = [layout.Block(64, 10, 3, 1 << 63, 7, b""), layout.Block(74, 20, 1, 5, 1 << 62, b"com\0x\0")]
    octets = layout.pack_blocks(blocks)
    assert layout.unpack_blocks(octets) == blocks
    for end in (1, layout.BLOCK_LINE.size - 1, len(octets) - 1):
        with pytest.raises(struct.error):
            layout.unpack_blocks(octets[:end])
