"""The soak's judge: it must let pass what may be, and nothing else."""

from __future__ import annotations

import pytest

from tests.soak.truth import AFTER_OUTAGE, PATIENCE, STALE_TTL, Kind, State, Truth
from tests.soak.wire import NOERROR, SERVFAIL, TTL, Answer, address_of

SINK, OTHER = "192.0.2.53", "192.0.2.99"
NAME = "toggle1.example"


def _answer(address: str = "", rcode: int = NOERROR, name: str = NAME, ttl: int = 1) -> Answer:
    return Answer(1, rcode, False, name, ((address, ttl),) if address else ())


@pytest.fixture
def truth() -> Truth:
    return Truth(State(frozenset(), SINK))


def test_before_a_change_only_the_old_state_is_right(truth: Truth) -> None:
    truth.begin(State(frozenset({NAME}), SINK), 10)
    assert not truth.fault(Kind.TOGGLED, NAME, _answer(address_of(NAME)), 8, 9)
    assert "wrong address" in truth.fault(Kind.TOGGLED, NAME, _answer(SINK), 8, 9)


def test_during_a_change_either_state_is_right(truth: Truth) -> None:
    truth.begin(State(frozenset({NAME}), SINK), 10)
    for sent, now in ((9, 11), (11, 12)):
        for address in (SINK, address_of(NAME)):
            assert not truth.fault(Kind.TOGGLED, NAME, _answer(address), sent, now)
        assert "wrong address" in truth.fault(Kind.TOGGLED, NAME, _answer(OTHER), sent, now)


def test_after_a_change_the_old_state_is_wrong_for_what_is_asked_from_then_on(truth: Truth) -> None:
    truth.begin(State(frozenset({NAME}), SINK), 10)
    truth.settle(12)
    assert not truth.fault(Kind.TOGGLED, NAME, _answer(address_of(NAME)), 11.9, 13)
    assert "wrong address" in truth.fault(Kind.TOGGLED, NAME, _answer(address_of(NAME)), 12.1, 13)
    assert not truth.fault(Kind.TOGGLED, NAME, _answer(SINK), 12.1, 13)


def test_the_sinkhole_is_part_of_the_state(truth: Truth) -> None:
    truth.begin(State(frozenset(), OTHER), 10)
    truth.settle(11)
    assert not truth.fault(Kind.BLOCKED, "a.example", _answer(OTHER, name="a.example"), 12, 13)
    assert "wrong address" in truth.fault(Kind.BLOCKED, "a.example", _answer(SINK, name="a.example"), 12, 13)


def test_a_failure_needs_an_outage(truth: Truth) -> None:
    failure = _answer(rcode=SERVFAIL)
    assert "SERVFAIL" in truth.fault(Kind.MISS, NAME, failure, 5, 6)
    truth.begin_outage(7)
    assert not truth.fault(Kind.MISS, NAME, failure, 6, 8)
    truth.end_outage(9)
    assert not truth.fault(Kind.MISS, NAME, failure, 9, 10)
    assert "SERVFAIL" in truth.fault(Kind.MISS, NAME, failure, 9 + AFTER_OUTAGE + 1, 9 + AFTER_OUTAGE + 2)


def test_a_blocked_name_never_needs_an_upstream(truth: Truth) -> None:
    truth.begin_outage(1)
    assert truth.fault(Kind.BLOCKED, NAME, _answer(rcode=SERVFAIL), 2, 3)


def test_another_names_answer_and_a_stretched_ttl_are_wrong(truth: Truth) -> None:
    assert "another question" in truth.fault(Kind.MISS, "b.example", _answer(address_of("b.example")), 1, 2)
    assert "wrong address" in truth.fault(Kind.MISS, NAME, _answer(address_of("b.example")), 1, 2)
    assert "TTL" in truth.fault(Kind.MISS, NAME, _answer(address_of(NAME), ttl=TTL + 1), 1, 2)


def test_an_expired_answer_serves_while_an_upstream_fails_and_no_blocked_one_does(truth: Truth) -> None:
    stale = _answer(address_of(NAME), ttl=STALE_TTL)
    assert "TTL" in truth.fault(Kind.POPULAR, NAME, stale, 1, 2)
    truth.begin_trouble(3)
    truth.end_trouble(4)
    assert not truth.fault(Kind.POPULAR, NAME, stale, 5, 6)
    assert "TTL" in truth.fault(Kind.POPULAR, NAME, _answer(address_of(NAME), ttl=TTL + 1), 5, 6)
    assert "TTL" in truth.fault(Kind.BLOCKED, NAME, _answer(SINK, ttl=STALE_TTL), 5, 6)
    assert "TTL" in truth.fault(Kind.POPULAR, NAME, stale, 400, 401)


def test_only_a_kill_excuses_what_was_lost(truth: Truth) -> None:
    assert not truth.may_be_lost(10)
    truth.kill(10)
    assert truth.may_be_lost(9.9)
    assert not truth.may_be_lost(12)
    assert not truth.may_be_lost(10 - PATIENCE - 1)
