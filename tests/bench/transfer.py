"""`python -m tests.bench.transfer`: a policy zone by AXFR, then a delta by IXFR, into Tampah and its peers in turn.

A knotd on loopback serves a generated zone: an exact and a wildcard record for each name, all CNAME to one target. Each
secondary starts without a copy, beside 5,000 queries a second for names that are not listed. Measured: seconds until the
zone's last name is blocked, the most memory of all of its processes meanwhile, memory afterwards, queries lost, and for
the delta the seconds from NOTIFY, once the primary is done with loading the new zone, until its last new name is blocked.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rdatatype

from tests.bench import names, peers
from tests.bench.measure import settle
from tests.bench.processes import Process, pss_bytes, rss_bytes
from tests.ports import free_port
from tests.primaries import Knot

ZONE, TARGET = "rpz.bench", "lamanlabuh.aduankonten.id."
RATE = 5_000
TIMERS = "3600 60 86400 60"


class Zone(Knot):
    """The primary: its zone is written by lines, not held."""

    count, added = 0, 0

    def write_zone(self) -> None:
        """See Primary."""
        with self.file.open("w") as file:
            file.write(
                f"$ORIGIN {ZONE}.\n$TTL 3600\n@ SOA ns.{ZONE}. h.{ZONE}. {self.serial} {TIMERS}\n@ NS ns.{ZONE}.\n"
            )
            for name in self.all_names():
                file.write(f"{name} CNAME {TARGET}\n*.{name} CNAME {TARGET}\n")

    def all_names(self) -> Iterator[str]:
        """Half of a delta's names go, the others come."""
        for number, name in enumerate(names.generate(self.count)):
            if number >= self.added // 2:
                yield name
        for number in range(self.added // 2):
            yield f"added{number}.example.com"


def tampah(folder: Path, port: int, primary: int, upstream: int) -> list[str]:
    text = f"""listen: {{dns: ["127.0.0.1:{port}"]}}
upstream: {{servers: ["127.0.0.1:{upstream}"]}}
admin: {{listen: ""}}
workers: 2
lists: [{{name: feed, source: "axfr://127.0.0.1:{primary}/{ZONE}"}}]
"""
    (folder / "config.yaml").write_text(text)
    return [sys.executable, "-m", "resolver", "run", "-c", str(folder / "config.yaml")]


def bind(folder: Path, port: int, primary: int, upstream: int) -> list[str]:
    (folder / "named.conf").write_text(
        f"""options {{ directory "{folder}"; listen-on port {port} {{127.0.0.1;}}; listen-on-v6 {{none;}};
 recursion yes; forward only; forwarders port {upstream} {{127.0.0.1;}}; dnssec-validation no; pid-file none;
 session-keyfile none; response-policy {{ zone "{ZONE}"; }} qname-wait-recurse no min-update-interval 0; }};
zone "{ZONE}" {{ type secondary; file "z"; primaries port {primary} {{127.0.0.1;}}; allow-notify {{127.0.0.1;}}; }};
controls {{}};
"""
    )
    return ["named", "-f", "-n", "2", "-c", f"{folder}/named.conf"]


def unbound(folder: Path, port: int, primary: int, upstream: int) -> list[str]:
    (folder / "unbound.conf").write_text(
        f"""server:
  interface: 127.0.0.1@{port}
  do-not-query-localhost: no
  module-config: "respip iterator"
  chroot: ""
  username: ""
  pidfile: ""
  directory: "{folder}"
  do-daemonize: no
  use-syslog: no
  num-threads: 1
rpz:
  name: "{ZONE}"
  primary: 127.0.0.1@{primary}
  allow-notify: 127.0.0.1
  zonefile: "{folder}/z"
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@{upstream}
"""
    )
    return ["unbound", "-d", "-c", f"{folder}/unbound.conf"]


def recursor(folder: Path, port: int, primary: int, upstream: int) -> list[str]:
    (folder / "recursor.conf").write_text(
        f"""local-address=127.0.0.1
local-port={port}
forward-zones-recurse=.=127.0.0.1:{upstream}
dont-query=
threads=1
pdns-distributes-queries=no
lua-config-file={folder}/r.lua
socket-dir={folder}
setuid=
setgid=
dnssec=off
security-poll-suffix=
"""
    )
    (folder / "r.lua").write_text(f'rpzPrimary("127.0.0.1:{primary}", "{ZONE}", {{refresh=2}})\n')
    return ["pdns_recursor", f"--config-dir={folder}", "--daemon=no"]


SECONDARIES: dict[str, Callable[[Path, int, int, int], list[str]]] = {
    "tampah": tampah,
    "bind9": bind,
    "unbound": unbound,
    "pdns-recursor": recursor,
}


_asked = itertools.count()


def is_listed(port: int, name: str) -> bool:
    """Whether a name below `name` is blocked: one that nobody has asked for, as some would answer from their cache."""
    with contextlib.suppress(OSError, dns.exception.DNSException):
        query = dns.message.make_query(f"q{next(_asked)}.{name}", "A", use_edns=False)
        answer = dns.query.udp(query, "127.0.0.1", timeout=0.3, port=port).answer
        return any(rrset.rdtype == dns.rdatatype.CNAME for rrset in answer)
    return False


def notify(port: int) -> None:
    """Tell a secondary that the zone has changed (RFC 1996)."""
    message = dns.message.make_query(ZONE, "SOA", use_edns=False)
    message.set_opcode(dns.opcode.NOTIFY)
    message.flags = dns.flags.Flag(message.flags & ~dns.flags.RD | dns.flags.AA)
    with contextlib.suppress(OSError, dns.exception.DNSException):
        dns.query.udp(message, "127.0.0.1", timeout=2, port=port)


class Load:
    """Queries at a steady rate for names that are not listed, until it is ended."""

    def __init__(self, folder: Path, port: int) -> None:
        draw = random.Random(1)
        queries = folder / "queries"
        queries.write_text("".join(f"free{draw.randrange(2000)}.example.net A\n" for _ in range(20_000)))
        command = ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(queries), "-Q", str(RATE), "-l", "100000"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def end(self) -> dict[str, float]:
        """Sent and lost queries, and the longest wait in seconds."""
        self._process.send_signal(signal.SIGINT)
        text = self._process.communicate(timeout=60)[0]

        def number(pattern: str) -> float:
            found = re.search(pattern, text)
            return float(found[1]) if found else -1.0

        return {
            "sent": number(r"Queries sent:\s+(\d+)"),
            "lost": number(r"Queries lost:\s+(\d+)"),
            "longest": number(r"max ([\d.]+)\)"),
        }


class Peak:
    """The most memory that a process and those below it take, looked at several times a second."""

    def __init__(self, server: Process, *, shared: bool) -> None:
        self.octets = 0
        self._measure = pss_bytes if shared else rss_bytes
        self._server, self._ended = server, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.25):
            self.octets = max(self.octets, self._measure(self._server.tree))

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self.octets


def wait(port: int, name: str, server: Process, limit: float) -> float:
    began = time.monotonic()
    while not is_listed(port, name):
        if server.has_ended() or time.monotonic() - began > limit:
            raise TimeoutError(f"{name} is not blocked after {time.monotonic() - began:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began


def visit(kind: str, folder: Path, primary: Zone, upstream: int, options: argparse.Namespace) -> dict[str, object]:
    folder.mkdir()
    port = free_port()
    figures: dict[str, object] = {"names": options.names}
    first, last = options.delta // 2, options.names - 1
    listed = [name for number, name in enumerate(names.generate(options.names)) if number in (first, last)]
    root = Path(__file__).resolve().parents[2]
    command = SECONDARIES[kind](folder, port, primary.port, upstream)
    server = Process(command, "0,1", log=folder / "log", cwd=root)
    peak, load = Peak(server, shared=kind == "tampah"), None
    try:
        if kind == "tampah":  # the others may answer before they have the zone or not: only here all is asked for
            while "ready after" not in (folder / "log").read_text():
                time.sleep(0.05)
            load = Load(folder, port)
        figures["seconds"] = max(wait(port, name, server, options.limit) for name in listed)
        figures["peak"] = peak.end()
        time.sleep(3)
        figures["after"] = (pss_bytes if kind == "tampah" else rss_bytes)(server.tree)
        if load:
            figures["load"] = load.end()
        if options.delta:
            primary.added, primary.serial = options.delta, primary.serial + 1
            primary.write_zone()
            load = Load(folder, port) if kind == "tampah" else None
            threading.Thread(target=primary.reload, daemon=True).start()
            primary.wait(600)
            settle(primary, 300)  # it serves the new zone, but may be at work on it still
            notify(port)
            figures["delta"] = wait(port, f"added{options.delta // 2 - 1}.example.com", server, 60)
            if load:
                figures["delta_load"] = load.end()
            figures["log"] = [line for line in (folder / "log").read_text().splitlines() if "lists." in line][-2:]
    except (TimeoutError, AssertionError, FileNotFoundError) as error:
        figures["unfit"] = str(error)
    finally:
        peak.end()
        server.end()
        if load and load._process.poll() is None:
            load._process.kill()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.transfer", description=__doc__.splitlines()[0])
    parser.add_argument("--names", type=int, default=1_000_000, help="in the zone; the national feed: 9500000")
    parser.add_argument("--delta", type=int, default=16_000, help="names that change; 0: no delta")
    parser.add_argument("--peers", default=",".join(kind for kind in SECONDARIES))
    parser.add_argument("--limit", type=float, default=900.0, help="seconds that a secondary may take")
    parser.add_argument("--out", type=Path, default=Path("bench-report"))
    options = parser.parse_args()
    programs = {"tampah": "knotd", "bind9": "named", "unbound": "unbound", "pdns-recursor": "pdns_recursor"}
    report: dict[str, object] = {}
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tampah-transfer-")))
        folder.chmod(0o755)
        upstream = cleanup.enter_context(peers.Upstream(folder / "upstream", free_port(), "0,1"))
        for kind in options.peers.split(","):
            if not shutil.which(programs[kind]):
                continue
            primary = Zone(folder / f"primary-{kind}", ZONE, [])
            primary.count = options.names
            with primary:
                report[kind] = visit(kind, folder / kind, primary, upstream.port, options)
            shutil.rmtree(primary.folder)
            print(kind, json.dumps(report[kind]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "transfer.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
