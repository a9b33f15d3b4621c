"""Which dialect a file is written in, told by the shape of its first rule lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from resolver.lists.parse.adblock import is_cosmetic, is_rule
from resolver.lists.parse.base import is_address, is_network, without_comment
from resolver.lists.parse.dnsmasq import BOGUS as DNSMASQ_BOGUS
from resolver.lists.parse.dnsmasq import RULE as DNSMASQ_RULE

DETECT_LINES = 1000  # rule lines looked at
PURE_SHARE = 0.99  # of those that look like a dialect make the file that dialect's
UNKNOWN = "unknown"  # the shape of a line that looks like nothing

_ZONE_DIRECTIVE = re.compile(r"\$(?:TTL|ORIGIN|INCLUDE|GENERATE)\s", re.IGNORECASE)
_ZONE_RECORD = re.compile(
    r"(?:\S+\s+|\s+)(?:[0-9]+[smhdw]?\s+)?(?:IN\s+)?(?:[0-9]+[smhdw]?\s+)?"
    r"(?:CNAME\s+\S+|NS\s+\S+|SOA\s+\S+\s+\S+\s*[(0-9].*|A\s+[0-9.]+|AAAA\s+[0-9a-f:.]+|MX\s+[0-9]+\s+\S+|TXT\s+\S.*)"
    r"\s*(?:;.*)?",
    re.IGNORECASE,
)
_UNBOUND = re.compile(r"(?:local-(?:zone|data|data-ptr)|include)\s*:|(?:server|view|forward-zone)\s*:\s*(?:#.*)?\Z")


def shape_of(text: str) -> str | None:
    """The dialect one line looks like, whatever its neighbours; UNKNOWN for none, None for a comment."""
    if is_cosmetic(text):
        return "adblock"
    body = without_comment(text)
    if not body:
        return None
    words = body.split(maxsplit=1)
    if len(words) > 1 and (words[0] == "0" or is_address(words[0])):
        return "hosts"
    if _ZONE_DIRECTIVE.match(body) or _ZONE_RECORD.fullmatch(text.rstrip()):
        return "rpz"
    if DNSMASQ_RULE.match(body) or DNSMASQ_BOGUS.match(body):
        return "dnsmasq"
    if _UNBOUND.match(body):
        return "unbound"
    if is_network(body):
        return "addresses"
    if is_rule(body) and "://" not in body:
        return "adblock"
    return "domains" if "." in body and len(words) == 1 else UNKNOWN


def detect(lines: Iterable[str]) -> str:
    """The dialect of a file that begins with `lines`: a dialect's name, `mixed`, `addresses` where there are no names.

    Looks at the first DETECT_LINES rule lines. A zone file gives itself away by its SOA or a directive.
    """
    shapes: Counter[str] = Counter()
    for text in lines:
        shape = shape_of(text)
        if shape is None:
            continue
        if shape == "rpz" and not shapes:
            return "rpz"
        shapes[shape] += 1
        if shapes.total() >= DETECT_LINES:
            break
    del shapes[UNKNOWN]
    if not shapes:
        return "domains"
    [(first, count)] = shapes.most_common(1)
    if count >= PURE_SHARE * shapes.total():
        return first
    return "rpz" if first == "rpz" else "mixed"
