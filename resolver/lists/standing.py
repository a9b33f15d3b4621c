"""Whether a build would come to what is in force already: then there is nothing to build, neither at a start nor at a
reload.

A generation records the digest of the config that it was built by, and path, size, time and inode of each source. This is
what a start waits for, so it imports no parser, and leaves it to the workers to verify the index, which each does anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resolver import __version__, decisions
from resolver.lists.source import files_here, stat_of
from resolver.snapshot import Generation, ListState, last_good

if TYPE_CHECKING:
    from resolver.config.model import Config

YOUNG = 2.0  # seconds: a file changed so shortly before it was looked at may change again without its stat showing it


def standing(config: Config, digest: str, state_dir: Path) -> Generation | None:
    """The generation in force, if nothing has changed as far as config and stat can tell, and its files are there; else
    None. `digest` is config_digest of the config."""
    generation = last_good(state_dir)
    served = [listed for listed in config.lists if listed.enabled != "no"]
    if generation is None or generation.decided != decisions.read(state_dir).serial:
        return None
    if generation.config != digest or len(served) != len(generation.lists):
        return None
    try:
        for listed, state in zip(served, generation.lists, strict=True):
            stats = [stat_of(file) for file in files_here(listed, state_dir)]
            source = [(stat.path, stat.size, stat.mtime_ns, stat.inode) for stat in stats]
            if not (state.run or state.pending) or state.name != listed.name or not is_unchanged(source, state):
                return None
        for state in generation.own:
            stats = [stat_of(Path(path)) for path, *_ in state.source]
            if [(stat.path, stat.size, stat.mtime_ns, stat.inode) for stat in stats] != list(state.source):
                return None
    except (OSError, ValueError):
        return None
    return generation


def config_digest(config: Config) -> str:
    """A digest of all that a generation follows from beside its sources, this program's version included."""
    return hashlib.sha256(f"{__version__} {config.to_json()}".encode()).hexdigest()


def is_unchanged(source: Sequence[tuple[str, int, int, int]], before: ListState) -> bool:
    """Whether stat alone proves that a source (path, size, mtime in ns, inode of each file) is the one that was read."""
    youngest = max((mtime_ns for _, _, mtime_ns, _ in source), default=0) / 1e9
    return tuple(source) == before.source and youngest < before.seen - YOUNG
