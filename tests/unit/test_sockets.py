"""Sockets are bound for all workers, and an address that cannot be had is named with its reason."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from resolver.config.addresses import Endpoint
from resolver.sockets import SocketError, Sockets, family_of, has_ipv6, holders
from tests.ports import free_port

LOOPBACK = Endpoint("127.0.0.1", 0)


def _ask(address: Endpoint, count: int) -> list[socket.socket]:
    clients = []
    for number in range(count):
        client = socket.socket(family_of(address), socket.SOCK_DGRAM)
        client.sendto(b"%d" % number, (address.host, address.port))
        clients.append(client)
    return clients


def _close(clients: list[socket.socket]) -> None:
    for client in clients:
        client.close()


def test_each_worker_has_its_own_udp_socket_and_all_share_tcp() -> None:
    sockets = Sockets({"dns": [LOOPBACK]}, 3)
    udp = {bound.fd for worker in range(3) for bound in sockets.of(worker) if not bound.stream}
    tcp = {bound.fd for worker in range(3) for bound in sockets.of(worker) if bound.stream}
    assert len(udp) == 3 and len(tcp) == 1
    [address] = sockets.addresses
    clients = _ask(address, 60)
    arrived = 0
    for fd in udp:
        with socket.socket(fileno=os.dup(fd)) as worker:
            while select.select([worker], [], [], 0)[0]:
                worker.recv(100)
                arrived += 1
    assert arrived == 60
    _close(clients)
    sockets.close()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_ipv4_and_ipv6_wildcards_stand_side_by_side_and_tell_the_address_asked() -> None:
    sockets = Sockets({"dns": [Endpoint("0.0.0.0", 0)]}, 1)
    port = sockets.addresses[0].port
    both = Sockets({"dns": [Endpoint("::", port)]}, 1)
    for made, host in ((sockets, "127.0.0.3"), (both, "::1")):
        [bound] = [bound for bound in made.of(0) if not bound.stream]
        assert bound.wildcard
        clients = _ask(Endpoint(host, port), 1)
        with socket.socket(fileno=os.dup(bound.fd)) as worker:
            assert select.select([worker], [], [], 2)[0]
            ancillary = worker.recvmsg(100, 200)[1]
        assert any(ip_address(host).packed in data for _, _, data in ancillary)
        _close(clients)
        made.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_never_cuts_answers_into_fragments(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    sockets = Sockets({"dns": [Endpoint(host, 0)]}, 1)
    [fd] = [bound.fd for bound in sockets.of(0) if not bound.stream]
    level, option = (socket.IPPROTO_IPV6, 23) if ":" in host else (socket.IPPROTO_IP, 10)  # IP_MTU_DISCOVER, ip(7)
    with socket.socket(fileno=os.dup(fd)) as udp:
        assert udp.getsockopt(level, option) == 3  # IP_PMTUDISC_PROBE
    sockets.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_an_occupied_port_names_address_port_and_process(kind: socket.SocketKind, host: str) -> None:
    script = (
        "import socket, sys\n"
        f"s = socket.socket(socket.AF_INET, {int(kind)})\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        f"s.bind(({host!r}, 0)); s.type == socket.SOCK_STREAM and s.listen()\n"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        with pytest.raises(SocketError) as caught:
            Sockets({"dns": [Endpoint("127.0.0.1", port)]}, 2)
        assert other.stdin is not None
        other.stdin.close()
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert f"pid {other.pid}" in str(caught.value)
    Sockets({"dns": [Endpoint("127.0.0.1", port)]}, 2).close()  # free again, and nothing was left open


def test_holders_finds_every_process_of_a_port() -> None:
    sockets = Sockets({"dns": [LOOPBACK]}, 2)
    assert [pid for pid, _ in holders(sockets.addresses[0])] == [os.getpid()]
    sockets.close()


@pytest.mark.parametrize("other", ["127.0.0.1", "0.0.0.0"])
def test_overlapping_addresses_of_one_config_are_named(other: str) -> None:
    with pytest.raises(SocketError, match=rf"{other}:5335 overlaps 0\.0\.0\.0:5335"):
        Sockets({"dns": [Endpoint("0.0.0.0", 5335), Endpoint(other, 5335)]}, 1)


def test_each_key_has_its_kinds_of_sockets_and_may_share_a_port_where_protocols_differ() -> None:
    port = free_port()
    sockets = Sockets(
        {"dns": [LOOPBACK], "tls": [Endpoint("127.0.0.1", port)], "quic": [Endpoint("127.0.0.1", port)]}, 2
    )
    kinds = sorted((bound.kind, bound.stream) for bound in sockets.of(1))
    assert kinds == [("dns", False), ("dns", True), ("quic", False), ("tls", True)]
    assert sockets.names[1:] == [f"tls://127.0.0.1:{port}", f"quic://127.0.0.1:{port}"]
    sockets.close()
    sockets = Sockets({"https": [LOOPBACK]}, 1)
    assert sorted((bound.kind, bound.stream) for bound in sockets.of(0)) == [("https", True), ("https3", False)]
    sockets.close()
    with pytest.raises(SocketError, match=r"listen\.https: .* overlaps .* of listen\.tls"):
        Sockets({"tls": [Endpoint("127.0.0.1", port)], "https": [Endpoint("0.0.0.0", port)]}, 1)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(SocketError, match=r"192\.0\.2\.1:5335: this machine does not have that address"):
        Sockets({"dns": [Endpoint("192.0.2.1", 5335)]}, 1)


def test_what_was_queued_before_a_drain_is_answered_and_nothing_is_taken_after() -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        sockets = Sockets({"dns": [Endpoint(host, 0)]}, 1)
        target = Endpoint("127.0.0.1", sockets.addresses[0].port)
        clients = _ask(target, 3)
        sockets.refuse_new()
        late = _ask(target, 1)
        [bound] = [bound for bound in sockets.of(0) if not bound.stream]
        with socket.socket(fileno=os.dup(bound.fd)) as worker:
            seen = []
            while select.select([worker], [], [], 0.05)[0]:
                query, client = worker.recvfrom(100)
                seen.append(query)
                worker.sendto(query, client)
        assert seen == [b"0", b"1", b"2"]
        for number, client_socket in enumerate(clients):
            client_socket.settimeout(2)
            assert client_socket.recv(100) == b"%d" % number
        _close(clients + late)
        sockets.close()


NAMESPACE = 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up; exec "$@"'


def _without_ipv6(script: str) -> str:
    """Run a script in a network of its own without IPv6; what it prints."""
    root = Path(__file__).resolve().parents[2]
    command = ["unshare", "-n", "sh", "-c", NAMESPACE, "sh", sys.executable, "-c", script]
    if os.geteuid() or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("needs root for a network namespace")
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def test_loopback_on_a_machine_without_ipv6_is_a_warning_beside_another_address() -> None:
    script = (
        "from resolver.sockets import *\n"
        "s = Sockets({'dns': [Endpoint('127.0.0.1', 5335), Endpoint('::1', 5335)]}, 1)\n"
        "print(s.warnings, [str(a) for a in s.addresses])\n"
        "try: Sockets({'dns': [Endpoint('::1', 5336)]}, 1)\n"
        "except SocketError as error: print(error)\n"
        "try: Sockets({'dns': [Endpoint('2001:db8::1', 5336)]}, 1)\n"
        "except SocketError as error: print(error)\n"
    )
    first, alone, foreign = _without_ipv6(script).splitlines()
    assert first == "['[::1]:5335: left out, as this machine has no IPv6'] ['127.0.0.1:5335']"
    assert alone.startswith("no address of listen.dns can be served")
    assert "does not have that address" in foreign


def test_a_low_port_without_privilege_says_what_to_do() -> None:
    if os.geteuid():
        pytest.skip("needs root to become somebody else")
    script = (
        "from resolver.sockets import *\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: Sockets({'dns': [Endpoint('127.0.0.1', 53)]}, 1)\n"
        "except SocketError as error: print(error)\n"
    )
    assert "CAP_NET_BIND_SERVICE" in _without_ipv6(script)
