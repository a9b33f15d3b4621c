"""Tampah as the benchmark runs it: the real command on a config of its own, workers pinned with everything else.

The names stand in two lists: the last ten thousand, or a tenth if that is less, are one of their own, so that a change
of a small list beside a large one can be measured; together they are the names that every peer has. Metrics are on.
`Tampah` is one worker on core 0, its supervisor and compile included; `TampahPair` is two workers on both cores, for
figures of memory and of CPU a query side by side.
"""

from __future__ import annotations

import compileall
import shutil
import signal
import sys
from itertools import islice
from pathlib import Path

from tests.bench.names import Names, read
from tests.bench.peers import Peer, write_lines
from tests.bench.processes import Process
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SMALL_LIST = 10_000  # names


class Tampah(Peer):
    name = "tampah"
    program = sys.executable
    version = (sys.executable, "-c", "from resolver import __version__; print(__version__)")
    cwd = ROOT
    can_reload = True
    workers = 1
    counts = "all"  # query_log.what: which queries are counted by name

    @classmethod
    def describe(cls) -> str:
        from importlib import metadata

        try:
            return metadata.version("tampah")
        except metadata.PackageNotFoundError:
            return "from this tree"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write(self, names: Names) -> None:
        compileall.compile_dir(Path(self.cwd) / "resolver", quiet=1)  # as an installation has it
        self.folder.mkdir()
        small = min(SMALL_LIST, names.count // 10)
        lines = (f"{name}\n" for name in read(names.path))
        write_lines(self.folder / "large.txt", islice(lines, names.count - small))
        write_lines(self.folder / "small.txt", lines)
        (self.folder / "config.yaml").write_text(
            f"""listen: {{dns: ["127.0.0.1:{self.port}"]}}
workers: {self.workers}
state_dir: {self.state}
upstream: {{servers: ["127.0.0.1:{self.upstream}"]}}
cache: {{size: 64MiB, prefetch: no}}
lists:
  - {{name: large, source: {self.folder}/large.txt, format: domains, category: gambling}}
  - {{name: small, source: {self.folder}/small.txt, format: domains, category: gambling}}
categories:
  gambling: {{action: zero, ede: blocked}}
admin: {{listen: "127.0.0.1:{free_port()}"}}
query_log: {{what: {self.counts}}}
"""
        )

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "resolver", "run", "-c", f"{self.folder}/config.yaml"]

    @property
    def mapped_octets(self) -> int:
        """Of the index in force, which is what workers map: the newest."""
        files = sorted((self.state / "index").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return files[-1].stat().st_size

    @property
    def file_octets(self) -> int:
        """Of the index and of the lists in compiled form."""
        return self.mapped_octets + sum(path.stat().st_size for path in (self.state / "runs").iterdir())

    def forget(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)

    def add(self, name: str) -> None:
        self._append("large.txt", name)

    def add_small(self, name: str) -> None:
        """Put one more name on the small list."""
        self._append("small.txt", name)

    def _append(self, file: str, name: str) -> None:
        with (self.folder / file).open("a") as out:
            out.write(name + "\n")

    def reload(self, server: Process) -> None:
        server.send(signal.SIGHUP)


class TampahPair(Tampah):
    name = "tampah-2"
    cores = "0,1"
    workers = 2
