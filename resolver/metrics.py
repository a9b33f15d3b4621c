"""What the server counts, as Prometheus metrics and as the plain data of `tampah stats`.

Workers count in shared memory (counters.py states the layout) and the supervisor knows the rest; nothing is kept here.
A scrape sums all workers, so a counter goes on where a worker that died left it. Label values come from enums, from the
config and from lists' names alone, never from a query: the number of series is bounded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dns.rcode
import dns.rdatatype
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from resolver import counters as layout
from resolver.facts import Facts, ListFacts, Source
from resolver.vocabulary import Action, Transport

_CACHE_COUNTERS = ((0, "hits"), (1, "misses"), (2, "stores"), (3, "evictions"), (7, "stale_answers"))
_CACHE_ENTRIES, _CACHE_BYTES, _CACHE_SIZE = 4, 5, 6
_ENGINE = (
    ("malformed_queries", "Packets that were no query."),
    ("refused_queries", "Queries of clients outside of allow_from."),
    ("truncated_answers", "Answers over UDP that were cut short with TC."),
    ("punts", "Queries that the engine handed up."),
    ("send_failures", "Answers that the kernel did not take."),
    ("receive_rounds", "Rounds of receiving; queries by rounds is the batch size."),
    ("dropped_queries", "Queries left without an answer on purpose."),
    ("rate_limited_queries", "Queries beyond their client's rate limit."),
)
_RECORDS = (
    ("query_records", "Records of queries that workers wrote for whoever counts them."),
    ("query_records_dropped", "Records of queries that found no room: their reader is too slow, or gone."),
)
_UPSTREAM = (
    ("queries", "Questions sent."),
    ("failures", "Questions that got no usable answer."),
    ("timeouts", "Questions that got no answer in time."),
    ("bad_answers", "Answers that did not fit their question."),
    ("tcp_queries", "Questions sent over connections."),
    ("connections", "Connections that were opened."),
)
_OPEN_CONNECTIONS, _HEDGES, _BENCHED = 6, 22, 28
_FAULTS = (  # of the failures, behind the hedges; what is in none of them is the network's
    (23, "error"),  # SERVFAIL, REFUSED and the like
    (24, "certificate"),
    (25, "handshake"),
    (26, "protocol"),
    (27, "lookup"),
)
_LATENCY_SUM = 7
_LATENCY_FIRST = 8


def type_name(slot: int) -> str:
    """The query type of a slot, as the zone-file word for it."""
    special = {layout.TYPE_ANY: "ANY", layout.TYPE_CAA: "CAA"}
    return special.get(slot) or (dns.rdatatype.to_text(dns.rdatatype.RdataType.make(slot)) if slot < 66 else "other")


def action_name(action: int) -> str:
    """An action in the config's spelling."""
    return Action(action).name.lower().replace("_", "-") if action in set(Action) else f"action-{action}"


def rcode_name(rcode: int) -> str:
    """A response code in its registered spelling."""
    return dns.rcode.to_text(dns.rcode.Rcode.make(rcode)) if rcode < layout.RCODES else str(rcode)


def queries(totals: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str, int]]:
    """(transport, type, count) of every query type that was asked."""
    for at, count in enumerate(totals["queries"]):
        if count:
            transport, slot = divmod(at, layout.TYPE_SLOTS)
            yield Transport(transport).name.lower(), type_name(slot), count


def answers(totals: Mapping[str, Sequence[int]], lists: Iterable[ListFacts]) -> Iterator[tuple[str, str, str, int]]:
    """(action, category, list, count); the list is "" where none decided or it has left the config."""
    by_slot = {facts.slot: facts for facts in lists}
    by_slot[layout.REBINDING_SLOT] = ListFacts("rebinding", "", layout.REBINDING_SLOT, 0, 0)
    by_slot[layout.OVERLAY_SLOT] = ListFacts("overlay", "", layout.OVERLAY_SLOT, 0, 0)
    merged: dict[tuple[str, str, str], int] = {}
    for at, count in enumerate(totals["answers"]):
        if count:
            action, slot = divmod(at, layout.LIST_SLOTS)
            facts = by_slot.get(slot)
            labels = (action_name(action), facts.category if facts else "", facts.name if facts else "")
            merged[labels] = merged.get(labels, 0) + count
    for (action_label, category, name), count in sorted(merged.items()):
        yield action_label, category, name, count


class TampahCollector(Collector):
    """Yields every metric at a scrape."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        totals, facts = self._source.totals(), self._source.facts
        yield from _traffic(totals, facts)
        yield from _durations(totals["durations"])
        yield from _cache(totals["cache"])
        yield from _upstream(totals["upstream"], facts.servers)
        yield from _lists(facts)
        yield from _sources(facts)
        yield from _groups(facts)
        yield from _zones(facts)
        yield from _certificate(facts)
        yield from _server(facts)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"tampah_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"tampah_{name}", text, value=value)


def _traffic(totals: Mapping[str, Sequence[int]], facts: Facts) -> Iterator[Metric]:
    asked = CounterMetricFamily("tampah_queries", "Queries received.", labels=("transport", "type"))
    for transport, kind, count in queries(totals):
        asked.add_metric((transport, kind), count)
    yield asked
    decided = CounterMetricFamily(
        "tampah_answers", "Queries by what was done and the list that won.", labels=("action", "category", "list")
    )
    for action, category, name, count in answers(totals, facts.lists):
        decided.add_metric((action, category, name), count)
    yield decided
    responses = CounterMetricFamily("tampah_responses", "Answers sent, by response code.", labels=("rcode",))
    for rcode, count in enumerate(totals["responses"]):
        if count:
            responses.add_metric((rcode_name(rcode),), count)
    yield responses
    shadow = CounterMetricFamily(
        "tampah_shadow_answers", "Queries that a list would have decided that only counts.", labels=("list",)
    )
    for name, count in _shadow_hits(totals, facts.lists).items():
        shadow.add_metric((name,), count)
    yield shadow
    verdicts = CounterMetricFamily(
        "tampah_dnssec_verdicts",
        "Answers of upstream that were checked, by what they were found to be.",
        labels=("verdict",),
    )
    for verdict, count in zip(("secure", "insecure", "bogus", "indeterminate"), totals["dnssec"], strict=False):
        verdicts.add_metric((verdict,), count)
    yield verdicts
    for (name, text), count in zip(_ENGINE, totals["engine"], strict=False):
        yield _counter(name, text, count)
    for (name, text), count in zip(_RECORDS, totals["records"], strict=False):
        yield _counter(name, text, count)


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """A histogram as Prometheus has it: each bucket holds those below it too. The last count is of all beyond `bounds`."""
    below, buckets = 0, []
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    return buckets


def _durations(section: Sequence[int]) -> Iterator[Metric]:
    family = HistogramMetricFamily(
        "tampah_query_duration_seconds",
        "Time from a query to its answer; at_once: from cache and lists, by batches; punted: handed up by the engine.",
        labels=("transport", "way"),
    )
    for at in range(0, len(section), layout.DURATION_STRIDE):
        total, *counts = section[at : at + layout.DURATION_STRIDE]
        if any(counts):
            transport, way = divmod(at // layout.DURATION_STRIDE, len(layout.WAYS))
            labels = (Transport(transport).name.lower(), layout.WAYS[way])
            family.add_metric(labels, _buckets(layout.DURATION_BOUNDS, counts), total / 1e6)
    yield family


def _cache(section: Sequence[int]) -> Iterator[Metric]:
    for at, name in _CACHE_COUNTERS:
        yield _counter(f"cache_{name}", f"Cache: {name.replace('_', ' ')}.", section[at])
    yield _gauge("cache_entries", "Answers in the cache.", section[_CACHE_ENTRIES])
    yield _gauge("cache_bytes", "Octets of the cache in use.", section[_CACHE_BYTES])
    yield _gauge("cache_size_bytes", "Octets that the cache may use.", section[_CACHE_SIZE])


def _upstream(section: Sequence[int], servers: Sequence[str]) -> Iterator[Metric]:
    families = [CounterMetricFamily(f"tampah_upstream_{name}", text, labels=("server",)) for name, text in _UPSTREAM]
    latency = HistogramMetricFamily(
        "tampah_upstream_latency_seconds", "Time from a question to its answer.", labels=("server",)
    )
    answers = CounterMetricFamily(
        "tampah_upstream_answers", "Answers that came, whatever they say.", labels=("server",)
    )
    hedges = CounterMetricFamily(
        "tampah_upstream_hedges", "Questions that it got because another server took its time.", labels=("server",)
    )
    faults = CounterMetricFamily("tampah_upstream_faults", "Failures by what broke.", labels=("server", "kind"))
    opened = GaugeMetricFamily("tampah_upstream_open_connections", "Connections that are open.", labels=("server",))
    benched = GaugeMetricFamily(
        "tampah_upstream_benched_workers",
        "Workers whose questions stay away from it until it answers.",
        labels=("server",),
    )
    for number, server in enumerate(servers[: layout.SERVERS]):
        values = section[number * layout.UPSTREAM_STRIDE : (number + 1) * layout.UPSTREAM_STRIDE]
        for family, value in zip(families, values, strict=False):
            family.add_metric((server,), value)
        counts = values[_LATENCY_FIRST : _LATENCY_FIRST + layout.LATENCY_BUCKETS]
        latency.add_metric((server,), _buckets(layout.LATENCY_BOUNDS, counts), values[_LATENCY_SUM] / 1e6)
        answers.add_metric((server,), sum(counts))
        hedges.add_metric((server,), values[_HEDGES])
        faults.add_metric((server, "network"), max(0, values[1] - sum(values[at] for at, _ in _FAULTS)))
        for at, kind in _FAULTS:
            faults.add_metric((server, kind), values[at])
        opened.add_metric((server,), values[_OPEN_CONNECTIONS])
        benched.add_metric((server,), values[_BENCHED])
    yield from families
    yield from (latency, answers, hedges, faults, opened, benched)


def _lists(facts: Facts) -> Iterator[Metric]:
    names = GaugeMetricFamily("tampah_list_names", "Names in force.", labels=("list",))
    refused = GaugeMetricFamily("tampah_list_refused_lines", "Lines that were no rule.", labels=("list",))
    held = GaugeMetricFamily(
        "tampah_list_held",
        "1: the list changed too much, its old version serves until somebody decides.",
        labels=("list",),
    )
    quarantined = GaugeMetricFamily(
        "tampah_list_quarantined",
        "Rules left out until somebody decides, as they would block protected names.",
        labels=("list",),
    )
    for item in facts.lists:
        names.add_metric((item.name,), item.names)
        refused.add_metric((item.name,), item.refused)
        held.add_metric((item.name,), item.held)
        quarantined.add_metric((item.name,), item.quarantined)
    yield from (names, refused, held, quarantined)


def _zones(facts: Facts) -> Iterator[Metric]:
    serial = GaugeMetricFamily("tampah_zone_serial", "Serial of the zone that a list is.", labels=("list",))
    transfers = CounterMetricFamily(
        "tampah_transfers",
        "Refreshes of zones; kind probe: no transfer came of it.",
        labels=("list", "kind", "outcome"),
    )
    seconds = CounterMetricFamily("tampah_transfer_seconds", "Time that transfers took.", labels=("list",))
    for name, source in facts.sources.items():
        if source.serial >= 0:
            serial.add_metric((name,), source.serial)
            seconds.add_metric((name,), source.transfer_seconds)
            for (kind, outcome), count in sorted(source.transfers.items()):
                transfers.add_metric((name, kind, outcome), count)
    yield serial
    yield transfers
    yield seconds


def _sources(facts: Facts) -> Iterator[Metric]:
    fetches = CounterMetricFamily(
        "tampah_source_fetches", "Attempts to fetch a list, by what came of them.", labels=("list", "outcome")
    )
    octets = CounterMetricFamily("tampah_source_received_bytes", "Octets of bodies received.", labels=("list",))
    failures = GaugeMetricFamily(
        "tampah_source_failures", "Failures since the last fetch that worked.", labels=("list",)
    )
    checked = GaugeMetricFamily(
        "tampah_source_checked_timestamp_seconds", "When the source last said what its list is.", labels=("list",)
    )
    copied = GaugeMetricFamily("tampah_source_copy_timestamp_seconds", "When the copy in force came.", labels=("list",))
    age = GaugeMetricFamily(
        "tampah_source_age_seconds", "How long ago the source last said what its list is.", labels=("list",)
    )
    for name, source in sorted(facts.sources.items()):
        for outcome in ("changed", "unchanged", "failed"):
            fetches.add_metric((name, outcome), source.outcomes.get(outcome, 0))
        octets.add_metric((name,), source.octets)
        failures.add_metric((name,), source.failures)
        if source.checked:
            checked.add_metric((name,), source.checked)
            age.add_metric((name,), max(0.0, time.time() - source.checked))
        if source.copied:
            copied.add_metric((name,), source.copied)
    yield from (fetches, octets, failures, checked, copied, age)


def _groups(facts: Facts) -> Iterator[Metric]:
    applies = GaugeMetricFamily("tampah_group_applies", "Whether a group's schedule lets it apply.", labels=("group",))
    paused = GaugeMetricFamily("tampah_group_paused", "Whether filtering is paused for a group.", labels=("group",))
    for group in facts.groups:
        applies.add_metric((group.name,), group.applies)
        paused.add_metric((group.name,), group.paused)
    lines = GaugeMetricFamily("tampah_client_file_lines", "Lines that name clients.", labels=("file",))
    refused = GaugeMetricFamily("tampah_client_file_refused_lines", "Lines that name no client.", labels=("file",))
    for file, (good, bad) in facts.client_files.items():
        lines.add_metric((file,), good)
        refused.add_metric((file,), bad)
    yield from (applies, paused, lines, refused)
    yield _gauge("pauses", "Pauses of filtering that last.", len(facts.pauses))
    yield _counter("client_maps", "Client maps put in force between reloads.", facts.client_maps)


def _certificate(facts: Facts) -> Iterator[Metric]:
    if facts.certificate_expiry:
        yield _gauge(
            "certificate_expiry_timestamp_seconds",
            "When the certificate of the encrypted listeners expires.",
            facts.certificate_expiry,
        )
        yield _gauge("certificate_expiry_seconds", "How long that is from now.", facts.certificate_expiry - time.time())
        yield _counter(
            "certificate_renewals", "Renewed certificates that were put in force.", facts.certificate_renewals
        )
        yield _counter(
            "certificate_failures",
            "Changed certificate files that were not taken, so that the old pair stayed.",
            facts.certificate_failures,
        )


def _server(facts: Facts) -> Iterator[Metric]:
    yield _gauge("generation", "Number of the generation in force.", facts.generation)
    yield _counter("reloads", "Generations put in force.", facts.reloads)
    yield _counter(
        "reload_failures",
        "Reloads in which config or a list was broken, so that it serves as before.",
        facts.reload_failures,
    )
    yield _gauge("reload_duration_seconds", "How long the last successful reload took.", facts.reload_duration)
    yield _gauge("reload_last_success_timestamp_seconds", "When the last reload succeeded.", facts.last_success)
    yield _counter("worker_restarts", "Workers that died and were replaced.", facts.worker_restarts)
    memory = GaugeMetricFamily(
        "tampah_process_resident_memory_bytes",
        "Resident memory; file: pages of mapped files, which all processes share.",
        labels=("process", "kind"),
    )
    cpu = CounterMetricFamily("tampah_process_cpu_seconds", "CPU time, user and system.", labels=("process",))
    for name, pid in {**facts.processes, **facts.helpers}.items():
        for kind, octets in _resident(pid).items():
            memory.add_metric((name, kind), octets)
        if (seconds := _cpu(pid)) is not None:
            cpu.add_metric((name,), seconds)
    yield memory
    yield cpu


def _resident(pid: int) -> dict[str, int]:
    """Resident octets of a process by kind; empty if it is gone."""
    found: dict[str, int] = {}
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return found
    for line in status.splitlines():
        for field_name, kind in (("RssAnon:", "anonymous"), ("RssFile:", "file"), ("RssShmem:", "shared")):
            if line.startswith(field_name):
                found[kind] = int(line.split()[1]) * 1024
    return found


def _cpu(pid: int) -> float | None:
    """Seconds of CPU time that a process has used; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(source: Source) -> dict[str, Any]:
    """The data of `tampah stats`."""
    totals, facts = source.totals(), source.facts
    cache, asked = totals["cache"], sum(totals["queries"])
    per_server = []
    for number, server in enumerate(facts.servers[: layout.SERVERS]):
        values = totals["upstream"][number * layout.UPSTREAM_STRIDE : (number + 1) * layout.UPSTREAM_STRIDE]
        answered = sum(values[_LATENCY_FIRST : _LATENCY_FIRST + layout.LATENCY_BUCKETS])
        mean = values[_LATENCY_SUM] / 1e6 / answered if answered else None
        per_server.append({"server": server, "queries": values[0], "failures": values[1], "mean_latency": mean})
    by_transport: dict[str, int] = {}
    by_type: dict[str, int] = {}
    for transport, kind, count in queries(totals):
        by_transport[transport] = by_transport.get(transport, 0) + count
        by_type[kind] = by_type.get(kind, 0) + count
    return {
        "generation": facts.generation,
        "queries": asked,
        "by_transport": by_transport,
        "by_type": by_type,
        "answers": [
            {"action": action, "category": category, "list": name, "count": count}
            for action, category, name, count in answers(totals, facts.lists)
        ],
        "shadow_answers": _shadow_hits(totals, facts.lists),
        "groups": {
            group.name: "paused" if group.paused else "applies" if group.applies else "not now"
            for group in facts.groups
        },
        "pauses": {
            target: time.strftime("until %Y-%m-%d %H:%M:%S", time.localtime(until))
            for target, until in facts.pauses.items()
        },
        "responses": {rcode_name(rcode): count for rcode, count in enumerate(totals["responses"]) if count},
        "cache": {
            **{name: cache[at] for at, name in _CACHE_COUNTERS},
            "entries": cache[_CACHE_ENTRIES],
            "bytes": cache[_CACHE_BYTES],
            "size_bytes": cache[_CACHE_SIZE],
        },
        "engine": {name: count for (name, _), count in zip(_ENGINE, totals["engine"], strict=False)},
        "upstream": per_server,
        "worker_restarts": facts.worker_restarts,
        "reloads": facts.reloads,
        "reload_failures": facts.reload_failures,
    }


def hits(source: Source) -> dict[str, int]:
    """List name → queries that it decided, allows included."""
    found: dict[str, int] = {}
    for _, _, name, count in answers(source.totals(), source.facts.lists):
        found[name] = found.get(name, 0) + count
    return found


def _shadow_hits(totals: Mapping[str, Sequence[int]], lists: Iterable[ListFacts]) -> dict[str, int]:
    counts = totals["shadow"]
    return {facts.name: count for facts in lists if facts.slot < layout.OVERLAY_SLOT and (count := counts[facts.slot])}


def shadow_hits(source: Source) -> dict[str, int]:
    """List name → queries that it would have decided where it only counts."""
    return _shadow_hits(source.totals(), source.facts.lists)
