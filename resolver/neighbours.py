"""Which addresses a MAC address has at the moment: the kernel's neighbour table (ARP and NDP), read over rtnetlink.

    table = Neighbours()                 # opens a netlink socket; OSError where there is none
    table.want(macs)                     # of interest from now on
    loop.add_reader(table.fileno(), …)   # then table.take() says whether a wanted MAC address has other addresses now

The kernel tells of every change (multicast group RTNLGRP_NEIGH); when it says that messages were lost, and at every
`look()`, the whole table is read. An address belongs to the MAC address that was last seen with it, on whichever
interface. The kernel forgets neighbours that are silent, yet their addresses stay theirs: an address is kept for
REMEMBER seconds after it was last seen in the table, or until another MAC address takes it. So a device that wakes
up is known by its first query.

What a message holds is checked field by field, although the kernel sent it (rtnetlink(7), netlink(7)):

    nlmsghdr  u32 length │ u16 type │ u16 flags │ u32 sequence │ u32 port
    ndmsg     u8 family │ u8 pad │ u16 pad │ i32 interface │ u16 state │ u8 flags │ u8 type
    rtattr    u16 length │ u16 type │ data, padded to four octets
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

REMEMBER = 3600.0  # seconds
MAX_ADDRESSES = 65_536  # remembered; beyond that those not seen for longest are forgotten
ROOM = 1 << 16  # octets a read; the kernel's messages are at most 32 KiB
DUMP_PATIENCE = 2.0  # seconds that the kernel may take for a whole table

_MESSAGE = struct.Struct("=IHHII")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_NLMSG_ERROR, _NLMSG_DONE, _NLMSG_OVERRUN = 2, 3, 4
_RTM_NEWNEIGH, _RTM_DELNEIGH, _RTM_GETNEIGH = 28, 29, 30
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_RTMGRP_NEIGH = 4
_NDA_DST, _NDA_LLADDR = 1, 2
_INCOMPLETE, _FAILED, _NOARP = 0x01, 0x20, 0x40  # states in which the MAC address is not known or means nothing
_OCTETS = {socket.AF_INET: 4, socket.AF_INET6: 16}


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What the kernel says of one address: its MAC address in the config's form, "" if it does not know it (any more)."""

    address: bytes
    mac: str


class NeighbourError(ValueError):
    """A message that is none; the text says what was wrong."""


def parse(datagram: bytes) -> Iterator[Neighbour | int]:
    """What a datagram of rtnetlink says: neighbours, or the error number (0: the table is complete) of its end.

    NeighbourError where it is cut or its lengths do not fit.
    """
    at = 0
    while at < len(datagram):
        if len(datagram) - at < _MESSAGE.size:
            raise NeighbourError(f"a message of {len(datagram) - at} octets")
        length, kind, _, _, _ = _MESSAGE.unpack_from(datagram, at)
        if not _MESSAGE.size <= length <= len(datagram) - at:
            raise NeighbourError(f"a message says {length} octets where {len(datagram) - at} are left")
        body = datagram[at + _MESSAGE.size : at + length]
        at += length + -length % 4
        if kind == _NLMSG_DONE:
            yield 0
        elif kind == _NLMSG_OVERRUN:
            yield errno.ENOBUFS
        elif kind == _NLMSG_ERROR:
            yield -int.from_bytes(body[:4].ljust(4, b"\xff"), "little" if _IS_LITTLE else "big", signed=True)
        elif kind in (_RTM_NEWNEIGH, _RTM_DELNEIGH):
            found = _neighbour(body, is_gone=kind == _RTM_DELNEIGH)
            if found is not None:
                yield found


_IS_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _neighbour(body: bytes, *, is_gone: bool) -> Neighbour | None:
    """One neighbour; None where it is of a family that asks no DNS (a bridge's table)."""
    if len(body) < _NEIGHBOUR.size:
        raise NeighbourError(f"a neighbour of {len(body)} octets")
    family, _, state, _, _ = _NEIGHBOUR.unpack_from(body)
    attributes = dict(_attributes(body[_NEIGHBOUR.size :]))
    address, mac = attributes.get(_NDA_DST, b""), attributes.get(_NDA_LLADDR, b"")
    if len(address) != _OCTETS.get(family):
        return None
    is_known = len(mac) == 6 and any(mac) and not is_gone and not state & (_INCOMPLETE | _FAILED | _NOARP)
    return Neighbour(address, mac.hex(":") if is_known else "")


def _attributes(octets: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(octets):
        length, kind = _ATTRIBUTE.unpack_from(octets, at)
        if not _ATTRIBUTE.size <= length <= len(octets) - at:
            raise NeighbourError(f"an attribute says {length} octets where {len(octets) - at} are left")
        yield kind & 0x3FFF, octets[at + _ATTRIBUTE.size : at + length]  # without the flags of nesting and order
        at += length + -length % 4


class Table:
    """The addresses of some MAC addresses, as told so far. `clock`: seconds, in any count that only grows."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wanted: frozenset[str] = frozenset()
        self._seen: dict[bytes, tuple[str, float]] = {}  # address → its wanted MAC address, when that was last seen

    def want(self, macs: Iterable[str]) -> None:
        """Keep these MAC addresses from now on and forget others."""
        self._wanted = frozenset(macs)
        self._seen = {address: seen for address, seen in self._seen.items() if seen[0] in self._wanted}

    def learn(self, told: Neighbour) -> None:
        """Take in what the kernel says."""
        if told.mac in self._wanted:
            self._seen.pop(told.address, None)  # to the end: the order is that of the last sight
            self._seen[told.address] = (told.mac, self._clock())
            while len(self._seen) > MAX_ADDRESSES:
                del self._seen[next(iter(self._seen))]
        elif told.mac:  # another device has the address now
            self._seen.pop(told.address, None)

    def forget(self) -> None:
        """Let go of what was not seen for REMEMBER seconds."""
        oldest = self._clock() - REMEMBER
        while self._seen and next(iter(self._seen.values()))[1] < oldest:
            del self._seen[next(iter(self._seen))]

    def addresses(self) -> dict[str, tuple[bytes, ...]]:
        """MAC address → its addresses in 4 or 16 octets, sorted."""
        found: dict[str, list[bytes]] = {}
        for address, (mac, _) in self._seen.items():
            found.setdefault(mac, []).append(address)
        return {mac: tuple(sorted(addresses)) for mac, addresses in sorted(found.items())}


class Neighbours:
    """A Table that the kernel keeps current."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the socket; OSError where the system has no rtnetlink."""
        self.table = Table(clock)
        self._news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._news.setblocking(False)
            self._news.bind((0, _RTMGRP_NEIGH))
        except OSError:
            self._news.close()
            raise

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._news.fileno()

    def want(self, macs: Iterable[str]) -> None:
        """Keep these MAC addresses, and look what addresses they have."""
        self.table.want(macs)
        self.look()

    def take(self) -> bool:
        """Read the news; whether a wanted MAC address has other addresses now. OSError if the socket is of no use."""
        before = self.table.addresses()
        while True:
            try:
                datagram = self._news.recv(ROOM)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more news than it could keep: look at all of it instead
                    raise
                self._look()
                continue
            for told in _parsed(datagram):
                if isinstance(told, Neighbour):
                    self.table.learn(told)
        return self.table.addresses() != before

    def look(self) -> bool:
        """Read the whole table; whether a wanted MAC address has other addresses now. OSError if that fails."""
        before = self.table.addresses()
        self._look()
        self.table.forget()
        return self.table.addresses() != before

    def _look(self) -> None:
        for told in read_kernel():
            self.table.learn(told)

    def close(self) -> None:
        """Close the socket."""
        self._news.close()


def read_kernel() -> list[Neighbour]:
    """The kernel's whole neighbour table, IPv4 and IPv6. OSError says why it cannot be read."""
    found: list[Neighbour] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
        asking.settimeout(DUMP_PATIENCE)
        asking.bind((0, 0))
        for family in _OCTETS:
            body = _NEIGHBOUR.pack(family, 0, 0, 0, 0)
            head = _MESSAGE.pack(_MESSAGE.size + len(body), _RTM_GETNEIGH, _NLM_F_REQUEST | _NLM_F_DUMP, family, 0)
            asking.send(head + body)
            is_complete = False
            while not is_complete:
                for told in _parsed(asking.recv(ROOM)):
                    if isinstance(told, Neighbour):
                        found.append(told)
                        continue
                    if told:
                        raise OSError(told, "the kernel does not give its neighbour table")
                    is_complete = True
    return found


def _parsed(datagram: bytes) -> list[Neighbour | int]:
    try:
        return list(parse(datagram))
    except NeighbourError as error:
        raise OSError(errno.EPROTO, f"rtnetlink: {error}") from None
