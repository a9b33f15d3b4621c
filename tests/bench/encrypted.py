"""`python -m tests.bench.encrypted`: what a query costs over TCP, DNS over TLS and DNS over HTTPS, beside dnsdist.

    for each repetition:  for each server:  start, warm,  for each transport:  dnsperf over persistent connections

One worker or thread of each server, pinned to core 0; dnsperf and the upstream on core 1. Names are cached and blocked as in
the case `mix` of `make bench`. Connections are made once a run and kept, so handshakes cost next to nothing here. The figure
is server CPU microseconds an answer, kernel time included; what is worth comparing is the ratio between servers in one run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench import measure, names, peers, tampah
from tests.bench.names import Names
from tests.bench.peers import Upstream
from tests.certificates import Authority
from tests.ports import free_port

TRANSPORTS = {
    "tcp": ("-m", "tcp"),
    "dot": ("-m", "dot"),
    "doh": ("-m", "doh", "-O", "doh-uri=https://localhost/dns-query", "-O", "doh-method=POST"),
}


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
            kind(folder / kind.name, free_port(), upstream.port) for kind in (Encrypted, EncryptedDnsdist)
        ]
        for server in servers:
            server.write(listed)
        for repetition in range(options.repeats):
            for server in servers:
                process, _ = measure.start(server, last, measure.Limits())
                try:
                    measure.warm(server.port, queries)
                    measure.settle(process)
                    for transport, said in TRANSPORTS.items():
                        port = server.ports[transport]
                        load = measure.drive(process, port, queries, options.seconds, *said)
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
    with tempfile.TemporaryDirectory(prefix="tampah-encrypted-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
