"""What workers count comes out of a scrape: summed, named and bounded."""

from __future__ import annotations

import os
import time

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from resolver import counters as layout
from resolver import metrics
from resolver.facts import Facts, ListFacts, Source, SourceFacts
from resolver.vocabulary import Action, RRType, Transport

FACTS = Facts(
    generation=7,
    lists=[ListFacts("ads", "advertising", 0, 100, 2), ListFacts("national", "censored", 3, 11, 0)],
    servers=["udp://9.9.9.9:53", "udp://1.1.1.1:53"],
    processes={"supervisor": os.getpid(), "gone": 2**22 - 1},
    worker_restarts=2,
    reloads=5,
    reload_failures=1,
    reload_duration=0.5,
    last_success=1.7e9,
)


class Worker:
    """One worker's counters, written as the engine and the pool do."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(layout.SIZE))
        self._words = self.memory.cast("Q")

    def add(self, section: str, at: int, count: int = 1) -> None:
        assert at < layout.SECTIONS[section].length
        self._words[layout.SECTIONS[section].start + at] += count


def _scrape(*workers: Worker, facts: Facts = FACTS) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name → label values in the order of their names → value."""
    registry = CollectorRegistry()
    registry.register(metrics.TampahCollector(Source([worker.memory for worker in workers], facts)))
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(dict(sorted(sample.labels.items())).values())] = sample.value
    return samples


def _query(transport: Transport, slot: int) -> int:
    return transport * layout.TYPE_SLOTS + slot


def test_queries_are_summed_over_workers_by_transport_and_type() -> None:
    first, second = Worker(), Worker()
    first.add("queries", _query(Transport.UDP, RRType.A), 3)
    second.add("queries", _query(Transport.UDP, RRType.A), 4)
    second.add("queries", _query(Transport.TCP, RRType.HTTPS))
    second.add("queries", _query(Transport.UDP, layout.TYPE_CAA))
    second.add("queries", _query(Transport.UDP, layout.TYPE_ANY))
    second.add("queries", _query(Transport.UDP, layout.TYPE_OTHER))
    second.add("queries", _query(Transport.UDP, 54))  # no type has this number
    assert _scrape(first, second)["tampah_queries_total"] == {
        ("udp", "A"): 7,
        ("tcp", "HTTPS"): 1,
        ("udp", "CAA"): 1,
        ("udp", "ANY"): 1,
        ("udp", "other"): 1,
        ("udp", "TYPE54"): 1,
    }


def test_answers_name_the_list_that_won_and_its_category() -> None:
    worker = Worker()
    worker.add("answers", Action.ADDRESS * layout.LIST_SLOTS + 3, 5)
    worker.add("answers", Action.TCP_ONLY * layout.LIST_SLOTS + 0, 1)
    worker.add("answers", Action.FORWARD * layout.LIST_SLOTS + layout.NO_LIST, 9)
    worker.add("answers", Action.NXDOMAIN * layout.LIST_SLOTS + 77, 2)  # lists that have left the config
    worker.add("answers", Action.NXDOMAIN * layout.LIST_SLOTS + 78, 2)
    assert _scrape(worker)["tampah_answers_total"] == {
        ("address", "censored", "national"): 5,
        ("tcp-only", "advertising", "ads"): 1,
        ("forward", "", ""): 9,
        ("nxdomain", "", ""): 4,
    }
    assert metrics.hits(Source([worker.memory], FACTS)) == {"national": 5, "ads": 1, "": 13}


def test_cache_engine_and_responses() -> None:
    worker = Worker()
    for at in range(8):
        worker.add("cache", at, at + 1)
        worker.add("engine", at, at + 1)
    worker.add("responses", 3, 6)
    worker.add("responses", 23, 1)
    samples = _scrape(worker)
    assert samples["tampah_cache_hits_total"][()] == 1
    assert samples["tampah_cache_misses_total"][()] == 2
    assert samples["tampah_cache_evictions_total"][()] == 4
    assert samples["tampah_cache_entries"][()] == 5
    assert samples["tampah_cache_bytes"][()] == 6
    assert samples["tampah_cache_stale_answers_total"][()] == 8
    assert samples["tampah_malformed_queries_total"][()] == 1
    assert samples["tampah_dropped_queries_total"][()] == 7
    assert samples["tampah_rate_limited_queries_total"][()] == 8
    assert samples["tampah_responses_total"] == {("NXDOMAIN",): 6, ("BADCOOKIE",): 1}


def test_upstream_latency_is_a_histogram_in_seconds() -> None:
    worker = Worker()
    second = layout.UPSTREAM_STRIDE
    for at, count in (
        (23, 1),
        (25, 2),
        (28, 1),
        (0, 10),
        (1, 7),
        (7, 2_500_000),
        (8, 4),
        (9, 3),
        (8 + layout.LATENCY_BUCKETS - 1, 2),
        (5, 6),
        (6, 2),
        (22, 5),
    ):
        worker.add("upstream", second + at, count)
    samples = _scrape(worker)
    server = "udp://1.1.1.1:53"
    assert samples["tampah_upstream_queries_total"] == {("udp://9.9.9.9:53",): 0, (server,): 10}
    assert samples["tampah_upstream_failures_total"][(server,)] == 7
    kinds = {kind: value for (kind, name), value in samples["tampah_upstream_faults_total"].items() if name == server}
    assert kinds == {"network": 4, "error": 1, "certificate": 0, "handshake": 2, "protocol": 0, "lookup": 0}
    assert samples["tampah_upstream_answers_total"][(server,)] == 9
    assert samples["tampah_upstream_connections_total"][(server,)] == 6
    assert samples["tampah_upstream_open_connections"][(server,)] == 2
    assert samples["tampah_upstream_hedges_total"][(server,)] == 5
    assert samples["tampah_upstream_benched_workers"][(server,)] == 1
    buckets = {
        bound: value
        for (bound, name), value in samples["tampah_upstream_latency_seconds_bucket"].items()
        if name == server
    }
    assert (buckets["0.0005"], buckets["0.001"], buckets["5.0"], buckets["+Inf"]) == (4, 7, 7, 9)
    assert samples["tampah_upstream_latency_seconds_count"][(server,)] == 9
    assert samples["tampah_upstream_latency_seconds_sum"][(server,)] == pytest.approx(2.5)


def test_how_fetching_goes_by_list() -> None:
    sources = {
        "ads": SourceFacts(copied=1e9, checked=time.time() - 60, octets=300, outcomes={"changed": 2, "unchanged": 5}),
        "new": SourceFacts(failures=3, outcomes={"failed": 3}),
    }
    samples = _scrape(facts=Facts(sources=sources, helpers={"fetcher": os.getpid()}))
    assert samples["tampah_source_fetches_total"] == {
        ("ads", "changed"): 2,
        ("ads", "unchanged"): 5,
        ("ads", "failed"): 0,
        ("new", "changed"): 0,
        ("new", "unchanged"): 0,
        ("new", "failed"): 3,
    }
    assert samples["tampah_source_failures"] == {("ads",): 0, ("new",): 3}
    assert samples["tampah_source_received_bytes_total"] == {("ads",): 300, ("new",): 0}
    assert samples["tampah_source_copy_timestamp_seconds"] == {("ads",): 1e9}  # what never came has no age
    assert 60 <= samples["tampah_source_age_seconds"].pop(("ads",)) < 120
    assert samples["tampah_source_age_seconds"] == {}
    assert samples["tampah_process_resident_memory_bytes"][("anonymous", "fetcher")] > 1 << 20


def test_what_the_supervisor_knows() -> None:
    samples = _scrape()
    assert samples["tampah_generation"][()] == 7
    assert samples["tampah_list_names"] == {("ads",): 100, ("national",): 11}
    assert samples["tampah_list_refused_lines"] == {("ads",): 2, ("national",): 0}
    assert samples["tampah_reload_failures_total"][()] == 1
    assert samples["tampah_reload_last_success_timestamp_seconds"][()] == 1.7e9
    assert samples["tampah_worker_restarts_total"][()] == 2
    memory = samples["tampah_process_resident_memory_bytes"]
    assert memory[("anonymous", "supervisor")] > 1 << 20
    assert not any(process == "gone" for _, process in memory)
    assert samples["tampah_process_cpu_seconds_total"][("supervisor",)] > 0


def test_every_name_is_ours_and_counters_end_in_total() -> None:
    worker = Worker()
    registry = CollectorRegistry()
    registry.register(metrics.TampahCollector(Source([worker.memory], FACTS)))
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert family.name.startswith("tampah_"), family.name
        assert family.documentation
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name


def test_summary_is_the_same_numbers_as_plain_data() -> None:
    worker = Worker()
    worker.add("queries", _query(Transport.UDP, RRType.A), 3)
    worker.add("queries", _query(Transport.TCP, RRType.A), 1)
    worker.add("answers", Action.ADDRESS * layout.LIST_SLOTS + 3, 4)
    worker.add("upstream", 0, 2)
    worker.add("upstream", 7, 3_000)
    worker.add("upstream", 8, 2)
    data = metrics.summary(Source([worker.memory], FACTS))
    assert data["queries"] == 4
    assert data["by_transport"] == {"udp": 3, "tcp": 1}
    assert data["by_type"] == {"A": 4}
    assert data["answers"] == [{"action": "address", "category": "censored", "list": "national", "count": 4}]
    assert data["upstream"][0] == {"server": "udp://9.9.9.9:53", "queries": 2, "failures": 0, "mean_latency": 0.0015}
    assert data["upstream"][1]["mean_latency"] is None


def test_durations_are_histograms_by_transport_and_way() -> None:
    first, second = Worker(), Worker()
    at = (Transport.TCP * len(layout.WAYS) + layout.WAYS.index("forwarded")) * layout.DURATION_STRIDE
    for worker in (first, second):
        worker.add("durations", at, 30_000)  # the sum
        worker.add("durations", at + 1 + layout.DURATION_BOUNDS.index(0.01), 2)
        worker.add("durations", at + layout.DURATION_STRIDE - 1)
    samples = _scrape(first, second)
    labels = ("tcp", "forwarded")
    assert samples["tampah_query_duration_seconds_sum"] == {labels: 0.06}
    assert samples["tampah_query_duration_seconds_count"] == {labels: 6}
    buckets = {key[0]: count for key, count in samples["tampah_query_duration_seconds_bucket"].items()}
    assert buckets["0.005"] == 0 and buckets["0.01"] == 4 == buckets["5.0"] and buckets["+Inf"] == 6


def test_records_are_counted() -> None:
    worker = Worker()
    worker.add("records", 0, 5)
    worker.add("records", 1, 2)
    samples = _scrape(worker)
    assert samples["tampah_query_records_total"][()] == 5
    assert samples["tampah_query_records_dropped_total"][()] == 2
