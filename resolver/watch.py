"""Notices that config.yaml or a list file was changed, and waits until it is whole.

Events are hints, stat is the truth. What is watched are folders, not files: editors and `mv` put a new file in the old
one's place, and a mounted volume swaps a symbolic link beside it. So any event in such a folder, and every few seconds
none at all (network file systems send no events), leads to one look at all sources; only if size, time or inode of one
has changed is there a change. A change then has to settle: nothing is reported before all files have stood still for
`SETTLE` seconds, so that a list half written is not taken for a whole one; a file that never stands still is reported
after `PATIENCE` all the same. What came to its place by a rename is whole at once, and need not settle where that is asked
for (`quick`): of lists and the config an operator's own `tampah reload` shall be first, and say what it changed.

Folders below `blind` (state_dir, which a reload writes to) are never looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncinotify import Inotify

SETTLE = 1.0  # seconds without a change before a change counts; "edit, then tampah reload" comes before that
PATIENCE = 10.0  # seconds after which a file that still grows is taken as it is
LOOK = 2.0  # seconds between looks where no event comes
GATHER = 0.05  # seconds in which events are gathered

State = Mapping[str, tuple[int, int, int]]  # file → mtime in ns, size, inode; a missing file has no entry


def state_of(sources: Iterable[str]) -> State:
    """What the files behind paths and glob patterns look like now."""
    found = {}
    for source in sources:
        for path in glob.glob(source, recursive=True) if glob.has_magic(source) else (source,):  # noqa: PTH207
            try:
                stat = Path(path).stat()
            except OSError:
                continue
            found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found


def folders_of(sources: Iterable[str], blind: Path) -> set[Path]:
    """The folders in which a change of a source shows: its own, its target's if it is a link, those of a pattern's
    matches; where one is missing, the nearest that is there."""
    folders: set[Path] = set()
    for source in sources:
        while glob.has_magic(source):
            folders.update(Path(match).parent for match in glob.glob(source, recursive=True))  # noqa: PTH207
            source = str(Path(source).parent)
            if not glob.has_magic(source):
                folders.add(Path(source))
                break
        else:
            folders.update({Path(source).absolute().parent, Path(source).resolve().parent})
    near = {next(there for there in (folder, *folder.parents) if there.is_dir()) for folder in folders}
    return {folder for folder in near if not folder.is_relative_to(blind)}


def _inotify(folders: Iterable[Path]) -> Inotify:
    """What tells of events in these folders, without what is below them. OSError where the system does not."""
    from asyncinotify import Inotify, Mask  # not at the start: it takes a while

    events = Inotify()
    try:
        for folder in folders:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it has gone since
                events.add_watch(folder, Mask.ATTRIB | Mask.CLOSE_WRITE | Mask.MODIFY | Mask.MOVE | Mask.CREATE
                                 | Mask.DELETE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR)  # fmt: skip
    except OSError:
        events.close()
        raise
    return events


class Watch:
    """Watches sources that may be replaced while it runs."""

    def __init__(self, blind: Path) -> None:
        self._blind = blind.resolve()
        self._sources: Sequence[str] = ()
        self._known: State = {}
        self._quick: frozenset[Path] = frozenset()
        self._arrived: set[Path] = set()  # by a rename, since the last look
        self._renewed = asyncio.Event()
        self._heard = asyncio.Event()  # of an event, or of other sources

    def follow(self, sources: Sequence[str], known: State, quick: Iterable[Path] = ()) -> None:
        """Watch these from now on. `known`: what they looked like when last read; a difference is a change. `quick`: those
        that need not settle after a rename."""
        self._sources = sources
        self._known = known
        self._quick = frozenset(path.absolute() for path in quick)
        self._renewed.set()
        self._heard.set()

    async def changes(self) -> AsyncGenerator[list[str], None]:
        """Yields the paths that have changed, each time some have; ends only by cancellation.

        OSError when the system cannot watch (fs.inotify.max_user_watches).
        """
        while True:
            self._renewed = asyncio.Event()
            folders = folders_of(self._sources, self._blind)
            if not folders:
                await self._renewed.wait()
                continue
            with _inotify(folders) as events:
                listening = asyncio.ensure_future(self._listen(events))
                try:
                    while not (self._renewed.is_set() or listening.done()):
                        self._heard.clear()
                        if changed := await self._settled():  # at first, what came while nothing was watched
                            yield changed
                        if folders_of(self._sources, self._blind) != folders:
                            break
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(self._heard.wait(), LOOK)
                        await asyncio.sleep(GATHER)
                finally:
                    listening.cancel()
                    await asyncio.wait([listening])
                if not listening.cancelled():
                    listening.result()

    async def _listen(self, events: Inotify) -> None:
        """Hear of events; remember what came to its place by a rename."""
        from asyncinotify import Mask

        async for event in events:
            if event.mask & Mask.MOVED_TO and event.path is not None:
                self._arrived.add(event.path)
            self._heard.set()

    async def _settled(self) -> list[str]:
        """What differs from what was known, once it stands still; empty if nothing does."""
        now = state_of(self._sources)
        patience = PATIENCE
        while now != self._known and patience > 0 and not self._is_whole(now):
            await asyncio.sleep(SETTLE)
            patience -= SETTLE
            before, now = now, state_of(self._sources)
            if now == before:
                break
        changed = self._differing(now)
        self._known = now
        self._arrived.clear()
        return changed

    def _is_whole(self, now: State) -> bool:
        """Whether all that differs came by a rename and may be taken at once."""
        return all(
            Path(path).absolute() in self._quick & self._arrived
            and path in now
            and now[path][2] != self._known.get(path, (0, 0, 0))[2]
            for path in self._differing(now)
        )

    def _differing(self, now: State) -> list[str]:
        return sorted(path for path in {*now, *self._known} if now.get(path) != self._known.get(path))
