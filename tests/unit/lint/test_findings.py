"""What lint finds in lists: each kind by an example, and all of them by taking the lines away that are said to be idle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resolver.lint import broad
from resolver.lint.findings import Verdict, lint
from resolver.lint.read import EVERY
from resolver.lists.parse import Options
from tests.reference_adblock import Line
from tests.unit.engine.test_modifiers_oracle import LINES, QUERIES
from tests.unit.lists.parse.test_dialects_table import Written

IDLE = ("duplicate", "overruled", "silenced", "covered", "cancelled")


def found(tmp_path: Path, dialect: str, body: str) -> dict[str, list[tuple[int, str]]]:
    """Kind → (line, why) of one file's findings, lines without a place in DNS left out."""
    path = tmp_path / "list.txt"
    path.write_text(body)
    [verdict] = lint([path], Options(format=dialect, own_names=frozenset()), EVERY)
    return {kind: [(each.line, each.why) for each in findings] for kind, findings in verdict.findings.items()}


@pytest.mark.parametrize(
    ("says", "dialect", "body", "kinds"),
    [
        ("a name twice", "domains", "x.com\ny.com\nX.COM.\n", {"duplicate": [(3, "by line 1")]}),
        ("another scope is none", "adblock", "|x.com^\n||*.x.com^\n", {}),
        ("a narrower line after a wider", "adblock", "||x.com^\n|x.com^\n", {"duplicate": [(2, "by line 1")]}),
        ("a wider line after a narrower", "adblock", "|x.com^\n||x.com^\n", {"covered": [(1, "by line 2")]}),
        ("below a parent", "domains", "a.x.com\nx.com\n", {"covered": [(1, "by line 2")]}),
        ("not below an exact line", "hosts", "0.0.0.0 a.x.com\n0.0.0.0 x.com\n", {}),
        ("the important line says more", "adblock", "||x.com^\n||x.com^$important\n", {"covered": [(1, "by line 2")]}),
        ("the important child says more", "adblock", "||x.com^\n||a.x.com^$important\n", {}),
        ("an exception kills a block", "adblock", "||a.x.com^\n@@||x.com^\n", {"silenced": [(1, "by line 2")]}),
        ("but not an important one", "adblock", "||a.x.com^$important\n@@||x.com^\n", {}),
        ("an important block kills an exception", "adblock", "@@||a.x.com^\n||x.com^$important\n",
         {"silenced": [(1, "by line 2")]}),
        ("an exception of a part leaves the block alive", "adblock", "||x.com^\n@@||a.x.com^\n", {}),
        ("a restricted exception leaves the block alive", "adblock", "||x.com^\n@@||x.com^$dnstype=A\n", {}),
        ("the same restriction", "adblock", "||a.x.com^$dnstype=A\n||x.com^$dnstype=A\n", {"covered": [(1, "by line 2")]}),
        ("another restriction", "adblock", "||a.x.com^$dnstype=A\n||x.com^$dnstype=AAAA\n", {}),
        ("an exception does not kill a rewrite", "adblock", "||x.com^$dnsrewrite=NXDOMAIN\n@@||x.com^\n", {}),
        ("a badfilter", "adblock", "||x.com^\n||x.com^$badfilter\n", {"cancelled": [(1, "by line 2")]}),
        ("what a badfilter cancels covers nothing", "adblock", "||x.com^\n||x.com^$badfilter\n||a.x.com^\n",
         {"cancelled": [(1, "by line 2")]}),
        ("plain lines are not cancelled", "adblock", "x.com\n||x.com^$badfilter\na.x.com\n",
         {"covered": [(3, "by line 1")]}),
        ("a cancelled pattern", "adblock", "/ads1/\n/ads1/$badfilter\n",
         {"cancelled": [(1, "by a badfilter for the same pattern")]}),
        ("the same pattern", "adblock", "/ads1/\n/ads1/\n", {"duplicate": [(2, "by line 1")]}),
        ("the first counts", "dnsmasq", "address=/x.com/\naddress=/x.com/#\n", {"overruled": [(2, "by line 1")]}),
        ("the nearest parent counts", "dnsmasq",
         "address=/x.com/\naddress=/a.x.com/#\naddress=/b.a.x.com/\naddress=/c.b.a.x.com/\n",
         {"covered": [(4, "by line 3")]}),
        ("a zone twice", "rpz", "x.com CNAME .\nx.com CNAME *.\n*.x.com CNAME .\na.x.com CNAME .\n",
         {"overruled": [(2, "by line 1")], "covered": [(4, "by line 3")]}),
        ("networks", "addresses", "198.51.100.7\n198.51.100.0/24\n198.51.100.7\n",
         {"covered": [(1, "by line 2, 198.51.100.0/24")], "duplicate": [(3, "by line 1")]}),
        ("a name twice in a line", "hosts", "0.0.0.0 x.com x.com\n", {"duplicate": [(1, "by line 1")]}),
    ],
)  # fmt: skip
def test_findings(tmp_path: Path, says: str, dialect: str, body: str, kinds: dict[str, list[tuple[int, str]]]) -> None:
    got = found(tmp_path, dialect, body)
    assert {kind: lines for kind, lines in got.items() if kind in IDLE} == kinds, says


@pytest.mark.parametrize(
    ("dialect", "line", "why"),
    [
        ("adblock", "||com^", "a whole top-level domain"),
        ("domains", "co.id", "a public suffix"),
        ("domains", "github.io", "a whole hosting domain"),
        ("adblock", "@@||github.io^", "allows a whole hosting domain"),
        ("domains", "amazonaws.com", "has public suffixes below it"),
        ("domains", "anything.ck", "a public suffix by *.ck"),
        ("rpz", "*.co.id CNAME .", "a public suffix"),
        ("adblock", "/[a-z]/", "fits every name below"),
        ("addresses", "198.0.0.0/8", "16,777,216 addresses"),
        ("addresses", "10.1.2.3", "special-purpose"),
    ],
)
def test_lines_that_reach_far(tmp_path: Path, dialect: str, line: str, why: str) -> None:
    got = found(tmp_path, dialect, f"{line}\nharmless.example.com CNAME .\n" if dialect == "rpz" else f"{line}\n")
    assert [number for number, _ in got["over-broad"]] == [1] and why in got["over-broad"][0][1]


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        ("hosts", "0.0.0.0 github.io"),  # the name alone: its own site
        ("domains", "mine.github.io"),
        ("domains", "example.co.id"),
        ("domains", "www.ck"),
        ("adblock", "/ads[0-9]+/"),
        ("addresses", "198.51.0.0/16\n"),
    ],
)
def test_lines_that_do_not_reach_far(tmp_path: Path, dialect: str, line: str) -> None:
    got = found(tmp_path, dialect, f"{line}\n")
    assert [why for _, why in got.get("over-broad", []) if "special" not in why] == []


def test_a_top_level_domain_that_there_is_not(tmp_path: Path) -> None:
    got = found(tmp_path, "domains", "a.nosuchtld\nb.nosuchtld\nprinter.local\nx.com\n")
    assert got["no such TLD"] == [(1, "“.nosuchtld” is not in the root zone, and 1 more rules")]


def test_files_are_held_against_each_other(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("0.0.0.0 a.x.com\n0.0.0.0 y.com\n0.0.0.0 own.com\n")
    two.write_text("x.com\ny.com\nz.com\n")
    first, second = lint([one, two], Options(own_names=frozenset()))
    assert [(each.text, each.why) for each in first.findings["elsewhere"]] == [
        ("0.0.0.0 a.x.com", f"by {two}:1"),
        ("0.0.0.0 y.com", f"by {two}:2"),
    ]
    assert "elsewhere" not in second.findings


def test_examples_are_bounded_and_counts_are_not(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"n{number}.com\n" for number in range(50)) * 2 + "a b\n" * 10)
    [verdict] = lint([path], Options(), 3)
    assert verdict.counts["duplicate"] == 50 and len(verdict.findings["duplicate"]) == 3
    assert verdict.file.forms["name"].count == 100 and verdict.file.forms["name"].lines == [1, 2, 3]
    assert verdict.to_json()["lines_refused"] == 10 and len(verdict.file.report.refused_lines) == 10
    [verdict] = lint([path], Options(), EVERY)
    assert len(verdict.findings["duplicate"]) == 50 and len(verdict.file.forms["name"].lines) == 100


def test_all_refused_lines_are_kept_where_all_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("x.com\n" * 20_000 + "".join(f"a b{number}.com\n" for number in range(2000)))
    [verdict] = lint([path], Options(), EVERY)
    assert len(verdict.file.report.refused_lines) == verdict.file.report.refused == 2000
    assert verdict.file.report.reasons.most_common(1) == [("a blank inside the name", 2000)]


def test_the_suffix_list_is_there() -> None:
    known = broad.suffixes()
    assert {"com", "co.id"} <= known.registries and "github.io" in known.companies and "ck" in known.wildcards


def without_idle(verdict: Verdict, body: list[str]) -> list[str]:
    """The lines of a list but for those that lint says can be left out, one at a time as a maintainer would."""
    idle = {each.line for kind in IDLE for each in verdict.findings.get(kind, ())}
    return [line for number, line in enumerate(body, start=1) if number not in idle]


@pytest.mark.parametrize("dialect", ["adblock", "dnsmasq", "unbound", "rpz", "hosts", "domains"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_without_the_idle_lines_a_list_means_the_same(dialect: str, data: st.DataObject) -> None:
    """Whatever is asked, and whoever asks: the answer is that of the whole list."""
    lines: list[Line] = data.draw(st.lists(LINES[dialect], max_size=12))
    body = [line.text() for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_text("".join(f"{line}\n" for line in body))
        options = Options(format=dialect, own_names=frozenset(), allow_empty=True)
        [verdict] = lint([path], options, EVERY)
        left = without_idle(verdict, body)
        if len(left) == len(body):
            return
        answers = []
        for kept in (body, left):
            world = Written(Path(folder))
            world.write((dialect, "".join(f"{line}\n" for line in kept)))
            answers.append([world.said(f"{asked.name} {asked.qtype} @{_who(asked.address)}") for asked in QUERIES])
        assert answers[0] == answers[1], (body, left)


def _who(address: str) -> str:
    return {"10.2.0.9": "kids", "10.3.0.9": "four"}.get(address, "here")
