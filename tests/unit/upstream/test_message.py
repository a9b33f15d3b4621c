from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.upstream.message import HEADER, Question, Verdict, build, judge, settle, walk, wire_name

NAME = wire_name("www.Example.com")
ASK = Question(NAME, 1)


def answer_to(query: bytes, *records: str, rcode: int = 0, ede: int = -1, edns: bool = True) -> bytes:
    request = dns.message.from_wire(query)
    response = dns.message.make_response(request, recursion_available=True)
    response.set_rcode(dns.rcode.Rcode(rcode))
    if not edns:
        response.use_edns(-1)
    elif ede >= 0:
        response.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode.make(ede))])
    for text in records:
        name, rdtype, data = text.split(maxsplit=2)
        response.answer.append(dns.rrset.from_text(name, 60, "IN", rdtype, data))
    return response.to_wire()


def end_of(question: Question) -> int:
    return HEADER + len(question.qname) + 4


def verdict(answer: bytes, query: bytes, *, any_case: bool = False, tcp: bool = False) -> Verdict:
    return judge(answer, query, end_of(ASK), any_case=any_case, tcp=tcp)[0]


# -- queries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("do", [False, True])
@pytest.mark.parametrize("cd", [False, True])
def test_a_query_carries_rd_the_clients_bits_and_an_opt_without_options(do: bool, cd: bool) -> None:
    query = dns.message.from_wire(build(Question(NAME, 28, 1, do, cd), os.urandom(32)))
    assert query.flags == dns.flags.RD | dns.flags.AD | (dns.flags.CD if cd else 0)
    assert query.edns == 0 and query.payload == 1232 and query.options == ()
    assert query.ednsflags == (dns.flags.DO if do else 0)
    assert query.question[0].to_text().lower() == "www.example.com. in aaaa"


def test_the_id_and_the_case_are_the_random_octets() -> None:
    upper = build(ASK, b"\x12\x34" + b"\xff" * 17)
    lower = build(ASK, b"\x12\x34" + b"\x00" * 17)
    assert upper[:2] == b"\x12\x34"
    assert upper[12:29] == b"\3WWW\7EXAMPLE\3COM\0"
    assert lower[12:29] == b"\3www\7example\3com\0"


def test_length_octets_and_digits_keep_their_value() -> None:
    qname = bytes([63]) + b"0-_@[`{9" * 7 + b"abcdefg" + b"\0"
    mixed = build(Question(qname, 1), b"\xff" * 100)[12 : 12 + len(qname)]
    assert mixed == bytes([63]) + b"0-_@[`{9" * 7 + b"ABCDEFG" + b"\0"


def test_without_edns_nothing_follows_the_question() -> None:
    assert len(build(ASK, os.urandom(32), edns=False)) == end_of(ASK)


def test_a_clients_packet_gives_the_question_and_none_of_its_options() -> None:
    client = dns.message.make_query("WwW.exAmple.com", "AAAA", want_dnssec=True)
    client.use_edns(0, dns.flags.DO, 4096, options=[dns.edns.ECSOption("192.0.2.0", 24)])
    client.flags |= dns.flags.CD
    question = Question.of(client.to_wire())
    assert question == Question(NAME, 28, 1, True, True)
    assert dns.message.from_wire(build(question, os.urandom(32))).options == ()


@pytest.mark.parametrize(
    "packet",
    [b"", bytes(12), struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\3www", build(ASK, os.urandom(32)) + b"\0"],
    ids=itertools.count(),
)
def test_a_malformed_packet_has_no_question(packet: bytes) -> None:
    with pytest.raises(ValueError):
        Question.of(packet)


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".".join(["x" * 60] * 5)])
def test_names_beyond_the_limits_have_no_wire_form(name: str) -> None:
    with pytest.raises(ValueError):
        wire_name(name)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_true_answer_is_good_and_settles_in_lower_case() -> None:
    query = build(ASK, b"\x12\x34" + b"\xff" * 17)
    answer = answer_to(query, "www.example.com. A 192.0.2.1")
    assert verdict(answer, query) is Verdict.GOOD
    settled = dns.message.from_wire(settle(answer, ASK, end_of(ASK)))
    assert settled.question[0].name.to_text() == "www.example.com."
    assert settled.answer[0][0].to_text() == "192.0.2.1"


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "another id": lambda w: bytes([w[0] ^ 1]) + w[1:],
    "a query": lambda w: w[:2] + bytes([w[2] & 0x7F]) + w[3:],
    "another opcode": lambda w: w[:2] + bytes([w[2] | 0x28]) + w[3:],
    "another name": lambda w: w[:13] + b"x" + w[14:],
    "another qtype": lambda w: w[:30] + b"\x1c" + w[31:],
    "another qclass": lambda w: w[:32] + b"\x03" + w[33:],
    "no question": lambda w: w[:4] + b"\0\0" + w[6:],
    "two questions": lambda w: w[:4] + b"\0\2" + w[6:],
    "nothing": lambda w: b"",
    "half a header": lambda w: w[:11],
    "half a question": lambda w: w[:20],
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_is_no_answer_to_the_query_is_wrong(forgery: str) -> None:
    query = build(ASK, os.urandom(32))
    answer = answer_to(query, "www.example.com. A 192.0.2.1")
    assert verdict(FORGERIES[forgery](answer), query, any_case=True) is Verdict.WRONG


def test_another_case_is_told_apart() -> None:
    query = build(ASK, b"\x12\x34" + b"\xff" * 17)
    answer = settle(answer_to(query), ASK, end_of(ASK))
    assert verdict(answer, query) is Verdict.OTHER_CASE
    assert verdict(answer, query, any_case=True) is Verdict.GOOD


def test_a_qtype_that_looks_like_a_letter_has_no_case() -> None:
    ask = Question(NAME, 0x41)  # HTTPS
    query = build(ask, os.urandom(32))
    answer = answer_to(query)
    other = answer[:30] + b"\x61" + answer[31:]
    assert judge(other, query, end_of(ask), any_case=True, tcp=False)[0] is Verdict.WRONG


@pytest.mark.parametrize(
    ("rcode", "edns", "expected"),
    [
        (0, True, Verdict.GOOD),
        (3, True, Verdict.GOOD),
        (6, True, Verdict.GOOD),
        (1, True, Verdict.ERROR),
        (1, False, Verdict.NO_EDNS),
        (4, False, Verdict.NO_EDNS),
        (2, True, Verdict.ERROR),
        (2, False, Verdict.ERROR),
        (5, True, Verdict.ERROR),
        (16, True, Verdict.ERROR),
        (23, True, Verdict.ERROR),
    ],
)
def test_what_an_rcode_means(rcode: int, edns: bool, expected: Verdict) -> None:
    query = build(ASK, os.urandom(32))
    assert judge(answer_to(query, rcode=rcode, edns=edns), query, end_of(ASK), any_case=False, tcp=False) == (
        expected,
        rcode,
    )


@pytest.mark.parametrize(
    ("ede", "expected"), [(6, Verdict.GOOD), (7, Verdict.GOOD), (22, Verdict.ERROR), (0, Verdict.ERROR)]
)
def test_a_validators_verdict_is_final(ede: int, expected: Verdict) -> None:
    query = build(ASK, os.urandom(32))
    assert verdict(answer_to(query, rcode=2, ede=ede), query) is expected


@pytest.mark.parametrize(
    ("rcode", "expected"), [(1, Verdict.NO_EDNS), (4, Verdict.NO_EDNS), (2, Verdict.BARE), (0, Verdict.WRONG)]
)
def test_a_header_alone_is_an_error_or_nothing(rcode: int, expected: Verdict) -> None:
    query = build(ASK, os.urandom(32))
    assert verdict(query[:2] + bytes([0x81, 0x80 | rcode]) + bytes(8), query) is expected


def test_tc_asks_for_tcp_and_is_nonsense_there() -> None:
    query = build(ASK, os.urandom(32))
    answer = answer_to(query)
    truncated = answer[:2] + bytes([answer[2] | 2]) + answer[3:40]
    assert verdict(truncated, query) is Verdict.TRUNCATED
    assert verdict(truncated, query, tcp=True) is Verdict.MALFORMED


QUERY = build(ASK, b"\x12\x34" + b"\x5a" * 17)
TRUE = answer_to(
    QUERY, "www.example.com. CNAME a.example.net.", "a.example.net. A 192.0.2.1", "a.example.net. A 192.0.2.2"
)


@pytest.mark.parametrize("length", range(33, len(TRUE)))
def test_an_answer_cut_anywhere_is_malformed(length: int) -> None:
    assert verdict(TRUE[:length], QUERY) is Verdict.MALFORMED


@pytest.mark.parametrize(
    ("records", "counts"),
    [
        (b"\xc0\x21" + bytes(10), (1, 0, 0)),  # a pointer at itself
        (b"\x01a\xc0\x21" + bytes(10), (1, 0, 0)),  # a pointer to its own name's start: a loop
        (b"\xc0\x40" + bytes(10), (1, 0, 0)),  # forward
        (b"\xc0\x00" + bytes(10), (1, 0, 0)),  # into the header
        (b"\x80" + bytes(10), (1, 0, 0)),  # a reserved label type
        (
            b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\x3f" + b"x" * 63 + b"\0" + bytes(10),
            (1, 0, 0),
        ),
        (b"\0\0\x29" + bytes(8), (1, 0, 0)),  # an OPT among the answers
        (b"\0\0\x29" + bytes(8) + b"\0\0\x29" + bytes(8), (0, 0, 2)),  # two OPTs
        (b"\1a\0\0\x29" + bytes(8), (0, 0, 1)),  # an OPT below a name
        (b"\0\0\1" + bytes(8) + b"\0", (1, 0, 0)),  # octets after the end
    ],
)
def test_records_that_do_not_add_up(records: bytes, counts: tuple[int, int, int]) -> None:
    message = QUERY[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, *counts) + QUERY[12:33] + records
    assert verdict(message, QUERY) is Verdict.MALFORMED


@given(st.binary(max_size=200))
def test_no_octets_make_it_raise(tail: bytes) -> None:
    judge(tail, QUERY, end_of(ASK), any_case=True, tcp=False)
    judge(TRUE[:33] + tail, QUERY, end_of(ASK), any_case=True, tcp=False)
    walk(TRUE[:12] + tail, 12)


@given(st.integers(2, len(TRUE) - 1), st.integers(0, 255))
def test_what_is_taken_as_good_can_be_read(at: int, octet: int) -> None:
    changed = TRUE[:at] + bytes([octet]) + TRUE[at + 1 :]
    if verdict(changed, QUERY) is Verdict.GOOD:
        assert walk(changed, end_of(ASK)) >= 0
        assert changed[:2] == QUERY[:2] and changed[12:33] == QUERY[12:33]
