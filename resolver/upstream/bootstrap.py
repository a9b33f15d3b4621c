"""Where upstream servers are that are written by name: asked of `upstream.bootstrap`, never of this server itself.

Addresses are known for as long as their TTL says (within SHORTEST and LONGEST) and are then asked for anew in the
background, by a timer, so that no query waits for it. Where the bootstrap servers fail, the last good addresses stay and
it is tried again, the longer the less often. Only a name that never had an address makes those wait who need it.

The certificate is verified for the name whatever address it was found at: a lie here can only keep us from a server.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from resolver.upstream.carrier import Fault, TransportError
from resolver.upstream.message import Question, wire_name
from resolver.upstream.pool import Result
from resolver.vocabulary import Rcode, RRType

SHORTEST: Final = 30.0  # seconds that addresses are taken for right, at least
LONGEST: Final = 86_400.0
FIRST_RETRY, LAST_RETRY = 1.0, 60.0  # seconds

Ask = Callable[[Question], Awaitable[Result]]


class Bootstrap:
    """The addresses of names; `ask` puts a question to the bootstrap servers."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Ask) -> None:
        self._loop = loop
        self._ask = ask
        self._names: dict[str, _Name] = {}

    def keep(self, names: Iterable[str]) -> None:
        """Know these names from now on, and no others."""
        wanted = set(names)
        for name in [name for name in self._names if name not in wanted]:
            self._names.pop(name).close()
        for name in wanted - set(self._names):
            self._names[name] = _Name(self._loop, self._ask, name)

    async def addresses(self, name: str) -> Sequence[str]:
        """The addresses of a name, IPv4 and IPv6 in turn; TransportError where it has none."""
        known = self._names.get(name)
        if known is None:
            raise TransportError(Fault.LOOKUP)
        return await known.addresses()

    def close(self) -> None:
        """Ask nobody any more."""
        self.keep(())


class _Name:
    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Ask, name: str) -> None:
        self._loop = loop
        self._ask = ask
        self._wire = wire_name(name)
        self._known: list[str] = []
        self._retry = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] = loop.create_task(self._renew())

    async def addresses(self) -> list[str]:
        if not self._known:
            if self._task.done() and self._retry <= FIRST_RETRY:
                self._start()
            if not self._task.done():
                await asyncio.wait([self._task])
        if not self._known:
            raise TransportError(Fault.LOOKUP)
        return self._known

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._task.cancel()

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._task = self._loop.create_task(self._renew())

    async def _renew(self) -> None:
        results = await asyncio.gather(*(self._ask(Question(self._wire, kind)) for kind in (RRType.A, RRType.AAAA)))
        found = [read_addresses(result.answer) for result in results if result.answer is not None]
        ttl = min((ttl for addresses, ttl in found if addresses), default=-1.0)
        if ttl < 0:
            self._retry = min(self._retry * 2, LAST_RETRY) or FIRST_RETRY
            wait = self._retry
        else:
            self._retry = 0.0
            self._known = _in_turn([addresses for addresses, _ in found])
            wait = min(max(ttl, SHORTEST), LONGEST)
        self._timer = self._loop.call_later(wait, self._start)


def read_addresses(answer: bytes) -> tuple[list[str], float]:
    """The addresses in an answer and their shortest TTL in seconds; none for a denial or what cannot be read."""
    import dnslib  # only here: most workers never need it

    try:
        message = dnslib.DNSRecord.parse(answer)
        if message.header.rcode != Rcode.NOERROR:
            return [], 0.0
        records = [record for record in message.rr if record.rtype in (RRType.A, RRType.AAAA)]
        addresses = [str(ipaddress.ip_address(str(record.rdata))) for record in records]
    except Exception:  # dnslib raises many kinds on octets that only look like a record's data
        return [], 0.0
    return addresses, float(min((record.ttl for record in records), default=0))


def _in_turn(families: list[list[str]]) -> list[str]:
    """One of each family after the other, so that a family which leads nowhere costs one attempt."""
    longest = max(map(len, families), default=0)
    return [family[place] for place in range(longest) for family in families if place < len(family)]
