"""Upstream faults against every transport: how many questions are answered all the same, and what is said where none is.

The figures beside other forwarders are those of `python -m tests.bench.faults`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import dns.asyncquery
import dns.edns
import dns.exception
import dns.message
import dns.rcode
import pytest

from tests.blackbox.harness import Server, until
from tests.certificates import DAY, Authority, key_pem, make_key
from tests.fakes import Act, FakeUpstream, address_of

TRANSPORTS = ("udp", "tcp", "tls", "https")
ENCRYPTED = ("tls", "https")
QUESTIONS = 60
AT_A_TIME = 12
GARBAGE = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\xff\xff\1\2\3"


@dataclass(frozen=True)
class Fault:
    """What upstreams do, on which transports, and which share of the questions is to be answered."""

    acts: tuple[tuple[Act, ...], ...]
    share: float
    transports: tuple[str, ...] = TRANSPORTS
    codes: frozenset[int] = field(default_factory=frozenset)
    """Of the Extended DNS Errors that say why, where there is no answer."""


# Of eight tries with 30 % each, fewer than one in ten thousand has no luck. A server that breaks or lies is given four: one
# question in a hundred has no answer, and of sixty more than six in one run of a hundred thousand.
FAULTS = {
    "loss of 30 %": Fault(((Act(drop=True, share=0.3),),), 0.98),
    "a delay": Fault(((Act(delay=0.3),),), 1.0),
    "wrong ids": Fault(((Act(lie="id", share=0.3),),), 0.9, ("udp",)),
    "wrong questions": Fault(((Act(lie="question", share=0.3),),), 0.9),
    "garbage": Fault(((Act(raw=GARBAGE, share=0.3),),), 0.9),
    "nothing but wrong questions": Fault(((Act(lie="question"),),), 0.0, codes=frozenset({22, 23})),
    "TCP alone": Fault(((Act(truncate=True),),), 1.0, ("udp",)),
    "cut in mid-answer": Fault(((Act(tcp="cut", share=0.3),),), 0.9, ("tcp", "tls", "https")),
    "reset": Fault(((Act(tcp="reset", share=0.3),),), 0.9, ("tcp", "tls", "https")),
    "all dead": Fault(((Act(drop=True),), (Act(drop=True),)), 0.0, codes=frozenset({22, 23})),
    "one dead of three": Fault(((Act(drop=True),), (), ()), 1.0),
}
CASES = [(name, transport) for name, fault in FAULTS.items() for transport in fault.transports]


def server_text(upstream: FakeUpstream, transport: str) -> str:
    port = {"tls": upstream.tls_port, "https": upstream.https_port}.get(transport, upstream.port)
    return f"{transport}://127.0.0.1:{port}"


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    authority = Authority()
    (tmp_path / "ca.pem").write_text(authority.pem)
    return authority.issue(tmp_path)


def info_codes(answer: dns.message.Message) -> list[int]:
    return [int(option.code) for option in answer.options if isinstance(option, dns.edns.EDEOption)]


async def _ask_all(server: Server, names: list[str]) -> dict[str, dns.message.Message | None]:
    found: dict[str, dns.message.Message | None] = {}
    places = asyncio.Semaphore(AT_A_TIME)

    async def one(name: str) -> None:
        async with places:
            query = dns.message.make_query(name, "A", use_edns=0)
            try:
                found[name] = await dns.asyncquery.udp(
                    query, server.host, 8, server.port, ignore_unexpected=True, ignore_errors=True
                )
            except dns.exception.Timeout:
                found[name] = None

    await asyncio.gather(*map(one, names))
    return found


def outcome(name: str, answer: dns.message.Message | None) -> str:
    if answer is None:
        return "silence"
    if answer.rcode() == 0:
        right = [item.to_text() for rrset in answer.answer for item in rrset] == [address_of(name)]
        return "right" if right else "wrong"
    return dns.rcode.to_text(answer.rcode())


@pytest.mark.parametrize(("name", "transport"), CASES)
def test_faults(tmp_path: Path, certificate: dict[str, str], name: str, transport: str) -> None:
    fault = FAULTS[name]
    with ExitStack() as stack:
        upstreams = [stack.enter_context(FakeUpstream(certificate=certificate)) for _ in fault.acts]
        for upstream, acts in zip(upstreams, fault.acts, strict=True):
            if acts:
                upstream.on("*", *acts)
        servers = [server_text(upstream, transport) for upstream in upstreams]
        config = {"workers": 1, "upstream": {"servers": servers, "ca": "ca.pem"}}
        server = stack.enter_context(Server(tmp_path, config))
        names = [f"n{number}.{transport}.example" for number in range(QUESTIONS)]
        answers = asyncio.run(_ask_all(server, names))
        outcomes = Counter(outcome(each, answer) for each, answer in answers.items())
        assert set(outcomes) <= {"right", "SERVFAIL"}, outcomes
        assert outcomes["right"] >= fault.share * QUESTIONS, outcomes
        if fault.share == 0.0:
            assert outcomes["right"] == 0
        for answer in answers.values():
            if answer is not None and answer.rcode() == dns.rcode.SERVFAIL and fault.codes:
                assert set(info_codes(answer)) <= fault.codes | {13} and info_codes(answer)


@pytest.mark.parametrize("transport", ENCRYPTED)
@pytest.mark.parametrize(
    ("what", "said"),
    [("expired", "has expired"), ("name", "is for another name"), ("stranger", "is not from a trusted authority")],
)
def test_a_bad_certificate(tmp_path: Path, certificate: dict[str, str], what: str, said: str, transport: str) -> None:
    authority = Authority()
    key = make_key()
    (tmp_path / "bad.key").write_text(key_pem(key))
    names, ends = (["dns.other"] if what == "name" else ["127.0.0.1"]), (-DAY if what == "expired" else DAY)
    (tmp_path / "bad.pem").write_text(authority.sign(key, names, begins=-2 * DAY, ends=ends))
    if what != "stranger":
        (tmp_path / "ca.pem").write_text(authority.pem)
    bad = {"chain": str(tmp_path / "bad.pem"), "key": str(tmp_path / "bad.key")}
    with FakeUpstream(certificate=bad) as upstream:
        config = {"workers": 1, "upstream": {"servers": [server_text(upstream, transport)], "ca": "ca.pem"}}
        with Server(tmp_path, config) as server:
            answer = server.ask("www.example", timeout=8)
            assert answer.rcode() == dns.rcode.SERVFAIL and info_codes(answer) == [23]
            (told,) = (option.text for option in answer.options if isinstance(option, dns.edns.EDEOption))
            assert told is not None and said in told
            assert said in server.log, "the operator is told"
            name = server_text(upstream, transport)
            faults = {
                key[1:]: value for key, value in server.metrics().items() if key[0] == "tampah_upstream_faults_total"
            }
            known = str(next(server for _, server in faults if server.startswith(name)))
            assert faults[("certificate", known)] >= 1 and faults[("network", known)] == 0
        assert upstream.seen == [], "nothing is asked of a stranger"


def test_servers_by_name_and_a_path_over_https(tmp_path: Path, certificate: dict[str, str]) -> None:
    with FakeUpstream(certificate=certificate) as upstream, FakeUpstream() as bootstrap:
        bootstrap.on("dns.test", Act(records=("dns.test. 60 IN A 127.0.0.1",)))
        servers = [f"https://dns.test:{upstream.https_port}/private"]
        config = {"servers": servers, "ca": "ca.pem", "bootstrap": [f"127.0.0.1:{bootstrap.port}"]}
        with Server(tmp_path, {"workers": 1, "upstream": config}) as server:
            assert server.addresses("www.example") == [address_of("www.example")]
            assert server.tampah("check").returncode == 0
        (request,) = (each for each in upstream.requests[:1])
        assert request[":path"] == "/private" and request[":authority"] == f"dns.test:{upstream.https_port}"
        assert bootstrap.count("www.example") == 0 and bootstrap.count("dns.test") >= 1


def test_a_name_that_nobody_can_look_up_is_an_error_in_the_config(tmp_path: Path) -> None:
    server = Server(tmp_path, {"upstream": {"servers": ["tls://dns.example"]}})
    done = server.tampah("check")
    assert done.returncode == 1
    assert "upstream.servers[0]: expected to know where the server is: add ?ip=ADDRESS" in done.stdout + done.stderr
    server.configure(upstream={"servers": ["tls://dns.example?ip=192.0.2.1"], "ca": "missing.pem"})
    done = server.tampah("check")
    assert done.returncode == 1 and "upstream.ca: expected a file of certificates" in done.stdout + done.stderr


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[Server, FakeUpstream, FakeUpstream, FakeUpstream]]:
    with FakeUpstream() as usual, FakeUpstream() as kids, FakeUpstream() as corp:
        for upstream, address in ((usual, "192.0.2.1"), (kids, "192.0.2.2"), (corp, "192.0.2.3")):
            upstream.on("*", Act(records=("www.example. 60 IN A " + address,)))
        (tmp_path / "ads.txt").write_text("ads.example\n")
        config = {
            "workers": 1,
            "lists": [{"name": "ads", "source": "ads.txt"}],
            "groups": [{"name": "kids", "clients": ["127.0.0.2"], "upstream": [f"127.0.0.1:{kids.port}"]}],
            "upstream": {
                "servers": [f"127.0.0.1:{usual.port}"],
                "routes": [{"zones": ["corp.example"], "servers": [f"127.0.0.1:{corp.port}"]}],
            },
        }
        with Server(tmp_path, config) as server:
            yield server, usual, kids, corp


def test_a_group_has_upstreams_of_its_own(family: tuple[Server, FakeUpstream, FakeUpstream, FakeUpstream]) -> None:
    server, usual, kids, corp = family
    for _ in range(2):  # from upstream, then from the cache
        assert server.addresses("www.example") == ["192.0.2.1"]
        assert server.addresses("www.example", source="127.0.0.2") == ["192.0.2.2"]
    for source in ("127.0.0.1", "127.0.0.2"):
        server.ask("www.corp.example", source=source)
        assert server.addresses("ads.example", source=source) == ["0.0.0.0"]
    assert (usual.count("www.example"), kids.count("www.example")) == (1, 1)
    assert (usual.count("www.corp.example"), kids.count("www.corp.example")) == (0, 0)
    assert corp.count("www.corp.example") == 1, "a zone's route wins, and is one for all"


def test_a_paused_group_keeps_its_upstreams(family: tuple[Server, FakeUpstream, FakeUpstream, FakeUpstream]) -> None:
    server, usual, kids, _ = family
    server.tampah("pause", "kids", "--for", "1h").check_returncode()
    kids.on("ads.example", Act(records=("ads.example. 60 IN A 192.0.2.9",)))
    until(lambda: server.addresses("ads.example", source="127.0.0.2") == ["192.0.2.9"], "the pause holds")
    assert usual.count("ads.example") == 0


def test_another_upstream_of_a_group_is_asked_after_a_reload(
    family: tuple[Server, FakeUpstream, FakeUpstream, FakeUpstream],
) -> None:
    server, _, kids, corp = family
    assert server.addresses("www.example", source="127.0.0.2") == ["192.0.2.2"]
    group = {"name": "kids", "clients": ["127.0.0.2"], "upstream": [f"127.0.0.1:{corp.port}"]}
    server.configure(groups=[group])
    server.tampah("reload").check_returncode()
    assert server.addresses("www.example", source="127.0.0.2") == ["192.0.2.3"], "nothing of the old one is left"
    assert kids.count("www.example") == 1
