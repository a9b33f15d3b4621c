"""A short soak: everything that `make soak` does for as long as asked, for half a minute."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from tests.soak.run import soak

pytestmark = pytest.mark.alone


def test_mixed_load_with_mishaps_leaves_no_wrong_answer_and_nothing_behind() -> None:
    verdict = asyncio.run(soak(24, rate=300, seed=3, steps_clock=shutil.which("gcc") is not None))
    assert not verdict.faults, "\n".join(verdict.lines())
    assert verdict.tally.answered > 1_000
    assert verdict.journal.happened["worker killed"]
