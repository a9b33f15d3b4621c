"""TLS and HTTPS to a server that has a certificate: what is asked, what is trusted, what connections go through."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.message
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
import uvloop

from resolver.upstream import connection
from resolver.upstream.carrier import Carriers, Fault, Surroundings
from resolver.upstream.http2 import Http2
from resolver.upstream.message import Question, build, wire_name
from resolver.upstream.server import Server
from resolver.upstream.udp import LIMIT
from resolver.vocabulary import Transport
from tests.certificates import DAY, Authority, key_pem, make_key
from tests.fakes import Act, FakeUpstream, address_of
from tests.unit.upstream.test_carriers import Inbox, address

Runner = Callable[[Coroutine[Any, Any, None]], None]
BOTH = pytest.mark.parametrize("transport", [Transport.TLS, Transport.HTTPS])


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(asyncio.wait_for(coroutine, 30))

    return runner


class Trusted:
    """An authority that is trusted, and certificates that it signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.file = folder / "ca.pem"
        self.file.write_text(self.authority.pem)
        self.good = self.authority.issue(folder)

    def certificate(
        self, *names: str, begins: datetime.timedelta = -DAY, ends: datetime.timedelta = DAY
    ) -> dict[str, str]:
        key = make_key()
        chain, secret = self.folder / "other.pem", self.folder / "other.key"
        secret.write_text(key_pem(key))
        chain.write_text(self.authority.sign(key, names, begins=begins, ends=ends))
        return {"chain": str(chain), "key": str(secret)}


@pytest.fixture
def trusted(tmp_path: Path) -> Trusted:
    return Trusted(tmp_path)


def query(name: str = "www.example.com") -> bytes:
    return build(Question(wire_name(name), 1), b"\x12\x34", mix_case=False, padded=True)


def server_of(upstream: FakeUpstream, transport: Transport, certificate: str = "127.0.0.1") -> Server:
    port = upstream.tls_port if transport is Transport.TLS else upstream.https_port
    return Server("s", upstream.host, port, transport, certificate, certificate, "/dns-query")


def with_carriers(
    authorities: Path | None, body: Callable[[Carriers, Inbox], Awaitable[None]]
) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        io = Carriers(Surroundings(asyncio.get_running_loop(), authorities=authorities), limit=LIMIT)
        try:
            await body(io, Inbox())
        finally:
            io.close()
            await asyncio.sleep(0.05)  # for transports to be closed

    return main()


@BOTH
@pytest.mark.parametrize("name", ["127.0.0.1", "dns.test"])
def test_a_query_comes_back_padded_and_with_its_own_id(
    run: Runner, trusted: Trusted, transport: Transport, name: str
) -> None:
    with FakeUpstream(certificate=trusted.good) as upstream:

        async def body(io: Carriers, inbox: Inbox) -> None:
            sent = query()
            assert len(sent) % 128 == 0
            io.send(server_of(upstream, transport, name), transport, sent, inbox, 7)
            number, message = await inbox.message()
            assert number == 7 and message[:2] == sent[:2]
            assert address(message) == address_of("www.example.com")

        run(with_carriers(trusted.file, body))
        (seen,) = upstream.seen
        assert seen.transport == transport.name.lower() and seen.options == (12,)
        if transport is Transport.HTTPS:
            (request,) = upstream.requests
            assert seen.ident == 0, "RFC 8484 section 4.1"
            assert request[":method"] == "POST" and request[":path"] == "/dns-query"
            assert request[":authority"] == f"{name}:{upstream.https_port}"
            assert request["content-type"] == request["accept"] == "application/dns-message"


@BOTH
def test_queries_share_connections_and_answers_may_overtake(
    run: Runner, trusted: Trusted, transport: Transport
) -> None:
    with FakeUpstream(certificate=trusted.good) as upstream:
        upstream.on("slow.example", Act(delay=0.3))

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(server_of(upstream, transport), transport, query("slow.example"), inbox, 0)
            for number in range(1, 50):
                io.send(server_of(upstream, transport), transport, query(f"n{number}.example"), inbox, number)
            numbers = [(await inbox.message())[0] for _ in range(50)]
            assert sorted(numbers) == list(range(50)) and numbers[-1] == 0

        run(with_carriers(trusted.file, body))
        assert upstream.connections <= connection.USUAL


@BOTH
def test_a_session_is_resumed(
    run: Runner, trusted: Trusted, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LOOK", 0.05)
    monkeypatch.setattr(connection, "IDLE", 0.1)
    with FakeUpstream(certificate=trusted.good) as upstream:

        async def body(io: Carriers, inbox: Inbox) -> None:
            while upstream.connections < 3:
                io.send(server_of(upstream, transport), transport, query(), inbox, 0)
                await inbox.message()
                await asyncio.sleep(0.3)

        run(with_carriers(trusted.file, body))
        assert upstream.resumed == 2


@BOTH
@pytest.mark.parametrize("what", ["expired", "not yet valid", "another name", "another address", "unknown", "no TLS"])
def test_who_cannot_prove_who_it_is_gets_no_query(
    run: Runner, trusted: Trusted, transport: Transport, what: str
) -> None:
    certificate, name = trusted.good, "dns.test"
    authorities: Path | None = trusted.file
    if what == "expired":
        certificate, fault = trusted.certificate("dns.test", begins=-2 * DAY, ends=-DAY), Fault.EXPIRED
    elif what == "not yet valid":
        certificate, fault = trusted.certificate("dns.test", begins=DAY, ends=2 * DAY), Fault.NOT_YET_VALID
    elif what == "unknown":
        authorities, fault = None, Fault.UNTRUSTED
    elif what == "no TLS":
        fault = Fault.HANDSHAKE
    else:
        name, fault = {"another name": "dns.other", "another address": "127.0.0.2"}[what], Fault.WRONG_NAME
    with FakeUpstream(certificate=certificate) as upstream:
        server = server_of(upstream, transport, name)
        if what == "no TLS":
            server = replace(server, port=upstream.port)

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(server, transport, query(), inbox, 0)
            found = await inbox.fault()
            assert found is fault or (what == "no TLS" and found in (Fault.CLOSED, Fault.SILENT))

        run(with_carriers(authorities, body))
        assert upstream.seen == []


@BOTH
def test_a_server_that_speaks_something_else(run: Runner, trusted: Trusted, transport: Transport) -> None:
    with FakeUpstream(certificate=trusted.good) as upstream:
        other = upstream.https_port if transport is Transport.TLS else upstream.tls_port

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(replace(server_of(upstream, transport), port=other), transport, query(), inbox, 0)
            found = await inbox.fault()
            assert found in (Fault.HANDSHAKE, Fault.PROTOCOL, Fault.RESET, Fault.CLOSED, Fault.SILENT)

        run(with_carriers(trusted.file, body))


@BOTH
@pytest.mark.parametrize("how", ["reset", "close", "cut"])
def test_what_a_broken_connection_owes_is_asked_again(
    run: Runner, trusted: Trusted, transport: Transport, how: str
) -> None:
    with FakeUpstream(certificate=trusted.good) as upstream:
        upstream.on("breaks.example", Act(tcp=how), Act())

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(server_of(upstream, transport), transport, query("first.example"), inbox, 0)
            await inbox.message()
            io.send(server_of(upstream, transport), transport, query("breaks.example"), inbox, 1)
            number, message = await inbox.message()
            assert number == 1 and address(message) == address_of("breaks.example")

        run(with_carriers(trusted.file, body))
        assert 2 <= upstream.connections <= 3  # a spare one after a break


def test_an_http_error_is_told(run: Runner, trusted: Trusted) -> None:
    with FakeUpstream(certificate=trusted.good) as upstream:
        upstream.on("www.example.com", Act(status=503), Act(status=404), Act())

        async def body(io: Carriers, inbox: Inbox) -> None:
            for _ in range(2):
                io.send(server_of(upstream, Transport.HTTPS), Transport.HTTPS, query(), inbox, 0)
                assert await inbox.fault() is Fault.HTTP_STATUS
            io.send(server_of(upstream, Transport.HTTPS), Transport.HTTPS, query(), inbox, 0)
            await inbox.message()

        run(with_carriers(trusted.file, body))
        assert upstream.connections == 1


def test_more_queries_than_streams_wait_for_their_turn(run: Runner, trusted: Trusted) -> None:
    with FakeUpstream(certificate=trusted.good, streams=3) as upstream:
        upstream.on("first.example", Act(delay=0.05))

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(server_of(upstream, Transport.HTTPS), Transport.HTTPS, query("first.example"), inbox, 0)
            await inbox.message()  # its settings are known
            for number in range(40):
                io.send(
                    server_of(upstream, Transport.HTTPS), Transport.HTTPS, query(f"n{number}.example"), inbox, number
                )
            assert sorted([(await inbox.message())[0] for _ in range(40)]) == list(range(40))

        run(with_carriers(trusted.file, body))
        assert upstream.connections <= connection.MOST


def test_a_connection_that_takes_no_more_is_replaced(run: Runner, trusted: Trusted) -> None:
    with FakeUpstream(certificate=trusted.good, goaway_after=5) as upstream:

        async def body(io: Carriers, inbox: Inbox) -> None:
            for number in range(23):
                io.send(
                    server_of(upstream, Transport.HTTPS), Transport.HTTPS, query(f"n{number}.example"), inbox, number
                )
            assert sorted([(await inbox.message())[0] for _ in range(23)]) == list(range(23))

        run(with_carriers(trusted.file, body))
        assert upstream.connections >= 5


def test_a_large_answer_comes_whole(run: Runner, trusted: Trusted) -> None:
    with FakeUpstream(certificate=trusted.good) as upstream:
        upstream.on("large.example", Act(size=60_000))

        async def body(io: Carriers, inbox: Inbox) -> None:
            for transport in (Transport.TLS, Transport.HTTPS):
                io.send(server_of(upstream, transport), transport, query("large.example"), inbox, 0)
                _, message = await inbox.message()
                assert len(dns.message.from_wire(message).answer[0]) > 200

        run(with_carriers(trusted.file, body))


def test_cancelled_streams_make_room(run: Runner, trusted: Trusted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "USUAL", 1)
    monkeypatch.setattr(connection, "MOST", 1)
    with FakeUpstream(certificate=trusted.good, streams=2) as upstream:
        upstream.on("never.example", Act(drop=True))

        async def body(io: Carriers, inbox: Inbox) -> None:
            server = server_of(upstream, Transport.HTTPS)
            io.send(server, Transport.HTTPS, query("first.example"), inbox, 0)
            await inbox.message()
            lost = [io.send(server, Transport.HTTPS, query("never.example"), inbox, 1) for _ in range(2)]
            io.send(server, Transport.HTTPS, query("then.example"), inbox, 2)
            await asyncio.sleep(0.1)
            assert upstream.count("then.example") == 0
            for ticket in lost:
                ticket.cancel()
            io.send(server, Transport.HTTPS, query("more.example"), inbox, 3)
            assert {(await inbox.message())[0] for _ in range(2)} == {2, 3}

        run(with_carriers(trusted.file, body))


GARBAGE = b"\x17\x03\x03\x00\x20" + bytes(32)  # a record that nobody has sealed


@BOTH
def test_a_connection_that_breaks_is_no_connection_from_then_on(
    run: Runner, trusted: Trusted, transport: Transport
) -> None:
    with FakeUpstream(certificate=trusted.good) as upstream:
        upstream.on("never.example", Act(drop=True))

        async def body(io: Carriers, inbox: Inbox) -> None:
            server = server_of(upstream, transport)
            io.send(server, transport, query(), inbox, 0)
            await inbox.message()
            ticket: Any = io.send(server, transport, query("never.example"), inbox, 1)
            ticket.link.data_received(GARBAGE)
            ticket.cancel()  # in the same turn of the loop, which does not know of the end yet
            io.send(server, transport, query(), inbox, 2)
            assert (await inbox.message())[0] == 2

        run(with_carriers(trusted.file, body))
        assert upstream.connections >= 2


class Odd:
    """An HTTPS server that says `first` in one segment with the end of its handshake, and nothing by itself then."""

    def __init__(self, trusted: Trusted, conn: h2.connection.H2Connection) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2  # its server has the last word of a handshake
        self.context.set_alpn_protocols(["h2"])
        self.context.load_cert_chain(trusted.good["chain"], trusted.good["key"])
        self.conn = conn
        self.first = conn.data_to_send()
        self.connections = 0
        self.requests = 0
        self.say: Callable[[], None] = lambda: None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(incoming, outgoing, server_side=True)

        def say() -> None:
            tls.write(self.conn.data_to_send())
            writer.write(outgoing.read())

        self.say = say
        is_open = False
        while True:
            try:
                if not is_open:
                    tls.do_handshake()
                    is_open = True
                    tls.write(self.first)
                    writer.write(outgoing.read())
                events = self.conn.receive_data(tls.read(65536))
                self.requests += sum(isinstance(event, h2.events.RequestReceived) for event in events)
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                octets = await reader.read(65536)
                if not octets:
                    break
                incoming.write(octets)
            except (ssl.SSLError, h2.exceptions.ProtocolError):
                break
        writer.close()


def with_odd(
    trusted: Trusted, odd: Odd, body: Callable[[Carriers, Inbox, Server], Awaitable[None]]
) -> Coroutine[Any, Any, None]:
    async def served(io: Carriers, inbox: Inbox) -> None:
        listener = await asyncio.start_server(odd.serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        try:
            await body(
                io, inbox, Server("s", "127.0.0.1", port, Transport.HTTPS, "127.0.0.1", "127.0.0.1", "/dns-query")
            )
        finally:
            io.close()
            listener.close()

    return with_carriers(trusted.file, served)


def test_a_server_that_says_goodbye_with_its_hello_is_not_connected_to_without_end(
    run: Runner, trusted: Trusted
) -> None:
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    conn.initiate_connection()
    conn.close_connection()
    odd = Odd(trusted, conn)

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.HTTPS, query(), inbox, 0)
        assert await inbox.fault() is Fault.CLOSED

    run(with_odd(trusted, odd, body))
    assert odd.connections == 1


def test_a_server_whose_streams_have_no_room_is_waited_for(run: Runner, trusted: Trusted) -> None:
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    conn.local_settings = h2.settings.Settings(
        client=False, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    )
    conn.initiate_connection()
    odd = Odd(trusted, conn)

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        ticket: Any = io.send(server, Transport.HTTPS, query(), inbox, 0)
        way: Any = io._carriers[Transport.HTTPS]._ways[server]  # type: ignore[attr-defined]
        while not way._links:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        io.send(server, Transport.HTTPS, query(), inbox, 1)
        assert not ticket.is_cancelled and not odd.requests
        conn.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65535})
        odd.say()
        while odd.requests < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    run(with_odd(trusted, odd, body))


def test_headers_may_have_any_octets() -> None:
    dialogue = Http2(Server("s", "127.0.0.1", 443, Transport.HTTPS, "127.0.0.1", "127.0.0.1", "/dns-query"), {})
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    conn.initiate_connection()
    key = dialogue.ask(query())
    conn.receive_data(dialogue.take())
    conn.send_headers(key, [(b":status", b"200"), (b"server", b"caf\xe9")])
    conn.send_data(key, bytes(12), end_stream=True)
    assert dialogue.receive(conn.data_to_send()) == [(key, bytes(12))]


def test_a_handshake_that_nobody_waits_for_leaves_no_socket(run: Runner, trusted: Trusted) -> None:
    async def body(io: Carriers, inbox: Inbox) -> None:
        hello, is_over = asyncio.Event(), asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    hello.set()
            is_over.set()
            writer.close()

        listener = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        ticket = io.send(
            Server("s", "127.0.0.1", port, Transport.TLS, "127.0.0.1", "127.0.0.1"), Transport.TLS, query(), inbox, 0
        )
        await hello.wait()
        ticket.cancel()
        io.keep(set())  # the config names it no more
        await is_over.wait()
        listener.close()

    run(with_carriers(trusted.file, body))


def test_a_handshake_may_take_several_rounds(run: Runner, trusted: Trusted) -> None:
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    conn.initiate_connection()
    odd = Odd(trusted, conn)

    async def body(io: Carriers, inbox: Inbox, server: Server) -> None:
        io.send(server, Transport.HTTPS, query(), inbox, 0)
        while not odd.requests:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    run(with_odd(trusted, odd, body))
    assert odd.connections == 1


def test_a_server_that_has_closed_tls_and_not_tcp_is_asked_nothing_more(
    run: Runner, trusted: Trusted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL", 100.0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted.good["chain"], trusted.good["key"])
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        is_open = False
        while octets := await reader.read(65536):
            incoming.write(octets)
            try:
                if not is_open:
                    tls.do_handshake()
                    is_open = True
                asked = dns.message.from_wire(tls.read(65536)[2:])
                answer = dns.message.make_response(asked).to_wire()
                tls.write(len(answer).to_bytes(2, "big") + answer)
                tls.unwrap()  # close_notify
            except ssl.SSLError:
                pass
            writer.write(outgoing.read())
        writer.close()

    async def body(io: Carriers, inbox: Inbox) -> None:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        server = Server("s", "127.0.0.1", port, Transport.TLS, "127.0.0.1", "127.0.0.1")
        for number in range(5):
            io.send(server, Transport.TLS, query(), inbox, number)
            assert (await inbox.message())[0] == number
        io.close()
        listener.close()

    run(with_carriers(trusted.file, body))
    assert connections == 5
