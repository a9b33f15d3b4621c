"""The cache: what it keeps, for how long, what it gives back, and what it forgets first."""

from __future__ import annotations

import itertools
import random
import struct
import time
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resolver.engine.engine import PUNT, REPLY
from resolver.vocabulary import EDE, Transport
from tests.unit.engine.world import CLIENT, World, block, query, reply_to, wire_query

SOA = "example. {ttl} SOA ns.example. host.example. 1 2 3 4 {minimum}"
HITS, MISSES, STORES, EVICTIONS, ENTRIES, OCTETS, ROOM = range(7)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, block("blocked.example"), routes={"corp.example": 1})


def learn(world: World, asked: dns.message.Message, *records: str, rcode: int = 0, soa: str = "") -> bool:
    """Ask, and give the engine this answer to keep."""
    return world.engine.learn(world.punt(asked), reply_to(asked, *records, rcode=rcode, soa=soa))


def is_kept(world: World, asked: dns.message.Message) -> bool:
    verdict, _ = world.answer(asked.to_wire())
    assert verdict in (REPLY, PUNT)
    return verdict == REPLY


def raw(
    question: bytes, *records: bytes, counts: tuple[int, int, int] | None = None, flags: int = 0x8180, ident: int = 0
) -> bytes:
    """An answer of hand-made records, all in ANSWER if `counts` does not say."""
    return struct.pack(">HHHHHH", ident, flags, 1, *(counts or (len(records), 0, 0))) + question + b"".join(records)


def rr(owner: bytes, rdtype: int, rdata: bytes, ttl: int = 60) -> bytes:
    return owner + struct.pack(">HHIH", rdtype, 1, ttl, len(rdata)) + rdata


A = rr(b"\xc0\x0c", 1, bytes([192, 0, 2, 1]))
OPT = b"\0" + struct.pack(">HHIH", 41, 1232, 0, 0)
ASKED = wire_query([b"www", b"example"])
QUESTION = ASKED[12:]


# -- what is kept -----------------------------------------------------------------------------------------------------
def test_an_answer_is_given_again_with_each_clients_own_id_case_and_flags(world: World) -> None:
    assert learn(world, query("www.example"), "www.example. 60 A 192.0.2.1")
    packet = bytearray(wire_query([b"wWw", b"eXample"], ident=0xBEEF))
    verdict, reply = world.answer(bytes(packet))
    assert verdict == REPLY and reply is not None
    assert reply[:2] == b"\xbe\xef" and reply[12 : len(packet)] == packet[12:]
    assert dns.message.from_wire(reply).answer[0][0].address == "192.0.2.1"
    assert (world.count("cache", HITS), world.count("cache", MISSES)) == (1, 1)


def test_do_and_cd_and_type_and_route_have_answers_of_their_own(world: World) -> None:
    assert learn(world, query("www.corp.example"), "www.corp.example. 60 A 192.0.2.1")
    for other in (
        query("www.corp.example", do=True),
        query("www.corp.example", cd=True),
        query("www.corp.example", "AAAA"),
        query("corp.example"),
    ):
        assert not is_kept(world, other)
    assert is_kept(world, query("www.corp.example"))
    world.build(block("blocked.example"), routes={"corp.example": 2})
    assert not is_kept(world, query("www.corp.example"))
    world.build(block("blocked.example"), routes={"corp.example": 1})
    assert is_kept(world, query("www.corp.example"))


def test_truncated_answers_are_not_kept(world: World) -> None:
    punt = world.punt(ASKED)
    assert not world.engine.learn(punt, raw(QUESTION, A, flags=0x8380))
    assert world.answer(ASKED)[0] == PUNT


def test_a_later_failure_leaves_nothing_wrong_behind(world: World) -> None:
    punt = world.punt(ASKED)
    assert world.engine.learn(punt, raw(QUESTION, A))
    assert world.engine.learn(punt, raw(QUESTION, rr(b"\xc0\x0c", 1, bytes(4))))
    reply = world.answer(ASKED)[1]
    assert reply is not None and reply.endswith(bytes(4))


def test_an_extended_rcode_is_no_answer(world: World) -> None:
    # BADVERS has the header's four bits of NOERROR: taken as it stands it would be an empty answer.
    answer = raw(QUESTION, b"\0" + struct.pack(">HHIH", 41, 1232, 0x01000000, 0), counts=(0, 0, 1))
    punt = world.punt(ASKED)
    with pytest.raises(ValueError, match="no sound answer"):
        world.engine.learn(punt, answer)
    reply = world.engine.finish(punt, answer, EDE.NETWORK_ERROR)[1]
    assert reply is not None and dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL


# -- how long ---------------------------------------------------------------------------------------------------------
def test_ttls_count_down_and_end(world: World) -> None:
    short, long = query("short.example"), query("long.example")
    assert learn(world, short, "short.example. 1 A 192.0.2.1")
    assert learn(world, long, "long.example. 60 A 192.0.2.1", "long.example. 100 TXT x")
    started = time.monotonic()
    assert world.ask("long.example").answer[0].ttl in (60, 59)
    time.sleep(2.1)
    assert not is_kept(world, short)
    answer = world.ask("long.example")
    passed = int(time.monotonic() - started) + 1
    assert 60 - passed <= answer.answer[0].ttl <= 58
    assert answer.answer[1].ttl - answer.answer[0].ttl == 40


@pytest.mark.parametrize(
    ("limits", "given", "kept"),
    [
        ({}, 60, 60),
        ({}, 0, None),
        ({}, 0x80000000, None),  # RFC 2181 section 8: taken for 0
        ({}, 0xFFFFFFFF, None),
        ({}, 0x7FFFFFFF, 86400),
        ({"max_ttl": 30}, 60, 30),
        ({"min_ttl": 90}, 60, 90),
        ({"min_ttl": 90}, 0, 90),
        ({"max_ttl": 30, "min_ttl": 90}, 60, 30),
        ({"max_ttl": 0}, 60, None),
    ],
)
def test_limits_of_ttls(world: World, limits: dict[str, Any], given: int, kept: int | None) -> None:
    world.engine.configure_cache(**{"max_ttl": 86400, "min_ttl": 0, "negative_ttl": 3600, **limits})
    punt = world.punt(ASKED)
    answer = raw(QUESTION, rr(b"\xc0\x0c", 1, bytes(4), ttl=given))
    assert world.engine.learn(punt, answer) == (kept is not None)
    verdict, reply = world.answer(ASKED)
    if kept is None:
        assert verdict == PUNT
        reply = world.engine.finish(punt, answer)[1]
        kept = 0
    assert reply is not None
    assert dns.message.from_wire(reply).answer[0].ttl in (kept, kept - 1)


def test_the_smallest_ttl_of_all_sections_ends_an_answer(world: World) -> None:
    punt = world.punt(ASKED)
    ns, glue = rr(b"\xc0\x10", 2, b"\xc0\x0c", ttl=1), rr(b"\xc0\x0c", 28, bytes(16), ttl=50)
    assert world.engine.learn(punt, raw(QUESTION, A, ns, glue, counts=(1, 1, 1)))
    time.sleep(2.1)
    assert world.answer(ASKED)[0] == PUNT


@pytest.mark.parametrize(
    ("rcode", "ttl", "minimum", "limit", "kept"),
    [
        (3, 60, 40, 3600, 40),
        (3, 40, 60, 3600, 40),
        (0, 60, 40, 3600, 40),
        (3, 6000, 5000, 3600, 3600),
        (3, 6000, 5000, 7, 7),
        (3, 0, 60, 3600, None),
        (3, 60, 0, 3600, None),
        (3, 60, 60, 0, None),
    ],
)
def test_negative_answers_live_by_their_soa(
    world: World, rcode: int, ttl: int, minimum: int, limit: int, kept: int | None
) -> None:
    world.engine.configure_cache(max_ttl=86400, min_ttl=0, negative_ttl=limit)
    asked = query("no.example")
    assert learn(world, asked, rcode=rcode, soa=SOA.format(ttl=ttl, minimum=minimum)) == (kept is not None)
    if kept is None:
        return
    answer = world.ask("no.example")
    assert answer.rcode() == rcode and not answer.answer
    assert answer.authority[0].ttl in (kept, kept - 1)  # so nobody behind us remembers it longer (RFC 2308 section 3)


def test_negative_answers_without_soa_are_not_kept(world: World) -> None:
    assert not learn(world, query("no.example"), rcode=3)
    assert not learn(world, query("no.example"), "no.example. 60 CNAME there.example.")


def test_an_alias_into_nothing_is_kept_as_long_as_the_soa_says(world: World) -> None:
    asked = query("no.example")
    assert learn(world, asked, "no.example. 6000 CNAME there.example.", rcode=3, soa=SOA.format(ttl=9, minimum=9))
    answer = world.ask("no.example")
    assert answer.rcode() == 3 and answer.answer and answer.authority[0].ttl in (9, 8)


def test_negative_answers_end(world: World) -> None:
    assert learn(world, query("no.example"), rcode=3, soa=SOA.format(ttl=3600, minimum=1))
    time.sleep(2.1)
    assert not is_kept(world, query("no.example"))


# -- RFC 8906 section 8, for names that are kept ----------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {"edns": None, "rd": False},
        {"cd": True},
        {"ad": True},
        {"do": True},
        {"transport": Transport.TCP},
        {"options": [dns.edns.GenericOption(dns.edns.OptionType.make(100), b"xy")]},
        {"options": [dns.edns.ECSOption("0.0.0.0", 0), dns.edns.GenericOption(dns.edns.OptionType.make(3), b"")]},
    ],
    ids=itertools.count(),
)
def test_kept_answers_conform(world: World, options: dict[str, Any]) -> None:
    asked = query("www.example", **{name: value for name, value in options.items() if name in ("do", "cd")})
    answer = bytearray(reply_to(asked, "www.example. 60 A 192.0.2.1"))
    answer[2] |= 0x04  # AA
    answer[3] |= 0x60  # Z and AD
    assert world.engine.learn(world.punt(asked), bytes(answer))
    got = world.ask("www.example", **options)
    assert got.rcode() == 0 and got.answer and got.flags & dns.flags.RA
    assert not got.flags & (dns.flags.AA | dns.flags.TC | 0x40)
    # AD only to those who asked for it (RFC 6840 section 5.8).
    assert bool(got.flags & dns.flags.AD) == bool(options.get("do") or options.get("ad"))
    assert bool(got.flags & dns.flags.CD) == bool(options.get("cd"))
    assert got.edns == (-1 if options.get("edns", 0) is None else 0) and not got.options
    assert bool(got.ednsflags & dns.flags.DO) == bool(options.get("do"))


@pytest.mark.parametrize("bit", [0x0040, 0x0400, 0x0080])
def test_flags_of_the_query_do_not_change_a_kept_answer(world: World, bit: int) -> None:
    assert learn(world, query("www.example"), "www.example. 60 A 192.0.2.1")
    packet = bytearray(query("www.example").to_wire())
    plain = world.answer(bytes(packet))[1]
    packet[2] |= bit >> 8
    packet[3] |= bit & 0xFF
    assert plain is not None and world.answer(bytes(packet))[1] == plain


# -- OPT --------------------------------------------------------------------------------------------------------------
def test_the_upstreams_opt_is_cut_out_and_the_client_gets_ours(world: World) -> None:
    asked = query("www.example", do=True)
    punt = world.punt(asked)
    upstream = b"\0" + struct.pack(">HHIH", 41, 4096, 0x8000, 8) + b"\0\x03\0\4nsid"
    assert world.engine.learn(punt, raw(QUESTION, A, upstream, counts=(1, 0, 1)))
    answer = world.ask("www.example", do=True)
    assert (answer.edns, answer.payload, list(answer.options)) == (0, 1232, [])
    assert answer.ednsflags == dns.flags.DO
    bare = query("www.example")
    assert world.engine.learn(world.punt(bare), raw(QUESTION, A, upstream, counts=(1, 0, 1)))
    assert world.ask("www.example", edns=None).edns == -1


def test_an_opt_before_other_records_is_pythons_to_rewrite(world: World) -> None:
    answer = raw(QUESTION, A, OPT, rr(b"\xc0\x0c", 28, bytes(16)), counts=(1, 0, 2))
    with pytest.raises(ValueError, match="OPT stands before other records"):
        world.engine.learn(world.punt(ASKED), answer)
    assert world.answer(ASKED)[0] == PUNT


# -- answers that are none --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("nothing", b""),
        ("half a header", raw(QUESTION, A)[:11]),
        ("a query", raw(QUESTION, A, flags=0x0100)),
        ("another opcode", raw(QUESTION, A, flags=0xA180)),
        ("no question", struct.pack(">HHHHHH", 0, 0x8180, 0, 1, 0, 0) + A),
        ("two questions", struct.pack(">HHHHHH", 0, 0x8180, 2, 1, 0, 0) + QUESTION * 2 + A),
        ("another name", raw(wire_query([b"wwv", b"example"])[12:], A)),
        ("a longer name", raw(wire_query([b"x", b"www", b"example"])[12:], A)),
        ("a shorter name", raw(wire_query([b"www"])[12:], A)),
        ("another type", raw(wire_query([b"www", b"example"], 28)[12:], A)),
        ("another class", raw(wire_query([b"www", b"example"], 1, 3)[12:], A)),
        ("a question cut off", raw(QUESTION, A)[:20]),
        ("a question of a pointer", raw(b"\xc0\x0c\0\1\0\1", A)),
        ("a record cut off", raw(QUESTION, A)[:-1]),
        ("a record's header cut off", raw(QUESTION, A)[:-5]),
        ("a record that is not there", raw(QUESTION, A, counts=(2, 0, 0))),
        ("65535 records", raw(QUESTION, A, counts=(65535, 65535, 65535))),
        ("a pointer to itself", raw(QUESTION, rr(struct.pack(">H", 0xC000 | 12 + len(QUESTION)), 1, bytes(4)))),
        ("a pointer forward", raw(QUESTION, rr(b"\xff\xff", 1, bytes(4)))),
        ("a pointer into the header", raw(QUESTION, rr(b"\xc0\x0b", 1, bytes(4)))),
        ("half a pointer", raw(QUESTION, b"\xc0", counts=(1, 0, 0))),
        ("a label type of 01", raw(QUESTION, rr(b"\x41x\0", 1, bytes(4)))),
        ("a name without end", raw(QUESTION, b"\x3f" + b"x" * 63, counts=(1, 0, 0))),
        ("OPT in ANSWER", raw(QUESTION, OPT, counts=(1, 0, 0))),
        ("OPT in AUTHORITY", raw(QUESTION, OPT, counts=(0, 1, 0))),
        ("two OPTs", raw(QUESTION, A, OPT, OPT, counts=(1, 0, 2))),
        ("OPT of another owner", raw(QUESTION, b"\1x" + OPT, counts=(0, 0, 1))),
    ],
)
def test_what_is_no_sound_answer_is_refused(world: World, what: str, answer: bytes) -> None:
    punt = world.punt(ASKED)
    with pytest.raises(ValueError, match="answer"):
        world.engine.learn(punt, answer)
    reply = world.engine.finish(punt, answer, EDE.NETWORK_ERROR)[1]
    assert reply is not None and dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL, what
    assert world.count("cache", STORES) == 0


def test_octets_behind_the_last_record_are_not_kept(world: World) -> None:
    assert world.engine.learn(world.punt(ASKED), raw(QUESTION, A) + b"more" * 100)
    reply = world.answer(ASKED)[1]
    assert reply is not None and len(reply) == len(raw(QUESTION, A))


def test_the_question_may_come_in_any_case(world: World) -> None:
    assert world.engine.learn(world.punt(ASKED), raw(wire_query([b"WwW", b"eXAMPLe"])[12:], A))
    reply = world.answer(ASKED)[1]
    assert reply is not None and reply[12 : len(ASKED)] == QUESTION


def test_as_many_records_as_fit_into_a_message(world: World) -> None:
    record = rr(b"\0", 16, b"")
    count = (65535 - len(ASKED)) // len(record)
    punt = world.punt(ASKED)
    answer = raw(QUESTION, *[record] * count, counts=(0, count, 0))
    assert not world.engine.learn(punt, answer)
    reply = world.engine.finish(punt, answer)[1]
    assert reply is not None and len(reply) == len(answer)


# -- size -------------------------------------------------------------------------------------------------------------
def big(asked: dns.message.Message, octets: int) -> bytes:
    texts = [f'{asked.question[0].name} 60 TXT "{number:05}{"x" * 195}"' for number in range(octets // 212)]
    return reply_to(asked, *texts)


def test_what_is_larger_than_a_datagram_is_tc_for_udp_and_whole_for_streams(world: World) -> None:
    asked = query("big.example", "TXT")
    answer = big(asked, 3000)
    assert world.engine.learn(world.punt(asked), answer)
    short = world.ask("big.example", "TXT", payload=4096)
    assert short.flags & dns.flags.TC and not short.answer and short.edns == 0
    assert len(world.ask("big.example", "TXT", transport=Transport.TCP).answer[0]) == 3000 // 212
    assert world.ask("big.example", "TXT", edns=None).flags & dns.flags.TC


@pytest.mark.parametrize("octets", [22_000, 30_000, 64_000])
def test_what_is_too_large_for_the_cache_is_given_but_not_kept(world: World, octets: int) -> None:
    asked = query("big.example", "TXT")
    answer = big(asked, octets)
    punt = world.punt(asked)
    kept = world.engine.learn(punt, answer)
    assert kept == (octets < 23_000)
    reply = world.engine.finish(punt, answer)[1]
    assert reply is not None and len(dns.message.from_wire(reply).answer[0]) == octets // 212


# -- the budget -------------------------------------------------------------------------------------------------------
def numbered(number: int) -> bytes:
    return wire_query([b"n%d" % number, b"example"])


def store(world: World, number: int, size: int = 4) -> bool:
    """Keep an answer of about `size` octets for the name of a number."""
    asked = numbered(number)
    records = [rr(b"\xc0\x0c", 1, struct.pack(">I", number), ttl=3600)]
    records += [rr(b"\xc0\x0c", 16, bytes([200]) + bytes(200))] * (size // 213)
    return world.engine.learn(world.punt_elsewhere(asked), raw(asked[12:], *records))


def asked_for(world: World, number: int) -> bool:
    """Whether the name of a number is kept; then its answer must be the right one."""
    verdict, reply = world.engine.answer(numbered(number), CLIENT, Transport.TCP)
    world.engine.take_punts()
    if verdict == PUNT:
        return False
    assert reply is not None
    at = len(numbered(number)) + 12
    assert reply[at : at + 4] == struct.pack(">I", number)
    return True


def test_the_budget_is_kept_whatever_is_stored(world: World) -> None:
    chance = random.Random(1)
    room = world.count("cache", ROOM)
    assert room <= 1 << 20
    for number in range(100_000):
        store(world, chance.randrange(40_000), chance.choice((0, 0, 0, 0, 300, 1000, 4000)) if number % 50 else 20_000)
        if number % 100 == 0:
            assert world.count("cache", OCTETS) <= room
            asked_for(world, chance.randrange(40_000))
    assert world.count("cache", ENTRIES) > 500
    assert world.count("cache", STORES) == 100_000
    assert world.count("cache", OCTETS) > room // 2


def test_a_full_cache_of_tiny_answers_takes_new_ones(world: World) -> None:
    # Entries asked for again end up in the main ring; once they filled the table nothing could be stored any more.
    for number in range(60_000):
        store(world, number)
        asked_for(world, number)
    for number in range(60_000, 60_100):
        assert store(world, number)
        assert asked_for(world, number)


def test_room_that_is_free_is_used_before_anything_is_forgotten(world: World) -> None:
    for number in range(4000):
        store(world, number)
    assert world.count("cache", EVICTIONS) == 0
    assert all(asked_for(world, number) for number in range(4000))


def test_a_hot_set_survives_a_scan_of_ten_times_the_budget(world: World) -> None:
    hot = range(1000)
    for _ in range(3):
        for number in hot:
            if not asked_for(world, number):
                store(world, number)
    kept_at_worst = len(hot)
    for number in range(10_000, 110_000):  # an LRU of this size holds some 8,000
        store(world, number)
        if number % 25 == 0:
            asked_for(world, number // 25 % 1000)
        if number % 10_000 == 0:
            kept_at_worst = min(kept_at_worst, sum(asked_for(world, name) for name in hot))
    assert kept_at_worst > 950


def test_what_comes_back_soon_after_it_was_forgotten_is_kept_longer(world: World) -> None:
    for number in range(9000):  # main is full now
        store(world, number)
    back, new = range(100_000, 100_200), range(200_000, 200_200)
    for number in [*back, *range(20_000, 21_000)]:  # so the first of them fall out of the small ring
        store(world, number)
    assert not any(asked_for(world, number) for number in back)
    for number in [*back, *new, *range(30_000, 34_000)]:
        store(world, number)
    # The memory of what was forgotten is small and loses some, so most come back to the main ring, not all.
    assert sum(asked_for(world, number) for number in back) > len(back) // 3
    assert not any(asked_for(world, number) for number in new)


def test_flush_forgets_everything_and_the_cache_goes_on(world: World) -> None:
    for number in range(100):
        store(world, number)
    assert world.engine.flush() == 100
    assert world.engine.flush() == 0
    assert not any(asked_for(world, number) for number in range(100))
    assert (world.count("cache", ENTRIES), world.count("cache", OCTETS)) == (0, 0)
    assert store(world, 7) and asked_for(world, 7)


# -- against a dictionary ---------------------------------------------------------------------------------------------
class Model(RuleBasedStateMachine):
    """Every hit is what was stored last; a store is a hit at once; what was not to be kept is never a hit."""

    world: World

    @initialize()
    def begin(self) -> None:
        self.world.engine.flush()
        self.kept: dict[tuple[int, bool, bool], bytes] = {}
        self.serial = 0

    def packet(self, number: int, do: bool, cd: bool) -> bytes:
        plain = numbered(number)
        return (
            plain[:3] + bytes([0x10 * cd]) + plain[4:11] + b"\1" + plain[12:] + OPT[:7] + bytes([0x80 * do]) + OPT[8:]
        )

    @rule(
        number=st.integers(0, 300),
        do=st.booleans(),
        cd=st.booleans(),
        size=st.sampled_from([0, 0, 0, 100, 1000, 5000, 24_000, 40_000]),
        ttl=st.sampled_from([3600, 3600, 3600, 0]),
    )
    def store(self, number: int, do: bool, cd: bool, size: int, ttl: int) -> None:
        key = (number, do, cd)
        punt = self.world.punt_elsewhere(self.packet(number, do, cd))
        self.serial += 1
        body = struct.pack(">I", self.serial) + bytes(size)
        answer = raw(numbered(number)[12:], rr(b"\xc0\x0c", 1, body, ttl=ttl))
        if self.world.engine.learn(punt, answer):
            assert ttl
            self.kept[key] = body
            self.ask(number, do, cd, must=True)
        else:
            assert not ttl or size > 20_000
            self.kept.pop(key, None)

    @rule(number=st.integers(0, 300), do=st.booleans(), cd=st.booleans())
    def ask_one(self, number: int, do: bool, cd: bool) -> None:
        self.ask(number, do, cd)

    @rule(start=st.integers(0, 300), count=st.integers(1, 300))
    def ask_many(self, start: int, count: int) -> None:
        for number in range(start, start + count):
            self.ask(number % 301, False, False)

    @rule(start=st.integers(0, 300), count=st.integers(1, 300), size=st.sampled_from([0, 200, 2000]))
    def store_many(self, start: int, count: int, size: int) -> None:
        for number in range(start, start + count):
            self.store(number % 301, False, False, size, 3600)

    @rule()
    def flush(self) -> None:
        assert self.world.engine.flush() <= len(self.kept)
        self.kept.clear()

    def ask(self, number: int, do: bool, cd: bool, must: bool = False) -> None:
        packet = self.packet(number, do, cd)
        verdict, reply = self.world.engine.answer(packet, CLIENT, Transport.TCP)
        self.world.engine.take_punts()
        if verdict == PUNT:
            assert not must
            return
        body = self.kept[number, do, cd]  # a KeyError: an answer that nobody gave
        assert reply is not None
        at = len(numbered(number)) + 12
        assert reply[at : at + len(body)] == body and len(reply) == at + len(body) + len(OPT)

    @invariant()
    def is_within_its_budget(self) -> None:
        assert self.world.count("cache", ENTRIES) <= len(self.kept)
        assert self.world.count("cache", OCTETS) <= self.world.count("cache", ROOM)


def test_every_hit_is_what_was_stored(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    Model.world = World(tmp_path, block("blocked.example"))
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Model, settings=settings(max_examples=25, stateful_step_count=60, deadline=None, suppress_health_check=checks)
    )
