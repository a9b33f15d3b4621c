"""Which class a client has: the flattened table against the rules read out one by one."""

from __future__ import annotations

import ipaddress
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.engine.engine import flatten_clients
from resolver.lists.clients import Layer, Packed, build_clients, flatten, intervals, lookup, outside, pack, read_file
from resolver.snapshot import REFUSED_CLASS, Clients
from tests import reference_policy as reference

# Few addresses, so that prefixes meet, nest and touch.
addresses4 = st.integers(0, 63).map(lambda number: str(ipaddress.IPv4Address((10 << 24) + number * 0x01010101 % 2**26)))
addresses6 = st.integers(0, 63).map(lambda number: str(ipaddress.IPv6Address(number << 121 | number)))
mapped = addresses4.map(lambda address: f"::ffff:{address}")
prefixes = st.one_of(
    st.tuples(addresses4, st.sampled_from([0, 6, 8, 9, 16, 24, 31, 32])),
    st.tuples(addresses6, st.sampled_from([0, 3, 7, 64, 127, 128])),
    st.tuples(mapped, st.sampled_from([95, 96, 104, 120, 128])),
).map(lambda pair: f"{pair[0]}/{pair[1]}")


@settings(max_examples=400, deadline=None)
@given(st.lists(prefixes, max_size=4), st.lists(st.lists(prefixes, max_size=5), max_size=5), st.data())
def test_every_address_has_the_class_that_the_rules_say(
    allow_from: list[str], groups: list[list[str]], data: st.DataObject
) -> None:
    classed = [(prefixes, number % 3 + 1) for number, prefixes in enumerate(groups)]
    clients = build_clients(allow_from, classed)
    edges = [
        str(kind(edge))
        for found, kind in zip(
            intervals([*allow_from, *(prefix for group in groups for prefix in group)]),
            (ipaddress.IPv4Address, ipaddress.IPv6Address),
            strict=True,
        )
        for interval in found
        for edge in (interval[0] - 1, interval[0], interval[1] - 1, interval[1])
        if 0 <= edge < (1 << (32 if kind is ipaddress.IPv4Address else 128))
    ]
    others = data.draw(st.lists(st.one_of(addresses4, addresses6, mapped), min_size=3))
    for address in edges + others + ["0.0.0.0", "255.255.255.255", "::", "ff::1"]:
        assert lookup(clients, address) == reference.client_class(allow_from, classed, address), address
    check_form(clients)


def check_form(clients: Clients) -> None:
    """What the engine takes for granted: ascending from zero, parallel, neighbours differ."""
    for starts, classes, width, order in (
        (clients.starts4, clients.classes4, 4, "little"),
        (clients.starts6, clients.classes6, 16, "big"),
    ):
        numbers = [int.from_bytes(starts[i : i + width], order) for i in range(0, len(starts), width)]  # type: ignore[arg-type]
        assert numbers[0] == 0
        assert numbers == sorted(set(numbers))
        pairs = [classes[i : i + 2] for i in range(0, len(classes), 2)]
        assert len(pairs) == len(numbers)
        assert all(a != b for a, b in itertools.pairwise(pairs))


def test_the_first_group_in_config_order_wins_not_the_longest_prefix() -> None:
    network, host = ["192.168.0.0/16"], ["192.168.1.7"]
    assert lookup(build_clients(["0.0.0.0/0"], [(network, 1), (host, 2)]), "192.168.1.7") == 1
    host_first = build_clients(["0.0.0.0/0"], [(host, 2), (network, 1)])
    assert [lookup(host_first, f"192.168.1.{number}") for number in (6, 7, 8)] == [1, 2, 1]


def test_a_group_does_not_open_the_door() -> None:
    clients = build_clients(["10.0.0.0/8"], [(["10.1.0.0/16", "192.0.2.0/24"], 1)])
    assert lookup(clients, "192.0.2.1") == REFUSED_CLASS
    assert lookup(clients, "10.1.0.1") == 1
    assert lookup(clients, "10.2.0.1") == 0
    assert lookup(clients, "::1") == REFUSED_CLASS


def test_mapped_addresses_are_ipv4() -> None:
    clients = build_clients(["::ffff:192.0.2.0/120"], [])
    assert lookup(clients, "192.0.2.9") == lookup(clients, "::ffff:192.0.2.9") == 0
    assert lookup(clients, ipaddress.ip_address("192.0.2.9").packed) == 0
    assert lookup(clients, bytes(10) + b"\xff\xff\xc0\0\2\x09") == 0
    assert lookup(clients, "192.0.3.0") == REFUSED_CLASS
    assert lookup(build_clients(["::/0"], []), "192.0.2.9") == REFUSED_CLASS


def test_objects_and_text_mean_the_same() -> None:
    text = build_clients(["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"], [])
    objects = build_clients(
        [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"), ipaddress.ip_address("192.0.2.1")],
        [],
    )
    assert text == objects


@pytest.mark.parametrize(
    "bad", ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "::/129", "x", "10.0.0.0/²", "fe80::1%eth0/64"]
)
def test_a_bad_prefix_is_named(bad: str) -> None:
    with pytest.raises(ValueError):
        build_clients([bad], [])


def test_a_dotted_mask_is_a_prefix() -> None:
    assert lookup(build_clients(["10.0.0.0/255.0.0.0"], []), "10.255.0.1") == 0


def test_what_is_outside_of_allow_from() -> None:
    assert not outside(["10.0.0.0/8", "::1"], ["10.1.0.0/16", "10.2.0.0/16", "::1"])
    assert outside(["10.0.0.0/8"], ["10.0.0.0/8", "11.0.0.0/8"])
    assert outside(["10.0.0.0/9"], ["10.0.0.0/8"])
    assert outside(["10.0.0.0/8"], ["::1"])
    assert not outside([], [])


def test_a_hundred_thousand_subscribers_fit_and_are_found() -> None:
    chance = random.Random(4)
    hosts = chance.sample(range(100 << 24, 101 << 24), 100_000)
    groups = [([str(ipaddress.IPv4Address(host)) for host in hosts[number::50]], number + 1) for number in range(50)]
    clients = build_clients(["100.0.0.0/8"], groups)
    assert len(clients.starts4) + len(clients.classes4) <= (2 * len(hosts) + 3) * 6
    for number in range(0, len(hosts), 997):
        assert lookup(clients, str(ipaddress.IPv4Address(hosts[number]))) == number % 50 + 1


# -- files of clients -------------------------------------------------------------------------------------------------
pieces = st.lists(
    st.sampled_from(
        ["10.0.0.1", "10.0.0.0", "/24", "/8", "/032", "/33", "::1", "fd00::", "/16", "::ffff:10.0.0.1", "1"]
    )
    | st.sampled_from([".", ":", "/", "%eth0", " ", "\t", "#", ";", "x", "\0", "255.255.255.255", "/0", "\r", "é"]),
    max_size=4,
).map("".join)


def read_slowly(text: str) -> tuple[list[object], list[int]]:
    """(networks, numbers of broken lines) of a file of clients."""
    networks: list[object] = []
    broken = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.partition("#")[0].partition(";")[0].strip("".join(map(chr, range(33))))
        if not line:
            continue
        try:
            network = ipaddress.ip_network(line)
            _, slash, length = line.partition("/")
            if slash and not (length.isascii() and length.isdigit()):
                raise ValueError(line)
            if isinstance(network, ipaddress.IPv6Network) and ("%" in line or is_mapped(network)):
                raise ValueError(line)
        except ValueError:
            broken.append(number)
        else:
            networks.append(network)
    return networks, broken


def is_mapped(network: ipaddress.IPv6Network) -> bool:
    return network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None


@settings(max_examples=600, deadline=None)
@given(st.lists(pieces, max_size=6).map("\n".join))
def test_a_file_says_what_ipaddress_reads_in_its_lines(text: str) -> None:
    networks, broken = read_slowly(text)
    found = read_file(text.encode())
    assert [each.line for each in found.broken] == broken
    assert (found.lines, found.refused) == (len(networks), len(broken))
    again = flatten(pack(["0.0.0.0/0", "::/0"]), [Layer(found.packed, 7, 7)])
    assert again == build_clients(["0.0.0.0/0", "::/0"], [(networks, 7)])  # type: ignore[list-item]


def test_ends_of_the_address_space_and_a_pause() -> None:
    everything = pack(["0.0.0.0/0", "::/0"])
    clients = flatten(everything, [Layer(pack(["255.255.255.255", "ff00::/8"]), 1, 5)], (0, 4), pack(["128.0.0.0/1"]))
    assert [lookup(clients, a) for a in ("127.255.255.255", "128.0.0.0", "255.255.255.255")] == [0, 4, 5]
    assert [lookup(clients, a) for a in ("::", "feff::", "ff00::", "ffff:" * 7 + "ffff")] == [0, 0, 1, 1]
    check_form(clients)


def test_a_hundred_groups_keep_their_order() -> None:
    layers = [Layer(pack([f"10.0.0.0/{8 + number // 8}"]), number + 1, number + 1) for number in reversed(range(130))]
    assert lookup(flatten(pack(["10.0.0.0/8"]), layers), "10.0.0.1") == 130
    assert lookup(flatten(pack(["10.0.0.0/8"]), layers), "10.255.0.1") == 8


@pytest.mark.parametrize(
    ("layer", "classes"),
    [
        ((b"1234567", b""), b"\0\0\0\0"),
        ((b"\2\0\0\0\1\0\0\0", b""), b"\0\0\0\0"),
        ((b"", b"\2" + bytes(31)), b"\0\0\0\0"),
        ((b"", b""), b"\0\0"),
    ],
)
def test_intervals_that_are_none_are_refused(layer: tuple[bytes, bytes], classes: bytes) -> None:
    with pytest.raises(ValueError):
        flatten_clients((b"", b""), (b"", b""), [layer], classes, classes)
    assert Packed() + Packed(b"12345678") == Packed(b"12345678")
