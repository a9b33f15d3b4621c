"""Client address → policy class, flattened so that the engine finds it by one binary search.

The rules, which `tests/reference_policy.py` states once more in slow motion:

- `allow_from` is the door: an address in none of its prefixes is refused, whatever group names it.
- Of the groups whose clients contain the address, the first *in config order* decides, not the one with the longest
  prefix: who wants a host treated otherwise than its network puts the host's group first. A group's prefixes add up.
- An address in no group has class 0, which sees every list.
- A client that is paused, by its address or with its group, has the paused class that goes with its own.
- IPv4 has one table. A prefix within ::ffff:0:0/96 means the IPv4 addresses that it maps (RFC 4291 section 2.5.5.2); a
  shorter one, ::/0 included, means IPv6 alone.

What a group holds is packed intervals (`Packed`), 8 octets for IPv4 and 32 for IPv6; the engine sweeps over those of all
groups at once (engine/clients.pyx). 200,000 single addresses in 50 classes take about a tenth of a second and, as each
makes at most two ranges, at most 2.4 MB for IPv4 and 7.2 MB for IPv6; neighbours with the same class share a range.

A file of clients has one address or prefix a line; `#` and `;` begin a comment. A MAC address may stand there too.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from resolver.config import addresses
from resolver.engine.engine import flatten_clients, read_clients
from resolver.snapshot import Clients

Prefix = str | IPv4Network | IPv6Network | IPv4Address | IPv6Address
Intervals = list[tuple[int, int]]  # disjoint, ascending, each from its first address up to before its second

_MAPPED = 0xFFFF << 32  # ::ffff:0:0


@dataclass(frozen=True, slots=True)
class Packed:
    """Intervals of addresses, each its first and its last one: u32 in native order, or 16 octets in network order."""

    four: bytes = b""
    six: bytes = b""

    def __add__(self, other: Packed) -> Packed:
        return Packed(self.four + other.four, self.six + other.six) if other.four or other.six else self

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """As the engine takes it."""
        return self.four, self.six


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line of a file of clients that names none: its number from 1, its text, and what was expected."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClientsRead:
    """A file of clients: who is in it, how many lines said so, and those that did not (`broken` the first of them)."""

    packed: Packed
    macs: tuple[str, ...] = ()
    lines: int = 0
    refused: int = 0
    broken: tuple[BrokenLine, ...] = ()


BROKEN_SHOWN = 100  # broken lines of a file that are kept


def read_file(octets: bytes) -> ClientsRead:
    """What a file of clients says. Never fails: what is no client is among the broken lines."""
    four, six, taken, left, odd = read_clients(octets.removeprefix(b"\xef\xbb\xbf"))
    packed = Packed(four, six)
    macs: list[str] = []
    networks: list[Prefix] = []
    broken: list[BrokenLine] = []
    for number, line in odd:
        text = line.decode(errors="replace").strip()
        try:
            client = addresses.parse_client(text)
            if isinstance(client, addresses.ClientFile):
                raise ValueError("expected a client, not another file of them")
        except ValueError as error:
            if len(broken) < BROKEN_SHOWN:
                broken.append(BrokenLine(number, text, str(error)))
            continue
        left -= 1
        taken += 1
        if isinstance(client, addresses.Mac):
            macs.append(client.text)
        else:
            networks.append(client)
    return ClientsRead(packed + pack(networks), tuple(macs), taken, left, tuple(broken))


def pack(prefixes: Iterable[Prefix]) -> Packed:
    """Prefixes as packed intervals; ValueError on a bad one."""
    four, six = intervals(prefixes)
    return Packed(
        b"".join(_PAIR.pack(start, end - 1) for start, end in four),
        b"".join(start.to_bytes(16, "big") + (end - 1).to_bytes(16, "big") for start, end in six),
    )


_PAIR = struct.Struct("=II")


def pack_addresses(octets: Iterable[bytes]) -> Packed:
    """Single addresses, in 4 or 16 octets each, as packed intervals."""
    found = list(octets)
    four = (int.from_bytes(address, "big") for address in found if len(address) == 4)
    return Packed(
        b"".join(_PAIR.pack(number, number) for number in four),
        b"".join(address * 2 for address in found if len(address) == 16),
    )


@dataclass(frozen=True, slots=True)
class Layer:
    """A group's clients, its class, and its class while filtering is off for it or one of them."""

    clients: Packed
    policy_class: int
    paused_class: int


def flatten(
    doors: Packed, layers: Sequence[Layer], default: tuple[int, int] = (0, 0), paused: Packed = Packed()
) -> Clients:
    """The tables for who is served, the groups in config order, and for whom filtering is off.

    `default`: class and paused class of clients in no group.
    """
    normal = [layer.policy_class for layer in layers] + [default[0]]
    halted = [layer.paused_class for layer in layers] + [default[1]]
    tables = flatten_clients(
        doors.pair,
        paused.pair,
        [layer.clients.pair for layer in layers],
        struct.pack(f"={len(normal)}H", *normal),
        struct.pack(f"={len(halted)}H", *halted),
    )
    return Clients(*tables)


def build_clients(allow_from: Iterable[Prefix], groups: Sequence[tuple[Iterable[Prefix], int]]) -> Clients:
    """The tables for `allow_from` and the groups in config order, each with its class; ValueError on a bad prefix."""
    layers = [Layer(pack(prefixes), policy_class, policy_class) for prefixes, policy_class in groups]
    return flatten(pack(allow_from), layers)


def lookup(clients: Clients, address: str | bytes) -> int:
    """The class of a client, given as text or as 4 or 16 octets; REFUSED_CLASS if it is not served."""
    octets = _octets(address) if isinstance(address, str) else address
    if len(octets) == 16 and octets.startswith(_MAPPED_OCTETS):
        octets = octets[12:]
    if len(octets) == 4:
        starts, classes, width, order = clients.starts4, clients.classes4, 4, "little"
    elif len(octets) == 16:
        starts, classes, width, order = clients.starts6, clients.classes6, 16, "big"
    else:
        raise ValueError(f"an address of {len(octets)} octets")
    wanted = int.from_bytes(octets, "big")
    low, high = 0, len(starts) // width  # starts[low] <= wanted < starts[high]
    while high - low > 1:
        middle = (low + high) // 2
        start = int.from_bytes(starts[middle * width : (middle + 1) * width], order)  # type: ignore[arg-type]
        if start <= wanted:
            low = middle
        else:
            high = middle
    return int.from_bytes(classes[low * 2 : low * 2 + 2], "little")


def outside(allow_from: Iterable[Prefix], prefixes: Iterable[Prefix]) -> bool:
    """Whether some address of `prefixes` is not in `allow_from`, so that those clients are refused."""
    for doors, rooms in zip(intervals(allow_from), intervals(prefixes), strict=True):
        position = 0
        for start, end in rooms:
            while position < len(doors) and doors[position][1] < end:
                position += 1
            if position == len(doors) or start < doors[position][0]:
                return True
    return False


# -- prefixes ---------------------------------------------------------------------------------------------------------
def intervals(prefixes: Iterable[Prefix]) -> tuple[Intervals, Intervals]:
    """The IPv4 and the IPv6 addresses of prefixes as disjoint ascending intervals."""
    four: Intervals = []
    six: Intervals = []
    for prefix in prefixes:
        version, start, size = _bounds(prefix)
        (four if version == 4 else six).append((start, start + size))
    return _merge(four), _merge(six)


def _bounds(prefix: Prefix) -> tuple[int, int, int]:
    """(4 or 6, first address, how many addresses) of a prefix; host bits are taken for zeros."""
    if isinstance(prefix, str):
        version, address, length = _parse(prefix)
    elif isinstance(prefix, (IPv4Network, IPv6Network)):
        version, address, length = prefix.version, int(prefix.network_address), prefix.prefixlen
    else:
        version, address, length = prefix.version, int(prefix), prefix.max_prefixlen
    if version == 6 and length >= 96 and address >> 32 == 0xFFFF:
        version, address, length = 4, address & 0xFFFFFFFF, length - 96
    size = 1 << ((32 if version == 4 else 128) - length)
    return version, address & -size, size


def _parse(text: str) -> tuple[int, int, int]:
    """(version, address, prefix length) of text, without objects: a file of subscribers has 200,000."""
    address, slash, length = text.partition("/")
    try:
        octets = _octets(address)
        bits = len(octets) * 8
        return (6 if bits == 128 else 4), int.from_bytes(octets, "big"), _length(length, bits) if slash else bits
    except ValueError:
        if "%" in text:
            raise
        network = ip_network(text, strict=False)  # a mask in dotted form, or the better error
        return network.version, int(network.network_address), network.prefixlen


def _length(text: str, bits: int) -> int:
    length = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= length <= bits:
        raise ValueError(f"{text!r} is no prefix length")
    return length


def _octets(address: str) -> bytes:
    """4 or 16 octets of an address in text; ValueError if it is none."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    except OSError:
        raise ValueError(f"{address!r} is not an IP address") from None


_MAPPED_OCTETS = _MAPPED.to_bytes(16, "big")[:12]


def _merge(found: Intervals) -> Intervals:
    """Disjoint intervals with gaps between them; what touches becomes one."""
    found.sort()
    merged: Intervals = []
    last_start = last_end = -1
    for start, end in found:
        if start <= last_end:
            if end > last_end:
                last_end = end
                merged[-1] = (last_start, end)
        else:
            last_start, last_end = start, end
            merged.append((start, end))
    return merged
