"""`python -m tests.bench`: Tampah beside the servers that are installed, on the same names, queries and upstream.

    for each size:  for each repetition:  for each server:  start, ask in every case, reload, stop

Servers take turns (A B C A B C …), so what the machine does meanwhile falls on all alike; medians are reported. A
server that fails or takes too long at a size is left out of the rest of it, and the report says why. See report.py for
what is written. Everything is on loopback, in a folder that is removed, in process groups that are ended.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench import machine, measure, names, peers, report, tampah
from tests.bench.measure import Figures, LatencyClient, Limits, UnfitError
from tests.bench.peers import Peer, Upstream
from tests.bench.processes import Process, pss_bytes
from tests.ports import free_port

PEERS: tuple[type[Peer], ...] = (
    peers.Echo,
    tampah.Tampah,
    tampah.TampahPair,
    peers.Recursor,
    peers.Dnsdist,
    peers.Unbound,
    peers.UnboundRpz,
    peers.Bind,
    peers.Dnsmasq,
    peers.KnotResolver,
)
CASES = ("start", "memory", "blocked", "cached", "mix", "miss", "tcp", "latency", "reload")
NAMES = 114_377  # as many as the sample of the national list has
WARM_STARTS = 3  # in a visit
VISITS = 3  # of a peer, where the upstream does not live through one


class Round:
    """One size: its names and queries, and every peer's folder."""

    def __init__(self, options: argparse.Namespace, folder: Path, source: Path | int, upstream: Upstream) -> None:
        self.options = options
        self.upstream = upstream
        self.limits = Limits(options.limit, options.memory << 30)
        self.names = names.collect(source, folder / "names.txt", options.seed)
        self.queries = names.write_queries(folder, self.names, options.seconds, options.seed)
        self.client = peers.build("latency", folder)
        self.peers = [peer(folder, free_port(), upstream.port) for peer in PEERS if peer.name in options.peers]
        self.figures = {peer.name: Figures() for peer in self.peers}
        for peer in self.peers:
            peer.write(self.names)
        *_, self.last = names.read(self.names.path)

    def run(self) -> None:
        """All repetitions of all peers."""
        for repetition in range(self.options.repeats):
            for peer in self.peers:
                figures = self.figures[peer.name]
                if figures.unfit:
                    continue
                began = time.monotonic()
                visit = self._visit_undisturbed(peer, repetition)
                figures.add(visit)
                said = report.brief(visit)
                if visit.unfit:
                    said = f"{said}: {visit.unfit}"
                took = time.monotonic() - began
                print(f"  {repetition + 1}/{self.options.repeats} {peer.name:14} {said} ({took:.0f} s)", flush=True)

    def _visit_undisturbed(self, peer: Peer, repetition: int) -> Figures:
        """One peer once. A visit during which the upstream ended says nothing about the peer, and is made again."""
        for _ in range(VISITS):
            figures = Figures()
            try:
                self._visit(peer, figures, repetition)
            except UnfitError as error:
                figures.unfit = str(error)
            if not self.upstream.has_ended():
                return figures
            print("  the upstream has ended by itself: once more", file=sys.stderr, flush=True)
            self.upstream.start()
        raise RuntimeError("the upstream does not stay alive")

    def _visit(self, peer: Peer, figures: Figures, repetition: int) -> None:
        """One peer once. Cases that fill or flush a cache come after those that need it warm."""
        peer.forget()
        limits = self.limits = Limits(self.options.limit, self.options.memory << 30)
        server, seconds = measure.start(peer, self.last, limits)
        try:
            if peer.blocks:
                figures.starts.append(seconds)
            if isinstance(peer, tampah.Tampah):
                figures.files.append(peer.file_octets)
                figures.mapped.append(peer.mapped_octets)
            if isinstance(peer, tampah.Tampah) and self._wants("start"):
                server.end()
                for _ in range(WARM_STARTS - 1):
                    server, seconds = measure.start(peer, self.last, limits)
                    figures.warm_starts.append(seconds)
                    server.end()
                server, seconds = measure.start(peer, self.last, limits)
                figures.warm_starts.append(seconds)
            measure.settle(server)
            figures.memory.append(pss_bytes(server.tree))
            for case, asked_before in (("blocked", "blocked"), ("cached", "popular"), ("mix", "mix")):
                if peer.blocks and (self._wants(case) or case == "mix"):  # which latency and reload ask as well
                    measure.warm(peer.port, self.queries[asked_before])
                self._drive(case, peer, server, figures)
            if self._wants("latency"):
                client = self._ask_slowly(peer, self.options.seconds)
                with client.process:
                    figures.latencies.append(measure.summarise(client.records()))
            if peer.speaks_tcp:
                self._drive("tcp", peer, server, figures, queries="mix", options=("-m", "tcp"))
            if self._wants("reload") and peer.can_reload:
                self._reload(peer, server, figures, repetition)
                measure.settle(server)
            if peer.blocks:
                figures.peaks.append(max(limits.peak, *figures.memory))
            self._drive("miss", peer, server, figures)
            figures.memory_used.append(pss_bytes(server.tree))
        finally:
            server.end()

    def _wants(self, case: str) -> bool:
        return case in self.options.cases

    def _drive(
        self,
        case: str,
        peer: Peer,
        server: Process,
        figures: Figures,
        queries: str = "",
        options: Sequence[str] = (),
    ) -> None:
        if self._wants(case):
            load = measure.drive(server, peer.port, self.queries[queries or case], self.options.seconds, *options)
            figures.loads.setdefault(case, []).append(load)

    def _ask_slowly(self, peer: Peer, seconds: float) -> LatencyClient:
        records = peer.folder / "latency"
        return LatencyClient(self.client, peer.port, self.queries["mix"], self.options.rate, seconds, records)

    def _reload(self, peer: Peer, server: Process, figures: Figures, repetition: int) -> None:
        changes = [(peer.add, figures.reloads)]
        if isinstance(peer, tampah.Tampah):
            changes.append((peer.add_small, figures.small_reloads))
        for number, (add, kept) in enumerate(changes):
            client = self._ask_slowly(peer, self.limits.seconds + 5)
            with client.process:
                time.sleep(0.5)
                name = f"reload{repetition}{number}.added.example"
                try:
                    kept.append(measure.reload(peer, server, add, name, client, self.limits))
                except UnfitError as error:
                    figures.notes.append(f"reload: {error}")
                    return


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    known = [peer.name for peer in PEERS]
    installed = [peer.name for peer in PEERS if peer.is_installed()]
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=_words(known), default=installed, help=f"of {','.join(known)}")
    parser.add_argument("--cases", type=_words(CASES), default=list(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--names", type=int, action="append", help="generate that many; again for another size")
    parser.add_argument("--list", type=Path, help="a list in domains form instead of generated names")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load a case")
    parser.add_argument("--rate", type=int, default=measure.LATENCY_RATE, help="of the latency case, queries a second")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a start or reload may take")
    parser.add_argument("--memory", type=int, default=12, help="GiB that a server may take")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench-report"))
    parser.add_argument("--readme", action="store_true", help="put the table of the first size into README.md")
    options = parser.parse_args(arguments)
    if missing := set(options.peers) - set(installed):
        parser.error(f"not installed: {', '.join(sorted(missing))}")
    if options.repeats < 1 or options.seconds <= 0 or not 0 < options.rate <= 200_000:
        parser.error("expected positive numbers, and a rate of at most 200000")
    for program in ("dnsperf", "nsd", "gcc", "taskset"):
        if not shutil.which(program):
            parser.error(f"needs {program}")
    return options


def _words(known: Sequence[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        words = text.split(",")
        if unknown := set(words) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; expected of {', '.join(known)}")
        return words

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    sources: list[Path | int] = [options.list] if options.list else []
    sources += options.names or ([] if options.list else [NAMES])
    described = machine.describe([peer for peer in PEERS if peer.name in options.peers])
    sizes: dict[int, dict[str, Figures]] = {}
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tampah-bench-")))
        folder.chmod(0o755)  # some peers drop privileges before they read
        upstream = cleanup.enter_context(Upstream(folder / "upstream", free_port(), measure.CLIENT_CORE))
        for number, source in enumerate(sources):
            size = folder / str(number)
            size.mkdir()
            print(f"preparing {source}", flush=True)
            current = Round(options, size, source, upstream)
            print(f"{current.names.count:,} names, {len(current.peers)} servers", flush=True)
            sizes[current.names.count] = current.figures
            try:
                current.run()
            except KeyboardInterrupt:
                print("stopped; the report has what was measured", file=sys.stderr)
                break
            finally:
                report.write(options.out, described, sys.argv[1:] if arguments is None else list(arguments), sizes)
            shutil.rmtree(size)
    if options.readme:
        report.put_into_readme(machine.ROOT / "README.md", described, sizes)
    print(f"report in {options.out}/report.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
