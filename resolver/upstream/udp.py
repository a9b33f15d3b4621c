"""Plain DNS over UDP: one connected socket a query, on a random port, closed when its exchange ends.

A few fixed sockets would be cheaper and would let a forger guess the id alone; connecting makes the kernel drop what
comes from elsewhere and report ICMP errors. All sockets hang on one epoll descriptor of our own that the loop watches:
one system call instead of a watcher object a query, and a closed socket leaves by itself.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import socket
from collections.abc import Set as AbstractSet
from typing import Final

from resolver.upstream.carrier import Fault, Receiver, TransportError
from resolver.upstream.server import Server

LIMIT: Final = 4096  # UDP sockets at a time
_PORTS_FROM: Final = 16384  # below live services; above it are 49,152 ports
_BIND_TRIES: Final = 8
_DATAGRAM: Final = 4096  # more than asked for in EDNS; a longer one is cut, and then malformed
_BATCH: Final = 256
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


def _descriptors() -> int:
    """How many sockets may be open: three quarters of what the process may open at all."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return LIMIT if soft == resource.RLIM_INFINITY else max(16, soft * 3 // 4)


class _Datagram:
    """A query under way over UDP: a ticket."""

    __slots__ = ("number", "owner", "receiver", "sock")
    is_waiting = False  # it leaves at once

    def __init__(self, owner: Udp, sock: socket.socket, receiver: Receiver, number: int) -> None:
        self.owner = owner
        self.sock = sock
        self.receiver = receiver
        self.number = number

    def cancel(self) -> None:
        self.owner.forget(self)


class Udp:
    """A Carrier. `limit`: sockets at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, limit: int = LIMIT) -> None:
        self._loop = loop
        self._limit = min(limit, _descriptors())
        self._waiting: dict[int, _Datagram] = {}  # by descriptor
        self._epoll = select.epoll()
        loop.add_reader(self._epoll.fileno(), self._ready)

    @property
    def count(self) -> int:
        """Queries under way."""
        return len(self._waiting)

    def send(self, server: Server, payload: bytes, receiver: Receiver, number: int) -> _Datagram:
        """See Carrier."""
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

    def keep(self, servers: AbstractSet[Server]) -> None:
        """A socket lives no longer than its query: nothing is kept."""

    def forget(self, datagram: _Datagram) -> None:
        """Close the socket of a query."""
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
        """See Carrier."""
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
