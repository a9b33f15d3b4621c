"""Who is in which group: the client map against the same rules walked through one by one."""

from __future__ import annotations

import ipaddress
import os
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.config.load import load
from resolver.config.model import Config
from resolver.lists.clients import lookup
from resolver.membership import ClientFiles, Membership
from resolver.pause import Pause
from resolver.snapshot import Clients, Policy

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
CONFIG = f"""\
allow_from: [10.0.0.0/8, fd00::/8]
groups:
  - {{name: tablet, clients: ["{MAC}"]}}
  - {{name: night, clients: [10.0.0.0/16], schedule: [{{from: "22:00", to: "06:00", timezone: UTC}}]}}
  - {{name: file, clients: ["file:clients.txt"]}}
  - {{name: rest, clients: [10.0.0.0/9, fd00::/16]}}
"""
CLASSES = {"tablet": 1, "night": 2, "file": 3, "rest": 4}
PAUSED = {name: number + 10 for name, number in {**CLASSES, "": 0}.items()}
NOON, MIDNIGHT = 12 * 3600.0, 24 * 3600.0


def policy() -> Policy:
    return Policy(20, 1, b"", (), Clients(b"", b"", b"", b""), groups=CLASSES, paused=PAUSED)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Membership:
    folder = tmp_path_factory.mktemp("members")
    (folder / "clients.txt").write_text(f"10.0.1.0/24\n10.9.0.1 # one\nfd00::1\n{OTHER}\n")
    (folder / "config.yaml").write_text(CONFIG)
    return Membership(load(folder / "config.yaml"), ClientFiles(folder / "state"))


ADDRESSES = ["10.0.0.1", "10.0.1.1", "10.9.0.1", "10.200.0.1", "fd00::1", "fd00::2", "fd01::1", "192.0.2.1"]
TARGETS = ["all", "tablet", "night", "file", "rest", "gone", "10.0.0.0/16", "10.0.1.1", "fd00::/16", MAC, OTHER]
pauses = st.lists(
    st.builds(Pause, st.sampled_from(TARGETS), st.just(0.0), st.sampled_from([NOON, MIDNIGHT * 2])), max_size=3
)
tables = st.dictionaries(
    st.sampled_from([MAC, OTHER]),
    st.lists(st.sampled_from(ADDRESSES).map(lambda text: ipaddress.ip_address(text).packed), max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(pauses=pauses, table=tables, now=st.sampled_from([NOON, MIDNIGHT]))
def test_the_map_says_what_the_rules_say(
    members: Membership, pauses: list[Pause], table: Mapping[str, list[bytes]], now: float
) -> None:
    state = members.state(now, pauses, table)
    clients = members.make(policy(), state)
    living = [pause for pause in pauses if pause.until > now]
    for address in ADDRESSES:
        found = members.find(address, state, living, now)
        wanted = PAUSED[found.group] if found.paused else CLASSES.get(found.group, 0)
        if ipaddress.ip_address(address).packed[0] not in (10, 0xFD):
            wanted = 0xFFFF
        assert lookup(clients, address) == wanted, (address, found)


def test_a_group_out_of_its_time_leaves_its_clients_to_the_next(members: Membership) -> None:
    at_noon = members.find("10.0.0.1", members.state(NOON, (), {}), (), NOON)
    assert (at_noon.group, at_noon.entry) == ("rest", "10.0.0.0/9")
    assert at_noon.notes[0].startswith("group night (10.0.0.0/16) does not apply by its schedule until ")
    assert members.next_change(NOON, ()) == 22 * 3600
    assert members.next_change(NOON, [Pause("all", 0.0, NOON + 5)]) == NOON + 5
    at_night = members.find("10.0.0.1", members.state(MIDNIGHT, (), {}), (), MIDNIGHT)
    assert at_night.group == "night"
    assert members.macs([Pause("02:00:00:00:00:03", 0.0, 1.0)]) == {MAC, OTHER, "02:00:00:00:00:03"}


def make(folder: Path) -> tuple[Config, ClientFiles]:
    (folder / "config.yaml").write_text('groups: [{name: a, clients: ["file:a.txt"]}]\n')
    return load(folder / "config.yaml"), ClientFiles(folder / "state")


def test_a_file_keeps_its_last_good_content(tmp_path: Path) -> None:
    config, files = make(tmp_path)
    path = tmp_path / "a.txt"
    Membership(config, files)
    assert files.alarms == [f"{path}: No such file or directory; there is no earlier copy, so it names nobody"]
    path.write_text("\ufeff10.0.0.1\r\n; nobody\n\n10.0.0.0/33\n")
    Membership(config, files)
    assert files.alarms == [] and files.counts == {str(path): (1, 1)}
    assert files.warnings == [
        f"{path}:4: expected a network such as 192.168.0.0/16, fc00::/7 or a single address: 10.0.0.0/33"
    ]
    good = files[path].packed
    files.keep()
    assert files.is_kept
    for broken in (b"", b"\n \n", b"<html>\n", b"\xff\xfe\0\0"):
        path.write_bytes(broken)
        Membership(config, files)
        assert len(files.alarms) == 1 and files[path].packed == good
    fresh = ClientFiles(tmp_path / "state")
    Membership(config, fresh)
    assert fresh[path].packed == good and "the copy of" in fresh.alarms[0]
    path.write_text("# nobody any more\n")
    Membership(config, files)
    assert files.alarms == [] and files[path].lines == 0


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    config, files = make(tmp_path)
    path = tmp_path / "a.txt"
    path.write_text("10.0.0.1\n")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    Membership(config, files)
    before = files[path]
    Membership(config, files)
    assert files[path] is before


def test_two_hundred_thousand_subscribers_in_fifty_classes_take_few_octets(tmp_path: Path) -> None:
    chance = random.Random(6)
    hosts = chance.sample(range(10 << 24, 11 << 24), 200_000)
    groups = []
    for number in range(50):
        text = "\n".join(str(ipaddress.IPv4Address(host)) for host in hosts[number::50])
        (tmp_path / f"{number}.txt").write_text(text)
        groups.append(f'  - {{name: g{number}, clients: ["file:{number}.txt"]}}\n')
    (tmp_path / "config.yaml").write_text("groups:\n" + "".join(groups))
    members = Membership(load(tmp_path / "config.yaml"), ClientFiles(tmp_path / "state"))
    classes = {f"g{number}": number + 1 for number in range(50)}
    clients = members.make(
        Policy(60, 1, b"", (), Clients(b"", b"", b"", b""), groups=classes), members.state(0, (), {})
    )
    kept = sum(len(members.files[path].packed.four) for group in members.groups for path in group.files)
    assert kept + len(clients.starts4) + len(clients.classes4) < 8 << 20
    for number in range(0, len(hosts), 997):
        assert lookup(clients, str(ipaddress.IPv4Address(hosts[number]))) == number % 50 + 1
