"""What carries queries to upstream servers: one `Carrier` a transport, made when it is first needed.

    exchange.py ─ Send ─▶ pool.py ─▶ Carriers ─▶ udp.py         datagrams, a socket each
                                             ├─▶ connection.py  framing.py (TCP), with tls.py (TLS), http2.py (HTTPS)
                                             └─▶ quic.py

A carrier only carries: it takes a payload, gives back what the server says to it (with the payload's own id, whatever
stood on the wire) or a Fault. What an answer is worth, whom to ask next and how long to wait is decided elsewhere.

Invariants: every accepted `send` ends in exactly one of: a call of `failed`, an answer, or `cancel()` by the receiver;
over UDP `received` may be called several times (a forger's answer comes first). Receivers are never called from within
`send`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from resolver.upstream.server import Server
from resolver.vocabulary import Transport


class Fault(Enum):
    """What a transport can report instead of an answer; the value is for users."""

    REFUSED = "connection refused"
    RESET = "connection reset"
    CLOSED = "connection closed"
    UNREACHABLE = "network unreachable"
    SILENT = "no connection in time"
    LOOKUP = "the upstream server's name has no address"
    HANDSHAKE = "TLS handshake failed"
    EXPIRED = "the upstream server's certificate has expired"
    NOT_YET_VALID = "the upstream server's certificate is not valid yet"
    WRONG_NAME = "the upstream server's certificate is for another name"
    UNTRUSTED = "the upstream server's certificate is not from a trusted authority"
    PROTOCOL = "the upstream server broke the protocol"
    HTTP_STATUS = "the upstream server answered with an HTTP error"
    OVERLOAD = "too many queries in flight"
    ENDING = "the server is shutting down"

    @property
    def is_passing(self) -> bool:
        """Whether the same server may well answer the next time it is asked."""
        return self in (Fault.RESET, Fault.CLOSED, Fault.HTTP_STATUS)

    @property
    def is_certificates(self) -> bool:
        """Whether somebody has to see to a certificate."""
        return self in (Fault.EXPIRED, Fault.NOT_YET_VALID, Fault.WRONG_NAME, Fault.UNTRUSTED)


class TransportError(Exception):
    """A query could not be sent."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Receiver(Protocol):
    """Who waits for what comes back."""

    def sent(self, number: int) -> None:
        """The query of try `number` leaves now: it had to wait for a connection, or has been moved to another."""

    def received(self, number: int, message: bytes) -> None:
        """A message came in on try `number`."""

    def failed(self, number: int, fault: Fault) -> None:
        """Try `number` broke; nothing more comes."""


class Ticket(Protocol):
    """A query under way."""

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a connection; `sent` tells when it does no more."""

    def cancel(self) -> None:
        """Wait no longer. Harmless when all is over already."""


class Carrier(Protocol):
    """Carries queries by one transport, on the running loop."""

    def send(self, server: Server, payload: bytes, receiver: Receiver, number: int) -> Ticket:
        """Send a query; raises TransportError where it is known at once that it cannot be sent."""

    def keep(self, servers: AbstractSet[Server]) -> None:
        """Forget idle connections to servers other than these."""

    def close(self) -> None:
        """Close every socket; nobody is told."""


async def _where(server: Server) -> Sequence[str]:
    if not server.address:
        raise TransportError(Fault.LOOKUP)
    return [server.address]


@dataclass(slots=True)
class Surroundings:
    """What carriers share. `where`: the addresses of a server, or TransportError; `authorities`: a PEM file of those to
    trust besides the system's; `connected`: a connection to a server was opened (+1) or has ended (-1)."""

    loop: asyncio.AbstractEventLoop
    where: Callable[[Server], Awaitable[Sequence[str]]] = _where
    authorities: Path | None = None
    connected: Callable[[Server, int], None] = lambda server, change: None


class Carriers:
    """Every transport to any number of servers. `limit`: UDP sockets at a time."""

    def __init__(self, surroundings: Surroundings, *, limit: int) -> None:
        self.surroundings = surroundings
        self._limit = limit
        self._carriers: dict[Transport, Carrier] = {}

    def send(self, server: Server, transport: Transport, payload: bytes, receiver: Receiver, number: int) -> Ticket:
        """Send a query over `transport`; raises TransportError where it is known at once that it cannot be sent."""
        carrier = self._carriers.get(transport)
        if carrier is None:
            carrier = self._carriers[transport] = self._make(transport)
        return carrier.send(server, payload, receiver, number)

    def keep(self, servers: AbstractSet[Server]) -> None:
        """Forget idle connections to servers other than these."""
        for carrier in self._carriers.values():
            carrier.keep(servers)

    def close(self) -> None:
        """Close every socket; nobody is told."""
        for carrier in self._carriers.values():
            carrier.close()
        self._carriers.clear()

    def _make(self, transport: Transport) -> Carrier:
        # Imported here: a worker has only what it uses in memory.
        match transport:
            case Transport.UDP:
                from resolver.upstream.udp import Udp

                return Udp(self.surroundings.loop, limit=self._limit)
            case Transport.QUIC:
                from resolver.upstream.quic import Quic

                return Quic(self.surroundings)
            case _:
                from resolver.upstream.connection import Connections

                return Connections(self.surroundings, transport)
