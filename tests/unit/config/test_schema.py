"""The shipped configuration, the contract and the schema cannot drift apart from the model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from resolver.config.load import load
from resolver.config.model import Config, Dnssec, SpecialNames
from resolver.config.schema import SECTIONS, json_schema

ROOT = Path(__file__).resolve().parents[3]
CONTRACT = """\
listen:
  dns: ["127.0.0.1:5335", "[::1]:5335"]
  tls: []
  https: []
  quic: []
  certificate: {chain: "", key: ""}
  https_path: /dns-query
  proxy_from: []
  transparent: no
workers: auto
state_dir: ./state
user: ""
allow_from: [127.0.0.0/8, "::1", 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7]
upstream:
  servers: [9.9.9.9, 1.1.1.1]
  strategy: fastest
  timeout: 2s
  routes: [{zones: [corp.example], servers: [10.0.0.53]}]
cache: {size: 64MiB, max_ttl: 1d, min_ttl: 0s, negative_ttl: 1h, serve_stale: 1d, prefetch: yes}
lists:
  - name: gambling
    source: blocklists/gambling.txt
    mirrors: []
    format: auto
    kind: block
    category: gambling
    subdomains: auto
    refresh: 1d
    checksum: ""
    tsig: ""
    allow_notify: []
    on_expire: keep
    on_cold_start: serve
    max_size: null
    enabled: yes
    mandatory: no
    max_shrink: 30%
    max_grow: no
    override: given
    max_ttl: 1h
    add_soa: yes
    recursive_only: yes
    break_dnssec: yes
fetch: {timeout: 15s, deadline: 15m, max_size: 1GiB, proxy: "", ca: "", user_agent: tampah}
tsig_keys: [{name: k.example, algorithm: hmac-sha256, secret: c2VjcmV0, secret_file: ""}]
categories:
  gambling: {action: address, ttl: 10s, ede: censored, organisation: "", justification: "", contact: "", law: ""}
groups:
  - {name: kids, clients: [192.168.1.64/26], categories: all, lists: all, actions: {gambling: nxdomain}, schedule: []}
  - name: grown-ups
    clients: ["02:00:00:aa:bb:cc", "file:subscribers.txt"]
    overrides: {gambling: passthru}
    shadow: no
    schedule: [{days: [mon-fri], from: "22:00", to: "06:00", timezone: Asia/Jakarta}]
sinkhole: {action: zero, ipv4: 192.0.2.53, ipv6: "2001:db8::53", ttl: 10s}
rebinding:
  protect: no
  ranges: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 127.0.0.0/8, 169.254.0.0/16, fc00::/7, fe80::/10]
  allow: []
rewrites: [{name: nas.lan, answers: [192.168.1.5]}]
rate_limit: {per_second: 0, prefix4: 24, prefix6: 56, action: truncate, responses_per_second: 0, slip: 2}
cookies: {enabled: yes, require: no}
identity: {version: "", id: "", nsid: ""}
structured_errors: {code: 0}
ecs: {policy: strip, prefix4: 24, prefix6: 56}
connections: {per_worker: 20000, per_client: 64, idle: 10s}
guard: {shrink: 30%, grow: 100%, floor: 20, public_suffixes: all, protect: [], asked: 1000,
        asked_times: 50, asked_by: 1, keep_generations: 10, keep_size: 4GiB}
admin: {listen: "127.0.0.1:8053"}
query_log: {keep: 7d, what: all, clients: full, size: 1GiB}
"""


def conforms(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether a value is as the schema says, as far as the words go that the schema uses."""
    if "$ref" in schema:
        return conforms(value, root["$defs"][schema["$ref"].rsplit("/")[-1]], root)
    if "anyOf" in schema:
        return any(conforms(value, each, root) for each in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    kinds: dict[str, Any] = {
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "array": list,
        "object": dict,
    }
    kind = schema.get("type")
    if kind == "null" or (kind and not isinstance(value, kinds[kind])):
        return value is None and kind == "null"
    if isinstance(value, str):
        return re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, list):
        return all(conforms(item, schema["items"], root) for item in value)
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        patterns = schema.get("patternProperties", {})
        free = next(iter(patterns.values()), None)
        if not set(schema.get("required", [])) <= set(value) or (free is None and not set(value) <= set(inner)):
            return False
        return all(conforms(item, inner.get(key, free), root) for key, item in value.items())
    return True


ADDED = {"rewrite", "tags", "records", "block_encrypted_dns", "safe_search", "special_names", "dns64"}  # keys since
ADDED |= {*SpecialNames.model_fields, "prefix", "exclude", "bootstrap", "local_zones"}
ADDED |= {"dnssec", *Dnssec.model_fields}
ADDED |= {"public_key", "signature", "token_file", "trust_loopback"}
ADDED |= {"sub_error", "language", "ns_triggers"}


def test_the_contract_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONTRACT)
    config = load(file)
    assert config.warnings == ()
    own = {"lists", "categories", "groups", "upstream", "tsig_keys", "rewrites"}
    assert config.model_dump(exclude=own) == Config().model_dump(exclude=own)


def test_the_contract_names_every_key() -> None:
    def keys(value: Any) -> set[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return (set(value) if isinstance(value, dict) else set()).union(*map(keys, inner))

    known = {field.alias or name for section in SECTIONS for name, field in section.model_fields.items()}
    assert keys(yaml.safe_load(CONTRACT)) - {"gambling"} == known - ADDED


def test_the_shipped_file_works_and_holds_the_defaults() -> None:
    config = load(ROOT / "config.yaml")
    assert config.warnings == ()
    assert config.model_dump(exclude={"lists"}) == Config().model_dump(exclude={"lists"})
    assert all(each.files()[0].is_file() for each in config.lists)


def test_the_shipped_file_explains_every_key() -> None:
    text = (ROOT / "config.yaml").read_text()
    for section in SECTIONS:
        for name in (field.alias or name for name, field in section.model_fields.items()):
            assert re.search(rf"^[ #-]*{name}:", text, re.MULTILINE), f"{section.__name__}.{name}"


def test_what_the_shipped_file_comments_out_is_read_too(tmp_path: Path) -> None:
    text = (ROOT / "config.yaml").read_text()
    text = re.sub(
        r"^(\s*)(routes|categories|groups|rewrites|records|local_zones|tsig_keys): (\[\]|\{\})$",
        r"\1\2:",
        text,
        flags=re.MULTILINE,
    )
    file = tmp_path / "config.yaml"
    file.write_text(re.sub(r"^( *)#  (?=[ -] *|\w)", r"\1  ", text, flags=re.MULTILINE))
    config = load(file)
    assert config.warnings == () and (len(config.rewrites), len(config.records)) == (2, 2)
    assert (len(config.upstream.routes), len(config.categories), len(config.groups), len(config.tsig_keys)) == (
        1,
        1,
        1,
        1,
    )


@pytest.mark.parametrize("text", [CONTRACT, (ROOT / "config.yaml").read_text()], ids=["contract", "shipped"])
def test_the_schema_takes_what_is_read(text: str) -> None:
    schema = json_schema()
    assert conforms(yaml.safe_load(text), schema, schema)


@pytest.mark.parametrize(
    "data",
    [
        {"chache": {}},
        {"cache": {"size": "big"}},
        {"cache": {"max_ttl": "soon"}},
        {"workers": 0.5},
        {"lists": [{"name": "a"}]},
        {"lists": [{"name": "a", "source": "a", "override": "cname"}]},
        {"groups": [{"name": "k", "clients": ["10.0.0.1"], "actions": {"a": "x"}}]},
    ],
)
def test_the_schema_refuses_what_is_refused(data: dict[str, Any]) -> None:
    schema = json_schema()
    assert not conforms(data, schema, schema)


def test_the_schema_says_what_each_key_is_and_no_other_is_taken() -> None:
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    assert len(sections) == len(SECTIONS)
    for section in sections:
        assert section["additionalProperties"] is False
        for name, described in section["properties"].items():
            assert described["description"], name


def test_the_schema_writes_defaults_as_the_file_does() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["properties"]["listen"]["default"]["dns"] == ["127.0.0.1:5335", "[::1]:5335"]
    assert schema["$defs"]["Cache"]["properties"]["size"]["default"] == "64MiB"
    assert schema["$defs"]["Upstream"]["properties"]["timeout"]["default"] == "2s"
    assert schema["$defs"]["Sinkhole"]["properties"]["action"]["default"] == "zero"
    assert "default" not in schema["$defs"]["Category"]["properties"]["action"]


def test_an_import_builds_nothing_and_brings_nothing_heavy() -> None:
    program = """
import sys
import resolver.config.load
from resolver.config import model
assert not any(section.__pydantic_complete__ for section in (model.Config, model.Listen, model.ListConfig)), "built"
heavy = {"idna", "dns", "difflib", "asyncio", "click", "rich", "uvloop"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60)
