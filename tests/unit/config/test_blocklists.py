"""The lists that come with the program: of every format one, and only names that nobody can own."""

from __future__ import annotations

import re
from pathlib import Path

import dns.rdatatype
import dns.zone
import pytest

from resolver.config.load import load

ROOT = Path(__file__).resolve().parents[3]
LISTS = sorted(path for path in (ROOT / "blocklists").iterdir() if path.suffix != ".md")
RESERVED = ("example", "test")  # RFC 6761
OWN = {"localhost", "ip6-localhost", "ip6-loopback", "hostmaster.example"}


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.name)
def test_a_list_names_nobody(path: Path) -> None:
    rules = [line for line in path.read_text().splitlines() if not re.match(r"\s*[#!;$]", line) and "SOA" not in line]
    names = re.findall(
        r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]+\b", "\n".join(re.sub(r"\s#.*|rpz-\w+\.", "", r) for r in rules)
    )
    assert names
    for name in names:
        assert name.rsplit(".", 1)[-1] in RESERVED or ".example." in f"{name}.", name


def test_the_configuration_loads_each_and_the_readme_tells_of_each() -> None:
    config = load(ROOT / "config.yaml")
    readme = (ROOT / "blocklists/README.md").read_text()
    assert sorted(file for each in config.lists for file in each.files()) == LISTS
    assert {each.format for each in config.lists} == {
        "auto",
        "hosts",
        "domains",
        "adblock",
        "dnsmasq",
        "unbound",
        "rpz",
    }
    assert all(f"`{path.name}`" in readme for path in LISTS)


def test_the_rpz_is_a_zone() -> None:
    zone = dns.zone.from_file(str(ROOT / "blocklists/phishing.rpz"), origin="phishing.rpz.example.")
    targets = {str(name): data.to_text() for name, _, data in zone.iterate_rdatas(dns.rdatatype.CNAME)}
    assert targets["bank-login.example"] == "."
    assert targets["*.parcel.example.net"] == "*."
    assert targets["help.bank-login.example"] == "rpz-passthru."
