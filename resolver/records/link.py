"""The supervisor's end of the process that counts which names are asked most (process.py).

It runs while `query_log.what` is not none. The supervisor itself reads no record and imports nothing of what counting needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resolver import control, ring
from resolver.channel import Channel
from resolver.facts import Facts
from resolver.helper import Helper

if TYPE_CHECKING:
    from resolver.config.model import Config
    from resolver.snapshot import Generation

PATIENCE = 2.0  # seconds that is waited for a write: what asks for it goes on by what was written before
GRACE = 5.0  # seconds to take and keep what there is, at its end

_log = logging.getLogger(__name__)


class Recorder:
    """Has queries counted. `rings`: the workers' rings; what they hold is counted from the first query on."""

    def __init__(self, state_dir: Path, rings: Sequence[int], facts: Facts) -> None:
        self._state_dir = state_dir
        self._rings = rings
        self._order: control.Count | None = None
        self._serials = itertools.count(1)
        self._asked: dict[int, asyncio.Future[str]] = {}
        self._helper = Helper(
            "recorder",
            "resolver.records.process",
            facts,
            greet=self._greet,
            take=self._take,
            ended=self._ended,
            handed=rings,
            grace=GRACE,
        )

    def follow(self, config: Config, generation: Generation) -> None:
        """Count by this config, and know these lists, from now on (once `run` runs)."""
        categories = {listed.name: listed.category for listed in config.lists}
        lists = tuple(
            control.Counted(state.slot, state.name, categories.get(state.name, "")) for state in generation.lists
        )
        self._order = control.Count(str(self._state_dir), config.query_log.what, config.query_log.clients, lists)
        if config.query_log.what == "none":
            was_wanted = self._helper.wanted
            self._helper.want(False)
            if not was_wanted or self._helper.channel is None:
                self._forget()
            return
        if not self._helper.wanted:
            for fd in self._rings:
                ring.want(fd)  # the process goes on where the rings begin, as if it had been there before
            self._helper.want()
        if self._helper.channel:
            self._helper.channel.send(self._order)

    async def write(self) -> bool:
        """Have asked.json say what is known by now; False where that did not come about in time."""
        if self._helper.channel is None:
            return False
        serial = next(self._serials)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked[serial] = answer
        try:
            self._helper.channel.send(control.Write(serial))
            async with asyncio.timeout(PATIENCE):
                error = await answer
        except TimeoutError:
            error = f"nothing was written within {PATIENCE:g} s"
        finally:
            del self._asked[serial]
        if error:
            _log.warning("what is asked most here may not be up to date: %s", error)
        return not error

    async def run(self) -> None:
        """Keep the process running while it is wanted, until cancelled."""
        await self._helper.run()

    async def stop(self) -> None:
        """End the process, once it has kept what it knows."""
        await self._helper.stop()

    def _greet(self, channel: Channel) -> None:
        assert self._order is not None
        channel.send(self._order)

    async def _take(self, message: control.Message) -> None:
        match message:
            case control.Written(serial, error):
                answer = self._asked.get(serial)
                if answer is not None and not answer.done():
                    answer.set_result(error)

    def _ended(self, reason: str) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(f"the recorder ended: {reason}")
        if not self._helper.wanted:
            self._forget()

    def _forget(self) -> None:
        """Nothing is to be counted: delete what was."""
        from resolver.asked import FILE, TALLY_FILE

        for name in (FILE, TALLY_FILE):
            with contextlib.suppress(OSError):
                (self._state_dir / name).unlink(missing_ok=True)
