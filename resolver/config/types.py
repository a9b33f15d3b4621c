"""The typed values of the configuration as pydantic sees them.

Each is one parser for what stands in the file, one text form that parses back, and one JSON Schema of what may stand
there (the schema describes the input, not the parsed value). Scalars are strict: no number becomes text and no text a
number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, PlainSerializer, PlainValidator, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError

from resolver import schedule
from resolver.config import addresses, records, units
from resolver.lists.conditions import TAGS
from resolver.vocabulary import EDE, Action

T = TypeVar("T")

ACTION_WORDS = {
    "address": Action.ADDRESS,
    "zero": Action.ZERO,
    "nxdomain": Action.NXDOMAIN,
    "nodata": Action.NODATA,
    "refused": Action.REFUSED,
    "drop": Action.DROP,
}
EDE_WORDS = {
    "forged": EDE.FORGED_ANSWER,
    "blocked": EDE.BLOCKED,
    "censored": EDE.CENSORED,
    "filtered": EDE.FILTERED,
    "prohibited": EDE.PROHIBITED,
    "none": None,
}
OverrideWord = Literal["given", "nxdomain", "nodata", "passthru", "drop", "tcp-only", "cname", "disabled"]
OVERRIDE_WORDS: tuple[OverrideWord, ...] = ("given", "nxdomain", "nodata", "passthru", "drop", "tcp-only", "disabled")

SAFE_SEARCH = ("google", "youtube", "youtube-moderate", "bing", "duckduckgo")
ALL_SAFE_SEARCH = ("google", "youtube", "bing", "duckduckgo")  # what yes stands for

WORD_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
MAX_WORKERS = 256
NO_LIMIT = 1e9  # a share that nothing reaches
_WORD = re.compile(WORD_PATTERN)
_SHARE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?%")


@dataclass(frozen=True, slots=True)
class Override:
    """What a list does instead of what its rules say; `target` is the alias's name where `word` is "cname"."""

    word: OverrideWord = "given"
    target: str = ""

    def __str__(self) -> str:
        return f"cname:{self.target}" if self.word == "cname" else self.word


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    import difflib  # only where something is wrong

    found = difflib.get_close_matches(word.lower(), known := list(known), n=1, cutoff=0.6)
    return found[0] if found else next((each for each in known if each.lower() == word.lower()), None)


def choose(value: object, words: Iterable[str]) -> PydanticCustomError:
    """The error for a value that is none of `words`."""
    known = list(words)
    context = {"nearest": nearest(value, known) if isinstance(value, str) else None}
    return PydanticCustomError("choice", cast(Any, f"expected one of {', '.join(known)}"), context)


def _flag(*others: str) -> Callable[[object], str]:
    """A parser of yes, no (booleans in YAML) and other words; gives the word."""

    def parse(value: object) -> str:
        word = {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else value
        if not isinstance(word, str) or word not in ("yes", "no", *others):
            raise choose(value, ("yes", "no", *others))
        return word

    return parse


def _parse_dnssec_mode(value: object) -> str:
    word = "off" if value is False else value  # YAML reads off as a boolean
    if not isinstance(word, str) or word not in ("off", "validate"):
        raise choose(value, ("off", "validate"))
    return word


def _parse_word(value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError("expected a word of letters, digits, - and _, at most 63 long")
    return value


def _parse_action(value: object) -> Action:
    if isinstance(value, Action) and value in ACTION_WORDS.values():
        return value
    if not isinstance(value, str) or value not in ACTION_WORDS:
        raise choose(value, ACTION_WORDS)
    return ACTION_WORDS[value]


def _parse_ede(value: object) -> EDE | None:
    if value is None or isinstance(value, EDE):
        return value
    if not isinstance(value, str) or value not in EDE_WORDS:
        raise choose(value, EDE_WORDS)
    return EDE_WORDS[value]


def _format_ede(code: EDE | None) -> str:
    return next(word for word, each in EDE_WORDS.items() if each is code)


def _parse_override(value: object) -> Override:
    if isinstance(value, Override):
        return value
    if isinstance(value, str) and value.startswith("cname:"):
        return Override("cname", addresses.parse_name(value.removeprefix("cname:")))
    for word in OVERRIDE_WORDS:
        if value == word:
            return Override(word)
    raise choose(value, (*OVERRIDE_WORDS, "cname:NAME"))


def _parse_share(value: object) -> float:
    if value is False or value == "no":
        return NO_LIMIT
    match = _SHARE.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) / 100 >= NO_LIMIT:
        raise ValueError("expected a share such as 30%, or no for no limit")
    return float(match[1]) / 100


def _format_share(share: float) -> str | bool:
    return False if share >= NO_LIMIT else f"{share * 100:.10g}%"


def _parse_names_or_file(value: object) -> str | tuple[str, ...]:
    """Names, or the path of a file that has one on each line."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError("expected a list of domain names, or the path of a file with one on each line")
    return without_repeats(tuple(addresses.parse_name(name) for name in value))


def _parse_tag(value: object) -> str:
    if not isinstance(value, str) or value not in TAGS:
        raise choose(value, sorted(TAGS))
    return value


_TIME = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
TIME_PATTERN = r"^([01]?[0-9]|2[0-3]):[0-5][0-9]$|^24:00$"


def _parse_time(value: object) -> int:
    """Minutes from midnight of `HH:MM`, up to 24:00."""
    match = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    minutes = int(match[1]) * 60 + int(match[2]) if match else -1
    if not 0 <= minutes <= schedule.MIDNIGHT:
        raise ValueError('expected a time such as "22:00", from "00:00" to "24:00"')
    return minutes


def _format_time(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def _parse_days(value: object) -> frozenset[int]:
    """Days of the week: words and ranges of them, in a list or as one text."""
    if isinstance(value, frozenset):
        return value
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words:
        raise ValueError("expected days in brackets, such as [mon-fri, sun]")
    found: set[int] = set()
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"expected days such as mon or mon-fri, not {word!r}")
        first, dash, last = (part.strip().lower() for part in word.partition("-"))
        begin = _day(first)
        end = _day(last) if dash else begin
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(found)


def _day(word: str) -> int:
    """A day's number, 0 for Monday, by its first three letters or its whole name."""
    for number, day in enumerate(_DAY_NAMES):
        if word in (day, day[:3]):
            return number
    near = nearest(word, [*schedule.DAYS, *_DAY_NAMES])
    raise ValueError(
        f"expected days such as mon or mon-fri, not {word!r}" + (f"; did you mean {near[:3]}?" if near else "")
    )


_DAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _format_days(days: frozenset[int]) -> list[str]:
    return [schedule.DAYS[day] for day in sorted(days)]


def _parse_safe_search(value: object) -> tuple[str, ...]:
    """The search engines of yes, no or a list."""
    if isinstance(value, bool):
        return ALL_SAFE_SEARCH if value else ()
    if not isinstance(value, list | tuple):
        raise ValueError("expected yes, no, or a list of search engines, such as [google, youtube]")
    for word in value:
        if word not in SAFE_SEARCH:
            near = nearest(word, SAFE_SEARCH) if isinstance(word, str) else ""
            hint = f"; did you mean {near}?" if near else f": {', '.join(SAFE_SEARCH)}"
            raise ValueError(f"expected search engines, not {word!r}{hint}")
    if "youtube" in value and "youtube-moderate" in value:
        raise ValueError("expected either youtube or youtube-moderate")
    return without_repeats(tuple(value))


def _parse_zone(value: object) -> str:
    """The name of a time zone that this machine knows, "" for its own."""
    if not isinstance(value, str):
        raise ValueError("expected a time zone such as Asia/Jakarta")
    try:
        schedule.zone_of(value)
    except ValueError as error:
        import zoneinfo

        near = nearest(value, zoneinfo.available_timezones())
        raise ValueError(f"{error}" + (f"; did you mean {near}?" if near else "")) from None
    return value


def _parse_workers(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_WORKERS:
        raise ValueError(f"expected auto or a number from 1 to {MAX_WORKERS}")
    return value


def _parse_admin(value: object) -> addresses.Endpoint | None:
    return None if value is None or value == "" else addresses.parse_endpoint(value)


def _parse_all_or(value: object) -> Literal["all"] | tuple[str, ...]:
    """ "all", or a list of words."""
    if value == "all":
        return "all"
    if not isinstance(value, list | tuple):
        raise ValueError("expected all, or a list of names in brackets")
    for place, word in enumerate(value):
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            raise ValueError(f"expected all, or a list of names: number {place + 1} is none")
    return without_repeats(tuple(value))


def without_repeats(values: tuple[T, ...]) -> tuple[T, ...]:
    """The values as they are; ValueError names one that stands there twice."""
    seen: set[T] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"expected each value once, but {value} stands there twice")
        seen.add(value)
    return values


def _text(description: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, "examples": list(examples)})


def _words(words: Sequence[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": list(words)})


def _flags(*others: str) -> WithJsonSchema:
    return WithJsonSchema({"enum": [True, False, "yes", "no", *others]})


def _measure(pattern: str, unit: str, *examples: str, number: str = "integer") -> WithJsonSchema:
    text = {"type": "string", "pattern": pattern, "examples": list(examples)}
    return WithJsonSchema({"anyOf": [text, {"type": number, "minimum": 0, "description": unit}]})


Text = Annotated[str, Strict()]
YesNo = Annotated[bool, Strict(), WithJsonSchema({"type": "boolean"})]
Number = Annotated[int, Strict()]
Word = Annotated[str, PlainValidator(_parse_word), WithJsonSchema({"type": "string", "pattern": WORD_PATTERN})]
Tag = Annotated[str, PlainValidator(_parse_tag), WithJsonSchema({"enum": sorted(TAGS)})]
Seconds = Annotated[
    float,
    PlainValidator(units.parse_duration),
    PlainSerializer(units.format_duration, return_type=str),
    _measure(units.DURATION_PATTERN, "seconds", "500ms", "10s", number="number"),
]
Ttl = Annotated[
    int,
    PlainValidator(units.parse_ttl),
    PlainSerializer(units.format_duration, return_type=str),
    _measure(units.DURATION_PATTERN, "seconds", "10s", "1d"),
]
Size = Annotated[
    int,
    PlainValidator(units.parse_size),
    PlainSerializer(units.format_size, return_type=str),
    _measure(units.SIZE_PATTERN, "octets", "64MiB", "500kB"),
]
Endpoint = Annotated[
    addresses.Endpoint,
    PlainValidator(addresses.parse_endpoint),
    PlainSerializer(str, return_type=str),
    _text("an address and a port", "127.0.0.1:53", "[::1]:53"),
]
OptionalEndpoint = Annotated[
    addresses.Endpoint | None,
    PlainValidator(_parse_admin),
    PlainSerializer(lambda value: "" if value is None else str(value), return_type=str),
    _text("an address and a port, or nothing", "127.0.0.1:8053", ""),
]
IPv4 = Annotated[
    IPv4Address,
    PlainValidator(addresses.parse_ipv4),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "format": "ipv4"}),
]
IPv6 = Annotated[
    IPv6Address,
    PlainValidator(addresses.parse_ipv6),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "format": "ipv6"}),
]
Network = Annotated[
    addresses.Network,
    PlainValidator(addresses.parse_network),
    PlainSerializer(str, return_type=str),
    _text("a network in CIDR form or one address", "192.168.0.0/16", "fc00::/7", "::1"),
]
Client = Annotated[
    addresses.Client,
    PlainValidator(addresses.parse_client),
    PlainSerializer(str, return_type=str),
    _text("an address, a network, a MAC address or file:PATH", "192.168.1.64/26", "02:00:00:aa:bb:cc", "file:kids.txt"),
]
Server = Annotated[
    addresses.Server,
    PlainValidator(addresses.parse_server),
    PlainSerializer(str, return_type=str),
    _text("a DNS server", "9.9.9.9", "9.9.9.9:53", "tls://9.9.9.9?name=dns.quad9.net"),
]
Name = Annotated[
    str, PlainValidator(addresses.parse_name), _text("a domain name, which covers what is below it too", "corp.example")
]
OptionalName = Annotated[
    str, PlainValidator(addresses.parse_optional_name), _text("a domain name, or nothing", "dns.example.com", "")
]
Record = Annotated[
    str,
    PlainValidator(records.check_record),
    _text("a record in the form of a zone file", "nas.lan. 300 IN MX 10 mail.lan."),
]
SafeSearch = Annotated[
    tuple[str, ...],
    PlainValidator(_parse_safe_search),
    PlainSerializer(list, return_type=list[str]),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {"type": "array", "uniqueItems": True, "items": {"enum": list(SAFE_SEARCH)}},
            ]
        }
    ),
]
Dns64Prefix = Annotated[
    IPv6Network | None,
    PlainValidator(addresses.parse_dns64_prefix),
    PlainSerializer(lambda value: "" if value is None else str(value), return_type=str),
    _text("an IPv6 prefix, or nothing", "64:ff9b::/96", ""),
]
Pattern = Annotated[
    str, PlainValidator(addresses.parse_pattern), _text("a domain name, or *. and a domain name", "nas.lan", "*.lan")
]
Answer = Annotated[
    addresses.Address | str,
    PlainValidator(addresses.parse_answer),
    PlainSerializer(str, return_type=str),
    _text("an address or a domain name", "192.168.1.5", "nas.lan"),
]
BlockAction = Annotated[
    Action,
    PlainValidator(_parse_action),
    PlainSerializer(lambda action: action.name.lower(), return_type=str),
    _words(list(ACTION_WORDS)),
]
InfoCode = Annotated[
    EDE | None,
    PlainValidator(_parse_ede),
    PlainSerializer(_format_ede, return_type=str),
    _words(list(EDE_WORDS)),
]
OverrideRule = Annotated[
    Override,
    PlainValidator(_parse_override),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(OVERRIDE_WORDS)}|cname:.+)$"}),
]
Workers = Annotated[
    int | Literal["auto"],
    PlainValidator(_parse_workers),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}]}),
]
Share = Annotated[
    float,
    PlainValidator(_parse_share),
    PlainSerializer(_format_share),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": f"^(?:{_SHARE.pattern}|no)$", "examples": ["30%"]}, {"const": False}]}
    ),
]
NamesOrFile = Annotated[
    tuple[str, ...] | str,
    PlainValidator(_parse_names_or_file),
    PlainSerializer(lambda value: value if isinstance(value, str) else list(value), when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
AllOrWords = Annotated[
    tuple[str, ...] | Literal["all"],
    PlainValidator(_parse_all_or),
    PlainSerializer(lambda value: value if value == "all" else list(value), when_used="json"),
    WithJsonSchema(
        {"anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "string", "pattern": WORD_PATTERN}}]}
    ),
]
Time = Annotated[
    int,
    PlainValidator(_parse_time),
    PlainSerializer(_format_time, return_type=str),
    WithJsonSchema({"type": "string", "pattern": TIME_PATTERN, "examples": ["22:00", "24:00"]}),
]
Days = Annotated[
    frozenset[int],
    PlainValidator(_parse_days),
    PlainSerializer(_format_days, return_type=list[str]),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}],
            "description": "days of the week and ranges of them",
            "examples": [["mon-fri"], ["sat", "sun"]],
        }
    ),
]
Zone = Annotated[str, PlainValidator(_parse_zone), _text("a time zone's name", "Asia/Jakarta", "Europe/Berlin")]
Subdomains = Annotated[Literal["auto", "yes", "no"], PlainValidator(_flag("auto")), _flags("auto")]
Enabled = Annotated[Literal["yes", "no", "shadow"], PlainValidator(_flag("shadow")), _flags("shadow")]
DnssecMode = Annotated[
    Literal["off", "validate"], PlainValidator(_parse_dnssec_mode), WithJsonSchema({"enum": [False, "off", "validate"]})
]
Once = AfterValidator(without_repeats)
