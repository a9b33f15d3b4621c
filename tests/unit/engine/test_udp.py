"""The engine's UDP edge on real sockets: who is answered, from which address, in which batches."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import pytest

from resolver.engine.engine import PUNT_FORWARD, REPLY
from resolver.listeners.server import client_octets
from resolver.vocabulary import EDE, Action
from tests.unit.engine.world import World, block, query, reply_to, wire_query

PATIENCE = 5.0
IP_PKTINFO, IPV6_RECVPKTINFO = 8, 49  # Linux; Python 3.11 does not know the first


class Scene:
    """A world with one socket to listen on, and clients."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", *, wildcard: bool = False, v6only: bool = True) -> None:
        self.world = World(folder, block("blocked.example"), block("drop.example", action=Action.DROP))
        self.engine = self.world.engine
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listening = socket.socket(self.family, socket.SOCK_DGRAM)
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        if self.family == socket.AF_INET6:
            self.listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        if wildcard and self.family == socket.AF_INET6:
            self.listening.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        elif wildcard:
            self.listening.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self.listening.bind((host, 0))
        self.port = self.listening.getsockname()[1]
        self.engine.add_udp(self.listening.fileno(), self.family, wildcard)
        self.clients: list[socket.socket] = []

    def client(self, host: str = "", family: int | None = None) -> socket.socket:
        sock = socket.socket(family or self.family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.settimeout(PATIENCE)
        sock.bind((host or ("127.0.0.1" if sock.family == socket.AF_INET else "::1"), 0))
        self.clients.append(sock)
        return sock

    def run(self) -> int:
        assert select.select([self.engine.fileno()], [], [], PATIENCE)[0]
        return self.engine.drain()

    def close(self) -> None:
        self.engine.close()
        for sock in (*self.clients, self.listening):
            sock.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with closing(Scene(tmp_path)) as made:
        yield made


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")


def test_an_answer_goes_back_where_the_query_came_from(scene: Scene) -> None:
    sock = scene.client()
    asked = query("blocked.example")
    sock.sendto(asked.to_wire(), ("127.0.0.1", scene.port))
    assert scene.run() == 1
    reply, source = sock.recvfrom(4096)
    assert source == ("127.0.0.1", scene.port)
    assert asked.is_response(dns.message.from_wire(reply))
    assert scene.engine.drain() == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "127.1.2.3"])
def test_a_wildcard_socket_answers_from_the_address_asked(tmp_path: Path, address: str) -> None:
    with closing(Scene(tmp_path, "0.0.0.0", wildcard=True)) as scene:
        sock = scene.client()
        sock.sendto(query("blocked.example").to_wire(), (address, scene.port))
        scene.run()
        assert sock.recvfrom(4096)[1] == (address, scene.port)


@needs_ipv6
@pytest.mark.parametrize(("host", "wildcard"), [("::1", False), ("::", True)])
def test_ipv6(tmp_path: Path, host: str, wildcard: bool) -> None:
    with closing(Scene(tmp_path, host, wildcard=wildcard)) as scene:
        sock = scene.client()
        sock.sendto(query("blocked.example").to_wire(), ("::1", scene.port))
        scene.run()
        assert sock.recvfrom(4096)[1][:2] == ("::1", scene.port)


@needs_ipv6
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_ipv4_clients_of_an_ipv6_wildcard_socket_have_their_ipv4_rights(tmp_path: Path, address: str) -> None:
    with closing(Scene(tmp_path, "::", wildcard=True, v6only=False)) as scene:
        scene.world.build(block("blocked.example"), allow_from=["127.0.0.0/8"])
        sock = scene.client(family=socket.AF_INET)
        sock.sendto(query("blocked.example").to_wire(), (address, scene.port))
        scene.run()
        reply, source = sock.recvfrom(4096)
        assert source == (address, scene.port)
        assert dns.message.from_wire(reply).rcode() == dns.rcode.NOERROR
        stranger = scene.client(family=socket.AF_INET6)
        stranger.sendto(query("blocked.example").to_wire(), ("::1", scene.port))
        scene.run()
        assert dns.message.from_wire(stranger.recv(4096)).rcode() == dns.rcode.REFUSED


def test_who_may_ask_goes_by_the_source_address(scene: Scene) -> None:
    scene.world.build(block("blocked.example"), allow_from=["127.0.0.2"])
    for host, rcode in (("127.0.0.1", dns.rcode.REFUSED), ("127.0.0.2", dns.rcode.NOERROR)):
        sock = scene.client(host)
        sock.sendto(query("blocked.example").to_wire(), ("127.0.0.1", scene.port))
        scene.run()
        assert dns.message.from_wire(sock.recv(4096)).rcode() == rcode


@pytest.mark.parametrize("count", [63, 64, 65, 128, 256, 257, 1000])
def test_more_than_a_batch_is_answered_in_rounds(scene: Scene, count: int) -> None:
    clients = [scene.client() for _ in range(3)]
    for number in range(count):
        packet = wire_query([b"n%d" % number, b"blocked", b"example"], ident=number)
        clients[number % 3].sendto(packet, ("127.0.0.1", scene.port))
    taken: list[int] = []
    while sum(taken) < count:
        taken.append(scene.run())
    assert max(taken) <= 256  # so the loop gets its turn
    for place, sock in enumerate(clients):
        numbers = [struct.unpack(">H", sock.recv(4096)[:2])[0] for _ in range(place, count, 3)]
        assert numbers == list(range(place, count, 3))


def test_a_batch_of_all_kinds_answers_each_its_own(scene: Scene) -> None:
    kinds = [
        query("blocked.example").to_wire(),
        query("drop.example").to_wire(),
        query("elsewhere.example").to_wire(),
        b"",
        b"noise",
        bytes(12),
        query("blocked.example").to_wire()[:20],
    ]
    sock = scene.client()
    for number in range(70):
        packet = kinds[number % 7]
        sock.sendto(struct.pack(">H", number) + packet[2:] if len(packet) > 2 else packet, ("127.0.0.1", scene.port))
    while scene.engine.drain():
        pass
    got = {}
    for _ in range(30):
        reply = sock.recv(4096)
        got[struct.unpack(">H", reply[:2])[0]] = reply[3] & 0xF
    assert got == {n: (0 if n % 7 == 0 else 1) for n in range(70) if n % 7 in (0, 5, 6)}
    assert [struct.unpack(">H", punt.packet[:2])[0] for punt in scene.engine.take_punts()] == list(range(2, 70, 7))


def test_punts_are_finished_later_to_the_right_client(tmp_path: Path) -> None:
    with closing(Scene(tmp_path, "0.0.0.0", wildcard=True)) as scene:
        clients = [scene.client() for _ in range(5)]
        for number, sock in enumerate(clients):
            packet = wire_query([b"n%d" % number, b"example"], ident=number)
            sock.sendto(packet, (f"127.0.0.{number + 1}", scene.port))
        while scene.engine.drain():
            pass
        punts = scene.engine.take_punts()
        assert [punt.reason for punt in punts] == [PUNT_FORWARD] * 5
        for punt in reversed(punts):
            answer = reply_to(punt.packet, f"n{punt.packet[1]}.example. 60 A 192.0.2.{punt.packet[1]}")
            assert scene.engine.finish(punt, answer) == (REPLY, None)
        for number, sock in enumerate(clients):
            reply, source = sock.recvfrom(4096)
            assert source == (f"127.0.0.{number + 1}", scene.port)
            message = dns.message.from_wire(reply)
            assert (message.id, message.answer[0][0].address) == (number, f"192.0.2.{number}")


@needs_ipv6
def test_punts_over_ipv6(tmp_path: Path) -> None:
    with closing(Scene(tmp_path, "::", wildcard=True)) as scene:
        sock = scene.client()
        sock.sendto(query("elsewhere.example").to_wire(), ("::1", scene.port))
        scene.run()
        (punt,) = scene.engine.take_punts()
        assert scene.engine.finish(punt, None, EDE.NETWORK_ERROR)[0] == REPLY
        reply, source = sock.recvfrom(4096)
        assert source[:2] == ("::1", scene.port)
        assert dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL


def test_send_goes_to_the_client_of_the_punt(scene: Scene) -> None:
    sock = scene.client()
    asked = query("elsewhere.example")
    sock.sendto(asked.to_wire(), ("127.0.0.1", scene.port))
    scene.run()
    (punt,) = scene.engine.take_punts()
    made = reply_to(asked, "elsewhere.example. 60 A 192.0.2.1")
    assert scene.engine.send(punt, made) is None
    assert sock.recv(4096) == made


def test_a_punt_counts_one_miss(scene: Scene) -> None:
    sock = scene.client()
    sock.sendto(query("elsewhere.example").to_wire(), ("127.0.0.1", scene.port))
    scene.run()
    assert (scene.world.count("cache", 1), scene.world.count("engine", 3)) == (1, 1)


def test_an_oversized_datagram_is_formerr(scene: Scene) -> None:
    sock = scene.client()
    asked = query("blocked.example").to_wire()
    filler = (
        asked[:-11]
        + b"\0\0\x29\4\xd0\0\0\0\0"
        + struct.pack(">H", 4000)
        + b"\0\x0c"
        + struct.pack(">H", 3996)
        + bytes(3996)
    )
    sock.sendto(filler, ("127.0.0.1", scene.port))
    scene.run()
    answer = dns.message.from_wire(sock.recv(4096))
    assert answer.rcode() == dns.rcode.FORMERR
    sock.sendto(asked, ("127.0.0.1", scene.port))
    scene.run()
    assert dns.message.from_wire(sock.recv(4096)).rcode() == dns.rcode.NOERROR


def test_a_client_that_is_gone_harms_nobody(scene: Scene) -> None:
    gone, here = scene.client(), scene.client()
    for _ in range(3):
        gone.sendto(query("blocked.example").to_wire(), ("127.0.0.1", scene.port))
        here.sendto(query("blocked.example").to_wire(), ("127.0.0.1", scene.port))
    gone.close()
    while scene.engine.drain():
        pass
    for _ in range(3):
        assert dns.message.from_wire(here.recv(4096)).answer


def test_two_sockets(scene: Scene) -> None:
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind(("127.0.0.1", 0))
    scene.engine.add_udp(other.fileno(), socket.AF_INET, False)
    sock = scene.client()
    for port in (scene.port, other.getsockname()[1]):
        sock.sendto(query("blocked.example").to_wire(), ("127.0.0.1", port))
        scene.run()
        assert sock.recvfrom(4096)[1][1] == port
    scene.engine.close()
    other.close()


def test_a_descriptor_that_is_none_is_refused(scene: Scene) -> None:
    with pytest.raises(OSError):
        scene.engine.add_udp(999_999, socket.AF_INET, False)


def test_after_close_nothing_is_read(scene: Scene) -> None:
    scene.engine.close()
    sock = scene.client()
    sock.sendto(query("blocked.example").to_wire(), ("127.0.0.1", scene.port))
    assert not select.select([scene.engine.fileno()], [], [], 0.05)[0]
    assert scene.engine.drain() == 0


# -- PROXY headers ------------------------------------------------------------------------------------------------------
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def proxied(packet: bytes, source: str = "192.0.2.7", *, command: int = 0x21, tlvs: bytes = b"") -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    addresses = socket.inet_pton(family, source) * 2 + struct.pack(">HH", 4000, 53)
    kind = 0x22 if family == socket.AF_INET6 else 0x12
    return SIGNATURE + struct.pack(">BBH", command, kind, len(addresses + tlvs)) + addresses + tlvs + packet


@pytest.mark.parametrize(
    ("source", "rcode"), [("192.0.2.7", 0), ("192.0.2.8", 5), ("2001:db8::7", 0), ("2001:db8::8", 5)]
)
@pytest.mark.parametrize("tlvs", [b"", b"\x04\x00\x03abc" + bytes(100)])
def test_a_trusted_balancer_says_who_asks(scene: Scene, source: str, rcode: int, tlvs: bytes) -> None:
    scene.world.build(block("blocked.example"), allow_from=["192.0.2.7", "2001:db8::7"])
    scene.engine.set_proxies([(b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 0]), 104)])
    balancer = scene.client("127.0.0.3")
    reader = scene.world.record()
    asked = query("blocked.example")
    balancer.sendto(proxied(asked.to_wire(), source, tlvs=tlvs), ("127.0.0.1", scene.port))
    scene.run()
    answer = dns.message.from_wire(balancer.recv(4096))
    assert asked.is_response(answer) and answer.rcode() == rcode
    [record] = reader.batch()
    assert record.client == client_octets(source)
    reader.close()


def test_local_headers_stand_for_the_balancer_itself(scene: Scene) -> None:
    scene.world.build(block("blocked.example"), allow_from=["127.0.0.3"])
    scene.engine.set_proxies([(b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 3]), 128)])
    balancer = scene.client("127.0.0.3")
    for octets in (
        SIGNATURE + b"\x20\x00\x00\x00",
        SIGNATURE + b"\x20\x00\x00\x05hello",
        SIGNATURE + b"\x21\x00\x00\x00",
    ):
        balancer.sendto(octets + query("blocked.example").to_wire(), ("127.0.0.1", scene.port))
        scene.run()
        assert dns.message.from_wire(balancer.recv(4096)).rcode() == dns.rcode.NOERROR


def test_punts_of_a_balancer_go_back_to_it_and_know_the_client(scene: Scene) -> None:
    scene.engine.set_proxies([(b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 3]), 128)])
    balancer = scene.client("127.0.0.3")
    asked = query("elsewhere.example")
    balancer.sendto(proxied(asked.to_wire(), "198.51.100.9"), ("127.0.0.1", scene.port))
    scene.run()
    [punt] = scene.engine.take_punts()
    assert punt.client == client_octets("198.51.100.9") and punt.packet == asked.to_wire()
    scene.engine.finish(punt, reply_to(asked, "elsewhere.example. 60 A 192.0.2.1"))
    assert asked.is_response(dns.message.from_wire(balancer.recv(4096)))


def test_what_is_no_header_from_a_balancer_is_dropped_and_a_strangers_header_is_garbage(scene: Scene) -> None:
    scene.engine.set_proxies([(b"\0" * 10 + b"\xff\xff" + bytes([127, 0, 0, 3]), 128)])
    balancer, stranger = scene.client("127.0.0.3"), scene.client("127.0.0.4")
    packet = query("blocked.example").to_wire()
    whole = proxied(packet)
    bad = [
        packet,
        b"",
        SIGNATURE,
        *(whole[:cut] for cut in range(0, 28)),
        whole[:12] + b"\x11" + whole[13:],
        whole[:12] + b"\x22" + whole[13:],
        whole[:13] + b"\x42" + whole[14:],
        whole[:13] + b"\x22" + whole[14:],  # IPv4's octets where IPv6's should be
        whole[:14] + b"\xff\xff" + whole[16:],
        b"X" + whole[1:],
    ]
    before = scene.world.count("engine", 0)
    for octets in bad:
        balancer.sendto(octets, ("127.0.0.1", scene.port))
    while scene.engine.drain():
        pass
    assert scene.world.count("engine", 0) == before + len(bad)
    balancer.setblocking(False)
    with pytest.raises(BlockingIOError):
        balancer.recv(4096)
    stranger.sendto(whole, ("127.0.0.1", scene.port))
    scene.run()
    assert dns.message.from_wire(stranger.recv(4096), ignore_trailing=True).rcode() != dns.rcode.NOERROR
    stranger.sendto(packet, ("127.0.0.1", scene.port))
    scene.run()
    assert dns.message.from_wire(stranger.recv(4096)).rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("networks", [[(bytes(15), 8)], [(bytes(16), 129)], [(bytes(16), 0)] * 65])
def test_networks_of_balancers_that_are_none(scene: Scene, networks: list[tuple[bytes, int]]) -> None:
    with pytest.raises(ValueError, match="prox"):
        scene.engine.set_proxies(networks)
