"""Lists by zone transfer: real primaries (BIND, Knot) on loopback, and one that misbehaves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import pytest

from resolver.config.load import load
from resolver.explain import list_states
from tests.blackbox.harness import Server, until
from tests.primaries import SECRET, Between, Bind, Knot, Misbehaving, Primary, Script

ZONE = "rpz.test"
RULES = ["old.example CNAME .", "*.old.example CNAME .", "kept.example CNAME *.", "data.example A 192.0.2.7"]
both = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(Knot, marks=pytest.mark.peer("knotd", "knotc")),
        pytest.param(Bind, marks=pytest.mark.peer("named", "rndc")),
    ],
)


def config(*primaries: int, **more: object) -> dict[str, object]:
    source, *mirrors = [f"axfr://127.0.0.1:{port}/{ZONE}" for port in primaries]
    feed = {"name": "feed", "source": source, "mirrors": mirrors, **more}
    key = {"name": "k", "algorithm": "hmac-sha512", "secret": SECRET}
    return {"lists": [feed], "tsig_keys": [key], "fetch": {"timeout": "1s"}}


def blocks(server: Server, name: str) -> bool | None:
    """Whether a name is blocked; None while workers disagree."""
    found = {server.rcode(name) == "NXDOMAIN" for _ in range(10)}
    return found.pop() if len(found) == 1 else None


def said(server: Server, word: str) -> None:
    until(lambda: word in server.log, word)


@both
def test_a_zone_comes_whole_then_by_deltas_and_notify(tmp_path: Path, kind: type[Primary]) -> None:
    server = Server(tmp_path)
    with kind(
        tmp_path, ZONE, RULES, algorithm="hmac-sha512", notify=server.port, timers="3600 3600 9999 60"
    ) as primary:
        server.configure(**config(primary.port, tsig="k"))
        with server:
            until(lambda: blocks(server, "old.example"), "the zone is enforced")
            assert blocks(server, "www.old.example")
            assert server.addresses("data.example") == ["192.0.2.7"]
            said(server, "by axfr: serial 1")
            primary.change([*RULES[2:], "new.example CNAME .", "data.example A 192.0.2.8"])
            until(lambda: blocks(server, "new.example"), "NOTIFY brings the delta")
            said(server, "by ixfr: serial 2")
            assert not blocks(server, "old.example") and not blocks(server, "www.old.example")
            assert sorted(server.addresses("data.example")) == ["192.0.2.7", "192.0.2.8"]
            listed = server.tampah("lists").stdout
            assert "serial 2" in listed and str(primary.port) in listed
            assert "new.example" in server.tampah("explain", "new.example").stdout
            assert SECRET not in server.log
        server.exit_status = None
        primary.stop()
        with server:  # without a primary: the last good generation, from disk
            assert blocks(server, "new.example")


NEW = ["new.example CNAME ."]
LONG = [*NEW, *(f"name{number}.example CNAME ." for number in range(3000))]
FAULTS: list[tuple[str, list[str], dict[str, Any], str]] = [
    (
        "another secret",
        NEW,
        {"serial": 9, "secret": "YW5vdGhlci1zZWNyZXQtb2YtMzItb2N0ZXRzLWZvci10ZXN0cw=="},
        "signature",
    ),
    ("another algorithm", NEW, {"serial": 9, "algorithm": "hmac-sha256"}, "key"),
    ("no key", NEW, {"serial": 9, "algorithm": ""}, "key"),
    ("the serial goes back", NEW, {"serial": 4}, "serial 4 is older than the 5 that is here"),
    ("SOA and NS alone", [], {"serial": 9}, "SOA and NS and no rule"),
    ("cut in mid-transfer", LONG, {"serial": 9}, "the connection broke"),
]


@both
def test_whatever_a_primary_does_wrong_the_zone_that_is_here_serves_on(tmp_path: Path, kind: type[Primary]) -> None:
    server = Server(tmp_path)
    given: dict[str, Any] = {"serial": 5, "algorithm": "hmac-sha512", "timers": "1 1 9999 60"}
    between = Between()
    server.configure(**config(between.port, tsig="k"))
    with between, server:
        with kind(tmp_path, ZONE, RULES, **given) as good:
            between.primary = good.port
            until(lambda: blocks(server, "old.example"), "the zone is enforced")
        for number, (what, records, changes, says) in enumerate(FAULTS):
            with kind(tmp_path / f"fault{number}", ZONE, records, **{**given, **changes}) as primary:
                between.cut = 20_000 if records is LONG else None
                between.primary = primary.port
                told(server, says)
                assert blocks(server, "old.example") and not blocks(server, "new.example"), what
        assert between.cuts > 0
        between.cut = None
        with kind(tmp_path / "other", ZONE, ["other.example CNAME .", "kept.example CNAME *."], **given) as primary:
            primary.change([*NEW, "kept.example CNAME *."], 6)  # the delta takes away what is not here
            between.primary = primary.port
            until(lambda: blocks(server, "new.example"), "a delta with another base: all of the zone is fetched")
            assert not blocks(server, "old.example")
            assert "by axfr: serial 6" in server.log and "by ixfr" not in server.log
            until(lambda: not trouble(server), "and all is well")


def told(server: Server, says: str) -> None:
    until(lambda: says in trouble(server), says)


def trouble(server: Server) -> str:
    """What `tampah lists` says is wrong with the zone."""
    [feed] = list_states(load(server.config_path), server.status())
    return feed.error


def test_what_goes_wrong_leaves_filtering_as_it_was(tmp_path: Path) -> None:
    with Misbehaving(ZONE, 1) as primary:
        good = [primary.soa(), primary.rule("old.example"), primary.soa()]
        primary.script = lambda query: [primary.message(query, good)]
        with Server(tmp_path, config(primary.port)) as server:
            until(lambda: blocks(server, "old.example"), "the zone is enforced")
            primary.serial = 2
            new, rule = primary.soa(2), primary.rule("new.example")
            scripts: dict[str, Script] = {
                "closed the connection": lambda query: [primary.message(query, [new, rule])],
                "SOA and NS and no rule": lambda query: [
                    primary.message(query, [new, f"{ZONE}. 300 IN NS ns.{ZONE}.", new])
                ],
                "nothing came for": lambda query: [primary.message(query, [new, rule]), 2.0],
                "malformed": lambda query: [primary.message(query, [new, rule])[:-2]],
            }
            for word, script in scripts.items():
                primary.script = script
                server.tampah("reload", "--fetch")
                assert word in server.tampah("lists").stdout + server.log
                assert blocks(server, "old.example") and not blocks(server, "new.example")
            base = [new, primary.soa(7), primary.rule("x.example"), new, rule, new]
            whole = [new, rule, new]
            primary.script = lambda query: [primary.message(query, base if query.question[0].rdtype == 251 else whole)]
            primary.transfers.clear()
            server.tampah("reload", "--fetch")
            until(lambda: blocks(server, "new.example"), "a delta with another base: all of it")
            assert primary.transfers == ["IXFR", "AXFR"]
            assert not blocks(server, "old.example")


def test_a_zone_expires_and_comes_back(tmp_path: Path) -> None:
    with Misbehaving(ZONE, 1, timers="1 1 2 60") as primary:
        primary.script = lambda query: [
            primary.message(query, [primary.soa(), primary.rule("old.example"), primary.soa()])
        ]
        with Server(tmp_path, config(primary.port, on_expire="drop")) as server:
            until(lambda: blocks(server, "old.example"), "the zone is enforced")
            primary.silent = True
            until(lambda: blocks(server, "old.example") is False, "expired, it is enforced no more", 30)
            assert "the zone expired" in server.log
            primary.silent = False
            until(lambda: blocks(server, "old.example"), "a primary answers again", 30)


def test_notify_counts_from_those_who_may(tmp_path: Path) -> None:
    with Misbehaving(ZONE, 1, timers="3600 3600 9999 60") as primary:
        primary.script = lambda query: [
            primary.message(query, [primary.soa(), primary.rule(f"s{primary.serial}.example"), primary.soa()])
        ]
        with Server(tmp_path, config(primary.port, allow_notify=["127.0.0.9"])) as server:
            until(lambda: blocks(server, "s1.example"), "the zone is enforced")
            primary.serial = 2

            def notify(source: str, zone: str = ZONE, *, tcp: bool = False) -> dns.message.Message:
                message = dns.message.make_query(zone, "SOA")
                message.set_opcode(dns.opcode.NOTIFY)
                message.flags |= dns.flags.AA
                send = dns.query.tcp if tcp else dns.query.udp
                return send(message, server.host, 5, server.port, source=source)

            for answer in (notify("127.0.0.8"), notify("127.0.0.9", "other.test"), notify("127.0.0.8", tcp=True)):
                assert answer.rcode() == dns.rcode.REFUSED and answer.opcode() == dns.opcode.NOTIFY
            time.sleep(0.3)
            assert not blocks(server, "s2.example")
            assert notify("127.0.0.9").rcode() == dns.rcode.NOERROR
            until(lambda: blocks(server, "s2.example"), "NOTIFY had the primary asked")
            primary.serial = 3
            assert notify("127.0.0.1", tcp=True).rcode() == dns.rcode.NOERROR
            until(lambda: blocks(server, "s3.example"), "NOTIFY over TCP likewise")


def test_a_cold_start_may_withhold_answers_until_the_zone_is_there(tmp_path: Path) -> None:
    with Misbehaving(ZONE, 1) as primary:
        primary.silent = True
        with Server(tmp_path, config(primary.port, on_cold_start="servfail")) as server:
            assert server.rcode("anything.example") == "SERVFAIL"
            assert server.ask("anything.example", source="127.0.0.9").rcode() == dns.rcode.SERVFAIL
            primary.silent = False
            primary.script = lambda query: [
                primary.message(query, [primary.soa(), primary.rule("old.example"), primary.soa()])
            ]
            server.tampah("reload", "--fetch")
            until(lambda: blocks(server, "old.example"), "the zone is there")
