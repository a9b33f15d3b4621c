"""What lists are worth, against a plain count of what covers what."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.cli import main
from resolver.lists.rules import Outcome, Rule, Trigger, TriggerKind
from resolver.lists.value import ListValue, values_of
from resolver.snapshot import ListState
from resolver.vocabulary import Scope, Verb
from tests.indexes import make_run

BLOCK, ALLOW = Outcome(), Outcome(verb=Verb.ALLOW)
SOME = Outcome(condition="dnstype=A")
NAMES = ("com", "a.com", "b.com", "a.a.com", "b.a.com", "c.b.a.com", "net", "a.net")


def values(folder: Path, *lists: list[Rule], triggers: tuple[list[Trigger], ...] = ()) -> list[ListValue]:
    (folder / "runs").mkdir(exist_ok=True)
    states = []
    for number, rules in enumerate(lists):
        own = triggers[number] if triggers else []
        make_run(folder / "runs" / f"{number}.run", rules, triggers=own)
        states.append(ListState(f"list{number}", f"{number}.run", number))
    return values_of(folder, states, None)


def covers(rules: list[Rule], name: str, bit: int, verb: Verb) -> bool:
    """Whether some rule, its own condition apart, says `verb` of one of the two halves of a name."""
    for rule in rules:
        if rule.outcome.condition or rule.outcome.verb is not verb:
            continue
        if (rule.name == name and rule.scope & bit) or (name.endswith(f".{rule.name}") and rule.scope & Scope.BELOW):
            return True
    return False


def expected(lists: list[list[Rule]]) -> list[tuple[int, int, list[int]]]:
    """The same, slowly."""
    found = []
    for number, rules in enumerate(lists):
        names = sorted({rule.name for rule in rules})
        shared = [0] * len(lists)
        unique = 0
        for name in names:
            own = [rule for rule in rules if rule.name == name]
            covering = [
                place
                for place, other in enumerate(lists)
                if place != number
                and not any(rule.outcome.condition for rule in own)
                and all(
                    covers(other, name, bit, rule.outcome.verb) for rule in own for bit in (1, 2) if rule.scope & bit
                )
            ]
            unique += not covering
            for place in covering:
                shared[place] += 1
        found.append((len(names), unique, shared))
    return found


rules = st.builds(
    Rule, st.sampled_from(NAMES), st.sampled_from(list(Scope)), st.sampled_from([BLOCK, BLOCK, ALLOW, SOME])
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(rules, max_size=6), min_size=1, max_size=4))
def test_against_a_plain_count(lists: list[list[Rule]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        got = values(Path(folder), *lists)
    assert [(each.names, each.unique, list(each.overlap.values())) for each in got] == [
        (names, unique, [count for place, count in enumerate(shared) if place != number])
        for number, (names, unique, shared) in enumerate(expected(lists))
    ]


def test_more_lists_than_a_word_has_bits(tmp_path: Path) -> None:
    got = values(tmp_path, *([Rule(f"n{number % 70}.com", Scope.BOTH, BLOCK)] for number in range(140)))
    assert all((each.names, each.unique) == (1, 0) for each in got)
    assert [name for name, count in got[3].overlap.items() if count] == ["list73"]
    assert [name for name, count in got[139].overlap.items() if count] == ["list69"]


def test_networks_and_patterns(tmp_path: Path) -> None:
    def trigger(kind: TriggerKind, text: str, outcome: Outcome = BLOCK) -> Trigger:
        return Trigger(kind, text, outcome, 1)

    address, pattern = TriggerKind.ADDRESS, TriggerKind.PATTERN
    one = [trigger(address, "198.51.100.1/32"), trigger(address, "2001:db8::/48"), trigger(pattern, "/ads/")]
    two = [trigger(address, "198.51.100.0/24"), trigger(pattern, "/ads/"), trigger(pattern, "/bads/", SOME)]
    first, second = values(tmp_path, [], [], triggers=(one, two))
    assert (first.others, first.unique_others, first.overlap) == (3, 1, {"list1": 2})
    assert (second.others, second.unique_others, second.overlap) == (3, 2, {"list0": 1})


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("x.com\ny.com\n198.51.100.1\n")
    (tmp_path / "two.txt").write_text("a.x.com\nz.com\n")
    (tmp_path / "config.yaml").write_text(
        "lists: [{name: one, source: one.txt, format: domains}, {name: two, source: two.txt}]\n"
    )
    config = ["-c", str(tmp_path / "config.yaml")]
    assert CliRunner().invoke(main, ["compile", *config]).exit_code == 0
    result = CliRunner().invoke(main, ["lists", "--value", "--json", *config])
    assert result.exit_code == 0, result.output
    one, two = json.loads(result.output)
    assert (one["names"], one["unique"], one["others"], one["overlap"]) == (2, 2, 1, {"two": 0})
    assert (two["names"], two["unique"], two["overlap"], two["hits"]) == (2, 1, {"one": 1}, None)
    lines = CliRunner().invoke(main, ["lists", "--value", *config]).output.splitlines()
    assert lines[1].split("\t") == ["one", "2", "2", "1", "1", ""]
    assert lines[-1].split("\t") == ["two", "1", ""]
