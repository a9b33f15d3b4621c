"""The key of cookies: kept across restarts, for the server's own user alone, and never a reason not to start."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from resolver import cookies


def test_the_key_is_the_same_at_each_start(tmp_path: Path) -> None:
    made = cookies.key(tmp_path)
    assert len(made) == 16 and cookies.key(tmp_path) == made
    assert (tmp_path / cookies.FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [cookies.FILE]


def test_two_servers_have_different_keys(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert cookies.key(tmp_path / "a") != cookies.key(tmp_path / "b")


@pytest.mark.parametrize("damaged", [b"", b"short", bytes(17)])
def test_a_damaged_key_is_made_anew(tmp_path: Path, damaged: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / cookies.FILE).write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        made = cookies.key(tmp_path)
    assert "expected 16 octets" in caplog.text and cookies.key(tmp_path) == made


def test_a_key_that_cannot_be_kept_serves_until_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(cookies.key(tmp_path / "missing")) == 16
    assert "clients get new cookies at each start" in caplog.text
