"""Policy files and records of generations: what is written is read again, what is damaged is refused by name."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from resolver.lists.clients import build_clients
from resolver.lists.matrix import GroupPolicy, ListPolicy, PolicyRules, build_matrix
from resolver.lists.merge import Kind, Member
from resolver.snapshot import (
    Clients,
    Generation,
    ListState,
    Policy,
    Profile,
    generations,
    in_force,
    last_good,
    number_routes,
    put_in_force,
    read_clients,
    read_generation,
    read_policy,
    write_clients,
    write_generation,
    write_policy,
    write_whole,
)
from resolver.vocabulary import Action, Rank


@pytest.fixture
def policy() -> Policy:
    rules = PolicyRules([ListPolicy("ads", "ads", 3)], groups=[GroupPolicy("kids", frozenset())])
    matrix = build_matrix(rules, [(), (Member(0, Kind()),)])
    clients = build_clients(["10.0.0.0/8", "fc00::/7"], [(["10.0.0.7", "fd00::7"], matrix.group_classes[0])])
    return Policy(
        classes=matrix.classes,
        shapes=matrix.shapes,
        cells=matrix.cells,
        profiles=matrix.profiles,
        clients=clients,
        routes={"corp.example": 1},
        groups={"kids": matrix.group_classes[0]},
    )


def test_what_is_written_is_read(tmp_path: Path, policy: Policy) -> None:
    path = tmp_path / "policy" / "1.policy"
    write_policy(path, policy)
    assert read_policy(path) == policy
    assert policy.cell(0, 1)[:2] == (Rank.BLOCK, Action.ZERO)
    assert policy.cell(1, 1)[:2] == (Rank.NOBODY, Action.FORWARD)
    assert [item.name for item in path.parent.iterdir()] == ["1.policy"]


def test_every_damaged_octet_and_every_cut_is_refused(tmp_path: Path, policy: Policy) -> None:
    path = tmp_path / "1.policy"
    write_policy(path, policy)
    whole = path.read_bytes()
    chance = random.Random(1)
    for _ in range(300):
        place = chance.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"1\.policy: "):
            read_policy(path)
        path.write_bytes(whole[:place])
        with pytest.raises(ValueError, match=r"1\.policy: "):
            read_policy(path)


@pytest.mark.parametrize(
    ("place", "octets", "fault"),
    [(0, b"TAMPAHIX", "not a policy file"), (8, struct.pack("<I", 99), "version 99"), (40, b"!", "damaged")],
)
def test_the_fault_is_named(tmp_path: Path, policy: Policy, place: int, octets: bytes, fault: str) -> None:
    path = tmp_path / "1.policy"
    write_policy(path, policy)
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + octets + whole[place + len(octets) :])
    with pytest.raises(ValueError, match=fault):
        read_policy(path)


def test_sections_that_do_not_fit_each_other_are_refused(tmp_path: Path, policy: Policy) -> None:
    clients = policy.clients
    none = Profile(0, 0, b"", b"", -1, "", b"")
    for changes, fault in (
        ({"cells": policy.cells[:-8]}, "matrix"),
        ({"profiles": ()}, "without its addresses"),
        ({"profiles": (none,) * 3}, "without its addresses"),
        ({"clients": Clients(b"", b"", clients.starts6, clients.classes6)}, "4-octet"),
        ({"clients": Clients(clients.starts4, clients.classes4, clients.starts6, b"\0\0")}, "16-octet"),
    ):
        path = tmp_path / "1.policy"
        fields = {name: getattr(policy, name) for name in policy.__slots__}
        write_policy(path, Policy(**{**fields, **changes}))
        with pytest.raises(ValueError, match=fault):
            read_policy(path)


def test_routes_are_numbered_from_one_and_the_first_keeps_its_zone() -> None:
    zones = [["Corp.Example.", "10.in-addr.arpa"], ["corp.example", "lab.example"]]
    assert number_routes(zones) == {"corp.example": 1, "10.in-addr.arpa": 1, "lab.example": 2}


# -- generations ------------------------------------------------------------------------------------------------------
def record(state_dir: Path, policy: Policy, number: int) -> Generation:
    """A generation with both of its files."""
    generation = Generation(
        number=number,
        parent=number - 1,
        created=1_700_000_000.5,
        config="digest",
        index=f"index/{number}.index",
        policy=f"policy/{number}.policy",
        lists=(ListState("ads", "ab.run", 3, (("/lists/ads.txt", 1, 2, 3),), "{}", seen=1.0, names=10),),
        report={"lists": {"ads": {"names": 10}}},
    )
    write_whole(generation.index_path(state_dir), b"index")
    write_policy(generation.policy_path(state_dir), policy)
    write_generation(state_dir, generation)
    return generation


def test_a_record_is_read_as_written(tmp_path: Path, policy: Policy) -> None:
    written = record(tmp_path, policy, 1)
    assert read_generation(tmp_path, 1) == written
    assert written.slots == {"ads": 3}
    assert written.files() == {"index/1.index", "policy/1.policy", "runs/ab.run"}


def test_nothing_is_in_force_at_first(tmp_path: Path, policy: Policy) -> None:
    assert in_force(tmp_path) == 0
    assert last_good(tmp_path) is None
    record(tmp_path, policy, 1)
    assert last_good(tmp_path) is None


def test_the_generation_in_force_is_the_last_good_one(tmp_path: Path, policy: Policy) -> None:
    for number in (1, 2, 3):
        record(tmp_path, policy, number)
    put_in_force(tmp_path, 2)
    assert in_force(tmp_path) == 2
    found = last_good(tmp_path)
    assert found is not None
    assert found.number == 2


@pytest.mark.parametrize("victim", ["policy/2.policy", "index/2.index", "generations/2.json"])
def test_an_older_generation_serves_if_the_one_in_force_is_damaged(tmp_path: Path, policy: Policy, victim: str) -> None:
    for number in (1, 2):
        record(tmp_path, policy, number)
    put_in_force(tmp_path, 2)
    if victim.startswith("index"):
        (tmp_path / victim).unlink()
    else:
        (tmp_path / victim).write_bytes((tmp_path / victim).read_bytes()[:-20])
    found = last_good(tmp_path)
    assert found is not None
    assert found.number == 1


def test_damaged_records_are_left_out(tmp_path: Path, policy: Policy) -> None:
    record(tmp_path, policy, 1)
    for number, text in enumerate(("", "[]", "{}", '{"lists": 1}', '{"number": 6, "lists": [{}]}'), start=2):
        (tmp_path / "generations" / f"{number}.json").write_text(text)
        with pytest.raises(ValueError, match=rf"{number}\.json"):
            read_generation(tmp_path, number)
    assert [generation.number for generation in generations(tmp_path)] == [1]
    (tmp_path / "current.json").write_text('{"generation": "x"}')
    assert in_force(tmp_path) == 0


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_client_map_is_mapped_and_outlives_its_file(tmp_path: Path) -> None:
    """Workers share the file's pages, and go on by them once a newer map has taken its place."""
    path = tmp_path / "1.map"
    made = Clients(bytes(4) + (10 << 24).to_bytes(4, "little"), b"\1\0\2\0", bytes(16), b"\1\0")
    write_clients(path, made)
    mapped = read_clients(path)
    assert mapped == made and isinstance(mapped.starts4, memoryview)
    assert str(path) in Path("/proc/self/maps").read_text()
    write_clients(path, Clients(bytes(4), b"\1\0", bytes(16), b"\1\0"))
    path.unlink()
    assert mapped == made
    with pytest.raises(TypeError):
        memoryview(mapped.starts4)[0] = 1
