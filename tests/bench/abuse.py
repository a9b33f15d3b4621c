"""`python -m tests.bench.abuse`: what other clients of UDP notice of those who misuse connections.

    quiet │ 10,000 idle TCP │ 10,000 idle TLS │ 1,000 slow TCP │ 1,000 slow TLS │ half-open handshakes │ quiet again

Clients come from addresses of 127.0.0.0/8, so limits by client do not keep them off; those by worker do. Idle: open and
silent (TLS: after a handshake). Slow: a frame octet by octet, for ever. Half-open: a ClientHello, then nothing, as many a
second as `--hellos` says, each on a connection of its own, from 200 addresses or from ones that are never used twice.
Meanwhile our own client asks by UDP at a fixed rate (latency.c). One worker on core 0; all others on core 1.

Each case is measured twice: "elsewhere" the abuse is of a second server, which runs on core 1 too, so that what it costs the
machine and the client can be told from what the server has of it; "here" it is of the server that is asked. p99 beside its
quiet value is what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import resource
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

from tests.bench import measure, names, peers
from tests.bench.drive import hurry
from tests.bench.encrypted import Encrypted
from tests.bench.measure import Latency, LatencyClient
from tests.bench.peers import Upstream
from tests.bench.processes import cpu_seconds
from tests.ports import free_port

RATE = 5_000  # of UDP queries a second
Abuse = Callable[[int, int, Event, Event], None]  # port, how many, "they are there", "it is over"


def sources() -> Iterator[str]:
    """Addresses of loopback, one after the other."""
    for number in itertools.cycle(range(200)):
        yield f"127.0.{1 + number // 100}.{1 + number % 100}"


def fresh() -> Iterator[str]:
    """Addresses of loopback, none twice."""
    for number in itertools.count():
        yield f"127.{1 + number // 62_500 % 250}.{1 + number // 250 % 250}.{1 + number % 250}"


def context() -> ssl.SSLContext:
    """Of a client that believes everything."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def hello() -> bytes:
    """A ClientHello."""
    out = ssl.MemoryBIO()
    made = context().wrap_bio(ssl.MemoryBIO(), out)
    with contextlib.suppress(ssl.SSLWantReadError):
        made.do_handshake()
    return out.read()


def connect(port: int, source: str, secured: ssl.SSLContext | None = None) -> socket.socket | None:
    """A connection, or None where the server will not have it."""
    try:
        plain = socket.create_connection(("127.0.0.1", port), 10, (source, 0))
        return plain if secured is None else secured.wrap_socket(plain)
    except OSError:
        return None


def idle(secured: bool) -> Abuse:
    """Connections that say nothing."""

    def work(port: int, count: int, there: Event, over: Event) -> None:
        shown = context() if secured else None
        kept = [connect(port, source, shown) for source in itertools.islice(sources(), count)]
        there.set()
        over.wait()
        del kept

    return work


def slow(secured: bool) -> Abuse:
    """Connections that send a frame of 300 octets, one at a time."""

    def work(port: int, count: int, there: Event, over: Event) -> None:
        shown = context() if secured else None
        where = sources()
        kept = [connect(port, source, shown) for source in itertools.islice(where, count)]
        there.set()
        at = 0
        while not over.is_set():
            began = time.monotonic()
            for place, each in enumerate(kept):
                if each is None:
                    continue
                try:
                    each.send(b"\x01\x2c" if at == 0 else b"x")
                except OSError:
                    each.close()
                    kept[place] = None
            for place in [place for place, each in enumerate(kept) if each is None][:50]:
                kept[place] = connect(port, next(where), shown)
            at += 1
            time.sleep(max(0.0, 0.5 - (time.monotonic() - began)))

    return work


def half_open(addresses: Callable[[], Iterator[str]]) -> Abuse:
    """`count` ClientHellos a second, and no word after."""

    def work(port: int, count: int, there: Event, over: Event) -> None:
        octets = hello()
        began, sent, where = time.monotonic(), 0, addresses()
        kept: list[socket.socket] = []
        while not over.is_set():
            due = int((time.monotonic() - began) * count)
            while sent < due:
                sent += 1
                made = connect(port, next(where))
                if made is not None:
                    with contextlib.suppress(OSError):
                        made.sendall(octets)
                    kept.append(made)
            for each in kept[:-5_000]:
                each.close()
            del kept[:-5_000]
            there.set()
            time.sleep(0.001)

    return work


def watch(server: Encrypted, client: Path, queries: Path, seconds: float, folder: Path) -> Latency:
    """The latency of queries by UDP."""
    asking = LatencyClient(client, server.port, queries, RATE, seconds, folder / "latency")
    hurry(asking.process)
    with asking.process:
        return measure.summarise(asking.records())


class Elsewhere(Encrypted):
    """A server beside, on the client's core."""

    cores = measure.CLIENT_CORE


def run(options: argparse.Namespace, folder: Path) -> None:
    """All cases, one after the other."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    listed = names.collect(options.names, folder / "names", 1)
    queries = names.write_queries(folder, listed, 1)["mix"]
    client = peers.build("latency", folder)
    *_, last = names.read(listed.path)
    cases: list[tuple[str, str, int, Abuse]] = [
        ("idle TCP", "tcp", options.idle, idle(False)),
        ("idle TLS", "dot", options.idle, idle(True)),
        ("slow TCP", "tcp", options.slow, slow(False)),
        ("slow TLS", "dot", options.slow, slow(True)),
        ("half-open handshakes a second", "dot", options.hellos, half_open(sources)),
        ("of them from new addresses", "dot", options.hellos, half_open(fresh)),
    ]
    print("| who | where | p50 ms | p99 ms | p99.9 ms | lost | server's core |\n|---|---|---:|---:|---:|---:|---:|")
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream(folder / "upstream", free_port(), measure.CLIENT_CORE))
        servers: list[Encrypted] = []
        for kind in (Encrypted, Elsewhere):
            place = folder / kind.__name__
            place.mkdir()
            servers.append(kind(place, free_port(), upstream.port))
            servers[-1].write(listed)
            process, _ = measure.start(servers[-1], last, measure.Limits())
            hurry(process)
            stack.callback(process.end)
            if kind is Encrypted:
                asked = process
        hurry(upstream.process)
        here, elsewhere = servers
        measure.warm(here.port, queries)
        measure.settle(asked)

        def show(who: str, where: str) -> None:
            before = cpu_seconds(asked.tree)
            said = watch(here, client, queries, options.seconds, here.folder)
            cpu = (cpu_seconds(asked.tree) - before) / options.seconds
            figures = f"{said.p50:.3f} | {said.p99:.3f} | {said.p999:.3f} | {said.lost} | {cpu:.2f}"
            print(f"| {who} | {where} | {figures} |", flush=True)

        show("quiet", "")
        for name, transport, count, abuse in cases:
            if options.only not in name:
                continue
            for where, server in (("elsewhere", elsewhere), ("here", here)):
                there, over = multiprocessing.Event(), multiprocessing.Event()
                abusing = multiprocessing.Process(target=abuse, args=(server.ports[transport], count, there, over))
                abusing.start()
                there.wait(300)
                show(f"{count:,} {name}", where)
                over.set()
                abusing.join(30)
                abusing.kill()
                abusing.join()
                time.sleep(1)
        show("quiet again", "")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.abuse", description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=10_000)
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=1_000)
    parser.add_argument("--hellos", type=int, default=1_000, help="a second")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    options = parser.parse_args()
    os.sched_setaffinity(0, {int(measure.CLIENT_CORE)})
    with tempfile.TemporaryDirectory(prefix="tampah-abuse-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
