"""The long form: `python -m tests.fuzz --packets 1000000`, or `--seconds 600`. Under `make debug` it has AddressSanitizer.

A failure prints the seed and the packet's number; the same seed gives the same packets again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from tests.fuzz.harness import EVERY, Harness

ROUND = 20_000  # packets a world lives for


def main() -> int:
    """Run rounds until there are enough packets or the time is over; 1 if a path was never taken."""
    parser = argparse.ArgumentParser(description="packets at random into the engine")
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, seed, done = time.monotonic(), options.seed, 0
    total: dict[str, int] = {}
    while done < options.packets and time.monotonic() - started < options.seconds:
        count = min(ROUND, options.packets - done)
        with tempfile.TemporaryDirectory() as folder:
            harness = Harness(Path(folder), seed)
            try:
                harness.run(count)
            except BaseException:
                print(f"seed {seed}: packet {harness.steps}")
                raise
            finally:
                harness.close()
        for path, times in harness.paths().items():
            total[path] = total.get(path, 0) + times
        done += count
        seed += 1
    seconds = time.monotonic() - started
    print(f"{done} packets in {seconds:.0f} s, seeds {options.seed} to {seed - 1}; paths taken:")
    for path in sorted(total, key=total.__getitem__, reverse=True):
        print(f"  {total[path]:>10}  {path}")
    missing = [path for path in EVERY if not total.get(path)]
    if missing:
        print("never taken:", ", ".join(sorted(missing)))
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
