from __future__ import annotations

import pytest

from resolver.upstream.server import Server
from resolver.vocabulary import Transport


@pytest.mark.parametrize(
    ("text", "address", "port", "transport", "certificate"),
    [
        ("9.9.9.9", "9.9.9.9", 53, Transport.UDP, ""),
        ("9.9.9.9:5353", "9.9.9.9", 5353, Transport.UDP, ""),
        ("2620:fe::fe", "2620:fe::fe", 53, Transport.UDP, ""),
        ("[2620:fe::fe]:54", "2620:fe::fe", 54, Transport.UDP, ""),
        ("tcp://[::1]:53", "::1", 53, Transport.TCP, ""),
        ("udp://dns.example:54?ip=9.9.9.9", "9.9.9.9", 54, Transport.UDP, ""),
        ("tcp://dns.example?ip=2620:fe::fe", "2620:fe::fe", 53, Transport.TCP, ""),
        ("fe80::1%eth0", "fe80::1%eth0", 53, Transport.UDP, ""),
        ("tls://9.9.9.9", "9.9.9.9", 853, Transport.TLS, "9.9.9.9"),
        ("tls://9.9.9.9?name=dns.quad9.net", "9.9.9.9", 853, Transport.TLS, "dns.quad9.net"),
        ("tls://dns.quad9.net", "", 853, Transport.TLS, "dns.quad9.net"),
        ("tls://dns.example?ip=192.0.2.1&name=other.example", "192.0.2.1", 853, Transport.TLS, "other.example"),
        ("https://dns.example/q?ip=192.0.2.1", "192.0.2.1", 443, Transport.HTTPS, "dns.example"),
        ("quic://192.0.2.1:8853", "192.0.2.1", 8853, Transport.QUIC, "192.0.2.1"),
    ],
)
def test_how_a_server_is_written(text: str, address: str, port: int, transport: Transport, certificate: str) -> None:
    server = Server.parse(text)
    assert (server.name, server.address, server.port) == (text, address, port)
    assert (server.transport, server.certificate) == (transport, certificate)
    assert server.is_plain == (transport is Transport.UDP) and server.is_encrypted == bool(certificate)


def test_the_path_of_https() -> None:
    assert Server.parse("https://192.0.2.1").path == "/dns-query"
    assert Server.parse("https://192.0.2.1/private").path == "/private"


@pytest.mark.parametrize(
    "text", ["", "dns.example", "9.9.9.9:0", "9.9.9.9:99999", "9.9.9.9/x", "u@9.9.9.9", "9.9.9", "[::1", "sdns://AQ"]
)
def test_what_is_no_server_says_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Server.parse(text)
