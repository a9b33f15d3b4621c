"""Upstream servers over QUIC (DoQ, RFC 9250): what connection.py does over TCP, on aioquic's sans-IO connection.

Each query is a stream of its own, so answers come in any order and a lost datagram holds up one of them. Certificates are
verified as for TLS (tls.py): from an authority of the system's or of `upstream.ca`, valid now, for the server's name or
address. A session is resumed where the server allows it; early data is not sent, as it could be replayed.

Invariants: `owed` is by stream; a datagram is sent from `_send` alone; once the connection is over nothing happens to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final, cast

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription, SessionTicket

from resolver.quic import CID, DOQ, LARGEST_MESSAGE, ClientConnection, Doq
from resolver.upstream.carrier import Fault, Receiver, Surroundings
from resolver.upstream.connection import IDLE, Link, Query, Way
from resolver.upstream.server import Server
from resolver.upstream.udp import fault_of

STREAMS: Final = 128  # queries at a time on a connection
GRANULARITY: Final = 0.001  # seconds by which a timer may be early
_ALERT = QuicErrorCode.CRYPTO_ERROR
_log = logging.getLogger(__name__)


class Quic:
    """A Carrier: DNS over QUIC."""

    def __init__(self, surroundings: Surroundings) -> None:
        logging.getLogger("quic").setLevel(logging.CRITICAL)  # aioquic's; faults are told by whom they concern
        self._surroundings = surroundings
        self._trust = Trust(surroundings.authorities)
        self._ways: dict[Server, Way] = {}

    def send(self, server: Server, payload: bytes, receiver: Receiver, number: int) -> Query:
        """See Carrier."""
        way = self._ways.get(server)
        if way is None:
            way = self._ways[server] = Way(self._surroundings, server, lambda way: QuicLink(way, self._trust), 1)
        return way.send(payload, receiver, number)

    def keep(self, servers: AbstractSet[Server]) -> None:
        """See Carrier. Authorities that have changed hold for connections to come."""
        self._trust.renew(self._surroundings.authorities)
        for server in [server for server, way in self._ways.items() if server not in servers and way.is_idle]:
            self._ways.pop(server).close()

    def close(self) -> None:
        """See Carrier."""
        for way in self._ways.values():
            way.close()
        self._ways.clear()


class Trust:
    """Whom to believe, and the sessions to resume."""

    def __init__(self, authorities: Path | None) -> None:
        self._authorities = b""
        self.tickets: dict[Server, SessionTicket] = {}
        self.renew(authorities)

    def renew(self, authorities: Path | None) -> None:
        """Follow the file of authorities; one that cannot be read leaves the system's alone (the config was checked)."""
        found = b""
        if authorities is not None:
            with contextlib.suppress(OSError):
                found = authorities.read_bytes()
        if found != self._authorities:
            self._authorities = found
            self.tickets.clear()

    def configuration(self, server: Server) -> QuicConfiguration:
        """For a new connection. A ticket is offered once (RFC 8446 appendix C.4)."""
        system = ssl.get_default_verify_paths()
        return QuicConfiguration(
            alpn_protocols=[DOQ],
            connection_id_length=CID,
            idle_timeout=IDLE,
            max_stream_data=LARGEST_MESSAGE,
            server_name=server.certificate.partition("%")[0],
            session_ticket=self.tickets.pop(server, None),
            verify_mode=ssl.CERT_REQUIRED,
            cafile=system.cafile,
            capath=system.capath,
            cadata=self._authorities or None,
        )

    def remember(self, server: Server, ticket: SessionTicket) -> None:
        """Resume this session the next time, without early data."""
        ticket.max_early_data_size = None
        self.tickets[server] = ticket


class QuicLink(Link, asyncio.DatagramProtocol):
    """One connection from its opening to its end."""

    def __init__(self, way: Way, trust: Trust) -> None:
        super().__init__(way)
        self._quic = ClientConnection(
            trust.configuration(way.server), lambda ticket: trust.remember(way.server, ticket)
        )
        self._transport: asyncio.DatagramTransport | None = None
        self._address = ("", 0)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._parts: dict[int, bytes] = {}  # of answers, by stream
        self._is_over = False
        self._is_broken = False  # an error within QUIC: about to be over

    # -- what Way wants ---------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """See Link."""
        return self._is_over or self._is_broken or self._quic.is_ending

    @property
    def has_room(self) -> bool:
        """See Link."""
        return len(self.owed) < STREAMS and not self._is_broken

    async def open(self, address: str, port: int) -> None:
        """See Link."""
        self._address = (address, port)
        await self._loop.create_datagram_endpoint(lambda: self, remote_addr=self._address)
        try:
            self._quic.connect(self._address, time.monotonic())
            self._send()
        except Exception:
            self._broke()
        await self.ready

    def ask(self, query: Query) -> None:
        """See Link. The message id is 0 on the wire (RFC 9250 section 4.2.1)."""
        stream = self._quic.get_next_available_stream_id()
        self._owe(query, stream)
        message = b"\0\0" + query.payload[2:]
        try:
            self._quic.send_stream_data(stream, len(message).to_bytes(2, "big") + message, end_stream=True)
        except Exception:
            self._broke()

    def flush(self) -> None:
        """See Link."""
        try:
            self._send()
        except Exception:
            self._broke()

    def cancelled(self, query: Query) -> None:
        """See Link (RFC 9250 section 4.3.1)."""
        if self.owed.pop(query.key, None) is not None and not self.is_over:
            self._parts.pop(query.key, None)
            try:
                self._quic.stop_stream(query.key, Doq.REQUEST_CANCELLED)
            except ValueError:  # its answer is on the way to us
                pass
            except Exception:
                self._broke()
            self.flush()

    def close(self) -> None:
        """See Link."""
        self._end(Doq.NO_ERROR, Fault.CLOSED)

    def abort(self, fault: Fault | None = None) -> None:
        """See Link."""
        self._end(Doq.NO_ERROR, fault or Fault.CLOSED)

    # -- called by the loop -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, _: object) -> None:
        """Octets from the server."""
        if self._is_over or self._is_broken:
            return
        self._heard()
        self._drive(lambda now: self._quic.receive_datagram(data, self._address, now))

    def error_received(self, error: Exception) -> None:
        """Nobody is there, or no more."""
        if isinstance(error, OSError):
            self._over(fault_of(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._transport = None
        self._over(Fault.RESET if exc else Fault.CLOSED)

    # -- what follows -----------------------------------------------------------------------------------------------

    def _drive(self, step: Callable[[float], None]) -> None:
        """Let aioquic do something, and look at what it reports. An error of its or ours ends this connection alone."""
        try:
            step(time.monotonic())
            while not self._is_over and not self._is_broken and (event := self._quic.next_event()) is not None:
                self._event(event)
            if not self._is_over:
                self._send()
                self._way.push()
        except Exception:
            self._broke()

    def _broke(self) -> None:
        """An error, from within its handler, ends the connection: soon, as the way may be going through its connections."""
        _log.debug("a QUIC connection to %s ended by an error", self._address, exc_info=True)
        self._is_broken = True
        self._loop.call_soon(self._over, Fault.RESET)

    def _event(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self._opened()
        elif isinstance(event, ConnectionTerminated):
            self._over(_fault_of(event))
        elif isinstance(event, StreamDataReceived):
            self._received(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, StreamReset):
            self._parts.pop(event.stream_id, None)
            self._answered(event.stream_id, Fault.RESET)
        elif isinstance(event, StopSendingReceived):  # section 4.3.3
            self._end(Doq.PROTOCOL_ERROR, Fault.PROTOCOL)

    def _received(self, stream: int, data: bytes, is_end: bool) -> None:
        if stream not in self.owed:  # the end of one that was answered, or the rest of one that was taken back
            return
        octets = self._parts.pop(stream, b"") + data
        whole = 2 + int.from_bytes(octets[:2], "big") if len(octets) >= 2 else LARGEST_MESSAGE
        if len(octets) > whole or (is_end and len(octets) < whole) or (len(octets) >= 4 and octets[2:4] != b"\0\0"):
            self._end(Doq.PROTOCOL_ERROR, Fault.PROTOCOL)
        elif len(octets) < whole:
            self._parts[stream] = octets
        else:  # whether the stream has ended or not: what can follow is nothing, or an error
            self._answered(stream, octets[2:])

    def _send(self) -> None:
        if self._is_over or self._is_broken or self._transport is None:
            return
        now = time.monotonic()
        for data, _ in self._quic.datagrams_to_send(now):
            self._transport.sendto(data)
        if self._quic.is_over:
            self._over(self._fault or (_fault_of(self._quic.end) if self._quic.end else Fault.CLOSED))
            return
        at = self._quic.get_timer()
        if at is not None and (self._timer is None or at < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_later(max(at - now, GRANULARITY), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._is_over and not self._is_broken:
            self._drive(lambda now: self._quic.handle_timer(now))

    def _end(self, code: Doq, fault: Fault) -> None:
        """Close the connection, and say so to the server."""
        if not self._is_over:
            self._fault = self._fault or fault
            self._quic.close(code)
            with contextlib.suppress(Exception):  # nothing was sent yet
                self._send()
            self._over(self._fault)

    def _over(self, fault: Fault) -> None:
        """The connection has ended, whoever ended it."""
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
        self._quic.dispose()
        self._parts.clear()
        self._ended(fault)


def _fault_of(event: ConnectionTerminated) -> Fault:
    """Why a connection has ended, for users. TLS's alerts are ours, as it is we who verify."""
    if event.frame_type is None:
        return Fault.PROTOCOL if event.error_code == Doq.PROTOCOL_ERROR else Fault.CLOSED
    alert = event.error_code - _ALERT
    if alert == AlertDescription.certificate_expired:
        return Fault.NOT_YET_VALID if "not valid yet" in event.reason_phrase else Fault.EXPIRED
    if alert == AlertDescription.bad_certificate:
        return Fault.WRONG_NAME if "match" in event.reason_phrase else Fault.UNTRUSTED
    if 0 <= alert < 256:
        return Fault.HANDSHAKE
    return Fault.CLOSED if event.error_code == QuicErrorCode.NO_ERROR else Fault.RESET
