"""Master file syntax (RFC 1035 section 5.1), a line at a time: logical lines, and the parts of a record.

Parentheses join physical lines, quoted strings end on their line, `;` begins a comment anywhere outside quotes. Tokens
keep their escapes: what they mean depends on where they stand. A logical line is held whole, so it is bounded.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.ttl

from resolver.lists.names import shown
from resolver.lists.rules import MAX_LINE, BadLine

_TOKEN = re.compile(r'\s+|;.*|(?P<token>"(?:[^"\\]|\\.)*"|[()]|(?:[^\s"();\\]|\\.)+)', re.ASCII | re.DOTALL)
_TTL = re.compile(r"(?=.{1,32}\Z)(?:[0-9]+[smhdw])*[0-9]*", re.ASCII | re.IGNORECASE)
_OWNER = re.compile(r"(?:[^\s\"();\\]|\\.)+", re.ASCII)
_NOWHERE = "name-of-the-zone.invalid."  # stands for the zone while its name is unknown
MAX_TTL = 2**31 - 1  # seconds, RFC 2181 section 8


class Entry(NamedTuple):
    """A logical line: a directive or a record."""

    line: int  # where it begins
    starts_blank: bool  # the owner is omitted: that of the record before counts
    tokens: list[str]
    text: str | None  # the physical line, where it is one alone


class LogicalLines:
    """Joins physical lines."""

    def __init__(self) -> None:
        self._open: Entry | None = None
        self._length = 0

    @property
    def is_open(self) -> bool:
        """Whether a parenthesis waits for its end."""
        return self._open is not None

    def feed(self, line: int, text: str) -> Entry | None:
        """The logical line that ends with this physical one; None for a comment, or inside parentheses."""
        begun, self._open = self._open, None  # whatever fails below ends the logical line
        tokens, depth = _tokens(text, 1 if begun else 0)
        if begun is not None:
            entry = Entry(begun.line, begun.starts_blank, begun.tokens + tokens, None)
            self._length += len(text)
            if self._length > MAX_LINE:
                raise BadLine(
                    f"the parenthesis opened in line {entry.line} goes on for more than {MAX_LINE} characters"
                )
        else:
            entry = Entry(line, text.startswith((" ", "\t")), tokens, text)
            self._length = len(text)
        if depth:
            self._open = entry
            return None
        return entry if entry.tokens else None

    def finish(self) -> None:
        """BadLine when the file ended inside parentheses."""
        if self._open is not None:
            line, self._open = self._open.line, None
            raise BadLine(f"the parenthesis opened in line {line} is never closed")


def _tokens(text: str, depth: int) -> tuple[list[str], int]:
    tokens = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise BadLine(
                "a quoted string without its end" if text[at] == '"' else "a stray backslash at the line's end"
            )
        at = match.end()
        token = match["token"]
        if token is None:
            continue
        if token == "(":
            if depth:
                raise BadLine("a parenthesis within another")
            depth = 1
        elif token == ")":
            if not depth:
                raise BadLine("a closing parenthesis that was never opened")
            depth = 0
        else:
            tokens.append(token)
    return tokens, depth


def tokens_of(text: str) -> list[str]:
    """The tokens of a line that stands alone."""
    tokens, depth = _tokens(text, 0)
    if depth:
        raise BadLine("a parenthesis without its end")
    return tokens


def owner_of(text: str) -> str | None:
    """The first token of a physical line that begins with one."""
    match = _OWNER.match(text.lstrip("\v\f\r"))
    return match[0] if match else None


# -- records --------------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """What follows the owner."""

    ttl: int | None  # seconds
    rdtype: dns.rdatatype.RdataType
    rdata: list[str]  # tokens


def record_of(tokens: list[str]) -> Record:
    """`[TTL] [class] type rdata`, TTL and class in any order."""
    ttl: int | None = None
    has_class = False
    for at, token in enumerate(tokens):
        if ttl is None and token[0].isdigit():
            ttl = ttl_of(token)
        elif not has_class and token.upper() in ("IN", "CLASS1"):
            has_class = True
        elif not has_class and token.upper() in ("CH", "HS", "CS", "ANY", "NONE"):
            raise BadLine(f"the class {token.upper()}; only IN is read")
        else:
            return Record(ttl, _type_of(token), tokens[at + 1 :])
    raise BadLine("a record without a type")


@lru_cache(256)
def ttl_of(token: str) -> int:
    """A TTL in seconds, written as a number or with units (`1h30m`)."""
    if not _TTL.fullmatch(token):
        raise BadLine(f"{shown(token)} is no TTL")
    try:
        ttl = dns.ttl.from_text(token)
    except dns.exception.DNSException:
        ttl = MAX_TTL + 1
    if ttl > MAX_TTL:
        raise BadLine(f"the TTL {shown(token)} is out of range")
    return ttl


@lru_cache(256)
def _type_of(token: str) -> dns.rdatatype.RdataType:
    try:
        rdtype = dns.rdatatype.from_text(token)
    except (dns.exception.DNSException, ValueError):
        raise BadLine(f"{shown(token)} is no record type") from None
    if dns.rdatatype.is_metatype(rdtype) or rdtype == 0:
        raise BadLine(f"{token.upper()} is no type that a zone can hold")
    return rdtype


def rdata_text(rdtype: dns.rdatatype.RdataType, tokens: list[str], origin: str | None) -> str:
    """The record as `TYPE RDATA`, names in it made absolute by `origin` (None: not known)."""
    text = rdata_of(rdtype, tokens, origin).to_text()
    if _NOWHERE in text:
        raise BadLine("a relative name, and the zone's name is not known: no SOA with it, no $ORIGIN")
    return f"{dns.rdatatype.to_text(rdtype)} {text}"


def rdata_of(rdtype: dns.rdatatype.RdataType, tokens: list[str], origin: str | None) -> dns.rdata.Rdata:
    """The record's data, checked by dnspython."""
    try:
        return dns.rdata.from_text(
            dns.rdataclass.IN, rdtype, " ".join(tokens), origin=_origin_name(origin), relativize=False
        )
    except (dns.exception.DNSException, ValueError) as error:
        about = shown(str(error), 120) or type(error).__name__
        raise BadLine(f"not the data of a record of type {dns.rdatatype.to_text(rdtype)}: {about}") from None


@lru_cache(256)
def target_of(token: str, origin: str | None) -> str:
    """A name in a record as lower-case text without its final dot, made absolute by `origin` (None: not known)."""
    try:
        name = dns.name.from_text(token, _origin_name(origin))
    except (dns.exception.DNSException, ValueError) as error:
        raise BadLine(f"{shown(token)} is no name: {shown(str(error), 120)}") from None
    text = name.to_text().lower().removesuffix(".")
    if text.endswith(_NOWHERE[:-1]):
        raise BadLine("a relative target, and the zone's name is not known: no SOA with it, no $ORIGIN")
    return text


@lru_cache(16)
def _origin_name(origin: str | None) -> dns.name.Name:
    return dns.name.from_text(_NOWHERE if origin is None else f"{origin}.")


def unescaped(token: str) -> str:
    """An owner without its escapes (RFC 1035 section 5.1). A dot that is part of a label cannot be listed."""
    if "\\" not in token:
        return token
    return re.sub(r"\\([0-9]{3}|.)", _unescaped, token, flags=re.ASCII | re.DOTALL)


def _unescaped(match: re.Match[str]) -> str:
    written = match[1]
    if len(written) == 3:
        if int(written) > 255:
            raise BadLine(f"\\{written} is no octet")
        written = chr(int(written))
    if written == ".":
        raise BadLine("a dot inside a label")
    if written == "@" or written == "*" or not written.isascii():
        raise BadLine(f"the octet {ord(written)} in a name")
    return written
