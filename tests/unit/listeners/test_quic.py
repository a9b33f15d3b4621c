from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import dns.edns
import dns.message
import pytest
import uvloop
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicErrorCode, QuicPacketType, pull_quic_header

from resolver.listeners import gate
from resolver.listeners import quic as listener
from resolver.listeners.quic import QuicServer
from resolver.listeners.server import Limits
from resolver.listeners.steer import steer
from resolver.quic import Doq, Ids
from resolver.vocabulary import Transport
from tests.certificates import Authority, key_pem, make_key
from tests.quic import QuicClient, Relay
from tests.unit.listeners.serving import FakeEngine, message

KEY = b"k" * 16
AUTHORITY = Authority()
PRIVATE = make_key()
CHAIN, PEM = AUTHORITY.sign(PRIVATE), key_pem(PRIVATE)


class Running:
    """`workers` servers on one port, each with a loop and thread of its own, as processes would be."""

    def __init__(self, *, workers: int = 1, limits: Limits | None = None, host: str = "127.0.0.1") -> None:
        self.engines = [FakeEngine() for _ in range(workers)]
        self.servers: list[QuicServer] = []
        self.loops = [uvloop.new_event_loop() for _ in range(workers)]
        self.port = 0
        self._limits = limits
        self._host = host
        self._threads: list[threading.Thread] = []
        self.is_drained = False

    @property
    def engine(self) -> FakeEngine:
        return self.engines[0]

    @property
    def server(self) -> QuicServer:
        return self.servers[0]

    def __enter__(self) -> Running:
        for worker, loop in enumerate(self.loops):
            thread = threading.Thread(target=loop.run_forever, daemon=True)
            thread.start()
            self._threads.append(thread)
            self.servers.append(self.call(self._start, worker, worker=worker))
        return self

    def _start(self, worker: int) -> QuicServer:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        wildcard = self._host == "0.0.0.0"
        if wildcard:
            sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        sock.setblocking(False)
        sock.bind((self._host, self.port))
        self.port = sock.getsockname()[1]
        if not worker:
            steer(sock, len(self.loops))
        engine = self.engines[worker]
        server = QuicServer(engine, engine.punts, Ids(KEY, worker, len(self.loops)), limits=self._limits)
        server.certify(CHAIN, PEM)
        server.listen_doq(sock, wildcard=wildcard)
        return server

    def call(self, function: Callable[..., Any], *arguments: Any, worker: int = 0) -> Any:
        """Call in a server's thread."""

        async def wrapped() -> Any:
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loops[worker]).result(30)

    def release(self, index: int = 0, reply: bytes | None = b"") -> None:
        """Answer what waits."""
        until(lambda: len(self.engine.waiting) > index)
        packet, token = self.engine.waiting.pop(index)
        self.call(token, packet if reply == b"" else reply)

    def drain(self, grace: float = 5.0) -> None:
        self.is_drained = True
        for worker, server in enumerate(self.servers):
            self.call(server.drain, grace, worker=worker)

    def __exit__(self, *_: object) -> None:
        if not self.is_drained:
            self.drain(0.2)
        for loop, thread in zip(self.loops, self._threads, strict=True):
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


def until(condition: Callable[[], Any], patience: float = 20.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def running() -> Iterator[Running]:
    with Running() as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[QuicClient]:
    with QuicClient(running.port) as client:
        client.connect()
        yield client


# -- queries -----------------------------------------------------------------------------------------------------------


def test_a_query_is_answered_on_its_stream(running: Running, tmp_path: Any) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text(AUTHORITY.pem)
    with QuicClient(running.port, str(authority)) as client:
        client.connect()
        assert client.handshake is not None and client.handshake.alpn_protocol == "doq"
        assert client.ask(message("now1")) == message("now1")
        assert client.ask(message("now2")) == message("now2")
    address = b"\0" * 10 + b"\xff\xff\x7f\0\0\1"
    assert running.engine.asked == [(message(f"now{n}"), address, Transport.QUIC) for n in (1, 2)]


def test_answers_come_in_whatever_order_they_are_ready(running: Running, client: QuicClient) -> None:
    late = client.query(message("later1"))
    later = client.query(message("later2"))
    assert client.ask(message("now")) == message("now")
    assert running.engine.rounds
    running.release(1)
    assert client.answer(later) == message("later2")
    assert late not in client.ended
    running.release()
    assert client.answer(late) == message("later1")


def test_a_query_may_come_in_pieces_and_an_answer_be_large(running: Running, client: QuicClient) -> None:
    octets = len(message("big")).to_bytes(2, "big") + message("big")
    stream = client.send(octets[:1], end=False)
    for at in range(1, len(octets)):
        client.step(0.001)
        client.send(octets[at : at + 1], end=False, stream=stream)
    client.until(lambda: client.quic.get_timer(), "a timer")
    assert not running.engine.asked, "not before the stream has ended (RFC 9250 section 4.2)"
    client.send(b"", stream=stream)
    assert client.answer(stream) == message("big") + bytes(60_000)


def test_a_query_that_gets_no_answer_has_its_stream_reset(running: Running, client: QuicClient) -> None:
    with pytest.raises(ConnectionError) as error:
        client.ask(message("drop"))
    assert error.value.args == (Doq.UNSPECIFIED_ERROR,)
    stream = client.query(message("later"))
    running.release(reply=None)
    with pytest.raises(ConnectionError):
        client.answer(stream)
    assert client.ask(message("now")) == message("now")


def test_more_queries_than_streams_at_a_time(running: Running, client: QuicClient) -> None:
    streams = [client.query(message(f"now{number}")) for number in range(1000)]
    for number, stream in enumerate(streams):
        assert client.answer(stream) == message(f"now{number}")


def test_no_more_streams_than_allowed_are_under_way(running: Running, client: QuicClient) -> None:
    streams = [client.query(message(f"later{number}")) for number in range(200)]
    client.until(lambda: len(running.engine.waiting) >= 128, "128 queries wait")
    for _ in range(5):
        client.step()
    assert len(running.engine.waiting) == 128
    while len(running.engine.asked) < 200 or running.engine.waiting:
        if running.engine.waiting:
            running.release()
        client.step(0.01)
    assert [client.answer(stream) for stream in streams] == [message(f"later{number}") for number in range(200)]


def test_a_query_that_is_taken_back_is_forgotten(running: Running, client: QuicClient) -> None:
    reset = client.query(message("later1"))
    stopped = client.query(message("later2"))
    until(lambda: len(running.engine.waiting) == 2)
    client.quic.reset_stream(reset, Doq.REQUEST_CANCELLED)
    client.quic.stop_stream(stopped, Doq.REQUEST_CANCELLED)
    assert client.ask(message("now")) == message("now")
    client.until(lambda: stopped in client.resets, "the stream is reset")
    running.release()
    running.release()
    assert client.ask(message("now")) == message("now")
    assert client.closed is None and not client.received[stopped]


# -- what is not to be done ------------------------------------------------------------------------------------------


def _keepalive() -> bytes:
    query = dns.message.make_query(
        "a.example", "A", use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.make(11), b"")]
    )
    query.id = 0
    return query.to_wire()


FAULTS = {
    "a message id": b"\0\x0f\0\1" + bytes(10) + b"now",
    "too short a message": b"\0\3now",
    "no message": b"",
    "half a length": b"\0",
    "an end before the message's": b"\0\x20" + bytes(31),
    "two messages": 2 * (b"\0\x0f" + message("now")),
    "more octets than the message": b"\0\x0f" + message("now") + b"x",
    "a response": b"\0\x0f\0\0\x80" + bytes(9) + b"now",
    "a keepalive option": len(_keepalive()).to_bytes(2, "big") + _keepalive(),
}


@pytest.mark.parametrize("octets", FAULTS.values(), ids=FAULTS.keys())
def test_a_protocol_error_closes_the_connection(running: Running, client: QuicClient, octets: bytes) -> None:
    client.send(octets)
    assert client.wait_closed().error_code == Doq.PROTOCOL_ERROR
    assert client.closed is not None and client.closed.reason_phrase
    assert not running.engine.asked
    until(lambda: running.server.connections == 0)


def test_the_octets_of_a_keepalive_option_elsewhere_are_none(running: Running, client: QuicClient) -> None:
    padding = dns.edns.GenericOption(dns.edns.OptionType.make(12), b"\0\x0b\0\0")
    query = dns.message.make_query("a.example", "A", use_edns=0, options=[padding])
    query.id = 0
    stream = client.query(query.to_wire())
    with pytest.raises(ConnectionError):  # the engine drops it
        client.answer(stream)
    assert client.closed is None and len(running.engine.asked) == 1


def test_a_stream_in_one_direction_closes_the_connection(running: Running, client: QuicClient) -> None:
    client.send(b"\0\x0f" + message("now"), uni=True)
    assert client.wait_closed().error_code == Doq.PROTOCOL_ERROR


def test_a_stream_that_does_not_end_closes_the_connection() -> None:
    with Running(limits=Limits(frame=0.3)) as running, QuicClient(running.port) as client:
        client.connect()
        client.send(b"\0\x0f" + message("now"), end=False)
        assert client.wait_closed().error_code == Doq.EXCESSIVE_LOAD
        assert not running.engine.asked


def test_another_protocol_is_refused_in_the_handshake(running: Running) -> None:
    for alpn in ("h3", "dot", ""):
        with QuicClient(running.port, alpn=alpn) as client:
            with pytest.raises(ConnectionError) as error:
                client.connect()
            assert error.value.args[0] == QuicErrorCode.CRYPTO_ERROR + 120  # no_application_protocol
    until(lambda: running.server.connections == 0)


def test_a_version_that_is_not_spoken_is_answered_by_those_that_are(running: Running) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        target = ("127.0.0.1", running.port)
        probe = b"\xc0\x1a\x2a\x3a\x4a" + b"\x08" + b"d" * 8 + b"\x08" + b"s" * 8
        sock.sendto(probe + bytes(100), target)  # too small to be answered
        sock.sendto(b"\xc0" + bytes(4) + probe[5:] + bytes(1200), target)  # a version negotiation is not
        sock.sendto(probe + bytes(1200), target)
        answer = sock.recv(2048)
        assert answer[1:5] == bytes(4) and answer[5:14] == b"\x08" + b"s" * 8 and len(answer) < 60
        versions = answer[23:]
        assert b"\0\0\0\1" in [versions[at : at + 4] for at in range(0, len(versions), 4)]
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(2048)
    with QuicClient(running.port, supported_versions=[0x6B3343CF]) as client:  # version 2 (RFC 9369)
        client.connect()
        assert client.ask(message("now")) == message("now")


# -- handshakes --------------------------------------------------------------------------------------------------------


def half_open(port: int) -> QuicClient:
    client = QuicClient(port)
    client.start()
    return client


def test_many_half_open_handshakes_make_the_next_client_prove_its_address(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(half_open(running.port))
        until(lambda: running.server.connections == 4)
        client = stack.enter_context(QuicClient(running.port))
        client.connect()
        headers = [pull_quic_header(Buffer(data=each), host_cid_length=8) for each in client.got]
        assert headers[0].packet_type == QuicPacketType.RETRY
        assert client.ask(message("now")) == message("now")
        assert running.server.connections == 5


def test_a_stranger_gets_at_most_three_times_what_it_sent(running: Running) -> None:
    with QuicClient(running.port) as client:
        client.start()
        sent = sum(map(len, client.sent))
        end, got = time.monotonic() + 3, 0
        client.sock.settimeout(0.2)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                got += len(client.sock.recv(65536))
        assert 0 < got <= 3 * sent


def test_a_retry_is_smaller_than_what_it_answers(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(half_open(running.port))
        until(lambda: running.server.connections == 4)
        client = stack.enter_context(half_open(running.port))
        client.sock.settimeout(20)
        assert len(client.sock.recv(65536)) < 200 < len(client.sent[0])


def test_a_token_counts_for_the_address_that_it_was_made_for(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(half_open(running.port))
        until(lambda: running.server.connections == 4)
        client = stack.enter_context(QuicClient(running.port))
        client.start()
        client.until(lambda: client.got, "a Retry")
        second = client.sent[-1]
        assert pull_quic_header(Buffer(data=second), host_cid_length=8).token
        until(lambda: running.server.connections == 5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.2", 0))
            other.settimeout(0.5)
            other.sendto(second.replace(client.quic.host_cid, b"x" * 8), ("127.0.0.1", running.port))
            with pytest.raises(TimeoutError):
                other.recv(2048)
        assert running.server.connections == 5


def test_one_client_cannot_take_all_handshakes(running: Running) -> None:
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(half_open(running.port)) for _ in range(4)]
        until(lambda: running.server.connections == 4)
        for _ in range(20):  # these answer the Retry, and then say nothing more
            client = stack.enter_context(QuicClient(running.port))
            client.start()
            while not client.got:
                client.step()
            waiting.append(client)
        until(lambda: running.server.connections == 4 + 16)
        other = stack.enter_context(QuicClient(running.port, source="127.0.0.9"))
        other.connect()
        assert other.ask(message("now")) == message("now")


def test_a_client_with_many_handshakes_that_sends_each_packet_once_waits_and_is_served(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HOLD", 3.0)
    with contextlib.ExitStack() as stack:
        for _ in range(4 + 16):
            stack.enter_context(QuicClient(running.port)).connect()
        client = stack.enter_context(QuicClient(running.port))
        client.quic.get_timer = lambda: None  # type: ignore[method-assign]  # nothing is sent again, as kdig does
        client.connect()
        assert client.ask(message("now")) == message("now")


def test_a_handshake_that_stays_half_open_is_forgotten(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.server._gate.patience = 0.3
    with half_open(running.port):
        until(lambda: running.server.connections == 1)
        until(lambda: running.server.connections == 0)


def test_a_flood_in_one_handshake_ends_it(running: Running) -> None:
    with half_open(running.port) as client:
        until(lambda: running.server.connections == 1)
        for _ in range(20):
            client.sock.sendto(client.sent[0], client.address)
        until(lambda: running.server.connections == 0 or len(running.server._half) <= 1)
        until(lambda: running.server._gate.taken >= 1)


def test_a_session_is_resumed_without_early_data(running: Running) -> None:
    with QuicClient(running.port) as client:
        client.connect()
        assert client.ask(message("now")) == message("now")
        client.until(lambda: client.tickets, "a ticket")
        ticket = client.tickets[0]
    assert not ticket.max_early_data_size
    with QuicClient(running.port, session_ticket=ticket) as client:
        client.connect()
        assert client.handshake is not None
        assert client.handshake.session_resumed and not client.handshake.early_data_accepted
        assert client.ask(message("now")) == message("now")


def test_early_data_is_not_taken(running: Running) -> None:
    with QuicClient(running.port) as client:
        client.connect()
        client.until(lambda: client.tickets, "a ticket")
        ticket = client.tickets[0]
    ticket.max_early_data_size = 0xFFFFFFFF  # nobody said so
    with QuicClient(running.port, session_ticket=ticket) as client:
        client.quic.connect(client.address, time.monotonic())
        client.query(message("now"))
        client.until(lambda: client.closed, "the connection is closed")
    assert not running.engine.asked


def test_a_renewed_certificate_is_shown_to_new_connections(running: Running) -> None:
    with QuicClient(running.port) as old:
        old.connect()
        key = make_key()
        running.call(running.server.certify, AUTHORITY.sign(key, ["renewed.test"]), key_pem(key))
        with QuicClient(running.port) as new:
            new.connect()
            shown = new.quic.tls._peer_certificate
            assert shown is not None and "renewed.test" in shown.subject.rfc4514_string()
        assert old.ask(message("now")) == message("now")


# -- connections -------------------------------------------------------------------------------------------------------


def test_one_too_many_takes_the_idlest_ones_place() -> None:
    with Running(limits=Limits(per_client=3)) as running, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(QuicClient(running.port)) for _ in range(4)]
        for client in clients[:3]:
            client.connect()
        waits = clients[0].query(message("later"))
        until(lambda: running.engine.waiting)
        assert clients[2].ask(message("now")) == message("now")
        clients[3].connect()
        assert clients[1].wait_closed().error_code == Doq.NO_ERROR
        running.release()
        assert clients[0].answer(waits) == message("later")
        assert clients[2].ask(message("now")) == message("now")
        assert clients[3].ask(message("now")) == message("now")


def test_where_nobody_is_idle_the_new_one_goes() -> None:
    with Running(limits=Limits(connections=2)) as running, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(QuicClient(running.port, source=f"127.0.0.{n}")) for n in (1, 2, 3)]
        streams = []
        for client in clients[:2]:
            client.connect()
            streams.append(client.query(message("later")))
        until(lambda: len(running.engine.waiting) == 2)
        clients[2].start()
        assert clients[2].wait_closed().error_code == Doq.EXCESSIVE_LOAD
        for client, stream in zip(clients[:2], streams, strict=False):
            running.release()
            assert client.answer(stream) == message("later")


def test_an_idle_connection_is_closed_and_its_client_hears_of_it() -> None:
    with Running(limits=Limits(idle=0.6)) as running, QuicClient(running.port) as client:
        client.connect()
        closed = client.wait_closed()
        assert (closed.error_code, closed.reason_phrase) == (Doq.NO_ERROR, "")
        until(lambda: running.server.connections == 0)


def test_one_that_waits_for_an_answer_is_not_idle() -> None:
    with Running(limits=Limits(idle=0.6)) as running, QuicClient(running.port) as client:
        client.connect()
        stream = client.query(message("later"))
        end = time.monotonic() + 2
        while time.monotonic() < end:
            client.quic.send_ping(1)  # or QUIC itself would end it
            client.step()
        running.release()
        assert client.answer(stream) == message("later")


def test_a_drain_answers_what_is_in_flight_and_closes(running: Running, client: QuicClient) -> None:
    with QuicClient(running.port) as idle:
        idle.connect()
        stream = client.query(message("later"))
        until(lambda: running.engine.waiting)
        thread = threading.Thread(target=running.drain)
        thread.start()
        assert idle.wait_closed().error_code == Doq.NO_ERROR
        assert client.closed is None
        running.release()
        assert client.answer(stream) == message("later")
        assert client.wait_closed().error_code == Doq.NO_ERROR
        thread.join(20)


def test_a_drain_ends_what_is_not_answered_in_time(running: Running, client: QuicClient) -> None:
    client.query(message("later"))
    until(lambda: running.engine.waiting)
    running.drain(0.2)
    assert client.wait_closed().error_code == Doq.NO_ERROR
    running.call(running.engine.waiting[0][1], b"late")  # harmless


def test_a_client_that_is_not_known_any_more_is_told(running: Running, client: QuicClient) -> None:
    assert client.ask(message("now")) == message("now")
    for link in running.server._places.holders:
        running.call(link.vanish)
    token = client.quic._peer_cid.stateless_reset_token
    client.got.clear()
    client.send(bytes(60))
    sent = len(client.sent[-1])  # what it sends after that, while it waits, is shorter
    client.until(lambda: any(each.endswith(token) for each in client.got), "a stateless reset")
    assert all(len(each) < sent for each in client.got if each.endswith(token))


def test_memory_is_given_back_when_a_connection_ends(running: Running) -> None:
    gc.disable()
    try:
        with QuicClient(running.port) as client:
            client.connect()
            assert client.ask(message("now")) == message("now")
            known = weakref.ref(running.server._places.holders[0]._quic)  # an assertion would keep it
        until(lambda: known() is None)
        assert not running.server._links
    finally:
        gc.enable()


# -- networks ----------------------------------------------------------------------------------------------------------


def test_loss_and_disorder_lose_no_answer(running: Running) -> None:
    with Relay(running.port, loss=0.15, late=0.2) as relay, QuicClient(relay.port) as client:
        client.connect()
        streams = [client.query(message(f"now{number}")) for number in range(200)]
        assert [client.answer(stream) for stream in streams] == [message(f"now{number}") for number in range(200)]
        assert relay.lost


def test_a_client_that_moves_keeps_its_connection_whichever_worker_has_it() -> None:
    with Running(workers=3) as running:
        for turn in range(60):
            if turn >= 6 and sum(bool(engine.asked) for engine in running.engines) > 1:
                break
            with Relay(running.port) as relay, QuicClient(relay.port) as client:
                client.connect()
                for number in range(5):
                    assert client.ask(message(f"now{number}")) == message(f"now{number}")
                    relay.move()
        assert sum(bool(engine.asked) for engine in running.engines) > 1, "every client came to one worker"


def test_an_address_that_a_client_moves_to_counts_once_it_is_proven(running: Running, client: QuicClient) -> None:
    assert client.ask(message("now0")) == message("now0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.setblocking(False)
        elsewhere.bind(("127.0.0.9", 0))
        client.sock, before = elsewhere, client.sock
        with before:
            client.query(message("now1"))
            client.flush()
            until(lambda: len(running.engine.asked) == 2)
            assert running.engine.asked[1][1][12:] == bytes((127, 0, 0, 1)), "an address that is not proven counts"
            for _ in range(20):  # now what comes to it is heard
                assert client.ask(message("now2")) == message("now2")
            assert running.engine.asked[-1][1][12:] == bytes((127, 0, 0, 9))


def test_on_a_wildcard_socket_an_answer_leaves_from_the_address_that_was_asked() -> None:
    with Running(host="0.0.0.0") as running, QuicClient(running.port, host="127.0.0.77") as client:
        client.sock.connect(client.address)  # the kernel drops what comes from elsewhere
        original = client.sock
        client.quic.connect(client.address, time.monotonic())
        for data, _ in client.quic.datagrams_to_send(time.monotonic()):
            original.send(data)
        client.until(lambda: client.handshake, "the handshake is over")
        assert client.ask(message("now")) == message("now")


# -- malice ------------------------------------------------------------------------------------------------------------


def test_early_octets_of_many_streams_are_bounded(running: Running, client: QuicClient) -> None:
    """The far ends of streams: credit must not grow, or one small datagram after the other takes a megabyte."""
    until(lambda: running.server._places.holders)
    quic = running.server._places.holders[0]._quic
    for stream in range(0, 4 * 128, 4):
        client.quic.send_stream_data(stream, b"")
        sender = client.quic._streams[stream].sender
        sender._buffer_start = sender._buffer_stop = 60_000  # as if all before had been delivered
        client.quic.send_stream_data(stream, b"x")
    client.quic._remote_max_data = 1 << 40  # it does not keep to what it was granted
    with contextlib.suppress(AssertionError):
        client.until(lambda: client.closed, "the connection is closed", patience=5)
    assert client.closed is not None and client.closed.error_code == QuicErrorCode.FLOW_CONTROL_ERROR
    held = running.call(lambda: sum(len(each.receiver._buffer) for each in getattr(quic, "_streams", {}).values()))
    assert held <= listener.WINDOW


def test_answers_that_are_not_taken_are_bounded(running: Running) -> None:
    with QuicClient(running.port, max_stream_data=100, max_data=2000) as client:
        client.connect()
        client.quic._write_connection_limits = lambda **_: None  # type: ignore[method-assign]
        client.quic._write_stream_limits = lambda **_: None  # type: ignore[method-assign]
        for _ in range(60):
            client.query(message("big"))
        assert client.wait_closed().error_code == Doq.EXCESSIVE_LOAD


def test_garbage_does_not_kill_the_server_nor_leave_connections(running: Running) -> None:
    chance = random.Random(4)
    with QuicClient(running.port) as client:
        client.connect()
        for number in range(20):
            client.ask(message(f"now{number}"))
        samples = [*client.sent, *(bytes(chance.randbytes(size)) for size in (1, 8, 9, 20, 40, 600, 1200, 2000))]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(4000):
                octets = bytearray(chance.choice(samples))
                for _ in range(chance.choice((0, 1, 1, 3, 30))):
                    octets[chance.randrange(len(octets))] = chance.randrange(256)
                if not chance.randrange(4):
                    del octets[chance.randrange(1, len(octets) + 1) :]
                sock.sendto(octets, client.address)
                if not number % 50:
                    assert client.ask(message("now")) == message("now")
        assert client.ask(message("now")) == message("now")
    assert running.server._gate.taken <= 64
    with QuicClient(running.port) as client:
        client.connect()
        assert client.ask(message("now")) == message("now")
    until(lambda: running.server.connections == 0)
    assert not running.server._links and not running.server._dirty
