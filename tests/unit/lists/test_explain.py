"""Every list and line that speaks about a name."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

from resolver.lists.explain import Match, covers_address, covers_name, matches, trigger_matches
from resolver.lists.rules import Outcome, Rule, Trigger, TriggerKind
from resolver.vocabulary import Scope, Verb
from tests.indexes import make_run

BLOCK = Outcome()
ALLOW = Outcome(Verb.ALLOW)


def test_matches_are_every_rule_that_covers_the_name_from_the_root_down(tmp_path: Path) -> None:
    make_run(
        tmp_path / "a.run",
        [
            Rule("www.x.example", Scope.SELF, ALLOW),
            Rule("x.example", Scope.BOTH, BLOCK),
            Rule("x.example", Scope.SELF, ALLOW),
            Rule("example", Scope.SELF, BLOCK),
            Rule("a.www.x.example", Scope.BOTH, BLOCK),
            Rule("www.x.example", Scope.BELOW, BLOCK),
            Rule("", Scope.BELOW, ALLOW),
        ],
    )
    make_run(tmp_path / "b.run", [Rule("example", Scope.BOTH, BLOCK)])
    lists = [("a", tmp_path / "a.run"), ("b", tmp_path / "b.run")]
    assert matches(lists, "WWW.X.Example.") == [
        Match("a", 7, "", Scope.BELOW, ALLOW),
        Match("a", 2, "x.example", Scope.BOTH, BLOCK),
        Match("a", 1, "www.x.example", Scope.SELF, ALLOW),
        Match("b", 1, "example", Scope.BOTH, BLOCK),
    ]
    assert [match.line for match in matches(lists, "x.example")] == [7, 2, 3, 1]
    assert matches(lists, "com") == [Match("a", 7, "", Scope.BELOW, ALLOW)]
    assert matches(lists[1:], "") == []


def test_triggers_are_found_by_what_they_cover(tmp_path: Path) -> None:
    triggers = [
        Trigger(TriggerKind.ADDRESS, "192.0.2.0/24", Outcome(), 1),
        Trigger(TriggerKind.ADDRESS, "192.0.2.9/32", Outcome(verb=Verb.ALLOW), 2),
        Trigger(TriggerKind.ADDRESS, "2001:db8::/32", Outcome(), 3),
        Trigger(TriggerKind.NSDNAME, "ns.example", Outcome(), 4),
        Trigger(TriggerKind.NSDNAME, "*.example", Outcome(), 5),
        Trigger(TriggerKind.NSIP, "192.0.2.0/25", Outcome(), 6),
    ]
    make_run(tmp_path / "a.run", [], triggers=triggers)
    make_run(tmp_path / "b.run", [Rule("x.example", Scope.BOTH, Outcome())])
    lists = [("b", tmp_path / "b.run"), ("a", tmp_path / "a.run")]

    def lines(kind: TriggerKind, covers: Callable[[str], bool]) -> list[int]:
        found = trigger_matches(lists, frozenset({kind}), covers)
        assert all(match.list == "a" for match in found)
        return [match.trigger.line for match in found]

    def holding(address: str) -> list[int]:
        return lines(TriggerKind.ADDRESS, covers_address(ipaddress.ip_address(address)))

    assert holding("192.0.2.9") == holding("::ffff:192.0.2.9") == [1, 2]
    assert (holding("192.0.3.9"), holding("2001:db8::1")) == ([], [3])
    assert lines(TriggerKind.NSIP, covers_address(ipaddress.ip_address("192.0.2.127"))) == [6]
    assert lines(TriggerKind.NSIP, covers_address(ipaddress.ip_address("192.0.2.128"))) == []
    assert lines(TriggerKind.NSDNAME, covers_name("ns.example")) == [4, 5]
    assert lines(TriggerKind.NSDNAME, covers_name("example")) == []
