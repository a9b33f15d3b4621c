"""Builds an index of many made-up names and says what it takes: time a stage, octets a name, look-ups a second.

    python -m tests.bench.index [--names 1000000] [--folder /tmp/index-bench] [--keep] [--patch]

--patch adds what a change takes where a list of 10,000 names stands beside the many: 100 of them exchanged, and all.

The names are drawn with a fixed seed and look like those of a national list: words, numbers and hyphens under a few
hundred TLDs, a fifth of them below shared hosts such as web.app. They come in random order, which is the worst case for
sorting and for the line numbers in a run. Caveats: the look-ups are 100,000 names in a row, so the buckets come from
memory but the code is warm; and the figures mean little while other things run on the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from resolver.engine.engine import Index, RunBuilder
from resolver.lists.merge import ListRun, write_index
from resolver.lists.patch import patch_index
from resolver.lists.rules import Outcome
from resolver.lists.runs import RunHeader, write_run
from resolver.vocabulary import Scope

CHUNK = 100_000  # lines made and scanned at a time
SMALL = 10_000  # names of the list that changes beside the many
WORDS = (
    "slot gacor judi online bet togel poker casino toto dewa raja asia win jackpot maxwin bola sakti hoki mega super "
    "play game link login daftar situs agen resmi vip club zeus olympus spin bonus deposit live hk sgp macau indo "
    "berita film video shop store cloud api cdn static img mail blog news app web data net pay bank promo kata puisi"
)
TLDS = (
    "com " * 90
    + "net org xyz info site online top club id co.id " * 4
    + "pro vip live biz me cc tv icu shop store win "
    "bet asia fun lol quest web.app netlify.app blogspot.com github.io pages.dev wordpress.com weebly.com vercel.app"
)


def names(count: int, seed: int) -> Iterator[bytes]:
    """Chunks of lines, a name each; a few names come twice."""
    dice = random.Random(seed)
    choice = dice.choice
    words, tlds = WORDS.split(), TLDS.split()
    for start in range(0, count, CHUNK):
        lines = []
        for _ in range(min(CHUNK, count - start)):
            middle = choice(("", "-", choice(words)))
            name = f"{choice(words)}{middle}{choice(words)}{dice.randrange(100_000)}.{choice(tlds)}"
            lines.append(name if dice.random() < 0.8 else f"{choice(words)}.{name}")
        lines.append("")
        yield "\n".join(lines).encode()


def wire(name: str) -> bytes:
    """A name in wire form."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def peak() -> int:
    """The most memory this process has had, in octets."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_patches(folder: Path, many: ListRun) -> dict[str, object]:
    """Seconds that a full build and patches of it take."""

    def lists(count: int) -> list[ListRun]:
        """The many names and the small list, with its first `count` names exchanged for others."""
        path = folder / f"small{count}.run"
        pool = b"".join(names(3 * SMALL, seed=3)).split()
        builder = RunBuilder()
        builder.scan(
            b"\n".join([*pool[count:SMALL], *pool[SMALL : SMALL + count], b""]), 1, [(b"", b"", Scope.BOTH, 0)]
        )
        write_run(path, builder, RunHeader((Outcome(),)))
        return [many, ListRun("small", path, False)]

    full = folder / "full.index"
    runs = lists(0)
    started = time.perf_counter()
    report = write_index(full, runs)
    figures: dict[str, object] = {"full": {"all": time.perf_counter() - started, **report.seconds}}
    for count in (100, SMALL):
        runs = lists(count)
        started = time.perf_counter()
        patched = patch_index(full, folder / f"patch{count}.index", runs)
        seconds = time.perf_counter() - started
        figures[f"{count} names"] = {"all": seconds, **patched.seconds} if patched else "not patched: too few names"
    return figures


def main() -> None:
    """Run once and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="what an index takes")
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/index-bench"))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--patch", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    text = options.folder / "names.txt"
    with text.open("wb") as file:
        for chunk in names(options.names, seed=1):
            file.write(chunk)

    figures: dict[str, object] = {"memory_before": peak()}
    started = time.perf_counter()
    builder = RunBuilder()
    line = 1
    with text.open("rb") as file:
        rest = b""
        while chunk := file.read(1 << 20):
            chunk = rest + chunk
            end = chunk.rfind(b"\n") + 1
            rest = chunk[end:]
            line += builder.scan(chunk[:end], line, [(b"", b"", Scope.BOTH, 0)])[0]
    scanned = time.perf_counter()
    builder.sort()
    sorted_at = time.perf_counter()
    run = options.folder / "names.run"
    header = write_run(run, builder, RunHeader((Outcome(),), lines=line - 1))
    del builder
    written = time.perf_counter()
    figures["memory_run"] = peak()
    path = options.folder / "1.index"
    report = write_index(path, [ListRun("names", run, False)])
    built = time.perf_counter()
    figures |= {
        "names": header.names,
        "duplicates": header.duplicates,
        "entries": report.entries,
        "seconds": {
            "scan": scanned - started,
            "sort": sorted_at - scanned,
            "write run": written - sorted_at,
            **report.seconds,
            "all": built - started,
        },
        "memory_index": peak(),
        "octets_a_name": {"run": run.stat().st_size / header.names, "hot": report.hot / header.names},
    }
    started = time.perf_counter()
    index = Index(path)
    figures["load_seconds"] = time.perf_counter() - started

    hits = b"".join(names(CHUNK, seed=1)).decode().split()
    misses = [f"x-{name}" for name in hits if name.count(".") == 1]
    assert all(map(index.find, hits))
    assert not any(map(index.find, misses))
    for label, asked in (("hit", hits), ("below", [f"www.{name}" for name in hits]), ("miss", misses)):
        random.Random(2).shuffle(asked)
        packed = b"".join(map(wire, asked))
        started = time.perf_counter()
        index.count_listed(packed)
        figures[f"{label}_ns"] = (time.perf_counter() - started) / len(asked) * 1e9
    if options.patch:
        del index
        figures["patch_seconds"] = measure_patches(options.folder, ListRun("names", run, False))
    print(json.dumps(figures, indent=1))
    if not options.keep:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
