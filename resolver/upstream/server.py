"""An upstream server as a worker knows it: where it is, how it is spoken to, and what its certificate must say."""

from __future__ import annotations

from dataclasses import dataclass

from resolver.config import addresses
from resolver.vocabulary import Transport

_TRANSPORTS = {
    "udp": Transport.UDP,
    "tcp": Transport.TCP,
    "tls": Transport.TLS,
    "https": Transport.HTTPS,
    "quic": Transport.QUIC,
}


@dataclass(frozen=True, slots=True)
class Server:
    """An upstream server: `name` is what the operator wrote and what metrics call it.

    `address` is where to connect to; empty where `host` has to be looked up first (bootstrap.py). `certificate`: the name
    or address that its certificate must be for (RFC 8310 section 8.1); `path`: of `https` alone.
    """

    name: str
    address: str
    port: int = 53
    transport: Transport = Transport.UDP
    host: str = ""
    certificate: str = ""
    path: str = ""

    @property
    def is_ipv6(self) -> bool:
        """Whether `address` is an IPv6 address."""
        return ":" in self.address

    @property
    def is_plain(self) -> bool:
        """Whether it is asked over UDP, and over TCP where that does not do."""
        return self.transport is Transport.UDP

    @property
    def is_encrypted(self) -> bool:
        """Whether a certificate says who answers, so that nobody on the way can."""
        return self.transport not in (Transport.UDP, Transport.TCP)

    @classmethod
    def parse(cls, text: str) -> Server:
        """A server as the config writes it (config/addresses.py); ValueError says what was expected."""
        try:
            given = addresses.parse_server(text)
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from None
        return cls(
            name=text,
            address="" if given.address is None else str(given.address),
            port=given.port,
            transport=_TRANSPORTS[given.scheme],
            host=given.host,
            certificate=(given.name or given.host) if given.is_encrypted else "",
            path=given.path,
        )
