"""What a whole file is taken for, what is refused of it, and what the report says."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.lists.parse import DIALECTS, Options, detect, read_files, read_list
from resolver.lists.rules import MAX_LINE, MAX_REFUSED_KEPT, NotAList
from resolver.lists.source import lines_of, open_source
from resolver.vocabulary import Scope
from tests.unit.lists.collector import Collector, read

AUTO = Options(own_names=frozenset())
SPECIMENS = [
    "\n",
    "||",
    "^",
    "$",
    ".",
    "x.com",
    " ",
    "\t",
    '"',
    "CNAME",
    "local-zone:",
    "local-data:",
    "address=/",
    "/",
    "0.0.0.0 ",
]
NAMES = "".join(f"name{number}.com\n" for number in range(50))


# -- which dialect --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("domains", "# Title\nx.com\n*.y.com\n.z.com\nbücher.de\nhttps://w.com/\n"),
        ("hosts", "127.0.0.1 localhost\n::1 ip6-localhost\n0.0.0.0 x.com\n0\ty.com\n"),
        ("adblock", "[Adblock Plus]\n! Title\n||x.com^\n@@||y.com^$important\nz.com##.ad\n/ads/\n"),
        ("dnsmasq", "address=/x.com/#\nserver=/y.com/\nlocal=/z.com/\n"),
        ("unbound", 'server:\n  local-zone: "x.com" static\n  local-data: "x.com A 192.0.2.1"\n'),
        ("rpz", "$TTL 60\n@ SOA a. b. 1 2 3 4 5\nx.com CNAME .\n"),
        ("rpz", "; zone\n@ IN SOA a. b. (\n 1 2 3 4 5 )\n IN NS a.\nx.com CNAME .\n"),
        ("rpz", "x.com CNAME .\n*.x.com CNAME .\n"),
        ("rpz", "x.com 300 IN A 192.0.2.1\n"),
        ("mixed", "x.com\n||y.com^\n"),
        ("mixed", "0.0.0.0 x.com\ny.com\n"),
        ("addresses", "192.0.2.1\n192.0.2.0/24\n2001:db8::/32\n"),
        ("domains", "# nothing\n"),
    ],
)
def test_a_files_dialect_is_told_by_its_first_lines(dialect: str, body: str) -> None:
    assert detect(body.splitlines()) == dialect


def test_few_strangers_among_many_lines_do_not_make_a_file_mixed() -> None:
    lines = [f"0.0.0.0 x{number}.com" for number in range(990)]
    assert detect([*lines, "odd.com"]) == "hosts"
    assert detect(lines[:980] + ["odd.com"] * 20) == "mixed"
    assert detect(["0.0.0.0 x.com", "neither", "nor this"]) == "hosts"  # rubbish speaks for no dialect
    assert detect([*lines, *["0.0.0.0 x.com"] * 10, *["odd.com"] * 1000]) == "hosts"  # only the first 1,000 count


def test_a_long_head_of_comments_does_not_hide_the_dialect() -> None:
    chunks = [b"# comment\n" * 100_000, b"# comment\n" * 100_000, b"||x.com^\n||y.com^\n"]
    collector = Collector()
    report = read_list(chunks, AUTO, collector)
    assert (report.format, report.names, report.comments) == ("adblock", 2, 200_000)


# -- what is no list ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "empty list"),
        ("\n\n", "empty list"),
        ("# only\n! comments\n", "empty list: 2 lines"),
        ("127.0.0.1 localhost\n", "empty list"),
        ("  \n<!DOCTYPE html>\n<html>" + NAMES, "a page in HTML"),
        ("<HTML lang=en>\n" + NAMES, "a page in HTML"),
        ("<?xml version='1.0'?>\n" + NAMES, "a page in HTML or XML"),
        ("x.com\n\0\1\2\n", "binary data"),
        ("not a list\nat all\n", "none of 2 lines is a rule, read as domains: line 1, “not a list”: a blank"),
        (NAMES + "not a name\n" * 13, "13 of 63 lines are no rules, read as domains: line 51, “not a name”: a blank"),
        ("||x.com^$popup\n" * 30, "none of 30 lines is a rule"),
    ],
)
def test_what_is_no_list_is_refused_whole(body: str, reason: str) -> None:
    with pytest.raises(NotAList, match=reason):
        read(body)


def test_up_to_a_fifth_of_bad_lines_spoils_nothing() -> None:
    result = read("# comment\n" * 9 + NAMES + "not a name\n" * 12)
    assert (result.report.names, result.report.refused, result.report.comments) == (50, 12, 9)


def test_comments_do_not_hide_that_a_file_is_bad() -> None:
    with pytest.raises(NotAList, match="13 of 63 lines"):
        read("# comment\n" * 1000 + NAMES + "not a name\n" * 13)


def test_rules_for_browsers_do_not_make_a_file_bad() -> None:
    body = "".join(f"||x{n}.com^\nx{n}.com##.ad\n||x{n}.com^$popup\n" for n in range(20))
    report = read(body).report
    assert (report.names, report.refused) == (20, 40)


def test_a_short_file_is_not_judged_by_its_share() -> None:
    report = read("x.com\nnot a name\nnor this\n").report
    assert (report.names, report.refused) == (1, 2)


def test_an_empty_list_may_be_allowed() -> None:
    report = read("# nothing yet\n", Options(own_names=frozenset(), allow_empty=True)).report
    assert (report.names, report.lines) == (0, 1)


# -- the report -----------------------------------------------------------------------------------------------------


def test_refused_lines_are_kept_with_number_text_and_reason() -> None:
    report = read(b"x.com\n\n  a b\t\n" + b"\xff" * 300 + b".com\n").report
    first, second = report.refused_lines
    assert first == (3, "  a b\\t", "a blank inside the name")
    assert second.line == 4
    assert second.reason == "not UTF-8"
    assert len(second.text) <= 4 * 200
    assert report.lines == 4


def test_only_the_first_refused_lines_are_kept() -> None:
    report = read("".join(f"x{n}.com\n" for n in range(6000)) + "bad line\n" * 1500).report
    assert report.refused == 1500
    assert len(report.refused_lines) == MAX_REFUSED_KEPT
    assert report.refused_lines[-1].line == 7000


def test_a_line_that_is_too_long_is_refused_unread() -> None:
    blocks = iter([b"x.com\n# " + b"x" * MAX_LINE, b"x" * MAX_LINE * 3, b"\ny.com\n"])
    collector = Collector()
    report = read_list(lines_of(blocks), AUTO, collector)
    assert {name for name, _, _, _ in collector.rules} == {"x.com", "y.com"}
    assert [(r.line, r.reason) for r in report.refused_lines] == [(2, f"a line of more than {MAX_LINE} octets")]


def test_lines_run_on_over_the_files_of_a_list() -> None:
    files = [("a.txt", [b"x.com\nbad line\n"]), ("b.txt", [b"# none\n"]), ("c.hosts", [b"0.0.0.0 y.com\nbad\n"])]
    collector = Collector()
    report = read_files(files, AUTO, collector)
    assert [(name, line) for name, _, _, line in collector.rules] == [("x.com", 1), ("y.com", 4)]
    assert [report.place(refused.line) for refused in report.refused_lines] == [("a.txt", 2), ("c.hosts", 2)]
    assert [file.format for file in report.files] == ["domains", "domains", "hosts"]
    assert report.format == "mixed"


def test_a_page_among_the_files_of_a_list_is_named() -> None:
    files = [("a.txt", [b"x.com\n"]), ("b.txt", [b"<html>\n"])]
    with pytest.raises(NotAList, match=r"b\.txt: a page in HTML"):
        read_files(files, AUTO, Collector())


def test_equal_outcomes_are_stored_once() -> None:
    body = "".join(f"address=/x{n}.com/192.0.2.1\naddress=/y{n}.com/#\n" for n in range(100))
    result = read(body)
    assert len(result.report.outcomes) <= 3  # data, null, and NXDOMAIN by the templates
    assert result.report.replaces
    assert len(result.rules) == result.report.names == 200


def test_the_report_is_plain_json() -> None:
    report = read("x.com\nbad line\n").report
    again = json.loads(json.dumps(report.as_json()))
    assert again["names"] == 1
    assert again["refused_lines"] == [[2, "bad line", "a blank inside the name"]]


def test_options_that_change_the_rules_change_the_fingerprint() -> None:
    prints = {
        options.fingerprint()
        for options in (
            AUTO,
            Options(own_names=frozenset({"me"})),
            Options(own_names=frozenset(), kind="allow"),
            Options(own_names=frozenset(), subdomains="no"),
            Options(own_names=frozenset(), origin="rpz"),
            Options(own_names=frozenset(), format="hosts"),
        )
    }
    assert len(prints) == 6
    assert AUTO.fingerprint() == Options(own_names=frozenset()).fingerprint()


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["auto", *DIALECTS]),
    st.lists(st.one_of(st.text(max_size=40), st.binary(max_size=40), st.sampled_from(SPECIMENS)), max_size=8),
)
def test_no_octets_upset_a_reader(dialect: str, parts: list[str | bytes]) -> None:
    body = b"".join(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts)
    try:
        report = read(b"".join(lines_of(iter([body]))), Options(format=dialect, own_names=frozenset())).report
    except NotAList as error:
        assert str(error).isprintable()
        return
    assert all((refused.text + refused.reason).isprintable() for refused in report.refused_lines)


LONG_LINES = [
    "1" * 5000 + "x",
    "x.com " + "1" * 5000 + " CNAME .",
    "x.com " + "1" * 40 + "x CNAME .",
    "x.com A " + "1" * 60_000,
    "x.com TXT " + "(" * 60_000,
    "x" + " " * 60_000 + "y",
    "||" + "a." * 30_000 + "^",
    "$a" * 30_000 + "/",
    "0.0.0.0 " + "1.1 " * 15_000,
    *('"' * 60_000, "/" * 60_000, "|" * 60_000, "#" * 60_000, "\\" * 60_001),
    *("a:" * 30_000, "1d" * 30_000, "ü" * 30_000),
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("line", LONG_LINES)
def test_no_line_takes_long(dialect: str, line: str) -> None:
    with pytest.raises(NotAList):
        read(f"{line}\n" * 5, Options(format=dialect, own_names=frozenset()))


def test_a_long_list_is_read_in_constant_memory() -> None:
    class Forgetful(Collector):
        def add(self, name: bytes, scope: int, outcome: int, line: int) -> None:
            self.scanned += 1

    def blocks() -> Iterator[bytes]:
        for block in range(30):
            yield b"".join(b"name%d-%d.example.com\n" % (block, number) for number in range(5000))

    collector = Forgetful()
    tracemalloc.start()
    report = read_list(lines_of(blocks()), AUTO, collector)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.names == 150_000
    assert peak < 8 << 20


def test_the_list_of_a_file_is_read_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfx.com\r\n\r\ny.com")
    collector = Collector()
    report = read_list(open_source(path), AUTO, collector, str(path))
    assert collector.rules == [("x.com", Scope.BOTH, 0, 1), ("y.com", Scope.BOTH, 0, 3)]
    assert report.place(3) == (str(path), 3)
