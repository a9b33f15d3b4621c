"""Local records: rewrites, records and their reverse names, what they outrank and what outranks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from resolver import overlay
from resolver.explain import explain_name
from resolver.vocabulary import Action
from tests.unit.engine.world import reply_to
from tests.unit.lists.own.served import Served

HOME: dict[str, Any] = {
    "rewrites": [
        {"name": "nas.lan", "answers": ["192.168.1.5", "fd00::5"], "ttl": "5m"},
        {"name": "*.lan", "answers": ["192.168.1.1"]},
        {"name": "photos.lan", "answers": ["nas.lan"]},
        {"name": "ads.example", "answers": ["192.168.1.9"]},
        {"name": "any.lan", "answers": ["0.0.0.0"]},
    ],
    "records": [
        "mail.lan. 120 IN MX 10 nas.lan.",
        'mail.lan IN TXT "a text" "and more"',
        "mail.lan. 60 A 192.168.1.6",
        "7.1.168.192.in-addr.arpa. IN PTR printer.lan.",
        "printer.lan. IN A 192.168.1.7",
        "_ipp._tcp.lan. IN SRV 0 0 631 printer.lan.",
        "*.dev.lan. 30 IN TXT wild",
    ],
}


@pytest.fixture
def home(tmp_path: Path) -> Served:
    (tmp_path / "ads.txt").write_text("||ads.example^\n||nas.lan^$important\n||shop.example^\n")
    return Served(tmp_path, lists=[{"name": "ads", "source": "ads.txt", "format": "adblock"}], **HOME)


@pytest.mark.parametrize(
    ("name", "rdtype", "expected"),
    [
        ("nas.lan", "A", ["A 192.168.1.5"]),
        ("NAS.Lan", "AAAA", ["AAAA fd00::5"]),
        ("nas.lan", "MX", ["NODATA"]),
        ("nas.lan", "HTTPS", ["NODATA"]),
        ("tv.lan", "A", ["A 192.168.1.1"]),
        ("deep.below.nas.lan", "A", ["A 192.168.1.1"]),  # a wildcard reaches below names that have entries of their own
        ("tv.lan", "AAAA", ["NODATA"]),
        ("lan", "A", ["upstream"]),  # the wildcard is about what is below
        ("photos.lan", "A", ["CNAME nas.lan."]),
        ("photos.lan", "TXT", ["CNAME nas.lan."]),
        ("photos.lan", "CNAME", ["CNAME nas.lan."]),
        ("mail.lan", "MX", ["MX 10 nas.lan."]),
        ("mail.lan", "TXT", ['TXT "a text" "and more"']),
        ("mail.lan", "A", ["A 192.168.1.6"]),
        ("mail.lan", "AAAA", ["NODATA"]),
        ("_ipp._tcp.lan", "SRV", ["SRV 0 0 631 printer.lan."]),
        ("x.dev.lan", "TXT", ['TXT "wild"']),
        ("x.dev.lan", "A", ["NODATA"]),  # the nearest wildcard is the whole truth
        ("dev.lan", "A", ["A 192.168.1.1"]),
        ("nas.lan.example", "A", ["upstream"]),
        # outranks lists, however important
        ("ads.example", "A", ["A 192.168.1.9"]),
        ("www.ads.example", "A", ["A 0.0.0.0"]),
        ("shop.example", "A", ["A 0.0.0.0"]),
        # reverse names
        ("5.1.168.192.in-addr.arpa", "PTR", ["PTR nas.lan."]),
        (f"5.{'0.' * 27}0.0.d.f.ip6.arpa", "PTR", ["PTR nas.lan."]),
        ("9.1.168.192.in-addr.arpa", "PTR", ["PTR ads.example."]),
        ("6.1.168.192.in-addr.arpa", "PTR", ["PTR mail.lan."]),
        ("7.1.168.192.in-addr.arpa", "PTR", ["PTR printer.lan."]),
        ("1.1.168.192.in-addr.arpa", "PTR", ["NXDOMAIN"]),  # a wildcard's address has no one name
        ("0.0.0.0.in-addr.arpa", "PTR", ["NXDOMAIN"]),
    ],
)
def test_each_name_has_what_the_config_says(home: Served, name: str, rdtype: str, expected: list[str]) -> None:
    assert home.says(name, rdtype) == expected


def test_the_ttl_is_each_records_own(home: Served) -> None:
    asked = [("nas.lan", "A", 300), ("tv.lan", "A", 60), ("mail.lan", "MX", 120), ("mail.lan", "A", 60)]
    for name, rdtype, ttl in asked:
        message = home.ask(name, rdtype)
        assert message is not None and message.answer[0].ttl == ttl
        assert not message.extended_errors()  # nothing was blocked
    message = home.ask("nas.lan", "MX")
    assert message is not None and message.authority[0].ttl == 300


def test_any_gets_hinfo(home: Served) -> None:
    message = home.ask("nas.lan", "ANY")
    assert message is not None
    assert [rrset.to_text() for rrset in message.answer] == ['nas.lan. 300 IN HINFO "RFC8482" ""']


def test_it_is_answered_without_rd_and_do_changes_nothing(home: Served) -> None:
    assert home.says("nas.lan", rd=False) == ["A 192.168.1.5"]
    message = home.ask("nas.lan", do=True, cd=True)
    assert message is not None and message.ednsflags & dns.flags.DO
    assert not message.flags & (dns.flags.AA | dns.flags.AD) and len(message.answer) == 1


def test_many_records_are_truncated_over_udp(tmp_path: Path) -> None:
    served = Served(
        tmp_path, records=[f"many.lan. IN A 10.0.{number // 200}.{number % 200 + 1}" for number in range(600)]
    )
    message = served.ask("many.lan", edns=None)
    assert message is not None and message.flags & dns.flags.TC and not message.answer


def test_an_operators_block_goes_before_and_an_allow_sends_nothing_away(home: Served) -> None:
    home.lay_over("nas.lan", overlay.BLOCK)
    assert home.says("nas.lan") == ["A 0.0.0.0"]
    home.lay_over("nas.lan", overlay.ALLOW)
    assert home.says("nas.lan") == ["A 192.168.1.5"]
    home.lay_over("ads.example", overlay.ALLOW)
    assert home.says("ads.example") == ["A 192.168.1.9"] and home.says("www.ads.example") == ["upstream"]


def test_an_answer_that_leads_to_a_local_name_is_no_local_answer(home: Served) -> None:
    assert home.ask("www.example.org") is None
    [punt] = home.punts
    answer = reply_to(punt.packet, "www.example.org. 60 CNAME nas.lan.", "nas.lan. 60 A 192.0.2.1")
    home.engine.learn(punt, answer)
    message = home.ask("www.example.org")
    assert message is not None and str(message.answer[-1][0]) == "192.0.2.1"
    # while one that leads to a blocked name is blocked
    assert home.ask("www2.example.org") is None
    records = ("www2.example.org. 60 CNAME www.ads.example.", "www.ads.example. 60 A 192.0.2.1")
    home.engine.learn(home.punts[0], reply_to(home.punts[0].packet, *records))
    assert home.says("www2.example.org") == ["A 0.0.0.0"]


def test_groups_schedules_and_pauses_do_not_switch_it_off(tmp_path: Path) -> None:
    groups = [
        {"name": "few", "clients": ["10.0.0.0/24"], "lists": []},
        {"name": "watched", "clients": ["10.0.1.0/24"], "shadow": True},
    ]
    served = Served(tmp_path, groups=groups, allow_from=["10.0.0.0/8"], **HOME)
    for by in ("10.0.0.1", "10.0.1.1", "10.0.2.1"):
        assert served.says("nas.lan", by=by) == ["A 192.168.1.5"]
    shape = served.index.shape(served.index.find("nas.lan"))
    for policy_class in (*served.policy.groups.values(), *served.policy.paused.values()):
        assert served.policy.cell(policy_class, shape)[1] == Action.LOCAL


def test_a_change_is_a_patch_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("".join(f"n{number}.example\n" for number in range(2000)))
    settings: dict[str, Any] = {**HOME, "lists": [{"name": "many", "source": "many.txt", "format": "domains"}]}
    home = Served(tmp_path, **settings)
    first = home.generation
    settings["rewrites"] = [{"name": "nas.lan", "answers": ["192.168.1.50"]}, *HOME["rewrites"][1:]]
    second = home.build(**settings)
    assert second.report["index"] == "patched" and second.lists[0].run == first.lists[0].run
    assert home.says("nas.lan") == ["A 192.168.1.50"] and home.says("5.1.168.192.in-addr.arpa", "PTR") == ["NXDOMAIN"]
    assert home.says("50.1.168.192.in-addr.arpa", "PTR") == ["PTR nas.lan."]
    third = home.build(**settings)
    assert third.report["index"] == "reused"


def test_explain_tells_the_place_in_the_config(home: Served) -> None:
    told = explain_name(home.config, "nas.lan", "127.0.0.1", "A")
    lines = list(told.lines())
    assert (told.action, told.list, told.rank) == ("local", "built-in:local", "overlay")
    assert any("built-in:local decides: local record from config: rewrites[0]: nas.lan" in line for line in lines), (
        lines
    )
    assert sum("built-in:local" in line and "speaks" in line for line in lines) == 0  # *.lan has no say
    assert "    nas.lan. 300 IN A 192.168.1.5" in lines
    told = explain_name(home.config, "photos.lan", "127.0.0.1", "A")
    assert "photos.lan. 60 IN CNAME nas.lan. and what that resolves to" in told.answer
    told = explain_name(home.config, "7.1.168.192.in-addr.arpa", "127.0.0.1", "PTR")
    assert told.matches[-1].file == "local record from config: records[3]"
