"""What `tampah diff` and the report of a reload tell of rules that are no names."""

from __future__ import annotations

from pathlib import Path

import yaml

from resolver.config.load import load
from resolver.lists.compile import build_generation
from resolver.lists.differences import files, generations
from resolver.lists.report import Report
from resolver.snapshot import put_in_force

HEAD = "$TTL 60\n@ SOA ns.z. root.z. 7 3600 600 86400 60\n@ NS localhost.\n"


def test_networks_and_patterns_of_two_files(tmp_path: Path) -> None:
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("x.example\n192.0.2.1\n198.51.100.0/24\n/^ad/\n")
    new.write_text("/^ad/\n2001:db8::/32\n192.0.2.1\nx.example\n")
    with files(old, new) as [found]:
        assert list(found.stream()) == [("-", "198.51.100.0/24"), ("+", "2001:db8::/32")]
    with files(new, new) as [found]:
        assert list(found.stream()) == []


def test_every_trigger_of_a_zone_between_generations(tmp_path: Path) -> None:
    zone, config = tmp_path / "zone.rpz", tmp_path / "config.yaml"
    listed = {"name": "zone", "source": "zone.rpz", "format": "rpz"}
    config.write_text(
        yaml.safe_dump({"lists": [listed], "guard": {"public_suffixes": "none", "grow": False, "shrink": False}})
    )

    def build(*lines: str) -> str:
        zone.write_text(HEAD + "".join(f"{line}\n" for line in lines))
        generation = build_generation(load(config))
        put_in_force(load(config).state_path, generation.number)
        [report] = Report.from_json(generation.report).lists
        return report.line()

    first = build("x.example CNAME .", "32.1.2.0.192.rpz-ip CNAME .", "32.9.0.0.10.rpz-client-ip CNAME .")
    assert first == "zone: 1 names (+1 −0), 1 addresses, 1 client addresses (+2 −0)"
    second = build(
        "x.example CNAME .",
        "32.1.2.0.192.rpz-ip CNAME *.",
        "ns.host.example.rpz-nsdname CNAME .",
        "24.0.100.51.198.rpz-nsip CNAME .",
    )
    assert second.endswith(" (+3 −2)")
    with generations(load(config).state_path, 0, 0) as [found]:
        assert list(found.stream()) == [
            ("~", "192.0.2.1/32"),
            ("-", "client 10.0.0.9/32"),
            ("+", "name server ns.host.example"),
            ("+", "name server 198.51.100.0/24"),
        ]
        assert found.first(1)["added"] == {"count": 2, "names": ["name server ns.host.example"]}
