"""The PROXY protocol, version 2, from load balancers that are trusted (haproxy.org, proxy-protocol.txt, section 2.2).

    ┌─────────────────┬─────────────────┬────────────────┬────────────┬──────────────────────┬──────┐
    │ signature (12)  │ version,command │ family, kind   │ length (2) │ source, destination, │ TLVs │
    │                 │ 0x20, 0x21      │ 0x1_ 4, 0x2_ 6 │            │ two ports            │      │
    └─────────────────┴─────────────────┴────────────────┴────────────┴──────────────────────┴──────┘

From a trusted address the header must be there, once, first of all (before TLS); from any other it is what it looks like
to DNS: garbage. Version 1, which is text, is not taken. LOCAL (the balancer's own health checks) and families without an
address leave the connection's own address. TLVs are passed over. The engine reads the same before datagrams (proxy.pyx).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_HEADER = 4096  # octets, TLVs included
_FIXED = 16
_MAPPED = b"\0" * 10 + b"\xff\xff"


class ProxyError(ValueError):
    """What should be a header is none."""


class Trusted:
    """The networks that headers are taken from; a client has 16 octets, IPv4 as ::ffff:a.b.c.d."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [_mapped(ip_network(text)) for text in networks]

    def __contains__(self, client: bytes) -> bool:
        number = int.from_bytes(client, "big")
        return any(number & mask == network for network, mask in self._networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def table(self) -> list[tuple[bytes, int]]:
        """For the engine: (16 octets, how many bits of them count)."""
        return [(network.to_bytes(16, "big"), mask.bit_count()) for network, mask in self._networks]


def _mapped(network: IPv4Network | IPv6Network) -> tuple[int, int]:
    """A network as a number and a mask of 128 bits."""
    prefix = network.prefixlen + (96 if network.version == 4 else 0)
    mask = (1 << 128) - (1 << (128 - prefix))
    octets = (_MAPPED if network.version == 4 else b"") + network.network_address.packed
    return int.from_bytes(octets, "big"), mask


def read(octets: bytes) -> tuple[int, bytes] | None:
    """The header that `octets` begin with: (how long it is, the client's 16 octets; empty: the connection's own).

    None while it is not whole; ProxyError if it is none.
    """
    if not octets.startswith(SIGNATURE[: len(octets)]):
        raise ProxyError("no PROXY header of version 2")
    if len(octets) < _FIXED:
        return None
    command, family = octets[12], octets[13] >> 4
    length = int.from_bytes(octets[14:16], "big")
    if command not in (0x20, 0x21) or _FIXED + length > MAX_HEADER or family > 3:
        raise ProxyError("a PROXY header of another version, or with an unknown command or family, or too long")
    size = {1: 4, 2: 16}.get(family, 0)
    if command == 0x21 and size and length < 2 * size + 4:
        raise ProxyError("a PROXY header too short for its addresses")
    if len(octets) < _FIXED + length:
        return None
    if command == 0x20 or not size:
        return _FIXED + length, b""
    source = octets[_FIXED : _FIXED + size]
    return _FIXED + length, _MAPPED + source if size == 4 else source
