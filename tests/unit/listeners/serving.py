"""A server of any kind on loopback with a fake engine behind it, and clients that speak TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from resolver.engine.engine import DROP, PUNT, REPLY
from resolver.listeners.connection import Door
from resolver.listeners.https import Http
from resolver.listeners.proxy import Trusted
from resolver.listeners.server import Limits, StreamServer
from resolver.listeners.stream import Stream
from resolver.listeners.tls import Contexts
from resolver.vocabulary import Transport
from tests.certificates import Authority, key_pem, make_key

Runner = Callable[[Coroutine[Any, Any, None]], None]
FACTORIES = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def runner(factory: str) -> Runner:
    """Runs a coroutine on a loop of one kind."""

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=FACTORIES[factory]) as loop:
            loop.run(asyncio.wait_for(coroutine, 60))

    return run


class FakeEngine:
    """Answers by what stands behind the header: `now…` at once, `later…` when told to, `drop`, `big`, `slow` after a
    millisecond of work."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes, int]] = []
        self.waiting: list[tuple[bytes, Callable[[bytes | None], None]]] = []
        self.rounds = 0
        self.looks: list[int] = []  # after how many questions on streams UDP was looked at in between

    def answer(self, packet: bytes, client: bytes, transport: int, token: object = None) -> tuple[int, bytes | None]:
        self.asked.append((packet, client, transport))
        word = packet[12:]
        if word.startswith(b"now"):
            return REPLY, packet
        if word.startswith(b"slow"):
            time.sleep(0.001)
            return REPLY, packet
        if word.startswith(b"big"):
            return REPLY, packet + bytes(60_000)
        if word.startswith(b"later"):
            assert callable(token)
            self.waiting.append((packet, token))
            return PUNT, None
        return DROP, None

    def punts(self) -> None:
        self.rounds += 1

    def look(self) -> None:
        self.looks.append(len(self.asked))

    def release(self, index: int = 0, reply: bytes | None = b"") -> None:
        packet, token = self.waiting.pop(index)
        token(packet if reply == b"" else reply)


def message(word: str) -> bytes:
    return bytes(12) + word.encode()


def frame(word: str) -> bytes:
    return struct.pack(">H", 12 + len(word)) + message(word)


class Client:
    """Speaks DNS frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *words: str) -> None:
        self.writer.write(b"".join(map(frame, words)))
        await self.writer.drain()

    async def word(self) -> str:
        length = struct.unpack(">H", await self.reader.readexactly(2))[0]
        return (await self.reader.readexactly(length))[12:].decode()

    async def is_closed(self) -> bool:
        try:
            return await self.reader.read(1) == b""
        except OSError:
            return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Place:
    """A server on loopback with a fake engine, and its clients."""

    def __init__(self, server: StreamServer, host: str, port: int, contexts: Contexts, authority: Authority) -> None:
        self.server, self.host, self.port, self.contexts, self.authority = server, host, port, contexts, authority
        engine = server.engine
        assert isinstance(engine, FakeEngine)
        self.engine = engine
        self.clients: list[Client] = []

    def trusting(self, *alpn: str, **settings: Any) -> ssl.SSLContext:
        """A client's context that believes the server."""
        context = ssl.create_default_context(cadata=self.authority.pem)
        if alpn:
            context.set_alpn_protocols(alpn)
        for name, value in settings.items():
            setattr(context, name, value)
        return context

    async def connect(
        self, context: ssl.SSLContext | None = None, *, source: str = "", before: bytes = b"", **options: Any
    ) -> Client:
        """A client over TLS, or in plain; `before` is sent first of all, in plain."""
        local = (source, 0) if source else None
        reader, writer = await asyncio.open_connection(self.host, self.port, local_addr=local, **options)
        if before:
            writer.write(before)
            await writer.drain()
        if context is not None:
            await writer.start_tls(context, server_hostname="localhost")
        client = Client(reader, writer)
        self.clients.append(client)
        return client

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


AUTHORITY = Authority()
KEY = make_key()
CHAIN = AUTHORITY.sign(KEY)


@contextlib.asynccontextmanager
async def serving(
    kind: str, *, host: str = "127.0.0.1", trusted: tuple[str, ...] = (), alt_svc: bytes = b"", **limits: Any
) -> AsyncIterator[Place]:
    """Serve "dns", "tls" or "https"."""
    engine = FakeEngine()
    server = StreamServer(engine, engine.punts, engine.look, limits=Limits(**limits))
    contexts = Contexts()
    contexts.show(CHAIN, key_pem(KEY), "ec")
    transport = {"dns": Transport.TCP, "tls": Transport.TLS, "https": Transport.HTTPS}[kind]
    door = Door(
        transport,
        None if kind == "dns" else partial(contexts.of, kind),
        Trusted(trusted) if trusted else None,
    )
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    place = Place(server, host, sock.getsockname()[1], contexts, AUTHORITY)
    if kind == "https":
        await server.listen(sock, lambda: Http(server, door, b"/dns-query", alt_svc))
    else:
        await server.listen(sock, lambda: Stream(server, door))
    try:
        yield place
    finally:
        for client in place.clients:
            await client.close()
        await server.drain(0.0)
        await asyncio.sleep(0.01)


def write_ca(folder: Path) -> Path:
    """The authority as a file."""
    path = folder / "ca.pem"
    path.write_text(AUTHORITY.pem)
    return path
