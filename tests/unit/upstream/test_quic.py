"""DNS over QUIC to a server made with aioquic: what is asked, what is trusted, what connections go through."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import pytest
import uvloop
from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import HandshakeCompleted, QuicEvent, StopSendingReceived, StreamDataReceived
from aioquic.tls import SessionTicket

from resolver.quic import ClientConnection, Doq
from resolver.upstream import connection
from resolver.upstream.carrier import Carriers, Fault, Surroundings
from resolver.upstream.message import Question, build, wire_name
from resolver.upstream.server import Server
from resolver.upstream.udp import LIMIT
from resolver.vocabulary import Transport
from tests.certificates import DAY, Authority, key_pem, make_key
from tests.fakes import address_of
from tests.ports import free_port
from tests.unit.upstream.test_carriers import Inbox, address


class Upstream:
    """A DoQ server: `act` says what is sent to a query instead of its answer, None for nothing; `octets` go as they are."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.ca = folder / "ca.pem"
        self.ca.write_text(self.authority.pem)
        self.folder = folder
        self.port = free_port()
        self.alpn = "doq"
        self.idle = 60.0
        self.seen: list[bytes] = []
        self.handshakes: list[HandshakeCompleted] = []
        self.stopped: list[int] = []
        self.links: list[_Served] = []
        self.tickets: dict[bytes, SessionTicket] = {}
        self.act: Callable[[_Served, int, bytes], bool] = lambda link, stream, message: False
        self._server: QuicServer | None = None

    @contextlib.asynccontextmanager
    async def serving(
        self, *names: str, begins: datetime.timedelta = -DAY, ends: datetime.timedelta = DAY
    ) -> AsyncIterator[Server]:
        key = make_key()
        (self.folder / "key.pem").write_text(key_pem(key))
        chain = self.authority.sign(key, names or ("127.0.0.1",), begins=begins, ends=ends)
        (self.folder / "chain.pem").write_text(chain)
        await self.start()
        try:
            yield Server("s", "127.0.0.1", self.port, Transport.QUIC, "127.0.0.1", "127.0.0.1")
        finally:
            self.stop()

    async def start(self) -> None:
        configuration = QuicConfiguration(is_client=False, alpn_protocols=[self.alpn], idle_timeout=self.idle)
        configuration.load_cert_chain(self.folder / "chain.pem", self.folder / "key.pem")
        self._server = await serve(
            "127.0.0.1",
            self.port,
            configuration=configuration,
            create_protocol=lambda *a, **k: _Served(self, *a, **k),
            session_ticket_handler=lambda ticket: self.tickets.update({ticket.ticket: ticket}),
            session_ticket_fetcher=lambda ticket: self.tickets.pop(ticket, None),
        )

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Served(QuicConnectionProtocol):
    def __init__(self, upstream: Upstream, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._upstream = upstream
        self._parts: dict[int, bytes] = {}
        upstream.links.append(self)

    def quic_event_received(self, event: QuicEvent) -> None:
        upstream = self._upstream
        if isinstance(event, HandshakeCompleted):
            upstream.handshakes.append(event)
        elif isinstance(event, StopSendingReceived):
            upstream.stopped.append(event.error_code)
        elif isinstance(event, StreamDataReceived):
            octets = self._parts[event.stream_id] = self._parts.get(event.stream_id, b"") + event.data
            if event.end_stream:
                assert len(octets) == 2 + int.from_bytes(octets[:2], "big")
                upstream.seen.append(octets[2:])
                if not upstream.act(self, event.stream_id, octets[2:]):
                    self.answer(event.stream_id, octets[2:])

    def answer(self, stream: int, message: bytes, size: int = 0) -> None:
        query = dns.message.from_wire(message)
        reply = dns.message.make_response(query)
        name = query.question[0].name
        reply.answer = [dns.rrset.from_text(name, 60, "IN", "A", address_of(name.to_text()))]
        if size:
            texts = [f'"{number:04}{"x" * 196}"' for number in range(size)]
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *texts))
        wire = reply.to_wire(max_size=65535)
        self.say(stream, len(wire).to_bytes(2, "big") + wire)

    def say(self, stream: int, octets: bytes, *, end: bool = True) -> None:
        self._quic.send_stream_data(stream, octets, end)
        self.transmit()

    def reset(self, stream: int) -> None:
        self._quic.reset_stream(stream, Doq.INTERNAL_ERROR)
        self.transmit()

    def stop_sending(self, stream: int) -> None:
        self._quic._streams[stream].receiver.is_finished = False
        self._quic.stop_stream(stream, Doq.INTERNAL_ERROR)
        self.transmit()

    def bye(self, code: int = Doq.NO_ERROR) -> None:
        self._quic.close(code)
        self.transmit()


Body = Callable[[Carriers, Inbox, Server], Awaitable[None]]


@pytest.fixture
def loop() -> Any:
    return uvloop.new_event_loop


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    return Upstream(tmp_path)


def run(loop: Any, upstream: Upstream, body: Body, *names: str, trust: bool = True, **validity: Any) -> None:
    async def main() -> None:
        async with upstream.serving(*names, **validity) as server:
            surroundings = Surroundings(asyncio.get_running_loop(), authorities=upstream.ca if trust else None)
            io = Carriers(surroundings, limit=LIMIT)
            try:
                await body(io, Inbox(), server)
            finally:
                io.close()
                await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(main(), 60))


def query(name: str = "www.example.com", ident: bytes = b"\x12\x34") -> bytes:
    return build(Question(wire_name(name), 1), ident, mix_case=False, padded=True)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def test_a_query_comes_back_with_its_own_id_and_is_sent_with_none(loop: Any, upstream: Upstream) -> None:
    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        for number in range(3):
            sent = query(ident=bytes((9, number)))
            io.send(server, Transport.QUIC, sent, inbox, number)
            got, message = await inbox.message()
            assert got == number and message[:2] == sent[:2]
            assert address(message) == address_of("www.example.com")

    run(loop, upstream, body)
    assert [message[:2] for message in upstream.seen] == [b"\0\0"] * 3
    assert len(upstream.links) == 1 and not upstream.handshakes[0].early_data_accepted


def test_many_queries_share_a_connection_and_come_in_any_order(loop: Any, upstream: Upstream) -> None:
    held: list[tuple[int, bytes]] = []

    def hold(link: _Served, stream: int, message: bytes) -> bool:
        held.append((stream, message))
        if len(held) == 60:
            for each in reversed(held):
                link.answer(*each)
        return len(held) <= 60

    upstream.act = hold

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        for number in range(500):
            io.send(server, Transport.QUIC, query(f"{number}.example"), inbox, number)
        seen = set()
        for _ in range(500):
            number, message = await inbox.message()
            assert address(message) == address_of(f"{number}.example")
            seen.add(number)
        assert seen == set(range(500))

    run(loop, upstream, body)
    assert len(upstream.links) <= connection.MOST


def test_a_large_answer_comes_whole(loop: Any, upstream: Upstream) -> None:
    def large(link: _Served, stream: int, message: bytes) -> bool:
        link.answer(stream, message, 290)
        return True

    upstream.act = large

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.QUIC, query(), inbox, 1)
        assert len((await inbox.message())[1]) > 60_000

    run(loop, upstream, body)


@pytest.mark.parametrize(
    ("names", "trust", "validity", "fault"),
    [
        (("other.test",), True, {}, Fault.WRONG_NAME),
        ((), False, {}, Fault.UNTRUSTED),
        ((), True, {"begins": -2 * DAY, "ends": -DAY}, Fault.EXPIRED),
        ((), True, {"begins": DAY, "ends": 2 * DAY}, Fault.NOT_YET_VALID),
    ],
)
def test_a_certificate_that_proves_nothing_gets_no_query(
    loop: Any, upstream: Upstream, names: tuple[str, ...], trust: bool, validity: dict[str, Any], fault: Fault
) -> None:
    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.QUIC, query(), inbox, 1)
        assert await inbox.fault() is fault

    run(loop, upstream, body, *names, trust=trust, **validity)
    assert not upstream.seen


def test_another_protocol_is_a_fault(loop: Any, upstream: Upstream) -> None:
    upstream.alpn = "h3"

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.QUIC, query(), inbox, 1)
        assert await inbox.fault() is Fault.HANDSHAKE

    run(loop, upstream, body)


@pytest.mark.parametrize("step", ["receive_datagram", "handle_timer"])
def test_an_error_within_quic_ends_the_connection_at_once(
    loop: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_: Any) -> None:
        raise IndexError("broken")

    monkeypatch.setattr(ClientConnection, step, broken)

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            if step == "handle_timer":
                server = dataclasses.replace(server, port=silent.getsockname()[1])
            io.send(server, Transport.QUIC, query(), inbox, 1)
            assert await inbox.fault() is Fault.RESET

    run(loop, upstream, body)


@pytest.mark.parametrize("step", ["__init__", "connect", "datagrams_to_send"])
def test_an_error_within_quic_at_the_opening_is_a_fault(
    loop: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_: Any) -> None:
        raise IndexError("broken")

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        with monkeypatch.context() as spoiled:
            spoiled.setattr(ClientConnection, step, broken)
            io.send(server, Transport.QUIC, query(), inbox, 1)
            assert await inbox.fault() in (Fault.RESET, Fault.PROTOCOL)
        io.send(server, Transport.QUIC, query(), inbox, 2)
        assert (await inbox.message())[0] == 2

    run(loop, upstream, body)


@pytest.mark.parametrize("step", ["send_stream_data", "datagrams_to_send", "stop_stream"])
def test_an_error_within_quic_costs_no_query_its_answer(
    loop: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise IndexError("broken")

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.QUIC, query(), inbox, 1)
        await inbox.message()
        with monkeypatch.context() as spoiled:
            spoiled.setattr(ClientConnection, step, broken)
            io.send(server, Transport.QUIC, query(), inbox, 2).cancel()
            for number in range(3, 6):
                io.send(server, Transport.QUIC, query(), inbox, number)
        assert {(await inbox.message())[0] for _ in range(3)} == {3, 4, 5}

    run(loop, upstream, body)


def test_a_port_that_nobody_has_is_a_fault(loop: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL", 1.0)

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        upstream.stop()
        io.send(server, Transport.QUIC, query(), inbox, 1)
        assert await inbox.fault() in (Fault.REFUSED, Fault.SILENT)

    run(loop, upstream, body)


BROKEN: dict[str, Callable[[_Served, int, bytes], None]] = {
    "a message id": lambda link, stream, message: link.say(stream, b"\0\x0c\0\1" + bytes(10)),
    "an end before the message's": lambda link, stream, message: link.say(stream, b"\0\x20" + bytes(8)),
    "two answers": lambda link, stream, message: link.say(stream, 2 * (b"\0\x0c" + bytes(12))),
    "no answer": lambda link, stream, message: link.say(stream, b""),
    "a wish to hear no more": lambda link, stream, message: link.stop_sending(stream),
}


@pytest.mark.parametrize("what", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_protocol_is_a_fault(
    loop: Any, upstream: Upstream, what: Callable[[_Served, int, bytes], None]
) -> None:
    def broken(link: _Served, stream: int, message: bytes) -> bool:
        what(link, stream, message)
        return True

    upstream.act = broken

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.QUIC, query(), inbox, 1)
        assert await inbox.fault() is Fault.PROTOCOL
        upstream.act = lambda link, stream, message: False
        io.send(server, Transport.QUIC, query(), inbox, 2)
        assert (await inbox.message())[0] == 2

    run(loop, upstream, body)
    assert len(upstream.links) == 2


def test_a_stream_that_is_reset_costs_its_query_alone(loop: Any, upstream: Upstream) -> None:
    def reset(link: _Served, stream: int, message: bytes) -> bool:
        if stream == 0:
            link.reset(stream)
        return stream == 0

    upstream.act = reset

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.QUIC, query(), inbox, 1)
        assert await inbox.fault() is Fault.RESET
        io.send(server, Transport.QUIC, query(), inbox, 2)
        assert (await inbox.message())[0] == 2

    run(loop, upstream, body)
    assert len(upstream.links) == 1


def test_a_query_that_nobody_waits_for_is_taken_back(loop: Any, upstream: Upstream) -> None:
    upstream.act = lambda link, stream, message: stream == 0

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        ticket = io.send(server, Transport.QUIC, query(), inbox, 1)
        await until(lambda: upstream.seen)
        ticket.cancel()
        await until(lambda: upstream.stopped)
        io.send(server, Transport.QUIC, query(), inbox, 2)
        assert (await inbox.message())[0] == 2

    run(loop, upstream, body)
    assert upstream.stopped == [Doq.REQUEST_CANCELLED] and len(upstream.links) == 1


def test_a_server_that_closes_is_connected_to_again_and_the_session_resumed(loop: Any, upstream: Upstream) -> None:
    def close(link: _Served, stream: int, message: bytes) -> bool:
        if len(upstream.seen) == 2:
            link.bye()
            return True
        return False

    upstream.act = close

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.QUIC, query(), inbox, 1)
        await inbox.message()
        await until(lambda: upstream.tickets)
        await asyncio.sleep(0.05)
        io.send(server, Transport.QUIC, query(), inbox, 2)  # closed in its face, and carried over
        assert (await inbox.message())[0] == 2

    run(loop, upstream, body)
    assert len(upstream.links) == 2
    assert [each.session_resumed for each in upstream.handshakes] == [False, True]
    assert not any(each.early_data_accepted for each in upstream.handshakes)


def test_a_connection_that_was_idle_for_too_long_is_opened_anew(loop: Any, upstream: Upstream) -> None:
    upstream.idle = 0.5

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.QUIC, query(), inbox, 1)
        await inbox.message()
        await asyncio.sleep(1.5)
        io.send(server, Transport.QUIC, query(), inbox, 2)
        assert (await inbox.message())[0] == 2

    run(loop, upstream, body)
    assert len(upstream.links) == 2


def test_a_server_that_falls_silent_is_given_up(loop: Any, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL", 0.5)
    monkeypatch.setattr(connection, "LOOK", 0.1)

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.QUIC, query(), inbox, 1)
        await inbox.message()
        for link in upstream.links:
            link.datagram_received = lambda data, addr: None  # type: ignore[method-assign]
        io.send(server, Transport.QUIC, query(), inbox, 2)
        assert (await inbox.message())[0] == 2, "by another connection"

    run(loop, upstream, body)
    assert len(upstream.links) == 2


def test_an_end_that_comes_after_its_answer_breaks_nothing(loop: Any, upstream: Upstream) -> None:
    def split(link: _Served, stream: int, message: bytes) -> bool:
        wire = dns.message.make_response(dns.message.from_wire(message)).to_wire()
        link.say(stream, len(wire).to_bytes(2, "big") + wire, end=False)
        link.say(stream, b"")
        return True

    upstream.act = split

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        for number in range(5):
            io.send(server, Transport.QUIC, query(), inbox, number)
            assert (await inbox.message())[0] == number

    run(loop, upstream, body)
    assert len(upstream.links) == 1
