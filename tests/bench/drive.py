"""`python -m tests.bench.drive`: UDP's latency while TCP and punts keep the same worker's Python busy, tree beside tree.

    for each repetition:  for each rate:  for each tree:  start, warm, ask by UDP with TCP and punts beside, stop

A tree is a working copy of this project with its engine built; `--tree` names others than this one, so that a change
can be judged against what was. One worker, pinned with its supervisor to core 0; clients and upstream on core 1. TCP:
2,000 queries a second over a few connections. Punts: queries of type ANY, by TCP, for names that nobody asked before: the
engine hands them to Python, which asks over TCP. A table of medians goes to standard output; what is worth comparing is
the ratio between rows of one run. On a machine that others use, `chrt -r 1 python -m tests.bench.drive` keeps them out.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import measure, names, peers, tampah
from tests.bench.measure import LatencyClient
from tests.bench.peers import Upstream
from tests.bench.processes import Process, cpu_seconds
from tests.ports import free_port

RATES = (5_000, 50_000)  # of UDP queries a second
TCP_RATE, TCP_CONNECTIONS = 2_000, 20
PUNT_RATE = 200


class Tree(tampah.Tampah):
    """The server of a working copy."""

    root = tampah.ROOT

    @property
    def cwd(self) -> Path:  # type: ignore[override]
        """Where the command runs, and so which tree it is."""
        return self.root


def trees(folder: Path, roots: list[Path], upstream: int) -> list[Tree]:
    """One server a tree, each in a folder of its own."""
    made = []
    for number, root in enumerate(roots):
        place = folder / f"tree{number}"
        place.mkdir()
        tree = Tree(place, free_port(), upstream)
        tree.root = root
        made.append(tree)
    return made


def hurry(process: Process) -> None:
    """Let a process go before others on this machine, as far as its kernel and our rights allow (sched(7), autogroup)."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{process.pid}/autogroup").write_text("-20")


@contextlib.contextmanager
def beside(port: int, folder: Path, queries: Path, punts: Path, seconds: float, tcp: bool = True) -> Iterator[None]:
    """TCP queries and punts at their rates, for as long as the block lasts."""
    common = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-l", f"{seconds:g}", "-t", "2"]
    loads = [[*common, "-d", str(punts), "-Q", str(PUNT_RATE), "-c", "2", "-m", "tcp"]]
    if tcp:
        loads.append([*common, "-d", str(queries), "-m", "tcp", "-Q", str(TCP_RATE), "-c", str(TCP_CONNECTIONS)])
    with contextlib.ExitStack() as running:
        for number, command in enumerate(loads):
            hurry(running.enter_context(Process(command, measure.CLIENT_CORE, log=folder / f"beside{number}")))
        yield


def run(options: argparse.Namespace, folder: Path) -> None:
    """All repetitions, then the table."""
    roots = [tampah.ROOT, *(path.resolve() for path in options.tree)]
    listed = names.collect(options.names, folder / "names", 1)
    queries = names.write_queries(folder, listed, 1)
    punts = folder / "q-punts"
    client = peers.build("latency", folder)
    *_, last = names.read(listed.path)
    figures: dict[tuple[int, int], list[tuple[float, float, float, int, float]]] = {}
    with Upstream(folder / "upstream", free_port(), measure.CLIENT_CORE) as upstream:
        hurry(upstream.process)
        servers = trees(folder, roots, upstream.port)
        for server in servers:
            server.write(listed)
        for repetition in range(options.repeats):
            for rate in options.rate or RATES:
                for number, server in enumerate(servers):
                    with punts.open("w") as out:
                        out.writelines(f"p{repetition}-{rate}-{n}.example.net ANY\n" for n in range(100_000))
                    process, _ = measure.start(server, last, measure.Limits())
                    try:
                        hurry(process)
                        measure.warm(server.port, queries["mix"])
                        measure.settle(process)
                        with beside(server.port, server.folder, queries["mix"], punts, options.seconds + 1):
                            time.sleep(0.5)
                            before = cpu_seconds(process.tree)
                            asking = LatencyClient(
                                client, server.port, queries["mix"], rate, options.seconds, server.folder / "latency"
                            )
                            hurry(asking.process)
                            with asking.process:
                                said = measure.summarise(asking.records())
                            cpu = (cpu_seconds(process.tree) - before) / options.seconds
                    finally:
                        process.end()
                    found = (said.p50, said.p99, said.p999, said.lost, cpu)
                    figures.setdefault((rate, number), []).append(found)
                    print(f"  {repetition + 1} {rate:>6}/s tree {number}: {found}", file=sys.stderr, flush=True)
    print("| UDP a second | tree | p50 ms | p99 ms | p99.9 ms | lost | CPU, cores |\n|---|---|---|---|---|---|---|")
    for (rate, number), runs in sorted(figures.items()):
        p50, p99, p999, lost, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {rate} | {roots[number].name} | {p50:.3f} | {p99:.3f} | {p999:.3f} | {lost:g} | {cpu:.2f} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.drive", description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another working copy, built")
    parser.add_argument("--rate", type=int, action="append", help="UDP queries a second; again for another")
    parser.add_argument("--names", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tampah-drive-") as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
