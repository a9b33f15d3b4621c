"""DNS over HTTPS on real connections: both versions, their limits, and what hostile clients find."""

from __future__ import annotations

import asyncio
import contextlib
from base64 import urlsafe_b64encode
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import httpx
import pytest
from hyperframe.frame import ContinuationFrame, HeadersFrame, RstStreamFrame

from resolver.listeners import server as serving_module
from resolver.listeners.http2 import Http2
from resolver.listeners.https import Http
from resolver.vocabulary import Transport
from tests.unit.listeners.serving import Client, Place, Runner, message, runner, serving

TYPE = "application/dns-message"


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    return runner(request.param)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "SWEEP", 0.02)


def get(word: str, path: str = "/dns-query") -> str:
    return f"{path}?dns={urlsafe_b64encode(message(word)).decode().rstrip('=')}"


class Browser:
    """httpx, speaking one version."""

    def __init__(self, place: Place, version: str) -> None:
        is_two = version == "HTTP/2"
        self.version = version
        self.client = httpx.AsyncClient(
            http2=is_two,
            http1=not is_two,
            verify=place.trusting(),
            base_url=f"https://localhost:{place.port}",
            trust_env=False,
        )

    async def __aenter__(self) -> httpx.AsyncClient:
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()


@pytest.fixture(params=["HTTP/2", "HTTP/1.1"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_get_and_post(run: Runner, version: str) -> None:
    async def body() -> None:
        async with serving("https") as place, Browser(place, version) as browser:
            for _ in range(3):
                got = await browser.get(get("now"))
                posted = await browser.post("/dns-query", content=message("now"), headers={"content-type": TYPE})
                for response in (got, posted):
                    assert response.http_version == version
                    assert response.status_code == 200 and response.content == message("now")
                    assert response.headers["content-type"] == TYPE
                    assert response.headers["cache-control"] == "max-age=0"
            assert place.server.connections == 1
            assert {transport for _, _, transport in place.engine.asked} == {Transport.HTTPS}

    run(body())


def test_what_is_refused_leaves_the_connection(run: Runner, version: str) -> None:
    async def body() -> None:
        async with serving("https") as place, Browser(place, version) as browser:
            for method, path, options, status in (
                ("GET", "/", {}, 404),
                ("GET", "/dns-query", {}, 400),
                ("GET", "/dns-query?dns=%00", {}, 400),
                ("DELETE", get("now"), {}, 405),
                ("POST", "/dns-query", {"content": b"x" * 20}, 415),
                ("POST", "/dns-query", {"content": b"x", "headers": {"content-type": TYPE}}, 400),
                ("POST", "/dns-query", {"content": bytes(70_000), "headers": {"content-type": TYPE}}, 413),
            ):
                response = await browser.request(method, path, **options)
                assert response.status_code == status, (method, path)
                assert response.headers["cache-control"] == "no-store"
            assert (await browser.get(get("now"))).content == message("now")
            assert len(place.engine.asked) == 1

    run(body())


def test_answers_that_come_later(run: Runner, version: str) -> None:
    async def body() -> None:
        async with serving("https") as place, Browser(place, version) as browser:
            asking = [asyncio.ensure_future(browser.get(get(f"later-{number}"))) for number in range(5)]
            await place.until(lambda: len(place.engine.waiting) == 5)
            for _ in range(5):
                place.engine.release(-1)
            answers = {(await each).content[12:] for each in asking}
            assert answers == {b"later-%d" % number for number in range(5)}
            assert place.server.connections == (1 if version == "HTTP/2" else 5)

    run(body())


def test_large_answers(run: Runner, version: str) -> None:
    async def body() -> None:
        async with serving("https") as place, Browser(place, version) as browser:
            answers = await asyncio.gather(*(browser.get(get(f"big-{number}")) for number in range(8)))
            assert {len(answer.content) for answer in answers} == {12 + 5 + 60_000}

    run(body())


def test_a_query_that_is_dropped_has_no_answer(run: Runner, version: str) -> None:
    async def body() -> None:
        async with serving("https") as place, Browser(place, version) as browser:
            with pytest.raises(httpx.RemoteProtocolError):
                await browser.get(get("drop"))
            asking = asyncio.ensure_future(browser.get(get("later")))
            await place.until(lambda: place.engine.waiting)
            place.engine.release(0, None)
            with pytest.raises(httpx.RemoteProtocolError):
                await asking
            assert (await browser.get(get("now"))).status_code == 200

    run(body())


def test_http3_is_told_of_where_it_is(version: str) -> None:
    async def body() -> None:
        async with serving("https", alt_svc=b'h3=":443"; ma=86400') as place, Browser(place, version) as browser:
            assert (await browser.get(get("now"))).headers["alt-svc"] == 'h3=":443"; ma=86400'

    runner("uvloop")(body())


def test_idle_connections_are_closed_and_a_drain_answers_what_waits(run: Runner, version: str, quick: None) -> None:
    async def body() -> None:
        async with serving("https", idle=0.3) as place, Browser(place, version) as browser:
            await browser.get(get("now"))
            await place.until(lambda: not place.server.connections)
            asking = asyncio.ensure_future(browser.get(get("later")))
            await place.until(lambda: place.engine.waiting)
            draining = asyncio.ensure_future(place.server.drain(5.0))
            await asyncio.sleep(0.2)
            place.engine.release()
            assert (await asking).content == message("later")
            await draining
            assert not place.server.connections

    run(body())


# -- HTTP/1.1, octet by octet -------------------------------------------------------------------------------------------

HOST = b"Host: localhost\r\n"


async def spoken(place: Place, octets: bytes, *, piecewise: bool = False) -> bytes:
    """All that a server says to what is sent, until it closes."""
    client = await place.connect(place.trusting("http/1.1"))
    for at in range(0, len(octets), 1 if piecewise else len(octets)):
        client.writer.write(octets[at : at + 1] if piecewise else octets)
        await client.writer.drain()
    return await client.reader.read()


def request(word: str, *, more: bytes = b"") -> bytes:
    return b"GET " + get(word).encode() + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


def test_requests_in_one_segment_are_answered_in_order(run: Runner) -> None:
    async def body() -> None:
        async with serving("https") as place:
            asking = asyncio.ensure_future(
                spoken(place, request("later") + request("now") + request("now-b", more=b"Connection: close\r\n"))
            )
            await place.until(lambda: place.engine.waiting)
            await asyncio.sleep(0.05)
            assert len(place.engine.asked) == 1  # the second has to wait
            place.engine.release()
            said = await asking
            assert said.count(b"HTTP/1.1 200") == 3
            assert said.find(b"later") < said.find(b"now") < said.find(b"now-b")

    run(body())


def test_a_request_octet_by_octet(run: Runner) -> None:
    async def body() -> None:
        async with serving("https") as place:
            octets = (
                b"POST /dns-query HTTP/1.1\r\n" + HOST + b"Content-Type: application/dns-message\r\n"
                b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"c\r\n" + bytes(12) + b"\r\n3\r\nnow\r\n0\r\n\r\n"
            )
            assert (await spoken(place, octets, piecewise=True)).endswith(message("now"))

    run(body())


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET / HTTP/3.0\r\n\r\n", b"404"),
        (b"GET " + get("now").encode() + b" HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (request("now", more=b"X: " + b"y" * 20_000 + b"\r\n"), b"431"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", b"431"),
        # Two lengths, or a length and chunks: whose word a proxy before us takes nobody knows (RFC 9112 section 11.2).
        (b"POST /dns-query HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nContent-Length: 40\r\n\r\nabcd", b"400"),
        (b"POST /dns-query HTTP/1.1\r\n" + HOST + b"Content-Length: +15\r\n\r\n" + message("now"), b"400"),
        (b"POST /dns-query HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\x00: d\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"404"),
    ],
)
def test_what_is_no_sound_request_is_refused_and_ends_the_connection(octets: bytes, status: bytes) -> None:
    async def body() -> None:
        async with serving("https") as place:
            said = await spoken(place, octets + request("now"))
            assert said.startswith(b"HTTP/1.1 " + status) and said.count(b"HTTP/1.1") == 1
            assert place.engine.asked == []
            await place.until(lambda: not place.server.connections)

    runner("uvloop")(body())


def test_a_length_and_chunks_are_never_two_requests() -> None:
    async def body() -> None:
        async with serving("https") as place:
            smuggled = request("now")
            octets = (
                b"POST /dns-query HTTP/1.1\r\n" + HOST + b"Content-Type: application/dns-message\r\n"
                b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(smuggled)) + smuggled
            )
            client = await place.connect(place.trusting("http/1.1"))
            client.writer.write(octets)
            said = await client.reader.read(65536)
            assert said.startswith(b"HTTP/1.1 400")  # an empty body by chunks, if not refused at all

    runner("uvloop")(body())


# -- HTTP/2, frame by frame ---------------------------------------------------------------------------------------------


class Two:
    """HTTP/2 by hand."""

    def __init__(self, place: Place, client: Client) -> None:
        self.place, self.client = place, client
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
        self.conn.initiate_connection()
        self.events: list[Any] = []
        self.send()

    @classmethod
    async def connect(cls, place: Place) -> Two:
        two = cls(place, await place.connect(place.trusting("h2")))
        await two.until(h2.events.RemoteSettingsChanged)
        return two

    def send(self, octets: bytes = b"") -> None:
        self.client.writer.write(self.conn.data_to_send() + octets)

    def headers(self, word: str) -> list[tuple[str, str]]:
        return [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", get(word))]

    async def until(self, kind: type[Any], count: int = 1) -> list[Any]:
        """Read until so many events of a kind have come."""
        while sum(isinstance(event, kind) for event in self.events) < count:
            octets = await self.client.reader.read(65536)
            assert octets, f"closed after {self.events}"
            self.events += self.conn.receive_data(octets)
            self.send()
        return [event for event in self.events if isinstance(event, kind)]

    async def rest(self) -> list[Any]:
        """Read until the server closes."""
        try:
            while octets := await self.client.reader.read(65536):
                self.events += self.conn.receive_data(octets)
        except ConnectionError:
            pass
        return self.events


def test_answers_leave_in_any_order_and_a_reset_stream_is_forgotten() -> None:
    async def body() -> None:
        async with serving("https") as place:
            two = await Two.connect(place)
            for stream, word in ((1, "later-1"), (3, "later-3"), (5, "later-5"), (7, "now")):
                two.conn.send_headers(stream, two.headers(word), end_stream=True)
            two.conn.reset_stream(3)
            two.send()
            await two.until(h2.events.StreamEnded)
            for _ in range(3):
                place.engine.release(-1)
            ended = await two.until(h2.events.StreamEnded, 3)
            assert [event.stream_id for event in ended] == [7, 5, 1]

    runner("uvloop")(body())


def test_answers_wait_for_the_clients_windows() -> None:
    async def body() -> None:
        async with serving("https") as place:
            two = await Two.connect(place)
            two.conn.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
            two.send()
            two.conn.send_headers(1, two.headers("now"), end_stream=True)
            two.send()
            await two.until(h2.events.DataReceived)
            data = [event for event in two.events if isinstance(event, h2.events.DataReceived)]
            assert b"".join(event.data for event in data) == message("now")[:10]
            two.conn.increment_flow_control_window(100, 1)
            two.send()
            await two.until(h2.events.StreamEnded)
            data = [event for event in two.events if isinstance(event, h2.events.DataReceived)]
            assert b"".join(event.data for event in data) == message("now")

    runner("uvloop")(body())


def test_a_client_that_resets_faster_than_it_is_answered_is_not_read_from() -> None:
    async def body() -> None:
        async with serving("https", pipeline=20) as place:
            two = await Two.connect(place)
            for number in range(5000):
                stream = 2 * number + 1
                two.conn.send_headers(stream, two.headers("later"), end_stream=True)
                two.send(RstStreamFrame(stream, error_code=8).serialize())
                two.conn.streams.pop(stream)
            settled = -1
            while settled != len(place.engine.asked):
                settled = len(place.engine.asked)
                await asyncio.sleep(0.3)
            assert 20 <= settled < 4000  # what came in one read, and no more
            fine = await Two.connect(place)
            fine.conn.send_headers(1, fine.headers("now"), end_stream=True)
            fine.send()
            await fine.until(h2.events.StreamEnded)

    runner("uvloop")(body())


def test_streams_beyond_those_allowed_are_refused() -> None:
    async def body() -> None:
        async with serving("https", pipeline=10) as place:
            two = await Two.connect(place)
            two.conn.remote_settings = h2.settings.Settings(client=False)  # forget what the server allows
            for number in range(30):
                two.conn.send_headers(2 * number + 1, two.headers("later"), end_stream=True)
            two.send()
            refused = await two.until(h2.events.StreamReset, 20)
            assert [event.stream_id for event in refused] == list(range(21, 61, 2))
            assert {event.error_code for event in refused} == {7}
            assert len(place.engine.asked) == 10
            place.engine.release()
            await two.until(h2.events.StreamEnded)

    runner("uvloop")(body())


@pytest.mark.parametrize("fault", ["continuation", "length", "preface", "settings", "data", "padding", "headers"])
def test_frames_that_break_the_rules_end_the_connection(fault: str) -> None:
    async def body() -> None:
        async with serving("https") as place:
            fine = await Two.connect(place)
            two = await Two.connect(place)
            if fault == "continuation":
                start = HeadersFrame(1, data=b"\x82")
                two.send(start.serialize() + ContinuationFrame(1, data=b"\x84").serialize() * 200)
            elif fault == "length":
                two.send(b"\x0f\xff\xff\x01\x05\x00\x00\x00\x01" + bytes(300_000))
            elif fault == "preface":
                two.client = await place.connect(place.trusting("h2"), before=b"")
                two.send(b"GET / HTTP/1.1\r\n\r\n")
            elif fault == "settings":
                two.send(b"\x00\x00\x05\x04\x00\x00\x00\x00\x00" + bytes(5))
            elif fault == "data":
                two.send(b"\x00\x00\x01\x00\x00\x00\x00\x00\x09x")
            elif fault == "padding":
                two.send(b"\x00\x00\x02\x01\x0d\x00\x00\x00\x01\xff\x82")
            else:
                headers = [(name, value) for name, value in two.headers("now")] + [("x", "y" * 9000)] * 3
                two.conn.send_headers(1, headers, end_stream=True)
                two.send()
            try:
                while await two.client.reader.read(65536):
                    pass
            except ConnectionError:
                pass
            fine.conn.send_headers(1, fine.headers("now"), end_stream=True)
            fine.send()
            await fine.until(h2.events.StreamEnded)
            assert len(place.engine.asked) == 1

    runner("uvloop")(body())


def test_bodies_beyond_what_is_held_are_refused() -> None:
    async def body() -> None:
        async with serving("https") as place:
            two = await Two.connect(place)
            head = [*two.headers("now")[1:3], (":method", "POST"), (":path", "/dns-query"), ("content-type", TYPE)]
            for stream in (1, 3, 5, 7):
                two.conn.send_headers(stream, [*head], end_stream=False)
                for _ in range(4):
                    while two.conn.local_flow_control_window(stream) < 10_000:
                        two.send()
                        two.events += two.conn.receive_data(await two.client.reader.read(65536))
                    with contextlib.suppress(h2.exceptions.StreamClosedError):
                        two.conn.send_data(stream, bytes(10_000))
            two.send()
            responses = await two.until(h2.events.ResponseReceived)
            assert dict(responses[0].headers)[b":status"] == b"413"
            assert place.engine.asked == []

    runner("uvloop")(body())


def test_a_drain_says_which_streams_are_answered() -> None:
    async def body() -> None:
        async with serving("https") as place:
            two = await Two.connect(place)
            two.conn.send_headers(1, two.headers("later"), end_stream=True)
            two.send()
            await place.until(lambda: place.engine.waiting)
            draining = asyncio.ensure_future(place.server.drain(5.0))
            await asyncio.sleep(0.2)
            place.engine.release()
            events = await two.rest()
            assert [event.stream_id for event in events if isinstance(event, h2.events.StreamEnded)] == [1]
            [goodbye] = [event for event in events if isinstance(event, h2.events.ConnectionTerminated)]
            assert (goodbye.last_stream_id, goodbye.error_code) == (1, 0)
            await draining

    runner("uvloop")(body())


def test_a_client_that_said_goodbye_is_not_read_from_while_it_waits() -> None:
    async def body() -> None:
        async with serving("https", pipeline=4) as place:
            two = await Two.connect(place)
            for stream in (1, 3, 5, 7):
                two.conn.send_headers(stream, two.headers("later"), end_stream=True)
            two.conn.close_connection()
            two.send()
            await place.until(lambda: len(place.engine.waiting) == 4)
            [held] = place.server.places.holders
            assert isinstance(held, Http)
            for _ in range(32):
                two.send(bytes(1 << 20))
            before = -1
            while before != (before := two.client.writer.transport.get_write_buffer_size()):  # noqa: ASYNC110
                await asyncio.sleep(0.3)
            assert len(held._buffer) <= 1 << 20
            two.client.writer.transport.abort()  # what it has not sent is not waited for

    runner("uvloop")(body())


def test_empty_frames_of_a_body_pile_up_nowhere() -> None:
    async def body() -> None:
        async with serving("https") as place:
            two = await Two.connect(place)
            head = [*two.headers("now")[1:3], (":method", "POST"), (":path", "/dns-query"), ("content-type", TYPE)]
            two.conn.send_headers(1, head)
            for _ in range(500):
                two.conn.send_data(1, b"")
            for octet in message("now"):
                two.conn.send_data(1, bytes((octet,)))
            two.conn.ping(bytes(8))
            two.send()
            await two.until(h2.events.PingAckReceived)
            [held] = place.server.places.holders
            assert isinstance(held, Http) and isinstance(held._http, Http2)
            assert len(held._http._bodies[1]) == len(message("now"))
            two.conn.end_stream(1)
            two.send()
            await two.until(h2.events.StreamEnded)

    runner("uvloop")(body())
