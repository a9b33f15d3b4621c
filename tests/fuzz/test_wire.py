"""The wire reader against dnspython: what one takes for a plain query the other must not call malformed.

The exceptions, all meant:

- Behind the last record octets may follow: passed over here, an error there unless told otherwise (it is told).
- Records that are not OPT are passed over here without looking into them, as they mean nothing in a query; dnspython reads
  their names and RDATA. So dnspython may refuse a packet with such a record that is taken here.
- A compression pointer in the question is FORMERR here, as nothing stands before it to point at.
- Of the options only a cookie's length is looked at here; dnspython reads those that it knows, which is turned off.
- Options of another version of EDNS are passed over here: BADVERS whatever is in them.
- QTYPE OPT (41) is FORMERR here: it is no type of data (RFC 6891 section 6.1.1).
"""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest

from resolver.engine.engine import DROP, REPLY
from resolver.vocabulary import Transport
from tests.fuzz.harness import NAMES, make_world
from tests.fuzz.packets import Packets
from tests.unit.engine.world import CLIENT

COUNT = 20_000


def test_both_readers_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns.edns, "_type_to_class", {})
    engine = make_world(tmp_path).engine
    packets = Packets(8, NAMES)
    seen: Counter[str] = Counter()
    for _ in range(COUNT):
        packet = packets.packet()
        theirs = read(packet)
        verdict, reply = engine.answer(packet, CLIENT, Transport.TCP)
        engine.take_punts()
        is_formerr = verdict == REPLY and reply is not None and reply[3] & 0xF == dns.rcode.FORMERR
        if theirs == "plain":
            assert not is_formerr or (engine_is_strict(packet)), packet
        elif theirs == "malformed":
            assert is_formerr or verdict == DROP or is_answered_unread(packet) or engine_is_lenient(packet), packet
        else:
            assert (verdict == DROP) == (theirs == "answer"), packet
        seen[f"{theirs} {'formerr' if is_formerr else 'taken'}"] += 1
    assert min(seen["plain taken"], seen["malformed formerr"], seen["other taken"]) > 100, seen


def test_the_options_are_those_that_dnspython_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns.edns, "_type_to_class", {})
    engine = make_world(tmp_path).engine
    engine.configure_edns(cookies=1, cookie_key=bytes(16), nsid=b"node", keepalive=7, ecs="forward")
    packets = Packets(9, ("zero.example", "nodata.example", "kept.example"))
    seen: Counter[int] = Counter()
    for _ in range(COUNT):
        packet = packets.packet()
        verdict, reply = engine.answer(packet, CLIENT, Transport.TCP)
        engine.take_punts()
        if verdict != REPLY or reply is None or read(packet) != "plain":
            continue
        answer = dns.message.from_wire(reply)
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            continue
        asked = first_of_each(dns.message.from_wire(packet, ignore_trailing=True))
        told = first_of_each(answer)
        told.pop(15, None)
        assert set(told) == set(asked) & {3, 8, 10, 11}, packet
        assert told.get(10, b"")[:8] == asked.get(10, b"")[:8] and len(told.get(10, bytes(24))) == 24
        assert told.get(3, b"node") == b"node" and told.get(11, b"\0\7") == b"\0\7"
        network = asked.get(8, b"")
        assert told.get(8, b"") == network[:3] + b"\0" * bool(network) + network[4:]
        seen.update(list(told))
    assert min(seen[code] for code in (3, 8, 10, 11)) > 20, seen


def first_of_each(message: dns.message.Message) -> dict[int, bytes]:
    """The data of the first option of each code."""
    return {int(each.otype): each.to_wire() or b"" for each in reversed(message.options)}


def read(packet: bytes) -> str:
    """What dnspython takes a packet for: plain (a query of one question), other (opcode, counts), answer, malformed."""
    try:
        message = dns.message.from_wire(packet, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return "malformed"
    if message.flags & dns.flags.QR:
        return "answer"
    counts = struct.unpack(">H", packet[4:6])
    return "plain" if message.opcode() == dns.opcode.QUERY and counts == (1,) else "other"


def is_answered_unread(packet: bytes) -> bool:
    """Whether the header alone decides: an opcode that is not implemented."""
    return packet[2] & 0x78 != 0


def question_end(packet: bytes) -> int | None:
    """Where a question without compression ends; None if there is none."""
    at = 12
    while at < len(packet) and 0 < packet[at] < 64:
        at += packet[at] + 1
    return at + 5 if at + 5 <= len(packet) and packet[at] == 0 and at - 11 <= 255 else None


def engine_is_strict(packet: bytes) -> bool:
    """The question has a pointer or asks for OPT, or there is a cookie of a wrong length."""
    end = question_end(packet)
    return end is None or packet[end - 4 : end - 2] == b"\0\x29" or b"\0\x0a" in packet[end:]


def engine_is_lenient(packet: bytes) -> bool:
    """The question is sound, and what dnspython did not like is a record that is not OPT, or in an OPT that is not ours."""
    end = question_end(packet)
    if end is None:
        return False
    if packet[end : end + 3] == b"\0\0\x29" and packet[end + 6 : end + 7] != b"\0":
        return True
    records: int = sum(struct.unpack(">HHH", packet[6:12]))
    has_opt = packet[end : end + 3] == b"\0\0\x29"
    return int(records) > has_opt
