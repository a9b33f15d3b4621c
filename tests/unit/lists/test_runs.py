"""Runs: what the builder takes and refuses, what it keeps of duplicates, and that files read back or are refused."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.engine.engine import RunBuilder, RunReader
from resolver.lists.container import Damaged
from resolver.lists.layout import RUN, RunSection, key_of, name_of
from resolver.lists.rules import Outcome, Rule, Trigger, TriggerKind
from resolver.lists.runs import Refused, Run, RunHeader, RunRule, compare, run_digest, run_path, write_run
from resolver.vocabulary import Action, Scope, Verb
from tests.indexes import make_run, read_table, with_sums

ALLOW = Outcome(Verb.ALLOW)
BLOCK = Outcome()
PLAIN = (b"", b"", Scope.BOTH, 0)


def names_of(builder: RunBuilder) -> list[tuple[bytes, list[tuple[int, int, int]]]]:
    """What a builder gives out, read back."""
    builder.sort()
    blocks = []
    while block := builder.take_block(7):
        blocks.append(block[2])
    return list(RunReader(blocks.__getitem__, len(blocks)))


# -- scan -------------------------------------------------------------------------------------------------------------

LABEL = re.compile(rb"[a-z0-9_-]{1,63}\Z")


def is_plain(name: bytes) -> bool:
    """What a plain name is, said in another way than the scanner does."""
    labels = name.lower().split(b".")
    return (
        len(labels) > 1
        and len(name) <= 253
        and all(LABEL.match(label) for label in labels)
        and not labels[-1].isdigit()
        and labels[0] != b"localhost"
        and not labels[0].startswith(b"ip6-")
    )


words = st.sampled_from(
    ["a", "B-c", "_x", "localhost", "LOCALHOSTS", "ip6-all", "ip6", "ip60-a", "ip-x", "127", "0", "xn--p1ai", "com", "",
     " ", "\t", "é", "*", "x" * 63, "y" * 64, "\0", "a b", "#c", "ip", "i"]
)  # fmt: skip
lines = st.lists(words, max_size=6).map(lambda parts: ".".join(parts).encode())
ends = st.sampled_from([b"\n", b"\r\n"])


@given(st.lists(st.tuples(lines, ends), max_size=12), st.booleans())
@settings(deadline=None)
def test_scan_takes_plain_names_and_gives_the_other_lines_back(chunk: list[tuple[bytes, bytes]], ended: bool) -> None:
    builder = RunBuilder()
    octets = b"".join(line + end for line, end in chunk)
    if not ended and chunk and chunk[-1][0]:
        octets = octets.removesuffix(b"\n").removesuffix(b"\r")
    count, remaining = builder.scan(octets, 5, [PLAIN])
    assert count == len(chunk)
    assert remaining == [
        (number, line) for number, (line, _) in enumerate(chunk, 5) if line.strip(b" \t\r") and not is_plain(line)
    ]
    taken = {line.lower() for line, _ in chunk if is_plain(line)}
    found = names_of(builder)
    assert {name for name, _ in found} == taken
    for name, rules in found:
        assert rules == [(3, 0, 5 + next(i for i, (line, _) in enumerate(chunk) if line.lower() == name))]


def test_scan_tries_templates_in_order() -> None:
    builder = RunBuilder()
    templates = [
        (b"@@||", b"^", Scope.BOTH, 1),
        (b"||", b"^$important", Scope.BOTH, 2),
        (b"||", b"^", Scope.BELOW, 3),
        (b"0.0.0.0 ", b"", Scope.SELF, 0),
    ]
    text = b"||A.example^\n@@||b.example^\n||c.example^$important\n0.0.0.0 d.example\n||e.example^$x\n||^\n\n||x.y"
    count, remaining = builder.scan(text, 1, templates)
    assert (count, remaining) == (8, [(5, b"||e.example^$x"), (6, b"||^"), (8, b"||x.y")])
    assert names_of(builder) == [
        (b"a.example", [(2, 3, 1)]),
        (b"b.example", [(3, 1, 2)]),
        (b"c.example", [(3, 2, 3)]),
        (b"d.example", [(1, 0, 4)]),
    ]


def test_scan_takes_names_up_to_their_limits() -> None:
    long = b".".join([b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61])
    builder = RunBuilder()
    assert len(long) == 253
    _, remaining = builder.scan(long + b"\n" + b"e." + long[:-1] + b"\n" + b"x" * 100_000 + b"\n", 1, [PLAIN])
    assert [number for number, _ in remaining] == [2, 3]
    assert names_of(builder) == [(long, [(3, 0, 1)])]
    many = b".".join([b"a"] * 127)
    builder = RunBuilder()
    assert builder.scan(many, 1, [PLAIN]) == (1, [])
    assert names_of(builder) == [(many, [(3, 0, 1)])]


# -- add, order, duplicates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scope", "outcome", "line"),
    [
        (b"a..b", 3, 0, 1),
        (b"a" * 64, 3, 0, 1),
        (b"a.", 3, 0, 1),
        (b"a\0b.c", 3, 0, 1),
        (b".".join([b"a" * 60] * 5), 3, 0, 1),
        (b"a.b", 0, 0, 1),
        (b"a.b", 4, 0, 1),
        (b"a.b", 3, -1, 1),
        (b"a.b", 3, 1 << 30, 1),
        (b"a.b", 3, 0, 1 << 32),
    ],
)
def test_add_refuses_what_it_cannot_hold(name: bytes, scope: int, outcome: int, line: int) -> None:
    with pytest.raises(ValueError, match=r"line|range"):
        RunBuilder().add(name, scope, outcome, line)


def test_keys_come_in_order_parents_first() -> None:
    dice = random.Random(3)
    names = {
        ".".join("".join(dice.choices("ab-0", k=dice.randrange(1, 20))) for _ in range(dice.randrange(1, 6)))
        for _ in range(20_000)
    }
    shuffled = sorted(names)
    dice.shuffle(shuffled)
    builder = RunBuilder()
    for line, name in enumerate(shuffled, 1):
        builder.add(name.encode(), 3, 0, line)
    found = names_of(builder)
    assert [name.decode() for name, _ in found] == sorted(names, key=key_of)
    assert all(shuffled[rules[0][2] - 1] == name.decode() for name, rules in found)


def test_sorting_in_threads_gives_the_same() -> None:
    dice = random.Random(4)
    text = "".join(f"{dice.randrange(1 << 30):x}.{dice.choice(['com', 'net', 'web.app'])}\n" for _ in range(300_000))
    results = []
    for threads in (1, 3):
        builder = RunBuilder()
        builder.scan(text.encode(), 1, [PLAIN])
        builder.sort(threads)
        blocks = []
        while block := builder.take_block(4096):
            blocks.append(block)
        results.append(blocks)
    assert results[0] == results[1]


def test_one_name_very_often_is_one_name() -> None:
    builder = RunBuilder()
    builder.scan(b"x.example\n" * 200_000, 1, [PLAIN])
    assert names_of(builder) == [(b"x.example", [(3, 0, 1)])]
    assert (builder.taken, builder.names, builder.rules, builder.duplicates) == (200_000, 1, 1, 199_999)


def test_an_ordinary_list_keeps_the_first_line_of_each_outcome(tmp_path: Path) -> None:
    rules = [
        Rule("x.example", Scope.SELF, BLOCK),
        Rule("x.example", Scope.SELF, ALLOW),
        Rule("x.example", Scope.BOTH, BLOCK),
        Rule("x.example", Scope.BELOW, BLOCK),
    ]
    header = make_run(tmp_path / "a.run", rules)
    assert (header.names, header.rules, header.duplicates) == (1, 3, 1)
    with Run(tmp_path / "a.run") as run:
        assert run.find("x.example") == [
            RunRule(Scope.SELF, BLOCK, 1),
            RunRule(Scope.SELF, ALLOW, 2),
            RunRule(Scope.BELOW, BLOCK, 3),
        ]


def test_a_list_that_replaces_keeps_the_first_line_of_each_scope(tmp_path: Path) -> None:
    rules = [
        Rule("x.example", Scope.BELOW, BLOCK),
        Rule("x.example", Scope.BELOW, ALLOW),
        Rule("x.example", Scope.BOTH, ALLOW),
        Rule("x.example", Scope.SELF, BLOCK),
    ]
    header = make_run(tmp_path / "a.run", rules, replaces=True)
    assert (header.names, header.rules, header.duplicates) == (1, 2, 2)
    with Run(tmp_path / "a.run") as run:
        assert run.find("x.example") == [RunRule(Scope.BELOW, BLOCK, 1), RunRule(Scope.SELF, ALLOW, 3)]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_digest_changes_with_source_and_options() -> None:
    digests = {run_digest("a", {}), run_digest("b", {}), run_digest("a", {"format": "hosts"})}
    assert len(digests) == 3
    assert run_digest("a", {"x": 1, "y": 2}) == run_digest("a", {"y": 2, "x": 1})
    assert run_path(Path("runs"), "abc") == Path("runs/abc.run")


def test_a_header_reads_back(tmp_path: Path) -> None:
    outcomes = (
        BLOCK,
        Outcome(Verb.ALLOW, True, Action.DATA, 5, ("A 192.0.2.1", 'TXT "x"'), "dnstype=A"),
        Outcome(action=Action.CNAME, data=("*.garden.",)),
    )
    header = RunHeader(
        outcomes,
        lines=9,
        refused_count=1,
        refused=(Refused(3, "???", "no name"),),
        source={"mtime": 5},
        report={"a": [1]},
    )
    written = write_run(tmp_path / "a.run", RunBuilder(), header)
    header = replace(header, base_outcomes=len(header.outcomes))
    assert written == header
    with Run(tmp_path / "a.run") as run:
        assert run.header == header
        assert list(run.names()) == []
        assert run.find("x.example") == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.run"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    make_run(tmp_path / "a.run", [Rule("x.example", Scope.BOTH, BLOCK)])
    before = (tmp_path / "a.run").read_bytes()
    with pytest.raises(TypeError):
        write_run(tmp_path / "a.run", RunBuilder(), RunHeader((), source={"no JSON": object()}))
    assert (tmp_path / "a.run").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.run"]


TRIGGERS = (
    Trigger(TriggerKind.ADDRESS, "192.0.2.0/24", BLOCK, 7),
    Trigger(TriggerKind.ADDRESS, "2001:db8::/32", Outcome(verb=Verb.ALLOW), 70_000),
    Trigger(TriggerKind.NSDNAME, "*.ns.example", Outcome(action=Action.DATA, data=("A 192.0.2.1",)), 3),
    Trigger(TriggerKind.PATTERN, "/^ads[0-9]+\\./ü", BLOCK, 1),
)


def test_triggers_read_back(tmp_path: Path) -> None:
    header = make_run(tmp_path / "a.run", [Rule("x.example", Scope.BOTH, BLOCK)], triggers=TRIGGERS)
    assert header.triggers == {"address": 2, "nsdname": 1, "pattern": 1}
    with Run(tmp_path / "a.run") as run:
        assert run.header == header
        assert run.triggers() == list(TRIGGERS)
        assert [rule.outcome for rule in run.find("x.example")] == [BLOCK]
    moved = [trigger._replace(line=trigger.line + 1) for trigger in TRIGGERS]
    assert make_run(tmp_path / "b.run", [], triggers=moved).trigger_digest == header.trigger_digest
    assert make_run(tmp_path / "c.run", [], triggers=moved[1:]).trigger_digest != header.trigger_digest
    assert make_run(tmp_path / "d.run", []).trigger_digest == ""


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several blocks; n00000.example to n19999.example, each with www. before it, and a parent."""
    path = tmp_path_factory.mktemp("run") / "long.run"
    names = ["example", *(f"{www}n{number:05}.example" for number in range(20_000) for www in ("", "www."))]
    make_run(path, [Rule(name, Scope.BOTH, BLOCK) for name in names], triggers=TRIGGERS)
    return path


def test_find_and_below_reach_every_block(long_run: Path) -> None:
    with Run(long_run) as run:
        for number in range(0, 20_000, 487):
            assert [rule.line for rule in run.find(f"n{number:05}.example")] == [2 * number + 2]
            assert [name for name, _ in run.below(f"n{number:05}.example")] == [
                f"n{number:05}.example",
                f"www.n{number:05}.example",
            ]
        for name in ("", "com", "n2.example", "n20000.example", "zzz.example", "a.n00000.example", "z"):
            assert run.find(name) == []
        assert sum(1 for _ in run.below("example")) == 40_001
        assert sum(1 for _ in run.names()) == 40_001
        assert [name for name, _ in run.below("n2.example")] == []


def test_a_comparison_counts_and_names_what_changed(tmp_path: Path) -> None:
    old = [Rule(f"n{number}.example", Scope.BOTH, BLOCK) for number in range(10_000)]
    new = [*old[5:], Rule("other.example", Scope.SELF, ALLOW), Rule("n3.example", Scope.SELF, BLOCK)]
    new[0] = Rule("n5.example", Scope.BOTH, ALLOW)
    make_run(tmp_path / "old.run", [Rule("", Scope.BELOW, Outcome(ttl=5)), *old])
    make_run(tmp_path / "new.run", new[::-1])
    with Run(tmp_path / "old.run") as before, Run(tmp_path / "new.run") as after:
        items, *counts = compare(before, after, 10)
        assert counts == [1, 5, 2] and items is not None
        named = {name_of(key): (len(was), len(now), len(lines)) for key, was, now, lines in items}
        assert [name for name, (was, now, _) in named.items() if now > was] == ["other.example"]
        gone = [name for name, (was, now, _) in named.items() if was > now]
        assert gone == ["", "n0.example", "n1.example", "n2.example", "n4.example"]
        assert [name for name, said in named.items() if said == (1, 1, 1)] == ["n3.example", "n5.example"]
        assert compare(before, after, 7) == (None, 1, 5, 2), "more than the limit"
        assert compare(after, after, 10) == ([], 0, 0, 0)


def said(run: Run) -> dict[str, set[tuple[Scope, Outcome]]]:
    return {name: {(rule.scope, rule.outcome) for rule in rules} for name, rules in run.names()}


@pytest.mark.parametrize("seed", range(6))
def test_what_differs_is_found_wherever_blocks_begin(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    old = [Rule(f"n{draw.randrange(10**9)}.example", Scope.BOTH, BLOCK) for number in range(40_000)]
    new = list(old)
    for _ in range(draw.choice((0, 1, 30, 3000))):
        place = draw.randrange(len(new))
        if draw.random() < 0.4:
            del new[place]
        elif draw.random() < 0.5:
            new.insert(place, Rule(f"m{draw.randrange(10**9)}.example", Scope.BOTH, BLOCK))
        else:
            new[place] = Rule(new[place].name, Scope.SELF, draw.choice((BLOCK, ALLOW)))
    for name, rules in (("old.run", old), ("new.run", new)):
        rules.append(Rule("last.example", Scope.BOTH, ALLOW))  # the same outcomes in both
        make_run(tmp_path / name, [Rule("first.example", Scope.BOTH, BLOCK), *rules])
    with Run(tmp_path / "old.run") as before, Run(tmp_path / "new.run") as after:
        items, *counts = compare(before, after, 10_000)
        was, now = said(before), said(after)
        assert items is not None
        assert [name_of(item[0]) for item in items] == sorted(
            (name for name in was.keys() | now.keys() if was.get(name) != now.get(name)), key=key_of
        )
        assert counts[:2] == [len(now.keys() - was.keys()), len(was.keys() - now.keys())]
        blocks = [{(block.first, block.said) for block in run._base.blocks} for run in (before, after)]
        assert len(blocks[0]) > 5
        if len(items) < 5:
            assert len(blocks[0] - blocks[1]) <= 2 * len(items), "blocks are the same again soon after a change"


def open_and_read(path: Path) -> None:
    with Run(path) as run:
        for _ in run.names():
            pass
        run.triggers()


def test_a_run_cut_off_or_with_a_flipped_bit_is_refused(tmp_path: Path, long_run: Path) -> None:
    good = long_run.read_bytes()
    dice = random.Random(9)
    table = read_table(good, RUN)
    path = tmp_path / "bad.run"
    ends = [0, 8, RUN.header - 1, RUN.header, *(offset for offset, length, _ in table if length), len(good) - 1]
    places = [*range(RUN.header)]
    for offset, length, _ in table:
        if not length:  # no delta
            continue
        places += [offset, offset + length - 1, *(dice.randrange(offset, offset + length) for _ in range(20))]
    for octets in [good[:end] for end in ends] + [
        good[:place] + bytes([good[place] ^ 1 << dice.randrange(8)]) + good[place + 1 :] for place in places
    ]:
        path.write_bytes(octets)
        with pytest.raises(Damaged, match=r"bad\.run"):
            open_and_read(path)


def test_another_version_is_refused_by_name(tmp_path: Path, long_run: Path) -> None:
    good = long_run.read_bytes()
    path = tmp_path / "bad.run"
    path.write_bytes(with_sums(good[:8] + b"\7\0\0\0" + good[12:], RUN))
    with pytest.raises(Damaged, match="run version 7"):
        Run(path)


def test_a_header_that_is_no_header_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a.run", [Rule("x.example", Scope.BOTH, BLOCK)])
    good = (tmp_path / "a.run").read_bytes()
    offset, length, _ = read_table(good, RUN)[RunSection.TEXT]
    for text in (b"{}", b"[]", b"{", b'{"outcomes":[[9]],"refused":[]}'):
        (tmp_path / "a.run").write_bytes(with_sums(good[:offset] + text.ljust(length), RUN))
        with pytest.raises(Damaged, match=r"a\.run"):
            Run(tmp_path / "a.run")


@given(st.binary(max_size=200), st.lists(st.integers(0, 9), min_size=5, max_size=5))
@settings(max_examples=500, deadline=None)
def test_any_octets_as_a_block_are_read_or_refused(octets: bytes, counts: list[int]) -> None:
    block = b"".join(count.to_bytes(4, "little") for count in counts) + octets
    fitted = block[: 20 + 2 * counts[0] + sum(counts[2:])]
    for candidate in (octets, block, fitted):
        try:
            found = list(RunReader([candidate].__getitem__, 1))
        except ValueError:
            continue
        assert len(found) == int.from_bytes(candidate[:4], "little")


def test_a_real_list_takes_at_most_13_octets_a_name(shared_lists: Path, tmp_path: Path) -> None:
    text = (shared_lists / "trustpositif" / "domains.txt").read_bytes()
    builder = RunBuilder()
    lines, remaining = builder.scan(text, 1, [PLAIN])
    header = write_run(tmp_path / "a.run", builder, RunHeader((BLOCK,), lines=lines))
    assert remaining == []
    assert header.names == header.lines == text.count(b"\n")
    assert (tmp_path / "a.run").stat().st_size <= 13 * header.names
    with Run(tmp_path / "a.run") as run:
        source = text.decode().split()
        for name, rules in run.names():
            assert source[rules[0].line - 1] == name
