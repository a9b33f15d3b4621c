"""200,000 subscribers in 50 policy classes: memory of all workers together, look-up, and live reload of their files.

    python -m tests.bench.subscribers [--workers 2]

Memory is the share (Pss) of the mapped client map in every worker, and the index of it (256 KiB) that each has.
Caveat: the figures mean little while other things run on the machine.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import random
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from resolver.engine.engine import Index, Snapshot
from resolver.explain import generation_of
from resolver.snapshot import read_clients, read_policy
from tests.blackbox.harness import Server, until
from tests.fakes import FakeUpstream

SUBSCRIBERS, CLASSES, BITS = 200_000, 50, 6


def shared_octets(pid: int) -> int:
    """Pss of the client maps that a process has mapped, in octets."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    found = 0
    for mapping in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text):
        if ".map\n" in mapping or ".map (deleted)" in mapping:
            found += int(re.search(r"(?m)^Pss:\s+(\d+)", mapping)[1]) * 1024  # type: ignore[index]
    return found


def main() -> None:
    """Run once and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="what many subscribers take")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    hosts = random.Random(6).sample(range(10 << 24, 11 << 24), SUBSCRIBERS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ads.txt").write_text("ads.example\n")
        for number in range(CLASSES):
            lines = "\n".join(str(ipaddress.IPv4Address(host)) for host in hosts[number::CLASSES])
            (folder / f"{number}.txt").write_text(f"{lines}\n")
        given = {
            "workers": options.workers,
            "lists": [{"name": f"l{bit}", "source": "ads.txt"} for bit in range(BITS)],
            "groups": [  # each with lists of its own, or they would be one class
                {
                    "name": f"g{number}",
                    "clients": [f"file:{number}.txt"],
                    "lists": [f"l{bit}" for bit in range(BITS) if number >> bit & 1],
                }
                for number in range(CLASSES)
            ],
        }
        with FakeUpstream() as upstream, Server(folder, given, upstream=upstream.port) as server:
            shared = [shared_octets(pid) for pid in server.worker_pids()]
            lookup = lookup_nanoseconds(server.state_dir, hosts)
            server.is_blocked("ads.example")
            server.write("0.txt", (folder / "0.txt").read_text() + "127.0.0.0/8\n")  # nothing is filtered for these
            began = time.perf_counter()
            until(lambda: server.addresses("ads.example") != ["0.0.0.0"], "the file of clients is enforced")
            seconds = time.perf_counter() - began
    index = 65_537 * 4 * options.workers
    figures = {
        "map_of_each_worker": shared,
        "all_workers": sum(shared) + index,
        "lookup_ns": lookup,
        "reload_seconds": seconds,
    }
    print(json.dumps(figures, indent=1))


def lookup_nanoseconds(state_dir: Path, hosts: list[int]) -> float:
    """What finding a client's class takes, for subscribers in random order; the best of some runs."""
    generation = generation_of(state_dir)
    [path] = (state_dir / "clients").glob("*.map")
    policy = replace(read_policy(state_dir / generation.policy), clients=read_clients(path))
    snapshot = Snapshot(Index(state_dir / generation.index), policy, 1)
    packed = b"".join(bytes(10) + b"\xff\xff" + host.to_bytes(4, "big") for host in hosts)
    best = float("inf")
    for _ in range(7):
        began = time.perf_counter()
        found = snapshot.count_class(packed, 1)
        best = min(best, time.perf_counter() - began)
        assert 0 < found < len(hosts)
    return best / len(hosts) * 1e9


if __name__ == "__main__":
    main()
