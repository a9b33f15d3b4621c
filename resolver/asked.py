"""The names that were asked most here in the last day, as the recorder writes them down (records/sketch.py).

    state_dir/asked.json    {"since": 1730000000, "written": 1730086400, "what": "all", "clients": "full", "missed": 12,
                             "names": [{"name": "wordpress.com", "count": 51234, "blocked": 0, "clients": 310,
                                        "verdict": "forwarded"}, …]}, the most asked first

`since` and `written` are in seconds since the epoch, `what` and `clients` those of `query_log` that it was counted by. A
name may have been asked up to `missed` times more than its `count`. `clients` is how many asked, about; 0 where they are
not counted. `verdict` is what became of the last query: "blocked", "allowed" or "forwarded", the first two with the `list`
that decided, if one did, and its `category`.

What protects names by it (lists/guard.py) does without where the file is missing or damaged: nothing of it is needed to
filter.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resolver.lists.names import normalise

FILE = "asked.json"  # below state_dir
TALLY_FILE = "asked.tally"  # beside it: what records/sketch.py goes on from
MAX_FILE = 64 << 20  # octets; what is longer was not written by this program


@dataclass(frozen=True, slots=True)
class Asked:
    """A name in normal form, how often it was asked, by how many clients, and how many of these times it was blocked."""

    name: str
    count: int
    clients: int
    blocked: int = 0
    list: str = ""


@dataclass(frozen=True, slots=True)
class Day:
    """What was asked in the last day. `names`, the most asked first, are read as they are needed."""

    since: float
    written: float
    what: str
    clients: str
    missed: int
    names: Iterator[Asked]


def read_day(state_dir: Path) -> Day | None:
    """What asked.json says, entries that are none passed over; None where it is missing or damaged."""
    try:
        with (state_dir / FILE).open("rb") as file:
            octets = file.read(MAX_FILE + 1)
        body = json.loads(octets) if len(octets) <= MAX_FILE else None
        if not isinstance(body, dict) or not isinstance(body["names"], list):
            return None
        return Day(
            float(body.get("since", 0)),
            float(body.get("written", 0)),
            str(body.get("what", "all")),
            str(body.get("clients", "full")),
            int(body.get("missed", 0)),
            _names(body["names"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def most_asked(state_dir: Path, limit: int, times: int = 1, clients: int = 1) -> list[Asked]:
    """The names that were asked most, at most `limit`, the most asked first.

    Names that are mostly blocked are not among them: whoever would block those as well changes nothing. `times`: they must
    have been asked so often; `clients`: by at least so many, where these are counted.
    """
    day = read_day(state_dir)
    if day is None:
        return []
    least = 0 if day.clients == "none" else clients
    often = itertools.takewhile(lambda asked: asked.count >= times, day.names)
    wanted = (asked for asked in often if asked.clients >= least and 2 * asked.blocked <= asked.count)
    return list(itertools.islice(wanted, limit))


def _names(entries: Sequence[Any]) -> Iterator[Asked]:
    """The entries that are names, each name once, the most asked first."""
    seen = set()
    for _, place in sorted((-_count(entry), place) for place, entry in enumerate(entries)):
        entry = entries[place]
        try:
            name = normalise(entry["name"])
            numbers = int(entry["count"]), int(entry.get("clients", 0)), int(entry.get("blocked", 0))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            continue
        if name not in seen:
            seen.add(name)
            yield Asked(name, *numbers, str(entry.get("list", "")))


def _count(entry: Any) -> float:
    """What an entry is sorted by, whatever it is."""
    count = entry.get("count") if isinstance(entry, dict) else None
    return count if isinstance(count, int) else 0
