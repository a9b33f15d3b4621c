"""How long `POST /api/v1/block` takes until its answer, which comes when every worker enforces it.

    python -m tests.bench.api [--times 300]

Over loopback, a connection for each request as curl would make one, two workers. Half of the calls are undone again, so the
overlay stays small. The figures mean little while other things run on the machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from tests.blackbox.test_api import call, make
from tests.fakes import FakeUpstream


def main() -> None:
    """Run once and print the figures as JSON: milliseconds."""
    parser = argparse.ArgumentParser(description="how long a block by the API takes")
    parser.add_argument("--times", type=int, default=300)
    options = parser.parse_args()
    took = []
    with tempfile.TemporaryDirectory() as folder, FakeUpstream() as upstream:
        with make(Path(folder), upstream, token_file="token") as server:
            for number in range(options.times):
                for what in ("block", "undo"):
                    began = time.perf_counter()
                    status, said = call(server, "POST", what, {"name": f"n{number}.example"})
                    took.append((time.perf_counter() - began) * 1000)
                    assert status == 200, said
    took.sort()
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    print(
        json.dumps(
            {
                "calls": len(took),
                **{key: took[int(len(took) * share)] for key, share in shares.items()},
                "max": took[-1],
            }
        )
    )


if __name__ == "__main__":
    main()
