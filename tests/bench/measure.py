"""What is measured, one function a kind: load by dnsperf, latency by our own client, a start, a reload.

Servers run on core 0; dnsperf, the latency client and the upstream on core 1. The figure that compares servers is CPU
time a query: it holds even where dnsperf is the bottleneck, and it is what a busy server runs out of. A share of core 0
that others took is kept beside each run, to tell a quiet machine from one in use.
"""

from __future__ import annotations

import re
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from tests.bench.peers import Peer
from tests.bench.processes import Process, core_busy_seconds, cpu_seconds, pss_bytes, rss_bytes

CLIENT_CORE = "1"
SERVER_CORE = 0
CLIENTS, OUTSTANDING = 8, 200  # dnsperf's sockets, and its queries under way at a time
LOST = 2.0  # seconds after which a query counts as lost, here and in latency.c
LATENCY_RATE = 5_000  # queries a second
SETTLE_LOOK, SETTLE_MOST = 0.5, 10.0  # seconds
IDLE = 0.02  # share of a core that an idle server may take
LOOK = 0.3  # seconds between two looks at how much memory a start or reload takes: each walks all of it
POLL = 0.005  # seconds between two looks at whether a server answers
RELOAD_WINDOW = 1.0  # seconds that latency is watched for at least, from the change on
_RECORD = struct.Struct("ddQ")


class Busy(Protocol):
    """A server by its processes."""

    @property
    def tree(self) -> list[int]:
        """Their ids, as they are now."""


class UnfitError(Exception):
    """A server that cannot take this size here; the text says why, and its figures are left out."""


@dataclass(frozen=True, slots=True)
class Load:
    """A run of dnsperf. `cpu_us`: server CPU microseconds an answer; `others`: share of the core that others took."""

    qps: float
    cpu_us: float
    lost: int
    rcodes: dict[str, float]  # per cent
    others: float

    @property
    def failed(self) -> float:
        """Per cent of answers that were none: SERVFAIL, REFUSED and so on."""
        return sum(share for code, share in self.rcodes.items() if code not in ("NOERROR", "NXDOMAIN"))


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds, of queries asked at a fixed rate."""

    sent: int
    lost: int
    failed: int
    p50: float
    p90: float
    p99: float
    p999: float
    worst: float


@dataclass(frozen=True, slots=True)
class Reload:
    """`seconds` from the change of the file to the first answer by it; `latency` of the queries meanwhile."""

    seconds: float
    latency: Latency


@dataclass(slots=True)
class Limits:
    """What a server may take before it is given up: seconds for a start or a reload, octets of memory. `peak`: the most
    memory (PSS) that was seen while it started or reloaded."""

    seconds: float = 120.0
    memory: int = 8 << 30
    peak: int = 0
    _looked: float = 0.0

    def check(self, server: Process, began: float) -> None:
        """UnfitError if it has taken too much since `began`."""
        now = time.monotonic()
        if now - began > self.seconds:
            raise UnfitError(f"took more than {self.seconds:g} s")
        tree = server.tree
        if rss_bytes(tree) > self.memory:
            raise UnfitError(f"took more than {self.memory / 2**30:.0f} GiB of memory")
        if now - self._looked > LOOK:
            self.peak = max(self.peak, pss_bytes(tree))
            self._looked = time.monotonic()


def drive(server: Process, port: int, queries: Path, seconds: float, *options: str, cores: str = CLIENT_CORE) -> Load:
    """Drive 127.0.0.1:`port` with dnsperf on `cores` and say what it cost the server's processes."""
    others, began = core_busy_seconds(SERVER_CORE), time.monotonic()
    before = cpu_seconds(server.tree)
    command = ["taskset", "-c", cores, "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(queries)]
    command += ["-l", f"{seconds:g}", "-t", f"{LOST:g}", "-c", str(CLIENTS), "-q", str(OUTSTANDING), *options]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False).stdout
    time.sleep(0.05)  # a child that served a connection is waited for
    used = cpu_seconds(server.tree) - before
    others = core_busy_seconds(SERVER_CORE) - others - used
    wall = time.monotonic() - began
    figures = {}
    for key, pattern in {
        "completed": r"Queries completed:\s+(\d+)",
        "lost": r"Queries lost:\s+(\d+)",
        "elapsed": r"Run time \(s\):\s+([\d.]+)",
    }.items():
        if not (found := re.search(pattern, out)):
            raise UnfitError("dnsperf gave no figures")
        figures[key] = float(found[1])
    if not figures["completed"]:
        raise UnfitError("answers nothing under load")
    codes = re.search(r"Response codes:\s+(.*)", out)
    rcodes = {code: float(share) for code, share in re.findall(r"(\w+) \d+ \(([\d.]+)%\)", codes[1] if codes else "")}
    return Load(
        qps=figures["completed"] / figures["elapsed"],
        cpu_us=used / figures["completed"] * 1e6,
        lost=int(figures["lost"]),
        rcodes=rcodes,
        others=max(0.0, others / wall),
    )


def settle(server: Busy, most: float = SETTLE_MOST) -> None:
    """Wait until the server has nothing left to do after a start or a reload, for `most` seconds at most."""
    end = time.monotonic() + most
    while time.monotonic() < end:
        used = cpu_seconds(server.tree)
        time.sleep(SETTLE_LOOK)
        if cpu_seconds(server.tree) - used <= SETTLE_LOOK * IDLE:
            return


def warm(port: int, queries: Path) -> None:
    """Ask each query of a file once, slowly enough for every server. UnfitError if that takes too long."""
    command = ["taskset", "-c", CLIENT_CORE, "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(queries)]
    try:
        subprocess.run([*command, "-n", "1", "-q", "50"], capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        raise UnfitError("does not answer a case's queries in a minute") from None


class LatencyClient:
    """latency.c at work on the client's core; `stop` ends it early."""

    def __init__(self, program: Path, port: int, queries: Path, rate: int, seconds: float, records: Path) -> None:
        self._records = records
        self._seconds = seconds
        command = [str(program), str(port), str(queries), str(rate), str(seconds), str(records)]
        self.process = Process(command, CLIENT_CORE)

    def stop(self) -> None:
        self.process.end(grace=10)

    def records(self) -> list[tuple[float, float, int]]:
        """(when due on CLOCK_MONOTONIC, seconds or -1, rcode) of each query, once it has ended."""
        self.process.wait(self._seconds + 10)
        return list(_RECORD.iter_unpack(self._records.read_bytes()))


def summarise(records: Sequence[tuple[float, float, int]]) -> Latency:
    """Percentiles of a client's records. A lost query counts as one that took LOST: losing many is not being quick."""
    lost = sum(1 for _, latency, _ in records if latency < 0)
    if lost == len(records):
        raise UnfitError("answers nothing at a low rate")
    times = sorted((latency if latency >= 0 else LOST) * 1e3 for _, latency, _ in records)

    def percentile(share: float) -> float:
        return times[min(len(times) - 1, int(len(times) * share))]

    return Latency(
        sent=len(records),
        lost=lost,
        failed=sum(1 for _, latency, rcode in records if latency >= 0 and rcode not in (0, 3)),
        p50=percentile(0.5),
        p90=percentile(0.9),
        p99=percentile(0.99),
        p999=percentile(0.999),
        worst=times[-1],
    )


def is_blocked(port: int, name: str, timeout: float = 0.05) -> bool:
    """Whether 127.0.0.1:`port` says that a name does not exist or has no real address; False if it says nothing."""
    query = dns.message.make_query(name, dns.rdatatype.A)
    try:
        answer = dns.query.udp(query, "127.0.0.1", timeout=timeout, port=port)
    except (OSError, dns.exception.DNSException):
        return False
    addresses = [record.address for rrset in answer.answer for record in rrset if rrset.rdtype == dns.rdatatype.A]
    return answer.rcode() == dns.rcode.NXDOMAIN or addresses == ["0.0.0.0"]


def echoes(port: int) -> bool:
    """Whether something at 127.0.0.1:`port` sends a query back."""
    query = dns.message.make_query("example.com", dns.rdatatype.A)
    try:
        dns.query.udp(query, "127.0.0.1", timeout=0.05, port=port)
    except (OSError, dns.exception.DNSException):
        return False
    return True


def start(peer: Peer, listed: str, limits: Limits) -> tuple[Process, float]:
    """Start a peer; the seconds until it blocks `listed`, which is the last name of its list."""
    began = time.monotonic()
    server = peer.start()
    try:
        while not (is_blocked(peer.port, listed) if peer.blocks else echoes(peer.port)):
            if server.has_ended():
                raise UnfitError(f"ended by itself: {_last_line(peer.folder / 'log')}")
            limits.check(server, began)
            time.sleep(POLL)
    except BaseException:
        server.end()
        raise
    return server, time.monotonic() - began


def reload(
    peer: Peer, server: Process, add: Callable[[str], None], name: str, client: LatencyClient, limits: Limits
) -> Reload:
    """Put `name` on the list by `add` while `client` asks; how long until it is blocked, and how others fared."""
    began = time.monotonic()
    add(name)
    written = time.monotonic()
    try:
        peer.reload(server)
        while not is_blocked(peer.port, name):
            limits.check(server, began)
            time.sleep(POLL)
        seconds = time.monotonic() - written
        time.sleep(max(0.0, RELOAD_WINDOW - seconds))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise UnfitError(str(error)) from None
    finally:
        end = time.monotonic()
        client.stop()
    return Reload(seconds, summarise([record for record in client.records() if began <= record[0] <= end]))


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][-200:] if lines else "without a word"


@dataclass(slots=True)
class Figures:
    """Everything measured of one peer at one size: by case, one entry a repetition. `unfit`: why there is no more."""

    loads: dict[str, list[Load]] = field(default_factory=dict)
    latencies: list[Latency] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)  # seconds, from the text of the lists
    warm_starts: list[float] = field(default_factory=list)  # seconds, from what an earlier run compiled
    memory: list[int] = field(default_factory=list)  # octets, when the lists are loaded
    peaks: list[int] = field(default_factory=list)  # octets at most, from the start from text to the end of reloads
    files: list[int] = field(default_factory=list)  # octets that the lists take once they are compiled
    mapped: list[int] = field(default_factory=list)  # octets of that which workers map
    memory_used: list[int] = field(default_factory=list)  # octets, after all cases
    reloads: list[Reload] = field(default_factory=list)
    small_reloads: list[Reload] = field(default_factory=list)
    unfit: str = ""
    notes: list[str] = field(default_factory=list)

    def add(self, more: Figures) -> None:
        """Take over another repetition."""
        for case, loads in more.loads.items():
            self.loads.setdefault(case, []).extend(loads)
        for name in (
            "latencies",
            "starts",
            "warm_starts",
            "memory",
            "memory_used",
            "peaks",
            "files",
            "mapped",
            "reloads",
            "small_reloads",
            "notes",
        ):
            getattr(self, name).extend(getattr(more, name))
        self.unfit = self.unfit or more.unfit
