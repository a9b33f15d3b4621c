"""Fetching where no server runs: for `tampah compile` and `tampah check`, in the command's own process."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from resolver.config.model import Config, ListConfig
from resolver.fetch.base import FetchError, fetchers
from resolver.fetch.process import AT_ONCE, fetch_once, remote_lists
from resolver.fetch.store import NoCopyError, Place, State, copy_of
from resolver.lists.reading import check_list
from resolver.lists.report import ListReport


def without_copy(config: Config) -> list[ListConfig]:
    """The lists from other machines of whose source there is no copy yet."""
    found = []
    for listed in remote_lists(config).values():
        try:
            copy_of(listed, config.state_path)
        except NoCopyError:
            found.append(listed)
    return found


def fetch_lists(config: Config, lists: Sequence[ListConfig]) -> None:
    """Fetch these lists; what fails is remembered with the list, as the fetcher's process does."""
    if lists:
        asyncio.run(_fetch_all(config, lists))


async def _fetch_all(config: Config, lists: Sequence[ListConfig]) -> None:
    ways = fetchers(config, lambda name: None)
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(listed: ListConfig) -> None:
        place = Place(config.state_path, listed.name)
        async with slots:
            tried = time.time()
            try:
                fetched = await fetch_once(ways, place, listed)
                refresh = listed.refresh if fetched.refresh is None else fetched.refresh
                state = State(listed.source, checked=time.time(), tried=tried, next_try=time.time() + refresh)
            except FetchError as fault:
                before = place.state(listed.source)
                state = replace(before, tried=tried, failures=before.failures + 1, error=str(fault))
        place.write_state(state)

    try:
        await asyncio.gather(*(one(listed) for listed in lists))
    finally:
        for way in set(ways.values()):
            await way.close()


def check_fetched(config: Config, lists: Sequence[ListConfig]) -> dict[str, ListReport]:
    """What reading these lists would come to, each fetched into a folder that is deleted again."""
    if not lists:
        return {}
    with tempfile.TemporaryDirectory(prefix="tampah-") as folder:
        elsewhere = config.model_copy(update={"state_dir": folder})
        fetch_lists(elsewhere, lists)
        return {listed.name: check_list(listed, Path(folder)) for listed in lists}
