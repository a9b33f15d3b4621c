"""The specification of dialects as a table: one case an entry or sentence, from the line to what a client gets.

Each case is a list as it is written and what becomes of queries: `up` is asked upstream, `null` is the null answer, else an
rcode or the answer's data. Address rules and RPZ have tables of their own.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard

from resolver.engine.engine import DROP, Index, RunBuilder
from resolver.lists.clients import build_clients
from resolver.lists.matrix import GroupPolicy, ListPolicy, PolicyRules, build_matrix
from resolver.lists.merge import ListRun, read_header, write_index
from resolver.lists.parse import ListReport, Options, read_files
from resolver.lists.rules import NotAList
from resolver.lists.runs import RunHeader, write_run
from resolver.lists.source import open_source
from resolver.snapshot import Policy
from resolver.vocabulary import Transport
from tests.unit.engine.world import World, client, query
from tests.unit.lists.collector import read

HERE, KIDS, FOUR = "10.0.0.9", "10.1.0.9", "192.0.2.9"


class Written(World):
    """A world of one or more lists' bodies, each (format, body)."""

    def write(self, *lists: tuple[str, bytes | str], **options: object) -> list[ListReport]:
        runs, reports = [], []
        for number, (dialect, body) in enumerate(lists):
            path = self.folder / f"{number}.txt"
            path.write_bytes(body.encode() if isinstance(body, str) else body)
            builder = RunBuilder()
            chosen = Options(format=dialect, own_names=frozenset({"me"}), allow_empty=True, **options)  # type: ignore[arg-type]
            report = read_files([(str(path), open_source(path))], chosen, builder)
            builder.replaces = report.replaces
            run = self.folder / f"{number}.run"
            write_run(
                run,
                builder,
                RunHeader(tuple(report.outcomes), report.replaces, report=report.as_json()),
                report.triggers,
            )
            runs.append(ListRun(f"list{number}", run, report.replaces))
            reports.append(report)
        path = self.folder / "lists.index"
        write_index(path, runs)
        header = read_header(path)
        kids = GroupPolicy("kids", tags=frozenset({"user_child"}))
        policies = [
            ListPolicy(run.name, slot=at, rpz=report.format == "rpz")
            for at, (run, report) in enumerate(zip(runs, reports, strict=True))
        ]
        matrix = build_matrix(PolicyRules(policies, groups=[kids]), header.shapes)
        clients = build_clients(["0.0.0.0/0"], [(["10.1.0.0/16"], matrix.group_classes[0])])
        self.index = Index(path)
        self.policy = Policy(
            matrix.classes,
            matrix.shapes,
            matrix.cells,
            matrix.profiles,
            clients,
            decisions=matrix.decisions,
            patterns=header.patterns,
            order=matrix.order,
            variants=matrix.variants,
            zones=matrix.zones,
        )
        self._swap(1)
        return reports

    def said(self, question: str) -> str:
        """What `name [type] [@client]` comes to, in a word."""
        words = question.split()
        name = words[0]
        rdtype = next((word for word in words[1:] if not word.startswith("@")), "A")
        address = {"@kids": KIDS, "@four": FOUR}.get(words[-1], HERE)
        reply = self.comes_to(name, rdtype, client(address))
        if reply is None:
            return "up"
        data = sorted(item.to_text() for rrset in reply.answer for item in rrset)
        if reply.rcode() == 0 and data in (["0.0.0.0"], ["::"]):
            return "null"
        return " ".join(data) if data else {0: "nodata", 2: "servfail", 3: "nxdomain", 5: "refused"}[reply.rcode()]

    def drops(self, name: str) -> bool:
        """Whether a query is not answered at all."""
        return self.engine.answer(query(name).to_wire(), client(HERE), Transport.UDP)[0] == DROP


class Case(NamedTuple):
    """What the specification says, lists as they are written, and what queries come to."""

    says: str
    lists: tuple[tuple[str, str], ...]
    comes: dict[str, str]


def case(says: str, dialect: str, body: str, comes: str) -> Case:
    """`comes`: `question: word` items parted by commas."""
    return Case(says, ((dialect, body),), dict(item.split(": ", 1) for item in comes.split(", ")))


SCOPE = [
    case("a plain name: itself and subdomains", "domains", "x.com", "x.com: null, a.x.com: null, ax.com: up"),
    case("hosts: every alias, exact", "hosts", "0.0.0.0 x.com y.com", "x.com: null, y.com: null, a.x.com: up"),
    case(
        "hosts: local names are skipped",
        "hosts",
        "127.0.0.1 localhost broadcasthost ip6-all me\n0.0.0.0 x.com",
        "x.com: null",
    ),
    case("hosts: a routable address is a block", "hosts", "192.0.2.1 x.com", "x.com: null"),
    case("*.name in a plain list: subdomains and apex", "domains", "*.x.com", "x.com: null, a.x.com: null"),
    case("*.name in an adblock list: subdomains only", "adblock", "*.x.com", "x.com: up, a.x.com: null"),
    case("*.name in an RPZ list: subdomains only", "rpz", "*.x.com CNAME .", "x.com: up, a.x.com: nxdomain"),
    case(".name: name and subdomains", "domains", ".x.com", "x.com: null, a.x.com: null"),
    case(
        "||name^: name and subdomains", "adblock", "||x.com^", "x.com: null, a.x.com: null, x.com.evil: up, ax.com: up"
    ),
    case(
        "||name without ^: a prefix pattern",
        "adblock",
        "||x.com",
        "x.com: null, a.x.com: null, x.com.evil: null, ax.com: up",
    ),
    case("name^: a pattern", "adblock", "x.com^", "x.com: null, ax.com: null, x.com.evil: up"),
    case("* inside a name: a pattern", "adblock", "ads*.x.com", "ads1.x.com: null, my.ads.y.x.com: null, x.com: up"),
    case(
        "/expression/: RE2, any case, found anywhere",
        "adblock",
        "/BAD[0-9]+\\./",
        "abad12.com: null, BAD1.com: null, bad.com: up",
    ),
    case("|name^: exactly", "adblock", "|x.com^", "x.com: null, a.x.com: up"),
    case("/expression/ in a plain list", "domains", "x.com\n/bad[0-9]/", "bad1.com: null, x.com: null"),
    case("* inside a name in a plain list", "domains", "ads*.x.com", "ads1.x.com: null, x.com: up"),
    Case(
        "@@ in a block list: an exception across all lists",
        (("adblock", "@@||a.x.com^"), ("hosts", "0.0.0.0 a.x.com\n0.0.0.0 x.com")),
        {"a.x.com": "up", "x.com": "null"},
    ),
    case("dnsmasq address=/name/: NXDOMAIN", "dnsmasq", "address=/x.com/", "x.com: nxdomain, a.x.com: nxdomain"),
    case("dnsmasq address=/name/#", "dnsmasq", "address=/x.com/#", "a.x.com: null"),
    case("dnsmasq address=/name/0.0.0.0", "dnsmasq", "address=/x.com/0.0.0.0", "a.x.com: null"),
    case(
        "dnsmasq local=/name/ and server=/name/",
        "dnsmasq",
        "local=/x.com/\nserver=/y.com/",
        "a.x.com: nxdomain, y.com: nxdomain",
    ),
    case("dnsmasq address=/*name/", "dnsmasq", "address=/*x.com/#", "ax.com: null, b.ax.com: null, x.com.evil: up"),
    *[
        case(f"unbound {kind}", "unbound", f'local-zone: "x.com" {kind}', f"x.com: {word}, a.x.com: {word}, y.com: up")
        for kind, word in {
            "always_null": "null",
            "always_nxdomain": "nxdomain",
            "static": "nxdomain",
            "refuse": "refused",
            "always_refuse": "refused",
            "always_nodata": "nodata",
            "transparent": "up",
            "always_transparent": "up",
        }.items()
    ],
    case(
        "unbound redirect without data blocks",
        "unbound",
        'local-zone: "x.com" redirect',
        "x.com: nodata, a.x.com: nodata",
    ),
    case(
        "unbound local-data under a redirect zone gives its addresses",
        "unbound",
        'local-zone: "x.com" redirect\nlocal-data: "x.com A 192.0.2.1"',
        "x.com: 192.0.2.1, a.x.com: 192.0.2.1, a.x.com AAAA: nodata",
    ),
]


@pytest.mark.parametrize("kind", ["deny", "always_deny", "inform_deny"])
def test_unbound_deny_sends_nothing(tmp_path: Path, kind: str) -> None:
    world = Written(tmp_path)
    world.write(("unbound", f'local-zone: "x.com" {kind}'))
    assert world.drops("x.com") and world.drops("a.x.com") and not world.drops("y.com")


MODIFIERS = [
    case("@@$important before $important", "adblock", "||x.com^$important\n@@||x.com^$important", "x.com: up"),
    case("$important before @@", "adblock", "||x.com^$important\n@@||x.com^", "x.com: null"),
    case("@@ before a block", "adblock", "||x.com^\n@@||x.com^", "x.com: up"),
    case(
        "@@ before hosts and plain lines",
        "adblock",
        "x.com\n0.0.0.0 y.com\n@@||x.com^\n@@||y.com^",
        "x.com: up, y.com: up",
    ),
    case("a block before hosts and plain lines", "adblock", "x.com\n||x.com^$dnsrewrite=NXDOMAIN", "x.com: nxdomain"),
    case(
        "denyallow: names and subdomains",
        "adblock",
        "||x.com^$denyallow=a.x.com|b.x.com",
        "x.com: null, c.x.com: null, a.x.com: up, d.b.x.com: up",
    ),
    case("denyallow over everything", "adblock", "*$denyallow=com|org", "x.net: null, x.com: up, org: up, net: null"),
    case("denyallow of a pattern", "adblock", "/ads/$denyallow=x.com", "ads.y.com: null, ads.x.com: up"),
    case(
        "denyallow leaves other rules alone",
        "adblock",
        "||x.com^$denyallow=a.x.com\n||b.a.x.com^",
        "b.a.x.com: null, a.x.com: up",
    ),
    case(
        "dnstype: one of them", "adblock", "||x.com^$dnstype=A|aaaa", "x.com A: null, x.com AAAA: null, x.com TXT: up"
    ),
    case("dnstype: all but", "adblock", "||x.com^$dnstype=~A", "x.com A: up, x.com TXT: nodata"),
    case("dnstype of a pattern", "adblock", "/ads/$dnstype=A", "ads.x A: null, ads.x AAAA: up"),
    Case(
        "a rule that does not hold gives a pattern no precedence over a rule for the name",
        (("adblock", "/^b/\n||x.com^$dnstype=A"), ("dnsmasq", "server=/x.com/")),
        {"b.x.com TXT": "nxdomain", "b.x.com A": "null", "b.y.com TXT": "nodata"},
    ),
    Case(
        "a pattern that allows elsewhere gives one that blocks no precedence over a rule for the name",
        (("adblock", "/^b/\n@@/^c/"), ("dnsmasq", "server=/x.com/")),
        {"b.x.com": "nxdomain", "c.x.com": "up", "b.y.com": "null"},
    ),
    case("dnstype of an exception", "adblock", "||x.com^\n@@||x.com^$dnstype=A", "x.com A: up, x.com AAAA: null"),
    case("client: an address", "adblock", "||x.com^$client=192.0.2.9", "x.com @four: null, x.com: up"),
    case("client: CIDR", "adblock", "||x.com^$client=192.0.2.0/24", "x.com @four: null, x.com: up"),
    case("client: a name, which is a group's", "adblock", "||x.com^$client=kids", "x.com @kids: null, x.com: up"),
    case("client: ~", "adblock", "||x.com^$client=~kids", "x.com @kids: up, x.com: null"),
    case(
        "client: quotes",
        "adblock",
        "||x.com^$client='kids'|\"192.0.2.9\"",
        "x.com @kids: null, x.com @four: null, x.com: up",
    ),
    case(
        "client: an escaped comma",
        "adblock",
        "||x.com^$client='Mary\\, John'|kids,important",
        "x.com @kids: null, x.com: up",
    ),
    case("ctag", "adblock", "||x.com^$ctag=user_child", "x.com @kids: null, x.com: up"),
    case("ctag: ~", "adblock", "||x.com^$ctag=~user_child", "x.com @kids: up, x.com: null"),
    case("dnsrewrite: empty is no data", "adblock", "||x.com^$dnsrewrite=", "x.com: nodata, a.x.com TXT: nodata"),
    *[
        case(f"dnsrewrite: {word}", "adblock", f"||x.com^$dnsrewrite={word}", f"x.com: {said}")
        for word, said in {
            "NOERROR": "nodata",
            "SERVFAIL": "servfail",
            "NXDOMAIN": "nxdomain",
            "REFUSED": "refused",
        }.items()
    ],
    case("dnsrewrite: an address", "adblock", "||x.com^$dnsrewrite=192.0.2.1", "x.com: 192.0.2.1, x.com AAAA: nodata"),
    case("dnsrewrite: an IPv6 address", "adblock", "||x.com^$dnsrewrite=2001:db8::1", "x.com AAAA: 2001:db8::1"),
    case("dnsrewrite: a host", "adblock", "||x.com^$dnsrewrite=y.com", "x.com: y.com."),
    case(
        "dnsrewrite: RCODE;TYPE;VALUE",
        "adblock",
        "||x.com^$dnsrewrite=NOERROR;MX;10 m.y.com",
        "x.com MX: 10 m.y.com., x.com: nodata",
    ),
    case("dnsrewrite: TXT", "adblock", "||x.com^$dnsrewrite=NOERROR;TXT;hello world", 'x.com TXT: "hello world"'),
    case("dnsrewrite: an error without a record", "adblock", "||x.com^$dnsrewrite=REFUSED;;", "x.com: refused"),
    case(
        "dnsrewrite: NOERROR records accumulate",
        "adblock",
        "||x.com^$dnsrewrite=192.0.2.1\n||x.com^$dnsrewrite=192.0.2.2\n||x.com^$dnsrewrite=2001:db8::1",
        "x.com: 192.0.2.1 192.0.2.2, x.com AAAA: 2001:db8::1",
    ),
    case(
        "dnsrewrite: the first CNAME or error wins",
        "adblock",
        "||x.com^$dnsrewrite=192.0.2.1\n||x.com^$dnsrewrite=y.com\n||x.com^$dnsrewrite=NXDOMAIN",
        "x.com: y.com.",
    ),
    case(
        "dnsrewrite: a plain @@ does not cancel it",
        "adblock",
        "||x.com^$dnsrewrite=192.0.2.1\n@@||x.com^",
        "x.com: 192.0.2.1",
    ),
    case(
        "dnsrewrite: @@$dnsrewrite cancels all",
        "adblock",
        "||x.com^$dnsrewrite=192.0.2.1\n@@||a.x.com^$dnsrewrite",
        "x.com: 192.0.2.1, a.x.com: up",
    ),
    case(
        "dnsrewrite: @@$dnsrewrite=v cancels v",
        "adblock",
        "||x.com^$dnsrewrite=192.0.2.1\n||x.com^$dnsrewrite=192.0.2.2\n@@||x.com^$dnsrewrite=NOERROR;A;192.0.2.1",
        "x.com: 192.0.2.2",
    ),
    case("dnsrewrite of a pattern", "adblock", "/ads/$dnsrewrite=192.0.2.1", "ads.x: 192.0.2.1"),
    case("badfilter cancels the same rule", "adblock", "||x.com^\n||x.com^$badfilter", "x.com: up, a.x.com: up"),
    case(
        "badfilter leaves the parent's rule", "adblock", "||x.com^\n||a.x.com^\n||a.x.com^$badfilter", "a.x.com: null"
    ),
    case("badfilter cancels only the same rule", "adblock", "||x.com^$important\n||x.com^$badfilter", "x.com: null"),
    case(
        "badfilter cancels modifiers in any order",
        "adblock",
        "||x.com^$important,dnstype=A|AAAA\n||x.com^$dnstype=AAAA|A,badfilter,important",
        "x.com: up",
    ),
    case("badfilter of an exception", "adblock", "||x.com^\n@@||x.com^\n@@||x.com^$badfilter", "x.com: null"),
    case(
        "badfilter of a pattern",
        "adblock",
        "/ads/\n||x.com\n/ads/$badfilter\n||x.com$badfilter\ny.com",
        "ads.x: up, x.com: up, y.com: null",
    ),
    case("badfilter never affects plain lines", "adblock", "x.com\n||x.com^$badfilter", "x.com: null"),
    case("badfilter never affects hosts lines", "adblock", "0.0.0.0 x.com\n|x.com^$badfilter", "x.com: null"),
    Case(
        "badfilter across lists",
        (("adblock", "||x.com^\n||y.com^"), ("adblock", "||x.com^$badfilter")),
        {"x.com": "up", "y.com": "null"},
    ),
    Case(
        "badfilter and another plain list", (("domains", "x.com"), ("adblock", "||x.com^$badfilter")), {"x.com": "null"}
    ),
    case(
        "two badfilters do not cancel out", "adblock", "||x.com^\n||x.com^$badfilter\n||x.com^$badfilter", "x.com: up"
    ),
    case(
        "dnsrewrite heeds badfilter",
        "adblock",
        "||x.com^$dnsrewrite=192.0.2.1\n||x.com^$dnsrewrite=192.0.2.1,badfilter",
        "x.com: up",
    ),
    case("mixed-case plain lines match", "adblock", "X.Com", "x.com: null, X.COM: null"),
]

SHARED = [
    case(
        "comments # ! ; and trailing #",
        "domains",
        "# a.com\n! b.com\n; c.com\nx.com # why\n\n \t\r\n",
        "x.com: null, a.com: up, b.com: up",
    ),
    case("CRLF", "domains", "x.com\r\ny.com\r\n", "x.com: null, y.com: null"),
    case("lower-cased, one trailing dot dropped, _ allowed", "domains", "A_b.X.COM.", "a_b.x.com: null"),
    case(
        "U-labels to A-labels, UTS 46 mapping",
        "domains",
        "BÜCHER.de\nstraße.de\nｗide.com",
        "xn--bcher-kva.de: null, xn--strae-oqa.de: null, wide.com: null",
    ),
    case("URLs give their host", "domains", "https://user@x.com:8080/a?b#c", "x.com: null"),
    case(
        "mixed files line by line",
        "auto",
        '||a.com^\n0.0.0.0 b.com\nc.com\naddress=/d.com/\nlocal-zone: "e.com" refuse\n/f[0-9]/\n',
        "x.a.com: null, b.com: null, x.b.com: up, x.c.com: null, d.com: nxdomain, e.com: refused, f7.x: null",
    ),
    case("a bad line never spoils a list", "domains", "x.com\na b\n..\ny.com", "x.com: null, y.com: null"),
    case("a bare TLD by ||tld^", "adblock", "||zip^", "x.zip: null, zip: null"),
]


@pytest.mark.parametrize("row", SCOPE + MODIFIERS + SHARED, ids=lambda row: row.says)
def test_what_the_specification_says(tmp_path: Path, row: Case) -> None:
    world = Written(tmp_path)
    world.write(*row.lists)
    assert {question: world.said(question) for question in row.comes} == row.comes


REFUSED = [
    ("||x.com^$sparkle", "unknown"),
    ("||x.com^$dnstype=A,sparkle", "unknown"),
    *[(f"||x.com^${word}", "page-level") for word in ("third-party", "domain=y.com", "match-case", "popup", "script")],
    ("||x.com^$important,third-party,badfilter", "page-level"),
    ("||x.com^$denyallow=~a.com", "no ~"),
    ("||192.0.2.1^$denyallow=a.com", "never matches addresses"),
    ("||x.com^$ctag=user_dog", "no tag"),
    ("||x.com^$dnstype=FOO", "no record type"),
    ("||x.com^$dnsrewrite=NOTZONE;;", "rcode"),
    ("||x.com^$dnsrewrite=NOERROR;A;x", "no A record"),
    ("||x.com^$dnsrewrite=NOERROR;A", "RCODE;TYPE;VALUE"),
    ("||x.com^$client=", "empty value"),
    ("x.org#c", "character"),
    ("*", "name"),
    ("/.*/", "every name"),
    ("/a{1001}/", "RE2"),
    ("/(?=x)/", "RE2"),
    (f"/{'a' * 2000}/", "characters"),
    ("/((((a{100}){100}){100}){100})/", "RE2"),
    ("com", "bare"),
    ("server=/x.com/192.0.2.1", "forwarding|path"),
]


@pytest.mark.parametrize(("line", "reason"), REFUSED)
def test_what_is_refused_is_dropped_counted_and_kept_with_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    world = Written(tmp_path)
    [report] = world.write(("adblock", f"||kept.com^\n{line}\n"))
    assert (report.refused, report.refused_lines[0].line) == (1, 2)
    assert re.search(reason, report.refused_lines[0].reason), report.refused_lines[0].reason
    assert [world.said(name) for name in ("kept.com", "x.com", "x.org")] == ["null", "up", "up"]


def _zip(body: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("list.txt", body)
    return packed.getvalue()


BODIES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("zstd", zstandard.ZstdCompressor().compress),
    ("xz", lzma.compress),
    ("zip", _zip),
    ("UTF-8 with a byte-order mark", lambda body: b"\xef\xbb\xbf" + body),
    ("UTF-16", lambda body: body.decode().encode("utf-16")),
    ("UTF-16 big-endian", lambda body: b"\xfe\xff" + body.decode().encode("utf-16-be")),
]


@pytest.mark.parametrize(("what", "packed"), BODIES)
def test_bodies(tmp_path: Path, what: str, packed: Callable[[bytes], bytes]) -> None:
    world = Written(tmp_path)
    [report] = world.write(("auto", packed("x.com\nbücher.de\n".encode())))
    assert (report.names, report.refused) == (2, 0), what
    assert [world.said(name) for name in ("x.com", "xn--bcher-kva.de", "y.com")] == ["null", "null", "up"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<!DOCTYPE html>\n<html>\n", "HTML"),
        ("# nothing\n", "empty"),
        ("", "empty"),
        ("x.com\n" * 15 + "a b\n" * 5, "of 20 lines"),
    ],
)
def test_a_whole_file_that_is_no_list(body: str, reason: str) -> None:
    with pytest.raises(NotAList, match=reason):
        read(body, Options(format="domains", own_names=frozenset()))


def test_options_of_a_list(tmp_path: Path) -> None:
    world = Written(tmp_path)
    world.write(("domains", "x.com"), subdomains="no")
    assert [world.said(name) for name in ("x.com", "a.x.com")] == ["null", "up"]
    world.write(("hosts", "0.0.0.0 x.com"), subdomains="yes")
    assert [world.said(name) for name in ("x.com", "a.x.com")] == ["null", "null"]
    world.write(
        ("hosts", "192.0.2.1 x.com\n2001:db8::1 x.com\n192.0.2.2 x.com\n0.0.0.0 y.com\n127.0.0.1 z.com"), rewrite=True
    )
    assert world.said("x.com") == "192.0.2.1 192.0.2.2" and world.said("x.com AAAA") == "2001:db8::1"
    assert [world.said(name) for name in ("y.com", "z.com", "a.x.com")] == ["null", "null", "up"]


def test_repaired_lines_are_counted(tmp_path: Path) -> None:
    [report] = Written(tmp_path).write(("domains", "https://x.com/a\nhttp://y.com\nz.com\n"))
    assert (report.names, report.repaired) == (3, 2)
