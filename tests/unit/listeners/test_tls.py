"""DNS over TLS on real connections: ALPN, versions, resumption, renewal, and what a hostile client finds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from dataclasses import replace

import pytest

from resolver.listeners import server as serving_module
from resolver.listeners.tls import Contexts
from resolver.vocabulary import Transport
from tests.certificates import key_pem, make_key
from tests.unit.listeners.serving import AUTHORITY, CHAIN, KEY, Place, Runner, frame, runner, serving


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    return runner(request.param)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "SWEEP", 0.02)


def test_answers_come_over_tls_and_the_engine_knows_so(run: Runner) -> None:
    async def body() -> None:
        async with serving("tls") as place:
            client = await place.connect(place.trusting("dot"))
            assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "dot"
            await client.send("now-a", "later", "now-b")
            assert [await client.word(), await client.word()] == ["now-a", "now-b"]
            place.engine.release()
            assert await client.word() == "later"
            assert {transport for _, _, transport in place.engine.asked} == {Transport.TLS}

    run(body())


@pytest.mark.parametrize("alpn", [(), ("dot",), ("other", "dot"), ("other",)])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_and_protocols(alpn: tuple[str, ...], version: ssl.TLSVersion) -> None:
    async def body() -> None:
        async with serving("tls") as place:
            context = place.trusting(*alpn, minimum_version=version, maximum_version=version)
            client = await place.connect(context)
            await client.send("now")
            assert await client.word() == "now"

    runner("uvloop")(body())


def test_what_is_older_than_tls_1_2_is_refused() -> None:
    async def body() -> None:
        async with serving("tls") as place:
            context = place.trusting()
            with pytest.warns(DeprecationWarning):
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await place.connect(context)
            await place.until(lambda: not place.server.connections)

    runner("uvloop")(body())


CONTEXTS: dict[tuple[int, ssl.TLSVersion | None], ssl.SSLContext] = {}


def _blocking(
    place: Place, session: ssl.SSLSession | None = None, version: ssl.TLSVersion | None = None
) -> ssl.SSLSocket:
    """A client that can bring a session, with one query asked and answered."""
    context = CONTEXTS.setdefault((place.port, version), place.trusting("dot"))  # a session belongs to its context
    if version:
        context.maximum_version = version
    connected = context.wrap_socket(
        socket.create_connection((place.host, place.port)), server_hostname="localhost", session=session
    )
    connected.sendall(frame("now"))
    size = struct.unpack(">H", connected.recv(2))[0]
    assert connected.recv(size).endswith(b"now")
    return connected


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_even_after_a_renewal(version: ssl.TLSVersion) -> None:
    async def body() -> None:
        async with serving("tls") as place:

            def first() -> ssl.SSLSession | None:
                with _blocking(place, version=version) as connected:
                    assert not connected.session_reused
                    return connected.session

            session = await asyncio.to_thread(first)
            key = make_key()
            place.contexts.show(AUTHORITY.sign(key), key_pem(key), "ec")

            def again() -> bool | None:
                with _blocking(place, session, version) as connected:
                    return connected.session_reused

            assert await asyncio.to_thread(again)

    runner("uvloop")(body())


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_renewed_certificate_is_shown_to_who_connects_after(kind: str) -> None:
    async def body() -> None:
        async with serving("tls") as place:
            before = await place.connect(place.trusting("dot"))
            key = make_key(kind)
            chain = AUTHORITY.sign(key)
            place.contexts.show(chain, key_pem(key), kind)
            after = await place.connect(place.trusting("dot"))
            shown = after.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert shown == ssl.PEM_cert_to_DER_cert(chain)
            for client in (before, after):
                await client.send("now")
                assert await client.word() == "now"

    runner("uvloop")(body())


def test_a_certificate_that_does_not_fit_changes_nothing() -> None:
    contexts = Contexts()
    contexts.show(CHAIN, key_pem(KEY), "ec")
    context = contexts.of("tls")
    with pytest.raises(OSError):
        contexts.show(AUTHORITY.sign(make_key()), key_pem(KEY), "ec")
    assert contexts.of("tls") is context


# -- who is slow, half open or hostile -----------------------------------------------------------------------------------


def test_a_handshake_has_its_time(run: Runner, quick: None) -> None:
    async def body() -> None:
        async with serving("tls", idle=60.0, frame=0.2) as place:
            silent = await place.connect()
            half = await place.connect(before=b"\x16\x03\x01\x02\x00\x01")
            fine = await place.connect(place.trusting("dot"))
            assert await silent.is_closed() and await half.is_closed()
            await asyncio.sleep(0.3)
            await fine.send("now")
            assert await fine.word() == "now"

    run(body())


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        frame("now"),
        bytes(100),
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff" + bytes(70_000),
        b"\x15\x03\x01\x00\x02\x02\x28",
    ],
)
def test_what_is_no_handshake_ends_the_connection_alone(run: Runner, octets: bytes) -> None:
    async def body() -> None:
        async with serving("tls", frame=0.3) as place:
            fine = await place.connect(place.trusting("dot"))
            bad = await place.connect(before=octets)
            await bad.reader.read()
            assert await bad.is_closed()
            await fine.send("now")
            assert await fine.word() == "now"
            assert [asked for asked, _, _ in place.engine.asked] == [bytes(12) + b"now"]

    run(body())


def test_garbage_after_the_handshake_ends_the_connection(run: Runner) -> None:
    async def body() -> None:
        async with serving("tls") as place:
            client = await place.connect(place.trusting("dot"))
            await client.send("now")
            assert await client.word() == "now"
            with socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno())) as raw:
                raw.send(b"\x17\x03\x03\x00\x20" + bytes(32))
            assert await client.is_closed()
            await place.until(lambda: not place.server.connections)

    run(body())


def test_half_open_handshakes_count_and_give_way_to_a_newcomer() -> None:
    async def body() -> None:
        async with serving("tls", per_client=3, frame=60.0, idle=60.0) as place:
            half = [await place.connect() for _ in range(3)]
            await place.until(lambda: place.server.connections == 3)
            client = await place.connect(place.trusting("dot"))
            await client.send("now")
            assert await client.word() == "now"
            assert await half[0].is_closed()
            assert place.server.connections == 3

    runner("uvloop")(body())


def test_many_handshakes_at_once_leave_the_loop_its_turns() -> None:
    async def body() -> None:
        async with serving("tls", per_client=200, frame=60.0) as place:
            context = place.trusting("dot")
            turns = 0
            done = asyncio.Event()

            async def count() -> None:
                nonlocal turns
                while not done.is_set():
                    await asyncio.sleep(0)
                    turns += 1

            counting = asyncio.ensure_future(count())
            hello = ssl.MemoryBIO()
            made = context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                made.do_handshake()
            octets = hello.read()
            for _ in range(100):
                await place.connect(before=octets)
            replies = await asyncio.gather(*(client.reader.read(5) for client in place.clients))
            done.set()
            await counting
            assert all(reply[:1] == b"\x16" for reply in replies)  # each was answered in the end
            assert turns > 50

    runner("uvloop")(body())


def test_connections_that_end_together_are_closed_a_few_at_a_time(quick: None) -> None:
    async def body() -> None:
        async with serving("tls", per_client=200, frame=60.0) as place:
            for _ in range(100):
                await place.connect(before=hello())
            await place.until(lambda: place.server.connections == 100)
            place.server.limits = replace(place.server.limits, frame=0.001)
            open_before, closed_in_a_turn = 100, []
            while open_before:
                await asyncio.sleep(0)
                closed_in_a_turn.append(open_before - place.server.connections)
                open_before = place.server.connections
            assert max(closed_in_a_turn) <= serving_module.TURN
            ends = (client.reader.read() for client in place.clients)
            await asyncio.gather(*ends, return_exceptions=True)

    runner("uvloop")(body())


def test_a_client_that_says_goodbye_gets_what_it_waits_for(run: Runner) -> None:
    async def body() -> None:
        async with serving("tls") as place:
            context = place.trusting("dot")
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            client = await place.connect()
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    client.writer.write(outgoing.read())
                    incoming.write(await client.reader.read(65536))
            tls.write(frame("later"))
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()  # close_notify goes out with the query
            client.writer.write(outgoing.read())
            await place.until(lambda: place.engine.waiting)
            place.engine.release()
            rest = await client.reader.read()  # the answer and the server's close_notify, then the end
            incoming.write(rest)
            assert tls.read(100) == frame("later")
            with pytest.raises(ssl.SSLZeroReturnError):
                tls.read(100)

    run(body())


def test_a_server_that_ends_says_goodbye_over_tls(run: Runner) -> None:
    async def body() -> None:
        async with serving("tls") as place:
            client = await place.connect(place.trusting("dot"))
            await client.send("later")
            await place.until(lambda: place.engine.waiting)
            draining = asyncio.ensure_future(place.server.drain(5.0))
            await asyncio.sleep(0.1)
            place.engine.release()
            assert await client.word() == "later"
            assert await client.reader.read() == b""  # and no error: close_notify came
            await draining

    run(body())


def test_large_answers_and_many_frames(run: Runner) -> None:
    async def body() -> None:
        async with serving("tls") as place:
            client = await place.connect(place.trusting("dot"))
            words = [f"now-{number}" for number in range(3000)]
            await client.send(*words, "big")
            assert [await client.word() for _ in words] == words
            assert len(await client.word()) == 60_003

    run(body())


def test_an_answer_between_goodbye_and_end_is_dropped_in_silence(run: Runner) -> None:
    async def body() -> None:
        async with serving("tls") as place:
            client = await place.connect(place.trusting("dot"))
            await client.send("later")
            await place.until(lambda: place.engine.waiting)
            [held] = place.server.places.holders
            held.cut()  # as for half a frame that was left behind the query
            place.engine.release()
            assert await client.is_closed()

    run(body())


@pytest.mark.parametrize("how", ["let lie", "given up"])
def test_who_lets_handshakes_lie_waits_and_nobody_else_does(
    run: Runner, monkeypatch: pytest.MonkeyPatch, quick: None, how: str
) -> None:
    monkeypatch.setattr(serving_module, "PACE", 0.3)
    monkeypatch.setattr(serving_module, "LATE", 0.05)

    async def body() -> None:
        async with serving("tls") as place:
            for _ in range(serving_module.SUSPECT):
                if how == "let lie":
                    await place.connect(source="127.0.0.9", before=hello())
                else:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        await place.connect(ssl.create_default_context(), source="127.0.0.9")
            await place.until(lambda: sum(place.server._failed.values()) == serving_module.SUSPECT)
            order = []

            async def answered(source: str) -> None:
                client = await place.connect(place.trusting(), source=source)
                await client.send("now")
                assert await client.word() == "now"
                order.append(source)

            await asyncio.gather(*(answered("127.0.0.9") for _ in range(6)), answered("127.0.0.8"))
            assert order[-1] == "127.0.0.9" and len(order) == 7

    run(body())


def hello() -> bytes:
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the machine's certificates: they take 50 ms to load
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    return out.read()
