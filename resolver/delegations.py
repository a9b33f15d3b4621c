"""Who the servers of a name are: NS look-ups upstream, for RPZ's rules about them (rpz.md, 30).

A forwarder's answers rarely carry the servers of the zone that they are from. Where a list wants to know them, each zone on
the way to a name counts: the name itself is asked for NS, then the zone above, by the SOA of a negative answer if there is
one. Zones of one label are left out, as is usual: the rules would be about whole TLDs. What was found is kept as long as its
TTL says, by zone, so a name costs one question where its zone is known. What fails counts as nothing found, for a moment: a
list about servers cannot take names away whose servers nobody tells.

Bounded are the servers of a zone, the zones and addresses that are kept, and how long a client waits for all of it; how many
wait is bounded by punt.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resolver.upstream.message import MAX_NAME, Question
from resolver.upstream.pool import result_of
from resolver.vocabulary import RRType

if TYPE_CHECKING:
    from resolver.dnssec.link import Checked
    from resolver.upstream.pool import Pool

SERVERS: Final = 16  # of a zone that count
KEPT: Final = 10_000  # zones and addresses together
PATIENCE: Final = 4.0  # seconds that a client waits, at most
FAILED: Final = 5  # seconds for which a failure is kept
LEAST, MOST = 5, 3600  # seconds for which anything else is
MIN_LABELS: Final = 2  # of a zone whose servers count

_MAPPED = bytes(10) + b"\xff\xff"
_log = logging.getLogger(__name__)


class Servers(NamedTuple):
    """The servers of a name: their names in wire form, their addresses of 16 octets, and for how many seconds that holds."""

    names: tuple[bytes, ...]
    addresses: tuple[bytes, ...]
    ttl: int


class _Cut(NamedTuple):
    """What asking a name for NS came to. `above`: which name to ask next."""

    servers: tuple[bytes, ...]
    addresses: tuple[bytes, ...]
    above: bytes
    until: float


class _Addresses(NamedTuple):
    addresses: tuple[bytes, ...]
    until: float


Done = Callable[[Sequence[Servers]], None]


class Delegations:
    """See the module. One a worker, on the running loop. `wants_addresses`: whether any rule is about a server's address."""

    def __init__(self, pool: Pool | Checked) -> None:
        self._pool = pool
        self.wants_addresses = True
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._asking: dict[Hashable, asyncio.Task[Any]] = {}
        self._seeking: set[asyncio.Task[None]] = set()

    def seek(self, names: Sequence[bytes], route: int, done: Done) -> None:
        """Find the servers of each name (lower-case, wire form), and tell them to `done`, later."""
        task = asyncio.ensure_future(self._seek(names, route, done))
        self._seeking.add(task)
        task.add_done_callback(self._seeking.discard)

    def close(self) -> None:
        """Give up what is under way."""
        for task in (*self._seeking, *self._asking.values()):
            task.cancel()

    async def _seek(self, names: Sequence[bytes], route: int, done: Done) -> None:
        found: list[list[_Cut]] = [[] for _ in names]
        is_whole = True
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(self._walk(name, route, cuts) for name, cuts in zip(names, found, strict=True)))
        except TimeoutError:
            is_whole = False
        except Exception:
            _log.exception("the servers of a name could not be found")
            is_whole = False
        done([_together(cuts, is_whole) for cuts in found])

    async def _walk(self, name: bytes, route: int, cuts: list[_Cut]) -> None:
        """The zones on the way to a name, from the nearest on."""
        while _count_labels(name) >= MIN_LABELS:
            wants = self.wants_addresses
            cut: _Cut = await self._once((name, route, wants), partial(self._cut, name, route, wants))
            cuts.append(cut)
            name = cut.above

    async def _once(self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What is kept, else what asking comes to; who wants to know the same at a time asks once."""
        found = self._kept.get(key)
        if found is not None and found.until > monotonic():
            self._kept.move_to_end(key)
            return found
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.ensure_future(ask())
            task.add_done_callback(lambda task: self._keep(key, task))
        return await asyncio.shield(task)

    def _keep(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._asking[key]
        if not task.cancelled() and task.exception() is None:
            self._kept[key] = task.result()
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    async def _cut(self, name: bytes, route: int, wants_addresses: bool) -> _Cut:
        said = await self._ask(name, RRType.NS, route)
        above = name[name[0] + 1 :]
        if said is None:
            return _Cut((), (), above, monotonic() + FAILED)
        records, authority, additional = said
        servers: dict[bytes, int] = {}
        for owner, rtype, ttl, data in records:
            if owner == name and rtype == RRType.NS:
                servers.setdefault(data, ttl)
        if not servers:
            ttl = MOST
            for owner, rtype, age, _ in authority:
                if rtype == RRType.SOA and _is_above(owner, name):
                    above, ttl = owner, age
            return _Cut((), (), above, monotonic() + _clamped(ttl))
        ttl = _clamped(min(servers.values()))
        names = tuple(servers)[:SERVERS]
        addresses: list[bytes] = []
        if wants_addresses:
            glue: dict[bytes, list[bytes]] = {}
            for owner, rtype, _, data in additional:
                if rtype in (RRType.A, RRType.AAAA):
                    glue.setdefault(owner, []).append(_address(data))
            known = await asyncio.gather(*(self._of(each, route) for each in names if each not in glue))
            addresses += (address for each in names for address in glue.get(each, ()))
            addresses += (address for each in known for address in each.addresses)
            ttl = min([ttl, *(max(LEAST, int(each.until - monotonic())) for each in known)])
        return _Cut(names, tuple(dict.fromkeys(addresses)), above, monotonic() + ttl)

    async def _of(self, server: bytes, route: int) -> _Addresses:
        """The addresses of a server."""
        found: _Addresses = await self._once((server, route), partial(self._addresses, server, route))
        return found

    async def _addresses(self, server: bytes, route: int) -> _Addresses:
        ttl, found = MOST, []
        for said in await asyncio.gather(*(self._ask(server, kind, route) for kind in (RRType.A, RRType.AAAA))):
            if said is None:
                ttl = FAILED
                continue
            for _, rtype, age, data in said[0]:
                if rtype in (RRType.A, RRType.AAAA):
                    found.append(_address(data))
                    ttl = min(ttl, age)
        return _Addresses(tuple(found[:SERVERS]), monotonic() + _clamped(ttl))

    async def _ask(self, name: bytes, rtype: RRType, route: int) -> _Sections | None:
        """The sections of the upstream's answer; None where it has none, or an error."""
        result = await result_of(lambda done: self._pool.start(Question(name, rtype), route, done))
        if result.answer is None or result.answer[3] & 0xF not in (0, 3):
            return None
        return _read(result.answer)


_Record = tuple[bytes, int, int, bytes]  # owner, type, TTL, data: NS a name, A and AAAA an address, else nothing
_Sections = tuple[list[_Record], list[_Record], list[_Record]]


def _read(message: bytes) -> _Sections | None:
    """The records of a message; None where it cannot be read. Names are no longer than the engine takes them."""
    import dnslib  # only here: most workers never need it

    try:
        parsed = dnslib.DNSRecord.parse(message)
    except Exception:  # dnslib raises many kinds on octets that only look like a record's data
        _log.debug("an answer about name servers could not be read")
        return None

    def record(item: Any) -> _Record:
        data = b""
        if item.rtype == RRType.NS:
            data = _wire(item.rdata.label)
            if len(data) > MAX_NAME:
                data = b"\0"
        elif item.rtype in (RRType.A, RRType.AAAA):
            data = bytes(item.rdata.data)
        return _wire(item.rname), int(item.rtype), int(item.ttl), data

    return list(map(record, parsed.rr)), list(map(record, parsed.auth)), list(map(record, parsed.ar))


def _wire(name: Any) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in name.label).lower() + b"\0"


def _address(octets: bytes) -> bytes:
    return octets if len(octets) == 16 else _MAPPED + octets


def _count_labels(name: bytes) -> int:
    count = at = 0
    while name[at]:
        count += 1
        at += name[at] + 1
    return count


def _is_above(owner: bytes, name: bytes) -> bool:
    """Whether `owner` is a name above another, label by label."""
    at = 0
    while name[at]:
        at += name[at] + 1
        if name[at:] == owner:
            return True
    return False


def _clamped(ttl: int) -> int:
    return max(LEAST, min(MOST, ttl))


def _together(cuts: Sequence[_Cut], is_whole: bool) -> Servers:
    ttl = min((max(1, int(cut.until - monotonic())) for cut in cuts), default=MOST)
    return Servers(
        tuple(dict.fromkeys(server for cut in cuts for server in cut.servers)),
        tuple(dict.fromkeys(address for cut in cuts for address in cut.addresses)),
        ttl if is_whole else min(ttl, FAILED),
    )
