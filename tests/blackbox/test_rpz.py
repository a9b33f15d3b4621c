"""Response policy zones through real workers, where an answer takes more than the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.blackbox.harness import Server
from tests.fakes import FakeUpstream, address_of

HEAD = "$TTL 3600\n@ SOA ns.zone. root.zone. 7 3600 600 86400 60\n@ NS localhost.\n"


def zone(folder: Path, *lines: str, **options: Any) -> dict[str, Any]:
    """The config of a zone with these lines, written to the folder."""
    (folder / "zone.rpz").write_text(HEAD + "\n".join(lines) + "\n")
    return {"lists": [{"name": "zone", "source": "zone.rpz", "format": "rpz", "max_ttl": "1m", **options}]}


def test_an_alias_comes_with_its_targets_addresses_and_the_zones_soa(tmp_path: Path) -> None:
    config = zone(tmp_path, "bad.example CNAME garden.example.", "*.wild.example CNAME *.garden.example.")
    with FakeUpstream() as upstream, Server(tmp_path, config, upstream=upstream.port) as server:
        for tcp in (False, True):
            for name, target in (("bad", "garden.example"), ("x.wild", "x.wild.example.garden.example")):
                answer = server.ask(f"{name}.example", tcp=tcp)
                alias, addresses = answer.answer
                assert alias.to_text() == f"{name}.example. 60 IN CNAME {target}."
                assert [item.to_text() for item in addresses] == [address_of(target)]
                [soa] = answer.additional
                assert soa.to_text() == "zone. 60 IN SOA ns.zone. root.zone. 7 3600 600 86400 60"
