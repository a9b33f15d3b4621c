"""Processes under measurement: started on one core in a group of their own, read from /proc, ended for certain.

CPU time is that of the whole tree under the process that was started: what lives (user and system) and what has ended
and was waited for, so a server that forks for each TCP connection or compiles in a child is charged for it. Memory is
PSS: a page that several processes share counts once.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_PSS = re.compile(r"^Pss:\s+(\d+)", re.M)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None


def _all() -> Iterator[tuple[int, list[str]]]:
    """Every process of this machine, with the fields of _stat()."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            yield int(entry.name), fields


def process_tree(root: int) -> list[int]:
    """`root` and every process below it."""
    parents: dict[int, int] = {}
    for pid, fields in _all():
        parents[pid] = int(fields[1])
    tree = [root] if root in parents else []
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time of the processes and of those of their children that have ended."""
    ticks = 0
    for pid in pids:
        if fields := _stat(pid):
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / _TICK


def pss_bytes(pids: Sequence[int]) -> int:
    """Proportional set size of the processes together."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            if found := _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_text()):
                kib += int(found[1])
    return kib * 1024


def rss_bytes(pids: Sequence[int]) -> int:
    """Resident memory, shared pages counted for each: cheap to read however large a process is."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * PAGE


def core_busy_seconds(core: int) -> float:
    """How long a core has worked for processes of anybody (user, nice, system) since boot."""
    for line in Path("/proc/stat").read_text().splitlines():
        fields = line.split()
        if fields[0] == f"cpu{core}":
            return sum(map(int, fields[1:4])) / _TICK
    return 0.0


class Process:
    """A program in a process group of its own on the given cores; ended, with all below it, when the block is left."""

    def __init__(
        self,
        command: Sequence[str],
        cores: str = "0",
        *,
        cwd: Path | None = None,
        log: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        with contextlib.ExitStack() as files:
            out = files.enter_context(log.open("ab")) if log else subprocess.DEVNULL
            self._popen = subprocess.Popen(
                ["taskset", "-c", cores, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def tree(self) -> list[int]:
        return process_tree(self.pid)

    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def wait(self, seconds: float) -> int:
        """The exit status; subprocess.TimeoutExpired if there is none in time."""
        return self._popen.wait(seconds)

    def send(self, number: signal.Signals) -> None:
        """Signal the process that was started, and no other."""
        self._popen.send_signal(number)

    def end(self, grace: float = 5.0) -> None:
        """SIGTERM, and after `grace` seconds SIGKILL for the whole group."""
        if not self.has_ended():
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace)
        tree = self.tree
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in tree[1:]:  # whoever left the group
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait()
        deadline = time.monotonic() + 5
        while _group_lives(self.pid) and time.monotonic() < deadline:
            time.sleep(0.02)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _group_lives(group: int) -> bool:
    return any(int(fields[2]) == group and fields[0] != "Z" for _, fields in _all())
