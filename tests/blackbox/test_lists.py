"""The main job on real lists: every listed name is blocked, every other gets what a real server says. Not one wrong."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

from tests.blackbox.bulk import Reply, ask_all, nsd
from tests.blackbox.harness import Server
from tests.ports import free_port

BLOCKED = Reply(0, ((1, bytes(4)),))
UNLISTED = 100_000


def sources(folder: Path) -> list[Path]:
    """The lists of the national feed's sample and of public maintainers, a quarter of a million names."""
    files = [folder / "trustpositif" / "domains.txt", folder / "hagezi" / "light.wildcard.txt"]
    return files + sorted((folder / "blocklistproject").glob("*.domains.txt"))


def names_of(path: Path) -> list[str]:
    """The names of a list of plain names and wildcards, by the simplest reader there can be."""
    lines = (line.strip().lower() for line in path.read_text().splitlines())
    return [line.removeprefix("*.") for line in lines if line and not line.startswith("#")]


def covered(name: str, listed: set[str]) -> bool:
    """Whether a name or one above it is listed."""
    labels = name.split(".")
    return any(".".join(labels[at:]) in listed for at in range(len(labels)))


def neighbours(listed: set[str], count: int) -> list[str]:
    """Names on no list that look as much as possible like listed ones: a letter more, less or other, the parent, another
    TLD."""
    rng = random.Random(1)
    pool = sorted(listed)
    found: dict[str, None] = {}
    while len(found) < count:
        name = rng.choice(pool)
        first, _, rest = name.partition(".")
        change = rng.randrange(5)
        if change == 0:
            name = f"{first}{rng.choice('abcxyz019')}.{rest}"
        elif change == 1:
            name = f"{rng.choice('abcxyz019')}{name}"
        elif change == 2 and len(first) > 1:
            name = f"{first[:-1]}.{rest}"
        elif change == 3 and "." in rest:
            name = rest
        else:
            name = f"{name.rpartition('.')[0]}.example"
        if len(name) < 240 and all(len(label) < 64 for label in name.split(".")) and not covered(name, listed):
            found[name] = None
    return list(found)


@pytest.mark.peer("nsd")
def test_every_listed_name_is_blocked_and_no_other(shared_lists: Path, tmp_path: Path) -> None:
    files = sources(shared_lists)
    listed = [name for path in files for name in names_of(path)]
    others = neighbours(set(listed), UNLISTED)
    # Two of three exist, each with an address of its own; the rest does not, and NXDOMAIN must come through.
    records = [
        f"{name}. IN A 198.18.{number >> 8 & 0xFF}.{number & 0xFF}"
        for name in others
        if (number := zlib.crc32(name.encode())) % 3
    ]
    upstream = free_port()
    config = {
        "lists": [{"name": f"list{at}", "source": str(path)} for at, path in enumerate(files)],
        "cache": {"size": "64MiB"},
        "guard": {"public_suffixes": "none"},  # these lists hold a few, which would wait for an approval
    }
    with nsd(tmp_path / "nsd", upstream, records), Server(tmp_path, config, upstream=upstream) as server:
        for prefix in ("", "www."):
            asked = [prefix + name for name in listed if len(prefix + name) < 254]
            wrong = [name for name, reply in zip(asked, ask_all(server.port, asked), strict=True) if reply != BLOCKED]
            assert wrong == [], f"{len(wrong)} of {len(asked)} names are not blocked"
        ours, theirs = ask_all(server.port, others), ask_all(upstream, others)
        different = [(name, a, b) for name, a, b in zip(others, ours, theirs, strict=True) if a != b]
        assert different == [], f"{len(different)} of {len(others)} answers are not the upstream's"
        # And again, from the cache.
        assert ask_all(server.port, others) == theirs
        assert sum(1 for reply in theirs if reply.rcode == 3) > UNLISTED // 5


@pytest.mark.peer("nsd")
def test_the_index_keeps_to_its_budget(shared_lists: Path, tmp_path: Path) -> None:
    """The figures that the documentation states for the national list's sample: octets, not seconds."""
    source = shared_lists / "trustpositif" / "domains.txt"
    config = {"lists": [{"name": "national", "source": str(source)}]}
    with Server(tmp_path, config) as server:
        [state] = server.tampah_json("lists")
    names = state["names"]
    [index] = (tmp_path / "state").rglob("*.index")
    run = max(
        (tmp_path / "state").rglob("*.run"), key=lambda path: path.stat().st_size
    )  # the others are of our own names
    assert names == 114_377
    assert index.stat().st_size / names <= 18
    assert (index.stat().st_size + run.stat().st_size) / names <= 30
