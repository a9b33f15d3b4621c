"""From config and list files to a generation: what is read, what is reused, what serves on when something is wrong."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from resolver import counters
from resolver.config.model import Config, SpecialNames
from resolver.engine.engine import Index, Snapshot
from resolver.lists import compile as compiler
from resolver.lists import reading
from resolver.lists.clients import lookup
from resolver.lists.compile import BuildError, build_generation, check_lists, policy_rules, tidy_generation
from resolver.lists.explain import matches
from resolver.lists.layout import INDEX
from resolver.lists.matrix import REBINDING_PROFILE
from resolver.lists.merge import read_header
from resolver.lists.parse import read_files
from resolver.lists.report import ListOutcome, ListReport, Report
from resolver.lists.source import sha256_of
from resolver.snapshot import (
    NO_SLOT,
    Generation,
    generations,
    last_good,
    put_in_force,
    read_generation,
    read_policy,
    write_json,
)
from resolver.vocabulary import Action, Rank
from tests import reference_policy as reference

OLD = time.time() - 3600  # so long ago that stat proves a file unchanged


class Site:
    """A folder with lists, a config and a state folder, as an operator has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        nothing_of_its_own = dict.fromkeys(SpecialNames.model_fields, False)
        self.settings: dict[str, Any] = {"allow_from": ["0.0.0.0/0"], "special_names": nothing_of_its_own}

    def write(self, name: str, text: str | bytes, when: float = OLD) -> None:
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        os.utime(path, (when, when))

    def lists(self, *lists: dict[str, Any]) -> None:
        self.settings["lists"] = [{"source": f"{item['name']}.txt"} | item for item in lists]

    @property
    def config(self) -> Config:
        return Config.model_validate(self.settings, context={"file": self.folder / "config.yaml"})

    def build(self, **options: Any) -> tuple[Generation, Report]:
        generation = build_generation(self.config, self.state_dir, **options)
        assert read_generation(self.state_dir, generation.number) == generation_from_json(generation)
        return generation, Report.from_json(generation.report)

    def outcomes(self, report: Report) -> dict[str, str]:
        return {item.name: str(item.outcome) for item in report.lists}

    def snapshot(self, generation: Generation) -> Snapshot:
        index = Index(str(generation.index_path(self.state_dir)))
        return Snapshot(index, read_policy(generation.policy_path(self.state_dir)), generation.number)

    def action(self, generation: Generation, name: str, client: str = "127.0.0.1") -> Action:
        address = bytes(10) + b"\xff\xff" + bytes(int(part) for part in client.split("."))
        return Action(self.snapshot(generation).decide(name, address)[3][1])


def generation_from_json(generation: Generation) -> Generation:
    """The same, its report as JSON gives it back."""
    fields = {name: getattr(generation, name) for name in generation.__slots__}
    return Generation(**{**fields, "report": json.loads(json.dumps(generation.report))})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.write("ads.txt", "ads.example\ntracker.example\n")
    site.write("adult.txt", "adult.example\n")
    site.lists({"name": "ads", "category": "ads"}, {"name": "adult", "category": "adult"})
    return site


def files(site: Site) -> set[str]:
    return {str(path.relative_to(site.state_dir)) for path in site.state_dir.rglob("*") if path.is_file()}


# -- what is enforced -------------------------------------------------------------------------------------------------
def test_a_first_build_enforces_every_list(site: Site) -> None:
    generation, report = site.build()
    assert (generation.number, generation.parent, report.index) == (1, 0, "built")
    assert (report.names, report.added, report.removed) == (3, 3, 0)
    assert site.outcomes(report) == {"ads": "read", "adult": "read"}
    assert site.action(generation, "ads.example") is Action.ZERO
    assert site.action(generation, "www.adult.example") is Action.ZERO
    assert site.action(generation, "good.example") is Action.FORWARD


def test_groups_actions_and_routes_reach_the_engine(site: Site) -> None:
    site.settings |= {
        "allow_from": ["10.0.0.0/8"],
        "categories": {"adult": {"action": "nxdomain", "ede": "none"}, "ads": {"ede": "censored", "law": "7/2024"}},
        "groups": [
            {"name": "kids", "clients": ["10.1.0.0/16"], "categories": ["adult"], "actions": {"adult": "refused"}},
            {"name": "office", "clients": ["10.1.2.0/24", "10.2.0.0/16"], "lists": ["ads"]},
        ],
        "upstream": {"routes": [{"zones": ["corp.example"], "servers": ["10.0.0.53"]}]},
    }
    generation, report = site.build()
    policy = read_policy(generation.policy_path(site.state_dir))
    assert site.action(generation, "adult.example", "10.9.0.1") is Action.NXDOMAIN
    assert site.action(generation, "adult.example", "10.1.2.3") is Action.REFUSED
    assert site.action(generation, "ads.example", "10.1.2.3") is Action.FORWARD
    assert site.action(generation, "adult.example", "10.2.0.1") is Action.FORWARD
    assert site.snapshot(generation).decide("ads.example", bytes(16))[0] == 0xFFFF
    assert policy.routes == {"corp.example": 1}
    assert lookup(policy.clients, "10.1.2.3") == policy.groups["kids"]
    assert sorted(profile.ede for profile in policy.profiles[REBINDING_PROFILE + 1 :]) == [-1, -1, 16]
    assert any("order 7/2024" in profile.text for profile in policy.profiles)
    assert report.warnings == ()


def test_every_cell_of_a_real_index_is_what_the_oracle_says(site: Site) -> None:
    site.write("allow.txt", "www.ads.example\n")
    site.write(
        "rpz.txt", "$TTL 60\n@ SOA a. b. 1 2 3 4 5\nads.example CNAME .\n*.tracker.example CNAME rpz-passthru.\n"
    )
    site.lists(
        {"name": "ads", "category": "ads"},
        {"name": "rpz", "format": "rpz"},
        {"name": "allow", "kind": "allow"},
        {"name": "adult", "enabled": "shadow"},
    )
    site.settings["groups"] = [{"name": "some", "clients": ["10.0.0.0/8"], "lists": ["rpz", "ads"]}]
    generation, _ = site.build()
    snapshot = site.snapshot(generation)
    rules = policy_rules(site.config, generation.lists)
    header = read_header(generation.index_path(site.state_dir))
    assert [item.name for item in header.lists] == [policy.name for policy in rules.lists]
    names = ["ads.example", "www.ads.example", "x.tracker.example", "tracker.example", "adult.example", "x.example"]
    for name in names:
        for client, group in ((b"\x7f\0\0\1", None), (b"\x0a\0\0\1", rules.groups[0])):
            _, listset, _, cell = snapshot.decide(name, bytes(10) + b"\xff\xff" + client)
            wanted = reference.decide(rules, group, header.shapes[snapshot_shape(generation, site, listset)])
            assert (cell[0], cell[1]) == (wanted.rank, wanted.action), name
    _, _, _, cell = snapshot.decide("www.ads.example", bytes(10) + b"\xff\xff\x7f\0\0\1")
    assert (cell[0], cell[1]) == (Rank.ALLOW, Action.ALLOW)


def snapshot_shape(generation: Generation, site: Site, listset: int) -> int:
    return Index(str(generation.index_path(site.state_dir))).shape(listset)


def test_no_lists_at_all_is_a_generation_that_blocks_nothing(site: Site) -> None:
    site.settings["lists"] = []
    generation, report = site.build()
    assert report.names == 0
    assert site.action(generation, "ads.example") is Action.FORWARD


def test_a_list_that_is_switched_off_is_not_read(site: Site) -> None:
    site.lists({"name": "ads", "enabled": "no", "source": "nowhere.txt"}, {"name": "adult"})
    generation, report = site.build()
    assert site.outcomes(report) == {"adult": "read"}
    assert site.action(generation, "ads.example") is Action.FORWARD


# -- what is reused ---------------------------------------------------------------------------------------------------
def test_nothing_changed_nothing_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = site.build()
    monkeypatch.setattr(reading, "sha256_of", None)  # stat alone has to do
    second, report = site.build()
    assert (second.number, second.parent, second.index) == (2, 1, first.index)
    assert report.index == "reused"
    assert site.outcomes(report) == {"ads": "reused", "adult": "reused"}
    assert (report.names, report.added, report.removed) == (3, 0, 0)


def test_a_touched_file_is_not_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.build()
    site.write("ads.txt", (site.folder / "ads.txt").read_bytes(), OLD + 60)
    monkeypatch.setattr(reading, "read_files", None)
    _, report = site.build()
    assert site.outcomes(report) == {"ads": "reused", "adult": "reused"}
    assert report.index == "reused"


def test_a_file_changed_just_now_is_not_trusted_by_stat(site: Site) -> None:
    now = time.time()
    site.write("ads.txt", "aaa.example\n", now)
    site.build()
    inode = (site.folder / "ads.txt").stat().st_ino
    site.write("ads.txt", "bbb.example\n", now)
    assert (site.folder / "ads.txt").stat().st_ino == inode
    generation, report = site.build()
    assert site.outcomes(report)["ads"] == "read"
    assert site.action(generation, "bbb.example") is Action.ZERO
    assert site.action(generation, "aaa.example") is Action.FORWARD


def test_a_change_is_counted_by_name(site: Site) -> None:
    site.build()
    site.write("ads.txt", "tracker.example\nnew1.example\nnew2.example\n", OLD + 1)
    generation, report = site.build()
    assert report.index == "built"
    ads = report.lists[0]
    assert (ads.outcome, ads.names, ads.added, ads.removed) == (ListOutcome.READ, 3, 2, 1)
    assert report.lists[1].outcome is ListOutcome.REUSED
    assert site.action(generation, "new1.example") is Action.ZERO
    assert site.action(generation, "ads.example") is Action.FORWARD


def test_a_change_of_policy_alone_writes_no_index(site: Site) -> None:
    first, _ = site.build()
    site.settings["categories"] = {"ads": {"action": "nxdomain"}}
    second, report = site.build()
    assert (second.index, report.index) == (first.index, "reused")
    assert second.config != first.config
    assert site.action(first, "ads.example") is Action.ZERO
    assert site.action(second, "ads.example") is Action.NXDOMAIN


def test_an_option_that_changes_the_reading_reads_again(site: Site) -> None:
    site.build()
    site.lists({"name": "ads", "kind": "allow"}, {"name": "adult"})
    generation, report = site.build()
    assert site.outcomes(report) == {"ads": "read", "adult": "reused"}
    assert site.action(generation, "ads.example") is Action.ALLOW


def test_another_order_of_lists_is_another_index_from_the_same_runs(site: Site) -> None:
    first, _ = site.build()
    site.settings["lists"].reverse()
    second, report = site.build()
    assert second.index != first.index
    assert site.outcomes(report) == {"ads": "reused", "adult": "reused"}
    site.settings["lists"].reverse()
    third, report = site.build()
    assert (third.index, report.index) == (first.index, "reused")


def test_a_list_that_left_the_config_is_reported_gone(site: Site) -> None:
    site.build()
    site.lists({"name": "adult"})
    generation, report = site.build()
    assert site.outcomes(report) == {"adult": "reused", "ads": "gone"}
    assert (report.names, report.added, report.removed) == (1, 0, 2)
    assert [item.name for item in report.served] == ["adult"]
    assert site.action(generation, "ads.example") is Action.FORWARD


def test_force_reads_everything(site: Site) -> None:
    first, _ = site.build()
    second, report = site.build(force=True)
    assert second.index != first.index
    assert site.outcomes(report) == {"ads": "read", "adult": "read"}


def test_several_files_are_one_list_and_a_refused_line_names_its_file(site: Site) -> None:
    site.write("many1.txt", "one.example\n")
    site.write("many2.txt", "two.example\nnot a name at all!\n")
    site.lists({"name": "many", "source": "many*.txt", "format": "domains"})
    generation, report = site.build()
    assert site.action(generation, "one.example") is site.action(generation, "two.example") is Action.ZERO
    [refused] = report.lists[0].refused_lines
    assert (Path(refused.path).name, refused.line, report.refused) == ("many2.txt", 2, 1)
    _, report = site.build()
    assert report.lists[0].outcome is ListOutcome.REUSED
    assert report.lists[0].refused_lines == (refused,)
    site.write("many3.txt", "three.example\n")
    _, report = site.build()
    assert report.lists[0].added == 1


def test_explain_finds_the_line_in_a_generations_runs(site: Site) -> None:
    generation, _ = site.build()
    runs = [(state.name, site.state_dir / "runs" / state.run) for state in generation.lists]
    assert [(match.list, match.line) for match in matches(runs, "x.tracker.example")] == [("ads", 2)]


# -- what serves on ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "rubbish", [b"", b"<!doctype html><html><body>404</body></html>\n", b"\x1f\x8bcut", b"\0\1\2" * 99, None]
)
def test_a_refused_or_missing_list_serves_on_by_its_last_good_copy(site: Site, rubbish: bytes | None) -> None:
    site.build()
    if rubbish is None:
        (site.folder / "ads.txt").unlink()
    else:
        site.write("ads.txt", rubbish, OLD + 1)
    for _ in range(2):
        generation, report = site.build()
        ads = report.lists[0]
        assert (ads.outcome, ads.names, ads.added, ads.removed) == (ListOutcome.KEPT, 2, 0, 0)
        assert "ads.txt" in ads.error
        assert report.alarms == (ads,)
        assert "serves on" in ads.line()
        assert report.index == "reused"
        assert site.action(generation, "ads.example") is Action.ZERO
    site.write("ads.txt", "ads.example\n", OLD + 2)
    _, report = site.build()
    assert (report.lists[0].outcome, report.lists[0].removed) == (ListOutcome.READ, 1)


def test_the_age_of_a_kept_list_counts_from_when_it_was_last_found_good(site: Site) -> None:
    first, _ = site.build()
    record = site.state_dir / "generations" / "1.json"
    body = json.loads(record.read_bytes())
    body["lists"][0]["seen"] = first.created - 7200
    write_json(record, body)
    (site.folder / "ads.txt").unlink()
    _, report = site.build()
    assert 7200 <= report.lists[0].age < 7300
    assert "the copy of 2 h ago serves on" in report.lists[0].line()


def test_a_list_that_never_was_good_is_an_alarm_and_the_others_serve(site: Site) -> None:
    site.lists({"name": "gone", "source": "nowhere.txt"}, {"name": "ads"})
    generation, report = site.build()
    assert site.outcomes(report) == {"gone": "missing", "ads": "read"}
    assert "nowhere.txt" in report.lists[0].error
    assert site.action(generation, "ads.example") is Action.ZERO
    site.write("nowhere.txt", "late.example\n")
    generation, report = site.build()
    assert site.outcomes(report) == {"gone": "read", "ads": "reused"}
    assert site.action(generation, "late.example") is Action.ZERO


def test_a_missing_list_does_not_serve_on_as_its_opposite(site: Site) -> None:
    site.build()
    (site.folder / "ads.txt").unlink()
    site.lists({"name": "ads", "kind": "allow"}, {"name": "adult"})
    generation, report = site.build()
    assert site.outcomes(report) == {"ads": "missing", "adult": "reused"}
    assert site.action(generation, "ads.example") is Action.FORWARD


def test_a_parser_that_fails_is_one_lists_failure(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = read_files

    def failing(files: Any, options: Any, sink: Any) -> Any:
        files = list(files)
        if files[0][0].endswith("ads.txt"):
            raise KeyError("nobody thought of this")
        return real(files, options, sink)

    monkeypatch.setattr(reading, "read_files", failing)
    generation, report = site.build()
    assert report.lists[0].error == "KeyError: 'nobody thought of this'"
    assert site.action(generation, "adult.example") is Action.ZERO


def test_a_file_that_changes_while_it_is_read_is_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = read_files
    writes = iter(["half.example\n", "half.example\nwhole.example\n"])

    def slow(files: Any, options: Any, sink: Any) -> Any:
        files = list(files)
        report = real(files, options, sink)
        if files[0][0].endswith("ads.txt") and (text := next(writes, None)) is not None:
            site.write("ads.txt", text, OLD + len(text))
        return report

    monkeypatch.setattr(reading, "read_files", slow)
    generation, report = site.build()
    assert report.lists[0].names == 2
    assert site.action(generation, "whole.example") is Action.ZERO


def test_a_file_that_never_stands_still_leaves_the_good_run_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.build()
    real = sha256_of

    def restless(path: Path) -> str:
        digest = real(path)
        os.utime(path, ns=(time.time_ns(), time.time_ns()))
        return digest

    site.write("ads.txt", (site.folder / "ads.txt").read_bytes(), OLD + 1)
    monkeypatch.setattr(reading, "sha256_of", restless)
    generation, report = site.build()
    assert "changes while it is read" in report.lists[0].error
    assert site.action(generation, "ads.example") is Action.ZERO


def test_a_small_change_patches_the_index_until_a_full_build_is_asked_for(site: Site) -> None:
    names = [f"n{number}.example" for number in range(500)]
    site.write("ads.txt", "\n".join([*names, ""]))
    site.build()
    site.write("adult.txt", "adult.example\nother.example\n", OLD + 1)
    site.write("ads.txt", "\n".join([*names[1:], ""]), OLD + 1)
    generation, report = site.build()
    assert (report.index, generation.index) == ("patched", "index/2.index")
    assert (report.added, report.removed) == (1, 1)
    assert site.action(generation, "www.other.example") is site.action(generation, "n1.example") is Action.ZERO
    assert site.action(generation, "n0.example") is Action.FORWARD
    site.write("adult.txt", "adult.example\n", OLD + 2)
    generation, report = site.build(force=True)
    assert report.index == "built"
    assert site.action(generation, "other.example") is Action.FORWARD


def test_a_patched_index_is_tidied_into_one_that_comes_to_the_same(site: Site) -> None:
    names = [f"name{number}.example" for number in range(2000)]
    site.write("ads.txt", "".join(f"{name}\n" for name in names))
    first, _ = site.build()
    put_in_force(site.state_dir, first.number)
    site.write("ads.txt", "".join(f"{name}\n" for name in [*names[5:], "adult.example", "new.example"]), OLD + 1)
    patched, report = site.build()
    put_in_force(site.state_dir, patched.number)
    assert report.index == "patched"
    (site.folder / "ads.txt").unlink()  # no list is read
    tidied = tidy_generation(site.config, site.state_dir)
    assert (tidied.number, tidied.parent, tidied.lists, tidied.config) == (3, 2, patched.lists, patched.config)
    assert Report.from_json(tidied.report).lists == report.lists
    header = read_header(tidied.index_path(site.state_dir))
    assert header.names == 1997  # adult.example is on both lists
    for name in (*names[:10], "adult.example", "new.example", "www.new.example", "other.example"):
        assert site.action(tidied, name) is site.action(patched, name), name
    put_in_force(site.state_dir, tidied.number)
    site.write("ads.txt", "".join(f"{name}\n" for name in [*names, "third.example"]), OLD + 2)
    assert site.build()[1].index == "patched"  # from it


def test_a_damaged_run_leaves_what_is_in_force_as_it_is(site: Site) -> None:
    with pytest.raises(BuildError):
        tidy_generation(site.config, site.state_dir)
    generation, _ = site.build()
    put_in_force(site.state_dir, generation.number)
    for run in (site.state_dir / "runs").iterdir():
        run.write_bytes(run.read_bytes()[:-9])
    with pytest.raises(BuildError):
        tidy_generation(site.config, site.state_dir)
    assert last_good(site.state_dir) == generation_from_json(generation)


def test_an_index_that_cannot_be_patched_is_built(site: Site) -> None:
    site.write("ads.txt", "".join(f"n{number}.example\n" for number in range(500)))
    first, _ = site.build()
    path = first.index_path(site.state_dir)
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 1
    path.write_bytes(octets)
    site.write("adult.txt", "other.example\n", OLD + 1)
    generation, report = site.build()
    assert report.index == "built"
    assert site.action(generation, "n7.example") is site.action(generation, "other.example") is Action.ZERO


# -- damaged state ----------------------------------------------------------------------------------------------------
def test_a_damaged_index_is_not_reused(site: Site) -> None:
    first, _ = site.build()
    path = first.index_path(site.state_dir)
    octets = bytearray(path.read_bytes())
    octets[INDEX.start] ^= 1
    path.write_bytes(octets)
    second, report = site.build()
    assert (report.index, second.index) == ("built", "index/2.index")
    assert site.action(second, "ads.example") is Action.ZERO


def test_a_run_with_flipped_bits_is_read_again_from_its_source(site: Site) -> None:
    first, _ = site.build()
    path = site.state_dir / "runs" / first.lists[0].run
    octets = bytearray(path.read_bytes())
    octets[130] ^= 1  # in its first block, past the header
    path.write_bytes(octets)
    site.write("adult.txt", "adult.example\nother.example\n", OLD + 1)  # so that a merge is due
    generation, report = site.build()
    assert site.outcomes(report) == {"ads": "read", "adult": "read"}
    assert site.action(generation, "ads.example") is Action.ZERO
    assert site.action(generation, "other.example") is Action.ZERO


def test_a_run_with_flipped_bits_and_no_source_is_missing_and_the_others_serve(site: Site) -> None:
    first, _ = site.build()
    path = site.state_dir / "runs" / first.lists[0].run
    octets = bytearray(path.read_bytes())
    octets[130] ^= 1
    path.write_bytes(octets)
    (site.folder / "ads.txt").unlink()
    site.write("adult.txt", "adult.example\nother.example\n", OLD + 1)
    generation, report = site.build()
    assert site.outcomes(report) == {"ads": "missing", "adult": "read"}
    assert site.action(generation, "other.example") is Action.ZERO


def test_litter_of_a_build_that_died_is_removed_and_foreign_files_stay(site: Site) -> None:
    site.build()
    litter = ["runs/.ab.run.123", "index/.9.index.123", "policy/9.policy.123.tmp", "slots.json.123.tmp"]
    litter += ["runs/unused.run", "index/77.index", "policy/77.policy"]
    for name in litter:
        (site.state_dir / name).write_bytes(b"x")
    kept = ["runs/README", "journal.db", "current.json.5.tmp"]
    for name in kept:
        (site.state_dir / name).write_bytes(b"x")
    site.build()
    assert not files(site) & set(litter)
    assert files(site) >= set(kept)


def test_old_generations_go_but_never_the_one_in_force(site: Site) -> None:
    site.settings["guard"] = {"keep_generations": 3}
    first, _ = site.build()
    put_in_force(site.state_dir, 1)
    for number in range(5):
        site.write("ads.txt", f"ads{number}.example\n", OLD + number + 1)
        newest, _ = site.build()
    assert [known.number for known in generations(site.state_dir)] == [6, 5, 4, 1]
    for known in generations(site.state_dir):
        assert known.files() <= files(site)
        assert known.parent == (0 if known.number == 1 else 1)
    assert sum(name.startswith("runs/") for name in files(site)) == 5  # four of ads, one of adult
    found = last_good(site.state_dir)
    assert found is not None
    assert found.number == 1
    assert site.action(first, "ads.example") is Action.ZERO
    put_in_force(site.state_dir, newest.number)
    site.build()
    assert [known.number for known in generations(site.state_dir)] == [7, 6, 5]


def test_a_number_is_never_given_twice(site: Site) -> None:
    site.build()
    (site.state_dir / "generations" / "1.json").write_bytes(b"damaged")
    put_in_force(site.state_dir, 4)
    assert site.build()[0].number == 5


def test_a_build_that_fails_says_why_and_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.build()
    before = files(site)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "policy")

    monkeypatch.setattr(compiler, "write_policy", full)
    with pytest.raises(BuildError, match="policy: No space left on device"):
        site.build()
    assert files(site) == before


# -- slots of counters ------------------------------------------------------------------------------------------------
def test_a_slot_stays_with_its_name_and_is_not_given_on_within_a_session(site: Site) -> None:
    first, _ = site.build(session="a")
    assert first.slots == {"ads": 0, "adult": 1}
    site.lists({"name": "adult"}, {"name": "more", "source": "ads.txt"})
    second, _ = site.build(session="a")
    assert second.slots == {"adult": 1, "more": 2}
    site.lists({"name": "ads"}, {"name": "adult"})
    third, _ = site.build(session="a")
    assert third.slots == {"ads": 0, "adult": 1}
    site.lists({"name": "adult"}, {"name": "else", "source": "ads.txt"})
    fourth, _ = site.build(session="b")
    assert fourth.slots == {"adult": 1, "else": 0}


def test_a_build_beside_a_running_server_takes_no_slot_back(site: Site) -> None:
    site.build(session="a")
    site.lists({"name": "adult"}, {"name": "more", "source": "ads.txt"})
    site.build()
    site.lists({"name": "adult"}, {"name": "less", "source": "ads.txt"})
    generation, _ = site.build(session="a")
    assert generation.slots == {"adult": 1, "less": 3}


def test_slots_survive_the_loss_of_their_file(site: Site) -> None:
    site.lists({"name": "x", "source": "ads.txt"}, {"name": "adult"})
    site.build()
    site.lists({"name": "adult"})
    site.build()
    (site.state_dir / "slots.json").write_bytes(b"{")
    generation, _ = site.build()
    assert generation.slots == {"adult": 1}


def test_a_list_without_a_slot_is_enforced_and_the_report_says_so(site: Site) -> None:
    taken = {f"gone{number}": number for number in range(counters.NO_LIST)}
    site.state_dir.mkdir()
    write_json(site.state_dir / "slots.json", {"session": "a", "slots": taken})
    generation, report = site.build(session="a")
    assert set(generation.slots.values()) == {NO_SLOT}
    assert "not counted" in report.warnings[0]
    assert site.action(generation, "ads.example") is Action.ZERO
    generation, report = site.build(session="b")
    assert generation.slots == {"ads": 0, "adult": 1}
    assert report.warnings == ()


# -- the rest ---------------------------------------------------------------------------------------------------------
def test_group_clients_outside_of_allow_from_are_a_warning(site: Site) -> None:
    site.settings |= {
        "allow_from": ["10.0.0.0/8"],
        "groups": [{"name": "far", "clients": ["10.0.0.0/24", "192.0.2.0/24"]}],
    }
    _, report = site.build()
    assert report.warnings == ("groups.far: some of its clients are not in allow_from, so their queries are refused",)


def test_check_reads_every_list_and_writes_nothing(site: Site) -> None:
    site.write("adult.txt", "adult.example\nadult.example\nno name!\n")
    site.lists({"name": "ads"}, {"name": "adult"}, {"name": "gone"}, {"name": "off", "enabled": "no"})
    ads, adult, gone = check_lists(site.config)
    assert (ads.names, ads.error) == (2, "")
    assert (adult.names, adult.duplicates, adult.refused, adult.refused_lines[0].line) == (1, 1, 1, 3)
    assert "gone.txt" in gone.error
    assert not site.state_dir.exists()


def test_a_second_build_waits_for_the_first(site: Site) -> None:
    site.build()
    with (site.state_dir / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = threading.Event()

        def build() -> None:
            site.build()
            done.set()

        thread = threading.Thread(target=build)
        thread.start()
        assert not done.wait(0.3)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert done.wait(30)
        thread.join()


def test_a_build_that_never_ends_is_named_to_the_one_that_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.build()
    monkeypatch.setattr(compiler, "LOCK_WAIT", 0.1)
    with (site.state_dir / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another build"):
            site.build()


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "resolver.lists.compile", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_as_a_process_the_last_line_is_the_report(site: Site) -> None:
    path = site.folder / "config.yaml"
    path.write_text(json.dumps(site.settings))
    done = run("-c", str(path), "--json", "--session", "a")
    report = Report.from_json(json.loads(done.stdout.splitlines()[-1]))
    assert (done.returncode, report.names, report.generation) == (0, 3, 1)
    done = run("--stdin", stdin=site.config.to_json())
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("generation 2: 3 names in 2 lists (+0 −0)")


def test_as_a_process_a_failure_ends_with_one_and_says_why(site: Site) -> None:
    path = site.folder / "config.yaml"
    path.write_text("listz: []\n")
    done = run("-c", str(path), "--json")
    assert done.returncode == 1
    assert "listz" in done.stderr
    assert "listz" in json.loads(done.stdout)["error"]
    site.settings["state_dir"] = "ads.txt/state"
    path.write_text(json.dumps(site.settings))
    done = run("-c", str(path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "ads.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_report_reads_well() -> None:
    kept = ListReport("ads", ListOutcome.KEPT, names=1234, error="ads.txt: gone", age=86400 * 3)
    assert kept.line() == "ads: 1,234 names; ads.txt: gone; the copy of 3 d ago serves on"
    assert ListReport("x", ListOutcome.GONE, removed=5).line() == "x: gone (−5)"


def test_the_real_lists_come_to_the_counts_they_have(site: Site, shared_lists: Path) -> None:
    site.lists(
        {"name": "national", "source": str(shared_lists / "trustpositif" / "domains.txt")},
        {"name": "light", "source": str(shared_lists / "hagezi" / "light.wildcard.txt")},
        {"name": "blp", "source": str(shared_lists / "blocklistproject" / "*.domains.txt")},
    )
    generation, report = site.build()
    assert report.alarms == ()
    sample = [line.strip() for line in (shared_lists / "trustpositif" / "domains.txt").read_text().splitlines()[::500]]
    snapshot = site.snapshot(generation)
    blocked = [name for name in sample if snapshot.decide(name, bytes(10) + b"\xff\xff\x7f\0\0\1")[3][1] == Action.ZERO]
    assert len(sample) > 200
    assert blocked == sample
    assert site.build()[1].index == "reused"
