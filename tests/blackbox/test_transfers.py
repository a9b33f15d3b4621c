"""Lists by zone transfer: real primaries (BIND, Knot) on loopback, and one that misbehaves."""

from __future__ import annotations

import time
from pathlib import Path

import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import pytest

from tests.blackbox.harness import Server, until
from tests.primaries import SECRET, Bind, Knot, Misbehaving, Primary, Script

ZONE = "rpz.test"
RULES = ["old.example CNAME .", "*.old.example CNAME .", "kept.example CNAME *.", "data.example A 192.0.2.7"]


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


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(Knot, marks=pytest.mark.peer("knotd", "knotc")),
        pytest.param(Bind, marks=pytest.mark.peer("named", "rndc")),
    ],
)
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


@pytest.mark.peer("knotd", "knotc")
def test_a_wrong_key_brings_nothing_and_a_serial_that_goes_back_is_an_alarm(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with Knot(tmp_path, ZONE, RULES, serial=9, timers="1 1 9999 60") as primary:
        server.configure(**config(primary.port))
        with server:
            until(lambda: blocks(server, "old.example"), "the zone is enforced")
            primary.stop()
            with Knot(tmp_path / "older", ZONE, ["new.example CNAME ."], serial=4, port=primary.port) as older:
                said(server, "serial 4 is older than the 9 that is here")
                assert blocks(server, "old.example") and not blocks(server, "new.example")
                older.stop()
            with Knot(tmp_path / "newer", ZONE, ["newer.example CNAME ."], serial=10, port=primary.port):
                until(lambda: blocks(server, "newer.example"), "a newer serial is taken")
    wrong = Server(tmp_path / "wrong")
    (tmp_path / "wrong").mkdir(exist_ok=True)
    with Knot(tmp_path / "wrong", ZONE, RULES, algorithm="hmac-sha256") as primary:
        wrong.configure(**config(primary.port, tsig="k"))
        with wrong:
            said(wrong, "lists.feed: 127.0.0.1")
            assert not blocks(wrong, "old.example")


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
