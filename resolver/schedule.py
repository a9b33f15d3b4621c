"""When a group applies: windows of the week by the clock on the wall, each in its own time zone.

A window covers the moments at which the clock there shows a time from `start` up to before `end`, on one of its days.
One whose end is not after its start goes over midnight: its part after midnight belongs to the day that it began on, so
`days: [fri], from: "22:00", to: "06:00"` ends on Saturday at six. A schedule is the union of its windows; without any it
covers every moment.

Only what the clock shows counts, which says what happens when it is moved:

- In the hour that is missing the clock shows no time: a window that begins in it begins when it is over, and one that
  lies in it as a whole does not occur that day.
- In the hour that comes twice the clock shows each time twice, and a window that covers a time covers it both times: one
  that ends in it ends when its end is first shown, applies again as the clock is set back before it, and ends again.

Pure functions of an instant (seconds since 1970); they ask no clock and keep nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_DAY = frozenset(range(7))
MIDNIGHT = 24 * 60  # minutes: the end of a day
HORIZON = 400  # days that next_change looks ahead: past every leap and every change of clocks of a year

_DAY = 86_400
_HALF_DAY = 43_200  # seconds: no zone changes its clock and back within that


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the week. `days`: 0 is Monday; `start` and `end` in minutes from midnight, `end` up to 1440."""

    days: frozenset[int]
    start: int
    end: int
    zone: tzinfo

    def covers(self, wall: datetime) -> bool:
        """Whether the time that the clock shows lies in the window."""
        minutes, day = wall.hour * 60 + wall.minute, wall.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minutes < self.end
        return (day in self.days and minutes >= self.start) or ((day - 1) % 7 in self.days and minutes < self.end)


Schedule = Sequence[Window]


def active(schedule: Schedule, instant: float) -> bool:
    """Whether a schedule covers an instant, given in seconds since 1970."""
    return not schedule or any(window.covers(_wall(window.zone, instant)) for window in schedule)


def next_change(schedule: Schedule, instant: float) -> float | None:
    """The first instant after this one at which `active` changes; None if it does not within HORIZON days."""
    now = active(schedule, instant)
    return next((moment for moment in _moments(schedule, instant) if active(schedule, moment) is not now), None)


def _moments(schedule: Schedule, instant: float) -> Iterator[float]:
    """Every instant after this one at which something may change, in order."""
    if not schedule:
        return
    first = int(instant // _DAY) * _DAY
    for day in range(first, first + HORIZON * _DAY, _DAY):
        # The day of UTC; what the clocks of its zones show then lies within a day of it.
        found = {moment for window in schedule for moment in _boundaries(window, day)}
        yield from sorted(moment for moment in found if instant < moment and day <= moment < day + _DAY)


def _boundaries(window: Window, day: int) -> Iterator[float]:
    """The instants at which the clock shows a boundary of the window, and those at which it is moved, about a UTC day."""
    middle = datetime.fromtimestamp(day + _HALF_DAY, UTC).date()
    for shift in (-1, 0, 1):
        midnight = middle + timedelta(days=shift)
        for minutes in (0, window.start, window.end):
            yield from _instants(window.zone, midnight, minutes)
    for begin in (day - 1, day - 1 + _HALF_DAY):
        moved = _moved(window.zone, begin, begin + _HALF_DAY)
        if moved is not None:
            yield moved


def _instants(zone: tzinfo, midnight: date, minutes: int) -> Iterator[float]:
    """When the clock shows so many minutes after a midnight: once, twice, or a moment nearby where it never does."""
    wall = datetime(midnight.year, midnight.month, midnight.day) + timedelta(minutes=minutes)
    for fold in (0, 1):
        yield wall.replace(tzinfo=zone, fold=fold).timestamp()


def _moved(zone: tzinfo, begin: int, end: int) -> int | None:
    """The first second after `begin`, up to `end`, at which the clock is another than before; None if it is not."""
    before = _wall(zone, begin).utcoffset()
    if _wall(zone, end).utcoffset() == before:
        return None
    while end - begin > 1:
        middle = (begin + end) // 2
        if _wall(zone, middle).utcoffset() == before:
            begin = middle
        else:
            end = middle
    return end


def _wall(zone: tzinfo, instant: float) -> datetime:
    return datetime.fromtimestamp(instant, zone)


@cache
def zone_of(name: str) -> tzinfo:
    """The time zone of a name, "" the machine's own. ValueError if there is none of that name."""
    if not name:
        return _own_zone()
    try:
        return ZoneInfo(name)
    except (ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(f"expected a time zone such as Asia/Jakarta: {error}") from None
    except KeyError:
        raise ValueError("expected a time zone such as Asia/Jakarta or Europe/Berlin") from None


def _own_zone() -> tzinfo:
    """The machine's: what TZ says, else /etc/localtime, else UTC."""
    try:
        if name := os.environ.get("TZ", "").removeprefix(":"):
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    except (OSError, ValueError, KeyError):
        return UTC
