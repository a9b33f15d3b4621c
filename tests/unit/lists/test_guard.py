"""The list guard: limits of size, protected names, what is decided and remembered, and the way back."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from publicsuffixlist import PublicSuffixList

from resolver import decisions
from resolver.engine.engine import RunBuilder
from resolver.explain import explain_name
from resolver.lists import history
from resolver.lists.changes import Changes
from resolver.lists.compile import BuildError
from resolver.lists.explain import covers_address, matches, trigger_matches
from resolver.lists.guard import Protected, protected
from resolver.lists.layout import key_of, name_of
from resolver.lists.report import ListReport, Report
from resolver.lists.rules import Outcome, TriggerKind
from resolver.lists.runs import Run, RunHeader, compare, differences, write_run
from resolver.lists.splice import Splice
from resolver.lists.standing import config_digest, standing
from resolver.lists.view import LeftOut, read_view, write_view
from resolver.snapshot import Generation, generations, put_in_force, read_policy
from resolver.vocabulary import Action, Scope, Verb
from tests.unit.lists.test_compile import OLD, Site

ME = decisions.Who(1000, "operator")
BLOCK = Outcome()


class Guarded(Site):
    """A site with one list that changes; every build is put in force, as a server does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._age = itertools.count()
        self.lists({"name": "ads"})

    def feed(self, *lines: str, name: str = "ads") -> None:
        self.write(f"{name}.txt", "".join(f"{line}\n" for line in lines), OLD + next(self._age))

    def change(self, *lines: str) -> tuple[Generation, ListReport]:
        self.feed(*lines)
        return self.renew()

    def renew(self, **options: Any) -> tuple[Generation, ListReport]:
        generation, report = self.build(**options)
        put_in_force(self.state_dir, generation.number)
        return generation, report.lists[0]

    def decide(self, approve: bool, *names: str, name: str = "ads") -> dict[str, Any]:
        newest = generations(self.state_dir)[0]
        return decisions.decide(self.state_dir, newest, name, names, "tested", ME, approve=approve)


@pytest.fixture
def site(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


def names(count: int, word: str = "ads") -> list[str]:
    return [f"{word}{number}.example" for number in range(count)]


# -- limits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("before", "after", "options", "held"),
    [
        (100, 10, {}, True),
        (100, 71, {}, False),
        (100, 70, {}, True),  # at the limit
        (100, 199, {}, False),
        (100, 200, {}, True),
        (100, 1000, {}, True),
        (3, 7, {}, False),  # few names
        (25, 5, {}, False),
        (26, 5, {}, True),
        (100, 10, {"max_shrink": False}, False),
        (100, 10, {"max_shrink": "95%"}, False),
        (100, 85, {"max_shrink": "10%"}, False),  # 15 names are below the floor
        (100, 75, {"max_shrink": "10%"}, True),
        (100, 1000, {"max_grow": "1000%"}, False),
        (100, 130, {"max_grow": "20%"}, True),
    ],
)
def test_sizes_are_held_against_the_limits(
    site: Guarded, before: int, after: int, options: dict[str, Any], held: bool
) -> None:
    site.lists({"name": "ads", **options})
    site.change(*names(before))
    generation, report = site.change(*names(after))
    served = before if held else after
    assert (report.outcome == "held", report.names, generation.lists[0].names) == (held, served, served)
    assert site.action(generation, f"ads{served - 1}.example") is Action.ZERO
    assert site.action(generation, f"ads{max(before, after)}.example") is Action.FORWARD
    if held:
        assert report.is_alarm and "tampah approve ads" in report.fault and f"became {after:,}" in report.fault
        assert report.pending_names == after
        assert (site.state_dir / "runs" / generation.lists[0].pending).is_file()


def test_a_list_may_not_lose_its_last_names_however_few(site: Guarded) -> None:
    site.lists({"name": "ads", "format": "adblock"})
    site.change("||a.example^", "||b.example^")
    _, report = site.change("@@||c.example^")  # a list of one rule: few names changed
    assert report.outcome == "read"
    site.settings["guard"] = {"floor": 0}
    _, report = site.change("@@||c.example^", *(f"||{name}^" for name in names(3)))
    assert report.outcome == "held"


def test_the_first_version_and_another_source_are_not_held(site: Guarded) -> None:
    assert site.change(*names(1000))[1].outcome == "read"
    site.feed(*names(10), name="other")
    site.lists({"name": "ads", "source": "other.txt"})
    _, report = site.renew()
    assert (report.outcome, report.names, report.removed) == ("read", 10, 990)


def test_what_is_held_stays_held_until_it_is_approved_and_is_not_asked_about_again(site: Guarded) -> None:
    site.change(*names(100))
    first, _ = site.change(*names(10))
    assert standing(site.config, config_digest(site.config), site.state_dir) is not None
    again, report = site.renew(force=True)
    assert (report.outcome, again.lists[0].pending) == ("held", first.lists[0].pending)
    record = site.decide(True)
    assert (record["decision"], record["list"], record["user"], record["generation"]) == (
        "approved",
        "ads",
        "operator",
        3,
    )
    assert standing(site.config, config_digest(site.config), site.state_dir) is None  # although no file has changed
    generation, report = site.renew()
    assert (report.outcome, report.names, report.removed) == ("reused", 10, 90)
    assert generation.lists[0].pending == ""
    site.change(*names(11))
    assert site.change(*names(100))[1].outcome == "held"
    assert site.change(*names(10))[1].outcome == "reused"  # what was approved comes again: nobody is asked


def test_what_is_rejected_serves_not_and_nags_not_but_another_change_is_asked_about(site: Guarded) -> None:
    site.change(*names(100))
    site.change(*names(10))
    site.decide(False)
    generation, report = site.renew()
    assert (report.outcome, report.names, report.is_alarm, report.fault) == ("rejected", 100, False, "")
    assert generation.lists[0].held == "rejected"
    assert site.change(*names(9))[1].outcome == "held"
    assert site.change(*names(99))[1].outcome == "read"
    with pytest.raises(decisions.DecisionError, match="nothing of it waits"):
        site.decide(True)
    with pytest.raises(decisions.DecisionError, match="has no list 'adds'; it has ads"):
        site.decide(True, name="adds")


def test_a_held_list_whose_source_goes_serves_on(site: Guarded) -> None:
    site.change(*names(100))
    site.change(*names(10))
    (site.folder / "ads.txt").unlink()
    generation, report = site.renew()
    assert (report.outcome, report.names) == ("held", 100)
    assert "ads.txt" in report.fault  # and what else is wrong is said too
    assert site.action(generation, "ads99.example") is Action.ZERO


def test_a_mandatory_list_is_reported_on_and_serves(site: Guarded) -> None:
    site.lists({"name": "ads", "mandatory": True})
    site.change(*names(100))
    generation, report = site.change("co.id", *names(10))
    assert (report.outcome, report.names, report.quarantined) == ("read", 11, 0)
    assert "became 11" in report.guard and "mandatory" in report.guard and "protected" in report.guard
    assert site.action(generation, "www.shop.co.id") is Action.ZERO


def test_the_other_lists_are_live_whatever_is_held(site: Guarded) -> None:
    site.lists({"name": "ads"}, {"name": "other"})
    site.feed("one.example", name="other")
    site.change(*names(100))
    site.feed("one.example", "two.example", name="other")
    generation, report = site.change(*names(2))
    assert report.outcome == "held"
    assert site.action(generation, "two.example") is Action.ZERO


# -- protected names --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "asked", "why"),
    [
        ("||co.id^", "shop.co.id", "public suffix"),
        ("co.id", "shop.co.id", "public suffix"),
        ("0.0.0.0 co.id", "co.id", "public suffix"),
        ("*.co.id", "shop.co.id", "public suffix"),
        ("||com^", "example.com", "top-level domain"),
        ("||zip^", "update.zip", "top-level domain"),
        ("||madeup^", "x.madeup", "top-level domain"),
        ("||kawasaki.jp^", "x.y.kawasaki.jp", "public suffix"),
        ("||y.kawasaki.jp^", "x.y.kawasaki.jp", "public suffix"),
        ("wordpress.com", "wordpress.com", "most asked here: 51,000 times by 300 clients"),
        ("||asked.example^", "blog.asked.example", "most asked here"),
        ("||isp.example^", "dns.isp.example", "upstream server"),
        ("bank.example", "bank.example", "guard.protect"),
        ("||corp.example^", "host.corp.example", "zone of upstream.routes"),
        ("||lists.example^", "lists.example", "where list far comes from"),
        ("||mirror.example^", "mirror.example", "where list far comes from"),
        ("sums.example", "sums.example", "where list far comes from"),
        ("signed.example", "signed.example", "where list far comes from"),
        ("||dns.example^", "home.dns.example", "the name of this server"),
        ("||ministry.example^", "ministry.example", "the contact of category order"),
    ],
)
def test_a_new_rule_for_a_protected_name_is_left_out(site: Guarded, line: str, asked: str, why: str) -> None:
    site.settings |= {
        "upstream": {
            "servers": ["udp://dns.isp.example?ip=127.0.0.1"],
            "routes": [{"zones": ["corp.example"], "servers": ["127.0.0.1"]}],
        },
        "guard": {"protect": ["bank.example"]},
        "listen": {"name": "home.dns.example"},
        "categories": {"order": {"contact": "mailto:noc@ministry.example"}},
    }
    far = {
        "name": "far",
        "enabled": False,
        "source": "https://lists.example/a.txt",
        "mirrors": ["https://mirror.example/a.txt"],
        "checksum": "https://sums.example/a",
        "signature": "https://signed.example/a",
        "public_key": "RWTrfDI/yEA2+D4KJjEl2pQgUf7CMhhkgcYAf65AEMFJi50cnsD5ybue",
    }
    site.lists({"name": "ads"}, far)
    site.state_dir.mkdir()
    entries = [
        {"name": "wordpress.com", "count": 51000, "clients": 300},
        {"name": "blog.asked.example", "count": 400, "clients": 3},
    ]
    (site.state_dir / "asked.json").write_text(json.dumps({"names": entries}))
    mixed = [*(f"||{name}^" for name in names(30)), "||fresh.example^"]
    hosts = [*(f"0.0.0.0 {name}" for name in names(30)), "0.0.0.0 fresh.example"]
    plain = [*names(30), "fresh.example"]
    rest = mixed if line[0] == "|" else hosts if line[0] == "0" else plain
    site.change(*rest[:-1])
    generation, report = site.change(*rest[:-1], line, rest[-1])
    assert site.action(generation, asked) is Action.FORWARD
    assert site.action(generation, "fresh.example") is Action.ZERO  # the rest is live
    [rule] = report.quarantined_rules
    assert (report.quarantined, rule.text, rule.line) == (1, line, 31)
    assert rule.path.endswith("ads.txt") and why in rule.why
    assert (report.outcome, report.names, report.added) == ("read", 31, 1)
    assert report.is_alarm is False and [report] == list(Report.from_json(generation.report).quarantines)
    site.decide(True)
    approved, report = site.renew()
    assert site.action(approved, asked) is Action.ZERO
    assert (report.quarantined, report.names, report.added) == (0, 32, 1)


@pytest.mark.parametrize(
    "line",
    ["||shop.co.id^", "||www.ck^", "@@||com^", "||example.com^", "0.0.0.0 asked.example", "||x.isp.example^"],
)
def test_a_rule_that_harms_nobody_is_served(site: Guarded, line: str) -> None:
    """`www.ck` is an exception of the public suffix list; a hosts line does not cover what is below."""
    site.state_dir.mkdir()
    (site.state_dir / "asked.json").write_text(
        '{"names": [{"name": "blog.asked.example", "count": 400, "clients": 3}]}'
    )
    site.settings["upstream"] = {"servers": ["udp://dns.isp.example?ip=127.0.0.1"]}
    prefix = "0.0.0.0 " if line[0] == "0" else ""
    _, report = site.change(*(prefix + name for name in names(3)), line)
    assert report.quarantined == 0


@pytest.mark.parametrize(
    ("entry", "guard"),
    [
        ({"count": 49, "clients": 9}, {}),
        ({"count": 400, "clients": 9, "blocked": 300}, {}),  # blocked by another list: nothing changes for most
        ({"count": 400, "clients": 9}, {"asked": 0}),
        ({"count": 400, "clients": 9}, {"asked_times": 401}),
        ({"count": 400, "clients": 9}, {"asked_by": 10}),
    ],
)
def test_a_name_that_is_not_asked_most_is_not_protected(
    site: Guarded, entry: dict[str, int], guard: dict[str, int]
) -> None:
    site.settings["guard"] = guard
    site.state_dir.mkdir()
    (site.state_dir / "asked.json").write_text(json.dumps({"names": [{"name": "asked.example", **entry}]}))
    site.change(*names(30))
    generation, report = site.change(*names(30), "asked.example")
    assert report.quarantined == 0 and site.action(generation, "asked.example") is Action.ZERO


def test_a_first_version_may_block_what_is_asked_most_but_no_public_suffix(site: Guarded) -> None:
    site.state_dir.mkdir()
    (site.state_dir / "asked.json").write_text('{"names": [{"name": "tracker.example", "count": 400, "clients": 3}]}')
    generation, report = site.change(*names(30), "tracker.example", "co.id")
    assert [rule.name for rule in report.quarantined_rules] == ["co.id"]
    assert site.action(generation, "tracker.example") is Action.ZERO


def test_what_was_served_before_is_no_news(site: Guarded) -> None:
    site.settings["guard"] = {"public_suffixes": "none"}
    site.change(*names(3), "co.id")
    site.settings["guard"] = {}
    _, report = site.change(*names(4), "co.id")
    assert report.quarantined == 0
    _, report = site.change(*names(4), "co.id", "ac.id")
    assert [rule.name for rule in report.quarantined_rules] == ["ac.id"]
    site.change(*names(4))
    assert site.change(*names(4), "co.id")[1].quarantined == 1  # it was gone in between


def test_registries_suffixes_alone_may_be_protected(site: Guarded) -> None:
    site.settings["guard"] = {"public_suffixes": "registries"}
    _, report = site.change(*names(3), "github.io", "co.id")
    assert [rule.name for rule in report.quarantined_rules] == ["co.id"]


def test_decisions_on_single_names_stand_for_these_alone(site: Guarded) -> None:
    generation, report = site.change(*names(3), "co.id", "com.au", "github.io")
    assert report.quarantined == 3
    with pytest.raises(decisions.DecisionError, match="no rule for org is quarantined"):
        site.decide(True, "org")
    site.decide(True, "co.id")
    site.decide(False, "com.au")
    generation, report = site.renew()
    assert site.action(generation, "x.co.id") is Action.ZERO
    assert site.action(generation, "x.com.au") is site.action(generation, "x.github.io") is Action.FORWARD
    assert [rule.name for rule in report.quarantined_rules] == ["github.io"]
    generation, report = site.change("co.id", "com.au", "github.io", *names(4))  # on other lines, in another version
    assert [rule.name for rule in report.quarantined_rules] == ["github.io"]
    assert site.action(generation, "x.com.au") is Action.FORWARD
    site.decide(False)
    assert site.renew()[1].quarantined == 0


@pytest.mark.parametrize(
    ("pattern", "asked"),
    [("/wordp.*ss/", "wordpress.com"), ("/.com$/", "any.com"), ("*.co.*", "x.co.id"), ("/.co.id$/", "x.co.id")],
)
def test_a_pattern_for_protected_names_is_left_out(site: Guarded, pattern: str, asked: str) -> None:
    site.state_dir.mkdir()
    (site.state_dir / "asked.json").write_text('{"names": [{"name": "wordpress.com", "count": 400, "clients": 3}]}')
    rest = [f"||{name}^" for name in names(30)]
    site.change(*rest, "/ads[0-9]+x/")
    generation, report = site.change(*rest, "/ads[0-9]+x/", pattern)
    assert [rule.name for rule in report.quarantined_rules] == [pattern]
    assert (report.quarantined_rules[0].text, report.triggers) == (pattern, {"pattern": 1})
    texts = [text for text, _, _ in read_policy(generation.policy_path(site.state_dir)).patterns]
    assert texts == ["/ads[0-9]+x/"]
    state = generation.lists[0]
    [match] = [match for match in matches([("ads", site.state_dir / "runs" / state.run)], asked) if match.left_out]
    assert "waits for a decision" in match.left_out
    _, report = site.change(*rest, "||more.example^", "/ads[0-9]+x/", pattern)  # still so in the next version
    assert report.quarantined == 1
    site.decide(True)
    generation, report = site.renew()
    assert (report.quarantined, report.triggers) == (0, {"pattern": 2})
    assert len(read_policy(generation.policy_path(site.state_dir)).patterns) == 2


@pytest.mark.parametrize(
    ("line", "rule", "why"),
    [
        ("128.0.0.0/1", "", "2,147,483,648 addresses"),
        ("104.16.0.0/12", "", "1,048,576 addresses"),
        ("2000::/3", "", "addresses"),
        ("2001:db8::/31", "", "addresses"),
        ("::ffff:104.16.0.0/108", "104.16.0.0/12", "1,048,576 addresses"),
        ("198.18.7.53", "198.18.7.53/32", "upstream server"),
        ("198.18.7.0/24", "", "upstream server"),
        ("2001:db8:7::/48", "", "upstream server"),
        ("198.18.9.2", "198.18.9.2/32", "an address of this server"),
        ("192.168.0.0/16", "", "clients"),
        ("192.168.1.64/26", "", "clients"),
        ("fd00:1::/48", "", "clients"),
    ],
)
def test_a_prefix_that_reaches_too_far_is_left_out(site: Guarded, line: str, rule: str, why: str) -> None:
    site.settings |= {
        "allow_from": ["0.0.0.0/0", "fd00:1::/48"],
        "upstream": {"servers": ["198.18.7.53", "tls://dns.isp.example?ip=2001:db8:7::53"]},
        "listen": {"dns": ["198.18.9.2:53"]},
        "groups": [{"name": "kids", "clients": ["192.168.1.64/26"]}],
    }
    site.lists({"name": "ads", "format": "addresses"})
    known = [f"198.51.100.{number}" for number in range(30)]
    site.change(*known)
    generation, report = site.change(*known, line, "203.0.113.9")
    [told] = report.quarantined_rules
    assert (told.name, told.text, told.line, report.quarantined) == (rule or line, line, 31, 1)
    assert why in told.why and report.triggers == {"address": 31}  # the rest is live
    address = (rule or line).partition("/")[0]
    paths = [("ads", site.state_dir / "runs" / generation.lists[0].run)]
    [found] = trigger_matches(paths, frozenset({TriggerKind.ADDRESS}), covers_address(ipaddress.ip_address(address)))
    assert "waits for a decision" in found.left_out
    _, report = site.change(*known, line, "203.0.113.9", "203.0.113.10")  # still so in the next version
    assert report.quarantined == 1
    site.decide(True)
    generation, report = site.renew()
    assert (report.quarantined, report.triggers) == (0, {"address": 33})


@pytest.mark.parametrize(
    "line", ["198.18.0.0/16", "2001:db8::/32", "198.18.7.54", "192.168.1.64/27", "127.0.0.1", "::1"]
)
def test_a_prefix_that_harms_nobody_is_served(site: Guarded, line: str) -> None:
    """Part of a network of clients, or this machine's loopback, which sinkholed names lead to."""
    site.settings |= {
        "upstream": {"servers": ["127.0.0.1:5353", "198.18.7.53"] if "/16" not in line else ["::1"]},
        "listen": {"dns": ["127.0.0.1:53", "[::1]:53", "0.0.0.0:53"]},
        "groups": [{"name": "kids", "clients": ["192.168.1.64/26"]}],
    }
    site.lists({"name": "ads", "format": "addresses"})
    _, report = site.change("198.51.100.1", line)
    assert (report.quarantined, report.triggers) == (0, {"address": 2})


@pytest.mark.parametrize(
    ("owner", "quarantined"),
    [
        ("8.0.0.0.10.rpz-ip CNAME .", 1),
        ("8.0.0.0.10.rpz-client-ip CNAME rpz-drop.", 1),
        ("8.0.0.0.10.rpz-nsip CNAME *.", 1),
        ("24.0.2.0.192.rpz-client-ip CNAME .", 1),  # all clients
        ("8.0.0.0.10.rpz-ip CNAME rpz-passthru.", 0),
        ("8.0.0.0.10.rpz-ip CNAME rpz-tcp-only.", 0),
    ],
)
def test_what_a_policy_zone_says_of_addresses_is_judged_too(site: Guarded, owner: str, quarantined: int) -> None:
    site.settings["allow_from"] = ["127.0.0.0/8", "192.0.2.0/24"]
    head = ("$ORIGIN rpz.", "@ 300 SOA . . 1 60 60 60 60", "@ NS localhost.", "x.example CNAME .")
    site.lists({"name": "ads", "format": "rpz"})
    site.change(*head)
    _, report = site.change(*head, owner)
    assert report.quarantined == quarantined
    site.lists({"name": "ads", "format": "rpz", "mandatory": True})
    _, report = site.renew(force=True)
    assert (report.quarantined, sum(report.triggers.values())) == (0, 1)  # an order is only reported on
    assert bool(report.guard) == bool(quarantined)


def test_a_list_of_addresses_is_held_by_its_addresses(site: Guarded) -> None:
    site.lists({"name": "ads", "format": "addresses"})
    site.change(*(f"198.51.100.{number}" for number in range(100)))
    _, report = site.change(*(f"198.51.100.{number}" for number in range(10)))
    assert report.outcome == "held" and "100 rules became 10" in report.guard


def test_a_delta_is_judged_by_what_it_changes(tmp_path: Path, site: Guarded) -> None:
    """Runs with a delta, as transfers make them, come to what whole runs do."""
    rng = random.Random(9)
    labels = ["co.id", "shop.co.id", "com", *names(3000), "wordpress.com", "x.y.kawasaki.jp", "y.kawasaki.jp", "madeup"]
    chosen = rng.sample(labels, 2000)
    builder = RunBuilder(replaces=True)
    for line, name in enumerate(chosen, start=1):
        builder.add(name.encode(), 3, 0, line)
    write_run(tmp_path / "aa.run", builder, RunHeader(outcomes=(BLOCK,), replaces=True))
    guarded = protected(site.config)
    with Splice(tmp_path / "aa.run") as splice:
        changes = {key_of(name): () if name in chosen else ((3, 0),) for name in rng.sample(labels, 500)}
        splice.write(tmp_path / "bb.run", changes, splice.header)
    left = [LeftOut(name, Scope.BOTH, BLOCK, 0, name, "t") for name in chosen[:300]]
    (tmp_path / "v").mkdir()
    for name in ("aa.run", "bb.run"):
        os.link(tmp_path / name, tmp_path / "v" / name)
    views = [tmp_path / "v" / write_view(tmp_path / "v", name, left) for name in ("aa.run", "bb.run")]
    for pair in (views, [tmp_path / "aa.run", views[1]], [views[0], tmp_path / "bb.run"]):
        with Run(pair[0]) as old, Run(pair[1]) as new:
            before, after = dict(old.names()), dict(new.names())
            changed = {name: (was, now) for name, was, now in differences(old, new)}
            assert changed.keys() == {
                name for name in before.keys() | after.keys() if (name in before) != (name in after)
            }
        found = Changes().between(*pair)
        assert {name_of(key) for key, *_ in found.items or ()} == changed.keys()
        assert found.added == sum(not was for was, _ in changed.values())
        assert found.removed == sum(not now for _, now in changed.values())
        assert found.items == sorted(found.items or ())
    with Run(tmp_path / "aa.run") as old, Run(tmp_path / "bb.run") as new:
        items = compare(old, new, 10_000).items or []
        known = {(hit.name, hit.scope) for hit in guarded.hits(old)}
        quick = {(hit.name, hit.scope) for hit in guarded.changed_hits(new, items)}
        assert quick - known == {(hit.name, hit.scope) for hit in guarded.hits(new)} - known
        assert known


def test_a_patched_index_and_a_merged_one_leave_the_same_out(site: Guarded) -> None:
    site.change(*names(2000))
    patched, _ = site.change(*names(2000), "co.id", "x.co.id")
    assert patched.report["index"] == "patched"
    built, _ = site.renew(force=True)
    assert built.report["index"] == "built"
    for generation in (patched, built):
        assert site.action(generation, "x.co.id") is Action.ZERO
        assert site.action(generation, "y.co.id") is Action.FORWARD
    site.decide(True)
    patched, _ = site.renew()
    assert patched.report["index"] == "patched"
    assert site.action(patched, "y.co.id") is Action.ZERO


def test_a_file_of_protected_names_may_be_missing_or_odd(site: Guarded) -> None:
    site.settings["guard"] = {"protect": "mine.txt"}
    site.feed("# mine", "Bank.example  # the bank", "not a name", name="mine")
    generation, report = site.change("bank.example", "x.example")
    assert report.quarantined == 1
    [warning] = generation.report["warnings"]
    assert "mine.txt:3" in warning
    (site.folder / "mine.txt").unlink()
    generation, report = site.change("bank.example", "x.example", "y.example")
    assert report.quarantined == 0 and "not protected" in generation.report["warnings"][0]


def test_damage_is_survived(site: Guarded) -> None:
    site.change(*names(100), "co.id")
    generation, _ = site.change(*names(20), "co.id")
    (site.state_dir / "guard.json").write_text("{")
    (site.state_dir / "asked.json").write_text("[]")
    view = site.state_dir / "runs" / generation.lists[0].run
    view.write_text("{}")
    generation, _ = site.change(*names(20), "co.id")
    assert site.action(generation, "ads0.example") is Action.ZERO
    assert site.action(generation, "x.co.id") is Action.FORWARD


_LABELS = st.sampled_from(["a", "b", "c", "id", "co"])
_NAMES = st.lists(_LABELS, min_size=1, max_size=4).map(".".join)
_RULES = st.lists(
    st.tuples(_NAMES, st.sampled_from([Scope(n) for n in (1, 2, 3)]), st.sampled_from([0, 1, 2])), min_size=1
)
_OUTCOMES = (BLOCK, Outcome(verb=Verb.ALLOW), Outcome(action=Action.TCP_ONLY))


@settings(max_examples=30, deadline=None)
@given(rules=_RULES, zones=st.sets(_NAMES), plain=st.sets(_NAMES), wild=st.sets(_NAMES), exceptions=st.sets(_NAMES))
def test_hits_are_what_the_definition_says(
    tmp_path_factory: pytest.TempPathFactory,
    rules: list[tuple[str, Scope, int]],
    zones: set[str],
    plain: set[str],
    wild: set[str],
    exceptions: set[str],
) -> None:
    path = tmp_path_factory.mktemp("run") / "x.run"
    builder = RunBuilder()
    for line, (name, scope, outcome) in enumerate(rules, start=1):
        builder.add(name.encode(), scope, outcome, line)
    write_run(path, builder, RunHeader(outcomes=_OUTCOMES))
    guarded = Protected(dict.fromkeys(zones, "z"), dict.fromkeys(plain, "n"), frozenset(wild), frozenset(exceptions))

    def above(name: str, other: str) -> bool:
        return other.endswith("." + name)

    def is_hit(name: str, scope: Scope) -> bool:
        suffix = name in zones or "." not in name
        suffix = suffix or (name.partition(".")[2] in wild and name not in exceptions)
        return (
            suffix
            or (name in plain and bool(scope & Scope.SELF))
            or (bool(scope & Scope.BELOW) and any(above(name, other) for other in plain | zones | wild))
            or (bool(scope & Scope.BELOW) and name in wild)
        )

    with Run(path) as run:
        expected = {
            (name, rule.scope, rule.outcome)
            for name, found in run.names()
            for rule in found
            if rule.outcome == BLOCK and is_hit(name, rule.scope)
        }
        found = [(hit.name, hit.scope, hit.outcome) for hit in guarded.hits(run)]
    assert len(found) == len(set(found))
    assert set(found) == expected


# -- views ------------------------------------------------------------------------------------------------------------
def test_a_view_is_its_run_without_some_rules(tmp_path: Path) -> None:
    rng = random.Random(3)
    builder = RunBuilder()
    for line in range(10_000):
        builder.add(b"n%d.z%d" % (rng.randrange(4500), line % 3), rng.choice([1, 2, 3]), rng.randrange(2), line)
    write_run(tmp_path / "ab.run", builder, RunHeader(outcomes=_OUTCOMES))
    with Run(tmp_path / "ab.run") as run:
        everything = list(run.names())
        every = [(name, rule) for name, rules in everything for rule in rules]
        left = [LeftOut(name, rule.scope, rule.outcome, rule.line, name, "t") for name, rule in rng.sample(every, 1500)]
    view = write_view(tmp_path, "ab.run", left)
    assert write_view(tmp_path, "ab.run", left) == view
    assert read_view(tmp_path / view).rules == tuple(left)
    gone = {(rule.name, rule.scope, rule.outcome) for rule in left}
    expected = [
        (name, kept)
        for name, rules in everything
        if (kept := [rule for rule in rules if (name, rule.scope, rule.outcome) not in gone])
    ]
    with Run(tmp_path / view) as run, Run(tmp_path / "ab.run") as base:
        assert list(run.names()) == expected
        assert (run.header.names, run.header.rules) == (len(expected), len(every) - 1500)
        asked = rng.sample([name for name, _ in everything], 500)
        known = dict(expected)
        assert dict(run.find_many(asked)) == {name: known[name] for name in asked if name in known}
        assert all(sorted(run.find(name)) == sorted(known.get(name, [])) for name in asked[:100])
        changed = list(differences(base, run))
        assert {name for name, _, _ in changed} == {rule.name for rule in left}
        assert sorted(run.children("")) == [] and len(list(run.children("z1"))) == sum(n.endswith(".z1") for n in known)
    octets = (tmp_path / view).read_bytes()
    (tmp_path / view).write_bytes(octets.replace(b"z1", b"z2", 1))
    with pytest.raises(ValueError, match="digest"):
        Run(tmp_path / view)


# -- back, and since when ---------------------------------------------------------------------------------------------
def test_a_rollback_stands_until_the_source_changes(site: Guarded) -> None:
    first, _ = site.change(*names(100))
    site.change(*names(101))
    site.change(*names(102))
    back, report = site.renew(rollback=1)
    decisions.roll_back(site.state_dir, back, 1, "tested", ME)
    assert (back.number, back.parent, back.returns_to, back.index) == (4, 3, 1, first.index)
    assert (report.outcome, report.names) == ("rejected", 100)
    assert site.action(back, "ads101.example") is Action.FORWARD
    assert (
        standing(site.config, config_digest(site.config), site.state_dir) is not None
    )  # the next reload has nothing to do
    again, report = site.renew()
    assert (report.outcome, again.index) == ("rejected", first.index)
    assert "rolled back" in report.guard
    _, report = site.change(*names(103))
    assert (report.outcome, report.names) == ("read", 103)
    assert site.change(*names(102))[1].outcome == "rejected"  # what was rolled back comes again


def test_approve_and_force_end_a_rollback(site: Guarded) -> None:
    site.change(*names(100))
    site.change(*names(101))
    for end in ("approve", "force"):
        back, _ = site.renew(rollback=1)
        decisions.roll_back(site.state_dir, back, 1, "tested", ME)
        assert site.renew()[1].outcome == "rejected"
        if end == "approve":
            site.decide(True)
        else:
            assert decisions.release(site.state_dir, back, ME)
            assert decisions.release(site.state_dir, back, ME) is None
        generation, report = site.renew()
        assert (report.names, site.action(generation, "ads100.example")) == (101, Action.ZERO)


def test_a_rollback_takes_back_what_was_approved_and_survives_a_change_of_the_config(site: Guarded) -> None:
    site.lists({"name": "ads"}, {"name": "old"})
    site.feed("old.example", name="old")
    site.change(*names(3), "co.id")
    site.decide(True)
    approved, _ = site.renew()
    assert site.action(approved, "x.co.id") is Action.ZERO
    site.lists({"name": "ads"}, {"name": "young"})
    site.feed("young.example", name="young")
    site.renew()
    back, _ = site.renew(rollback=1)
    decisions.roll_back(site.state_dir, back, 1, "tested", ME)
    for generation in (back, site.renew()[0]):
        assert site.action(generation, "x.co.id") is Action.FORWARD
        assert site.action(generation, "ads0.example") is Action.ZERO
        assert site.action(generation, "old.example") is Action.FORWARD  # the config has it no more
        assert site.action(generation, "young.example") is Action.FORWARD  # it was not there yet
    site.decide(True, name="young")
    assert site.action(site.renew()[0], "young.example") is Action.ZERO
    with pytest.raises(BuildError, match="generation 99 is not kept"):
        site.build(rollback=99)


def test_force_gives_approved_rules_back_and_rejected_ones_not(site: Guarded) -> None:
    site.change(*names(3), "co.id", "com.au")
    site.decide(True, "co.id")
    site.decide(False, "com.au")
    site.renew()
    for _ in range(2):  # a rollback upon a rollback holds on to it
        back, _ = site.renew(rollback=1)
        decisions.roll_back(site.state_dir, back, 1, "tested", ME)
        for generation in (back, site.renew()[0], site.change(*names(4), "co.id", "com.au")[0]):
            assert site.action(generation, "x.co.id") is Action.FORWARD
    record = decisions.release(site.state_dir, back, ME)
    assert record is not None and record["what"]["approved"] == {"ads": ["co.id"]}
    assert decisions.release(site.state_dir, back, ME) is None
    generation, report = site.renew()
    assert site.action(generation, "x.co.id") is Action.ZERO
    assert site.action(generation, "x.com.au") is Action.FORWARD
    assert report.quarantined == 0


def test_decisions_of_before_are_understood(site: Guarded) -> None:
    site.change(*names(3), "co.id", "com.au")
    site.decide(True, "co.id")
    site.decide(False, "com.au")
    path = site.state_dir / decisions.FILE
    known = decisions.read(site.state_dir)
    path.write_text(path.read_text().replace('"approved"', "true").replace('"rejected"', "false"))
    assert decisions.read(site.state_dir) == known


def test_since_when_a_rule_stands(site: Guarded) -> None:
    def since(name: str, outcome: Outcome = BLOCK) -> tuple[int, bool] | None:
        number = generations(site.state_dir)[0].number
        found = history.since(site.state_dir, number, "ads", (name, Scope.BOTH, outcome), None)
        return found and (found.generation, found.exact)

    site.settings["guard"] = {"keep_generations": 3}
    important = Outcome(important=True)
    site.change("||a.example^", "||co.id^")
    site.change("||a.example^", "||b.example^", "||co.id^")
    site.change("||b.example^", "||co.id^")
    site.change("||a.example^", "||b.example^", "||b.example^$important", "||co.id^")
    site.decide(True)
    site.renew()
    assert [since(f"{name}") for name in ("a.example", "b.example", "co.id")] == [(4, True), (2, True), (5, True)]
    assert since("b.example", important) == (4, True)
    assert [known.number for known in generations(site.state_dir)] == [5, 4, 3]  # the record is longer than the files
    (site.state_dir / "history" / "ads" / "4.z").unlink()
    assert since("b.example") == (4, False)
    assert since("co.id") == (5, True)
    (site.state_dir / "history" / "generations.jsonl").write_text("nothing\n")
    assert since("a.example") is None


@pytest.mark.parametrize(
    ("rules", "format", "ask"),
    [
        (("/^bad[0-9]/", "||x.example^", "/^worse[0-9]/"), "adblock", {"name": "bad5.example"}),
        (("192.0.2.0/24", "198.51.100.1", "203.0.113.9"), "addresses", {"name": "192.0.2.9"}),
        (
            ("24.0.2.0.192.rpz-ip CNAME .", "x.example CNAME .", "y.example CNAME ."),
            "rpz",
            {"name": "z.example", "leads_to": ("192.0.2.9",)},
        ),
        (
            ("*.host.example.rpz-nsdname CNAME .", "x.example CNAME .", "y.example CNAME ."),
            "rpz",
            {"name": "z.example", "servers": ("ns.host.example",)},
        ),
        (
            ("24.0.2.0.192.rpz-nsip CNAME .", "x.example CNAME .", "y.example CNAME ."),
            "rpz",
            {"name": "z.example", "servers": ("192.0.2.9",)},
        ),
        (
            ("32.1.0.0.127.rpz-client-ip CNAME .", "x.example CNAME .", "y.example CNAME ."),
            "rpz",
            {"name": "z.example"},
        ),
    ],
)
def test_since_when_rules_stand_that_are_no_names(
    site: Guarded, rules: tuple[str, str, str], format: str, ask: dict[str, Any]
) -> None:
    """The rule in question comes, goes, and comes again; before and behind it others do."""
    head = ("$TTL 60", "@ SOA a. b. 1 2 3 4 5") if format == "rpz" else ()
    site.lists({"name": "ads", "format": format})
    rule, other, third = rules
    for lines in ((other,), (rule, other), (other,), (other, third, rule), (other, rule)):
        site.change(*head, *lines)
    found = explain_name(site.config, ask.pop("name"), "127.0.0.1", "A", **ask)
    [match] = [match for match in found.matches if match.list == "ads"]
    assert match.since.startswith("since generation 4 (")
    site.settings["guard"] = {"keep_generations": 3}
    (site.state_dir / "history" / "ads" / "4.z").unlink()
    again = explain_name(site.config, found.name, "127.0.0.1", "A", **ask)
    assert next(match for match in again.matches if match.list == "ads").since.startswith(
        "since generation 4 or longer"
    )


def test_generations_are_kept_within_number_and_size(site: Guarded) -> None:
    site.settings["guard"] = {"keep_generations": 5}
    for count in range(1, 9):
        site.change(*names(count))
    assert [known.number for known in generations(site.state_dir)] == [8, 7, 6, 5, 4]
    site.settings["guard"] = {"keep_generations": 5, "keep_size": "1B"}
    site.change(*names(9))
    assert [known.number for known in generations(site.state_dir)] == [9, 8, 7]


def test_a_generation_knows_its_sources(site: Guarded) -> None:
    import hashlib

    generation, _ = site.change(*names(2))
    octets = (site.folder / "ads.txt").read_bytes()
    assert generation.lists[0].digest == hashlib.sha256(octets).hexdigest()
    held, _ = site.change(*names(100))
    assert held.lists[0].digest == generation.lists[0].digest  # of what serves


# -- the record -------------------------------------------------------------------------------------------------------
def test_the_record_shows_what_was_done_to_it(site: Guarded) -> None:
    site.change(*names(3), "co.id", "com.au", "github.io")
    for name in ("co.id", "com.au", "github.io"):
        site.decide(True, name)
    found = decisions.records(site.state_dir)
    assert [record.body["what"]["names"] for record in found] == [["co.id"], ["com.au"], ["github.io"]]
    assert all(record.sound for record in found)
    path = site.state_dir / decisions.LOG
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    assert [record.sound for record in decisions.records(site.state_dir)] == [True, False]
    path.write_bytes(lines[0] + lines[1].replace(b"operator", b"somebody") + lines[2])
    assert [record.sound for record in decisions.records(site.state_dir)] == [True, True, False]
    path.write_bytes(b"".join(lines) + b'{"cut')  # a machine that lost its power
    site.decide(False, "co.id")
    assert [record.sound for record in decisions.records(site.state_dir)] == [True, True, True, False, True]


def test_the_public_suffix_list_is_the_librarys() -> None:
    """The guard reads the library's set of rules, which has no public name; its own look-up must agree."""
    suffixes = PublicSuffixList()
    for name in ("co.id", "com", "github.io", "xn--p1ai", "y.kawasaki.jp"):
        assert suffixes.publicsuffix(name) == name
    assert {"co.id", "com", "github.io", "xn--p1ai", "*.kawasaki.jp", "!city.kawasaki.jp"} <= suffixes._publicsuffix
