"""PROXY headers are read octet by octet, and what is none is refused; the engine and Python read alike."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.listeners import proxy
from resolver.listeners.proxy import SIGNATURE, ProxyError, Trusted
from tests.unit.listeners.serving import runner, serving

CLIENT4, CLIENT6 = "192.0.2.7", "2001:db8::7"
MAPPED4 = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(CLIENT4)


def header(
    command: int = 0x21,
    family: int = 0x11,
    addresses: bytes | None = None,
    tlvs: bytes = b"",
    length: int | None = None,
) -> bytes:
    if addresses is None:
        v4 = socket.inet_aton(CLIENT4) + socket.inet_aton("198.51.100.1")
        v6 = socket.inet_pton(socket.AF_INET6, CLIENT6) + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
        addresses = {1: v4, 2: v6}.get(family >> 4, b"")
        addresses += struct.pack(">HH", 40000, 53) if addresses else b""
    size = len(addresses + tlvs) if length is None else length
    return SIGNATURE + struct.pack(">BBH", command, family, size) + addresses + tlvs


@pytest.mark.parametrize(
    ("octets", "client"),
    [
        (header(), MAPPED4),
        (header(family=0x12), MAPPED4),
        (header(family=0x21), socket.inet_pton(socket.AF_INET6, CLIENT6)),
        (header(tlvs=b"\x01\x00\x02h2" + bytes(300)), MAPPED4),
        (header(command=0x20), b""),
        (header(command=0x20, family=0, addresses=b""), b""),
        (header(family=0, addresses=b""), b""),
        (header(family=0x31, addresses=bytes(216)), b""),
    ],
)
def test_headers(octets: bytes, client: bytes) -> None:
    for cut in range(len(octets)):
        assert proxy.read(octets[:cut]) is None
    assert proxy.read(octets + b"what follows") == (len(octets), client)


@pytest.mark.parametrize(
    "octets",
    [
        b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 53\r\n",
        b"\0\x1d" + bytes(29),
        header(command=0x11),
        header(command=0x22),
        header(family=0x41, addresses=bytes(12)),
        header(addresses=bytes(11)),
        header(family=0x21, addresses=bytes(35)),
        header(length=5000),
        SIGNATURE[:11] + b"\r" + header()[12:],
    ],
)
def test_what_is_no_header(octets: bytes) -> None:
    with pytest.raises(ProxyError):
        proxy.read(octets)


@given(st.binary(max_size=64))
def test_no_octets_break_it(octets: bytes) -> None:
    for start in (b"", SIGNATURE, header()[:16]):
        try:
            found = proxy.read(start + octets)
        except ProxyError:
            continue
        assert found is None or (found[0] <= len(start + octets) and len(found[1]) in (0, 16))


def test_networks() -> None:
    trusted = Trusted(["192.0.2.0/25", "2001:db8::/33", "203.0.113.9/32"])
    for address, expected in (
        ("::ffff:192.0.2.127", True),
        ("::ffff:192.0.2.128", False),
        ("2001:db8:7fff::1", True),
        ("2001:db8:8000::1", False),
        ("::ffff:203.0.113.9", True),
        ("::ffff:203.0.113.8", False),
    ):
        assert (socket.inet_pton(socket.AF_INET6, address) in trusted) is expected
    assert trusted.table()[0][1] == 96 + 25


@pytest.mark.parametrize("kind", ["dns", "tls"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_trusted_balancer_speaks_for_its_clients(kind: str, loop: str) -> None:
    async def body() -> None:
        async with serving(kind, trusted=("127.0.0.2/32",), per_client=2) as place:
            context = place.trusting("dot") if kind == "tls" else None
            for octets in (header(), header(family=0x21), header(command=0x20, tlvs=bytes(40))):
                client = await place.connect(context, source="127.0.0.2", before=octets)
                await client.send("now")
                assert await client.word() == "now"
            clients = [asked for _, asked, _ in place.engine.asked]
            assert clients == [
                MAPPED4,
                socket.inet_pton(socket.AF_INET6, CLIENT6),
                socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.2"),
            ]
            # Limits go by the client as well: of its connections the third takes the idlest's place.
            others = [await place.connect(context, source="127.0.0.2", before=header()) for _ in range(2)]
            for client in others:
                await client.send("now")
                assert await client.word() == "now"
            assert await place.clients[0].is_closed()
            await place.until(lambda: place.server.connections == 4)

    runner(loop)(body())


def test_a_header_that_comes_in_pieces_and_one_with_the_query_in_the_same_segment() -> None:
    async def body() -> None:
        async with serving("dns", trusted=("127.0.0.0/8",)) as place:
            client = await place.connect()
            for octet in header():
                client.writer.write(bytes([octet]))
                await client.writer.drain()
            await client.send("now")
            assert await client.word() == "now"
            at_once = await place.connect(before=header() + b"\0\x0f" + bytes(12) + b"now")
            assert await at_once.word() == "now"
            assert [asked for _, asked, _ in place.engine.asked] == [MAPPED4, MAPPED4]

    runner("uvloop")(body())


def test_who_is_not_trusted_gets_nowhere_with_a_header_and_who_is_nowhere_without() -> None:
    async def body() -> None:
        async with serving("dns", trusted=("127.0.0.2/32",), frame=0.2) as place:
            stranger = await place.connect(before=header())  # 0x0D0A octets of a frame, for DNS
            await stranger.send("now")
            assert await stranger.is_closed()
            bare = await place.connect(source="127.0.0.2")
            await bare.send("now")
            assert await bare.is_closed()
            silent = await place.connect(source="127.0.0.2", before=header()[:20])
            assert await silent.is_closed()
            assert place.engine.asked == []

    runner("uvloop")(body())
