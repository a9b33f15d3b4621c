"""What restricts a rule by type, client or name, and what rules do to each other: the text in `Outcome.condition`.

    plain                        a hosts or plain line in a file of adblock rules: after all of them, never cancelled
    badfilter                    cancels, at its own name, the rule that is the same without this word (merge.py)
    denied                       takes back, at and below a name, the rule that is the same without this word: `denyallow`
    dnstype=A|~AAAA              holds for these types of question, and not for those with ~
    client=10.0.0.0/8|~kids      … for these clients: addresses, networks, and names, which are those of groups
    ctag=user_child|~os_ios      … for clients with these tags, which a group gives to its clients
    denyallow=a.example|b        … for names other than these and what is below them
    dnsrewrite=NOERROR;A;1.2.3.4 answers with this; the same word on an exception takes such rewrites back, all of them
                                 where it has no value

The items stand in this order, parted by commas; `\\` goes before a comma, bar or backslash that is part of a value. So
equal restrictions are equal texts, however a list wrote them, and lists need not be known to decide by them.

Which of the claims on a query decide is `choose()`: matrix.py asks it where nothing depends on the query, a worker and
`explain` where something does. The rest of dialects.md's order is in the claims' order.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from resolver.vocabulary import RRType

TAGS = frozenset(
    {"device_audio", "device_camera", "device_gameconsole", "device_laptop", "device_nas", "device_other"}
    | {"device_pc", "device_phone", "device_printer", "device_securityalarm", "device_tablet", "device_tv"}
    | {"os_android", "os_ios", "os_linux", "os_macos", "os_other", "os_windows"}
    | {"user_admin", "user_regular", "user_child"}
)
_KEYS = ("dnstype", "client", "ctag", "denyallow")
_WORDS = ("plain", "badfilter", "denied")
_ESCAPED = re.compile(r"([\\,|])")
_UNESCAPED = re.compile(r"\\(.)")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition, parsed. Each restriction has what it asks for and, with `no_`, what it excludes.

    `rewrite` None: it is no rewrite; "" is a rewrite without a value, which only an exception can be.
    """

    types: tuple[str, ...] = ()
    no_types: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    no_clients: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    no_tags: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    rewrite: str | None = None
    is_plain: bool = False
    is_badfilter: bool = False
    is_denial: bool = False

    @property
    def restricts(self) -> bool:
        """Whether it depends on the question's type or on who asks. `denied` does not: see lists/parse/adblock.py."""
        return bool(self.types or self.no_types or self.clients or self.no_clients or self.tags or self.no_tags)

    def __str__(self) -> str:
        return ",".join(self._items())

    def _items(self) -> Iterator[str]:
        yield from (
            word
            for word, is_set in zip(_WORDS, (self.is_plain, self.is_badfilter, self.is_denial), strict=True)
            if is_set
        )
        wanted = (self.types, self.clients, self.tags, self.denied)
        unwanted = (self.no_types, self.no_clients, self.no_tags, ())
        for key, yes, no in zip(_KEYS, wanted, unwanted, strict=True):
            if yes or no:
                values = [*map(_escape, sorted(yes)), *(f"~{_escape(value)}" for value in sorted(no))]
                yield f"{key}={'|'.join(values)}"
        if self.rewrite is not None:
            yield f"dnsrewrite={_escape(self.rewrite)}"

    def for_class(self, name: str, tags: frozenset[str]) -> Condition | None:
        """What is left of it for the clients of a group; None where it cannot hold for them."""
        if not _holds(self.tags, self.no_tags, tags.__contains__):
            return None
        addresses = tuple(text for text in self.clients if is_network(text))
        no_addresses = tuple(text for text in self.no_clients if is_network(text))
        if name and name in self.no_clients:
            return None
        if self.clients and name and name in self.clients:
            addresses = ()
        elif self.clients and not addresses:
            return None
        return replace(self, clients=addresses, no_clients=no_addresses, tags=(), no_tags=())

    def holds(self, qtype: int, client: bytes) -> bool:
        """Whether it holds for a question's type and a client's 16 octets; after for_class(), for this client."""
        if not _holds(self.types, self.no_types, lambda text: type_number(text) == qtype):
            return False
        return not (self.clients or self.no_clients) or _holds(
            self.clients, self.no_clients, lambda text: _contains(text, client)
        )


def _holds(wanted: Sequence[str], unwanted: Sequence[str], fits: Callable[[str], bool]) -> bool:
    return not any(map(fits, unwanted)) and (not wanted or any(map(fits, wanted)))


NOTHING = Condition()


@lru_cache(maxsize=65536)
def parse(text: str) -> Condition:
    """The condition of a text that str() of one gave. ValueError for any other."""
    found = NOTHING
    for item in _split(text, ",") if text else ():
        key, equals, value = item.partition("=")
        if key == "dnsrewrite" and equals:
            found = replace(found, rewrite=_unescape(value))
        elif key in _KEYS and value:
            values = list(_split(value, "|"))
            yes = tuple(_unescape(each) for each in values if not each.startswith("~"))
            no = tuple(_unescape(each[1:]) for each in values if each.startswith("~"))
            match key:
                case "dnstype":
                    found = replace(found, types=yes, no_types=no)
                case "client":
                    found = replace(found, clients=yes, no_clients=no)
                case "ctag":
                    found = replace(found, tags=yes, no_tags=no)
                case _:
                    found = replace(found, denied=yes)
        elif item == "plain":
            found = replace(found, is_plain=True)
        elif item == "badfilter":
            found = replace(found, is_badfilter=True)
        elif item == "denied":
            found = replace(found, is_denial=True)
        else:
            raise ValueError(f"{text!r} is no condition")
    return found


def _split(text: str, mark: str) -> Iterator[str]:
    """The parts of a text between marks that have no backslash before them."""
    start = at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == mark:
            yield text[start:at]
            start = at + 1
        at += 1
    yield text[start:]


def _escape(text: str) -> str:
    return _ESCAPED.sub(r"\\\1", text)


def _unescape(text: str) -> str:
    return _UNESCAPED.sub(r"\1", text)


# -- what conditions ask for ------------------------------------------------------------------------------------------
def type_number(text: str) -> int:
    """The number of a type as conditions write it: by name, or TYPE and a number (RFC 3597 section 5)."""
    known = RRType.__members__.get(text)
    return known.value if known is not None else int(text.removeprefix("TYPE"))


def type_text(number: int) -> str:
    """The one text of a type in conditions."""
    return RRType(number).name if number in RRType.__members__.values() else f"TYPE{number}"


@lru_cache(maxsize=65536)
def network_of(text: str) -> Network | None:
    """The addresses that a client is given as, IPv4 for the mapped ones; None for a name."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((int(mapped), network.prefixlen - 96))
    return network


def is_network(text: str) -> bool:
    """Whether a client is given by address."""
    return network_of(text) is not None


def _contains(text: str, client: bytes) -> bool:
    network = network_of(text)
    if network is None:
        return False
    is_four = client.startswith(b"\0" * 10 + b"\xff\xff")
    if network.version != (4 if is_four else 6):
        return False
    address = int.from_bytes(client[12:] if is_four else client, "big")
    return address & int(network.netmask) == int(network.network_address)


# -- which claims decide ----------------------------------------------------------------------------------------------
def choose(claims: Iterable[T], judge: Callable[[T], tuple[Condition, bool]]) -> list[T]:
    """Of the claims that hold for a query, the strongest first, those that decide: none, one, or rewrites that add up.

    `judge` gives a claim's condition and whether it allows. The first decides, but a rewrite may have been taken back by
    an exception for rewrites before it; and of several rewrites the first that is an alias or an error stands alone,
    while those that only have records add up.
    """
    rewrites: list[T] = []
    taken_back: set[str] = set()
    for claim in claims:
        condition, allows = judge(claim)
        rewrite = condition.rewrite
        if rewrite is None:
            return rewrites or [claim]
        if allows:
            taken_back.add(rewrite)
        elif rewrite not in taken_back and "" not in taken_back:
            if is_final(rewrite):
                return [claim]
            rewrites.append(claim)
    return rewrites


def is_final(rewrite: str) -> bool:
    """Whether a rewrite stands alone: an alias or an error."""
    return not rewrite.startswith("NOERROR;") or rewrite.startswith("NOERROR;CNAME;")
