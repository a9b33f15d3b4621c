"""What a client is told of a block: EXTRA-TEXT in words for a person, as a structured error, and whom the SOA names.

Structured errors (draft-ietf-dnsop-structured-dns-error) are minified I-JSON: `c` contact URIs, `j` justification, `s`
sub-error, `o` organisation, `l` the language of `j` and `o`. `s` does not go with Censored: the category then goes in `j`.
All of it is made once a build; the engine copies it. Where it does not fit, `brief` takes its place, without `j` and `o`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from resolver.snapshot import MAX_STRUCTURED, MAX_STRUCTURED_BRIEF, MAX_TEXT
from resolver.vocabulary import EDE

if TYPE_CHECKING:
    from resolver.lists.matrix import CategoryPolicy, ListPolicy

SUB_ERRORS = {"malware": 1, "phishing": 2, "spam": 3, "spyware": 4, "network_policy": 5, "dns_policy": 6}
ENGLISH = "en"  # the language of what is said here in words of our own
_MAX_ORGANISATION = 100  # characters
_MAIL = re.compile(r"[^@\s:/]+@[^@\s:/]+")


class Structured(NamedTuple):
    """A structured error: all of it, and what is left where that does not fit."""

    full: str
    brief: str


def extra_text(policy: ListPolicy, category: CategoryPolicy) -> str:
    """EXTRA-TEXT (RFC 8914 section 2) in words for a person: which list, why, by what order, whom to ask.

    At most MAX_TEXT octets of UTF-8, cut between characters.
    """
    text = by_list(policy)
    reasons = [
        words
        for words in (
            category.justification,
            category.law and f"order {category.law}",
            category.organisation and f"by {category.organisation}",
            category.contact and f"contact {category.contact.removeprefix('mailto:').removeprefix('tel:')}",
        )
        if words
    ]
    if reasons:
        text += ": " + ", ".join(reasons)
    octets = text.encode()
    if len(octets) > MAX_TEXT:
        text = octets[: MAX_TEXT - len("…".encode())].decode(errors="ignore") + "…"
    return text


def by_list(policy: ListPolicy) -> str:
    """Which list blocks, in words."""
    category = f" (category {policy.category})" if policy.category else ""
    return f"blocked by list {policy.name}{category}"


def structured(words: str, category: CategoryPolicy, *, name: str = "") -> Structured:
    """The structured error of a category called `name`; `words` justify it where the category has no words of its own."""
    own = category.justification
    if category.law:
        own = f"{own} ({category.law})" if own else category.law
    if category.ede == EDE.CENSORED and name and own:
        own = f"{name}: {own}"
    uri = contact_uri(category.contact)
    brief: dict[str, Any] = {"c": [uri]} if uri else {}
    if category.sub_error and category.ede != EDE.CENSORED:
        brief["s"] = category.sub_error
    justification = own or words
    full = _whole(brief, category, justification, own=bool(own))
    while len(_minified(full).encode()) > MAX_STRUCTURED:
        justification = justification[: len(justification) * 3 // 4]
        full = _whole(brief, category, f"{justification}…", own=bool(own))
    return Structured(_minified(full), _minified(brief) if brief else "")


def _whole(brief: dict[str, Any], category: CategoryPolicy, justification: str, *, own: bool) -> dict[str, Any]:
    full = {**brief, "j": justification}
    if category.organisation:
        full["o"] = category.organisation[:_MAX_ORGANISATION]
    full["l"] = category.language if own else ENGLISH
    return full


def _minified(body: dict[str, Any]) -> str:
    order = sorted(body, key="cjsol".index)
    return json.dumps({key: body[key] for key in order}, separators=(",", ":"), ensure_ascii=False)


def contact_uri(contact: str) -> str:
    """A contact as one of the URIs that a structured error may have, "" where it is none or too long to be sent always."""
    uri = f"mailto:{contact}" if _MAIL.fullmatch(contact) else contact
    is_one = uri.startswith(("mailto:", "tel:", "https:")) and not re.search(r"\s", uri)
    return uri if is_one and len(uri.encode()) <= MAX_STRUCTURED_BRIEF // 2 else ""


def mailbox(contact: str) -> bytes:
    """RNAME in wire form for a contact's mail address (RFC 1035 section 8), b"" where it holds none that fits."""
    local, at, domain = contact.removeprefix("mailto:").partition("@")
    labels = [local, *domain.split(".")]
    if not at or not contact.isascii() or not all(0 < len(label) < 64 for label in labels):
        return b""
    wire = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    return wire if len(wire) <= 255 else b""
