"""The native look-up: compared with the oracle on random lists, and asked to open files that are no good."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.engine.engine import BucketTable, Index, KeyCollision, SuffixTable, name_hash
from resolver.lists.layout import BUCKET, INDEX, INDEX_FACTS, PROLOGUE, SECTION, IndexSection
from resolver.lists.rules import Outcome, Rule, Trigger, TriggerKind
from resolver.vocabulary import Action, Scope, Verb
from tests.indexes import Asked, expected, make_index, read_table, with_sums
from tests.reference import ReferenceList, said_of, value_of

OUTCOMES = [
    Outcome(),
    Outcome(important=True),
    Outcome(Verb.ALLOW),
    Outcome(action=Action.NXDOMAIN, ttl=60),
    Outcome(action=Action.DATA, data=("A 192.0.2.1", "AAAA 2001:db8::1"), ttl=5),
    Outcome(action=Action.DATA, data=("A 192.0.2.2",)),
    Outcome(action=Action.CNAME, data=("walled.garden.",)),
    Outcome(action=Action.CNAME, data=("*.garden.",), ttl=7),
    Outcome(condition="dnstype=A"),
]
labels = st.sampled_from(["a", "b", "www", "a-label-of-more-than-eight"])
tlds = st.sampled_from(["x", "y", "example"])
names = st.one_of(
    st.just(""), tlds, st.builds(lambda parts, tld: ".".join([*parts, tld]), st.lists(labels, max_size=4), tlds)
)
rules = st.builds(Rule, names, st.sampled_from(list(Scope.__members__.values())), st.sampled_from(OUTCOMES))
rule_lists = st.builds(ReferenceList, st.lists(rules, max_size=12), st.booleans(), st.just(()))


@given(st.lists(rule_lists, max_size=4), st.lists(names, min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_says_what_the_oracle_says(lists: list[ReferenceList], asked: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        opened = Asked(make_index(Path(folder), lists))
    for name in {*asked, *(rule.name for entry in lists for rule in entry.rules)}:
        for question in (name, f"b.{name}".rstrip("."), f"z.www.{name}".rstrip(".")):
            said = opened.said_of(question)
            wanted = expected(opened.index, said_of(lists, question))
            assert sorted(map(repr, said)) == sorted(map(repr, wanted)), question


@given(st.dictionaries(names, st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12), st.lists(names))
@settings(deadline=None)
def test_suffix_table_says_what_the_oracle_says(table: dict[str, tuple[int, int]], asked: list[str]) -> None:
    native = SuffixTable(table)
    for name in {*asked, *table}:
        for question in (name, f"b.{name}".rstrip(".")):
            assert native.find(question) == value_of(table, question), question


def test_suffix_table_reads_names_in_any_case_and_with_a_final_dot() -> None:
    table = SuffixTable({"Corp.Example.": (1, 2)})
    assert (table.find("corp.example"), table.find("A.CORP.example."), table.find("example")) == (1, 2, 0)


# -- the hash ---------------------------------------------------------------------------------------------------------


def siphash128(key: bytes, message: bytes, compress: int, finish: int) -> bytes:
    """SipHash with 128 bits of output as its authors' paper and reference code say, in plain Python."""
    mask = (1 << 64) - 1
    key0, key1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [
        key0 ^ 0x736F6D6570736575,
        key1 ^ 0x646F72616E646F6D ^ 0xEE,
        key0 ^ 0x6C7967656E657261,
        key1 ^ 0x7465646279746573,
    ]

    def rotate(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & mask

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[2] = (v[2] + v[3]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & mask
            v[0] = (v[0] + v[3]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    padded = message + bytes(-(len(message) + 1) % 8) + bytes([len(message) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(compress)
        v[0] ^= word
    v[2] ^= 0xEE
    rounds(finish)
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    rounds(finish)
    return first.to_bytes(8, "little") + (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")


def test_the_plain_hash_gives_the_published_vectors() -> None:
    """vectors_sip128 of the reference code: SipHash-2-4-128 of 0, 1 and 2 octets."""
    key = bytes(range(16))
    assert siphash128(key, b"", 2, 4).hex() == "a3817f04ba25a8e66df67214c7550293"
    assert siphash128(key, b"\0", 2, 4).hex() == "da87c1d86b99af44347659119b22fc45"
    assert siphash128(key, b"\0\1", 2, 4).hex() == "8177228da4a45dc7fca38bdef60affe4"


@given(st.binary(min_size=16, max_size=16), st.lists(st.integers(1, 63), max_size=4), st.randoms())
@settings(deadline=None)
def test_a_names_hash_is_siphash_of_its_labels_from_the_tld_down(
    key: bytes, sizes: list[int], dice: random.Random
) -> None:
    parts = ["".join(dice.choices("abcxyz019-_", k=size)) for size in sizes]
    if sum(sizes) + len(sizes) > 253:
        parts = parts[:3]
    message = b""
    for label in reversed(parts):
        octets = bytes([len(label)]) + label.encode()
        message += octets + bytes(-len(octets) % 8)
    assert name_hash(key, ".".join(parts)) == siphash128(key, message, 1, 3)


# -- the layout of buckets --------------------------------------------------------------------------------------------


def test_a_bucket_that_is_full_sends_its_entries_on() -> None:
    table = BucketTable()
    for low in range(1, 22):  # all of one bucket, three filter bits
        table.add(0, low | (low % 3) << 61, 0, False)
    table.fill([0])
    assert (table.buckets, table.reach) == (4, 2)
    assert [table.octets[bucket * BUCKET + BUCKET - 1] for bucket in range(4)] == [0b111, 0b111, 0, 0]


def test_names_that_share_a_fingerprint_in_a_bucket_are_refused() -> None:
    table = BucketTable()
    table.add(5 << 40, 7, 0, False)
    table.add(6 << 40, 7, 0, True)
    with pytest.raises(KeyCollision):
        table.fill([0])


def test_a_fingerprint_of_zero_is_not_a_free_slot() -> None:
    table = BucketTable()
    table.add(0, 0, 0, False)
    table.fill([0])
    assert table.octets[:7] == b"\1\0\0\0\0\0\0"


def test_pairs_beyond_the_short_ids_go_to_the_side_table(tmp_path: Path) -> None:
    count = 40_000
    rules = [
        Rule(
            f"n{number}.example",
            Scope.BOTH,
            Outcome(action=Action.DATA, data=(f"A 10.0.{number >> 8}.{number & 255}",)),
        )
        for number in range(count)
    ]
    opened = Asked(make_index(tmp_path, [ReferenceList(rules, replaces=True)]))
    assert opened.index.shapes == 2
    assert opened.index.listsets == count + 1
    for number in range(count):
        ((_, _, records),) = opened.said_of(f"www.n{number}.example")
        assert records == (None, False, [(1, bytes([10, 0, number >> 8, number & 255]))])
    assert opened.index.find("n40000.example") == 0


def test_random_names_that_are_not_listed_are_not_found(tmp_path: Path) -> None:
    dice = random.Random(5)
    listed = [Rule(f"{dice.randrange(1 << 40):x}.example", Scope.BOTH, Outcome()) for _ in range(20_000)]
    index = Index(make_index(tmp_path, [ReferenceList(listed)]))
    assert all(index.find(rule.name) for rule in listed)
    assert not any(index.find(f"{dice.randrange(1 << 40):x}-.example") for _ in range(100_000))


def test_counts_listed_names_in_wire_form(tmp_path: Path) -> None:
    index = Index(make_index(tmp_path, [ReferenceList([Rule("x.example", Scope.BOTH, Outcome())])]))
    names = b"\1x\7example\0" + b"\0" + b"\3www\1x\7example\0" + b"\7example\0"
    assert index.count_listed(names) == 2
    assert index.count_listed(b"") == 0
    for bad in (b"\1", b"\7example", b"\1x", b"\100" + b"a" * 64 + b"\0", b"\1a" * 128 + b"\0"):
        with pytest.raises(ValueError, match="wire form"):
            index.count_listed(names + bad)


@pytest.mark.parametrize("name", ["a..b", ".a", "a" * 64, ".".join(["a" * 60] * 5), "ä.example"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    index = Index(make_index(tmp_path, []))
    with pytest.raises(ValueError, match=r"name|ascii"):
        index.find(name)


# -- files that are no good -------------------------------------------------------------------------------------------


TRIGGERS = (
    Trigger(TriggerKind.ADDRESS, "192.0.2.0/24", Outcome(), 1),
    Trigger(TriggerKind.ADDRESS, "2001:db8::/32", Outcome(), 2),
    Trigger(TriggerKind.CLIENT, "192.0.2.0/24", Outcome(), 3),
    Trigger(TriggerKind.NSDNAME, "ns.example", Outcome(), 4),
    Trigger(TriggerKind.NSIP, "192.0.2.7/32", Outcome(), 5),
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An index with something in every section."""
    rules = [
        Rule(
            f"n{number}.example",
            Scope.BOTH,
            Outcome(action=Action.DATA, data=(f"A 10.0.{number >> 8}.{number & 255}",)),
        )
        for number in range(33_000)
    ]
    zone = ReferenceList([*rules[:9]], True, TRIGGERS)
    path = make_index(tmp_path_factory.mktemp("index"), [ReferenceList(rules), zone])
    octets = path.read_bytes()
    assert all(length for _, length, _ in read_table(octets, INDEX))
    return octets


def refused(folder: Path, octets: bytes) -> str:
    path = folder / "bad.index"
    path.write_bytes(octets)
    with pytest.raises(ValueError, match=r"bad\.index") as caught:
        Index(path)
    with pytest.raises(ValueError, match=r"bad\.index") as patiently:
        Index(path, patient=True)
    assert str(patiently.value) == str(caught.value)
    return str(caught.value)


def test_a_file_opened_patiently_says_the_same(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "good.index"
    path.write_bytes(good)
    at_once, patient = Index(path), Index(path, patient=True)
    names = [f"{below}n{number}.example" for number in range(0, 34_000, 97) for below in ("", "www.")]
    assert [patient.find(name) for name in names] == [at_once.find(name) for name in names]
    assert patient.entries == at_once.entries > 33_000


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, good: bytes) -> None:
    ends = [0, 1, 7, 8, INDEX.header - 1, INDEX.header, len(good) - 1]
    for offset, length, _ in read_table(good, INDEX):
        ends += [offset, offset + 1, offset + length - 1]
    for end in ends:
        refused(tmp_path, good[:end])
    refused(tmp_path, good + b"\0")


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path, good: bytes) -> None:
    dice = random.Random(7)
    places = list(range(INDEX.header))
    for offset, length, _ in read_table(good, INDEX):
        places += [offset, offset + length - 1, *(dice.randrange(offset, offset + length) for _ in range(12))]
    for place in places:
        octets = bytearray(good)
        octets[place] ^= 1 << dice.randrange(8)
        refused(tmp_path, bytes(octets))


def test_another_file_or_version_is_refused_by_name(tmp_path: Path, good: bytes) -> None:
    assert "magic" in refused(tmp_path, b"<!DOCTYPE html>" + good[15:])
    assert "version 9" in refused(tmp_path, with_sums(good[:8] + (9).to_bytes(4, "little") + good[12:], INDEX))


FACTS = PROLOGUE.size
TABLE = FACTS + INDEX_FACTS.size


@pytest.mark.parametrize(
    ("section", "at", "value", "fault"),
    [
        (None, FACTS + 16, 0, "number of buckets"),
        (None, FACTS + 16, 0xFFFFFFFF, "number of buckets"),
        (None, FACTS + 16, 7, "the length that the header says"),
        (None, FACTS + 20, 0xFFFFFFFF, "reach"),
        (None, FACTS + 24, 5, "hold not as many entries"),
        (None, FACTS + 32, 0xFFFFFFFF, "root's listset"),
        (None, FACTS + 36, 0x7FFFFFFF, "root's listset"),
        (None, TABLE, 63, "outside the file"),
        (None, TABLE + 4, 1, "outside the file"),
        (None, TABLE + 12, 0xFFFFFFFF, "outside the file"),
        (None, TABLE + SECTION.size + 8, 12, "no multiple of its cells"),
        (IndexSection.PAIRS, 0, 0xFFFFFFFF, "pair's listset"),
        (IndexSection.PAIRS, 4, 0x00FFFFFF, "pair's listset"),
        (IndexSection.LISTSETS, 0, 1, "listset 0"),
        (IndexSection.LISTSETS, 8, 99, "shape is out of range"),
        (IndexSection.LISTSETS, 12, 0xFFFFFFFF, "data references are out of range"),
        (IndexSection.SHAPES, 0, 1, "shape 0"),
        (IndexSection.SHAPES, 4, 0xFFFFFFFF, "data references are out of range"),
        (IndexSection.REFS, 4, 0xFFFFFFFF, "data reference is out of range"),
        (IndexSection.DATA, 12, 0xFFFF0000, "record is cut off"),
        (IndexSection.ADDRESSES, 0, 0, "the length that it says"),
        (IndexSection.ADDRESSES, 0, 0xFFFFFFFF, "the length that it says"),
        (IndexSection.ADDRESSES, 4, 4, "the length that it says"),
        (IndexSection.ADDRESSES, 8, 1, "ascend from zero"),
        (IndexSection.ADDRESSES, 12, 0, "ascend from zero"),
        (IndexSection.ADDRESSES, 24, 99, "range's set"),
        (IndexSection.ADDRESSES, 32, 99, "range's set"),
        (IndexSection.ADDRESSES, 44, 1, "ascend from zero"),
        (IndexSection.NSIPS, 12, 0, "ascend from zero"),
        (IndexSection.SETS, 0, 1, "set 0"),
        (IndexSection.SETS, 8, 0xFFFFFF, "set's listset"),
        (IndexSection.SETS, 12, 99, "prefix lengths"),
        (IndexSection.NSNAMES, 0, 0xFF, "cut off"),
        (IndexSection.NSNAMES, 1, 0xFFFFFF, "listset of a name server"),
        (IndexSection.NSNAMES, 9, 0x2E2E2E2E, "name server is none"),
    ],
)
def test_a_number_out_of_range_is_refused_though_checksums_agree(
    tmp_path: Path, good: bytes, section: IndexSection | None, at: int, value: int, fault: str
) -> None:
    octets = bytearray(good)
    start = 0 if section is None else read_table(good, INDEX)[section][0]
    octets[start + at : start + at + 4] = value.to_bytes(4, "little")
    assert fault in refused(tmp_path, with_sums(bytes(octets), INDEX))


def test_an_entry_or_side_cell_out_of_range_is_refused(tmp_path: Path, good: bytes) -> None:
    table = read_table(good, INDEX)
    offset, length, _ = table[IndexSection.SIDE]
    used = next(at for at in range(offset, offset + length, 8) if any(good[at : at + 4]))
    assert "side table" in refused(tmp_path, with_sums(good[:used] + b"\xff\xff\xff\xff" + good[used + 4 :], INDEX))
    assert "side table" in refused(
        tmp_path, with_sums(good[: used + 4] + b"\xff\xff\xff\xff" + good[used + 8 :], INDEX)
    )
    assert "side table" in refused(tmp_path, with_sums(good[:used] + bytes(4) + good[used + 4 :], INDEX))
    full = b"\1\0\0\0\0\0\0\0" * (length // 8)
    assert "side table" in refused(tmp_path, with_sums(good[:offset] + full + good[offset + length :], INDEX))


def test_random_octets_under_right_checksums_never_crash(tmp_path: Path, good: bytes) -> None:
    dice = random.Random(11)
    path = tmp_path / "mutated.index"
    table = read_table(good, INDEX)
    for _ in range(150):
        octets = bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            offset, length, _sum = dice.choice([*table, (FACTS, INDEX_FACTS.size, 0)])
            at = dice.randrange(offset, offset + length)
            octets[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        path.write_bytes(with_sums(bytes(octets), INDEX))
        try:
            index = Index(path)
        except ValueError:
            continue
        for number in range(0, 33_000, 611):
            listset = index.find(f"www.n{number}.example")
            index.shape(listset)
            for member in range(4):
                reference = index.data(listset, member)
                if reference:
                    index.records(reference)
