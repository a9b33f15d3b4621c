"""A server with encrypted listeners, for black-box tests.

with Encrypted(tmp_path, {"lists": […]}, upstream=fake.port) as server:
    assert server.kdig("+tls", "ads.example").addresses == ["0.0.0.0"]
"""

from __future__ import annotations

import re
import ssl
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import httpx

from tests.blackbox.harness import Server
from tests.certificates import Authority
from tests.ports import free_port
from tests.quic import QuicClient


class Encrypted(Server):
    """See the module. `listen` is laid over what `listen` says otherwise."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        *,
        upstream: int = 0,
        authority: Authority | None = None,
        listen: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder, config, upstream=upstream)
        self.authority = authority or Authority()
        self.tls_port, self.https_port, self.quic_port = free_port(), free_port(), free_port()
        self.ca = folder / "ca.pem"
        self.ca.write_text(self.authority.pem)
        self.configure(
            listen={
                "dns": [f"{self.host}:{self.port}"],
                "tls": [f"{self.host}:{self.tls_port}"],
                "https": [f"{self.host}:{self.https_port}"],
                "quic": [f"{self.host}:{self.quic_port}"],
                "certificate": self.authority.issue(folder),
                **(listen or {}),
            }
        )

    @property
    def context(self) -> ssl.SSLContext:
        """A client's that believes the server."""
        return ssl.create_default_context(cadata=self.authority.pem)

    @property
    def url(self) -> str:
        """Where queries are taken over HTTPS."""
        return f"https://localhost:{self.https_port}/dns-query"

    def over_tls(self, query: dns.message.Message, timeout: float = 20) -> dns.message.Message:
        """dnspython's answer over TLS."""
        return dns.query.tls(
            query, self.host, timeout, self.tls_port, ssl_context=self.context, server_hostname="localhost"
        )

    def over_https(self, query: dns.message.Message, timeout: float = 20, *, post: bool = True) -> dns.message.Message:
        """The answer over HTTP/2."""
        wire = query.to_wire()
        with httpx.Client(http2=True, verify=self.context, trust_env=False, timeout=timeout) as session:
            if post:
                reply = session.post(self.url, content=wire, headers={"content-type": "application/dns-message"})
            else:
                reply = session.get(self.url, params={"dns": urlsafe_b64encode(wire).rstrip(b"=").decode()})
        assert (reply.status_code, reply.http_version) == (200, "HTTP/2")
        assert reply.headers["content-type"] == "application/dns-message"
        return dns.message.from_wire(reply.content)

    def over_quic(self, query: dns.message.Message) -> dns.message.Message:
        """The answer over QUIC; the message id is 0 there (RFC 9250 section 4.2.1)."""
        query.id = 0
        with QuicClient(self.quic_port, str(self.ca)) as client:
            client.connect()
            return dns.message.from_wire(client.ask(query.to_wire()))

    def over_http3(self, query: dns.message.Message) -> dns.message.Message:
        """The answer over HTTP/3."""
        with QuicClient(self.https_port, str(self.ca), alpn="h3") as client:
            client.connect()
            content = {"content-type": "application/dns-message"}
            status, _, body = client.request("POST", "/dns-query", content, query.to_wire())
            assert status == 200
            return dns.message.from_wire(body)

    def kdig(self, *arguments: str) -> str:
        """What kdig prints, over `+tls` or `+https` as the first argument says."""
        port = self.https_port if arguments[0].startswith("+https") else self.tls_port
        command = ["kdig", f"@{self.host}", "-p", str(port), f"+tls-ca={self.ca}", "+tls-hostname=localhost"]
        done = subprocess.run(
            [*command, "+timeout=20", *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def address_in(text: str) -> str:
    """The first address of kdig's ANSWER section."""
    found = re.search(r"\s\d+\s+IN\s+A\s+(\S+)", text)
    return found[1] if found else ""
