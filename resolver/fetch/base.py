"""What every way of fetching a list has in common: the border between the schedule and a protocol.

The process (process.py) decides when a list is fetched; a `Fetcher` does it, leaves the copy where `store.copy_of` finds
it, and says what came of it. It is told nothing about other lists, and whatever it raises is its list's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from resolver.config.model import Config, ListConfig


class FetchError(Exception):
    """Nothing came of a fetch, and the copy is as it was; the text says why. `retry_after`: seconds in which the source
    does not want to be asked again (0: it did not say), or, if `exact`, after which it is asked again whatever happened
    before; `octets`: how many came all the same. `changed`: the copy is to be enforced in another way nevertheless."""

    def __init__(
        self, text: str, retry_after: float = 0.0, octets: int = 0, *, exact: bool = False, changed: bool = False
    ) -> None:
        super().__init__(text)
        self.retry_after = retry_after
        self.octets = octets
        self.exact = exact
        self.changed = changed


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetch that worked. `changed`: the copy is another one than before; `octets`: how many came over the network;
    `refresh`: seconds until the source wants to be asked again, where it says (None: the list's `refresh`)."""

    changed: bool
    octets: int
    refresh: float | None = None


class Fetcher(Protocol):
    """One way of fetching. An instance lives as long as a config; `fetch` runs for many lists at once, once a list."""

    async def fetch(self, listed: ListConfig, now: float) -> Fetched:
        """Bring the copy of a list up to date; `now` in seconds since the epoch. FetchError if that is not possible,
        CancelledError when the list is no longer wanted: both leave the copy that was there whole."""

    async def close(self) -> None:
        """Let go of connections and sockets; no fetch is under way any more."""


# What a protocol may call at any time: fetch this list now (a NOTIFY came, for instance).
Hurry = Callable[[str], None]


def fetchers(config: Config, hurry: Hurry) -> Mapping[str, Fetcher]:
    """Scheme of a source → who fetches it. Imported here, as they take time to load."""
    from resolver.fetch.http import HttpFetcher

    http = HttpFetcher(config)
    ways: dict[str, Fetcher] = {"http": http, "https": http}
    if any(listed.scheme == "axfr" for listed in config.lists):
        from resolver.transfer.fetcher import TransferFetcher

        ways["axfr"] = TransferFetcher(config, hurry)
    return ways
