"""A template and a fed line must say the same: random files are read both ways, whole and cut into chunks."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.lists.parse import DIALECTS, Options, read_list
from resolver.lists.parse import read as driver
from resolver.lists.rules import NotAList
from tests.unit.lists.collector import Collector

EXAMPLES = 200  # a dialect
OPTIONS = ["auto", "yes", "no"]
WORDS = ["a", "b-c", "_d", "com", "net", "x", "1", "localhost", "ip6-a", "XN--P1AI", "rpz-ip", "me", "lan", "zone", "ü"]
NAME = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(".".join),
    st.sampled_from(
        ["me.lan", "Me.LAN", "a.com", "b.net", "garden.net", "x.com.", "a..b", "a" * 64 + ".com", "32.1.rpz-ip"]
    ),
)
AROUND = st.sampled_from([("", ""), ("*.", ""), (".", ""), ("", " # c"), ("  ", ""), ("", "\t"), ("# ", "")])
BODIES = {
    "addresses": ["192.0.2.1", "2001:db8::/32", "{}"],
    "domains": ["192.0.2.1", "{}", "*.{}", ".{}", "https://{}/x"],
    "hosts": ["0.0.0.0 {}", "127.0.0.1\t{}", ":: {}", "192.0.2.1  {}", "0.0.0.0 {} b.net", "{}"],
    "adblock": ["||{}^", "@@||{}^", "||{}^$important", "@@||{}^$important", "||*.{}^", "||{}", "{}##ad", "||{}^$popup"],
    "dnsmasq": [
        "address=/{}/#", "address=/{}/", "address=/{}/0.0.0.0", "address=/{}/::", "server=/{}/", "local=/{}/",
        "address=/{}/192.0.2.1", "address=/{}/192.0.2.2", "address=/{}/2001:db8::1", "server=/{}/192.0.2.1",
    ],
    "unbound": [
        'local-zone: "{}" static', 'local-zone: "{}." always_null', "\tlocal-zone: '{}' deny",
        "local-zone: {} redirect",
        'local-data: "{} A 192.0.2.1"', 'local-data: "{} 60 A 192.0.2.2"', "server:", "view:", "  name: {}",
        'local-zone: "{}" transparent # {}',
    ],
    "rpz": [
        "{} CNAME .", "*.{} CNAME .", "{}\t60\tIN\tCNAME\t*.", "{} CNAME garden.net.", "*.{} CNAME garden.net.",
        "{} CNAME rpz-passthru.", "{} CNAME {}.", "{}.zone. CNAME .", "{}.zone. CNAME garden", "{} A 192.0.2.1",
        "{} A 192.0.2.2", " A 192.0.2.3", "\tCNAME .", "{} 9 TXT x", "{} ( CNAME", ". )", "{} TXT \"x", "$ORIGIN {}.",
        "$ORIGIN zone.", "$TTL 60", "$TTL 61", "@ SOA a. b. 1 2 3 4 5", "zone. SOA a. b. 1 2 3 4 6", "; {}",
        "@ CNAME .", "\\120.com CNAME . ; {}", "{} CNAME . ; {}",
    ],
}  # fmt: skip
TRIPPING = {  # kinds of lines that trip each other
    "rpz": [
        ["{} CNAME garden.net.", "garden.net CNAME garden.net."], ["{} CNAME .", " A 192.0.2.3", "; c"],
        ["{} CNAME .", "$TTL 60", "$TTL 61"], ["{} CNAME .", "$ORIGIN zone.", "$ORIGIN com.zone."],
        ["{}.zone. CNAME .", "zone. SOA a. b. 1 2 3 4 6", "zone. CNAME ."], ["{} CNAME .", "x.rpz-ip CNAME ."],
        ["\\120.com CNAME . ; {}", "{} CNAME ."], ["{} CNAME .", "{} A 192.0.2.1", "{} A 192.0.2.2"],
        ["{} CNAME .", "x.com ( CNAME", ". )"], ["{} 60 CNAME .", "{} CNAME .", "@ SOA a. b. 1 2 3 4 5"],
    ],
    "unbound": [['local-zone: "{}" static', "view:", "server:"]],
    "hosts": [["0.0.0.0 {}", "0.0.0.0 me.lan"]],
}  # fmt: skip
BODIES["mixed"] = [body for dialect, bodies in BODIES.items() if dialect != "rpz" for body in bodies]


def test_every_dialect_is_tried() -> None:
    assert set(BODIES) == set(DIALECTS)


@st.composite
def files(draw: st.DrawFn, dialect: str) -> list[str]:
    """Lines of few kinds about few names, so that a file often has templates to use and something that trips them."""
    bodies = draw(
        st.one_of(
            st.lists(st.sampled_from(BODIES[dialect]), min_size=1, max_size=4),
            *[st.just(kinds) for kinds in TRIPPING.get(dialect, [])],
        )
    )
    names = ["a.com", "b.net", *draw(st.lists(NAME, max_size=3))]
    kinds = [st.builds(lambda body, name: body.replace("{}", name), st.sampled_from(bodies), st.sampled_from(names))]
    if draw(st.integers(0, 3)) == 0:
        kinds.append(st.builds(lambda around, line: line.join(around), AROUND, kinds[0]))
    if draw(st.integers(0, 5)) == 0:
        kinds.append(st.text("ab.|^/#$@*=:;()\"' \t\\.1", max_size=12))
        kinds.append(st.just(""))
    return draw(st.lists(st.one_of(kinds), max_size=16))


@pytest.mark.parametrize("dialect", BODIES)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_templates_and_feeding_give_the_same(dialect: str, data: st.DataObject) -> None:
    lines = data.draw(files(dialect))
    cuts = data.draw(st.lists(st.integers(0, len(lines)), max_size=4).map(sorted))
    options = Options(
        format=dialect,
        kind=data.draw(st.sampled_from(["block", "block", "allow"])),
        subdomains=data.draw(st.sampled_from(OPTIONS)),
        origin=data.draw(st.sampled_from(["", "zone"])) if dialect == "rpz" else "",
        own_names=frozenset({"me", "me.lan"}),
        allow_empty=True,
    )
    chunks = ["".join(line + "\n" for line in lines[a:b]) for a, b in zip([0, *cuts], [*cuts, len(lines)], strict=True)]
    chunks = [chunk for chunk in chunks if chunk]
    both = []
    for use_templates in (True, False):
        collector = Collector(use_templates)
        try:
            with mock.patch.object(driver, "HEAD_LINES", data.draw(st.integers(1, 3))):
                report = read_list([chunk.encode() for chunk in chunks], options, collector)
        except NotAList as error:
            both.append(str(error))
            continue
        rules = sorted((line, name, scope, report.outcomes[outcome]) for name, scope, outcome, line in collector.rules)
        both.append((rules, report.as_json()))  # type: ignore[arg-type]
    assert both[0] == both[1]
