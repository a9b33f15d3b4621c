from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from time import monotonic
from typing import Any

import dns.message
import pytest
import uvloop

from resolver import counters
from resolver.upstream import bootstrap, health, udp
from resolver.upstream import pool as pool_module
from resolver.upstream.health import HEDGE_BURST, HEDGE_SHARE, Strategy
from resolver.upstream.message import Question, wire_name
from resolver.upstream.pool import Pool, PoolConfig, Result
from resolver.upstream.server import Server
from resolver.vocabulary import EDE, Transport
from tests.fakes import Act, FakeUpstream, address_of
from tests.ports import free_port

Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as loop:
            loop.run(asyncio.wait_for(coroutine, 30))

    return runner


def server_of(upstream: FakeUpstream) -> Server:
    return Server(f"{upstream.host}:{upstream.port}", upstream.host, upstream.port)


def config(*servers: Server, strategy: Strategy = Strategy.ORDERED, timeout: float = 2.0) -> PoolConfig:
    return PoolConfig({0: servers}, strategy, timeout, {server.name: slot for slot, server in enumerate(servers)})


def with_pool(setup: PoolConfig, body: Callable[[Pool], Awaitable[None]], **options: Any) -> Coroutine[Any, Any, None]:
    async def main() -> None:
        pool = Pool(setup, **options)
        try:
            await body(pool)
        finally:
            pool.close()
            await asyncio.sleep(0.02)

    return main()


def probes(upstream: FakeUpstream) -> int:
    return sum(seen.name == "." for seen in upstream.seen)


def ask(name: str, qtype: int = 1, *, do: bool = False, cd: bool = False) -> Question:
    return Question(wire_name(name), qtype, do=do, cd=cd)


def address(result: Result) -> str:
    assert result.answer is not None, result
    return str(dns.message.from_wire(result.answer).answer[-1][0])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_question_is_answered(run: Runner, host: str) -> None:
    with FakeUpstream(host) as upstream:

        async def body(pool: Pool) -> None:
            result = await pool.ask(ask("www.example.com"))
            assert address(result) == address_of("www.example.com")
            assert result.server == server_of(upstream).name
            assert pool.in_flight == 0

        run(with_pool(config(server_of(upstream)), body))


def test_what_the_upstream_sees(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SHORTEST_RTO", 2.0)  # nothing is asked twice, however busy the machine
    with FakeUpstream() as upstream:

        async def body(pool: Pool) -> None:
            for number in range(30):
                await pool.ask(ask("a-long-name-in-lower-case.example", do=number % 2 == 1, cd=number % 3 == 0))

        run(with_pool(config(server_of(upstream)), body))
        assert all(seen.rd and seen.edns == 0 and seen.payload == 1232 and not seen.options for seen in upstream.seen)
        assert [seen.do for seen in upstream.seen] == [number % 2 == 1 for number in range(30)]
        assert [seen.cd for seen in upstream.seen] == [number % 3 == 0 for number in range(30)]
        assert len({seen.name for seen in upstream.seen}) == 30  # 0x20
        assert len({seen.ident for seen in upstream.seen}) >= 29


MISBEHAVIOUR = {
    "a wrong id first": Act(lie="id", lies=3, truth=True),
    "a wrong question first": Act(lie="question", lies=3, truth=True),
    "a wrong qtype first": Act(lie="qtype", lies=3, truth=True),
    "a query back first": Act(lie="qr", lies=3, truth=True),
    "another opcode first": Act(lie="opcode", lies=3, truth=True),
    "another port first": Act(lie="port", lies=3, truth=True),
    "another address first": Act(lie="address", lies=3, truth=True),
    "a flood of wrong ids": Act(lie="id", lies=50, only="udp"),
    "another case": Act(lie="case"),
    "another case over UDP": Act(lie="case", only="udp"),
    "truncated": Act(truncate=True),
    "no EDNS": Act(needs_edns=False),
    "no EDNS, bare": Act(needs_edns=False, bare=True),
}


@pytest.mark.parametrize("what", MISBEHAVIOUR)
def test_one_misbehaving_server_still_gives_the_true_answer(run: Runner, what: str) -> None:
    with FakeUpstream() as upstream:
        upstream.on("*", MISBEHAVIOUR[what])

        async def body(pool: Pool) -> None:
            for _ in range(3):
                assert address(await pool.ask(ask("www.example.com"))) == address_of("www.example.com")

        run(with_pool(config(server_of(upstream)), body))


FAILURES = {
    "SERVFAIL": Act(rcode=2),
    "REFUSED": Act(rcode=5),
    "NOTIMP": Act(rcode=4),
    "FORMERR": Act(rcode=1),
    "garbage": Act(raw=b"\xff" * 30),
    "counts without records": Act(raw=b"", records=("www.example.com. 1 IN A 192.0.2.99",)),
    "silence": Act(drop=True),
    "TC and TCP reset": Act(truncate=True, tcp="reset"),
    "TC and TCP closed": Act(truncate=True, tcp="close"),
    "TC and TCP cut": Act(truncate=True, tcp="cut"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_when_one_server_fails_the_other_answers(run: Runner, what: str) -> None:
    with FakeUpstream() as bad, FakeUpstream() as good:
        bad.on("*", FAILURES[what])

        async def body(pool: Pool) -> None:
            result = await pool.ask(ask("www.example.com"))
            assert address(result) == address_of("www.example.com")
            assert result.server == server_of(good).name
            assert bad.count("www.example.com") >= 1

        run(with_pool(config(server_of(bad), server_of(good)), body))


def test_a_dead_server_costs_nothing_once_it_is_benched(run: Runner) -> None:
    with FakeUpstream() as dead, FakeUpstream() as good:
        dead.on("*", Act(drop=True))

        async def body(pool: Pool) -> None:
            await asyncio.gather(*(pool.ask(ask(f"n{number}.example")) for number in range(10)))
            before = len(dead.seen)
            for number in range(20):
                await pool.ask(ask(f"m{number}.example"))
            assert len(dead.seen) - probes(dead) == before
            assert not pool.servers[0].is_available()

        run(with_pool(config(server_of(dead), server_of(good)), body))


@pytest.mark.parametrize(
    ("act", "ede"),
    [(Act(drop=True), EDE.NO_REACHABLE_AUTHORITY), (Act(raw=b"\xff" * 9), EDE.NETWORK_ERROR)],
)
def test_when_all_fail_it_says_why(run: Runner, act: Act, ede: int) -> None:
    with FakeUpstream() as first, FakeUpstream() as second:
        first.on("*", act)
        second.on("*", act)

        async def body(pool: Pool) -> None:
            result = await pool.ask(ask("www.example.com"))
            assert result.answer is None and result.ede == ede and result.text

        run(with_pool(config(server_of(first), server_of(second), timeout=0.3), body))


def test_closed_ports_fail_at_once(run: Runner) -> None:
    servers = [Server(str(port), "127.0.0.1", port) for port in (free_port(), free_port())]

    async def body(pool: Pool) -> None:
        assert await pool.ask(ask("www.example.com")) == Result(None, EDE.NETWORK_ERROR, "connection refused")
        assert await pool.ask(ask("www.example.com"), tcp_only=True) == Result(
            None, EDE.NETWORK_ERROR, "connection refused"
        )

    run(with_pool(config(*servers, timeout=30.0), body))


def test_without_servers_it_says_so(run: Runner) -> None:
    async def body(pool: Pool) -> None:
        result = await pool.ask(ask("www.example.com"))
        assert result.answer is None and result.ede == EDE.NO_REACHABLE_AUTHORITY

    run(with_pool(config(), body))


def test_routes_lead_to_their_servers_and_unknown_ones_to_the_default(run: Runner) -> None:
    with FakeUpstream() as default, FakeUpstream() as corp:
        setup = PoolConfig({0: [server_of(default)], 3: [server_of(corp)]})

        async def body(pool: Pool) -> None:
            assert (await pool.ask(ask("a.example"), 0)).server == server_of(default).name
            assert (await pool.ask(ask("b.example"), 3)).server == server_of(corp).name
            assert (await pool.ask(ask("c.example"), 9)).server == server_of(default).name

        run(with_pool(setup, body))


def test_any_over_tcp_alone(run: Runner) -> None:
    with FakeUpstream() as upstream:

        async def body(pool: Pool) -> None:
            await pool.ask(ask("www.example.com", 255), tcp_only=True)
            assert [seen.transport for seen in upstream.seen] == ["tcp"]

        run(with_pool(config(server_of(upstream)), body))


def test_parallel_takes_the_fastest(run: Runner) -> None:
    with FakeUpstream() as slow, FakeUpstream() as fast:
        slow.on("*", Act(delay=0.5))

        async def body(pool: Pool) -> None:
            assert (await pool.ask(ask("www.example.com"))).server == server_of(fast).name
            while not slow.count("www.example.com"):  # noqa: ASYNC110  # it was asked as well, and may still be reading
                await asyncio.sleep(0.005)

        run(with_pool(config(server_of(slow), server_of(fast), strategy=Strategy.PARALLEL), body))


def test_fastest_finds_the_faster_server(run: Runner) -> None:
    with FakeUpstream() as slow, FakeUpstream() as fast:
        slow.on("*", Act(delay=0.2))

        async def body(pool: Pool) -> None:
            for number in range(60):
                await pool.ask(ask(f"n{number}.example"))
            assert len(fast.seen) > 50

        setup = config(server_of(slow), server_of(fast), strategy=Strategy.FASTEST)
        run(with_pool(setup, body, rng=random.Random(7)))


def test_a_thousand_questions_at_a_time(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "SHORTEST_RTO", 2.0)
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeUpstream()) for _ in range(2)]

        async def body(pool: Pool) -> None:
            names = [f"n{number}.example" for number in range(1000)]
            results = await asyncio.gather(*(pool.ask(ask(name)) for name in names))
            assert [address(result) for result in results] == [address_of(name) for name in names]

        run(with_pool(config(*map(server_of, servers), strategy=Strategy.RANDOM), body))


def test_reconfigure_loses_no_question_and_keeps_what_is_known(run: Runner) -> None:
    with FakeUpstream() as old, FakeUpstream() as stays, FakeUpstream() as new:
        old.on("slow.example", Act(delay=0.3))

        async def body(pool: Pool) -> None:
            await pool.ask(ask("x.example"), 1)
            known = next(health for health in pool.servers if health.server == server_of(stays))
            waiting = asyncio.ensure_future(pool.ask(ask("slow.example")))
            await asyncio.sleep(0.05)
            pool.reconfigure(PoolConfig({0: [server_of(new)], 1: [server_of(stays)]}))
            assert (await pool.ask(ask("y.example"))).server == server_of(new).name
            assert (await waiting).server == server_of(old).name
            assert known in pool.servers and known.rtt is not None

        run(with_pool(PoolConfig({0: [server_of(old)], 1: [server_of(stays)]}), body))


def test_too_many_questions_are_shed_at_once(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("slow.example", Act(delay=0.2))

        async def body(pool: Pool) -> None:
            waiting = [asyncio.ensure_future(pool.ask(ask("slow.example"))) for _ in range(5)]
            await asyncio.sleep(0)
            assert await pool.ask(ask("one-more.example")) == Result(
                None, EDE.NETWORK_ERROR, "too many queries in flight"
            )
            assert all(result.answer for result in await asyncio.gather(*waiting))
            assert (await pool.ask(ask("again.example"))).answer

        run(with_pool(config(server_of(upstream)), body, limit=5))


def test_close_ends_what_is_under_way(run: Runner) -> None:
    with FakeUpstream() as upstream:
        upstream.on("*", Act(drop=True))

        async def body(pool: Pool) -> None:
            waiting = asyncio.ensure_future(pool.ask(ask("www.example.com")))
            await asyncio.sleep(0.01)
            pool.close()
            assert (await waiting).answer is None

        async def main() -> None:
            await body(Pool(config(server_of(upstream))))

        run(main())


def test_counters_stand_in_the_servers_slots(run: Runner) -> None:
    memory = memoryview(bytearray(counters.SIZE)).cast("Q")
    with FakeUpstream() as bad, FakeUpstream() as good:
        bad.on("*", Act(rcode=2))
        setup = PoolConfig(
            {0: [server_of(bad), server_of(good)]},
            Strategy.ORDERED,
            slots={server_of(bad).name: 5, server_of(good).name: 63},
        )

        async def body(pool: Pool) -> None:
            for _ in range(4):
                await pool.ask(ask("www.example.com"))

        run(with_pool(setup, body, counters=memory))
    section = counters.SECTIONS["upstream"].of(memory)
    stride = counters.UPSTREAM_STRIDE
    for slot, failures in ((5, 4), (63, 0)):
        mine = section[slot * stride : (slot + 1) * stride]
        assert mine[0] == 4 and mine[1] == failures
        assert sum(mine[8:22]) == 4 and mine[7] > 0
    assert sum(memory) == sum(section[5 * stride : 6 * stride]) + sum(section[63 * stride :])


# -- what goes on in the background ------------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", [Strategy.ORDERED, Strategy.FASTEST, Strategy.RANDOM])
def test_a_dead_server_that_comes_back_is_found_without_a_client(run: Runner, strategy: Strategy) -> None:
    with FakeUpstream() as comes_back, FakeUpstream() as fine:
        comes_back.on("*", Act(drop=True))

        async def body(pool: Pool) -> None:
            while pool.servers[0].is_available():
                await pool.ask(ask("www.example.com"))
            comes_back.script.clear()
            asked = comes_back.count("www.example.com")
            while not pool.servers[0].is_available():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert comes_back.count("www.example.com") == asked and probes(comes_back) > 0

        run(with_pool(config(server_of(comes_back), server_of(fine), strategy=strategy, timeout=0.5), body))


def test_fastest_finds_out_in_the_background_that_another_has_become_the_fastest(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "EXPLORE_EVERY", 0.3)
    with FakeUpstream() as first, FakeUpstream() as second:
        first.on("*", Act(delay=0.02))
        second.on("*", Act(delay=0.4))

        async def body(pool: Pool) -> None:
            while (pool.servers[1].rtt or 0) < 0.3:
                await pool.ask(ask("www.example.com"))
            second.script.clear()
            before = second.count("www.example.com")
            while (pool.servers[1].rtt or 1) >= (pool.servers[0].rtt or 0):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert second.count("www.example.com") == before, "no client waited for it"
            await pool.ask(ask("then.example.com"))
            assert second.count("then.example.com") == 1

        run(with_pool(config(server_of(first), server_of(second), strategy=Strategy.FASTEST), body))


def test_a_slow_answer_is_hedged_and_nothing_is_held_against_the_server(run: Runner) -> None:
    with FakeUpstream() as usual, FakeUpstream() as other:
        usual.on("slow.example", Act(delay=1.5))

        async def body(pool: Pool) -> None:
            for number in range(40):  # what is usual: some milliseconds
                await pool.ask(ask(f"n{number}.example"))
            pool.servers[0].rtt, pool.servers[0].rttvar = 0.05, 0.2  # patience 0.85 s, hedged after 0.45 s
            began = monotonic()
            assert (await pool.ask(ask("slow.example"))).server == server_of(other).name
            assert 0.4 < monotonic() - began < 0.85
            assert pool.servers[0].failures == 0 and pool.servers[0].is_available()

        run(with_pool(config(server_of(usual), server_of(other)), body))


def test_hedges_are_few_when_everything_is_slow(run: Runner) -> None:
    with FakeUpstream() as one, FakeUpstream() as two:

        async def body(pool: Pool) -> None:
            for health_ in pool.servers:
                health_.rtt, health_.rttvar = 0.01, 0.5  # patience 2 s, hedged after 1 s
            one.on("*", Act(delay=1.2))
            two.on("*", Act(delay=1.2))
            await asyncio.gather(*(pool.ask(ask(f"n{number}.example")) for number in range(60)))
            asked = len(one.seen) + len(two.seen) - probes(one) - probes(two)
            assert 60 <= asked <= 60 + HEDGE_BURST + 60 * HEDGE_SHARE + 1

        run(with_pool(config(server_of(one), server_of(two)), body))


def test_servers_by_name_are_found_by_the_bootstrap_and_stay_known_when_it_fails(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "SHORTEST", 0.3)
    monkeypatch.setattr(bootstrap, "FIRST_RETRY", 0.1)
    with FakeUpstream() as knows, FakeUpstream() as named:
        knows.on("dns.example", Act(records=("dns.example. 1 IN A 127.0.0.1",)), Act(records=()))
        server = Server("tcp://dns.example", "", named.port, Transport.TCP, "dns.example")
        setup = PoolConfig({0: [server]}, Strategy.ORDERED, 2.0, bootstrap=[server_of(knows)])

        async def body(pool: Pool) -> None:
            assert address(await pool.ask(ask("www.example.com"))) == address_of("www.example.com")
            asked = knows.count("dns.example")
            knows.on("*", Act(drop=True))
            knows.script.pop("dns.example")
            while knows.count("dns.example") < asked + 2:  # noqa: ASYNC110  # in the background, in vain
                await asyncio.sleep(0.05)
            assert (await pool._where(server)) == ["127.0.0.1"]
            assert (await pool.ask(ask("then.example.com"))).answer is not None

        run(with_pool(setup, body))


def test_a_name_that_the_bootstrap_does_not_know_is_a_fault(run: Runner) -> None:
    with FakeUpstream() as knows:
        knows.on("*", Act(rcode=3))
        server = Server("tls://dns.example", "", 853, Transport.TLS, "dns.example", "dns.example")
        setup = PoolConfig({0: [server]}, Strategy.ORDERED, 0.5, bootstrap=[server_of(knows)])

        async def body(pool: Pool) -> None:
            result = await pool.ask(ask("www.example.com"))
            assert (result.answer, result.ede) == (None, EDE.NETWORK_ERROR)
            assert result.text == "the upstream server's name has no address"

        run(with_pool(setup, body))


def test_an_error_of_our_own_ends_the_exchange(
    run: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(udp.Udp, "send", broken)

    async def body(pool: Pool) -> None:
        result = await pool.ask(ask("www.example.com"))
        assert result.answer is None and result.ede == EDE.NETWORK_ERROR
        assert not pool.in_flight

    run(with_pool(config(Server("s", "127.0.0.1", 53)), body))
    assert "could not be sent" in caplog.text
