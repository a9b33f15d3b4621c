"""Groups that change while the server runs: files of clients, schedules, pauses, MAC addresses, and what only counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from resolver import control
from tests.blackbox.harness import PATIENCE, ROOT, Server, kill, until
from tests.fakes import FakeUpstream, address_of

KID, ADULT = "127.0.0.7", "127.0.0.8"
NAMES = {"ads": "x.ads.example", "law": "x.law.example"}


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake


def make(folder: Path, upstream: FakeUpstream, groups: Sequence[Mapping[str, Any]], **config: Any) -> Server:
    """A server with a list `ads` and a mandatory list `law`."""
    (folder / "ads.txt").write_text("ads.example\n")
    (folder / "law.txt").write_text("law.example\n")
    for name in ("ads.txt", "law.txt"):  # long ago, so that stat alone tells that they have not changed
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    lists = [{"name": "ads", "source": "ads.txt"}, {"name": "law", "source": "law.txt", "mandatory": True}]
    return Server(folder, {"lists": lists, "groups": list(groups), **config}, upstream=upstream.port)


def blocked(server: Server, client: str, what: str = "ads") -> bool | None:
    """Whether a client's name is blocked; None while workers disagree."""
    found = {server.addresses(NAMES[what], source=client)[0] for _ in range(10)}
    return {"0.0.0.0": True, address_of(NAMES[what]): False}[found.pop()] if len(found) == 1 else None


def test_a_file_of_clients_is_followed_and_its_last_good_content_kept(tmp_path: Path, upstream: FakeUpstream) -> None:
    (tmp_path / "free.txt").write_text("# nobody yet\n")
    server = make(tmp_path, upstream, [{"name": "free", "clients": ["file:free.txt"], "lists": []}])
    with server:
        generation = server.status()["generation"]
        assert blocked(server, KID) is True
        server.write("free.txt", f"{KID}  # a comment\n127.0.1.0/24\nnonsense\n127.0.0.9/24\n")
        until(lambda: blocked(server, KID) is False, "the file is followed")
        assert blocked(server, ADULT) is True
        assert blocked(server, "127.0.1.200") is False
        assert f"{tmp_path}/free.txt:3: expected an address, a network" in server.log
        assert f"{tmp_path}/free.txt:4: expected a network, but bits are set after its prefix" in server.log
        assert server.metrics()[("tampah_client_file_refused_lines", f"{tmp_path}/free.txt")] == 2
        explained = server.tampah_json("explain", NAMES["ads"], "--client", KID)
        assert (explained["group"], explained["entry"], explained["action"]) == ("free", "file:free.txt", "forward")
        assert server.status()["generation"] == generation, "no list was read, nothing was built"
        (tmp_path / "free.txt").unlink()
        done = server.tampah("reload")
        assert done.returncode == 1 and "free.txt: No such file or directory; the copy of" in done.stderr
        assert blocked(server, KID) is False
    again = make(tmp_path, upstream, [{"name": "free", "clients": ["file:free.txt"], "lists": []}])
    with again:
        assert blocked(again, KID) is False, "the last good content is kept over a restart"
        assert "the copy of" in again.log
        again.write("free.txt", "<html>\nnot found\n")
        assert "none of its 2 lines names a client" in again.tampah("reload").stderr
        assert blocked(again, KID) is False
        again.write("free.txt", f"{ADULT}\n")
        again.tampah("reload").check_returncode()
        assert (blocked(again, KID), blocked(again, ADULT)) == (True, False)


def test_pauses_act_at_once_end_by_themselves_and_leave_mandatory_lists(tmp_path: Path, upstream: FakeUpstream) -> None:
    server = make(tmp_path, upstream, [{"name": "kids", "clients": [KID, "127.0.2.0/24"]}])
    with server:
        assert blocked(server, KID) is True
        began = time.monotonic()
        assert "paused for kids until" in server.tampah("pause", "kids", "--for", "1h").stdout
        assert time.monotonic() - began < PATIENCE
        assert (blocked(server, KID), blocked(server, "127.0.2.1"), blocked(server, ADULT)) == (False, False, True)
        assert blocked(server, KID, "law") is True
        explained = server.tampah_json("explain", NAMES["ads"], "--client", KID)
        assert explained["notes"][0].startswith("filtering is paused for kids until")
        assert server.metrics()[("tampah_group_paused", "kids")] == 1
        assert "kids" in server.tampah_json("stats")["pauses"]
        before = server.worker_pids()
        kill(before[0])
        until(lambda: not {before[0], 0} & set(server.worker_pids()), "the worker is back")
        until(lambda: server.http("/readyz")[0] == 200, "it is ready")
        assert blocked(server, KID) is False
        server.tampah("pause", "127.0.0.8", "--for", "2s").check_returncode()
        assert blocked(server, ADULT) is False
        until(lambda: blocked(server, ADULT), "a pause has ended by itself")
        assert "did you mean kids?" in server.tampah("pause", "kidz").stderr
        assert "127.0.0.8 is not paused" in server.tampah("resume", "127.0.0.8").stderr
    again = make(tmp_path, upstream, [{"name": "kids", "clients": [KID, "127.0.2.0/24"]}])
    with again:
        assert blocked(again, KID) is False, "a pause survives a restart"
        assert [each["target"] for each in again.tampah_json("pause")] == ["kids"]
        again.configure(cache={"max_ttl": "1h"})
        again.tampah("reload").check_returncode()
        assert blocked(again, KID) is False, "and a new generation"
        again.tampah("resume").check_returncode()
        assert blocked(again, KID) is True
        again.tampah("pause", "all").check_returncode()
        assert (blocked(again, KID), blocked(again, ADULT), blocked(again, ADULT, "law")) == (False, False, True)


def test_a_schedule_switches_at_its_second_and_nothing_is_built(tmp_path: Path, upstream: FakeUpstream) -> None:
    # Windows have minutes; a zone with an offset in seconds (LMT of an old time) puts a boundary where it is wanted.
    (tmp_path / "zones").mkdir()
    server = make(tmp_path, upstream, [])
    server.environment["PYTHONTZPATH"] = f"{tmp_path}/zones:/usr/share/zoneinfo"
    with server:
        switch_at = int(time.time()) + 8
        name = zone_with_offset(tmp_path / "zones", -switch_at % 60)
        wall = datetime.fromtimestamp(switch_at + -switch_at % 60, UTC)
        start, end = ((wall.hour * 60 + wall.minute - before) % 1440 for before in (600, 0))
        window = {
            "timezone": name,
            **{key: f"{at // 60:02}:{at % 60:02}" for key, at in (("from", start), ("to", end))},
        }
        server.configure(groups=[{"name": "free", "clients": [KID], "lists": ["law"], "schedule": [window]}])
        answer = control.ask(server.state_dir / control.SOCKET, control.Reload(), 30)
        assert isinstance(answer, control.Report), answer
        generation = server.status()["generation"]
        first, asked = blocked(server, KID), time.time()
        assert first is False or asked > switch_at - 1, "before, the group applies"
        until(lambda: blocked(server, KID), "the schedule has switched")
        assert -0.2 < time.time() - switch_at < 10
        assert server.metrics()[("tampah_group_applies", "free")] == 0
        assert server.status()["generation"] == generation
        assert "group free does not apply by its schedule" in server.log


def zone_with_offset(folder: Path, seconds: int) -> str:
    """A zone file (RFC 8536, version 1) with one local time: so many seconds ahead of UTC."""
    head = b"TZif" + b"\0" * 16 + b"".join(n.to_bytes(4, "big") for n in (0, 0, 0, 0, 1, 4))
    (folder / "Test").write_bytes(head + seconds.to_bytes(4, "big") + b"\0\0LMT\0")
    return "Test"


def test_what_only_counts_is_counted(tmp_path: Path, upstream: FakeUpstream) -> None:
    (tmp_path / "new.txt").write_text("new.example\nads.example\n")
    groups = [{"name": "trial", "clients": [KID], "shadow": True, "lists": ["ads", "law"]}]
    server = make(tmp_path, upstream, groups)
    lists = [
        {"name": "new", "source": "new.txt", "enabled": "shadow"},
        {"name": "ads", "source": "ads.txt"},
        {"name": "law", "source": "law.txt", "mandatory": True},
    ]
    server.configure(lists=lists)
    with server:
        upstream_said = server.addresses("a.new.example", source=ADULT)
        assert upstream_said == [address_of("a.new.example")]
        assert server.addresses("a.new.example", source=ADULT) == upstream_said, "from the cache too"
        assert server.addresses(NAMES["ads"], source=ADULT) == ["0.0.0.0"]
        assert server.addresses(NAMES["ads"], source=KID) == [address_of(NAMES["ads"])]
        assert server.addresses(NAMES["law"], source=KID) == ["0.0.0.0"]
        assert server.rcode("free.example", source=KID) == "NOERROR"
        metrics = server.metrics()
        assert metrics[("tampah_shadow_answers_total", "new")] == 3
        assert metrics[("tampah_shadow_answers_total", "ads")] == 1
        assert ("tampah_shadow_answers_total", "law") not in metrics
        listed = {each["list"]: each for each in server.tampah_json("lists")}
        assert (listed["new"]["state"], listed["new"]["shadow"], listed["new"]["hits"]) == ("shadow", 3, 0)


ASK = "import sys, dns.message, dns.query; \
print(dns.query.udp(dns.message.make_query(sys.argv[3], 'A'), sys.argv[1], port=int(sys.argv[2]), timeout=1).answer)"


@pytest.mark.peer("ip")
def test_a_device_is_known_by_its_mac_address(tmp_path: Path, upstream: FakeUpstream) -> None:
    """A veth pair, one end in a namespace of its own: the kernel learns the device's address by ARP."""
    name, mac = f"tampah{tmp_path.stat().st_ino % 100_000}", "02:00:5e:10:00:07"

    def ip(*arguments: str, namespace: bool = False) -> subprocess.CompletedProcess[str]:
        words = ["ip", *(["netns", "exec", name, "ip"] if namespace else []), *arguments]
        return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)

    if ip("netns", "add", name).returncode:
        pytest.skip("no permission to make a network namespace")
    try:
        made = ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        if made.returncode:
            pytest.skip(f"no veth pair can be made: {made.stderr}")
        for words in (
            ("link", "set", f"{name}b", "netns", name),
            ("addr", "add", "198.18.77.1/24", "dev", f"{name}a"),
            ("link", "set", f"{name}a", "up"),
        ):
            assert ip(*words).returncode == 0
        for words in (
            ("link", "set", f"{name}b", "address", mac),
            ("addr", "add", "198.18.77.7/24", "dev", f"{name}b"),
            ("link", "set", f"{name}b", "up"),
        ):
            assert ip(*words, namespace=True).returncode == 0
        groups = [{"name": "tablet", "clients": [mac], "lists": []}]
        server = make(tmp_path, upstream, groups, allow_from=["127.0.0.0/8", "198.18.77.0/24"])
        server.host = "198.18.77.1"
        server.configure(listen={"dns": [f"127.0.0.1:{server.port}", f"198.18.77.1:{server.port}"]})

        def device_gets(wanted: str) -> bool:
            ip("neigh", "flush", "dev", f"{name}b", namespace=True)  # so that it asks for the server and tells its own
            words = ["ip", "netns", "exec", name, sys.executable, "-c", ASK, "198.18.77.1", str(server.port)]
            done = subprocess.run([*words, NAMES["ads"]], capture_output=True, text=True, cwd=ROOT, timeout=20)
            return wanted in done.stdout

        with server:
            until(lambda: device_gets(address_of(NAMES["ads"])), "the device is known by its MAC address")
            explained = server.tampah_json("explain", NAMES["ads"], "--client", "198.18.77.7")
            assert explained["group"] == "tablet"
            assert explained["entry"] == f"{mac}, which has 198.18.77.7 by the neighbour table"
            ip("link", "set", f"{name}b", "address", "02:00:5e:10:00:99", namespace=True)
            until(lambda: device_gets("<0.0.0.0>"), "another device has the address now")
    finally:
        ip("link", "del", f"{name}a")
        ip("netns", "del", name)
