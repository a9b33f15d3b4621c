from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from functools import partial

import pytest

from resolver.listeners import server as serving_module
from resolver.listeners.server import client_octets
from resolver.vocabulary import Transport
from tests.unit.listeners.serving import Runner, frame, runner
from tests.unit.listeners.serving import serving as serving_kind

serving = partial(serving_kind, "dns")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    return runner(request.param)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_query_is_answered_and_the_engine_knows_who_asks(run: Runner, host: str) -> None:
    async def body() -> None:
        async with serving(host=host) as place:
            client = await place.connect()
            await client.send("now")
            assert await client.word() == "now"
            octets = socket.inet_pton(socket.AF_INET6, "::1" if host == "::1" else "::ffff:127.0.0.1")
            assert place.engine.asked == [(bytes(12) + b"now", octets, Transport.TCP)]

    run(body())


@pytest.mark.parametrize(
    ("address", "octets"),
    [
        ("192.0.2.1", b"\0" * 10 + b"\xff\xff\xc0\x00\x02\x01"),
        ("::ffff:192.0.2.1", b"\0" * 10 + b"\xff\xff\xc0\x00\x02\x01"),
        ("fe80::1%eth0", b"\xfe\x80" + b"\0" * 13 + b"\x01"),
    ],
)
def test_addresses_as_octets(address: str, octets: bytes) -> None:
    assert client_octets(address) == octets


def test_udp_is_looked_at_between_connections_that_all_have_work_at_once(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            clients = [await place.connect() for _ in range(20)]
            await place.until(lambda: place.server.connections == 20)
            for client in clients:  # the loop does not run meanwhile: it finds all of them ready
                client.writer.write(frame("slow"))
            assert place.engine.asked == []
            assert [await client.word() for client in clients] == ["slow"] * 20
            assert set(place.engine.looks) >= set(range(1, 21))

    run(body())


# -- framing ----------------------------------------------------------------------------------------------------------


def test_frames_octet_by_octet(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect()
            for octet in frame("now-a") + frame("later") + frame("now-b"):
                client.writer.write(bytes([octet]))
                await asyncio.sleep(0.001)
            assert [await client.word(), await client.word()] == ["now-a", "now-b"]
            place.engine.release()
            assert await client.word() == "later"

    run(body())


def test_many_frames_in_one_segment_are_answered_with_few_writes(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect()
            words = [f"now-{number}" for number in range(1000)]
            await client.send(*words)
            assert [await client.word() for _ in words] == words

    run(body())


@pytest.mark.parametrize("octets", [b"\0\0", b"\0\x0b" + bytes(11), frame("now") + b"\0\0" + frame("now-lost")])
def test_a_frame_too_short_for_a_message_ends_the_connection(run: Runner, octets: bytes) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect()
            client.writer.write(octets)
            if len(octets) > 13:
                assert await client.word() == "now"  # what came before is answered
            assert await client.is_closed()
            assert len(place.engine.asked) == (1 if len(octets) > 13 else 0)

    run(body())


def test_drops_answer_nothing_and_the_connection_stays(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect()
            await client.send("drop", "later", "now")
            assert await client.word() == "now"
            place.engine.release(0, None)
            await client.send("now-again")
            assert await client.word() == "now-again"

    run(body())


# -- pipelining -------------------------------------------------------------------------------------------------------


def test_answers_go_out_as_they_come(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect()
            await client.send("later-0", "later-1", "now", "later-2")
            assert await client.word() == "now"
            assert place.engine.rounds == 1
            for index in (2, 0, 0):
                place.engine.release(index)
            assert [await client.word() for _ in range(3)] == ["later-2", "later-0", "later-1"]

    run(body())


def test_no_more_than_so_many_wait_and_the_rest_has_its_turn(run: Runner) -> None:
    async def body() -> None:
        async with serving(pipeline=4) as place:
            client = await place.connect()
            words = [f"later-{number}" for number in range(20)]
            await client.send(*words)
            await place.until(lambda: len(place.engine.waiting) == 4)
            await asyncio.sleep(0.05)
            assert len(place.engine.asked) == 4
            for word in words:
                place.engine.release()
                assert await client.word() == word

    run(body())


def test_a_client_that_does_not_read_is_not_read_from(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect(limit=4096)
            client.writer.write(frame("big") * 5000)  # 300 MB of answers
            await place.until(lambda: place.engine.asked)
            settled = -1
            while settled != len(place.engine.asked):
                settled = len(place.engine.asked)
                await asyncio.sleep(0.1)
            assert settled < 300
            for _ in range(50):  # it goes on where the client goes on
                assert await client.word() == "big" + "\0" * 60_000
            await place.until(lambda: len(place.engine.asked) > settled)

    run(body())


def test_answers_to_a_client_that_has_gone_are_dropped(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect()
            await client.send("later")
            await place.until(lambda: place.engine.waiting)
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()  # a reset
            await place.until(lambda: not place.server.connections)
            place.engine.release()

    run(body())


def test_a_client_that_closed_its_direction_still_gets_its_answers(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect()
            await client.send("later-0", "later-1")
            client.writer.write_eof()
            await place.until(lambda: len(place.engine.waiting) == 2)
            await asyncio.sleep(0.02)
            place.engine.release()
            place.engine.release()
            assert [await client.word(), await client.word()] == ["later-0", "later-1"]
            assert await client.is_closed()

    run(body())


# -- time-outs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "SWEEP", 0.02)


def test_an_idle_connection_is_closed_and_one_that_waits_is_not(run: Runner, quick: None) -> None:
    async def body() -> None:
        async with serving(idle=0.15) as place:
            silent, waits = await place.connect(), await place.connect()
            await waits.send("later")
            assert await silent.is_closed()
            await asyncio.sleep(0.1)
            place.engine.release()
            assert await waits.word() == "later"
            assert await waits.is_closed()

    run(body())


def test_half_a_frame_has_its_time(run: Runner, quick: None) -> None:
    async def body() -> None:
        async with serving(idle=60.0, frame=0.2) as place:
            slow, fine = await place.connect(), await place.connect()
            await slow.send("now")
            assert await slow.word() == "now"
            await fine.send("now")

            async def trickle() -> None:
                with contextlib.suppress(ConnectionError):
                    for octet in frame("now" * 1000):
                        slow.writer.write(bytes([octet]))
                        await slow.writer.drain()
                        await asyncio.sleep(0.005)

            task = asyncio.ensure_future(trickle())
            assert await slow.is_closed()  # in spite of an octet every 5 ms
            task.cancel()
            assert place.server.connections == 1

    run(body())


def test_a_frame_that_waits_for_its_turn_is_not_half(run: Runner, quick: None) -> None:
    async def body() -> None:
        async with serving(idle=60.0, frame=0.1, pipeline=1) as place:
            client = await place.connect()
            await client.send("later-0", "later-1")
            client.writer.write(frame("later-2")[:5])
            await asyncio.sleep(0.3)
            client.writer.write(frame("later-2")[5:])
            for number in range(3):
                await place.until(lambda: place.engine.waiting)
                place.engine.release()
                assert await client.word() == f"later-{number}"

    run(body())


def test_the_idle_time_shrinks_as_places_fill(run: Runner) -> None:
    async def body() -> None:
        async with serving(connections=10, idle=10.0) as place:
            times = [place.server.places.idle_time()]
            for _ in range(10):
                client = await place.connect()
                await client.send("now")
                await client.word()
                times.append(place.server.places.idle_time())
            assert times[:6] == [10.0] * 6
            assert times[6:] == sorted(times[6:], reverse=True)
            assert times[10] == pytest.approx(1.0)

    run(body())


def test_a_client_that_never_reads_is_cut_off(run: Runner, quick: None) -> None:
    async def body() -> None:
        async with serving(idle=0.2) as place:
            client = await place.connect(limit=4096)
            client.writer.write(frame("big") * 2000)
            await place.until(lambda: place.engine.asked)
            await place.until(lambda: not place.server.connections)

    run(body())


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_full_server_gives_up_the_idlest_connection(run: Runner) -> None:
    async def body() -> None:
        async with serving(connections=3) as place:
            clients = []
            for _ in range(3):
                clients.append(await place.connect())
                await clients[-1].send("now")
                assert await clients[-1].word() == "now"
            await clients[0].send("now")  # the first is no longer the idlest
            assert await clients[0].word() == "now"
            fourth = await place.connect()
            await fourth.send("now")
            assert await fourth.word() == "now"
            assert await clients[1].is_closed()
            for client in (clients[0], clients[2]):
                await client.send("now-still")
                assert await client.word() == "now-still"
            assert place.server.connections == 3

    run(body())


def test_a_full_server_whose_clients_all_wait_refuses(run: Runner) -> None:
    async def body() -> None:
        async with serving(connections=2) as place:
            waiting = [await place.connect() for _ in range(2)]
            for client in waiting:
                await client.send("later")
            await place.until(lambda: len(place.engine.waiting) == 2)
            assert await (await place.connect()).is_closed()
            place.engine.release()
            place.engine.release()
            assert [await client.word() for client in waiting] == ["later", "later"]

    run(body())


def test_one_client_cannot_take_anothers_places(run: Runner) -> None:
    async def body() -> None:
        async with serving(per_client=2) as place:
            other = await place.connect(source="127.0.0.2")
            await other.send("now")
            await other.word()
            greedy = [await place.connect() for _ in range(2)]
            for client in greedy:
                await client.send("now")
                await client.word()
            third = await place.connect()
            await third.send("now")
            assert await third.word() == "now"
            assert await greedy[0].is_closed()
            await other.send("now")
            assert await other.word() == "now"
            assert place.server.connections == 3

    run(body())


def test_places_come_back(run: Runner) -> None:
    async def body() -> None:
        async with serving(connections=4, per_client=4) as place:
            for _ in range(30):
                client = await place.connect()
                await client.send("now")
                assert await client.word() == "now"
                await client.close()
            await place.until(lambda: not place.server.connections)

    run(body())


# -- shutdown ---------------------------------------------------------------------------------------------------------


def test_drain_answers_what_is_in_flight_and_then_closes(run: Runner) -> None:
    async def body() -> None:
        async with serving(pipeline=2) as place:
            busy, idle = await place.connect(), await place.connect()
            words = [f"later-{number}" for number in range(6)]
            await busy.send(*words)
            await place.until(lambda: len(place.engine.waiting) == 2)
            draining = asyncio.ensure_future(place.server.drain(5.0))
            assert await idle.is_closed()
            with pytest.raises(OSError):
                await place.connect()
            for word in words:
                await place.until(lambda: place.engine.waiting)
                place.engine.release()
                assert await busy.word() == word
            assert await busy.is_closed()
            await draining
            assert place.server.connections == 0

    run(body())


def test_drain_reads_what_had_been_sent(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect()
            await place.until(lambda: place.server.connections)
            client.writer.write(frame("now"))
            await place.server.drain(1.0)
            assert await client.word() == "now"
            assert await client.is_closed()

    run(body())


def test_drain_does_not_wait_for_ever(run: Runner) -> None:
    async def body() -> None:
        async with serving() as place:
            client = await place.connect()
            await client.send("later")
            await place.until(lambda: place.engine.waiting)
            await place.server.drain(0.1)
            assert place.server.connections == 0
            assert await client.is_closed()

    run(body())
