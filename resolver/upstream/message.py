"""Upstream messages as octets: the query that is sent, and the judgement on what comes back.

No message objects: a query is one join of six parts, an answer is walked once. What is checked here is what protects
the cache from strangers (id, direction, the question octet by octet) and the engine from nonsense (the counts must fill
the message exactly, compression pointers only lead backwards, so that no name can loop). What the records *say* is the
engine's business.

Invariants: `judge` never raises on any octets. A query carries exactly one OPT, or none, with no option but our own padding
and the client's network, if the policy on ECS has it told: whatever else the client sent there (cookies, …) ends here.
"""

from __future__ import annotations

import struct
from enum import Enum, auto
from typing import Final, NamedTuple

from resolver.vocabulary import Rcode, RRType

HEADER: Final = 12
PAYLOAD_SIZE: Final = 1232  # asked for in our OPT: fits any path without fragments (DNS flag day 2020)
PADDING: Final = 128  # octets of a block of an encrypted query (RFC 8467 section 4.1)
MAX_NAME: Final = 255  # RFC 1035 section 2.3.4

_UINT16 = struct.Struct(">H")
_HEAD = struct.Struct(">HHHHHH")
_TAIL = struct.Struct(">HHIH")  # type, class, ttl, rdlength
_OPT = struct.Struct(">BHHIH")
_OPT_PLAIN = _OPT.pack(0, RRType.OPT, PAYLOAD_SIZE, 0, 0)
_OPT_DO = _OPT.pack(0, RRType.OPT, PAYLOAD_SIZE, 0x8000, 0)
_RD, _AD, _CD, _TC = 0x0100, 0x0020, 0x0010, 0x02
# 0x20 where an octet is a lower-case letter. Length octets are at most 63 and thus never among them.
_LETTERS = bytes(0x20 if ord("a") <= octet <= ord("z") else 0 for octet in range(256))
_OPTION = struct.Struct(">HH")
_ECS_OPTION: Final = 8
_PADDING_OPTION: Final = 12  # RFC 7830
_EDE_OPTION: Final = 15
_EDE_BOGUS: Final = frozenset(range(6, 13))  # RFC 8914: DNSSEC Bogus … NSEC Missing
_GOOD: Final = frozenset({Rcode.NOERROR, Rcode.NXDOMAIN, 6})  # 6: YXDOMAIN, a DNAME that grew too long (RFC 6672)
_BARE: Final = frozenset({Rcode.FORMERR, Rcode.NOTIMP, Rcode.SERVFAIL, Rcode.REFUSED})


class Question(NamedTuple):
    """What is asked upstream: `qname` lower-case in wire form, without compression."""

    qname: bytes
    qtype: int
    qclass: int = 1
    do: bool = False
    cd: bool = False
    ecs: bytes = b""  # data of the option that tells of the client's network (RFC 7871 section 6); empty: not told

    @property
    def wire(self) -> bytes:
        """The question section."""
        return self.qname + _UINT16.pack(self.qtype) + _UINT16.pack(self.qclass)

    @classmethod
    def of(cls, packet: bytes) -> Question:
        """The question of a client's packet, with its DO and CD. ValueError if the packet is malformed."""
        if len(packet) < HEADER or packet[4:6] != b"\0\1":
            raise ValueError("a query has a header and one question")
        end = HEADER
        while end < len(packet) and packet[end]:
            if packet[end] > 63:
                raise ValueError("a question's name is not compressed")
            end += packet[end] + 1
        qname = packet[HEADER : end + 1].lower()
        if end + 5 > len(packet) or len(qname) > MAX_NAME:
            raise ValueError("the question is cut short or too long")
        qtype, qclass = struct.unpack_from(">HH", packet, end + 1)
        opt = walk(packet, end + 5)
        if opt < 0:
            raise ValueError("the counts do not fit the message")
        return cls(qname, qtype, qclass, bool(opt and packet[opt + 7] & 0x80), bool(packet[3] & _CD))


def wire_name(text: str) -> bytes:
    """An ASCII name as lower-case wire form. ValueError if a label or the name is too long or empty."""
    labels = [label.encode("ascii").lower() for label in text.rstrip(".").split(".")] if text.rstrip(".") else []
    if any(not 0 < len(label) < 64 for label in labels):
        raise ValueError(f"{text!r} has an empty label or one of more than 63 octets")
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(wire) > MAX_NAME:
        raise ValueError(f"{text!r} is longer than {MAX_NAME} octets")
    return wire


def name_text(wire: bytes) -> str:
    """A name in wire form as tables of names are asked: labels joined by dots, octets as they stand."""
    labels, at = [], 0
    while wire[at]:
        labels.append(wire[at + 1 : at + 1 + wire[at]].decode("latin-1"))
        at += wire[at] + 1
    return ".".join(labels)


def build(
    question: Question, random: bytes, *, edns: bool = True, mix_case: bool = True, padded: bool = False
) -> bytes:
    """A query with RD=1, AD=1, the question's DO and CD, and no other option of a client than its network.

    AD asks whether the answer was validated (RFC 6840 section 5.7), which is kept with it for those who want to know.

    `padded`: up to a multiple of PADDING octets (RFC 8467 section 4.1), so that an encrypted query's length says little.

    `random` holds 2 octets for the id and, if `mix_case`, as many more as the qname has (0x20,
    draft-vixie-dnsext-dns0x20): one bit of each decides on a letter's case.
    """
    qname = question.qname
    if mix_case:
        letters = int.from_bytes(qname.translate(_LETTERS), "big")
        mixed = int.from_bytes(qname, "big") ^ (letters & int.from_bytes(random[2 : 2 + len(qname)], "big"))
        qname = mixed.to_bytes(len(qname), "big")
    flags = _RD | _AD | _CD if question.cd else _RD | _AD
    head = _HEAD.pack(random[0] << 8 | random[1], flags, 1, 0, 0, 1 if edns else 0)
    tail = question.qtype << 16 | question.qclass
    opt = (_OPT_DO if question.do else _OPT_PLAIN) if edns else b""
    options = b""
    if question.ecs:
        options = _OPTION.pack(_ECS_OPTION, len(question.ecs)) + question.ecs
    if padded:
        length = -(HEADER + len(qname) + 4 + len(opt) + len(options) + 4) % PADDING
        options += _OPTION.pack(_PADDING_OPTION, length) + bytes(length)
    if edns and options:
        opt = opt[:-2] + len(options).to_bytes(2, "big") + options
    return head + qname + tail.to_bytes(4, "big") + opt


def walk(message: bytes, offset: int) -> int:
    """Step over every record from `offset` on; the offset of the OPT record, 0 if there is none, -1 if malformed.

    Malformed: the counts and the length disagree, a pointer does not lead before its own name, a name is longer than
    255 octets where it stands, an OPT is outside ADDITIONAL, below a name or there twice (RFC 6891 section 6.1.1).
    """
    _, _, _, answers, authority, additional = _HEAD.unpack_from(message)
    end, opt, before_additional = len(message), 0, answers + authority
    for index in range(before_additional + additional):
        start = offset
        while True:
            if offset >= end:
                return -1
            octet = message[offset]
            if octet == 0:
                offset += 1
                break
            if octet >= 0xC0:
                if offset + 1 >= end or not HEADER <= ((octet & 0x3F) << 8 | message[offset + 1]) < start:
                    return -1
                offset += 2
                break
            if octet > 63:
                return -1
            offset += octet + 1
        if offset - start > MAX_NAME or offset + 10 > end:
            return -1
        rrtype, _, _, rdlength = _TAIL.unpack_from(message, offset)
        if rrtype == RRType.OPT:
            if opt or index < before_additional or offset != start + 1:
                return -1
            opt = start
        offset += 10 + rdlength
        if offset > end:
            return -1
    return opt if offset == end else -1


class Verdict(Enum):
    """What an answer is worth."""

    GOOD = auto()  # give it to the client
    WRONG = auto()  # not an answer to this query: somebody else's, or a forgery
    OTHER_CASE = auto()  # right but for the letters' case: a server that normalises names, or a good forgery
    TRUNCATED = auto()  # ask again over TCP
    MALFORMED = auto()  # it is the server's answer, and it cannot be read
    NO_EDNS = auto()  # the server does not know EDNS (RFC 6891 section 7)
    ERROR = auto()  # SERVFAIL and the like: another server may know more
    BARE = auto()  # an error without a question: nothing to give to a client


def judge(answer: bytes, query: bytes, question_end: int, *, any_case: bool, tcp: bool) -> tuple[Verdict, int]:
    """(verdict, rcode) on `answer` to our `query`, whose question section ends at `question_end`.

    RFC 5452 section 9.1: id and question must be those of the query; address and port are the connected socket's.
    A SERVFAIL that says why DNSSEC failed (RFC 8914, 6–12) is GOOD, i.e. final: to ask a server that does not validate
    would overrule the one that does.
    """
    if len(answer) < HEADER or answer[:2] != query[:2] or answer[2] & 0xF8 != 0x80:
        return Verdict.WRONG, 0
    rcode = answer[3] & 0x0F
    has_edns = query[11] == 1
    if answer[4:6] != b"\0\1":
        if len(answer) == HEADER and not any(answer[4:]) and rcode in _BARE:
            return (Verdict.NO_EDNS if has_edns and rcode in (Rcode.FORMERR, Rcode.NOTIMP) else Verdict.BARE), rcode
        return Verdict.WRONG, rcode
    asked, given = query[HEADER:question_end], answer[HEADER:question_end]
    if asked != given:
        # Not bytes.lower() on the whole section: qtype and qclass may hold octets that look like letters.
        if asked[-4:] != given[-4:] or asked[:-4].lower() != given[:-4].lower():
            return Verdict.WRONG, rcode
        if not any_case:
            return Verdict.OTHER_CASE, rcode
    if answer[2] & _TC:
        return (Verdict.MALFORMED if tcp else Verdict.TRUNCATED), rcode
    opt = walk(answer, question_end)
    if opt < 0:
        return Verdict.MALFORMED, rcode
    if opt:
        rcode |= answer[opt + 5] << 4
    if rcode in _GOOD:
        return Verdict.GOOD, rcode
    if has_edns and not opt and rcode in (Rcode.FORMERR, Rcode.NOTIMP):
        return Verdict.NO_EDNS, rcode
    if rcode == Rcode.SERVFAIL and opt and _is_bogus(answer, opt):
        return Verdict.GOOD, rcode
    return Verdict.ERROR, rcode


def _is_bogus(answer: bytes, opt: int) -> bool:
    """Whether the OPT at `opt` (already walked) holds an extended error that DNSSEC validation failed."""
    offset = opt + 11
    end = offset + _UINT16.unpack_from(answer, opt + 9)[0]
    while offset + 4 <= end:
        code, length = struct.unpack_from(">HH", answer, offset)
        is_ede = code == _EDE_OPTION and length >= 2 and offset + 6 <= end
        if is_ede and _UINT16.unpack_from(answer, offset + 4)[0] in _EDE_BOGUS:
            return True
        offset += 4 + length
    return False


def settle(answer: bytes, question: Question, question_end: int) -> bytes:
    """`answer` with the question in lower case: the random case of the query never reaches a cache or a client."""
    return answer[:HEADER] + question.wire + answer[question_end:]
