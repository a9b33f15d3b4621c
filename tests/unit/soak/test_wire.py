"""The soak's own DNS, against dnspython."""

from __future__ import annotations

import dns.flags
import dns.message
import pytest

from tests.soak.wire import WireError, address_of, query, read_answer, respond


def test_query_and_response_are_what_dnspython_reads() -> None:
    asked = dns.message.from_wire(query(7, "Some.Name.example"))
    answer = dns.message.from_wire(respond(query(7, "Some.Name.example")))
    assert asked.is_response(answer)
    assert answer.answer[0][0].address == address_of("some.name.example")
    assert answer.edns == 0


def test_a_cut_response_has_tc_and_no_records() -> None:
    answer = dns.message.from_wire(respond(query(7, "tc1.example"), cut=True))
    assert answer.flags & dns.flags.TC
    assert not answer.answer


def test_reading_gives_back_what_was_said() -> None:
    answer = read_answer(respond(query(7, "a.example")))
    assert (answer.number, answer.rcode, answer.qname) == (7, 0, "a.example")
    assert answer.addresses == ((address_of("a.example"), 20),)


def test_no_prefix_and_nothing_longer_passes_for_an_answer() -> None:
    whole = respond(query(7, "a.example"))
    for length in range(len(whole)):
        with pytest.raises(WireError):
            read_answer(whole[:length])
    with pytest.raises(WireError):
        read_answer(whole + b"\0")


def test_a_pointer_forward_is_refused() -> None:
    packet = bytearray(respond(query(7, "a.example")))
    at = packet.index(b"\xc0\x0c")
    packet[at : at + 2] = (0xC000 | at).to_bytes(2, "big")
    with pytest.raises(WireError, match="backwards"):
        read_answer(bytes(packet))
