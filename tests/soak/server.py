"""The server under soak: the real command on a config of its own, its commands, and what it holds.

Memory is what is resident of supervisor and workers without libraries and program text: anonymous memory, shared memory,
and the mapped files of state_dir. A page that several map counts for each: workers are forks, and PSS would take for growth
that one of them writes to a page that was shared, which ends when all have been written to. Descriptors are those of
/proc/PID/fd.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resolver import control
from tests.bench.processes import Process, process_tree
from tests.ports import free_port
from tests.soak.truth import State

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM_TIMEOUT = "400ms"
WORKERS = 2
RECORDER = b"resolver.records.process"  # in its command line
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+) *(.*)$")


class SoakError(Exception):
    """The soak cannot go on: the server does not start, or does not answer a command."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server holds at a moment without load. Octets by process; descriptors by process."""

    memory: dict[int, int]  # but the recorder's, which grows with the names that are asked, up to a bound
    recorder: int  # octets
    descriptors: dict[int, int]
    in_flight: int
    connections: int
    files: int  # in state_dir, but journals: what each of the last 1,000 generations changed of a list
    supervisor: int
    workers: dict[int, int]  # number → pid

    @property
    def total(self) -> int:
        return sum(self.memory.values())


class Server:
    """One Tampah in `folder`. `upstreams`: ports on loopback."""

    def __init__(self, folder: Path, upstreams: list[int], clock: Path | None) -> None:
        self.folder = folder
        self.port = free_port()
        self.upstreams = upstreams
        self.state_dir = folder / "state"
        self.config = folder / "config.yaml"
        self.toggles = folder / "toggles.txt"
        self.log = folder / "log"
        self._admin = free_port()
        self._environment = {}
        if clock is not None:
            library = folder / "clock.so"
            source = Path(__file__).with_name("clock.c")
            subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
            self._environment = {"LD_PRELOAD": str(library), "TAMPAH_CLOCK": str(clock)}
        self.process: Process | None = None

    # -- files --------------------------------------------------------------------------------------------------------
    def write_config(self, sinkhole: str) -> None:
        """The config, with the address that blocked names get; in place at once."""
        servers = ", ".join(f'"127.0.0.1:{port}"' for port in self.upstreams)
        self._replace(
            self.config,
            f"""listen: {{dns: ["127.0.0.1:{self.port}"]}}
workers: {WORKERS}
state_dir: {self.state_dir}
upstream: {{servers: [{servers}], timeout: {UPSTREAM_TIMEOUT}}}
cache: {{size: 2MiB}}
lists:
  - {{name: base, source: {self.folder}/base.txt, format: domains}}
  - {{name: toggles, source: {self.toggles}, format: domains, max_shrink: no, max_grow: no}}
sinkhole: {{action: address, ipv4: {sinkhole}, ttl: 5s}}
admin: {{listen: "127.0.0.1:{self._admin}"}}
guard: {{keep_generations: 3, asked: 0}}
""",
        )

    def break_config(self) -> None:
        """A config that cannot be read."""
        self._replace(self.config, "listen: {dns: [127.0.0.1:53\nlists: what\n")

    def write_toggles(self, names: frozenset[str]) -> None:
        self._replace(self.toggles, "".join(f"{name}\n" for name in ("always-toggled.example", *sorted(names))))

    def _replace(self, path: Path, text: str) -> None:
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(text)
        beside.replace(path)

    # -- the process --------------------------------------------------------------------------------------------------
    def start(self, state: State) -> None:
        """Start it and wait until every worker answers; SoakError says what its log said if that fails."""
        self.write_config(state.sinkhole)
        self.write_toggles(state.blocked)
        command = [sys.executable, "-m", "resolver", "run", "-c", str(self.config)]
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self.process = Process(command, cores, cwd=ROOT, log=self.log, environment=self._environment)
        deadline = time.monotonic() + 60
        while not self.is_whole():
            if self.process.has_ended() or time.monotonic() > deadline:
                self.process.end()
                raise SoakError(f"the server does not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def end(self) -> int:
        """SIGTERM; the exit status."""
        if self.process is None:
            return 0
        self.process.end(grace=15)
        return self.process.wait(1)

    def describe_end(self) -> str:
        """Whether it has ended, and its last words."""
        tail = self.log.read_text(errors="replace")[-1500:]
        if self.process is None or not self.process.has_ended():
            return f"it runs, and its log ends: {tail}"
        return f"it has ended with status {self.process.wait(1)}, and its log ends: {tail}"

    def ask(self, message: control.Message, timeout: float = 30.0) -> dict[str, Any]:
        """A command's answer; ControlError if it failed."""
        answer = control.ask(self.state_dir / "control.sock", message, timeout)
        if isinstance(answer, control.Failed):
            raise control.ControlError(answer.text)
        if not isinstance(answer, control.Report):
            raise control.ControlError(f"an answer of an unknown kind: {answer}")
        return answer.data

    def workers(self) -> dict[int, int]:
        """The pid of each worker that answers; empty if the server does not."""
        try:
            status = self.ask(control.Status(), 5)
        except control.ControlError:
            return {}
        return {item["worker"]: item["pid"] for item in status["workers"] if item["answers"] and item["generation"]}

    def is_whole(self) -> bool:
        """Whether every worker answers and serves."""
        return len(self.workers()) == WORKERS

    def sample(self) -> Sample:
        """What it holds now."""
        status = self.ask(control.Status(), 10)
        supervisor = int(status["pid"])
        pids = process_tree(supervisor)
        memory = {pid: sum(_own_memory(pid, self.state_dir)) for pid in pids}
        return Sample(
            recorder=sum(memory.pop(pid) for pid in pids if RECORDER in Path(f"/proc/{pid}/cmdline").read_bytes()),
            memory=memory,
            descriptors={pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids},
            in_flight=sum(item["in_flight"] for item in status["workers"]),
            connections=sum(item["connections"] for item in status["workers"]),
            files=sum(1 for path in self.state_dir.rglob("*") if path.is_file() and path.suffix != ".z"),
            supervisor=supervisor,
            workers={item["worker"]: item["pid"] for item in status["workers"]},
        )


def _own_memory(pid: int, state_dir: Path) -> Iterator[int]:
    """Resident octets of each mapping that is the process's own: no file outside state_dir."""
    counts = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if found := _MAPPING.match(line):
            path = found[2]
            counts = found[1] == "0" or path.startswith((str(state_dir), "/memfd:"))
        elif counts and line.startswith("Rss:"):
            yield int(line.split()[1]) * 1024
