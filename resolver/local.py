"""What a name that is answered here is an alias of: the part of an answer that needs another question.

The engine hands up names whose rule or whose list's override says CNAME (rpz.md, 9 and 21), and local records that are
aliases: the target stands in the profile, or in the rule's own records. `*.target` in a rule puts the name asked for before
the target. The reverse names of addresses that DNS64 made are aliases of the IPv4 addresses' (RFC 6147 section 5.3.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resolver.engine.engine import Index
from resolver.punt import Alias, error_reply
from resolver.snapshot import Policy
from resolver.vocabulary import Action, Rcode, RRType

if TYPE_CHECKING:
    from resolver.engine.engine import Punt

MAX_NAME = 255  # octets in wire form (RFC 1035 section 2.3.4)
_NIBBLES = 32  # labels of a whole IPv6 address below ip6.arpa
_ARPA = b"\x03ip6\x04arpa\x00"


class Aliases:
    """The aliases of one generation."""

    def __init__(self, index: Index, policy: Policy) -> None:
        self._index = index
        self._profiles = policy.profiles
        self._zones = policy.zones
        self._prefix = policy.dns64.prefix if policy.dns64 else b""

    def describe(self, punt: Punt) -> Alias | bytes:
        """The alias that a punt's qname is to get, or a whole reply. LookupError if there is none, a fault of ours."""
        profile = self._profiles[punt.profile]
        target, ttl = _wire(profile.target), profile.ttl
        if not profile.target:
            own_target, own = self._target_of_rule(punt)
            if own_target is None:  # above the names of addresses there is nothing, but below there is (RFC 8020)
                above = len(punt.qname) < 2 * _NIBBLES + len(_ARPA)
                return error_reply(punt.packet, len(punt.qname), Rcode.NOERROR if above else Rcode.NXDOMAIN)
            target = own_target
            ttl = ttl if own is None else min(ttl, own)  # the profile's is the rule's, but for what the list caps
        ede, text = profile.reason(structured=punt.structured)
        return Alias(target, ttl, ede, text, self._zones[profile.zone - 1] if profile.zone else None)

    def _target_of_rule(self, punt: Punt) -> tuple[bytes | None, int | None]:
        """(target in wire form, the rule's own TTL) from the rule's records; None: the name stands for no address."""
        ttl, prefixed, records = self._index.records(self._index.data(punt.listset, punt.member))
        for rtype, rdata in records:
            if rtype == RRType.CNAME:
                target = punt.qname[:-1] + rdata if prefixed else rdata
                return (target if len(target) <= MAX_NAME else rdata), ttl
        if punt.action == Action.LOCAL and self._prefix:
            return mapped_target(punt.qname, self._prefix), ttl
        raise LookupError(f"listset {punt.listset} has no alias")


def mapped_target(qname: bytes, prefix: bytes) -> bytes | None:
    """The reverse name of the IPv4 address behind a prefix of DNS64, for that of the IPv6 one; both in wire form.

    None where the name is not that of a whole address of the form of RFC 6052 section 2.2.
    """
    if len(qname) != 2 * _NIBBLES + len(_ARPA) or any(qname[at] != 1 for at in range(0, 2 * _NIBBLES, 2)):
        return None
    try:
        octets = bytes.fromhex(qname[1 : 2 * _NIBBLES : 2][::-1].decode())
    except ValueError:
        return None
    places = [at for at in range(len(prefix), 16) if at != 8][:4]
    used = {*range(len(prefix)), *places}
    if any(octets[at] for at in range(16) if at not in used) or octets[: len(prefix)] != prefix:
        return None
    return _wire(".".join(str(octets[at]) for at in reversed(places)) + ".in-addr.arpa")


def _wire(name: str) -> bytes:
    labels = [label.encode() for label in name.rstrip(".").lower().split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
