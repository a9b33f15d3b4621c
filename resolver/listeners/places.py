"""Who keeps a connection when there are more than there are places, and for how long one may be idle.

A new connection beyond a limit takes the place of the idlest that waits for nothing (of the same client, if it is the
client's limit); if none is idle the new one goes. The idle time shrinks to a tenth as the second half of the places fills
(RFC 7766 section 6.2.3).

Invariant: connections are kept in the order of their last activity, the idlest first, in all and for each client.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

SCAN = 32  # how many of the idlest are looked at for one that waits for nothing


class Holder(Protocol):
    """A connection. `client`: 16 octets; `active_at`: by the clock that `overdue` is asked with."""

    client: bytes
    active_at: float

    @property
    def is_spare(self) -> bool:
        """Whether nobody waits for an answer on it."""

    def cut(self) -> None:
        """Close: the place is another's now."""


H = TypeVar("H", bound=Holder)


class Places(Generic[H]):
    """At most `connections` in all and `per_client` of one client; `idle` in seconds."""

    def __init__(self, connections: int, per_client: int, idle: float) -> None:
        self.connections = connections
        self.per_client = per_client
        self.idle = idle
        self._order: OrderedDict[H, None] = OrderedDict()
        self._clients: dict[bytes, OrderedDict[H, None]] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, holder: H) -> bool:
        return holder in self._order

    @property
    def holders(self) -> list[H]:
        """Every connection, the idlest first."""
        return list(self._order)

    def take(self, holder: H, *, is_proxy: bool = False) -> bool:
        """Give a new connection a place, by taking an idle one's if need be; False: there is none.

        `is_proxy`: it speaks for many clients, so the limit of one is not its own.
        """
        mates = self._clients.get(holder.client, OrderedDict())
        if len(mates) >= self.per_client and not is_proxy:
            crowd = mates
        elif len(self._order) >= self.connections:
            crowd = self._order
        else:
            crowd = None
        if crowd is not None:
            idlest = next((each for _, each in zip(range(SCAN), crowd, strict=False) if each.is_spare), None)
            if idlest is None:
                return False
            self.leave(idlest)
            idlest.cut()
        self._order[holder] = None
        self._clients.setdefault(holder.client, OrderedDict())[holder] = None
        return True

    def leave(self, holder: H) -> None:
        """Take a place away. Harmless where there is none."""
        if self._order.pop(holder, self) is self:
            return
        mates = self._clients[holder.client]
        del mates[holder]
        if not mates:
            del self._clients[holder.client]

    def active(self, holder: H, now: float) -> None:
        """A query came in whole, or an answer went out."""
        holder.active_at = now
        if holder in self._order:
            self._order.move_to_end(holder)
            self._clients[holder.client].move_to_end(holder)

    def idle_time(self) -> float:
        """Seconds that a connection may be idle now."""
        pressure = max(0.0, 2 * len(self._order) / self.connections - 1)
        return self.idle * (1 - 0.9 * min(pressure, 1.0))

    def overdue(self, now: float) -> Iterator[H]:
        """Those that have been idle for too long, the idlest first. Nothing may be taken or left between two of them."""
        idle = self.idle_time()
        for holder in self._order:
            if now - holder.active_at < idle:
                break
            if holder.is_spare:
                yield holder
