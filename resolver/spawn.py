"""How this program starts another process of itself.

By exec, in a fresh interpreter; or, as long as this process has one thread only and no loop has begun, by a fork of what
it has imported already, which takes a hundredth of the time and shares the memory of it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import platform
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

_M_ARENA_MAX = -8  # malloc.h
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}  # the system call's number
_SCHED_ATTR = struct.Struct(
    "=IIQiIQQQ"
)  # size, policy, flags, nice, priority, runtime, deadline, period: sched_setattr(2)
_SHORT = 100_000  # nanoseconds, the shortest turn that the kernel grants

_log = logging.getLogger(__name__)

_HOME = str(Path(__file__).resolve().parents[1])


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` with this interpreter, without looking for it in the working folder (-P)."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """This process's environment, with the code that runs here found first."""
    path = os.pathsep.join(part for part in (_HOME, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path}


def share_arena() -> None:
    """Have all threads of this process and its forks allocate in one place. The C library would give each a place of its
    own, and most of what a thread's work of a moment took there would stay."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc has it, musl has no such places
        libc.mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give the memory that is free here back to the machine, after work that took much of it for a moment."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc has it
        libc.malloc_trim(0)


def take_short_turns() -> bool:
    """Ask the scheduler for short turns, which it gives soon after the process wakes; whether it grants them.

    Who waits for packets needs little time, but at once, also while a compile of lists is in the middle of its turn on the
    same core. Linux has it since 6.12; an older one changes nothing. Threads and children inherit it.
    """
    return _take_turns(_SHORT)


def take_usual_turns() -> bool:
    """Take back what was inherited of take_short_turns: who has short turns goes before; whether the scheduler grants it."""
    return _take_turns(0)


def _take_turns(nanoseconds: int) -> bool:
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    wanted = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, os.nice(0), 0, nanoseconds, 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, 0, wanted, 0) == 0)


class Forked:
    """A child made by fork(), with what of asyncio.subprocess.Process is needed to keep it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None
        self._fd = os.pidfd_open(pid)

    @property
    def returncode(self) -> int | None:
        """The exit status, -N if signal N ended it; None while it lives."""
        if self._status is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self._status = os.waitstatus_to_exitcode(status)
                os.close(self._fd)
        return self._status

    async def wait(self) -> int:
        """The exit status, once there is one. One task at a time may wait."""
        loop = asyncio.get_running_loop()
        while (status := self.returncode) is None:
            ended = asyncio.Event()
            loop.add_reader(self._fd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self._fd)
        return status

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.returncode is None:
            signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def can_fork() -> bool:
    """Whether a child would find everything as it should be: no thread that holds a lock, nothing that a loop waits for."""
    return threading.active_count() == 1


def fork(work: Callable[[], None], handed: Iterable[int]) -> Forked:
    """Have a child do `work` and end. It has the descriptors in `handed` and standard output and error, no others."""
    # The collector leaves alone what is here now: it would write to pages that are shared, and in the child close by
    # number what garbage of the parent's had open. What the parent's frames refer to stays, as the child never leaves them.
    gc.freeze()
    pid = os.fork()
    if pid:
        return Forked(pid)
    status = 1
    try:
        _forget_descriptors(set(handed))
        work()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        _log.exception("internal error")
    finally:
        os._exit(status)  # what the parent left to be done at its end is not the child's


def _forget_descriptors(handed: set[int]) -> None:
    """Close what is the parent's: its locks, sockets and epoll would live on with the child."""
    start = 3
    for fd in sorted(handed):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    if nothing:
        os.dup2(nothing, 0)
        os.close(nothing)
