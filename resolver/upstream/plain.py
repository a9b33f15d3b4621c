"""Plain DNS to upstream servers: asyncio I/O for UDP and TCP, and nothing that decides.

UDP: one connected socket a query, on a random port, closed when its exchange ends. A few fixed sockets would be
cheaper and would let a forger guess the id alone; connecting makes the kernel drop what comes from elsewhere and
report ICMP errors. All sockets hang on one epoll descriptor of our own that the loop watches: one system call instead
of a watcher object a query, and a closed socket leaves by itself.

TCP: one connection a server, opened when first needed, pipelined (RFC 7766 section 6.2.1.1), closed after IDLE seconds
without a query. Ids are replaced by ones that are free on that connection, since independent exchanges pick theirs at
random. A connection that breaks after it had answered something is opened again for the queries it still owed; one that
breaks before is a fault of the server.

Invariants: every accepted `send` ends in exactly one of: a call of `failed`, or `cancel()` by the receiver; `received`
may be called several times for UDP (a forger's answer comes first). Receivers are never called from within `send`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import socket
import struct
from typing import Final, Protocol, cast

from resolver.upstream.exchange import Fault
from resolver.upstream.health import Server
from resolver.vocabulary import Transport

LIMIT: Final = 4096  # UDP sockets at a time
IDLE: Final = 10.0  # seconds until a TCP connection without queries is closed
STALL: Final = 5.0  # seconds without any answer until a TCP connection with queries is given up; also to open one
RESENDS: Final = 2  # how often a query moves to a new TCP connection
PIPELINE: Final = 8192  # queries at a time on a TCP connection
FORGET: Final = 60.0  # seconds until the id of a query that was never answered is free again
_PORTS_FROM: Final = 16384  # below live services; above it are 49,152 ports
_BIND_TRIES: Final = 8
_DATAGRAM: Final = 4096  # more than asked for in EDNS; a longer one is cut, and then malformed
_BATCH: Final = 256
_UINT16 = struct.Struct(">H")
_REFUSED = (errno.ECONNREFUSED,)
_OVERLOAD = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RESET = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)


def fault_of(error: OSError) -> Fault:
    """What an operating system's error means for an exchange."""
    if error.errno in _REFUSED:
        return Fault.REFUSED
    if error.errno in _RESET:
        return Fault.RESET
    return Fault.OVERLOAD if error.errno in _OVERLOAD else Fault.UNREACHABLE


class TransportError(Exception):
    """A query could not be sent."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Receiver(Protocol):
    """Who waits for what comes back."""

    def received(self, number: int, message: bytes) -> None:
        """A message came in on try `number`."""

    def failed(self, number: int, fault: Fault) -> None:
        """Try `number` broke; nothing more comes."""


class Ticket(Protocol):
    """A query under way."""

    def cancel(self) -> None:
        """Wait no longer. Harmless when all is over already."""


class Plain:
    """UDP and TCP to any number of servers, on the running loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, limit: int = LIMIT) -> None:
        self._loop = loop
        self._udp = _Udp(loop, min(limit, _descriptors()))
        self._connections: dict[Server, _Connection] = {}

    def send(self, server: Server, transport: Transport, payload: bytes, receiver: Receiver, number: int) -> Ticket:
        """Send a query; raises TransportError where that is known at once."""
        if transport is Transport.UDP:
            return self._udp.send(server, payload, receiver, number)
        connection = self._connections.get(server)
        if connection is None:
            connection = self._connections[server] = _Connection(self._loop, server)
        return connection.send(payload, receiver, number)

    def keep(self, servers: set[Server]) -> None:
        """Forget idle connections to servers other than these."""
        for server in [server for server in self._connections if server not in servers]:
            if self._connections[server].is_idle:
                self._connections.pop(server).close()

    @property
    def sockets(self) -> int:
        """UDP queries under way."""
        return self._udp.count

    def close(self) -> None:
        """Close every socket; nobody is told."""
        self._udp.close()
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def _descriptors() -> int:
    """How many sockets may be open: three quarters of what the process may open at all."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return LIMIT if soft == resource.RLIM_INFINITY else max(16, soft * 3 // 4)


# -- UDP ---------------------------------------------------------------------------------------------------------------


class _Datagram:
    """A query under way over UDP: a ticket."""

    __slots__ = ("number", "owner", "receiver", "sock")

    def __init__(self, owner: _Udp, sock: socket.socket, receiver: Receiver, number: int) -> None:
        self.owner = owner
        self.sock = sock
        self.receiver = receiver
        self.number = number

    def cancel(self) -> None:
        self.owner.forget(self)


class _Udp:
    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        self._loop = loop
        self._limit = limit
        self._waiting: dict[int, _Datagram] = {}  # by descriptor
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._ready)

    @property
    def count(self) -> int:
        return len(self._waiting)

    def send(self, server: Server, payload: bytes, receiver: Receiver, number: int) -> _Datagram:
        if len(self._waiting) >= self._limit:
            raise TransportError(Fault.OVERLOAD)
        try:
            sock = _socket(server)
        except OSError as error:
            raise TransportError(fault_of(error)) from None
        try:
            sock.connect((server.address, server.port))
            sock.send(payload)
        except BlockingIOError:
            pass  # the send buffer is full: as if it were lost on the way
        except OSError as error:
            sock.close()
            raise TransportError(fault_of(error)) from None
        fd = sock.fileno()
        datagram = self._waiting[fd] = _Datagram(self, sock, receiver, number)
        self._epoll.register(fd, select.EPOLLIN)
        return datagram

    def forget(self, datagram: _Datagram) -> None:
        fd = datagram.sock.fileno()
        if fd >= 0:
            del self._waiting[fd]
            datagram.sock.close()

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0, _BATCH):
            # A receiver may close any socket while the batch is gone through, and another may have got its number:
            # then there is nothing to read yet.
            datagram = self._waiting.get(fd)
            if datagram is None:
                continue
            try:
                message = datagram.sock.recv(_DATAGRAM)
            except BlockingIOError:
                continue
            except OSError as error:
                self.forget(datagram)
                datagram.receiver.failed(datagram.number, fault_of(error))
            else:
                datagram.receiver.received(datagram.number, message)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        for datagram in list(self._waiting.values()):
            self.forget(datagram)
        self._epoll.close()


def _socket(server: Server) -> socket.socket:
    """A non-blocking UDP socket on a random port (RFC 5452 section 9.2)."""
    ipv6 = server.is_ipv6
    sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    anywhere = "::" if ipv6 else "0.0.0.0"
    try:
        for _ in range(_BIND_TRIES):
            port = int.from_bytes(os.urandom(2), "big")
            if port < _PORTS_FROM:
                continue
            try:
                sock.bind((anywhere, port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
            else:
                return sock
        sock.bind((anywhere, 0))  # the kernel's choice is random as well, from a narrower range
    except OSError:
        sock.close()
        raise
    return sock


# -- TCP ---------------------------------------------------------------------------------------------------------------


class _Query:
    """A query under way over TCP: a ticket."""

    __slots__ = ("is_cancelled", "number", "payload", "receiver", "resends", "sent_at")

    def __init__(self, payload: bytes, receiver: Receiver, number: int) -> None:
        self.payload = payload
        self.receiver = receiver
        self.number = number
        self.resends = 0
        self.sent_at = 0.0
        self.is_cancelled = False

    def cancel(self) -> None:
        # It stays where it is: its id is not free on the connection before its answer has come.
        self.is_cancelled = True


class _Connection:
    """The one connection to a server, through all its reopenings."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        self._loop = loop
        self._server = server
        self._owed: dict[int, _Query] = {}  # by the id on this connection
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._check: asyncio.TimerHandle | None = None
        self._has_answered = False  # since it was opened
        self._last_sent = self._last_received = loop.time()

    @property
    def is_idle(self) -> bool:
        return all(query.is_cancelled for query in self._owed.values())

    def send(self, payload: bytes, receiver: Receiver, number: int) -> _Query:
        if len(self._owed) >= PIPELINE:
            raise TransportError(Fault.OVERLOAD)
        query = _Query(payload, receiver, number)
        self._enqueue(query)
        return query

    def close(self) -> None:
        self._owed.clear()
        if self._opening is not None:
            self._opening.cancel()
        if self._transport is not None:
            self._transport.abort()
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _enqueue(self, query: _Query) -> None:
        key = _UINT16.unpack_from(query.payload)[0]
        while key in self._owed:
            key = int.from_bytes(os.urandom(2), "big")
        self._owed[key] = query
        if self._transport is not None:
            self._write(key, query)
        elif self._opening is None:
            self._opening = self._loop.create_task(self._open())

    def _write(self, key: int, query: _Query) -> None:
        assert self._transport is not None
        self._last_sent = query.sent_at = self._loop.time()
        self._transport.write(_UINT16.pack(len(query.payload)) + _UINT16.pack(key) + query.payload[2:])

    async def _open(self) -> None:
        fault = Fault.UNREACHABLE
        try:
            async with asyncio.timeout(STALL):
                await self._loop.create_connection(lambda: _Stream(self), self._server.address, self._server.port)
        except TimeoutError:
            pass
        except OSError as error:
            fault = fault_of(error)
        finally:
            self._opening = None
        if self._transport is None:
            self._break(fault)

    # -- called by the stream ---------------------------------------------------------------------------------------

    def opened(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._has_answered = False
        self._last_sent = self._last_received = self._loop.time()
        self._owed = {key: query for key, query in self._owed.items() if not query.is_cancelled}
        for key, query in self._owed.items():
            self._write(key, query)
        if self._check is None:
            self._check = self._loop.call_later(STALL / 2, self._look)

    def answered(self, message: bytes) -> None:
        self._has_answered = True
        self._last_received = self._loop.time()
        query = self._owed.pop(_UINT16.unpack_from(message)[0], None) if len(message) >= 2 else None
        if query is not None and not query.is_cancelled:
            query.receiver.received(query.number, query.payload[:2] + message[2:])

    def lost(self, transport: asyncio.Transport, error: Exception | None) -> None:
        if transport is not self._transport:
            return
        self._transport = None
        if self._check is not None:
            self._check.cancel()
            self._check = None
        fault = Fault.CLOSED if error is None else Fault.RESET
        if self._has_answered:
            self._has_answered = False
            self._reopen(fault)
        else:
            self._break(fault)

    # -- what follows -----------------------------------------------------------------------------------------------

    def _reopen(self, fault: Fault) -> None:
        """Carry what is owed over to a new connection."""
        owed, self._owed = self._owed, {}
        for query in owed.values():
            if query.is_cancelled:
                continue
            query.resends += 1
            if query.resends > RESENDS:
                query.receiver.failed(query.number, fault)
            else:
                self._enqueue(query)

    def _break(self, fault: Fault) -> None:
        owed, self._owed = self._owed, {}
        for query in owed.values():
            if not query.is_cancelled:
                query.receiver.failed(query.number, fault)

    def _look(self) -> None:
        """Close a connection that is idle or dead."""
        now = self._loop.time()
        self._check = self._loop.call_later(STALL / 2, self._look)
        if self._transport is None:
            return
        if not self._owed:
            if now - max(self._last_sent, self._last_received) >= IDLE:
                self._transport.close()
        elif now - self._last_received >= STALL and now - self._last_sent >= STALL / 2:
            self._transport.abort()
        else:
            for key in [k for k, q in self._owed.items() if q.is_cancelled and now - q.sent_at >= FORGET]:
                del self._owed[key]


class _Stream(asyncio.Protocol):
    """Framing (RFC 1035 section 4.2.2) of one TCP connection."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connection.opened(self._transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        offset, end = 0, len(buffer)
        while end - offset >= 2:
            length = _UINT16.unpack_from(buffer, offset)[0]
            if end - offset - 2 < length:
                break
            offset += 2 + length
            self._connection.answered(buffer[offset - length : offset])
        self._buffer = buffer[offset:]

    def eof_received(self) -> None:
        pass  # closes the transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lost(self._transport, exc)
