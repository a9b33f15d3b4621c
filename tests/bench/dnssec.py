"""`python -m tests.bench.dnssec`: UDP's latency for names in the cache while answers to new names are checked beside.

    for each repetition:  for each way:  start, warm, ask for cached names by UDP with new names beside, stop

Ways: nothing is checked and new names come (off); answers are checked and none comes (quiet), and new ones come (validate).
A new name is a wildcard's, signed by ECDSA: a signature of the records and one of the proof that there is nothing closer.
One worker, pinned with its supervisor and its validator to core 0; clients and the upstreams (Unbound before named) on core
1. On a machine that others use, `chrt -r 1 python -m tests.bench.dnssec` keeps them out.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode

from tests.bench import measure, peers, tampah
from tests.bench.drive import hurry
from tests.bench.measure import LatencyClient
from tests.bench.processes import Process, cpu_seconds
from tests.blackbox.harness import until
from tests.ports import free_port
from tests.zones import Internet

WAYS = ("off", "quiet", "validate")
CACHED = ["www.valid.test A", "www.nsec3.test A", "www.ed25519.test A", "nothing.valid.test A"]


def config(way: str, internet: Internet, port: int) -> str:
    """What the server of a way is told."""
    mode = "off" if way == "off" else "validate"
    return f"""listen: {{dns: ["127.0.0.1:{port}"]}}
workers: 1
upstream: {{servers: ["127.0.0.1:{internet.upstream}"]}}
dnssec: {{mode: {mode}, trust_anchor: {internet.anchor}}}
special_names: {{test: no}}
cache: {{size: 64MiB, prefetch: no}}
admin: {{listen: "127.0.0.1:{free_port()}"}}
"""


def is_up(port: int) -> bool:
    """Whether every cached name is answered, so that it is cached from here on."""
    try:
        for line in CACHED:
            name, rdtype = line.split()
            reply = dns.query.udp(dns.message.make_query(name, rdtype), "127.0.0.1", port=port, timeout=2)
            if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                return False
    except (OSError, dns.exception.DNSException):
        return False
    return True


def run(options: argparse.Namespace, folder: Path) -> None:
    """All repetitions, then the table."""
    client = peers.build("latency", folder)
    cached, fresh = folder / "q-cached", folder / "q-fresh"
    cached.write_text("".join(f"{line}\n" for line in CACHED))
    figures: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    os.sched_setaffinity(0, {int(measure.CLIENT_CORE)})  # the zones' servers inherit it
    with Internet(folder / "zones", validator=False) as internet:
        for repetition in range(options.repeats):
            for way in WAYS:
                place = folder / f"{way}{repetition}"
                place.mkdir()
                port = free_port()
                (place / "config.yaml").write_text(config(way, internet, port))
                fresh.write_text("".join(f"{way}{repetition}-{n}.wild.valid.test A\n" for n in range(100_000)))
                command = [sys.executable, "-m", "resolver", "run", "-c", f"{place}/config.yaml"]
                with Process(command, str(measure.SERVER_CORE), cwd=tampah.ROOT, log=place / "log") as server:
                    hurry(server)
                    until(lambda port=port: is_up(port), "the server answers", 60)  # type: ignore[misc]
                    beside = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(fresh), "-t", "5"]
                    beside += ["-l", f"{options.seconds:g}", "-Q", str(options.fresh), "-q", "500"]
                    idle = ["sleep", f"{options.seconds:g}"]
                    before = cpu_seconds(server.tree)
                    with Process(idle if way == "quiet" else beside, measure.CLIENT_CORE, log=place / "beside") as load:
                        hurry(load)
                        asking = LatencyClient(client, port, cached, options.rate, options.seconds, place / "latency")
                        hurry(asking.process)
                        with asking.process:
                            said = measure.summarise(asking.records())
                        load.wait(options.seconds + 30)
                    cpu = (cpu_seconds(server.tree) - before) / options.seconds
                done = re.search(r"Queries completed:\s+(\d+)", (place / "beside").read_text())
                failed = re.search(r"SERVFAIL (\d+)", (place / "beside").read_text())
                found = (
                    *(said.p50, said.p99, said.p999, float(said.lost)),
                    (float(done[1]) if done else 0.0) / options.seconds,
                    float(failed[1]) if failed else 0.0,
                    cpu,
                )
                figures[way].append(found)
                print(f"  {repetition + 1} {way}: {found}", file=sys.stderr, flush=True)
                time.sleep(0.5)
    print("| way | p50 ms | p99 ms | p99.9 ms | lost | new names a second | of them SERVFAIL | CPU, cores |")
    print("|---|---|---|---|---|---|---|---|")
    for way, runs in figures.items():
        p50, p99, p999, lost, new, failures, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {way} | {p50:.3f} | {p99:.3f} | {p999:.3f} | {lost:g} | {new:.0f} | {failures:g} | {cpu:.2f} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dnssec", description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=5_000, help="queries a second for cached names")
    parser.add_argument("--fresh", type=int, default=300, help="queries a second for new names")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tampah-dnssec-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
