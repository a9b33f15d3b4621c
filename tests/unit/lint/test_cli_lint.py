"""`tampah lint` as a user sees it: what it prints, as text and as JSON, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from resolver.cli import main

BODY = "# a list\n0.0.0.0 a.example.com\n0.0.0.0 b.example.com\n0.0.0.0 a.example.com\n0.0.0.0 a..b\n"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["lint", *arguments])
    return result.exit_code, result.output


def test_a_summary_comes_first_and_examples_follow(tmp_path: Path) -> None:
    path = tmp_path / "list.hosts"
    path.write_text(BODY)
    code, output = run(str(path))
    lines = output.splitlines()
    assert code == 0
    assert lines[0] == f"{path}: taken, hosts, 5 lines, 3 rules, 1 comments, 1 refused"
    assert lines[1] == "  1 duplicate: say what an earlier line says"
    assert "  3 lines are like line 2, 0.0.0.0 a.example.com" in lines
    assert "    here: blocks the name alone" in lines
    assert "    line 4: 0.0.0.0 a.example.com: by line 2" in lines
    assert any("line 5: 0.0.0.0 a..b" in line and "an empty label" in line for line in lines)


def test_as_json(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(BODY)
    code, output = run("--json", str(path), str(path))
    first, second = json.loads(output)["files"]
    assert code == 0
    assert (first["format"], first["lines"], first["rules"], first["lines_refused"]) == ("hosts", 5, 3, 1)
    assert first["findings"]["duplicate"]["lines"][0]["line"] == 4
    assert second["findings"]["elsewhere"]["count"] == 2 and "elsewhere" not in first["findings"]
    [form] = first["forms"]
    assert form["form"] == "hosts" and "addn-hosts" in form["elsewhere"]["dnsmasq"]


def test_a_file_that_would_be_refused_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("<!DOCTYPE html>\n")
    good = tmp_path / "good.txt"
    good.write_text("x.com\n")
    code, output = run(str(good), str(page))
    assert code == 1 and f"{page}: REFUSED" in output and "HTML" in output and f"{good}: taken" in output
    bad = tmp_path / "bad.txt"
    bad.write_text("x.com\n" * 15 + "a b\n" * 5)
    code, output = run(str(bad))
    assert code == 1 and "of 20 lines are no rules" in output and "5 refused: a blank inside the name" in output


def test_misuse(tmp_path: Path) -> None:
    assert run(str(tmp_path / "none.txt"))[0] == 2
    assert run()[0] == 2
    path = tmp_path / "list.txt"
    path.write_text("x.com\n")
    assert run("--format", "csv", str(path))[0] == 2


def test_a_format_that_is_named_is_used(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("*.x.com\n")
    assert "here: blocks the name and what is below it" in run("--format", "domains", str(path))[1]
    assert "here: blocks what is below the name" in run("--format", "adblock", str(path))[1]


def test_examples_can_be_fewer_and_all(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("x.com\n" * 9)
    assert run("--examples", "0", str(path))[1].count("by line") == 0
    assert run(str(path))[1].count("by line") == 5 and "… 3 more" in run(str(path))[1]
    assert run("--all", str(path))[1].count("by line") == 8
