"""`python -m tests.bench.pair`: what query records cost, and two workers on two cores beside one.

    for each repetition:  for each of  echo, one worker, one worker whose queries are counted, two workers:  ask in each case

Echo and one worker run on core 0, their client on core 1, as in `tests.bench`. `alone` and `pair` are one and two
workers on both cores with the client on both as well: all that changes between these two is the second worker, yet the
client takes its share of the cores, so compare CPU an answer first and answers a second with that in mind. Queries are
counted by name where it says so, by the process that reads the workers' records: on the worker's core, its CPU time
included. Medians, to standard output; on a machine that others use, `chrt -r 1 python -m tests.bench.pair` keeps them out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from resolver import counters
from tests.bench import measure, names, peers, tampah
from tests.bench.peers import Peer, Upstream
from tests.ports import free_port

CASES = ("blocked", "cached", "mix")


class One(tampah.Tampah):
    counts = "none"


class Counted(tampah.Tampah):
    name = "counted"


class Alone(One):
    name = "alone"
    cores = "0,1"


class Pair(tampah.TampahPair):
    name = "pair"
    counts = "none"


PEERS: tuple[type[Peer], ...] = (peers.Echo, One, Counted, Alone, Pair)


def files(pid: int, kind: str) -> list[int]:
    """The memory files of a kind that a supervisor holds, opened anew, by worker."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = str(link.readlink())
        if f"memfd:tampah-{kind}-" in target:
            found[target] = os.open(link, os.O_RDWR)
    return [found[name] for name in sorted(found)]


def counted(pid: int) -> list[tuple[int, int, int]]:
    """(queries, records written, records dropped) of each worker."""
    found = []
    for fd in files(pid, "counters"):
        words = memoryview(os.pread(fd, counters.SIZE, 0)).cast("Q")
        os.close(fd)
        written, dropped, *_ = counters.SECTIONS["records"].of(words)
        found.append((sum(counters.SECTIONS["queries"].of(words)), written, dropped))
    return found


def run(options: argparse.Namespace, folder: Path) -> None:
    """All repetitions, then the tables."""
    listed = names.collect(options.names, folder / "names", 1)
    queries = names.write_queries(folder, listed, 1)
    *_, last = names.read(listed.path)
    loads: dict[tuple[str, str], list[measure.Load]] = {}
    notes: list[str] = []
    with Upstream(folder / "upstream", free_port(), measure.CLIENT_CORE) as upstream:
        made = [kind(folder, free_port(), upstream.port) for kind in PEERS]
        for peer in made:
            peer.write(listed)
        for _ in range(options.repeats):
            for peer in made:
                server, _seconds = measure.start(peer, last, measure.Limits())
                try:
                    cores = "0,1" if isinstance(peer, Alone | Pair) else measure.CLIENT_CORE
                    measure.settle(server)
                    for case in CASES:
                        if peer.blocks:
                            measure.warm(peer.port, queries["popular" if case == "cached" else case])
                        load = measure.drive(server, peer.port, queries[case], options.seconds, cores=cores)
                        loads.setdefault((case, peer.name), []).append(load)
                    if isinstance(peer, Counted | Pair):
                        notes.append(f"{peer.name}: queries, records, dropped by worker: {counted(server.pid)}")
                finally:
                    server.end()
    for case in CASES:
        cpu = {peer.name: statistics.median(load.cpu_us for load in loads[case, peer.name]) for peer in made}
        print(f"\n| {case} | CPU µs | × echo | × one worker | answers/s | lost |\n|---|---|---|---|---|---|")
        for peer in made:
            runs = loads[case, peer.name]
            rate = statistics.median(load.qps for load in runs)
            ratios = f"{cpu[peer.name] / cpu['echo']:.2f} | {cpu[peer.name] / cpu['tampah']:.2f}"
            print(
                f"| {peer.name} | {cpu[peer.name]:.2f} | {ratios} | {rate:,.0f} | {sum(load.lost for load in runs)} |"
            )
    print("\n" + "\n".join(notes))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pair", description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tampah-pair-") as folder:
        Path(folder).chmod(0o755)
        run(options, Path(folder))


if __name__ == "__main__":
    main()
