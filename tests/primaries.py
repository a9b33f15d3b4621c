"""Primaries of policy zones for tests: real ones (knotd, named) on loopback, and one that misbehaves as it is told.

with Knot(folder, "rpz.example", records) as primary:
    primary.change(["new.example CNAME ."], serial=2)
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.rrset
import dns.zone

from tests.ports import free_port

SECRET = "c2VjcmV0LW9mLTMyLW9jdGV0cy1mb3ItdGVzdHMtb25seQ=="
TIMERS = "5 1 60 60"  # refresh retry expire minimum


def zone_text(zone: str, serial: int, records: Sequence[str], timers: str = TIMERS) -> str:
    """A master file: SOA, NS, and these records with owners relative to the zone."""
    head = f"$ORIGIN {zone}.\n$TTL 300\n@ SOA localhost. hostmaster.{zone}. {serial} {timers}\n@ NS localhost.\n"
    return head + "".join(f"{record}\n" for record in records)


class Primary:
    """A real primary of one zone, in a folder of its own. `notify`: a port on loopback that is told of changes."""

    program = ""

    def __init__(
        self,
        folder: Path,
        zone: str,
        records: Sequence[str],
        *,
        serial: int = 1,
        algorithm: str = "",
        notify: int = 0,
        timers: str = TIMERS,
        port: int = 0,
        secret: str = SECRET,
    ) -> None:
        self.folder = folder / f"{self.program}-{zone}"
        self.folder.mkdir(parents=True)
        self.zone, self.records, self.serial = zone, list(records), serial
        self.algorithm, self.notify, self.timers = algorithm, notify, timers
        self.port = port or free_port()
        self.secret = secret
        self.file = self.folder / "zone.db"
        self._process: subprocess.Popen[bytes] | None = None

    def write_zone(self) -> None:
        """Put the zone's file in its place."""
        beside = self.file.with_suffix(".new")
        beside.write_text(zone_text(self.zone, self.serial, self.records, self.timers))
        beside.replace(self.file)

    def command(self) -> list[str]:
        """Writes the config; what starts the server in the foreground."""
        raise NotImplementedError

    def reload(self) -> None:
        """Have the server read the zone's file again."""
        raise NotImplementedError

    def change(self, records: Sequence[str], serial: int | None = None) -> None:
        """Let the zone hold these records, with the next serial or a given one; returns once that is served."""
        self.records = list(records)
        self.serial = self.serial + 1 if serial is None else serial
        self.write_zone()
        self.reload()
        self.wait()

    def __enter__(self) -> Self:
        self.write_zone()
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.folder)
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def tree(self) -> list[int]:
        """The server's processes."""
        assert self._process is not None
        return [self._process.pid]

    def wait(self, patience: float = 300.0) -> None:
        """Until the zone is served with its serial."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            assert self._process is not None and self._process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(OSError, dns.exception.DNSException):
                query = dns.message.make_query(self.zone, "SOA")
                answer = dns.query.udp(query, "127.0.0.1", timeout=0.5, port=self.port, ignore_unexpected=True).answer
                if answer and answer[0][0].serial == self.serial:
                    return
            time.sleep(0.02)
        raise AssertionError(f"{self.program} does not serve {self.serial}:\n{(self.folder / 'log').read_text()}")


class Knot(Primary):
    """Knot DNS."""

    program = "knotd"

    def command(self) -> list[str]:
        """See Primary."""
        key = f"key:\n  - id: k\n    algorithm: {self.algorithm}\n    secret: {self.secret}\n" if self.algorithm else ""
        remote = f"remote:\n  - id: us\n    address: 127.0.0.1@{self.notify}\n" if self.notify else ""
        text = f"""server:
    listen: 127.0.0.1@{self.port}
    rundir: {self.folder}
    automatic-acl: off
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    timeout: 600
database:
    storage: {self.folder}/db
log:
  - target: stderr
    any: info
{key}{remote}acl:
  - id: all
    address: 127.0.0.0/8
    action: transfer
    {"key: k" if self.algorithm else ""}
template:
  - id: default
    storage: {self.folder}
    zonefile-load: difference
    zonefile-sync: -1
    journal-content: changes
    semantic-checks: off
zone:
  - domain: {self.zone}
    file: zone.db
    acl: all
    {"notify: us" if self.notify else ""}
"""
        (self.folder / "db").mkdir()
        (self.folder / "knot.conf").write_text(text)
        return ["knotd", "-c", str(self.folder / "knot.conf")]

    def reload(self) -> None:
        """See Primary."""
        command = ["knotc", "-c", str(self.folder / "knot.conf"), "-b", "-t", "600", "zone-reload", self.zone]
        _run(command)


class Bind(Primary):
    """BIND 9."""

    program = "named"

    def command(self) -> list[str]:
        """See Primary."""
        key = f'key k {{ algorithm {self.algorithm}; secret "{self.secret}"; }};' if self.algorithm else ""
        self._control = free_port()
        notify = f"notify explicit; also-notify {{ 127.0.0.1 port {self.notify}; }};" if self.notify else "notify no;"
        text = f"""{key}
key c {{ algorithm hmac-sha256; secret "{SECRET}"; }};
controls {{ inet 127.0.0.1 port {self._control} allow {{ 127.0.0.1; }} keys {{ c; }}; }};
options {{ directory "{self.folder}"; listen-on port {self.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
  pid-file "{self.folder}/pid"; session-keyfile "{self.folder}/session"; recursion no; check-integrity no;
  allow-transfer {{ {"key k" if self.algorithm else "any"}; }}; ixfr-from-differences yes; max-ixfr-ratio unlimited;
  notify-delay 0; {notify} }};
zone "{self.zone}" {{ type primary; file "zone.db"; check-names ignore; }};
"""
        (self.folder / "named.conf").write_text(text)
        (self.folder / "rndc.conf").write_text(
            f'key c {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n'
            f"options {{ default-key c; default-server 127.0.0.1; default-port {self._control}; }};\n"
        )
        return ["named", "-g", "-n", "1", "-c", str(self.folder / "named.conf")]

    def reload(self) -> None:
        """See Primary."""
        rndc = shutil.which("rndc") or "/usr/sbin/rndc"
        command = [rndc, "-c", str(self.folder / "rndc.conf"), "reload", self.zone]
        _run(command)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


class Between:
    """Stands between a secondary and a real primary, whose port `primary` may change; passes on what both say.

    With `cut` a connection is reset once the primary has sent so many octets over it; `cuts` counts these.
    """

    def __init__(self, primary: int = 0) -> None:
        self.primary, self.port = primary, free_port()
        self.cut: int | None = None
        self.cuts = 0
        between = self

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sender = self.request
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as onward:
                    onward.settimeout(5)
                    with contextlib.suppress(OSError):
                        onward.connect(("127.0.0.1", between.primary))
                        onward.send(data)
                        sender.sendto(onward.recv(65535), self.client_address)

        class Stream(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    self.pass_on(socket.create_connection(("127.0.0.1", between.primary), 5))

            def pass_on(self, onward: socket.socket) -> None:
                secondary: socket.socket = self.request
                passed = 0
                with onward:
                    while ready := select.select([secondary, onward], [], [], 30)[0]:
                        for source in ready:
                            if not (data := source.recv(4096)):
                                return
                            if source is onward and between.cut is not None:
                                if passed + len(data) > between.cut:
                                    between.cuts += 1
                                    secondary.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                                    secondary.close()
                                    return
                                passed += len(data)
                            (onward if source is secondary else secondary).sendall(data)

        class Streams(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        class Datagrams(socketserver.ThreadingUDPServer):
            allow_reuse_address = daemon_threads = True

        self._servers = [Streams(("127.0.0.1", self.port), Stream), Datagrams(("127.0.0.1", self.port), Datagram)]

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


Script = Callable[[dns.message.Message], "list[bytes | float]"]


class Misbehaving:
    """Answers SOA by `serial`, and AXFR and IXFR by a script: octets of messages, pauses, an end that may come too soon.

    `script` is told the query and gives what is sent; `transfers` counts. Everything after its end is a closed connection.
    """

    def __init__(self, zone: str, serial: int, script: Script | None = None, timers: str = TIMERS) -> None:
        self.zone, self.serial, self.timers = zone, serial, timers
        self.script: Script = script or (lambda query: [])
        self.transfers: list[str] = []
        self.silent = False
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def soa(self, serial: int | None = None) -> str:
        """The SOA as a record's text."""
        return f"{self.zone}. 300 IN SOA ns.{self.zone}. h.{self.zone}. {serial or self.serial} {self.timers}"

    def message(self, query: dns.message.Message, records: Sequence[str]) -> bytes:
        """A message with these records, in this order, each written out absolutely."""
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        for record in records:
            owner, ttl, rdclass, rdtype, rdata = record.split(" ", 4)
            answer.answer.append(dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, rdata))
        return answer.to_wire(max_size=65535)

    def rule(self, trigger: str, target: str = ".") -> str:
        """A policy record's text."""
        return f"{trigger}.{self.zone}. 300 IN CNAME {target}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        self._ready.set()
        self._loop.run_forever()
        self._server.close()
        self._udp.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.05))  # for transports to close
        self._loop.close()

    async def _open(self) -> None:
        outer = self

        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                if not outer.silent:
                    query = dns.message.from_wire(data)
                    reply = outer.message(query, [outer.soa()])
                    self.transport.sendto(reply, addr)  # type: ignore[attr-defined]

        where = ("127.0.0.1", self.port)
        self._udp, _ = await self._loop.create_datagram_endpoint(Udp, local_addr=where, family=socket.AF_INET)
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", self.port)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            query = dns.message.from_wire(await reader.readexactly(length))
            rdtype = query.question[0].rdtype
            if self.silent:
                await asyncio.sleep(30)
            if rdtype == dns.rdatatype.SOA:
                parts: list[bytes | float] = [self.message(query, [self.soa()])]
            else:
                self.transfers.append(dns.rdatatype.to_text(rdtype))
                parts = self.script(query)
            for part in parts:
                if isinstance(part, bytes):
                    writer.write(struct.pack("!H", len(part)) + part)
                    await writer.drain()
                else:
                    await asyncio.sleep(part)
