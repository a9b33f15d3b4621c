"""The report of a benchmark: report.md, chart.svg and data.json in one folder, written again after each size.

Caveats stand first and the way to repeat it last. A figure is the median of its repetitions with the least and the
greatest beside it; ratios are of medians. What was not measured is a dash, and a note says why.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench import chart, targets
from tests.bench.measure import CLIENTS, LATENCY_RATE, LOST, OUTSTANDING, Figures, Latency, Load

LOADS = {
    "blocked": "blocked: names of the list, half of them with `www.` before it",
    "cached": "cached: 10,000 popular names that are on no list",
    "mix": "mix: 20 % blocked, the rest cached",
    "miss": "miss: names that were never asked, so the upstream is asked each time",
    "tcp": "TCP: the mix over connections that stay",
}
BUSY = 0.05  # share of the server's core in the hands of others, from which on a run is called disturbed

CAVEATS = f"""\
- Ratios travel between machines, absolute times do not. Compare figures of one report only.
- A server has one thread and core 0, with all its processes; dnsperf, the latency client and the upstream (nsd) have
  core 1. **CPU** is the server's user and system time for each answer, from /proc, over its whole process tree. It
  counts the kernel's work for its packets, which is most of it.
- dnsperf is the bottleneck of the fastest servers, so queries a second are a lower bound for them; CPU is not affected
  by that, except that a server with time to spare finds smaller batches and pays more for each.
- Every query of blocked, cached and mix was asked once before, so a server that keeps answers (the Recursor's and
  dnsdist's packet caches keep blocked ones, too) finds them there.
- The echo looks at nothing: it is what the kernel takes for one datagram in and one out, by recvmmsg and sendmmsg.
- dnsperf keeps {OUTSTANDING} queries under way from {CLIENTS} sockets. A query counts as lost after {LOST:g} s.
- Latency is of an open loop of {LATENCY_RATE:,} queries a second unless said otherwise, from the client's send to the
  kernel's time stamp of the answer; a lost query counts as {LOST:g} s.
- All block a name and what is below it, on the same names. Answers differ in size: 0.0.0.0 with an Extended DNS Error
  (Tampah), 0.0.0.0 alone (dnsdist, dnsmasq, Unbound), NXDOMAIN with a SOA (RPZ).
- Start is until the last name of the list is blocked; load begins when a server has nothing left to do after it. Reload
  is from the change of the file to the first answer by it; p99 is of the mix meanwhile, for one second at least.
  Unbound forgets its cache at a reload, BIND and Tampah do not. A dash: it has to be started anew, or took too long.
- Memory is PSS of all processes; "peak" the most that was seen three times a second while one started from text or
  reloaded. "Used" is after all cases, with full caches, whose limits differ between servers.
- tampah-2 is two workers on both cores, one of them shared with dnsperf: read its memory and its CPU, not its speed.
"""


def median(values: Iterable[float]) -> float | None:
    kept = list(values)
    return statistics.median(kept) if kept else None


def number(value: float | None, digits: int = 2) -> str:
    return "—" if value is None else f"{value:,.{digits}f}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median with the least and the greatest."""
    if not values:
        return "—"
    middle = number(statistics.median(values), digits)
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def ratio(value: float | None, base: float | None) -> str:
    return "—" if value is None or not base else f"{value / base:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def cpu(figures: Figures, case: str) -> float | None:
    """Median CPU microseconds an answer."""
    return median(load.cpu_us for load in figures.loads.get(case, ()))


def brief(figures: Figures) -> str:
    """A line for who watches: the last repetition."""
    parts = [f"{case} {loads[-1].cpu_us:.2f}" for case, loads in figures.loads.items()]
    if figures.latencies:
        parts.append(f"p99 {figures.latencies[-1].p99:.2f} ms")
    if figures.memory:
        parts.append(f"{figures.memory[-1] / 2**20:.0f} MiB")
    if figures.starts:
        parts.append(f"start {figures.starts[-1]:.2f} s")
    return ", ".join(parts)


def write(
    folder: Path, described: list[tuple[str, str]], arguments: list[str], sizes: dict[int, dict[str, Figures]]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text("\n".join(_lines(described, arguments, sizes)))
    data = {
        "machine": dict(described),
        "arguments": arguments,
        "sizes": {size: {peer: asdict(item) for peer, item in figures.items()} for size, figures in sizes.items()},
    }
    (folder / "data.json").write_text(json.dumps(data, indent=1))
    if panels := list(_panels(sizes)):
        (folder / "chart.svg").write_text(chart.draw(panels))


def _lines(
    described: list[tuple[str, str]], arguments: list[str], sizes: dict[int, dict[str, Figures]]
) -> Iterator[str]:
    yield "# Tampah beside other servers\n"
    yield from table(("", ""), described)
    yield "## Before you read the figures\n"
    yield CAVEATS
    yield from _disturbance(sizes)
    if any(item.loads for figures in sizes.values() for item in figures.values()):
        yield "![CPU microseconds an answer](chart.svg)\n"
    if any("tampah" in figures for figures in sizes.values()):
        yield "## What it has to show\n"
        yield from targets.table_of(targets.judge(sizes), table)
    for size, figures in sizes.items():
        yield f"## {size:,} names\n"
        yield from _summary(figures)
        for case, title in LOADS.items():
            if any(case in item.loads for item in figures.values()):
                yield f"### {title[0].upper()}{title[1:]}\n"
                yield from _case(figures, case)
        yield from _latency(figures)
        yield from _start(figures, size)
        yield from _notes(figures)
    yield "## To repeat it\n"
    yield f"    make bench ARGS={shlex.quote(shlex.join(arguments))}\n"
    yield "on a machine with nothing else to do. Servers that are not installed are left out; on Debian: `apt install"
    yield "dnsperf nsd gcc unbound bind9 pdns-recursor dnsdist dnsmasq knot-resolver`. data.json beside this file has"
    yield "every repetition."
    yield ""


def _disturbance(sizes: dict[int, dict[str, Figures]]) -> Iterator[str]:
    shares = [
        load.others
        for figures in sizes.values()
        for peer, item in figures.items()
        if peer != "tampah-2"
        for loads in item.loads.values()
        for load in loads
    ]
    if not shares:
        return
    disturbed = sum(1 for share in shares if share > BUSY)
    yield (
        f"Other processes took {statistics.median(shares):.1%} of the server's core in the median run and "
        f"{max(shares):.1%} at worst; {disturbed} of {len(shares)} runs had more than {BUSY:.0%} taken.\n"
    )


def _summary(figures: dict[str, Figures]) -> Iterator[str]:
    cases = [case for case in LOADS if any(case in item.loads for item in figures.values())]
    if not cases:
        return
    yield "CPU microseconds an answer; in brackets how many times Tampah's.\n"
    tampah = figures.get("tampah", Figures())

    def cell(item: Figures, case: str) -> str:
        value = cpu(item, case)
        return "—" if value is None else f"{value:.2f} ({ratio(value, cpu(tampah, case))})"

    yield from table(
        ("server", *cases), ((peer, *(cell(item, case) for case in cases)) for peer, item in figures.items())
    )


def _case(figures: dict[str, Figures], case: str) -> Iterator[str]:
    echo, tampah = (cpu(figures.get(peer, Figures()), case) for peer in ("echo", "tampah"))

    def row(peer: str, loads: list[Load]) -> tuple[str, ...]:
        value = median(load.cpu_us for load in loads)
        return (
            peer,
            spread([load.cpu_us for load in loads]),
            ratio(value, echo),
            ratio(value, tampah),
            number(median(load.qps for load in loads), 0),
            str(sum(load.lost for load in loads)),
            f"{max(load.failed for load in loads):.2f} %",
        )

    rows = [row(peer, item.loads[case]) for peer, item in figures.items() if item.loads.get(case)]
    rows.sort(key=lambda row: float(row[1].split()[0].replace(",", "")))
    head = ("server", "CPU µs (least–greatest)", "× echo", "× Tampah", "queries/s", "lost", "failed")
    yield from table(head, rows)


def _latency(figures: dict[str, Figures]) -> Iterator[str]:
    measured = {peer: item.latencies for peer, item in figures.items() if item.latencies}
    if not measured:
        return
    yield "### Latency at a low rate: the mix, milliseconds\n"
    yield from table(
        ("server", "p50", "p90", "p99", "p99.9", "worst", "sent", "lost", "failed"),
        (
            (
                peer,
                *(spread([get(item) for item in items], 3) for get in _PERCENTILES),
                number(sum(item.sent for item in items), 0),
                str(sum(item.lost for item in items)),
                str(sum(item.failed for item in items)),
            )
            for peer, items in measured.items()
        ),
    )


_PERCENTILES: tuple[Callable[[Latency], float], ...] = (
    lambda item: item.p50,
    lambda item: item.p90,
    lambda item: item.p99,
    lambda item: item.p999,
    lambda item: item.worst,
)


def _start(figures: dict[str, Figures], size: int) -> Iterator[str]:
    yield "### Start, memory, reload\n"

    def row(peer: str, item: Figures) -> tuple[str, ...]:
        reloads = [reload.latency for reload in item.reloads]
        memory = median(item.memory)
        return (
            peer,
            spread(item.starts),
            spread([octets / 2**20 for octets in item.memory], 1),
            number(None if memory is None else memory / size, 1),
            number(None if not item.peaks else max(item.peaks) / 2**20, 1),
            number(None if not item.memory_used else statistics.median(item.memory_used) / 2**20, 1),
            spread([reload.seconds for reload in item.reloads]),
            number(median(latency.p99 for latency in reloads), 3),
            str(sum(latency.lost for latency in reloads)) if reloads else "—",
        )

    head = (
        "server",
        "start s",
        "memory MiB",
        "octets a name",
        "peak MiB",
        "used MiB",
        "reload s",
        "p99 ms meanwhile",
        "lost meanwhile",
    )
    yield from table(head, (row(peer, item) for peer, item in figures.items() if peer != "echo"))
    for peer, item in figures.items():
        if item.warm_starts:
            yield f"{peer} from the index it compiled before: {spread(item.warm_starts)} s to the first answer.\n"
        if item.files:
            whole, mapped = (statistics.median(octets) / size for octets in (item.files, item.mapped))
            yield f"{peer}: {whole:.1f} octets a name on disk, of which workers map {mapped:.1f}.\n"
        if item.small_reloads:
            seconds = spread([reload.seconds for reload in item.small_reloads])
            p99 = number(median(reload.latency.p99 for reload in item.small_reloads), 3)
            lost = sum(reload.latency.lost for reload in item.small_reloads)
            yield (
                f"{peer}, a change of a small list (10,000 names, or a tenth) beside the large one: "
                f"{seconds} s, p99 meanwhile {p99} ms, {lost} lost.\n"
            )


# -- README ---------------------------------------------------------------------------------------------------------------
_TITLES = {
    "echo": "echo in C, the kernel's floor",
    "tampah": "Tampah",
    "pdns-recursor": "PowerDNS Recursor",
    "knot-resolver": "Knot Resolver",
    "unbound": "Unbound",
    "unbound-rpz": "Unbound (RPZ)",
    "bind9": "BIND (RPZ)",
}
_HEAD = ("server", "blocked", "cached", "20 % blocked", "miss", "TCP")


def readme_table(described: Sequence[tuple[str, str]], figures: dict[str, Figures]) -> list[str]:
    """The table that README shows of one size: CPU microseconds an answer, in brackets how many times Tampah's."""
    versions, tampah = dict(described), figures.get("tampah", Figures())

    def row(peer: str, item: Figures) -> tuple[str, ...]:
        version = re.search(r"\d+\.\d+", versions.get(peer, "")) if peer not in ("echo", "tampah") else None
        cells = [_TITLES.get(peer, peer) + (f" {version[0]}" if version else "")]
        for case in LOADS:
            value = cpu(item, case)
            times = ratio(value, cpu(tampah, case))
            cells.append("" if value is None else f"{value:.1f}" if peer == "tampah" else f"{value:.1f} ({times})")
        return tuple(f"**{cell}**" if cell and peer == "tampah" else cell for cell in cells)

    shown = [(peer, item) for peer, item in figures.items() if peer != "tampah-2" and item.loads]
    shown.sort(key=lambda entry: cpu(entry[1], "mix") or cpu(entry[1], "blocked") or 0)
    shown.sort(key=lambda entry: ("echo", "tampah").index(entry[0]) if entry[0] in ("echo", "tampah") else 2)
    return list(table(_HEAD, (row(*entry) for entry in shown)))


def put_into_readme(readme: Path, described: Sequence[tuple[str, str]], sizes: dict[int, dict[str, Figures]]) -> None:
    """Put the table of the first size in the place of the one in README. ValueError if there is none to replace."""
    lines = readme.read_text().split("\n")
    try:
        start = next(place for place, line in enumerate(lines) if line.startswith(f"| {_HEAD[0]} | {_HEAD[1]} "))
    except StopIteration:
        raise ValueError(f"{readme}: no table of servers") from None
    end = next(place for place in range(start, len(lines) + 1) if place == len(lines) or not lines[place])
    made = readme_table(described, next(iter(sizes.values())))
    readme.write_text("\n".join([*lines[:start], *made[:-1], *lines[end:]]))


def _notes(figures: dict[str, Figures]) -> Iterator[str]:
    for peer, item in figures.items():
        for note in dict.fromkeys((*([item.unfit] if item.unfit else []), *item.notes)):
            yield f"- {peer}: {note}"
    yield ""


def _panels(sizes: dict[int, dict[str, Figures]]) -> Iterator[chart.Panel]:
    for size, figures in sizes.items():
        for case, title in LOADS.items():
            bars = [(peer, value) for peer, item in figures.items() if (value := cpu(item, case)) is not None]
            if bars:
                bars.sort(key=lambda bar: bar[1])
                yield chart.Panel(f"{title.partition(':')[0]}, {size:,} names", bars)
