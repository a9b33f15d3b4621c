"""When each list is fetched next. Decides only; time comes in as `now`, in seconds of a steady clock.

- A list is asked for every `refresh` seconds, up to a tenth earlier by chance: thousands of servers that were started
  by one update or one power cut spread over time.
- At a start nothing is asked that is not due. What fell due while the server was off is spread over up to a minute; a
  list without any copy is asked for at once.
- After a failure it is tried again after RETRY seconds, doubled with each failure in a row up to LONGEST, give or take a
  quarter, and never later than by `refresh`; without any copy more eagerly, as nothing of the list is enforced. A
  source that says when it wants to be asked again (Retry-After) is obeyed, within a day.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

EARLY = 0.1  # of `refresh`, at most
RETRY, LONGEST = 60.0, 4 * 3600.0  # seconds after a failure
RETRY_WITHOUT, LONGEST_WITHOUT = 10.0, 1800.0  # the same where there is no copy
SPREAD = 60.0  # seconds over which what is overdue at a start is spread
SHORTEST = 1.0  # seconds between two attempts of a list, whatever its `refresh`
LONGEST_OBEYED = 86_400.0  # seconds


@dataclass(slots=True)
class _Entry:
    due: float
    running: bool = False


class Schedule:
    """The lists and when they are due."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._entries: dict[str, _Entry] = {}
        self._chance = chance or random.SystemRandom()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def add(self, name: str, now: float, refresh: float, *, wait: float | None) -> None:
        """A list that is new here. `wait`: seconds until it is due by what is remembered, negative if it is overdue; None
        where there is no copy."""
        if wait is None:
            due = now
        elif wait <= 0:
            due = now + self._chance.uniform(0, min(SPREAD, EARLY * refresh))
        else:
            due = now + min(wait, refresh)
        self._entries[name] = _Entry(due)

    def keep_only(self, names: Iterable[str]) -> list[str]:
        """Forget the others; returns them."""
        kept = set(names)
        gone = [name for name in self._entries if name not in kept]
        for name in gone:
            del self._entries[name]
        return gone

    def hurry(self, name: str, now: float) -> None:
        """Make a list due; one that is being fetched is fetched again afterwards."""
        if entry := self._entries.get(name):
            entry.due = now

    def take_due(self, now: float) -> list[str]:
        """The lists to fetch now, the longest due first; each is under way from here until it succeeded or failed."""
        due = [name for name, entry in self._entries.items() if not entry.running and entry.due <= now]
        due.sort(key=lambda name: self._entries[name].due)
        for name in due:
            self._entries[name].running = True
            self._entries[name].due = float("inf")
        return due

    def wait(self, now: float) -> float | None:
        """Seconds until a list is due; None if none will be."""
        dues = [entry.due for entry in self._entries.values() if not entry.running]
        nearest = min(dues, default=float("inf"))
        return None if nearest == float("inf") else max(0.0, nearest - now)

    def succeeded(self, name: str, now: float, refresh: float) -> float:
        """A fetch worked; returns the seconds until the next."""
        return self._again(name, now, refresh * (1 - self._chance.uniform(0, EARLY)))

    def failed(
        self,
        name: str,
        now: float,
        refresh: float,
        *,
        failures: int,
        has_copy: bool,
        retry_after: float = 0.0,
        exact: bool = False,
    ) -> float:
        """A fetch failed, the `failures`-th in a row; returns the seconds until the next: `retry_after` if `exact`."""
        if exact:
            return self._again(name, now, retry_after)
        first, longest = (RETRY, LONGEST) if has_copy else (RETRY_WITHOUT, LONGEST_WITHOUT)
        wait = min(first * 2 ** min(failures - 1, 30), longest) * self._chance.uniform(0.75, 1.25)
        return self._again(name, now, max(min(wait, refresh), min(retry_after, LONGEST_OBEYED)))

    def release(self, name: str, now: float) -> None:
        """A fetch was broken off: the list is due again."""
        if entry := self._entries.get(name):
            entry.running, entry.due = False, now

    def _again(self, name: str, now: float, wait: float) -> float:
        wait = max(wait, SHORTEST)
        if entry := self._entries.get(name):
            entry.running = False
            entry.due = min(entry.due, now + wait)  # earlier if it was hurried meanwhile
        return wait
