"""Runs that are streamed or spliced say what runs made from a whole list say."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from resolver.engine.engine import RunBuilder, compare_runs
from resolver.lists import splice
from resolver.lists.layout import key_of
from resolver.lists.rules import Outcome
from resolver.lists.runs import Run, RunChanges, RunHeader, compare, write_run
from resolver.lists.splice import RunStream, canonical, flatten_run, splice_run
from resolver.vocabulary import Action, Verb

OUTCOMES = (Outcome(action=Action.NXDOMAIN), Outcome(action=Action.NODATA), Outcome(verb=Verb.ALLOW))
HEADER = RunHeader(OUTCOMES, replaces=True)
Said = dict[str, tuple[tuple[int, int], ...]]  # name → canonical rules


def names(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    found = {
        ".".join(draw.choice(("a", "b-1", "cd", "www", f"n{draw.randrange(count)}")) for _ in range(draw.randint(1, 3)))
        for _ in range(count)
    }
    return sorted((f"{name}.{draw.choice(('com', 'net', 'co.id'))}" for name in found), key=key_of)


def rules_for(draw: random.Random) -> tuple[tuple[int, int], ...]:
    return canonical(draw.choice((((1, 0),), ((3, 0),), ((1, 0), (2, 0)), ((1, 1), (2, 0)), ((2, 2),))))


def write(path: Path, said: Said, header: RunHeader = HEADER) -> None:
    builder = RunBuilder(replaces=True)
    builder.lineless = True
    for line, (name, rules) in enumerate(said.items()):
        for scope, outcome in rules:
            builder.add(name.encode(), scope, outcome, line)
    write_run(path, builder, header)


def read(path: Path) -> Said:
    with Run(path) as run:
        outcomes = {outcome: number for number, outcome in enumerate((*OUTCOMES, NEW))}
        return {
            name: canonical([(int(rule.scope), outcomes[rule.outcome]) for rule in rules])
            for name, rules in run.names()
        }


NEW = Outcome(action=Action.DROP)


@pytest.mark.parametrize("order", ["sorted", "nearly", "shuffled", "twice"])
def test_a_stream_writes_what_a_whole_list_would(tmp_path: Path, order: str) -> None:
    draw = random.Random(order)
    said = {name: rules_for(draw) for name in names(40_000, 1)}
    rows = [(name, scope, outcome) for name, rules in said.items() for scope, outcome in rules]
    if order == "nearly":
        rows = [row for _, row in sorted(enumerate(rows), key=lambda item: item[0] + draw.randrange(50))]
    if order == "shuffled":
        draw.shuffle(rows)
    if order == "twice":
        rows += [(name, scope, 2) for name, scope, _ in rows]  # the first counts, in whichever stretch it is
    with RunStream(tmp_path / "streamed", window=20_000, kept=14_000) as stream:
        for line, (name, scope, outcome) in enumerate(rows):
            stream.builder.add(name.encode(), scope, outcome, line)
            stream.pour()
        header = stream.finish(HEADER)
    write(tmp_path / "whole", said)
    assert read(tmp_path / "streamed") == said == read(tmp_path / "whole")
    assert header.names == len(said)
    assert diff(tmp_path / "whole", tmp_path / "streamed") == ([], 0, 0, 0)


def test_a_stream_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cut"), RunStream(tmp_path / "run") as stream:
        stream.builder.add(b"a.example", 1, 0, 0)
        raise ValueError("cut")
    with RunStream(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


def change(said: Said, draw: random.Random, count: int) -> tuple[Said, dict[bytes, tuple[tuple[int, int], ...]]]:
    """The list with some names added, changed and removed, and these as splice_run() takes them."""
    after = dict(said)
    changes: dict[bytes, tuple[tuple[int, int], ...]] = {}
    for name in draw.sample(sorted(said), count) + [f"new{draw.randrange(9999)}.example.com" for _ in range(count)]:
        rules = draw.choice(((), ((3, 0),), ((1, 1),), ((3, 3),), ((1, 3), (2, 0))))
        changes[key_of(name)] = rules
        after.pop(name, None)
        if rules:
            after[name] = canonical(rules)
    return after, changes


def diff(old: Path, new: Path) -> RunChanges:
    with Run(old) as before, Run(new) as after:
        return compare(before, after, 100_000)


@pytest.mark.parametrize("limit", [100_000, 900])
def test_splices_on_splices_agree_with_whole_runs(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splice, "MAX_DELTA", limit)
    draw = random.Random(limit)
    said = {name: rules_for(draw) for name in names(20_000, 2)}
    write(tmp_path / "0", said)
    header = replace(HEADER, outcomes=(*OUTCOMES, NEW))
    states = [said]
    for step in range(1, 5):
        said, changes = change(said, draw, 300)
        done = splice_run(tmp_path / f"{step - 1}", tmp_path / f"{step}", changes, header)
        states.append(said)
        assert read(tmp_path / f"{step}") == said
        assert done.names == len(said)
        with Run(tmp_path / f"{step}") as run:
            assert run.header.rules == sum(map(len, said.values())) == done.rules
            name = draw.choice(sorted(said))
            assert sorted(int(rule.scope) for rule in run.find(name)) == sorted(scope for scope, _ in said[name])
            below = {found for found, _ in run.below("co.id")}
            assert below == {each for each in said if each.endswith(".co.id") or each == "co.id"}
    write(tmp_path / "whole", said, header)
    assert diff(tmp_path / "whole", tmp_path / "4") == ([], 0, 0, 0)
    flatten_run(tmp_path / "4", tmp_path / "flat")
    assert read(tmp_path / "flat") == said
    for old in range(5):  # forward and back, next to each other or not
        for new in range(5):
            _, added, removed, changed = diff(tmp_path / f"{old}", tmp_path / f"{new}")
            before, after = states[old], states[new]
            assert added == len(after.keys() - before.keys())
            assert removed == len(before.keys() - after.keys())
            assert changed == sum(before[name] != after[name] for name in before.keys() & after.keys())


def test_runs_with_the_same_blocks_are_told_apart_by_their_deltas_alone(tmp_path: Path) -> None:
    said: Said = dict.fromkeys(names(5_000, 3), ((1, 0),))
    write(tmp_path / "0", said)
    splice_run(tmp_path / "0", tmp_path / "1", {key_of("new.example.com"): ((3, 1),)}, HEADER)
    splice_run(tmp_path / "1", tmp_path / "2", {key_of("new.example.com"): (), key_of("b.example"): ((1, 1),)}, HEADER)
    octets = bytearray((tmp_path / "2").read_bytes())
    octets[400] ^= 1  # in a block of the list: whoever reads it would know
    (tmp_path / "2").write_bytes(octets)
    with Run(tmp_path / "1") as before, Run(tmp_path / "2") as after:
        items, *counts = compare(before, after, 10)
        assert [key for key, *_ in items or ()] == [key_of("new.example.com"), key_of("b.example")]
        assert counts == [1, 1, 0]
        with pytest.raises(ValueError, match="checksum"):
            compare_runs(before.reader(), after.reader(), [0, 1, 2], 10)


def test_other_outcomes_in_the_same_blocks_are_a_difference(tmp_path: Path) -> None:
    said: Said = dict.fromkeys(names(100, 4), ((1, 0),))
    write(tmp_path / "old", said)
    write(tmp_path / "new", said, replace(HEADER, outcomes=tuple(reversed(OUTCOMES))))
    assert diff(tmp_path / "old", tmp_path / "new").changed == len(said)


def test_a_splice_that_forgets_outcomes_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "0", {"a.example": ((1, 0),)})
    with pytest.raises(ValueError, match="outcomes"):
        splice_run(tmp_path / "0", tmp_path / "1", {}, replace(HEADER, outcomes=OUTCOMES[1:]))
