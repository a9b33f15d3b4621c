"""What the config may say of lists from other machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from resolver.config.addresses import shown_url
from resolver.config.load import load
from resolver.config.model import Config
from resolver.config.problem import ConfigError

URL = "https://lists.example/ads.txt"
HEX = "ab" * 32

GOOD = [
    f"source: {URL}",
    "source: 'http://user:password@[2001:db8::1]:8080/a?b=c'",
    f"source: {URL}, mirrors: [http://mirror.example/ads.txt, {URL}.gz]",
    f"source: {URL}, checksum: 'sha256:{HEX.upper()}', max_size: 5MiB",
    f"source: {URL}, checksum: https://lists.example/SHA256SUMS",
]
BAD = [
    ("source: 'https://'", "source", "expected https://host/path"),
    ("source: 'https://lists.example/a b'", "source", "expected a URL without spaces"),
    ("source: 'https://lists.example:99999/a'", "source", "expected a URL such as"),
    ("source: 'http://[::1/a'", "source", "expected a URL such as"),
    ("source: 'ftp://lists.example/a'", "source", "expected a path, http://, https:// or axfr://"),
    ("source: a.txt, mirrors: [b.txt]", "mirrors", "expected no mirrors: the source is a file"),
    (f"source: {URL}, mirrors: [b.txt]", "mirrors", "expected mirrors that are reached like the source"),
    (f"source: {URL}, mirrors: [a{URL}]", "mirrors", "expected a path, http://"),
    (f"source: {URL}, mirrors: [{URL}1, {URL}1]", "mirrors", "expected each value once"),
    (f"source: {URL}, checksum: md5:0", "checksum", "expected sha256: and 64 hexadecimal digits"),
    (f"source: {URL}, checksum: 'sha256:00'", "checksum", "expected sha256: and 64 hexadecimal digits"),
    (f"source: a.txt, checksum: 'sha256:{HEX}'", "checksum", "expected no checksum"),
]
FETCH_BAD = [
    ("timeout: 0s", "expected a time from 100ms to 1d"),
    ("deadline: 2d", "expected a time from 100ms to 1d"),
    ("proxy: socks5://127.0.0.1:1080", "expected http://host:port or https://host:port"),
    ("proxy: '127.0.0.1:3128'", "expected http://host:port or https://host:port"),
    ('user_agent: "a\\nb"', "expected printable ASCII"),
    ("proxi: x", "unknown key"),
]


def read(folder: Path, text: str) -> Config:
    (folder / "config.yaml").write_text(text)
    return load(folder / "config.yaml")


@pytest.mark.parametrize("text", GOOD)
def test_sources_that_are_read(tmp_path: Path, text: str) -> None:
    config = read(tmp_path, f"lists: [{{name: a, {text}}}]")
    [listed] = config.lists
    assert config.warnings == () and listed.is_remote
    assert Config.from_json(config.to_json()) == config
    assert listed.checksum in ("", f"sha256:{HEX}", "https://lists.example/SHA256SUMS")


@pytest.mark.parametrize(("text", "key", "message"), BAD)
def test_sources_that_are_refused(tmp_path: Path, text: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"lists: [{{name: a, {text}}}]")
    [problem] = caught.value.problems
    assert problem.path == f"lists[0].{key}"
    assert problem.message.startswith(message)


@pytest.mark.parametrize(("text", "message"), FETCH_BAD)
def test_ways_of_fetching_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"fetch: {{{text}}}")
    [problem] = caught.value.problems
    assert problem.message.startswith(message)


def test_authorities_are_beside_the_config(tmp_path: Path) -> None:
    assert read(tmp_path, "fetch: {ca: ca.pem}").ca_path == tmp_path / "ca.pem"
    assert read(tmp_path, "fetch: {}").ca_path is None


def test_a_password_is_never_shown() -> None:
    assert shown_url("https://me:secret@lists.example:8443/a@b?c=d") == "https://lists.example:8443/a@b?c=d"
    assert shown_url(URL) == URL
