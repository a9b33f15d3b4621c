"""Lint and server read alike: the rules, counts and refusals that lint has are those that a run is compiled from."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from resolver.engine.engine import RunBuilder
from resolver.lint.findings import lint
from resolver.lint.read import EVERY, Linted, read_paths
from resolver.lists.parse import ListReport, Options, read_files
from resolver.lists.rules import NotAList, Outcome
from resolver.lists.runs import Run, RunHeader, write_run
from resolver.lists.source import open_source
from tests.unit.lists.parse.test_dialects_table import BODIES, MODIFIERS, REFUSED, SCOPE, SHARED, Case

FILES = [
    *(
        f"blocklistproject/{name}.{form}.txt"
        for name in ("crypto", "drugs", "scam", "tiktok")
        for form in ("adblock", "dnsmasq", "domains", "hosts")
    ),
    "hagezi/doh-vpn-proxy-bypass.adblock.txt",
    "hagezi/light.wildcard.txt",
    *(f"hagezi/personal.{form}.txt" for form in ("adblock", "dnsmasq", "domains", "hosts", "wildcard")),
    "hagezi/personal.unbound.conf",
    "trustpositif/addresses.txt",
    "trustpositif/domains.txt",
]
_Rules = Counter[tuple[str, int, Outcome, int]]


def compiled(path: Path, options: Options) -> tuple[_Rules, ListReport, str, RunHeader | None]:
    """What compile makes of a file: its run's rules without duplicates, the report, and why it is refused."""
    builder, report, fault = RunBuilder(), ListReport(), ""
    try:
        read_files([(str(path), open_source(path))], options, builder, report)
    except NotAList as error:
        return Counter(), report, str(error), None
    builder.replaces = report.replaces
    run = path.with_name(f"{path.name}.run")
    header = write_run(run, builder, RunHeader(tuple(report.outcomes), report.replaces), report.triggers)
    rules: _Rules = Counter()
    with Run(run) as opened:
        for name, found in opened.names():
            rules.update((name, rule.scope, rule.outcome, rule.line) for rule in found)
    run.unlink()
    return rules, report, fault, header


def linted_rules(linted: Linted) -> _Rules:
    """Every rule that lint has, duplicates included."""
    rules: _Rules = Counter()
    linted.builder.replaces = False
    names = [b""]
    while names:  # down the tree, since that is what the survey can be asked
        name = names.pop()
        labels = b"".join(label + b"\0" for label in reversed(name.split(b"."))) if name else b""
        for scope, outcome, line in linted.survey.find(labels):
            rules[name.decode(), scope, linted.rules[outcome].outcome, line] += 1
        names += [child for child, _, _ in linted.survey.children(labels)]
    return rules


def check(path: Path, options: Options) -> None:
    rules, report, fault, header = compiled(path, options)
    linted = read_paths([path], options, 5)
    [file] = linted.files
    assert file.fault == fault
    for each in fields(ListReport):
        if each.name not in ("refused_lines", "duplicates", "triggers", "files"):
            assert getattr(file.report, each.name) == getattr(report, each.name), each.name
    assert [line[:2] for line in file.report.refused_lines[:5]] == [line[:2] for line in report.refused_lines[:5]]
    if fault or header is None:
        return
    mine = linted_rules(linted)
    assert mine.total() == linted.builder.taken
    assert {(name, outcome, line) for name, _, outcome, line in rules} <= {
        (name, outcome, line) for name, _, outcome, line in mine
    }
    [verdict] = lint([path], options, EVERY)
    idle = [each for kind in ("duplicate", "overruled") for each in verdict.findings.get(kind, ())]
    named = [each for each in idle if "/" not in each.name]  # the others are addresses and patterns
    assert _lines(mine) - Counter((each.name, each.line) for each in named) == _lines(rules)
    assert len(idle) == header.duplicates


def _lines(rules: _Rules) -> Counter[tuple[str, int]]:
    """How many rules there are for each name and line."""
    found: Counter[tuple[str, int]] = Counter()
    for (name, _, _, line), count in rules.items():
        found[name, line] += count
    return found


@pytest.mark.parametrize("name", FILES)
def test_on_the_real_lists(shared_lists: Path, tmp_path: Path, name: str) -> None:
    path = shared_lists / name
    if not path.exists():
        pytest.skip(f"not there: {name}")
    copy = tmp_path / path.name
    copy.symlink_to(path)
    check(copy, Options(own_names=frozenset()))


@pytest.mark.parametrize("row", SCOPE + MODIFIERS + SHARED, ids=lambda row: row.says)
def test_on_every_case_of_the_specification(tmp_path: Path, row: Case) -> None:
    for number, (dialect, body) in enumerate(row.lists):
        path = tmp_path / f"{number}.txt"
        path.write_text(body)
        check(path, Options(format=dialect, own_names=frozenset({"me"})))


@pytest.mark.parametrize(("line", "reason"), REFUSED)
def test_on_every_line_that_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"||kept.com^\n{line}\n")
    check(path, Options(format="adblock", own_names=frozenset()))
    [verdict] = lint([path], Options(format="adblock"))
    assert verdict.to_json()["lines_refused"] == 1 and verdict.to_json()["refused_lines"][0]["line"] == 2


@pytest.mark.parametrize(("what", "packed"), BODIES)
def test_on_every_kind_of_body(tmp_path: Path, what: str, packed: Any) -> None:
    path = tmp_path / "list"
    path.write_bytes(packed("x.com\nbücher.de\nx.com\n".encode()))
    check(path, Options(own_names=frozenset()))
    [verdict] = lint([path], Options())
    assert verdict.findings["duplicate"][0].text == "x.com", what


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<!DOCTYPE html>\n<html>\n", "HTML"),
        ("# nothing\n", "empty"),
        ("", "empty"),
        ("x.com\n" * 15 + "a b\n" * 5, "of 20 lines"),
        ("x\0y\n", "binary"),
    ],
)
def test_files_that_the_server_would_refuse(tmp_path: Path, body: str, said: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(body)
    check(path, Options(own_names=frozenset()))
    [verdict] = lint([path], Options())
    assert said in verdict.file.fault
