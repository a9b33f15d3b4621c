"""DNS over HTTPS (RFC 8484) as a client: POST on one HTTP/2 connection (RFC 9113), a stream a query: sans-IO.

The id is 0 on the wire (section 4.1). An answer's age (Age, section 5.1) is not taken from its TTLs: what we ask by POST no
cache between keeps. The server says how many streams it takes at a time; more queries wait for one that ends. What
a server that says GOAWAY has not answered is asked again over a new connection: h2 hears nothing after it, and a question
may be asked twice.
"""

from __future__ import annotations

from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from resolver.upstream.carrier import Fault
from resolver.upstream.framing import ProtocolError
from resolver.upstream.server import Server

MAX_ANSWER: Final = 65_535  # octets of a message
_WINDOW: Final = 1 << 24  # octets that the server may send at a time, all streams together
_MEDIA_TYPE: Final = "application/dns-message"
_LAST_STREAM: Final = 1 << 30  # then a new connection, before the numbers end
_STREAMS: Final = (
    100  # at a time, until the server has said how many it takes (RFC 9113 section 6.5.2 asks for no fewer)
)
_MOST_STREAMS: Final = 1000
_QUERY: Final = 1024  # octets; no query of ours is longer


class _Answer:
    __slots__ = ("body", "size", "status")

    def __init__(self) -> None:
        self.status = b""
        self.body: list[bytes] = []
        self.size = 0


class Http2:
    """The Dialogue of HTTPS. `known`: how many streams servers have said they take; a new connection begins by that."""

    def __init__(self, server: Server, known: dict[Server, int]) -> None:
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,  # or h2 would raise on octets that are no UTF-8
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._connection = h2.connection.H2Connection(config)
        self._connection.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 17,  # more than any answer
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 14,
            },
        )
        self._connection.initiate_connection()
        self._connection.increment_flow_control_window(_WINDOW)
        self._answers: dict[int, _Answer] = {}
        name = f"[{server.certificate}]" if ":" in server.certificate else server.certificate
        self._headers = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", name if server.port == 443 else f"{name}:{server.port}"),
            (":path", server.path),
            ("accept", _MEDIA_TYPE),
            ("content-type", _MEDIA_TYPE),
        ]
        self._unacknowledged = 0
        self._server, self._known = server, known
        self._streams = known.get(server, _STREAMS)
        self.is_over = False
        self.can_cancel = True

    @property
    def has_room(self) -> bool:
        """See Dialogue."""
        of_stream = self._connection.remote_settings.initial_window_size
        is_open = min(self._connection.outbound_flow_control_window, of_stream) >= _QUERY
        return is_open and not self.is_over and len(self._answers) < self._streams

    def ask(self, payload: bytes) -> int:
        """See Dialogue; the key is the stream's number."""
        stream = self._connection.get_next_available_stream_id()
        self._connection.send_headers(stream, [*self._headers, ("content-length", str(len(payload)))])
        self._connection.send_data(stream, b"\0\0" + payload[2:], end_stream=True)
        self._answers[stream] = _Answer()
        if stream >= _LAST_STREAM:
            self.is_over = True
        return stream

    def forget(self, key: int) -> None:
        """See Dialogue."""
        if self._answers.pop(key, None) is not None and not self.is_over:
            try:
                self._connection.reset_stream(key, h2.errors.ErrorCodes.CANCEL)
            except h2.exceptions.ProtocolError:
                pass  # it has just ended

    def receive(self, data: bytes) -> list[tuple[int, bytes | Fault]]:
        """See Dialogue."""
        found: list[tuple[int, bytes | Fault]] = []
        try:
            for event in self._connection.receive_data(data):
                self._take_event(event, found)
        except h2.exceptions.ProtocolError as error:
            raise ProtocolError(str(error)) from None
        if self._unacknowledged >= _WINDOW // 2:
            self._connection.increment_flow_control_window(self._unacknowledged)
            self._unacknowledged = 0
        return found

    def take(self) -> bytes:
        """See Dialogue."""
        return self._connection.data_to_send()

    def _take_event(self, event: h2.events.Event, found: list[tuple[int, bytes | Fault]]) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._streams = min(self._connection.remote_settings.max_concurrent_streams, _MOST_STREAMS)
            self._known[self._server] = self._streams
        if isinstance(event, h2.events.ConnectionTerminated):
            self.is_over = True
            found += [(each, Fault.CLOSED) for each in self._answers]
            self._answers.clear()
            return
        if isinstance(event, h2.events.DataReceived):
            self._unacknowledged += event.flow_controlled_length
        stream = getattr(event, "stream_id", None)
        answer = self._answers.get(stream) if isinstance(stream, int) else None
        if answer is None or stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            answer.status = dict(event.headers).get(b":status", b"")
        elif isinstance(event, h2.events.DataReceived):
            answer.size += len(event.data)
            if answer.size > MAX_ANSWER:
                self.forget(stream)
                found.append((stream, Fault.PROTOCOL))
            else:
                answer.body.append(event.data)
        elif isinstance(event, h2.events.StreamReset):
            del self._answers[stream]
            found.append((stream, Fault.CLOSED))
        elif isinstance(event, h2.events.StreamEnded):
            del self._answers[stream]
            good = answer.status.startswith(b"2")
            found.append((stream, b"".join(answer.body) if good else Fault.HTTP_STATUS))
