from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import dns.message
import pytest
import uvloop

from resolver.upstream import connection
from resolver.upstream.carrier import Carriers, Fault, Surroundings, TransportError
from resolver.upstream.message import Question, build, wire_name
from resolver.upstream.server import Server
from resolver.upstream.udp import LIMIT, Udp, fault_of
from resolver.vocabulary import Transport
from tests.fakes import Act, FakeUpstream, address_of
from tests.ports import free_port

Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(asyncio.wait_for(coroutine, 20))

    return runner


class Inbox:
    """A receiver that keeps what comes."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[int, bytes | Fault]] = asyncio.Queue()

    def sent(self, number: int) -> None:
        pass

    def received(self, number: int, message: bytes) -> None:
        self.queue.put_nowait((number, message))

    def failed(self, number: int, fault: Fault) -> None:
        self.queue.put_nowait((number, fault))

    async def message(self) -> tuple[int, bytes]:
        number, what = await self.queue.get()
        assert isinstance(what, bytes), what
        return number, what

    async def fault(self) -> Fault:
        _, what = await self.queue.get()
        assert isinstance(what, Fault)
        return what


def query(name: str = "www.example.com", ident: bytes = b"") -> bytes:
    qname = wire_name(name)
    return build(Question(qname, 1), (ident or os.urandom(2)) + os.urandom(len(qname)))


def address(message: bytes) -> str:
    return str(dns.message.from_wire(message).answer[0][0])


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def with_carriers(body: Callable[[Carriers, Inbox], Awaitable[None]], **options: int) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        io = Carriers(Surroundings(asyncio.get_running_loop()), **{"limit": LIMIT, **options})
        try:
            await body(io, Inbox())
        finally:
            io.close()
            await asyncio.sleep(0.02)  # for transports to be closed

    return main()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
def test_a_query_comes_back(run: Runner, host: str, transport: Transport) -> None:
    with FakeUpstream(host) as upstream:

        async def body(io: Carriers, inbox: Inbox) -> None:
            sent = query()
            io.send(Server("s", host, upstream.port), transport, sent, inbox, 7)
            number, message = await inbox.message()
            assert number == 7 and message[:2] == sent[:2]
            assert address(message) == address_of("www.example.com")

        run(with_carriers(body))


# -- UDP --------------------------------------------------------------------------------------------------------------


def test_every_query_has_a_port_of_its_own(run: Runner) -> None:
    with FakeUpstream() as upstream:
        server = Server("s", "127.0.0.1", upstream.port)

        async def body(io: Carriers, inbox: Inbox) -> None:
            for number in range(200):
                io.send(server, Transport.UDP, query(), inbox, number)
            for _ in range(200):
                await inbox.message()

        run(with_carriers(body))
        ports = [seen.port for seen in upstream.seen]
        assert len(set(ports)) == 200
        # Random over the whole range, and not counted up: as many steps down as up, and both halves in use.
        ups = sum(a < b for a, b in itertools.pairwise(ports))
        assert 60 < ups < 140
        assert 50 < sum(port > 40960 for port in ports) < 150
        assert min(ports) >= 16384


@pytest.mark.parametrize("lie", ["port", "address"])
def test_what_comes_from_elsewhere_is_not_even_seen(run: Runner, lie: str) -> None:
    with FakeUpstream() as upstream:
        upstream.on("www.example.com", Act(lie=lie, lies=5, truth=True))

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(Server("s", "127.0.0.1", upstream.port), Transport.UDP, query(), inbox, 0)
            assert address((await inbox.message())[1]) == address_of("www.example.com")
            assert inbox.queue.empty()

        run(with_carriers(body))


def test_several_datagrams_come_through_until_it_is_cancelled(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("www.example.com", Act(lie="id", lies=3, truth=True))

        async def body(io: Carriers, inbox: Inbox) -> None:
            udp = Udp(asyncio.get_running_loop())
            ticket = udp.send(Server("s", "127.0.0.1", upstream.port), query(), inbox, 0)
            for _ in range(4):
                await inbox.message()
            assert udp.count == 1
            ticket.cancel()
            ticket.cancel()
            assert udp.count == 0
            udp.close()

        run(with_carriers(body))


def test_a_closed_port_is_reported(run: Runner) -> None:
    async def body(io: Carriers, inbox: Inbox) -> None:
        udp = Udp(asyncio.get_running_loop())
        udp.send(Server("s", "127.0.0.1", free_port()), query(), inbox, 0)
        assert await inbox.fault() is Fault.REFUSED
        assert udp.count == 0
        udp.close()

    run(with_carriers(body))


def test_no_more_sockets_than_the_limit(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("*", Act(drop=True))
        server = Server("s", "127.0.0.1", upstream.port)

        async def body(io: Carriers, inbox: Inbox) -> None:
            tickets = [io.send(server, Transport.UDP, query(), inbox, number) for number in range(10)]
            with pytest.raises(TransportError) as caught:
                io.send(server, Transport.UDP, query(), inbox, 10)
            assert caught.value.fault is Fault.OVERLOAD
            tickets[0].cancel()
            io.send(server, Transport.UDP, query(), inbox, 11)

        run(with_carriers(body, limit=10))


def test_sockets_closed_by_a_receiver_do_not_confuse_the_batch(run: Runner) -> None:
    """The first answer of a batch closes all others and opens new ones, which get the old numbers."""
    with FakeUpstream() as upstream:
        server = Server("s", "127.0.0.1", upstream.port)

        async def body(io: Carriers, inbox: Inbox) -> None:
            class Meddler(Inbox):
                def received(self, number: int, message: bytes) -> None:
                    for ticket in tickets:
                        ticket.cancel()
                    for late in range(20):
                        io.send(server, Transport.UDP, query("new.example"), inbox, late)

            meddler = Meddler()
            tickets = [io.send(server, Transport.UDP, query(), meddler, number) for number in range(20)]
            await until(lambda: len(upstream.seen) >= 20)
            numbers = set[int]()
            while len(numbers) < 20:
                number, message = await inbox.message()
                if address(message) == address_of("new.example"):  # else an old answer, to a port that is used again
                    numbers.add(number)

        run(with_carriers(body))


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.ECONNREFUSED, Fault.REFUSED),
        (errno.ECONNRESET, Fault.RESET),
        (errno.ENETUNREACH, Fault.UNREACHABLE),
        (errno.EHOSTUNREACH, Fault.UNREACHABLE),
        (errno.EMFILE, Fault.OVERLOAD),
    ],
)
def test_what_errors_mean(number: int, fault: Fault) -> None:
    assert fault_of(OSError(number, "")) is fault


# -- TCP --------------------------------------------------------------------------------------------------------------


def tcp(upstream: FakeUpstream) -> Server:
    return Server("s", "127.0.0.1", upstream.port, transport=Transport.TCP)


def test_queries_share_connections_and_answers_may_overtake(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("slow.example", Act(delay=1.5))

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(tcp(upstream), Transport.TCP, query("slow.example"), inbox, 0)
            for number in range(1, 50):
                io.send(tcp(upstream), Transport.TCP, query(f"n{number}.example"), inbox, number)
            order = []
            for _ in range(50):
                number, message = await inbox.message()
                order.append(number)
                name = f"n{number}.example" if number else "slow.example"
                assert address(message) == address_of(name)
            assert order[-1] == 0 and sorted(order) == list(range(50))
            assert upstream.connections <= connection.USUAL

        run(with_carriers(body))


def test_the_same_id_twice_is_kept_apart(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("a.example", Act(delay=0.1))

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(tcp(upstream), Transport.TCP, query("a.example", b"\x12\x34"), inbox, 0)
            io.send(tcp(upstream), Transport.TCP, query("b.example", b"\x12\x34"), inbox, 1)
            answers = dict([await inbox.message(), await inbox.message()])
            assert address(answers[0]) == address_of("a.example")
            assert address(answers[1]) == address_of("b.example")
            assert answers[0][:2] == answers[1][:2] == b"\x12\x34"
            assert len({seen.ident for seen in upstream.seen}) == 2

        run(with_carriers(body))


def test_nothing_comes_after_cancel(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("slow.example", Act(delay=0.1))

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(tcp(upstream), Transport.TCP, query("slow.example"), inbox, 0).cancel()
            ticket = io.send(tcp(upstream), Transport.TCP, query("slow.example"), inbox, 1)
            await until(lambda: upstream.count("slow.example"))
            ticket.cancel()
            await asyncio.sleep(0.2)
            io.send(tcp(upstream), Transport.TCP, query(), inbox, 2)
            assert (await inbox.message())[0] == 2
            assert upstream.count("slow.example") == 1  # what was cancelled before it could be sent is not sent

        run(with_carriers(body))


@pytest.mark.parametrize(("how", "fault"), [("close", Fault.CLOSED), ("reset", Fault.RESET), ("cut", Fault.CLOSED)])
def test_a_connection_that_breaks_before_any_answer_is_a_fault(run: Runner, how: str, fault: Fault) -> None:
    with FakeUpstream() as upstream:
        upstream.on("www.example.com", Act(tcp=how))

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(tcp(upstream), Transport.TCP, query(), inbox, 0)
            assert await inbox.fault() is fault
            io.send(tcp(upstream), Transport.TCP, query("other.example"), inbox, 1)
            assert address((await inbox.message())[1]) == address_of("other.example")

        run(with_carriers(body))


@pytest.mark.parametrize("how", ["close", "reset", "cut"])
def test_what_a_broken_connection_owes_is_asked_again(run: Runner, how: str) -> None:
    with FakeUpstream() as upstream:
        upstream.on("breaks.example", Act(tcp=how), Act())

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(tcp(upstream), Transport.TCP, query(), inbox, 0)
            await inbox.message()
            io.send(tcp(upstream), Transport.TCP, query("breaks.example"), inbox, 1)
            assert address((await inbox.message())[1]) == address_of("breaks.example")
            assert 2 <= upstream.connections <= 3  # a spare one after a break

        run(with_carriers(body))


def test_a_closed_tcp_port_is_reported(run: Runner) -> None:
    async def body(io: Carriers, inbox: Inbox) -> None:
        server = Server("s", "127.0.0.1", free_port())
        for _ in range(2):
            io.send(server, Transport.TCP, query(), inbox, 0)
            assert await inbox.fault() is Fault.REFUSED

    run(with_carriers(body))


def test_a_large_answer_comes_whole(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("www.example.com", Act(size=60_000))

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(tcp(upstream), Transport.TCP, query(), inbox, 0)
            message = (await inbox.message())[1]
            assert len(message) > 59_000
            assert len(dns.message.from_wire(message).answer[0]) == 60_000 // 213 + 1

        run(with_carriers(body))


def test_a_server_that_went_silent_loses_its_connection(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALL", 0.2)
    with FakeUpstream() as upstream:
        upstream.on("silent.example", Act(tcp="silent"), Act())

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(tcp(upstream), Transport.TCP, query(), inbox, 0)
            await inbox.message()
            io.send(tcp(upstream), Transport.TCP, query("silent.example"), inbox, 1)
            assert address((await inbox.message())[1]) == address_of("silent.example")
            assert 2 <= upstream.connections <= 3  # a spare one after a break

        run(with_carriers(body))


def test_an_idle_connection_is_closed_and_opened_when_needed(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LOOK", 0.05)
    monkeypatch.setattr(connection, "IDLE", 0.1)
    with FakeUpstream() as upstream:

        async def body(io: Carriers, inbox: Inbox) -> None:
            for number in range(2):
                io.send(tcp(upstream), Transport.TCP, query(), inbox, number)
                await inbox.message()
                await asyncio.sleep(0.4)
            assert upstream.connections == 2

        run(with_carriers(body))


def test_a_trickling_server_is_understood(run: Runner) -> None:
    """One octet a segment, two answers in one segment: framing does not depend on segments."""

    async def body(io: Carriers, inbox: Inbox) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            frames = b""
            for _ in range(3):
                length = await reader.readexactly(2)
                request = await reader.readexactly(int.from_bytes(length, "big"))
                message = dns.message.make_response(dns.message.from_wire(request)).to_wire()
                frames += len(message).to_bytes(2, "big") + message
            for octet in frames[:60]:
                writer.write(bytes([octet]))
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(frames[60:])
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET)
        port = server.sockets[0].getsockname()[1]
        for number in range(3):
            io.send(Server("s", "127.0.0.1", port), Transport.TCP, query(), inbox, number)
        assert sorted([(await inbox.message())[0] for _ in range(3)]) == [0, 1, 2]
        server.close()

    run(with_carriers(body))


def test_a_stalled_connection_does_not_hold_up_what_is_asked_then(run: Runner) -> None:
    """A server that answers in order, and a question that takes it long."""

    async def body(io: Carriers, inbox: Inbox) -> None:
        gate = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    message = dns.message.from_wire(await reader.readexactly(size))
                    if "slow" in message.question[0].name.to_text().lower():
                        await gate.wait()
                    answer = dns.message.make_response(message).to_wire()
                    writer.write(len(answer).to_bytes(2, "big") + answer)
            writer.close()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        server = Server("s", "127.0.0.1", listener.sockets[0].getsockname()[1], Transport.TCP)
        io.send(server, Transport.TCP, query(), inbox, 0)
        await inbox.message()
        io.send(server, Transport.TCP, query("slow.example"), inbox, 1)
        io.send(server, Transport.TCP, query("opens.another.example"), inbox, 2)
        way: Any = io._carriers[Transport.TCP]._ways[server]  # type: ignore[attr-defined]
        await until(lambda: len(way._links) == 2)
        for number in range(3, 20):
            io.send(server, Transport.TCP, query(), inbox, number)
            assert (await inbox.message())[0] == number
        gate.set()
        assert {(await inbox.message())[0] for _ in range(2)} == {1, 2}
        listener.close()

    run(with_carriers(body))


def test_a_question_that_breaks_every_connection_takes_few_others_along(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("breaks.example", Act(tcp="cut"))

        async def body(io: Carriers, inbox: Inbox) -> None:
            io.send(tcp(upstream), Transport.TCP, query(), inbox, 100)
            await inbox.message()
            for number in range(100):
                name = "n.example" if number % 20 else "breaks.example"
                io.send(tcp(upstream), Transport.TCP, query(name), inbox, number)
            answered, failed = set[int](), set[int]()
            for _ in range(100):
                number, what = await inbox.queue.get()
                (failed if isinstance(what, Fault) else answered).add(number)
            assert failed >= set(range(0, 100, 20)) and len(answered) >= 85, (
                "unlucky ones shared its connections each time"
            )
            assert upstream.connections <= 1 + 2 * 5 * (connection.RESENDS + 1), "bounded, with a spare one each"

        run(with_carriers(body))


def test_a_server_that_wants_a_single_connection_is_left_with_one(run: Runner) -> None:
    async def body(io: Carriers, inbox: Inbox) -> None:
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while connections == 1 or writer is first[0]:
                    first.append(writer)
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    message = dns.message.from_wire(await reader.readexactly(size))
                    answer = dns.message.make_response(message).to_wire()
                    writer.write(len(answer).to_bytes(2, "big") + answer)
            writer.close()

        first: list[asyncio.StreamWriter] = []
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        server = Server("s", "127.0.0.1", listener.sockets[0].getsockname()[1], Transport.TCP)
        io.send(server, Transport.TCP, query(), inbox, 0)
        await inbox.message()
        answered = 0
        for number in range(100):
            for _ in range(2):
                io.send(server, Transport.TCP, query(), inbox, number)
            for _ in range(2):
                answered += isinstance((await inbox.queue.get())[1], bytes)
        assert connections <= 1 + 2 * connection.BARREN
        assert answered >= 200 - 2 * connection.BARREN
        listener.close()

    run(with_carriers(body))
