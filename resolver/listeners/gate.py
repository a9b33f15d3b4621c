"""Who may begin a QUIC handshake: what a stranger can make this server work, and at whom it can make it shout.

A handshake costs milliseconds and its first packet can come from any address that somebody made up. So handshakes take
slots. A slot is held while the handshake is under way, a moment longer when it succeeds, and for the whole `patience`
when it does not, so that broken ones count like half-open ones. While few slots are taken a client is let in as it comes
(and aioquic sends an address that was not proven at most three times what came from it, RFC 9000 section 8.1). From
`unproven` slots on it has to prove its address by a Retry (section 8.1.2), which costs this server a datagram smaller than
the client's and no memory. Clients that did are let in up to `per_client` and `total` slots; beyond that they wait for one.

No I/O: the clock is the caller's. Invariants: `_taken` is the sum of `_clients`; every slot is ended once.
"""

from __future__ import annotations

import heapq
from collections import Counter
from enum import Enum, auto

HOLD = 0.25  # seconds a slot is held once its handshake has succeeded
_MAPPED = b"\0" * 10 + b"\xff\xff"


class Answer(Enum):
    """To a client that wants to begin a handshake."""

    ENTER = auto()
    PROVE = auto()  # by a Retry
    WAIT = auto()  # ask again in a moment


def prefix(client: bytes) -> bytes:
    """Whom a client's 16 octets count for: an IPv4 address, or an IPv6 network of 64 bits, which is one customer's."""
    return client if client.startswith(_MAPPED) else client[:8]


class Gate:
    """See the module. `patience` in seconds: how long a handshake may take."""

    def __init__(self, *, unproven: int = 4, per_client: int = 16, total: int = 64, patience: float = 5.0) -> None:
        self.patience = patience
        self._unproven = unproven
        self._per_client = per_client
        self._total = total
        self._taken = 0
        self._clients: Counter[bytes] = Counter()
        self._ending: list[tuple[float, bytes]] = []  # a heap: when a slot is free again, and whose it is

    @property
    def taken(self) -> int:
        """How many slots are held."""
        return self._taken

    def ask(self, client: bytes, now: float) -> Answer:
        """Whether a client may begin. ENTER takes a slot, to be given back by `end`.

        `client`: its 16 octets, if they are proven; else empty, as those that anybody can write must not be held against it.
        """
        while self._ending and self._ending[0][0] <= now:
            self._free(heapq.heappop(self._ending)[1])
        if not client and self._taken >= self._unproven:
            return Answer.PROVE
        who = prefix(client)
        if self._taken >= self._total or (client and self._clients[who] >= self._per_client):
            return Answer.WAIT
        self._taken += 1
        self._clients[who] += 1
        return Answer.ENTER

    def end(self, client: bytes, now: float, *, succeeded: bool) -> None:
        """A handshake is over; `client` as it was asked for."""
        heapq.heappush(self._ending, (now + (HOLD if succeeded else self.patience), prefix(client)))

    def _free(self, who: bytes) -> None:
        self._taken -= 1
        self._clients[who] -= 1
        if not self._clients[who]:
            del self._clients[who]
