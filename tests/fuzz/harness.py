"""What the fuzzers run packets through: a world in which every path of the engine can be reached, and what must hold.

Every answer parses with dnspython, has the query's id and question, and is no larger than its client takes. `reached`
counts the paths, so that a run can prove where it has been.
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import dns.edns
import dns.exception
import dns.message
import dns.rcode

from resolver import counters as layout
from resolver.engine.engine import (
    DROP,
    PUNT,
    PUNT_CONDITIONAL,
    PUNT_DNS64,
    PUNT_FORWARD,
    PUNT_LOCAL,
    PUNT_NOTIFY,
    PUNT_PATTERN,
    PUNT_SERVERS,
    REPLY,
    WAIT,
    Engine,
    Punt,
    SuffixTable,
)
from resolver.lists.clients import build_clients
from resolver.lists.rules import TriggerKind
from resolver.punt import inner_query
from resolver.snapshot import Dns64
from resolver.transfer import notify
from resolver.vocabulary import EDE, Action, Transport
from tests.fuzz.packets import Packets
from tests.unit.engine.world import CLIENT, World, allow, block, client, fits, trigger, wire_query

BLOCKED = {
    "address.example": Action.ADDRESS,
    "zero.example": Action.ZERO,
    "nxdomain.example": Action.NXDOMAIN,
    "nodata.example": Action.NODATA,
    "refused.example": Action.REFUSED,
    "drop.example": Action.DROP,
    "tcp.example": Action.TCP_ONLY,
    "servfail.example": Action.SERVFAIL,
}
CACHED = ("kept.example", "big.example", "no.example", "four.example")
NAMES = (
    *BLOCKED,
    *CACHED,
    "data.example",
    "alias.example",
    "garden.example",
    "local.example",
    "gone.example",
    "here.example",
    "search.example",
    "0.4.6.ip6.arpa",
    "conditional.example",
    "needs.example",
    "allowed.zero.example",
    "corp.example",
    "overlaid.example",
    "freed.zero.example",
)
NUMBERS = "nobody.invalid. 1 2 3 4 5"
OWN: Any = {"list": "own"}
STRANGER = client("192.0.2.1")
EVERY = frozenset(
    (
        "drop", "punt forward", "punt conditional", "punt local", "punt notify", "punt pattern", "wait", "formerr", "notimp",
        "badvers", "refused", "nxdomain", "servfail", "noerror", "tc", "cache hit", "cache miss", "cache store", "stranger",
        "badcookie", "nsid", "cookie", "ecs", "structured",
        "learned", "not learned", "no answer", "answered later", "handed over", "overlay", "rebinding", "address",
        "punt dns64", "punt servers", "made", "chased",
        *(f"action {action.name}" for action in Action if action is not Action.CNAME),
    )
)  # fmt: skip


def make_world(folder: Path) -> World:
    """A world with every action, one name for which Python decides and one that needs its answer first."""
    texts = tuple(f"TXT {'x' * 200}{number}" for number in range(9))
    world = World(
        folder,
        *(block(name, action=action) for name, action in BLOCKED.items()),
        block("data.example", action=Action.DATA, data=("A 192.0.2.7", "MX 10 mail.example.", *texts), ttl=77),
        block("alias.example", action=Action.DATA, data=("CNAME target.example.",)),
        block("garden.example", action=Action.CNAME, data=("*.garden.test",)),
        block(
            "local.example",
            action=Action.LOCAL,
            data=("60 A 192.0.2.1", f"9 SOA local.example. {NUMBERS}"),
            **OWN,
        ),
        block("gone.example", action=Action.LOCAL, data=("NXDOMAIN", f"300 SOA gone.example. {NUMBERS}"), **OWN),
        block("here.example", action=Action.LOCAL, data=("60 CNAME local.example.",), **OWN),
        block("0.4.6.ip6.arpa", action=Action.LOCAL, data=("MAPPED",), **OWN),
        block("search.example", action=Action.CNAME, data=("safe.search.test",), list="search"),
        block("conditional.example", condition="dnstype=A", list="conditional"),
        block("needs.example", list="needs"),
        fits("/fits/", "/zzz/"),
        allow("allowed.zero.example"),
        *(block(f"n{number}.many.example", list=f"many{number}") for number in range(4)),
        trigger(TriggerKind.ADDRESS, "192.0.2.0/25", "2001:db8::/32", list="addresses", action=Action.NXDOMAIN),
        trigger(TriggerKind.ADDRESS, "192.0.2.0/28", list="zone", action=Action.NODATA),
        trigger(TriggerKind.NSDNAME, "*.host", "ns.host", list="zone", action=Action.REFUSED),
        trigger(TriggerKind.NSIP, "192.0.2.64/26", list="zone", action=Action.NODATA),
        trigger(TriggerKind.CLIENT, "127.9.0.0/16", list="zone", action=Action.NODATA),
        lists={
            "zone": {
                "rpz": True,
                "replaces": True,
                "break_dnssec": False,
                "ns_triggers": True,
                "soa": (b"\4zone\0", b"\0\0" + bytes(20)),
            },
            "own": {"local": True, "question_only": True, "replaces": True},
            "search": {"question_only": True},
        },
        dns64=Dns64(
            bytes.fromhex("0064ff9b") + bytes(8), None, build_clients(["192.0.2.128/25", "2001:db8:9::/48"], [])
        ),
        guard=["10.0.0.0/8"],
        unguarded=["corp.example"],
        allow_from=["127.0.0.0/8", "::1"],
        routes={"corp.example": 1},
    )
    world.patch("needs.example", flags=1)
    world.engine.set_overlay(SuffixTable({"overlaid.example": (2, 2), "freed.zero.example": (1, 1)}))
    room = memoryview(bytearray(1 << 16))
    world.engine.set_limit(
        room, per_second=1_000_000, prefix4=24, prefix6=56, key=bytes(range(16)), responses=1_000_000
    )
    return world


# What of EDNS may be configured; a run goes through all of it.
POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {
        "cookies": 1,
        "cookie_key": bytes(16),
        "nsid": b"n" * 64,
        "version": b"v" * 255,
        "identity": b"i",
        "keepalive": 100,
    },
    {"cookies": 2, "cookie_key": bytes(16), "structured": 65001},
    {"cookies": 1, "cookie_key": bytes(16), "ecs": "forward", "structured": 65001, "nsid": b"n"},
    {"ecs": "set", "prefix4": 17, "prefix6": 47, "structured": 65001},
)


class Harness:
    """Runs packets and checks what comes back."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.world = make_world(folder)
        self.engine = self.world.engine
        self.packets = Packets(seed, NAMES)
        self.reached: Counter[str] = Counter()
        self.steps = 0
        self._other = Engine(counters=memoryview(bytearray(layout.SIZE)), cache_bytes=1 << 20)  # learns nonsense
        self._tokens = itertools.count()
        self._asked: dict[int, tuple[bytes, Transport]] = {}
        self._hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._hole.bind(("127.0.0.1", 0))
        self._hole.setblocking(False)
        self._outside = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
        for sock in self._outside:
            sock.setblocking(False)
            sock.connect(self._hole.getsockname())
        self._connect()
        self._keep_all()

    def _keep_all(self) -> None:
        for name in CACHED:
            self.keep(name)
        for name in ("four.example", "big.example"):
            self.keep(name, 28)

    def _connect(self) -> None:
        self.engine.set_upstream(0, [sock.fileno() for sock in self._outside], 0)
        self.engine.set_route(0, 0)
        self.engine.set_timeout(0, 60)

    def keep(self, name: str, qtype: int = 1) -> None:
        """Answers for a name in the cache: one record, more than a datagram, none."""
        packet = wire_query([label.encode() for label in name.split(".")], qtype)
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 3600, 4) + bytes(4)
        soa = b"\xc0\x0c" + struct.pack(">HHIH", 6, 1, 3600, 22) + b"\0\0" + struct.pack(">IIIII", 1, 2, 3, 4, 3600)
        count = {"kept.example": 1, "big.example": 200, "four.example": 3}.get(name, 0) if qtype == 1 else 0
        header = packet[:2] + struct.pack(">HHHHH", 0x81A0, 1, count, 0 if count else 1, 0)
        answer = header + packet[12:] + (record * count if count else soa)
        assert self.engine.learn(self.world.punt_elsewhere(packet), answer)

    def close(self) -> None:
        """Give the sockets back."""
        self.engine.close()
        for sock in (*self._outside, self._hole):
            sock.close()

    def run(self, count: int) -> None:
        """`count` packets, and an answer for whatever Python is handed."""
        for number in range(count):
            self.step(self.packets.packet())
            if number % 500 == 499:
                self._let_time_pass()
                self.engine.configure_edns(**POLICIES[number // 500 % len(POLICIES)])

    def step(self, packet: bytes) -> None:
        """One packet from some client by some transport."""
        self.steps += 1
        chance = self.packets.chance
        transport = Transport.UDP if chance.random() < 0.7 else Transport.TCP
        stranger = chance.random() < 0.03
        token = next(self._tokens) if chance.random() < 0.5 else None
        verdict, reply = self.engine.answer(packet, STRANGER if stranger else CLIENT, transport, token)
        if verdict == WAIT:
            assert token is not None
            self._asked[token] = (packet, transport)
            self.reached["wait"] += 1
        elif verdict == PUNT:
            self._punts()
        elif verdict == DROP:
            self.reached["drop"] += 1
            assert reply is None
        else:
            assert verdict == REPLY and reply is not None
            if stranger:
                self.reached["stranger"] += 1
            self.check(packet, transport, reply)

    def check(self, packet: bytes, transport: Transport, reply: bytes) -> dns.message.Message:
        """What must hold of every answer."""
        answer = parse(reply)
        assert reply[:2] == packet[:2] and reply[2] & 0x80 and not reply[3] & 0x40
        assert len(reply) <= (limit_of(packet) if transport == Transport.UDP else 65535)
        if answer.question:
            end = len(answer.question[0].name.to_wire() or b"") + 16
            assert reply[12:end] == packet[12:end]
        if reply[2] & 0x02:
            self.reached["tc"] += 1
        for each in answer.options:
            self.reached[{3: "nsid", 8: "ecs", 10: "cookie"}.get(int(each.otype), "")] += 1
            if isinstance(each, dns.edns.EDEOption) and (each.text or "").startswith("{"):
                self.reached["structured"] += 1
        if any(rrset.rdtype == 28 and str(rrset[0]).startswith("64:ff9b::") for rrset in answer.answer):
            self.reached["made"] += 1
        self.reached[dns.rcode.to_text(answer.rcode()).lower()] += 1
        return answer

    def _punts(self) -> None:
        reasons = {
            PUNT_FORWARD: "forward",
            PUNT_CONDITIONAL: "conditional",
            PUNT_LOCAL: "local",
            PUNT_PATTERN: "pattern",
            PUNT_NOTIFY: "notify",
            PUNT_DNS64: "dns64",
            PUNT_SERVERS: "servers",
        }
        for punt in self.engine.take_punts():
            self.reached[f"punt {reasons[punt.reason]}"] += 1
            if punt.reason == PUNT_NOTIFY:
                said, _ = notify.answer((), punt.packet, punt.qname, punt.qtype, punt.client)
                sent = self.engine.send(punt, said)
                if sent is not None:
                    self.check(punt.packet, Transport(punt.transport), sent)
                continue
            if punt.reason == PUNT_LOCAL and self.packets.chance.random() < 0.5:
                self._chase(punt)
            cell = None
            if punt.reason == PUNT_CONDITIONAL:
                cell = self.world.cell(self.packets.chance.choice(("zero.example", "data.example", "nxdomain.example")))
            answer, is_sound = None, self.packets.chance.random() < 0.7
            if self.packets.chance.random() < 0.9:
                question = punt.packet[12 : 16 + len(punt.qname)]
                if punt.reason == PUNT_DNS64:
                    question = question[:-4] + b"\0\1" + question[-2:]
                answer = self.packets.answer(question)
                answer = answer if is_sound else self.packets.damaged(answer)
                if punt.reason != PUNT_DNS64:
                    self._learn(punt, answer, is_sound)
            if punt.reason == PUNT_PATTERN:
                listsets = [listset for _, listset, _ in self.world.policy.patterns]
                for name in punt.names:
                    if self.packets.chance.random() < 0.9:
                        self.engine.remember(name, [x for x in listsets if b"fits" in name], punt.generation)
                verdict, reply = self.engine.resume(punt)
            elif punt.reason == PUNT_SERVERS:
                verdict, reply = self._serve(punt)
                is_sound = True  # it is about an answer from the cache: damaged ones are another engine's to learn
            elif punt.reason == PUNT_DNS64:
                verdict, reply = self.engine.synthesise(punt, answer)
            elif cell is not None:
                verdict, reply = self.engine.decide(punt, cell)
            else:
                verdict, reply = self.engine.finish(punt, answer, EDE.NETWORK_ERROR, "no way")
            assert verdict in (REPLY, DROP, PUNT)
            if verdict == PUNT:
                self._make(is_sound)
            if reply is not None and is_sound:
                self.check(punt.packet, Transport(punt.transport), reply)
            elif reply is not None:
                self.check_forwarded(punt.packet, Transport(punt.transport), reply)

    def _serve(self, punt: Punt) -> tuple[int, bytes | None]:
        """Tell who the servers of a punt's names are, or of some of them."""
        chance = self.packets.chance
        for name in punt.names:
            if chance.random() < 0.9:
                servers = [chance.choice((b"\0", b"\2ns\4host\0", b"\1x\4host\0", name)) for _ in range(3)]
                addresses = [bytes(10) + b"\xff\xff\xc0\0\2" + bytes([chance.randrange(256)]) for _ in range(9)]
                keep = chance.randrange(10)
                self.engine.remember_servers(
                    name, servers[keep:], addresses[keep:], chance.randrange(3), punt.generation
                )
        return self.engine.resume(punt)

    def _make(self, is_sound: bool) -> None:
        """What is handed up again: for AAAA records that are to be made, an answer for A; for servers, some."""
        for punt in self.engine.take_punts():
            if punt.reason == PUNT_SERVERS:
                self.reached["punt servers"] += 1
                reply = self._serve(punt)[1]
                self.engine.take_punts()  # nobody looks further for these: a damaged answer ends here
                if reply is not None and is_sound:
                    self.check(punt.packet, Transport(punt.transport), reply)
            if punt.reason == PUNT_DNS64:
                self.reached["punt dns64"] += 1
                question = punt.packet[12 : 12 + len(punt.qname)] + b"\0\1\0\1"
                answer = self.packets.answer(question)
                reply = self.engine.synthesise(punt, answer if is_sound else self.packets.damaged(answer))[1]
                self.engine.take_punts()
                if reply is not None and is_sound:
                    self.check(punt.packet, Transport(punt.transport), reply)

    def _chase(self, punt: Punt) -> None:
        """The question for an alias's target: a name known here, or any."""
        name = self.packets.name()
        try:
            verdict, reply = self.engine.chase(inner_query(name, punt.qtype, 1, do=punt.do, cd=punt.cd), CLIENT, None)
        except ValueError:
            return
        if verdict == PUNT:
            for inner in self.engine.take_punts():
                if inner.reason == PUNT_DNS64:
                    self.engine.synthesise(inner, None)
                elif inner.reason == PUNT_FORWARD:
                    self.reached["chased"] += 1
                    self.engine.finish(inner, self.packets.damaged(self.packets.answer(name + inner.packet[-15:-11])))
            self._make(is_sound=False)
        elif reply is not None:
            dns.message.from_wire(reply)

    def _learn(self, punt: Punt, answer: bytes, is_sound: bool) -> None:
        engine = self.engine if is_sound else self._other
        try:
            self.reached["learned" if engine.learn(punt, answer) else "not learned"] += 1
        except ValueError:
            self.reached["no answer"] += 1

    def check_forwarded(self, packet: bytes, transport: Transport, reply: bytes) -> None:
        """What must hold where an upstream's nonsense is passed on as it stands, which dnspython need not like."""
        assert reply[:2] == packet[:2] and reply[2] & 0x80
        assert len(reply) <= (limit_of(packet) if transport == Transport.UDP else 65535)

    def _let_time_pass(self) -> None:
        """Half of what is under way is answered, the rest handed over; worn sockets are made new."""
        self._answer_some()
        self.engine.drop_upstream(0)
        for token, reply in self.engine.take_answers():
            packet, transport = self._asked.pop(token)  # type: ignore[call-overload]
            self.reached["answered later"] += 1
            if reply is not None:
                self.check(packet, transport, reply)
        self.reached["handed over"] += len(self._asked)
        self._asked.clear()
        self._punts()
        self._connect()
        self.engine.flush()
        self._keep_all()

    def _answer_some(self) -> None:
        for _ in range(len(self._asked)):
            try:
                packet, source = self._hole.recvfrom(4096)
            except BlockingIOError:
                break
            if self.packets.chance.random() < 0.5:
                self._hole.sendto(packet[:2] + self.packets.answer(packet[12:-11])[2:], source)
        while self.engine.drain() or select.select([self.engine.fileno()], [], [], 0)[0]:
            pass

    def paths(self) -> Counter[str]:
        """What was reached, with what the counters say."""
        found = Counter(self.reached)
        cache = layout.SECTIONS["cache"].of(self.world.counters)
        found.update({"cache hit": cache[0], "cache miss": cache[1], "cache store": cache[2]})
        answers = layout.SECTIONS["answers"].of(self.world.counters)
        found["overlay"] = sum(answers[action * layout.LIST_SLOTS + layout.OVERLAY_SLOT] for action in Action)
        found["rebinding"] = answers[Action.NODATA * layout.LIST_SLOTS + layout.REBINDING_SLOT]
        slot = self.world.slots["addresses"]
        found["address"] = answers[Action.NXDOMAIN * layout.LIST_SLOTS + slot]
        for action in Action:
            found[f"action {action.name}"] += sum(answers[action * layout.LIST_SLOTS :][: layout.LIST_SLOTS])
        return found


def parse(reply: bytes) -> dns.message.Message:
    """A reply as dnspython reads it, which knows no network of FAMILY 0, as `dig +subnet=0` says it (RFC 7871 section 6)."""
    try:
        return dns.message.from_wire(reply)
    except dns.exception.FormError:
        assert reply.count(b"\0\x08\0\4\0\0\0\0") == 1
        return dns.message.from_wire(reply.replace(b"\0\x08\0\4\0\0\0\0", b"\0\x08\0\4\0\1\0\0"))


def limit_of(packet: bytes) -> int:
    """The most octets that a UDP client takes, by the first OPT record; 1232 where none can be found is safe to allow."""
    at = packet.find(b"\0\0\x29", 12)
    size = int.from_bytes(packet[at + 3 : at + 5], "big") if 0 <= at <= len(packet) - 5 else 0
    return 1232 if packet.count(b"\0\0\x29") > 1 else min(max(size, 512), 1232)
