"""Response policy zones through real workers, where an answer takes more than the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.blackbox.harness import Server
from tests.fakes import Act, FakeUpstream, address_of

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


ZONES = {
    "example": ("ns.registry.example",),
    "bad.example": ("ns1.host.example", "ns2.host.example"),
    "good.example": ("ns.good.example",),
    "deep.good.example": ("ns9.host.example",),
}


@pytest.mark.parametrize("rule", ["*.host.example.rpz-nsdname CNAME .", "NSIP"])
def test_name_servers_are_looked_up_where_a_list_wants_it(tmp_path: Path, rule: str) -> None:  # 30
    if rule == "NSIP":
        addresses = [address_of(f"{server}.host.example") for server in ("ns1", "ns9")]
        rule = "\n".join(f"32.{'.'.join(reversed(each.split('.')))}.rpz-nsip CNAME ." for each in addresses)
    config = zone(tmp_path, rule, ns_triggers=True)
    with FakeUpstream(zones=ZONES) as upstream, Server(tmp_path, config, upstream=upstream.port) as server:
        for tcp in (False, True):
            for _ in range(2):
                for name in ("bad.example", "www.bad.example", "a.b.bad.example", "x.deep.good.example"):
                    assert server.rcode(name, tcp=tcp) == "NXDOMAIN", name
                for name in ("good.example", "www.good.example", "other.example"):
                    assert server.addresses(name, tcp=tcp) == [address_of(name)]
        upstream.on("alias.good.example", Act(records=("alias.good.example. 60 IN CNAME bad.example.",)))
        assert server.rcode("alias.good.example") == "NXDOMAIN"
        assert upstream.count("a.b.bad.example") <= 4, "each worker asks once, for A and NS"
        said = server.tampah_json(
            "explain", "bad.example", "--server", "ns1.host.example", "--server", addresses_of(rule)
        )
        assert (said["action"], said["list"], said["matches"][-1]["wins"]) == ("nxdomain", "zone", True)
        config["lists"][0]["ns_triggers"] = False
        server.configure(**config)
        server.tampah("reload").check_returncode()
        assert server.addresses("bad.example") == [address_of("bad.example")]


def addresses_of(rule: str) -> str:
    """The address that a rule for the address of a name server is about, any other for other rules."""
    return ".".join(reversed(rule.split(".")[1:5])) if "rpz-nsip" in rule else "192.0.2.1"


def test_a_name_whose_servers_nobody_tells_is_answered_all_the_same(tmp_path: Path) -> None:
    config = zone(tmp_path, "*.host.example.rpz-nsdname CNAME .", ns_triggers=True)
    with FakeUpstream(zones=ZONES) as upstream, Server(tmp_path, config, upstream=upstream.port) as server:
        upstream.on("www.bad.example", Act(), Act(rcode=2))
        upstream.on("bad.example", Act(rcode=2))
        assert server.addresses("www.bad.example", tcp=True) == [address_of("www.bad.example")]
