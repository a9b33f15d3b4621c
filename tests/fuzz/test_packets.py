"""The short form of the fuzzer, with proof that it has been everywhere."""

from __future__ import annotations

import os
from pathlib import Path

from tests.fuzz.harness import EVERY, Harness

COUNT = int(os.environ.get("TAMPAH_FUZZ_PACKETS", "20000"))


def test_every_answer_is_sound_and_every_path_was_taken(tmp_path: Path) -> None:
    harness = Harness(tmp_path, seed=20)
    try:
        harness.run(COUNT)
    finally:
        harness.close()
    reached = harness.paths()
    missing = {path for path in EVERY if reached[path] < 5}
    assert not missing, dict(reached)
