"""The exchange as a table: what goes in (who says what, when), and what must come out.

A story is a list of steps; `now` only moves by `wait`. Servers are a, b, c; `sent` steps state exactly which queries go
out after the step before them, in order.
"""

from __future__ import annotations

import os
import random
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from resolver.upstream.carrier import Fault
from resolver.upstream.exchange import MAX_TRIES, MAX_WRONG, Answer, Event, Exchange, Failed, Send
from resolver.upstream.health import THRESHOLD, Health
from resolver.upstream.message import Question, wire_name
from resolver.upstream.server import Server
from resolver.vocabulary import EDE, Transport

ASK = Question(wire_name("www.example.com"), 1)
TIMEOUT = 2.0


def reply(
    query: bytes,
    *,
    rcode: int = 0,
    address: str = "192.0.2.1",
    edns: bool = True,
    tc: bool = False,
    case: bool = False,
    wrong: str = "",
    bare: bool = False,
    ede: int = -1,
    cut: bool = False,
) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
    message.set_rcode(dns.rcode.Rcode(rcode))
    if not edns:
        message.use_edns(-1)
    elif ede >= 0:
        message.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode.make(ede))])
    if rcode == 0 and not tc:
        message.answer.append(dns.rrset.from_text(message.question[0].name, 60, "IN", "A", address))
    if tc:
        message.flags |= dns.flags.TC
    wire = message.to_wire()
    if case:
        wire = wire[:12] + wire[12:29].swapcase() + wire[29:]
    if wrong == "id":
        wire = bytes([wire[0] ^ 0x55]) + wire[1:]
    elif wrong == "question":
        wire = wire[:13] + b"zzz" + wire[16:]
    if bare:
        wire = wire[:4] + bytes(8)
    return wire[:-3] if cut else wire


class Story:
    """Drives an exchange, and says what came out in words."""

    def __init__(self, servers: str = "ab", **options: Any) -> None:
        self.health = {
            name: Health(Server(name, "192.0.2.1", transport=Transport.TCP if name.isupper() else Transport.UDP))
            for name in servers
        }
        self.now = 100.0
        self.options = options
        self.sends: list[Send] = []
        self.end: Answer | Failed | None = None
        self.held: set[int] = set()  # tries that wait for a connection
        self.exchange: Exchange

    def start(self) -> list[str]:
        servers = list(self.health.values())
        self.exchange = Exchange(ASK, servers, timeout=TIMEOUT, now=self.now, **self.options)
        return self.take(self.exchange.start(self.now))

    def take(self, events: list[Event]) -> list[str]:
        words = []
        for event in events:
            assert self.end is None, "something came after the end"
            if isinstance(event, Send):
                assert event.number == len(self.sends)
                self.sends.append(event)
                edns = dns.message.from_wire(event.payload).edns >= 0
                words.append(f"{event.health.server.name}/{event.transport.name.lower()}{'' if edns else '/noedns'}")
            else:
                self.end = event
                words.append("answer" if isinstance(event, Answer) else f"failed {int(event.ede)}")
        assert self.exchange.is_done == (self.end is not None)
        return words

    def play(self, step: str) -> list[str]:
        """For try N: `wait` (to the deadline), `wait 0.1`, `held N`, `N sent`, `N fault refused`, `N answer [option …]`."""
        first, *rest = step.split()
        if first == "wait":
            self.now = self.exchange.deadline if not rest else self.now + float(rest[0])
            return self.take(self.exchange.tick(self.now, self.held))
        if first == "held":
            self.held = {int(number) for number in rest}
            return []
        number = int(first)
        if rest[0] == "sent":
            self.held.discard(number)
            self.exchange.sent(number, self.now)
            return []
        if rest[0] == "fault":
            return self.take(self.exchange.fail(number, Fault[rest[1].upper()], self.now))
        options: dict[str, object] = {}
        for option in rest[1:]:
            key, _, value = option.partition("=")
            options[key] = int(value) if value.isdecimal() else value if value else True
        if "noedns" in options:
            del options["noedns"]
            options["edns"] = False
        message = reply(self.sends[number].payload, **options)  # type: ignore[arg-type]
        return self.take(self.exchange.receive(number, message, self.now))


STORIES: dict[str, tuple[Story, list[str], list[tuple[str, list[str]]]]] = {
    "an answer ends it": (Story(), ["a/udp"], [("0 answer", ["answer"])]),
    "NXDOMAIN is an answer": (Story(), ["a/udp"], [("0 answer rcode=3", ["answer"])]),
    "nothing comes after the end": (Story(), ["a/udp"], [("0 answer", ["answer"]), ("0 answer", []), ("wait 9", [])]),
    "a late server is not waited for alone": (Story(), ["a/udp"], [("wait", ["b/udp"]), ("1 answer", ["answer"])]),
    "a late answer is an answer": (Story(), ["a/udp"], [("wait", ["b/udp"]), ("0 answer", ["answer"])]),
    "an early tick does nothing": (Story(), ["a/udp"], [("wait 0.1", []), ("0 answer", ["answer"])]),
    "one server is asked again": (Story("a"), ["a/udp"], [("wait", ["a/udp"]), ("1 answer", ["answer"])]),
    "round after round, each try with more patience, then silence to the end": (
        Story(),
        ["a/udp"],
        [
            ("wait 0.4", ["b/udp"]),
            ("wait 0.4", ["a/udp"]),
            ("wait 0.4", ["b/udp"]),
            ("wait 0.4", []),
            ("wait 0.4", ["a/udp"]),
            ("wait", ["b/udp"]),
            ("wait", ["failed 22"]),
        ],
    ),
    "no server at all": (Story(""), ["failed 22"], []),
    "SERVFAIL: another may know": (Story(), ["a/udp"], [("0 answer rcode=2", ["b/udp"]), ("1 answer", ["answer"])]),
    "REFUSED: another may know": (Story(), ["a/udp"], [("0 answer rcode=5", ["b/udp"]), ("1 answer", ["answer"])]),
    "all say SERVFAIL: so be it": (
        Story(),
        ["a/udp"],
        [("0 answer rcode=2", ["b/udp"]), ("1 answer rcode=2", ["answer"])],
    ),
    "one SERVFAIL, then silence: SERVFAIL, before the end": (
        Story(),
        ["a/udp"],
        [("0 answer rcode=2", ["b/udp"]), ("wait", ["b/udp"]), ("wait", ["answer"])],
    ),
    "a validator's SERVFAIL is final": (Story(), ["a/udp"], [("0 answer rcode=2 ede=6", ["answer"])]),
    "refused connections": (
        Story(),
        ["a/udp"],
        [("0 fault refused", ["b/udp"]), ("1 fault refused", ["failed 23"])],
    ),
    "a broken server is not asked again": (
        Story(),
        ["a/udp"],
        [("0 fault unreachable", ["b/udp"]), ("wait", ["b/udp"]), ("1 answer", ["answer"])],
    ),
    "one broke, one is silent": (
        Story(),
        ["a/udp"],
        [("0 fault refused", ["b/udp"])] + [("wait", ["b/udp"])] * 4 + [("wait", ["failed 22"])],
    ),
    "no socket to be had": (Story(), ["a/udp"], [("0 fault overload", ["failed 23"])]),
    "no socket for the second, the first still answers": (
        Story(),
        ["a/udp"],
        [("wait", ["b/udp"]), ("1 fault overload", []), ("0 answer", ["answer"])],
    ),
    "TC: the same server over TCP": (Story(), ["a/udp"], [("0 answer tc", ["a/tcp"]), ("1 answer", ["answer"])]),
    "TC, and TCP is closed: the next over TCP": (
        Story(),
        ["a/udp"],
        [("0 answer tc", ["a/tcp"]), ("1 fault refused", ["b/tcp"]), ("2 answer", ["answer"])],
    ),
    "TC over TCP is nonsense": (
        Story(),
        ["a/udp"],
        [("0 answer tc", ["a/tcp"]), ("1 answer tc", ["b/tcp"]), ("2 answer", ["answer"])],
    ),
    "a connection that is slow is asked again, late": (
        Story("A"),
        ["A/tcp"],
        [("wait 0.39", []), ("wait 0.01", ["A/tcp"]), ("0 answer", ["answer"])],
    ),
    "no second query while the first waits for a connection": (
        Story("A"),
        ["A/tcp"],
        [("held 0", []), ("wait 0.4", []), ("wait 1", []), ("0 sent", []), ("wait 0.39", []), ("0 answer", ["answer"])],
    ),
    "its patience begins when it leaves": (
        Story("A"),
        ["A/tcp"],
        [
            ("held 0", []),
            ("wait 1", []),
            ("0 sent", []),
            ("wait 0.39", []),
            ("wait 0.02", ["A/tcp"]),
            ("1 answer", ["answer"]),
        ],
    ),
    "another server is asked while the first waits for a connection": (
        Story("Ab"),
        ["A/tcp"],
        [("held 0", []), ("wait 0.4", ["b/udp"]), ("wait 0.4", ["b/udp"]), ("0 sent", []), ("0 answer", ["answer"])],
    ),
    "no connection at all": (
        Story("A"),
        ["A/tcp"],
        [("held 0", []), ("wait 0.4", []), ("wait", ["failed 22"])],
    ),
    "a connection that breaks may have been a chance": (
        Story("A"),
        ["A/tcp"],
        [("0 fault reset", ["A/tcp"]), ("1 fault closed", ["A/tcp"]), ("2 answer", ["answer"])],
    ),
    "a connection that breaks again and again": (
        Story("A"),
        ["A/tcp"],
        [(f"{number} fault reset", ["A/tcp"]) for number in range(MAX_TRIES - 1)]
        + [(f"{MAX_TRIES - 1} fault reset", ["failed 23"])],
    ),
    "a bad certificate is no chance": (
        Story("Ab"),
        ["A/tcp"],
        [("0 fault wrong_name", ["b/udp"]), ("wait", ["b/udp"]), ("1 answer", ["answer"])],
    ),
    "a server with TCP alone": (Story("Ab"), ["A/tcp"], [("0 fault closed", ["b/udp"]), ("1 answer", ["answer"])]),
    "ANY goes over TCP": (Story(tcp_only=True), ["a/tcp"], [("0 answer", ["answer"])]),
    "a wrong id is waited out": (Story(), ["a/udp"], [("0 answer wrong=id", []), ("0 answer", ["answer"])]),
    "a wrong question is waited out": (Story(), ["a/udp"], [("0 answer wrong=question", []), ("0 answer", ["answer"])]),
    "a flood of forgeries: TCP": (
        Story(),
        ["a/udp"],
        [("0 answer wrong=id", [])] * MAX_WRONG
        + [("0 answer wrong=id", ["a/tcp"]), ("0 answer", []), ("1 answer", ["answer"])],
    ),
    "a wrong question over TCP is the server's fault": (
        Story(tcp_only=True),
        ["a/tcp"],
        [("0 answer wrong=question", ["b/tcp"]), ("1 answer", ["answer"])],
    ),
    "another case: TCP": (Story(), ["a/udp"], [("0 answer case", ["a/tcp"]), ("1 answer case", ["answer"])]),
    "a malformed answer: the next": (Story(), ["a/udp"], [("0 answer cut", ["b/udp"]), ("1 answer", ["answer"])]),
    "malformed answers alone": (
        Story("a"),
        ["a/udp"],
        [(f"{number} answer cut", ["a/udp"]) for number in range(MAX_TRIES - 1)]
        + [(f"{MAX_TRIES - 1} answer cut", ["failed 23"])],
    ),
    "FORMERR to EDNS: without": (
        Story(),
        ["a/udp"],
        [("0 answer rcode=1 noedns", ["a/udp/noedns"]), ("1 answer noedns", ["answer"])],
    ),
    "a bare FORMERR to EDNS: without": (
        Story(),
        ["a/udp"],
        [("0 answer rcode=1 bare", ["a/udp/noedns"]), ("1 answer noedns", ["answer"])],
    ),
    "FORMERR with and without: the next": (
        Story(),
        ["a/udp"],
        [
            ("0 answer rcode=1 noedns", ["a/udp/noedns"]),
            ("1 answer rcode=1 noedns", ["b/udp"]),
            ("2 answer", ["answer"]),
        ],
    ),
    "FORMERR with an OPT is about the question": (
        Story(),
        ["a/udp"],
        [("0 answer rcode=1", ["b/udp"]), ("1 answer rcode=1", ["answer"])],
    ),
    "bare errors leave nothing to give": (
        Story(),
        ["a/udp"],
        [("0 answer rcode=2 bare", ["b/udp"]), ("1 answer rcode=5 bare", ["failed 23"])],
    ),
    "parallel: the first good answer wins": (
        Story("abc", parallel=True),
        ["a/udp", "b/udp", "c/udp"],
        [("1 answer rcode=2", []), ("2 answer", ["answer"])],
    ),
    "parallel: all fail": (
        Story("ab", parallel=True),
        ["a/udp", "b/udp"],
        [("1 answer rcode=5", []), ("0 fault refused", ["answer"])],
    ),
    "parallel: nobody there": (Story("", parallel=True), ["failed 22"], []),
}


@pytest.mark.parametrize("title", STORIES)
def test_story(title: str) -> None:
    story, sent, steps = STORIES[title]
    assert story.start() == sent
    for step, expected in steps:
        assert story.play(step) == expected, step
    assert story.end is not None


def test_every_try_has_its_own_id_and_case() -> None:
    story = Story("ab")
    story.start()
    for _ in range(3):
        story.play("wait")
    assert len({send.payload[:2] for send in story.sends}) == 4
    assert len({send.payload[12:29] for send in story.sends}) >= 3
    assert all(send.payload[12:29].lower() == ASK.qname for send in story.sends)


def test_an_answer_to_one_try_is_none_to_another() -> None:
    story = Story("ab")
    story.start()
    story.play("wait")
    message = reply(story.sends[0].payload)
    assert story.exchange.receive(1, message, story.now) == []
    assert isinstance(story.exchange.receive(0, message, story.now)[0], Answer)


def test_the_answer_has_the_question_in_lower_case() -> None:
    story = Story("a")
    story.start()
    story.play("0 answer")
    assert isinstance(story.end, Answer)
    assert story.end.message[12:29] == ASK.qname
    assert story.end.health is story.health["a"]


def test_all_is_over_after_twice_the_timeout() -> None:
    story = Story("abcdefghijkl")
    story.start()
    start = story.now
    while story.end is None:
        story.play("wait")
    assert story.now == pytest.approx(start + 2 * TIMEOUT)
    assert len(story.sends) == MAX_TRIES
    assert isinstance(story.end, Failed) and story.end.ede == EDE.NO_REACHABLE_AUTHORITY


def test_failures_name_no_server() -> None:
    story = Story("a")
    story.start()
    story.play("0 fault refused")
    assert story.end == Failed(EDE.NETWORK_ERROR, "connection refused")


def test_a_server_without_edns_is_remembered() -> None:
    story = Story("a")
    story.start()
    story.play("0 answer rcode=1 noedns")
    assert story.health["a"].speaks_edns(story.now)  # one FORMERR proves nothing: anybody may have sent it
    story.play("1 answer noedns")
    assert not story.health["a"].speaks_edns(story.now)
    again = Exchange(ASK, [story.health["a"]], timeout=TIMEOUT, now=story.now)
    sent = again.start(story.now)[0]
    assert isinstance(sent, Send) and dns.message.from_wire(sent.payload).edns == -1


def test_a_server_that_changes_case_is_remembered_once_tcp_proves_it() -> None:
    story = Story("a")
    story.start()
    story.play("0 answer case")
    assert story.health["a"].keeps_case(story.now)
    story.play("1 answer case")
    assert not story.health["a"].keeps_case(story.now)
    again = Exchange(ASK, [story.health["a"]], timeout=TIMEOUT, now=story.now)
    sent = again.start(story.now)[0]
    assert isinstance(sent, Send) and sent.payload[12:29] == ASK.qname
    assert isinstance(again.receive(0, reply(sent.payload, case=True), story.now)[0], Answer)


def test_a_forged_case_leaves_no_mark() -> None:
    story = Story("a")
    story.start()
    story.play("0 answer case")
    story.play("1 answer")
    assert story.health["a"].keeps_case(story.now)


def test_with_an_error_in_hand_a_benched_server_is_not_waited_for() -> None:
    story = Story("ab")
    for _ in range(THRESHOLD):
        story.health["b"].timed_out(story.now, story.now)
    story.start()
    assert story.play("0 answer rcode=2") == ["answer"]


def test_a_silent_server_is_benched_and_one_that_answers_is_not() -> None:
    silent, fine = Health(Server("silent", "192.0.2.1")), Health(Server("fine", "192.0.2.2"))
    for step in range(THRESHOLD):
        now = step * 10.0
        exchange = Exchange(ASK, [silent, fine], timeout=TIMEOUT, now=now)
        exchange.start(now)
        sent = exchange.tick(now + TIMEOUT)[0]
        assert isinstance(sent, Send)
        assert isinstance(exchange.receive(1, reply(sent.payload), now + TIMEOUT)[0], Answer)
    assert not silent.is_available()
    assert fine.is_available()


def test_tc_and_tcp_closed_does_not_bench_the_server() -> None:
    subject = Health(Server("a", "192.0.2.1"))
    for step in range(THRESHOLD * 2):
        now = step * 10.0
        exchange = Exchange(ASK, [subject], timeout=TIMEOUT, now=now)
        sent = exchange.start(now)[0]
        assert isinstance(sent, Send)
        exchange.receive(0, reply(sent.payload, tc=True), now)
        assert isinstance(exchange.fail(1, Fault.REFUSED, now)[-1], Failed)
    assert subject.is_available()


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_there_is_one_end_in_time(seed: int) -> None:
    """Random stories: the exchange never gets stuck, never ends twice, never sends without bound."""
    rng = random.Random(seed)
    servers = rng.choice(["", "a", "A", "ab", "aBc"])
    story = Story(servers, parallel=rng.random() < 0.2, tcp_only=rng.random() < 0.2)
    story.start()
    start = story.now
    options = [
        "",
        "rcode=2",
        "rcode=5",
        "tc",
        "case",
        "wrong=id",
        "wrong=question",
        "cut",
        "rcode=1 noedns",
        "rcode=2 bare",
    ]
    for _ in range(200):
        if story.end is not None:
            break
        number = rng.randrange(len(story.sends))
        step = rng.random()
        if step < 0.4:
            story.play("wait")
        elif step < 0.45:
            story.play(f"held {number}")
        elif step < 0.48 and number in story.held:
            story.play(f"{number} sent")
        elif step < 0.58:
            story.play(f"{number} fault {rng.choice(['refused', 'reset', 'overload'])}")
        else:
            story.play(f"{number} answer {rng.choice(options[rng.randrange(2) :])}")
    while story.end is None:
        story.play("wait")
    assert story.now <= start + 2 * TIMEOUT + 1e-9
    assert len(story.sends) <= 3 * MAX_TRIES
    assert all(send.transport in (Transport.UDP, Transport.TCP) for send in story.sends)


def test_garbage_never_raises() -> None:
    for _ in range(500):
        story = Story("a")
        story.start()
        story.exchange.receive(0, os.urandom(random.randrange(80)), story.now)
        story.exchange.receive(0, story.sends[0].payload[:2] + os.urandom(random.randrange(80)), story.now)
