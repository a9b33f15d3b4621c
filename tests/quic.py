"""A QUIC client and a relay that spoils datagrams, both for tests: aioquic's sans-IO connection on a blocking socket.

    with QuicClient(port, authority) as client:
        client.connect()
        answer = client.ask(query)                 # DoQ: a message in, a message out
        stream = client.send(octets, end=False)    # or octet by octet
        client.closed                              # ConnectionTerminated, once it has come

`client.seen` are all events. Waiting ends with AssertionError when nothing comes within `PATIENCE`.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import Any

import dns.message
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.tls import SessionTicket

PATIENCE = 20.0  # seconds for anything to happen


class QuicClient:
    """See the module. `authority`: a file of CA certificates; "": the server's is not verified. Options go to aioquic."""

    def __init__(
        self,
        port: int,
        authority: str = "",
        *,
        host: str = "127.0.0.1",
        source: str = "",
        alpn: str = "doq",
        name: str = "localhost",
        **options: Any,
    ) -> None:
        self.address = (host, port)
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        if source:
            self.sock.bind((source, 0))
        self.tickets: list[SessionTicket] = []
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=[alpn] if alpn else None,
            server_name=name,
            verify_mode=ssl.CERT_REQUIRED if authority else ssl.CERT_NONE,
            cafile=authority or None,
            **options,
        )
        self.quic = QuicConnection(configuration=configuration, session_ticket_handler=self.tickets.append)
        self.seen: list[QuicEvent] = []
        self.received: defaultdict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.closed: ConnectionTerminated | None = None
        self.handshake: HandshakeCompleted | None = None
        self.got: list[bytes] = []
        """Datagrams that came in."""
        self.sent: list[bytes] = []
        self.h3: H3Connection | None = None
        self.headers: dict[int, dict[bytes, bytes]] = {}
        self.bodies: defaultdict[int, bytes] = defaultdict(bytes)

    def __enter__(self) -> QuicClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.closed is None:
            self.quic.close()
            try:
                self.flush()
            except (OSError, IndexError):  # never connected
                pass
        self.sock.close()

    # -- I/O --------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what is due."""
        for data, address in self.quic.datagrams_to_send(time.monotonic()):
            self.sent.append(data)
            try:
                self.sock.sendto(data, address)
            except ConnectionRefusedError:
                pass

    def step(self, patience: float = 0.1) -> None:
        """Send, wait for a datagram or the timer, and look at what happened."""
        self.flush()
        timer = self.quic.get_timer()
        wait = patience if timer is None else min(patience, max(0.0, timer - time.monotonic()))
        if select.select([self.sock], [], [], wait)[0]:
            try:
                data, address = self.sock.recvfrom(65536)
            except OSError:
                return
            self.got.append(data)
            self.quic.receive_datagram(data, address, time.monotonic())
        elif timer is not None and time.monotonic() >= timer:
            self.quic.handle_timer(time.monotonic())
        while (event := self.quic.next_event()) is not None:
            self._see(event)
        self.flush()

    def _see(self, event: QuicEvent) -> None:
        self.seen.append(event)
        if isinstance(event, HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, ConnectionTerminated):
            self.closed = event
        elif isinstance(event, StreamDataReceived):
            self.received[event.stream_id] += event.data
            if event.end_stream:
                self.ended.add(event.stream_id)
        elif isinstance(event, StreamReset | StopSendingReceived):
            self.resets[event.stream_id] = event.error_code
        if self.h3 is not None:
            for said in self.h3.handle_event(event):
                if isinstance(said, HeadersReceived):
                    self.headers[said.stream_id] = dict(said.headers)
                elif isinstance(said, DataReceived):
                    self.bodies[said.stream_id] += said.data

    def until(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
        """Go on until `condition` is true."""
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, f"not within {patience:g} s: {what} (closed: {self.closed})"
            self.step()

    # -- DoQ --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the first packet."""
        self.quic.connect(self.address, time.monotonic())
        self.flush()

    def connect(self, patience: float = PATIENCE) -> None:
        """Finish the handshake; ConnectionError if the server ends it."""
        self.start()
        self.until(lambda: self.handshake or self.closed, "the handshake is over", patience)
        if self.handshake is None:
            assert self.closed is not None
            raise ConnectionError(self.closed.error_code, self.closed.reason_phrase)

    def send(self, octets: bytes, *, end: bool = True, stream: int | None = None, uni: bool = False) -> int:
        """Send octets on a stream, a new one if none is given; which one."""
        if stream is None:
            stream = self.quic.get_next_available_stream_id(is_unidirectional=uni)
        self.quic.send_stream_data(stream, octets, end)
        self.flush()
        return stream

    def query(self, message: bytes) -> int:
        """Send a query on a stream of its own; which one."""
        return self.send(len(message).to_bytes(2, "big") + message)

    def answer(self, stream: int) -> bytes:
        """The answer on a stream; ConnectionError if there is none."""
        self.until(lambda: stream in self.ended or stream in self.resets or self.closed, "an answer")
        if stream not in self.ended:
            raise ConnectionError(self.resets.get(stream, self.closed and self.closed.error_code))
        octets = self.received[stream]
        assert len(octets) == 2 + int.from_bytes(octets[:2], "big")
        return octets[2:]

    def ask(self, message: bytes) -> bytes:
        """Ask and wait."""
        return self.answer(self.query(message))

    def resolve(self, name: str, qtype: str = "A", **options: Any) -> dns.message.Message:
        """Ask for a name."""
        query = dns.message.make_query(name, qtype, **{"use_edns": 0, **options})
        query.id = 0
        return dns.message.from_wire(self.ask(query.to_wire()))

    def wait_closed(self, patience: float = PATIENCE) -> ConnectionTerminated:
        """Wait until the connection is over."""
        self.until(lambda: self.closed, "the connection is closed", patience)
        assert self.closed is not None
        return self.closed

    # -- HTTP/3 -----------------------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """A request and its answer: status, headers, body."""
        if self.h3 is None:
            self.h3 = H3Connection(self.quic)
        stream = self.quic.get_next_available_stream_id()
        fields = {":method": method, ":scheme": "https", ":authority": "localhost", ":path": path, **(headers or {})}
        lines = [(name.encode(), value.encode()) for name, value in fields.items()]
        self.h3.send_headers(stream, lines, end_stream=not body)
        if body:
            self.h3.send_data(stream, body, end_stream=True)
        self.flush()
        self.until(lambda: stream in self.ended or stream in self.resets or self.closed, "a response")
        if stream not in self.ended:
            raise ConnectionError(self.resets.get(stream, self.closed and self.closed.error_code))
        found = self.headers[stream]
        return int(found[b":status"]), found, self.bodies[stream]


class Relay:
    """Passes datagrams between clients and a port of loopback, and loses and reorders a share of them."""

    def __init__(self, port: int, *, loss: float = 0.0, late: float = 0.0, seed: int = 1) -> None:
        self._target = ("127.0.0.1", port)
        self._loss, self._late = loss, late
        self._random = random.Random(seed)
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]
        self._outer: dict[Any, socket.socket] = {}
        self._held: list[tuple[float, socket.socket, bytes, Any]] = []
        self._stopping = threading.Event()
        self.moves = 0
        self.lost = 0

    def move(self) -> None:
        """From now on clients seem to come from other ports, as after a NAT has forgotten them."""
        self.moves += 1

    def __enter__(self) -> Relay:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(10)
        for sock in (self._sock, *self._outer.values()):
            sock.close()

    def _run(self) -> None:
        back: dict[socket.socket, Any] = {}
        while not self._stopping.is_set():
            ready, _, _ = select.select([self._sock, *back], [], [], 0.005)
            for sock in ready:
                try:
                    data, address = sock.recvfrom(65536)
                except OSError:
                    continue
                if sock is self._sock:
                    key = (address, self.moves)
                    if key not in self._outer:
                        self._outer[key] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                        back[self._outer[key]] = address
                    self._pass(self._outer[key], data, self._target)
                else:
                    self._pass(self._sock, data, back[sock])
            now = time.monotonic()
            for held in [each for each in self._held if each[0] <= now]:
                self._held.remove(held)
                self._send(*held[1:])

    def _pass(self, sock: socket.socket, data: bytes, address: Any) -> None:
        if self._random.random() < self._loss:
            self.lost += 1
        elif self._random.random() < self._late:
            self._held.append((time.monotonic() + 0.02 * self._random.random(), sock, data, address))
        else:
            self._send(sock, data, address)

    @staticmethod
    def _send(sock: socket.socket, data: bytes, address: Any) -> None:
        try:
            sock.sendto(data, address)
        except OSError:
            pass
