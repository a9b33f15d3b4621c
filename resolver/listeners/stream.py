"""DNS over TCP and over TLS (RFC 7766, RFC 7858): framing, pipelining, answers out of order.

Each whole frame goes to `Engine.answer()`; what it answers at once is written with one write for all frames of a read, what
it punts comes later, in any order. Places, limits and time-outs: server.py; TLS and flow: connection.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from resolver.engine.engine import PUNT, REPLY, WAIT
from resolver.listeners.connection import FLUSH, Connection, Door
from resolver.listeners.server import StreamServer

_HEADER = 12
_UINT16 = struct.Struct(">H")


class Stream(Connection):
    """One connection."""

    __slots__ = ("_counted_as", "_token")

    def __init__(self, server: StreamServer, door: Door) -> None:
        super().__init__(server, door)
        self._counted_as = int(door.transport)
        self._token: Callable[[bytes | None], None] = self._reply  # one bound method for all queries

    def _work(self) -> None:
        """Answer the whole frames of the buffer, as far as the limits allow."""
        if self._is_working or self._transport is None:
            return
        self._is_working = True
        answer, counted_as = self._engine.answer, self._counted_as
        buffer, offset, end = self._buffer, 0, len(self._buffer)
        has_punts = is_bad = False
        size = 0
        while end - offset >= 2 and self._can_take():
            length = _UINT16.unpack_from(buffer, offset)[0]
            if length < _HEADER:  # no message is that short, and what follows cannot be trusted to be a frame
                is_bad = True
                break
            if end - offset - 2 < length:
                break
            packet = buffer[offset + 2 : offset + 2 + length]
            offset += 2 + length
            verdict, reply = answer(packet, self.client, counted_as, self._token)
            if verdict == REPLY and reply is not None:
                self._outbox.append(_UINT16.pack(len(reply)))
                self._outbox.append(reply)
                size += len(reply)
                if size >= FLUSH:  # or a client that does not read could have one read's worth of frames answered
                    size = 0
                    self._flush()
            elif verdict in (PUNT, WAIT):
                self._pending += 1
                has_punts = True
        self._buffer = buffer[offset:]
        if has_punts:
            self._server.on_punts()  # may call our token
        self._is_working = False
        self._flush()
        if is_bad:
            self.cut()
            return
        if offset:
            self._stay_active()
        if self._transport is not None:  # one that waits for its turn is not unfinished
            self._mind_half(is_half=bool(self._buffer) and self._can_take(), new=bool(offset))
        self._steer()
        self._end_if_done()

    def _reply(self, reply: bytes | None) -> None:
        """The token of our punts: the answer to one of them, or None."""
        self._pending -= 1
        if self._transport is None:
            return
        if reply is not None:
            self._outbox.append(_UINT16.pack(len(reply)))
            self._outbox.append(reply)
        if self._is_working:
            return
        self._flush()
        self._stay_active()
        if len(self._buffer) >= 2 and not self._is_blocked:
            self._work()
        else:
            self._steer()
            self._end_if_done()

    def _has_query(self) -> bool:
        return len(self._buffer) >= 2 and len(self._buffer) - 2 >= _UINT16.unpack_from(self._buffer)[0]
