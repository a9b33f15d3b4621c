"""The supervisor's end of the process that fetches lists: started once DNS is served, and again when it ends.

It runs only where the config has lists from other machines. What it tells goes to `facts`; where copies have changed,
`changed` is called with their names. The supervisor itself imports nothing of what fetching needs.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from resolver import control
from resolver.channel import Channel
from resolver.control import ControlError
from resolver.facts import Facts, SourceFacts
from resolver.helper import Helper

if TYPE_CHECKING:
    from resolver.config.model import Config


class Sources:
    """Lists from other machines, kept up to date."""

    def __init__(self, facts: Facts, changed: Callable[[Sequence[str]], None]) -> None:
        self._facts = facts
        self._changed = changed
        self._config: Config | None = None
        self._helper = Helper(
            "fetcher", "resolver.fetch.process", facts, greet=self._greet, take=self._take, ended=self._ended
        )
        self._serials = itertools.count(1)
        self._orders: dict[int, tuple[control.Fetch, asyncio.Future[dict[str, str]]]] = {}

    def follow(self, config: Config) -> None:
        """Fetch this config's lists from now on (once `run` runs)."""
        self._config = config
        remote = {listed.name for listed in config.lists if listed.is_remote and listed.enabled != "no"}
        self._facts.sources = {name: facts for name, facts in self._facts.sources.items() if name in remote}
        if remote:
            self._helper.want()
        if self._helper.channel:
            self._helper.channel.send(control.Follow(config.to_json()))

    async def fetch(self, names: Sequence[str]) -> dict[str, str]:
        """Ask the sources of these lists now (none: of all). Returns when all have answered or failed: list → error."""
        if not self._helper.wanted:
            return {}
        serial = next(self._serials)
        answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        order = control.Fetch(serial, tuple(names))
        self._orders[serial] = order, answer  # sent when it is up, if it is not
        try:
            if self._helper.channel:
                self._helper.channel.send(order)
            return await answer
        finally:
            del self._orders[serial]

    def hurry(self, names: Sequence[str]) -> None:
        """Have the sources of these lists asked soon; nobody waits for it."""
        if self._helper.channel:
            self._helper.channel.send(control.Fetch(0, tuple(names)))

    async def run(self) -> None:
        """Keep the process running, until cancelled."""
        await self._helper.run()

    async def stop(self) -> None:
        """End the process, if there is one."""
        await self._helper.stop()

    def _greet(self, channel: Channel) -> None:
        assert self._config is not None
        channel.send(control.Follow(self._config.to_json()))
        for order, _ in self._orders.values():
            channel.send(order)

    def _ended(self, reason: str) -> None:
        for _, answer in self._orders.values():
            if not answer.done():
                answer.set_exception(ControlError(f"the fetcher ended: {reason}"))

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
