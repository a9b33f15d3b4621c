from __future__ import annotations

import random

import pytest

from resolver.counters import UPSTREAM_STRIDE
from resolver.upstream.carrier import Fault
from resolver.upstream.health import (
    FIRST_BENCH,
    HEDGE_BURST,
    LONGEST_BENCH,
    PROBE_WINDOW,
    SHORTEST_RTO,
    THRESHOLD,
    Budget,
    Health,
    Strategy,
    order,
)
from resolver.upstream.server import Server

A, B, C = (Server(f"192.0.2.{n}", f"192.0.2.{n}") for n in (1, 2, 3))


class _Dice(random.Random):
    """Never explores, and benches for exactly as long as it says."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return 1

    def uniform(self, a: float, b: float) -> float:
        return 1.0


def health(server: Server = A) -> Health:
    return Health(server, rng=_Dice())


def bench(subject: Health, now: float) -> None:
    for _ in range(THRESHOLD):
        subject.sent(now, tcp=False)
        subject.timed_out(now, now)


def test_one_lost_packet_benches_nobody() -> None:
    subject = health()
    for _ in range(THRESHOLD - 1):
        subject.timed_out(0.0, 1.0)
    assert subject.is_available()
    subject.timed_out(0.0, 1.0)
    assert not subject.is_available()
    assert subject.is_probe_due(1.0 + FIRST_BENCH)


def test_names_that_nobody_can_resolve_do_not_bench_a_server_that_answers_others() -> None:
    subject = health()
    for now in range(100):
        subject.answered(0.01, now + 0.5)
        subject.timed_out(float(now), now + 1.0)
    assert subject.is_available()


def test_a_burst_of_failures_is_one_bench() -> None:
    subject = health()
    for _ in range(500):
        subject.timed_out(0.0, 1.0)
    assert subject.until == 1.0 + FIRST_BENCH


def test_each_failed_probe_doubles_the_bench_up_to_the_longest() -> None:
    subject, now, benches = health(), 0.0, []
    bench(subject, now)
    for _ in range(9):
        benches.append(subject.bench)
        now = subject.until
        assert subject.is_probe_due(now)
        subject.sent(now, tcp=False)
        subject.timed_out(now, now + 0.4)
    assert benches == [1, 2, 4, 8, 16, 32, LONGEST_BENCH, LONGEST_BENCH, LONGEST_BENCH]


def test_a_last_resort_query_does_not_double_the_bench() -> None:
    subject = health()
    bench(subject, 0.0)
    for tenth in range(8):
        subject.sent(tenth / 10, tcp=False)
        subject.timed_out(tenth / 10, tenth / 10 + 0.1)
    assert subject.bench == FIRST_BENCH


def test_only_an_answer_ends_a_bench() -> None:
    subject = health()
    bench(subject, 0.0)
    now = subject.until
    assert not subject.is_available() and subject.is_probe_due(now)
    subject.sent(now, tcp=False)
    assert not subject.is_available() and not subject.is_probe_due(now)
    assert subject.is_probe_due(now + PROBE_WINDOW)  # the probe was lost without a word: another may try
    subject.answered(0.1, now + 0.2)
    assert subject.is_available() and not subject.is_probe_due(now + 0.2)


def test_after_a_probe_one_failure_benches_again_for_longer() -> None:
    subject = health()
    bench(subject, 0.0)
    subject.sent(2.0, tcp=False)
    subject.answered(0.1, 2.1, probe=True)
    assert subject.is_available()
    subject.sent(3.0, tcp=False)
    subject.timed_out(3.0, 3.4)
    assert not subject.is_available() and subject.bench == 2 * FIRST_BENCH
    subject.answered(0.1, 9.0, probe=True)
    subject.answered(0.1, 10.0)
    subject.timed_out(11.0, 11.4)
    assert subject.is_available() and subject.bench == 0.0


def test_hedges_are_a_share_of_the_questions() -> None:
    budget = Budget()
    budget.earn(1000)
    assert sum(budget.spend() for _ in range(100)) == HEDGE_BURST
    assert not budget.has_some
    hedges = 0
    for _ in range(1000):
        budget.earn()
        hedges += budget.spend()
    assert 95 <= hedges <= 101


def test_a_hedge_comes_after_most_answers_and_before_the_patience_ends() -> None:
    subject = health()
    assert subject.hedge_after(2.0) == subject.patience(2.0)
    for elapsed in (0.05, 0.15) * 50:
        subject.answered(elapsed, 0.0)
    assert 0.15 < subject.hedge_after(2.0) < subject.patience(2.0)


def test_patience_follows_the_round_trip_within_bounds() -> None:
    subject = health()
    assert subject.patience(2.0) == 0.4
    for _ in range(50):
        subject.answered(0.001, 0.0)
    assert subject.patience(2.0) == SHORTEST_RTO
    for _ in range(50):
        subject.answered(1.0, 0.0)
    assert 1.0 < subject.patience(2.0) <= 2.0
    assert subject.patience(0.3) == 0.3


def test_habits_are_forgotten_in_time() -> None:
    subject = health()
    subject.lacks_edns(0.0)
    subject.loses_case(0.0)
    assert not subject.speaks_edns(1.0) and not subject.keeps_case(1.0)
    assert subject.speaks_edns(10_000.0) and subject.keeps_case(10_000.0)


def test_what_is_counted() -> None:
    counters = [0] * UPSTREAM_STRIDE
    subject = Health(A, counters)
    subject.sent(0.0, tcp=False)
    subject.sent(0.0, tcp=True)
    subject.answered(0.003, 0.003)
    subject.answered(9.0, 9.0)
    subject.timed_out(0.0, 1.0)
    subject.broke(0.0, 1.0, Fault.REFUSED)
    subject.erred()
    subject.misled()
    subject.broke(0.0, 1.0, Fault.WRONG_NAME)
    subject.broke(0.0, 1.0, Fault.HANDSHAKE)
    subject.broke(0.0, 1.0, Fault.HTTP_STATUS)
    subject.broke(0.0, 1.0, Fault.LOOKUP)
    subject.hedged()
    for change in (1, 1, -1):
        subject.connected(change)
    assert counters[:8] == [2, 6, 1, 1, 1, 2, 1, 9_003_000]
    assert counters[8:22] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert counters[22:29] == [1, 1, 1, 1, 1, 1, 0]
    for _ in range(THRESHOLD):
        subject.timed_out(10.0, 11.0)
    assert counters[28] == 1
    subject.answered(0.1, 12.0)
    assert counters[28] == 0


# -- order -------------------------------------------------------------------------------------------------------------


def test_ordered_keeps_the_operators_order() -> None:
    first, second = health(A), health(B)
    first.answered(1.0, 0.0)
    second.answered(0.01, 0.0)
    assert order([first, second], Strategy.ORDERED, 0.0, _Dice()) == [first, second]


def test_fastest_asks_unknown_servers_and_then_the_fastest_first() -> None:
    slow, fast, new = health(A), health(B), health(C)
    slow.answered(0.3, 0.0)
    fast.answered(0.01, 0.0)
    assert order([slow, fast, new], Strategy.FASTEST, 0.0, _Dice()) == [new, fast, slow]
    new.answered(0.1, 0.0)
    assert order([slow, fast, new], Strategy.FASTEST, 0.0, _Dice()) == [fast, new, slow]


def test_random_spreads() -> None:
    servers = [health(A), health(B), health(C)]
    rng = random.Random(1)
    firsts = [order(servers, Strategy.RANDOM, 0.0, rng)[0] for _ in range(300)]
    assert all(firsts.count(server) > 50 for server in servers)


@pytest.mark.parametrize("strategy", Strategy)
def test_a_benched_server_comes_last_and_all_benched_the_least_recent_failure_first(strategy: Strategy) -> None:
    first, second = health(A), health(B)
    bench(first, 0.0)
    assert order([first, second], strategy, 0.5, _Dice()) == [second, first]
    bench(second, 0.2)
    assert order([second, first], strategy, 0.5, _Dice()) == [first, second]


@pytest.mark.parametrize("strategy", Strategy)
def test_when_the_bench_is_over_clients_stay_away_until_a_probe_was_answered(strategy: Strategy) -> None:
    down, fine = health(A), health(B)
    fine.answered(0.01, 0.0)
    bench(down, 0.0)
    assert order([down, fine], strategy, down.until + 1, _Dice())[0] is fine
