"""As much of DNS as upstream and client of the soak need: small, strict, and none of the program's own code."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from ipaddress import IPv4Address

A, OPT = 1, 41
NOERROR, SERVFAIL = 0, 2
TTL = 20  # seconds, of every answer of the upstream
_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_OPT = b"\0" + _RECORD.pack(OPT, 1232, 0, 0)


class WireError(ValueError):
    """What came is no DNS message."""


def address_of(name: str) -> str:
    """What the upstream says a name's address is: every name has its own, so answers cannot be mixed up unseen."""
    return str(IPv4Address(0xC6120000 | zlib.crc32(name.lower().encode()) & 0x1FFFF))  # 198.18.0.0/15, RFC 2544


def encode_name(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label) + b"\0"


def query(number: int, name: str) -> bytes:
    """An A query with RD and EDNS."""
    return _HEADER.pack(number, 0x0100, 1, 0, 0, 1) + encode_name(name) + b"\0\1\0\1" + _OPT


def read_name(packet: bytes, at: int) -> tuple[str, int]:
    """A name and where it ends; a pointer must point backwards."""
    labels: list[str] = []
    end, limit = -1, at
    while True:
        if at >= len(packet):
            raise WireError("a name runs out of the message")
        length = packet[at]
        if length >= 0xC0:
            end = at + 2 if end < 0 else end
            target = int.from_bytes(packet[at : at + 2], "big") & 0x3FFF
            if at + 2 > len(packet) or target >= limit:
                raise WireError("a pointer that does not point backwards")
            at = limit = target
        elif length > 63:
            raise WireError("a label of an unknown kind")
        elif length == 0:
            return ".".join(labels), at + 1 if end < 0 else end
        else:
            labels.append(packet[at + 1 : at + 1 + length].decode("latin-1"))
            at += 1 + length


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its last octet. `addresses`: (address, TTL) of its A records."""

    number: int
    rcode: int
    is_cut: bool  # TC
    qname: str
    addresses: tuple[tuple[str, int], ...]


def read_answer(packet: bytes) -> Answer:
    """A response with one question; WireError if it is anything else."""
    if len(packet) < _HEADER.size:
        raise WireError("shorter than a header")
    number, flags, questions, *counts = _HEADER.unpack_from(packet)
    if not flags & 0x8000 or questions > 1:
        raise WireError("no response to one question")
    qname, at = "", _HEADER.size
    if questions:
        qname, at = read_name(packet, at)
        at += 4
    addresses = []
    for _ in range(sum(counts)):
        _, at = read_name(packet, at)
        if at + _RECORD.size > len(packet):
            raise WireError("a record runs out of the message")
        rrtype, _, ttl, length = _RECORD.unpack_from(packet, at)
        at += _RECORD.size
        if at + length > len(packet):
            raise WireError("record data runs out of the message")
        if rrtype == A:
            addresses.append((str(IPv4Address(packet[at : at + length])), ttl))
        at += length
    if at != len(packet):
        raise WireError(f"{len(packet) - at} octets after the message")
    return Answer(number, flags & 15, bool(flags & 0x0200), qname, tuple(addresses))


def respond(packet: bytes, *, cut: bool = False) -> bytes:
    """The upstream's answer to a query: the name's address, the question in its own case; or TC and nothing."""
    name, end = read_name(packet, _HEADER.size)
    number, _, _, _, _, additional = _HEADER.unpack_from(packet)
    question = packet[_HEADER.size : end + 4]
    opt = _OPT if additional else b""
    header = _HEADER.pack(number, 0x8380 if cut else 0x8180, 1, 0 if cut else 1, 0, len(opt) and 1)
    if cut or packet[end : end + 2] != b"\0\1":
        header = _HEADER.pack(number, 0x8380 if cut else 0x8180, 1, 0, 0, len(opt) and 1)
        return header + question + opt
    record = b"\xc0\x0c" + _RECORD.pack(A, 1, TTL, 4) + IPv4Address(address_of(name)).packed
    return header + question + record + opt
