"""What Tampah has to show, and whether a run showed it: one line a target, with the figures that it was judged by.

Ratios are of medians of one run. A target whose figures a run did not measure is said to be so, not left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.bench.measure import Figures

LARGE = 5_000_000  # names from which on what is promised of ten million is judged
FLAT = 1.10  # times the figure at a tenth of the names
HITS = ("blocked", "cached", "mix")


@dataclass(frozen=True, slots=True)
class Target:
    """`met` is None where a figure is missing."""

    text: str
    found: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "**not met**", None: "not measured"}[self.met]


def judge(sizes: Mapping[int, Mapping[str, Figures]]) -> Iterator[Target]:
    """Every target at every size."""
    for size, figures in sizes.items():
        at = f"{size:,} names"
        yield from _loads(at, figures)
        yield from _latency(at, figures)
        yield from _tampah(at, size, figures)
    yield from _flat(sizes)


def _median(values: Iterable[float]) -> float | None:
    kept = list(values)
    return statistics.median(kept) if kept else None


def _cpu(figures: Mapping[str, Figures], peer: str, case: str) -> float | None:
    return _median(load.cpu_us for load in figures.get(peer, Figures()).loads.get(case, ()))


def _ratio(text: str, one: float | None, other: float | None, most: float) -> Target:
    if one is None or not other:
        return Target(f"{text}: at most {most:g}", "—", None)
    return Target(f"{text}: at most {most:g}", f"{one / other:.2f}", one / other <= most)


def _most(text: str, value: float | None, most: float, unit: str) -> Target:
    found = "—" if value is None else f"{value:,.3g} {unit}"
    return Target(f"{text}: at most {most:,.3g} {unit}", found, None if value is None else value <= most)


def _loads(at: str, figures: Mapping[str, Figures]) -> Iterator[Target]:
    for case in HITS:
        for peer, most in (("echo", 1.3), ("pdns-recursor", 0.8)):
            text = f"{at}, {case}: CPU against {peer}"
            yield _ratio(text, _cpu(figures, "tampah", case), _cpu(figures, peer, case), most)
    for peer, most in (("dnsdist", 0.75), ("unbound", 0.3)):
        text = f"{at}, miss: CPU against {peer}"
        yield _ratio(text, _cpu(figures, "tampah", "miss"), _cpu(figures, peer, "miss"), most)
    lost = [load.lost for item in (figures.get("tampah"),) if item for loads in item.loads.values() for load in loads]
    yield _most(f"{at}: lost under load", sum(lost) if lost else None, 0, "queries")


def _latency(at: str, figures: Mapping[str, Figures]) -> Iterator[Target]:
    tampah = figures.get("tampah", Figures())
    still = _median(item.p99 for item in tampah.latencies)
    meanwhile = _median(item.latency.p99 for item in tampah.reloads)
    for peer in ("unbound", "dnsdist"):
        other = figures.get(peer, Figures())
        theirs = _median(item.p99 for item in other.latencies)
        yield _ratio(f"{at}: p99 at a low rate against {peer}", still, theirs, 1)
        yield _ratio(f"{at}: p99 while a list is reloaded against {peer} at rest", meanwhile, theirs, 1)
        yield _ratio(
            f"{at}: p99 while a list is reloaded against {peer} while it reloads",
            meanwhile,
            _median(item.latency.p99 for item in other.reloads),
            1,
        )
    latencies = [*tampah.latencies, *(item.latency for item in (*tampah.reloads, *tampah.small_reloads))]
    lost = sum(item.lost for item in latencies) if latencies else None
    yield _most(f"{at}: lost at a low rate and during reloads", lost, 0, "queries")


def _tampah(at: str, size: int, figures: Mapping[str, Figures]) -> Iterator[Target]:
    tampah, pair = figures.get("tampah", Figures()), figures.get("tampah-2", Figures())
    compiled = _median(tampah.starts)
    yield (
        _ratio(f"{at}: start from text against dnsmasq", compiled, _median(figures["dnsmasq"].starts), 1)
        if ("dnsmasq" in figures)
        else _ratio(f"{at}: start from text against dnsmasq", compiled, None, 1)
    )
    yield _most(f"{at}: start from the compiled index to the first answer", _median(tampah.warm_starts), 0.5, "s")
    small = _median(item.seconds for item in tampah.small_reloads)
    yield _most(f"{at}: a changed list of 10,000 names beside them is live", small, 2, "s")
    if size < LARGE:
        return
    yield _most(
        f"{at}: compiled from text, a million names", None if compiled is None else compiled / size * 1e6, 2.5, "s"
    )
    per_name: tuple[tuple[str, float | None, float], ...] = (
        ("memory (PSS) of all processes, two workers", _median(pair.memory), 26),
        ("files", _median(tampah.files), 30),
        ("what workers map", _median(tampah.mapped), 18),
    )
    for what, octets, most in per_name:
        yield _most(f"{at}: {what}, a name", None if octets is None else octets / size, most, "octets")


def _flat(sizes: Mapping[int, Mapping[str, Figures]]) -> Iterator[Target]:
    ordered = sorted(sizes)
    if len(ordered) < 2:
        return
    small, large = ordered[0], ordered[-1]
    for case in (*HITS, "miss"):
        text = f"{large:,} names against {small:,}, {case}: CPU"
        yield _ratio(text, _cpu(sizes[large], "tampah", case), _cpu(sizes[small], "tampah", case), FLAT)


def table_of(targets: Iterable[Target], table: Callable[..., Iterator[str]]) -> Iterator[str]:
    """The targets as a table, those that were not met first."""
    found = sorted(targets, key=lambda target: {False: 0, True: 1, None: 2}[target.met])
    if found:
        yield from table(("what", "found", "verdict"), ((item.text, item.found, item.verdict) for item in found))
