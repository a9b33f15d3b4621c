"""Where to listen, whom to ask, who asks: addresses, networks, servers and names as the configuration writes them.

Every parser takes what stood in the file (or the finished value) and returns one immutable value whose `str` parses
back to it. A ValueError's text says what was expected and, where it can be guessed, what to write instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Scheme = Literal["udp", "tcp", "tls", "https", "quic"]

DEFAULT_PORTS: dict[Scheme, int] = {"udp": 53, "tcp": 53, "tls": 853, "https": 443, "quic": 853}
ENCRYPTED: frozenset[Scheme] = frozenset({"tls", "https", "quic"})
DOH_PATH = "/dns-query"  # RFC 8484 section 4.1 leaves the path open; every public resolver uses this one

DNS64_LENGTHS = (32, 40, 48, 56, 64, 96)
_PORT = re.compile(r"[0-9]{1,5}")
_MAC = re.compile(r"[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and port to listen on; `str` gives `127.0.0.1:53` or `[::1]:53`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> Address:
        """The host as an address, with its scope where it has one (`fe80::1%eth0`)."""
        return ip_address(self.host)

    @property
    def is_wildcard(self) -> bool:
        """Whether this is 0.0.0.0 or ::, every address of the machine."""
        return self.address.is_unspecified


@dataclass(frozen=True, slots=True)
class Server:
    """An upstream server. `udp` goes on to TCP for a truncated answer, `tcp` uses nothing else.

    `host` is an address or a name; `ip` the address to connect to instead of looking `host` up; `name` the name that
    the server's certificate must carry instead of `host`; `path` is used by `https` alone and empty elsewhere.
    """

    scheme: Scheme
    host: str
    port: int
    path: str = ""
    ip: Address | None = None
    name: str | None = None

    def __str__(self) -> str:
        options = "&".join(
            f"{key}={value}" for key, value in (("ip", self.ip), ("name", self.name)) if value is not None
        )
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}{'?' if options else ''}{options}"

    @property
    def address(self) -> Address | None:
        """Where to connect to; None where `host` is a name that has to be looked up first."""
        return self.ip if self.ip is not None else as_address(self.host)

    @property
    def is_encrypted(self) -> bool:
        """Whether what is asked is hidden from the network."""
        return self.scheme in ENCRYPTED


@dataclass(frozen=True, slots=True)
class Mac:
    """A client's hardware address, six octets in lower case: `02:00:00:aa:bb:cc`."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ClientFile:
    """A file of clients, a line each; `path` as written."""

    path: str

    def __str__(self) -> str:
        return f"file:{self.path}"


Client = IPv4Network | IPv6Network | Mac | ClientFile


def as_address(text: str) -> Address | None:
    """The address that `text` is, or None."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def parse_address(value: object) -> Address:
    """An IPv4 or IPv6 address."""
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    address = as_address(value.strip()) if isinstance(value, str) else None
    if address is None:
        raise ValueError("expected an address such as 192.0.2.1 or 2001:db8::1")
    return address


def parse_ipv4(value: object) -> IPv4Address:
    """An IPv4 address."""
    address = value if isinstance(value, IPv4Address) else as_address(value) if isinstance(value, str) else None
    if not isinstance(address, IPv4Address):
        raise ValueError("expected an IPv4 address such as 192.0.2.1")
    return address


def parse_ipv6(value: object) -> IPv6Address:
    """An IPv6 address without a scope."""
    address = value if isinstance(value, IPv6Address) else as_address(value) if isinstance(value, str) else None
    if not isinstance(address, IPv6Address) or address.scope_id is not None:
        raise ValueError("expected an IPv6 address such as 2001:db8::1")
    return address


def parse_network(value: object) -> Network:
    """A network in CIDR form; a bare address is a network of one."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    expected = "expected a network such as 192.168.0.0/16, fc00::/7 or a single address"
    if not isinstance(value, str) or "%" in value:
        raise ValueError(expected)
    try:
        network = ip_network(value.strip(), strict=False)
    except ValueError as error:
        raise ValueError(expected) from error
    address, _, length = value.strip().partition("/")
    if length and not length.isdecimal():
        raise ValueError(f"expected a prefix length after the slash: write {network}")
    if ip_address(address) != network.network_address:
        raise ValueError(f"expected a network, but bits are set after its prefix: write {network} or {address}")
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        plain = IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
        raise ValueError(f"expected IPv4 clients in IPv4 form: write {plain}")
    return network


def parse_client(value: object) -> Client:
    """A client of a group: an address, a network, a hardware address, or `file:` and the path of a file of them."""
    if isinstance(value, Mac | ClientFile):
        return value
    if isinstance(value, str):
        if value.strip().startswith("file:"):
            path = value.strip().removeprefix("file:").strip()
            if not path or "\0" in path:
                raise ValueError("expected the path of a file after file:")
            return ClientFile(path)
        text = value.strip().lower()
        if _MAC.fullmatch(text):
            return Mac(text.replace("-", ":"))
    try:
        return parse_network(value)
    except ValueError as error:
        if isinstance(value, str) and ("/" in value or as_address(value.strip())):
            raise
        raise ValueError(
            "expected an address, a network such as 192.168.1.64/26, file:PATH or a MAC address"
        ) from error


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise ValueError("expected a port from 1 to 65535")
    return int(text)


def _split_port(text: str) -> tuple[str, str | None]:
    """(host, port or None) of `host`, `host:port`, `[host]`, `[host]:port` and a bare IPv6 address."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("expected an IPv6 address in brackets, then a colon and a port: [::1]:53")
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def parse_endpoint(value: object) -> Endpoint:
    """An address to listen on with its port: `127.0.0.1:5335`, `[::1]:5335`."""
    if isinstance(value, Endpoint):
        return value
    expected = "expected an address and a port such as 127.0.0.1:53 or [::1]:53"
    if not isinstance(value, str):
        raise ValueError(expected)
    host, port = _split_port(value.strip())
    address = as_address(host)
    if address is None:
        suggestion = ": write 127.0.0.1 for localhost" if host == "localhost" else ""
        raise ValueError(expected + suggestion)
    if port is None:
        raise ValueError(f"expected a port after the address: write {Endpoint(str(address), 53)}")
    return Endpoint(str(address), _port(port))


def parse_server(value: object) -> Server:
    """An upstream server: an address, `address:port`, or `scheme://host[:port][/path][?ip=ADDRESS][&name=NAME]`."""
    if isinstance(value, Server):
        return value
    if not isinstance(value, str):
        raise ValueError("expected a server such as 9.9.9.9, 9.9.9.9:53 or tls://9.9.9.9?name=dns.quad9.net")
    text = value.strip()
    if "://" not in text:
        text = "udp://" + (f"[{text}]" if as_address(text) and ":" in text else text)
    try:
        url = urlsplit(text)
    except ValueError as error:
        raise ValueError(
            "expected a server: an IPv6 address with a port stands in brackets, [2001:db8::1]:53"
        ) from error
    scheme = _scheme(url.scheme)
    if url.username is not None or url.password is not None or url.fragment:
        raise ValueError("expected a server without user, password or #fragment")
    if url.path not in ("", "/") and scheme != "https":
        raise ValueError(f"expected no path after a {scheme} server")
    host, port = _split_port(url.netloc)
    ip, name = _options(url, scheme)
    address = as_address(host)
    if address is None and not (scheme in ENCRYPTED or ip is not None):
        raise ValueError(f"expected an address: a {scheme} server is not looked up by name (or add ?ip=ADDRESS)")
    if any(where is not None and where.is_unspecified for where in (address, ip)):
        raise ValueError("expected the address of one server, not the wildcard")
    return Server(
        scheme,
        parse_name(host) if address is None else str(address),
        DEFAULT_PORTS[scheme] if port is None else _port(port),
        (DOH_PATH if url.path in ("", "/") else url.path) if scheme == "https" else "",
        ip,
        name,
    )


def _scheme(text: str) -> Scheme:
    for scheme in DEFAULT_PORTS:
        if text == scheme:
            return scheme
    raise ValueError(f"expected a server's scheme to be one of {', '.join(DEFAULT_PORTS)}")


def _options(url: SplitResult, scheme: Scheme) -> tuple[Address | None, str | None]:
    """The address of `?ip=` and the name of `?name=`."""
    found: dict[str, str] = {}
    for part in url.query.split("&") if url.query else ():
        key, _, text = part.partition("=")
        if key not in ("ip", "name") or key in found or not text:
            raise ValueError("expected ?ip=ADDRESS and ?name=NAME, each once, after a server")
        found[key] = unquote(text)
    if "name" in found and scheme not in ENCRYPTED:
        raise ValueError(f"expected no ?name= after a {scheme} server: it has no certificate")
    ip = parse_address(found["ip"]) if "ip" in found else None
    return ip, parse_name(found["name"]) if "name" in found else None


@dataclass(frozen=True, slots=True)
class Primary:
    """A server that a zone is transferred from. `host`: an address, or a name that is looked up each time."""

    host: str
    port: int

    def __str__(self) -> str:
        return str(Endpoint(self.host, self.port))


def parse_primary(source: str) -> tuple[Primary, str]:
    """Primary and zone of `axfr://host[:port]/zone`; the zone is lower-case, without its final dot."""
    expected = "expected axfr://primary/zone, the primary as an address or name with or without a port"
    rest = source.removeprefix("axfr://")
    authority, slash, zone = rest.partition("/")
    if rest == source or not authority or not slash or not zone or "/" in zone:
        raise ValueError(expected)
    host, port = _split_port(authority)
    address = as_address(host)
    if address is None and (authority.startswith("[") or not host):
        raise ValueError(expected)
    return Primary(parse_name(host) if address is None else str(address), 53 if port is None else _port(port)), (
        parse_name(zone)
    )


def check_url(url: str) -> None:
    """ValueError where an http:// or https:// URL cannot be asked for as it stands."""
    if not url.isprintable() or " " in url:
        raise ValueError("expected a URL without spaces: write %20 for one")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"expected a URL such as https://lists.example/ads.txt: {error}") from error
    if not host or port == 0:
        raise ValueError("expected a URL such as https://lists.example/ads.txt")


def shown_url(url: str) -> str:
    """A URL without user and password, for messages and reports."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def parse_name(value: object) -> str:
    """A domain name: lower-case A-labels without the trailing dot (RFC 1035 section 2.3.4, RFC 5891)."""
    expected = "expected a domain name such as corp.example"
    if not isinstance(value, str):
        raise ValueError(expected)
    name = value.strip().removesuffix(".").lower()
    if not name.isascii():
        import idna  # only where a name has letters beyond ASCII

        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"{expected}: {error}") from error
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(expected)
    if as_address(name) is not None:
        raise ValueError(f"{expected}, not an address")
    return name


def parse_optional_name(value: object) -> str:
    """A domain name, or nothing."""
    return "" if value in (None, "") else parse_name(value)


def parse_dns64_prefix(value: object) -> IPv6Network | None:
    """A prefix to put IPv4 addresses behind (RFC 6052 section 2.2); None for nothing."""
    if value in (None, ""):
        return None
    prefix = parse_network(value)
    if not isinstance(prefix, IPv6Network) or prefix.prefixlen not in DNS64_LENGTHS:
        raise ValueError("expected an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits, such as 64:ff9b::/96")
    if prefix.network_address.packed[8]:
        raise ValueError("expected a prefix whose bits 64 to 71 are zero (RFC 6052 section 2.2)")
    return prefix


def parse_pattern(value: object) -> str:
    """A domain name, or `*.` and a domain name for everything below it."""
    if isinstance(value, str) and value.strip().startswith("*."):
        return "*." + parse_name(value.strip()[2:])
    return parse_name(value)


def parse_answer(value: object) -> Address | str:
    """What a rewrite answers with: an address, or a name that it is an alias of."""
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    if not isinstance(value, str):
        raise ValueError("expected an address or a domain name")
    return as_address(value.strip()) or parse_name(value)
