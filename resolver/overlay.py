"""What operators blocked and allowed by hand: rank 0, above every list, at once on all workers.

An entry covers its name and everything below it; of several that cover a name the newest speaks. Here that is worked
out beforehand: each entry's name gets the word of the newest entry at or above it, so the engine's walk to the deepest
entry finds the right one (engine/policy.pyx).

The overlay is a table of its own, as quick with a hundred thousand entries as with one, and never part of an index: so
nothing can be lost between a change and a compile, and taking an entry back needs no compile either. The supervisor
keeps it in `state_dir/overlay.json`, written whole, synced and renamed at each change; workers hold a copy and let
timed entries end by themselves, even if the supervisor is gone. A worker imports this: nothing but the standard library.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from resolver.snapshot import write_json

FILE = "overlay.json"  # below state_dir
ALLOW, BLOCK = 1, 2  # the words, as engine/query.pxd numbers them
_AGE = 4  # times how many entries are older: the rest of a value in the engine's table
MAX_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """An operator's word about `name` (A-labels, lower-case, no trailing dot) and all below it.

    `made` and `until` in seconds since 1970; `until` 0: for good.
    """

    name: str
    word: int
    made: float
    until: float = 0.0

    def is_over(self, now: float) -> bool:
        """Whether its time has run out."""
        return 0 < self.until <= now


def covering(entries: Iterable[Entry], name: str) -> list[Entry]:
    """The entries that cover `name`, the newest first: the first of them speaks."""
    found = [entry for entry in entries if name == entry.name or name.endswith("." + entry.name)]
    return sorted(found, key=lambda entry: entry.made, reverse=True)


def words(entries: Iterable[Entry], now: float) -> dict[str, tuple[int, int]]:
    """For the engine's SuffixTable: each name's word for itself and for what is below it, the newer the higher.

    The engine compares what is said of different names: of the one that was asked and of those it is an alias of.
    """
    living = {entry.name: entry for entry in entries if not entry.is_over(now)}
    ages = {entry.name: age for age, entry in enumerate(sorted(living.values(), key=lambda entry: entry.made))}
    table: dict[str, tuple[int, int]] = {}
    for name, entry in living.items():
        newest, parent = entry, name
        while parent := parent.partition(".")[2]:
            above = living.get(parent)
            if above is not None and above.made > newest.made:
                newest = above
        value = newest.word + _AGE * ages[newest.name]
        table[name] = (value, value)
    return table


def said(entry: Entry) -> tuple[str, str, str]:
    """An entry for a person: the word, when it was said, and until when it holds ("": for good)."""
    word = "allow" if entry.word == ALLOW else "block"
    made, until = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else ""
        for moment in (entry.made, entry.until)
    )
    return word, made, until


def told(entry: Entry, undone: bool) -> str:
    """What saying a word, or taking it back, does; for a person."""
    word, _, until = said(entry)
    limit = f" until {until}" if until and not undone else ""
    return f"{entry.name} and all below it: {'no longer ' if undone else ''}{word}ed by hand{limit}"


def next_end(entries: Iterable[Entry], now: float) -> float | None:
    """Seconds until the next timed entry ends; None if none will."""
    ends = [entry.until for entry in entries if entry.until > now]
    return min(ends) - now if ends else None


class OverlayError(Exception):
    """What was asked of the overlay cannot be done; the text says why."""


class Overlay:
    """The supervisor's: kept in a file, changed by commands. `clock` gives seconds since 1970."""

    def __init__(self, state_dir: Path, clock: Callable[[], float] = time.time) -> None:
        """Read what is kept. OverlayError if it is damaged: an operator's allow must not vanish unnoticed."""
        self._path = state_dir / FILE
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        try:
            body = json.loads(self._path.read_text())
            self._entries = {name: Entry(name, *values) for name, values in body["entries"].items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise OverlayError(
                f"{self._path}: not a readable overlay ({error}); mend it, or remove it to start without one"
            ) from None

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Those that are in force, the oldest first."""
        now = self._clock()
        return tuple(sorted((e for e in self._entries.values() if not e.is_over(now)), key=lambda e: e.made))

    def put(self, name: str, word: int, seconds: float = 0.0) -> Entry:
        """Block or allow a name and all below it, for `seconds` (0: for good), in place of an older word on it."""
        now = self._clock()
        newest = max((entry.made for entry in self._entries.values()), default=0.0)
        entry = Entry(name, word, max(now, newest + 1e-6), now + seconds if seconds else 0.0)
        if name not in self._entries and len(self.entries) >= MAX_ENTRIES:
            raise OverlayError(f"the overlay holds {MAX_ENTRIES} names already: put them into a list")
        self._write({**self._entries, name: entry})
        return entry

    def take_back(self, name: str) -> Entry:
        """Forget the word on exactly this name; OverlayError if there is none."""
        entry = self._entries.get(name)
        if entry is None or entry.is_over(self._clock()):
            raise OverlayError(f"{name} was neither blocked nor allowed by hand")
        self._write({key: other for key, other in self._entries.items() if key != name})
        return entry

    def _write(self, entries: Mapping[str, Entry]) -> None:
        now = self._clock()
        kept = {name: entry for name, entry in entries.items() if not entry.is_over(now)}
        try:
            write_json(self._path, {"entries": {name: [e.word, e.made, e.until] for name, e in kept.items()}})
        except OSError as error:
            raise OverlayError(f"{self._path}: {error.strerror or error}; nothing has changed") from None
        self._entries = kept


def read(state_dir: Path) -> tuple[Entry, ...]:
    """The entries in force as the file has them: for explain where no server runs."""
    return Overlay(state_dir).entries
