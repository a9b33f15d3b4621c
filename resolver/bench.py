"""`tampah bench`: ask a server as fast as it answers, or at a rate, and say how it fared. For an operator's own server.

One thread, plain UDP sockets. Two ways to ask:

* Closed loop: `outstanding` queries are under way all the time, a new one for each answer. It finds how much a server
  (or this client) can do; its latencies are those of a full queue.
* Open loop: `rate` queries a second, whether answers come or not. Latency counts from when a query was due, not from
  when it was sent: a client that falls behind must not flatter the server.

It is honest about itself: this is Python on one core, good for some 50,000 to 100,000 queries a second. Where it was
the limit, or fell behind its rate, the result says so. `make bench` measures with dnsperf and C instead.

Invariants: nothing is sent to an address that is not loopback's unless `yes_remote`; sockets are connected, so only the
server that was asked can answer; an answer counts once, to the query with its id on its socket, if it has that query's
question; time, rate, queries under way and memory are bounded by the limits below.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from resolver.vocabulary import Rcode, RRType

MAX_SECONDS = 3600.0
MAX_RATE = 1_000_000.0
MAX_OUTSTANDING = 50_000
MAX_CLIENTS = 512
MAX_NAMES = 1_000_000  # of a file; the rest is not read
GENERATED = 10_000  # names, where none are given
TIMEOUT = 2.0  # seconds after which a query counts as lost
_IDS = 1 << 16
_BURST = 64  # datagrams read of one socket before the next has its turn
_BUFFER = 1 << 20
_OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"  # RFC 6891 section 6.1.2: UDP payload size 1232
_STEPS = 24  # histogram steps from one power of two to the next: 3 % resolution
_WAIT = 0.01  # seconds that are slept at most
_BUSY = 0.9  # share of a core in use from which on this client is the limit


class BenchError(ValueError):
    """What was asked for cannot be done; the text says why."""


class Latencies:
    """A histogram of seconds in geometric steps: its memory does not depend on how long a run is."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.greatest = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency; less than a microsecond counts as one."""
        microseconds = max(seconds * 1e6, 1.0)
        self._counts[int(math.log2(microseconds) * _STEPS)] += 1
        self.count += 1
        if seconds > self.greatest:
            self.greatest = seconds

    def percentile(self, share: float) -> float:
        """The latency in seconds that `share` (0 to 1) of all did not exceed, at most 3 % too large; 0 without any."""
        wanted = share * self.count
        passed = 0
        for step in sorted(self._counts):
            passed += self._counts[step]
            if passed >= wanted:
                return min(math.exp2((step + 1) / _STEPS) / 1e6, self.greatest)
        return 0.0


@dataclass(slots=True)
class Result:
    """What came of a run. `elapsed` in seconds; `rcodes` by name; `notes` say where this client was the limit."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    unsent: int = 0  # the kernel had no room, or nothing listens there
    elapsed: float = 0.0
    rcodes: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """As plain data; latencies in seconds."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.lost,
            "unsent": self.unsent,
            "seconds": round(self.elapsed, 3),
            "queries_per_second": round(self.answered / self.elapsed, 1) if self.elapsed else 0.0,
            "rcodes": dict(self.rcodes),
            "latency": {
                **{name: self.latencies.percentile(share) for name, share in _SHARES.items()},
                "max": self.latencies.greatest,
            },
            "notes": self.notes,
        }

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        speed = self.answered / self.elapsed if self.elapsed else 0.0
        yield f"{self.answered:,} answers in {self.elapsed:.1f} s: {speed:,.0f} queries a second"
        yield f"lost: {self.lost:,} of {self.sent:,}" + (f"; {self.unsent:,} could not be sent" if self.unsent else "")
        yield "rcodes: " + (", ".join(f"{name} {count:,}" for name, count in self.rcodes.most_common()) or "none")
        latencies = self.latencies
        percentiles = ", ".join(f"{name} {latencies.percentile(share) * 1e3:.2f}" for name, share in _SHARES.items())
        yield f"latency in ms: {percentiles}, max {latencies.greatest * 1e3:.2f}"
        for note in self.notes:
            yield f"note: {note}"


_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def read_names(path: Path) -> list[str]:
    """The first MAX_NAMES names of a file, the first word of each line (so dnsperf's files do); `#` begins a comment.

    BenchError if there is none, OSError if it cannot be read.
    """
    with path.open(errors="replace") as file:
        words = (line.split("#", 1)[0].split() for line in file)
        names = list(itertools.islice((word[0] for word in words if word), MAX_NAMES))
    if not names:
        raise BenchError(f"{path}: no names in it")
    return names


def generate_names(count: int = GENERATED, seed: int = 0) -> list[str]:
    """Names below example.com (RFC 2606), which exist nowhere else: the server forwards each once and then has it."""
    rng = random.Random(seed)
    return [f"{rng.getrandbits(40):x}.bench.example.com" for _ in range(count)]


def encode(name: str, qtype: RRType = RRType.A) -> bytes:
    """A query with id 0, RD set and EDNS; BenchError if it is no name."""
    try:
        labels = [label.encode("ascii") for label in name.rstrip(".").split(".")] if name.rstrip(".") else []
    except UnicodeEncodeError:
        raise BenchError(f"{name!r}: not ASCII; write it in its xn-- form") from None
    if any(not 0 < len(label) < 64 for label in labels) or sum(map(len, labels)) + len(labels) > 254:
        raise BenchError(f"{name!r} is no domain name")
    qname = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return b"\0\0\1\0\0\1\0\0\0\0\0\1" + qname + int(qtype).to_bytes(2, "big") + b"\0\1" + _OPT


class _Client:
    """One socket: the queries under way on it, by id, each with when it was due."""

    __slots__ = ("due", "next_id", "questions", "sock")

    def __init__(self, family: int, address: tuple[str, int]) -> None:
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self.sock.connect(address)
        self.due: dict[int, float] = {}  # in the order in which they were sent
        self.questions: dict[int, bytes] = {}
        self.next_id = random.getrandbits(16)

    def send(self, query: bytes, due: float) -> bool:
        """Ask; False if the kernel would not take it."""
        while self.next_id in self.due:
            self.next_id = (self.next_id + 1) % _IDS
        number, self.next_id = self.next_id, (self.next_id + 1) % _IDS
        try:
            self.sock.send(number.to_bytes(2, "big") + query[2:])
        except OSError:  # no room, or the error of an earlier datagram: nothing listens there
            return False
        self.due[number] = due
        self.questions[number] = query
        return True

    def receive(self, result: Result) -> int:
        """Take what has come, at most _BURST datagrams; how many were answers."""
        taken = 0
        for _ in range(_BURST):
            try:
                packet = self.sock.recv(4096)
            except OSError:
                break
            number = int.from_bytes(packet[:2], "big")
            query = self.questions.get(number)
            if query is None or len(packet) < 12 or not packet[2] & 0x80:
                continue
            end = len(query) - len(_OPT)
            if packet[5] and packet[12:end] != query[12:end]:  # a FORMERR may come without the question
                continue
            result.latencies.add(time.monotonic() - self.due.pop(number))
            del self.questions[number]
            result.rcodes[_rcode_name(packet[3] & 15)] += 1
            taken += 1
        return taken

    def expire(self, before: float) -> int:
        """Give up queries that were due before a moment; how many."""
        given_up = list(itertools.takewhile(lambda number: self.due[number] < before, self.due))
        for number in given_up:
            del self.due[number], self.questions[number]
        return len(given_up)


def _rcode_name(rcode: int) -> str:
    try:
        return Rcode(rcode).name
    except ValueError:
        return f"RCODE{rcode}"


def check_address(host: str, yes_remote: bool) -> tuple[int, str]:
    """(address family, address) of an address or of `localhost`; BenchError if it is none, or not loopback's."""
    try:
        address = ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        raise BenchError(f"{host!r} is no IP address") from None
    if not (address.is_loopback or yes_remote):
        raise BenchError(f"{address} is another machine: add --yes-remote if it is yours and may be put under load")
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), str(address)


def run(
    host: str,
    port: int,
    names: Sequence[str] = (),
    *,
    seconds: float = 10.0,
    rate: float = 0.0,
    outstanding: int = 100,
    clients: int = 8,
    qtype: RRType = RRType.A,
    seed: int = 0,
    yes_remote: bool = False,
) -> Result:
    """Put HOST:PORT under load for `seconds`: at `rate` queries a second, or if that is 0 with `outstanding` under way.

    `names` are asked in random order, the same for the same `seed`; without any, GENERATED ones. `clients`: sockets, so
    that several workers get their share. BenchError if the numbers or the address are out of bounds.
    """
    family, address = check_address(host, yes_remote)
    for what, value, least, most in (
        ("port", port, 1, 65_535),
        ("seconds", seconds, 0.1, MAX_SECONDS),
        ("rate", rate, 0, MAX_RATE),
        ("outstanding", outstanding, 1, MAX_OUTSTANDING),
        ("clients", clients, 1, MAX_CLIENTS),
    ):
        if not least <= value <= most:
            raise BenchError(f"{what}: expected from {least:g} to {most:g}, got {value:g}")
    queries = [encode(name, qtype) for name in names or generate_names(seed=seed)]
    random.Random(seed).shuffle(queries)
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(min(clients, outstanding) if not rate else clients):
            sockets.append(_Client(family, (address, port)))
            stack.callback(sockets[-1].sock.close)
        return _Run(sockets, queries, rate, outstanding).go(seconds)


class _Run:
    """One run's loop: send what is due, take what has come, give up what is lost."""

    def __init__(self, clients: list[_Client], queries: list[bytes], rate: float, outstanding: int) -> None:
        self.result = Result()
        self._clients = clients
        self._queries = itertools.cycle(queries)
        self._turn = itertools.cycle(clients)
        self._rate = rate
        self._outstanding = outstanding
        self._poll = select.epoll()
        self._by_fd = {client.sock.fileno(): client for client in clients}
        self._lateness = 0.0  # the greatest, in seconds

    def go(self, seconds: float) -> Result:
        result = self.result
        with self._poll:
            for fd in self._by_fd:
                self._poll.register(fd, select.EPOLLIN)
            used, began = time.process_time(), time.monotonic()
            end = began + seconds
            next_look = began + TIMEOUT / 10
            while (now := time.monotonic()) < end or self._under_way:
                if now < end:
                    self._send(began, now)
                for fd, _ in self._poll.poll(self._patience(began, now) if now < end else _WAIT):
                    result.answered += self._by_fd[fd].receive(result)
                if now >= next_look:
                    next_look = now + TIMEOUT / 10
                    result.lost += sum(client.expire(now - TIMEOUT) for client in self._clients)
                if now < end:
                    result.elapsed = time.monotonic() - began
            used = time.process_time() - used
            self._judge(used / (time.monotonic() - began))
        return result

    @property
    def _under_way(self) -> int:
        return self.result.sent - self.result.answered - self.result.lost

    def _next_due(self, began: float) -> float:
        return began + (self.result.sent + self.result.unsent) / self._rate

    def _patience(self, began: float, now: float) -> float:
        """How long to wait for answers. epoll counts in milliseconds: what is due within one is waited for awake."""
        if not self._rate:
            return _WAIT
        wait = self._next_due(began) - now
        return min(wait, _WAIT) if wait > 0.002 else 0.0

    def _send(self, began: float, now: float) -> None:
        if self._rate:
            due = self._next_due(began)
            self._lateness = max(self._lateness, now - due)
            for _ in range(_BURST * 4):
                if due > now or self._under_way >= MAX_OUTSTANDING:
                    break
                self._ask(due)
                due = self._next_due(began)
        else:
            for _ in range(self._outstanding - self._under_way):
                self._ask(now)

    def _ask(self, due: float) -> None:
        if next(self._turn).send(next(self._queries), due):
            self.result.sent += 1
        else:
            self.result.unsent += 1

    def _judge(self, busy: float) -> None:
        result = self.result
        if busy > _BUSY and not self._rate:
            result.notes.append(f"this client used {busy:.0%} of its core: the server may be able to do more")
        if self._rate:
            reached = (result.sent + result.unsent) / (self._rate * result.elapsed) if result.elapsed else 0.0
            if reached < 0.99:
                result.notes.append(f"this client reached {reached:.0%} of the rate that was asked for")
            if self._lateness > 0.005:
                result.notes.append(
                    f"this client was up to {self._lateness * 1e3:.0f} ms late; latency counts from when it was due"
                )
        if not result.answered:
            result.notes.append("nothing was answered: does a server listen there?")
