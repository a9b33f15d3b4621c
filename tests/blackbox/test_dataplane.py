"""What a real server does under a crowd: idle connections, a worker that hangs, and query records on their way out.

TAMPAH_CONNECTIONS says how many connections there are (2,000); each takes a file of this process and of a worker.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import pytest

from resolver.ring import Reader, Record
from tests.blackbox.harness import Server, kill, until
from tests.fakes import FakeUpstream

CONNECTIONS = int(os.environ.get("TAMPAH_CONNECTIONS", "2000"))
EACH = 50  # connections of one client
QUERY = dns.message.make_query("ads.example", "A", use_edns=0).to_wire()


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake


def make(folder: Path, upstream: FakeUpstream | None = None, **config: object) -> Server:
    (folder / "ads.txt").write_text("ads.example\n")
    lists = [{"name": "ads", "source": "ads.txt"}]
    return Server(folder, {"lists": lists, **config}, upstream=upstream.port if upstream else 0)


def anonymous(pid: int) -> int:
    """Octets of memory that a process has to itself."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def descriptor_slots(pid: int) -> int:
    """For how many descriptors a process has room."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("FDSize:")[2].split()[0])


def ask(connection: socket.socket) -> bool:
    """Whether a query over a connection is answered."""
    try:
        connection.sendall(struct.pack(">H", len(QUERY)) + QUERY)
        return connection.recv(4096)[2:4] == QUERY[:2]
    except OSError:
        return False


def test_the_next_builder_gives_way_to_workers_and_not_to_a_terminals_interrupt(tmp_path: Path) -> None:
    def builder(server: Server) -> int:
        for pid in server.workers_by_proc():
            if b"resolver.lists.compile" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return 0

    with make(tmp_path) as server:
        assert server.process is not None
        pid = until(lambda: builder(server), "the next builder waits")
        # A session of its own would be a scheduling group of its own (sched(7), autogroup), and niceness counts in a group.
        assert os.getsid(pid) == os.getsid(server.process.pid)
        assert os.getpgid(pid) != os.getpgid(server.process.pid)
        assert os.getpriority(os.PRIO_PROCESS, server.worker_pids()[0]) == os.getpriority(os.PRIO_PROCESS, 0)


def test_thousands_of_idle_connections_cost_little_and_hinder_nobody(tmp_path: Path) -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert files > CONNECTIONS + 500, f"{CONNECTIONS} connections need more files than {files}"
    limits = {"per_worker": CONNECTIONS, "per_client": EACH, "idle": "10m"}
    with make(tmp_path, workers=1, connections=limits) as server:
        [pid] = server.worker_pids()
        with socket.create_connection(("127.0.0.1", server.port)) as first:
            assert server.is_blocked("ads.example") and ask(first)
        before, slots, slowest, stop = anonymous(pid), descriptor_slots(pid), [0.0], threading.Event()

        def keep_asking() -> None:
            while not stop.is_set():
                began = time.monotonic()
                server.addresses("ads.example")
                slowest[0] = max(slowest[0], time.monotonic() - began)

        asking = threading.Thread(target=keep_asking)
        asking.start()
        began = time.monotonic()
        crowd = []
        for number in range(CONNECTIONS):
            source = f"127.{1 + number // EACH // 250}.{number // EACH % 250}.1"
            crowd.append(socket.create_connection(("127.0.0.1", server.port), 10, (source, 0)))
        until(lambda: server.status()["workers"][0]["connections"] == CONNECTIONS, "all are accepted")
        took = time.monotonic() - began
        stop.set()
        asking.join()
        each = (anonymous(pid) - before) / CONNECTIONS
        print(f"{CONNECTIONS} connections in {took:.1f} s, {each:.0f} octets each, UDP at most {slowest[0]:.3f} s")
        assert slowest[0] < 2, "who asks by UDP meanwhile is answered"
        assert descriptor_slots(pid) == slots, "each growth of the table would have kept all waiting for some 10 ms"
        assert each < 16 << 10

        late = socket.create_connection(("127.0.0.1", server.port), 10, ("127.200.0.1", 0))
        assert ask(late), "one more is served"
        crowd[0].settimeout(5)
        assert crowd[0].recv(1) == b"", "in the place of the idlest"
        assert all(ask(connection) for connection in crowd[1 :: max(1, CONNECTIONS // 200)])
        assert server.status()["workers"][0]["connections"] == CONNECTIONS

        for connection in (*crowd, late):
            connection.close()
        until(lambda: server.status()["workers"][0]["connections"] == 0, "all are gone")
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 200
        assert server.is_blocked("ads.example")


def test_a_client_cannot_take_more_than_its_share_and_idle_ones_go(tmp_path: Path) -> None:
    with make(tmp_path, workers=1, connections={"per_client": 5, "idle": "1s"}) as server:
        mine = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(8)]
        until(lambda: server.status()["workers"][0]["connections"] == 5, "the first three have made place")
        assert all(map(ask, mine[3:]))
        until(lambda: server.status()["workers"][0]["connections"] == 0, "the idle ones are closed")
        for connection in mine:
            connection.close()
        server.configure(connections={"per_client": 2, "idle": "30s"})
        server.tampah("reload").check_returncode()
        more = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(4)]
        until(lambda: [ask(connection) for connection in more] == [False, False, True, True], "the limit is a reload's")
        for connection in more:
            connection.close()


def test_a_worker_that_hangs_is_replaced_and_what_waited_is_answered(tmp_path: Path) -> None:
    with make(tmp_path) as server:
        before = server.worker_pids()
        kill(before[0], signal.SIGSTOP)
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(40)]
        for client in clients:
            client.sendto(QUERY, ("127.0.0.1", server.port))
        until(lambda: server.worker_pids()[0] not in (0, before[0]), "the hung worker is replaced")
        for client in clients:
            client.settimeout(10)
            assert client.recv(1000)[:2] == QUERY[:2]
            client.close()
        assert server.worker_pids()[1] == before[1]
        assert "worker 0 ended (hung" in server.log


def test_every_query_is_recorded_by_whichever_worker_had_it(tmp_path: Path, upstream: FakeUpstream) -> None:
    with make(tmp_path, upstream, query_log={"what": "all"}) as server:
        assert server.process is not None
        [recorder] = server.helper_pids("resolver.records.process")
        kill(recorder, signal.SIGSTOP)  # it would take them
        readers = [Reader(fd) for fd in rings(server.process.pid)]
        assert len(readers) == 2
        for number in range(200):
            assert server.addresses("ads.example" if number % 2 else f"n{number % 20}.example", tcp=number % 10 == 0)
        records: list[Record] = []

        def are_there() -> bool:
            for reader in readers:
                records.extend(reader)
            return len(records) >= 200

        until(are_there, "all are there")
        assert len(records) == 200
        assert sum(record.name == b"\3ads\7example\0" for record in records) == 100
        assert {record.client for record in records} == {bytes(10) + b"\xff\xff\x7f\0\0\1"}
        assert sum(record.transport == 1 for record in records) == 20
        assert sum(record.duration > 0 for record in records) >= 20, "each name was asked for upstream at least once"
        assert server.total("tampah_query_records_total") == 200
        assert server.total("tampah_query_duration_seconds_count") == 200

        for reader in readers:
            reader.close()
        kill(recorder, signal.SIGCONT)


def rings(pid: int) -> list[int]:
    """The supervisor's rings, opened anew, by worker."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # closed since the folder was listed
            continue
        if "tampah-records-" in target:
            found[target] = os.open(link, os.O_RDWR)
    return [found[name] for name in sorted(found)]
