"""Whole lists against the oracle of what their lines say: text in, through dialect, run, index, matrix, engine and
decisions, and what a client gets is what tests/reference_adblock.py says, for names, types and clients of all kinds and for
the address that the upstream answers.

TAMPAH_ORACLE_PAIRS sets how many (rule set, query) pairs are compared at least; `make oracle` takes half a million.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resolver.engine.engine import Index, RunBuilder
from resolver.lists.clients import build_clients
from resolver.lists.matrix import GroupPolicy, ListPolicy, PolicyRules, build_matrix
from resolver.lists.merge import ListRun, read_header, write_index
from resolver.lists.parse import Options, read_list
from resolver.lists.runs import RunHeader, write_run
from resolver.snapshot import Policy, read_policy, write_policy
from tests.reference_adblock import Answer, Asked, Line, Written, answer
from tests.unit.engine.world import World, client, query, reply_to

FORMATS = ("adblock", "adblock", "hosts", "rpz", "domains", "dnsmasq", "unbound", "addresses")
NAMES = ("a.tld", "b.tld", "a.a.tld", "b.a.tld", "a.b.tld", "b.a.a.tld", "ab.tld", "c.tld")
CLIENTS = (
    Asked("", "", "10.1.0.9"),
    Asked("", "", "10.2.0.9", "kids", frozenset({"user_child", "os_ios"})),
    Asked("", "", "10.3.0.9", "few", frozenset({"user_child"}), frozenset({0, 2, 3})),
)
QUERIES = [
    asked._replace(name=name, qtype=qtype) for asked in CLIENTS for name in NAMES for qtype in ("A", "AAAA", "TXT")
]
# What the upstream answers: one address for each name and type, and none for TXT.
ANSWERS = {
    (name, qtype): addresses[number % 3]
    for number, name in enumerate(NAMES)
    for qtype, addresses in (
        ("A", ("198.51.100.9", "198.51.100.200", "203.0.113.7")),
        ("AAAA", ("2001:db8:1::9", "2001:db8:2::9", "2001:db8:1::9")),
    )
}
NETWORKS = (
    "198.51.100.9/32",
    "198.51.100.0/24",
    "198.51.100.128/25",
    "203.0.113.7/32",
    "2001:db8::/32",
    "2001:db8:1::/48",
)
PAIRS = int(os.environ.get("TAMPAH_ORACLE_PAIRS", "3000"))

some = st.sampled_from
LineStrategy = st.SearchStrategy[Line]
names = some(NAMES)
restrictions: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "types": some([("A",), ("~A",), ("A", "AAAA"), ("TXT", "~AAAA")]),
        "clients": some([("kids",), ("~kids",), ("10.1.0.0/16",), ("10.1.0.9", "few"), ("~10.3.0.9",)]),
        "tags": some([("user_child",), ("~os_ios",), ("os_ios", "~user_admin")]),
    },
)
flags: dict[str, st.SearchStrategy[Any]] = {
    "exception": st.booleans(),
    "important": some([False, False, True]),
    "badfilter": some([False, False, True]),
}
denied = some([(), (), ("b.a.tld",), ("a.a.tld", "c.tld"), ("a.tld",)])
values = some(["192.0.2.1", "192.0.2.2", "2001:db8::1", "NXDOMAIN", "SERVFAIL", "target.example", ""])


def lines(form: st.SearchStrategy[str], name: st.SearchStrategy[str], **more: st.SearchStrategy[Any]) -> LineStrategy:
    """Lines with such fields; adblock rules, which have more than form and name, may also be restricted."""
    fields: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({"form": form, "name": name, **more})
    if not more:
        return fields.map(lambda given: Line(**given))
    return st.tuples(fields, st.one_of(st.just({}), restrictions)).map(lambda parts: Line(**(parts[1] | parts[0])))


ADBLOCK = st.one_of(
    lines(some(["name", "name", "below", "self"]), names, denied=denied, **flags),
    lines(some(["name", "self"]), names, rewrite=values, **flags),
    lines(some(["prefix", "ends"]), some(["a.t", "b.tld", "a.a", "ab"]).map(str), denied=denied, **flags),
    lines(st.just("regex"), some(["^b", "a+\\.tld$", "[ab]\\.a\\."]), **flags),
    lines(some(["plain", "hosts"]), names),
    lines(st.just("every"), st.just(""), types=some([("TXT",), ("~A",)]), **flags),
)
LINES = {
    "adblock": ADBLOCK,
    "hosts": lines(st.just("hosts"), names),
    "domains": lines(st.just("plain"), names),
    "dnsmasq": lines(some(["null", "nxdomain"]), names),
    "rpz": st.one_of(
        lines(some(["zone", "zone-below", "passthru"]), names),
        lines(some(["zone-network", "zone-network-passthru"]), some(NETWORKS)),
    ),
    "addresses": lines(st.just("network"), some(NETWORKS)),
    "unbound": st.one_of(
        lines(some(["zone-null", "zone-refuse"]), names),
        lines(st.just("zone-free"), names).map(lambda line: replace(line, exception=True)),
    ),
}
SETS = st.tuples(*(st.lists(LINES[name], max_size=8 if name == "adblock" else 2).map(tuple) for name in FORMATS)).map(
    lambda found: [Written(name, body) for name, body in zip(FORMATS, found, strict=True)]
)


class Listed(World):
    """A world of lists as they are written."""

    def build_lists(self, lists: list[Written]) -> None:
        runs = []
        watching = set()
        for number, written in enumerate(lists):
            builder = RunBuilder()
            body = "".join(f"{line.text()}\n" for line in written.lines).encode()
            options = Options(format=written.format, own_names=frozenset(), allow_empty=True)
            report = read_list([body] if body else [], options, builder)
            assert report.refused == 0, report.refused_lines
            builder.replaces = report.replaces
            facts = report.as_json()
            path = self.folder / f"{number}.run"
            header = RunHeader(tuple(report.outcomes), report.replaces, report=facts)
            write_run(path, builder, header, report.triggers)
            runs.append(ListRun(f"list{number}", path, report.replaces))
            watching |= {number} if report.triggers and written.format != "adblock" else set()
        path = self.folder / "lists.index"
        write_index(path, runs)
        header_of_index = read_header(path)
        few = frozenset(f"list{number}" for number in CLIENTS[2].lists or ())
        rules = PolicyRules(
            [
                ListPolicy(run.name, slot=at, rpz=lists[at].format == "rpz", answer_triggers=at in watching)
                for at, run in enumerate(runs)
            ],
            groups=[
                GroupPolicy("kids", tags=CLIENTS[1].tags),
                GroupPolicy("few", lists=few, tags=CLIENTS[2].tags),
            ],
        )
        matrix = build_matrix(rules, header_of_index.shapes)
        networks = zip((["10.2.0.0/16"], ["10.3.0.0/16"]), matrix.group_classes, strict=True)
        clients = build_clients(["0.0.0.0/0"], list(networks))
        policy = Policy(
            matrix.classes,
            matrix.shapes,
            matrix.cells,
            matrix.profiles,
            clients,
            decisions=matrix.decisions,
            patterns=header_of_index.patterns,
            order=matrix.order,
            variants=matrix.variants,
            zones=matrix.zones,
        )
        write_policy(self.folder / "policy", policy)
        self.index, self.policy = Index(path), read_policy(self.folder / "policy")
        assert self.policy == policy
        self._swap(1)

    def comes_out(self, asked: Asked) -> Answer:
        """What the client gets; None where it is what the upstream says."""
        address = ANSWERS.get((asked.name, asked.qtype))
        record = f"{asked.name}. 300 {asked.qtype} {address}" if address else f'{asked.name}. 300 TXT "upstream"'
        reply = self.comes_to(
            asked.name, asked.qtype, client(asked.address), reply_to(query(asked.name, asked.qtype), record)
        )
        assert reply is not None
        data = frozenset(item.to_text() for rrset in reply.answer for item in rrset)
        return None if data == {address or '"upstream"'} else (int(reply.rcode()), data)


@settings(max_examples=max(1, PAIRS // len(QUERIES)), deadline=None, suppress_health_check=list(HealthCheck))
@given(SETS)
def test_lists_come_to_what_their_lines_say(lists: list[Written]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = Listed(Path(folder))
        world.build_lists(lists)
        for asked in QUERIES:
            address = ANSWERS.get((asked.name, asked.qtype), "")
            assert world.comes_out(asked) == answer(lists, asked, address), asked
