"""The supervisor's end of a process beside the workers: started once it is wanted, and again when it ends.

Nothing of a query depends on it: DNS is served while it is down. It talks over a channel as workers do, and ends by itself
when that is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

from resolver import control, spawn
from resolver.channel import Channel
from resolver.control import ControlError
from resolver.facts import Facts

FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0  # seconds before a restart
STEADY = 60.0  # seconds of life after which a death counts as the first again

_log = logging.getLogger(__name__)


class Helper:
    """Keeps a process of `module` running while it is wanted. `name` is what it is called in the log and in `facts`.

    `greet` is called with the channel to each new life, `take` with each message from it, `ended` with why a life that
    was wanted is over. `handed`: descriptors that it gets, as arguments behind its channel's. `grace`: seconds that it has
    to end by itself.
    """

    def __init__(
        self,
        name: str,
        module: str,
        facts: Facts,
        *,
        greet: Callable[[Channel], None],
        take: Callable[[control.Message], Awaitable[None]],
        ended: Callable[[str], None],
        handed: Sequence[int] = (),
        grace: float = 1.0,
    ) -> None:
        self.channel: Channel | None = None  # while it is up
        self._name = name
        self._module = module
        self._facts = facts
        self._greet = greet
        self._take = take
        self._ended = ended
        self._handed = handed
        self._grace = grace
        self._wanted = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def wanted(self) -> bool:
        """Whether it should be running."""
        return self._wanted.is_set()

    def want(self, wanted: bool = True) -> None:
        """Have it running (once `run` runs), or let it end."""
        if wanted:
            self._wanted.set()
            return
        self._wanted.clear()
        if self.channel:
            self.channel.close()

    async def run(self) -> None:
        """Keep the process running while it is wanted, until cancelled."""
        delay, loop = 0.0, asyncio.get_running_loop()
        try:
            while True:
                await self._wanted.wait()
                began = loop.time()
                reason = await self._live()
                if not self.wanted:
                    self._ended("it is not wanted any more")
                    continue
                if loop.time() - began > STEADY:
                    delay = 0.0
                delay = min(max(2 * delay, FIRST_DELAY), LONGEST_DELAY)
                _log.error("the %s ended (%s); starting it again in %.1f s", self._name, reason, delay)
                self._ended(reason)
                await asyncio.sleep(delay)
        finally:
            await self._end()

    async def stop(self) -> None:
        """End the process, if there is one."""
        self.want(False)
        await self._end()

    async def _live(self) -> str:
        """One life of the process; returns how it ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *spawn.command(self._module, *map(str, [theirs.fileno(), *self._handed])),
                env=spawn.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *self._handed],
                process_group=0,  # a terminal's SIGINT goes to the supervisor
            )
        self._facts.helpers = {**self._facts.helpers, self._name: self._process.pid}
        fault = ""
        try:
            async with await Channel.over(ours) as channel:
                self._greet(channel)
                self.channel = channel
                while message := await channel.receive():
                    await self._take(message)
        except ControlError as error:
            fault = str(error)
        finally:
            self.channel = None
            self._facts.helpers = {name: pid for name, pid in self._facts.helpers.items() if name != self._name}
        status = await self._end()
        return fault or f"status {status}"

    async def _end(self) -> int | None:
        """See that the process ends: its channel is closed, so either it is about to, or it is beyond help; its status."""
        process = self._process  # not taken away: the run that was cancelled and stop() both wait here
        if process is None:
            return None
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._grace):
                    await process.wait()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        status = await process.wait()
        if self._process is process:
            self._process = None
        return status
