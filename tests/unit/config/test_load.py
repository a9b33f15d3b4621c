"""What a maintainer sees when the file is wrong: the text of each message, with its line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.config import document, machine
from resolver.config.load import load
from resolver.config.model import Config
from resolver.config.places import search
from resolver.config.problem import ConfigError


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    """Every message about a file, without the folder."""
    file = tmp_path / "config.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        found = load(file).warnings
    except ConfigError as error:
        found = error.problems
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in found]


LIST = "lists: [{name: ads, source: ads.txt}]\n"
CASES = [
    # keys
    ("chache: {}", "config.yaml:1: chache: unknown key; did you mean cache?"),
    ("cache:\n  size: 1MiB\n  max-ttl: 1d", "config.yaml:3: cache.max-ttl: unknown key; did you mean max_ttl?"),
    (
        "lists:\n- name: ads\n  source: a\n- name: b\n  source: b\n  fromat: rpz",
        "config.yaml:6: lists[1].fromat: unknown key; did you mean format?",
    ),
    (
        "listen:\n  certificate: {chian: x}",
        "config.yaml:2: listen.certificate.chian: unknown key; did you mean chain?",
    ),
    (
        "categories:\n  ads:\n    acton: zero",
        "config.yaml:3: categories.ads.acton: unknown key; did you mean action?",
    ),
    (
        "admin:\n  xyzzy: 1",
        "config.yaml:2: admin.xyzzy: unknown key; known here: listen, token_file, trust_loopback",
    ),
    (
        "upstream:\n  routes:\n  - zones: [x.example]\n    server: [10.0.0.1]\n    servers: [10.0.0.1]",
        "config.yaml:4: upstream.routes[0].server: unknown key; did you mean servers?",
    ),
    (
        "workers: 2\ncache: {}\nworkers: 3",
        "config.yaml:3: workers: expected each key once, but it stands in lines 1 and 3",
    ),
    (
        "cache:\n  size: 1MiB\n  size: 2MiB",
        "config.yaml:3: cache.size: expected each key once, but it stands in lines 2 and 3",
    ),
    ("lists:\n- name: ads", "config.yaml:2: lists[0].source: expected this key, which has no default"),
    (
        "upstream:\n  routes:\n  - zones: [a.example]",
        "config.yaml:3: upstream.routes[0].servers: expected this key, which has no default",
    ),
    # scalars
    (
        "cache: {size: big}",
        "config.yaml:1: cache.size: expected a size such as 64MiB, 1GiB or 500kB, found big",
    ),
    ("cache: {size: 3kB}", "config.yaml:1: cache.size: expected at least 1MiB, found 3kB"),
    (
        "cache: {min_ttl: 2d}",
        "config.yaml:1: cache.min_ttl: expected no more than cache.max_ttl, found 2d",
    ),
    (
        'cache: {max_ttl: "soon"}',
        'config.yaml:1: cache.max_ttl: expected a duration such as 500ms, 10s, 5m, 2h, 1d or 1w, found "soon"',
    ),
    (
        "cache: {max_ttl: yes}",
        "config.yaml:1: cache.max_ttl: expected a duration such as 500ms, 10s, 5m, 2h, 1d or 1w, "
        'found yes (for YAML a boolean: write "yes" if it is text)',
    ),
    (
        "cache: {max_ttl: 1:30}",
        "config.yaml:1: cache.max_ttl: YAML reads 1:30 as a number in base 60: "
        "write it in quotes if it is text, else differently",
    ),
    (
        "workers: 010",
        "config.yaml:1: workers: YAML reads 010 as a number: write it in quotes if it is text, else differently",
    ),
    (
        "user: 2026-01-01",
        "config.yaml:1: user: YAML reads 2026-01-01 as a date: write it in quotes if it is text, else differently",
    ),
    (
        "groups: [{name: k, clients: [12:34:56:11:22:33]}]",
        "config.yaml:1: groups[0].clients[0]: YAML reads 12:34:56:11:22:33 as a number in base 60: "
        "write it in quotes if it is text, else differently",
    ),
    ("upstream: {timeout: 2h}", "config.yaml:1: upstream.timeout: expected a time-out from 10ms to 1m, found 2h"),
    ("workers: 0", "config.yaml:1: workers: expected auto or a number from 1 to 256, found 0"),
    ("workers: many", "config.yaml:1: workers: expected auto or a number from 1 to 256, found many"),
    (
        "user: 1000",
        'config.yaml:1: user: expected text, found 1000 (for YAML a number: write "1000" if it is text)',
    ),
    (
        "state_dir: ~",
        'config.yaml:1: state_dir: expected text, found ~ (for YAML nothing: write "~" if it is text)',
    ),
    (
        "lists:\n- name: no\n  source: a",
        "config.yaml:2: lists[0].name: expected a word of letters, digits, - and _, at most 63 long, "
        'found no (for YAML a boolean: write "no" if it is text)',
    ),
    (
        "lists:\n- name: 4\n  source: a",
        "config.yaml:2: lists[0].name: expected a word of letters, digits, - and _, at most 63 long, "
        'found 4 (for YAML a number: write "4" if it is text)',
    ),
    (
        "lists:\n- name: a b\n  source: a",
        "config.yaml:2: lists[0].name: expected a word of letters, digits, - and _, at most 63 long, found a b",
    ),
    ('lists: [{name: a, source: ""}]', 'config.yaml:1: lists[0].source: expected text, found ""'),
    ("rate_limit: {prefix4: 33}", "config.yaml:1: rate_limit.prefix4: expected at most 32, found 33"),
    ("rate_limit: {prefix4: -1}", "config.yaml:1: rate_limit.prefix4: expected at least 0, found -1"),
    ('rate_limit: {prefix4: "24"}', 'config.yaml:1: rate_limit.prefix4: expected a whole number, found "24"'),
    ("cache: {prefetch: maybe}", "config.yaml:1: cache.prefetch: expected yes or no, found maybe"),
    # words
    (
        "lists: [{name: a, source: a, format: host}]",
        "config.yaml:1: lists[0].format: expected one of auto, hosts, domains, adblock, dnsmasq, unbound, rpz, "
        "addresses, found host; did you mean hosts?",
    ),
    (
        "lists: [{name: a, source: a, enabled: shadows}]",
        "config.yaml:1: lists[0].enabled: expected one of yes, no, shadow, found shadows; did you mean shadow?",
    ),
    (
        "lists: [{name: a, source: a, subdomains: 1}]",
        "config.yaml:1: lists[0].subdomains: expected one of yes, no, auto, found 1",
    ),
    (
        "lists: [{name: a, source: a, override: cname}]",
        "config.yaml:1: lists[0].override: expected one of given, nxdomain, nodata, passthru, drop, tcp-only, "
        "disabled, cname:NAME, found cname; did you mean cname:NAME?",
    ),
    (
        'lists: [{name: a, source: a, override: "cname:"}]',
        'config.yaml:1: lists[0].override: expected a domain name such as corp.example, found "cname:"',
    ),
    (
        "sinkhole: {action: nxdomian}",
        "config.yaml:1: sinkhole.action: expected one of address, zero, nxdomain, nodata, refused, drop, "
        "found nxdomian; did you mean nxdomain?",
    ),
    (
        "categories:\n  ads: {ede: censor}",
        "config.yaml:2: categories.ads.ede: expected one of forged, blocked, censored, filtered, prohibited, none, "
        "found censor; did you mean censored?",
    ),
    (
        "rate_limit: {action: shout}",
        "config.yaml:1: rate_limit.action: expected one of truncate, drop, refuse, found shout",
    ),
    ("rate_limit: {slip: -1}", "config.yaml:1: rate_limit.slip: expected at least 0, found -1"),
    (
        "cookies: {enabled: no, require: yes}",
        "config.yaml:1: cookies.require: expected no: cookies.enabled is no, found yes (for YAML a boolean: "
        'write "yes" if it is text)',
    ),
    (
        "structured_errors: {code: 15}",
        "config.yaml:1: structured_errors.code: expected a code that no other option has: 20 or more, found 15",
    ),
    (
        "identity: {nsid: " + "x" * 65 + "}",
        "config.yaml:1: identity.nsid: expected at most 64 octets, found " + "x" * 57 + "...",
    ),
    (
        "ecs: {policy: sett}",
        "config.yaml:1: ecs.policy: expected one of strip, forward, set, found sett; did you mean set?",
    ),
    (
        "categories: {a: {language: e}}",
        "config.yaml:1: categories.a.language: expected a language tag such as en, id or zh-Hant, found e",
    ),
    (
        "categories: {a: {sub_error: rude}}",
        "config.yaml:1: categories.a.sub_error: expected one of none, malware, phishing, spam, "
        "spyware, network_policy, dns_policy, found rude",
    ),
    # shapes
    ("- a", "config.yaml:1: expected a mapping: a key, a colon and a value a line, found a list"),
    ("hello", "config.yaml:1: expected a mapping: a key, a colon and a value a line, found hello"),
    (
        "cache: 64MiB",
        "config.yaml:1: cache: expected a mapping: a key, a colon and a value a line, found 64MiB",
    ),
    (
        "upstream: {servers: 9.9.9.9}",
        "config.yaml:1: upstream.servers: expected a list: values in brackets, or one a line after a dash, "
        "found 9.9.9.9",
    ),
    (
        "allow_from:\n",
        "config.yaml:1: allow_from: expected a list: values in brackets, or one a line after a dash, found nothing",
    ),
    ("listen: {dns: []}", "config.yaml:1: listen: expected at least one address to listen on"),
    ("upstream: {servers: []}", "config.yaml:1: upstream.servers: expected at least one value, found an empty list"),
    (
        "categories: [ads]",
        "config.yaml:1: categories: expected a mapping: a key, a colon and a value a line, found a list",
    ),
    (
        'categories:\n  "a b": {}',
        "config.yaml:2: categories.a b: expected a word of letters, digits, - and _, at most 63 long",
    ),
    # addresses
    (
        "listen:\n  dns:\n  - 127.0.0.1:53\n  - localhost:53",
        "config.yaml:4: listen.dns[1]: expected an address and a port such as 127.0.0.1:53 or [::1]:53: "
        "write 127.0.0.1 for localhost, found localhost:53",
    ),
    (
        "listen: {dns: [127.0.0.1:53, 127.0.0.1:53]}",
        "config.yaml:1: listen.dns: expected each value once, but 127.0.0.1:53 stands there twice",
    ),
    (
        "allow_from: [192.168.1.1/24]",
        "config.yaml:1: allow_from[0]: expected a network, but bits are set after its prefix: "
        "write 192.168.1.0/24 or 192.168.1.1, found 192.168.1.1/24",
    ),
    (
        "upstream:\n  routes:\n  - {zones: [a.example], servers: [10.0.0.1]}\n"
        "  - {zones: [A.example.], servers: [10.0.0.2]}",
        "config.yaml:2: upstream.routes: expected each value once, but a.example stands there twice",
    ),
    (
        "upstream: {servers: [127.0.0.1:5335]}",
        "config.yaml:1: upstream.servers[0]: expected another server than this one, which listens there itself, "
        "found 127.0.0.1:5335",
    ),
    (
        "lists: [{name: a, source: ftp://x/y}]",
        "config.yaml:1: lists[0].source: expected a path, http://, https:// or axfr://primary/zone, found ftp://x/y",
    ),
    # references
    (
        "lists:\n- {name: ads, source: a}\n- {name: ads, source: b}",
        "config.yaml:3: lists[1].name: expected a name of its own, but lists[0] has it already, found ads",
    ),
    (
        LIST + "groups: [{name: k, clients: [10.0.0.1], lists: [add]}]",
        "config.yaml:2: groups[0].lists[0]: expected the name of a list that is in use, found add; did you mean ads?",
    ),
    (
        LIST + "groups: [{name: k, clients: [10.0.0.1], lists: [all]}]",
        "config.yaml:2: groups[0].lists[0]: expected the name of a list that is in use "
        "(every list is: all, without brackets), found all",
    ),
    (
        LIST + "groups: [{name: k, clients: [10.0.0.1], categories: [generl]}]",
        "config.yaml:2: groups[0].categories[0]: expected the name of a category that is in use, found generl; "
        "did you mean general?",
    ),
    (
        LIST + "groups:\n- name: k\n  clients: [10.0.0.1]\n  actions:\n    generl: drop",
        "config.yaml:6: groups[0].actions.generl: expected the name of a category that is in use; "
        "did you mean general?",
    ),
    (
        LIST + "groups: [{name: k, clients: [10.0.0.1], actions: {general: dorp}}]",
        "config.yaml:2: groups[0].actions.general: expected one of address, zero, nxdomain, nodata, refused, drop, "
        "found dorp; did you mean drop?",
    ),
    (
        "groups:\n- {name: k, clients: [10.0.0.1, 10.0.0.1]}",
        "config.yaml:2: groups[0].clients: expected each value once, but 10.0.0.1/32 stands there twice",
    ),
    # local names
    (
        "rewrites:\n- {name: a.lan, answers: [b.lan, 10.0.0.1]}",
        "config.yaml:2: rewrites[0].answers: expected addresses, or one domain name alone",
    ),
    (
        "rewrites:\n- {name: a.lan, answers: [10.0.0.1]}\n- {name: A.lan., answers: [10.0.0.2]}",
        "config.yaml:3: rewrites[1].name: expected a name of its own, but rewrites[0] has it already, found A.lan.",
    ),
    (
        "rewrites:\n- {name: a.lan, answers: [b.example]}\nrecords:\n- a.lan. IN TXT no",
        "config.yaml:4: records[0]: expected nothing beside an alias, but rewrites[0] speaks of a.lan too",
    ),
    (
        "rewrites:\n- {name: a.lan, answers: [10.0.0.1]}\nrecords:\n- a.lan. IN CNAME b.lan.",
        "config.yaml:4: records[0]: expected nothing beside an alias, but rewrites[0] speaks of a.lan too",
    ),
    (
        "rewrites:\n- {name: '*.lan', answers: [www.lan]}",
        "config.yaml:2: rewrites[0]: expected an alias of another name, but this leads to www.lan, "
        "which it speaks of itself",
    ),
    (
        "records:\n- a.lan. IN TXT yes\n- a.lan. IN A 10.0.0",
        "config.yaml:3: records[1]: expected a record such as nas.lan. 300 IN MX 10 mail.lan.: "
        "Text input is malformed., found a.lan. IN A 10.0.0",
    ),
    (
        "records:\n- a.lan. IN OPT \\# 0",
        "config.yaml:2: records[0]: expected a type that a name can have, not OPT, found a.lan. IN OPT \\# 0",
    ),
    (
        "records:\n- $INCLUDE /etc/passwd",
        "config.yaml:2: records[0]: expected a record such as nas.lan. 300 IN MX 10 mail.lan., found $INCLUDE /etc/passwd",
    ),
    (
        "records:\n- a b.lan. IN A 10.0.0.1",
        "config.yaml:2: records[0]: expected a record such as nas.lan. 300 IN MX 10 mail.lan.: "
        "unknown rdatatype 'b.lan.', found a b.lan. IN A 10.0.0.1",
    ),
    (
        "safe_search: [googel]",
        "config.yaml:1: safe_search: expected search engines, not 'googel'; did you mean google?",
    ),
    (
        "safe_search: [youtube, youtube-moderate]",
        "config.yaml:1: safe_search: expected either youtube or youtube-moderate",
    ),
    (
        "dns64: {prefix: 64:ff9b::/95}",
        "config.yaml:1: dns64.prefix: expected an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits, such as 64:ff9b::/96, "
        "found 64:ff9b::/95",
    ),
    (
        "dns64: {prefix: 2001:db8:0:0:100::/96}",
        "config.yaml:1: dns64.prefix: expected a prefix whose bits 64 to 71 are zero (RFC 6052 section 2.2), "
        "found 2001:db8:0:0:100::/96",
    ),
    # the text itself
    ("a:\n\t- b", "config.yaml:2: tabs cannot indent in YAML: use spaces"),
    (
        "listen:\n  dns: [[::1]:53]",
        'config.yaml:2: expected a key, found a list; an address in brackets needs quotes: "[::1]:53"',
    ),
    (
        "allow_from: [127.0.0.1, ::1]",
        "config.yaml:1: not YAML: did not find expected node content; "
        'an address that begins with [ or : needs quotes: "[::1]:53"',
    ),
    (
        "rewrites:\n- name: *.lan",
        "config.yaml:2: not YAML: did not find expected alphabetic or numeric character; "
        'a name that begins with * needs quotes: "*.example"',
    ),
    ("cache: {size: 1MiB", "config.yaml:1: not YAML: did not find expected ',' or '}'"),
    (
        "cache: {size: 1MiB\nworkers: 2\n",
        "config.yaml:2: not YAML: did not find expected ',' or '}' while parsing a flow mapping, begun in line 1",
    ),
    ("workers: 1\n---\nworkers: 2", "config.yaml:2: expected one document, found a second one after ---"),
    ("workers: !!python/object:os.system x", "config.yaml:1: workers: expected no YAML tag, found "),
    (
        "a: &x [*x]",
        "config.yaml:1: the alias *x stands inside what it refers to; a name that begins with * needs quotes",
    ),
    ("a: *x", "config.yaml:1: the alias *x refers to nothing; a name that begins with * needs quotes"),
    ("cache:\n  <<: {size: 1MiB}", "config.yaml:2: merge keys (<<) are not read: write the keys out"),
    ("? {a: b}\n: c", "config.yaml:1: expected a key, found a mapping"),
    (b"workers: 1\nuser: \xff", "config.yaml:2: expected text in UTF-8, found the byte 0xFF"),
    ("\ufeffworkers: 1".encode("utf-16"), "config.yaml:1: expected text in UTF-8, found the byte 0xFF"),
    ("workers: 1\nuser: \x00", "config.yaml:2: expected text, found the control character U+0000"),
]


@pytest.mark.parametrize(("text", "message"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_a_message_says_where_and_what(tmp_path: Path, text: str | bytes, message: str) -> None:
    found = problems(tmp_path, text)
    assert [line.startswith(message) if message.endswith("found ") else line == message for line in found] == [True], (
        found
    )


def test_everything_is_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
lists:
  - {name: ads, source: ads.txt, fromat: rpz}
  - {name: ads, source: https://}
cache: {size: big}
cache: {}
workers: 1:30
groups: [{name: kids, clients: [10.0.0.1/8], lists: [adz]}]
"""
    assert [line.split(": ")[0:2] for line in problems(tmp_path, text)] == [
        ["config.yaml:2", "lists[0].fromat"],
        ["config.yaml:3", "lists[1].source"],
        ["config.yaml:3", "lists[1].name"],
        ["config.yaml:4", "cache.size"],
        ["config.yaml:5", "cache"],
        ["config.yaml:6", "workers"],
        ["config.yaml:7", "groups[0].clients[0]"],
        ["config.yaml:7", "groups[0].lists[0]"],
    ]


def test_errors_are_said_of_what_would_be_ignored(tmp_path: Path) -> None:
    text = "query_log:\n  size: 1MiB\n  keep: [1]"
    assert problems(tmp_path, text) == [
        "config.yaml:2: query_log.size: not built yet: ignored (the query log), found 1MiB",
        "config.yaml:3: query_log.keep: expected a duration such as 500ms, 10s, 5m, 2h, 1d or 1w",
    ]


def test_a_problem_is_also_data(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("lists: [{name: a, source: a, format: host}]")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.problems[0].as_dict() == {
        "file": str(file),
        "line": 1,
        "path": "lists[0].format",
        "message": "expected one of auto, hosts, domains, adblock, dnsmasq, unbound, rpz, addresses",
        "found": "host",
        "nearest": "hosts",
        "severity": "error",
    }
    assert str(caught.value) == str(caught.value.problems[0])


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "\ufeff", "cache:\nlisten:\n  certificate:\n"])
def test_an_empty_file_is_all_defaults(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert load(file).model_dump() == Config().model_dump()


def test_a_key_is_text_whatever_yaml_makes_of_it(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("categories: {no: {}, 18: {}}")
    assert set(load(file).categories) == {"no", "18"}


def test_aliases_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("allow_from: &home [10.0.0.0/8]\nrebinding: {ranges: *home}")
    config = load(file)
    assert config.rebinding.ranges == config.allow_from


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert problems(tmp_path, "\n".join(lines)) == ["config.yaml:5: expected at most 100000 values, aliases expanded"]


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 100_000, "- " * 200_000, "a: &a [" * 50_000])
def test_deep_nesting_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, text)
    assert "expected at most 16 values inside each other" in found or "not YAML" in found


def test_depth_by_aliases_is_refused(tmp_path: Path) -> None:
    chain = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 5000)]
    (found,) = problems(tmp_path, "\n".join(chain))
    assert found == "config.yaml:15: expected at most 16 values inside each other"


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, b"#" * (document.MAX_OCTETS + 1))
    assert found.startswith("config.yaml: expected a configuration of at most 1MiB")
    assert problems(tmp_path, b"#" * document.MAX_OCTETS) == []


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file or directory"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_why(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.touch(mode=0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load(file)


def test_search_takes_the_first_place_that_exists(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    second.touch()
    assert search([first, second]) == second
    first.touch()
    assert search([first, second]) == first


def test_search_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"neither a\.yaml nor b\.yaml exists; name one with -c FILE"):
        search([Path("a.yaml"), Path("b.yaml")])
    Path("config.yaml").write_text("workers: 3")
    assert load().workers == 3


@given(st.one_of(st.text(), st.text(alphabet="abc:-[]{}&*#!|>'\" \n,~0159", max_size=80)))
def test_any_text_is_a_configuration_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(file)
    except ConfigError as error:
        assert error.problems
        assert all(problem.severity == "error" for problem in error.problems)


def test_a_cache_that_the_machine_cannot_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("workers: 1\ncache: {size: 900TiB}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.yaml")
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (2, "cache.size")
    assert re.search(r"less than the memory of this machine, which is [\d,]+MiB, found 900TiB", str(problem))


def test_a_container_has_as_much_memory_as_its_control_groups_allow(tmp_path: Path) -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    own = tmp_path / "own"
    assert machine.memory(tmp_path, own) == whole
    own.write_text("0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    assert machine.memory(tmp_path, own) == whole
    (tmp_path / "a" / "memory.max").write_text("1048576\n")
    assert machine.memory(tmp_path, own) == 1 << 20


@pytest.mark.parametrize(
    ("listen", "path"),
    [
        ("tls: [127.0.0.1:853]", "listen.tls"),
        ("quic: [127.0.0.1:853], certificate: {chain: '', key: a.key}", "listen.certificate.chain"),
        ("https: [127.0.0.1:443], certificate: {chain: a.pem}", "listen.certificate.key"),
        ("certificate: {chain: a.pem}", "listen.certificate"),
    ],
)
def test_encrypted_listeners_need_a_whole_certificate(tmp_path: Path, listen: str, path: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"listen: {{{listen}}}")
    with pytest.raises(ConfigError) as caught:
        load(file)
    problem = next(each for each in caught.value.problems if each.severity == "error")
    assert problem.path == path and "expected" in problem.message
