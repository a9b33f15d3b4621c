from __future__ import annotations

import random

import pytest

from resolver.counters import UPSTREAM_STRIDE
from resolver.upstream.health import (
    EXPLORE,
    FIRST_BENCH,
    LONGEST_BENCH,
    PROBE_WINDOW,
    THRESHOLD,
    Health,
    Server,
    Strategy,
    order,
)

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9.9.9.9", Server("9.9.9.9", "9.9.9.9", 53)),
        ("9.9.9.9:5353", Server("9.9.9.9:5353", "9.9.9.9", 5353)),
        ("2620:fe::fe", Server("2620:fe::fe", "2620:fe::fe", 53)),
        ("[2620:fe::fe]:54", Server("[2620:fe::fe]:54", "2620:fe::fe", 54)),
        ("udp://9.9.9.9", Server("udp://9.9.9.9", "9.9.9.9", 53)),
        ("tcp://[::1]:53", Server("tcp://[::1]:53", "::1", 53, True)),
        ("udp://[2620:fe::fe]:53", Server("udp://[2620:fe::fe]:53", "2620:fe::fe", 53)),
        ("udp://dns.example:54?ip=9.9.9.9", Server("udp://dns.example:54?ip=9.9.9.9", "9.9.9.9", 54)),
        ("tcp://dns.example?ip=2620:fe::fe", Server("tcp://dns.example?ip=2620:fe::fe", "2620:fe::fe", 53, True)),
        ("fe80::1%eth0", Server("fe80::1%eth0", "fe80::1%eth0", 53)),
    ],
)
def test_how_a_server_is_written(text: str, expected: Server) -> None:
    assert Server.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "dns.example", "9.9.9.9:0", "9.9.9.9:99999", "tls://9.9.9.9", "9.9.9.9/x", "u@9.9.9.9", "9.9.9", "[::1"],
)
def test_what_is_no_server_says_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected an IP address|is not supported"):
        Server.parse(text)


def test_one_lost_packet_benches_nobody() -> None:
    subject = health()
    for _ in range(THRESHOLD - 1):
        subject.timed_out(0.0, 1.0)
    assert subject.is_available(1.0)
    subject.timed_out(0.0, 1.0)
    assert not subject.is_available(1.0)
    assert subject.is_available(1.0 + FIRST_BENCH)


def test_names_that_nobody_can_resolve_do_not_bench_a_server_that_answers_others() -> None:
    subject = health()
    for now in range(100):
        subject.answered(0.01, now + 0.5)
        subject.timed_out(float(now), now + 1.0)
    assert subject.is_available(100.0)


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


def test_one_query_is_the_probe_and_an_answer_ends_the_bench() -> None:
    subject = health()
    bench(subject, 0.0)
    now = subject.until
    subject.sent(now, tcp=False)
    assert not subject.is_available(now + 0.1)
    assert subject.is_available(now + PROBE_WINDOW)  # the probe was lost without a word: another may try
    subject.answered(0.1, now + 0.2)
    assert subject.is_available(now + 0.2) and not subject.is_probe_due(now + 0.2)


def test_patience_follows_the_round_trip_within_bounds() -> None:
    subject = health()
    assert subject.patience(2.0) == 0.4
    for _ in range(50):
        subject.answered(0.001, 0.0)
    assert subject.patience(2.0) == 0.2
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
    subject.broke(0.0, 1.0)
    subject.erred()
    subject.misled()
    assert counters[:8] == [2, 2, 1, 1, 1, 0, 0, 9_003_000]
    assert counters[8:] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]


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


def test_fastest_now_and_then_tries_another_first() -> None:
    slow, fast = health(A), health(B)
    slow.answered(0.3, 0.0)
    fast.answered(0.01, 0.0)
    rng = random.Random(1)
    others = sum(order([slow, fast], Strategy.FASTEST, 0.0, rng)[0] is slow for _ in range(EXPLORE * 100))
    assert 50 < others < 200


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


@pytest.mark.parametrize("strategy", [Strategy.FASTEST, Strategy.RANDOM])
def test_when_the_bench_is_over_one_query_probes(strategy: Strategy) -> None:
    down, fine = health(A), health(B)
    fine.answered(0.01, 0.0)
    bench(down, 0.0)
    now = down.until
    assert order([fine, down], strategy, now, _Dice())[0] is down
    down.sent(now, tcp=False)
    assert order([fine, down], strategy, now + 0.1, _Dice()) == [fine, down]
