"""Punts with a fake engine, where every call is seen, and with the real one, where sockets and cache are."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import uvloop

from resolver import counters, punt
from resolver.delegations import Servers
from resolver.engine.engine import (
    AFTER_NOTHING,
    AFTER_RCODE,
    AFTER_TRUNCATED,
    PUNT,
    PUNT_CONDITIONAL,
    PUNT_DNS64,
    PUNT_FORWARD,
    PUNT_LOCAL,
    PUNT_SERVERS,
    REPLY,
    Engine,
    Index,
    Snapshot,
)
from resolver.listeners.connection import Door
from resolver.listeners.server import StreamServer
from resolver.listeners.stream import Stream
from resolver.punt import Alias, Decided, Punts, alias_reply, error_reply
from resolver.snapshot import CELL, NO_SLOT, Clients, Policy
from resolver.upstream.health import Strategy
from resolver.upstream.message import wire_name
from resolver.upstream.pool import Pool, PoolConfig
from resolver.upstream.server import Server
from resolver.vocabulary import Action, Rank, Transport
from tests.fakes import Act, FakeUpstream, address_of
from tests.indexes import make_index
from tests.ports import free_port

Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(asyncio.wait_for(coroutine, 20))

    return runner


async def until(done: Callable[[], bool]) -> None:
    """Wait for what has to come."""
    while not done():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def server_of(upstream: FakeUpstream) -> Server:
    return Server(str(upstream.port), upstream.host, upstream.port)


def pool_of(*upstreams: FakeUpstream, timeout: float = 2.0) -> Pool:
    return Pool(PoolConfig({0: [server_of(upstream) for upstream in upstreams]}, Strategy.ORDERED, timeout))


MAPPED = bytes(10) + b"\xff\xff"


# -- a fake engine ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class FakePunt:
    name: str
    qtype: int = 1
    reason: int = PUNT_FORWARD
    transport: int = Transport.UDP
    after: int = AFTER_NOTHING
    route: int = 0
    do: bool = False
    cd: bool = False
    token: Any = None
    upstream: int = 0
    edns: int = -1
    ecs: bytes = b""
    structured: bool = False
    generation: int = 1
    client: bytes = MAPPED + bytes([192, 0, 2, 1])

    def __post_init__(self) -> None:
        query = dns.message.make_query(self.name, dns.rdatatype.RdataType(self.qtype), use_edns=self.edns, payload=4096)
        self.packet = query.to_wire()
        self.qname = wire_name(self.name)
        self.names = (self.qname,)
        self.question = self.qname + bytes([self.qtype, self.do, self.cd, self.route])


@dataclass
class FakeEngine:
    up: list[FakePunt] = field(default_factory=list)
    answers: list[tuple[Any, bytes | None]] = field(default_factory=list)
    learned: list[tuple[FakePunt, bytes]] = field(default_factory=list)
    finished: list[tuple[FakePunt, bytes | None, int, str]] = field(default_factory=list)
    decided: list[tuple[FakePunt, bytes | None, int]] = field(default_factory=list)
    sent: list[tuple[FakePunt, bytes]] = field(default_factory=list)
    unsound: bool = False
    stale: bool = False
    failed: list[tuple[FakePunt, int]] = field(default_factory=list)
    served: list[tuple[bytes, Any, Any, int]] = field(default_factory=list)
    again: int = 0
    broken: bool = False
    late: list[tuple[bytes, bytes]] = field(default_factory=list)

    def take_punts(self) -> list[FakePunt]:
        up, self.up = self.up, []
        return up

    def take_answers(self) -> list[tuple[Any, bytes | None]]:
        answers, self.answers = self.answers, []
        return answers

    def take_late(self) -> list[tuple[bytes, bytes]]:
        late, self.late = self.late, []
        return late

    def learn(self, punt: FakePunt, answer: bytes) -> bool:
        if self.unsound:
            raise ValueError("no sound answer")
        self.learned.append((punt, answer))
        return True

    def decide(self, punt: FakePunt, cell: bytes | None, listset: int = 0) -> tuple[int, bytes | None]:
        self.decided.append((punt, cell, listset))
        if cell is not None and cell[1] in (Action.FORWARD, Action.ALLOW):
            self.up.append(replace(punt, reason=PUNT_FORWARD))
            return PUNT, None
        return REPLY, b"decided" if punt.token else None

    def finish(self, punt: FakePunt, answer: bytes | None, ede: int = -1, text: str = "") -> tuple[int, bytes | None]:
        if self.broken:
            raise RuntimeError("broken")
        if self.again:
            self.again -= 1
            self.up.append(punt)
            return PUNT, None
        self.finished.append((punt, answer, ede, text))
        return (REPLY, answer or error_reply(punt.packet, len(punt.qname), 2)) if punt.token else (REPLY, None)

    def chase(self, packet: bytes, client: bytes, token: Any) -> tuple[int, bytes | None]:
        asked = dns.message.from_wire(packet).question[0]
        self.up.append(FakePunt(asked.name.to_text(omit_final_dot=True), asked.rdtype, token=token))
        return PUNT, None

    def remember_servers(self, name: bytes, servers: Any, addresses: Any, ttl: int, generation: int) -> None:
        if self.broken:
            raise RuntimeError("broken")
        self.served.append((name, servers, addresses, ttl))

    def resume(self, punt: FakePunt) -> tuple[int, bytes | None]:
        return REPLY, b"resumed" if punt.token else None

    def fail(self, punt: FakePunt, ede: int) -> None:
        self.failed.append((punt, ede))

    def has_stale(self, punt: FakePunt) -> bool:
        return self.stale

    def send(self, punt: FakePunt, reply: bytes) -> bytes | None:
        self.sent.append((punt, reply))
        return reply if punt.token else None


CHASE = Alias(wire_name("garden.example"), 30, 15, "blocked")


def no_local(_: Any) -> Alias | bytes:
    raise AssertionError("not asked for")


def no_cell(_: Any) -> bytes:
    raise AssertionError("not asked for")


def make(engine: FakeEngine, pool: Pool, **options: Any) -> Punts:
    options = {"describe": no_local, "decide": no_cell} | options
    return Punts(cast(Engine, engine), pool, **options)


def first_address(message: bytes | None) -> str:
    assert message is not None
    return str(dns.message.from_wire(message).answer[-1][0])


def test_identical_questions_share_one_exchange(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("www.example.com", Act(delay=0.05))

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(upstream)
            punts = make(engine, pool)
            engine.up = [FakePunt("www.example.com") for _ in range(50)] + [FakePunt("www.example.com", do=True)]
            punts.run()
            assert punts.in_flight == 51 and pool.in_flight == 2
            assert await punts.drain(5.0)
            assert upstream.count("www.example.com") == 2
            assert len(engine.learned) == 2
            assert len({id(finished[0]) for finished in engine.finished}) == len(engine.finished) == 51
            assert all(first_address(f[1]) == address_of("www.example.com") for f in engine.finished)
            pool.close()

        run(body())


def test_streams_get_their_reply_through_the_token(run: Runner) -> None:
    with FakeUpstream() as upstream:

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(upstream)
            got: list[bytes | None] = []
            punts = make(engine, pool)
            engine.up = [FakePunt("www.example.com", token=got.append, transport=Transport.TCP)]
            engine.answers = [(got.append, b"early"), (got.append, None)]
            punts.run()
            assert got == [b"early", None]
            await punts.drain(5.0)
            assert first_address(got[2]) == address_of("www.example.com")
            pool.close()

        run(body())


def test_an_answer_that_cannot_be_delivered_keeps_no_other_back(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    def gone(reply: bytes | None) -> None:
        raise OSError("gone")

    async def body() -> None:
        engine, pool = FakeEngine(), Pool(PoolConfig({0: []}))
        got: list[bytes | None] = []
        punts = make(engine, pool)
        engine.up = [FakePunt("www.example.com")]
        engine.answers = [(gone, b"lost"), (got.append, b"early")]
        punts.run()
        assert got == [b"early"] and len(engine.finished) == 1
        pool.close()

    run(body())
    assert "could not be delivered" in caplog.text


def test_when_upstreams_fail_every_waiter_is_told_why(run: Runner) -> None:
    async def body() -> None:
        engine, pool = FakeEngine(), Pool(PoolConfig({0: []}))
        punts = make(engine, pool)
        engine.up = [FakePunt("www.example.com"), FakePunt("www.example.com")]
        punts.run()
        assert [(answer, ede) for _, answer, ede, _ in engine.finished] == [(None, 22), (None, 22)]
        assert punts.in_flight == 0 and not engine.learned
        pool.close()

    run(body())


def test_an_answer_that_the_engine_finds_unsound_is_nobodys(run: Runner) -> None:
    with FakeUpstream() as upstream:

        async def body() -> None:
            engine, pool = FakeEngine(unsound=True), pool_of(upstream)
            punts = make(engine, pool)
            engine.up = [FakePunt("www.example.com"), FakePunt("www.example.com")]
            punts.run()
            await punts.drain(5.0)
            assert [(answer, ede) for _, answer, ede, _ in engine.finished] == [(None, 23), (None, 23)]
            pool.close()

        run(body())


def test_waiters_are_bounded(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punt, "MAX_WAITERS", 3)
    monkeypatch.setattr(punt, "MAX_ALL_WAITERS", 5)
    with FakeUpstream() as upstream:
        upstream.on("*", Act(delay=0.05))

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(upstream)
            punts = make(engine, pool)
            engine.up = [FakePunt("a.example") for _ in range(4)] + [FakePunt("b.example") for _ in range(3)]
            punts.run()
            assert [(f[0].name, f[2], f[3]) for f in engine.finished] == [
                ("a.example", 23, "too many queries in flight"),
                ("b.example", 23, "too many queries in flight"),
                ("b.example", 23, "too many queries in flight"),
            ]
            await punts.drain(5.0)
            assert len(engine.finished) == 7
            pool.close()

        run(body())


def test_who_has_most_waiting_is_shed_first(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punt, "MAX_ALL_WAITERS", 100)
    with FakeUpstream() as upstream:
        upstream.on("*", Act(delay=0.3))

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(upstream)
            punts = make(engine, pool)
            engine.up = [FakePunt(f"a{number}.example") for number in range(100)]
            punts.run()
            assert len(engine.finished) == 20, "one client can have four fifths"
            other = ipaddress.ip_address("192.0.2.99").packed
            engine.up = [FakePunt(f"b{number}.example", client=MAPPED + other) for number in range(10)]
            engine.up += [FakePunt("c.example")]
            punts.run()
            assert [f[0].name for f in engine.finished[20:]] == ["c.example"], "the other has all of its own"
            assert engine.finished[-1][2:] == (23, "too many queries in flight")
            await punts.drain(5.0)
            assert punts.in_flight == 0
            engine.up = [FakePunt(f"d{number}.example") for number in range(50)]
            punts.run()
            await punts.drain(5.0)
            assert len(engine.finished) == 161 and punts.in_flight == 0
            pool.close()

        run(body())


def test_an_answer_that_comes_after_all_to_the_engine_is_everybodys(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("*", Act(delay=0.3))

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(upstream)
            punts = make(engine, pool)
            engine.up = [FakePunt("a.example"), FakePunt("a.example"), FakePunt("b.example")]
            question = engine.up[0].question
            punts.run()
            engine.late = [(question, b"late"), (b"unknown", b"late")]
            punts.run()
            assert [(f[0].name, f[1]) for f in engine.finished] == [("a.example", b"late")] * 2
            await punts.drain(5.0)
            await asyncio.sleep(0.5)  # the exchange for a.example ends too, and finds nobody
            assert [f[0].name for f in engine.finished] == ["a.example", "a.example", "b.example"]
            pool.close()

        run(body())


def test_any_goes_over_tcp(run: Runner) -> None:
    with FakeUpstream() as upstream:

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(upstream)
            punts = make(engine, pool)
            engine.up = [FakePunt("www.example.com", 255)]
            punts.run()
            await punts.drain(5.0)
            assert [seen.transport for seen in upstream.seen] == ["tcp"]
            pool.close()

        run(body())


def test_what_the_engine_tried_is_not_tried_again_first(run: Runner) -> None:
    with FakeUpstream() as first, FakeUpstream() as second:

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(first, second)
            punts = make(engine, pool, asked=lambda _: server_of(first))
            engine.up = [FakePunt("refused.example", after=AFTER_RCODE)]
            punts.run()
            await punts.drain(5.0)
            assert (first.count("refused.example"), second.count("refused.example")) == (0, 1)
            engine.up = [FakePunt("large.example", after=AFTER_TRUNCATED)]
            punts.run()
            await punts.drain(5.0)
            assert [(seen.name.lower(), seen.transport) for seen in first.seen] == [("large.example", "tcp")]
            pool.close()

        run(body())


def test_a_change_of_policy_takes_the_punt_up_again(run: Runner) -> None:
    with FakeUpstream() as upstream:

        async def body() -> None:
            engine, pool = FakeEngine(again=1), pool_of(upstream)
            got: list[bytes | None] = []
            punts = make(engine, pool)
            engine.up = [FakePunt("www.example.com", token=got.append, transport=Transport.TCP)]
            punts.run()
            while not got:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert len(got) == 1 and upstream.count("www.example.com") == 2
            pool.close()

        run(body())


@pytest.mark.parametrize(("action", "asks"), [(Action.FORWARD, 1), (Action.ALLOW, 1), (Action.NXDOMAIN, 0)])
def test_conditional_punts_go_on_with_the_cell_that_was_decided(run: Runner, action: Action, asks: int) -> None:
    cell = CELL.pack(Rank.BLOCK, action, 0, 0, 7, 0)
    with FakeUpstream() as upstream:

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(upstream)
            got: list[bytes | None] = []
            punts = make(engine, pool, decide=lambda _: Decided(cell, 3))
            engine.up = [FakePunt("www.example.com", reason=PUNT_CONDITIONAL, token=got.append)]
            punts.run()
            while not got:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert upstream.count("www.example.com") == asks
            assert engine.decided[0][1:] == (cell, 3) and (got == [b"decided"]) is not bool(asks)
            pool.close()

        run(body())


@pytest.mark.parametrize("decided", [None, b"reply"])
def test_conditional_punts_may_be_asked_for_anew_or_answered_whole(run: Runner, decided: bytes | None) -> None:
    async def body() -> None:
        engine, pool = FakeEngine(), Pool(PoolConfig({0: []}))
        got: list[bytes | None] = []
        punts = make(engine, pool, decide=lambda _: decided)
        engine.up = [FakePunt("www.example.com", reason=PUNT_CONDITIONAL, token=got.append)]
        punts.run()
        assert got == ([b"decided"] if decided is None else [b"reply"])
        assert [call[1:] for call in engine.decided] == ([(None, 0)] if decided is None else [])
        pool.close()

    run(body())


def test_local_replies_are_sent_as_they_stand(run: Runner) -> None:
    async def body() -> None:
        engine, pool = FakeEngine(), Pool(PoolConfig({0: []}))
        got: list[bytes | None] = []
        punts = make(engine, pool, describe=lambda _: b"reply")
        engine.up = [
            FakePunt("local.example", reason=PUNT_LOCAL),
            FakePunt("local.example", reason=PUNT_LOCAL, token=got.append),
        ]
        punts.run()
        assert [reply for _, reply in engine.sent] == [b"reply", b"reply"] and got == [b"reply"]
        pool.close()

    run(body())


def test_an_alias_is_answered_with_its_targets_addresses(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on(
            "garden.example",
            Act(records=("garden.example. 60 IN CNAME host.example.", "host.example. 50 IN A 192.0.2.80")),
        )

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(upstream)
            punts = make(engine, pool, describe=lambda _: CHASE)
            engine.up = [
                FakePunt("BAD.Example", reason=PUNT_LOCAL, edns=0),
                FakePunt("bad2.example", reason=PUNT_LOCAL),
            ]
            queries = [dns.message.from_wire(up.packet) for up in engine.up]
            punts.run()
            await until(lambda: len(engine.sent) == 2)
            assert upstream.count("garden.example") == 1  # both wait for one exchange
            reply = dns.message.from_wire(engine.sent[0][1])
            assert reply.id == queries[0].id and reply.question[0].name.to_text() == "BAD.Example."
            assert [record.to_text() for record in reply.answer] == [
                "BAD.Example. 30 IN CNAME garden.example.",
                "garden.example. 60 IN CNAME host.example.",
                "host.example. 50 IN A 192.0.2.80",
            ]
            assert reply.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
            assert reply.extended_errors()[0].to_text() == "EDE 15 (Blocked): blocked"
            plain = dns.message.from_wire(engine.sent[1][1])
            assert plain.edns == -1 and len(plain.answer) == 3
            pool.close()

        run(body())


@pytest.mark.parametrize("way", ["alias", "dns64"])
@pytest.mark.parametrize("where", ["after", "inner send"])
def test_an_error_on_the_way_back_from_another_question_is_servfail(
    run: Runner, caplog: pytest.LogCaptureFixture, way: str, where: str
) -> None:
    """Whatever fails once the other question is under way: its own client is answered, the error is logged."""

    class Broken(FakeEngine):
        def synthesise(self, punt: FakePunt, answer: bytes | None) -> tuple[int, bytes | None]:
            if where == "after":
                raise RuntimeError("broken")
            return super().finish(punt, answer)

        def finish(self, punt: FakePunt, answer: bytes | None, ede: int = -1, text: str = "") -> Any:
            if where == "inner send":
                raise RuntimeError("broken")
            return super().finish(punt, answer, ede, text)

        def send(self, punt: FakePunt, reply: bytes) -> bytes | None:
            is_error = dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL
            if punt.name != "bad.example" if where == "inner send" else not is_error:
                raise RuntimeError("broken")
            return super().send(punt, reply)

    with FakeUpstream() as upstream:
        upstream.on("*", Act(delay=0.05))

        async def body() -> None:
            engine, pool = Broken(), pool_of(upstream)
            got: list[bytes | None] = []
            punts = make(engine, pool, describe=lambda _: CHASE)
            reason = PUNT_LOCAL if way == "alias" else PUNT_DNS64
            engine.up = [FakePunt("bad.example", reason=reason, token=got.append)]
            punts.run()
            await until(lambda: bool(got))
            assert got[0] is not None and dns.message.from_wire(got[0]).rcode() == dns.rcode.SERVFAIL
            await until(lambda: not punts.in_flight)
            assert len(got) == 1
            pool.close()

        run(body())
    assert "could not be handled" in caplog.text and "broken" in caplog.text


def test_an_alias_whose_target_fails_fails_too(run: Runner) -> None:
    async def body() -> None:
        engine, pool = FakeEngine(), Pool(PoolConfig({0: []}))
        punts = make(engine, pool, describe=lambda _: CHASE)
        engine.up = [FakePunt("bad.example", reason=PUNT_LOCAL)]
        punts.run()
        await until(lambda: bool(engine.sent))
        reply = dns.message.from_wire(engine.sent[0][1])
        assert reply.rcode() == dns.rcode.SERVFAIL
        assert [record.to_text() for record in reply.answer] == ["bad.example. 30 IN CNAME garden.example."]
        pool.close()

    run(body())


@pytest.mark.parametrize("fault", ["", "seek", "remember"])
def test_those_who_wait_for_the_servers_of_a_name_wait_together(
    run: Runner, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punt, "MAX_WAITERS", 3)

    async def body() -> None:
        sought: list[Any] = []

        def seek(names: Any, route: int, done: Any) -> None:
            if fault == "seek":
                raise RuntimeError("broken")
            sought.append((names, done))

        engine, pool = FakeEngine(broken=fault == "remember"), Pool(PoolConfig({0: []}))
        got: list[bytes | None] = []
        punts = make(engine, pool, seek=seek)
        engine.up = [FakePunt("x.example", reason=PUNT_SERVERS, token=got.append) for _ in range(4)]
        punts.run()
        servers = Servers((b"\2ns\0",), (), 60)
        if fault != "seek":
            [(names, done)] = sought
            assert punts.in_flight == 3 and len(got) == 1 and names == (wire_name("x.example"),)
            done([servers])
        assert punts.in_flight == 0 and len(got) == 4
        assert engine.served == ([] if fault else [(wire_name("x.example"), *servers)])
        failed = [reply for reply in got if reply != b"resumed"]
        assert len(failed) == (4 if fault else 1), "the fourth found no place"
        assert {dns.message.from_wire(reply or b"").rcode() for reply in failed} == {dns.rcode.SERVFAIL}
        pool.close()

    run(body())


@pytest.mark.parametrize("qtype", [5, 255])
def test_who_asks_for_the_alias_itself_gets_that_alone(run: Runner, qtype: int) -> None:
    with FakeUpstream() as upstream:

        async def body() -> None:
            engine, pool = FakeEngine(), pool_of(upstream)
            punts = make(engine, pool, describe=lambda _: CHASE)
            engine.up = [FakePunt("bad.example", qtype, reason=PUNT_LOCAL)]
            punts.run()
            assert len(dns.message.from_wire(engine.sent[0][1]).answer) == 1
            assert not upstream.seen
            pool.close()

        run(body())


@pytest.mark.parametrize("reason", [PUNT_FORWARD, PUNT_LOCAL, PUNT_CONDITIONAL])
def test_an_error_of_our_own_is_servfail_and_harms_no_other(
    run: Runner, reason: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        def fail(_: Any) -> Any:
            raise RuntimeError("broken")

        engine, pool = FakeEngine(broken=True), Pool(PoolConfig({0: []}))
        got: list[bytes] = []
        punts = make(engine, pool, describe=fail, decide=fail)
        engine.up = [FakePunt("a.example", reason=reason, token=got.append, edns=0) for _ in range(2)]
        punts.run()
        assert punts.in_flight == 0 and len(got) == 2
        for wire in got:
            reply = dns.message.from_wire(wire)
            assert reply.rcode() == dns.rcode.SERVFAIL and reply.edns == 0
        pool.close()

    run(body())
    assert "could not be handled" in caplog.text


@pytest.mark.parametrize("where", ["start", "learn", "fail", "token"])
def test_an_error_between_asking_and_learning_leaves_nobody_waiting(
    run: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    with FakeUpstream() as upstream:
        upstream.on("*", Act(drop=where == "fail"))

        async def body() -> None:
            engine, pool = FakeEngine(stale=where == "fail"), pool_of(upstream)
            got: list[Any] = []
            punts = make(engine, pool)
            monkeypatch.setattr(punt, "STALE_AFTER", 0.01)
            if where != "token":
                monkeypatch.setattr(pool if where == "start" else engine, where, broken)
            for times in (1, 2):  # and the question can be asked anew
                first = broken if where == "token" else got.append
                engine.up = [FakePunt("a.example", token=token) for token in (first, got.append)]
                punts.run()
                await until(lambda times=times: len(got) == times * (1 if where == "token" else 2))  # type: ignore[misc]
                await until(lambda: not punts.in_flight)
            if where != "token":
                assert {dns.message.from_wire(reply).rcode() for reply in got} == {dns.rcode.SERVFAIL}
            assert await punts.drain(0)
            pool.close()

        run(body())
    assert "broken" in caplog.text


# -- replies ----------------------------------------------------------------------------------------------------------


def query(name: str = "www.bad.example", qtype: str = "A", **options: Any) -> bytes:
    return dns.message.make_query(name, qtype, **options).to_wire()


def test_an_error_reply_repeats_question_and_bits() -> None:
    packet = query("WwW.bad.example", want_dnssec=True, flags=dns.flags.RD | dns.flags.CD)
    reply = dns.message.from_wire(error_reply(packet, 17, 2))
    assert dns.message.from_wire(packet).is_response(reply)
    assert reply.flags & 0xFFF0 == dns.flags.QR | dns.flags.RD | dns.flags.RA | dns.flags.CD
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert reply.ednsflags == dns.flags.DO


def target_answer(count: int, rcode: int = 0, qtype: str = "A") -> bytes:
    message = dns.message.make_response(dns.message.make_query("garden.example", qtype))
    message.set_rcode(dns.rcode.Rcode(rcode))
    if count:
        data = [f"192.0.2.{number}" for number in range(count)]
        message.answer = [dns.rrset.from_text("garden.example.", 60, "IN", qtype, *data)]
    else:
        message.authority = [dns.rrset.from_text("example.", 60, "IN", "SOA", "a. b. 1 2 3 4 5")]
    return message.to_wire()


@pytest.mark.parametrize(
    ("payload", "limit", "truncated"), [(None, 1232, True), (1232, 1232, False), (4096, None, False)]
)
def test_an_alias_fits_what_the_client_takes(payload: int | None, limit: int | None, truncated: bool) -> None:
    packet = query(use_edns=-1 if payload is None else 0, payload=payload or 0)
    wire = alias_reply(packet, 17, CHASE, target_answer(60), limit)
    reply = dns.message.from_wire(wire)
    assert bool(reply.flags & dns.flags.TC) == truncated
    assert len(wire) <= (payload or 512)
    assert len(reply.answer) == (0 if truncated else 2)


@pytest.mark.parametrize(
    ("rcode", "expected"), [(3, dns.rcode.NXDOMAIN), (0, dns.rcode.NOERROR), (2, dns.rcode.SERVFAIL)]
)
def test_the_rcode_is_that_of_the_last_name(rcode: int, expected: int) -> None:
    reply = dns.message.from_wire(alias_reply(query(), 17, CHASE, target_answer(0, rcode), 1232))
    assert reply.rcode() == expected
    assert len(reply.answer) == 1 and reply.authority[0].rdtype == dns.rdatatype.SOA


def test_a_target_that_cannot_be_read_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    reply = dns.message.from_wire(alias_reply(query(), 17, CHASE, target_answer(2)[:-3], 1232))
    assert len(reply.answer) == 1 and reply.rcode() == dns.rcode.SERVFAIL
    assert "could not be read" in caplog.text


def test_a_policy_zones_soa_goes_with_its_alias_where_there_is_room() -> None:
    names = wire_name("ns.zone0") + wire_name("root.zone0")
    alias = replace(CHASE, zone=(wire_name("zone0"), names + b"".join(n.to_bytes(4, "big") for n in range(1, 6))))
    packet = query(use_edns=0, payload=512)
    [soa] = dns.message.from_wire(alias_reply(packet, 17, alias, target_answer(2), 1232)).additional
    assert soa.to_text() == "zone0. 30 IN SOA ns.zone0. root.zone0. 1 2 3 4 5"
    full = dns.message.from_wire(alias_reply(packet, 17, alias, target_answer(24), 1232))
    assert not full.flags & dns.flags.TC and len(full.answer[1]) == 24
    assert not full.additional and full.extended_errors()[0].text == "blocked"


# -- the real engine --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def worker(folder: Path, upstream: FakeUpstream) -> AsyncIterator[tuple[int, Punts, memoryview]]:
    """A worker's loop in short: UDP and TCP on one port, one policy class, no list."""
    memory = bytearray(counters.SIZE)
    view = memoryview(memory)
    engine = Engine(counters=view, cache_bytes=1 << 20)
    nobody = CELL.pack(Rank.NOBODY, Action.FORWARD, 0, 0, NO_SLOT, 0)
    everyone = Clients(bytes(4), bytes(2), bytes(16), bytes(2))
    index = Index(make_index(folder, []))
    policy: Any = Policy(1, index.shapes, nobody * index.shapes, (), everyone)
    engine.swap(Snapshot(index, policy, 1))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    udp.setblocking(False)
    port = free_port()
    udp.bind(("127.0.0.1", port))
    tcp.bind(("127.0.0.1", port))
    engine.add_udp(udp.fileno(), socket.AF_INET, False)
    pool = pool_of(upstream)
    punts = make(cast(FakeEngine, engine), pool)
    loop = asyncio.get_running_loop()

    def ready() -> None:
        engine.drain()
        punts.run()

    loop.add_reader(engine.fileno(), ready)
    server = StreamServer(engine, punts.run)
    await server.listen(tcp, lambda: Stream(server, Door()))
    try:
        yield port, punts, view.cast("Q")
    finally:
        loop.remove_reader(engine.fileno())
        await server.drain(0.1)
        pool.close()
        engine.close()
        udp.close()
        await asyncio.sleep(0.01)


async def ask_udp(port: int, wire: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        await loop.sock_sendall(sock, wire)
        return await loop.sock_recv(sock, 4096)


def test_from_the_clients_socket_to_the_upstream_and_back(run: Runner, tmp_path: Path) -> None:
    with FakeUpstream() as upstream:

        async def body() -> None:
            async with worker(tmp_path, upstream) as (port, _, _):
                for _ in range(2):
                    request = dns.message.make_query("WwW.Example.com", "A")
                    reply = dns.message.from_wire(await ask_udp(port, request.to_wire()))
                    assert request.is_response(reply)
                    assert reply.question[0].name.to_text() == "WwW.Example.com."
                    assert str(reply.answer[0][0]) == address_of("www.example.com")
                assert upstream.count("www.example.com") == 1  # then it is cached

        run(body())


def test_streams_pipeline_through_the_engine(run: Runner, tmp_path: Path) -> None:
    with FakeUpstream() as upstream:
        upstream.on("slow.example", Act(delay=0.1))

        async def body() -> None:
            async with worker(tmp_path, upstream) as (port, _, _):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                names = ["slow.example", *(f"n{number}.example" for number in range(30))]
                requests: dict[int, str] = {}
                for name in names:
                    request = dns.message.make_query(name, "A", id=len(requests))
                    requests[request.id] = name
                    wire = request.to_wire()
                    writer.write(len(wire).to_bytes(2, "big") + wire)
                order = []
                for _ in names:
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    reply = dns.message.from_wire(await reader.readexactly(length))
                    assert str(reply.answer[0][0]) == address_of(requests[reply.id])
                    order.append(requests[reply.id])
                assert order[-1] == "slow.example"
                writer.close()
                await writer.wait_closed()

        run(body())


def test_when_the_upstream_is_gone_the_client_hears_it(run: Runner, tmp_path: Path) -> None:
    with FakeUpstream() as upstream:
        pass

    async def body() -> None:
        async with worker(tmp_path, upstream) as (port, _, _):
            request = dns.message.make_query("www.example.com", "A", use_edns=0)
            reply = dns.message.from_wire(await ask_udp(port, request.to_wire()))
            assert request.is_response(reply) and reply.rcode() == dns.rcode.SERVFAIL
            assert reply.extended_errors()[0].to_text() == "EDE 23 (Network Error): connection refused"
            assert reply.extended_errors()[0].code == 23

    run(body())


def test_large_answers_come_over_tcp_and_reach_udp_clients_truncated(run: Runner, tmp_path: Path) -> None:
    with FakeUpstream() as upstream:
        upstream.on("large.example", Act(size=8000, truncate=True))

        async def body() -> None:
            async with worker(tmp_path, upstream) as (port, _, _):
                request = dns.message.make_query("large.example", "TXT", use_edns=0, payload=4096)
                reply = dns.message.from_wire(await ask_udp(port, request.to_wire()))
                assert reply.flags & dns.flags.TC
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                wire = request.to_wire()
                writer.write(len(wire).to_bytes(2, "big") + wire)
                length = int.from_bytes(await reader.readexactly(2), "big")
                assert len(dns.message.from_wire(await reader.readexactly(length)).answer[0]) == 8000 // 213 + 1
                writer.close()
                await writer.wait_closed()
                assert [seen.transport for seen in upstream.seen] == ["udp", "tcp"]

        run(body())
