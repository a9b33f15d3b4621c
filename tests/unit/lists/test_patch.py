"""A patched index answers as a full build of the same lists would, and as the oracle says; or there is none."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resolver.engine.engine import Index, IndexPatch, KeyCollision, RunBuilder
from resolver.lists import patch, runs
from resolver.lists.container import SectionReader, SectionWriter, replacing
from resolver.lists.layout import (
    BUCKET,
    CHILDREN,
    INDEX,
    PAIR,
    PAIR_MASK,
    SIDE_CELL,
    SLOTS,
    VALUES,
    IndexSection,
    key_of,
)
from resolver.lists.merge import IndexReport, ListRun, read_header, write_index
from resolver.lists.patch import patch_index
from resolver.lists.rules import Outcome, Rule
from resolver.lists.runs import RunHeader, write_run
from resolver.lists.splice import splice_run
from resolver.vocabulary import Action, Scope, Verb
from tests.indexes import Asked, expected, make_run
from tests.reference import ReferenceList, said_of, suffixes

BLOCK = Outcome()
ALLOW = Outcome(Verb.ALLOW)
KEY = bytes(range(16))
LABELS = ("a", "b", "c")
NAMES = [".".join(labels) for depth in range(1, 5) for labels in itertools.product(LABELS, repeat=depth)]
OUTCOMES = (
    BLOCK,
    ALLOW,
    Outcome(action=Action.NODATA),
    Outcome(action=Action.DATA, data=("A 192.0.2.1",)),
    Outcome(action=Action.DATA, data=("A 192.0.2.2", "TXT hello")),
)


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every change may be patched, however small the index; runs have many blocks, of which most stay as they are."""
    monkeypatch.setattr(runs, "BLOCK_KEYS", 8)
    monkeypatch.setattr(patch, "MAX_SHARE", 1000.0)
    monkeypatch.setattr(patch, "MAX_SUM", 1000.0)
    monkeypatch.setattr(patch, "MAX_FILL", 1.0)


class Builds:
    """Builds generations of lists in a folder; runs are named by what is in them, as real ones are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.index = folder / "0.index"

    def runs(self, lists: Sequence[ReferenceList]) -> list[ListRun]:
        entries = []
        for number, entry in enumerate(lists):
            path = self.folder / f"{number}-{abs(hash((tuple(entry.rules), entry.triggers))):x}.run"
            if not path.exists():
                make_run(path, entry.rules, entry.replaces, entry.triggers)
            entries.append(ListRun(f"list{number}", path, entry.replaces))
        return entries

    def full(self, lists: Sequence[ReferenceList], key: bytes | None = KEY) -> None:
        self.number += 1
        self.index = self.folder / f"{self.number}.index"
        write_index(self.index, self.runs(lists), key)

    def patched(self, lists: Sequence[ReferenceList]) -> IndexReport | None:
        """Patch the last index for these lists; it takes its place if that was possible."""
        self.number += 1
        path = self.folder / f"{self.number}.index"
        report = patch_index(self.index, path, self.runs(lists))
        assert path.exists() == (report is not None)
        if report:
            self.index = path
        return report


def check(path: Path, lists: Sequence[ReferenceList], names: Sequence[str]) -> None:
    asked = Asked(path)
    for name in names:
        said = asked.said_of(name)
        wanted = expected(asked.index, said_of(lists, name))
        assert sorted(said, key=repr) == sorted(wanted, key=repr), name
        assert [number for number, _, _ in said] == sorted(number for number, _, _ in said)


# -- against the oracle -----------------------------------------------------------------------------------------------
_names = st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES[:12]))
_rules = st.builds(Rule, _names, st.sampled_from(list(Scope)), st.sampled_from(OUTCOMES))
_lists = st.lists(
    st.builds(ReferenceList, st.lists(_rules, max_size=12).map(tuple), st.booleans(), st.just(())),
    min_size=1,
    max_size=4,
)
_changes = st.lists(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(_rules, max_size=3), st.sets(st.integers(0, 15), max_size=3)),
        min_size=1,
        max_size=2,
    ),
    min_size=1,
    max_size=5,
)


def changed(lists: list[ReferenceList], change: list[tuple[int, list[Rule], set[int]]]) -> list[ReferenceList]:
    """The lists with rules removed by place and added at the end, in one or two of them."""
    lists = list(lists)
    for number, added, removed in change:
        entry = lists[number % len(lists)]
        kept = [rule for place, rule in enumerate(entry.rules) if place not in removed]
        lists[number % len(lists)] = ReferenceList((*kept, *added), entry.replaces)
    return lists


@settings(
    max_examples=int(os.environ.get("TAMPAH_PATCH_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(lists=_lists, changes=_changes)
def test_a_chain_of_patches_answers_as_the_oracle_and_a_full_build(
    unbounded: None, lists: list[ReferenceList], changes: list[list[tuple[int, list[Rule], set[int]]]]
) -> None:
    with TemporaryDirectory() as folder:
        builds = Builds(Path(folder))
        # Names of the first outcomes keep these in their order, so that a change does not end in a full build.
        lists = [
            ReferenceList(
                (*(Rule(f"z{place}", Scope.SELF, outcome) for place, outcome in enumerate(OUTCOMES)), *entry.rules),
                entry.replaces,
            )
            for entry in lists
        ]
        room = ReferenceList(block(*(f"room{number}" for number in range(300))))  # free slots for new names
        builds.full([*lists, room])
        for change in changes:
            change = [(number, added, {place + len(OUTCOMES) for place in gone}) for number, added, gone in change]
            lists = changed(lists, change)
            assert builds.patched([*lists, room])
            check(
                builds.index,
                [*lists, room],
                ["", "x.room7", *NAMES, *(f"x.{name}" for name in NAMES[:39]), "x.z0", "a.x"],
            )
            fresh = Builds(Path(folder) / "fresh")
            fresh.folder.mkdir(exist_ok=True)
            fresh.full([*lists, room])
            whole, part = Asked(fresh.index), Asked(builds.index)
            for name in NAMES:
                assert part.said_of(name) == whole.said_of(name), name  # also in the same order
            assert part.index.entries >= whole.index.entries


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sets(st.integers(0, 399), min_size=310),
    changes=st.lists(st.sets(st.integers(0, 399), max_size=60), min_size=1, max_size=5),
    long=st.booleans(),
)
def test_full_buckets_and_a_long_side_table(
    unbounded: None, start: set[int], changes: list[set[int]], long: bool
) -> None:
    """Pair ids above 32767 are made by a list in which each name has data of its own, of which few are looked at."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as context:
        builds = Builds(Path(folder))
        values = [Outcome(action=Action.DATA, data=(f"A 10.0.{number >> 8}.{number & 255}",)) for number in range(400)]
        head = tuple(Rule(f"h{number}", Scope.SELF, values[number]) for number in range(400)) if long else ()

        def lists(numbers: set[int]) -> list[ReferenceList]:
            def rule(number: int) -> Rule:
                return Rule(f"n{number}.a", Scope.BOTH, values[number] if long else BLOCK)

            return [
                ReferenceList((*head, *map(rule, sorted(numbers))), True),
                ReferenceList((Rule("b", Scope.SELF, ALLOW),)),
            ]

        builds.full(lists(start))
        if long:  # as if there were tens of thousands of pairs before these
            _lift_pairs(builds.index)
        context.setattr(patch, "COMMON", 0)
        for change in changes:
            start = start ^ change
            report = builds.patched(lists(start))
            if report is None:
                assert not long  # 400 more names leave room for these
                builds.full(lists(start))
                continue
            asked = Asked(builds.index)
            assert report.entries == asked.index.entries == asked.header.entries
            check(builds.index, lists(start), [f"n{number}.a" for number in range(400)] + ["a", "x.n7.a", "b", "h3"])
            assert asked.index.entries == len(start) + 2 + len(head)  # with `a`, `b`


def _lift_pairs(path: Path) -> None:
    """Write an index anew with 40,000 pairs before its own, so that all entries are in the side table."""
    lift = 40_000
    with SectionReader(path, INDEX) as file:
        sections = [file.read(number) for number in IndexSection]
        facts = file.facts
    buckets = bytearray(sections[IndexSection.BUCKETS])
    cells = []
    for place in range(len(buckets) // BUCKET * SLOTS):
        at, slot = place // SLOTS * BUCKET, place % SLOTS
        if any(buckets[at + 7 * slot : at + 7 * slot + 7]):
            value = int.from_bytes(buckets[at + VALUES + 2 * slot : at + VALUES + 2 * slot + 2], "little")
            cells.append((place, (value & PAIR_MASK) + lift))
            buckets[at + VALUES + 2 * slot : at + VALUES + 2 * slot + 2] = (value | PAIR_MASK).to_bytes(2, "little")
    count = len(cells) * 3 // 2 + 1
    side = [(0, 0)] * count
    for place, pair in cells:
        at = ((place * 0x9E3779B1 & 0xFFFFFFFF) * count) >> 32
        while side[at][0]:
            at = (at + 1) % count
        side[at] = (place + 1, pair)
    sections[IndexSection.BUCKETS] = bytes(buckets)
    sections[IndexSection.SIDE] = b"".join(itertools.starmap(SIDE_CELL.pack, side))
    sections[IndexSection.PAIRS] = bytes(PAIR.size * lift) + sections[IndexSection.PAIRS]
    with replacing(path) as out:
        writer = SectionWriter(out, INDEX)
        for section in sections:
            writer.add(section)
        writer.finish(*facts)


# -- what is kept and what goes ---------------------------------------------------------------------------------------
def block(*names: str) -> tuple[Rule, ...]:
    return tuple(Rule(name, Scope.BOTH, BLOCK) for name in names)


def test_entries_that_nobody_needs_go(tmp_path: Path, unbounded: None) -> None:
    builds = Builds(tmp_path)
    other = ReferenceList(block("other.example"))
    builds.full([ReferenceList(block("x.example", "y.example")), other])
    report = builds.patched([ReferenceList(block("x.example")), other])
    assert report
    assert report.entries == Index(builds.index).entries == 3
    assert report.names == 2


def test_a_parent_left_behind_is_seen_again_when_its_parent_changes(tmp_path: Path, unbounded: None) -> None:
    """b.x.example has an entry only for a name that goes; later x.example is listed and then not."""
    builds = Builds(tmp_path)
    host = ReferenceList((Rule("h.x.example", Scope.BOTH, ALLOW),))
    builds.full([ReferenceList(block("a.b.x.example")), host])
    for names in [("u.example",), ("x.example",), ("u.example",), ("example",), ("u.example",)]:
        lists = [ReferenceList(block(*names)), host]
        assert builds.patched(lists)
        check(
            builds.index,
            lists,
            ["example", "x.example", "b.x.example", "a.b.x.example", "c.b.x.example", "h.x.example"],
        )


def test_names_that_added_nothing_come_up_when_their_parent_goes(tmp_path: Path, unbounded: None) -> None:
    builds = Builds(tmp_path)
    builds.full([ReferenceList(block("x.example", "a.b.x.example")), ReferenceList(block("y.example"))])
    lists = [ReferenceList(block("a.b.x.example")), ReferenceList(block("y.example"))]
    assert builds.patched(lists)
    check(builds.index, lists, ["x.example", "b.x.example", "a.b.x.example", "c.a.b.x.example", "y.example"])


def test_names_that_added_nothing_come_up_after_a_transfer_too(tmp_path: Path, unbounded: None) -> None:
    others = [f"n{number}.example" for number in range(100)]
    lists = [ReferenceList(block("x.example", "a.b.x.example", *others))]
    builds = Builds(tmp_path)
    builds.full(lists)
    [entry] = builds.runs(lists)
    after = tmp_path / "after.run"
    with runs.Run(entry.run) as run:
        splice_run(entry.run, after, {key_of("x.example"): ()}, run.header)
    assert patch_index(builds.index, tmp_path / "after.index", [entry._replace(run=after)])
    left = [ReferenceList(block("a.b.x.example", *others))]
    check(
        tmp_path / "after.index", left, ["x.example", "b.x.example", "a.b.x.example", "c.a.b.x.example", "n7.example"]
    )


def test_the_header_says_the_new_runs_and_how_often_it_was_patched(tmp_path: Path, unbounded: None) -> None:
    builds = Builds(tmp_path)
    builds.full([ReferenceList(block("x.example")), ReferenceList(())])
    after = [ReferenceList(block("x.example", "y.example")), ReferenceList((Rule("y.example", Scope.SELF, ALLOW),))]
    report = builds.patched(after)
    header = read_header(builds.index)
    assert [(entry.run, entry.names) for entry in header.lists] == [
        (entry.run.name, names) for entry, names in zip(builds.runs(after), (2, 1), strict=True)
    ]
    assert report
    assert len(header.shapes) == report.shapes == Index(builds.index).shapes


# -- when a full build is due -----------------------------------------------------------------------------------------
def many(count: int, *more: str) -> ReferenceList:
    return ReferenceList(block(*(f"n{number}.example" for number in range(count)), *more))


def test_more_changes_than_two_in_a_hundred_are_none_of_ours(tmp_path: Path) -> None:
    builds = Builds(tmp_path)
    builds.full([many(1000), many(5)])
    assert builds.patched([many(1000), many(5, *(f"m{number}" for number in range(21)))]) is None
    assert builds.patched([many(1000, "x"), many(5, *(f"m{number}" for number in range(20)))]) is None
    assert builds.patched([many(1000), many(5, *(f"m{number}" for number in range(20)))])


@pytest.mark.parametrize(
    ("bound", "value", "patches"), [("MAX_PATCHES", 3, 3), ("MAX_SUM", 0.0045, 4), ("MAX_FILL", 0.801, 2)]
)
def test_a_chain_of_patches_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: float, patches: int
) -> None:
    monkeypatch.setattr(patch, bound, value)
    builds = Builds(tmp_path)
    builds.full([many(1000), many(5)])
    names = ["m0"]
    while builds.patched([many(1000), many(5, *names)]):
        names.append(f"m{len(names)}")
    assert len(names) - 1 == patches


def test_other_lists_another_order_or_another_dialect_are_none_of_ours(tmp_path: Path, unbounded: None) -> None:
    builds = Builds(tmp_path)
    first, second = ReferenceList(block("x.example")), ReferenceList(block("y.example"), True)
    builds.full([first, second])
    assert builds.patched([first]) is None
    assert builds.patched([second, first]) is None
    assert builds.patched([first, ReferenceList(block("z.example"))]) is None


def test_the_root_and_outcomes_in_another_order_are_none_of_ours(tmp_path: Path, unbounded: None) -> None:
    builds = Builds(tmp_path)
    rules = (Rule("x.example", Scope.BOTH, BLOCK), Rule("y.example", Scope.BOTH, ALLOW))
    builds.full([ReferenceList(rules)])
    assert builds.patched([ReferenceList((*rules, Rule("", Scope.BELOW, BLOCK)))]) is None
    assert builds.patched([ReferenceList((*reversed(rules), *block("z.example")))]) is None
    assert builds.patched([ReferenceList((*rules, *block("z.example")))])


def test_a_damaged_index_or_a_missing_run_is_an_error_and_leaves_nothing(tmp_path: Path, unbounded: None) -> None:
    builds = Builds(tmp_path)
    builds.full([many(100)])
    (builds.folder / builds.runs([many(100)])[0].run.name).unlink()
    with pytest.raises(OSError, match=r"\.run"):
        patch_index(builds.index, tmp_path / "new.index", builds.runs([many(101)]))
    builds.runs([many(100)])
    octets = bytearray(builds.index.read_bytes())
    octets[200] ^= 1
    builds.index.write_bytes(octets)
    with pytest.raises(ValueError, match="checksum"):
        patch_index(builds.index, tmp_path / "new.index", builds.runs([many(101)]))
    assert not list(tmp_path.glob("*new.index*"))


def test_a_patch_that_dies_leaves_the_old_index_alone(
    tmp_path: Path, unbounded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = Builds(tmp_path)
    builds.full([many(100)])
    octets = builds.index.read_bytes()
    runs = builds.runs([many(101)])

    def die(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(OSError, match="No space"):
        patch_index(builds.index, tmp_path / "new.index", runs)
    assert builds.index.read_bytes() == octets
    assert not list(tmp_path.glob("*new.index*"))


def test_two_names_with_one_fingerprint_end_a_patch(tmp_path: Path) -> None:
    """A name below one that says that it has none below it, and yet its fingerprint is in its bucket."""
    builds = Builds(tmp_path)
    builds.full([many(3)])
    buckets = IndexPatch(Index(builds.index))
    for bucket in range(buckets.buckets):
        for slot in range(SLOTS):
            buckets.octets[BUCKET * bucket + VALUES + 2 * slot + 1] &= ~CHILDREN >> 8 & 0xFF
    with pytest.raises(KeyCollision, match="told apart"):
        buckets.walk([(key_of("n0.example"), (3,), False)], lambda own, below, inherited, rules: (below, 0, True))


def test_a_list_that_is_large_beside_others(tmp_path: Path) -> None:
    """Several blocks of runs, parents in one list and children in another."""
    big = RunBuilder()
    big.scan(b"".join(b"n%d.host%d.example\n" % (name, name % 50) for name in range(20_000)), 1, [(b"", b"", 3, 0)])
    write_run(tmp_path / "big.run", big, RunHeader((BLOCK,)))
    hosts = [f"host{number}.example" for number in range(50)]

    def runs(number: int, names: Sequence[str]) -> list[ListRun]:
        make_run(tmp_path / f"small{number}.run", [Rule(name, Scope.BELOW, ALLOW) for name in names])
        return [
            ListRun("big", tmp_path / "big.run", False),
            ListRun("small", tmp_path / f"small{number}.run", False),
        ]

    write_index(tmp_path / "0.index", runs(0, hosts[:3]))
    for number, names in enumerate((hosts[1:5], hosts[30:], [*hosts[::7], "n5.host5.example"]), 1):
        assert patch_index(tmp_path / f"{number - 1}.index", tmp_path / f"{number}.index", runs(number, names))
        asked = Asked(tmp_path / f"{number}.index")
        for name in range(0, 20_000, 13):
            text = f"n{name}.host{name % 50}.example"
            wanted = [0] + [1] * any(parent in names for parent in list(suffixes(text))[:-1])
            assert [entry for entry, _, _ in asked.said_of(text)] == wanted
