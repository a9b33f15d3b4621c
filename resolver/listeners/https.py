"""DNS over HTTPS on TCP: HTTP/2 or HTTP/1.1, as ALPN has agreed (RFC 8484).

http2.py and the library h11 speak HTTP without I/O; what a request means is in doh.py, places and TLS are in connection.py.
Octets go in, whole requests come out and go to `Engine.answer()`; what all requests of a read get at once goes out with one
write. HTTP/1.1 is answered one request after the other, as it must be; HTTP/2 in any order.

Limits: header sections of doh.MAX_HEADERS octets, as many streams at once as a TCP connection may have queries waiting, and
http2.BODIES octets of unfinished bodies. A client that opens and resets streams faster than they are answered is not read
from meanwhile, since what waits is counted here and not by its streams. Only whole requests keep a connection from being
idle.

A connection that ends says so: GOAWAY with the last stream that is answered (RFC 9113 section 6.8), Connection: close.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import h11

from resolver.engine.engine import PUNT, REPLY, WAIT
from resolver.listeners import doh
from resolver.listeners.connection import FLUSH, Connection, Door
from resolver.listeners.doh import HttpError
from resolver.listeners.http2 import Http2
from resolver.listeners.server import StreamServer


class Version(Protocol):
    """One version of HTTP on one connection."""

    depth: int  # how many requests may wait at once

    @property
    def has_unsent(self) -> bool:
        """Whether the client has to make room for answers."""

    def receive(self, octets: bytes) -> None:
        """Take octets and answer the requests in them."""

    def resume(self) -> None:
        """Go on: an answer has gone out."""

    def answer(self, request: int, reply: bytes | None) -> None:
        """The answer to a request that had to wait; None: there is none."""

    def goodbye(self) -> None:
        """Say that the connection ends."""


class Http(Connection):
    """One connection. `path`: where queries are taken; `alt_svc`: what is said of HTTP/3, empty: nothing."""

    __slots__ = ("_alt_svc", "_counted_as", "_http", "_path", "_size")

    def __init__(self, server: StreamServer, door: Door, path: bytes, alt_svc: bytes = b"") -> None:
        super().__init__(server, door)
        self._counted_as = int(door.transport)
        self._path = path
        self._alt_svc = alt_svc
        self._http: Version | None = None
        self._size = 0  # octets in the outbox

    def _opened(self, alpn: str) -> None:
        self._http = (
            Http2(self, self._server.limits.pipeline, self._path, self._alt_svc) if alpn == "h2" else _Http1(self)
        )
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._http = None  # which knows us
        super().connection_lost(exc)

    def _can_take(self) -> bool:
        depth = self._http.depth if self._http is not None else 1
        return self._pending < depth and not self._is_blocked

    def _work(self) -> None:
        http = self._http
        if self._is_working or self._transport is None or http is None:
            return
        self._is_working = True
        if self._buffer and self._can_take():
            octets, self._buffer = self._buffer, b""
            http.receive(octets)
        else:
            http.resume()
        self._done()

    def _done(self) -> None:
        """After octets were taken or an answer came: send, and see how to go on."""
        self._is_working = False
        self._flush()
        self._steer()
        self._end_if_done()

    def _flush(self) -> None:
        self._size = 0
        super()._flush()

    def _has_query(self) -> bool:
        return self._http is not None and self._http.has_unsent  # whole requests have been taken, or are `_pending`

    def _farewell(self) -> None:
        if self._http is not None:
            self._http.goodbye()

    # -- called by the version --------------------------------------------------------------------------------------

    def say(self, octets: bytes) -> None:
        """Send octets, with all others of this round."""
        if octets:
            self._outbox.append(octets)
            self._size += len(octets)
            if self._size >= FLUSH:
                self._flush()

    def stop(self) -> None:
        """Take no more requests; the connection ends once those that wait are answered."""
        self._is_ending = True

    def ask(self, packet: bytes, request: int) -> tuple[bool, bytes | None]:
        """A query: (whether it is decided, the answer if there is one); else `Version.answer` is called later."""
        self._stay_active()
        verdict, reply = self._engine.answer(packet, self.client, self._counted_as, partial(self._reply, request))
        if verdict == REPLY:
            return True, reply
        if verdict not in (PUNT, WAIT):
            return True, None
        self._pending += 1
        self._server.on_punts()  # may answer at once
        return False, None

    def _reply(self, request: int, reply: bytes | None) -> None:
        self._pending -= 1
        http = self._http
        if self._transport is None or http is None:
            return
        http.answer(request, reply)
        if self._is_working:
            return
        self._flush()
        self._stay_active()
        self._work()

    def refused(self, error: HttpError) -> None:
        """A whole request came, and was no query."""
        self._stay_active()


class _Http1:
    """HTTP/1.1 (RFC 9112)."""

    __slots__ = ("_body", "_conn", "_is_over", "_is_waiting", "_owner", "_packet", "depth")

    def __init__(self, owner: Http) -> None:
        self._owner = owner
        self.depth = 1
        self._conn = h11.Connection(h11.SERVER, max_incomplete_event_size=doh.MAX_HEADERS)
        self._packet: bytes | None = None  # the query of a GET
        self._body: bytearray | None = None  # of a POST that is not whole yet
        self._is_waiting = False  # a request waits for its answer
        self._is_over = False

    @property
    def has_unsent(self) -> bool:
        return False

    def receive(self, octets: bytes) -> None:
        if self._is_over:
            return
        try:
            self._conn.receive_data(octets)
        except h11.RemoteProtocolError as error:
            self._broken(error)
            return
        self.resume()

    def resume(self) -> None:
        while not self._is_waiting and not self._is_over and not self._owner._is_blocked:
            try:
                event = self._conn.next_event()
                match event:
                    case h11.Request():
                        self._request(event)
                    case h11.Data():
                        self._data(event)
                    case h11.EndOfMessage():
                        self._whole()
                    case _:  # NEED_DATA, PAUSED, ConnectionClosed
                        return
            except h11.RemoteProtocolError as error:
                self._broken(error)
            except HttpError as error:
                # What is left of the request is not read: the connection ends with this.
                self._owner.refused(error)
                self._respond(error.status, error.headers, error.body, ends=self._conn.their_state is not h11.DONE)

    def answer(self, request: int, reply: bytes | None) -> None:
        self._is_waiting = False
        if reply is None:
            self._is_over = True
            self._owner.stop()
        else:
            self._respond(200, doh.headers(reply, self._owner._alt_svc), reply)

    def goodbye(self) -> None:
        self._is_over = True

    def _request(self, event: h11.Request) -> None:
        if len(event.target) + sum(len(name) + len(value) for name, value in event.headers) > doh.MAX_HEADERS:
            raise HttpError(431, "too much before the query")  # all of it came at once: h11 looks at what is incomplete
        content_type = next((value for name, value in event.headers if name == b"content-type"), b"")
        self._packet = doh.begin(event.method, event.target, content_type, self._owner._path)
        self._body = bytearray()
        if self._conn.they_are_waiting_for_100_continue:
            self._say(h11.InformationalResponse(status_code=100, headers=[]))

    def _data(self, event: h11.Data) -> None:
        if self._body is not None:
            self._body += event.data
            if len(self._body) > doh.MAX_MESSAGE:
                raise HttpError(413, "a message has at most 65535 octets")

    def _whole(self) -> None:
        packet, body = self._packet, self._body or b""
        self._packet = self._body = None
        if packet is None:
            packet = doh.query(bytes(body))
        self._is_waiting = True
        is_decided, reply = self._owner.ask(packet, 0)
        if is_decided:
            self.answer(0, reply)

    def _respond(self, status: int, headers: doh.Headers, body: bytes, *, ends: bool = False) -> None:
        ends = ends or self._owner._is_ending
        sized = [*headers, (b"content-length", b"%d" % len(body))]
        if ends:
            sized.append((b"connection", b"close"))
        try:
            self._say(h11.Response(status_code=status, headers=sized))
            self._say(h11.Data(data=body))
            self._say(h11.EndOfMessage())
        except h11.LocalProtocolError:  # it was in the middle of another response
            ends = True
        if ends or self._conn.our_state is h11.MUST_CLOSE:
            self._is_over = True
            self._owner.stop()
        elif self._conn.their_state is h11.DONE:
            self._conn.start_next_cycle()

    def _broken(self, error: h11.RemoteProtocolError) -> None:
        """No HTTP, or more of it than is taken: say so if that can still be said, and end."""
        refused = HttpError(error.error_status_hint, "this is no HTTP request that is understood here")
        if self._conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._respond(refused.status, refused.headers, refused.body, ends=True)
        self._is_over = True
        self._owner.stop()

    def _say(self, event: Any) -> None:
        if octets := self._conn.send(event):
            self._owner.say(octets)
