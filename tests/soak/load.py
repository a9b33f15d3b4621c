"""The soak's clients: they ask, judge each answer as it comes, and keep what was wrong and what was lost.

UDP goes out at a rate from a few sockets. TCP clients pipeline, break off in the middle of a frame, reset, and connect
anew. Malformed packets are queries cut, lengthened and with octets changed; all that is asked of an answer to them is
that it is a response.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.soak.truth import PATIENCE, Kind, Truth
from tests.soak.wire import WireError, query, read_answer

SOCKETS = 16
TICK = 0.01  # seconds between two turns of the sender
BURST = 8  # queries that a TCP client pipelines at most
_CUT = struct.pack("ii", 1, 0)  # SO_LINGER that makes close() a reset


@dataclass(slots=True)
class Tally:
    """What the clients saw. `late`: no answer within PATIENCE though no worker was killed."""

    asked: Counter[str] = field(default_factory=Counter)  # by kind and transport
    answered: int = 0
    failed: int = 0  # SERVFAIL while no upstream was there
    excused: int = 0  # no answer, and a worker was killed
    lost: int = 0  # no answer, and none was
    malformed: int = 0
    malformed_answered: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, fault: str) -> None:
        """Count a fault, written as `what: example`; of each `what` the first example is kept."""
        what, _, example = fault.partition(": ")
        self.faults[what] += 1
        self.examples.setdefault(what, example)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What is asked: names on the list, names that are on it at times, names that everybody asks for."""

    blocked: Sequence[str]
    toggled: Sequence[str]
    popular: Sequence[str]


class _Asked:
    __slots__ = ("kind", "name", "sent")

    def __init__(self, kind: Kind, name: str, sent: float) -> None:
        self.kind, self.name, self.sent = kind, name, sent


class Clients:
    """All clients of one server. `start` and `stop` may alternate; `stop` returns when nothing is under way."""

    def __init__(self, port: int, truth: Truth, catalogue: Catalogue, rate: int, rng: random.Random) -> None:
        self.tally = Tally()
        self._address = ("127.0.0.1", port)
        self._truth = truth
        self._catalogue = catalogue
        self._rate = rate
        self._rng = rng
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._running = False

    def start(self) -> None:
        self._running = True
        work = [self._ask_udp(), self._ask_malformed(), *(self._ask_tcp() for _ in range(4)), self._break_tcp()]
        self._tasks = [asyncio.create_task(each) for each in work]

    async def stop(self) -> None:
        self._running = False
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        self._tasks = []

    # -- what is asked ------------------------------------------------------------------------------------------------
    def _choose(self) -> tuple[Kind, str]:
        rng, catalogue = self._rng, self._catalogue
        dice = rng.random()
        if dice < 0.3:
            return Kind.BLOCKED, rng.choice(("", "www.")) + rng.choice(catalogue.blocked)
        if dice < 0.45:
            return Kind.TOGGLED, rng.choice(catalogue.toggled)
        if dice < 0.75:
            return Kind.POPULAR, rng.choice(catalogue.popular)
        self._number += 1
        return Kind.MISS, f"{'tc' if dice > 0.98 else 'm'}{self._number:x}.miss.example"

    def _judge(self, asked: _Asked, packet: bytes, transport: str) -> None:
        now = time.monotonic()
        self.tally.answered += 1
        try:
            answer = read_answer(packet)
        except WireError as error:
            self.tally.note(f"{transport} answer that is not sound: {error}")
            return
        if fault := self._truth.fault(asked.kind, asked.name, answer, asked.sent, now):
            self.tally.note(f"{transport} {fault}")
        elif not answer.addresses:
            self.tally.failed += 1

    def _lose(self, asked: _Asked) -> None:
        if self._truth.may_be_lost(asked.sent):
            self.tally.excused += 1
        else:
            self.tally.lost += 1

    # -- UDP ----------------------------------------------------------------------------------------------------------
    async def _ask_udp(self) -> None:
        loop = asyncio.get_running_loop()
        under_way: list[dict[int, _Asked]] = [{} for _ in range(SOCKETS)]
        socks = [self._udp_socket() for _ in range(SOCKETS)]
        for place, sock in enumerate(socks):
            loop.add_reader(sock, self._take_udp, sock, under_way[place])
        try:
            begin, sent = time.monotonic(), 0
            while self._running or any(under_way):
                now = time.monotonic()
                due = int((now - begin) * self._rate) - sent if self._running else 0
                for _ in range(min(due, self._rate)):
                    place, number = sent % SOCKETS, sent // SOCKETS % 0x10000
                    kind, name = self._choose()
                    sent += 1
                    if number in under_way[place]:
                        continue
                    under_way[place][number] = _Asked(kind, name, now)
                    with contextlib.suppress(OSError):
                        socks[place].send(query(number, name))
                    self.tally.asked[f"udp {kind.value}"] += 1
                for asked in under_way:
                    for number in [number for number, item in asked.items() if item.sent < now - PATIENCE]:
                        self._lose(asked.pop(number))
                await asyncio.sleep(TICK)
        finally:
            for sock in socks:
                loop.remove_reader(sock)
                sock.close()

    def _udp_socket(self) -> socket.socket:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect(self._address)
        return sock

    def _take_udp(self, sock: socket.socket, under_way: dict[int, _Asked]) -> None:
        for _ in range(64):
            try:
                packet = sock.recv(4096)
            except OSError:
                return
            if asked := under_way.pop(int.from_bytes(packet[:2], "big"), None):
                self._judge(asked, packet, "udp")
            elif len(packet) < 12:
                self.tally.note("udp answer without a header")

    async def _ask_malformed(self) -> None:
        rng = self._rng
        with self._udp_socket() as sock:
            while self._running:
                for _ in range(5):
                    octets = bytearray(query(rng.getrandbits(16), self._choose()[1]))
                    for _ in range(rng.randrange(1, 6)):
                        octets[rng.randrange(len(octets))] = rng.getrandbits(8)
                    if rng.random() < 0.3:
                        del octets[rng.randrange(len(octets)) :]
                    elif rng.random() < 0.2:
                        octets += rng.randbytes(rng.randrange(600))
                    with contextlib.suppress(OSError):
                        sock.send(octets)
                    self.tally.malformed += 1
                await asyncio.sleep(0.05)
                with contextlib.suppress(OSError):
                    while packet := sock.recv(65535):
                        self.tally.malformed_answered += 1
                        if len(packet) < 12 or not packet[2] & 0x80:
                            self.tally.note("udp answer to a malformed packet that is no response")

    # -- TCP ----------------------------------------------------------------------------------------------------------
    async def _ask_tcp(self) -> None:
        """One client after the other: connect, ask a few times, leave."""
        while self._running:
            under_way: dict[int, _Asked] = {}
            try:
                async with asyncio.timeout(2 * PATIENCE):
                    reader, writer = await asyncio.open_connection(*self._address)
            except (OSError, TimeoutError) as error:
                self.tally.note(f"tcp connection refused: {error or type(error).__name__}")
                await asyncio.sleep(0.5)
                continue
            try:
                for _ in range(self._rng.randrange(1, 20)):
                    await self._ask_burst(reader, writer, under_way)
                    if not self._running:
                        break
                    await asyncio.sleep(self._rng.random() * 0.1)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                pass  # its worker was killed: what was under way shows whether that is so
            finally:
                for asked in under_way.values():
                    self._lose(asked)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _ask_burst(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, under_way: dict[int, _Asked]
    ) -> None:
        now = time.monotonic()
        for number in range(self._rng.randrange(1, BURST + 1)):
            kind, name = self._choose()
            under_way[number] = _Asked(kind, name, now)
            self.tally.asked[f"tcp {kind.value}"] += 1
            packet = query(number, name)
            writer.write(len(packet).to_bytes(2, "big") + packet)
        async with asyncio.timeout(PATIENCE):
            while under_way:
                length = int.from_bytes(await reader.readexactly(2), "big")
                packet = await reader.readexactly(length)
                if asked := under_way.pop(int.from_bytes(packet[:2], "big"), None):
                    self._judge(asked, packet, "tcp")
                else:
                    self.tally.note("tcp answer to no question")

    async def _break_tcp(self) -> None:
        """Clients that nobody wants: half a frame, a length of nonsense, a reset with answers under way."""
        rng = self._rng
        while self._running:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    _, writer = await asyncio.open_connection(*self._address)
                packet = query(1, self._choose()[1])
                frame = len(packet).to_bytes(2, "big") + packet
                writer.write(rng.choice((frame[: rng.randrange(len(frame))], b"\xff\xff" + frame, frame * 3)))
                await asyncio.sleep(rng.random() * 0.05)
                sock = writer.get_extra_info("socket")
                if rng.random() < 0.5 and sock is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CUT)
                writer.close()
            await asyncio.sleep(0.1)
