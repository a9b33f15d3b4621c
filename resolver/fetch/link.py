"""The supervisor's end of the process that fetches lists: started once DNS is served, and again when it ends.

It runs only where the config has lists from other machines. What it tells goes to `facts`; where copies have changed,
`changed` is called with their names. The supervisor itself imports nothing of what fetching needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from resolver import control, spawn
from resolver.channel import Channel
from resolver.control import ControlError
from resolver.facts import Facts, SourceFacts

if TYPE_CHECKING:
    from resolver.config.model import Config

FIRST_DELAY, LONGEST_DELAY = 0.5, 60.0  # seconds before a restart
STEADY = 60.0  # seconds of life after which a death counts as the first again

_log = logging.getLogger(__name__)


class Sources:
    """Lists from other machines, kept up to date."""

    def __init__(self, facts: Facts, changed: Callable[[Sequence[str]], None]) -> None:
        self._facts = facts
        self._changed = changed
        self._config: Config | None = None
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._wanted = asyncio.Event()
        self._serials = itertools.count(1)
        self._orders: dict[int, tuple[control.Fetch, asyncio.Future[dict[str, str]]]] = {}

    def follow(self, config: Config) -> None:
        """Fetch this config's lists from now on (once `run` runs)."""
        self._config = config
        remote = {listed.name for listed in config.lists if listed.is_remote and listed.enabled != "no"}
        self._facts.sources = {name: facts for name, facts in self._facts.sources.items() if name in remote}
        if remote:
            self._wanted.set()
        if self._channel:
            self._channel.send(control.Follow(config.to_json()))

    async def fetch(self, names: Sequence[str]) -> dict[str, str]:
        """Ask the sources of these lists now (none: of all). Returns when all have answered or failed: list → error."""
        if not self._wanted.is_set():
            return {}
        serial = next(self._serials)
        answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        order = control.Fetch(serial, tuple(names))
        self._orders[serial] = order, answer  # sent when it is up, if it is not
        try:
            if self._channel:
                self._channel.send(order)
            return await answer
        finally:
            del self._orders[serial]

    def hurry(self, names: Sequence[str]) -> None:
        """Have the sources of these lists asked soon; nobody waits for it."""
        if self._channel:
            self._channel.send(control.Fetch(0, tuple(names)))

    async def run(self) -> None:
        """Keep the process running, until cancelled."""
        await self._wanted.wait()
        delay, loop = 0.0, asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                reason = await self._live()
                if loop.time() - began > STEADY:
                    delay = 0.0
                delay = min(max(2 * delay, FIRST_DELAY), LONGEST_DELAY)
                _log.error("the fetcher ended (%s); starting it again in %.1f s", reason, delay)
                for _, answer in self._orders.values():
                    if not answer.done():
                        answer.set_exception(ControlError(f"the fetcher ended: {reason}"))
                await asyncio.sleep(delay)
        finally:
            await self._end()

    async def stop(self) -> None:
        """End the process, if there is one."""
        await self._end()

    async def _live(self) -> str:
        """One life of the process; returns how it ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *spawn.command("resolver.fetch.process", str(theirs.fileno())),
                env=spawn.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,  # a terminal's SIGINT goes to the supervisor
            )
        self._facts.fetcher = self._process.pid
        fault = ""
        try:
            async with await Channel.over(ours) as channel:
                assert self._config is not None
                channel.send(control.Follow(self._config.to_json()))
                for order, _ in self._orders.values():
                    channel.send(order)
                self._channel = channel
                while message := await channel.receive():
                    await self._take(message)
        except ControlError as error:
            fault = str(error)
        finally:
            self._channel = None
            self._facts.fetcher = 0
            if self._process is not None:
                with contextlib.suppress(TimeoutError):  # it has closed the channel: it is about to end, or beyond help
                    async with asyncio.timeout(1):
                        await self._process.wait()
        status = await self._end()
        return fault or f"status {status}"

    async def _take(self, message: control.Message) -> None:
        match message:
            case control.Fetched():
                self._facts.sources = {**self._facts.sources, message.list: self._heard(message)}
            case control.Changed(lists):
                self._changed(lists)
            case control.Done(serial, failed):
                _, answer = self._orders.get(serial, (None, None))
                if answer is not None and not answer.done():
                    answer.set_result({name: str(error) for name, error in failed.items()})

    def _heard(self, message: control.Fetched) -> SourceFacts:
        before = self._facts.sources.get(message.list, SourceFacts())
        outcomes = dict(before.outcomes)
        if message.outcome:
            outcomes[message.outcome] = outcomes.get(message.outcome, 0) + 1
        transfers = dict(before.transfers)
        if message.outcome:
            what = message.kind or "probe", message.outcome
            transfers[what] = transfers.get(what, 0) + 1
        return replace(
            before,
            serial=message.serial,
            transfers=transfers,
            transfer_seconds=before.transfer_seconds + message.seconds,
            copied=message.copied,
            checked=message.checked,
            failures=message.failures,
            octets=before.octets + message.octets,
            outcomes=outcomes,
        )

    async def _end(self) -> int | None:
        """End the process, whatever it is at; its status."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        return await process.wait()
