"""What rules for addresses cost: a list of a hundred thousand, beside none, on a kept answer and on a fresh one.

    python -m tests.bench.triggers [--addresses 102425]

`kept`: nanoseconds a query whose answer is in the cache and was inspected before; `inspected`: the same for the first hit
after a reload, when the answer is held against the lists, as a fresh one is. Both hold the call from Python, so what a rule
costs is the difference between the two worlds, measured in turns; the least of some rounds counts.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import random
import tempfile
import time
from pathlib import Path

from resolver.engine.engine import REPLY, Index, Snapshot
from resolver.lists.rules import TriggerKind
from resolver.vocabulary import Transport
from tests.unit.engine.world import CLIENT, World, block, query, reply_to, trigger

NAMES = 20_000
ROUNDS = 9


def main() -> None:
    """Run once and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="what rules for addresses cost")
    parser.add_argument("--addresses", type=int, default=102_425)
    count = parser.parse_args().addresses
    dice = random.Random(1)
    listed = [str(ipaddress.IPv4Address(number)) for number in dice.sample(range(1 << 24, 0xE0000000), count)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        worlds = {}
        for label, rules in (("none", []), ("listed", [trigger(TriggerKind.ADDRESS, *listed)])):
            (Path(folder) / label).mkdir()
            worlds[label] = World(Path(folder) / label, block("blocked.example"), *rules, cache_bytes=64 << 20)
        figures: dict[str, object] = {"addresses": count, "build_seconds": time.perf_counter() - started}
        started = time.perf_counter()
        index = Index(worlds["listed"].index.path)
        figures["load_seconds"] = time.perf_counter() - started
        figures["hot_octets_an_address"] = (index.bytes_hot - worlds["none"].index.bytes_hot) / count
        packets = [query(f"n{number}.example").to_wire() for number in range(NAMES)]
        for number, packet in enumerate(packets):
            address = ipaddress.IPv4Address(dice.randrange(1 << 24, 0xE0000000))
            answer = reply_to(packet, f"n{number}.example. 3600 A {address}")
            for world in worlds.values():
                assert world.engine.learn(world.punt(packet), answer)
        times: dict[str, float] = {}
        for turn in range(ROUNDS):
            for label, world in worlds.items():
                for what in ("inspected", "kept"):
                    if what == "inspected":
                        world.engine.swap(Snapshot(world.index, world.policy, 1000 + turn))
                    answer_one = world.engine.answer
                    started = time.perf_counter()
                    for packet in packets:
                        answer_one(packet, CLIENT, Transport.UDP)
                    spent = (time.perf_counter() - started) / NAMES * 1e9
                    times[f"{what} {label}"] = min(spent, times.get(f"{what} {label}", spent))
        assert all(worlds["none"].engine.answer(packet, CLIENT, Transport.UDP)[0] == REPLY for packet in packets)
    figures["nanoseconds"] = times
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
