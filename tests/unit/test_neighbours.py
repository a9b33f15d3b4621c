"""The neighbour table: what the kernel says is read field by field, and what it forgets is remembered for a while."""

from __future__ import annotations

import errno
import random
import socket
import struct

import pytest

from resolver.neighbours import (
    MAX_ADDRESSES,
    REMEMBER,
    Neighbour,
    NeighbourError,
    Neighbours,
    Table,
    parse,
    read_kernel,
)

KID, TV = "02:00:00:00:00:01", "02:00:00:00:00:02"
HOME, HOME6 = socket.inet_aton("192.168.1.7"), socket.inet_pton(socket.AF_INET6, "fd00::7")


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def message(
    address: bytes, mac: str, *, kind: int = 28, state: int = 2, family: int | None = None, extra: bytes = b""
) -> bytes:
    family = family if family is not None else socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = struct.pack("=BBHiHBB", family, 0, 0, 3, state, 0, 1) + extra + attribute(1, address)
    if mac:
        body += attribute(2, bytes.fromhex(mac.replace(":", "")))
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def done(number: int = 0) -> bytes:
    return struct.pack("=IHHIIi", 20, 2 if number else 3, 0, 1, 0, -number)


def test_messages_are_read_in_order_with_unknown_attributes_passed_over() -> None:
    datagram = message(HOME, KID, extra=attribute(9, b"abc")) + message(HOME6, TV, state=4) + done()
    assert list(parse(datagram)) == [Neighbour(HOME, KID), Neighbour(HOME6, TV), 0]


@pytest.mark.parametrize("state", [0x01, 0x20, 0x40])
def test_in_these_states_the_address_has_no_mac(state: int) -> None:
    assert list(parse(message(HOME, KID, state=state))) == [Neighbour(HOME, "")]


def test_what_is_gone_or_means_nothing_has_no_mac() -> None:
    assert list(parse(message(HOME, KID, kind=29))) == [Neighbour(HOME, "")]
    assert list(parse(message(HOME, "00:00:00:00:00:00"))) == [Neighbour(HOME, "")]
    assert list(parse(message(HOME, KID, family=7))) == []  # a bridge's table
    assert list(parse(done(errno.EPERM))) == [errno.EPERM]


def test_random_octets_are_refused_and_nothing_else_happens() -> None:
    chance = random.Random(5)
    whole = message(HOME, KID) + message(HOME6, TV) + done()
    refused = 0
    for _ in range(3000):
        octets = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(4)):
            if octets:
                octets[chance.randrange(len(octets))] = chance.randrange(256)
        try:
            list(parse(bytes(octets)))
        except NeighbourError:
            refused += 1
    assert refused > 1000


def test_an_address_belongs_to_who_was_last_seen_with_it_and_is_remembered() -> None:
    now = [0.0]
    table = Table(lambda: now[0])
    table.want([KID])
    table.learn(Neighbour(HOME, KID))
    table.learn(Neighbour(HOME6, KID))
    table.learn(Neighbour(b"\x0a\0\0\1", TV))
    assert table.addresses() == {KID: (HOME, HOME6)}
    table.learn(Neighbour(HOME, ""))  # the kernel forgot it: the device sleeps
    assert table.addresses() == {KID: (HOME, HOME6)}
    now[0] = REMEMBER - 1
    table.learn(Neighbour(HOME6, KID))
    now[0] = REMEMBER + 1
    table.forget()
    assert table.addresses() == {KID: (HOME6,)}
    table.learn(Neighbour(HOME6, TV))  # another device has it now
    assert table.addresses() == {}
    table.learn(Neighbour(HOME, KID))
    table.want([TV])
    assert table.addresses() == {}


def test_what_is_remembered_is_bounded() -> None:
    table = Table()
    table.want([KID])
    for number in range(MAX_ADDRESSES + 10):
        table.learn(Neighbour(number.to_bytes(16, "big"), KID))
    [found] = table.addresses().values()
    assert len(found) == MAX_ADDRESSES and found[0] == (10).to_bytes(16, "big")


def test_the_kernel_is_read() -> None:
    assert all(len(found.address) in (4, 16) for found in read_kernel())
    neighbours = Neighbours()
    try:
        neighbours.want([KID])
        assert neighbours.take() is False and neighbours.look() is False
        assert neighbours.table.addresses() == {}
    finally:
        neighbours.close()
