"""What options of EDNS come to: cookies, NSID, keepalive, structured errors, the client's network; and class CH."""

from __future__ import annotations

import itertools
import json
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import pytest

from resolver.engine.engine import PUNT, REPLY, server_cookie_hash
from resolver.lists.matrix import CategoryPolicy
from resolver.vocabulary import EDE, Action, Transport
from tests.unit.engine.world import CLIENT, World, block, client, query, reply_to

KEY = bytes(range(16))
COOKIE, NSID, ECS, KEEPALIVE = 10, 3, 8, 11
STRUCTURED = 65001
OURS = bytes.fromhex("0102030405060708")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(
        tmp_path,
        block("blocked.example"),
        block("alias.example", action=Action.CNAME, data=("*.garden.test",)),
        allow_from=["127.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"],
    )
    made.engine.configure_edns(cookies=1, cookie_key=KEY)
    return made


def option(code: int, data: bytes = b"") -> dns.edns.Option:
    return dns.edns.GenericOption(dns.edns.OptionType.make(code), data)


def told(message: dns.message.Message, code: int) -> bytes | None:
    """The data of an option of an answer."""
    found = [each for each in message.options if each.otype == code]
    assert len(found) < 2
    return found[0].to_wire() if found else None


def ask(world: World, name: str, *options: dns.edns.Option, rdtype: str = "A", **more: Any) -> dns.message.Message:
    return world.ask(name, rdtype, options=options, **more)


def server_part(world: World, **more: Any) -> bytes:
    """The server cookie that a client gets, which must be given with its own half."""
    cookie = told(ask(world, "blocked.example", option(COOKIE, OURS), **more), COOKIE)
    assert cookie is not None and cookie[:8] == OURS and len(cookie) == 24
    return cookie[8:]


# -- cookies ----------------------------------------------------------------------------------------------------------
# RFC 9018 appendix A: client cookie, version to timestamp, address, secret, hash.
VECTORS = [
    ("2464c4abcf10c957", "010000005cf79f11", "c6336464", "e5e973e5a6b2a43f48e7dc849e37bfcf", "1f8130c3eee29480"),
    ("2464c4abcf10c957", "010000005cf7a871", "c6336464", "e5e973e5a6b2a43f48e7dc849e37bfcf", "d4a564a1442aca77"),
    ("fc93fc62807ddb86", "01abcdef5cf78f71", "cb0071cb", "e5e973e5a6b2a43f48e7dc849e37bfcf", "a314227b6679ebf5"),
    (
        "22681ab97d52c298",
        "010000005cf7c579",
        "20010db8022000015 9ded0f4876982b8".replace(" ", ""),
        "dd3bdf9344b678b185a6f5cb60fca715",
        "26556bd0934c72f8",
    ),
    (
        "22681ab97d52c298",
        "010000005cf7c609",
        "20010db80220000159ded0f4876982b8",
        "445536bcd2513298075a5d379663c962",
        "a6bb79d16625507a",
    ),
]


@pytest.mark.parametrize("vector", VECTORS)
def test_the_hash_is_that_of_the_rfc(vector: Sequence[str]) -> None:
    mine, head, address, secret, expected = map(bytes.fromhex, vector)
    assert server_cookie_hash(secret, mine + head + address) == expected


def test_a_cookie_has_version_time_and_a_hash_by_address(world: World) -> None:
    server = server_part(world)
    assert server[:4] == b"\1\0\0\0" and abs(struct.unpack(">I", server[4:8])[0] - time.time()) < 60
    assert server_part(world, client=client("127.0.0.2"))[8:] != server[8:]
    assert server_part(world, client=client("2001:db8::1"))[8:] != server[8:]


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP, Transport.QUIC])
def test_a_good_cookie_comes_back_as_it_was(world: World, transport: Transport) -> None:
    server = server_part(world)
    answer = ask(world, "blocked.example", option(COOKIE, OURS + server), transport=transport)
    assert answer.rcode() == dns.rcode.NOERROR and answer.answer
    assert told(answer, COOKIE) == OURS + server


def forged(secret_key: bytes, made: int, address: bytes, version: bytes = b"\1\0\0\0") -> bytes:
    """A server cookie as the engine would have made it at a time."""
    day = struct.pack(">II", 0, made // 86400)
    secret = server_cookie_hash(secret_key, day + b"\0") + server_cookie_hash(secret_key, day + b"\1")
    head = version + struct.pack(">I", made)
    return head + server_cookie_hash(secret, OURS + head + address)


@pytest.mark.parametrize(
    ("age", "is_good", "is_renewed"),
    [
        (0, True, False),
        (1700, True, False),
        (1900, True, True),
        (3500, True, True),
        (3700, False, True),
        (90_000, False, True),
        (-200, True, False),
        (-400, False, True),
    ],
)
def test_a_cookie_is_good_for_an_hour_and_renewed_after_half(
    world: World, age: int, is_good: bool, is_renewed: bool
) -> None:
    server = forged(KEY, int(time.time()) - age, CLIENT[12:])
    answer = ask(world, "blocked.example", option(COOKIE, OURS + server))
    assert (answer.rcode() == dns.rcode.NOERROR) == is_good
    cookie = told(answer, COOKIE)
    assert cookie is not None and (cookie[8:] != server) == is_renewed


@pytest.mark.parametrize(
    "server",
    [
        bytes(8),
        bytes(16),
        bytes(32),
        b"\1\0\0\0" + struct.pack(">I", int(time.time())) + bytes(8),
        forged(bytes(16), int(time.time()), CLIENT[12:]),
        forged(KEY, int(time.time()), bytes(4)),
        forged(KEY, int(time.time()), CLIENT[12:], b"\2\0\0\0"),
    ],
    ids=itertools.count(),
)
def test_a_bad_cookie_gets_badcookie_over_udp_and_an_answer_over_tcp(world: World, server: bytes) -> None:
    answer = ask(world, "blocked.example", option(COOKIE, OURS + server))
    assert answer.rcode() == dns.rcode.BADCOOKIE and not answer.answer
    fresh = told(answer, COOKIE)
    assert fresh is not None and ask(world, "blocked.example", option(COOKIE, fresh)).answer
    answer = ask(world, "blocked.example", option(COOKIE, OURS + server), transport=Transport.TCP)
    assert answer.answer and told(answer, COOKIE) != OURS + server


@pytest.mark.parametrize("size", [0, 1, 7, 9, 15, 41, 100])
def test_a_malformed_cookie_is_a_format_error(world: World, size: int) -> None:
    answer = ask(world, "blocked.example", option(COOKIE, bytes(size)))
    assert answer.rcode() == dns.rcode.FORMERR and answer.edns == 0 and not answer.options


def test_of_two_cookies_the_first_counts(world: World) -> None:
    answer = ask(world, "blocked.example", option(COOKIE, OURS), option(COOKIE, bytes(8)))
    assert (told(answer, COOKIE) or b"")[:8] == OURS


def test_a_cookie_alone_may_be_asked_for(world: World) -> None:
    def asked(data: bytes) -> dns.message.Message:
        opt = struct.pack(">BHHIHHH", 0, 41, 1232, 0, 4 + len(data), COOKIE, len(data)) + data
        verdict, reply = world.answer(struct.pack(">HHHHHH", 7, 0x0100, 0, 0, 0, 1) + opt)
        assert verdict == REPLY and reply is not None
        return dns.message.from_wire(reply)

    answer = asked(OURS)
    cookie = told(answer, COOKIE)
    assert answer.rcode() == dns.rcode.NOERROR and not answer.question and cookie is not None
    assert asked(cookie).rcode() == dns.rcode.NOERROR and asked(OURS + bytes(16)).rcode() == dns.rcode.BADCOOKIE
    world.engine.configure_edns()
    assert asked(OURS).rcode() == dns.rcode.FORMERR


def test_without_cookies_none_is_answered(world: World) -> None:
    world.engine.configure_edns()
    answer = ask(world, "blocked.example", option(COOKIE, OURS + bytes(16)))
    assert answer.answer and not [each for each in answer.options if each.otype == COOKIE]


# -- cookies that are required ----------------------------------------------------------------------------------------
SOUND = [
    query("blocked.example", edns=None),
    query("blocked.example"),
    query("blocked.example", options=[option(COOKIE, OURS)]),
    query("blocked.example", options=[option(COOKIE, OURS + bytes(8))]),
    query("blocked.example", options=[option(COOKIE, OURS + bytes(32)), option(NSID)]),
    query("blocked.example", options=[option(COOKIE, OURS), option(12, bytes(100))]),
    query("blocked.example", "ANY", do=True),
    query("elsewhere.example", "TXT", options=[option(NSID), option(ECS, b"\0\1\x18\0\xc0\0\2")]),
    query("a." * 120 + "example", options=[option(COOKIE, OURS)]),
    query("version.bind", "TXT"),
    query("x.example", "AXFR", options=[option(COOKIE, OURS)]),
]


@pytest.mark.parametrize("address", ["127.0.0.1", "198.51.100.1", "2001:db8::1"])
@pytest.mark.parametrize("asked", SOUND, ids=itertools.count())
def test_who_has_not_proven_its_address_gets_no_more_octets_than_it_sent(
    world: World, asked: dns.message.Message, address: str
) -> None:
    world.engine.configure_edns(cookies=2, cookie_key=KEY, nsid=b"n" * 64, version=b"v" * 200)
    packet = asked.to_wire()
    verdict, reply = world.answer(packet, client(address))
    assert verdict == REPLY and reply is not None and len(reply) <= len(packet)
    answer = dns.message.from_wire(reply)
    assert not answer.answer and (answer.flags & dns.flags.TC or answer.rcode() == dns.rcode.BADCOOKIE)


def test_no_packet_at_all_is_answered_with_more(world: World) -> None:
    from tests.fuzz.packets import Packets

    world.engine.configure_edns(cookies=2, cookie_key=KEY, nsid=b"n" * 64, version=b"v", identity=b"i", ecs="set")
    packets = Packets(5, ("blocked.example", "alias.example", "kept.example"))
    answered = 0
    for _ in range(5000):
        packet = packets.packet()
        verdict, reply = world.answer(packet)
        if verdict == REPLY:
            assert reply is not None and len(reply) <= len(packet), packet
            answered += 1
        assert verdict != PUNT or packet[2] & 0x78 == 0x20  # NOTIFY
    assert answered > 1000


def test_badcookie_leads_to_an_answer(world: World) -> None:
    world.engine.configure_edns(cookies=2, cookie_key=KEY)
    refused = ask(world, "blocked.example", option(COOKIE, OURS + bytes(16)))
    cookie = told(refused, COOKIE)
    assert refused.rcode() == dns.rcode.BADCOOKIE and cookie is not None
    assert ask(world, "blocked.example", option(COOKIE, cookie)).answer
    stolen = ask(world, "blocked.example", option(COOKIE, cookie), client=client("127.0.0.9"))
    assert stolen.rcode() == dns.rcode.BADCOOKIE


def test_over_tcp_no_cookie_is_required(world: World) -> None:
    world.engine.configure_edns(cookies=2, cookie_key=KEY)
    assert ask(world, "blocked.example", transport=Transport.TCP).answer
    assert server_part(world, transport=Transport.TCP)


# -- who we are -------------------------------------------------------------------------------------------------------
def test_nsid_is_told_where_it_is_asked(world: World) -> None:
    assert told(ask(world, "blocked.example", option(NSID)), NSID) is None
    world.engine.configure_edns(nsid=b"\xffnode 1")
    assert told(ask(world, "blocked.example", option(NSID)), NSID) == b"\xffnode 1"
    assert told(ask(world, "blocked.example"), NSID) is None


def chaos(world: World, name: str, rdtype: str = "TXT", address: str = "127.0.0.1") -> dns.message.Message:
    asked = dns.message.make_query(name, rdtype, dns.rdataclass.CH, use_edns=0)
    verdict, reply = world.answer(asked.to_wire(), client(address))
    assert verdict == REPLY and reply is not None
    return dns.message.from_wire(reply)


def test_version_and_identity_are_told_by_option(world: World) -> None:
    names = ("version.bind", "version.server", "id.server", "hostname.bind")
    assert all(chaos(world, name).rcode() == dns.rcode.REFUSED for name in names)
    world.engine.configure_edns(version=b"9.9", identity=b"node 1")
    texts = [chaos(world, name).answer[0].to_text() for name in ("VERSION.bind", *names[1:])]
    assert texts == [
        'VERSION.bind. 0 CH TXT "9.9"',
        'version.server. 0 CH TXT "9.9"',
        'id.server. 0 CH TXT "node 1"',
        'hostname.bind. 0 CH TXT "node 1"',
    ]
    assert chaos(world, "authors.bind").rcode() == dns.rcode.REFUSED
    assert chaos(world, "version.bind", "A").rcode() == dns.rcode.REFUSED
    assert chaos(world, "version.bind", address="198.51.100.1").rcode() == dns.rcode.REFUSED
    assert world.ask("blocked.example").answer  # and class IN is what it was


@pytest.mark.parametrize(
    ("transport", "is_told"),
    [
        (Transport.UDP, False),
        (Transport.TCP, True),
        (Transport.TLS, True),
        (Transport.HTTPS, False),
        (Transport.QUIC, False),
    ],
)
def test_how_long_a_connection_may_idle(world: World, transport: Transport, is_told: bool) -> None:
    world.engine.configure_edns(keepalive=105)
    answer = ask(world, "blocked.example", option(KEEPALIVE), transport=transport)
    assert told(answer, KEEPALIVE) == (b"\0\x69" if is_told else None)
    assert told(ask(world, "blocked.example", transport=transport), KEEPALIVE) is None


def test_options_of_another_version_are_not_looked_at(world: World) -> None:
    world.engine.configure_edns(nsid=b"n", cookies=1, cookie_key=KEY)
    for data in (OURS, b"short"):
        answer = world.ask("blocked.example", edns=1, options=[option(COOKIE, data), option(NSID)])
        assert answer.rcode() == dns.rcode.BADVERS and answer.edns == 0 and not answer.options


def test_a_reply_that_python_made_has_the_options_too(world: World) -> None:
    world.engine.configure_edns(cookies=1, cookie_key=KEY, nsid=b"node", keepalive=100)
    asked = query("alias.example", options=[option(COOKIE, OURS), option(NSID), option(KEEPALIVE)])
    punt = world.punt(asked)
    reply = world.engine.send(punt, dns.message.make_response(asked, recursion_available=True).to_wire())
    assert reply is not None
    answer = dns.message.from_wire(reply)
    assert told(answer, NSID) == b"node" and told(answer, KEEPALIVE) == b"\0\x64"
    assert (told(answer, COOKIE) or b"")[:8] == OURS
    bare = query("alias.example", edns=None)
    reply = world.engine.send(world.punt(bare), dns.message.make_response(bare).to_wire())
    assert reply is not None and dns.message.from_wire(reply).edns == -1


# -- structured errors ------------------------------------------------------------------------------------------------
def structured_world(folder: Path, **category: Any) -> World:
    world = World(
        folder,
        block("x.example"),
        lists={"blocks": {"category": "gambling"}},
        categories={"gambling": CategoryPolicy(**category)},
    )
    world.engine.configure_edns(structured=STRUCTURED)
    return world


def ede_of(message: dns.message.Message) -> tuple[int, str]:
    [found] = [each for each in message.options if isinstance(each, dns.edns.EDEOption)]
    return int(found.code), found.text or ""


WORDS: dict[str, Any] = {
    "organisation": "Kominfo",
    "justification": "perjudian daring",
    "contact": "mailto:aduan@example.id",
    "law": "UU 1/2024",
    "language": "id",
    "sub_error": 5,
}


@pytest.mark.parametrize(
    ("ede", "code", "expected"),
    [
        (
            EDE.BLOCKED,
            15,
            '{"c":["mailto:aduan@example.id"],"j":"perjudian daring (UU 1/2024)","s":5,"o":"Kominfo","l":"id"}',
        ),
        (
            EDE.CENSORED,
            16,
            '{"c":["mailto:aduan@example.id"],"j":"gambling: perjudian daring (UU 1/2024)","o":"Kominfo","l":"id"}',
        ),
        (
            EDE.FORGED_ANSWER,
            15,
            '{"c":["mailto:aduan@example.id"],"j":"perjudian daring (UU 1/2024)","s":5,"o":"Kominfo","l":"id"}',
        ),
    ],
)
def test_who_asks_for_a_structured_error_gets_one(tmp_path: Path, ede: EDE, code: int, expected: str) -> None:
    world = structured_world(tmp_path, ede=ede, **WORDS)
    assert ede_of(ask(world, "x.example", option(STRUCTURED))) == (code, expected)
    plain = ede_of(ask(world, "x.example"))
    assert plain[0] == ede and plain[1].startswith("blocked by list blocks")
    assert ede_of(ask(world, "x.example", option(STRUCTURED, b"x"))) == plain  # not the empty option
    assert ede_of(ask(world, "x.example", option(STRUCTURED + 1))) == plain
    world.engine.configure_edns()
    assert ede_of(ask(world, "x.example", option(STRUCTURED))) == plain


def test_what_does_not_fit_goes_in_steps(tmp_path: Path) -> None:
    world = structured_world(tmp_path, **{**WORDS, "justification": "ü" * 180, "contact": f"https:{'c' * 140}"})
    seen: list[set[str]] = []
    for labels in range(4, 82):
        name = "yy." * labels + "x.example"
        answer = ask(world, name, option(STRUCTURED), rdtype="MX", payload=512)
        assert len(answer.to_wire()) <= 512
        code, text = ede_of(answer)
        keys = set(json.loads(text)) if text else set()
        assert code == 15 and (answer.authority or (not text and answer.flags & dns.flags.TC))
        if not seen or seen[-1] != keys:
            seen.append(keys)
    assert seen == [{"c", "s"}, set()]
    full = json.loads(ede_of(ask(world, "x.example", option(STRUCTURED), payload=1232))[1])
    assert set(full) == {"c", "j", "s", "o", "l"} and full["j"].startswith("üü")


@pytest.mark.parametrize("action", [Action.NXDOMAIN, Action.REFUSED, Action.NODATA])
def test_every_kind_of_block_is_told_so(tmp_path: Path, action: Action) -> None:
    world = structured_world(tmp_path, action=action, sub_error=1)
    assert json.loads(ede_of(ask(world, "x.example", option(STRUCTURED)))[1]) == {
        "s": 1,
        "j": "blocked by list blocks (category gambling)",
        "l": "en",
    }


# -- the client's network ---------------------------------------------------------------------------------------------
ASKED = b"\0\1\x20\0\xc0\0\2\x09"  # 192.0.2.9/32
TOLD = b"\0\1\x18\0\xc0\0\2"  # 192.0.2.0/24


def ecs(data: bytes, scope: int) -> dns.edns.Option:
    """The upstream's option: what it was told, with a scope."""
    return option(ECS, data[:3] + bytes([scope]) + data[4:])


def test_by_default_a_clients_network_stays_here(world: World) -> None:
    punt = world.punt(query("www.example", options=[option(ECS, ASKED)]))
    assert punt.ecs == b""
    assert punt.question == world.punt(query("www.example")).question
    answer = ask(world, "blocked.example", option(ECS, b"\0\1\x20"))  # nor does its form matter
    assert answer.answer and told(answer, ECS) is None


@pytest.mark.parametrize(
    ("policy", "address", "sent", "expected"),
    [
        ("forward", "192.0.2.77", ASKED, TOLD),
        ("forward", "192.0.2.77", b"\0\1\x10\0\xc0\0", b"\0\1\x10\0\xc0\0"),
        ("forward", "192.0.2.77", b"\0\2\x40\0" + bytes(range(8)), b"\0\2\x38\0" + bytes(range(7))),
        ("forward", "192.0.2.77", b"\0\1\0\0", b"\0\1\0\0"),
        ("forward", "192.0.2.77", None, b""),
        ("set", "192.0.2.77", None, TOLD),
        ("set", "2001:db8:1:2::1", None, b"\0\2\x38\0" + bytes.fromhex("20010db8000100")),
        ("set", "192.0.2.77", b"\0\1\x08\0\x0a", TOLD),  # what it says of itself is not believed
        ("set", "192.0.2.77", b"\0\1\0\0", b"\0\1\0\0"),  # but that it objects is
    ],
)
def test_a_network_is_told_by_policy(
    world: World, policy: str, address: str, sent: bytes | None, expected: bytes
) -> None:
    world.engine.configure_edns(ecs=policy)
    options = [] if sent is None else [option(ECS, sent)]
    assert world.punt(query("www.example", options=options), client=client(address)).ecs == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\1\x18",
        b"\0\1\x18\1\xc0\0\2",
        b"\0\1\x21\0\xc0\0\2\1\1",
        b"\0\1\x18\0\xc0\0",
        b"\0\1\x18\0\xc0\0\2\0",
        b"\0\3\x18\0\xc0\0\2",
        b"\0\1\x17\0\xc0\0\3",
    ],
)
def test_a_malformed_network_is_a_format_error_where_it_matters(world: World, data: bytes) -> None:
    world.engine.configure_edns(ecs="forward")
    assert ask(world, "blocked.example", option(ECS, data)).rcode() == dns.rcode.FORMERR


def learn(world: World, asked: dns.message.Message, address: str, text: str, scope: int | None) -> None:
    punt = world.punt(asked, client=client(address))
    upstream = dns.message.from_wire(reply_to(asked, f"www.example. 60 A {text}"))
    upstream.use_edns(0, 0, 1232, options=[] if scope is None else [ecs(punt.ecs, scope)])
    assert world.engine.learn(punt, upstream.to_wire())


def test_an_answer_serves_the_network_it_is_for(world: World) -> None:
    world.engine.configure_edns(ecs="set")
    asked = query("www.example")
    learn(world, asked, "192.0.2.1", "198.51.100.1", 24)
    learn(world, asked, "127.0.0.1", "198.51.100.2", None)
    for address, expected in (("192.0.2.200", "198.51.100.1"), ("127.0.0.77", "198.51.100.2")):
        assert world.ask("www.example", client=client(address)).answer[0][0].to_text() == expected
    assert world.answer(asked.to_wire(), client("127.0.1.1"), Transport.TCP)[0] == PUNT
    assert world.answer(asked.to_wire(), client("2001:db8::1"), Transport.TCP)[0] == PUNT


def test_an_answer_of_scope_zero_serves_all(world: World) -> None:
    world.engine.configure_edns(ecs="set")
    learn(world, query("www.example"), "192.0.2.1", "198.51.100.1", 0)
    for address in ("192.0.2.1", "127.0.0.77", "2001:db8::1"):
        assert world.ask("www.example", client=client(address)).answer


@pytest.mark.parametrize(("scope", "expected"), [(0, 0), (16, 16), (24, 24), (32, 24)])
def test_the_client_is_told_the_scope(world: World, scope: int, expected: int) -> None:
    world.engine.configure_edns(ecs="forward")
    asked = query("www.example", options=[option(ECS, ASKED)])
    learn(world, asked, "127.0.0.1", "198.51.100.1", scope)
    answer = ask(world, "www.example", option(ECS, ASKED))
    assert told(answer, ECS) == ASKED[:3] + bytes([expected]) + ASKED[4:]
    assert told(ask(world, "blocked.example", option(ECS, ASKED)), ECS) == ASKED  # a block is for everybody: scope 0


def test_flushing_and_keeping_go_by_name(world: World) -> None:
    world.engine.configure_edns(ecs="set")
    learn(world, query("www.example"), "192.0.2.1", "198.51.100.1", 24)
    learn(world, query("www.example"), "127.0.0.1", "198.51.100.1", 0)
    assert len(world.engine.kept()) == 1  # for all; what is for one network stays here
    assert world.engine.flush("www.example") == 2


# -- what upstream says of its own trouble ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rcode", "given", "first", "later"), [(2, 6, 6, 6), (2, None, 23, 13), (5, None, 22, 13), (2, 9, 9, 9)]
)
def test_an_upstreams_error_has_a_reason(world: World, rcode: int, given: int | None, first: int, later: int) -> None:
    asked = query("www.example")
    punt = world.punt(asked)
    upstream = dns.message.from_wire(reply_to(asked, rcode=rcode))
    if given is not None:
        upstream.use_edns(0, 0, 1232, options=[dns.edns.EDEOption(dns.edns.EDECode.make(given), "words")])
    world.engine.learn(punt, upstream.to_wire())
    verdict, reply = world.engine.finish(punt, upstream.to_wire())
    assert verdict == REPLY and reply is not None
    assert ede_of(dns.message.from_wire(reply)) == (first, "")
    assert ede_of(world.ask("www.example")) == (later, "")


def test_who_wants_to_know_sees_that_an_answer_was_validated(world: World) -> None:
    asked = query("www.example")
    upstream = dns.message.from_wire(reply_to(asked, "www.example. 60 A 192.0.2.1"))
    upstream.flags |= dns.flags.AD
    world.engine.learn(world.punt(asked), upstream.to_wire())
    world.engine.learn(world.punt(query("www.example", do=True)), upstream.to_wire())
    assert not world.ask("www.example").flags & dns.flags.AD
    assert world.ask("www.example", ad=True).flags & dns.flags.AD
    assert world.ask("www.example", do=True).flags & dns.flags.AD
