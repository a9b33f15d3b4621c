"""The index file as a whole: what lists come to together, what is left out, and what its header says."""

from __future__ import annotations

from pathlib import Path

import pytest

from resolver.engine.engine import Index, KeyCollision, RunBuilder
from resolver.lists import merge
from resolver.lists.container import Damaged
from resolver.lists.layout import INDEX, IndexSection
from resolver.lists.merge import Combiner, IndexedList, Kind, ListRun, Member, read_header, write_index
from resolver.lists.rules import Outcome, Rule
from resolver.lists.runs import RunHeader, write_run
from resolver.vocabulary import Action, Scope, Verb
from tests.indexes import Asked, make_index, make_run, read_table
from tests.reference import ReferenceList

BLOCK = Outcome()
ALLOW = Outcome(Verb.ALLOW)


def said(asked: Asked, name: str) -> list[tuple[int, Verb]]:
    return [(number, kind.verb) for number, kind, _ in asked.said_of(name)]


def test_ordinary_lists_add_up_and_the_most_specific_replaces_where_it_should(tmp_path: Path) -> None:
    rules = [Rule("x.example", Scope.BOTH, BLOCK), Rule("good.x.example", Scope.BOTH, ALLOW)]
    asked = Asked(make_index(tmp_path, [ReferenceList(rules), ReferenceList(rules, replaces=True)]))
    assert said(asked, "x.example") == [(0, Verb.BLOCK), (1, Verb.BLOCK)]
    assert said(asked, "www.good.x.example") == [(0, Verb.BLOCK), (0, Verb.ALLOW), (1, Verb.ALLOW)]
    assert said(asked, "goodx.example") == said(asked, "example") == []


def test_rpz_exact_beats_wildcard_and_the_longest_wildcard_wins(tmp_path: Path) -> None:
    rules = [
        Rule("example", Scope.BELOW, BLOCK),
        Rule("a.b.example", Scope.BELOW, Outcome(action=Action.NODATA)),
        Rule("www.a.b.example", Scope.SELF, ALLOW),
    ]
    asked = Asked(make_index(tmp_path, [ReferenceList(rules, replaces=True)]))

    def kinds(name: str) -> list[Kind]:
        return [kind for _, kind, _ in asked.said_of(name)]

    assert kinds("example") == []
    assert kinds("b.example") == kinds("a.b.example") == [Kind()]
    assert kinds("mail.a.b.example") == [Kind(action=Action.NODATA)]
    assert kinds("www.a.b.example") == [Kind(Verb.ALLOW)]
    assert kinds("x.www.a.b.example") == [Kind(action=Action.NODATA)]


def test_a_rule_for_the_root_covers_everything(tmp_path: Path) -> None:
    asked = Asked(make_index(tmp_path, [ReferenceList([Rule("", Scope.BELOW, BLOCK)])]))
    assert said(asked, "") == []
    assert said(asked, "com") == said(asked, "www.example.net") == [(0, Verb.BLOCK)]


def test_names_that_add_nothing_are_left_out(tmp_path: Path) -> None:
    rules = [
        Rule("x.example", Scope.BOTH, BLOCK),
        Rule("www.x.example", Scope.BOTH, BLOCK),
        Rule("a.b.c.x.example", Scope.SELF, BLOCK),
    ]
    asked = Asked(make_index(tmp_path, [ReferenceList(rules)]))
    assert asked.index.entries == 2  # example and x.example
    assert asked.header.names == 3
    assert said(asked, "a.b.c.x.example") == said(asked, "www.x.example") == [(0, Verb.BLOCK)]


def test_no_list_and_empty_lists_make_an_index_in_which_nobody_speaks(tmp_path: Path) -> None:
    for lists in ([], [ReferenceList([]), ReferenceList([], True)]):
        asked = Asked(make_index(tmp_path, lists))
        assert asked.index.find("www.example.com") == asked.index.find("") == 0
        assert (asked.index.entries, asked.index.shapes, asked.index.listsets) == (0, 1, 1)


def test_the_header_says_lists_and_shapes(tmp_path: Path) -> None:
    data = Outcome(Verb.BLOCK, True, Action.DATA, 60, ("A 192.0.2.1",))
    lists = [
        ReferenceList([Rule("x.example", Scope.BOTH, BLOCK), Rule("y.example", Scope.BOTH, data)]),
        ReferenceList([Rule("x.example", Scope.SELF, ALLOW)], replaces=True),
    ]
    asked = Asked(make_index(tmp_path, lists))
    assert asked.header.lists == (
        IndexedList("list0", "list0.run", False, 2),
        IndexedList("list1", "list1.run", True, 1),
    )
    assert set(asked.header.shapes) == {
        (),
        (Member(0, Kind()),),
        (Member(0, Kind(Verb.BLOCK, True, Action.DATA, 60)),),
        (Member(0, Kind()), Member(1, Kind(Verb.ALLOW))),
    }
    assert asked.header.shapes[0] == ()
    assert asked.index.shapes == len(asked.header.shapes)


def test_outcomes_with_data_share_a_shape_and_equal_data_is_stored_once(tmp_path: Path) -> None:
    rules = [
        Rule(f"n{number}.example", Scope.SELF, Outcome(action=Action.DATA, data=(f"A 192.0.2.{number % 7}",)))
        for number in range(100)
    ]
    path = make_index(tmp_path, [ReferenceList(rules), ReferenceList(rules[:50])])
    asked = Asked(path)
    assert asked.index.shapes == 3
    assert read_table(path.read_bytes(), INDEX)[IndexSection.DATA][1] == 8 + 7 * (8 + 4 + 4)


def test_data_that_is_no_record_names_list_and_text(tmp_path: Path) -> None:
    rule = Rule("x.example", Scope.SELF, Outcome(action=Action.DATA, data=("A 999.0.2.1",)))
    with pytest.raises(ValueError, match=r"list0: not a record: 'A 999\.0\.2\.1'"):
        make_index(tmp_path, [ReferenceList([rule])])


def test_200_000_distinct_listsets(tmp_path: Path) -> None:
    """Eighteen lists, and a name for each set of them but the empty one."""
    count = (1 << 18) - 1
    runs = []
    for number in range(18):
        builder = RunBuilder()
        text = b"".join(b"n%d.example\n" % name for name in range(1, count + 1) if name >> number & 1)
        builder.scan(text, 1, [(b"", b"", Scope.SELF, 0)])
        write_run(tmp_path / f"{number}.run", builder, RunHeader((BLOCK,)))
        runs.append(ListRun(f"list{number}", tmp_path / f"{number}.run", False))
    report = write_index(tmp_path / "1.index", runs)
    assert report.listsets == report.shapes == 1 << 18
    asked = Asked(tmp_path / "1.index")
    for name in (*range(1, count, 97), count):
        members = asked.header.shapes[asked.index.shape(asked.index.find(f"n{name}.example"))]
        assert sum(1 << member.list for member in members) == name
    assert asked.index.find("n0.example") == asked.index.find(f"n{count + 1}.example") == 0


def test_a_collision_makes_it_draw_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "a.run", [Rule("x.example", Scope.BOTH, BLOCK)])
    runs = [ListRun("a", tmp_path / "a.run", False)]
    write, keys = merge._write_index, []

    def collide(path: Path, lists: object, opened: object, key: bytes) -> merge.IndexReport:
        keys.append(key)
        if len(keys) < 3:
            raise KeyCollision
        return write(path, runs, opened, key)  # type: ignore[arg-type]

    monkeypatch.setattr(merge, "_write_index", collide)
    write_index(tmp_path / "1.index", runs)
    assert len(set(keys)) == 3
    assert Index(tmp_path / "1.index").find("x.example")
    keys.clear()
    with pytest.raises(KeyCollision):
        write_index(tmp_path / "2.index", runs, bytes(16))
    assert keys == [bytes(16)]
    assert not (tmp_path / "2.index").exists()


def test_a_run_of_another_dialect_or_damaged_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a.run", [Rule("x.example", Scope.BOTH, BLOCK)], replaces=True)
    with pytest.raises(Damaged, match=r"a\.run"):
        write_index(tmp_path / "1.index", [ListRun("a", tmp_path / "a.run", False)])
    with pytest.raises(Damaged, match="no index file"):
        read_header(tmp_path / "a.run")


def test_combiner_numbers_equal_sets_alike() -> None:
    combiner = Combiner([False, True])
    block, other = 0 << 32 | 0 << 2 | Scope.BOTH, 1 << 32 | 5 << 2 | Scope.SELF
    own, below, pair = combiner(0, [block, other])
    assert combiner.listsets[own] == (0, 1 << 32 | 5)
    assert combiner.listsets[below] == (0,)
    assert combiner(0, [block, other]) == (own, below, pair)
    assert combiner(below, [])[:2] == (below, below)


def test_a_real_list_in_at_most_18_octets_hot_and_36_in_all(shared_lists: Path, tmp_path: Path) -> None:
    text = (shared_lists / "trustpositif" / "domains.txt").read_bytes()
    builder = RunBuilder()
    builder.scan(text, 1, [(b"", b"", Scope.BOTH, 0)])
    run = tmp_path / "a.run"
    names = write_run(run, builder, RunHeader((BLOCK,))).names
    report = write_index(tmp_path / "1.index", [ListRun("national", run, False)])
    assert report.hot <= 18 * names
    assert report.length + run.stat().st_size <= 36 * names
    index = Index(tmp_path / "1.index")
    for name in text.decode().split():
        assert index.find(name)
        assert index.find(f"www.{name}")
        assert not index.find(f"{name}x")
