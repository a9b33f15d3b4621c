"""Damaged index files: refused with a message, or so slightly damaged that every look-up still ends well."""

from __future__ import annotations

import random
import struct
from collections import Counter
from pathlib import Path

import pytest

from resolver.engine.engine import Index, checksum, index_layout
from tests.fuzz.harness import NAMES, make_world

COUNT = 3000
HEADER = index_layout()["header"]
SECTION = index_layout()["section"]
TABLE = HEADER - 8 - 8 * SECTION  # of the sections: offset, length, checksum


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Path(make_world(tmp_path_factory.mktemp("index")).index.path).read_bytes()


def with_checksums(octets: bytearray) -> bytes:
    """The file with checksums that fit what it holds, so that what is behind them is put to the test."""
    for at in range(TABLE, TABLE + 8 * SECTION, SECTION):
        offset, length = struct.unpack_from("<QQ", octets, at)
        if offset + length <= len(octets):
            struct.pack_into("<Q", octets, at + 16, checksum(bytes(octets[offset : offset + length])))
    struct.pack_into("<Q", octets, HEADER - 8, checksum(bytes(octets[: HEADER - 8])))
    return bytes(octets)


def use(path: Path) -> str:
    """Open an index and look everything up; "" or why it was refused."""
    try:
        index = Index(path)
    except ValueError as error:
        assert str(path) in str(error)
        return str(error).removeprefix(f"{path}: ")
    for name in (*NAMES, "www.data.example", "elsewhere.test", ""):
        listset = index.find(name)
        assert 0 <= index.shape(listset) < index.shapes
        for member in range(4):
            reference = index.data(listset, member)
            if reference:
                index.records(reference)
    return ""


def test_any_flipped_bit_is_noticed(original: bytes, tmp_path: Path) -> None:
    chance = random.Random(4)
    path = tmp_path / "damaged.index"
    missed = 0
    for _ in range(COUNT):
        octets = bytearray(original)
        octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)
        path.write_bytes(octets)
        missed += not use(path)
    # Only the filling between sections is not part of any of them.
    assert missed < COUNT // 4


def test_any_length_is_noticed(original: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.index"
    for size in {*range(0, len(original), 37), HEADER - 1, HEADER, HEADER + 1, len(original) - 1}:
        path.write_bytes(original[:size])
        assert use(path)
    path.write_bytes(original + b"\0")
    assert use(path)


def test_damage_behind_right_checksums_does_no_harm(original: bytes, tmp_path: Path) -> None:
    chance = random.Random(5)
    path = tmp_path / "forged.index"
    outcomes: Counter[str] = Counter()
    for _ in range(COUNT):
        octets = bytearray(original)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.choice((chance.randrange(HEADER), chance.randrange(len(octets))))
            octets[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, octets[at] ^ 1 << chance.randrange(8)))
        path.write_bytes(with_checksums(octets))
        outcomes[use(path)] += 1
    assert outcomes[""] > 100 and len(outcomes) > 10, outcomes


def test_every_index_of_the_corpus_does_no_harm(tmp_path: Path) -> None:
    inputs = sorted((Path(__file__).parent / "corpus" / "index").iterdir())
    assert len(inputs) > 20
    path = tmp_path / "corpus.index"
    for found in inputs:
        octets = bytearray(found.read_bytes())
        path.write_bytes(with_checksums(octets) if len(octets) >= HEADER else bytes(octets))
        use(path)
