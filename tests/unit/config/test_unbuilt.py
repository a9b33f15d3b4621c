"""Nothing that is not built is ignored in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from resolver.config import unbuilt
from resolver.config.load import load
from resolver.config.model import Config

CERTIFICATE = "certificate: {chain: a.pem, key: a.key}"
WARNED = [
    ("query_log: {keep: 1d}", "query_log.keep", ""),
    ("query_log: {size: 1MiB}", "query_log.size", ""),
]
BUILT = [
    "listen: {tls: [], certificate: {chain: ''}}",
    f"listen: {{{CERTIFICATE}}}",
    f"listen: {{tls: [127.0.0.1:853], https: [127.0.0.1:443], quic: [127.0.0.1:853], {CERTIFICATE}}}",
    "upstream: {servers: [udp://9.9.9.9, tcp://1.1.1.1, 8.8.8.8], strategy: ordered}",
    "upstream: {strategy: random}",
    "upstream: {servers: [tls://9.9.9.9, https://1.1.1.1, tls://dns.example, quic://9.9.9.9], bootstrap: [9.9.9.9]}",
    "upstream: {strategy: parallel}",
    "lists: [{name: a, source: a, override: tcp-only}]",
    "lists: [{name: a, source: a, mirrors: [], override: given}]",
    "lists: [{name: a, source: https://lists.example/a.txt, mirrors: [http://lists.example/a.txt]}]",
    "lists: [{name: a, source: https://lists.example/a.txt, format: addresses, enabled: no}]",
    "rebinding: {protect: no, allow: [lan]}",
    "rewrites: []",
    "rate_limit: {per_second: 50}",
    "groups: [{name: k, clients: ['02:00:00:aa:bb:cc'], schedule: [{days: [mon]}]}]",
    "query_log: {keep: 1w, what: all, clients: full, size: 1GiB}",
    "query_log: {what: none, clients: hash}",
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


@pytest.mark.parametrize("text", BUILT)
def test_what_is_built_is_not_spoken_of(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, text)).warnings == ()


def test_ignored_keys_have_their_defaults_and_others_their_values(tmp_path: Path) -> None:
    config = load(write(tmp_path, "upstream:\n  strategy: parallel\nquery_log:\n  keep: 1d\n  size: 1MiB\n"))
    assert config.upstream.strategy == "parallel"
    assert (config.query_log.keep, config.query_log.size) == (7 * 86_400, 2**30)
    assert [warning.line for warning in config.warnings] == [4, 5]


def test_every_row_is_tried_here(tmp_path: Path) -> None:
    tried = {path.replace("[0]", ".*").replace("[1]", ".*") for _, path, _ in WARNED}
    assert tried == {".".join(row.path) for row in unbuilt.ROWS}


def test_no_default_asks_for_what_is_not_built() -> None:
    assert list(unbuilt.find(Config().model_dump(mode="json"))) == []
