"""What a worker and its validator say to each other: frames over a stream socket.

    0        4     5          9
    ┌────────┬─────┬──────────┬─────────
    │ length │kind │ number   │ body …        length: octets of the body; all numbers in network order
    └────────┴─────┴──────────┴─────────

    worker → validator   CONFIGURE (number 0)  JSON: anchors, negative
                         CHECK     a new number; body: u16 route, u8 whether afresh, u16 qtype, qname, then the answer
                         TOLD      the number of an ASK; body: the answer, nothing if there is none
                         PING      (number 0) asks for a PONG
    validator → worker   ASK       a new number of its own; body: u16 route, u8 whether afresh, u16 qtype, qname
                         VERDICT   the number of a CHECK; body: u8 status, i16 EDE, u16 and text, u32 and the whole answer,
                                   then the plain one
                         PONG      (number 0) when all that came before the PING has been looked at

Both ends are this program; a frame that is not as it should be raises ValueError and ends the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

_HEAD = struct.Struct(">IBI")
_QUESTION = struct.Struct(">HBH")
_VERDICT = struct.Struct(">BhH")
_LENGTH = struct.Struct(">I")
MAX_BODY: Final = 1 << 20


class Kind(IntEnum):
    """See the module."""

    CONFIGURE = 0
    CHECK = 1
    TOLD = 2
    ASK = 3
    VERDICT = 4
    PING = 5
    PONG = 6


class Frame(NamedTuple):
    """One frame, its body as it stands."""

    kind: Kind
    number: int
    body: bytes


class Asked(NamedTuple):
    """The head of a CHECK and the whole of an ASK. `afresh`: by another server, and what was broken is looked at anew."""

    route: int
    afresh: bool
    qtype: int
    qname: bytes


class Judged(NamedTuple):
    """The body of a VERDICT: validate.Outcome as it travels."""

    status: int
    ede: int
    text: str
    whole: bytes
    plain: bytes


class Parser:
    """Frames out of octets as they come in."""

    def __init__(self) -> None:
        self._octets = bytearray()

    def feed(self, octets: bytes) -> Iterator[Frame]:
        """The frames that are whole now. ValueError for what is none."""
        self._octets += octets
        at = 0
        try:
            while len(self._octets) - at >= _HEAD.size:
                length, kind, number = _HEAD.unpack_from(self._octets, at)
                if length > MAX_BODY:
                    raise ValueError(f"a frame of {length} octets")
                end = at + _HEAD.size + length
                if end > len(self._octets):
                    break
                body = bytes(self._octets[at + _HEAD.size : end])
                at = end
                yield Frame(Kind(kind), number, body)
        finally:
            del self._octets[:at]


def frame(kind: Kind, number: int, body: bytes) -> bytes:
    """A frame's octets."""
    return _HEAD.pack(len(body), kind, number) + body


def put_question(asked: Asked) -> bytes:
    """The body of an ASK, the head of a CHECK's."""
    return _QUESTION.pack(asked.route, asked.afresh, asked.qtype) + asked.qname


def take_question(body: bytes) -> tuple[Asked, bytes]:
    """What put_question put, and what follows it. ValueError; struct.error."""
    route, afresh, qtype = _QUESTION.unpack_from(body)
    at = _QUESTION.size
    while at < len(body) and body[at]:
        at += body[at] + 1
    if at >= len(body):
        raise ValueError("a name without an end")
    return Asked(route, bool(afresh), qtype, body[_QUESTION.size : at + 1]), body[at + 1 :]


def put_verdict(judged: Judged) -> bytes:
    """The body of a VERDICT."""
    text = judged.text.encode()[:200].decode(errors="ignore").encode()
    head = _VERDICT.pack(judged.status, judged.ede, len(text))
    return head + text + _LENGTH.pack(len(judged.whole)) + judged.whole + judged.plain


def take_verdict(body: bytes) -> Judged:
    """What put_verdict put. ValueError; struct.error."""
    status, ede, length = _VERDICT.unpack_from(body)
    at = _VERDICT.size + length
    text = body[_VERDICT.size : at].decode(errors="replace")
    (size,) = _LENGTH.unpack_from(body, at)
    at += _LENGTH.size
    if at + size > len(body):
        raise ValueError("a verdict that is cut short")
    return Judged(status, ede, text, body[at : at + size], body[at + size :])
