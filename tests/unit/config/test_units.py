from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.config import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86_400),
        ("1w", 604_800),
        ("1.5h", 5400),
        ("10 s", 10),
        ("0s", 0),
        (90, 90),
        (2.5, 2.5),
    ],
)
def test_a_duration_is_read(text: object, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "10", "s", "10S", "-1s", "1 day", "1h30m", "٣s", "1e3s", True, None, -1, float("nan"), float("inf"), [1]],
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        units.parse_duration(text)


def test_a_duration_has_no_steps_below_a_millisecond() -> None:
    with pytest.raises(ValueError, match="whole milliseconds"):
        units.parse_duration("0.5ms")


@pytest.mark.parametrize("text", ["500ms", "1.5s", "24856d", 2**31])
def test_a_ttl_is_whole_seconds_in_31_bits(text: object) -> None:
    with pytest.raises(ValueError, match="whole seconds, at most"):
        units.parse_ttl(text)


@given(st.integers(0, units.MAX_SECONDS * 1000))
def test_a_duration_survives_its_text(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert units.parse_duration(units.format_duration(seconds)) == seconds
    assert units.parse_duration(seconds) == seconds


@given(st.integers(0, units.MAX_TTL))
def test_a_ttl_survives_its_text(seconds: int) -> None:
    assert units.parse_ttl(units.format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("64MiB", 64 * 2**20),
        ("1GiB", 2**30),
        ("500kB", 500_000),
        ("1KB", 1000),
        ("64mib", 64 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("7B", 7),
        (4096, 4096),
    ],
)
def test_a_size_is_read(text: object, octets: int) -> None:
    assert units.parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "64", "64M", "MiB", "-1B", "0.3B", "2PiB", "1025TiB", True, None, 1.5, -1])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        units.parse_size(text)


@given(st.integers(0, units.MAX_OCTETS))
def test_a_size_survives_its_text(octets: int) -> None:
    assert units.parse_size(units.format_size(octets)) == octets


@given(st.one_of(st.text(), st.from_regex(units.DURATION_PATTERN), st.from_regex(units.SIZE_PATTERN)))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for parse in (units.parse_duration, units.parse_ttl, units.parse_size):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error).startswith("expected a ")
