"""What the figures were measured on: machine, kernel, versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.peers import Peer

ROOT = Path(__file__).resolve().parents[2]


def describe(peers: Sequence[type[Peer]]) -> list[tuple[str, str]]:
    """(what, text) in the order of the report."""
    return list(_describe(peers))


def _describe(peers: Sequence[type[Peer]]) -> Iterator[tuple[str, str]]:
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpu)
    virtual = " (virtual machine)" if re.search(r"^flags.*\bhypervisor\b", cpu, re.M) else ""
    memory = int(re.findall(r"\d+", Path("/proc/meminfo").read_text())[0]) / 2**20
    yield "Machine", f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores{virtual}, {memory:.0f} GiB"
    yield "Kernel", f"{platform.system()} {platform.release()}"
    yield "Load before", " ".join(f"{value:.2f}" for value in os.getloadavg()) + " (1, 5, 15 minutes)"
    yield "Python", platform.python_version()
    yield "Tampah", _commit()
    yield "dnsperf", _first(["dnsperf", "-h"], r"Version ([\d.]+)")
    yield "nsd", _first(["nsd", "-v"], r"NSD version ([\d.]+)")
    for peer in peers:
        if not peer.name.startswith("tampah"):
            yield peer.name, ("our echo.c, gcc " if peer.name == "echo" else "") + peer.describe()


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "this tree"
    changed = ", with changes" if dirty.stdout.strip() else ""
    return f"commit {commit.stdout.strip()}{changed}" if commit.returncode == 0 else "this tree"


def _first(command: list[str], pattern: str) -> str:
    out = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    found = re.search(pattern, out.stdout + out.stderr)
    return found[1] if found else "?"
