"""Published lists: the same list in several forms gives the same names, apart from what the forms cannot say.

Stated differences:
- Scope. Plain, wildcard, adblock, dnsmasq and unbound forms cover names with what is below them, hosts lines the names
  alone.
- hagezi/personal: the plain and hosts forms list 12,305 names, the others 9,671 of these. Of the 2,634 that their maker
  left out 2,616 are below another entry, and 18 begin with `www.` and are not covered by the shorter forms.
- blocklistproject/crypto: its hosts form is of another day than the others and has two names more.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from resolver.lists.parse import Options, read_list
from resolver.lists.rules import Outcome
from resolver.lists.source import open_source
from resolver.vocabulary import Action, Scope
from tests.unit.lists.collector import Collector, Read

BOTH, SELF = Scope.BOTH, Scope.SELF
BLOCK = Outcome()


def read_path(path: Path) -> Read:
    """Read a list and hold both ways against each other."""
    found = []
    for use_templates in (True, False):
        collector = Collector(use_templates)
        report = read_list(open_source(path), Options(own_names=frozenset()), collector, str(path))
        rules = sorted((line, name, scope, report.outcomes[outcome]) for name, scope, outcome, line in collector.rules)
        found.append(Read(rules, report, collector.scanned))
    assert found[0].rules == found[1].rules
    assert found[0].report.as_json() == found[1].report.as_json()
    return found[0]


def is_below(name: str, names: set[str]) -> bool:
    """Whether a parent of `name` is among `names`."""
    while name := name.partition(".")[2]:
        if name in names:
            return True
    return False


FORMS = [
    ("adblock.txt", "adblock", BOTH, BLOCK),
    ("wildcard.txt", "domains", BOTH, BLOCK),
    ("domains.txt", "domains", BOTH, BLOCK),
    ("hosts.txt", "hosts", SELF, BLOCK),
    ("unbound.conf", "unbound", BOTH, Outcome(action=Action.ZERO)),
]


@pytest.mark.parametrize("name", ["drugs", "scam", "tiktok", "crypto"])
def test_the_forms_of_a_project_list_give_the_same_names(shared_lists: Path, name: str) -> None:
    folder = shared_lists / "blocklistproject"
    plain = read_path(folder / f"{name}.domains.txt")
    nxdomain = ("dnsmasq.txt", "dnsmasq", BOTH, Outcome(action=Action.NXDOMAIN))
    for form, dialect, scope, outcome in [*FORMS, nxdomain]:
        path = folder / f"{name}.{form}"
        if not path.exists():
            continue
        result = read_path(path)
        assert (result.report.format, result.report.refused) == (dialect, 0)
        assert {rule[2:] for rule in result.rules} == {(scope, outcome)}
        if (name, dialect) == ("crypto", "hosts"):
            assert result.names - plain.names == {"adiri.tel", "tokenist.com"}
            assert result.names > plain.names
        else:
            assert result.names == plain.names


def test_the_forms_of_a_personal_list_give_the_same_names(shared_lists: Path) -> None:
    folder = shared_lists / "hagezi"
    wildcard = read_path(folder / "personal.wildcard.txt")
    plain = read_path(folder / "personal.domains.txt")
    null = ("dnsmasq.txt", "dnsmasq", BOTH, Outcome(action=Action.ZERO))
    for form, dialect, scope, outcome in [*FORMS, null]:
        result = read_path(folder / f"personal.{form}")
        assert (result.report.format, result.report.refused) == (dialect, 0)
        assert {rule[2:] for rule in result.rules} == {(scope, outcome)}
        assert result.names == (plain.names if form in ("domains.txt", "hosts.txt") else wildcard.names)
    assert (len(plain.names), len(wildcard.names)) == (12_305, 9_671)
    assert wildcard.names < plain.names
    left_out = {name for name in plain.names - wildcard.names if not is_below(name, wildcard.names)}
    assert len(left_out) == 18
    assert all(name.startswith("www.") for name in left_out)


@pytest.mark.parametrize(
    ("path", "dialect", "names"),
    [
        ("trustpositif/domains.txt", "domains", 114_377),
        ("hagezi/light.wildcard.txt", "domains", 122_680),
        ("hagezi/doh-vpn-proxy-bypass.adblock.txt", "adblock", 714),
    ],
)
def test_every_line_of_a_list_is_taken(
    shared_lists: Path, capsys: pytest.CaptureFixture[str], path: str, dialect: str, names: int
) -> None:
    result = read_path(shared_lists / path)
    report = result.report
    with capsys.disabled():
        print(
            f"\n{path}: {report.lines} lines, {report.names} names, {report.refused} refused {report.refused_lines[:5]}"
        )
    assert report.format == dialect
    assert report.names == names
    assert report.refused == 0
    assert report.lines == report.names + report.comments
    assert {rule[2:] for rule in result.rules} == {(BOTH, BLOCK)}


def test_a_national_list_of_addresses(shared_lists: Path) -> None:
    report = read_path(shared_lists / "trustpositif" / "addresses.txt").report
    assert report.format == "addresses"
    assert (len(report.triggers), report.names, report.refused, report.special) == (102_425, 0, 5, 2)
    assert [refused.text for refused in report.refused_lines] == [
        "365bet.one",
        "159.323.68.211",
        "234888.vip",
        "225.223.48",
        "andrerosiade.co",
    ]
