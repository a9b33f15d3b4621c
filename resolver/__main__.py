"""`python -m resolver` is `tampah`; so is the installed command.

`tampah run` with a config file and nothing else is taken here, past click, which takes as long to load as a worker takes to
start. Everything else, and every mistake, goes to cli.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def file_to_run(arguments: Sequence[str]) -> Path | None:
    """FILE, if the arguments are `run -c FILE`; else None."""
    if len(arguments) == 3 and arguments[0] == "run" and arguments[1] in ("-c", "--config"):
        file = Path(arguments[2])
        return None if file.is_dir() else file
    return None


def main() -> None:
    """Do what the command line says."""
    file = file_to_run(sys.argv[1:])
    if file is None:
        from resolver.cli import main as command

        command()
        return
    from resolver import supervisor

    try:
        supervisor.run(file)
    except Exception as error:
        from resolver.cli import complain

        complain(error)


if __name__ == "__main__":
    main()
