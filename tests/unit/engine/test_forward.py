"""The engine's own way upstream, over real sockets on loopback, against a server that does as it is told."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from resolver.counters import SECTIONS, UPSTREAM_STRIDE
from resolver.engine.engine import (
    AFTER_BAD,
    AFTER_CLOSED,
    AFTER_NOTHING,
    AFTER_RCODE,
    AFTER_SLOW,
    AFTER_TIMEOUT,
    AFTER_TRUNCATED,
    DROP,
    PUNT,
    PUNT_FORWARD,
    PUNT_LOCAL,
    REPLY,
    WAIT,
    Punt,
)
from resolver.vocabulary import EDE, Action, Transport
from tests.unit.engine.world import CLIENT, World, allow, block, client, query, wire_query

PATIENCE = 5.0  # seconds until something on loopback counts as lost
QUERIES, FAILURES, TIMEOUTS, BAD = range(4)
SLOT = 3  # of the upstream's counters


def roomy_socket() -> socket.socket:
    """A UDP socket that loses nothing, however late it is read."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    return sock


class Upstream:
    """A server's socket: takes queries one at a time and answers as told."""

    def __init__(self) -> None:
        self.socket = roomy_socket()
        self.socket.settimeout(PATIENCE)
        self.socket.bind(("127.0.0.1", 0))

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()
        return str(host), int(port)

    def take(self) -> tuple[bytes, tuple[str, int]]:
        """The next query and where it came from."""
        return self.socket.recvfrom(4096)

    def is_idle(self) -> bool:
        """Whether no query is waiting."""
        return not select.select([self.socket], [], [], 0.05)[0]

    def answer(self, *octets: bytes, flags: int = 0x8180, count: int = 1) -> bytes:
        """Answer the next query with records (one A record if none are given); returns the query."""
        packet, source = self.take()
        self.socket.sendto(reply_of(packet, *octets, flags=flags, count=count), source)
        return packet


def question_of(packet: bytes) -> bytes:
    """The question's octets of a query that was sent upstream."""
    return packet[12 : packet.index(b"\0", 12) + 5]


A = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"


def reply_of(packet: bytes, *octets: bytes, flags: int = 0x8180, count: int = 1) -> bytes:
    header = packet[:2] + struct.pack(">HHHHH", flags, 1, count, 0, 0)
    return header + question_of(packet) + (b"".join(octets) if octets else A)


class Scene:
    """A world, an upstream with some sockets towards it, and a UDP client."""

    def __init__(self, folder: Path, sockets: int = 4) -> None:
        self.world = World(folder, block("blocked.example"), allow("x.blocked.example"), cache_bytes=1 << 20)
        self.engine = self.world.engine
        self.upstream = Upstream()
        self.outside = [self.connected() for _ in range(sockets)]
        self.engine.set_upstream(5, [sock.fileno() for sock in self.outside], SLOT)
        self.engine.set_route(0, 5)
        self.engine.set_timeout(5, 60)
        self.listening = roomy_socket()
        self.listening.bind(("127.0.0.1", 0))
        self.engine.add_udp(self.listening.fileno(), socket.AF_INET, False)
        self.asking = self.client()

    def connected(self) -> socket.socket:
        sock = roomy_socket()
        sock.setblocking(False)
        sock.connect(self.upstream.address)
        return sock

    def client(self) -> socket.socket:
        sock = roomy_socket()
        sock.settimeout(PATIENCE)
        sock.connect(self.listening.getsockname())
        self.closing = [*getattr(self, "closing", []), sock]
        return sock

    def run(self) -> None:
        """Let the engine take what is there for it."""
        assert select.select([self.engine.fileno()], [], [], PATIENCE)[0]
        self.engine.drain()

    def ask(self, packet: bytes | dns.message.Message, sock: socket.socket | None = None) -> bytes:
        wire = packet if isinstance(packet, bytes) else packet.to_wire()
        (sock or self.asking).send(wire)
        self.run()
        return wire

    def get(self, sock: socket.socket | None = None) -> dns.message.Message:
        return dns.message.from_wire((sock or self.asking).recv(4096))

    def stream(self, packet: bytes | dns.message.Message, token: object, address: bytes = CLIENT) -> int:
        wire = packet if isinstance(packet, bytes) else packet.to_wire()
        return self.engine.answer(wire, address, Transport.TCP, token)[0]

    def punt(self) -> Punt:
        (punt,) = self.engine.take_punts()
        return punt

    def count(self, place: int) -> int:
        return self.world.counters[SECTIONS["upstream"].start + SLOT * UPSTREAM_STRIDE + place]

    def close(self) -> None:
        self.engine.close()
        for sock in (*self.outside, *self.closing, self.listening, self.upstream.socket):
            sock.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def ede_of(answer: dns.message.Message) -> int:
    return next((int(option.code) for option in answer.options if isinstance(option, dns.edns.EDEOption)), -1)


# -- a question and its answer ----------------------------------------------------------------------------------------
def test_a_question_goes_upstream_and_its_answer_to_the_client(scene: Scene) -> None:
    asked = query("WWW.example", do=True)
    scene.ask(asked)
    packet = scene.upstream.answer()
    sent = dns.message.from_wire(packet)
    assert sent.flags == dns.flags.RD | dns.flags.AD
    assert sent.edns == 0 and sent.payload == 1232 and sent.ednsflags == dns.flags.DO
    assert str(sent.question[0]).lower() == "www.example. in a"
    scene.run()
    answer = scene.get()
    assert asked.is_response(answer) and answer.answer[0][0].address == "192.0.2.1"
    assert answer.question[0].name.labels == asked.question[0].name.labels
    scene.ask(asked)
    assert scene.get().answer and scene.upstream.is_idle()  # it was kept
    assert (scene.count(QUERIES), scene.engine.tick()) == (1, 0)


def test_client_options_stay_here(scene: Scene) -> None:
    options = [dns.edns.ECSOption("192.0.2.0", 24), dns.edns.GenericOption(dns.edns.OptionType.make(10), bytes(8))]
    scene.ask(query("www.example", options=options, ad=True, cd=True))
    sent = dns.message.from_wire(scene.upstream.answer())
    assert sent.options == () and sent.flags & dns.flags.CD


def test_ids_ports_and_case_are_random(scene: Scene) -> None:
    seen_ids, seen_ports, seen_names, upper, letters = set(), set(), set(), 0, 0
    for number in range(400):
        scene.ask(wire_query([b"abcdefghijklmnopqrstuvwxyz", b"n%d" % number, b"example"], ident=7))
        packet, source = scene.upstream.take()
        name = question_of(packet)[:-4]
        seen_ids.add(packet[:2])
        seen_ports.add(source[1])
        seen_names.add(name[:27])
        upper += sum(65 <= octet <= 90 for octet in name)
        letters += sum(65 <= octet <= 90 or 97 <= octet <= 122 for octet in name)
    # 400 draws from 65,536: some 1.2 pairs are alike. 14,000 letters, half of them upper-case within ten sigma.
    assert len(seen_ids) > 385 and len(seen_names) == 400 and len(seen_ports) == 4
    assert abs(upper / letters - 0.5) < 0.05


def test_ids_use_all_bits(scene: Scene) -> None:
    ones = zeros = 0
    for number in range(64):
        scene.ask(wire_query([b"n%d" % number, b"example"]))
        packet, _ = scene.upstream.take()
        ones |= int.from_bytes(packet[:2], "big")
        zeros |= ~int.from_bytes(packet[:2], "big") & 0xFFFF
    assert (ones, zeros) == (0xFFFF, 0xFFFF)


# -- lies -------------------------------------------------------------------------------------------------------------
def lie_about(what: str, packet: bytes) -> bytes:
    truth = reply_of(packet)
    end = 12 + len(question_of(packet))
    name = truth[12 : end - 4]
    return {
        "id": bytes([truth[0] ^ 1]) + truth[1:],
        "case": truth[:12] + name.swapcase() + truth[end - 4 :],
        "name": truth[:13] + bytes([truth[13] ^ 1]) + truth[14:],
        "type": truth[: end - 3] + b"\x1c" + truth[end - 2 :],
        "class": truth[: end - 1] + b"\3" + truth[end:],
        "a query": truth[:2] + b"\1" + truth[3:],
        "no question": truth[:4] + b"\0\0" + truth[6:12] + A,
        "two questions": truth[:4] + b"\0\2" + truth[6:],
        "cut in the question": truth[: end - 1],
        "header alone": truth[:12],
        "less than a header": truth[:11],
        "nothing": b"",
    }[what]


LIES = ["id", "case", "name", "type", "class", "a query", "no question", "two questions", "cut in the question"]


@pytest.mark.parametrize("what", [*LIES, "header alone", "less than a header", "nothing"])
def test_a_lie_is_passed_over_and_the_truth_still_taken(scene: Scene, what: str) -> None:
    scene.ask(query("www.example"))
    packet, source = scene.upstream.take()
    scene.upstream.socket.sendto(lie_about(what, packet), source)
    scene.run()
    assert scene.engine.tick() == 1 and not scene.engine.take_punts()
    assert scene.count(BAD) == (0 if what in ("id", "less than a header", "nothing") else 1)
    scene.upstream.socket.sendto(reply_of(packet), source)
    scene.run()
    assert scene.get().answer[0][0].address == "192.0.2.1"


def test_an_answer_from_elsewhere_never_arrives(scene: Scene) -> None:
    scene.ask(query("www.example"))
    packet, source = scene.upstream.take()
    with Scene.connected(scene) as other:
        other.connect(source)
        other.send(reply_of(packet))
    assert not select.select([scene.engine.fileno()], [], [], 0.1)[0]
    scene.upstream.socket.sendto(reply_of(packet), source)
    scene.run()
    assert scene.get().answer


def test_an_answer_by_another_of_our_sockets_is_passed_over(scene: Scene) -> None:
    scene.ask(query("www.example"))
    packet, source = scene.upstream.take()
    for sock in scene.outside:
        if sock.getsockname() != source:
            scene.upstream.socket.sendto(reply_of(packet), sock.getsockname())
    scene.run()
    assert scene.engine.tick() == 1
    scene.upstream.socket.sendto(reply_of(packet), source)
    scene.run()
    assert scene.get().answer


def test_a_second_answer_is_passed_over(scene: Scene) -> None:
    scene.ask(query("www.example"))
    packet, source = scene.upstream.take()
    scene.upstream.socket.sendto(reply_of(packet), source)
    scene.upstream.socket.sendto(reply_of(packet, A[:-1] + b"\2"), source)
    scene.run()
    assert scene.get().answer[0][0].address == "192.0.2.1"
    scene.ask(query("www.example"))
    assert scene.get().answer[0][0].address == "192.0.2.1"


# -- those who ask the same -------------------------------------------------------------------------------------------
def test_identical_questions_share_one_datagram_and_all_are_answered(scene: Scene) -> None:
    clients = [scene.client() for _ in range(80)]  # more than a batch of replies
    for number, sock in enumerate(clients):
        name = [b"WWW" if number % 2 else b"www", b"example"]
        scene.ask(wire_query(name, ident=1000 + number), sock)
    tokens = [f"stream {number}" for number in range(5)]
    for token in tokens:
        assert scene.stream(wire_query([b"wWw", b"example"], ident=9), token) == WAIT
    assert scene.engine.tick() == 1
    scene.upstream.answer()
    scene.run()
    for number, sock in enumerate(clients):
        reply = sock.recv(4096)
        assert reply[:2] == struct.pack(">H", 1000 + number)
        assert reply[13:16] == (b"WWW" if number % 2 else b"www")
        assert dns.message.from_wire(reply).answer
    answers = scene.engine.take_answers()
    assert [token for token, _ in answers] == tokens
    assert all(reply is not None and reply[:2] == b"\0\x09" and reply[13:16] == b"wWw" for _, reply in answers)
    assert scene.upstream.is_idle() and scene.engine.take_answers() == []


def test_a_batch_of_replies_that_is_just_full_does_not_spill(tmp_path: Path) -> None:
    with closing(Scene(tmp_path, sockets=1)) as scene:
        fill_a_batch(scene)


def fill_a_batch(scene: Scene) -> None:
    clients = [scene.client() for _ in range(64)]
    for number, sock in enumerate(clients):
        scene.ask(wire_query([b"one", b"example"], ident=number), sock)
    scene.ask(wire_query([b"two", b"example"], ident=64))
    queries = sorted((scene.upstream.take() for _ in range(2)), key=lambda taken: question_of(taken[0]).lower())
    for packet, source in queries:
        scene.upstream.socket.sendto(reply_of(packet), source)
    while scene.engine.tick():
        scene.run()
    for number, sock in enumerate((*clients, scene.asking)):
        answer = scene.get(sock)
        assert answer.id == number and answer.answer


def test_do_and_cd_and_type_are_questions_of_their_own(scene: Scene) -> None:
    for asked in (
        query("www.example"),
        query("www.example", do=True),
        query("www.example", cd=True),
        query("www.example", "AAAA"),
        query("www.example", edns=None),
    ):
        scene.ask(asked)
    assert scene.engine.tick() == 4  # the last is the first one's
    for _ in range(4):
        scene.upstream.take()
    assert scene.upstream.is_idle()


@pytest.mark.parametrize(("payload", "fits"), [(None, False), (512, False), (1232, True), (65535, True)])
def test_each_client_gets_what_it_takes(scene: Scene, payload: int | None, fits: bool) -> None:
    text = b"\xc0\x0c\0\x10\0\1\0\0\0\x3c\0\xc9\xc8" + b"x" * 200
    asked = query("big.example", "TXT", edns=None if payload is None else 0, payload=payload or 0)
    scene.ask(asked)
    assert scene.stream(query("big.example", "TXT"), "whole") == WAIT
    scene.upstream.answer(text * 4, count=4)
    scene.run()
    answer = scene.get()
    assert bool(answer.flags & dns.flags.TC) != fits and bool(answer.answer) == fits
    ((_, whole),) = scene.engine.take_answers()
    assert whole is not None and len(dns.message.from_wire(whole).answer) == 1


# -- handed over ------------------------------------------------------------------------------------------------------
def test_a_timeout_is_handed_over_with_all_who_wait(scene: Scene) -> None:
    scene.ask(query("slow.example"))
    scene.stream(query("slow.example"), "me")
    scene.engine.set_timeout(5, 0.001)
    select.select([], [], [], 0.01)
    assert scene.engine.tick() == 0
    punts = scene.engine.take_punts()
    assert [(punt.reason, punt.after, punt.upstream) for punt in punts] == [(PUNT_FORWARD, AFTER_TIMEOUT, 5)] * 2
    assert {punt.token for punt in punts} == {None, "me"}
    assert scene.count(TIMEOUTS) == 1
    packet, _ = scene.upstream.take()
    verdicts = {punt.token: scene.engine.finish(punt, reply_of(packet)) for punt in punts}
    assert verdicts[None] == (REPLY, None) and scene.get().answer
    assert verdicts["me"][1] is not None


def late(scene: Scene, name: str, *, slow: bool = False) -> Punt:
    """Ask for a name, and have Python take it over before the answer comes."""
    scene.ask(query(name))
    scene.engine.set_timeout(5, 0.001, slow)
    select.select([], [], [], 0.01)
    assert scene.engine.tick() == 0
    scene.engine.set_timeout(5, 60)
    return scene.punt()


@pytest.mark.parametrize("slow", [False, True])
def test_a_late_answer_is_kept_and_python_is_told(scene: Scene, slow: bool) -> None:
    punt = late(scene, "slow.example", slow=slow)
    assert punt.after == (AFTER_SLOW if slow else AFTER_TIMEOUT)
    assert scene.count(TIMEOUTS) == (0 if slow else 1), "one that only takes longer than most has not failed"
    assert scene.engine.take_late() == []
    scene.upstream.answer()
    scene.run()
    ((question, answer),) = scene.engine.take_late()
    assert question == punt.question
    assert scene.engine.finish(punt, answer) == (REPLY, None) and scene.get().answer
    scene.ask(query("slow.example"))
    assert scene.get().answer, "it is cached"
    assert scene.world.count("cache", 2) == 1


@pytest.mark.parametrize("flags", [0x8182, 0x8380, 0x8185])
def test_a_late_error_is_passed_over(scene: Scene, flags: int) -> None:
    late(scene, "slow.example")
    scene.upstream.answer(flags=flags)
    scene.run()
    assert scene.engine.take_late() == [] and not scene.world.count("cache", 2)


def test_who_asks_after_a_timeout_asks_anew(scene: Scene) -> None:
    late(scene, "slow.example")
    first, _ = scene.upstream.take()
    scene.ask(query("slow.example"))
    assert scene.upstream.answer()[:2] != first[:2]
    scene.run()
    assert scene.get().answer


def test_what_is_late_takes_no_room_from_others(tmp_path: Path) -> None:
    with closing(Scene(tmp_path, sockets=16)) as scene:
        scene.engine.set_timeout(5, 0.001)
        for number in range(16384 + 100):
            assert scene.stream(wire_query([b"n%d" % number, b"example"]), number, one_of_many(number)) == WAIT
            if number % 4096 == 4095:
                select.select([], [], [], 0.01)
                scene.engine.tick()
                scene.engine.take_punts()


def test_only_what_waited_too_long_is_handed_over(scene: Scene) -> None:
    scene.ask(query("old.example"))
    scene.engine.set_timeout(5, 0.2)
    select.select([], [], [], 0.25)
    scene.ask(query("new.example"))
    assert scene.engine.tick() == 1
    assert scene.punt().qname == b"\3old\7example\0"


@pytest.mark.parametrize(
    ("what", "flags", "after"),
    [
        ("TC", 0x8380, AFTER_TRUNCATED),
        ("FORMERR", 0x8181, AFTER_RCODE),
        ("SERVFAIL", 0x8182, AFTER_RCODE),
        ("NOTIMP", 0x8184, AFTER_RCODE),
        ("REFUSED", 0x8185, AFTER_RCODE),
        ("another opcode", 0xA180, AFTER_BAD),
    ],
)
def test_what_another_server_may_better_is_handed_over(scene: Scene, what: str, flags: int, after: int) -> None:
    scene.ask(query("www.example"))
    scene.upstream.answer(flags=flags)
    scene.run()
    punt = scene.punt()
    assert (punt.reason, punt.after, punt.upstream) == (PUNT_FORWARD, after, 5), what
    assert scene.engine.tick() == 0


@pytest.mark.parametrize(
    ("what", "octets", "count"),
    [
        ("a record cut off", A[:-1], 1),
        ("a pointer forward", b"\xff\xff" + A[2:], 1),
        ("records that are not there", A, 9),
        ("no records at all", b"\0", 65535),
        ("noise", bytes(range(256)), 3),
        ("BADVERS", b"\0\0\x29\4\xd0\1\0\0\0\0\0", 0),
    ],
)
def test_garbage_is_handed_over(scene: Scene, what: str, octets: bytes, count: int) -> None:
    scene.ask(query("www.example"))
    packet, source = scene.upstream.take()
    reply = bytearray(reply_of(packet, octets, count=count))
    if what == "BADVERS":
        reply[11] = 1
    scene.upstream.socket.sendto(bytes(reply), source)
    scene.run()
    assert scene.punt().after == AFTER_BAD, what
    assert not scene.world.count("cache", 2)


def test_a_datagram_that_is_too_large_is_asked_for_over_tcp(scene: Scene) -> None:
    scene.ask(query("www.example"))
    scene.upstream.answer(A, bytes(5000))
    scene.run()
    assert scene.punt().after == AFTER_TRUNCATED


def test_a_closed_port_is_noticed_at_once(scene: Scene) -> None:
    scene.upstream.socket.close()
    scene.ask(query("www.example"))
    scene.run()
    punt = scene.punt()
    assert (punt.after, punt.upstream) == (AFTER_CLOSED, 5)
    assert scene.count(FAILURES) == 1 and scene.engine.tick() == 0


def test_a_question_that_is_cached_by_now_is_answered(scene: Scene) -> None:
    scene.ask(query("www.example"))
    packet, source = scene.upstream.take()
    assert scene.engine.learn(scene.world.punt_elsewhere(query("www.example").to_wire()), reply_of(packet))
    scene.upstream.socket.sendto(reply_of(packet, flags=0x8182), source)
    scene.run()
    assert not scene.engine.take_punts() and scene.get().answer


def test_several_questions_at_once(scene: Scene) -> None:
    for number in range(200):
        scene.asking.send(wire_query([b"n%d" % number, b"example"], ident=number))
    while scene.engine.tick() < 200:
        scene.run()
    packets = [scene.upstream.take() for _ in range(200)]
    assert len({source for _, source in packets}) > 1
    for packet, source in reversed(packets):
        scene.upstream.socket.sendto(reply_of(packet), source)
    while scene.engine.tick():
        scene.run()
    assert sorted(scene.get().id for _ in range(200)) == list(range(200))


# -- what the engine does not ask itself ------------------------------------------------------------------------------
def test_any_and_long_queries_and_streams_without_a_token_are_pythons(scene: Scene) -> None:
    scene.ask(query("www.example", "ANY"))
    assert scene.get().flags & dns.flags.TC  # not over UDP
    assert scene.stream(query("www.example", "ANY"), object()) == PUNT
    scene.ask(query("www.example", options=[dns.edns.GenericOption(dns.edns.OptionType.make(12), bytes(400))]))
    assert scene.stream(query("www.example"), None) == PUNT
    assert [punt.after for punt in scene.engine.take_punts()] == [AFTER_NOTHING] * 3
    assert scene.upstream.is_idle()


def test_a_route_without_an_upstream_is_pythons(scene: Scene) -> None:
    scene.engine.set_route(0, -1)
    scene.ask(query("www.example"))
    assert scene.punt().after == AFTER_NOTHING


def test_routes_have_upstreams_of_their_own(scene: Scene) -> None:
    scene.world.build(block("blocked.example"), routes={"corp.example": 1})
    scene.ask(query("www.corp.example"))
    assert scene.punt().route == 1
    scene.engine.set_route(1, 5)
    scene.ask(query("www.corp.example"))
    scene.upstream.answer()
    scene.run()
    assert scene.get().answer


# -- generations ------------------------------------------------------------------------------------------------------
def test_a_name_that_was_blocked_meanwhile_is_blocked(scene: Scene) -> None:
    scene.ask(query("late.example"))
    scene.stream(query("late.example"), "me")
    scene.world.build(block("late.example", action=Action.NXDOMAIN))
    scene.upstream.answer()
    scene.run()
    assert scene.get().rcode() == dns.rcode.NXDOMAIN
    ((token, reply),) = scene.engine.take_answers()
    assert token == "me" and reply is not None and dns.message.from_wire(reply).rcode() == dns.rcode.NXDOMAIN


def test_a_client_that_was_locked_out_meanwhile_is_refused(scene: Scene) -> None:
    scene.stream(query("late.example"), "me", client("10.0.0.1"))
    scene.world.build(block("x.example"), allow_from=["127.0.0.0/8"])
    scene.upstream.answer()
    scene.run()
    ((_, reply),) = scene.engine.take_answers()
    assert reply is not None and dns.message.from_wire(reply).rcode() == dns.rcode.REFUSED


def test_a_name_that_is_to_be_dropped_by_now_gets_nothing(scene: Scene) -> None:
    scene.ask(query("late.example"))
    scene.stream(query("late.example"), "me")
    scene.world.build(block("late.example", action=Action.DROP))
    scene.upstream.answer()
    scene.run()
    assert scene.engine.take_answers() == [("me", None)]
    assert not select.select([scene.asking], [], [], 0.05)[0]
    assert scene.engine.answer(query("late.example").to_wire(), CLIENT, Transport.TCP)[0] == DROP


def test_a_name_that_became_an_alias_is_pythons(scene: Scene) -> None:
    scene.ask(query("late.example"))
    scene.stream(query("late.example"), "me")
    scene.world.build(block("late.example", action=Action.CNAME, data=("target.example",)))
    scene.upstream.answer()
    scene.run()
    punts = scene.engine.take_punts()
    assert [(punt.reason, punt.after, punt.upstream) for punt in punts] == [(PUNT_LOCAL, AFTER_NOTHING, -1)] * 2
    assert {punt.token for punt in punts} == {None, "me"}


# -- sockets and upstreams --------------------------------------------------------------------------------------------
def test_worn_sockets_rest_and_are_replaced(tmp_path: Path) -> None:
    with closing(Scene(tmp_path, sockets=1)) as scene:
        wear_out(scene)


def wear_out(scene: Scene) -> None:
    for number in range(4096):
        assert scene.stream(wire_query([b"n%d" % number, b"example"]), number) == WAIT
        scene.upstream.answer()
        scene.run()
    assert scene.engine.worn_sockets(5) == [0]
    assert scene.stream(query("more.example"), "me") == PUNT  # it rests: nothing leaves by it
    old, fresh = scene.outside[0], scene.connected()
    scene.engine.replace_socket(5, 0, fresh.fileno())
    old.close()
    scene.outside = [fresh]
    assert scene.engine.worn_sockets(5) == []
    assert scene.stream(query("more.example"), "me") == WAIT
    _, source = scene.upstream.take()
    assert source == fresh.getsockname()
    with pytest.raises(ValueError, match="under way"):
        scene.engine.replace_socket(5, 0, fresh.fileno())


def test_dropping_an_upstream_hands_over_what_is_under_way(scene: Scene) -> None:
    scene.ask(query("a.example"))
    scene.stream(query("b.example"), "me")
    scene.engine.drop_upstream(5)
    punts = scene.engine.take_punts()
    assert {(punt.after, punt.upstream, punt.token) for punt in punts} == {
        (AFTER_CLOSED, 5, None),
        (AFTER_CLOSED, 5, "me"),
    }
    assert scene.engine.tick() == 0
    assert scene.stream(query("c.example"), "me") == PUNT
    with pytest.raises(ValueError, match="no route"):
        scene.engine.set_route(0, 5)
    scene.engine.drop_upstream(5)  # again: nothing happens
    scene.engine.set_upstream(5, [sock.fileno() for sock in scene.outside], SLOT)
    scene.engine.set_route(0, 5)
    scene.ask(query("d.example"))
    assert scene.engine.tick() == 1


@pytest.mark.parametrize(("upstream", "fds", "slot"), [(64, 1, 0), (0, 0, 0), (0, 65, 0), (0, 1, 64), (5, 1, 0)])
def test_upstreams_that_cannot_be_are_refused(scene: Scene, upstream: int, fds: int, slot: int) -> None:
    with pytest.raises(ValueError):
        scene.engine.set_upstream(upstream, [scene.outside[0].fileno()] * fds, slot)


def test_a_descriptor_that_is_none_is_refused_and_leaves_nothing_behind(scene: Scene) -> None:
    with pytest.raises(OSError):
        scene.engine.set_upstream(7, [999_999], 0)
    with scene.connected() as sock:
        scene.engine.set_upstream(7, [sock.fileno()], 0)
        scene.engine.drop_upstream(7)


# -- bounds -----------------------------------------------------------------------------------------------------------
def test_too_many_clients_of_one_question_get_servfail(scene: Scene) -> None:
    for number in range(1024):
        assert scene.stream(query("www.example"), number) == WAIT
    verdict, reply = scene.engine.answer(query("www.example").to_wire(), CLIENT, Transport.TCP, "one more")
    assert verdict == REPLY and reply is not None
    answer = dns.message.from_wire(reply)
    assert (answer.rcode(), ede_of(answer)) == (dns.rcode.SERVFAIL, EDE.NETWORK_ERROR)
    scene.upstream.answer()
    scene.run()
    assert len(scene.engine.take_answers()) == 1024
    assert scene.stream(query("other.example"), "again") == WAIT


def one_of_many(number: int) -> bytes:
    return client(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")


def test_who_has_most_waiting_is_refused_first(tmp_path: Path) -> None:
    with closing(Scene(tmp_path, sockets=16)) as scene:
        greedy, others = client("10.9.9.9"), [client("10.8.8.8"), client("2001:db8:1:2300::1"), CLIENT]

        def ask(number: int, address: bytes) -> bool:
            return scene.stream(wire_query([b"n%d" % number, b"example"]), number, address) == WAIT

        taken = next(number for number in range(16384) if not ask(number, greedy))
        assert 13_000 < taken < 14_000, "four fifths"
        for number in range(20_000, 20_300):
            assert ask(number, others[number % 3]), "nobody else is refused"
        assert not ask(30_000, greedy)
        assert not ask(30_001, greedy)
        assert scene.stream(query("n1.example"), "x", greedy) == REPLY, "not for a question that is under way either"
        scene.engine.set_timeout(5, 0.001)
        select.select([], [], [], 0.01)
        scene.engine.tick()
        assert ask(40_000, greedy), "when they have their answers it has its share again"


def test_the_addresses_of_one_subscriber_count_as_one(tmp_path: Path) -> None:
    with closing(Scene(tmp_path, sockets=16)) as scene:
        asked = 0
        while asked < 16384:
            address = client(f"2001:db8:1:23{asked >> 8 & 255:02x}::{asked & 255:x}")
            if scene.stream(wire_query([b"n%d" % asked, b"example"]), asked, address) != WAIT:
                break
            asked += 1
        assert 13_000 < asked < 14_000
        assert scene.stream(query("more.example"), "more", client("2001:db8:1:2400::1")) == WAIT


def test_too_many_questions_get_servfail_and_room_comes_back(tmp_path: Path) -> None:
    with closing(Scene(tmp_path, sockets=16)) as scene:
        taken = next(
            number
            for number in range(16385)
            if scene.stream(wire_query([b"n%d" % number, b"example"]), number, one_of_many(number)) != WAIT
        )
        assert taken > 16_370, "of 16,384, as some of so many clients are in doubt"
        for number in range(4):
            scene.stream(query(f"more{number}.example"), "more", one_of_many(20_000 + number))
        reply = scene.engine.answer(query("more.example").to_wire(), one_of_many(0), Transport.TCP, "more")[1]
        assert reply is not None and ede_of(dns.message.from_wire(reply)) == EDE.NETWORK_ERROR
        scene.engine.set_timeout(5, 0.001)
        select.select([], [], [], 0.01)
        assert scene.engine.tick() == 0
        assert {punt.token for punt in scene.engine.take_punts()} >= set(range(taken))
        assert scene.stream(query("more.example"), "more", one_of_many(0)) == WAIT
