"""Names as lists write them, brought into the one form that everything after works with.

A *normal* name is lower-case A-labels joined by dots, without the final dot: octets a-z 0-9 - _ only, labels of 1 to
63 octets, 253 octets in all. A hyphen may stand anywhere and an `xn--` label is taken as it is, because such names are
asked for whether or not a registry would sell them; U-labels are mapped by UTS 46 (non-transitional) and checked by
IDNA 2008.

A name's *key* is its labels from the TLD downward, each followed by an octet 0. So a parent's key is a strict prefix of
its children's, and in a list sorted by key a name's descendants follow it.
"""

from __future__ import annotations

import re

import idna

from resolver.lists.rules import BadLine

MAX_LABEL = 63  # octets, RFC 1035 section 2.3.4
MAX_NAME = 253  # octets in text form: 255 on the wire
_MAX_TEXT = 1024  # characters looked at; IDNA mapping of longer texts costs time and can never fit

_NORMAL = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+(?![0-9]+\Z)[a-z0-9_-]{1,63}", re.ASCII)
_ODD = re.compile(r"[^a-z0-9_.-]", re.ASCII)
_is_normal = _NORMAL.fullmatch


def normalise(text: str, *, allow_tld: bool = False) -> str:
    """The normal form of a name as written, at most one final dot dropped.

    A name of one label is refused unless `allow_tld`; a last label of digits alone is refused always, as what carries
    one is an address. BadLine says what is wrong.
    """
    name = text.lower()
    if len(name) <= MAX_NAME and _is_normal(name):
        return name
    return _normalise_slowly(text, allow_tld)


def _normalise_slowly(text: str, allow_tld: bool) -> str:
    if not text:
        raise BadLine("no name")
    if len(text) > _MAX_TEXT:
        raise BadLine(f"a name of {len(text)} characters; at most {MAX_NAME} octets")
    name = text.lower() if text.isascii() else _mapped(text)
    name = name.removesuffix(".")
    labels = name.split(".")
    if not name:
        raise BadLine("the root, which is every name")
    if "" in labels:
        raise BadLine("an empty label: two dots in a row, or one at the start")
    if not name.isascii():
        labels = [label if label.isascii() else _a_label(label) for label in labels]
        name = ".".join(labels)
    if odd := _ODD.search(name):
        raise BadLine(_about_character(odd[0]))
    longest = max(len(label) for label in labels)
    if longest > MAX_LABEL:
        raise BadLine(f"a label of {longest} octets; at most {MAX_LABEL}")
    if len(name) > MAX_NAME:
        raise BadLine(f"a name of {len(name)} octets; at most {MAX_NAME}")
    if labels[-1].isdigit():
        raise BadLine("ends in a number: an address, or part of one, is no name")
    if len(labels) == 1 and not allow_tld:
        raise BadLine("a bare top-level domain")
    return name


def _mapped(text: str) -> str:
    """UTS 46 mapping: case, width, the other full stops, Normalization Form C."""
    try:
        return idna.uts46_remap(text, std3_rules=False, transitional=False)
    except idna.IDNAError as error:
        raise BadLine(_about_idna(text, error)) from None


def _a_label(label: str) -> str:
    try:
        return idna.alabel(label).decode("ascii")
    except idna.IDNAError as error:
        raise BadLine(_about_idna(label, error)) from None


def _about_idna(text: str, error: Exception) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "not UTF-8"
    return f"not a name by IDNA 2008: {shown(str(error), 120)}"


def _about_character(character: str) -> str:
    if character.isspace():
        return "a blank inside the name"
    return f"the character '{shown(character)}' in the name"


def shown(text: str, length: int = 60) -> str:
    """`text` fit for a message: cut to `length` characters, what does not print written as an escape."""
    cut = text if len(text) <= length else text[: length - 1] + "…"
    return cut if cut.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in cut)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # an octet that was no UTF-8, kept by "surrogateescape"
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def key(name: str) -> bytes:
    """The sort key of a normal name; the root's is empty."""
    return b"".join(label + b"\0" for label in reversed(name.encode("ascii").split(b"."))) if name else b""


def from_key(key: bytes) -> str:
    """The normal name of a key."""
    return ".".join(label.decode("ascii") for label in reversed(key.split(b"\0")[:-1]))


_URL = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)(?::[0-9]*)?(?:[/?#].*)?", re.IGNORECASE)


def host_of_url(text: str) -> str | None:
    """The host of a URL as written (RFC 3986 section 3.2.2), or None where the text is no URL."""
    match = _URL.fullmatch(text)
    return match[1] if match else None
