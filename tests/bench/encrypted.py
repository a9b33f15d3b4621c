"""`python -m tests.bench.encrypted`: what a query costs over TCP, DNS over TLS and DNS over HTTPS, beside dnsdist.

    for each repetition:  for each server:  start, warm,  for each transport:  dnsperf over persistent connections

dnsperf drives TCP and TLS. Over HTTPS it gets an answer a connection and second from whichever server, so HTTP/2 is driven
here: frames made beforehand, as many queries under way as dnsperf has.

One worker or thread of each server, pinned to core 0; clients and the upstream on core 1. Names are cached and blocked as in
the case `mix` of `make bench`. Connections are made once a run and kept, so handshakes cost next to nothing here. The figure
is server CPU microseconds an answer, kernel time included; what is worth comparing is the ratio between servers in one run.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import dns.message

from tests.bench import measure, names, peers, tampah
from tests.bench.names import Names
from tests.bench.peers import Upstream
from tests.bench.processes import Process, core_busy_seconds, cpu_seconds
from tests.certificates import Authority
from tests.ports import free_port

TRANSPORTS = ("tcp", "dot", "doh")
ROUND = measure.OUTSTANDING // measure.CLIENTS  # queries under way on a connection
_HEADERS, _DATA, _SETTINGS, _WINDOW_UPDATE = 1, 0, 4, 8  # frame types (RFC 9113 section 6)
_END_STREAM, _END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113 section 4.1)."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def literal(index: bytes, value: bytes) -> bytes:
    """A header field that no table keeps, its name by index (RFC 7541 section 6.2.2)."""
    return index + bytes([len(value)]) + value


# POST https://localhost/dns-query
FIELDS = b"\x83\x87" + literal(b"\x04", b"/dns-query") + literal(b"\x01", b"localhost")
FIELDS += literal(b"\x0f\x10", b"application/dns-message")


class Browser:
    """One connection that asks in rounds."""

    def __init__(self, port: int, queries: Iterator[bytes]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        self._socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10))
        self._queries = queries
        self._stream = 1
        self._buffer = b""
        self._expected = 0
        settings = struct.pack(">HI", 4, 1 << 30)  # INITIAL_WINDOW_SIZE
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(_SETTINGS, 0, 0, settings)
            + frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        )

    def ask(self) -> None:
        """Send a round."""
        out = []
        for query in islice(self._queries, ROUND):
            out.append(frame(_HEADERS, _END_HEADERS, self._stream, FIELDS))
            out.append(frame(_DATA, _END_STREAM, self._stream, query))
            self._stream += 2
            self._expected += 1
        self._socket.sendall(b"".join(out))

    def take(self) -> int:
        """Read until the round is answered; how many were."""
        taken = 0
        while taken < self._expected:
            more = self._socket.recv(65536)
            if not more:
                raise measure.UnfitError("closed a connection")
            buffer, at = self._buffer + more, 0
            while len(buffer) - at >= 9:
                head, flags, _ = struct.unpack_from(">IBI", buffer, at)
                if len(buffer) - at - 9 < head >> 8:
                    break
                at += 9 + (head >> 8)
                if head & 0xFF == _DATA and flags & _END_STREAM:
                    taken += 1
                elif head & 0xFF == _SETTINGS and not flags:
                    self._socket.sendall(frame(_SETTINGS, 1, 0, b""))
            self._buffer = buffer[at:]
        self._expected = 0
        return taken

    def close(self) -> None:
        """End it."""
        self._socket.close()


def drive_https(server: Process, port: int, queries: Path, seconds: float) -> measure.Load:
    """As measure.drive, over HTTP/2."""
    packets = [
        dns.message.make_query(name, kind, id=0, use_edns=None).to_wire()
        for name, kind in (line.split() for line in queries.read_text().splitlines()[:10_000])
    ]
    asked = cycle(packets)
    browsers = [Browser(port, asked) for _ in range(measure.CLIENTS)]
    others, began = core_busy_seconds(measure.SERVER_CORE), time.monotonic()
    before, answers = cpu_seconds(server.tree), 0
    while time.monotonic() - began < seconds:
        for browser in browsers:
            browser.ask()
        answers += sum(browser.take() for browser in browsers)
    used = cpu_seconds(server.tree) - before
    wall = time.monotonic() - began
    others = core_busy_seconds(measure.SERVER_CORE) - others - used
    for browser in browsers:
        browser.close()
    return measure.Load(answers / wall, used / answers * 1e6, 0, {"NOERROR": 100.0}, max(0.0, others / wall))


class Encrypted(tampah.Tampah):
    """Tampah with its encrypted listeners."""

    def __init__(self, folder: Path, port: int, upstream: int) -> None:
        super().__init__(folder, port, upstream)
        self.ports = {"tcp": port, "dot": free_port(), "doh": free_port()}

    def write(self, names: Names) -> None:
        super().write(names)
        pair = Authority().issue(self.folder)
        config = self.folder / "config.yaml"
        first, _, rest = config.read_text().partition("\n")
        listen = first.replace(
            "}",
            f', tls: ["127.0.0.1:{self.ports["dot"]}"], https: ["127.0.0.1:{self.ports["doh"]}"], '
            f"certificate: {{chain: {pair['chain']}, key: {pair['key']}}}}}",
        )
        config.write_text(f"{listen}\n{rest}")


class EncryptedDnsdist(peers.Dnsdist):
    """dnsdist with its own, by one thread of each kind."""

    def __init__(self, folder: Path, port: int, upstream: int) -> None:
        super().__init__(folder, port, upstream)
        self.ports = {"tcp": port, "dot": free_port(), "doh": free_port()}

    def write(self, names: Names) -> None:
        super().write(names)
        pair = Authority().issue(self.folder)
        config = self.folder / "dnsdist.conf"
        shown = f'"{pair["chain"]}", "{pair["key"]}"'
        config.write_text(
            config.read_text()
            + f'addTLSLocal("127.0.0.1:{self.ports["dot"]}", {shown})\n'
            + f'addDOHLocal("127.0.0.1:{self.ports["doh"]}", {shown}, {{"/dns-query"}})\n'
            + "setMaxTCPClientThreads(1)\nsetMaxTCPConnectionsPerClient(0)\n"
        )


def run(options: argparse.Namespace, folder: Path) -> None:
    """All repetitions, then the table."""
    listed = names.collect(options.names, folder / "names", 1)
    queries = names.write_queries(folder, listed, 1)["mix"]
    *_, last = names.read(listed.path)
    figures: dict[tuple[str, str], list[measure.Load]] = {}
    with Upstream(folder / "upstream", free_port(), measure.CLIENT_CORE) as upstream:
        servers: list[Encrypted | EncryptedDnsdist] = [
            kind(folder, free_port(), upstream.port) for kind in (Encrypted, EncryptedDnsdist)
        ]
        for server in servers:
            server.write(listed)
        for repetition in range(options.repeats):
            for server in servers:
                process, _ = measure.start(server, last, measure.Limits())
                try:
                    measure.warm(server.port, queries)
                    measure.settle(process)
                    for transport in TRANSPORTS:
                        port = server.ports[transport]
                        if transport == "doh":
                            load = drive_https(process, port, queries, options.seconds)
                        else:
                            load = measure.drive(process, port, queries, options.seconds, "-m", transport)
                        figures.setdefault((server.name, transport), []).append(load)
                        print(f"  {repetition + 1} {server.name} {transport}: {load}", file=sys.stderr, flush=True)
                finally:
                    process.end()
    print("| CPU µs an answer |", " | ".join(TRANSPORTS), "|\n|---|" + "---:|" * len(TRANSPORTS))
    own = {each: _median(figures["tampah", each]) for each in TRANSPORTS}
    for server in servers:
        cells = []
        for transport in TRANSPORTS:
            cost = _median(figures[server.name, transport])
            cells.append(f"{cost:.1f} ({cost / own[transport]:.2f})")
        print(f"| {server.name} |", " | ".join(cells), "|")


def _median(loads: list[measure.Load]) -> float:
    return statistics.median(load.cpu_us for load in loads)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.encrypted", description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    os.sched_setaffinity(0, {int(measure.CLIENT_CORE)})
    with tempfile.TemporaryDirectory(prefix="tampah-encrypted-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
