"""QUIC on this worker's UDP sockets: which connection a datagram belongs to, who gets one, and when each is heard again.

    socket ─ _Door ─ a known connection id? ─▶ Link ─▶ aioquic ─▶ events ─▶ a service (doq.py, http3.py) ─▶ Engine.answer()
                    └ a first packet ─▶ gate.py ─▶ a new Link, a Retry, or nothing

QUIC here is Python, and a datagram costs a quarter of a millisecond, a handshake some ten times that. Plain DNS on the
same loop must not wait for it: a round takes datagrams for `ROUND` and then lets the loop look at everything else.
Connections that a round has touched send once, at its end, so an answer, the acknowledgement of its query and whatever
else is due share a datagram.

Limits: gate.py bounds handshakes, places.py connections, QUIC's own credit the queries of one connection under way, the
windows of resolver/quic.py what is kept for it, `unsent` the answers that it does not take. A connection that has ended is
forgotten at once, and so is its memory: what still comes for it gets a stateless reset (RFC 9000 section 10.3). aioquic is
fed by strangers: whatever it raises ends that one connection.

Not done: early data (0-RTT) is not granted; a session can be resumed at the worker that it began with, otherwise the
handshake is a full one; no NEW_TOKEN; no ECN.

Invariants: `_links` has every id by which a connection may be called, and a Link that is gone has none there; `_half` are
those whose handshake has not succeeded; a Link is in `_places` if its has; nothing is sent but in `_flush`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    HandshakeCompleted,
    ProtocolNegotiated,
    QuicEvent,
)
from aioquic.tls import SessionTicket, load_pem_private_key, load_pem_x509_certificates

from resolver.engine.engine import PUNT, REPLY, WAIT
from resolver.listeners import first
from resolver.listeners.doq import DoqService
from resolver.listeners.gate import Answer, Gate, prefix
from resolver.listeners.places import Places
from resolver.listeners.server import Answerer, Limits, client_octets
from resolver.quic import CID, DOQ, LARGEST_MESSAGE, Connection, Doq, Ids, ServerConnection
from resolver.vocabulary import Transport

CONNECTIONS = 4096  # at most, whatever the config allows streams: each takes some 50 KiB
ROUND = 0.0005  # seconds of datagrams before the loop looks at other sockets
BATCH = 32  # datagrams of a round at most
SWEEP = 0.5  # seconds between looks for connections to close
LINGER = 0.05  # seconds in which a draining server still hears what clients had sent
GRANULARITY = 0.001  # seconds by which a timer may be early
MARGIN = 1.0  # seconds that QUIC's own idle time is longer than ours, so that clients hear of the end
WINDOW = 128 * 1024  # octets of a connection that may wait for others before them
CRYPTO = 16_384  # the same of its handshake
HALF_OPEN = 16_384  # octets that a handshake may take
UNSENT = 1 << 20  # octets of answers that a client has not taken before it loses its connection
AUDIT = 64 * 1024  # octets of answers between looks at that
TICKETS = 4096  # sessions that can be resumed
RESETS = 200  # stateless resets in one sweep's time
PACE = 0.05  # seconds between looks whether those who wait for a handshake may have it
WAITING = 64  # of them at most
WAITING_EACH = 16  # of one client
_SIZE = 2048  # of a datagram that is read: what is longer is no QUIC of ours
_ANCILLARY = 128
_SHORTEST = 1 + CID  # octets of a packet

_log = logging.getLogger(__name__)


class Service(Protocol):
    """What is spoken on a connection. The numbers are its error codes for CONNECTION_CLOSE."""

    transport: Transport
    done: int
    too_much: int
    broken: int

    @property
    def pending(self) -> int:
        """How many queries wait for an answer."""

    def handle(self, event: QuicEvent, now: float) -> None:
        """What the connection reports."""

    def reply(self, stream: int, message: bytes | None) -> None:
        """The answer to what was asked on a stream; None: there is none."""

    def look(self, now: float) -> None:
        """Called now and then, for what takes too long."""


Peer = tuple[
    Any, tuple[tuple[int, int, bytes], ...]
]  # address as the socket has it, and by which of ours it was called
MakeService = Callable[[Connection, Callable[[int, bytes], None]], Service]


class _Door:
    """One bound socket and what is spoken on it."""

    def __init__(self, sock: socket.socket, *, wildcard: bool, alpn: str, make: MakeService, refusal: int) -> None:
        self.sock = sock
        self._wildcard = wildcard
        self.alpn = alpn
        self.make = make
        self.refusal = refusal  # the error code for what comes too early
        self.configuration: QuicConfiguration | None = None

    def receive(self) -> tuple[bytes, Peer] | None:
        """The next datagram, None if there is none now."""
        try:
            if self._wildcard:  # the answer must leave from the address that was asked
                data, ancillary, _, address = self.sock.recvmsg(_SIZE, _ANCILLARY)
                return data, (address, tuple(ancillary))
            data, address = self.sock.recvfrom(_SIZE)
            return data, (address, ())
        except OSError:
            return None

    def send(self, data: bytes, peer: Peer) -> None:
        """Send, or lose it: QUIC sends again."""
        address, ancillary = peer
        try:
            if ancillary:
                self.sock.sendmsg((data,), ancillary, 0, address)
            else:
                self.sock.sendto(data, address)
        except OSError:
            pass


class _Knock(NamedTuple):
    """A first packet, and when it came."""

    door: _Door
    data: bytes
    peer: Peer
    since: float


class QuicServer:
    """All QUIC connections of one worker. `on_punts` is called when the engine has punts to take (Punts.run)."""

    def __init__(
        self, engine: Answerer, on_punts: Callable[[], None], ids: Ids, *, limits: Limits | None = None
    ) -> None:
        logging.getLogger("quic").setLevel(logging.CRITICAL)  # aioquic's: strangers must not fill our log
        self.engine = engine
        self.on_punts = on_punts
        self.has_punts = False
        self.limits = limits or Limits()
        self._ids = ids
        self._loop = asyncio.get_running_loop()
        self._doors: list[_Door] = []
        self._pair: tuple[Any, Any, list[Any]] | None = None
        self._gate = Gate()
        self._waiting: dict[bytes, tuple[bytes, _Knock]] = {}  # by the id that they ask for: whose, and the packet
        self._tokens = first.Tokens()
        self._places: Places[Link] = Places(*_places(self.limits))
        self._links: dict[bytes, Link] = {}
        self._half: dict[Link, None] = {}
        self._dirty: dict[Link, None] = {}
        self._is_in_round = False
        self._is_draining = False
        self._tickets: OrderedDict[bytes, SessionTicket] = OrderedDict()
        self._resets = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    @property
    def connections(self) -> int:
        """How many are open, handshakes included."""
        return len(self._places) + len(self._half)

    # -- what it is told --------------------------------------------------------------------------------------------

    def listen_doq(self, sock: socket.socket, *, wildcard: bool) -> None:
        """Speak DNS over QUIC on a bound socket, which from now on belongs to this server."""
        self._open(_Door(sock, wildcard=wildcard, alpn=DOQ, make=self._make_doq, refusal=Doq.PROTOCOL_ERROR))

    def listen_http3(self, sock: socket.socket, *, wildcard: bool, path: bytes) -> None:
        """Speak DNS over HTTP/3 on a bound socket, likewise; `path`: where queries are taken."""
        from resolver.listeners import http3  # here: only who needs HTTP has it in memory

        def make(quic: Connection, ask: Callable[[int, bytes], None]) -> Service:
            return http3.Http3Service(quic, ask, path=path, patience=self.limits.frame)

        self._open(_Door(sock, wildcard=wildcard, alpn=http3.ALPN, make=make, refusal=http3.Http3Service.broken))

    def _make_doq(self, quic: Connection, ask: Callable[[int, bytes], None]) -> Service:
        return DoqService(quic, ask, patience=self.limits.frame)

    def _open(self, door: _Door) -> None:
        self._doors.append(door)
        self._configure(door)
        self._loop.add_reader(door.sock.fileno(), self._receive, door)

    def certify(self, chain: str, key: str) -> None:
        """Show this certificate (PEM) to who connects from now on. ValueError if it cannot be read."""
        first, *others = load_pem_x509_certificates(chain.encode("latin-1"))
        self._pair = first, load_pem_private_key(key.encode("latin-1")), others
        for door in self._doors:
            self._configure(door)

    def limit(self, limits: Limits) -> None:
        """Keep to these limits from now on; those a client was told stay with its connection."""
        self.limits = limits
        self._places.connections, self._places.per_client, self._places.idle = _places(limits)
        for door in self._doors:
            self._configure(door)

    def _configure(self, door: _Door) -> None:
        if self._pair is not None:
            certificate, key, others = self._pair
            door.configuration = QuicConfiguration(
                is_client=False,
                alpn_protocols=[door.alpn],
                idle_timeout=self.limits.idle + MARGIN,
                max_stream_data=LARGEST_MESSAGE,
                connection_id_length=CID,
                certificate=certificate,
                private_key=key,
                certificate_chain=others,
            )

    async def drain(self, grace: float) -> None:
        """Take no new connection, answer what is in flight, close. Whatever is open after `grace` seconds is closed too."""
        await asyncio.sleep(min(LINGER, grace))
        self._is_draining = True
        for link in [*self._places.holders, *self._half]:
            link.end_if_done()
        self._flush()
        try:
            async with asyncio.timeout(grace):
                await self._is_empty.wait()
        except TimeoutError:
            for link in [*self._places.holders, *self._half]:
                link.cut()
            self._flush()
        self._sweeper.cancel()
        for door in self._doors:
            self._loop.remove_reader(door.sock.fileno())
            door.sock.close()

    # -- datagrams --------------------------------------------------------------------------------------------------

    def _receive(self, door: _Door) -> None:
        now = time.monotonic()
        end = now + ROUND
        self._is_in_round = True
        try:
            for _ in range(BATCH):
                received = door.receive()
                if received is None:
                    break
                self._take(door, *received, now)
                now = time.monotonic()
                if now >= end:
                    break
            if self.has_punts:
                self.has_punts = False
                self.on_punts()  # may answer at once
        finally:
            self._is_in_round = False
            self._flush()

    def _take(self, door: _Door, data: bytes, peer: Peer, now: float) -> None:
        if len(data) < _SHORTEST:
            return
        cid = data[6 : 6 + data[5]] if data[0] & first.LONG else data[1 : 1 + CID]
        link = self._links.get(cid)
        if link is not None and link.door is door:
            link.receive(data, peer, now)
        elif data[0] & first.LONG:
            self._knock(_Knock(door, data, peer, now), now)
        else:
            self._reset(door, cid, len(data), peer)

    def _knock(self, knock: _Knock, now: float) -> None:
        """A packet with a long header that belongs to no connection."""
        door, data, peer, _ = knock
        read = first.read(data) if not self._is_draining and door.configuration is not None else None
        if read is None:
            return
        if not read.is_initial:
            if (answer := first.other_versions(read)) is not None:
                door.send(answer, peer)
            return
        address = b"%s %d" % (peer[0][0].encode(), peer[0][1])
        original = self._tokens.proven(read, address, now) if read.token else None
        client = client_octets(peer[0][0]) if original is not None else b""
        match self._gate.ask(client, now):
            case Answer.PROVE if not read.token:
                door.send(self._tokens.retry(read, self._ids.make(), address, now), peer)
            case Answer.ENTER:
                self._enter(door, read, peer, original).receive(data, peer, now)
            case Answer.WAIT if original is not None:
                self._wait(knock, read.destination, client)

    def _wait(self, knock: _Knock, cid: bytes, client: bytes) -> None:
        """Have a client knock again in a moment, as not all do so by themselves (kdig 3.2 sends its first packet once)."""
        who = prefix(client)
        if len(self._waiting) < WAITING and sum(who == each for each, _ in self._waiting.values()) < WAITING_EACH:
            if not self._waiting:
                self._loop.call_later(PACE, self._knock_again)
            self._waiting.setdefault(cid, (who, knock))

    def _knock_again(self) -> None:
        waiting, self._waiting = self._waiting, {}
        now = time.monotonic()
        for _, knock in waiting.values():
            if now - knock.since < self._gate.patience:
                self._knock(knock, now)

    def _enter(self, door: _Door, read: first.First, peer: Peer, original: bytes | None) -> Link:
        assert door.configuration is not None
        quic = ServerConnection(
            door.configuration,
            self._ids,
            original=read.destination if original is None else original,
            retry=None if original is None else read.destination,
            window=WINDOW,
            crypto=CRYPTO,
            streams=self.limits.pipeline,
            find_ticket=self._find_ticket,
            keep_ticket=self._keep_ticket,
        )
        link = Link(self, door, quic, client_octets(peer[0][0]), is_proven=original is not None)
        self._half[link] = None
        self._is_empty.clear()
        self.call(link, read.destination)
        self.call(link, quic.host_cid)
        return link

    def _reset(self, door: _Door, cid: bytes, length: int, peer: Peer) -> None:
        """Tell a client that its connection is not known here any more."""
        reset = first.stateless_reset(self._ids.reset_token(cid), length) if self._resets < RESETS else None
        if reset is not None and not self._is_draining:
            self._resets += 1
            door.send(reset, peer)

    def _find_ticket(self, ticket: bytes) -> SessionTicket | None:
        return self._tickets.pop(ticket, None)

    def _keep_ticket(self, ticket: SessionTicket) -> None:
        self._tickets[ticket.ticket] = ticket
        if len(self._tickets) > TICKETS:
            self._tickets.popitem(last=False)

    # -- called by links --------------------------------------------------------------------------------------------

    def call(self, link: Link, cid: bytes) -> None:
        """A connection may be called by this id."""
        self._links[cid] = link
        link.cids.add(cid)

    def uncall(self, link: Link, cid: bytes) -> None:
        """And by this one no more."""
        link.cids.discard(cid)
        if self._links.get(cid) is link:
            del self._links[cid]

    def admit(self, link: Link, now: float) -> bool:
        """A handshake has succeeded: give the connection a place."""
        self._end_half(link, now, succeeded=True)
        link.active_at = now
        return not self._is_draining and self._places.take(link)

    def forget(self, link: Link) -> None:
        """A connection is over."""
        for cid in list(link.cids):
            self.uncall(link, cid)
        self._end_half(link, time.monotonic(), succeeded=False)
        self._places.leave(link)
        self._dirty.pop(link, None)
        if not self._half and not len(self._places):
            self._is_empty.set()

    def _end_half(self, link: Link, now: float, *, succeeded: bool) -> None:
        if self._half.pop(link, self) is None:
            self._gate.end(link.client if link.is_proven else b"", now, succeeded=succeeded)

    def active(self, link: Link) -> None:
        """A query came in whole, or an answer went out."""
        self._places.active(link, time.monotonic())

    def touched(self, link: Link) -> None:
        """A connection has something to send: at the end of this round, or soon."""
        if not self._dirty and not self._is_in_round:
            self._loop.call_soon(self._flush)
        self._dirty[link] = None

    @property
    def is_draining(self) -> bool:
        """Whether the end has begun."""
        return self._is_draining

    def _flush(self) -> None:
        while self._dirty:
            link, _ = self._dirty.popitem()
            link.send(time.monotonic())

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)
        self._resets = 0
        now = time.monotonic()
        for link in [each for each in self._half if now - each.active_at >= self._gate.patience]:
            link.vanish()
        for link in list(self._places.overdue(now)):
            link.cut()
        for link in self._places.holders:
            link.look(now)
        self._flush()


def _places(limits: Limits) -> tuple[int, int, float]:
    return min(limits.connections, CONNECTIONS), limits.per_client, limits.idle


class Link:
    """One connection. `client`: its address when it came, 16 octets; `is_proven`: by a Retry."""

    __slots__ = (
        "_asking",
        "_peer",
        "_quic",
        "_received",
        "_server",
        "_service",
        "_timer",
        "_timer_at",
        "_unaudited",
        "active_at",
        "cids",
        "client",
        "door",
        "is_proven",
    )

    def __init__(
        self, server: QuicServer, door: _Door, quic: ServerConnection, client: bytes, *, is_proven: bool
    ) -> None:
        self._server = server
        self._quic: ServerConnection | None = quic  # None: gone
        self._service: Service | None = None  # None: the handshake is under way
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._peer: Any = None
        self._asking = client  # its address now, as far as it is proven
        self._received = 0
        self._unaudited = 0
        self.active_at = time.monotonic()
        self.cids: set[bytes] = set()
        self.client = client
        self.door = door
        self.is_proven = is_proven

    @property
    def is_spare(self) -> bool:
        """Whether nobody waits for an answer on it."""
        return self._service is None or not self._service.pending

    def receive(self, data: bytes, peer: Peer, now: float) -> None:
        """A datagram for this connection."""
        if self._quic is None:
            return
        if self._service is None:
            self._received += len(data)
            if self._received > HALF_OPEN:
                self.vanish()
                return
        self._drive(partial(self._quic.receive_datagram, data, peer, now), now)

    def send(self, now: float) -> None:
        """Send what is due and set the timer."""
        quic = self._quic
        if quic is None:
            return
        try:
            for data, peer in quic.datagrams_to_send(now):
                self.door.send(data, peer)
            self._report(now)  # new ids are made while sending
            if self._quic is None:
                return
            if self._server.is_draining:
                self.end_if_done()
            if quic.is_over:
                self.vanish()
            else:
                self._set_timer(quic.get_timer(), now)
        except Exception:
            self._fail()

    def look(self, now: float) -> None:
        """Called now and then."""
        if self._service is not None and self._quic is not None:
            self._service.look(now)
            if self._quic.is_ending:
                self._server.touched(self)

    def cut(self) -> None:
        """Close, without waiting for anything."""
        self._close(self._service.done if self._service else 0)

    def end_if_done(self) -> None:
        """Close if nobody waits for an answer, and the last one has arrived."""
        if self.is_spare and self._quic is not None and not self._quic.unsent:
            self.cut()

    def vanish(self) -> None:
        """Be gone without a word."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._server.forget(self)
        if self._quic is not None:
            self._quic.dispose()
            self._quic = self._service = None  # the service knows both: no cycle may stay

    # -- work -------------------------------------------------------------------------------------------------------

    def _drive(self, step: Callable[[], None], now: float) -> None:
        """Let aioquic do something, look at what it reports, and send later."""
        try:
            step()
            self._report(now)
        except Exception:
            self._fail()
        else:
            if self._quic is not None:
                self._server.touched(self)

    def _report(self, now: float) -> None:
        while self._quic is not None and (event := self._quic.next_event()) is not None:
            if isinstance(event, ConnectionIdIssued):
                self._server.call(self, event.connection_id)
            elif isinstance(event, ConnectionIdRetired):
                self._server.uncall(self, event.connection_id)
            elif isinstance(event, HandshakeCompleted):
                self._begin(now)
            elif isinstance(event, ConnectionTerminated):
                self.vanish()
            elif self._service is not None:
                if not self._quic.is_ending:
                    self._service.handle(event, now)
            elif not isinstance(event, ProtocolNegotiated):  # early data, which was not granted
                self._close(self.door.refusal)

    def _begin(self, now: float) -> None:
        assert self._quic is not None
        self._quic.settle()
        self._service = self.door.make(self._quic, self._ask)
        if not self._server.admit(self, now):
            self._close(self._service.too_much)

    def _ask(self, stream: int, message: bytes) -> None:
        server, service, quic = self._server, self._service, self._quic
        assert service is not None and quic is not None
        server.active(self)
        peer = quic.proven_address
        if peer is not None and peer is not self._peer:  # the client has moved; anybody could claim so unproven
            self._peer, self._asking = peer, client_octets(peer[0][0])
        token = partial(self._answered, stream)
        verdict, reply = server.engine.answer(message, self._asking, int(service.transport), token)
        if verdict == REPLY:
            self._give(stream, reply)
        elif verdict in (PUNT, WAIT):
            server.has_punts = True
        else:
            service.reply(stream, None)

    def _answered(self, stream: int, reply: bytes | None) -> None:
        """The token of a punt: its answer."""
        if self._quic is None or self._quic.is_ending:
            return
        try:
            self._give(stream, reply)
        except Exception:
            self._fail()
            return
        self._server.active(self)
        self._server.touched(self)

    def _give(self, stream: int, reply: bytes | None) -> None:
        assert self._service is not None and self._quic is not None
        self._service.reply(stream, reply)
        self._unaudited += len(reply or b"")
        if self._unaudited >= AUDIT:
            self._unaudited = 0
            if self._quic.unsent > UNSENT:
                self._close(self._service.too_much)

    def _close(self, code: int) -> None:
        if self._quic is not None:
            self._quic.close(code)
            self._server.touched(self)

    def _fail(self) -> None:
        """After an error of aioquic's or ours: this connection ends, no other."""
        _log.debug("a QUIC connection ended by an error", exc_info=True)
        self.vanish()

    # -- time -------------------------------------------------------------------------------------------------------

    def _set_timer(self, at: float | None, now: float) -> None:
        """An earlier timer stays: it sets the next one when it comes, and most are never waited for."""
        if at is None:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._server._loop.call_later(max(at - now, GRANULARITY), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._quic is not None:
            now = time.monotonic()
            self._drive(partial(self._quic.handle_timer, now), now)
