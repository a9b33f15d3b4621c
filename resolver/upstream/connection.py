"""Upstream servers over connections (TCP, TLS, HTTPS): asyncio I/O, and nothing that decides about answers.

Few connections a server (RFC 7766 section 6.2.2), opened when first needed, with queries pipelined and answered in any
order, each closed after IDLE seconds without one. A query takes the connection that owes least, the oldest of such. What
is spoken on it is a Dialogue (framing.py, http2.py), with tls.py below it where the transport says so.

A lone query needs one connection; USUAL are opened where queries overlap, so that a stalled one does not hold them all,
and MOST where connections break or have no room. What a broken connection owed is asked on another at once, RESENDS times a
query: the oldest, whose answer may have been what broke it, behind all that wait, the others before them. A connection that
breaks before it had answered anything is a fault of the server, told to the query that was the first.

After a break there is one connection more than queries in flight, where usually there is more than one at all, and each gets
few queries at a time (the window) and one more with each answer, so that the next break harms few, and those find another
open. After BARREN connections in a row without any answer, one is used alone for a while: some servers allow no second one.

A connection that is silent for STALL seconds while it owes answers is given up: behind it may be a server that was
started anew, or a path that is no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, cast

from resolver.upstream.carrier import Fault, Receiver, Surroundings, TransportError
from resolver.upstream.framing import PIPELINE, Dialogue, Framing, ProtocolError
from resolver.upstream.server import Server
from resolver.upstream.udp import fault_of
from resolver.vocabulary import Transport

if TYPE_CHECKING:
    from resolver.upstream.tls import Tls, Trust

IDLE: Final = 30.0  # seconds until a connection without queries is closed
STALL: Final = 3.0  # seconds without any answer until a connection with queries is given up; also to open one
LOOK: Final = 0.5  # seconds between looks at both
RESENDS: Final = 8  # how often a query moves to another connection
USUAL: Final = 2  # connections to a server
MOST: Final = 4  # where they break, or have no room
WINDOW: Final = 8  # queries at a time on a connection, after one has broken
CALM: Final = 64  # the window that is none any more
BARREN: Final = 8  # connections in a row that end without an answer, before one is used alone
ALONE: Final = 5.0  # seconds for which
FORGET: Final = 30.0  # seconds until the id of a query that was never answered is free again
ADDRESSES: Final = 4  # of one name that are tried in a row

_log = logging.getLogger(__name__)


class Connections:
    """A Carrier: TCP, TLS or HTTPS."""

    def __init__(self, surroundings: Surroundings, transport: Transport) -> None:
        self._surroundings = surroundings
        self._trust: Trust | None = None
        self._speak: Callable[[Server], Dialogue] = lambda server: Framing()
        if transport is not Transport.TCP:
            from resolver.upstream.tls import Trust

            self._trust = Trust(surroundings.authorities, "h2" if transport is Transport.HTTPS else "dot")
        if transport is Transport.HTTPS:
            from resolver.upstream.http2 import Http2

            streams: dict[Server, int] = {}
            self._speak = lambda server: Http2(server, streams)
        self._ways: dict[Server, Way] = {}

    def send(self, server: Server, payload: bytes, receiver: Receiver, number: int) -> Query:
        """See Carrier."""
        way = self._ways.get(server)
        if way is None:
            way = self._ways[server] = Way(self._surroundings, server, self._make, USUAL)
        return way.send(payload, receiver, number)

    def _make(self, way: Way) -> Link:
        return _StreamLink(way, self._speak(way.server), self._trust)

    def keep(self, servers: AbstractSet[Server]) -> None:
        """See Carrier. Authorities that have changed hold for connections to come."""
        if self._trust is not None:
            self._trust.renew(self._surroundings.authorities)
        for server in [server for server, way in self._ways.items() if server not in servers and way.is_idle]:
            self._ways.pop(server).close()

    def close(self) -> None:
        """See Carrier."""
        for way in self._ways.values():
            way.close()
        self._ways.clear()


class Query:
    """A query under way: a ticket. `key`: by which its answer comes on `link`."""

    __slots__ = ("has_waited", "is_cancelled", "key", "link", "number", "payload", "receiver", "resends", "sent_at")

    def __init__(self, payload: bytes, receiver: Receiver, number: int) -> None:
        self.payload = payload
        self.receiver = receiver
        self.number = number
        self.sent_at = 0.0  # on the connection that it is on now
        self.link: Link | None = None
        self.key = 0
        self.resends = 0
        self.has_waited = False  # for a connection, or for room on one
        self.is_cancelled = False

    @property
    def is_waiting(self) -> bool:
        """See Ticket."""
        return self.link is None

    def cancel(self) -> None:
        """See Ticket."""
        if self.is_cancelled:
            return
        self.is_cancelled = True
        if self.link is not None:
            self.link.load -= 1
            self.link.cancelled(self)


class Way:
    """The way to one server, through all its connections. `usual`: how many where queries overlap.

    Invariants: `_waiting` holds what no connection has room for, and while it holds something a connection is open or being
    opened; `_links` has the oldest connection first, and those that take no more queries until they owe none.
    """

    def __init__(self, surroundings: Surroundings, server: Server, make: Callable[[Way], Link], usual: int) -> None:
        self._surroundings = surroundings
        self._loop = surroundings.loop
        self.server = server
        self._make = make
        self._usual = usual
        self._waiting: deque[Query] = deque()
        self._links: list[Link] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._window = PIPELINE
        self._barren = 0  # connections in a row that have ended without an answer
        self._alone_until = 0.0
        self._complaint: Fault | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not any(link.load for link in self._links) and all(query.is_cancelled for query in self._waiting)

    def send(self, payload: bytes, receiver: Receiver, number: int) -> Query:
        """See Carrier."""
        if len(self._waiting) >= PIPELINE or (self._links and all(len(x.owed) >= PIPELINE for x in self._links)):
            raise TransportError(Fault.OVERLOAD)
        query = Query(payload, receiver, number)
        self._waiting.append(query)
        self.push()
        query.has_waited = query.is_waiting
        return query

    def push(self) -> None:
        """Send what waits as far as there is room; open connections where that is useful."""
        links = [link for link in self._links if not link.is_over]
        while self._waiting:
            if self._waiting[0].is_cancelled:
                self._waiting.popleft()
                continue
            roomy = [link for link in links if link.load < self._window and link.has_room]
            if not roomy:
                break
            query = self._waiting.popleft()
            min(roomy, key=_load).ask(query)
            if query.has_waited:
                query.receiver.sent(query.number)
        for link in links:
            link.flush()
        for _ in range(len(links) + len(self._opening), self._useful(links)):
            task = self._loop.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _useful(self, links: Sequence[Link]) -> int:
        """How many connections there should be."""
        in_flight = len(self._waiting) + sum(map(_load, links))
        if self._barren >= BARREN and self._loop.time() < self._alone_until:
            return min(1, in_flight)
        if self._window < PIPELINE and in_flight:
            return min(MOST, in_flight + self._usual - 1)
        return min(MOST if links and self._waiting else self._usual, in_flight)

    def close(self) -> None:
        """Close all connections; nobody is told."""
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        for link in list(self._links):
            link.owed.clear()
            link.abort()

    async def _open(self) -> None:
        link, fault = None, Fault.PROTOCOL
        try:
            link = await self._connect()
        except TransportError as error:
            fault = error.fault
        except Exception:  # whatever it is, those who wait must hear of it
            _log.exception("no connection to %s", self.server.name)
        self._opening.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if link is None:
            self._complain(fault)
            self._had_no_answer()
            if not self._opening and all(link.is_over for link in self._links):
                waiting, self._waiting = self._waiting, deque()
                _fail(waiting, fault)
            return
        self._complaint = None
        self._links.append(link)
        self._surroundings.connected(self.server, 1)
        self.push()

    async def _connect(self) -> Link:
        """A new connection; TransportError if none can be had."""
        fault = Fault.UNREACHABLE
        for address in (await self._surroundings.where(self.server))[:ADDRESSES]:
            link = self._make(self)
            try:
                async with asyncio.timeout(STALL):
                    await link.open(address, self.server.port)
                if not link.is_over:
                    return link
                fault = Fault.CLOSED  # it said goodbye with its hello; to try again at once would go on for ever
            except TimeoutError:
                fault = Fault.SILENT
            except OSError as error:
                fault = fault_of(error)
            except TransportError as error:
                fault = error.fault
            except BaseException:
                link.abort()
                raise
            link.abort()
        raise TransportError(fault)

    def _complain(self, fault: Fault) -> None:
        """Tell the operator, once, what nobody but they can mend."""
        if (fault.is_certificates or fault is Fault.LOOKUP) and fault is not self._complaint:
            _log.warning("%s: %s", self.server.name, fault.value)
        self._complaint = fault

    def _had_no_answer(self) -> None:
        self._barren += 1
        self._alone_until = self._loop.time() + ALONE

    # -- called by links --------------------------------------------------------------------------------------------

    def answered(self, *, is_first: bool) -> None:
        """An answer has come; `is_first`: of its connection."""
        if is_first:
            self._barren = 0
        self._window += 1
        if self._window >= CALM:
            self._window = PIPELINE

    def again(self, query: Query, fault: Fault, *, in_front: bool = False) -> None:
        """Carry a query over to another connection, unless that has been done too often."""
        query.link = None
        query.resends += 1
        query.has_waited = True
        if query.resends > RESENDS:
            query.receiver.failed(query.number, fault)
        elif in_front:
            self._waiting.appendleft(query)
        else:
            self._waiting.append(query)

    def lost(self, link: Link, fault: Fault) -> None:
        """A connection has ended."""
        if link not in self._links:
            return
        self._links.remove(link)
        self._surroundings.connected(self.server, -1)
        owed = [query for query in link.owed.values() if not query.is_cancelled]
        link.owed.clear()
        if not link.has_answered:
            self._had_no_answer()
        if owed:
            self._window = WINDOW
            for query in reversed(owed[1:]):
                self.again(query, fault, in_front=True)
            if link.has_answered:
                self.again(owed[0], fault)
            else:
                _fail(owed[:1], fault)
        self.push()


def _load(link: Link) -> int:
    return link.load


def _fail(queries: Iterable[Query], fault: Fault) -> None:
    for query in queries:
        if not query.is_cancelled:
            query.link = None
            query.receiver.failed(query.number, fault)


class Link:
    """One connection from its opening to its end: which queries it owes an answer, and whether it is alive.

    Invariants: `ready` is done once the connection may be used or has failed; `owed` has the oldest query first.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._loop = asyncio.get_running_loop()
        self._check: asyncio.TimerHandle | None = None
        self._fault: Fault | None = None  # with which it was given up
        self._last_received = self._last_sent = self._loop.time()
        self.owed: dict[int, Query] = {}
        self.load = 0  # how many of them somebody waits for
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.has_answered = False

    # -- what a kind of connection does -----------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the server takes no further queries here, so that a new connection has to be opened."""
        raise NotImplementedError

    @property
    def has_room(self) -> bool:
        """Whether another query may be asked now."""
        raise NotImplementedError

    async def open(self, address: str, port: int) -> None:
        """Connect; TransportError or OSError if that fails."""
        raise NotImplementedError

    def ask(self, query: Query) -> None:
        """Ask, with the next `flush`."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what there is to send."""
        raise NotImplementedError

    def cancelled(self, query: Query) -> None:
        """Nobody waits for this answer."""
        raise NotImplementedError

    def close(self) -> None:
        """Close it: nothing is owed."""
        raise NotImplementedError

    def abort(self, fault: Fault | None = None) -> None:
        """Be gone; what is owed is lost with `fault`."""
        raise NotImplementedError

    def _forget(self, key: int) -> None:
        """This answer will not come any more."""

    # -- what all do ------------------------------------------------------------------------------------------------

    def _owe(self, query: Query, key: int) -> None:
        query.link, query.key = self, key
        query.sent_at = self._last_sent = self._loop.time()
        self.owed[key] = query
        self.load += 1

    def _heard(self) -> None:
        self._last_received = self._loop.time()

    def _opened(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
            self._check = self._loop.call_later(LOOK, self._look)

    def _ended(self, fault: Fault) -> None:
        if self._check is not None:
            self._check.cancel()
        if not self.ready.done():
            self.ready.set_exception(TransportError(fault))
        elif not self.ready.cancelled():
            self._way.lost(self, fault)

    def _answered(self, key: int, what: bytes | Fault) -> None:
        query = self.owed.pop(key, None)
        if isinstance(what, bytes):
            self._way.answered(is_first=not self.has_answered)
            self.has_answered = True
        if query is None or query.is_cancelled:
            return
        self.load -= 1
        query.link = None
        if isinstance(what, bytes):
            query.receiver.received(query.number, query.payload[:2] + what[2:])
        elif what is Fault.CLOSED:
            self._way.again(query, what)
        else:
            query.receiver.failed(query.number, what)

    def _look(self) -> None:
        """Close a connection that is idle or dead."""
        now = self._loop.time()
        self._check = self._loop.call_later(LOOK, self._look)
        if not self.owed:
            if now - max(self._last_sent, self._last_received) >= IDLE:
                self.close()
            return
        oldest = next(iter(self.owed.values()))
        if now - self._last_received >= STALL and now - oldest.sent_at >= STALL:
            self.abort(Fault.SILENT)
            return
        for key in [k for k, q in self.owed.items() if q.is_cancelled and now - q.sent_at >= FORGET]:
            del self.owed[key]
            self._forget(key)


class _StreamLink(Link, asyncio.Protocol):
    """One of TCP, with or without TLS."""

    def __init__(self, way: Way, dialogue: Dialogue, trust: Trust | None) -> None:
        super().__init__(way)
        self._trust = trust
        self._tls: Tls | None = trust.connect(way.server) if trust else None
        self._transport: asyncio.Transport | None = None
        self._dialogue = dialogue

    @property
    def is_over(self) -> bool:
        return self._dialogue.is_over or self._transport is None or self._transport.is_closing()

    @property
    def has_room(self) -> bool:
        return self._dialogue.has_room

    async def open(self, address: str, port: int) -> None:
        await self._loop.create_connection(lambda: self, address, port)
        await self.ready

    def ask(self, query: Query) -> None:
        self._owe(query, self._dialogue.ask(query.payload))

    def flush(self) -> None:
        if self._transport is None or self._transport.is_closing():  # TLS that has broken takes nothing
            return
        if self._tls is not None and not self._tls.is_open:  # nor does one whose handshake came in part
            return
        octets = self._dialogue.take()
        if self._tls is not None:
            octets = self._tls.send(octets)
        if octets:
            self._transport.write(octets)

    def cancelled(self, query: Query) -> None:
        if self._dialogue.can_cancel and self.owed.pop(query.key, None) is not None:
            self._dialogue.forget(query.key)
            if not self._dialogue.is_over:
                self.flush()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self, fault: Fault | None = None) -> None:
        self._fault = self._fault or fault
        if self._transport is not None:
            self._transport.abort()  # `connection_lost` says why
        else:
            self.ready.cancel()

    def _forget(self, key: int) -> None:
        self._dialogue.forget(key)

    # -- called by the loop -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._tls is None:
            self._opened()
        else:
            self._tls.start()
            self._transport.write(self._tls.take())

    def data_received(self, data: bytes) -> None:
        self._heard()
        try:
            if self._tls is not None:
                data = self._decrypt(self._tls, data)
            answers = self._dialogue.receive(data) if data else []
        except ProtocolError:
            self.abort(Fault.PROTOCOL)
            return
        except TransportError as error:
            self.abort(error.fault)
            return
        for key, what in answers:
            if isinstance(what, bytes) and not self.has_answered and self._tls is not None and self._trust is not None:
                self._trust.remember(self._way.server, self._tls.session)
            self._answered(key, what)
        if self._tls is not None and self._tls.is_closed:
            self.abort(Fault.CLOSED)  # the server may wait for that, and answer nothing more meanwhile
        self.flush()
        self._way.push()
        if self._dialogue.is_over and not self.owed and self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended(self._fault or (Fault.CLOSED if exc is None else Fault.RESET))

    # -- what follows -----------------------------------------------------------------------------------------------

    def _decrypt(self, tls: Tls, data: bytes) -> bytes:
        from resolver.upstream.tls import TlsError

        try:
            plain = tls.receive(data)
        except TlsError as error:
            if self._transport is not None:
                self._transport.write(tls.take())  # the alert that says why
            if self._trust is not None:
                self._trust.remember(self._way.server, None)
            raise TransportError(error.fault) from None
        if self._transport is not None and (octets := tls.take()):
            self._transport.write(octets)
        if tls.is_open:
            self._opened()
        return plain
