"""NOTIFY (RFC 1996) as a worker answers it: from whom it counts, and what is said back. Imports nothing slow.

A NOTIFY only makes this server ask the primary, so what it says of the SOA is not looked at, and neither is a signature:
the answer is unsigned. From anybody but the primaries and `allow_notify`, or for a zone that is not here, it is REFUSED.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from typing import TYPE_CHECKING

from resolver.config.addresses import Network, as_address
from resolver.vocabulary import Rcode, RRType

if TYPE_CHECKING:
    from resolver.config.model import ListConfig  # slow to import, and a worker does without

HEADER = 12
_ANSWER = 0x84  # QR and AA, in the third octet; the opcode is the query's
_OPCODE = 0x78


@dataclass(frozen=True, slots=True)
class Notifiable:
    """A list that NOTIFY may speak of: its zone's name in lower-case wire form, and who may speak."""

    name: str
    zone: bytes
    sources: tuple[Network, ...]


def sources_of(listed: ListConfig) -> tuple[str, ...]:
    """Who may notify of a list: its primaries, as far as they are addresses, and `allow_notify`."""
    hosts = (as_address(primary.host) for primary in listed.primaries)
    return (*(str(ip_network(host)) for host in hosts if host is not None), *map(str, listed.allow_notify))


def notifiable(name: str, zone: str, sources: Iterable[str]) -> Notifiable:
    """The same from text."""
    wire = b"".join(bytes([len(label)]) + label for label in zone.encode("ascii").split(b".")) + b"\0"
    return Notifiable(name, wire, tuple(map(ip_network, sources)))


def answer(
    zones: Iterable[Notifiable], packet: bytes, qname: bytes, qtype: int, client: bytes
) -> tuple[bytes, list[str]]:
    """The reply to a NOTIFY, and the lists that it speaks of. `client`: 16 octets, IPv4 as ::ffff:a.b.c.d."""
    address = IPv6Address(client)
    source = address.ipv4_mapped or address
    end = HEADER + len(qname) + 4
    named = [zone for zone in zones if zone.zone == qname] if qtype == RRType.SOA else []
    lists = [zone.name for zone in named if any(source in network for network in zone.sources)]
    rcode = Rcode.NOERROR if lists else Rcode.REFUSED
    head = packet[:2] + bytes([_ANSWER | (packet[2] & _OPCODE), int(rcode)]) + b"\0\1\0\0\0\0\0\0"
    return head + packet[HEADER:end], lists
