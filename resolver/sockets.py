"""The listening sockets: made once by the supervisor, handed to workers, kept while workers come and go.

UDP: each worker has a socket of its own on each address, joined by SO_REUSEPORT, so the kernel spreads clients over the
workers. The supervisor keeps a duplicate of every one: what arrives while a worker is dead waits in its socket for the
next. TCP: all workers accept from one shared socket an address.

SO_REUSEPORT would let a second server of the same user join unseen and take half of the queries. Two guards: the TCP
socket is bound without it and first, so of two servers that start at once only one gets past; and before the UDP
sockets a probe without it is bound, which fails if anybody holds the port.

Transparent sockets of plain DNS take what a router redirects to them by TPROXY whatever address it was sent to, and may
answer from that address: over TCP an accepted socket has it as its own, over UDP the engine sends with the answer what came
with the query. The port that answers leave from is the one listened on, so that has to be the one that clients ask.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from resolver.config.addresses import Endpoint
from resolver.control import Bound

BUFFER = 4 << 20  # octets asked of the kernel for each direction of a UDP socket
BACKLOG = 1024  # TCP connections that may wait for accept
# What is spoken on the sockets of each key of `listen`, by TCP and by UDP (control.Bound.kind); "": there is no socket.
KINDS = {"dns": ("dns", "dns"), "tls": ("tls", ""), "https": ("https", "https3"), "quic": ("", "quic")}
# linux/in.h and linux/in6.h; Python names the first from 3.12 on, the others never
_IP_PKTINFO, _IP_TRANSPARENT, _IPV6_TRANSPARENT = 8, 19, 75
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_DISCARD = 9  # RFC 863: the port that drained sockets are tied to
_TCP_LISTEN = "0A"  # linux/tcp_states.h as /proc/net/tcp writes it


class SocketError(Exception):
    """An address that cannot be served; the text names address, port and remedy."""


@dataclass(slots=True)
class _Listener:
    key: str  # of `listen`
    address: Endpoint
    tcp: socket.socket | None = None
    udp: list[socket.socket] = field(default_factory=list)  # one a worker


class Sockets:
    """Every bound socket of the server. `warnings`: addresses that were left out, and why."""

    def __init__(self, addresses: Mapping[str, Sequence[Endpoint]], workers: int, *, transparent: bool = False) -> None:
        """Bind all addresses of each key of `listen` for `workers` workers; SocketError if one cannot be served.

        `transparent`: those of plain DNS take what is redirected to them by TPROXY.
        """
        self._is_transparent = transparent
        self.warnings: list[str] = []
        self._listeners: list[_Listener] = []
        try:
            for key, wanted in addresses.items():
                for address in wanted:
                    if address.host == "::1" and not has_ipv6():
                        self.warnings.append(f"{address}: left out, as this machine has no IPv6")
                        continue
                    with _explained(key, address):
                        self._bind(key, address, workers)
                if wanted and not any(listener.key == key for listener in self._listeners):
                    raise SocketError(f"no address of listen.{key} can be served: " + "; ".join(self.warnings))
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[Endpoint]:
        """What is served, ports filled in where 0 was asked."""
        return [listener.address for listener in self._listeners]

    @property
    def names(self) -> list[str]:
        """What is served in words: 127.0.0.1:53, tls://127.0.0.1:853."""
        return [("" if each.key == "dns" else f"{each.key}://") + str(each.address) for each in self._listeners]

    def of(self, worker: int) -> tuple[Bound, ...]:
        """The sockets of one worker, by this process's descriptors: hand the same ones down by pass_fds."""
        made = []
        for listener in self._listeners:
            family = int(family_of(listener.address))
            wildcard = listener.address.is_wildcard or (self._is_transparent and listener.key == "dns")
            over_tcp, over_udp = KINDS[listener.key]
            if listener.udp:
                made.append(Bound(listener.udp[worker].fileno(), family, False, wildcard, over_udp))
            if listener.tcp is not None:
                made.append(Bound(listener.tcp.fileno(), family, True, wildcard, over_tcp))
        return tuple(made)

    def refuse_new(self) -> None:
        """Take no new datagram on any UDP socket of plain DNS; those already queued can still be read and answered.

        A UDP socket tied to one peer is passed over by the kernel for datagrams from all others, while its queue stays
        readable and answers with an explicit destination still leave. So a drain ends, and nobody let in is lost. QUIC
        has connections to end, and needs to hear from its peers for that.
        """
        for listener in self._listeners:
            loopback = "::1" if family_of(listener.address) == socket.AF_INET6 else "127.0.0.1"
            host = loopback if listener.address.is_wildcard else listener.address.host
            for bound in listener.udp if listener.key == "dns" else ():
                try:
                    bound.connect((host, _DISCARD))
                except OSError:
                    pass  # an address that has gone meanwhile brings nothing new either

    def close(self) -> None:
        """Close this process's copies."""
        for listener in self._listeners:
            for bound in (listener.tcp, *listener.udp):
                if bound is not None:
                    bound.close()
        self._listeners.clear()

    def _bind(self, key: str, address: Endpoint, workers: int) -> None:
        over_tcp, over_udp = KINDS[key]
        for other in self._listeners:
            shared = (over_tcp and KINDS[other.key][0]) or (over_udp and KINDS[other.key][1])
            if shared and _overlap(address, other.address):
                raise SocketError(
                    f"listen.{key}: {address} overlaps {other.address} of listen.{other.key}; leave one of them out"
                )
        transparent = self._is_transparent and key == "dns"
        listener = _Listener(key, address)
        self._listeners.append(listener)  # from here on close() finds what is open
        if over_tcp:
            listener.tcp = _tcp_socket(address, transparent)
            listener.address = Endpoint(address.host, listener.tcp.getsockname()[1])
            listener.tcp.listen(BACKLOG)  # refused if another server listens: this is the lock on the port
        if over_udp:
            with socket.socket(family_of(address), socket.SOCK_DGRAM) as probe:
                _only_ipv6(probe, address)
                probe.bind((address.host, listener.address.port))
                listener.address = Endpoint(address.host, probe.getsockname()[1])
            for _ in range(workers):
                listener.udp.append(_udp_socket(listener.address, transparent))
            if over_udp != "dns":
                from resolver.listeners.steer import steer  # here: only QUIC needs it

                with contextlib.suppress(OSError):  # clients that move lose their connection then, no more
                    steer(listener.udp[0], workers)


@contextlib.contextmanager
def _explained(key: str, address: Endpoint) -> Iterator[None]:
    """Turn the kernel's refusal into what the operator can do about it."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            by = ", ".join(f"{name} (pid {pid})" for pid, name in holders(address) if pid != os.getpid())
            raise SocketError(
                f"listen.{key}: {address}: the port is occupied by {by or 'another process'}. Stop it, or listen on "
                "another port"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise SocketError(
                f"listen.{key}: {address}: no permission for a port below 1024. Start as root with 'user' set in the "
                "config, give the process CAP_NET_BIND_SERVICE, or take a port from 1024 on"
            ) from None
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise SocketError(
                f"listen.{key}: {address}: this machine does not have that address (see 'ip address')"
            ) from None
        raise SocketError(f"listen.{key}: {address}: {error.strerror or error}") from None


def has_ipv6() -> bool:
    """Whether this machine's loopback speaks IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def family_of(address: Endpoint) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if address.address.version == 6 else socket.AF_INET


def _overlap(one: Endpoint, other: Endpoint) -> bool:
    """Whether two addresses cannot both be bound. 0.0.0.0 and [::] can, as IPv6 sockets here take IPv6 alone."""
    hosts = one.address == other.address or one.is_wildcard or other.is_wildcard
    return family_of(one) == family_of(other) and one.port == other.port != 0 and hosts


def _only_ipv6(bound: socket.socket, address: Endpoint) -> None:
    """Keep [::] and 0.0.0.0 apart, so that both can be listed and IPv4 clients show as such."""
    if family_of(address) == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _make_transparent(bound: socket.socket, address: Endpoint) -> None:
    try:
        if family_of(address) == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            bound.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    except PermissionError:
        raise SocketError(
            "listen.transparent: no permission. Start as root (with 'user' set in the config, if you like), or give the "
            "process CAP_NET_ADMIN"
        ) from None


def _tcp_socket(address: Endpoint, transparent: bool) -> socket.socket:
    tcp = socket.socket(family_of(address), socket.SOCK_STREAM)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not hinder a restart
        _only_ipv6(tcp, address)
        if transparent:
            _make_transparent(tcp, address)
        tcp.setblocking(False)
        tcp.bind((address.host, address.port))
    except BaseException:
        tcp.close()
        raise
    return tcp


def _never_fragment(bound: socket.socket, address: Endpoint) -> None:
    """Have answers leave whole, whatever is claimed of a path's MTU: fragments can be forged (RFC 9715 section 3.1).

    They fit the 1,280 octets that any path carries (UDP_EDNS of the engine), and the kernel is spared an IP identification.
    """
    if family_of(address) == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        bound.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)


def _udp_socket(address: Endpoint, transparent: bool) -> socket.socket:
    udp = socket.socket(family_of(address), socket.SOCK_DGRAM)
    try:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for forced, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
            try:
                udp.setsockopt(socket.SOL_SOCKET, forced, BUFFER)  # root may go beyond net.core.rmem_max
            except PermissionError:
                udp.setsockopt(socket.SOL_SOCKET, plain, BUFFER)
        _only_ipv6(udp, address)
        _never_fragment(udp, address)
        if transparent:
            _make_transparent(udp, address)
        if address.is_wildcard or transparent:  # the answer must leave from the address that was asked
            if family_of(address) == socket.AF_INET6:
                udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        udp.setblocking(False)
        udp.bind((address.host, address.port))
    except BaseException:
        udp.close()
        raise
    return udp


def holders(address: Endpoint) -> list[tuple[int, str]]:
    """(pid, program) of the processes that hold the address's port, as far as /proc shows them to this user."""
    inodes: set[str] = set()
    for table in ("udp", "udp6", "tcp", "tcp6"):
        with contextlib.suppress(OSError):
            inodes.update(_inodes(Path("/proc/net", table).read_text(), address, listening=table.startswith("tcp")))
    found = []
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if any(str(link.readlink()) in inodes for link in (process / "fd").iterdir()):
                found.append((int(process.name), (process / "comm").read_text().strip()))
    return sorted(found)


def _inodes(table: str, address: Endpoint, listening: bool) -> Iterator[str]:
    """The sockets of a /proc/net table that stand in the way of `address`, as their links in /proc/PID/fd."""
    for line in table.splitlines()[1:]:
        columns = line.split()
        host, _, port = columns[1].partition(":")
        if int(port, 16) != address.port or (listening and columns[3] != _TCP_LISTEN):
            continue
        local = _host(host)
        if local.is_unspecified or address.is_wildcard or local == address.address:
            yield f"socket:[{columns[9]}]"


def _host(digits: str) -> IPv4Address | IPv6Address:
    """An address of /proc/net: words of 32 bits in the machine's order, written as hexadecimal numbers."""
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    packed = b"".join(words)
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
