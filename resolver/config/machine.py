"""What this machine, or the container that this process is confined to, has."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def memory(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Octets of memory that this process and its children may use: the machine's, or less if a control group says so."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        path = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return least  # version 1, which nobody runs any more, or none
    folder = cgroups / path.strip("/")
    for place in (folder, *folder.parents):
        if not place.is_relative_to(cgroups):
            break
        try:
            least = min(least, int((place / "memory.max").read_text()))
        except (OSError, ValueError):
            continue  # "max", or the root group, which has no such file
    return least
