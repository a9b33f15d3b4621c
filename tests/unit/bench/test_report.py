"""What the report says of figures, and that its chart is sound."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import report, targets
from tests.bench.measure import Figures, Latency, Load, Reload, summarise


def _load(cpu: float, *, lost: int = 0, others: float = 0.0) -> Load:
    return Load(qps=100_000, cpu_us=cpu, lost=lost, rcodes={"NOERROR": 99.0, "SERVFAIL": 1.0}, others=others)


def _write(folder: Path, figures: dict[str, Figures]) -> str:
    report.write(folder, [("Machine", "an abacus")], ["--seconds", "1"], {1000: figures})
    return (folder / "report.md").read_text()


def test_caveats_come_first_ratios_are_of_medians_and_the_way_to_repeat_it_comes_last(tmp_path: Path) -> None:
    text = _write(
        tmp_path,
        {
            "echo": Figures(loads={"blocked": [_load(5), _load(4), _load(9)]}),
            "tampah": Figures(loads={"blocked": [_load(6, lost=1), _load(7), _load(6)]}),
            "slow<&>": Figures(loads={"blocked": [_load(12), _load(12), _load(12)]}),
        },
    )
    assert "| tampah | 6.00 (6.00–7.00) | 1.20 | 1.00 | 100,000 | 1 | 1.00 % |" in text
    assert "| slow<&> | 12.00 (12.00–12.00) | 2.40 | 2.00 |" in text
    assert (
        text.index("abacus") < text.index("Before you read") < text.index("| tampah | 6.00") < text.index("repeat it")
    )
    assert "make bench ARGS='--seconds 1'" in text


def test_what_was_not_measured_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    figures = Figures(unfit="took more than 5 s", notes=["reload: no"])
    text = _write(tmp_path, {"bind9": figures, "tampah": Figures(loads={"miss": [_load(3)]})})
    assert "| bind9 | — |" in text
    assert "- bind9: took more than 5 s" in text
    assert "- bind9: reload: no" in text


def test_a_disturbed_machine_is_told(tmp_path: Path) -> None:
    text = _write(tmp_path, {"tampah": Figures(loads={"mix": [_load(3, others=0.4), _load(3, others=0.01)]})})
    assert "40.0% at worst; 1 of 2 runs" in text


def test_reloads_and_starts(tmp_path: Path) -> None:
    latency = Latency(sent=10, lost=2, failed=0, p50=0.1, p90=0.2, p99=0.3, p999=0.4, worst=0.5)
    figures = Figures(
        starts=[1.0],
        warm_starts=[0.25],
        memory=[50_000],
        memory_used=[60_000],
        peaks=[3 << 20, 2 << 20],
        files=[20_000],
        mapped=[15_000],
        reloads=[Reload(2.0, latency)],
        small_reloads=[Reload(0.5, latency)],
        latencies=[latency],
    )
    text = _write(tmp_path, {"tampah": figures})
    assert "| tampah | 1.00 | 0.0 | 50.0 | 3.0 | 0.1 | 2.00 | 0.300 | 2 |" in text
    assert "20.0 octets a name on disk, of which workers map 15.0" in text
    assert "compiled before: 0.25 s" in text
    assert "0.50 s, p99 meanwhile 0.300 ms, 2 lost" in text


def _verdicts(sizes: dict[int, dict[str, Figures]]) -> dict[str, tuple[str, str]]:
    return {target.text: (target.found, target.verdict) for target in targets.judge(sizes)}


def test_targets_are_judged_by_medians_and_what_is_missing_is_said() -> None:
    figures = {
        "echo": Figures(loads={"blocked": [_load(5)], "mix": [_load(4)]}),
        "tampah": Figures(
            loads={"blocked": [_load(6), _load(6.5), _load(9)], "mix": [_load(6, lost=2)]},
            warm_starts=[0.2, 0.9, 0.3],
        ),
    }
    found = _verdicts({1000: figures})
    assert found["1,000 names, blocked: CPU against echo: at most 1.3"] == ("1.30", "met")
    assert found["1,000 names, mix: CPU against echo: at most 1.3"] == ("1.50", "**not met**")
    assert found["1,000 names, miss: CPU against unbound: at most 0.3"] == ("—", "not measured")
    assert found["1,000 names: lost under load: at most 0 queries"] == ("2 queries", "**not met**")
    assert found["1,000 names: start from the compiled index to the first answer: at most 0.5 s"] == ("0.3 s", "met")
    assert not any("octets" in text for text in found)  # promised of large lists


def test_targets_of_latency_and_of_two_sizes() -> None:
    def latency(p99: float, lost: int = 0) -> Latency:
        return Latency(sent=10, lost=lost, failed=0, p50=0.1, p90=0.2, p99=p99, p999=1, worst=1)

    other = Figures(latencies=[latency(0.4)], reloads=[Reload(3.0, latency(9.0))])
    small = Figures(loads={"miss": [_load(10)]}, latencies=[latency(0.3)], reloads=[Reload(1.0, latency(0.5, lost=1))])
    large = Figures(loads={"miss": [_load(12)]}, starts=[20.0], memory=[250_000_000], files=[1 << 28], mapped=[1 << 27])
    found = _verdicts(
        {1_000_000: {"tampah": small, "unbound": other}, 10_000_000: {"tampah": large, "tampah-2": large}}
    )
    assert found["1,000,000 names: p99 at a low rate against unbound: at most 1"] == ("0.75", "met")
    assert found["1,000,000 names: p99 while a list is reloaded against unbound at rest: at most 1"][1] == "**not met**"
    assert (
        found["1,000,000 names: p99 while a list is reloaded against unbound while it reloads: at most 1"][1] == "met"
    )
    assert found["1,000,000 names: lost at a low rate and during reloads: at most 0 queries"][1] == "**not met**"
    assert found["10,000,000 names against 1,000,000, miss: CPU: at most 1.1"] == ("1.20", "**not met**")
    assert found["10,000,000 names: memory (PSS) of all processes, two workers, a name: at most 26 octets"][1] == "met"
    assert found["10,000,000 names: compiled from text, a million names: at most 2.5 s"] == ("2 s", "met")


def test_the_table_of_the_readme_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n\n| server | blocked | cached |\n|---|---:|\n| old | 1 |\n\nafter\n")
    figures = {
        "bind9": Figures(loads={"blocked": [_load(12)], "mix": [_load(12)]}),
        "echo": Figures(loads={"blocked": [_load(4)]}),
        "tampah": Figures(loads={"blocked": [_load(6)], "mix": [_load(6)]}),
        "dnsdist": Figures(unfit="no"),
    }
    report.put_into_readme(readme, [("bind9", "9.18.2-deb")], {1000: figures})
    lines = readme.read_text().split("\n")
    assert lines[:2] == ["before", ""] and lines[-3:] == ["", "after", ""]
    assert lines[4:7] == [
        "| echo in C, the kernel's floor | 4.0 (0.67) |  |  |  |  |",
        "| **Tampah** | **6.0** |  | **6.0** |  |  |",
        "| BIND (RPZ) 9.18 | 12.0 (2.00) |  | 12.0 (2.00) |  |  |",
    ]
    readme.write_text("no table\n")
    with pytest.raises(ValueError, match="no table of servers"):
        report.put_into_readme(readme, [], {1000: figures})


def test_the_chart_is_xml_with_a_bar_for_each_figure_and_the_data_is_json(tmp_path: Path) -> None:
    _write(tmp_path, {"echo": Figures(loads={"mix": [_load(4)]}), "slow<&>": Figures(loads={"mix": [_load(8)]})})
    root = ElementTree.fromstring((tmp_path / "chart.svg").read_text())
    bars = [float(node.get("width", "0")) for node in root.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert abs(bars[1] / bars[0] - 2) < 0.01
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"slow<&>", "echo", "8.0", "4.0"} <= set(texts)
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["sizes"]["1000"]["echo"]["loads"]["mix"][0]["cpu_us"] == 4


def test_lost_queries_count_as_the_slowest() -> None:
    latency = summarise([(0.0, number / 1000, 0) for number in range(1, 100)] + [(0.0, -1.0, 0), (0.0, 0.001, 2)])
    assert (latency.sent, latency.lost, latency.failed) == (101, 1, 1)
    assert latency.worst == 2000.0
    assert latency.p99 == 99.0
    assert 48 <= latency.p50 <= 51
