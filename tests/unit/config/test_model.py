from __future__ import annotations

import os
import pickle
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from resolver import counters
from resolver.config.addresses import Endpoint, Mac
from resolver.config.load import load
from resolver.config.model import BlockAnswer, Config, Group
from resolver.config.problem import ConfigError
from resolver.config.schema import SECTIONS
from resolver.config.types import NO_LIMIT, Override
from resolver.vocabulary import EDE, Action


def configured(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load(file)


def test_the_defaults_are_those_of_the_design() -> None:
    config = Config()
    assert config.listen.dns == (Endpoint("127.0.0.1", 5335), Endpoint("::1", 5335))
    assert [str(server) for server in config.upstream.servers] == ["udp://9.9.9.9:53", "udp://1.1.1.1:53"]
    assert (config.upstream.strategy, config.upstream.timeout) == ("fastest", 2.0)
    cache = config.cache
    assert (cache.size, cache.max_ttl, cache.min_ttl, cache.negative_ttl) == (64 * 2**20, 86_400, 0, 3600)
    assert (cache.serve_stale, cache.prefetch) == (86_400, True)
    assert ip_network("192.168.0.0/16") in config.allow_from
    assert (config.sinkhole.action, config.sinkhole.ttl) == (Action.ZERO, 10)
    assert config.admin.listen == Endpoint("127.0.0.1", 8053)
    assert (config.query_log.keep, config.query_log.size) == (7 * 86_400, 2**30)


def test_a_configuration_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, "workers", 3)  # noqa: B010 – mypy knows that it cannot be
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config.cache, "size", 0)  # noqa: B010


def test_workers_are_counted(tmp_path: Path) -> None:
    assert configured(tmp_path, "workers: 3").worker_count == 3
    assert configured(tmp_path, "workers: auto").worker_count == len(os.sched_getaffinity(0))


def test_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    Path("etc/config.yaml").write_text(
        "lists: [{name: a, source: lists/a.txt}, {name: b, source: ~/b.txt}, {name: c, source: /c.txt},"
        " {name: d, source: ../d.txt}]"
    )
    config = load("etc/config.yaml")
    assert config.file == tmp_path / "etc/config.yaml"
    assert config.base == tmp_path / "etc"
    assert config.state_path == tmp_path / "etc/state"
    assert [str(each.path) for each in config.lists] == [
        f"{tmp_path}/etc/lists/a.txt",
        "/home/somebody/b.txt",
        "/c.txt",
        f"{tmp_path}/etc/../d.txt",
    ]
    assert config.certificate_paths is None


def test_a_certificate_has_two_absolute_paths(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"listen": {"certificate": {"chain": "tls/chain.pem", "key": "tls/key.pem"}}},
        context={"file": tmp_path / "config.yaml"},
    )
    assert config.certificate_paths == (tmp_path / "tls/chain.pem", tmp_path / "tls/key.pem")


def test_a_home_that_nobody_has_is_a_file(tmp_path: Path) -> None:
    config = configured(tmp_path, "lists: [{name: a, source: ~nobody-has-this-name/a}]")
    assert config.lists[0].path == tmp_path / "~nobody-has-this-name/a"


@pytest.mark.parametrize(
    ("source", "folder", "files"),
    [
        ("lists/a.txt", "lists", ["lists/a.txt"]),
        ("lists/missing.txt", "lists", ["lists/missing.txt"]),
        ("lists/*.txt", "lists", ["lists/a.txt", "lists/b.txt"]),
        ("*/a.txt", "", ["lists/a.txt"]),
        ("**/?.txt", "", ["lists/a.txt", "lists/b.txt", "lists/more/c.txt"]),
        ("lists/[bc].txt", "lists", ["lists/b.txt"]),
        ("nowhere/*.txt", "nowhere", []),
    ],
)
def test_a_source_says_its_files_and_its_folder(tmp_path: Path, source: str, folder: str, files: list[str]) -> None:
    home = tmp_path / "with[brackets]"
    (home / "lists/more").mkdir(parents=True)
    for name in ("lists/a.txt", "lists/b.txt", "lists/more/c.txt"):
        (home / name).touch()
    (home / "lists/folder.txt").mkdir()
    listed = configured(home, f'lists: [{{name: a, source: "{source}"}}]').lists[0]
    assert listed.scheme == "file"
    assert listed.folder == home / folder
    assert listed.files() == tuple(home / file for file in files)


def test_a_source_elsewhere_has_no_path() -> None:
    config = Config.model_validate({"lists": [{"name": "a", "source": "https://lists.example/a*.txt"}]})
    assert (config.lists[0].scheme, config.lists[0].is_glob) == ("https", False)
    with pytest.raises(ValueError, match="is no file"):
        _ = config.lists[0].path


@pytest.mark.parametrize(
    ("text", "word"),
    [("yes", "yes"), ("no", "no"), ('"yes"', "yes"), ("true", "yes"), ("off", "no"), ("shadow", "shadow")],
)
def test_enabled_is_a_word_or_a_boolean(tmp_path: Path, text: str, word: str) -> None:
    assert configured(tmp_path, f"lists: [{{name: a, source: a, enabled: {text}}}]").lists[0].enabled == word


@pytest.mark.parametrize(("text", "word"), [("yes", "yes"), ("no", "no"), ("auto", "auto")])
def test_subdomains_is_a_word_or_a_boolean(tmp_path: Path, text: str, word: str) -> None:
    assert configured(tmp_path, f"lists: [{{name: a, source: a, subdomains: {text}}}]").lists[0].subdomains == word


def test_an_override_may_name_an_alias(tmp_path: Path) -> None:
    config = configured(tmp_path, "lists: [{name: a, source: a, override: cname:Wall.Example.}, {name: b, source: b}]")
    assert [each.override for each in config.lists] == [Override("cname", "wall.example"), Override("given")]


def test_a_group_takes_lists_by_name_and_category(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        """\
lists: [{name: a, source: a, category: ads}, {name: b, source: b, category: bad}, {name: c, source: c, category: bad}]
groups:
- {name: all, clients: [10.0.0.1]}
- {name: none, clients: [10.0.0.2], lists: []}
- {name: bad, clients: [10.0.0.3], categories: [bad]}
- {name: both, clients: [10.0.0.4], categories: [bad], lists: [a, b]}
""",
    )
    taken = {group.name: "".join(each.name for each in config.lists if group.takes(each)) for group in config.groups}
    assert taken == {"all": "abc", "none": "", "bad": "bc", "both": "b"}


def test_a_groups_clients_are_told_apart() -> None:
    group = Group.model_validate({"name": "k", "clients": ["10.0.0.0/8", "02:00:00:AA:BB:CC", "::1"]})
    assert group.networks == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert group.macs == (Mac("02:00:00:aa:bb:cc"),)


def test_an_answer_takes_the_most_particular_word(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        """\
lists: [{name: a, source: a}]
categories:
  gambling: {action: address, ede: censored, law: Act 1}
  ads: {ttl: 1m, ede: none}
groups: [{name: kids, clients: [10.0.0.1], actions: {gambling: nxdomain}}]
sinkhole: {ipv4: 192.0.2.7, ttl: 20s}
""",
    )
    v4, v6 = IPv4Address("192.0.2.7"), IPv6Address("2001:db8::53")
    assert config.answer_for("gambling") == BlockAnswer(Action.ADDRESS, 20, v4, v6, EDE.CENSORED, law="Act 1")
    assert config.answer_for("ads") == BlockAnswer(Action.ZERO, 60, v4, v6, None)
    assert config.answer_for("unheard-of") == BlockAnswer(Action.ZERO, 20, v4, v6, EDE.BLOCKED)
    assert config.answer_for("gambling", config.groups[0]).action == Action.NXDOMAIN
    assert config.answer_for("ads", config.groups[0]).action == Action.ZERO


def test_admin_may_be_switched_off(tmp_path: Path) -> None:
    assert configured(tmp_path, 'admin: {listen: ""}').admin.listen is None


def test_no_more_lists_and_servers_than_there_are_counters() -> None:
    lists = [{"name": f"l{number}", "source": "x"} for number in range(counters.NO_LIST + 1)]
    assert len(Config.model_validate({"lists": lists[:-1]}).lists) == counters.NO_LIST
    with pytest.raises(ValidationError, match="at most 1023 items"):
        Config.model_validate({"lists": lists})
    servers = [f"10.0.0.{number}" for number in range(counters.SERVERS)]
    assert len(Config.model_validate({"upstream": {"servers": servers}}).upstream.servers) == counters.SERVERS
    routes = [{"zones": ["a.example"], "servers": ["10.1.0.1"]}]
    with pytest.raises(ValidationError, match="at most 64 different upstream servers"):
        Config.model_validate({"upstream": {"servers": servers, "routes": routes}})
    groups = [{"name": "kids", "clients": ["10.0.0.1"], "upstream": ["10.1.0.1"]}]
    with pytest.raises(ValidationError, match="at most 64 different upstream servers"):
        Config.model_validate({"upstream": {"servers": servers}, "groups": groups})
    routes = [{"zones": [f"z{n}.example"], "servers": ["10.0.0.1"]} for n in range(256)]
    with pytest.raises(ValidationError, match="at most 255 routes"):
        Config.model_validate({"upstream": {"routes": routes}})


def test_a_configuration_goes_to_another_process(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        """\
workers: 2
lists: [{name: a, source: a, enabled: shadow, override: cname:wall.example}]
categories: {ads: {action: drop, ttl: 90s, ede: none}}
groups: [{name: kids, clients: [10.0.0.1], lists: [a], actions: {ads: refused}}]
upstream: {servers: ["[2620:fe::fe]:5353"], timeout: 750ms}
admin: {listen: ""}
""",
    )
    for copy in (Config.from_json(config.to_json()), pickle.loads(pickle.dumps(config))):
        assert copy == config
        assert (copy.file, copy.base, copy.state_path) == (config.file, config.base, config.state_path)
        assert copy.lists[0].path == tmp_path / "a"


def test_every_key_says_what_it_is() -> None:
    found = set()

    def visit(section: type[BaseModel]) -> None:
        found.add(section)
        for each in section.__subclasses__():
            visit(each)

    visit(type(Config()).__mro__[1])
    assert set(SECTIONS) == found - {type(Config()).__mro__[1]}
    for section in SECTIONS:
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description and field.description.endswith("."), f"{section.__name__}.{name}"


def test_limits_of_the_guard_survive_the_way_to_the_builder(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        "guard: {shrink: 12.5%, grow: no, protect: [bank.example]}\n"
        "lists: [{name: ads, source: ads.txt, max_shrink: no, max_grow: 250%}]\n",
    )
    assert (config.guard.shrink, config.guard.grow, config.guard.protect) == (0.125, NO_LIMIT, ("bank.example",))
    assert (config.lists[0].max_shrink, config.lists[0].max_grow) == (NO_LIMIT, 2.5)
    assert Config.from_json(config.to_json()) == config
    assert configured(tmp_path, "guard: {protect: names.txt}").protect_path == tmp_path / "names.txt"


@pytest.mark.parametrize("share", ["30", "0.3", "-3%", "thirty", "yes"])
def test_a_limit_is_a_share(tmp_path: Path, share: str) -> None:
    with pytest.raises(ConfigError, match=r"guard\.shrink: expected a share such as 30%"):
        configured(tmp_path, f"guard: {{shrink: {share}}}")
