"""Answers that are checked: every kind of zone, right and wrong, beside an Unbound that validates by the same anchor."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from tests.blackbox.harness import Server, is_alive, until
from tests.zones import Internet

pytestmark = pytest.mark.peer("dnssec-signzone", "named", "nsd", "unbound")

SECURE, INSECURE, BOGUS = "secure", "insecure", "bogus"
OK, NX = "NOERROR", "NXDOMAIN"

# name, type, what it is, rcode, EDE (0: none)
CASES = (
    ("www.valid.test", "A", SECURE, OK, 0),
    ("www.valid.test", "AAAA", SECURE, OK, 0),
    ("nothing.valid.test", "A", SECURE, NX, 0),
    ("ent.valid.test", "A", SECURE, OK, 0),
    ("a.wild.valid.test", "A", SECURE, OK, 0),
    ("a.wild.valid.test", "TXT", SECURE, OK, 0),
    ("b.close.wild.valid.test", "A", SECURE, NX, 0),
    ("to-nsec3.valid.test", "A", SECURE, OK, 0),
    ("to-nothing.valid.test", "A", SECURE, NX, 0),
    ("x.aliases.valid.test", "A", SECURE, OK, 0),
    ("www.moved.valid.test", "A", SECURE, OK, 0),
    ("nothing.moved.valid.test", "A", SECURE, NX, 0),
    ("to-plain.valid.test", "A", INSECURE, OK, 0),
    ("www.unsigned-move.valid.test", "A", INSECURE, OK, 0),
    ("to-bogus.valid.test", "A", BOGUS, "SERVFAIL", 6),
    ("valid.test", "DS", SECURE, OK, 0),
    ("valid.test", "DNSKEY", SECURE, OK, 0),
    ("plain.test", "DS", SECURE, OK, 0),
    ("www.nsec3.test", "A", SECURE, OK, 0),
    ("www.nsec3.test", "AAAA", SECURE, OK, 0),
    ("nothing.nsec3.test", "A", SECURE, NX, 0),
    ("ent.nsec3.test", "A", SECURE, OK, 0),
    ("a.wild.nsec3.test", "A", SECURE, OK, 0),
    ("a.wild.nsec3.test", "TXT", SECURE, OK, 0),
    ("www.plain.nsec3.test", "A", INSECURE, OK, 0),
    ("nothing.plain.nsec3.test", "A", INSECURE, NX, 0),
    ("www.optout.test", "A", SECURE, OK, 0),
    ("nothing.optout.test", "A", INSECURE, NX, 0),
    ("plain.optout.test", "DS", INSECURE, OK, 0),
    ("www.plain.optout.test", "A", INSECURE, OK, 0),
    ("www.plain.test", "A", INSECURE, OK, 0),
    ("nothing.plain.test", "A", INSECURE, NX, 0),
    ("to-valid.plain.test", "A", INSECURE, OK, 0),
    ("to-bogus.plain.test", "A", BOGUS, "SERVFAIL", 6),
    ("nothing.hashes.test", "A", INSECURE, NX, 27),
    ("www.rsasha1.test", "A", SECURE, OK, 0),
    ("www.rsasha512.test", "A", SECURE, OK, 0),
    ("www.p384.test", "A", SECURE, OK, 0),
    ("www.ed25519.test", "A", SECURE, OK, 0),
    ("www.ed448.test", "A", SECURE, OK, 0),
    ("www.algorithm.test", "A", INSECURE, OK, 1),
    ("www.digest.test", "A", INSECURE, OK, 2),
    ("www.expired.test", "A", BOGUS, "SERVFAIL", 7),
    ("nothing.expired.test", "A", BOGUS, "SERVFAIL", 7),
    ("www.future.test", "A", BOGUS, "SERVFAIL", 8),
    ("www.bogus.test", "A", BOGUS, "SERVFAIL", 6),
    ("nothing.bogus.test", "A", SECURE, NX, 0),
    ("www.unsigned.test", "A", BOGUS, "SERVFAIL", 10),
    ("www.no-nsec.test", "AAAA", BOGUS, "SERVFAIL", 12),
    ("www.no-keys.test", "A", BOGUS, "SERVFAIL", 9),
    ("www.no-key-signature.test", "A", BOGUS, "SERVFAIL", 10),
    ("www.other-key.test", "A", BOGUS, "SERVFAIL", 9),
    ("www.stripped.test", "A", BOGUS, "SERVFAIL", 9),
    ("nothing.test", "A", SECURE, NX, 0),
    (".", "SOA", SECURE, OK, 0),
)
AUTHENTICATING = {dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3}


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
    with Internet(tmp_path_factory.mktemp("zones")) as internet:
        yield internet


def validating(folder: Path, internet: Internet, **config: object) -> Server:
    folder.mkdir(exist_ok=True)
    (folder / "ads.txt").write_text("www.valid.test.ads.example\nwww.p384.test\n")
    section = {"mode": "validate", "trust_anchor": str(internet.anchor)}
    given = {
        "dnssec": section,
        "special_names": {"test": False},
        "lists": [{"name": "ads", "source": "ads.txt"}],
        "workers": 1,
        **config,
    }
    return Server(folder, given, upstream=internet.upstream)


@pytest.fixture(scope="module")
def server(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with validating(tmp_path_factory.mktemp("server"), internet, lists=[]) as server:
        yield server


def info_codes(answer: dns.message.Message) -> list[int]:
    return [int(option.code) for option in answer.options if isinstance(option, dns.edns.EDEOption)]


def ask(
    server: Server, name: str, qtype: str = "A", *, cd: bool = False, ad: bool = False, do: bool = False
) -> dns.message.Message:
    flags = dns.flags.RD | (dns.flags.CD if cd else 0) | (dns.flags.AD if ad else 0)
    return server.ask(name, qtype, want_dnssec=do, flags=flags, tcp=True, timeout=30)


def has_ad(answer: dns.message.Message) -> bool:
    return bool(answer.flags & dns.flags.AD)


def types(answer: dns.message.Message) -> set[int]:
    return {rrset.rdtype for section in (answer.answer, answer.authority) for rrset in section}


@pytest.mark.parametrize(("name", "qtype", "verdict", "rcode", "ede"), CASES)
def test_every_kind_of_zone(
    server: Server, internet: Internet, name: str, qtype: str, verdict: str, rcode: str, ede: int
) -> None:
    query = dns.message.make_query(name, qtype, want_dnssec=True)
    peer, _ = dns.query.udp_with_fallback(query, "127.0.0.1", port=internet.validator, timeout=30)
    for _ in range(2):  # asked, and from the cache
        answer = ask(server, name, qtype, do=True)
        assert dns.rcode.to_text(answer.rcode()) == rcode == dns.rcode.to_text(peer.rcode())
        assert has_ad(answer) == (verdict == SECURE) == has_ad(peer)
        assert info_codes(answer) == ([ede] if ede else [])
        assert answer.flags & dns.flags.RA and not answer.flags & dns.flags.AA
    if verdict != BOGUS:
        wanted = {(rrset.name, rrset.rdtype, rrset.covers): set(rrset) for rrset in peer.answer}
        assert {(rrset.name, rrset.rdtype, rrset.covers): set(rrset) for rrset in answer.answer} == wanted
    # Without DO: the same verdict, none of the records that only a validator wants.
    plain = ask(server, name, qtype, ad=True)
    assert plain.rcode() == answer.rcode()
    assert has_ad(plain) == (verdict == SECURE)
    assert not types(plain) & AUTHENTICATING
    assert not has_ad(ask(server, name, qtype)), "who asks for nothing is not told"


def test_a_client_that_checks_by_itself_gets_what_is_there(server: Server) -> None:
    for name in ("www.bogus.test", "www.expired.test", "www.no-keys.test"):
        answer = ask(server, name, cd=True, do=True)
        assert answer.rcode() == dns.rcode.NOERROR and answer.answer and not has_ad(answer)
        assert answer.flags & dns.flags.CD
        assert ask(server, name, do=True).rcode() == dns.rcode.SERVFAIL
    assert not has_ad(ask(server, "www.valid.test", cd=True, do=True)), "AD is our word, and we have not looked"


def test_ttls_are_those_of_the_signatures(server: Server) -> None:
    answer = ask(server, "www.valid.test", do=True)
    assert {rrset.ttl for rrset in answer.answer} == {answer.answer[0].ttl}
    negative = ask(server, "nothing.valid.test", do=True)
    assert max(rrset.ttl for rrset in negative.authority) <= 300


def test_metrics_count_what_answers_were(server: Server) -> None:
    ask(server, "a1.wild.valid.test")
    ask(server, "www.plain.test")
    ask(server, "www.bogus.test")
    metrics = server.metrics()
    for verdict in ("secure", "insecure", "bogus"):
        assert metrics["tampah_dnssec_verdicts_total", verdict] > 0


def test_the_word_alone_means_the_root_of_the_internet(internet: Internet, tmp_path: Path) -> None:
    with validating(tmp_path, internet, dnssec="validate") as server:
        answer = ask(server, "www.valid.test", do=True)
        assert answer.rcode() == dns.rcode.SERVFAIL and info_codes(answer) == [9], "these keys are not the root's"


def test_what_is_exempt_is_given_as_it_came(internet: Internet, tmp_path: Path) -> None:
    section = {"mode": "validate", "trust_anchor": str(internet.anchor), "negative_trust_anchors": ["bogus.test"]}
    upstream = {
        "servers": [f"127.0.0.1:{internet.upstream}"],
        "routes": [{"zones": ["expired.test"], "servers": [f"127.0.0.1:{internet.upstream}"]}],
    }
    with validating(tmp_path, internet, dnssec=section, upstream=upstream) as server:
        for name in ("www.bogus.test", "www.expired.test", "to-bogus.valid.test"):
            answer = ask(server, name, do=True)
            assert answer.rcode() == dns.rcode.NOERROR and answer.answer and not has_ad(answer), name
        assert ask(server, "www.future.test").rcode() == dns.rcode.SERVFAIL


def test_lists_go_before_signatures(internet: Internet, tmp_path: Path) -> None:
    with validating(tmp_path, internet) as server:
        blocked = ask(server, "www.p384.test", do=True, ad=True)
        assert [item.to_text() for item in blocked.answer[0]] == ["0.0.0.0"] and not has_ad(blocked)
        assert has_ad(ask(server, "www.valid.test", do=True))
        (tmp_path / "ads.txt").write_text("www.nsec3.test\n")
        server.tampah("reload").check_returncode()
        answer = ask(server, "to-nsec3.valid.test", do=True)  # an alias of a blocked name
        assert [item.to_text() for item in answer.answer[0]] == ["0.0.0.0"] and not has_ad(answer)


def test_switching_it_on_and_off_forgets_what_was_not_checked(internet: Internet, tmp_path: Path) -> None:
    with validating(tmp_path, internet, dnssec="off") as server:
        assert ask(server, "www.bogus.test", do=True).rcode() == dns.rcode.NOERROR
        server.configure(dnssec={"mode": "validate", "trust_anchor": str(internet.anchor)})
        server.tampah("reload").check_returncode()
        assert ask(server, "www.bogus.test", do=True).rcode() == dns.rcode.SERVFAIL
        server.configure(dnssec=False)
        server.tampah("reload").check_returncode()
        assert ask(server, "www.bogus.test", do=True).rcode() == dns.rcode.NOERROR
        assert not has_ad(ask(server, "www.valid.test", do=True))


def test_a_cache_from_before_is_not_believed(internet: Internet, tmp_path: Path) -> None:
    with validating(tmp_path, internet, dnssec="off") as server:
        assert ask(server, "www.bogus.test", do=True).rcode() == dns.rcode.NOERROR
    server.configure(dnssec={"mode": "validate", "trust_anchor": str(internet.anchor)})
    server.exit_status = None
    with server:
        assert ask(server, "www.bogus.test", do=True).rcode() == dns.rcode.SERVFAIL


def test_another_anchor_is_taken_with_a_reload(internet: Internet, tmp_path: Path) -> None:
    anchor = tmp_path / "anchor"
    anchor.write_text(internet.anchor.read_text())
    section = {"mode": "validate", "trust_anchor": "anchor"}
    with validating(tmp_path, internet, dnssec=section) as server:
        assert has_ad(ask(server, "www.valid.test", do=True))
        anchor.write_text(". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n")
        server.tampah("reload").check_returncode()
        assert ask(server, "www.valid.test", do=True).rcode() == dns.rcode.SERVFAIL
        anchor.write_text("nonsense\n")
        failed = server.tampah("reload")
        assert failed.returncode == 1 and "dnssec.trust_anchor" in failed.stderr and str(anchor) in failed.stderr
        checked = server.tampah("check")
        assert checked.returncode == 1 and "dnssec.trust_anchor" in checked.stderr


def validators(server: Server) -> list[int]:
    found = []
    for worker in server.worker_pids():
        for task in Path(f"/proc/{worker}/task").iterdir():
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in found if b"resolver.dnssec.process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_validator_that_dies_or_hangs_is_replaced_and_nothing_goes_unchecked(
    internet: Internet, tmp_path: Path
) -> None:
    with validating(tmp_path, internet) as server:
        (first,) = validators(server)
        os.kill(first, signal.SIGKILL)
        for name in ("www.bogus.test", "www.expired.test"):
            assert ask(server, name).rcode() == dns.rcode.SERVFAIL
        until(lambda: has_ad(ask(server, "www.ed25519.test", do=True)), "signed names are answered again")
        (second,) = validators(server)
        assert second != first
        os.kill(second, signal.SIGSTOP)
        hung = ask(server, "www.nsec3.test", do=True)  # the patience ends, or the next validator has it
        assert has_ad(hung) if hung.rcode() == dns.rcode.NOERROR else info_codes(hung) == [5]
        assert has_ad(ask(server, "www.ed25519.test", do=True)), "what is known needs no validator"
        until(lambda: not is_alive(second), "the one that hangs is killed", 60)
        until(lambda: has_ad(ask(server, "www.rsasha512.test", do=True)), "signed names are answered again", 60)
        (third,) = validators(server)
    assert not is_alive(third), "it ends with its worker"
