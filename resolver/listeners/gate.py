"""Who may begin a QUIC handshake: what a stranger can make this server work, and at whom it can make it shout.

A handshake costs milliseconds and its first packet can come from any address that somebody made up. So handshakes take
slots. A slot is held while the handshake is under way, a moment longer when it succeeds, and for the whole `patience`
when it does not, so that broken ones count like half-open ones. While few slots are taken a client is let in as it comes
(and aioquic sends an address that was not proven at most three times what came from it, RFC 9000 section 8.1). From
`unproven` slots on it has to prove its address by a Retry (section 8.1.2), which costs this server a datagram smaller than
the client's and no memory. Clients that did are let in up to `per_client` and `total` slots; beyond that their packets
are dropped, and they come again by themselves.

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
    WAIT = auto()  # drop it


def prefix(client: bytes) -> bytes:
    """Whom a client's 16 octets count for: an IPv4 address, or an IPv6 network of 64 bits, which is one customer's."""
    return client if client.startswith(_MAPPED) else client[:8]


class Gate:
    """See the module. `patience` in seconds: how long a handshake may take."""

    def __init__(self, *, unproven: int = 8, per_client: int = 8, total: int = 64, patience: float = 5.0) -> None:
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

    def ask(self, client: bytes, *, is_proven: bool, now: float) -> Answer:
        """Whether a client may begin. ENTER takes a slot, to be given back by `end`."""
        while self._ending and self._ending[0][0] <= now:
            self._free(heapq.heappop(self._ending)[1])
        if not is_proven and self._taken >= self._unproven:
            return Answer.PROVE
        # Who did not prove an address is not counted as that client, or anybody could use up another's slots.
        who = prefix(client) if is_proven else b""
        if self._taken >= self._total or (is_proven and self._clients[who] >= self._per_client):
            return Answer.WAIT
        self._taken += 1
        self._clients[who] += 1
        return Answer.ENTER

    def end(self, client: bytes, *, was_proven: bool, succeeded: bool, now: float) -> None:
        """A handshake is over."""
        who = prefix(client) if was_proven else b""
        heapq.heappush(self._ending, (now + (HOLD if succeeded else self.patience), who))

    def _free(self, who: bytes) -> None:
        self._taken -= 1
        self._clients[who] -= 1
        if not self._clients[who]:
            del self._clients[who]
