"""DNS over TCP (RFC 7766): framing, pipelining, answers out of order, and what keeps strangers from wearing it out.

One `Stream` a connection, fed by the loop as an asyncio.Protocol. Each whole frame goes to `Engine.answer()`; what it
answers at once is written with one write for all frames of a read, what it punts comes later through the callable that
travels as the punt's token. A client may keep `pipeline` queries waiting; then its frames stay unread until answers
have gone out, and so they do while the client does not take its answers.

Limits: connections in all and per client. A new one beyond a limit takes the place of the idlest that waits for nothing
(of the same client, if it is the client's limit); if none is idle the new one is closed. Only whole frames and answers
count as activity, so that trickling octets does not keep a connection alive; an unfinished frame has a time of its own.
The idle time shrinks from `idle` to `idle / 10` as the second half of the places fills (RFC 7766 section 6.2.3).

Invariants: `_order` holds every open stream, the idlest first; a stream's pending count is the number of punts whose
token has not been called; a reply to a stream that is gone is dropped in silence.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from resolver.engine.engine import PUNT, REPLY, WAIT
from resolver.vocabulary import Transport

SWEEP = 0.5  # seconds between looks for connections to close
LINGER = 0.05  # seconds in which a draining server still reads what clients had sent
FLUSH = 65536  # octets of answers that are collected before a write
SCAN = 32  # how many of the idlest are looked at for one that waits for nothing
_HEADER = 12
_UINT16 = struct.Struct(">H")


class Answerer(Protocol):
    """The engine, as far as a listener knows it."""

    def answer(self, packet: bytes, client: bytes, transport: int, token: object = None) -> tuple[int, bytes | None]:
        """(verdict, reply); `token` travels with a punt."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds."""

    connections: int = 20_000
    per_client: int = 64
    pipeline: int = 128  # queries of one connection that wait for an answer
    idle: float = 10.0
    frame: float = 5.0  # for a frame, from its first octet to its last


class StreamServer:
    """All TCP connections of one worker.

    `on_punts` is called when the engine has punts to take (Punts.run). `transport` is what the queries are counted as.
    """

    def __init__(
        self,
        engine: Answerer,
        on_punts: Callable[[], None],
        *,
        limits: Limits | None = None,
        transport: Transport = Transport.TCP,
    ) -> None:
        self.engine = engine
        self.on_punts = on_punts
        self.limits = limits or Limits()
        self.transport = int(transport)
        self.is_draining = False
        self.loop = asyncio.get_running_loop()
        self._order: OrderedDict[Stream, None] = OrderedDict()
        self._clients: dict[bytes, OrderedDict[Stream, None]] = {}  # in the same order
        self._halves: set[Stream] = set()  # with an unfinished frame
        self._servers: list[asyncio.Server] = []
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._sweeper = self.loop.call_later(SWEEP, self._sweep)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._order)

    async def listen(self, sock: socket.socket) -> None:
        """Accept on a bound socket, which from now on belongs to this server."""
        self._servers.append(await self.loop.create_server(lambda: Stream(self), sock=sock, backlog=1024))

    async def drain(self, grace: float) -> None:
        """Accept no more, answer what is in flight, close. Whatever is open after `grace` seconds is cut."""
        self.is_draining = True
        for server in self._servers:
            server.close()
        await asyncio.sleep(min(LINGER, grace))
        for stream in list(self._order):
            stream.finish()
        try:
            async with asyncio.timeout(grace):
                await self._is_empty.wait()
        except TimeoutError:
            for stream in list(self._order):
                stream.cut(at_once=True)
            await self._is_empty.wait()
        self._sweeper.cancel()

    # -- called by streams ------------------------------------------------------------------------------------------

    def admit(self, stream: Stream, client: bytes) -> bool:
        """Give a new stream a place, by taking an idle one's if need be."""
        if self.is_draining:
            return False
        mates = self._clients.get(client)
        if mates is not None and len(mates) >= self.limits.per_client:
            idlest = next((mate for mate in mates if mate.is_spare), None)
            if idlest is None:
                return False
            self.leave(idlest, client)
            idlest.cut()
        elif len(self._order) >= self.limits.connections:
            idlest = next((s for _, s in zip(range(SCAN), self._order, strict=False) if s.is_spare), None)
            if idlest is None:
                return False
            self.leave(idlest, idlest.client)
            idlest.cut()
        self._order[stream] = None
        self._is_empty.clear()
        self._clients.setdefault(client, OrderedDict())[stream] = None
        return True

    def leave(self, stream: Stream, client: bytes) -> None:
        """Take a stream's place away. Harmless if it has none."""
        self._order.pop(stream, None)
        self._halves.discard(stream)
        if not self._order:
            self._is_empty.set()
        mates = self._clients.get(client)
        if mates is not None:
            mates.pop(stream, None)
            if not mates:
                del self._clients[client]

    def active(self, stream: Stream) -> None:
        """A whole frame came in, or an answer went out."""
        if stream in self._order:
            self._order.move_to_end(stream)
            self._clients[stream.client].move_to_end(stream)

    def half(self, stream: Stream, is_half: bool) -> None:
        """Whether a stream has an unfinished frame."""
        if is_half:
            self._halves.add(stream)
        else:
            self._halves.discard(stream)

    def idle_time(self) -> float:
        """Seconds a connection may be idle now."""
        pressure = max(0.0, 2 * len(self._order) / self.limits.connections - 1)
        return self.limits.idle * (1 - 0.9 * min(pressure, 1.0))

    def _sweep(self) -> None:
        self._sweeper = self.loop.call_later(SWEEP, self._sweep)
        now = self.loop.time()
        for stream in [s for s in self._halves if now - s.frame_since >= self.limits.frame]:
            stream.cut()
        idle = self.idle_time()
        old = []
        for stream in self._order:
            if now - stream.active_at < idle:
                break
            if stream.is_spare:
                old.append(stream)
        for stream in old:
            stream.cut()


class Stream(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_buffer",
        "_is_blocked",
        "_is_ending",
        "_is_half",
        "_is_reading",
        "_is_working",
        "_outbox",
        "_pending",
        "_server",
        "_token",
        "_transport",
        "active_at",
        "client",
        "frame_since",
    )

    def __init__(self, server: StreamServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._pending = 0
        self._outbox: list[bytes] = []
        self._is_working = False  # in `_work`: answers are collected
        self._is_blocked = False  # the client does not take its answers
        self._is_reading = True
        self._is_ending = False  # no more frames will come
        self._is_half = False  # there is an unfinished frame
        self._token = self._reply  # one bound method for all queries
        self.client = b""
        self.active_at = self.frame_since = server.loop.time()

    @property
    def is_spare(self) -> bool:
        """Whether nobody waits for an answer on it."""
        return not self._pending

    # -- asyncio ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The peer is known: take a place, or go."""
        self._transport = cast(asyncio.Transport, transport)
        peer = self._transport.get_extra_info("peername")
        if not peer:  # gone already
            self._transport.abort()
            return
        self.client = client_octets(peer[0])
        if not self._server.admit(self, self.client):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._transport = None
        self._buffer = b""
        self._server.leave(self, self.client)

    def data_received(self, data: bytes) -> None:
        """Octets from the client."""
        self._buffer = self._buffer + data if self._buffer else data
        self._work()

    def eof_received(self) -> bool:
        """Answer what is in flight to a client that only closed its own direction."""
        self._is_ending = True
        return not self._end_if_done()

    def pause_writing(self) -> None:
        """The client does not take its answers: read no more."""
        self._is_blocked = True
        self._steer()

    def resume_writing(self) -> None:
        """It takes them again."""
        self._is_blocked = False
        self._work()

    # -- work -------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Answer the whole frames of the buffer, as far as the limits allow."""
        if self._is_working or self._transport is None:
            return
        self._is_working = True
        server, engine = self._server, self._server.engine
        buffer, offset, end = self._buffer, 0, len(self._buffer)
        has_punts = is_bad = False
        size = 0
        while end - offset >= 2 and self._can_take():
            length = _UINT16.unpack_from(buffer, offset)[0]
            if length < _HEADER:  # no message is that short, and what follows cannot be trusted to be a frame
                is_bad = True
                break
            if end - offset - 2 < length:
                break
            packet = buffer[offset + 2 : offset + 2 + length]
            offset += 2 + length
            verdict, reply = engine.answer(packet, self.client, server.transport, self._token)
            if verdict == REPLY and reply is not None:
                self._outbox.append(_UINT16.pack(len(reply)))
                self._outbox.append(reply)
                size += len(reply)
                if size >= FLUSH:  # or a client that does not read could have one read's worth of frames answered
                    size = 0
                    self._flush()
            elif verdict in (PUNT, WAIT):
                self._pending += 1
                has_punts = True
        self._buffer = buffer[offset:]
        if has_punts:
            server.on_punts()  # may call our token
        self._is_working = False
        self._flush()
        if is_bad:
            self.cut()
            return
        if offset:
            self._stay_active()
        self._mind_frame(new=bool(offset))
        self._steer()
        self._end_if_done()

    def _reply(self, reply: bytes | None) -> None:
        """The token of our punts: the answer to one of them, or None."""
        self._pending -= 1
        if self._transport is None:
            return
        if reply is not None:
            self._outbox.append(_UINT16.pack(len(reply)))
            self._outbox.append(reply)
        if self._is_working:
            return
        self._flush()
        self._stay_active()
        if len(self._buffer) >= 2 and not self._is_blocked:
            self._work()
        else:
            self._steer()
            self._end_if_done()

    def _flush(self) -> None:
        if self._outbox and self._transport is not None:
            outbox, self._outbox = self._outbox, []
            self._transport.write(b"".join(outbox))

    def _stay_active(self) -> None:
        self.active_at = self._server.loop.time()
        self._server.active(self)

    def _mind_frame(self, *, new: bool) -> None:
        """Time an unfinished frame from its first octet. One that waits for its turn is not unfinished."""
        if self._transport is None:
            return
        is_half = bool(self._buffer) and self._can_take()
        if is_half and (new or not self._is_half):
            self.frame_since = self._server.loop.time()
        self._is_half = is_half
        self._server.half(self, is_half)

    def _can_take(self) -> bool:
        return self._pending < self._server.limits.pipeline and not self._is_blocked

    def _steer(self) -> None:
        """Read if frames could be answered, else let TCP slow the client down."""
        if self._transport is None or self._transport.is_closing() or self._is_ending:
            return
        wanted = self._can_take()
        if wanted != self._is_reading:
            self._is_reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # -- ends -------------------------------------------------------------------------------------------------------

    def _end_if_done(self) -> bool:
        """Close once no frame will come any more and none waits; whether it was so."""
        if self._transport is None or not self._is_ending or self._pending or self._has_frame():
            return False
        self._transport.close()
        return True

    def _has_frame(self) -> bool:
        return len(self._buffer) >= 2 and len(self._buffer) - 2 >= _UINT16.unpack_from(self._buffer)[0]

    def finish(self) -> None:
        """Take no more from the client than is here, answer that, close."""
        self._is_ending = True
        if self._transport is not None and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()
        self._end_if_done()

    def cut(self, *, at_once: bool = False) -> None:
        """Close without waiting for a client that does not read; `at_once`: nor for anything."""
        if self._transport is not None:
            if at_once or self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._transport.close()


def client_octets(address: str) -> bytes:
    """An address as 16 octets, IPv4 as ::ffff:a.b.c.d. The scope of a link-local address is left out."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed
