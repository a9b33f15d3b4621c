from __future__ import annotations

from resolver.listeners.gate import HOLD, Answer, Gate

A, B = (b"\0" * 10 + b"\xff\xff" + bytes((192, 0, 2, last)) for last in (1, 2))
NET = bytes.fromhex("20010db800000001")


def test_few_enter_as_they_come_and_more_have_to_prove_their_address() -> None:
    gate = Gate(unproven=2)
    assert [gate.ask(b"", 0.0) for _ in range(3)] == [Answer.ENTER, Answer.ENTER, Answer.PROVE]
    assert gate.ask(A, 0.0) is Answer.ENTER
    assert gate.taken == 3


def test_one_client_has_its_share_and_all_have_theirs() -> None:
    gate = Gate(per_client=2, total=3)
    assert [gate.ask(A, 0.0) for _ in range(3)] == [Answer.ENTER, Answer.ENTER, Answer.WAIT]
    assert [gate.ask(B, 0.0) for _ in range(2)] == [Answer.ENTER, Answer.WAIT]


def test_an_ipv6_network_is_one_client() -> None:
    gate = Gate(per_client=1)
    assert gate.ask(NET + b"12345678", 0.0) is Answer.ENTER
    assert gate.ask(NET + b"87654321", 0.0) is Answer.WAIT
    assert gate.ask(NET[::-1] + b"87654321", 0.0) is Answer.ENTER


def test_success_frees_a_slot_soon_and_failure_late() -> None:
    gate = Gate(per_client=1, patience=5.0)
    gate.ask(A, 0.0)
    gate.end(A, 1.0, succeeded=True)
    assert gate.ask(A, 1.0 + HOLD / 2) is Answer.WAIT
    assert gate.ask(A, 1.0 + HOLD) is Answer.ENTER
    gate.end(A, 2.0, succeeded=False)
    assert gate.ask(A, 6.9) is Answer.WAIT
    assert gate.ask(A, 7.0) is Answer.ENTER
    assert gate.taken == 1
