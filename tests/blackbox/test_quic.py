"""DNS over QUIC and over HTTP/3 by a whole server: asked by kdig and by aioquic."""

from __future__ import annotations

import base64
import contextlib
import random
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import pytest

from resolver.quic import Doq
from tests.blackbox.harness import Server, kill, until
from tests.certificates import Authority
from tests.fakes import Act, FakeUpstream, address_of
from tests.ports import free_port
from tests.quic import QuicClient, Relay

MEDIA = "application/dns-message"


class Quic:
    """A server that speaks QUIC in both ways, its upstream and the authority of its certificate."""

    def __init__(self, folder: Path, upstream: FakeUpstream, **config: Any) -> None:
        self.folder = folder
        self.upstream = upstream
        self.authority = Authority()
        self.ca = folder / "ca.pem"
        self.ca.write_text(self.authority.pem)
        self.doq, self.https = free_port(), free_port()
        (folder / "block.txt").write_text("blocked.example\n")
        plain = free_port()
        listen = {
            "dns": [f"127.0.0.1:{plain}"],
            "quic": [f"127.0.0.1:{self.doq}"],
            "https": [f"127.0.0.1:{self.https}"],
            "certificate": self.authority.issue(folder),
        }
        lists = [{"name": "block", "source": "block.txt"}]
        self.server = Server(folder, {"listen": listen, "lists": lists, **config}, upstream=upstream.port)
        self.server.port = plain

    def client(self, **options: Any) -> QuicClient:
        return QuicClient(self.doq, str(self.ca), **options)

    def http3(self, **options: Any) -> QuicClient:
        return QuicClient(self.https, str(self.ca), alpn="h3", **options)


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
def quic(tmp_path: Path, upstream: FakeUpstream) -> Iterator[Quic]:
    world = Quic(tmp_path, upstream)
    with world.server:
        yield world


def query(name: str, qtype: str = "A", **options: Any) -> bytes:
    made = dns.message.make_query(name, qtype, **{"use_edns": 0, **options})
    made.id = 0
    return made.to_wire()


def addresses(message: dns.message.Message) -> list[str]:
    return [item.to_text() for rrset in message.answer for item in rrset]


def test_doq_gives_what_plain_dns_gives_and_counts_it(quic: Quic) -> None:
    with quic.client() as client:
        client.connect()
        for _ in range(2):  # forwarded, then cached
            assert addresses(client.resolve("a.example")) == [address_of("a.example")]
        assert addresses(client.resolve("blocked.example")) == ["0.0.0.0"]
        quic.upstream.on("slow.example", Act(delay=1.0))
        slow = client.query(query("slow.example"))
        assert addresses(client.resolve("b.example")) == [address_of("b.example")]
        assert slow not in client.ended
        assert addresses(dns.message.from_wire(client.answer(slow))) == [address_of("slow.example")]
    found = quic.server.metrics()
    assert sum(v for (name, *labels), v in found.items() if name == "tampah_queries_total" and "quic" in labels) == 5


@pytest.mark.peer("kdig")
@pytest.mark.parametrize("name, wanted", [("a.example", address_of("a.example")), ("blocked.example", "0.0.0.0")])
def test_kdig_asks_over_quic(quic: Quic, name: str, wanted: str) -> None:
    trust = [f"+tls-ca={quic.ca}", "+tls-hostname=localhost"]
    command = ["kdig", "@127.0.0.1", "-p", str(quic.doq), *trust, "+quic"]
    done = subprocess.run([*command, name], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "status: NOERROR" in done.stdout and wanted in done.stdout, done.stdout + done.stderr
    assert "QUIC session" in done.stdout


def test_padded_queries_get_padded_answers(quic: Quic) -> None:
    with quic.client() as client:
        client.connect()
        padding = dns.edns.GenericOption(dns.edns.OptionType.make(12), bytes(20))
        for name in ("a.example", "blocked.example"):
            assert len(client.ask(query(name, options=[padding]))) % 468 == 0


def test_get_and_post_over_http3(quic: Quic) -> None:
    with quic.http3() as client:
        client.connect()
        for name, wanted in (("a.example", address_of("a.example")), ("blocked.example", "0.0.0.0")):
            encoded = base64.urlsafe_b64encode(query(name)).rstrip(b"=").decode()
            status, headers, body = client.request("GET", f"/dns-query?dns={encoded}")
            assert status == 200 and headers[b"content-type"] == MEDIA.encode()
            assert headers[b"cache-control"].startswith(b"max-age=")
            assert addresses(dns.message.from_wire(body)) == [wanted]
            status, _, body = client.request("POST", "/dns-query", {"content-type": MEDIA}, query(name))
            assert status == 200 and addresses(dns.message.from_wire(body)) == [wanted]
    found = quic.server.metrics()
    assert sum(v for (name, *labels), v in found.items() if name == "tampah_queries_total" and "https" in labels) == 4


@pytest.mark.parametrize(
    "method, path, content, body, status",
    [
        ("GET", "/", "", b"", 404),
        ("GET", "/dns-query", "", b"", 400),
        ("GET", "/dns-query?dns=!!!!", "", b"", 400),
        ("PUT", "/dns-query", MEDIA, b"x", 405),
        ("POST", "/dns-query", "text/plain", b"x" * 100, 415),
        ("POST", "/dns-query", MEDIA, b"x", 400),
        ("POST", "/dns-query", MEDIA, bytes(70_000), 413),
    ],
)
def test_what_is_no_query_gets_a_status(
    quic: Quic, method: str, path: str, content: str, body: bytes, status: int
) -> None:
    with quic.http3() as client:
        client.connect()
        found, headers, text = client.request(method, path, {"content-type": content} if content else {}, body)
        assert found == status and text
        if status == 405:
            assert headers[b"allow"] == b"GET, POST"
        answer = client.request("POST", "/dns-query", {"content-type": MEDIA}, query("a.example"))
        assert answer[0] == 200, "the connection lives on"


def test_http3_is_advertised_by_the_other_versions(quic: Quic) -> None:
    import httpx

    url = f"https://127.0.0.1:{quic.https}/dns-query"
    for http2 in (False, True):
        import ssl

        context = ssl.create_default_context(cafile=str(quic.ca))
        with httpx.Client(http2=http2, verify=context) as client:
            answer = client.post(url, content=query("a.example"), headers={"content-type": MEDIA})
        assert answer.headers["alt-svc"] == f'h3=":{quic.https}"; ma=86400'


def test_a_worker_that_died_ends_its_connections(quic: Quic) -> None:
    with quic.client() as client:
        client.connect()
        client.resolve("a.example")
        token = client.quic._peer_cid.stateless_reset_token
        before = quic.server.worker_pids()
        for pid in before:
            kill(pid)
        until(lambda: set(before).isdisjoint(quic.server.worker_pids()), "the workers are new")
        client.got.clear()

        def told() -> bool:
            client.send(bytes(60), end=False)
            client.step()
            return any(each.endswith(token) for each in client.got)

        until(told, "a stateless reset")
    with quic.client() as client:
        client.connect()
        assert addresses(client.resolve("a.example")) == [address_of("a.example")]


def test_a_stop_answers_what_is_in_flight_and_says_goodbye(quic: Quic) -> None:
    quic.upstream.on("slow.example", Act(delay=1.0))
    with quic.client() as client, quic.http3() as other:
        client.connect()
        other.connect()
        stream = client.query(query("slow.example"))
        until(lambda: quic.upstream.count("slow.example"), "the upstream is asked")
        assert quic.server.process is not None
        quic.server.process.send_signal(signal.SIGTERM)
        assert addresses(dns.message.from_wire(client.answer(stream))) == [address_of("slow.example")]
        assert client.wait_closed().error_code == Doq.NO_ERROR
        assert other.wait_closed().error_code == 0x100
    assert quic.server.wait_end() == 0


def test_a_renewed_certificate_is_shown_without_a_restart(quic: Quic) -> None:
    with quic.client() as old:
        old.connect()
        quic.authority = Authority("another")
        quic.authority.issue(quic.folder)
        quic.ca.write_text(quic.authority.pem)

        def renewed() -> bool:
            with quic.client() as new, contextlib.suppress(ConnectionError):
                new.connect()
                return True
            return False

        until(renewed, "the new certificate is shown")
        assert addresses(old.resolve("a.example")) == [address_of("a.example")]


def test_clients_that_move_reach_their_worker(quic: Quic) -> None:
    for _ in range(4):
        with Relay(quic.doq) as relay, QuicClient(relay.port, str(quic.ca)) as client:
            client.connect()
            for number in range(4):
                assert addresses(client.resolve(f"{number}.example")) == [address_of(f"{number}.example")]
                relay.move()


def test_strangers_are_refused(tmp_path: Path, upstream: FakeUpstream) -> None:
    world = Quic(tmp_path, upstream, allow_from=["127.0.0.1/32"])
    with world.server, world.client(source="127.0.0.2") as client:
        client.connect()
        assert client.resolve("a.example").rcode() == dns.rcode.REFUSED


def test_mutated_datagrams_do_not_kill_a_worker(quic: Quic) -> None:
    chance = random.Random(11)
    pids = quic.server.worker_pids()
    with quic.client() as client, quic.http3() as http3:
        for each in (client, http3):
            each.connect()
        for number in range(10):
            client.resolve(f"{number}.example")
            http3.request("POST", "/dns-query", {"content-type": MEDIA}, query(f"{number}.example"))
        samples = [(sent, each.address) for each in (client, http3) for sent in each.sent]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(3000):
                sample, target = chance.choice(samples)
                octets = bytearray(sample)
                for _ in range(chance.choice((1, 1, 2, 5, 50))):
                    octets[chance.randrange(len(octets))] = chance.randrange(256)
                sock.sendto(octets[: chance.choice((len(octets), chance.randrange(1, len(octets) + 1)))], target)
                if not number % 100:
                    assert addresses(client.resolve("blocked.example")) == ["0.0.0.0"]
        assert http3.request("POST", "/dns-query", {"content-type": MEDIA}, query("a.example"))[0] == 200
    assert quic.server.worker_pids() == pids
    until(lambda: sum(each["connections"] for each in quic.server.status()["workers"]) == 0, "no connection is left")


def test_only_who_needs_quic_has_it_in_memory(tmp_path: Path, upstream: FakeUpstream) -> None:
    with Server(tmp_path, upstream=upstream.port) as server:
        server.ask("a.example")
        for pid in server.worker_pids():
            assert "aioquic" not in Path(f"/proc/{pid}/maps").read_text()


def test_a_server_asks_another_one_over_quic(quic: Quic, tmp_path: Path) -> None:
    folder = tmp_path / "asker"
    folder.mkdir()
    servers = [f"quic://127.0.0.1:{quic.doq}?name=localhost"]
    asking = Server(folder, {"upstream": {"servers": servers, "ca": str(quic.ca), "timeout": "5s"}})
    with asking:
        for number in range(20):
            assert asking.addresses(f"{number}.example") == [address_of(f"{number}.example")]
        assert asking.addresses("blocked.example") == ["0.0.0.0"]
        found = quic.server.metrics()
        asked = sum(v for (name, *labels), v in found.items() if name == "tampah_queries_total" and "quic" in labels)
        assert asked >= 21
        for pid in quic.server.worker_pids():
            kill(pid)
        until(lambda: asking.rcode("after.example", timeout=20) == "NOERROR", "the server is asked again", 60)


def test_an_upstream_that_cannot_prove_its_name_is_not_asked(quic: Quic, tmp_path: Path) -> None:
    folder = tmp_path / "asker"
    folder.mkdir()
    servers = [f"quic://127.0.0.1:{quic.doq}?name=other.test"]
    asking = Server(folder, {"upstream": {"servers": servers, "ca": str(quic.ca), "timeout": "1s"}})
    with asking:
        assert asking.rcode("a.example", timeout=20) == "SERVFAIL"
        assert not quic.upstream.count("a.example")
        until(lambda: "certificate is for another name" in asking.log, "the operator is told")
