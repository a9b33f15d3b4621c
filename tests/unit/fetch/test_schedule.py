"""When lists are fetched: spread by chance, later and later after failures, each for itself."""

from __future__ import annotations

import random

import pytest

from resolver.fetch.schedule import (
    EARLY,
    LONGEST,
    LONGEST_OBEYED,
    LONGEST_WITHOUT,
    RETRY,
    RETRY_WITHOUT,
    SHORTEST,
    SPREAD,
    Schedule,
)

DAY = 86_400.0


@pytest.fixture
def schedule() -> Schedule:
    return Schedule(random.Random(1))


def test_a_list_without_a_copy_is_due_at_once_and_the_others_when_they_are(schedule: Schedule) -> None:
    schedule.add("new", 100, DAY, wait=None)
    schedule.add("later", 100, DAY, wait=500)
    assert schedule.take_due(100) == ["new"]
    assert schedule.take_due(100) == []  # under way
    assert schedule.wait(100) == 500
    assert schedule.take_due(600) == ["later"]
    assert schedule.wait(600) is None


def test_what_fell_due_meanwhile_is_spread(schedule: Schedule) -> None:
    waits = []
    for number in range(1000):
        schedule.add(str(number), 0, DAY, wait=-5000)
        waits.append(schedule.wait(0))
        schedule.keep_only(())
    assert (
        0 <= min(w for w in waits if w is not None) < 1
        and SPREAD - 1 < max(w for w in waits if w is not None) <= SPREAD
    )


def test_a_clock_that_was_wrong_does_not_put_a_list_off_for_longer_than_refresh(schedule: Schedule) -> None:
    schedule.add("a", 0, 3600, wait=1e9)
    assert schedule.wait(0) == 3600


def test_the_next_fetch_is_up_to_a_tenth_early(schedule: Schedule) -> None:
    schedule.add("a", 0, DAY, wait=None)
    waits = [schedule.succeeded("a", 0, DAY) for _ in range(1000)]
    assert DAY * (1 - EARLY) <= min(waits) < DAY * 0.91 and DAY * 0.99 < max(waits) <= DAY


@pytest.mark.parametrize(
    ("has_copy", "first", "longest"), [(True, RETRY, LONGEST), (False, RETRY_WITHOUT, LONGEST_WITHOUT)]
)
def test_failures_in_a_row_are_tried_again_later_and_later(
    schedule: Schedule, has_copy: bool, first: float, longest: float
) -> None:
    schedule.add("a", 0, DAY, wait=None)
    for failures in range(1, 60):
        wait = schedule.failed("a", 0, DAY, failures=failures, has_copy=has_copy)
        expected = min(first * 2 ** (failures - 1), longest)
        assert 0.75 * expected <= wait <= 1.25 * expected


def test_a_failure_never_waits_for_longer_than_refresh_but_obeys_the_source(schedule: Schedule) -> None:
    schedule.add("a", 0, 30, wait=None)
    assert schedule.failed("a", 0, 30, failures=9, has_copy=True) == 30
    assert schedule.failed("a", 0, 30, failures=9, has_copy=True, retry_after=7200) == 7200
    assert schedule.failed("a", 0, 30, failures=9, has_copy=True, retry_after=1e9) == LONGEST_OBEYED
    assert schedule.succeeded("a", 0, 0) == SHORTEST


def test_a_failure_of_one_leaves_the_others_where_they_were(schedule: Schedule) -> None:
    schedule.add("bad", 0, DAY, wait=None)
    schedule.add("good", 0, DAY, wait=100)
    schedule.take_due(0)
    schedule.failed("bad", 0, DAY, failures=20, has_copy=True)
    assert schedule.take_due(100) == ["good"]


def test_hurry(schedule: Schedule) -> None:
    schedule.add("a", 0, DAY, wait=500)
    schedule.hurry("a", 10)
    assert schedule.take_due(10) == ["a"]
    schedule.hurry("a", 11)  # while it is under way: once more afterwards
    assert schedule.take_due(11) == []
    schedule.succeeded("a", 12, DAY)
    assert schedule.take_due(12) == ["a"]
    schedule.hurry("b", 12)  # nobody knows it
    assert "b" not in schedule


def test_what_left_the_config_is_forgotten_even_while_it_is_under_way(schedule: Schedule) -> None:
    schedule.add("a", 0, DAY, wait=None)
    schedule.take_due(0)
    assert schedule.keep_only(["b"]) == ["a"]
    schedule.succeeded("a", 1, DAY)
    schedule.release("a", 1)
    assert "a" not in schedule and schedule.wait(1) is None


def test_what_was_broken_off_is_due_again(schedule: Schedule) -> None:
    schedule.add("a", 0, DAY, wait=None)
    schedule.take_due(0)
    schedule.release("a", 3)
    assert schedule.take_due(3) == ["a"]
