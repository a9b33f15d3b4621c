"""Nothing that is not built is ignored in silence, and what would protect less is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from resolver.config import unbuilt
from resolver.config.load import load
from resolver.config.model import Config
from resolver.config.problem import ConfigError

CERTIFICATE = "certificate: {chain: a.pem, key: a.key}"
WARNED = [
    (f"listen: {{quic: [127.0.0.1:853], {CERTIFICATE}}}", "listen.quic", "127.0.0.1:853"),
    ("upstream: {servers: [9.9.9.9, quic://1.1.1.1]}", "upstream.servers[1]", ""),
    ("groups: [{name: a, clients: [10.0.0.1], upstream: [9.9.9.9, quic://1.1.1.1]}]", "groups[0].upstream[1]", ""),
    ("upstream: {servers: [quic://9.9.9.9, 1.1.1.1]}", "upstream.servers[0]", ""),
    (
        "upstream: {routes: [{zones: [a.example], servers: [10.0.0.1, quic://10.0.0.2]}]}",
        "upstream.routes[0].servers[1]",
        "",
    ),
    ("query_log: {what: none}", "query_log.what", ""),
    ("query_log: {clients: hash}", "query_log.clients", ""),
    ("query_log: {keep: 1d}", "query_log.keep", ""),
    ("query_log: {size: 1MiB}", "query_log.size", ""),
]
REFUSED = [
    ("upstream: {servers: [quic://9.9.9.9, quic://1.1.1.1]}", "upstream.servers"),
    ("upstream: {routes: [{zones: [a.example], servers: [quic://10.0.0.2]}]}", "upstream.routes[0].servers"),
    ("groups: [{name: a, clients: [10.0.0.1], upstream: [quic://1.1.1.1]}]", "groups[0].upstream"),
]
BUILT = [
    "listen: {tls: [], certificate: {chain: ''}}",
    f"listen: {{{CERTIFICATE}}}",
    f"listen: {{tls: [127.0.0.1:853], https: [127.0.0.1:443], {CERTIFICATE}}}",
    "upstream: {servers: [udp://9.9.9.9, tcp://1.1.1.1, 8.8.8.8], strategy: ordered}",
    "upstream: {strategy: random}",
    "upstream: {servers: [tls://9.9.9.9, https://1.1.1.1, tls://dns.example], bootstrap: [9.9.9.9]}",
    "upstream: {strategy: parallel}",
    "lists: [{name: a, source: a, override: tcp-only}]",
    "lists: [{name: a, source: a, mirrors: [], override: given}]",
    "lists: [{name: a, source: https://lists.example/a.txt, mirrors: [http://lists.example/a.txt]}]",
    "lists: [{name: a, source: https://lists.example/a.txt, format: addresses, enabled: no}]",
    "rebinding: {protect: no, allow: [lan]}",
    "rewrites: [{name: nas.lan, answers: [10.0.0.1]}]",
    "records: [nas.lan. IN TXT here]",
    "safe_search: yes",
    "dns64: {prefix: 64:ff9b::/96}",
    "rate_limit: {per_second: 50}",
    "groups: [{name: k, clients: ['02:00:00:aa:bb:cc'], schedule: [{days: [mon]}]}]",
    "query_log: {keep: 1w, what: all, clients: full, size: 1GiB}",
]


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(("text", "path", "gone"), WARNED)
def test_what_takes_nothing_away_is_a_warning_and_ignored(tmp_path: Path, text: str, path: str, gone: str) -> None:
    config = load(write(tmp_path, text))
    (warning,) = config.warnings
    assert (warning.path, warning.severity, warning.line) == (path, "warning", 1)
    assert warning.message.startswith("not built yet: ignored (")
    assert not gone or gone not in config.to_json()
    written = config.model_dump_json()  # JSON is YAML
    assert load(write(tmp_path, written)).warnings == ()


@pytest.mark.parametrize(("text", "path"), REFUSED)
def test_what_would_protect_less_is_an_error(tmp_path: Path, text: str, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    (problem,) = caught.value.problems
    assert (problem.path, problem.severity, problem.line) == (path, "error", 1)
    assert problem.message.startswith("not built yet: ")


@pytest.mark.parametrize("text", BUILT)
def test_what_is_built_is_not_spoken_of(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, text)).warnings == ()


def test_ignored_keys_have_their_defaults_and_others_their_values(tmp_path: Path) -> None:
    text = """\
upstream:
  servers: [quic://1.1.1.1, 10.0.0.1, quic://1.1.1.2, 10.0.0.2, quic://1.1.1.3]
  strategy: parallel
cache: {serve_stale: 3d, max_ttl: 2d}
query_log: {what: none}
"""
    config = load(write(tmp_path, text))
    assert [server.host for server in config.upstream.servers] == ["10.0.0.1", "10.0.0.2"]
    assert config.upstream.strategy == "parallel"
    assert (config.cache.serve_stale, config.cache.max_ttl) == (259_200, 172_800)
    assert config.query_log.what == "all"
    assert [warning.line for warning in config.warnings] == [2, 2, 2, 5]


def test_a_file_that_is_too_little_without_what_is_ignored_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, f"listen:\n  dns: []\n  quic: [127.0.0.1:853]\n  {CERTIFICATE}"))
    assert [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems] == [
        "config.yaml:3: listen.quic: not built yet: ignored (DNS over QUIC)",
        "config.yaml:1: listen: expected at least one address to listen on",
    ]


def test_every_row_is_tried_here(tmp_path: Path) -> None:
    tried = {
        path.replace("[0]", ".*").replace("[1]", ".*") for path in [p for _, p, _ in WARNED] + [p for _, p in REFUSED]
    }
    assert tried == {".".join(row.path) for row in unbuilt.ROWS}


def test_no_default_asks_for_what_is_not_built() -> None:
    assert list(unbuilt.find(Config().model_dump(mode="json"))) == []
