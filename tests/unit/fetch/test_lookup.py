"""Where a source's host is: upstream knows, the system may, this server is never asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from resolver.config.model import Config
from resolver.fetch import lookup
from resolver.fetch.lookup import Lookup, LookupFailed
from tests.fakes import FakeUpstream, address_of
from tests.ports import free_port


def config(servers: list[str], **more: Any) -> Config:
    upstream = {"servers": servers, "timeout": "300ms", **more.pop("upstream", {})}
    return Config.model_validate({"upstream": upstream, **more})


def addresses(config: Config, host: str, resolv_conf: Path = Path("/missing")) -> list[str]:
    return [str(address) for address in asyncio.run(Lookup(config, resolv_conf).addresses(host))]


@pytest.fixture
def no_system(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The system knows no host; the list says which it was asked for."""
    asked: list[str] = []

    async def nothing(host: str) -> list[Any]:
        asked.append(host)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(lookup, "_ask_system", nothing)
    return asked


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_upstream_is_asked(no_system: list[str], scheme: str) -> None:
    with FakeUpstream() as fake:
        found = addresses(config([f"{scheme}://127.0.0.1:{fake.port}"]), "lists.example")
        assert address_of("lists.example") in found
        assert {seen.qtype for seen in fake.seen} == {1, 28}
        assert {seen.transport for seen in fake.seen} == {scheme}
    assert no_system == []


def test_another_server_is_asked_where_one_is_silent(no_system: list[str]) -> None:
    with FakeUpstream() as fake:
        servers = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{fake.port}"]
        assert address_of("lists.example") in addresses(config(servers), "lists.example")


def test_a_route_has_its_own_servers(no_system: list[str]) -> None:
    with FakeUpstream() as outside, FakeUpstream() as inside:
        routes = [{"zones": ["corp.example"], "servers": [f"127.0.0.1:{inside.port}"]}]
        both = config([f"127.0.0.1:{outside.port}"], upstream={"routes": routes})
        addresses(both, "lists.corp.example")
        assert (outside.seen, len(inside.seen)) == ([], 2)
        addresses(both, "notcorp.example")
        assert (len(outside.seen), len(inside.seen)) == (2, 2)


def test_addresses_need_no_look_up(no_system: list[str]) -> None:
    nobody = config([f"127.0.0.1:{free_port()}"])
    assert addresses(nobody, "192.0.2.1") == ["192.0.2.1"]
    assert addresses(nobody, "2001:db8::1") == ["2001:db8::1"]
    assert addresses(nobody, "localhost") == ["127.0.0.1", "::1"]


def test_where_nobody_knows_the_reasons_are_said(no_system: list[str]) -> None:
    with pytest.raises(LookupFailed, match=r"^lists\.example has no address: upstream: .*; the system: Name or"):
        addresses(config([f"127.0.0.1:{free_port()}"]), "lists.example")
    assert no_system == ["lists.example"]


@pytest.mark.parametrize(
    ("listen", "nameserver", "asks"),
    [
        ("127.0.0.1:53", "127.0.0.1", False),
        ("0.0.0.0:53", "192.168.1.1", False),  # which may be this machine's
        ("[::]:53", "192.168.1.1", False),
        ("127.0.0.1:5335", "127.0.0.1", True),
        ("127.0.0.1:53", "127.0.0.53", True),
    ],
)
def test_the_system_is_asked_unless_it_asks_this_server(
    no_system: list[str], tmp_path: Path, listen: str, nameserver: str, asks: bool
) -> None:
    (tmp_path / "resolv.conf").write_text(f"# made by hand\nsearch lan\nnameserver {nameserver}\n")
    nobody = config([f"127.0.0.1:{free_port()}"], listen={"dns": [listen]})
    with pytest.raises(LookupFailed):
        addresses(nobody, "lists.example", tmp_path / "resolv.conf")
    assert no_system == (["lists.example"] if asks else [])


def test_ipv4_and_ipv6_in_turn() -> None:
    from ipaddress import ip_address as ip

    found = [ip(text) for text in ("::1", "::2", "::3", "10.0.0.1", "::1", "10.0.0.2")]
    assert [str(address) for address in lookup._in_turn(found)] == ["10.0.0.1", "::1", "10.0.0.2", "::2", "::3"]
