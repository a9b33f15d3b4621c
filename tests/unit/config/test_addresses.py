from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.config import addresses
from resolver.config.addresses import Endpoint, Mac, Server


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:5335", Endpoint("127.0.0.1", 5335)),
        ("[::1]:5335", Endpoint("::1", 5335)),
        ("[0:0::0]:53", Endpoint("::", 53)),
        ("[fe80::1%eth0]:53", Endpoint("fe80::1%eth0", 53)),
    ],
)
def test_an_endpoint_is_read(text: str, endpoint: Endpoint) -> None:
    assert addresses.parse_endpoint(text) == endpoint
    assert addresses.parse_endpoint(str(endpoint)) == endpoint


def test_an_endpoint_knows_whether_it_is_every_address() -> None:
    assert Endpoint("0.0.0.0", 53).is_wildcard
    assert Endpoint("::", 53).is_wildcard
    assert not Endpoint("::1", 53).is_wildcard


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("9.9.9.9", Server("udp", "9.9.9.9", 53)),
        ("9.9.9.9:5353", Server("udp", "9.9.9.9", 5353)),
        ("2620:fe::fe", Server("udp", "2620:fe::fe", 53)),
        ("[2620:fe::fe]:5353", Server("udp", "2620:fe::fe", 5353)),
        ("udp://9.9.9.9", Server("udp", "9.9.9.9", 53)),
        ("tcp://9.9.9.9:54", Server("tcp", "9.9.9.9", 54)),
        ("udp://ns.example?ip=192.0.2.1", Server("udp", "ns.example", 53, ip=IPv4Address("192.0.2.1"))),
        ("tls://9.9.9.9?name=dns.quad9.net", Server("tls", "9.9.9.9", 853, name="dns.quad9.net")),
        ("https://9.9.9.9", Server("https", "9.9.9.9", 443, "/dns-query")),
        (
            "https://dns.example:8443/q?ip=192.0.2.1&name=other.example",
            Server("https", "dns.example", 8443, "/q", ip_address("192.0.2.1"), "other.example"),
        ),
        ("quic://dns.example", Server("quic", "dns.example", 853)),
    ],
)
def test_a_server_is_read(text: str, server: Server) -> None:
    assert addresses.parse_server(text) == server
    assert addresses.parse_server(str(server)) == server
    assert server.is_encrypted == (server.scheme in ("tls", "https", "quic"))


def test_a_server_is_reached_at_its_ip_option() -> None:
    assert addresses.parse_server("tls://dns.example?ip=192.0.2.1").address == ip_address("192.0.2.1")
    assert addresses.parse_server("9.9.9.9").address == ip_address("9.9.9.9")
    assert addresses.parse_server("tls://dns.example").address is None


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (addresses.parse_endpoint, "127.0.0.1", "write 127.0.0.1:53"),
        (addresses.parse_endpoint, "[::1]", r"write \[::1\]:53"),
        (addresses.parse_endpoint, "localhost:53", "write 127.0.0.1 for localhost"),
        (addresses.parse_endpoint, "127.0.0.1:0", "a port from 1 to 65535"),
        (addresses.parse_endpoint, "127.0.0.1:65536", "a port from 1 to 65535"),
        (addresses.parse_endpoint, "127.0.0.1:5x", "a port from 1 to 65535"),
        (addresses.parse_endpoint, 53, "an address and a port"),
        (addresses.parse_server, "dns.example", "not looked up by name"),
        (addresses.parse_server, "0.0.0.0", "not the wildcard"),
        (addresses.parse_server, "ftp://9.9.9.9", "one of udp, tcp, tls, https, quic"),
        (addresses.parse_server, "udp://9.9.9.9/x", "no path after a udp server"),
        (addresses.parse_server, "udp://me@9.9.9.9", "without user"),
        (addresses.parse_server, "9.9.9.9#53", "without user"),
        (addresses.parse_server, "tls://9.9.9.9?sni=x", "ip=ADDRESS and"),
        (addresses.parse_server, "tls://9.9.9.9?ip=1.1.1.1&ip=1.1.1.1", "each once"),
        (addresses.parse_server, "tls://x.example?ip=x", "expected an address such as"),
        (addresses.parse_server, "udp://9.9.9.9?name=x.example", "has no certificate"),
        (addresses.parse_server, "[2001:db8::1", "stands in brackets"),
        (addresses.parse_server, "", "expected an address"),
        (addresses.parse_network, "192.168.1.64/24", "write 192.168.1.0/24 or 192.168.1.64"),
        (addresses.parse_network, "fc00::1/7", "write fc00::/7 or fc00::1"),
        (addresses.parse_network, "10.0.0.0/255.0.0.0", "write 10.0.0.0/8"),
        (addresses.parse_network, "::ffff:192.0.2.0/120", "write 192.0.2.0/24"),
        (addresses.parse_network, "10.0.0.0/33", "expected a network such as"),
        (addresses.parse_network, "fe80::1%eth0", "expected a network such as"),
        (addresses.parse_client, "192.168.1.64/24", "write 192.168.1.0/24 or"),
        (addresses.parse_client, "::ffff:192.0.2.1", "write 192.0.2.1/32"),
        (addresses.parse_client, "kids-tablet", "or a MAC address"),
        (addresses.parse_client, "02:00:00:aa:bb-cc", "or a MAC address"),
        (addresses.parse_ipv4, "::1", "expected an IPv4 address"),
        (addresses.parse_ipv6, "192.0.2.1", "expected an IPv6 address"),
        (addresses.parse_name, "a..example", "expected a domain name"),
        (addresses.parse_name, "a" * 64 + ".example", "expected a domain name"),
        (addresses.parse_name, ".".join(["a" * 60] * 5), "expected a domain name"),
        (addresses.parse_name, "*.example", "expected a domain name"),
        (addresses.parse_name, "192.0.2.1", "not an address"),
        (addresses.parse_name, "", "expected a domain name"),
        (addresses.parse_name, "bü cher.example", "expected a domain name"),
    ],
)
def test_the_message_helps(parse: Callable[[object], object], value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(value)


def test_a_network_is_read() -> None:
    assert addresses.parse_network("::1") == ip_network("::1/128")
    assert addresses.parse_network("10.0.0.0/8") == ip_network("10.0.0.0/8")
    assert addresses.parse_network("0.0.0.0/0") == ip_network("0.0.0.0/0")


def test_a_mac_address_has_one_form() -> None:
    assert addresses.parse_client("02-00-00-AA-BB-CC") == Mac("02:00:00:aa:bb:cc")
    assert addresses.parse_client("02:00:00:aa:bb:cc") == Mac("02:00:00:aa:bb:cc")
    assert addresses.parse_client("192.168.1.7") == ip_network("192.168.1.7/32")


def test_a_name_has_one_form() -> None:
    assert addresses.parse_name("Corp.Example.") == "corp.example"
    assert addresses.parse_name("bücher.example") == "xn--bcher-kva.example"
    assert addresses.parse_name("_dns.resolver.arpa") == "_dns.resolver.arpa"
    assert addresses.parse_pattern("*.Lan") == "*.lan"


@given(st.one_of(st.text(), st.text(alphabet="0123456789abcdf:.[]/?=&%#@*tlsudp-", max_size=40)))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for parse in (addresses.parse_endpoint, addresses.parse_server, addresses.parse_client, addresses.parse_pattern):
        try:
            value = parse(text)
        except ValueError as error:
            assert "expected" in str(error)
        else:
            assert parse(str(value)) == value
