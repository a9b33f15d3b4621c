"""Answers over encrypted transports are padded where the query is, and no others."""

from __future__ import annotations

import dns.edns
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.engine.engine import REPLY
from resolver.vocabulary import Action, Transport
from tests.unit.engine.world import CLIENT, World, block, query, reply_to

ENCRYPTED = [Transport.TLS, Transport.HTTPS, Transport.QUIC]
PADDING = dns.edns.OptionType.PADDING


def padded(name: str, octets: int = 0, rdtype: str = "A", **options: object) -> dns.message.QueryMessage:
    return query(name, rdtype, options=[dns.edns.GenericOption(PADDING, bytes(octets))], **options)  # type: ignore[arg-type]


def size_of_padding(reply: bytes) -> int | None:
    sizes = [len(option.to_wire() or b"") for option in dns.message.from_wire(reply).options if option.otype == PADDING]
    return sizes[0] if sizes else None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(
        tmp_path_factory.mktemp("world"), block("blocked.example"), block("nx.example", action=Action.NXDOMAIN)
    )


@pytest.mark.parametrize("transport", ENCRYPTED)
@pytest.mark.parametrize("name", ["blocked.example", "nx.example"])
@pytest.mark.parametrize("octets", [0, 1, 60, 500])
def test_a_padded_query_gets_a_padded_answer(world: World, transport: Transport, name: str, octets: int) -> None:
    asked = padded(name, octets)
    verdict, reply = world.answer(asked.to_wire(), transport=transport)
    assert verdict == REPLY and reply is not None
    assert len(reply) % 468 == 0 and size_of_padding(reply) is not None
    assert asked.is_response(dns.message.from_wire(reply))


@pytest.mark.parametrize("transport", ENCRYPTED)
def test_no_other_query_does(world: World, transport: Transport) -> None:
    for asked in (query("blocked.example"), query("blocked.example", edns=None)):
        reply = world.answer(asked.to_wire(), transport=transport)[1]
        assert reply is not None and size_of_padding(reply) is None and len(reply) < 200


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
def test_nothing_is_padded_in_the_clear(world: World, transport: Transport) -> None:
    reply = world.answer(padded("blocked.example", 100).to_wire(), transport=transport)[1]
    assert reply is not None and size_of_padding(reply) is None


def test_answers_that_come_later_and_those_made_in_python_are_padded_too(world: World) -> None:
    asked = padded("elsewhere.example", 40)
    punt = world.punt(asked, transport=Transport.TLS)
    verdict, reply = world.engine.finish(punt, reply_to(asked, "elsewhere.example. 60 A 192.0.2.1"))
    assert verdict == REPLY and reply is not None and len(reply) == 468
    punt = world.punt(padded("other.example", 40), transport=Transport.HTTPS)
    made = dns.message.make_response(dns.message.from_wire(punt.packet))
    sent = world.engine.send(punt, made.to_wire())
    assert sent is not None and len(sent) == 468
    bare = dns.message.make_response(query("other.example", edns=None)).to_wire()
    assert world.engine.send(punt, bare) == bare  # there is nowhere to put it


@pytest.mark.parametrize(("strings", "octets"), [(4, 3 * 468), (255, 0)])
def test_a_large_answer_goes_to_the_next_block_and_the_largest_as_it_is(
    world: World, strings: int, octets: int
) -> None:
    asked = padded(f"many-{strings}.example", rdtype="TXT")
    punt = world.punt(asked, transport=Transport.TLS)
    text = " ".join(["x" * 255] * strings)
    verdict, reply = world.engine.finish(punt, reply_to(asked, f"many-{strings}.example. 60 TXT {text}"))
    assert verdict == REPLY and reply is not None
    if octets:
        assert len(reply) == octets
    else:
        assert len(reply) > 65_000 and dns.message.from_wire(reply).answer


@given(st.binary(max_size=120))
def test_no_options_break_it(tmp_path_factory: pytest.TempPathFactory, options: bytes) -> None:
    made = _shared(tmp_path_factory)
    wire = query("blocked.example").to_wire()[:-2] + len(options).to_bytes(2, "big") + options
    for transport in ENCRYPTED:
        verdict, reply = made.answer(wire, CLIENT, transport)
        if verdict == REPLY and reply is not None:
            dns.message.from_wire(reply)


_worlds: list[World] = []


def _shared(factory: pytest.TempPathFactory) -> World:
    if not _worlds:
        _worlds.append(World(factory.mktemp("world"), block("blocked.example")))
    return _worlds[0]
