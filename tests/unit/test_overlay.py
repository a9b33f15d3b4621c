"""The overlay: the newest word wins, timed words end, and what was said survives."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.engine.engine import OVERLAY_ALLOW_VALUE, OVERLAY_BLOCK_VALUE, SuffixTable
from resolver.overlay import ALLOW, BLOCK, MAX_ENTRIES, Entry, Overlay, OverlayError, covering, next_end, words

NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


def test_the_words_are_the_engines() -> None:
    assert (ALLOW, BLOCK) == (OVERLAY_ALLOW_VALUE, OVERLAY_BLOCK_VALUE)


@given(st.lists(st.tuples(NAMES, st.sampled_from([ALLOW, BLOCK])), max_size=12), NAMES)
def test_the_newest_entry_that_covers_a_name_speaks(said: list[tuple[str, int]], name: str) -> None:
    entries = {about: Entry(about, word, made) for made, (about, word) in enumerate(said, 1)}
    wanted = covering(entries.values(), name)
    table = SuffixTable(words(entries.values(), now=1000.0))
    assert table.find(name) & 3 == (wanted[0].word if wanted else 0)


@given(st.lists(st.tuples(NAMES, st.sampled_from([ALLOW, BLOCK])), min_size=1, max_size=12), NAMES, NAMES)
def test_of_words_on_two_names_the_newer_is_the_higher(said: list[tuple[str, int]], one: str, other: str) -> None:
    entries = {about: Entry(about, word, made) for made, (about, word) in enumerate(said, 1)}
    table = SuffixTable(words(entries.values(), now=1000.0))
    first, second = (([*covering(entries.values(), name), None])[0] for name in (one, other))
    if first and second:
        assert (table.find(one) > table.find(other)) == (first.made > second.made)


def test_a_word_survives_a_restart_and_can_be_taken_back(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path)
    overlay.put("bad.example", BLOCK)
    overlay.put("good.example", ALLOW, 3600)
    again = Overlay(tmp_path)
    assert [(entry.name, entry.word) for entry in again.entries] == [("bad.example", BLOCK), ("good.example", ALLOW)]
    again.take_back("bad.example")
    assert [entry.name for entry in Overlay(tmp_path).entries] == ["good.example"]
    with pytest.raises(OverlayError, match=r"bad\.example was neither blocked nor allowed"):
        again.take_back("bad.example")


def test_a_timed_word_ends(tmp_path: Path) -> None:
    now = 1000.0
    overlay = Overlay(tmp_path, clock=lambda: now)
    entry = overlay.put("x.example", BLOCK, 60)
    assert next_end([entry], now) == 60
    now = 1060.0
    assert overlay.entries == ()
    assert words([entry], now) == {}
    assert next_end([entry], now) is None


def test_a_later_word_outranks_an_earlier_one_even_if_the_clock_stands_still(tmp_path: Path) -> None:
    overlay = Overlay(tmp_path, clock=lambda: 5.0)
    overlay.put("www.x.example", ALLOW)
    overlay.put("x.example", BLOCK)
    assert SuffixTable(words(overlay.entries, 5.0)).find("www.x.example") & 3 == BLOCK


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "overlay.json").write_text("{")
    with pytest.raises(OverlayError, match=r"overlay\.json: not a readable overlay"):
        Overlay(tmp_path)


def test_a_full_overlay_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resolver.overlay.MAX_ENTRIES", 2)
    overlay = Overlay(tmp_path)
    overlay.put("a.example", BLOCK)
    overlay.put("b.example", BLOCK)
    overlay.put("b.example", ALLOW)
    with pytest.raises(OverlayError, match="put them into a list"):
        overlay.put("c.example", BLOCK)
    assert MAX_ENTRIES >= 10_000
