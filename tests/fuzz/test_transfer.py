"""Transfers at random: damaged messages are refused and never read past, whole ones mean what a file of them would."""

from __future__ import annotations

import os
import random
from pathlib import Path

import dns.name
import pytest

from resolver.engine.engine import RunBuilder, TransferScanner
from resolver.lists.parse import Options, read_list
from resolver.lists.runs import Run, RunHeader, write_run
from resolver.transfer.messages import Request, TransferError
from resolver.transfer.reader import TransferReader
from tests.unit.transfer.test_rpz_transfer_table import NS, ZONE, message, soa

COUNT = int(os.environ.get("TRANSFERS", "1500"))
OPTIONS = Options(format="rpz", own_names=frozenset())
LABELS = (
    "a",
    "B-x",
    "*",
    "www",
    "localhost",
    "ip6-a",
    "10",
    "xn--p1ai",
    "_dmarc",
    "rpz-ip",
    "rpz-x",
    r"a\.b",
    r"\195",
    "x" * 63,
)
TARGETS = (
    ".",
    "*.",
    "rpz-passthru.",
    "rpz-drop.",
    "rpz-tcp-only.",
    "rpz-none.",
    "garden.example.",
    "*.garden.example.",
)


def records(draw: random.Random, count: int) -> list[str]:
    """Records of a policy zone, odd ones among them; each owner has one kind of data."""
    found: dict[str, str] = {}
    while len(found) < count:
        trigger = ".".join(draw.choice(LABELS) for _ in range(draw.randint(1, 4)))
        if "*" in trigger[1:] or len(trigger) > 150:
            continue
        target = draw.choice((*TARGETS, f"{trigger.removeprefix('*.')}."))
        data = draw.choice(
            (f"CNAME {target}", f"CNAME {target}", f"CNAME {target}", "A 192.0.2.1", 'TXT "x y"', "NS ns.")
        )
        found.setdefault(trigger.lower(), f"{trigger}.{ZONE}. {draw.choice((60, 300))} IN {data}")
    return list(found.values())


def said(path: Path) -> dict[str, list[tuple[int, object]]]:
    """Everything that a run says, lines apart."""
    with Run(path) as run:
        found = {}
        for name, rules in run.names():
            scopes: dict[object, int] = {}
            for rule in rules:
                scopes[rule.outcome] = scopes.get(rule.outcome, 0) | rule.scope
            found[name] = sorted(((scope, outcome) for outcome, scope in scopes.items()), key=str)
        return found | {f"{t.kind} {t.text}": [(0, t.outcome)] for t in run.triggers()}


@pytest.mark.parametrize("seed", range(8))
def test_a_transfer_means_what_a_file_with_its_records_does(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resolver.lists.parse.read.MAX_REFUSED_SHARE", 1.0)  # much of this is odd
    draw = random.Random(seed)
    rules = records(draw, 150)
    request = Request(ZONE, "AXFR")
    with TransferReader(request, OPTIONS, tmp_path / "transferred") as reader:
        for part in ([soa(5), NS, *rules[:40]], rules[40:90], [*rules[90:], soa(5)]):
            done = reader.receive(message(request, part))
        assert done
        transferred = reader.finish().header
    builder = RunBuilder()
    lines = "".join(f"{record}\n" for record in (soa(5), NS, *rules)).encode()
    report = read_list([lines], Options(format="rpz", origin=ZONE, own_names=frozenset()), builder)
    builder.replaces = True
    write_run(tmp_path / "read", builder, RunHeader(tuple(report.outcomes), replaces=True), report.triggers)
    assert said(tmp_path / "transferred") == said(tmp_path / "read")
    assert transferred is not None and transferred.refused_count == report.refused > 0


def test_damaged_messages_are_refused_and_never_read_past(tmp_path: Path) -> None:
    draw = random.Random(5)
    zone = dns.name.from_text(ZONE).to_wire() or b""
    scanner = TransferScanner(zone, RunBuilder())
    gathering = TransferScanner(zone)
    for each in (scanner, gathering):
        each.learn(b"\0", 300, 0)
        each.learn(b"\6garden\7example\0", 60, 1)
    request = Request(ZONE, "AXFR")
    good = [message(request, [*records(draw, 12), soa(5), *records(draw, 3)]) for _ in range(20)]
    refused = taken = 0
    for number in range(COUNT):
        octets = bytearray(draw.choice(good))
        for _ in range(draw.randint(0, 3)):
            octets[draw.randrange(12, len(octets))] = draw.choice((0, 0xC0, 0xFF, 63, draw.randrange(256)))
        if number % 3 == 0:
            del octets[draw.randrange(12, len(octets)) :]
        wire = bytes(octets)
        for each in (scanner, gathering):
            at, left = 12, 16
            try:
                each.skip(wire, 12, 16)
                while left:
                    at, done, others = each.scan(wire, at, left)
                    assert 12 <= at <= len(wire)
                    assert all(rdata + length <= len(wire) for *_, rdata, length in others)
                    left -= done
                    if left:  # a SOA: passed over
                        at, _, _ = each.skip(wire, at, 1)
                        left -= 1
                taken += 1
            except ValueError:
                refused += 1
        if number % 10 == 0:
            with TransferReader(request, OPTIONS, tmp_path / "run") as reader:
                try:
                    reader.receive(wire)
                    reader.finish()
                except TransferError:
                    pass
    for key, scope, outcome in gathering.take_gathered():
        assert 0 < len(key) <= 254 and key.endswith(b"\0") and scope in (1, 2) and outcome in (0, 1)
    assert refused > COUNT // 4 and taken > COUNT // 4 and scanner.records > COUNT
