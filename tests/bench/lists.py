"""What `tampah lint` and `tampah lists --value` take at size.

    python -m tests.bench.lists [--names 10000000] [--folder /tmp/lists-bench]

Lint reads a file of a tenth of the names; the lists of a generation are one of all the names and one of that tenth, a part
of which the large one has as well. Names are those of tests/bench/index.py. The figures mean little while other things run.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from pathlib import Path

from resolver.engine.engine import RunBuilder
from resolver.lint.findings import lint
from resolver.lists.parse import Options
from resolver.lists.rules import Outcome
from resolver.lists.runs import RunHeader, write_run
from resolver.lists.value import values_of
from resolver.snapshot import RUNS, ListState
from resolver.vocabulary import Scope
from tests.bench.index import names


def main() -> None:
    """Run once and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="what lint and lists --value take")
    parser.add_argument("--names", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/lists-bench"))
    options = parser.parse_args()
    runs = options.folder / RUNS
    runs.mkdir(parents=True, exist_ok=True)
    text = options.folder / "some.txt"
    with text.open("wb") as file:
        for chunk in names(options.names // 10, seed=7):
            file.write(chunk)
    figures: dict[str, object] = {}
    began, processor = time.perf_counter(), time.process_time()
    [verdict] = lint([text], Options())
    figures["lint"] = {
        "lines": verdict.file.report.lines,
        "findings": verdict.counts,
        "seconds": time.perf_counter() - began,
        "seconds_processor": time.process_time() - processor,
        "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    states = []
    for number, (count, seed) in enumerate(((options.names, 1), (options.names // 10, 7))):
        builder, line = RunBuilder(), 1
        for chunk in names(count, seed):
            line += builder.scan(chunk, line, [(b"", b"", Scope.BOTH, 0)])[0]
        write_run(runs / f"{number}.run", builder, RunHeader((Outcome(),), lines=line - 1))
        states.append(ListState(f"list{number}", f"{number}.run", number))
        del builder
    began, processor = time.perf_counter(), time.process_time()
    values = values_of(options.folder, states, None)
    figures["value"] = {
        "lists": [each.to_json() for each in values],
        "seconds": time.perf_counter() - began,
        "seconds_processor": time.process_time() - processor,
    }
    print(json.dumps(figures, indent=1))
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
