"""The real processes, from start to end: serving, reloading, breaking, dying, stopping."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from resolver.sockets import has_ipv6
from tests.blackbox.harness import Server, is_alive, kill, others_can_run_this, until
from tests.fakes import Act, FakeUpstream, address_of

LISTS = {
    "lists": [
        {"name": "ads", "source": "lists/ads.txt", "category": "advertising"},
        {"name": "more", "source": "lists/more-*.txt"},
    ],
    "categories": {"advertising": {"ede": "filtered"}},
}


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "ads.txt").write_text("ads.example\n")
    (tmp_path / "lists" / "more-1.txt").write_text("one.example\n")
    return tmp_path


@pytest.fixture
def server(folder: Path, upstream: FakeUpstream) -> Iterator[Server]:
    with Server(folder, LISTS, upstream=upstream.port) as running:
        yield running


# -- serving ----------------------------------------------------------------------------------------------------------
def test_listed_names_are_blocked_and_all_others_get_what_upstream_says(server: Server) -> None:
    for tcp in (False, True):
        assert server.addresses("ads.example", tcp=tcp) == ["0.0.0.0"]
        assert server.addresses("www.ads.example", tcp=tcp) == ["0.0.0.0"]
        assert server.addresses("ads.example", "AAAA", tcp=tcp) == ["::"]
        assert server.addresses("one.example", tcp=tcp) == ["0.0.0.0"]
        assert server.addresses("free.example", tcp=tcp) == [address_of("free.example")]


@pytest.mark.peer("dig")
def test_dig_sees_the_sinkhole_and_the_reason(server: Server) -> None:
    done = subprocess.run(
        ["dig", "@127.0.0.1", "-p", str(server.port), "ads.example", "+tries=1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "status: NOERROR" in done.stdout
    assert "0.0.0.0" in done.stdout
    assert "EDE: 17 (Filtered)" in done.stdout


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_wildcard_addresses_answer_from_the_address_that_was_asked(folder: Path, upstream: FakeUpstream) -> None:
    server = Server(folder, LISTS, upstream=upstream.port)
    server.configure(listen={"dns": [f"0.0.0.0:{server.port}", f"[::]:{server.port}"]})
    with server:
        for host in ("127.0.0.1", "127.1.2.3", "::1"):  # dnspython refuses answers from another address
            for tcp in (False, True):
                assert server.addresses("ads.example", host=host, tcp=tcp) == ["0.0.0.0"]
                assert server.addresses("free.example", host=host, tcp=tcp) == [address_of("free.example")]


def test_clients_outside_of_allow_from_are_refused(folder: Path) -> None:
    with Server(folder, {**LISTS, "allow_from": ["127.0.0.1"]}) as server:
        assert server.addresses("ads.example", source="127.0.0.1") == ["0.0.0.0"]
        assert server.rcode("ads.example", source="127.0.0.2") == "REFUSED"
        assert server.rcode("ads.example", source="127.0.0.2", tcp=True) == "REFUSED"


def test_a_second_start_reuses_the_index(folder: Path) -> None:
    with Server(folder, LISTS) as server:
        pass
    past = time.time() - 60
    os.utime(folder / "lists" / "ads.txt", (past, past))
    with Server(folder, LISTS) as server:
        assert "index reused" in server.log
        assert server.addresses("ads.example") == ["0.0.0.0"]


@pytest.mark.parametrize("kind", ["index", "run", "policy"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file_is_built_anew(folder: Path, upstream: FakeUpstream, kind: str, damage: str) -> None:
    with Server(folder, LISTS, upstream=upstream.port):
        pass
    for path in (folder / "state").rglob(f"*.{kind}"):
        octets = bytearray(path.read_bytes())
        if damage == "flipped":
            octets[len(octets) // 3] ^= 0x10
        kept = {"truncated": len(octets) // 2, "flipped": len(octets), "empty": 0}[damage]
        path.write_bytes(octets[:kept])
    (folder / "log").unlink()
    with Server(folder, LISTS, upstream=upstream.port) as server:
        assert server.is_blocked("www.ads.example")
        assert server.addresses("free.example") == [address_of("free.example")]
        (folder / "lists" / "ads.txt").write_text("ads.example\nnew.example\n")
        server.tampah("reload").check_returncode()
        assert server.is_blocked("new.example")


def test_an_index_that_was_damaged_while_nothing_else_changed_is_built_anew(folder: Path) -> None:
    for path in (folder / "lists").iterdir():
        os.utime(path, (time.time() - 60, time.time() - 60))
    server = Server(folder, LISTS)
    with server:
        pass
    (index,) = (folder / "state" / "index").iterdir()
    index.write_bytes(index.read_bytes()[:-1])
    with server:
        assert "building anew, as generation 1 is unfit" in server.log
        until(lambda: server.is_blocked("www.ads.example"), "lists are enforced")


def test_filtering_goes_on_without_any_upstream(folder: Path) -> None:
    with Server(folder, LISTS) as server:
        assert server.rcode("free.example") == "SERVFAIL"
        assert server.addresses("ads.example") == ["0.0.0.0"]
        assert server.http("/readyz")[0] == 200


def test_a_missing_list_is_an_alarm_and_the_others_serve(folder: Path) -> None:
    (folder / "lists" / "ads.txt").unlink()
    with Server(folder, LISTS) as server:
        assert server.is_blocked("one.example")
        assert "ads.txt" in server.log
        states = {item["list"]: item["state"] for item in server.tampah_json("lists")}
        assert states == {"ads": "missing", "more": "read"}


# -- reload -----------------------------------------------------------------------------------------------------------
def _reload(server: Server, how: str) -> None:
    if how == "command":
        server.tampah("reload").check_returncode()
    elif how == "signal":
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("how", ["command", "signal", "watch"])
def test_a_changed_list_is_enforced_by_every_worker(server: Server, how: str) -> None:
    assert server.addresses("new.example") == [address_of("new.example")]  # cached from here on
    server.write("lists/ads.txt", "ads.example\nnew.example\n")
    _reload(server, how)
    if how == "command":
        assert server.is_blocked("new.example")  # at once
    until(lambda: server.is_blocked("new.example"), "the new name is blocked")
    server.write("lists/ads.txt", "new.example\n")
    _reload(server, how)
    until(lambda: server.addresses("ads.example") == [address_of("ads.example")], "the old name is free again")


def test_the_watch_sees_new_files_of_a_pattern_and_the_config(server: Server) -> None:
    server.write("lists/more-2.txt", "two.example\n")
    until(lambda: server.is_blocked("two.example"), "the new file's name is blocked")
    server.configure(sinkhole={"action": "nxdomain"})
    until(lambda: server.rcode("two.example") == "NXDOMAIN", "the new action is enforced")


def test_events_beside_the_lists_are_no_news(server: Server) -> None:
    """The log itself lies in the config's folder here."""
    before = server.log
    for number in range(5):
        (server.folder / "unrelated.txt").write_text(str(number))
        time.sleep(0.2)
    assert server.log == before


def test_reload_reports_what_changed(server: Server) -> None:
    server.write("lists/ads.txt", "a.example\nb.example\nnot a name\n")
    done = server.tampah("reload")
    assert done.returncode == 0
    assert "ads: 2 names (+2 −1), 1 lines refused" in done.stdout
    assert f"{server.folder}/lists/ads.txt:3:" in done.stdout
    metrics = server.metrics()
    assert metrics["tampah_list_names", "ads"] == 2
    assert metrics["tampah_list_refused_lines", "ads"] == 1


def test_keys_that_need_a_restart_are_named(server: Server) -> None:
    server.configure(workers=1, cache={"size": "8MiB"})
    done = server.tampah("reload")
    assert done.returncode == 0
    assert "cache.size" in done.stdout and "workers" in done.stdout and "restart" in done.stdout
    assert len(server.worker_pids()) == 2


def test_a_broken_config_changes_nothing_and_says_where(server: Server) -> None:
    good = server.config_path.read_text()
    server.write("lists/ads.txt", "new.example\n")
    until(lambda: server.is_blocked("new.example"), "the list is in force")
    before = server.status()["generation"]
    server.write("config.yaml", good + "sinkhol: {ttl: 3s}\n")
    done = server.tampah("reload")
    assert done.returncode == 1
    assert "config.yaml" in done.stderr and "sinkhole" in done.stderr
    until(lambda: server.total("tampah_reload_failures_total") >= 1, "the failure is counted")
    assert server.is_blocked("new.example")
    assert server.status()["generation"] == before
    server.write("config.yaml", good)
    server.tampah("reload").check_returncode()


@pytest.mark.parametrize("broken", ["<!DOCTYPE html><html><body>Not found</body></html>\n" * 50, None])
def test_a_broken_list_serves_on_as_it_was_and_the_others_are_renewed(server: Server, broken: str | None) -> None:
    if broken is None:
        (server.folder / "lists" / "ads.txt").unlink()
    else:
        server.write("lists/ads.txt", broken)
    server.write("lists/more-1.txt", "renewed.example\n")
    done = server.tampah("reload")
    assert done.returncode == 1
    assert "lists.ads: " in done.stderr
    assert server.is_blocked("ads.example")
    assert server.is_blocked("renewed.example")
    assert server.total("tampah_reload_failures_total") >= 1
    assert server.http("/readyz")[0] == 200


def test_many_reloads_at_once_share_builds_and_each_is_answered_by_a_later_one(server: Server) -> None:
    server.write("lists/ads.txt", "".join(f"n{number}.example\n" for number in range(20_000)))
    before = server.status()["generation"]
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: server.tampah("reload"), range(6)))
    assert all(result.returncode == 0 for result in done)
    assert server.is_blocked("n19999.example")
    assert server.status()["generation"] - before <= 4


def test_queries_are_answered_and_right_while_lists_change(server: Server) -> None:
    wrong: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            if server.addresses("one.example") != ["0.0.0.0"]:
                wrong.append("one.example")
            if server.addresses("free.example") != [address_of("free.example")]:
                wrong.append("free.example")

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for turn in range(5):
                server.write("lists/ads.txt", "".join(f"t{turn}-{number}.example\n" for number in range(10_000)))
                server.tampah("reload").check_returncode()
                assert server.is_blocked(f"t{turn}-9999.example")
        finally:
            ended.set()
        for task in asking:
            task.result()  # a lost query is a time-out
    assert not wrong


# -- starts that fail -------------------------------------------------------------------------------------------------
def _start_fails(server: Server) -> str:
    server.start()
    assert server.wait_end() == 1
    assert "Traceback" not in server.log
    return server.log


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_an_occupied_port_is_named_with_its_holder(folder: Path, kind: socket.SocketKind) -> None:
    server = Server(folder, LISTS)
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", server.port))
        if kind == socket.SOCK_STREAM:
            other.listen()
        log = _start_fails(server)
    assert f"127.0.0.1:{server.port}" in log and f"pid {os.getpid()}" in log


def test_a_port_that_another_tampah_holds_is_named(folder: Path, server: Server) -> None:
    second = Server(folder / "second", {**LISTS, "listen": {"dns": [f"127.0.0.1:{server.port}"]}})
    log = _start_fails(second)
    assert server.process is not None
    assert f"127.0.0.1:{server.port}" in log and f"pid {server.process.pid}" in log


def test_a_second_server_on_the_same_state_says_so(folder: Path, server: Server) -> None:
    second = Server(folder / "second", {"state_dir": str(server.state_dir)})
    assert server.process is not None
    log = _start_fails(second)
    assert f"in use by the server with pid {server.process.pid}" in log
    assert server.addresses("ads.example") == ["0.0.0.0"]
    assert server.status()["generation"] >= 1  # its control socket was left alone


def test_an_occupied_admin_port_is_named(folder: Path) -> None:
    server = Server(folder, LISTS)
    with socket.create_server(("127.0.0.1", server.admin_port)):
        assert f"admin.listen: 127.0.0.1:{server.admin_port}" in _start_fails(server)


def test_a_broken_config_ends_the_start(folder: Path) -> None:
    server = Server(folder, {"listen": {"dns": ["127.0.0.1:5x"]}})
    assert "listen.dns" in _start_fails(server)


def test_an_unknown_user_ends_the_start(folder: Path) -> None:
    log = _start_fails(Server(folder, {**LISTS, "user": "nobody-of-that-name"}))
    assert "there is no user 'nobody-of-that-name'" in log


# -- lives and deaths -------------------------------------------------------------------------------------------------
def test_a_killed_worker_is_back_and_loses_only_what_it_held(server: Server) -> None:
    before = server.worker_pids()
    generation = server.status()["generation"]
    server.write("lists/ads.txt", "ads.example\nafter.example\n")
    server.tampah("reload").check_returncode()
    kill(before[0])
    began = time.monotonic()
    until(lambda: server.http("/readyz")[0] == 200 and server.worker_pids()[0] not in (0, before[0]), "it is back")
    assert time.monotonic() - began < 10
    assert server.worker_pids()[1] == before[1]
    assert server.is_blocked("after.example")  # by the newest generation
    assert server.status()["generation"] > generation
    metrics = server.metrics()
    assert metrics["tampah_worker_restarts_total",] == 1
    kill(server.worker_pids()[0])
    until(lambda: server.metrics()["tampah_worker_restarts_total",] == 2, "it is restarted again")


def test_what_a_dead_worker_left_unread_is_answered_by_the_next(server: Server) -> None:
    pids = server.worker_pids()
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    clients = []
    for number in range(40):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.sendto(dns.message.make_query("ads.example", "A", id=number).to_wire(), ("127.0.0.1", server.port))
        clients.append(client)
    for pid in pids:
        kill(pid)
    for number, client in enumerate(clients):
        client.settimeout(10)
        assert dns.message.from_wire(client.recv(1000)).id == number
        client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_was_accepted(server: Server, upstream: FakeUpstream, number: signal.Signals) -> None:
    upstream.on("slow.example", Act(delay=1.0))
    with ThreadPoolExecutor(10) as pool:
        udp = [pool.submit(server.addresses, "slow.example", timeout=4) for _ in range(5)]
        tcp = [pool.submit(server.addresses, "slow.example", tcp=True, timeout=4) for _ in range(5)]
        until(lambda: upstream.count("slow.example"), "the question is under way")
        time.sleep(0.2)  # all ten have been taken
        began = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - began < 10
        assert all(task.result() == [address_of("slow.example")] for task in udp + tcp)
    assert not any(map(is_alive, server.workers_by_proc()))


def test_a_second_signal_ends_at_once(server: Server, upstream: FakeUpstream) -> None:
    upstream.on("never.example", Act(drop=True))
    server.configure(upstream={"servers": [f"127.0.0.1:{upstream.port}"], "timeout": "30s"})
    server.tampah("reload").check_returncode()
    pids = server.worker_pids()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(dns.message.make_query("never.example", "A").to_wire(), ("127.0.0.1", server.port))
        until(lambda: upstream.count("never.example"), "the question is under way")
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in server.log, "it drains")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 2
    until(lambda: not any(map(is_alive, pids)), "the workers are gone")


def test_dns_goes_on_without_the_supervisor_and_the_next_one_says_who_serves(server: Server) -> None:
    assert server.process is not None
    pids = server.worker_pids()
    server.process.kill()
    server.exit_status = server.process.wait()
    try:
        assert server.addresses("ads.example") == ["0.0.0.0"]
        assert server.addresses("free.example") == [address_of("free.example")]
        server.start()
        assert server.wait_end() == 1
        assert all(f"pid {pid}" in server.log for pid in pids)
    finally:
        for pid in pids:
            kill(pid, signal.SIGTERM)
    until(lambda: not any(map(is_alive, pids)), "workers end by SIGTERM")
    server.start()
    server.wait_ready()
    assert server.stop() == 0


# -- privileges -------------------------------------------------------------------------------------------------------
CAP_NET_BIND_SERVICE = 1 << 10


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="tampah-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "lists").mkdir()
        (folder / "lists" / "ads.txt").write_text("ads.example\n")
        (folder / "lists" / "more-1.txt").write_text("one.example\n")
        yield folder


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_is_given_up_but_for_low_ports(open_folder: Path) -> None:
    if not others_can_run_this():
        pytest.skip("other users may not read this Python or this source")
    with Server(open_folder, {**LISTS, "user": "nobody"}) as server:
        assert server.process is not None
        assert server.addresses("ads.example") == ["0.0.0.0"]
        for pid, capabilities in ((server.process.pid, CAP_NET_BIND_SERVICE), (server.worker_pids()[0], 0)):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
            assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == capabilities
        server.write("lists/ads.txt", "later.example\n")
        server.tampah("reload").check_returncode()
        assert server.is_blocked("later.example")
        kill(server.worker_pids()[0])
        until(lambda: server.http("/readyz")[0] == 200, "a killed worker is back without root")


# -- admin and commands -----------------------------------------------------------------------------------------------
def test_metrics_count_every_query_once(server: Server) -> None:
    for _ in range(10):
        server.ask("ads.example")
        server.ask("free.example")
    server.ask("ads.example", "AAAA", tcp=True)
    metrics = server.metrics()
    assert metrics["tampah_queries_total", "udp", "A"] == 20
    assert metrics["tampah_queries_total", "tcp", "AAAA"] == 1
    assert metrics["tampah_answers_total", "zero", "advertising", "ads"] == 11
    assert metrics["tampah_responses_total", "NOERROR"] == 21
    assert server.total("tampah_answers_total") == server.total("tampah_queries_total") == 21
    hits, misses = metrics["tampah_cache_hits_total",], metrics["tampah_cache_misses_total",]
    assert hits + misses == 10 and misses <= 2
    assert metrics["tampah_generation",] == 1
    assert metrics["tampah_process_resident_memory_bytes", "anonymous", "worker-1"] > 0


def test_readiness_says_why_not(server: Server) -> None:
    assert server.http("/healthz")[0] == 200
    assert server.http("/readyz") == (200, "ready\n")
    assert server.http("/elsewhere")[0] == 404
    pid = server.worker_pids()[1]
    kill(pid, signal.SIGSTOP)
    assert server.http("/readyz") == (503, "worker 1 does not answer\n")
    assert server.http("/healthz")[0] == 200
    kill(pid, signal.SIGCONT)
    until(lambda: server.http("/readyz")[0] == 200, "it answers again")


def test_explain_lists_and_stats(server: Server) -> None:
    server.ask("www.ads.example")
    told = server.tampah_json("explain", "www.ads.example")
    assert (told["action"], told["list"], told["category"]) == ("zero", "ads", "advertising")
    [match] = told["matches"]
    assert (match["file"], match["line"], match["name"]) == (f"{server.folder}/lists/ads.txt", 1, "ads.example")
    assert any("0.0.0.0" in line for line in told["answer"])
    lists = {item["list"]: item for item in server.tampah_json("lists")}
    assert (lists["ads"]["hits"], lists["ads"]["names"]) == (1, 1)
    assert server.tampah_json("stats")["queries"] == 1
    assert server.stop() == 0
    assert server.tampah_json("explain", "www.ads.example") == told  # and without the server
    assert server.tampah_json("lists")[0]["hits"] is None
    done = server.tampah("stats")
    assert done.returncode == 1 and "no server answers" in done.stderr


def test_bench_measures_the_server_of_the_config_and_leaves_others_alone(server: Server) -> None:
    measured = server.tampah_json("bench", "--seconds", "1", "--rate", "200")
    assert measured["answered"] == measured["sent"] > 100
    assert measured["lost"] == 0 and measured["latency"]["p99"] > 0
    refused = server.tampah("bench", "192.0.2.1:53", "--seconds", "1")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: 192.0.2.1 is another machine: add --yes-remote")


def test_the_control_socket_is_the_owners_alone_and_bad_messages_harm_nobody(server: Server) -> None:
    path = server.state_dir / "control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    for line in (b"nonsense\n", b'{"message":"Drain","seconds":0}\n', b'{"message":"Status"', b""):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall(line)
            peer.shutdown(socket.SHUT_WR)
            answer = peer.makefile("rb").readline()
            assert not answer or json.loads(answer)["message"] == "Failed"
    assert server.addresses("ads.example") == ["0.0.0.0"]
