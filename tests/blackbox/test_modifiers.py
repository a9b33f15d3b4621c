"""Rules that Python decides, through real workers: conditions, rewrites that add up, patterns, answers that lead to them."""

from __future__ import annotations

from pathlib import Path

from tests.blackbox.harness import Server
from tests.fakes import Act, FakeUpstream, address_of

RULES = r"""
||typed.example^$dnstype=AAAA
||kids.example^$client=kids
||tagged.example^$ctag=user_child
||single.example^$client=127.0.0.9
||twice.example^$dnsrewrite=192.0.2.1
||twice.example^$dnsrewrite=192.0.2.2
||twice.example^$dnsrewrite=2001:db8::1
||broken.example^$dnsrewrite=SERVFAIL
||other.example^$dnsrewrite=real.example
/^ads[0-9]+\./
@@/^ads77\./
||pre.example
||cancelled.example^
||cancelled.example^$badfilter
"""
CONFIG = {
    "lists": [{"name": "rules", "source": "rules.txt", "format": "adblock"}],
    "groups": [{"name": "kids", "clients": ["127.0.0.7"], "tags": ["user_child"]}],
}


def test_what_python_decides_is_answered_by_every_worker(tmp_path: Path) -> None:
    (tmp_path / "rules.txt").write_text(RULES)
    with FakeUpstream() as upstream, Server(tmp_path, CONFIG, upstream=upstream.port) as server:
        for tcp in (False, True):
            for _ in range(4):
                assert server.addresses("typed.example", "AAAA", tcp=tcp) == ["::"]
                assert server.addresses("typed.example", tcp=tcp) == [address_of("typed.example")]
                for name in ("kids.example", "tagged.example"):
                    assert server.addresses(name, tcp=tcp, source="127.0.0.7") == ["0.0.0.0"]
                    assert server.addresses(name, tcp=tcp, source="127.0.0.8") == [address_of(name)]
                assert server.addresses("single.example", tcp=tcp, source="127.0.0.9") == ["0.0.0.0"]
                assert server.addresses("single.example", tcp=tcp) == [address_of("single.example")]
                assert sorted(server.addresses("twice.example", tcp=tcp)) == ["192.0.2.1", "192.0.2.2"]
                assert server.addresses("twice.example", "AAAA", tcp=tcp) == ["2001:db8::1"]
                assert server.ask("twice.example", "MX", tcp=tcp).answer == []
                assert server.rcode("broken.example", tcp=tcp) == "SERVFAIL"
                assert server.addresses("other.example", tcp=tcp) == [address_of("real.example")]
                assert server.addresses("ads5.example", tcp=tcp) == ["0.0.0.0"]
                assert server.addresses("ads77.example", tcp=tcp) == [address_of("ads77.example")]
                assert server.addresses("my.pre.example.org", tcp=tcp) == ["0.0.0.0"]
                assert server.addresses("cancelled.example", tcp=tcp) == [address_of("cancelled.example")]
        assert upstream.count("typed.example") <= 2  # once a worker: what is allowed is kept as ever


def test_an_answer_that_leads_to_what_python_decides_is_blocked(tmp_path: Path) -> None:
    (tmp_path / "rules.txt").write_text(RULES)
    with FakeUpstream() as upstream, Server(tmp_path, CONFIG, upstream=upstream.port) as server:
        for ttl in (300, 0):  # kept, and not
            for target, blocked in (("x.kids.example", True), ("ads5.example", True), ("ads77.example", False)):
                name = f"{target.partition('.')[0]}-{ttl}.alias.example"
                act = Act(records=(f"{name}. {ttl} IN CNAME {target}.", f"{target}. {ttl} IN A 192.0.2.9"))
                upstream.on(name, *[act] * 40)
                for _ in range(4):
                    found = server.addresses(name, source="127.0.0.7")
                    assert found == (["0.0.0.0"] if blocked else ["192.0.2.9"])
                    if target == "x.kids.example":
                        assert server.addresses(name, source="127.0.0.8") == ["192.0.2.9"]


def test_a_reload_changes_what_is_decided(tmp_path: Path) -> None:
    (tmp_path / "rules.txt").write_text(RULES)
    with FakeUpstream() as upstream, Server(tmp_path, CONFIG, upstream=upstream.port) as server:
        assert server.addresses("ads5.example") == ["0.0.0.0"]
        server.write("rules.txt", "||typed.example^$dnstype=A\n/^bad[0-9]+\\./\n")
        server.tampah("reload").check_returncode()
        for _ in range(8):
            assert server.addresses("ads5.example") == [address_of("ads5.example")]
            assert server.addresses("bad5.example") == ["0.0.0.0"]
            assert server.addresses("typed.example") == ["0.0.0.0"]
        explained = server.tampah_json("explain", "bad5.example")
        assert (explained["action"], explained["matches"][0]["name"]) == ("zero", "/^bad[0-9]+\\./")
