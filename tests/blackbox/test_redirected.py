"""Queries that do not come straight from the client: redirected by a router (TPROXY), or passed on by a load balancer.

The client sees the address that it asked; policy and records see the client. In network namespaces of their own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest

from resolver.listeners.server import client_octets
from resolver.ring import Reader
from tests.blackbox.harness import Server, until
from tests.netns import CLIENT4, CLIENT6, ROUTER4, ROUTER6, Wire, WireError, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "there can be")

FAR4, FAR6 = "192.0.2.53", "2001:db8::53"  # which no machine has here
CONFIG = {
    "workers": 1,
    "lists": [{"name": "ads", "source": "ads.txt"}],
    "allow_from": ["127.0.0.0/8", CLIENT4, CLIENT6],
    "groups": [{"name": "theirs", "clients": [CLIENT4, CLIENT6], "lists": "all", "actions": {"general": "address"}}],
    "sinkhole": {"ipv4": "203.0.113.80"},
    "query_log": {"what": "all"},
}


def serve(folder: Path, wire: Wire, listen: Mapping[str, object]) -> Server:
    (folder / "ads.txt").write_text("ads.example\n")
    server = Server(folder, {**CONFIG, "listen": listen, "admin": {"listen": ""}})
    server.prefix = wire.at_router
    return server


@contextlib.contextmanager
def records(server: Server) -> Iterator[Reader]:
    """The query records of the one worker, taken where the supervisor keeps them."""
    assert server.process is not None
    folder = Path(f"/proc/{server.process.pid}/fd")
    link = next(link for link in folder.iterdir() if "tampah-records-0" in str(link.readlink()))
    fd = os.open(link, os.O_RDWR)
    reader = Reader(fd)
    os.close(fd)
    try:
        yield reader
    finally:
        reader.close()


def clients_in(reader: Reader, count: int) -> set[bytes]:
    """Who asked, once so many queries have been recorded."""
    found: list[bytes] = []

    def read() -> bool:
        found.extend(each.client for each in reader.batch())
        return len(found) >= count

    until(read, f"{count} records")
    return set(found)


def redirect(wire: Wire) -> None:
    """Have the router take all queries that pass through it."""
    for tables, family in (("iptables", "-4"), ("ip6tables", "-6")):
        for protocol in ("udp", "tcp"):
            rule = f"-t mangle -A PREROUTING -p {protocol} --dport 53 -j TPROXY --on-port 53 --tproxy-mark 1"
            wire.router(tables, *rule.split())
        wire.router("ip", family, "rule", "add", "fwmark", "1", "lookup", "100")
        wire.router("ip", family, "route", "add", "local", "default", "dev", "lo", "table", "100")


@pytest.mark.peer("kdig", "iptables", "ip6tables", "ip")
def test_a_redirected_query_is_answered_from_the_address_that_was_asked(tmp_path: Path) -> None:
    with Wire() as wire:
        try:
            redirect(wire)
        except WireError as error:
            pytest.skip(f"this kernel has no TPROXY: {error}")
        listen = {"dns": ["0.0.0.0:53", "[::]:53"], "transparent": True}
        with serve(tmp_path, wire, listen) as server, records(server) as reader:
            for far, client in ((FAR4, CLIENT4), (FAR6, CLIENT6)):
                for protocol in ("+notcp", "+tcp"):
                    said = wire.client("kdig", f"@{far}", protocol, "+edns", "+timeout=10", "+retry=1", "ads.example")
                    assert f"From {far}@53({'TCP' if protocol == '+tcp' else 'UDP'})" in said
                    assert "203.0.113.80" in said  # as its group has it
                assert clients_in(reader, 2) == {client_octets(client)}
            # What is sent to the router itself is answered as ever.
            for near in (ROUTER4, ROUTER6):
                assert f"From {near}@53(UDP)" in wire.client("kdig", f"@{near}", "+timeout=10", "ads.example")
            # A query that waits for an upstream (which does not answer here) comes back from there too.
            failed = wire.client("kdig", f"@{FAR4}", "+timeout=20", "+retry=0", "www.example")
            assert f"From {FAR4}@53(UDP)" in failed and "SERVFAIL" in failed


@pytest.mark.peer("kdig", "ip")
def test_transparent_sockets_need_their_capability(tmp_path: Path) -> None:
    (tmp_path / "ads.txt").write_text("ads.example\n")
    server = Server(tmp_path, CONFIG)
    server.configure(listen={"dns": [f"127.0.0.1:{server.port}"], "transparent": True})
    server.prefix = ["setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]
    server.start()
    assert server.wait_end() == 1
    assert "listen.transparent: no permission" in server.log and "CAP_NET_ADMIN" in server.log


DNSDIST = """\
setLocal("0.0.0.0:53", {{}})
addLocal("[::]:53", {{}})
addACL("0.0.0.0/0")
addACL("::/0")
newServer({{address="127.0.0.1:{port}", useProxyProtocol=true, checkName="ads.example.", checkInterval=1}})
setSecurityPollSuffix("")
"""


@pytest.mark.peer("kdig", "dnsdist", "ip")
def test_a_load_balancer_says_who_the_client_is(tmp_path: Path) -> None:
    with Wire() as wire:
        listen = {"dns": ["127.0.0.1:5335"], "proxy_from": ["127.0.0.1"]}
        config = tmp_path / "dnsdist.conf"
        config.write_text(DNSDIST.format(port=5335))
        with serve(tmp_path, wire, listen) as server, records(server) as reader:
            balancer = subprocess.Popen(
                [*wire.at_router, "dnsdist", "--supervised", "--disable-syslog", "-C", str(config)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                ask = ["kdig", "+edns", "+timeout=5", "+retry=0", "ads.example"]
                until(lambda: "203.0.113.80" in _quiet(wire, *ask, f"@{ROUTER4}"), "the balancer passes queries on")
                reader.batch()
                for near, client in ((ROUTER4, CLIENT4), (ROUTER6, CLIENT6)):
                    for protocol in ("+notcp", "+tcp"):
                        assert "203.0.113.80" in wire.client(*ask, protocol, f"@{near}")
                    # The balancer's own health checks are its own.
                    seen = clients_in(reader, 2) - {client_octets("127.0.0.1")}
                    assert seen == {client_octets(client)}, [str(ip_address(each)) for each in seen]
            finally:
                balancer.kill()
                balancer.wait()
            assert balancer.returncode == -9
            # Without a header nothing is taken from where headers are expected.
            bare = ["kdig", "@127.0.0.1", "-p", "5335", "+timeout=1", "+retry=0", "ads.example"]
            with pytest.raises(WireError):
                wire.router(*bare)
            with pytest.raises(WireError):
                wire.router(*bare, "+tcp")


def _quiet(wire: Wire, *command: str) -> str:
    try:
        return wire.client(*command)
    except WireError:
        return ""
