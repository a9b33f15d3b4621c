"""Items 23 to 28 of what a correct reader of policy zones does, as far as they are about transfers: a case a row.

No sockets: primaries are scripts, and a refresh is driven as the fetcher drives it (resolver/transfer/fetcher.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rrset
import dns.tsig
import pytest

from resolver.lists.parse.base import Options
from resolver.lists.runs import Run
from resolver.transfer.messages import Request, TransferError
from resolver.transfer.reader import TransferReader
from resolver.transfer.refresh import Done, Failed, Probe, Refresh, Transfer
from resolver.transfer.zone import Order, Soa, ZoneRecord, compare

ZONE = "rpz.example"
TIMERS = "3600 7 86400 60"
RETRY = 7.0
OPTIONS = Options(format="rpz")
KEY = dns.tsig.Key("k.example", "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "hmac-sha256")
WRONG = dns.tsig.Key("k.example", "d3Jvbmd3cm9uZ3dyb25nd3Jvbmd3cm9uZw==", "hmac-sha256")
TOP = 2**32


def soa(serial: int) -> str:
    return f"{ZONE}. 300 IN SOA ns.{ZONE}. h.{ZONE}. {serial % TOP} {TIMERS}"


def rule(trigger: str, target: str = ".") -> str:
    return f"{trigger}.{ZONE}. 300 IN CNAME {target}"


NS = f"{ZONE}. 300 IN NS ns.{ZONE}."
A, B, C = rule("a.example"), rule("b.example", "*."), rule("c.example", "garden.example.")


def message(request: Request, records: Sequence[str], **changes: object) -> bytes:
    answer = dns.message.Message(request.id)
    answer.flags = dns.flags.Flag(dns.flags.QR)
    answer.flags |= dns.flags.AA
    answer.set_rcode(changes.get("rcode", 0))  # type: ignore[arg-type]
    for text in records:
        owner, ttl, rdclass, rdtype, rdata = text.split(" ", 4)
        answer.answer.append(dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, rdata))
    return answer.to_wire(max_size=65535)


def signed(request: Request, messages: Sequence[bytes], key: dns.tsig.Key, every: int = 1) -> list[bytes]:
    """The messages with signatures: on the first, the last and every n-th."""
    out: list[bytes] = []
    context: Any = None
    for place, wire in enumerate(messages):
        if place and place % every and place != len(messages) - 1:
            context.update(wire)
            out.append(wire)
            continue
        parsed = dns.message.from_wire(wire)
        parsed.request_mac = request.mac or b""
        parsed.use_tsig(key)
        raw: bytes | None = parsed.to_wire(max_size=65535, multi=True, tsig_ctx=context)
        assert raw is not None
        context = parsed.tsig_ctx
        out.append(raw)
    return out


Sends = Callable[[Request], "list[bytes]"]  # what comes back before the connection is closed


def sends(*messages: Sequence[str]) -> Sends:
    return lambda request: [message(request, records) for records in messages]


def refuses(rcode: int) -> Sends:
    return lambda request: [message(request, [], rcode=rcode)]


@dataclass
class Server:
    """A primary: the serial it says it has (None: no answer), over TCP only or not, and its answers to IXFR and AXFR."""

    serial: int | None
    ixfr: Sends = field(default_factory=lambda: refuses(4))
    axfr: Sends = field(default_factory=lambda: sends())
    tcp: bool = False


@dataclass
class Case:
    """`copy`: serial and rules that are here; `wants`: serial and rules afterwards, what was asked for, and words of the
    failure or alarm."""

    item: int
    title: str
    servers: list[Server]
    wants: tuple[int | None, set[str]]
    asked: list[str]
    copy: tuple[int, tuple[str, ...]] | None = (5, (A, B))
    says: str = ""
    first_next: int = 0
    key: dns.tsig.Key | None = None


def whole(serial: int, *rules: str) -> Sends:
    return sends([soa(serial), NS, *rules], [soa(serial)])


def delta(*parts: str) -> Sends:
    return sends(list(parts))


AB = {"a.example", "b.example"}
CASES = [
    Case(23, "the same serial: no transfer", [Server(5)], (5, AB), []),
    Case(23, "an older serial: an alarm and no transfer", [Server(4)], (5, AB), [], says="older than the 5"),
    Case(
        23,
        "older by arithmetic though larger",
        [Server(TOP - 3)],
        (5, AB),
        [],
        says="older than the 5",
    ),
    Case(
        23,
        "newer by arithmetic though smaller",
        [Server(1, axfr=whole(1, A))],
        (1, {"a.example"}),
        ["0 IXFR 4294967290", "0 AXFR"],
        copy=(TOP - 6, (A, B)),
    ),
    Case(23, "2**31 apart is not newer", [Server(5 + 2**31)], (5, AB), [], says="older"),
    Case(
        23,
        "an older primary does not hide a newer one",
        [Server(4), Server(6, ixfr=delta(soa(6), soa(5), A, soa(6), C, soa(6)))],
        (6, {"b.example", "c.example"}),
        ["1 IXFR 5"],
        says="older",
    ),
    Case(24, "IXFR: a single SOA says that nothing changed", [Server(6, ixfr=sends([soa(5)]))], (5, AB), ["0 IXFR 5"]),
    Case(
        24,
        "IXFR: deltas",
        [Server(7, ixfr=delta(soa(7), soa(5), A, soa(6), C, soa(6), B, soa(7), A, soa(7)))],
        (7, {"a.example", "c.example"}),
        ["0 IXFR 5"],
    ),
    Case(
        24,
        "IXFR: deltas in many messages",
        [Server(6, ixfr=sends([soa(6)], [soa(5)], [A], [soa(6)], [C], [soa(6)]))],
        (6, {"b.example", "c.example"}),
        ["0 IXFR 5"],
    ),
    Case(
        24,
        "IXFR: a full reply",
        [Server(6, ixfr=sends([soa(6)], [NS, C, A], [soa(6)]))],
        (6, {"a.example", "c.example"}),
        ["0 IXFR 5"],
    ),
    Case(
        24,
        "IXFR: a delta with another base is thrown away, then AXFR",
        [Server(6, ixfr=delta(soa(6), soa(4), A, soa(6), C, soa(6)), axfr=whole(6, C))],
        (6, {"c.example"}),
        ["0 IXFR 5", "0 AXFR"],
    ),
    Case(
        24,
        "IXFR: what goes is not here, then AXFR",
        [Server(6, ixfr=delta(soa(6), soa(5), C, soa(6), soa(6)), axfr=whole(6, C))],
        (6, {"c.example"}),
        ["0 IXFR 5", "0 AXFR"],
    ),
    Case(
        24,
        "IXFR: deltas that do not meet, then AXFR",
        [Server(8, ixfr=delta(soa(8), soa(5), A, soa(6), soa(7), B, soa(8), soa(8)), axfr=whole(8, C))],
        (8, {"c.example"}),
        ["0 IXFR 5", "0 AXFR"],
    ),
    Case(
        24,
        "IXFR: not implemented, then AXFR",
        [Server(6, ixfr=refuses(4), axfr=whole(6, A, C))],
        (6, {"a.example", "c.example"}),
        ["0 IXFR 5", "0 AXFR"],
    ),
    Case(
        25,
        "no closing SOA",
        [Server(6, ixfr=refuses(4), axfr=sends([soa(6), NS, A], [C])), Server(6)],
        (5, AB),
        ["0 IXFR 5", "0 AXFR"],
        says="closed",
        first_next=1,
    ),
    Case(
        25,
        "SOA and NS alone where there were rules",
        [Server(6, axfr=whole(6)), Server(6)],
        (5, AB),
        ["0 IXFR 5", "0 AXFR"],
        says="SOA and NS and no rule",
        first_next=1,
    ),
    Case(25, "an empty zone at first is one", [Server(6, axfr=whole(6))], (6, set()), ["0 AXFR"], copy=None),
    Case(
        25,
        "SOA and NS alone by IXFR's full reply",
        [Server(6, ixfr=whole(6))],
        (5, AB),
        ["0 IXFR 5"],
        says="SOA and NS and no rule",
    ),
    Case(25, "no answer at all", [Server(None), Server(None)], (5, AB), [], says="no answer"),
    Case(
        25,
        "the next primary where one is silent",
        [Server(None), Server(6, axfr=whole(6, C))],
        (6, {"c.example"}),
        ["1 IXFR 5", "1 AXFR"],
        first_next=1,
    ),
    Case(
        25,
        "by TCP where UDP is not answered",
        [Server(6, axfr=whole(6, C), tcp=True)],
        (6, {"c.example"}),
        ["0 IXFR 5", "0 AXFR"],
    ),
    Case(
        25,
        "it ends with another serial",
        [Server(6, axfr=sends([soa(6), NS, A, soa(7)]))],
        (5, AB),
        ["0 IXFR 5", "0 AXFR"],
        says="ends with 7",
    ),
    Case(
        25,
        "records behind the end",
        [Server(6, axfr=sends([soa(6), NS, A, soa(6), C]))],
        (5, AB),
        ["0 IXFR 5", "0 AXFR"],
        says="behind",
    ),
    Case(
        25,
        "a transfer that is older than the copy",
        [Server(6, ixfr=whole(4, C))],
        (5, AB),
        ["0 IXFR 5"],
        says="older",
    ),
    Case(
        25,
        "octets that are no message",
        [Server(6, axfr=lambda request: [message(request, [soa(6), A])[:-3]])],
        (5, AB),
        ["0 IXFR 5", "0 AXFR"],
        says="malformed",
    ),
    Case(
        25,
        "an answer to somebody else",
        [Server(6, axfr=lambda request: [b"\0\0" + message(request, [soa(6), A, soa(6)])[2:]])],
        (5, AB),
        ["0 IXFR 5", "0 AXFR"],
        says="answers nothing",
    ),
    Case(
        25,
        "TSIG: right",
        [Server(6, axfr=lambda r: signed(r, whole(6, C)(r), KEY))],
        (6, {"c.example"}),
        ["0 AXFR"],
        copy=None,
        key=KEY,
    ),
    Case(
        25,
        "TSIG: only now and then, but at both ends",
        [Server(6, axfr=lambda r: signed(r, sends([soa(6)], [A], [B], [C], [soa(6)])(r), KEY, every=3))],
        (6, AB | {"c.example"}),
        ["0 AXFR"],
        copy=None,
        key=KEY,
    ),
    Case(
        25,
        "TSIG: another secret",
        [Server(6, axfr=lambda r: signed(r, whole(6, C)(r), WRONG))],
        (None, set()),
        ["0 AXFR"],
        copy=None,
        key=KEY,
        says="TSIG",
    ),
    Case(
        25,
        "TSIG: none",
        [Server(6, axfr=whole(6, C))],
        (None, set()),
        ["0 AXFR"],
        copy=None,
        key=KEY,
        says="not signed",
    ),
    Case(
        25,
        "TSIG: the last message is not signed",
        [Server(6, axfr=lambda r: [*signed(r, sends([soa(6), C], [A])(r), KEY), message(r, [soa(6)])])],
        (None, set()),
        ["0 AXFR"],
        copy=None,
        key=KEY,
        says="last message is not signed",
    ),
    Case(
        25,
        "TSIG: a record changed on the way",
        [
            Server(
                6, axfr=lambda r: [m.replace(b"\1c\7example", b"\1d\7example") for m in signed(r, whole(6, C)(r), KEY)]
            )
        ],
        (None, set()),
        ["0 AXFR"],
        copy=None,
        key=KEY,
        says="TSIG",
    ),
    Case(
        28,
        "a cold start transfers all of it",
        [Server(9, axfr=whole(9, A, C))],
        (9, {"a.example", "c.example"}),
        ["0 AXFR"],
        copy=None,
    ),
]


def transfer(server: Server, path: Path, base: Soa | None, old: Path | None, key: dns.tsig.Key | None) -> Soa | None:
    """What the fetcher does with a connection; the SOA if a run was written."""
    request = Request(ZONE, "AXFR" if base is None else "IXFR", key, base=base)
    with TransferReader(request, OPTIONS, path, base=base, old=old) as reader:
        script = server.axfr if base is None else server.ixfr
        for wire in script(request):
            if reader.receive(wire):
                break
        else:
            raise TransferError("it closed the connection in the middle")
        # A connection may bring more than was asked for; what is read of it is a fault.
        result = reader.finish()
    return result.soa if result.header is not None else None


def numbers(serial: int) -> Soa:
    return Soa(serial % TOP, 3600, 7, 86400, 60, soa(serial).split(" ", 4)[4])


def listed(path: Path | None) -> set[str]:
    if path is None:
        return set()
    with Run(path) as run:
        return {name for name, _ in run.names()}


@pytest.mark.parametrize("case", CASES, ids=[f"{case.item}-{case.title}" for case in CASES])
def test_a_refresh(case: Case, tmp_path: Path) -> None:
    path, known = None, None
    if case.copy is not None:
        serial, rules = case.copy
        path, known = tmp_path / "old", numbers(serial)
        transfer(Server(serial, axfr=whole(serial, *rules)), path, None, None, None)
    refresh = Refresh(tuple(f"p{place}" for place in range(len(case.servers))), known)
    asked, said = [], ""
    while True:
        match refresh.step:
            case Probe(primary, tcp):
                server = case.servers[primary]
                if server.serial is None or (server.tcp and not tcp):
                    refresh.probe_failed("no answer")
                else:
                    refresh.probed(numbers(server.serial))
            case Transfer(primary, base):
                asked.append(f"{primary} AXFR" if base is None else f"{primary} IXFR {base.serial}")
                new = tmp_path / f"new{len(asked)}"
                try:
                    found = transfer(case.servers[primary], new, base, path, case.key)
                    if found is not None:
                        path, known = new, found
                    refresh.transferred(found is not None)
                except TransferError as error:
                    assert not new.exists()
                    refresh.transfer_failed(str(error), no_delta=error.no_delta)
            case Done(primary, _, alarm):
                said, following = alarm, primary
                break
            case Failed(text, retry, following):
                said = text
                assert retry == (RETRY if case.copy else 60.0)
                break
    serial_wanted, rules_wanted = case.wants
    assert (known.serial if known else None) == serial_wanted
    assert listed(path) == rules_wanted
    assert asked == case.asked
    assert case.says in said and bool(case.says) == bool(said)
    assert following == case.first_next or len(case.servers) == 1 or case.first_next == 0
    assert {file.name for file in tmp_path.iterdir()} <= {"old", *(f"new{place}" for place in range(9))}


@pytest.mark.parametrize(
    ("serial", "known", "order"),
    [
        (1, 1, Order.SAME),
        (2, 1, Order.NEWER),
        (1, 2, Order.OLDER),
        (0, TOP - 1, Order.NEWER),
        (TOP - 1, 0, Order.OLDER),
        (2**31 - 1, 0, Order.NEWER),
        (2**31, 0, Order.OLDER),
        (0, 2**31, Order.OLDER),
    ],
)
def test_serials_compare_by_rfc_1982(serial: int, known: int, order: Order) -> None:
    assert compare(serial, known) is order


def test_a_zone_expires_by_its_soa_from_the_last_word_of_a_primary() -> None:
    record = ZoneRecord(
        ZONE, Soa(1, 10, 5, 100, 60), "1.run", "d", "", "p", "axfr", 1, 1, 0.1, transferred=1000.0, checked=2000.0
    )
    assert record.expires == 2100.0
    assert Soa(1, 10, 5, 3, 60).expire_seconds == 15.0  # never less than REFRESH and RETRY
    assert (Soa(1, 0, 0, 0, 0).refresh_seconds, Soa(1, 0, 0, 0, 0).retry_seconds) == (1.0, 1.0)


def run_rules(tmp_path: Path, old: list[str], script: Sends | None = None) -> dict[str, list[tuple[int, str]]]:
    """name → (scope, what) of a zone after a delta, or as it was transferred whole."""
    path = tmp_path / "old"
    transfer(Server(5, axfr=whole(5, *old)), path, None, None, None)
    if script is not None:
        transfer(Server(6, ixfr=script), tmp_path / "new", numbers(5), path, None)
        path = tmp_path / "new"
    with Run(path) as run:
        found = {
            name: sorted(
                (int(r.scope), " ".join((r.outcome.action or r.outcome.verb).name.split() + list(r.outcome.data)))
                for r in rules
            )
            for name, rules in run.names()
        }
        found |= {f"{t.kind.name} {t.text}": [(0, (t.outcome.action or t.outcome.verb).name)] for t in run.triggers()}
    return found


def data(owner: str, rdata: str) -> str:
    return f"{owner}.{ZONE}. 300 IN {rdata}"


OLD = [
    rule("x.example"),
    rule("*.x.example"),
    rule("y.example", "rpz-passthru."),
    rule("Z.example", "z.example."),
    data("d.example", "A 192.0.2.1"),
    data("d.example", "A 192.0.2.2"),
    rule("24.0.2.0.192.rpz-ip", "rpz-drop."),
]
ADDRESS = rule("32.1.2.0.192.rpz-ip")
FIRST = {
    "x.example": [(3, "NXDOMAIN")],
    "y.example": [(1, "ALLOW")],
    "z.example": [(1, "ALLOW")],
    "d.example": [(1, "DATA A 192.0.2.1 A 192.0.2.2")],
    "ADDRESS 192.0.2.0/24": [(0, "DROP")],
}


def test_a_whole_zone_means_what_its_file_would(tmp_path: Path) -> None:
    assert run_rules(tmp_path, OLD) == FIRST


@pytest.mark.parametrize(
    ("goes", "comes", "changes"),
    [
        ([rule("x.example")], [], {"x.example": [(2, "NXDOMAIN")]}),
        ([rule("*.x.example")], [rule("*.x.example", "*.")], {"x.example": [(1, "NXDOMAIN"), (2, "NODATA")]}),
        ([rule("x.example"), rule("*.x.example")], [], {"x.example": None}),
        ([data("d.example", "A 192.0.2.1")], [], {"d.example": [(1, "DATA A 192.0.2.2")]}),
        ([], [data("d.example", "AAAA 2001:db8::1")], {"d.example": [(1, "DATA A 192.0.2.1 A 192.0.2.2 AAAA 2001:db8::1")]}),
        ([data("d.example", "A 192.0.2.1"), data("d.example", "A 192.0.2.2")], [], {"d.example": None}),
        ([OLD[6]], [ADDRESS], {"ADDRESS 192.0.2.0/24": None, "ADDRESS 192.0.2.1/32": [(0, "NXDOMAIN")]}),
        ([OLD[3]], [rule("new.example", "g.example.")], {"z.example": None, "new.example": [(1, "CNAME g.example")]}),
        ([], [NS, data("a.example", "TXT \"x\"")], {"a.example": [(1, 'DATA TXT "x"')]}),
    ],
)  # fmt: skip
def test_a_delta_changes_what_it_names_and_no_more(
    tmp_path: Path, goes: list[str], comes: list[str], changes: dict[str, list[tuple[int, str]] | None]
) -> None:
    wanted = {**FIRST, **changes}
    found = run_rules(tmp_path, OLD, delta(soa(6), soa(5), *goes, soa(6), *comes, soa(6)))
    assert found == {name: rules for name, rules in wanted.items() if rules is not None}


@pytest.mark.parametrize(
    ("goes", "comes"),
    [
        ([rule("nowhere.example")], []),
        ([rule("x.example", "*.")], []),
        ([], [rule("x.example", "*.")]),
        ([data("d.example", "A 192.0.2.9")], []),
        ([], [data("x.example", "A 192.0.2.9")]),
        ([rule("32.1.2.0.192.rpz-ip")], []),
    ],
)
def test_a_delta_that_does_not_fit_is_thrown_away(tmp_path: Path, goes: list[str], comes: list[str]) -> None:
    with pytest.raises(TransferError) as caught:
        run_rules(tmp_path, OLD, delta(soa(6), soa(5), *goes, soa(6), *comes, soa(6)))
    assert caught.value.no_delta
    assert not (tmp_path / "new").exists()


def test_a_message_cut_anywhere_is_a_fault_and_no_crash(tmp_path: Path) -> None:
    request = Request(ZONE, "AXFR")
    wire = message(request, [soa(6), NS, *OLD, soa(6)])
    for end in range(len(wire)):
        with TransferReader(request, OPTIONS, tmp_path / "run") as reader, pytest.raises(TransferError):
            reader.receive(wire[:end])
            reader.finish()
    assert not list(tmp_path.iterdir())


def test_a_loop_of_pointers_ends(tmp_path: Path) -> None:
    request = Request(ZONE, "AXFR")
    good = message(request, [soa(6)])
    for pointer in (b"\xc0\x0c", b"\xc0\xff", b"\xff\xff"):
        head = good[:6] + struct.pack(">H", 2) + good[8:]
        record = pointer + struct.pack(">HHIH", 5, 1, 300, 2) + b"\xc0" + bytes([len(good)])
        with TransferReader(request, OPTIONS, tmp_path / "run") as reader:
            try:
                reader.receive(head + record)
            except TransferError:
                continue
            with pytest.raises(TransferError):
                reader.finish()
