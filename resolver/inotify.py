"""What the kernel says of folders (inotify(7)), through libc: for who has to know that a file came by a rename.

Such a file is whole at once, which one that is being written is not. Events of others are hints alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
_ONLYDIR = 0x1000000
_WANTED = (
    _MODIFY
    | _ATTRIB
    | _CLOSE_WRITE
    | _MOVED_FROM
    | _MOVED_TO
    | _CREATE
    | _DELETE
    | _DELETE_SELF
    | _MOVE_SELF
    | _ONLYDIR
)
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, octets of the name
_ROOM = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Watches some folders, without what is below them. OSError where the system does not (fs.inotify.max_user_watches)."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders: dict[int, Path] = {}
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")
        try:
            for folder in folders:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it has gone since
                    watch = _checked(_libc.inotify_add_watch(self._fd, os.fsencode(folder), _WANTED), str(folder))
                    self._folders[watch] = folder
        except OSError:
            self.close()
            raise

    def take(self) -> set[Path]:
        """What was put in its place by a rename since the last call."""
        arrived = set()
        with contextlib.suppress(BlockingIOError):
            while octets := os.read(self._fd, _ROOM):
                for watch, mask, name in _events(octets):
                    if mask & _MOVED_TO and watch in self._folders:
                        arrived.add(self._folders[watch] / name)
        return arrived

    async def wait(self, seconds: float, ended: asyncio.Event) -> None:
        """Until something happens, `ended` is set, or for so long."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        waiting = [asyncio.ensure_future(each.wait()) for each in (readable, ended)]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(self._fd)
            for each in waiting:
                each.cancel()

    def close(self) -> None:
        """Watch no more."""
        os.close(self._fd)


def _events(octets: bytes) -> Iterator[tuple[int, int, str]]:
    at = 0
    while at < len(octets):
        watch, mask, _, length = _EVENT.unpack_from(octets, at)
        at += _EVENT.size + length
        yield watch, mask, os.fsdecode(octets[at - length : at].rstrip(b"\0"))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
