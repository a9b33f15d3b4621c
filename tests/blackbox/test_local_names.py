"""Names that are answered here, as clients and operators see them: dig over UDP and TCP against a real server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.blackbox.harness import Server, until
from tests.fakes import Act, FakeUpstream, address_of

pytestmark = pytest.mark.peer("dig")

KID = "127.0.0.7"
CONFIG: dict[str, Any] = {
    "lists": [{"name": "ads", "source": "ads.txt"}, {"name": "allow", "source": "allow.txt", "kind": "allow"}],
    "groups": [{"name": "kids", "clients": [f"{KID}/32"], "safe_search": True, "block_encrypted_dns": True}],
    "rewrites": [
        {"name": "nas.lan", "answers": ["192.168.1.5", "fd00::5"], "ttl": "2m"},
        {"name": "photos.lan", "answers": ["nas.lan"]},
        {"name": "album.lan", "answers": ["photos.lan"]},
        {"name": "mirror.lan", "answers": ["www.example.org"]},
        {"name": "*.dev.lan", "answers": ["192.168.1.9"]},
        {"name": "x.ads.example", "answers": ["192.168.1.10"]},
    ],
    "records": ["nas.lan. 300 IN MX 10 nas.lan.", 'nas.lan. IN TXT "in the cellar"'],
    "dns64": {"prefix": "2001:db8:64::/96"},
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        fake.on("four.example", Act(records=("four.example. 60 IN A 192.0.2.1",)))
        for name in ("forcesafesearch.google.com", "four.example"):
            fake.on(name, Act())
        yield fake


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, upstream: FakeUpstream) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("local")
    (folder / "ads.txt").write_text("ads.example\nwww.google.de\n")
    (folder / "allow.txt").write_text("www.google.fr\n")
    with Server(folder, CONFIG, upstream=upstream.port) as running:
        yield running


def dig(server: Server, *arguments: str) -> tuple[str, list[str], str]:
    """(status, the records of the answer, everything) as dig tells them."""
    command = ["dig", "@127.0.0.1", "-p", str(server.port), "+tries=1", "+time=5", *arguments]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    found = re.search(r"status: (\w+)", told)
    assert found is not None, told
    section = told.partition("ANSWER SECTION:\n")[2].partition("\n\n")[0]
    return found[1], [" ".join(line.split()) for line in section.splitlines()], told


@pytest.mark.parametrize("way", ["+notcp", "+tcp"])
def test_a_home_lan_by_dig(server: Server, way: str) -> None:
    status, answer, told = dig(server, way, "nas.lan")
    assert (status, answer) == ("NOERROR", ["nas.lan. 120 IN A 192.168.1.5"])
    assert " aa" not in told.partition("flags:")[2].partition(";")[0] and "EDE" not in told
    assert dig(server, way, "NAS.lan", "AAAA")[1] == ["NAS.lan. 120 IN AAAA fd00::5"]
    assert dig(server, way, "nas.lan", "MX")[1] == ["nas.lan. 300 IN MX 10 nas.lan."]
    assert dig(server, way, "nas.lan", "TXT")[1] == ['nas.lan. 60 IN TXT "in the cellar"']
    status, answer, told = dig(server, way, "nas.lan", "SRV")
    assert (status, answer) == ("NOERROR", []) and "SOA" in told
    assert dig(server, way, "-x", "192.168.1.5")[1] == ["5.1.168.192.in-addr.arpa. 120 IN PTR nas.lan."]
    assert dig(server, way, "-x", "fd00::5")[1][0].endswith(" 120 IN PTR nas.lan.")
    assert dig(server, way, "-x", "192.168.1.77")[0] == "NXDOMAIN"
    assert dig(server, way, "nas.lan", "ANY")[1] == ['nas.lan. 60 IN HINFO "RFC8482" ""']
    assert dig(server, way, "a.b.dev.lan")[1] == ["a.b.dev.lan. 60 IN A 192.168.1.9"]
    assert dig(server, way, "+norec", "nas.lan")[1] == ["nas.lan. 120 IN A 192.168.1.5"]
    assert dig(server, way, "+dnssec", "nas.lan")[1] == ["nas.lan. 120 IN A 192.168.1.5"]
    assert dig(server, way, "x.ads.example")[1] == ["x.ads.example. 60 IN A 192.168.1.10"]
    assert dig(server, way, "y.ads.example")[1][0].endswith(" A 0.0.0.0")


@pytest.mark.parametrize("way", ["+notcp", "+tcp"])
def test_aliases_are_resolved_on(server: Server, upstream: FakeUpstream, way: str) -> None:
    assert dig(server, way, "album.lan")[1] == [
        "album.lan. 60 IN CNAME photos.lan.",
        "photos.lan. 60 IN CNAME nas.lan.",
        "nas.lan. 120 IN A 192.168.1.5",
    ]
    status, answer, told = dig(server, way, "album.lan", "SRV")
    assert status == "NOERROR" and len(answer) == 2 and "SOA" in told
    status, answer, _ = dig(server, way, "mirror.lan")
    assert status == "NOERROR"
    assert [line.split()[-1] for line in answer] == ["www.example.org.", address_of("www.example.org")]


def test_what_an_alias_leads_to_is_kept(server: Server, upstream: FakeUpstream) -> None:
    for _ in range(20):
        assert server.addresses("mirror.lan", "A", tcp=True) == [address_of("www.example.org")]
    workers = len(server.worker_pids())
    assert 1 <= upstream.count("www.example.org") <= workers


@pytest.mark.parametrize("way", ["+notcp", "+tcp"])
def test_special_names_never_leave(server: Server, upstream: FakeUpstream, way: str) -> None:
    before = len(upstream.seen)
    assert dig(server, way, "localhost")[1] == ["localhost. 10800 IN A 127.0.0.1"]
    for name in ("a.test", "invalid", "abc.onion", "use-application-dns.net", "mask.icloud.com", "b.home.arpa"):
        assert dig(server, way, name)[0] == "NXDOMAIN"
    status, answer, told = dig(server, way, "_dns.resolver.arpa", "SVCB")
    assert (status, answer) == ("NOERROR", []) and re.search(r"^resolver\.arpa\.\s+300\s+IN\s+SOA", told, re.MULTILINE)
    assert dig(server, way, "168.192.in-addr.arpa", "NS")[1] == [
        "168.192.in-addr.arpa. 10800 IN NS 168.192.in-addr.arpa."
    ]
    assert len(upstream.seen) == before


@pytest.mark.parametrize("way", ["+notcp", "+tcp"])
def test_safe_search_is_for_the_group_alone(server: Server, way: str) -> None:
    target = "forcesafesearch.google.com"
    _, answer, told = dig(server, way, "-b", KID, "www.google.com")
    assert [line.split()[-1] for line in answer] == [f"{target}.", address_of(target)]
    assert "EDE: 4 (Forged Answer)" in told
    for rdtype in ("HTTPS", "SVCB", "AAAA"):
        assert dig(server, way, "-b", KID, "www.google.com", rdtype)[1][0].endswith(f"CNAME {target}.")
    assert dig(server, way, "-b", KID, "www.google.de")[1][0].endswith(" A 0.0.0.0")  # blocked
    assert dig(server, way, "-b", KID, "www.google.fr")[1][0].endswith(address_of("www.google.fr"))  # allowed
    assert dig(server, way, "-b", KID, "dns.google")[1][0].endswith(" A 0.0.0.0")
    for name in ("www.google.com", "dns.google"):
        assert dig(server, way, name)[1][0].endswith(address_of(name))


def test_a_pause_ends_safe_search_and_leaves_local_names(server: Server) -> None:
    server.tampah("pause", "kids", "--for", "10m").check_returncode()
    plain = address_of("www.google.com")
    until(
        lambda: all(server.addresses("www.google.com", source=KID) == [plain] for _ in range(8)),
        "the pause is enforced",
    )
    assert server.addresses("nas.lan", source=KID) == ["192.168.1.5"]
    assert server.rcode("mask.icloud.com", source=KID) == "NXDOMAIN"
    server.tampah("resume", "kids").check_returncode()
    until(
        lambda: all(server.addresses("www.google.com", source=KID) != [plain] for _ in range(8)), "the pause has ended"
    )


@pytest.mark.parametrize("way", ["+notcp", "+tcp"])
def test_addresses_are_made_for_ipv6(server: Server, upstream: FakeUpstream, way: str) -> None:
    upstream.on("four.example", Act(records=("four.example. 60 IN A 192.0.2.1",)))
    name = f"only4{way.strip('+')}.example"
    made = Act(records=(), soa=True)
    upstream.on(name, made, Act(records=(f"{name}. 60 IN A 192.0.2.33",)))
    for _ in range(3):  # the second time from the cache of one worker or another
        upstream.on(name, Act(records=(), soa=True), Act(records=(f"{name}. 60 IN A 192.0.2.33",)))
        answer = dig(server, way, name, "AAAA")[1]
        assert [line.split()[3:] for line in answer] == [["AAAA", "2001:db8:64::c000:221"]]
    address = "2001:db8:64::c0a8:105"
    assert [line.split()[-2:] for line in dig(server, way, "-x", address)[1]] == [
        ["CNAME", "5.1.168.192.in-addr.arpa."],
        ["PTR", "nas.lan."],
    ]
    assert len(dig(server, way, "ipv4only.arpa", "AAAA")[1]) == 2


def test_the_operator_is_told_and_can_change_it(server: Server) -> None:
    told = server.tampah("explain", "nas.lan").stdout
    assert "decides: local record from config: rewrites[0]" in told and "nas.lan. 120 IN A 192.168.1.5" in told
    counts = server.metrics()
    assert counts[("tampah_answers_total", "local", "local", "built-in:local")] > 0
    server.tampah("block", "nas.lan").check_returncode()
    assert server.addresses("nas.lan") == ["0.0.0.0"]
    server.tampah("allow", "nas.lan").check_returncode()
    assert server.addresses("nas.lan") == ["192.168.1.5"]
    changed = [{"name": "nas.lan", "answers": ["192.168.1.6"]}, *CONFIG["rewrites"][1:]]
    server.configure(rewrites=changed)
    server.tampah("reload").check_returncode()
    assert {server.addresses("nas.lan")[0] for _ in range(8)} == {"192.168.1.6"}
    server.configure(rewrites=[{"name": "a.lan", "answers": ["b.lan"]}, {"name": "b.lan", "answers": ["a.lan"]}])
    failed = server.tampah("reload")
    assert failed.returncode == 1 and "rewrites[0]: expected an alias of another name" in failed.stderr + failed.stdout
    assert server.addresses("nas.lan") == ["192.168.1.6"]
    server.configure(rewrites=CONFIG["rewrites"])
    server.tampah("reload").check_returncode()
