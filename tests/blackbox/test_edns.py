"""What options of EDNS do between a client, the workers and the upstream: cookies, networks, structured errors, time."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.blackbox.harness import Server, until
from tests.fakes import Act, FakeUpstream

COOKIE, ECS, KEEPALIVE = 10, 8, 11
OURS = bytes(range(8))


def option(code: int, data: bytes = b"") -> dns.edns.Option:
    return dns.edns.GenericOption(dns.edns.OptionType.make(code), data)


def told(message: dns.message.Message, code: int) -> bytes | None:
    return next((each.to_wire() for each in message.options if each.otype == code), None)


def cookie_of(server: Server, **options: Any) -> bytes:
    found = told(server.ask("blocked.example", options=[option(COOKIE, OURS)], **options), COOKIE)
    assert found is not None and len(found) == 24
    return found


def blocking(folder: Path, **config: Any) -> dict[str, Any]:
    (folder / "a.txt").write_text("blocked.example\n")
    return {"lists": [{"name": "a", "source": "a.txt", "format": "domains", "category": "c"}], **config}


def test_every_worker_knows_a_cookie_and_so_does_the_next_start(tmp_path: Path) -> None:
    server = Server(tmp_path, blocking(tmp_path))
    with server:
        cookie = cookie_of(server)
        for _ in range(24):  # each from another port, so that both workers get some
            answer = server.ask("blocked.example", options=[option(COOKIE, cookie)])
            assert answer.rcode() == dns.rcode.NOERROR and told(answer, COOKIE) == cookie
        bad = server.ask("blocked.example", options=[option(COOKIE, cookie[:-1] + bytes([cookie[-1] ^ 1]))])
        assert bad.rcode() == dns.rcode.BADCOOKIE
    again = Server(tmp_path, blocking(tmp_path))
    with again:
        assert again.ask("blocked.example", options=[option(COOKIE, cookie)]).rcode() == dns.rcode.NOERROR
    assert (tmp_path / "state" / "cookie.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.peer("dig")
def test_required_cookies_let_real_clients_through_and_amplify_nothing(tmp_path: Path) -> None:
    with FakeUpstream() as upstream:
        upstream.on("large.example", Act(size=900))
        config = blocking(tmp_path, cookies={"require": True})
        with Server(tmp_path, config, upstream=upstream.port) as server:
            dig = ["dig", "@127.0.0.1", "-p", str(server.port), "+tries=1", "large.example", "TXT"]
            for extra in ("+cookie", "+nocookie", "+noedns"):
                text = subprocess.run([*dig, extra], capture_output=True, text=True, timeout=30, check=False).stdout
                assert re.search("status: NOERROR.*\n.*ANSWER: [1-9]", text), text
            before = len(upstream.seen)
            for name in ("large.example", "blocked.example", "unknown.example"):
                for options in ([], [option(COOKIE, OURS)], [option(COOKIE, OURS + bytes(16))]):
                    query = dns.message.make_query(name, "TXT", use_edns=0, payload=4096, options=options)
                    sent, reply = query.to_wire(), exchange(server, query.to_wire())
                    assert len(reply) <= len(sent)
                    answer = dns.message.from_wire(reply)
                    assert answer.flags & dns.flags.TC or answer.rcode() == dns.rcode.BADCOOKIE
            assert len(upstream.seen) == before  # and nobody is asked for them
            proven = option(COOKIE, cookie_of(server, tcp=True))
            answer = server.ask("large.example", "TXT", options=[proven])
            assert answer.answer and not answer.flags & dns.flags.TC


def exchange(server: Server, octets: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((server.host, server.port))
        client.send(octets)
        return client.recv(65535)


def test_a_structured_error_by_config_also_where_python_answers(tmp_path: Path) -> None:
    words = {
        "justification": "perjudian",
        "contact": "mailto:a@example.id",
        "language": "id",
        "sub_error": "dns_policy",
    }
    config = blocking(tmp_path, structured_errors={"code": 65001}, categories={"c": words})
    config["lists"].append({**config["lists"][0], "name": "b", "source": "b.txt", "override": "cname:garden.example"})
    (tmp_path / "b.txt").write_text("aliased.example\n")
    with FakeUpstream() as upstream, Server(tmp_path, config, upstream=upstream.port) as server:
        for name in ("blocked.example", "aliased.example"):
            for options, is_structured in (([option(65001)], True), ([], False)):
                answer = server.ask(name, options=options)
                [ede] = [each for each in answer.options if isinstance(each, dns.edns.EDEOption)]
                assert ede.code == 15 and ede.text
                if is_structured:
                    expected = {"c": ["mailto:a@example.id"], "j": "perjudian", "s": 6, "l": "id"}
                    assert json.loads(ede.text) == expected
                else:
                    assert ede.text.startswith("blocked by list")


@pytest.mark.parametrize(("policy", "expected"), [("strip", {()}), ("set", {(ECS,)}), ("forward", {(ECS,)})])
def test_upstream_is_told_of_a_network_by_policy(tmp_path: Path, policy: str, expected: set[tuple[int, ...]]) -> None:
    with FakeUpstream() as upstream:
        upstream.on("large.example", Act(truncate=True))  # so that Python asks too
        config = blocking(tmp_path, ecs={"policy": policy})
        with Server(tmp_path, config, upstream=upstream.port) as server:
            for name in ("small.example", "large.example"):
                answer = server.ask(name, options=[dns.edns.ECSOption("192.0.2.9", 32)], tcp=True)
                assert answer.rcode() == dns.rcode.NOERROR and (told(answer, ECS) is None) == (policy == "strip")
        assert {seen.options for seen in upstream.seen} == expected and {seen.transport for seen in upstream.seen} == {
            "udp",
            "tcp",
        }


def test_a_connection_is_told_how_long_it_may_idle(tmp_path: Path) -> None:
    config = blocking(tmp_path, connections={"idle": "2s"})
    with Server(tmp_path, config) as server:
        assert told(server.ask("blocked.example", options=[option(KEEPALIVE)]), KEEPALIVE) is None
        with socket.create_connection((server.host, server.port), timeout=10) as client:
            query = dns.message.make_query("blocked.example", "A", use_edns=0, options=[option(KEEPALIVE)]).to_wire()
            client.sendall(struct.pack(">H", len(query)) + query)
            size = struct.unpack(">H", client.recv(2, socket.MSG_WAITALL))[0]
            answer = dns.message.from_wire(client.recv(size, socket.MSG_WAITALL))
            assert told(answer, KEEPALIVE) == struct.pack(">H", 20)
            client.settimeout(1)
            until(lambda: _is_closed(client), "the connection is closed once it was idle as long as it was told")


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
