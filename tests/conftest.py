"""What all tests share: where the real lists are, and which programs of Debian's must be there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_lists() -> Path:
    """The folder of real lists; the test is skipped where it is missing."""
    folder = Path(os.environ.get("TAMPAH_SHARED", ROOT.parent / "shared")) / "data" / "lists"
    if not folder.is_dir():
        pytest.skip(f"the real lists are not here: {folder}")
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose peer programs are missing; in CI that is a failure."""
    for mark in item.iter_markers("peer"):
        missing = [program for program in mark.args if shutil.which(program) is None]
        if missing and os.environ.get("CI"):
            pytest.fail(f"needs {', '.join(missing)}")
        if missing:
            pytest.skip(f"needs {', '.join(missing)}")
