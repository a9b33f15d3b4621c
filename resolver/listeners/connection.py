"""One stream connection, below what is spoken on it: its place, its PROXY header, its TLS, and who waits for whom.

    octets ─▶ PROXY header ─▶ handshake ─▶ text ─▶ _work() of a subclass ─▶ _outbox ─▶ _flush(): one write

A subclass takes whole queries out of `_buffer` in `_work`, as far as `_can_take()` allows, and gives each to
`Engine.answer()`; what is answered at once goes out with one write for all of a read, what is punted comes later through
the callable that travels as the punt's token. A client may keep `pipeline` queries waiting; then its octets stay unread
until answers have gone out, and so they do while the client does not take its answers.

Invariants: a connection's pending count is the number of punts whose token has not been called; a reply to a connection
that is gone is dropped in silence; `_work` does not run within itself.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import cast

from resolver.listeners import proxy
from resolver.listeners.server import StreamServer, client_octets
from resolver.listeners.tls import Tls
from resolver.vocabulary import Transport

FLUSH = 65536  # octets of answers that are collected before a write
MAX_WAITING = 65536  # octets that are taken before a handshake's turn has come


@dataclass(frozen=True, slots=True)
class Door:
    """What a listening socket says of its connections: what their queries count as, how TLS is made (None: not), and whose
    PROXY headers are believed."""

    transport: Transport = Transport.TCP
    context: Callable[[], ssl.SSLContext] | None = None
    trusted: proxy.Trusted | None = None


class Connection(asyncio.Protocol):
    """See the module; the public attributes and methods are what the server knows of it (server.Held)."""

    __slots__ = (
        "_buffer",
        "_door",
        "_engine",
        "_has_failed",
        "_is_blocked",
        "_is_ending",
        "_is_entering",
        "_is_half",
        "_is_queued",
        "_is_reading",
        "_is_working",
        "_outbox",
        "_pending",
        "_server",
        "_tls",
        "_transport",
        "_wants_header",
        "active_at",
        "client",
        "frame_since",
    )

    def __init__(self, server: StreamServer, door: Door) -> None:
        self._server = server
        self._engine = server.engine
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._tls: Tls | None = None
        self._buffer = b""
        self._pending = 0
        self._outbox: list[bytes] = []
        self._is_working = False  # in `_work`: answers are collected
        self._is_blocked = False  # the client does not take its answers
        self._is_reading = True
        self._is_ending = False  # no more queries will come
        self._is_half = False  # something is unfinished
        self._is_entering = False  # the header or the handshake is not done
        self._wants_header = False
        self._is_queued = False  # its handshake waits for its turn
        self._has_failed = False  # its handshake, or has been let lie
        self.client = b""
        self.active_at = self.frame_since = server.loop.time()

    @property
    def is_spare(self) -> bool:
        """Whether nobody waits for an answer on it."""
        return not self._pending

    # -- what a subclass does ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Answer the whole queries of the buffer, as far as the limits allow."""
        raise NotImplementedError

    def _opened(self, alpn: str) -> None:
        """What is spoken may begin; `alpn` is what TLS agreed on, or empty."""

    def _has_query(self) -> bool:
        """Whether a whole query waits in the buffer."""
        raise NotImplementedError

    def _farewell(self) -> None:
        """Say in the outbox that the connection ends, if what is spoken has a word for it."""

    # -- asyncio ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The peer is known: take a place, or go."""
        self._transport = cast(asyncio.Transport, transport)
        peer = self._transport.get_extra_info("peername")
        if not peer:  # gone already
            self._transport.abort()
            return
        door = self._door
        self.client = client_octets(peer[0])
        self._wants_header = door.trusted is not None and self.client in door.trusted
        if not self._server.admit(self, is_proxy=self._wants_header):
            self._transport.abort()
            return
        self._is_entering = self._wants_header or door.context is not None
        if self._is_entering:
            self._server.half(self)
        else:
            self._opened("")

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        began = perf_counter()
        self._transport = None
        self.judge()
        self._tls = None
        self._buffer = b""
        self._server.leave(self)
        self._server.glance(began)

    def data_received(self, data: bytes) -> None:
        """Octets from the client."""
        began = perf_counter()
        if self._is_entering:
            self._enter(data)
        else:
            if self._tls is not None:
                data = self._read(data)
            if data:
                self._buffer = self._buffer + data if self._buffer else data
            self._work()
        self._server.glance(began)

    def eof_received(self) -> bool:
        """Answer what is in flight to a client that only closed its own direction."""
        if self._is_entering:
            return False
        self._is_ending = True
        return not self._end_if_done()

    def pause_writing(self) -> None:
        """The client does not take its answers: read no more."""
        self._is_blocked = True
        self._steer()

    def resume_writing(self) -> None:
        """It takes them again."""
        self._is_blocked = False
        if not self._is_entering:
            self._work()

    # -- the way in -------------------------------------------------------------------------------------------------

    def _enter(self, data: bytes) -> None:
        """Take the PROXY header, then have the handshake go on."""
        self._buffer += data
        if self._wants_header:
            try:
                header = proxy.read(self._buffer)
            except proxy.ProxyError:
                self.cut(at_once=True)
                return
            if header is None:
                return
            self._wants_header = False
            length, client = header
            self._buffer = self._buffer[length:]
            if client:
                self._server.leave(self)
                self.client = client
                if not self._server.admit(self):
                    self.cut(at_once=True)
                    return
                self.frame_since = self._server.loop.time()
                self._server.half(self)
            if self._door.context is None:
                self._enters("")
                self._work()
                return
        if self._buffer and not self._is_queued:
            self._is_queued = True
            self._server.queue(self)
        elif len(self._buffer) > MAX_WAITING and self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def shake(self) -> Callable[[], bool] | None:
        """The next step of the handshake, for another thread; until `shaken` it alone touches TLS, whoever cuts us."""
        if self._transport is None or self._door.context is None:
            return None
        if self._tls is None:
            self._tls = Tls(self._door.context())
        octets, self._buffer = self._buffer, b""
        return partial(self._tls.shake, octets)

    def shaken(self, is_open: bool | None) -> None:
        """The step was done; None: it failed, and the alert that says so goes out."""
        self._is_queued = False
        if self._transport is None or self._tls is None or self._transport.is_closing():
            return
        if out := self._tls.take():
            self._transport.write(out)
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()
        if is_open is None:
            self.cut()
        elif is_open:
            self._enters(self._tls.alpn)
            self._buffer = self._read(self._buffer)
            self._work()
        elif self._buffer:
            self._enter(b"")

    def judge(self) -> None:
        """Count a handshake that was begun and is not done, once."""
        if self._is_entering and self._tls is not None and not self._has_failed:
            self._has_failed = True
            self._server.failed(self.client)

    def _enters(self, alpn: str) -> None:
        self._is_entering = False
        self._server.whole(self)
        self._stay_active()
        self._opened(alpn)

    # -- octets and text --------------------------------------------------------------------------------------------

    def _read(self, octets: bytes) -> bytes:
        """The text that has come in; a connection whose TLS is broken is cut."""
        assert self._tls is not None
        try:
            text = self._tls.read(octets)
        except ssl.SSLError:
            self._send_tls()
            self.cut(at_once=True)
            return b""
        if self._tls.has_out:  # the answer to a key update, say
            self._send_tls()
        if self._tls.is_closed:
            self._is_ending = True
        return text

    def _send_tls(self) -> None:
        if self._transport is not None and self._tls is not None:
            self._transport.write(self._tls.take())

    def _flush(self) -> None:
        if self._outbox and self._transport is not None:
            outbox, self._outbox = self._outbox, []
            if self._transport.is_closing():  # TLS has said goodbye, or broken: it takes nothing
                return
            text = b"".join(outbox)
            self._transport.write(text if self._tls is None else self._tls.write(text))

    # -- keeping place ----------------------------------------------------------------------------------------------

    def _stay_active(self) -> None:
        self._server.active(self)

    def _mind_half(self, *, is_half: bool, new: bool) -> None:
        """Time what is unfinished from its first octet."""
        if self._is_half and (new or not is_half):
            self._server.whole(self)
        if is_half and (new or not self._is_half):
            self.frame_since = self._server.loop.time()
            self._server.half(self)
        self._is_half = is_half

    def _can_take(self) -> bool:
        return self._pending < self._server.limits.pipeline and not self._is_blocked

    def _steer(self) -> None:
        """Read if queries could be answered, else let TCP slow the client down."""
        if self._transport is None or self._transport.is_closing():
            return
        wanted = self._can_take()
        if wanted != self._is_reading and not (wanted and self._is_ending):
            self._is_reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # -- ends -------------------------------------------------------------------------------------------------------

    def _end_if_done(self) -> bool:
        """Close once no query will come any more and none waits; whether it was so."""
        if self._transport is None or not self._is_ending or self._pending or self._has_query():
            return False
        self._close()
        return True

    def finish(self) -> None:
        """Take no more from the client than is here, answer that, close."""
        self._is_ending = True
        if self._transport is not None and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()
        if self._is_entering:
            self.cut()
        else:
            self._end_if_done()

    def cut(self, *, at_once: bool = False) -> None:
        """Close without waiting for a client that does not read; `at_once`: nor for anything."""
        if self._transport is not None:
            if at_once or self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._close()

    def _close(self) -> None:
        if self._transport is None:
            return
        if not self._is_entering:
            self._farewell()
            self._flush()
            if self._tls is not None and (out := self._tls.close()):
                self._transport.write(out)
        self._transport.close()
