"""What stands behind the `$` of an adblock rule: the modifiers of AdGuard Home that speak about DNS.

Everything else that modifiers may say is about pages and requests; a rule that has one of those says nothing about DNS
and is dropped, as is one with a modifier that nobody knows: without it the rule would say more than its author meant.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from resolver.lists.conditions import NOTHING, TAGS, Condition, type_text
from resolver.lists.names import normalise, shown
from resolver.lists.rules import BadLine, Outcome, Unsupported
from resolver.vocabulary import Action, RRType, Verb

_MODIFIERS = re.compile(r"\$(?=[~a-z_])(?P<list>[^/]*|.*=.*)\Z", re.IGNORECASE)
_PAGE_LEVEL = re.compile(
    "1p|3p|all|app|cname|content|cookie|csp|css|doc|document|domain|elemhide|empty|extension|first-party|font"
    "|frame|from|genericblock|generichide|header|hls|image|inline-font|inline-script|ipaddress|jsinject|jsonprune"
    "|match-case|media|method|mp4|network|network-error|noop|object|object-subrequest|other|permissions|ping"
    "|popunder|popup|redirect|redirect-rule|referrerpolicy|removeheader|removeparam|replace|rewrite|script"
    "|specifichide|stealth|strict-first-party|strict-third-party|strict1p|strict3p|stylesheet|subdocument"
    "|third-party|to|trusted-types|urlblock|urltransform|webrtc|websocket|xhr|xmlhttprequest|xmlprune"
)
_RCODES = {
    "NOERROR": Action.NODATA,
    "NXDOMAIN": Action.NXDOMAIN,
    "REFUSED": Action.REFUSED,
    "SERVFAIL": Action.SERVFAIL,
}
_REWRITE_TYPES = frozenset({"A", "AAAA", "CNAME", "HTTPS", "MX", "PTR", "SRV", "SVCB", "TXT"})


@dataclass(frozen=True, slots=True)
class Modifiers:
    """What a rule's modifiers come to."""

    important: bool = False
    condition: Condition = NOTHING
    action: Action | None = None
    data: tuple[str, ...] = ()

    def outcome(self, verb: Verb) -> Outcome:
        """What the rule says."""
        return Outcome(verb, self.important, self.action, None, self.data, str(self.condition))


NO_MODIFIERS = Modifiers()


def split_rule(rule: str) -> tuple[str, str]:
    """(pattern, text of the modifiers or "") of a rule without its `@@`."""
    if rule.startswith("/") and len(rule) > 1:  # an expression may itself hold $, so its last slash tells its end
        end = rule.rfind("/$")
        if rule.endswith("/") or end < 1:
            return rule, ""
        return rule[: end + 1], rule[end + 2 :]
    found = _MODIFIERS.search(rule)
    return (rule[: found.start()], found["list"]) if found else (rule, "")


def read_modifiers(text: str, verb: Verb) -> Modifiers:
    """What the modifiers say; BadLine for what they cannot, Unsupported for a rule that says nothing here."""
    found = NO_MODIFIERS
    seen = set()
    for item in _items(text):
        word, equals, value = item.partition("=")
        word, value = word.strip().lower(), value.strip()
        if word in seen:
            raise BadLine(f"the modifier ${word} twice")
        seen.add(word)
        if word in ("important", "badfilter"):
            if equals:
                raise BadLine(f"the modifier ${word} takes no value")
            is_bad = word == "badfilter"
            condition = replace(found.condition, is_badfilter=True) if is_bad else found.condition
            found = replace(found, important=found.important or not is_bad, condition=condition)
        elif word == "dnsrewrite":
            rewrite, action, data = _rewrite(value, verb)
            found = Modifiers(found.important, replace(found.condition, rewrite=rewrite), action, data)
        elif word in _READERS:
            found = replace(found, condition=_READERS[word](found.condition, _values(word, value)))
        else:
            raise _unknown(word)
    return found


def _unknown(word: str) -> BadLine:
    word = word.removeprefix("~")
    if _PAGE_LEVEL.fullmatch(word):
        return Unsupported(f"the page-level modifier ${word} says nothing about DNS")
    if re.fullmatch(r"[a-z0-9_-]+", word):
        return Unsupported(f"the modifier ${word} is unknown, so the rule is dropped")
    return BadLine("what follows the $ is no list of modifiers")


def _items(text: str) -> Iterator[str]:
    """The modifiers, parted by commas that stand neither behind a backslash nor in quotes; escapes are left in."""
    start = at = 0
    quote = ""
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif quote:
            quote = "" if text[at] == quote else quote
        elif text[at] in "\"'" and text[at - 1] in "=|~" and _closes(text, at):
            quote = text[at]
        elif text[at] == ",":
            yield text[start:at]
            start = at + 1
        at += 1
    yield text[start:]


def _closes(text: str, at: int) -> bool:
    """Whether the quote at a place is closed again before a comma, a bar or the end."""
    return re.match(rf"{text[at]}(?:[^\\{text[at]}]|\\.)*{text[at]}(?=[,|]|\Z)", text[at:]) is not None


# -- values ------------------------------------------------------------------------------------------------------------
def _values(word: str, text: str) -> tuple[list[str], list[str]]:
    """The values of a modifier, those asked for and those excluded by `~`, without quotes and escapes."""
    yes: list[str] = []
    no: list[str] = []
    for part in re.findall(r"(?:[^\\|]|\\.)+|(?<=\|)(?=\|)|\A(?=\|)|(?<=\|)\Z", text) if text else [""]:
        value = part.strip()
        wanted = no if value.startswith("~") else yes
        value = value.removeprefix("~").strip()
        if len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]:
            value = value[1:-1]
        value = re.sub(r"\\(.)", r"\1", value)
        if not value:
            raise BadLine(f"an empty value in ${word}")
        wanted.append(value)
    return yes, no


def _dnstype(condition: Condition, values: tuple[list[str], list[str]]) -> Condition:
    yes, no = (tuple(sorted({_type(text) for text in texts})) for texts in values)
    return replace(condition, types=yes, no_types=no)


def _type(text: str) -> str:
    known = RRType.__members__.get(text.upper())
    if known is not None:
        return known.name
    import dns.exception  # here only: most lists name none of the rarer types
    import dns.rdatatype

    try:
        return type_text(int(dns.rdatatype.from_text(text)))
    except (dns.exception.DNSException, ValueError):
        raise BadLine(f"{shown(text)} is no record type") from None


def _client(condition: Condition, values: tuple[list[str], list[str]]) -> Condition:
    yes, no = (tuple(sorted({_client_text(text) for text in texts})) for texts in values)
    return replace(condition, clients=yes, no_clients=no)


def _client_text(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return text
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _ctag(condition: Condition, values: tuple[list[str], list[str]]) -> Condition:
    for tag in (*values[0], *values[1]):
        if tag not in TAGS:
            raise BadLine(f"{shown(tag)} is no tag of clients")
    yes, no = (tuple(sorted(set(tags))) for tags in values)
    return replace(condition, tags=yes, no_tags=no)


def _denyallow(condition: Condition, values: tuple[list[str], list[str]]) -> Condition:
    if values[1]:
        raise BadLine("$denyallow takes no ~")
    return replace(condition, denied=tuple(sorted({normalise(name, allow_tld=True) for name in values[0]})))


_READERS = {"dnstype": _dnstype, "client": _client, "ctag": _ctag, "denyallow": _denyallow}


# -- rewrites ----------------------------------------------------------------------------------------------------------
def _rewrite(text: str, verb: Verb) -> tuple[str, Action | None, tuple[str, ...]]:
    """(the value's one form, action, records) of $dnsrewrite; an exception without a value means every rewrite."""
    text = re.sub(r"\\(.)", r"\1", text)
    if not text:
        return ("", None, ()) if verb is Verb.ALLOW else ("NOERROR;;", Action.NODATA, ())
    parts = [part.strip() for part in text.split(";", 2)]
    if len(parts) == 1:
        rcode, rtype, value = _short_form(text)
    elif len(parts) == 3:
        rcode, rtype, value = parts[0].upper(), parts[1].upper(), parts[2]
    else:
        raise BadLine("$dnsrewrite takes an rcode, an address, a host, or RCODE;TYPE;VALUE")
    if rcode not in _RCODES:
        raise BadLine(f"$dnsrewrite: the rcode {shown(rcode)} is none of {', '.join(_RCODES)}")
    if rcode != "NOERROR" or not (rtype or value):
        if rtype or value:
            raise BadLine(f"$dnsrewrite: {rcode} takes no record")
        said: tuple[str, Action, tuple[str, ...]] = (f"{rcode};;", _RCODES[rcode], ())
    else:
        said = _record(rtype, value)
    return (said[0], None, ()) if verb is Verb.ALLOW else said


def _short_form(text: str) -> tuple[str, str, str]:
    if text in _RCODES:
        return text, "", ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "NOERROR", "CNAME", text
    return "NOERROR", ("A" if address.version == 4 else "AAAA"), text


def _record(rtype: str, value: str) -> tuple[str, Action, tuple[str, ...]]:
    if rtype not in _REWRITE_TYPES:
        raise BadLine(f"$dnsrewrite: records of type {shown(rtype)} are not given")
    if rtype == "CNAME":
        target = normalise(value, allow_tld=True)
        return f"NOERROR;CNAME;{target}", Action.CNAME, (f"{target}.",)
    if rtype == "TXT":
        octets = value.encode()
        chunks = [octets[at : at + 255] for at in range(0, len(octets), 255)] or [b""]
        value = " ".join('"' + "".join(_txt(octet) for octet in chunk) + '"' for chunk in chunks)
    elif rtype == "PTR":
        value = normalise(value, allow_tld=True) + "."
    import dns.exception
    import dns.name
    import dns.rdata

    try:
        record = dns.rdata.from_text("IN", rtype, value, origin=dns.name.root, relativize=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise BadLine(f"$dnsrewrite: {shown(value)} is no {rtype} record: {error}") from None
    text = record.to_text()
    return f"NOERROR;{rtype};{text}", Action.DATA, (f"{rtype} {text}",)


def _txt(octet: int) -> str:
    """An octet of a TXT record's string in a zone file (RFC 1035 section 5.1)."""
    character = chr(octet)
    if character in '"\\':
        return f"\\{character}"
    return character if 32 <= octet < 127 else f"\\{octet:03d}"
