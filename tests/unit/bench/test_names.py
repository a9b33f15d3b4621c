"""Generated names and query files: the same every time, each name once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.bench import names


def test_generated_names_are_different_sound_and_repeatable() -> None:
    generated = list(names.generate(200_000))
    assert len(set(generated)) == len(generated)
    assert generated == list(names.generate(200_000))
    assert generated[:100] != list(names.generate(100, seed=5))
    for name in generated[::1000]:
        labels = name.split(".")
        assert 2 <= len(labels) <= 3
        assert all(0 < len(label) < 64 and label.isalnum() and label.islower() for label in labels if label.isalpha())


@pytest.mark.parametrize("count", [0, -1, 1 << 30])
def test_counts_out_of_reach_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        next(names.generate(count))


def test_a_list_is_taken_without_its_comments(tmp_path: Path) -> None:
    source = tmp_path / "list"
    source.write_text("# head\na.example\n\nb.example\n! tail\n")
    collected = names.collect(source, tmp_path / "names")
    assert (collected.count, collected.sample) == (2, ["a.example", "b.example"])
    assert list(names.read(collected.path)) == ["a.example", "b.example"]


def test_queries_ask_what_their_case_says(tmp_path: Path) -> None:
    collected = names.collect(1_000, tmp_path / "names")
    listed = set(names.read(collected.path))
    files = names.write_queries(tmp_path, collected, seconds=1)
    asked = {case: [line.split()[0] for line in path.read_text().splitlines()] for case, path in files.items()}
    assert all(name.removeprefix("www.") in listed for name in asked["blocked"])
    assert not listed & set(asked["cached"])
    share = sum(name.removeprefix("www.") in listed for name in asked["mix"]) / len(asked["mix"])
    assert 0.19 < share < 0.21
    assert max(Counter(asked["miss"]).values()) == 1
    assert set(asked["cached"]) <= set(asked["popular"])
    again = names.write_queries(tmp_path, collected, seconds=1)
    assert again["miss"].read_text().split()[::2] == asked["miss"]
