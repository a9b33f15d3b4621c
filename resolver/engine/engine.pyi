"""The engine's border: everything Python may call, typed. See engine.pyx for how it is put together."""

from collections.abc import Mapping, Sequence
from typing import Protocol

# -- verdicts of Engine.answer() ------------------------------------------------------------------------------------
REPLY: int  # the answer is there
DROP: int  # nothing is to be sent
WAIT: int  # a forward is under way in the engine; the answer comes through take_answers()
PUNT: int  # Python takes the query: see Punt

# -- why a query was punted -----------------------------------------------------------------------------------------
PUNT_FORWARD: int  # not cached: ask upstream along `route`
PUNT_CONDITIONAL: int  # the listset depends on type or client: Python decides
PUNT_LOCAL: int  # answered by this server itself (a CNAME to chase, a special name)

class Index:
    """A verified, memory-mapped index file. ValueError names file and fault when magic, version, length or checksum is off."""

    def __init__(self, path: str) -> None: ...
    def find(self, name: str) -> int:
        """The listset that speaks for `name` (0: nobody)."""
    def shape(self, listset: int) -> int: ...
    def data(self, listset: int, member: int) -> int: ...
    @property
    def shapes(self) -> int: ...
    @property
    def bytes_hot(self) -> int: ...

class _Clients(Protocol):
    starts4: bytes  # u32 little-endian, ascending, the first is 0
    classes4: bytes  # u16 little-endian, parallel
    starts6: bytes  # 16 octets each in network order, ascending, the first is ::
    classes6: bytes  # u16 little-endian, parallel

class _Profile(Protocol):
    action: int
    ttl: int
    ipv4: bytes
    ipv6: bytes
    ede: int  # INFO-CODE, or -1
    text: str  # EXTRA-TEXT, cut to 200 octets
    soa: bytes  # MNAME and RNAME in wire form, for the SOA of negative answers; the qname's own zone cut is the qname

class _Policy(Protocol):
    classes: int
    shapes: int
    cells: bytes  # classes x shapes x 8 octets, see query.pxd: Cell
    profiles: Sequence[_Profile]
    clients: _Clients
    routes: Mapping[str, int]  # zone → route, 0 is the default route

class Snapshot:
    """One generation as the engine reads it: immutable, shared by reference, freed after its last reader."""

    def __init__(self, index: Index, policy: _Policy, number: int) -> None: ...
    @property
    def number(self) -> int: ...
    def decide(self, name: str, client: bytes) -> tuple[int, int, int, bytes]:
        """(class, listset, data reference, the cell's 8 octets) for a name and a client's 16 octets: explain and tests."""

class Punt:
    """A query that Python takes. Give it back with Engine.finish(), once."""

    packet: bytes
    client: bytes  # 16 octets, IPv4 as ::ffff:a.b.c.d
    transport: int
    reason: int  # PUNT_…
    route: int
    question: bytes  # what identical questions share: lower-case qname in wire form, qtype, qclass, DO|CD, route
    qname: bytes  # lower-case, wire form
    qtype: int
    do: bool
    cd: bool
    listset: int
    slot: int
    token: object  # free for the listener (TCP: which stream waits)

class Engine:
    """Owns UDP sockets and the cache; answers what it can and hands up the rest. One a worker, not thread-safe.

    `counters`: writable buffer of counters.SIZE octets. `cache_bytes`: this worker's share.
    """

    def __init__(
        self,
        *,
        counters: memoryview,
        cache_bytes: int,
        max_ttl: int = 86400,
        min_ttl: int = 0,
        negative_ttl: int = 3600,
    ) -> None: ...
    def configure_cache(self, *, max_ttl: int, min_ttl: int, negative_ttl: int) -> None: ...
    def swap(self, snapshot: Snapshot) -> None:
        """Every query from the next one on sees `snapshot`."""
    def add_udp(self, fd: int, family: int, wildcard: bool) -> None:
        """Take a bound UDP socket (not owned: the caller closes it). `wildcard`: bound to 0.0.0.0 or ::."""
    def fileno(self) -> int:
        """The epoll descriptor to watch; call drain() when it is readable."""
    def drain(self) -> int:
        """Answer what has come in, a bounded amount; returns how many packets. Then look at take_punts()."""
    def answer(self, packet: bytes, client: bytes, transport: int, token: object = None) -> tuple[int, bytes | None]:
        """One query from a stream: (verdict, answer). A PUNT is among the next take_punts() with `token` on it."""
    def take_punts(self) -> list[Punt]: ...
    def learn(self, punt: Punt, answer: bytes) -> bool:
        """Keep an upstream's answer (checked by exchange.py) in the cache; False if it is not one to keep."""
    def finish(self, punt: Punt, answer: bytes | None, ede: int = -1, text: str = "") -> bytes | None:
        """Answer a punt: with an upstream's `answer`, decided anew by the generation in force, or with SERVFAIL and
        `ede`. UDP: sent, returns None. Streams: returns the answer's octets (None: drop)."""
    def send(self, punt: Punt, reply: bytes) -> bytes | None:
        """Send a reply made in Python as it stands (UDP: sent, returns None; streams: returned)."""
    def flush(self) -> int:
        """Forget every cached answer; returns how many."""
    def close(self) -> None: ...
