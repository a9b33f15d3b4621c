"""QUIC as both sides here use it: aioquic's sans-IO connection, with memory that a peer cannot stretch.

aioquic doubles a flow-control window as soon as half of it is used, read or not, and fills a gap before early data with
zeros. A peer that only ever sends the far end of its streams would have it allocate without end. Here a window follows
what was delivered (RFC 9000 section 4.1): what waits in a connection for octets before it stays below `window`, and
early handshake data below `crypto`. Octets that are sent and not yet acknowledged are the caller's to watch (`unsent`).

A server's connection makes its connection ids itself (`Ids`): their first octet says which worker has it (listeners/
steer.py), and their stateless reset token follows from a key, so that a worker can end a connection it does not know
(RFC 9000 section 10.3). It never grants early data (0-RTT): queries in it could be replayed.

This module reaches into aioquic's private parts; tests/unit/listeners/test_quic.py drives what is said here of them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from enum import IntEnum
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionId,
    QuicReceiveContext,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import SessionTicketFetcher, SessionTicketHandler

DOQ = "doq"  # RFC 9250 section 4.1.1
CID = 8  # octets of a connection id
RESET_TOKEN = 16  # octets
CLIENT_WINDOW = 1 << 20  # octets of answers that may wait for others before them
CLIENT_CRYPTO = 1 << 16  # the same of the server's handshake: a chain of certificates
POST_HANDSHAKE = 1024  # octets of TLS messages after the handshake: tickets
LARGEST_MESSAGE = 2 + 65_535  # octets of a DNS message on a stream, with its length


class Doq(IntEnum):
    """Error codes of DNS over QUIC (RFC 9250 section 4.3)."""

    NO_ERROR = 0
    INTERNAL_ERROR = 1
    PROTOCOL_ERROR = 2
    REQUEST_CANCELLED = 3
    EXCESSIVE_LOAD = 4
    UNSPECIFIED_ERROR = 5


class _Window(Limit):
    """MAX_DATA: what was delivered, and a window more. aioquic's own doubling of `value` is passed over."""

    def __init__(self, size: int) -> None:
        self._granted = self._size = size
        super().__init__(QuicFrameType.MAX_DATA, "max_data", size)

    @property
    def value(self) -> int:
        """The highest sum of offsets that the peer may reach."""
        return self._granted

    @value.setter
    def value(self, value: int) -> None:
        pass

    def follow(self, streams: dict[int, QuicStream]) -> None:
        """Grant more once half of the window is used, as far as it has been read."""
        if self._granted - self.used < self._size // 2:
            waiting = sum(each.receiver.highest_offset - each.receiver.starting_offset() for each in streams.values())
            self._granted = max(self._granted, self.used - waiting + self._size)


class Connection(QuicConnection):
    """A connection of either side. `window`, `crypto`: see the module; `streams`: how many the peer may have open."""

    def __init__(
        self, configuration: QuicConfiguration, *, window: int, crypto: int, streams: int, **options: Any
    ) -> None:
        configuration.max_data = window
        super().__init__(configuration=configuration, **options)
        self._local_max_data: Limit = _Window(window)
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = streams
        self._crypto_limit = crypto
        self._ack_delay = 0.0  # an answer takes the acknowledgement of its query along, in one datagram

    @property
    def unsent(self) -> int:
        """Octets written to streams that the peer has not acknowledged. Looks at every stream."""
        return sum(len(stream.sender._buffer) for stream in self._streams.values())

    @property
    def end(self) -> ConnectionTerminated | None:
        """How the connection ends; None while it does not."""
        return self._close_event

    @property
    def is_ending(self) -> bool:
        """Whether either side has closed, or this one is about to: nothing may be sent on streams any more."""
        return self._close_event is not None

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to say."""
        return self._state in END_STATES

    def settle(self) -> None:
        """The handshake is over: give back most of what was kept for it, half of a connection's memory."""
        self._crypto_buffers = {tls.Epoch.ONE_RTT: Buffer(capacity=POST_HANDSHAKE)}

    def dispose(self) -> None:
        """Give all memory back now. Nothing may be called any more.

        A connection is a web of cycles, and where many come and go the collector would find them much too late.
        """
        for space in self._spaces.values():
            space.sent_packets.clear()  # their handlers know the space
        self.__dict__.clear()

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        window = self._local_max_data
        assert isinstance(window, _Window)
        window.follow(self._streams)
        super()._write_connection_limits(builder, space)

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        size = self._configuration.max_stream_data
        granted = stream.receiver.starting_offset() + size
        if stream.max_stream_data_local and granted - stream.max_stream_data_local >= size // 2:
            stream.max_stream_data_local = granted
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            buffer = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buffer.push_uint_var(stream.stream_id or 0)
            buffer.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        if end - self._crypto_streams[context.epoch].receiver.starting_offset() > self._crypto_limit:
            raise QuicConnectionError(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "too much crypto buffering")
        super()._handle_crypto_frame(context, frame_type, buf)


class Ids:
    """Makes connection ids that lead to one of `workers` workers, and knows their stateless reset tokens.

    `key`: octets that all workers share and nobody else knows; as long as it stays, a restarted worker can end what its
    predecessor had.
    """

    def __init__(self, key: bytes, worker: int, workers: int) -> None:
        self._key = hashlib.sha256(b"stateless reset" + key).digest()
        self._worker = worker
        self._workers = workers
        self._rounds = 256 // workers

    def make(self) -> bytes:
        """A new id."""
        random = os.urandom(CID)
        return bytes((random[0] % self._rounds * self._workers + self._worker,)) + random[1:]

    def reset_token(self, cid: bytes) -> bytes:
        """What proves to a client that its connection with this id has ended."""
        return hmac.digest(self._key, cid, "sha256")[:RESET_TOKEN]


class ServerConnection(Connection):
    """A client's connection to this server. `original` and `retry`: as aioquic's QuicConnection has them."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        ids: Ids,
        *,
        original: bytes,
        retry: bytes | None,
        window: int,
        crypto: int,
        streams: int,
        find_ticket: SessionTicketFetcher | None = None,
        keep_ticket: SessionTicketHandler | None = None,
    ) -> None:
        self._ids = ids
        super().__init__(
            configuration,
            window=window,
            crypto=crypto,
            streams=streams,
            original_destination_connection_id=original,
            retry_source_connection_id=retry,
            session_ticket_fetcher=find_ticket,
            session_ticket_handler=keep_ticket,
        )
        self._stamp(self._host_cids[0])
        self.host_cid = self._local_initial_source_connection_id = self._host_cids[0].cid

    @property
    def proven_address(self) -> tuple[str, int] | None:
        """Where the client is, or None while it has not shown that it is there (RFC 9000 section 9.3)."""
        path = self._network_paths[0]
        return path.addr if path.is_validated else None

    def _stamp(self, connection_id: QuicConnectionId) -> None:
        connection_id.cid = self._ids.make()
        connection_id.stateless_reset_token = self._ids.reset_token(connection_id.cid)

    def _replenish_connection_ids(self) -> None:
        known = len(self._host_cids)
        super()._replenish_connection_ids()
        for connection_id in self._host_cids[known:]:
            self._stamp(connection_id)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._max_early_data = None  # session tickets without early data


class ClientConnection(Connection):
    """A connection to an upstream server, which may open no stream. `keep_ticket`: told of sessions to resume."""

    def __init__(self, configuration: QuicConfiguration, keep_ticket: SessionTicketHandler) -> None:
        super().__init__(
            configuration, window=CLIENT_WINDOW, crypto=CLIENT_CRYPTO, streams=0, session_ticket_handler=keep_ticket
        )
        self._local_max_streams_uni.value = self._local_max_streams_uni.sent = 0
