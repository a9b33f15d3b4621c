"""DNS over HTTPS on TCP: HTTP/2 or HTTP/1.1, as ALPN has agreed (RFC 8484).

The libraries h2 and h11 speak HTTP without I/O; what a request means is in doh.py, places and TLS are in connection.py.
Octets go in, whole requests come out and go to `Engine.answer()`; what all requests of a read get at once goes out with one
write. HTTP/1.1 is answered one request after the other, as it must be; HTTP/2 in any order.

Limits: header sections of doh.MAX_HEADERS octets, as many streams at once as a TCP connection may have queries waiting, and
BODIES octets of unfinished bodies. A client that opens and resets streams faster than they are answered is not read from
meanwhile, since what waits is counted here and not by its streams. Only whole requests keep a connection from being idle.

A connection that ends says so: GOAWAY with the last stream that is answered (RFC 9113 section 6.8), Connection: close.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import h11
from hpack.struct import NeverIndexedHeaderTuple
from hyperframe.frame import GoAwayFrame

from resolver.engine.engine import PUNT, REPLY, WAIT
from resolver.listeners import doh
from resolver.listeners.connection import FLUSH, Connection, Door
from resolver.listeners.doh import HttpError
from resolver.listeners.server import StreamServer

BODIES = 1 << 17  # octets
UNFRAMED = (
    1 << 17
)  # octets that may come without a whole frame among them: h2 would collect 16 MiB of one before it looks
_CONFIG = h2.config.H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_outbound_headers=False,  # our own, and well-formed
    normalize_outbound_headers=False,
)


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
        self._http = _Http2(self) if alpn == "h2" else _Http1(self)
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

    def headers_of(self, reply: bytes) -> doh.Headers:
        """What stands above an answer."""
        headers = doh.headers(reply)
        if self._alt_svc:
            headers.append((b"alt-svc", self._alt_svc))
        return headers


class _Http2:
    """HTTP/2 (RFC 9113)."""

    __slots__ = ("_bodies", "_conn", "_held", "_is_over", "_last", "_owner", "_unframed", "_waiting", "depth")

    def __init__(self, owner: Http) -> None:
        self._owner = owner
        self.depth = owner._server.limits.pipeline
        self._conn = conn = h2.connection.H2Connection(_CONFIG)
        codes = h2.settings.SettingCodes
        conn.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: self.depth,
                codes.MAX_HEADER_LIST_SIZE: doh.MAX_HEADERS,
                codes.INITIAL_WINDOW_SIZE: 65535,
            },
        )
        conn.decoder.max_header_list_size = doh.MAX_HEADERS
        conn.initiate_connection()
        self._bodies: dict[int, bytearray] = {}  # of POST requests that are not whole yet
        self._held = 0  # octets of them
        self._waiting: dict[int, bytes] = {}  # what of answers the client's windows have no room for
        self._last = 0  # the newest request that was taken
        self._unframed = 0  # octets that have come to nothing yet
        self._is_over = False
        owner.say(conn.data_to_send())

    def receive(self, octets: bytes) -> None:
        conn = self._conn
        try:
            events = conn.receive_data(octets)
        except h2.exceptions.ProtocolError:
            self._end()
            return
        self._unframed = 0 if events else self._unframed + len(octets)
        if self._unframed > UNFRAMED:
            conn.close_connection(h2.errors.ErrorCodes.FRAME_SIZE_ERROR)
            self._end()
            return
        for event in events:
            match event:
                case h2.events.RequestReceived():
                    self._request(event)
                case h2.events.DataReceived():
                    self._data(event)
                case h2.events.StreamEnded():
                    self._whole(event.stream_id)
                case h2.events.StreamReset():
                    self._forget(event.stream_id)
                case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                    self._send_waiting()
                case h2.events.ConnectionTerminated():
                    self._is_over = True
                    self._owner.stop()
                    return
        self._owner.say(conn.data_to_send())

    @property
    def has_unsent(self) -> bool:
        return bool(self._waiting)

    def resume(self) -> None:
        """There is nothing that waits for an answer to go out."""

    def answer(self, request: int, reply: bytes | None) -> None:
        if reply is None:
            self._reset(request)
        else:
            self._respond(request, 200, self._owner.headers_of(reply), reply)
        self._owner.say(self._conn.data_to_send())

    def goodbye(self) -> None:
        if not self._is_over:
            # h2 takes a connection for closed once it has sent this; here those before it are still answered.
            self._is_over = True
            self._owner.say(GoAwayFrame(0, last_stream_id=self._last).serialize())

    def _end(self) -> None:
        """The client broke the rules: h2 has written why, and nothing else may follow."""
        self._is_over = True
        self._owner.say(self._conn.data_to_send())
        self._owner.stop()
        self._waiting.clear()
        self._bodies.clear()

    # -- requests ---------------------------------------------------------------------------------------------------

    def _request(self, event: h2.events.RequestReceived) -> None:
        stream = event.stream_id
        if self._is_over:  # opened after our GOAWAY
            self._reset(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        self._last = max(self._last, stream)
        method = target = content_type = b""
        for name, value in event.headers:
            if name == b":path":
                target = value
            elif name == b":method":
                method = value
            elif name == b"content-type":
                content_type = value
        try:
            packet = doh.begin(method, target, content_type, self._owner._path)
            if packet is None:
                self._bodies[stream] = bytearray()
                return
        except HttpError as error:
            self._refuse(stream, error)
            return
        self._ask(stream, packet)

    def _data(self, event: h2.events.DataReceived) -> None:
        stream, octets = event.stream_id, event.flow_controlled_length
        body = self._bodies.get(stream)
        if octets:
            try:
                self._conn.acknowledge_received_data(octets, stream)
            except h2.exceptions.ProtocolError:
                pass  # the stream is gone
        if body is None:
            return
        body += event.data
        self._held += len(event.data)
        if len(body) > doh.MAX_MESSAGE or self._held > BODIES:
            self._forget(stream)
            self._refuse(stream, HttpError(413, "a message has at most 65535 octets"))

    def _whole(self, stream: int) -> None:
        body = self._bodies.get(stream)
        if body is None:
            return
        self._forget(stream)
        try:
            packet = doh.query(bytes(body))
        except HttpError as error:
            self._refuse(stream, error)
            return
        self._ask(stream, packet)

    def _ask(self, stream: int, packet: bytes) -> None:
        is_decided, reply = self._owner.ask(packet, stream)
        if is_decided:
            if reply is None:
                self._reset(stream)
            else:
                self._respond(stream, 200, self._owner.headers_of(reply), reply)

    def _forget(self, stream: int) -> None:
        """What is kept of a stream."""
        self._held -= len(self._bodies.pop(stream, b""))
        self._waiting.pop(stream, None)

    # -- responses --------------------------------------------------------------------------------------------------

    def _refuse(self, stream: int, error: HttpError) -> None:
        self._owner.refused(error)
        self._respond(stream, error.status, error.headers, error.body)

    def _respond(self, stream: int, status: int, headers: doh.Headers, body: bytes) -> None:
        conn = self._conn
        said: list[Any] = [(b":status", b"%d" % status)]
        sized = (*headers, (b"content-length", b"%d" % len(body)))  # dig wants to know it before
        for name, value in sized:
            # What differs from answer to answer is not worth a place in the client's table (RFC 7541 section 7.1.3).
            is_own = name in (b"cache-control", b"content-length")
            said.append(NeverIndexedHeaderTuple(name, value) if is_own else (name, value))
        try:
            conn.send_headers(stream, said)
        except h2.exceptions.ProtocolError:
            return  # the client has given it up
        self._waiting[stream] = body
        self._send(stream)

    def _send(self, stream: int) -> None:
        """Send of a body what the client's windows and frames have room for."""
        conn, body = self._conn, self._waiting[stream]
        try:
            while body:
                room = min(conn.local_flow_control_window(stream), conn.max_outbound_frame_size)
                if room <= 0:
                    break
                conn.send_data(stream, body[:room], end_stream=len(body) <= room)
                body = body[room:]
        except h2.exceptions.ProtocolError:
            body = b""
        if body:
            self._waiting[stream] = body
        else:
            del self._waiting[stream]

    def _send_waiting(self) -> None:
        for stream in list(self._waiting):
            self._send(stream)

    def _reset(self, stream: int, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.CANCEL) -> None:
        try:
            self._conn.reset_stream(stream, code)
        except h2.exceptions.ProtocolError:
            pass  # it is over already


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
            self._respond(200, self._owner.headers_of(reply), reply)

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
