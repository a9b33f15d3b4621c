"""Pauses: one form for what is paused, kept in a file, over when their time is."""

from __future__ import annotations

from pathlib import Path

import pytest

from resolver.config.addresses import Mac
from resolver.pause import FILE, MAX_SECONDS, Pause, PauseError, Pauses, clients_of, parse_target, read


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("kids", "kids"),
        ("all", "all"),
        ("10.0.0.7", "10.0.0.7"),
        ("10.0.0.0/24", "10.0.0.0/24"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("02-00-00-AA-BB-CC", "02:00:00:aa:bb:cc"),
    ],
)
def test_a_target_has_one_form(text: str, target: str) -> None:
    assert parse_target(text, ["kids"]) == target


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kidz", "did you mean kids?"),
        ("x", "groups: kids"),
        ("10.0.0.7/24", "bits are set after its prefix"),
        ("file:kids.txt", "not a file of them"),
        ("", "expected a group"),
    ],
)
def test_a_bad_target_is_explained(text: str, says: str) -> None:
    with pytest.raises(PauseError, match=says):
        parse_target(text, ["kids"])


def test_pauses_are_kept_and_end(tmp_path: Path) -> None:
    now = [1000.0]
    pauses = Pauses(tmp_path, lambda: now[0])
    assert pauses.put("kids", 60).until == 1060
    pauses.put("10.0.0.7", 3600)
    again = Pauses(tmp_path, lambda: now[0])
    assert again.pauses == pauses.pauses and len(again.pauses) == 2
    now[0] = 1060.0
    assert [each.target for each in again.pauses] == ["10.0.0.7"]
    with pytest.raises(PauseError, match=r"kids is not paused; paused: 10\.0\.0\.7"):
        again.take_back("kids")
    assert [each.target for each in again.take_back("")] == ["10.0.0.7"]
    with pytest.raises(PauseError, match="nothing is paused"):
        again.take_back("")
    assert read(tmp_path) == ()
    for seconds in (0, -1, MAX_SECONDS + 1, float("nan")):
        with pytest.raises(PauseError, match="between 1s and a year"):
            again.put("kids", seconds)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"pauses": {"a": [1]}}', '{"pauses": {"a": ["x", 2]}}', '{"pauses": 3}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(PauseError, match=f"{FILE}: not readable"):
        Pauses(tmp_path)


def test_what_pauses_mean_to_a_config() -> None:
    pauses = [Pause(target, 0, 9) for target in ("kids", "gone", "all", "10.0.0.7", "02:00:00:aa:bb:cc", "::/0")]
    names, networks, macs = clients_of(pauses, ["kids"])
    assert names == {"kids", "all"}
    assert [str(network) for network in networks] == ["10.0.0.7/32", "::/0"]
    assert macs == [Mac("02:00:00:aa:bb:cc")]
