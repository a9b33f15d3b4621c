"""DNS over QUIC (RFC 9250): what one connection's streams say, and what is said on them.

No I/O: QUIC's events come in, queries go to `ask`, answers come back by `reply` and go to the connection. A query is
one message with its length on a stream of its own that the client opens and ends; the answer ends the other direction.
What the RFC calls a protocol error (section 4.3.3) closes the connection: a message id other than 0, more than one query
on a stream, an end before the message's, an edns-tcp-keepalive option, a stream in one direction only. A query is not
answered before its end (section 4.2); a stream that stays unfinished for `patience` costs the client its connection.

Invariants: a stream is in `_parts` while its query is incomplete and in `_asked` while an answer is awaited, never in
both; `_parts` is in the order of their beginning; an answer to a stream that the client gave up is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable

from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from resolver.quic import Connection, Doq
from resolver.upstream.message import HEADER, walk
from resolver.vocabulary import Transport

_KEEPALIVE = b"\0\x0b"  # OPTION-CODE of edns-tcp-keepalive (RFC 7828)
_NOT_BIDIRECTIONAL = 0x02  # of a stream's id (RFC 9000 section 2.1)


class DoqService:
    """One connection. `ask(stream, message)` may call `reply` before it returns. `patience` in seconds."""

    transport = Transport.QUIC
    done = int(Doq.NO_ERROR)
    too_much = int(Doq.EXCESSIVE_LOAD)
    broken = int(Doq.INTERNAL_ERROR)

    def __init__(self, quic: Connection, ask: Callable[[int, bytes], None], *, patience: float = 5.0) -> None:
        self._quic = quic
        self._ask = ask
        self._patience = patience
        self._parts: dict[int, tuple[bytes, float]] = {}  # octets so far, since when
        self._asked: set[int] = set()

    @property
    def pending(self) -> int:
        """How many queries wait for an answer."""
        return len(self._asked)

    def handle(self, event: QuicEvent, now: float) -> None:
        """What the connection reports."""
        if isinstance(event, StreamDataReceived):
            self._received(event.stream_id, event.data, event.end_stream, now)
        elif isinstance(event, StreamReset):  # the client takes its query back (section 4.3.1)
            self._forget(event.stream_id)
            if not event.stream_id & _NOT_BIDIRECTIONAL:
                self._quic.reset_stream(event.stream_id, Doq.REQUEST_CANCELLED)
        elif isinstance(event, StopSendingReceived):  # aioquic has ended our direction
            self._forget(event.stream_id)

    def reply(self, stream: int, message: bytes | None) -> None:
        """The answer to a query; None: there is none to give."""
        if stream not in self._asked:
            return
        self._asked.discard(stream)
        if message is None:
            self._quic.reset_stream(stream, Doq.UNSPECIFIED_ERROR)
        else:
            self._quic.send_stream_data(stream, len(message).to_bytes(2, "big") + message, end_stream=True)

    def look(self, now: float) -> None:
        """Close if a query has been incomplete for too long."""
        if self._parts and now - next(iter(self._parts.values()))[1] >= self._patience:
            self._quic.close(Doq.EXCESSIVE_LOAD, reason_phrase="a stream was left unfinished")

    def _forget(self, stream: int) -> None:
        self._parts.pop(stream, None)
        self._asked.discard(stream)

    def _received(self, stream: int, data: bytes, is_end: bool, now: float) -> None:
        if stream & _NOT_BIDIRECTIONAL:
            self._fail("a stream in one direction")
            return
        before, since = self._parts.get(stream, (b"", now))
        octets = before + data
        whole = 2 + int.from_bytes(octets[:2], "big")
        if len(octets) > max(whole, 2):
            self._fail("more than one message on a stream")
            return
        if not is_end:
            self._parts[stream] = octets, since
            return
        self._parts.pop(stream, None)
        if len(octets) < whole:
            self._fail("a stream ended before its message")
        elif fault := _fault(message := octets[2:]):
            self._fail(fault)
        else:
            self._asked.add(stream)
            self._ask(stream, message)

    def _fail(self, why: str) -> None:
        self._quic.close(Doq.PROTOCOL_ERROR, reason_phrase=why)


def _fault(message: bytes) -> str:
    """What in a query breaks the rules of this transport; "" for nothing. What else is wrong with it has an rcode."""
    if len(message) < HEADER:
        return "a message shorter than its header"
    if message[0] or message[1]:
        return "a message id that is not 0"
    if message[2] & 0x80:
        return "a response where a query is expected"
    if _KEEPALIVE in message and _has_keepalive(message):
        return "an edns-tcp-keepalive option"
    return ""


def _has_keepalive(message: bytes) -> bool:
    """Whether a well-formed query has the option."""
    end = HEADER
    while end < len(message) and 0 < message[end] < 64:
        end += message[end] + 1
    end += 5
    opt = walk(message, end) if message[4:6] == b"\0\1" and end <= len(message) else 0
    if opt <= 0:
        return False
    at = opt + 11
    stop = at + int.from_bytes(message[opt + 9 : opt + 11], "big")
    while at + 4 <= stop:
        if message[at : at + 2] == _KEEPALIVE:
            return True
        at += 4 + int.from_bytes(message[at + 2 : at + 4], "big")
    return False
