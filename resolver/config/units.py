"""Durations and sizes as people write them.

A duration is a number and a unit (`500ms`, `10s`, `1d`) or a bare number of seconds; the finest step is a
millisecond, so that what is formatted reads back as the same number. A size is a number and a unit (`64MiB`, `500kB`)
or a bare number of octets. A number may have decimals as long as the result is whole (`1.5h`, `0.5GiB`). A
ValueError's text names what was expected; what stood there is added by the caller.
"""

from __future__ import annotations

import re
from decimal import Decimal

MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
OCTETS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
MAX_TTL = 2**31 - 1  # seconds, RFC 2181 section 8
MAX_SECONDS = 100 * 366 * 86_400  # no wait or interval here is longer than a century
MAX_OCTETS = 2**50

DURATION_PATTERN = r"^[0-9]{1,15}(\.[0-9]{1,6})? ?(ms|s|m|h|d|w)$"
SIZE_PATTERN = r"^[0-9]{1,18}(\.[0-9]{1,6})? ?([kKmMgGtT]?[bB]|[kKmMgGtT][iI][bB])$"
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d|w)")
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?) ?([kmgt]?b|[kmgt]ib)", re.IGNORECASE)
_OCTETS_FOLDED = {unit.lower(): octets for unit, octets in OCTETS.items()}


def parse_duration(value: object) -> float:
    """Seconds of a duration. ValueError for anything else than text with a unit or a number of seconds."""
    expected = "expected a duration such as 500ms, 10s, 5m, 2h, 1d or 1w"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(expected)
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError(expected)
        amount = Decimal(match[1]) * MILLISECONDS[match[2]]
    else:
        amount = Decimal(repr(value)) * 1000
    if not amount.is_finite() or amount < 0 or amount > MAX_SECONDS * 1000:
        raise ValueError("expected a duration between 0s and a century")
    if amount != int(amount):
        raise ValueError("expected a duration in whole milliseconds")
    return int(amount) / 1000


def parse_ttl(value: object) -> int:
    """Whole seconds of a duration that ends up in a TTL or a calendar: 0 to 2^31-1 (RFC 2181 section 8)."""
    seconds = parse_duration(value)
    if seconds != int(seconds) or seconds > MAX_TTL:
        raise ValueError("expected a duration in whole seconds, at most 24855d")
    return int(seconds)


def format_duration(seconds: float) -> str:
    """The shortest text with one unit that parses back to `seconds` (whole milliseconds)."""
    amount = round(seconds * 1000)
    if amount == 0:
        return "0s"
    unit = next(unit for unit, length in reversed(MILLISECONDS.items()) if amount % length == 0)
    return f"{amount // MILLISECONDS[unit]}{unit}"


def parse_size(value: object) -> int:
    """Octets of a size. ValueError for anything else than text with a unit or a whole number of octets."""
    expected = "expected a size such as 64MiB, 1GiB or 500kB"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(expected)
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(expected)
        amount = Decimal(match[1]) * _OCTETS_FOLDED[match[2].lower()]
    else:
        amount = Decimal(value)
    if amount < 0 or amount > MAX_OCTETS:
        raise ValueError("expected a size between 0B and 1024TiB")
    if amount != int(amount):
        raise ValueError("expected a size in whole octets")
    return int(amount)


def format_size(octets: int) -> str:
    """The text with the largest unit that divides `octets` exactly."""
    if octets == 0:
        return "0B"
    largest = sorted(OCTETS.items(), key=lambda item: item[1], reverse=True)
    unit = next(unit for unit, length in largest if octets % length == 0)
    return f"{octets // OCTETS[unit]}{unit}"
