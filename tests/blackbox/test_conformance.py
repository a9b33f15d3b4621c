"""Every query of the conformance list (RFC 8906 section 8, and what else a client may send), by dig, kdig and dnspython.

For names that are blocked, forwarded, cached and answered here, by each transport: a table of what came of it is printed.
Rows of raw octets follow: what no tool would send.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.blackbox.conformance import BLOCKED, CACHED, FORWARDED, KINDS, LOCAL, TOOLS, WAYS, Answer, Row, Way
from tests.blackbox.encrypted import Encrypted
from tests.blackbox.harness import Server
from tests.fakes import Act, FakeUpstream

NSID_COOKIE = (
    dns.edns.GenericOption(dns.edns.OptionType.NSID, b""),
    dns.edns.GenericOption(dns.edns.OptionType.make(9), b""),
    dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes(range(8))),
    dns.edns.ECSOption("0.0.0.0", 0),
)
UNKNOWN = (dns.edns.GenericOption(dns.edns.OptionType.make(100), b""),)
EDNS1 = ("+edns=1", "+noednsneg")
DO = int(dns.flags.DO)

ROWS = [
    Row("plain", ("+noedns",), ("+noedns",), edns=-1),
    Row("soa", ("+noedns", "+norec"), ("+noedns", "+norec"), "SOA", "", -1),
    Row("type1000", ("+noedns", "+norec"), ("+noedns", "+norec"), "TYPE1000", "", -1),
    Row("norec", ("+norec",), ("+edns=0", "+norec"), flags=""),
    Row("cd", ("+noedns", "+cd"), ("+noedns", "+cdflag"), flags="RD CD", edns=-1),
    Row("ad", ("+noedns", "+ad"), ("+noedns", "+adflag"), flags="RD AD", edns=-1),
    Row("z", ("+noedns", "+zflag"), ("+noedns", "+zflag"), edns=-1, z=True),
    Row("opcode", ("+noedns", "+opcode=15", "+header-only"), None, edns=-1, opcode=15),
    Row("edns", ("+edns=0",), ("+edns=0",)),
    Row("edns1", EDNS1, ("+edns=1",), edns=1),
    Row("option", ("+ednsopt=100",), ("+edns=0", "+ednsopt=100"), options=UNKNOWN),
    Row("ednsflags", ("+ednsflags=0x40",), None, ednsflags=0x40),
    Row("edns1 flags", (*EDNS1, "+ednsflags=0x40"), None, edns=1, ednsflags=0x40),
    Row("edns1 option", (*EDNS1, "+ednsopt=100"), ("+edns=1", "+ednsopt=100"), edns=1, options=UNKNOWN),
    Row("edns1 do", (*EDNS1, "+dnssec"), ("+edns=1", "+dnssec"), edns=1, ednsflags=DO),
    Row("do", ("+dnssec",), ("+edns=0", "+dnssec"), ednsflags=DO),
    Row(
        "options",
        ("+cookie", "+nsid", "+expire", "+subnet=0.0.0.0/0"),
        ("+cookie", "+nsid", "+expire", "+subnet=0.0.0.0/0"),
        options=NSID_COOKIE,
    ),
    Row("large", ("+bufsize=512",), ("+bufsize=512",), "TXT", payload=512),
    Row("https", ("+edns=0",), ("+edns=0",), "HTTPS"),
    Row("axfr", None, None, "AXFR"),
    Row("ixfr", None, None, "TYPE251"),
    Row("any", ("+edns=0",), ("+edns=0",), "ANY"),
]
HAS_ADDRESS = ("plain", "norec", "cd", "ad", "z", "edns", "option", "ednsflags", "do", "options")


def faults(row: Row, kind: str, way: Way, got: Answer) -> Iterator[str]:
    """What does not hold of an answer."""
    refuses = kind == FORWARDED and "RD" not in row.flags  # nobody here knows it, and it is not to be asked for
    rcode = (
        "NOTIMP" if row.opcode else "BADVERS" if row.edns > 0 else
        "REFUSED" if refuses or row.name in ("axfr", "ixfr") else "NOERROR"
    )  # fmt: skip
    if got.rcode != rcode:
        yield f"{got.rcode}, not {rcode}"
    truncated = way.name == "udp" and kind != BLOCKED and row.name in ("large", "any")
    if ("tc" in got.flags) != truncated:
        yield "TC" if "tc" in got.flags else "no TC"
    if "qr" not in got.flags or ("ra" not in got.flags) or "aa" in got.flags:
        yield "flags"
    for flag in ("rd", "cd"):
        if (flag in got.flags) != (flag.upper() in row.flags.split() and not row.opcode) and not row.opcode:
            yield f"{flag} not echoed"
    if "ad" in got.flags:
        yield "AD, though nothing was validated"
    if got.has_z:
        yield "Z echoed"
    if (got.edns >= 0) != (row.edns >= 0) or got.edns > 0:
        yield f"EDNS version {got.edns}"
    if row.edns >= 0 and got.do != bool(row.ednsflags & DO):
        yield "DO not copied"
    unknown = got.options - {"ede", "cookie", "nsid"}
    if unknown:
        yield f"echoes {', '.join(unknown)}"
    if row.name == "options" and not {"cookie", "nsid"} <= got.options:
        yield "no cookie or no NSID"
    if row.edns == 0 and rcode == "NOERROR" and (kind == BLOCKED) != ("ede" in got.options):
        yield "EDE" if "ede" in got.options else "no EDE"
    wanted = rcode == "NOERROR" and not truncated and (
        row.name in HAS_ADDRESS or row.name == "any" or (row.name == "large" and kind != BLOCKED)
    )  # fmt: skip
    if bool(got.counts[0]) != bool(wanted):
        yield f"{got.counts[0]} answers"


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake


@pytest.fixture(scope="module")
def server(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "blocked.txt").write_text("blocked.example\n")
    texts = "\n".join(f"||local.example^$dnsrewrite=NOERROR;TXT;{'x' * 180}{number}" for number in range(9))
    (folder / "local.txt").write_text(f"||local.example^$dnsrewrite=192.0.2.7\n{texts}\n")
    config = {
        "workers": 1,
        "lists": [
            {"name": "blocked", "source": "blocked.txt", "format": "domains"},
            {"name": "local", "source": "local.txt", "format": "adblock", "category": "local"},
        ],
        "categories": {"local": {"ede": "none"}},
        "identity": {"nsid": "node 1", "version": "v", "id": "n1"},
    }
    with Encrypted(folder, config, upstream=upstream.port) as server:
        yield server


def name_of(kind: str, row: Row, way: Way, tool: str, upstream: FakeUpstream) -> str:
    """A name of a kind; each question to upstream has one of its own, so that it is cached where it is to be."""
    if kind in (BLOCKED, LOCAL):
        return f"{kind}.example"
    name = f"{kind}-{row.name.replace(' ', '')}-{way.name}-{tool}.example"
    if row.name in ("large", "any"):
        upstream.on(name, Act(size=2000))
    return name


@pytest.mark.peer("dig")
@pytest.mark.peer("kdig")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_the_conformance_list(
    way: Way, server: Encrypted, upstream: FakeUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong: list[str] = []
    lines = [f"{way.name:14}" + "".join(f"{kind + ' ' + tool:>20}" for kind in KINDS for tool in TOOLS)]
    for row in ROWS:
        cells = []
        for kind in KINDS:
            for tool, ask in TOOLS.items():
                name = name_of(kind, row, way, tool, upstream)
                if kind == CACHED and row.edns <= 0 and not row.opcode:
                    prime(row, name, server)
                try:
                    got = ask(row, way, name, server)
                except (AssertionError, dns.exception.DNSException, OSError) as error:
                    cells.append("no answer")
                    wrong.append(f"{row.name}, {kind}, {tool}: {error!r}")
                    continue
                found = list(faults(row, kind, way, got)) if got else []
                wrong += [f"{row.name}, {kind}, {tool}: {fault}" for fault in found]
                cells.append("-" if got is None else f"{'!' if found else ''}{got.rcode} {sum(got.counts)}")
        lines.append(f"{row.name:14}" + "".join(f"{cell:>20}" for cell in cells))
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert not wrong, "\n".join(wrong)


def prime(row: Row, name: str, server: Server) -> None:
    """Have an answer cached to the very question of a row."""
    flags = dns.flags.from_text(f"RD {row.flags}")
    query = dns.message.make_query(name, row.rdtype, flags=flags, use_edns=0, ednsflags=row.ednsflags & DO)
    assert dns.query.tcp(query, server.host, 10, server.port).rcode() in (0, 5)


# -- octets that no tool would send -----------------------------------------------------------------------------------
NAME = b"\7blocked\7example\0"
A_IN = b"\0\1\0\1"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def head(flags: int = 0x0100, questions: int = 1, answers: int = 0, additional: int = 0) -> bytes:
    return struct.pack(">HHHHHH", 0x1234, flags, questions, answers, 0, additional)


def opt(*options: tuple[int, bytes]) -> bytes:
    rdata = b"".join(struct.pack(">HH", code, len(data)) + data for code, data in options)
    return OPT[:-2] + struct.pack(">H", len(rdata)) + rdata


@dataclass(frozen=True)
class Raw:
    """Octets, and what comes: None nothing, else an rcode, and what else must hold."""

    name: str
    octets: bytes
    rcode: str | None
    holds: Callable[[bytes], bool] = lambda _: True


def echoes(question: bytes) -> Callable[[bytes], bool]:
    return lambda reply: reply[12 : 12 + len(question)] == question


MIXED = b"\7bLoCkEd\7eXaMpLe\0" + A_IN
CHAOS = b"\7version\4bind\0\0\x10\0\3"
RAW = [
    Raw("no question", head(questions=0), "FORMERR"),
    Raw("two questions", head(questions=2) + (NAME + A_IN) * 2, "FORMERR"),
    Raw("an answer", head(0x8180) + NAME + A_IN, None),
    Raw("header alone", head(), "FORMERR"),
    Raw("name cut off", head() + NAME[:5], "FORMERR"),
    Raw("type cut off", head() + NAME + b"\0", "FORMERR"),
    Raw("name loops", head() + b"\xc0\x0c" + A_IN, "FORMERR"),
    Raw("pointer in question", head() + b"\1a\xc0\x04" + A_IN, "FORMERR"),
    Raw("pointer ahead", head() + b"\xc0\x20" + A_IN + NAME, "FORMERR"),
    Raw("label of 64", head() + b"\x40" + b"a" * 64 + b"\0" + A_IN, "FORMERR"),
    Raw("name of 256", head() + (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"b" * 62 + b"\0" + A_IN, "FORMERR"),
    Raw("name of 255", head() + (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"b" * 61 + b"\0" + b"\0\x29\0\1", "FORMERR"),
    Raw("two OPT", head(additional=2) + NAME + A_IN + OPT * 2, "FORMERR"),
    Raw("OPT in answers", head(answers=1) + NAME + A_IN + OPT, "FORMERR"),
    Raw("OPT below a name", head(additional=1) + NAME + A_IN + b"\1a" + OPT, "FORMERR"),
    Raw("option too long", head(additional=1) + NAME + A_IN + opt((100, b"abc"))[:-1], "FORMERR"),
    Raw("cookie of 7", head(additional=1) + NAME + A_IN + opt((10, bytes(7))), "FORMERR"),
    Raw("cookie of 12", head(additional=1) + NAME + A_IN + opt((10, bytes(12))), "FORMERR"),
    Raw("cookie of 41", head(additional=1) + NAME + A_IN + opt((10, bytes(41))), "FORMERR"),
    Raw("case", head() + MIXED, "NOERROR", echoes(MIXED)),
    Raw("update", head(0x2800) + NAME + A_IN, "NOTIMP"),
    Raw("status", head(0x1000) + NAME + A_IN, "NOTIMP"),
    Raw("class ANY", head() + NAME + b"\0\1\0\xff", "REFUSED"),
    Raw("class HS", head() + NAME + b"\0\1\0\4", "REFUSED"),
    Raw("AXFR", head() + NAME + b"\0\xfc\0\1", "REFUSED"),
    Raw("IXFR", head() + NAME + b"\0\xfb\0\1", "REFUSED"),
    Raw("TKEY", head() + NAME + b"\0\xf9\0\1", "REFUSED"),
    Raw("version.bind", head() + CHAOS, "NOERROR", lambda reply: reply.endswith(b"\0\2\1v")),
    Raw("hostname.bind", head() + b"\x08hostname\4bind\0\0\x10\0\3", "NOERROR", lambda reply: reply.endswith(b"\2n1")),
    Raw("authors.bind", head() + b"\7authors\4bind\0\0\x10\0\3", "REFUSED"),
    Raw("ANY", head() + NAME + b"\0\xff\0\1", "NOERROR", lambda reply: b"RFC8482" in reply),
]


def send(way: Way, server: Server, octets: bytes) -> bytes | None:
    """The reply to octets; None: there is none, while a sound query behind them is answered."""
    sound = struct.pack(">HHHHHH", 0x4321, 0x0100, 1, 0, 0, 0) + NAME + A_IN
    is_stream = way.name != "udp"
    kind = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(10)
        client.connect((server.host, server.port))
        if not is_stream:
            client.send(octets)
            client.send(sound)
            reply = client.recv(65535)
        else:
            client.sendall(b"".join(struct.pack(">H", len(each)) + each for each in (octets, sound)))
            reply = _exactly(client, struct.unpack(">H", _exactly(client, 2))[0])
        return None if reply[:2] == b"\x43\x21" else reply


def _exactly(client: socket.socket, size: int) -> bytes:
    octets = b""
    while len(octets) < size:
        octets += client.recv(size - len(octets)) or pytest.fail("the connection was closed")
    return octets


@pytest.mark.parametrize("way", [way for way in WAYS if way.name in ("udp", "tcp")], ids=lambda way: way.name)
@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw.name.replace(" ", "-"))
def test_octets_that_no_tool_would_send(raw: Raw, way: Way, server: Server) -> None:
    reply = send(way, server, raw.octets)
    if raw.rcode is None:
        assert reply is None
        return
    assert reply is not None
    message = dns.message.from_wire(reply)
    assert dns.rcode.to_text(message.rcode()) == raw.rcode
    assert reply[:2] == raw.octets[:2] and raw.holds(reply)
    has_opt = raw.octets[12:].startswith(NAME + A_IN + b"\0\0\x29")
    assert (message.edns == 0) == has_opt or raw.name in ("two OPT", "OPT in answers", "option too long")


@pytest.mark.parametrize(("size", "most"), [(0, 512), (400, 512), (512, 512), (900, 900), (1232, 1232), (4096, 1232)])
def test_a_datagram_is_never_larger_than_its_client_takes(
    size: int, most: int, server: Server, upstream: FakeUpstream
) -> None:
    lengths = []
    for number in range(250, 1500, 50):
        name = f"sized-{number}.example"
        upstream.on(name, Act(size=number))
        query = dns.message.make_query(name, "TXT", use_edns=0 if size else -1, payload=size)
        dns.query.tcp(query, server.host, 10, server.port)
        answer = send_udp(query.to_wire(), server)
        message = dns.message.from_wire(answer)
        assert len(answer) <= most and bool(message.flags & dns.flags.TC) == (not message.answer)
        assert message.edns == (0 if size else -1)
        lengths.append(len(answer))
    assert max(lengths) > most - 200 and min(lengths) < 100


def send_udp(octets: bytes, server: Server) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((server.host, server.port))
        client.send(octets)
        return client.recv(65535)
