"""The process that fetches lists: takes the config from the supervisor, keeps copies up to date, tells which have changed.

    follow(config) ─ Schedule ─ due ─▶ Fetcher.fetch (a task a list, AT_ONCE at a time) ─▶ state.json ─▶ Fetched, Changed

It shares nothing with the supervisor but messages and `state_dir/sources`; it may die at any time and go on from what
is on disk. Whatever happens to one list is that list's alone. The log says once when a source begins to fail and once
when it is back; in between, `tampah lists` and the metrics do.

Changes are told together: a start without copies brings many lists within seconds, and one reload takes them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping

from resolver import control, logs
from resolver.channel import Channel
from resolver.config.model import Config, ListConfig
from resolver.fetch.base import Fetched, Fetcher, FetchError, fetchers
from resolver.fetch.schedule import Schedule
from resolver.fetch.store import BusyError, Place, State, forget_others
from resolver.lists.report import duration
from resolver.transfer.zone import ZonePlace

AT_ONCE = 16  # fetches under way
GATHER = 5.0  # seconds that a change waits for others that are under way
NICENESS = 5
FORGET = 7 * 86_400.0  # seconds that the copy of a list which left the config is kept

_log = logging.getLogger(__name__)

Send = Callable[[control.Message], None]


def remote_lists(config: Config) -> dict[str, ListConfig]:
    """The lists that come from other machines and are switched on."""
    return {listed.name: listed for listed in config.lists if listed.is_remote and listed.enabled != "no"}


@dataclasses.dataclass(slots=True)
class _Order:
    """A command that waits for lists. `asked`: those whose fetch has not begun since; `begun`: those under way."""

    serial: int
    asked: set[str]
    begun: set[str] = dataclasses.field(default_factory=set)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)


class Fetching:
    """Keeps the copies of a config's lists up to date. `send` takes what the supervisor should know."""

    def __init__(
        self,
        send: Send,
        make: Callable[[Config, Callable[[str], None]], Mapping[str, Fetcher]] = fetchers,
        schedule: Schedule | None = None,
    ) -> None:
        self._send = send
        self._make = make
        self._schedule = schedule or Schedule()
        self._config: Config | None = None
        self._lists: dict[str, ListConfig] = {}
        self._fetchers: Mapping[str, Fetcher] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._woken = asyncio.Event()
        self._orders: list[_Order] = []
        self._changed: list[str] = []
        self._announcing: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Fetch what is due, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._woken.clear()
                for name in self._schedule.take_due(loop.time()):
                    self._begin(name)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._schedule.wait(loop.time())):  # wait_for may lose a cancellation
                        await self._woken.wait()
        finally:
            await self._cancel(list(self._tasks))
            for fetcher in set(self._fetchers.values()):
                await fetcher.close()

    # -- orders -----------------------------------------------------------------------------------------------------
    async def follow(self, config: Config) -> None:
        """Keep this config's lists from now on; what is known of a list that did not change stays."""
        lists = remote_lists(config)
        if config != self._config:
            # A fetch by an old config would write what belongs to it.
            await self._cancel([name for name in self._tasks if lists.get(name) != self._lists.get(name)])
            if self._config is None or _ways(config) != _ways(self._config):
                await self._cancel(list(self._tasks))
                old, self._fetchers = self._fetchers, self._make(config, self.hurry)
                for fetcher in set(old.values()):
                    await fetcher.close()
        moved = [name for name, listed in lists.items() if _source(self._lists.get(name)) != _source(listed)]
        self._config, self._lists = config, lists
        now = asyncio.get_running_loop().time()
        self._schedule.keep_only(lists)
        for name, listed in lists.items():
            place = Place(config.state_path, name)
            meta, state = place.meta(), place.state(listed.source)
            if name in moved or name not in self._schedule:
                here = meta is not None and meta.source == listed.source
                self._schedule.add(
                    name, now, listed.refresh, wait=state.next_try - time.time() if here and state.next_try else None
                )
            if listed.scheme == "axfr" and name in moved:
                self._schedule.hurry(name, now)
            self._tell(listed, state)
        for order in list(self._orders):
            for name in (order.asked | order.begun) - lists.keys():
                self._settle(order, name, "no longer in the config")
        forget_others(config.state_path, {listed.name for listed in config.lists}, time.time() - FORGET)
        self._woken.set()

    def fetch(self, serial: int, names: Collection[str]) -> None:
        """Fetch these lists now (none: all), and send Done when each has been fetched once more."""
        asked = set(names or self._lists) & self._lists.keys()
        order = _Order(serial, asked)
        self._orders.append(order)
        for name in asked:
            self.hurry(name)
        self._finish(order)

    def hurry(self, name: str) -> None:
        """Fetch a list now, whatever its schedule says."""
        self._schedule.hurry(name, asyncio.get_running_loop().time())
        self._woken.set()

    # -- one list -----------------------------------------------------------------------------------------------------
    def _begin(self, name: str) -> None:
        for order in self._orders:
            if name in order.asked:
                order.asked.remove(name)
                order.begun.add(name)
        task = asyncio.ensure_future(self._fetch(self._lists[name]))
        self._tasks[name] = task
        task.add_done_callback(lambda task: self._ended(name, task))

    async def _fetch(self, listed: ListConfig) -> None:
        assert self._config is not None
        place = Place(self._config.state_path, listed.name)
        error, retry_after, exact, octets, fetched = "", 0.0, False, 0, None
        async with self._slots:
            tried = time.time()
            try:
                fetched = await fetch_once(self._fetchers, place, listed)
                octets = fetched.octets
            except FetchError as fault:
                error, retry_after, exact, octets = str(fault), fault.retry_after, fault.exact, fault.octets
                if fault.changed:
                    self._changed.append(listed.name)
        before, now = place.state(listed.source), asyncio.get_running_loop().time()
        if fetched is not None:
            refresh = listed.refresh if fetched.refresh is None else fetched.refresh
            wait = self._schedule.succeeded(listed.name, now, refresh)
            state = State(listed.source, checked=time.time(), tried=tried)
            if before.failures:
                since = f", the last copy is {duration(state.checked - before.checked)} old" if before.checked else ""
                _log.info("lists.%s: %s is back after %d failures%s", listed.name, listed.shown, before.failures, since)
        else:
            failures, has_copy = before.failures + 1, place.meta() is not None
            wait = self._schedule.failed(
                listed.name,
                now,
                listed.refresh,
                failures=failures,
                has_copy=has_copy,
                retry_after=retry_after,
                exact=exact,
            )
            state = dataclasses.replace(before, tried=tried, failures=failures, error=error)
            if failures == 1:
                serves = "the last copy serves on" if has_copy else "there is no copy yet"
                _log.error("lists.%s: %s; %s, trying again in %s", listed.name, error, serves, duration(wait))
        state = dataclasses.replace(state, next_try=time.time() + wait)
        try:
            place.write_state(state)
        except OSError as fault:
            _log.error("lists.%s: what came of a fetch cannot be kept: %s", listed.name, fault)
        self._tell(
            listed, state, "failed" if fetched is None else "changed" if fetched.changed else "unchanged", octets
        )
        if fetched is not None and fetched.changed:
            self._changed.append(listed.name)
        for order in list(self._orders):
            if listed.name in order.begun:
                self._settle(order, listed.name, error)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if not task.cancelled() and (fault := task.exception()):
            _log.error("lists.%s: internal error", name, exc_info=fault)
            listed = self._lists.get(name)
            if listed is not None:
                now = asyncio.get_running_loop().time()
                self._schedule.failed(name, now, listed.refresh, failures=1, has_copy=True)
            for order in list(self._orders):
                if name in order.begun:
                    self._settle(order, name, repr(fault))
        self._announce_soon()
        self._woken.set()

    async def _cancel(self, names: Collection[str]) -> None:
        """End fetches under way; orders wait for the next."""
        ending = [self._tasks.pop(name) for name in names if name in self._tasks]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)
        for name in names:
            self._schedule.release(name, asyncio.get_running_loop().time())
            for order in self._orders:
                if name in order.begun:
                    order.begun.remove(name)
                    order.asked.add(name)

    # -- what the supervisor is told ----------------------------------------------------------------------------------
    def _tell(self, listed: ListConfig, state: State, outcome: str = "", octets: int = 0) -> None:
        assert self._config is not None
        meta = Place(self._config.state_path, listed.name).meta()
        zone = ZonePlace(self._config.state_path, listed.name).read() if listed.scheme == "axfr" else None
        is_new = outcome == "changed"
        self._send(
            control.Fetched(
                list=listed.name,
                outcome=outcome,
                octets=octets,
                copied=meta.fetched if meta is not None and meta.source == listed.source else 0.0,
                checked=state.checked,
                failures=state.failures,
                error=state.error,
                next_try=state.next_try,
                serial=zone.soa.serial if zone else -1,
                kind=zone.kind if zone and is_new else "",
                seconds=zone.seconds if zone and is_new else 0.0,
            )
        )

    def _announce_soon(self) -> None:
        """Tell the changes once nothing is under way, or after a while."""
        if not self._changed:
            return
        if not self._tasks:
            self._announce()
        elif self._announcing is None:
            self._announcing = asyncio.get_running_loop().call_later(GATHER, self._announce)

    def _announce(self) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
            self._announcing = None
        if self._changed:
            self._send(control.Changed(tuple(self._changed)))
            self._changed = []

    def _settle(self, order: _Order, name: str, error: str) -> None:
        order.asked.discard(name)
        order.begun.discard(name)
        if error:
            order.failed[name] = error
        self._finish(order)

    def _finish(self, order: _Order) -> None:
        if not order.asked and not order.begun and order in self._orders:
            self._orders.remove(order)
            self._send(control.Done(order.serial, order.failed))


async def fetch_once(ways: Mapping[str, Fetcher], place: Place, listed: ListConfig) -> Fetched:
    """One fetch of one list. FetchError, whatever goes wrong with it."""
    way = ways.get(listed.scheme)
    if way is None:
        raise FetchError(f"{listed.shown}: {listed.scheme}:// is not fetched")
    try:
        with place.locked():
            return await way.fetch(listed, time.time())
    except (FetchError, asyncio.CancelledError):
        raise
    except (BusyError, OSError) as error:
        raise FetchError(f"{listed.shown}: {error}") from error
    except Exception as error:  # a source may send anything, and no list may harm another
        _log.error("lists.%s: internal error", listed.name, exc_info=error)
        raise FetchError(f"{listed.shown}: {error!r}") from error


def _source(listed: ListConfig | None) -> object:
    """What makes a list another one to fetch."""
    if listed is None:
        return None
    # What comes by transfer is read as it comes, so how it is read counts as well.
    way = (listed.tsig, listed.kind, listed.subdomains, listed.on_expire) if listed.scheme == "axfr" else ()
    return listed.source, listed.mirrors, listed.checksum, listed.signing, listed.refresh, way


def _ways(config: Config) -> object:
    """What the fetchers are made of."""
    transfers = any(listed.scheme == "axfr" for listed in config.lists)
    return config.fetch, config.upstream, config.listen, config.base, config.state_path, config.tsig_keys, transfers


async def _main(fd: int) -> None:
    connected = socket.socket(fileno=fd)
    async with await Channel.over(connected) as channel:
        fetching = Fetching(channel.send)
        running = asyncio.ensure_future(fetching.run())
        try:
            while message := await channel.receive():  # None: the supervisor has gone, and so does this
                match message:
                    case control.Follow(config):
                        await fetching.follow(Config.from_json(config))
                    case control.Fetch(serial, lists):
                        fetching.fetch(serial, lists)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


def main() -> int:
    """Serve the supervisor at the other end of the socket whose descriptor is the first argument."""
    os.nice(NICENESS)
    logs.set_up("fetcher")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it has a line for every request
    asyncio.run(_main(int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
