"""HTTP/2 without a socket: whatever octets come, in whatever pieces, it answers or ends, and keeps no more than it may."""

from __future__ import annotations

import struct

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.listeners import http2
from resolver.listeners.doh import HttpError
from resolver.listeners.http2 import PREFACE, Http2, block, frame
from tests.unit.listeners.serving import message

FIELDS = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/dns-query")]
FIELDS.append(("content-type", "application/dns-message"))
START = PREFACE + frame(4, 0, 0, b"")


class Owner:
    def __init__(self) -> None:
        self.said = b""
        self.is_stopped = False
        self.asked: list[tuple[int, bytes]] = []
        self.http = Http2(self, 4, b"/dns-query", b"")

    def say(self, octets: bytes) -> None:
        self.said += octets

    def stop(self) -> None:
        self.is_stopped = True

    def ask(self, packet: bytes, request: int) -> tuple[bool, bytes | None]:
        self.asked.append((request, packet))
        return not packet.endswith(b"later"), packet

    def refused(self, error: HttpError) -> None:
        assert error.status >= 400

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """(type, flags, stream, payload) of all that was said, which must be whole frames."""
        at, found = 0, []
        while at < len(self.said):
            head, flags, stream = struct.unpack_from(">IBI", self.said, at)
            size = head >> 8
            found.append((head & 0xFF, flags, stream, self.said[at + 9 : at + 9 + size]))
            at += 9 + size
        assert at == len(self.said)
        return found


def request(stream: int, word: str, encoder: hpack.Encoder | None = None) -> bytes:
    fields = (encoder or hpack.Encoder()).encode(FIELDS)
    return frame(1, 4, stream, fields) + frame(0, 1, stream, message(word))


def test_header_blocks_are_understood_by_the_library() -> None:
    for status in (200, 400, 404, 405, 413, 415, 431):
        headers = [
            (b"cache-control", b"max-age=7"),
            (b"content-type", b"x" * 200),
            (b"x-long", b"y" * 5000),
            (b"date", b""),
        ]
        decoded = hpack.Decoder().decode(block(status, headers, 33), raw=True)
        assert [tuple(each) for each in decoded] == [(b":status", b"%d" % status), (b"content-length", b"33"), *headers]


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_blocks_that_refer_to_the_table_mean_what_it_says_then(size: int) -> None:
    owner, encoder = Owner(), hpack.Encoder()
    octets = START
    for number in range(6):
        octets += request(4 * number + 1, f"a{number}", encoder)
        path = [(name, f"/other{number}" if name == ":path" else value) for name, value in FIELDS]
        octets += frame(1, 5, 4 * number + 3, encoder.encode(path))
    for at in range(0, len(octets), size):
        owner.http.receive(octets[at : at + size])
    assert owner.asked == [(4 * number + 1, message(f"a{number}")) for number in range(6)]
    statuses = [
        bytes(next(iter(hpack.Decoder().decode(payload, raw=True)))[1])
        for kind, _, _, payload in owner.frames()
        if kind == 1
    ]
    assert statuses == [b"200", b"404"] * 6 and not owner.is_stopped


def test_a_request_in_padded_pieces_with_trailers() -> None:
    owner, encoder = Owner(), hpack.Encoder()
    fields, trailers = encoder.encode(FIELDS), encoder.encode([("x", "y")])
    owner.http.receive(
        START
        + frame(1, 8 | 0x20, 1, b"\x03" + bytes(5) + fields[:3] + bytes(3))
        + frame(9, 0, 1, fields[3:9])
        + frame(9, 4, 1, fields[9:])
        + frame(0, 8, 1, b"\x02" + message("no") + bytes(2))
        + frame(0, 0, 1, b"w")
        + frame(1, 5, 1, trailers)
    )
    assert owner.asked == [(1, message("now"))]


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"GET / HTTP/1.1\r\n", None),
        (PREFACE + frame(6, 0, 0, bytes(8)), 1),  # SETTINGS comes first
        (START + frame(0, 1, 0, b"x"), 1),
        (START + frame(0, 1, 1, b"x"), 1),
        (START + frame(1, 4, 2, b"\x82"), 1),
        (START + frame(1, 0, 1, b"\x82") + frame(6, 0, 0, bytes(8)), 1),
        (START + frame(9, 4, 1, b"\x82"), 1),
        (START + frame(1, 4, 1, b"\xff\xff\xff"), 9),
        (START + frame(1, 12, 1, b"\xff"), 1),
        (START + frame(3, 0, 5, bytes(4)), 1),
        (START + frame(4, 0, 0, bytes(5)), 6),
        (START + frame(4, 1, 0, bytes(6)), 6),
        (START + frame(4, 0, 0, b"\0\4\xff\xff\xff\xff"), 3),
        (START + frame(6, 0, 0, bytes(7)), 6),
        (START + frame(8, 0, 0, bytes(4)), 1),
        (START + frame(8, 0, 0, b"\x7f\xff\xff\xff"), 3),
        (START + frame(5, 4, 1, bytes(4)), 1),
        (START + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", 6),
        (START + frame(1, 0, 1, b"") + frame(9, 0, 1, b"") * 20, 11),
    ],
)
def test_what_breaks_the_rules_ends_it_with_its_code(octets: bytes, code: int | None) -> None:
    owner = Owner()
    owner.http.receive(octets)
    goodbyes = [payload for kind, _, _, payload in owner.frames() if kind == 7]
    assert owner.is_stopped and len(goodbyes) == 1
    assert code is None or struct.unpack(">II", goodbyes[0])[1] == code
    said = owner.said
    owner.http.receive(START + request(1, "now"))
    assert owner.said == said and owner.asked == []


FRAMES = st.builds(
    frame,
    st.integers(0, 10),
    st.integers(0, 255),
    st.integers(0, 9),
    st.one_of(
        st.binary(max_size=40),
        st.just(hpack.Encoder().encode(FIELDS)),
        st.just(message("now")),
        st.just(message("later")),
        st.just(struct.pack(">I", 70_000)),
    ),
)


@given(st.lists(FRAMES, max_size=30), st.integers(1, 60), st.binary(max_size=20))
def test_any_frames_in_any_pieces(frames: list[bytes], size: int, rest: bytes) -> None:
    owner = Owner()
    octets = START + b"".join(frames) + rest
    for at in range(0, len(octets), size):
        owner.http.receive(octets[at : at + size])
        http = owner.http
        assert len(http._bodies) + len(http._asked) + len(http._unsent) <= 4
        assert 0 <= http._held <= http2.BODIES + http2.FRAME and len(http._buffer) < http2.FRAME + 9
        assert http._held == sum(map(len, http._bodies.values()))
    for stream, _ in owner.asked:
        owner.http.answer(stream, b"x" * 70_000)
    owner.http.goodbye()
    owner.frames()
