"""Where a source's host is: asked of the configured upstream servers, never of this server itself.

At a cold start this server may be the machine's only resolver, and one that has no lists yet must not depend on itself to
get them; later, a list must not be able to block the way to its own successor. So:

1. An address is itself; localhost is the loopback (RFC 6761 section 6.3).
2. The servers of `upstream` are asked, those of the longest matching route first among equals: plain ones over UDP and TCP,
   encrypted ones too where the config says what address they have.
3. Where they do not know it, or none answers, the system is asked (/etc/hosts, a container's own names), unless its
   resolver is this server.

Only the address comes from here. TLS proves the name of the URL, whatever was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from resolver.config.addresses import Address, Endpoint, Server, as_address
from resolver.config.model import Config

RESOLV_CONF = Path("/etc/resolv.conf")
MAX_ADDRESSES = 8  # tried of one host
_TRIES = 2  # rounds over all servers


class LookupFailed(OSError):
    """A host has no address that anybody knows; the text says who was asked."""


class Lookup:
    """Finds the addresses of hosts by a config."""

    def __init__(self, config: Config, resolv_conf: Path = RESOLV_CONF) -> None:
        self._config = config
        self._resolv_conf = resolv_conf

    async def addresses(self, host: str) -> list[Address]:
        """The addresses of a host, IPv6 and IPv4 in turn; LookupFailed if there is none."""
        if address := as_address(host.strip("[]")):
            return [address]
        if host.rstrip(".").lower() in ("localhost", "ip6-localhost"):
            return [ip_address("127.0.0.1"), ip_address("::1")]
        servers = self._servers(host)
        found: list[Address] = []
        faults: list[str] = []
        if servers:
            found, faults = await self._ask(host, servers)
        if not found and not self._system_is_this_server():
            try:
                found = await _ask_system(host)
            except OSError as error:
                faults.append(f"the system: {error.strerror or error}")
        if not found:
            raise LookupFailed(f"{host} has no address: {'; '.join(faults) or 'there is nobody to ask'}")
        return _in_turn(found)[:MAX_ADDRESSES]

    async def answer(
        self, name: str, rdtype: dns.rdatatype.RdataType, own: Sequence[Server] = ()
    ) -> dns.message.Message:
        """What upstream says to a question; LookupFailed if nobody answers. `own`: servers in place of the default ones."""
        if not (servers := self._servers(name, own)):
            raise LookupFailed("there is nobody to ask: no server of `upstream` is written by its address")
        resolver, tcp = self._resolver(servers)
        try:
            found = await resolver.resolve(f"{name}.", rdtype, tcp=tcp, search=False, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            response: dns.message.Message = error.response(dns.name.from_text(name))  # type: ignore[no-untyped-call]
            return response
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise LookupFailed(f"upstream: {str(error).partition(chr(10))[0]}") from None
        return found.response

    def _servers(self, host: str, own: Sequence[Server] = ()) -> tuple[Server, ...]:
        """Whom the config has asked about a name: the servers of the longest matching zone, else a group's own."""
        name = host.rstrip(".").lower()
        upstream = self._config.upstream
        matching = [
            (len(zone), route.servers)
            for route in upstream.routes
            for zone in route.zones
            if name == zone or name.endswith(f".{zone}")
        ]
        servers = max(matching, key=lambda match: match[0])[1] if matching else own or upstream.servers
        return tuple(server for server in servers if server.address is not None)

    async def _ask(self, host: str, servers: Sequence[Server]) -> tuple[list[Address], list[str]]:
        """The addresses that upstream knows, and what went wrong."""
        resolver, tcp = self._resolver(servers)

        async def one(rdtype: dns.rdatatype.RdataType) -> list[Address]:
            answer = await resolver.resolve(host, rdtype, tcp=tcp, search=False, raise_on_no_answer=False)
            return [ip_address(item.address) for item in answer.rrset or ()]

        results = await asyncio.gather(one(dns.rdatatype.AAAA), one(dns.rdatatype.A), return_exceptions=True)
        found: list[Address] = []
        faults: list[str] = []
        for result in results:
            if isinstance(result, list):
                found += result
            elif isinstance(result, dns.exception.DNSException | OSError | ValueError):
                faults.append(f"upstream: {str(result).partition(chr(10))[0]}")
            else:
                raise result
        return found, list(dict.fromkeys(faults))

    def _resolver(self, servers: Sequence[Server]) -> tuple[dns.asyncresolver.Resolver, bool]:
        """Asks these servers, and whether by TCP."""
        timeout = self._config.upstream.timeout
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [_nameserver(server) for server in servers]
        resolver.timeout = timeout
        resolver.lifetime = timeout * len(servers) * _TRIES
        return resolver, all(server.scheme == "tcp" for server in servers)

    def _system_is_this_server(self) -> bool:
        """Whether the machine asks this server: then asking the machine would go round in a circle."""
        own = self._config.listen.dns
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in self._resolv_conf.read_text().splitlines():
                key, _, value = line.strip().partition(" ")
                address = as_address(value.strip())
                if key == "nameserver" and address is not None and any(_covers(each, address) for each in own):
                    return True
        return False


def _covers(own: Endpoint, address: Address) -> bool:
    """Whether who asks `address` at port 53 may reach the listener `own`."""
    return own.port == 53 and (own.address == address or own.is_wildcard)


def _nameserver(server: Server) -> dns.nameserver.Nameserver:
    address, name = str(server.address), server.name or server.host
    match server.scheme:
        case "tls":
            return dns.nameserver.DoTNameserver(address, server.port, name)
        case "https":
            host = f"[{name}]" if ":" in name else name
            return dns.nameserver.DoHNameserver(f"https://{host}:{server.port}{server.path}", bootstrap_address=address)
        case "quic":
            return dns.nameserver.DoQNameserver(address, server.port, server_hostname=name)
    return dns.nameserver.Do53Nameserver(address, server.port)


async def _ask_system(host: str) -> list[Address]:
    answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found = [as_address(str(where[0])) for *_, where in answers]
    return [address for address in dict.fromkeys(found) if address is not None]


def _in_turn(found: Sequence[Address]) -> list[Address]:
    """IPv4 and IPv6 in turn, so that a family that leads nowhere costs one attempt before the other is tried."""
    known = dict.fromkeys(found)
    turn = {}
    for version in (4, 6):
        turn.update({address: place for place, address in enumerate(a for a in known if a.version == version)})
    return sorted(known, key=lambda address: (turn[address], address.version))
