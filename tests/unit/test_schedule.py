"""Schedules against a slow oracle: a simulated year, minute by minute, as the C library's clock shows it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.schedule import DAYS, EVERY_DAY, MIDNIGHT, Window, active, next_change, zone_of

BERLIN, JAKARTA, NEW_YORK, LORD_HOWE = (
    ZoneInfo(name) for name in ("Europe/Berlin", "Asia/Jakarta", "America/New_York", "Australia/Lord_Howe")
)
YEAR = int(datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")).timestamp())
MINUTES = 366 * 24 * 60


@pytest.fixture
def local_zone() -> Iterator[None]:
    """Lets a test set the C library's zone, and puts it back."""
    before = os.environ.get("TZ")
    yield
    os.environ.pop("TZ", None)
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def window(days: str, start: str, end: str, zone: ZoneInfo = BERLIN) -> Window:
    hours = [int(text[:2]) * 60 + int(text[3:]) for text in (start, end)]
    return Window(frozenset(DAYS.index(day) for day in days.split()), hours[0], hours[1], zone)


def oracle(zone: str, windows: list[Window]) -> list[bool]:
    """Each minute of the year, by localtime(3) and a table of the week's minutes that is painted window by window."""
    painted = [False] * (7 * MIDNIGHT)
    for each in windows:
        length = (each.end - each.start) % MIDNIGHT or MIDNIGHT
        for day in each.days:
            for minute in range(length):
                painted[(day * MIDNIGHT + each.start + minute) % (7 * MIDNIGHT)] = True
    os.environ["TZ"] = zone
    time.tzset()
    found = []
    for minute in range(MINUTES):
        shown = time.localtime(YEAR + minute * 60)
        found.append(painted[shown.tm_wday * MIDNIGHT + shown.tm_hour * 60 + shown.tm_min])
    return found


@pytest.mark.parametrize("zone", ["Asia/Jakarta", "Europe/Berlin"])
def test_a_year_switches_at_the_right_seconds(zone: str, local_zone: None) -> None:
    here = ZoneInfo(zone)
    windows = [
        window("mon tue wed thu fri", "22:00", "06:00", here),
        window("sat sun", "01:30", "02:30", here),  # in Berlin: the hour that is missing, and the one that comes twice
        window("sun", "02:10", "02:50", here),
        window("wed", "13:00", "24:00", here),
    ]
    truth = oracle(zone, windows)
    changes = [YEAR + minute * 60 for minute in range(1, MINUTES) if truth[minute] is not truth[minute - 1]]
    moment: float = YEAR
    found = []
    while (moment := next_change(windows, moment) or 0.0) < YEAR + MINUTES * 60:
        found.append(moment)
    assert found == changes
    assert len(found) > 600
    for change in changes:
        assert active(windows, change - 1) is not active(windows, change)
    for minute in range(0, MINUTES, 7):
        assert active(windows, YEAR + minute * 60 + 30) is truth[minute]


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def test_what_begins_in_the_missing_hour_begins_after_it() -> None:
    late = [window("sun", "02:30", "04:00")]
    spring = at("2026-03-29T03:00")
    assert next_change(late, at("2026-03-29T00:00")) == spring
    assert next_change(late, spring) == at("2026-03-29T04:00")
    inside = [window("sun", "02:10", "02:50")]
    assert next_change(inside, at("2026-03-28T00:00")) == at("2026-04-05T02:10")


def test_what_ends_in_the_doubled_hour_applies_again_when_the_clock_shows_it_again() -> None:
    night = [window("sun", "01:00", "02:30")]
    moments = [at("2026-10-25T00:00")]
    for _ in range(4):
        moments.append(next_change(night, moments[-1]) or 0.0)
    assert moments[1:] == [
        at("2026-10-25T01:00"),
        at("2026-10-25T02:30"),
        at("2026-10-25T02:00", fold=1),
        at("2026-10-25T02:30", fold=1),
    ]
    assert moments[3] - moments[2] == 1800


def test_a_window_over_midnight_belongs_to_the_day_it_began_on() -> None:
    friday = [window("fri", "22:00", "06:00")]
    assert not active(friday, at("2026-06-05T05:59"))
    assert active(friday, at("2026-06-05T22:00"))
    assert active(friday, at("2026-06-06T05:59:59"))
    assert not active(friday, at("2026-06-06T06:00"))
    assert not active(friday, at("2026-06-06T22:00"))


def test_no_window_is_always_and_a_full_week_never_changes() -> None:
    assert active([], 0) and next_change([], 0) is None
    always = [Window(EVERY_DAY, 0, MIDNIGHT, LORD_HOWE)]
    assert active(always, YEAR + 0.5) and next_change(always, YEAR) is None


def test_zones_have_names_and_the_machine_has_one(local_zone: None) -> None:
    assert zone_of("Asia/Jakarta") is zone_of("Asia/Jakarta")
    for bad in ("Asia/Jakrta", "/etc/passwd", "../../etc/passwd", "a\0b"):
        with pytest.raises(ValueError, match="expected a time zone"):
            zone_of(bad)
    os.environ["TZ"] = "Asia/Tokyo"
    zone_of.cache_clear()
    assert datetime.fromtimestamp(0, zone_of("")).utcoffset() == timedelta(hours=9)
    os.environ["TZ"] = "nowhere"
    zone_of.cache_clear()
    assert datetime.fromtimestamp(0, zone_of("")).utcoffset() == timedelta(0)
    zone_of.cache_clear()


windows = st.builds(
    Window,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.sampled_from([0, 60, 119, 120, 150, 180, 1320]),
    st.sampled_from([1, 90, 121, 150, 179, 360, MIDNIGHT]),
    st.sampled_from([BERLIN, JAKARTA, NEW_YORK, LORD_HOWE]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(windows, min_size=1, max_size=3),
    st.sampled_from([at("2026-03-28T12:00"), at("2026-10-24T12:00"), at("2026-04-04T00:00", LORD_HOWE), float(YEAR)]),
)
def test_between_two_changes_nothing_changes(schedule: list[Window], begin: float) -> None:
    change = next_change(schedule, begin)
    end = begin + 2 * 86_400 if change is None else min(change, begin + 2 * 86_400)
    now = active(schedule, begin)
    assert all(active(schedule, begin + step) is now for step in range(0, int(end - begin), 300))
    if change is not None:
        assert active(schedule, change - 0.5) is now
        assert active(schedule, change) is not now
