"""DNS over HTTP/3 (RFC 9114, RFC 8484): what one connection's streams say, and what is said on them.

No I/O: QUIC's events come in, requests are judged by doh.py as those of the other versions are, queries go to `ask`,
answers come back by `reply` and leave as responses.

Invariants: a stream is in `_requests` while its request is incomplete and in `_asked` while an answer is awaited, never in
both; `_requests` is in the order of their beginning.
"""

from __future__ import annotations

from collections.abc import Callable

import pylsqpack
from aioquic.h3.connection import ErrorCode, H3Connection, Setting
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from resolver.listeners import doh
from resolver.quic import Connection
from resolver.vocabulary import Transport

ALPN = "h3"


class _Http3(H3Connection):
    """aioquic's, without dynamic tables: with one, a small request could stand for megabytes of headers."""

    def _init_connection(self) -> None:
        self._max_table_capacity = self._blocked_streams = 0
        self._decoder = pylsqpack.Decoder(0, 0)
        super()._init_connection()

    def _validate_settings(self, settings: dict[int, int]) -> None:
        super()._validate_settings(settings)
        settings.pop(Setting.QPACK_MAX_TABLE_CAPACITY, None)  # what the client would keep is not used

    def held(self, stream: int) -> int:
        """Octets of a stream that are no whole frame yet."""
        found = self._stream.get(stream)
        return len(found.buffer) if found is not None else 0

    def ended(self, stream: int) -> None:
        """Our direction of a stream was reset."""
        self._receive_stop_sending(stream)


class _Request:
    """One that is not complete. `query`: of a GET, None: the body is it."""

    __slots__ = ("body", "query", "since")

    def __init__(self, query: bytes | None, since: float) -> None:
        self.query = query
        self.body = b""
        self.since = since


class Http3Service:
    """One connection. `ask(stream, message)` may call `reply` before it returns. `path`: where queries are taken;
    `patience`: for a request, in seconds."""

    transport = Transport.HTTPS
    done = int(ErrorCode.H3_NO_ERROR)
    too_much = int(ErrorCode.H3_EXCESSIVE_LOAD)
    broken = int(ErrorCode.H3_INTERNAL_ERROR)

    def __init__(
        self, quic: Connection, ask: Callable[[int, bytes], None], *, path: bytes, patience: float = 5.0
    ) -> None:
        self._quic = quic
        self._http = _Http3(quic)
        self._ask = ask
        self._path = path
        self._patience = patience
        self._requests: dict[int, _Request] = {}
        self._asked: set[int] = set()

    @property
    def pending(self) -> int:
        """How many queries wait for an answer."""
        return len(self._asked)

    def handle(self, event: QuicEvent, now: float) -> None:
        """What the connection reports."""
        if isinstance(event, StreamReset | StopSendingReceived):  # the client takes its request back
            is_known = self._requests.pop(event.stream_id, None) or event.stream_id in self._asked
            self._asked.discard(event.stream_id)
            if is_known:
                self._refuse(event.stream_id)
        for said in self._http.handle_event(event):
            self._said(said, now)
        if isinstance(event, StreamDataReceived) and self._http.held(event.stream_id) > doh.MAX_HEADERS:
            self._quic.close(ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="a frame that is too long")

    def reply(self, stream: int, message: bytes | None) -> None:
        """The answer to a query; None: there is none to give."""
        if stream not in self._asked:
            return
        self._asked.discard(stream)
        if message is None:
            self._refuse(stream)
        else:
            self._respond(stream, 200, doh.headers(message), message)

    def look(self, now: float) -> None:
        """Close if a request has been incomplete for too long."""
        if self._requests and now - next(iter(self._requests.values())).since >= self._patience:
            self._quic.close(ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="a request was left unfinished")

    def _said(self, event: H3Event, now: float) -> None:
        if not isinstance(event, HeadersReceived | DataReceived):
            return
        stream = event.stream_id
        request = self._requests.get(stream)
        try:
            if isinstance(event, HeadersReceived) and request is None:
                fields = dict(event.headers)
                if b":method" not in fields:  # trailers of one that is answered already
                    return
                query = doh.begin(
                    fields.get(b":method", b""), fields.get(b":path", b""), fields.get(b"content-type", b""), self._path
                )
                request = self._requests[stream] = _Request(query, now)
            elif isinstance(event, DataReceived) and request is not None and request.query is None:
                request.body += event.data
                if len(request.body) > doh.MAX_MESSAGE:
                    doh.query(request.body)
            if request is not None and event.stream_ended:
                del self._requests[stream]
                query = doh.query(request.body) if request.query is None else request.query
                self._asked.add(stream)
                self._ask(stream, query)
        except doh.HttpError as error:
            self._requests.pop(stream, None)
            if not event.stream_ended:
                self._quic.stop_stream(stream, ErrorCode.H3_NO_ERROR)
            self._respond(stream, error.status, error.headers, error.body)

    def _refuse(self, stream: int) -> None:
        self._quic.reset_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
        self._http.ended(stream)

    def _respond(self, stream: int, status: int, headers: doh.Headers, body: bytes) -> None:
        length = (b"content-length", b"%d" % len(body))
        self._http.send_headers(stream, [(b":status", b"%d" % status), *headers, length])
        self._http.send_data(stream, body, end_stream=True)
