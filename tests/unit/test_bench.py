"""The load generator against a server that the test controls."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from resolver import bench
from resolver.bench import BenchError, Latencies

Answer = Callable[[dns.message.Message], list[bytes]]


def _reply(query: dns.message.Message, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytes:
    response = dns.message.make_response(query)
    response.set_rcode(rcode)
    return response.to_wire()


@contextlib.contextmanager
def _server(answer: Answer) -> Iterator[tuple[int, Counter[str]]]:
    """(port, how often each name was asked) of a server that sends back what `answer` gives."""
    asked: Counter[str] = Counter()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                packet, client = sock.recvfrom(4096)
                if packet == b"end":
                    return
                query = dns.message.from_wire(packet)
                asked[query.question[0].name.to_text(omit_final_dot=True)] += 1
                for reply in answer(query):
                    sock.sendto(reply, client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield sock.getsockname()[1], asked
        finally:
            with socket.socket(type=socket.SOCK_DGRAM) as last:
                last.sendto(b"end", sock.getsockname())
            thread.join()


def test_closed_loop_counts_what_was_answered_by_rcode() -> None:
    def answer(query: dns.message.Message) -> list[bytes]:
        known = str(query.question[0].name) == "known.example."
        return [_reply(query, dns.rcode.NOERROR if known else dns.rcode.NXDOMAIN)]

    with _server(answer) as (port, asked):
        result = bench.run("127.0.0.1", port, ["known.example", "other.example"], seconds=0.3, outstanding=4)
    assert result.answered == result.sent == sum(asked.values()) > 4
    assert result.lost == 0
    assert result.rcodes == {"NOERROR": asked["known.example"], "NXDOMAIN": asked["other.example"]}
    assert 0 < result.latencies.percentile(0.5) <= result.latencies.percentile(0.99) <= result.latencies.greatest


def test_open_loop_asks_at_the_rate_though_nothing_is_answered() -> None:
    with _server(lambda query: []) as (port, _):
        result = bench.run("127.0.0.1", port, ["a.example"], seconds=0.5, rate=100)
    assert 45 <= result.sent <= 51
    assert (result.answered, result.lost) == (0, result.sent)
    assert "does a server listen there?" in " ".join(result.lines())


def test_forged_and_repeated_answers_do_not_count() -> None:
    def answer(query: dns.message.Message) -> list[bytes]:
        forged = dns.message.make_query("forged.example", "A", id=query.id)
        return [b"x", query.to_wire(), _reply(forged), _reply(query), _reply(query)]

    with _server(answer) as (port, _):
        result = bench.run("127.0.0.1", port, ["a.example"], seconds=0.3, outstanding=2, clients=1)
    assert result.answered == result.sent > 2
    assert result.lost == 0


def test_an_error_without_the_question_counts() -> None:
    def answer(query: dns.message.Message) -> list[bytes]:
        return [query.id.to_bytes(2, "big") + bytes((0x80, dns.rcode.FORMERR, 0, 0, 0, 0, 0, 0, 0, 0))]

    with _server(answer) as (port, _):
        result = bench.run("127.0.0.1", port, ["a.example"], seconds=0.2, outstanding=2)
    assert set(result.rcodes) == {"FORMERR"}


def test_a_port_where_nothing_listens_is_told() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    result = bench.run("127.0.0.1", port, ["a.example"], seconds=0.2, outstanding=2)
    assert result.answered == 0
    assert any("does a server listen" in note for note in result.notes)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "0.0.0.0"])
def test_other_machines_need_a_yes(host: str) -> None:
    with pytest.raises(BenchError, match="--yes-remote"):
        bench.run(host, 53, seconds=0.1)
    assert bench.check_address(host, yes_remote=True)[1] == host


@pytest.mark.parametrize("host", ["example.com", "", "127.0.0.1:53"])
def test_a_host_is_an_address(host: str) -> None:
    with pytest.raises(BenchError, match="no IP address"):
        bench.check_address(host, yes_remote=True)


@pytest.mark.parametrize(
    ("option", "value"),
    [("seconds", 0.0), ("seconds", 1e6), ("rate", -1.0), ("rate", 1e9), ("outstanding", 0), ("clients", 10_000)],
)
def test_numbers_are_bounded(option: str, value: float) -> None:
    with pytest.raises(BenchError, match=option):
        bench.run("127.0.0.1", 53, **{option: value})  # type: ignore[arg-type]


def test_names_come_from_a_list_or_from_dnsperfs_file(tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_text("# a comment\nA.example A\n\nb.example # why\n")
    assert bench.read_names(file) == ["A.example", "b.example"]
    file.write_text("# nothing\n")
    with pytest.raises(BenchError, match="no names"):
        bench.read_names(file)


@pytest.mark.parametrize("name", ["a..example", "x" * 64 + ".example", ".".join(["abcdefgh"] * 29), "bücher.example"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(BenchError):
        bench.encode(name)


def test_queries_are_sound() -> None:
    for name in [".", "example.", "a.b.example", *bench.generate_names(10)]:
        query = dns.message.from_wire(bench.encode(name))
        assert query.question[0].name.to_text(omit_final_dot=name != ".") == name.rstrip(".") or name == "."
        assert query.edns == 0


def test_percentiles_are_within_three_per_cent() -> None:
    latencies = Latencies()
    for microseconds in range(1, 10_001):
        latencies.add(microseconds / 1e6)
    for share in (0.01, 0.5, 0.9, 0.99):
        assert share * 0.01 <= latencies.percentile(share) <= share * 0.01 * 1.03
    assert latencies.percentile(1.0) == latencies.greatest == 0.01
    assert Latencies().percentile(0.5) == 0
