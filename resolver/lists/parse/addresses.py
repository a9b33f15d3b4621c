"""Rules for addresses in answers: `1.2.3.4`, `1.2.3.0/24` or `2001:db8::/32` alone on a line, and RPZ's way to write them.

Wherever one stands it is brought into the one text that a Trigger has, so that duplicates are seen as such.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from bisect import bisect_right

from resolver.lists.names import shown
from resolver.lists.parse.base import BLOCK, Dialect, without_comment
from resolver.lists.rules import BadLine, TriggerKind

# Special-purpose addresses (RFC 6890 and IANA's registries since): ascending, disjoint.
_SPECIAL = [
    (int(network.network_address), int(network.broadcast_address))
    for network in map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ),
    )
]
_SPECIAL_STARTS = [start for start, _ in _SPECIAL]
_GLOBAL6 = ipaddress.IPv6Network("2000::/3")  # all else is special, and of it these are
_SPECIAL6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_HEXTET = re.compile(r"[0-9a-f]{1,4}", re.ASCII)


class Addresses(Dialect):
    """One address or prefix a line."""

    name = "addresses"

    def feed(self, line: int, text: str) -> None:
        """Read one line."""
        body = without_comment(text)
        if not body:
            self.report.comments += 1
            return
        prefix = prefix_of(body)
        self.report.special += is_special(prefix)
        self.emit_trigger(TriggerKind.ADDRESS, prefix, BLOCK, line)


def prefix_of(text: str) -> str:
    """An address or a prefix as a Trigger's text; bits behind the length are dropped. BadLine if it is neither."""
    try:
        socket.inet_pton(socket.AF_INET, text)  # nearly all; it takes only the one way to write each
        return f"{text}/32"
    except (OSError, ValueError):
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadLine(f"{shown(text)} is no address") from None
    return _canonical(network)


def rpz_prefix(labels: str) -> str:
    """A prefix as RPZ writes it, as a Trigger's text: its length, then its octets or hextets reversed; `zz` is `::`.

    As in BIND, a bit behind the length makes it a bad one.
    """
    length, *parts = labels.lower().split(".")
    parts.reverse()
    if not (length.isascii() and length.isdigit()) or len(length) > 3:
        raise BadLine(f"{shown(length)} is no prefix length")
    if "zz" in parts or len(parts) == 8:
        if (
            parts.count("zz") > 1
            or len(parts) > 8
            or not all(_HEXTET.fullmatch(part) for part in parts if part != "zz")
        ):
            raise BadLine(f"{shown(labels)} is no address and length in reverse")
        address = _joined6(parts)
    elif len(parts) == 4:
        address = ".".join(parts)
    else:
        raise BadLine(f"{shown(labels)} is no address and length in reverse")
    try:
        return _canonical(ipaddress.ip_network(f"{address}/{length}"))
    except ValueError as error:
        raise BadLine(f"{shown(labels)}: {error}") from None


def is_special(prefix: str) -> bool:
    """Whether a Trigger's prefix begins at a special-purpose address."""
    address, _, _ = prefix.partition("/")
    if ":" in address:
        network = ipaddress.IPv6Address(address)
        return network not in _GLOBAL6 or any(network in special for special in _SPECIAL6)
    number = int.from_bytes(socket.inet_aton(address), "big")
    at = bisect_right(_SPECIAL_STARTS, number) - 1
    return at >= 0 and number <= _SPECIAL[at][1]


def _joined6(parts: list[str]) -> str:
    if "zz" not in parts:
        return ":".join(parts)
    at = parts.index("zz")
    return f"{':'.join(parts[:at])}::{':'.join(parts[at + 1 :])}"


def _canonical(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    if network.prefixlen == 0:
        raise BadLine("a prefix that holds every address")
    if network.version == 6 and network.prefixlen >= 96 and (mapped := network.network_address.ipv4_mapped):
        if network.prefixlen == 96:
            raise BadLine("a prefix that holds every IPv4 address")
        return f"{mapped}/{network.prefixlen - 96}"
    return str(network)
