"""What a blocked name is an alias of: the part of a block's answer that needs another question.

The engine hands up names whose rule or whose list's override says CNAME (rpz.md, 9 and 21): the target stands in the
profile, or in the rule's own records. `*.target` in a rule puts the name asked for before the target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resolver.engine.engine import Index, SuffixTable
from resolver.punt import Alias
from resolver.snapshot import Policy
from resolver.upstream.message import name_text
from resolver.vocabulary import RRType

if TYPE_CHECKING:
    from resolver.engine.engine import Punt

MAX_NAME = 255  # octets in wire form (RFC 1035 section 2.3.4)


class Aliases:
    """The aliases of one generation."""

    def __init__(self, index: Index, policy: Policy) -> None:
        self._index = index
        self._profiles = policy.profiles
        self._class_routes = policy.class_routes
        self._routes = SuffixTable({zone: (route, route) for zone, route in policy.routes.items()})

    def describe(self, punt: Punt) -> Alias:
        """The alias that a punt's qname is to get. LookupError if the generation has none, which is a fault of ours."""
        profile = self._profiles[punt.profile]
        target, ttl = _wire(profile.target), profile.ttl
        if not profile.target:
            target, own = self._target_of_rule(punt)
            ttl = ttl if own is None else min(ttl, own)  # the profile's is the rule's, but for what the list caps
        route = self._routes.find(name_text(target))
        if not route and self._class_routes:
            route = self._class_routes[punt.policy_class]
        return Alias(target, ttl, profile.ede, profile.text, route)

    def _target_of_rule(self, punt: Punt) -> tuple[bytes, int | None]:
        """(target in wire form, the rule's own TTL) from the rule's records."""
        ttl, prefixed, records = self._index.records(self._index.data(punt.listset, punt.member))
        for rtype, rdata in records:
            if rtype == RRType.CNAME:
                target = punt.qname[:-1] + rdata if prefixed else rdata
                return (target if len(target) <= MAX_NAME else rdata), ttl
        raise LookupError(f"listset {punt.listset} has no alias")


def _wire(name: str) -> bytes:
    labels = [label.encode() for label in name.rstrip(".").lower().split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
