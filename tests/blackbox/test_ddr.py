"""Clients find the encrypted listeners by asking for _dns.resolver.arpa, and what they find works (RFC 9462)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype

from tests.blackbox.encrypted import Encrypted
from tests.fakes import FakeUpstream, address_of


def test_what_is_designated_answers(tmp_path: Path) -> None:
    with FakeUpstream() as upstream, Encrypted(tmp_path, {}, upstream=upstream.port) as server:
        for tcp in (False, True):
            [rrset] = server.ask("_dns.resolver.arpa", "SVCB", tcp=tcp).answer
            found: dict[bytes, Any] = {}
            for item in rrset:
                parameters = {int(key): value for key, value in item.params.items()}
                assert item.target.to_text() == "localhost." and item.priority > 0  # the certificate's name
                assert [str(address) for address in parameters[4].addresses] == [server.host]
                found[parameters[1].ids[0]] = parameters
            assert set(found) == {b"dot", b"h2", b"doq"}
            assert found[b"doq"][3].port == server.quic_port
            assert found[b"dot"][3].port == server.tls_port
            assert b"h3" in found[b"h2"][1].ids
            assert found[b"h2"][3].port == server.https_port
            assert found[b"h2"][7].value == b"/dns-query{?dns}"
        asked = dns.message.make_query("www.example", "A")
        for ask in (server.over_tls, server.over_https, server.over_http3, server.over_quic):
            answer = ask(asked)
            assert str(answer.answer[0][0]) == address_of("www.example")
        assert not server.ask("_dns.resolver.arpa", "A").answer and not server.ask("resolver.arpa", "SVCB").answer
        assert not upstream.count("_dns.resolver.arpa")
