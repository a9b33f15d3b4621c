"""What the config may say of DNSSEC, and what workers are told to go by."""

from __future__ import annotations

from pathlib import Path

import pytest

from resolver.config.load import load
from resolver.config.model import Config
from resolver.config.problem import ConfigError
from resolver.control import Trust
from resolver.dnssec.anchors import parse
from resolver.dnssec.trust import ROOT, trust_of

DS = "test. IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D"


def read(folder: Path, text: str) -> Config:
    (folder / "config.yaml").write_text(text)
    return load(folder / "config.yaml")


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("", "off"),
        ("dnssec:", "off"),
        ("dnssec: off", "off"),
        ("dnssec: 'off'", "off"),
        ("dnssec: validate", "validate"),
        ("dnssec: {mode: validate}", "validate"),
        ("dnssec: {mode: off, negative_trust_anchors: [corp.example]}", "off"),
    ],
)
def test_a_word_or_a_section(tmp_path: Path, text: str, mode: str) -> None:
    config = read(tmp_path, text)
    assert config.dnssec.mode == mode and config.warnings == ()
    assert Config.from_json(config.to_json()) == config
    assert bool(trust_of(config).anchors) == (mode == "validate")


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("dnssec: validat", "dnssec.mode", "expected one of off, validate"),
        ("dnssec: on", "dnssec.mode", "expected one of off, validate"),
        ("dnssec: {mode: yes}", "dnssec.mode", "expected one of off, validate"),
        ("dnssec: {anchor: x}", "dnssec.anchor", "unknown key"),
        ("dnssec: {negative_trust_anchors: [a..b]}", "dnssec.negative_trust_anchors[0]", "expected"),
        ("dnssec: {negative_trust_anchors: [a.b, a.b]}", "dnssec.negative_trust_anchors", "expected each value once"),
        ("dnssec: [validate]", "dnssec", "expected"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    (problem,) = raised.value.problems
    assert problem.path == path and message in problem.message and problem.line == 1


def test_the_roots_keys_are_built_in(tmp_path: Path) -> None:
    assert trust_of(read(tmp_path, "dnssec: validate")) == Trust(ROOT)
    assert [record.key_tag for record in parse(ROOT)[next(iter(parse(ROOT)))]] == [20326, 38696]  # type: ignore[attr-defined]


def test_zones_with_servers_of_their_own_are_exempt(tmp_path: Path) -> None:
    routes = "upstream: {routes: [{zones: [corp.example, lan], servers: [10.0.0.53]}]}"
    section = "dnssec: {mode: validate, negative_trust_anchors: [lan, broken.example]}"
    assert trust_of(read(tmp_path, f"{routes}\n{section}")).negative == ("lan", "broken.example", "corp.example")


def test_a_file_of_anchors(tmp_path: Path) -> None:
    (tmp_path / "anchors").mkdir()
    (tmp_path / "anchors" / "test.key").write_text(f"; a comment\n{DS}\n")
    config = read(tmp_path, "dnssec: {mode: validate, trust_anchor: anchors/test.key}")
    (line,) = trust_of(config).anchors
    assert line.upper() == DS.upper() and list(parse([line])) == list(parse([DS]))
    for text in ("", "nonsense", "test. A 192.0.2.1", DS[:-1]):
        (tmp_path / "anchors" / "test.key").write_text(text)
        with pytest.raises(ValueError, match=r"dnssec\.trust_anchor: .*test\.key: expected DS and DNSKEY records"):
            trust_of(config)
    (tmp_path / "anchors" / "test.key").unlink()
    with pytest.raises(ValueError, match=r"dnssec\.trust_anchor: .*test\.key: No such file"):
        trust_of(config)
