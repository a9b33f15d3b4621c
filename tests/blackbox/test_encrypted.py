"""DNS over TLS and over HTTPS, asked by the programs that people ask with; certificates that are renewed while it serves."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pwd
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.blackbox.encrypted import Encrypted, address_in
from tests.blackbox.harness import is_alive, kill, others_can_run_this, until
from tests.certificates import DAY, Authority, key_pem, make_key, pin, replace
from tests.fakes import Act, FakeUpstream, address_of

LISTS = {"lists": [{"name": "ads", "source": "ads.txt"}], "categories": {"general": {"action": "nxdomain"}}}
OPEN = "page.example"
SHUT = "shut.example"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    script = {
        OPEN: [Act(records=(f"{OPEN}. 60 IN A 127.0.0.1",))],
        "www.gone.example": [Act(records=(), rcode=3, soa=True)],
        "large.example": [
            Act(records=tuple(f'large.example. 60 IN TXT "{number:0200}"' for number in range(150)), truncate=True)
        ],
    }
    with FakeUpstream(script=script) as fake:
        yield fake


@pytest.fixture(scope="module")
def server(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    folder = tmp_path_factory.mktemp("encrypted")
    (folder / "ads.txt").write_text(f"ads.example\n{SHUT}\n")
    with Encrypted(folder, LISTS, upstream=upstream.port) as running:
        yield running


def query(name: str, qtype: str = "A", **options: object) -> dns.message.Message:
    return dns.message.make_query(name, qtype, **{"use_edns": 0, **options})  # type: ignore[arg-type]


@pytest.mark.peer("kdig")
@pytest.mark.parametrize("how", ["+tls", "+https", "+https-get"])
def test_kdig(server: Encrypted, how: str) -> None:
    open_name = server.kdig(how, "www.example", "+nopadding")
    assert "status: NOERROR" in open_name and address_in(open_name) == address_of("www.example")
    shut = server.kdig(how, "ads.example", "+padding")
    assert "status: NXDOMAIN" in shut and "EDE: 15 (Blocked)" in shut
    assert re.search(r"Received (468|936) B", shut), shut
    assert "TLS1.3" in shut
    if how != "+tls":
        method = "GET" if how == "+https-get" else "POST"
        assert f"HTTP/2-{method}" in shut and "status: 200" in shut


def test_dnspython_and_httpx(server: Encrypted) -> None:
    for ask in (server.over_tls, server.over_https):
        for name, expected in (("www.example", address_of("www.example")), ("ads.example", "")):
            asked = query(name)
            answer = ask(asked)
            assert asked.is_response(answer)
            assert [item.to_text() for rrset in answer.answer for item in rrset] == ([expected] if expected else [])
            assert answer.rcode() == (dns.rcode.NOERROR if expected else dns.rcode.NXDOMAIN)
    assert server.over_https(query("www.example", id=0), post=False).id == 0


def test_large_answers_come_whole(server: Encrypted) -> None:
    for ask in (server.over_tls, server.over_https):
        answer = ask(query("large.example", "TXT"))
        assert len(answer.answer[0]) == 150 and not answer.flags & dns.flags.TC


@pytest.mark.peer("curl")
@pytest.mark.parametrize("http", ["--http1.1", "--http2"])
def test_http_says_how_long_an_answer_may_be_kept(server: Encrypted, http: str) -> None:
    def head(name: str) -> dict[str, str]:
        body = server.folder / "query"
        body.write_bytes(query(name, id=0).to_wire())
        done = subprocess.run(
            [
                *("curl", "-s", http, "--cacert", str(server.ca), "-o", str(server.folder / "answer"), "-D", "-"),
                *("-H", "content-type: application/dns-message", "--data-binary", f"@{body}", server.url),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        first, *lines = done.stdout.strip().splitlines()
        assert " 200" in first and first.startswith("HTTP/2" if http == "--http2" else "HTTP/1.1")
        return dict(line.lower().split(": ", 1) for line in lines if ": " in line)

    assert head("ads.example")["cache-control"] == "max-age=10"  # the block's TTL
    gone = head("www.gone.example")["cache-control"].removeprefix("max-age=")
    assert 0 < int(gone) <= 60  # the SOA's MINIMUM, counted down
    kept = head("www.example")
    assert 200 < int(kept["cache-control"].removeprefix("max-age=")) <= 300
    assert kept["content-type"] == "application/dns-message" and kept["alt-svc"].startswith('h3=":')


class Page(http.server.BaseHTTPRequestHandler):
    """A page for whoever finds it."""

    def do_GET(self) -> None:
        """Say hello."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html><body>winnowed and fine</body></html>")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def page() -> Iterator[int]:
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield web.server_port
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.mark.peer("curl")
def test_curl_with_doh(server: Encrypted, page: int) -> None:
    def curl(name: str) -> subprocess.CompletedProcess[str]:
        command = ["curl", "-sS", "--noproxy", "*", "--doh-url", server.url, "--cacert", str(server.ca)]
        return subprocess.run(
            [*command, f"http://{name}:{page}/"], capture_output=True, text=True, timeout=60, check=False
        )

    assert "winnowed and fine" in curl(OPEN).stdout
    shut = curl(SHUT)
    assert shut.returncode == 6 and "resolve host" in shut.stderr


@pytest.mark.peer("chromium")
def test_chromium_with_doh(server: Encrypted, page: int, tmp_path: Path) -> None:
    template = f"https://127.0.0.1:{server.https_port}/dns-query"
    settings = {"dns_over_https": {"mode": "secure", "templates": template}}
    (tmp_path / "Local State").write_text(json.dumps(settings))
    chain = (server.folder / "chain.pem").read_text()
    before = server.total("tampah_queries_total")

    def visit(name: str) -> str:
        command = [
            *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
            *(
                "--disable-dev-shm-usage",
                f"--user-data-dir={tmp_path}",
                f"--ignore-certificate-errors-spki-list={pin(chain)}",
            ),
            *("--timeout=30000", "--dump-dom", f"http://{name}:{page}/"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        return done.stdout + done.stderr

    assert "winnowed and fine" in visit(OPEN)
    shut = visit(SHUT)
    assert "winnowed and fine" not in shut and "ERR_NAME_NOT_RESOLVED" in shut
    asked = server.metrics()
    assert sum(value for key, value in asked.items() if key[:2] == ("tampah_queries_total", "https")) >= 2
    assert server.total("tampah_queries_total") > before


def test_queries_are_counted_by_transport(server: Encrypted) -> None:
    def count(transport: str) -> float:
        return sum(value for key, value in server.metrics().items() if key[:2] == ("tampah_queries_total", transport))

    before = count("tls"), count("https")
    server.over_tls(query("ads.example"))
    server.over_https(query("ads.example"))
    until(lambda: (count("tls"), count("https")) == (before[0] + 1, before[1] + 1), "both are counted")


# -- certificates -------------------------------------------------------------------------------------------------------


def shown(server: Encrypted) -> set[bytes]:
    """The certificates that workers show, as far as many connections find them all."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    found = set()
    for port in (server.tls_port, server.https_port) * 8:
        with socket.create_connection((server.host, port), 20) as plain, context.wrap_socket(plain) as secured:
            found.add(secured.getpeercert(binary_form=True) or b"")
    return found


@pytest.mark.parametrize("user", ["", "nobody"])
def test_a_renewed_certificate_is_shown_by_every_worker_and_a_broken_one_by_none(tmp_path: Path, user: str) -> None:
    if user and (os.geteuid() or not others_can_run_this()):
        pytest.skip("needs root, and a Python that others may run")
    if user:
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents:
            if parent.owner() == pwd.getpwuid(os.geteuid()).pw_name and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    (tmp_path / "ads.txt").write_text("ads.example\n")
    authority = Authority()
    with Encrypted(tmp_path, {**LISTS, "user": user}, authority=authority) as server:
        chain = tmp_path / "chain.pem"
        assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
        [first] = shown(server)
        assert first == ssl.PEM_cert_to_DER_cert(chain.read_text().partition(END)[0] + END)
        assert 9 * 86_400 < server.total("tampah_certificate_expiry_seconds") < 10 * 86_400

        replace(tmp_path / "key.pem", key_pem(make_key()), 0o600)  # one that does not fit
        until(lambda: "the old one stays" in server.log, "the broken pair is spoken of")
        assert "does not belong to the certificate" in server.log
        until(lambda: server.total("tampah_certificate_failures_total") == 1, "it is counted")
        assert shown(server) == {first}

        authority.issue(tmp_path)
        until(lambda: "certificate renewed" in server.log, "the new pair is in force")
        [second] = shown(server)
        assert second != first
        assert server.over_tls(query("ads.example")).rcode() == dns.rcode.NXDOMAIN

        victim = server.worker_pids()[0]
        kill(victim)
        until(lambda: not is_alive(victim) and victim not in server.worker_pids(), "another worker takes its place")
        until(lambda: server.http("/readyz")[0] == 200, "it serves")
        assert shown(server) == {second}

        authority.issue(tmp_path, kind="rsa")
        done = server.tampah("reload")
        assert done.returncode == 0, done.stderr
        [third] = shown(server)
        assert third not in (first, second)


END = "-----END CERTIFICATE-----\n"


def test_a_reload_fails_where_the_certificate_does(tmp_path: Path) -> None:
    (tmp_path / "ads.txt").write_text("ads.example\n")
    with Encrypted(tmp_path, LISTS) as server:
        [first] = shown(server)
        replace(tmp_path / "chain.pem", "no certificate")
        done = server.tampah("reload")
        assert done.returncode == 1 and "chain.pem: no certificate in PEM form" in done.stderr
        assert shown(server) == {first}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"listen\.certificate\.key: .*key\.pem: No such file"),
        ("unfit", r"listen\.certificate\.key: .*key\.pem: does not belong to the certificate"),
        ("none", r"listen\.tls: listen\.tls shows a certificate: expected the PEM files"),
    ],
)
def test_without_a_certificate_that_fits_nothing_starts_and_check_says_why(
    tmp_path: Path, fault: str, message: str
) -> None:
    (tmp_path / "ads.txt").write_text("ads.example\n")
    server = Encrypted(tmp_path, LISTS)
    if fault == "missing":
        (tmp_path / "key.pem").unlink()
    elif fault == "unfit":
        replace(tmp_path / "key.pem", key_pem(make_key()))
    else:
        server.configure(listen={"dns": [], "tls": [f"127.0.0.1:{server.tls_port}"]})
    for command in ("check", "run"):
        done = server.tampah(command)
        assert done.returncode == 1 and re.search(message, done.stderr), done.stderr


def test_check_names_a_certificate_that_has_expired(tmp_path: Path) -> None:
    (tmp_path / "ads.txt").write_text("ads.example\n")
    server = Encrypted(tmp_path, LISTS)
    authority = Authority()
    authority.issue(tmp_path, ends=-2 * DAY)
    done = server.tampah("check")
    assert done.returncode == 1 and re.search(r"certificate\.chain: .*chain\.pem: expired on", done.stderr)


# -- those who misuse it --------------------------------------------------------------------------------------------------


def test_idle_slow_and_half_open_connections_hinder_nobody(tmp_path: Path) -> None:
    (tmp_path / "ads.txt").write_text("ads.example\n")
    limits = {"per_worker": 200, "per_client": 64}
    with contextlib.ExitStack() as kept, Encrypted(tmp_path, {**LISTS, "workers": 1, "connections": limits}) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        out = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
        hello = out.read()
        for number in range(400):
            plain = socket.create_connection((server.host, server.tls_port), 20, (f"127.0.3.{1 + number % 20}", 0))
            kept.enter_context(plain)
            if number % 4 == 0:
                plain.sendall(hello)  # and no word after
            elif number % 4 == 1:
                plain.sendall(hello[:20])
        assert server.status()["workers"][0]["connections"] <= 200
        for _ in range(20):
            assert server.rcode("ads.example") == "NXDOMAIN"
            assert server.over_tls(query("ads.example")).rcode() == dns.rcode.NXDOMAIN
            assert server.over_https(query("ads.example")).rcode() == dns.rcode.NXDOMAIN
