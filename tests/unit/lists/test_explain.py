"""Every list and line that speaks about a name."""

from __future__ import annotations

from pathlib import Path

from resolver.lists.explain import Match, matches
from resolver.lists.rules import Outcome, Rule
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
