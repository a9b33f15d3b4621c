"""`python -m tests.bench.quic`: what a query costs over QUIC beside TLS, and what half-open handshakes do to UDP.

    for each repetition:  start;  DoT, DoQ, DoH over HTTP/3: ask over persistent connections;  stop
                          start;  UDP alone, with half-open handshakes, with some that prove their address;  stop

One worker, pinned with its supervisor to core 0; clients on core 1. The first table is CPU of the whole server for an
answer, on ten connections with two queries under way on each; the clients (dnsperf for DoT, aioquic else) are slow, and what
a client can do is not the server's figure. The second is UDP's latency at a fixed rate (latency.c) while RATE clients a
second begin a handshake and say nothing more, or, with `proven`, a tenth as many answer the Retry first: aioquic on the
client's core cannot do more. No peer that is installed speaks QUIC, so there is none beside. Medians, to standard output; on
a machine that others use, `chrt -r 1 python -m tests.bench.quic` keeps them out.
"""

from __future__ import annotations

import argparse
import re
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from select import select

import dns.message
from aioquic.h3.connection import H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted, QuicEvent, StreamDataReceived

from tests.bench import measure, names, peers, tampah
from tests.bench.drive import hurry
from tests.bench.measure import LatencyClient
from tests.bench.peers import Upstream
from tests.bench.processes import Process, cpu_seconds
from tests.certificates import Authority
from tests.ports import free_port

WAYS = ("DoT", "DoQ", "DoH3")
FLOODS = ("quiet", "half-open", "proven")
CONNECTIONS, WINDOW = 10, 2
RATE = 1000  # handshakes a second


class Encrypted(tampah.Tampah):
    """The server with DoT, DoQ and DoH."""

    def write(self, names: names.Names) -> None:
        super().write(names)
        self.tls, self.doq, self.https = free_port(), free_port(), free_port()
        pair = Authority().issue(self.folder)
        config = self.folder / "config.yaml"
        text = config.read_text()
        more = (
            f'tls: ["127.0.0.1:{self.tls}"], quic: ["127.0.0.1:{self.doq}"], https: ["127.0.0.1:{self.https}"], '
            f"certificate: {{chain: {pair['chain']}, key: {pair['key']}}}}}"
        )
        config.write_text(text.replace("]}", f"], {more}", 1) + "connections: {per_client: 1000}\n")


# -- clients, each a process of its own --------------------------------------------------------------------------------


def queries_of(path: Path) -> list[bytes]:
    """The queries of a file for dnsperf, as messages with id 0."""
    found = []
    for line in path.read_text().splitlines()[:20_000]:
        name, qtype = line.split()
        query = dns.message.make_query(name, qtype, use_edns=0)
        query.id = 0
        found.append(query.to_wire())
    return found


class Asking:
    """One connection with WINDOW queries under way."""

    def __init__(self, port: int, http: bool, take: Callable[[], bytes]) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=["h3" if http else "doq"], server_name="localhost", verify_mode=ssl.CERT_NONE
            )
        )
        self.h3: H3Connection | None = None
        self._http = http
        self._take = take
        self.answers = 0
        self.quic.connect(("127.0.0.1", port), time.monotonic())

    def _ask(self) -> None:
        stream, query = self.quic.get_next_available_stream_id(), self._take()
        if self.h3 is None:
            self.quic.send_stream_data(stream, len(query).to_bytes(2, "big") + query, end_stream=True)
            return
        path = b"/dns-query?dns=" + urlsafe_b64encode(query).rstrip(b"=")
        fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", path)]
        self.h3.send_headers(stream, fields, end_stream=True)

    def work(self) -> None:
        """Take what has come, ask again for each answer, send."""
        now = time.monotonic()
        try:
            while True:
                self.quic.receive_datagram(self.sock.recv(2048), self.quic.get_peer_address(), now)
        except BlockingIOError:
            pass
        timer = self.quic.get_timer()
        if timer is not None and timer <= now:
            self.quic.handle_timer(now)
        while (event := self.quic.next_event()) is not None:
            self._see(event)
        for data, _ in self.quic.datagrams_to_send(now):
            self.sock.send(data)

    def _see(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self.h3 = H3Connection(self.quic) if self._http else None
            for _ in range(WINDOW):
                self._ask()
        elif isinstance(event, StreamDataReceived) and event.end_stream and not event.stream_id & 3:
            self.answers += 1
            self._ask()
        if self.h3 is not None:
            self.h3.handle_event(event)


def ask(way: str, port: int, queries: Path, seconds: float) -> None:
    """Ask over ten connections; prints how many answers came."""
    made = cycle(queries_of(queries))
    asking = [Asking(port, way == "DoH3", lambda: next(made)) for _ in range(CONNECTIONS)]
    socks = [each.sock for each in asking]
    for each in asking:
        each.work()
    print("ready", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        select(socks, [], [], 0.01)
        for each in asking:
            each.work()
    print(sum(each.answers for each in asking), flush=True)


def flood(kind: str, port: int, rate: int, seconds: float) -> None:
    """Begin `rate` handshakes a second, each from a connection of its own."""
    configuration = QuicConfiguration(alpn_protocols=["doq"], server_name="localhost", verify_mode=ssl.CERT_NONE)
    waiting = []
    target = ("127.0.0.1", port)
    for _ in range(int(rate * seconds)):
        quic = QuicConnection(configuration=configuration)
        quic.connect(target, 0.0)
        waiting.append((quic, quic.datagrams_to_send(0.0)[0][0]))
    known = {quic.host_cid: quic for quic, _ in waiting}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        print("ready", flush=True)
        began, retries = time.monotonic(), 0
        for number, (_, first) in enumerate(waiting):
            while (wait := began + number / rate - time.monotonic()) > 0:
                select([sock], [], [], wait)
                try:
                    data = sock.recv(2048)
                except OSError:
                    continue
                if data[0] & 0xF0 == 0xF0:  # a Retry
                    retries += 1
                    client = known.get(data[6 : 6 + data[5]])
                    if kind == "proven" and client is not None:
                        client.receive_datagram(data, target, 0.1)
                        for again, _ in client.datagrams_to_send(0.1):
                            sock.sendto(again, target)
            sock.sendto(first, target)
    print(retries, flush=True)


def client(*arguments: object) -> subprocess.Popen[str]:
    """One of these, on the client's core, ready to go."""
    command = ["taskset", "-c", measure.CLIENT_CORE, sys.executable, "-m", "tests.bench.quic", *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tampah.ROOT)
    assert running.stdout is not None
    if running.stdout.readline().strip() != "ready":
        raise measure.UnfitError(f"no client: {command}")
    return running


# -- the runs ----------------------------------------------------------------------------------------------------------


def cost(server: Encrypted, process: Process, way: str, queries: Path, seconds: float) -> tuple[float, float]:
    """(answers a second, microseconds of CPU an answer)."""
    before, began = cpu_seconds(process.tree), time.monotonic()
    if way == "DoT":
        command = [
            "taskset",
            "-c",
            measure.CLIENT_CORE,
            "dnsperf",
            "-m",
            "dot",
            "-s",
            "127.0.0.1",
            "-p",
            str(server.tls),
        ]
        load = ["-d", str(queries), "-l", f"{seconds:g}", "-c", str(CONNECTIONS), "-q", str(CONNECTIONS * WINDOW)]
        out = subprocess.run([*command, *load], capture_output=True, text=True, check=True).stdout
        answers = int(re.search(r"Queries completed: +(\d+)", out)[1])  # type: ignore[index]
    else:
        running = client("ask", way, server.doq if way == "DoQ" else server.https, queries, seconds)
        answers = int(running.communicate()[0])
    cpu = cpu_seconds(process.tree) - before
    return answers / (time.monotonic() - began), cpu / max(answers, 1) * 1e6


def run(options: argparse.Namespace, folder: Path) -> None:
    """All repetitions, then the tables."""
    listed = names.collect(options.names, folder / "names", 1)
    queries = names.write_queries(folder, listed, 1)
    program = peers.build("latency", folder)
    *_, last = names.read(listed.path)
    costs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    floods: dict[str, list[tuple[float, float, float, int, float]]] = {kind: [] for kind in FLOODS}
    with Upstream(folder / "upstream", free_port(), measure.CLIENT_CORE) as upstream:
        hurry(upstream.process)
        server = Encrypted(folder, free_port(), upstream.port)
        server.write(listed)
        for repetition in range(options.repeats):
            for way in set(WAYS) & set(options.case or WAYS):
                with measure.start(server, last, measure.Limits())[0] as process:
                    hurry(process)
                    measure.warm(server.port, queries["cached"])
                    measure.settle(process)
                    costs[way].append(cost(server, process, way, queries["cached"], options.seconds))
                    print(f"  {repetition + 1} {way}: {costs[way][-1]}", file=sys.stderr, flush=True)
            for kind in set(FLOODS) & set(options.case or FLOODS):
                with measure.start(server, last, measure.Limits())[0] as process:
                    hurry(process)
                    measure.warm(server.port, queries["mix"])
                    measure.settle(process)
                    running = None
                    if kind != "quiet":
                        rate = RATE if kind == "half-open" else RATE // 10
                        running = client("flood", kind, server.doq, rate, options.seconds + 1)
                        time.sleep(0.5)
                    before = cpu_seconds(process.tree)
                    asking = LatencyClient(
                        program, server.port, queries["mix"], options.rate, options.seconds, server.folder / "latency"
                    )
                    hurry(asking.process)
                    with asking.process:
                        said = measure.summarise(asking.records())
                    cpu = (cpu_seconds(process.tree) - before) / options.seconds
                    if running is not None:
                        running.communicate()
                    floods[kind].append((said.p50, said.p99, said.p999, said.lost, cpu))
                    print(f"  {repetition + 1} {kind}: {floods[kind][-1]}", file=sys.stderr, flush=True)
    print("| over | answers a second | CPU an answer, µs |\n|---|---|---|")
    for way, found in ((way, found) for way, found in costs.items() if found):
        speed, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {way} | {speed:.0f} | {cpu:.0f} |")
    print(f"\n| UDP, {options.rate} a second, beside | p50 ms | p99 ms | p99.9 ms | lost | CPU, cores |")
    print("|" + 6 * "---|")
    for kind, runs in ((kind, runs) for kind, runs in floods.items() if runs):
        p50, p99, p999, lost, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {kind} | {p50:.3f} | {p99:.3f} | {p999:.3f} | {lost:g} | {cpu:.2f} |")


def main() -> None:
    """The command; `ask` and `flood` are its clients."""
    if sys.argv[1:2] == ["ask"]:
        ask(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5]))
        return
    if sys.argv[1:2] == ["flood"]:
        flood(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quic", description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=5_000, help="UDP queries a second")
    parser.add_argument("--case", action="append", choices=WAYS + FLOODS, help="this one alone; again for another")
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tampah-quic-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
