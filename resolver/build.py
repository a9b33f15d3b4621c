"""The process that builds a generation for the supervisor: the config on stdin, the number or the fault on stdout.

A process of its own so that reading millions of lines neither holds up nor swells the supervisor: its memory is given
back as it ends. It runs at a lower priority, since queries come first.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys

from resolver import logs
from resolver.config.model import Config
from resolver.lists.compile import build_generation

NICENESS = 5


def main() -> None:
    """`python -m resolver.build`: Config.to_json() in, {"generation": n} or {"error": text} out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the supervisor, which ends this
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    logs.set_up("build")
    config = Config.from_json(sys.stdin.read())
    try:
        generation = build_generation(config)
    except (OSError, ValueError) as error:
        answer: dict[str, object] = {"error": str(error)}
    else:
        answer = {"generation": generation.number}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
