"""The names of a benchmark: read from a list or generated, written to the files that servers and dnsperf read.

Ten million names never stand in memory: they go from the generator to the files, and a sample of them is kept to ask
for. Everything is seeded, so two runs with the same numbers ask the same questions in the same order.

Generated names have the shape of the national list's: about 20 octets, a quarter directly below a top-level
domain, the rest below hosting providers that share a parent or below a domain of their own. Each holds its number in
letters, scrambled by an odd factor, so no two are equal and neighbours in the file are none in the tree.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

SAMPLE = 100_000  # listed names that are asked for
POPULAR = 10_000  # names that are on no list and stay in every cache
SHARE_BLOCKED = 0.2  # of the mix
MISSES_A_SECOND = 150_000  # more than any forwarder here answers: a run never comes round to a name it has asked

_TLDS = ["com"] * 6 + ["dev"] * 3 + ["xyz", "app", "shop", "pro", "cc", "site", "net", "buzz", "org", "cyou", "info"]
_PROVIDERS = ["web.app", "netlify.app", "pages.dev", "github.io", "vercel.app", "blogspot.com", "workers.dev"]
_SYLLABLES = ["".join(pair) for pair in product("bdfghjklmnprstvz", "aeio")]  # 64: six bits each
_FACTOR, _BITS = 0x2545F491, 30


@dataclass(frozen=True, slots=True)
class Names:
    """One name a line in `path`; `sample` of them to ask for."""

    path: Path
    count: int
    sample: list[str]


def generate(count: int, seed: int = 1) -> Iterator[str]:
    """`count` different domain names."""
    mask = (1 << _BITS) - 1
    if not 0 < count <= mask:
        raise ValueError(f"expected from 1 to {mask} names")
    syllables, tlds, providers = _SYLLABLES, _TLDS, _PROVIDERS
    for number in range(count):
        x = ((number + seed) * _FACTOR) & mask
        label = (
            syllables[x & 63]
            + syllables[x >> 6 & 63]
            + syllables[x >> 12 & 63]
            + syllables[x >> 18 & 63]
            + syllables[x >> 24]
        )
        kind = (x >> 3) % 20
        if kind < 5:
            yield f"{label}.{tlds[x % len(tlds)]}"
        elif kind < 12:
            yield f"{label}.{providers[x % len(providers)]}"
        else:
            parent = number // 3  # three names share a parent, which is not listed itself
            yield f"{label}.{syllables[parent & 63]}{syllables[parent >> 6 & 63]}{parent >> 12:x}.{tlds[parent % 17]}"


def collect(source: Path | int, target: Path, seed: int = 1) -> Names:
    """Write the names of a list in domains form, or that many generated ones, to `target`."""
    lines: Iterator[str]
    if isinstance(source, int):
        count, lines = source, generate(source, seed)
    else:
        with source.open() as file:
            listed = [line.strip() for line in file if line.strip() and not line.startswith(("#", "!"))]
        count, lines = len(listed), iter(listed)
    step = max(1, count // SAMPLE)
    sample = []
    with target.open("w") as out:
        for number, name in enumerate(lines):
            out.write(name + "\n")
            if number % step == 0:
                sample.append(name)
    return Names(target, count, sample)


def read(path: Path) -> Iterator[str]:
    """The names that collect() wrote, one after the other."""
    with path.open() as file:
        for line in file:
            yield line.rstrip("\n")


def write_queries(folder: Path, names: Names, seconds: float, seed: int = 1) -> dict[str, Path]:
    """dnsperf's query files by case, and `popular`: each of the cached names once, to warm a cache with."""
    rng = random.Random(seed)
    popular = [f"host{number}.example.com" for number in range(POPULAR)]
    mixed = (
        "www." + rng.choice(names.sample) if rng.random() < SHARE_BLOCKED else rng.choice(popular)
        for _ in range(SAMPLE)
    )
    misses = (
        f"m{number:x}.{rng.getrandbits(30):x}.example{number % 977}.com"
        for number in range(int(MISSES_A_SECOND * max(seconds, 1)))
    )
    cases: dict[str, Iterator[str]] = {
        "popular": iter(popular),
        "blocked": (rng.choice(("", "www.")) + name for name in rng.choices(names.sample, k=SAMPLE)),
        "cached": iter(rng.choices(popular, k=SAMPLE)),
        "mix": mixed,
        "miss": misses,
    }
    files = {}
    for case, queries in cases.items():
        files[case] = folder / f"q-{case}"
        with files[case].open("w") as out:
            out.writelines(f"{query} A\n" for query in queries)
    return files
