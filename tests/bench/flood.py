"""`python -m tests.bench.flood`: what other clients feel of one network that floods the server, by action of the rate limit.

    for each repetition:  quiet;  for each case:  flood elsewhere, flood here

One worker on core 0; the flood (50,000 queries a second from 127.9.0.0/24), the client whose latency is taken (1,000 a
second from 127.0.0.1) and the upstream on core 1. "Elsewhere" is a socket that nobody reads: it costs the client's core
what the flood costs it, so that the server's part can be told from it. All names asked are blocked ones. Cases: no limit,
2,000 a second with truncate, with drop, and responses_per_second. Medians go to standard output as a table.
Caveat: on two cores client and flood share one, and the kernel does the work of both sides of loopback on the sender's.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import measure, names, peers, tampah
from tests.bench.drive import hurry
from tests.bench.measure import LatencyClient
from tests.bench.peers import Upstream
from tests.bench.processes import Process, cpu_seconds
from tests.ports import free_port

FLOOD_RATE = 50_000  # queries a second
FLOOD_FROM = "127.9.0.1"
CLIENT_RATE = 1_000
STEP = 0.001  # seconds between two bursts
CASES = {
    "no limit": "",
    "truncate": "rate_limit: {per_second: 2000, action: truncate}\n",
    "drop": "rate_limit: {per_second: 2000, action: drop}\n",
    "responses": "rate_limit: {responses_per_second: 100, slip: 2}\n",
}


class Limited(tampah.Tampah):
    """The server with one of the cases' limits."""

    limit = ""

    def write(self, names: names.Names) -> None:
        super().write(names)
        config = self.folder / "config.yaml"
        config.write_text(f"{config.read_text()}{self.limit}allow_from: [127.0.0.0/8]\n")


def flood(port: int, seconds: float, rate: int, queries: Path) -> int:
    """Send for so long; how many. Answers are left to be thrown away by the kernel."""
    packets = [_packet(line.split()[0]) for line in queries.read_text().splitlines()[:1000]]
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        out.bind((FLOOD_FROM, 0))
        out.setblocking(False)
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            while sent < now * rate:
                try:
                    out.sendto(packets[sent % len(packets)], ("127.0.0.1", port))
                except BlockingIOError:
                    pass
                sent += 1
            time.sleep(STEP)
    return sent


def _packet(name: str) -> bytes:
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return b"\x55\x55\1\0\0\1\0\0\0\0\0\0" + wire + b"\0\0\1\0\1"


def ask(
    client: Path, port: int, queries: dict[str, Path], target: int, seconds: float, folder: Path
) -> measure.Latency:
    """The client's latency while the port `target` is flooded (0: none is)."""
    command = [sys.executable, "-m", "tests.bench.flood", "--send", str(target), "--seconds", f"{seconds + 1:g}"]
    sender = (
        Process([*command, "--queries", str(queries["blocked"])], measure.CLIENT_CORE, log=folder / "flood")
        if target
        else None
    )
    try:
        time.sleep(0.5)
        asking = LatencyClient(client, port, queries["blocked"], CLIENT_RATE, seconds, folder / "latency")
        hurry(asking.process)
        with asking.process:
            return measure.summarise(asking.records())
    finally:
        if sender is not None:
            sender.end()


def run(options: argparse.Namespace, folder: Path) -> None:
    """All repetitions, then the table."""
    listed = names.collect(options.names, folder / "names", 1)
    queries = names.write_queries(folder, listed, 1)
    client = peers.build("latency", folder)
    *_, last = names.read(listed.path)
    figures: dict[tuple[str, str], list[tuple[float, float, int, float]]] = {}
    with (
        Upstream(folder / "upstream", free_port(), measure.CLIENT_CORE) as upstream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hole,
    ):
        hole.bind(("127.0.0.1", 0))
        for repetition in range(options.repeats):
            for case, limit in CASES.items():
                place = folder / f"{case.replace(' ', '')}{repetition}"
                place.mkdir()
                server = Limited(place, free_port(), upstream.port)
                server.limit = limit
                server.write(listed)
                process, _ = measure.start(server, last, measure.Limits())
                try:
                    hurry(process)
                    measure.settle(process)
                    for when, target in (("quiet", 0), ("elsewhere", hole.getsockname()[1]), ("here", server.port)):
                        before = cpu_seconds(process.tree)
                        said = ask(client, server.port, queries, target, options.seconds, place)
                        cpu = (cpu_seconds(process.tree) - before) / options.seconds
                        figures.setdefault((case, when), []).append((said.p50, said.p99, said.lost, cpu))
                        print(
                            f"  {repetition + 1} {case} {when}: {figures[case, when][-1]}", file=sys.stderr, flush=True
                        )
                finally:
                    process.end()
    print("| limit | flood | p50 ms | p99 ms | lost | CPU, cores |\n|---|---|---|---|---|---|")
    for (case, when), runs in figures.items():
        p50, p99, lost, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {case} | {when} | {p50:.3f} | {p99:.3f} | {lost:g} | {cpu:.2f} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.flood", description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)  # be the flood, to this port
    parser.add_argument("--queries", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        flood(options.send, options.seconds, FLOOD_RATE, options.queries)
        return
    with tempfile.TemporaryDirectory(prefix="tampah-flood-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
