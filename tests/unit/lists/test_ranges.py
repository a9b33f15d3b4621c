"""Addresses and names of name servers in an index say what the oracle says, after a full build and after patches."""

from __future__ import annotations

import ipaddress
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resolver.engine.engine import Index
from resolver.lists import patch
from resolver.lists.container import SectionReader
from resolver.lists.layout import INDEX, TRIGGER_SECTIONS
from resolver.lists.ranges import RANGE_KINDS, bounds
from resolver.lists.rules import Outcome, Rule, Trigger, TriggerKind
from resolver.vocabulary import Action, Scope, Verb
from tests.indexes import Asked, expected, make_index
from tests.reference import ReferenceList, said_of_address, said_of_server
from tests.unit.lists.test_patch import Builds

OUTCOMES = (
    Outcome(),
    Outcome(Verb.ALLOW),
    Outcome(action=Action.NXDOMAIN),
    Outcome(action=Action.DATA, data=("A 192.0.2.1",)),
)
_addresses = st.one_of(  # few, so that prefixes meet, nest and touch; the ends of each space among them
    st.integers(0, 31).map(lambda number: ipaddress.ip_address((number << 27) | (0x7FFFFFF if number & 1 else 0))),
    st.integers(0, 7).map(lambda number: ipaddress.ip_address(0x0A000000 + number)),
    st.integers(0, 15).map(
        lambda number: ipaddress.IPv6Address((number << 124) | ((1 << 124) - 1 if number & 1 else 0))
    ),
    st.integers(0, 3).map(lambda number: ipaddress.IPv6Address((0xFFFF << 32) - 2 + number)),
)


def _prefix(address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int) -> str:
    length = max(1, min(length, address.max_prefixlen))
    network = ipaddress.ip_network((address, length), strict=False)
    if isinstance(network, ipaddress.IPv6Network) and length >= 96 and network.network_address.ipv4_mapped:
        return "2001:db8::/32"  # such a prefix is an IPv4 one
    return str(network)


_texts = st.builds(_prefix, _addresses, st.sampled_from([1, 2, 5, 8, 29, 30, 31, 32, 96, 127, 128]))
_servers = st.builds(
    lambda star, labels: star + ".".join(labels),
    st.sampled_from(["", "*."]),
    st.lists(st.sampled_from("ab"), min_size=1, max_size=3),
)
_triggers = st.one_of(
    st.builds(Trigger, st.sampled_from(RANGE_KINDS), _texts, st.sampled_from(OUTCOMES), st.just(1)),
    st.builds(Trigger, st.just(TriggerKind.NSDNAME), _servers, st.sampled_from(OUTCOMES), st.just(1)),
)


def settled(triggers: list[Trigger], replaces: bool) -> tuple[Trigger, ...]:
    """As a reader leaves them: without duplicates, in the order of kinds."""
    kept: dict[object, Trigger] = {}
    for trigger in triggers:
        kept.setdefault((trigger.kind, trigger.text, None if replaces else trigger.outcome), trigger)
    return tuple(sorted(kept.values(), key=lambda trigger: trigger.kind))


def _list(triggers: list[Trigger], replaces: bool) -> ReferenceList:
    return ReferenceList((), replaces, settled(triggers, replaces))


_lists = st.lists(st.builds(_list, st.lists(_triggers, max_size=9), st.booleans()), min_size=1, max_size=3)


def check(path: Path, lists: list[ReferenceList]) -> None:
    asked = Asked(path)
    texts = {trigger.text for entry in lists for trigger in entry.triggers if trigger.kind is not TriggerKind.NSDNAME}
    addresses = {"0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "10.0.0.3", "::1"}
    for network in map(ipaddress.ip_network, texts):
        for number in (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1):
            if 0 <= number < 1 << network.max_prefixlen:
                beside = type(network[0])(number)
                if not getattr(beside, "ipv4_mapped", None):
                    addresses.add(str(beside))
    for kind in RANGE_KINDS:
        for address in addresses:
            said = asked.said_of_address(kind, address)
            wanted = expected(asked.index, said_of_address(lists, kind, address))
            assert sorted(said, key=repr) == sorted(wanted, key=repr), (kind, address)
    for name in ("a", "b", "a.a", "b.a", "a.b.a", "c.b.a", "x.a.b.a", "b.b", "c"):
        said = asked.said_of_server(name)
        wanted = expected(asked.index, said_of_server(lists, name))
        assert sorted(said, key=repr) == sorted(wanted, key=repr), name


@settings(max_examples=60, deadline=None)
@given(_lists)
def test_an_index_says_of_addresses_what_the_oracle_says(lists: list[ReferenceList]) -> None:
    with TemporaryDirectory() as folder:
        check(make_index(Path(folder), lists), lists)


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "MAX_SHARE", 1000.0)
    monkeypatch.setattr(patch, "MAX_SUM", 1000.0)
    monkeypatch.setattr(patch, "MAX_FILL", 1.0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_lists, st.lists(st.tuples(st.lists(_triggers, max_size=4), st.booleans()), min_size=1, max_size=3))
def test_a_patch_says_so_too(
    unbounded: None, lists: list[ReferenceList], changes: list[tuple[list[Trigger], bool]]
) -> None:
    known = tuple(Rule(f"z{place}", Scope.SELF, outcome) for place, outcome in enumerate(OUTCOMES))
    lists = [entry._replace(rules=known) for entry in lists]
    with TemporaryDirectory() as folder:
        builds = Builds(Path(folder))
        builds.full(lists)
        for number, (added, also_names) in enumerate(changes):
            entry = lists[0]
            rules = (*entry.rules, Rule(f"new{number}", Scope.BOTH, OUTCOMES[0])) if also_names else entry.rules
            triggers = settled([*entry.triggers[1:], *added], entry.replaces)
            lists[0] = ReferenceList(rules, entry.replaces, triggers)
            assert builds.patched(lists)
            check(builds.index, lists)
            assert Asked(builds.index).said_of(f"new{number}") == (
                [(0, expected(Index(builds.index), {(0, OUTCOMES[0])})[0][1], None)] if also_names else []
            )


def test_a_change_of_names_alone_leaves_the_tables_as_they_are(tmp_path: Path, unbounded: None) -> None:
    triggers = (Trigger(TriggerKind.ADDRESS, "192.0.2.0/24", Outcome(), 1),)
    lists = [ReferenceList((Rule("a", Scope.BOTH, Outcome()), Rule("b", Scope.BOTH, Outcome())), False, triggers)]
    builds = Builds(tmp_path)
    builds.full(lists)
    before = builds.index
    moved = tuple(trigger._replace(line=9) for trigger in triggers)
    assert builds.patched([ReferenceList((*lists[0].rules, Rule("c", Scope.BOTH, Outcome())), False, moved)])
    with SectionReader(before, INDEX) as old, SectionReader(builds.index, INDEX) as new:
        assert [old.read(section) for section in TRIGGER_SECTIONS] == [
            new.read(section) for section in TRIGGER_SECTIONS
        ]


def test_many_addresses(tmp_path: Path) -> None:
    dice = random.Random(5)
    numbers = dice.sample(range(1 << 32), 5000)
    texts = [f"{ipaddress.IPv4Address(number)}/32" for number in numbers]
    triggers = tuple(Trigger(TriggerKind.ADDRESS, text, Outcome(), line) for line, text in enumerate(texts))
    index = Index(make_index(tmp_path, [ReferenceList((), False, triggers)]))
    listed = set(numbers)
    for number in [*numbers, *(number + 1 for number in numbers), *dice.sample(range(1 << 32), 5000)]:
        address = bytes(10) + b"\xff\xff" + (number & 0xFFFFFFFF).to_bytes(4, "big")
        assert bool(index.find_address(address)) == (number in listed)
        assert not index.find_address(address, 1)


@pytest.mark.parametrize("text", ["192.0.2.1/24", "192.0.2.0/0", "192.0.2.0/33", "x/1", "2001:db8::1/32", ""])
def test_a_text_that_is_no_prefix(text: str) -> None:
    with pytest.raises(ValueError):
        bounds(text)
