"""What the conformance table asks and how its tools are read: see test_conformance.py.

A *row* is a query as dig, kdig and dnspython can send it, and what must hold of the answer. A *kind* is a name by how its
answer comes about. A *way* is a transport: to add one, add to `WAYS` what makes dig and kdig use it and a function that
sends a message. A tool that cannot send a row, or does not speak a transport, says so by None.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import dns.rdatatype

from tests.blackbox.encrypted import Encrypted

PATIENCE = 20.0  # seconds for one query
BLOCKED, FORWARDED, CACHED, LOCAL = KINDS = ("blocked", "forwarded", "cached", "local")


@dataclass(frozen=True)
class Answer:
    """What came back, as any tool tells it. `edns`: the version, -1 without OPT; `options`: what is known of codes."""

    rcode: str
    flags: frozenset[str]
    counts: tuple[int, int, int]  # ANSWER, AUTHORITY, ADDITIONAL
    edns: int = -1
    do: bool = False
    has_z: bool = False  # of the header, or of EDNS but for DO
    options: frozenset[str] = frozenset()


Options = Callable[[Encrypted], Sequence[str]]


@dataclass(frozen=True)
class Way:
    """A transport: what dig and kdig are told so that they use it, port included (None: they do not speak it), and how a
    message of dnspython is sent there."""

    name: str
    dig: Options | None
    kdig: Options | None
    send: Callable[[Encrypted, dns.message.Message], dns.message.Message]


def _plain(*options: str) -> Options:
    return lambda server: ("-p", str(server.port), *options)


def _trusting(server: Encrypted, port: int, *options: str) -> Sequence[str]:
    return ("-p", str(port), f"+tls-ca={server.ca}", "+tls-hostname=localhost", *options)


WAYS = [
    Way(
        "udp",
        _plain("+notcp", "+ignore"),
        _plain("+notcp", "+ignore"),
        lambda server, query: dns.query.udp(query, server.host, PATIENCE, server.port, ignore_unexpected=True),
    ),
    Way(
        "tcp",
        _plain("+tcp"),
        _plain("+tcp"),
        lambda server, query: dns.query.tcp(query, server.host, PATIENCE, server.port),
    ),
    Way(
        "tls",
        lambda server: _trusting(server, server.tls_port, "+tls"),
        lambda server: _trusting(server, server.tls_port, "+tls", "+nopadding"),
        lambda server, query: server.over_tls(query, PATIENCE),
    ),
    Way(
        "https",
        lambda server: _trusting(server, server.https_port, "+https"),
        lambda server: _trusting(server, server.https_port, "+https", "+nopadding"),
        lambda server, query: server.over_https(query, PATIENCE),
    ),
    Way("http3", None, None, lambda server, query: server.over_http3(query)),
    Way(
        "quic",
        None,
        lambda server: _trusting(server, server.quic_port, "+quic", "+nopadding"),
        lambda server, query: server.over_quic(query),
    ),
]


@dataclass(frozen=True)
class Row:
    """A query. `dig`, `kdig`: what is added to the command line; the same for dnspython in the other fields."""

    name: str
    dig: tuple[str, ...] | None
    kdig: tuple[str, ...] | None
    rdtype: str = "A"
    flags: str = "RD"
    edns: int = 0  # -1: no OPT
    ednsflags: int = 0
    options: Sequence[dns.edns.Option] = field(default=())
    payload: int = 1232
    opcode: int = 0
    z: bool = False

    def message(self, name: str) -> dns.message.Message:
        """The query for dnspython."""
        made = dns.message.make_query(name, self.rdtype, flags=dns.flags.from_text(self.flags))
        if self.z:
            made.flags |= 0x40
        if self.edns >= 0:
            made.use_edns(self.edns, self.ednsflags, self.payload, options=list(self.options))
        if self.opcode:
            made.question.clear()
            made.set_opcode(dns.opcode.Opcode(self.opcode))
        return made


def run(command: Sequence[str]) -> str:
    """What a tool prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


COMMON = ("+tries=1", "+retry=0", f"+time={PATIENCE:g}")


def by_dig(row: Row, way: Way, name: str, server: Encrypted) -> Answer | None:
    """The answer as dig sees it."""
    if row.dig is None or way.dig is None:
        return None
    extra = [] if "+header-only" in row.dig else [name, row.rdtype]
    return read_dig(run(["dig", "+nocookie", "+noad", f"@{server.host}", *COMMON, *way.dig(server), *row.dig, *extra]))


def by_kdig(row: Row, way: Way, name: str, server: Encrypted) -> Answer | None:
    """The answer as kdig sees it."""
    if row.kdig is None or way.kdig is None:
        return None
    common = ("+noadflag", "+retry=0", f"+time={PATIENCE:g}")
    return read_kdig(run(["kdig", f"@{server.host}", *common, *way.kdig(server), *row.kdig, name, row.rdtype]))


def by_dnspython(row: Row, way: Way, name: str, server: Encrypted) -> Answer | None:
    """The answer as dnspython sees it."""
    return read_message(way.send(server, row.message(name)))


TOOLS = {"dig": by_dig, "kdig": by_kdig, "dnspython": by_dnspython}
_OPTIONS = {"cookie": "cookie", "nsid": "nsid", "ede": "ede", "client-subnet": "ecs", "edns-client-subnet": "ecs"}


def _told(text: str, pattern: str) -> frozenset[str]:
    found = {re.sub(r"\W+$", "", each).lower() for each in re.findall(pattern, text, re.MULTILINE)}
    return frozenset(_OPTIONS.get(each, each) for each in found)


def read_dig(text: str) -> Answer | None:
    """What dig prints; AssertionError if that holds no answer."""
    head = re.search(
        r"status: (\w+), id: \d+\n;; flags: ([a-z ]*)(; MBZ: 0x\w+)?; QUERY: \d+, ANSWER: (\d+), AUTHORITY: (\d+), "
        r"ADDITIONAL: (\d+)",
        text,
    )
    assert head, f"dig got no answer: {text}"
    edns = re.search(r"EDNS: version: (\d+), flags:([a-z ]*);( MBZ: 0x\w+,)? udp:", text)
    return Answer(
        head[1],
        frozenset(head[2].split()),
        (int(head[4]), int(head[5]), int(head[6])),
        int(edns[1]) if edns else -1,
        edns is not None and "do" in edns[2].split(),
        bool(head[3]) or (edns is not None and bool(edns[3])),
        _told(text, r"^; (COOKIE|NSID|EDE|CLIENT-SUBNET|EXPIRE|OPT=\d+)"),
    )


def read_kdig(text: str) -> Answer | None:
    """What kdig prints; AssertionError if that holds no answer."""
    head = re.search(
        r"status: (\w+); id: \d+\n;; Flags: ([a-z ]*); QUERY: \d+; ANSWER: (\d+); AUTHORITY: (\d+); ADDITIONAL: (\d+)",
        text,
    )
    assert head, f"kdig got no answer: {text}"
    edns = re.search(r"Version: (\d+); flags: ([a-z ]*); UDP size: \d+ B; ext-rcode: (\w+)", text)
    rcode = edns[3] if edns and edns[3] != "NOERROR" else head[1]
    return Answer(
        {"BADVERSION": "BADVERS"}.get(rcode, rcode),
        frozenset(head[2].split()),
        (int(head[3]), int(head[4]), int(head[5])),
        int(edns[1]) if edns else -1,
        edns is not None and "do" in edns[2].split(),
        " z" in f" {head[2]}".replace(" za", ""),
        _told(text, r"^;; (COOKIE|NSID|EDE|CLIENT-SUBNET|EDNS-CLIENT-SUBNET|EXPIRE|Option \(\d+\))"),
    )


def read_message(message: dns.message.Message) -> Answer:
    """A message of dnspython."""
    names = {3: "nsid", 8: "ecs", 9: "expire", 10: "cookie", 15: "ede"}
    has_z = bool(message.flags & 0x40) or (message.edns >= 0 and bool(message.ednsflags & 0x7FFF))
    sections = (message.answer, message.authority, message.additional)
    return Answer(
        dns.rcode.to_text(message.rcode()),
        frozenset(dns.flags.to_text(message.flags & ~0x40).lower().split()),
        tuple(sum(map(len, section)) for section in sections),  # type: ignore[arg-type]  # three of them
        message.edns,
        message.edns >= 0 and bool(message.ednsflags & dns.flags.DO),
        has_z,
        frozenset(names.get(int(each.otype), f"opt={int(each.otype)}") for each in message.options),
    )
