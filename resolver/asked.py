"""The names that were asked most here in the last day, as whoever counts queries writes them down.

    state_dir/asked.json    {"names": [{"name": "wordpress.com", "count": 51234, "clients": 310}, …]}, the most asked first

What protects names by it (lists/guard.py) does without where the file is missing or damaged: nothing of it is needed to
filter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from resolver.lists.names import normalise

FILE = "asked.json"  # below state_dir
MAX_FILE = 64 << 20  # octets; what is longer was not written by this program


@dataclass(frozen=True, slots=True)
class Asked:
    """A name in normal form, how often it was asked, and by how many clients."""

    name: str
    count: int
    clients: int


def most_asked(state_dir: Path, limit: int) -> list[Asked]:
    """The most asked names, at most `limit`, the most asked first; entries that are none are passed over."""
    try:
        with (state_dir / FILE).open("rb") as file:
            octets = file.read(MAX_FILE + 1)
        entries = json.loads(octets)["names"] if len(octets) <= MAX_FILE else []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    found: dict[str, Asked] = {}
    for entry in entries if isinstance(entries, list) else []:
        try:
            name = normalise(entry["name"])
            asked = Asked(name, int(entry["count"]), int(entry.get("clients", 0)))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue
        if name not in found or found[name].count < asked.count:
            found[name] = asked
    return sorted(found.values(), key=lambda asked: (-asked.count, asked.name))[:limit]
