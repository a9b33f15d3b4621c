"""`python -m tests.soak --minutes M`: mixed load with reloads, flaps, kills and clock steps; ends with 1 on a fault."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
from pathlib import Path

from tests.soak.run import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=int, default=1000, help="UDP queries a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the report there as well")
    options = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # clients that are cut off are part of it
    steps_clock = shutil.which("gcc") is not None
    if not steps_clock:
        print("without gcc the clock is not stepped")
    verdict = asyncio.run(
        soak(
            options.minutes * 60,
            rate=options.rate,
            seed=options.seed,
            steps_clock=steps_clock,
            say=lambda text: print(text, flush=True),
        )
    )
    report = "\n".join(verdict.lines()) + "\n"
    print(report, end="")
    if options.out:
        options.out.write_text(report)
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
