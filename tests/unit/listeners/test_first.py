from __future__ import annotations

import random

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import get_retry_integrity_tag, pull_quic_header

from resolver.listeners import first

VERSIONS = (1, 0x6B3343CF)


def initial(version: int = 1) -> tuple[QuicConnection, bytes]:
    configuration = QuicConfiguration(alpn_protocols=["doq"], supported_versions=[version])
    client = QuicConnection(configuration=configuration)
    client.connect(("192.0.2.1", 853), 0.0)
    return client, client.datagrams_to_send(0.0)[0][0]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_header_is_read_as_aioquic_reads_it(version: int) -> None:
    _, data = initial(version)
    read, header = first.read(data), pull_quic_header(Buffer(data=data), host_cid_length=8)
    assert read is not None and read.is_initial
    assert (read.destination, read.source, read.token) == (header.destination_cid, header.source_cid, header.token)
    assert int.from_bytes(read.version, "big") == version


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_comes_back_from_a_retry_with_a_token_that_counts_once_and_there(version: int) -> None:
    client, data = initial(version)
    tokens = first.Tokens()
    read = first.read(data)
    assert read is not None
    retry = tokens.retry(read, b"ourownid", b"192.0.2.7 4711", 1000.0)
    assert retry[-16:] == get_retry_integrity_tag(retry[:-16], read.destination, version)
    client.receive_datagram(retry, ("192.0.2.1", 853), 0.1)
    again = first.read(client.datagrams_to_send(0.1)[0][0])
    assert again is not None and again.is_initial and again.destination == b"ourownid"
    assert tokens.proven(again, b"192.0.2.7 4711", 1029.0) == read.destination
    assert tokens.proven(again, b"192.0.2.7 4711", 1031.0) is None, "too old"
    assert tokens.proven(again, b"192.0.2.7 4712", 1000.0) is None, "another address"
    assert tokens.proven(again._replace(destination=b"otherone"), b"192.0.2.7 4711", 1000.0) is None
    assert first.Tokens().proven(again, b"192.0.2.7 4711", 1000.0) is None, "another server's"
    for at in range(len(again.token)):
        spoilt = again.token[:at] + bytes((again.token[at] ^ 1,)) + again.token[at + 1 :]
        assert tokens.proven(again._replace(token=spoilt), b"192.0.2.7 4711", 1000.0) is None
    for length in range(len(again.token)):
        assert tokens.proven(again._replace(token=again.token[:length]), b"192.0.2.7 4711", 1000.0) is None


def test_whatever_comes_is_read_without_an_error() -> None:
    chance = random.Random(2)
    samples = [initial(version)[1] for version in VERSIONS]
    for _ in range(20_000):
        octets = bytearray(chance.choice(samples))
        for _ in range(chance.randrange(1, 20)):
            octets[chance.randrange(60 if chance.random() < 0.9 else len(octets))] = chance.randrange(256)
        read = first.read(bytes(octets[: chance.choice((1200, 1200, 1199, 30))]))
        if read is not None and read.is_initial:
            assert 8 <= len(read.destination) <= 20 >= len(read.source)
            assert first.Tokens().proven(read, b"", 0.0) is None
    for length in range(1200):
        assert first.read(samples[0][:length]) is None


@pytest.mark.parametrize("length", range(60))
def test_a_stateless_reset_is_smaller_than_what_it_answers(length: int) -> None:
    reset = first.stateless_reset(b"t" * 16, length)
    if length < 22:
        assert reset is None
    else:
        assert reset is not None and 21 <= len(reset) < length and reset.endswith(b"t" * 16) and reset[0] & 0xC0 == 0x40
