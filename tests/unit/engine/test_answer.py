"""What the engine itself answers: blocked names, refusals, and every packet that is no plain query.

Rows follow the answers that are promised: blocked modes by type, EDNS and EDE, and RFC 8906 section 8's dig queries.
"""

from __future__ import annotations

import struct
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from resolver.engine.engine import (
    DROP,
    PUNT,
    PUNT_CONDITIONAL,
    PUNT_FORWARD,
    PUNT_LOCAL,
    REPLY,
    Snapshot,
)
from resolver.lists.matrix import CategoryPolicy, GroupPolicy, Sinkhole
from resolver.snapshot import CELL
from resolver.vocabulary import EDE, Action, Rank, Scope, Transport
from tests.unit.engine.world import CLIENT, World, allow, block, client, query, reply_to, wire_query

ADDRESS4, ADDRESS6 = "192.0.2.53", "2001:db8::53"
SINKHOLE = Sinkhole(Action.ZERO, bytes([192, 0, 2, 53]), bytes.fromhex("20010db8000000000000000000000053"), 10)
EVERY_TYPE = ("A", "AAAA", "HTTPS", "SVCB", "MX", "NS", "CNAME", "TXT", "SOA", "DS", "ANY", "TYPE1000", "TYPE65534")
EXTRA = "blocked by list blocks (category c): because, contact abuse@isp.example"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One for all tests that leave it as it is."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def fresh(tmp_path: Path) -> World:
    """One for a test that changes it."""
    return make_world(tmp_path)


def make_world(folder: Path) -> World:
    modes = [block(f"{action.name.lower().replace('_', '-')}.example", action=action) for action in MODES]
    return World(
        folder,
        *modes,
        block("default.example"),
        block("data.example", action=Action.DATA, ttl=77, data=("A 192.0.2.7", "A 192.0.2.8", "TXT hello")),
        block("alias.example", action=Action.DATA, data=("CNAME target.example",)),
        block("garden.example", action=Action.CNAME, data=("*.garden.test",)),
        allow("allowed.default.example"),
        lists={"blocks": {"category": "c"}},
        categories={"c": CategoryPolicy(ede=EDE.CENSORED, justification="because", contact="mailto:abuse@isp.example")},
        sinkhole=SINKHOLE,
        routes={"corp.example": 1, "deep.corp.example": 2},
    )


MODES = (
    Action.ADDRESS,
    Action.ZERO,
    Action.NXDOMAIN,
    Action.NODATA,
    Action.REFUSED,
    Action.DROP,
    Action.TCP_ONLY,
)


# -- blocked names ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["default.example", "www.default.example", "a.b.c.default.example"])
@pytest.mark.parametrize(("rdtype", "address"), [("A", "0.0.0.0"), ("AAAA", "::")])
def test_zero_gives_the_unspecified_address(world: World, name: str, rdtype: str, address: str) -> None:
    answer = world.ask(name, rdtype)
    assert answer.rcode() == dns.rcode.NOERROR
    assert [rrset.to_text() for rrset in answer.answer] == [f"{name}. 10 IN {rdtype} {address}"]
    assert not answer.authority


@pytest.mark.parametrize(("rdtype", "address"), [("A", ADDRESS4), ("AAAA", ADDRESS6)])
def test_address_gives_the_sinkhole(world: World, rdtype: str, address: str) -> None:
    answer = world.ask("address.example", rdtype)
    assert [rrset.to_text() for rrset in answer.answer] == [f"address.example. 10 IN {rdtype} {address}"]


@pytest.mark.parametrize("mode", ["address", "zero"])
@pytest.mark.parametrize("rdtype", [kind for kind in EVERY_TYPE if kind not in ("A", "AAAA", "ANY")])
def test_other_types_of_a_sinkholed_name_are_nodata(world: World, mode: str, rdtype: str) -> None:
    answer = world.ask(f"{mode}.example", rdtype)
    assert answer.rcode() == dns.rcode.NOERROR
    assert not answer.answer
    assert_blocking_soa(answer, f"{mode}.example", 10)


@pytest.mark.parametrize("mode", ["address", "zero"])
def test_any_type_of_a_sinkholed_name_is_hinfo(world: World, mode: str) -> None:
    answer = world.ask(f"{mode}.example", "ANY")
    assert [rrset.to_text() for rrset in answer.answer] == [f'{mode}.example. 10 IN HINFO "RFC8482" ""']
    assert ede_of(answer) == (EDE.CENSORED, EXTRA)


@pytest.mark.parametrize("rdtype", EVERY_TYPE)
@pytest.mark.parametrize(("mode", "rcode"), [("nxdomain", dns.rcode.NXDOMAIN), ("nodata", dns.rcode.NOERROR)])
def test_negative_modes_carry_an_soa_for_every_type(world: World, mode: str, rcode: int, rdtype: str) -> None:
    answer = world.ask(f"x.{mode}.example", rdtype)
    assert answer.rcode() == rcode
    assert not answer.answer
    assert_blocking_soa(answer, f"x.{mode}.example", 10)


@pytest.mark.parametrize("rdtype", EVERY_TYPE)
def test_refused_is_empty(world: World, rdtype: str) -> None:
    answer = world.ask("refused.example", rdtype)
    assert answer.rcode() == dns.rcode.REFUSED
    assert not answer.answer and not answer.authority
    assert ede_of(answer) == (EDE.CENSORED, EXTRA)


@pytest.mark.parametrize("rdtype", EVERY_TYPE)
@pytest.mark.parametrize("transport", Transport)
def test_drop_sends_nothing(world: World, rdtype: str, transport: Transport) -> None:
    assert world.answer(query("drop.example", rdtype).to_wire(), transport=transport) == (DROP, None)


@pytest.mark.parametrize("rdtype", EVERY_TYPE)
def test_tcp_only_sends_udp_clients_to_tcp(world: World, rdtype: str) -> None:
    answer = world.ask("tcp-only.example", rdtype)
    assert answer.flags & dns.flags.TC and answer.rcode() == dns.rcode.NOERROR
    assert not answer.answer and not answer.authority and answer.edns == 0


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS, Transport.HTTPS, Transport.QUIC])
def test_tcp_only_resolves_on_streams(world: World, transport: Transport) -> None:
    assert world.punt(query("tcp-only.example"), transport=transport).reason == PUNT_FORWARD


def assert_blocking_soa(answer: dns.message.Message, owner: str, ttl: int) -> None:
    (soa,) = answer.authority
    assert soa.rdtype == dns.rdatatype.SOA
    assert soa.name.to_text(omit_final_dot=True) == owner
    assert soa.ttl == soa[0].minimum == ttl
    assert soa[0].mname.to_text() == "tampah.invalid."


def test_the_ttl_is_the_rules_else_the_categorys_else_the_sinkholes(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        block("rule.example", list="timed", ttl=5),
        block("nothing.example", list="timed", ttl=0),
        block("category.example", list="timed"),
        block("sinkhole.example", list="plain"),
        lists={"timed": {"category": "t"}},
        categories={"t": CategoryPolicy(ttl=4_000_000)},
        sinkhole=Sinkhole(ttl=11),
    )
    for name, ttl in (("rule", 5), ("nothing", 0), ("category", 4_000_000), ("sinkhole", 11)):
        assert world.ask(f"{name}.example").answer[0].ttl == ttl
        assert_blocking_soa(world.ask(f"{name}.example", "MX"), f"{name}.example", ttl)


def test_the_soa_of_a_category_with_a_mail_contact_names_it(world: World) -> None:
    assert world.ask("nxdomain.example").authority[0][0].rname.to_text() == "abuse.isp.example."


# -- a rule's own records ---------------------------------------------------------------------------------------------
def test_data_gives_the_records_of_the_type_asked(world: World) -> None:
    answer = world.ask("data.example")
    assert answer.answer[0].ttl == 77
    assert sorted(record.address for record in answer.answer[0]) == ["192.0.2.7", "192.0.2.8"]
    assert world.ask("sub.data.example", "TXT").answer[0].to_text() == 'sub.data.example. 77 IN TXT "hello"'


def test_data_gives_all_records_to_any(world: World) -> None:
    assert {rrset.rdtype for rrset in world.ask("data.example", "ANY").answer} == {1, 16}


def test_data_of_other_types_is_nodata(world: World) -> None:
    answer = world.ask("data.example", "AAAA")
    assert answer.rcode() == dns.rcode.NOERROR and not answer.answer
    assert_blocking_soa(answer, "data.example", 77)


def test_an_alias_in_data_is_pythons_to_chase(world: World) -> None:
    punt = world.punt(query("alias.example"))
    assert (punt.reason, punt.action) == (PUNT_LOCAL, Action.DATA)
    assert [rrset.to_text() for rrset in world.ask("alias.example", "CNAME").answer] == [
        "alias.example. 10 IN CNAME target.example."
    ]


@pytest.mark.parametrize("rdtype", EVERY_TYPE)
def test_a_walled_garden_is_pythons_for_every_type(world: World, rdtype: str) -> None:
    punt = world.punt(query("garden.example", rdtype))
    assert (punt.reason, punt.action) == (PUNT_LOCAL, Action.CNAME)


def test_a_wildcard_target_in_data_is_never_given_out_as_it_stands(fresh: World) -> None:
    # The target of `*.garden.test` is garden.test with the qname before it, which is for Python to put together.
    fresh.patch("garden.example", action=Action.DATA)
    assert fresh.punt(query("garden.example", "CNAME")).reason == PUNT_LOCAL


def test_data_that_does_not_fit_is_truncated_for_udp_and_whole_for_tcp(tmp_path: Path) -> None:
    texts = tuple(f"TXT {'x' * 200}{number}" for number in range(40))
    world = World(tmp_path, block("big.example", action=Action.DATA, data=texts))
    short = world.ask("big.example", "TXT", payload=4096)
    assert short.flags & dns.flags.TC and not short.answer and short.edns == 0
    whole = world.ask("big.example", "TXT", transport=Transport.TCP)
    assert not whole.flags & dns.flags.TC and len(whole.answer[0]) == 40


# -- flags ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["default.example", "nxdomain.example", "data.example", "refused.example"])
@pytest.mark.parametrize("rd", [True, False])
@pytest.mark.parametrize("cd", [True, False])
@pytest.mark.parametrize("ad", [True, False])
@pytest.mark.parametrize("do", [True, False])
def test_flags_of_blocked_answers(world: World, name: str, rd: bool, cd: bool, ad: bool, do: bool) -> None:
    answer = world.ask(name, rd=rd, cd=cd, ad=ad, do=do)
    assert bool(answer.flags & dns.flags.RD) == rd
    assert bool(answer.flags & dns.flags.CD) == cd
    assert bool(answer.ednsflags & dns.flags.DO) == do
    assert answer.flags & dns.flags.QR and answer.flags & dns.flags.RA
    assert not answer.flags & (dns.flags.AA | dns.flags.AD | dns.flags.TC)


@pytest.mark.parametrize("bit", [0x0040, 0x0400, 0x0200, 0x0080])  # Z, AA, TC, RA
def test_flags_that_a_query_does_not_have_are_not_echoed(world: World, bit: int) -> None:
    packet = bytearray(query("default.example").to_wire())
    plain = world.answer(bytes(packet))[1]
    packet[2] |= bit >> 8
    packet[3] |= bit & 0xFF
    assert world.answer(bytes(packet))[1] == plain


def test_the_questions_case_is_echoed(world: World) -> None:
    packet = wire_query([b"wWw", b"DeFault", b"eXAMPLE"])
    reply = world.answer(packet)[1]
    assert reply is not None and reply[12 : len(packet)] == packet[12:]


def option(code: int, octets: bytes) -> dns.edns.GenericOption:
    return dns.edns.GenericOption(dns.edns.OptionType.make(code), octets)


# -- EDNS and EDE -----------------------------------------------------------------------------------------------------
def ede_of(answer: dns.message.Message) -> tuple[int, str] | None:
    found = [option for option in answer.options if isinstance(option, dns.edns.EDEOption)]
    assert len(found) <= 1
    return (int(found[0].code), found[0].text or "") if found else None


@pytest.mark.parametrize("name", ["default.example", "nxdomain.example", "nodata.example", "data.example"])
def test_the_ede_of_the_category_comes_with_its_text(world: World, name: str) -> None:
    assert ede_of(world.ask(name)) == (EDE.CENSORED, EXTRA)


@pytest.mark.parametrize("name", ["default.example", "nxdomain.example", "refused.example", "tcp-only.example"])
def test_without_opt_there_is_no_opt_in_the_answer(world: World, name: str) -> None:
    answer = world.ask(name, edns=None)
    assert answer.edns == -1 and not answer.additional


def test_a_category_without_ede_sends_none(tmp_path: Path) -> None:
    world = World(
        tmp_path, block("x.example"), lists={"blocks": {"category": "c"}}, categories={"c": CategoryPolicy(ede=-1)}
    )
    assert ede_of(world.ask("x.example")) is None


def test_the_text_of_an_ede_goes_before_tc_is_set(tmp_path: Path) -> None:
    # 255 octets of name, an SOA with a long mailbox and 200 octets of text are more than 512.
    mailbox = f"mailto:someone@{'m' * 63}.{'m' * 60}"
    name = ".".join(["n" * 63, "n" * 63, "n" * 63, "n" * 53, "example"])
    world = World(
        tmp_path,
        block("example", action=Action.NXDOMAIN),
        lists={"blocks": {"category": "c"}},
        categories={"c": CategoryPolicy(justification="j" * 300, contact=mailbox)},
    )
    small = world.ask(name, payload=512)
    assert small.rcode() == dns.rcode.NXDOMAIN and small.authority and not small.flags & dns.flags.TC
    assert ede_of(small) == (EDE.BLOCKED, "")
    text = ede_of(world.ask(name, payload=1232))
    assert text is not None and len(text[1].encode()) == 200


@pytest.mark.parametrize("payload", [0, 1, 511, 512, 513, 1231, 1232, 1233, 4096, 65535])
@pytest.mark.parametrize("texts", [2, 4, 20])
def test_an_answer_is_never_larger_than_the_client_takes(tmp_path: Path, payload: int, texts: int) -> None:
    data = tuple(f"TXT {'x' * 200}{number}" for number in range(texts))
    world = World(tmp_path, block("big.example", action=Action.DATA, data=data))
    reply = world.answer(query("big.example", "TXT", payload=payload).to_wire())[1]
    assert reply is not None and len(reply) <= min(max(payload, 512), 1232)
    answer = dns.message.from_wire(reply)
    assert answer.edns == 0 and bool(answer.flags & dns.flags.TC) != bool(answer.answer)


def test_without_edns_512_octets_are_the_limit(tmp_path: Path) -> None:
    world = World(
        tmp_path, block("big.example", action=Action.DATA, data=tuple(f"TXT {'x' * 120}{n}" for n in range(4)))
    )
    assert world.ask("big.example", "TXT", edns=None).flags & dns.flags.TC


# -- RFC 8906 section 8, for blocked names ----------------------------------------------------------------------------
BLOCKED = ["default.example", "address.example", "nodata.example", "data.example"]


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("rdtype", ["SOA", "TYPE1000"])
def test_plain_dns_and_unknown_types_are_noerror(world: World, name: str, rdtype: str) -> None:
    assert world.ask(name, rdtype, edns=None, rd=False).rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("opcode", range(1, 16))
def test_an_unknown_opcode_with_a_header_alone_is_notimp(world: World, opcode: int) -> None:
    verdict, reply = world.answer(struct.pack(">HHHHHH", 7, opcode << 11 | 0x0100, 0, 0, 0, 0))
    assert verdict == REPLY and reply is not None and len(reply) == 12
    assert struct.unpack(">HHHHHH", reply) == (7, 0x8000 | opcode << 11 | 0x0180 | dns.rcode.NOTIMP, 0, 0, 0, 0)


@pytest.mark.parametrize("do", [True, False])
@pytest.mark.parametrize("options", [[], [option(100, b"xy")]])
@pytest.mark.parametrize("flags", [0, 0x40])
@pytest.mark.parametrize("version", [1, 2, 255])
def test_a_later_edns_version_is_badvers(
    world: World, version: int, flags: int, options: list[dns.edns.Option], do: bool
) -> None:
    asked = query("default.example", "SOA", edns=0, options=options, do=do)
    asked.use_edns(version, asked.ednsflags | flags, 1232, options=options)
    reply = world.answer(asked.to_wire())[1]
    assert reply is not None
    answer = dns.message.from_wire(reply)
    assert answer.rcode() == dns.rcode.BADVERS and answer.edns == 0 and not answer.answer and not answer.authority
    assert answer.ednsflags & 0x7FFF == 0x0000


def test_an_unknown_option_is_ignored_and_not_echoed(world: World) -> None:
    answer = world.ask("default.example", options=[option(100, b"\0\1")])
    assert [int(option.otype) for option in answer.options] == [dns.edns.EDE]


def test_unknown_edns_flags_are_not_echoed(world: World) -> None:
    asked = query("default.example")
    asked.use_edns(0, 0x40, 1232)
    reply = world.answer(asked.to_wire())[1]
    assert reply is not None and dns.message.from_wire(reply).ednsflags == 0


def test_many_options_at_once_are_fine(world: World) -> None:
    options = [
        option(10, bytes(8)),
        option(3, b""),
        option(9, b""),
        dns.edns.ECSOption("0.0.0.0", 0),
    ]
    assert world.ask("default.example", options=options).rcode() == dns.rcode.NOERROR


# -- EDNS that is malformed -------------------------------------------------------------------------------------------
def opt(rdata: bytes = b"", owner: bytes = b"\0", size: int = 1232, ttl: int = 0) -> bytes:
    return owner + struct.pack(">HHIH", 41, size, ttl, len(rdata)) + rdata


def with_sections(packet: bytes, *sections: bytes, counts: tuple[int, int, int] | None = None) -> bytes:
    """`packet` with octets for ANSWER, AUTHORITY and ADDITIONAL; each counts as one record if `counts` does not say."""
    answer, authority, additional = (*sections, b"", b"", b"")[:3]
    numbers = counts or (bool(answer), bool(authority), bool(additional))
    return packet[:6] + struct.pack(">HHH", *numbers) + packet[12:] + answer + authority + additional


PLAIN = wire_query([b"default", b"example"])


@pytest.mark.parametrize(
    ("what", "packet"),
    [
        (
            "two OPTs",
            with_sections(PLAIN, b"", b"", opt() * 2, counts=(0, 0, 2)),
        ),
        ("a client cookie of 7 octets", with_sections(PLAIN, b"", b"", opt(b"\0\x0a\0\7" + bytes(7)))),
        ("a cookie of 15 octets", with_sections(PLAIN, b"", b"", opt(b"\0\x0a\0\x0f" + bytes(15)))),
        ("a cookie of 41 octets", with_sections(PLAIN, b"", b"", opt(b"\0\x0a\0\x29" + bytes(41)))),
        ("an empty cookie", with_sections(PLAIN, b"", b"", opt(b"\0\x0a\0\0"))),
        ("an option cut off", with_sections(PLAIN, b"", b"", opt(b"\0\x64\0\5abc"))),
        ("an option without its length", with_sections(PLAIN, b"", b"", opt(b"\0\x64\0"))),
    ],
)
def test_a_malformed_opt_is_formerr_with_opt(world: World, what: str, packet: bytes) -> None:
    # RFC 6891 section 7: where processing OPT itself is the problem, the response must include one.
    verdict, reply = world.answer(packet)
    assert verdict == REPLY and reply is not None, what
    answer = dns.message.from_wire(reply)
    assert (answer.rcode(), answer.edns, len(answer.question)) == (dns.rcode.FORMERR, 0, 1), what


@pytest.mark.parametrize(
    ("what", "packet"),
    [
        ("OPT in ANSWER", with_sections(PLAIN, opt())),
        ("OPT in AUTHORITY", with_sections(PLAIN, b"", opt())),
        ("OPT of another owner", with_sections(PLAIN, b"", b"", opt(owner=b"\1x\0"))),
        ("OPT whose owner is a pointer", with_sections(PLAIN, b"", b"", opt(owner=b"\xc0\x0c"))),
        ("RDATA cut off", with_sections(PLAIN, b"", b"", opt(b"\0\x64\0\5abcde")[:-1])),
        ("an additional record that is not there", with_sections(PLAIN, counts=(0, 0, 1))),
        ("an OPT header cut off", with_sections(PLAIN, b"", b"", opt()[:-1])),
        ("a record's name with a bad label type", with_sections(PLAIN, b"", b"", opt(owner=b"\x41x\0"))),
        ("QTYPE OPT", wire_query([b"default", b"example"], 41)),
    ],
)
def test_other_malformed_records_are_formerr(world: World, what: str, packet: bytes) -> None:
    verdict, reply = world.answer(packet)
    assert verdict == REPLY and reply is not None, what
    assert dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR, what


@pytest.mark.parametrize("length", [8, 16, 24, 40])
def test_cookies_of_a_right_length_are_taken(world: World, length: int) -> None:
    packet = with_sections(PLAIN, b"", b"", opt(struct.pack(">HH", 10, length) + bytes(length)))
    reply = world.answer(packet)[1]
    assert reply is not None and dns.message.from_wire(reply).rcode() == dns.rcode.NOERROR


def test_records_before_and_behind_opt_are_passed_over(world: World) -> None:
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + bytes(4)
    packet = with_sections(PLAIN, record, record, record + opt(ttl=0x8000) + record, counts=(1, 1, 3))
    reply = world.answer(packet)[1]
    assert reply is not None
    answer = dns.message.from_wire(reply)
    assert answer.rcode() == dns.rcode.NOERROR and answer.ednsflags == dns.flags.DO


# -- packets that are no query ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", range(12))
def test_less_than_a_header_is_dropped(world: World, size: int) -> None:
    assert world.answer(PLAIN[:size]) == (DROP, None)


def test_an_answer_is_dropped(world: World) -> None:
    assert world.answer(PLAIN[:2] + b"\x81" + PLAIN[3:]) == (DROP, None)


def test_an_unknown_opcode_with_qr_is_dropped(world: World) -> None:
    assert world.answer(struct.pack(">HHHHHH", 7, 0x8000 | 15 << 11, 0, 0, 0, 0)) == (DROP, None)


@pytest.mark.parametrize("count", [0, 2, 3, 65535])
def test_another_number_of_questions_is_formerr(world: World, count: int) -> None:
    verdict, reply = world.answer(PLAIN[:4] + struct.pack(">H", count) + PLAIN[6:] + PLAIN[12:])
    assert verdict == REPLY and reply is not None
    assert reply == PLAIN[:2] + b"\x81\x81" + bytes(8)


@pytest.mark.parametrize(
    ("what", "question"),
    [
        ("a pointer to itself", b"\xc0\x0c\0\1\0\1"),
        ("a pointer to the header", b"\xc0\x00\0\1\0\1"),
        ("a label, then a pointer", b"\1x\xc0\x0c\0\1\0\1"),
        ("a pointer to nowhere", b"\xff\xff\0\1\0\1"),
        ("half a pointer", b"\xc0"),
        ("a label type of 01", b"\x41\1x\0\0\1\0\1"),
        ("a label type of 10", b"\x81x\0\0\1\0\1"),
        ("a label cut off", b"\5abc"),
        ("a name without its end", b"\3abc"),
        ("nothing", b""),
        ("no type", b"\1x\0"),
        ("half a class", b"\1x\0\0\1\0"),
        ("256 octets", b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 2 + b"\x3f" + b"a" * 63 + b"\0\0\1\0\1"),
        ("a longer name", (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1"),
        ("128 labels", b"\1a" * 128 + b"\0\0\1\0\1"),
    ],
)
def test_a_bad_question_is_formerr(world: World, what: str, question: bytes) -> None:
    verdict, reply = world.answer(PLAIN[:12] + question)
    assert verdict == REPLY and reply is not None, what
    assert reply == PLAIN[:2] + b"\x81\x81" + bytes(8), what


@pytest.mark.parametrize("rdclass", [3, 4, 254, 255, 0, 65535])
def test_classes_other_than_in_are_refused(world: World, rdclass: int) -> None:
    reply = world.answer(wire_query([b"version", b"bind"], 16, rdclass))[1]
    assert reply is not None and dns.message.from_wire(reply).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("rdtype", ["IXFR", "AXFR", "TKEY", "TSIG"])
@pytest.mark.parametrize("transport", [Transport.UDP, Transport.TCP])
def test_transfers_are_refused(world: World, rdtype: str, transport: Transport) -> None:
    packet = wire_query([b"default", b"example"], int(dns.rdatatype.from_text(rdtype)))
    reply = world.answer(packet, transport=transport)[1]
    assert reply is not None and dns.message.from_wire(reply).rcode() == dns.rcode.REFUSED


# -- names ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "labels",
    [
        [b"a" * 63, b"default", b"example"],
        [b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 44, b"default", b"example"],  # 255 octets
        [b"a"] * 119 + [b"default", b"example"],  # 121 labels, 255 octets
        [b"with.dot", b"default", b"example"],
        [b"\0", b"default", b"example"],
        [b"\0\xff\x80 \\", b"default", b"example"],
    ],
)
def test_any_octets_below_a_blocked_name_are_blocked(world: World, labels: list[bytes]) -> None:
    packet = wire_query(labels)
    verdict, reply = world.answer(packet)
    assert verdict == REPLY and reply is not None
    assert reply[3] & 0xF == 0 and reply[6:8] == b"\0\1" and reply[12 : len(packet)] == packet[12:]


@pytest.mark.parametrize(
    "labels",
    [
        [b"default.example"],
        [b"www.default", b"example", b"x"],
        [b"x\0default", b"example"],
        [b"default", b"example\0"],
        [b"default\0", b"example"],
        [b"xdefault", b"example"],
        [b"example"],
        [b"default"],
        [],
        [b"a"] * 127,
        [b"k\xe2\x84\xaa"],
    ],
)
def test_names_that_only_look_like_a_blocked_one_are_not(world: World, labels: list[bytes]) -> None:
    assert world.answer(wire_query(labels))[0] == PUNT


def test_a_blocked_root_blocks_everything(tmp_path: Path) -> None:
    world = World(tmp_path, block("", action=Action.NXDOMAIN), allow("ok.example"))
    assert world.ask("anything.example").rcode() == dns.rcode.NXDOMAIN
    assert world.ask(".", "NS").rcode() == dns.rcode.NXDOMAIN
    assert world.answer(query("www.ok.example").to_wire())[0] == PUNT


def test_scopes(tmp_path: Path) -> None:
    world = World(tmp_path, block("self.example", scope=Scope.SELF), block("below.example", scope=Scope.BELOW))
    asked = {
        name: world.answer(query(name).to_wire())[0]
        for name in ("self.example", "www.self.example", "below.example", "www.below.example", "a.b.below.example")
    }
    assert list(asked.values()) == [REPLY, PUNT, PUNT, REPLY, REPLY]


# -- RD=0, and what is forwarded --------------------------------------------------------------------------------------
def test_without_rd_only_what_is_known_is_answered(fresh: World) -> None:
    assert fresh.ask("default.example", rd=False).rcode() == dns.rcode.NOERROR
    refused = fresh.ask("elsewhere.example", rd=False)
    assert refused.rcode() == dns.rcode.REFUSED and ede_of(refused) == (EDE.NOT_AUTHORITATIVE, "")
    asked = query("elsewhere.example")
    punt = fresh.punt(asked)
    assert fresh.engine.learn(punt, reply_to(asked, "elsewhere.example. 60 A 192.0.2.1"))
    assert fresh.ask("elsewhere.example", rd=False).answer


@pytest.mark.parametrize("name", ["allowed.default.example", "www.allowed.default.example", "nobody.example"])
def test_what_is_not_blocked_is_forwarded(world: World, name: str) -> None:
    punt = world.punt(query(name, "AAAA", do=True, cd=True))
    assert (punt.reason, punt.qtype, punt.do, punt.cd, punt.route) == (PUNT_FORWARD, 28, True, True, 0)
    assert punt.qname == query(name).question[0].name.to_wire()


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("corp.example", 1),
        ("WWW.Corp.example", 1),
        ("deep.corp.example", 2),
        ("x.deep.corp.example", 2),
        ("xcorp.example", 0),
    ],
)
def test_routes_go_by_the_most_specific_zone(world: World, name: str, route: int) -> None:
    assert world.punt(query(name)).route == route


# -- who asks ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def house(tmp_path: Path) -> World:
    return World(
        tmp_path,
        block("games.example", list="games"),
        block("ads.example", list="ads"),
        lists={"games": {"category": "games"}, "ads": {"category": "ads"}},
        allow_from=["127.0.0.0/8", "10.0.0.0/8", "fc00::/7", "2001:db8::/32"],
        groups=[
            (GroupPolicy("adults", categories=frozenset({"ads"})), ["10.1.0.0/16", "2001:db8:1::/48"]),
            (GroupPolicy("kids", actions={"games": Action.NXDOMAIN}), ["10.1.2.0/24", "10.2.0.0/16", "fc00:2::/32"]),
            (GroupPolicy("free", lists=frozenset()), ["10.3.0.1", "2001:db8::1"]),
        ],
    )


@pytest.mark.parametrize(
    "address",
    ["192.0.2.1", "11.0.0.0", "9.255.255.255", "0.0.0.0", "255.255.255.255", "::", "::1", "2001:db9::", "fe80::1"],
)
def test_strangers_are_refused_with_ede_18(house: World, address: str) -> None:
    for name in ("games.example", "elsewhere.example"):
        answer = house.ask(name, client=client(address))
        assert answer.rcode() == dns.rcode.REFUSED
        assert ede_of(answer) == (EDE.PROHIBITED, "")
        assert house.ask(name, client=client(address), edns=None).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize(
    ("address", "games", "ads"),
    [
        ("127.0.0.1", "block", "block"),
        ("::ffff:10.9.9.9", "block", "block"),
        ("10.1.0.0", "pass", "block"),
        ("10.1.2.3", "pass", "block"),  # the first group in config order, not the longest prefix
        ("10.1.255.255", "pass", "block"),
        ("10.2.0.1", "nxdomain", "block"),
        ("10.3.0.0", "block", "block"),
        ("10.3.0.1", "pass", "pass"),
        ("10.3.0.2", "block", "block"),
        ("2001:db8:1:ffff::", "pass", "block"),
        ("2001:db8:2::", "block", "block"),
        ("2001:db8::1", "pass", "pass"),
        ("fc00:2::7", "nxdomain", "block"),
    ],
)
def test_groups_by_class(house: World, address: str, games: str, ads: str) -> None:
    for name, wanted in (("games.example", games), ("ads.example", ads)):
        verdict, reply = house.answer(query(name).to_wire(), client(address))
        if wanted == "pass":
            assert verdict == PUNT
        else:
            assert verdict == REPLY and reply is not None
            assert dns.message.from_wire(reply).rcode() == (3 if wanted == "nxdomain" else 0)


@pytest.mark.parametrize("octets", [b"", bytes(4), bytes(15), bytes(17)])
def test_a_client_has_16_octets(house: World, octets: bytes) -> None:
    with pytest.raises(ValueError, match="16 octets"):
        house.answer(PLAIN, octets)


@pytest.mark.parametrize("transport", [-1, 5, 1 << 20])
def test_a_transport_that_is_none_is_refused(house: World, transport: int) -> None:
    with pytest.raises(ValueError, match="transport"):
        house.engine.answer(PLAIN, CLIENT, transport)


# -- cells of other kinds ---------------------------------------------------------------------------------------------
def test_a_conditional_cell_is_pythons(fresh: World) -> None:
    fresh.patch("default.example", flags=2)
    punt = fresh.punt(query("default.example"))
    assert (punt.reason, punt.action) == (PUNT_CONDITIONAL, Action.ZERO)
    assert punt.listset == fresh.index.find("default.example")


@pytest.mark.parametrize(
    ("action", "rcode", "answers"), [(Action.NXDOMAIN, 3, 0), (Action.ZERO, 0, 1), (Action.REFUSED, 5, 0)]
)
def test_what_python_decides_for_a_conditional_cell_is_done(
    fresh: World, action: Action, rcode: int, answers: int
) -> None:
    fresh.patch("default.example", flags=2)
    punt = fresh.punt(query("default.example"))
    verdict, reply = fresh.engine.decide(punt, fresh.cell("default.example", action=action))
    assert verdict == REPLY and reply is not None
    answer = dns.message.from_wire(reply)
    assert (answer.rcode(), len(answer.answer)) == (rcode, answers)


def test_a_decided_cell_finds_its_data(fresh: World) -> None:
    fresh.patch("data.example", flags=2)
    punt = fresh.punt(query("data.example", "TXT"))
    reply = fresh.engine.decide(punt, fresh.cell("data.example"))[1]
    assert reply is not None and dns.message.from_wire(reply).answer[0][0].to_text() == '"hello"'


def test_a_decided_cell_may_forward(fresh: World) -> None:
    fresh.patch("default.example", flags=2)
    asked = query("default.example")
    punt = fresh.punt(asked)
    cell = fresh.cell("default.example", action=Action.ALLOW)
    assert fresh.engine.decide(punt, cell) == (PUNT, None)
    [again] = fresh.engine.take_punts()
    assert again.reason == PUNT_FORWARD
    reply = fresh.engine.finish(again, reply_to(asked, "default.example. 60 A 192.0.2.9"))[1]
    assert reply is not None and dns.message.from_wire(reply).answer[0][0].address == "192.0.2.9"


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (b"", "8 octets"),
        (bytes(9), "8 octets"),
        (CELL.pack(Rank.BLOCK, Action.ZERO, 0, 0, 0, 0xFFFF), "profile"),
        (CELL.pack(Rank.BLOCK, 13, 0, 0, 0, 0), "action"),
        (CELL.pack(Rank.BLOCK, 255, 0, 0, 0, 0), "action"),
    ],
)
def test_a_decided_cell_that_is_none_is_refused(fresh: World, cell: bytes, fault: str) -> None:
    fresh.patch("default.example", flags=2)
    punt = fresh.punt(query("default.example"))
    with pytest.raises(ValueError, match=fault):
        fresh.engine.decide(punt, cell)


def test_needs_answer_waits_for_the_upstream_then_blocks(fresh: World) -> None:
    fresh.patch("default.example", flags=1)
    asked = query("default.example")
    punt = fresh.punt(asked)
    assert (punt.reason, punt.action) == (PUNT_FORWARD, Action.ZERO)
    answer = reply_to(asked, "default.example. 60 A 192.0.2.9")
    assert fresh.engine.learn(punt, answer)
    reply = fresh.engine.finish(punt, answer)[1]
    assert reply is not None and dns.message.from_wire(reply).answer[0][0].address == "0.0.0.0"
    assert fresh.ask("default.example").answer[0][0].address == "0.0.0.0"  # now that the answer is kept


@pytest.mark.parametrize("action", [13, 15, 16, 255])
def test_a_policy_with_an_unknown_action_is_refused(fresh: World, action: int) -> None:
    with pytest.raises(ValueError, match="action"):
        fresh.patch("default.example", action=action)


@pytest.mark.parametrize("changes", [{"profile": 0xFFFE}])
def test_a_policy_whose_cells_name_no_profile_is_refused(fresh: World, changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="profile"):
        fresh.patch("default.example", **changes)


def test_a_generation_has_a_number(world: World) -> None:
    with pytest.raises(ValueError, match="generation"):
        Snapshot(world.index, world.policy, 0)


def test_a_policy_for_fewer_shapes_than_the_index_has_is_refused(world: World) -> None:
    import dataclasses

    with pytest.raises(ValueError, match="shapes"):
        Snapshot(world.index, dataclasses.replace(world.policy, shapes=1, cells=world.policy.cells[:8]), 9)


# -- a change of generation -------------------------------------------------------------------------------------------
def test_a_block_acts_at_once_on_a_cached_name(fresh: World) -> None:
    asked = query("late.example")
    punt = fresh.punt(asked)
    assert fresh.engine.learn(punt, reply_to(asked, "late.example. 60 A 192.0.2.9"))
    assert fresh.ask("late.example").answer[0][0].address == "192.0.2.9"
    fresh.build(block("late.example"))
    assert fresh.ask("late.example").answer[0][0].address == "0.0.0.0"
    fresh.build(block("other.example"))
    assert fresh.ask("late.example").answer[0][0].address == "192.0.2.9"


def test_a_punt_is_finished_by_the_generation_in_force(fresh: World) -> None:
    asked = query("late.example")
    punt = fresh.punt(asked)
    fresh.build(block("late.example", action=Action.NXDOMAIN))
    reply = fresh.engine.finish(punt, reply_to(asked, "late.example. 60 A 192.0.2.9"))[1]
    assert reply is not None and dns.message.from_wire(reply).rcode() == dns.rcode.NXDOMAIN


def test_a_punt_that_needs_python_again_comes_back_with_its_token(fresh: World) -> None:
    fresh.engine.answer(query("late.example").to_wire(), CLIENT, Transport.TCP, "who")
    (punt,) = fresh.engine.take_punts()
    fresh.build(block("late.example", action=Action.CNAME, data=("target.example",)))
    assert fresh.engine.finish(punt, None, EDE.NETWORK_ERROR) == (PUNT, None)
    (again,) = fresh.engine.take_punts()
    assert (again.token, again.reason) == ("who", PUNT_LOCAL)


def test_without_a_generation_nothing_is_answered(tmp_path: Path) -> None:
    from resolver import counters
    from resolver.engine.engine import Engine

    engine = Engine(counters=memoryview(bytearray(counters.SIZE)), cache_bytes=1 << 20)
    assert engine.answer(PLAIN, CLIENT, Transport.TCP) == (DROP, None)
    assert engine.drain() == 0


# -- finish, send -----------------------------------------------------------------------------------------------------
def test_finish_without_an_answer_is_servfail_with_ede(world: World) -> None:
    punt = world.punt(query("elsewhere.example"))
    reply = world.engine.finish(punt, None, EDE.NO_REACHABLE_AUTHORITY, "nobody there")[1]
    assert reply is not None
    answer = dns.message.from_wire(reply)
    assert answer.rcode() == dns.rcode.SERVFAIL and ede_of(answer) == (EDE.NO_REACHABLE_AUTHORITY, "nobody there")


def test_an_upstreams_tc_is_not_lost(world: World) -> None:
    asked = query("elsewhere.example")
    answer = bytearray(reply_to(asked, "elsewhere.example. 60 A 192.0.2.1"))
    answer[2] |= 0x02
    reply = world.engine.finish(world.punt(asked), bytes(answer))[1]
    assert reply is not None and dns.message.from_wire(reply).flags & dns.flags.TC


def test_send_sends_what_python_made(world: World) -> None:
    asked = query("garden.example")
    punt = world.punt(asked)
    made = reply_to(asked, "garden.example. 60 CNAME x.garden.test.")
    assert world.engine.send(punt, made) == made


@pytest.mark.parametrize("reply", [b"", bytes(11), bytes(65536)])
def test_send_refuses_what_is_no_reply(world: World, reply: bytes) -> None:
    with pytest.raises(ValueError):
        world.engine.send(world.punt(query("garden.example")), reply)


def test_send_refuses_more_than_a_udp_client_takes(world: World) -> None:
    punt = world.punt(query("garden.example", payload=600), transport=Transport.UDP)
    with pytest.raises(ValueError, match="601 octets where the client takes 600"):
        world.engine.send(punt, bytes(601))
    assert world.engine.send(punt, bytes(600)) == bytes(600)


# -- counters ---------------------------------------------------------------------------------------------------------
def test_answers_are_counted_by_type_action_and_list(fresh: World) -> None:
    for rdtype in ("A", "A", "ANY", "CAA", "TYPE1000"):
        fresh.ask("nxdomain.example", rdtype)
    fresh.ask("nxdomain.example", transport=Transport.TLS)
    assert [fresh.count("queries", slot) for slot in (1, 66, 67, 71, 2 * 72 + 1)] == [2, 1, 1, 1, 1]
    assert fresh.count("responses", 3) == 6
    assert fresh.count("answers", Action.NXDOMAIN * 1024 + 0) == 6


def test_malformed_refused_truncated_and_dropped_are_counted(fresh: World) -> None:
    fresh.answer(b"")
    fresh.answer(PLAIN[:13])
    fresh.ask("tcp-only.example")
    fresh.answer(query("drop.example").to_wire())
    fresh.build(block("x.example"), allow_from=["10.0.0.0/8"])
    fresh.ask("x.example")
    assert [fresh.count("engine", place) for place in (0, 1, 2, 6)] == [2, 1, 1, 1]
