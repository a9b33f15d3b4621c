"""An upstream server that does as it is told: answers, delays, drops, lies, truncates, resets. UDP, TCP, TLS and HTTPS on
loopback; the latter two where it has a certificate (tests/certificates.py).

In a test:

    with FakeUpstream() as upstream:
        upstream.on("slow.example", Act(delay=0.5))
        upstream.on("fails.example", Act(rcode=2), Act())        # first SERVFAIL, then an answer
        …
        assert upstream.count("slow.example") == 1

A name without a script gets NOERROR with one A or AAAA record that follows from the name (`address_of`), so that any
answer can be checked; other types get NODATA with an SOA.

As a process: `python -m tests.fakes --port 5300` prints `ready 5300 0 0` (UDP and TCP, TLS, HTTPS), then takes a JSON
object a line on stdin: `{"name": "slow.example", "acts": [{"delay": 0.5}]}` scripts a name (and prints `ok`),
`{"count": "slow.example"}` prints how often it was asked, `{"total": true}` prints the number of all queries; end of input
ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import ssl
import struct
import sys
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame

SOA = "ns.fake.example. hostmaster.fake.example. 1 3600 600 86400 60"


def address_of(name: str, ipv6: bool = False) -> str:
    """The address that an unscripted name has."""
    number = zlib.crc32(name.rstrip(".").lower().encode())
    if ipv6:
        return f"2001:db8:{number >> 16:x}::{number & 0xFFFF:x}"
    return f"198.{18 + (number >> 16 & 1)}.{number >> 8 & 0xFF}.{number & 0xFF}"


@dataclass(frozen=True)
class Act:
    """What to do with one query. The fields combine."""

    records: tuple[str, ...] | None = None
    """Answer records as zone text (`www.example. 60 IN A 192.0.2.1`); None: what follows from the name."""
    rcode: int = 0
    ede: int = -1
    soa: bool = False
    """An SOA of the parent domain in AUTHORITY, for negative answers."""
    ttl: int = 300
    delay: float = 0.0
    drop: bool = False
    only: str = ""
    """`udp` or `tcp`: act only there, drop (UDP) or answer normally (TCP) elsewhere."""
    share: float = 1.0
    """Which share of the queries; the others are answered as if there were no script."""
    lie: str = ""
    """id, question, qtype, case, qr, opcode, port, address: what is wrong with the answer."""
    lies: int = 1
    """How many wrong answers are sent."""
    truth: bool = False
    """After the lies the true answer."""
    truncate: bool = False
    """TC and no records over UDP."""
    needs_edns: bool | None = None
    """False: FORMERR without OPT to queries that have one."""
    bare: bool = False
    """The error is a header alone."""
    tcp: str = ""
    """Of all but UDP: reset, close, cut (half an answer, then close), silent."""
    status: int = 200
    """Of HTTPS."""
    raw: bytes | None = None
    """These octets after the right id, question and header flags: garbage."""
    size: int = 0
    """So many octets of TXT records."""


@dataclass(frozen=True)
class Seen:
    """One query as it came in."""

    name: str
    """The qname with its case."""
    qtype: int
    transport: str
    ident: int
    port: int
    """The source port."""
    rd: bool
    cd: bool
    do: bool
    edns: int
    """The version, -1 without."""
    options: tuple[int, ...]
    payload: int


@dataclass
class FakeUpstream:
    """See the module. One thread with a loop of its own; use it in a `with` block."""

    host: str = "127.0.0.1"
    port: int = 0
    tcp: bool = True
    script: dict[str, list[Act]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    """Connections of all kinds that were accepted."""
    resumed: int = 0
    """TLS connections that went on with an earlier session."""
    certificate: Mapping[str, str] | None = None
    """Paths of its chain and key (tests/certificates.py); with one there are `tls_port` and `https_port` as well."""
    tls_port: int = 0
    https_port: int = 0
    requests: list[dict[str, str]] = field(default_factory=list)
    """The headers of HTTP requests."""
    streams: int = 100
    """Of one HTTP/2 connection at a time."""
    zones: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Zones and their name servers: NS of such a name, and the SOA of the zone that any other name asked for NS is in."""
    goaway_after: int = 0
    """Queries after which an HTTP/2 connection takes no more; 0: never."""

    def on(self, name: str, *acts: Act) -> None:
        """Do `acts` in turn when `name` is asked; the last one stays. `*` is any name."""
        self.script[name.rstrip(".").lower()] = list(acts)

    def count(self, name: str) -> int:
        """How often `name` was asked."""
        return sum(seen.name.lower() == name.rstrip(".").lower() for seen in self.seen)

    # -- life -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeUpstream:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(ready))
        except OSError as error:
            self._error = error
            ready.set()
        finally:
            self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        for attempt in range(20):  # the same free port for both transports
            udp = socket.socket(family, socket.SOCK_DGRAM)
            tcp = socket.socket(family, socket.SOCK_STREAM)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                udp.bind((self.host, self.port))
                tcp.bind((self.host, udp.getsockname()[1]))
                break
            except OSError:
                udp.close()
                tcp.close()
                if self.port or attempt == 19:
                    raise
        udp.setblocking(False)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        self._udp, self.port = udp, udp.getsockname()[1]
        self._loop.add_reader(udp.fileno(), self._datagrams)
        server = None
        if self.tcp:
            server = await asyncio.start_server(self._connection, sock=tcp)
        else:
            tcp.close()
        servers = [server] if server is not None else []
        if self.certificate is not None:
            tls = await asyncio.start_server(
                self._tls_connection, self.host, self.tls_port, ssl=_context(self.certificate, "dot")
            )
            https = await self._loop.create_server(
                lambda: _Http2(self), self.host, self.https_port, ssl=_context(self.certificate, "h2")
            )
            self.tls_port, self.https_port = (each.sockets[0].getsockname()[1] for each in (tls, https))
            servers += [tls, https]
        ready.set()
        await self._stopping.wait()
        self._loop.remove_reader(udp.fileno())
        for each in servers:
            each.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        udp.close()

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- UDP --------------------------------------------------------------------------------------------------------

    def _datagrams(self) -> None:
        for _ in range(64):
            try:
                packet, source = self._udp.recvfrom(65535)
            except BlockingIOError:
                return
            except OSError:
                continue
            decided = self._decide(packet, "udp", source[1])
            if decided is None:
                continue
            query, act = decided
            if act.drop or act.only == "tcp":
                continue
            if act.delay:
                self._spawn(self._later(act.delay, query, act, source))
            else:
                self._send(query, act, source)

    async def _later(self, delay: float, query: dns.message.Message, act: Act, source: Any) -> None:
        await asyncio.sleep(delay)
        self._send(query, act, source)

    def _send(self, query: dns.message.Message, act: Act, source: Any) -> None:
        truth = self._answer(query, act, "udp")
        if act.lie in ("port", "address"):
            # One more socket: another port of this address, or this port of another address of loopback.
            with socket.socket(self._udp.family, socket.SOCK_DGRAM) as other:
                if act.lie == "address":
                    other.bind(("127.0.0.77", self.port))
                for _ in range(act.lies):
                    other.sendto(_forge(truth), source)
        elif act.lie:
            for _ in range(act.lies):
                self._put(_lie(truth, act.lie), source)
        if not act.lie or act.truth:
            self._put(truth, source)

    def _put(self, packet: bytes, source: Any) -> None:
        try:
            self._udp.sendto(packet, source)
        except OSError:
            pass  # the client is gone, or the answer is too large for a datagram

    # -- TCP --------------------------------------------------------------------------------------------------------

    async def _tls_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.resumed += writer.get_extra_info("ssl_object").session_reused
        await self._connection(reader, writer, "tls")

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transport: str = "tcp"
    ) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        port = writer.get_extra_info("peername")[1]
        try:
            while True:
                length = struct.unpack(">H", await reader.readexactly(2))[0]
                decided = self._decide(await reader.readexactly(length), transport, port)
                if decided is not None:
                    query, act = decided
                    self._spawn(self._reply(query, Act() if act.only == "udp" else act, writer))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _reply(self, query: dns.message.Message, act: Act, writer: asyncio.StreamWriter) -> None:
        if act.delay:
            await asyncio.sleep(act.delay)
        if act.tcp == "silent" or (act.drop and not act.tcp):
            return
        if writer.is_closing():  # by another query's act
            return
        if act.tcp == "close":
            writer.close()
            return
        if act.tcp == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        packet = self._answer(query, act, "tcp")
        if act.lie:
            packet = _lie(packet, act.lie)
        frame = struct.pack(">H", len(packet)) + packet
        if act.tcp == "cut":
            writer.write(frame[: len(frame) // 2])
            writer.close()
            return
        writer.write(frame)

    # -- HTTPS ------------------------------------------------------------------------------------------------------

    async def _reply_https(self, connection: _Http2, stream: int, query: dns.message.Message, act: Act) -> None:
        if act.delay:
            await asyncio.sleep(act.delay)
        if act.tcp == "silent" or (act.drop and not act.tcp):
            return
        if connection.is_closing:
            return
        if act.tcp in ("close", "reset"):
            connection.end(abort=act.tcp == "reset")
            return
        packet = self._answer(query, act, "https")
        if act.lie:
            packet = _lie(packet, act.lie)
        connection.reply(stream, act.status, packet, cut=act.tcp == "cut")

    # -- both -------------------------------------------------------------------------------------------------------

    def _decide(self, packet: bytes, transport: str, port: int) -> tuple[dns.message.Message, Act] | None:
        try:
            query = dns.message.from_wire(packet)
        except dns.exception.DNSException:
            return None
        if not query.question:
            return None
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.seen.append(
            Seen(
                name,
                int(question.rdtype),
                transport,
                query.id,
                port,
                bool(query.flags & dns.flags.RD),
                bool(query.flags & dns.flags.CD),
                bool(query.ednsflags & dns.flags.DO),
                query.edns,
                tuple(int(option.otype) for option in query.options),
                query.payload,
            )
        )
        acts = self.script.get(name.lower()) or self.script.get("*")
        if not acts:
            return query, Act()
        act = acts.pop(0) if len(acts) > 1 else acts[0]
        return query, act if act.share >= 1 or random.random() < act.share else Act()

    def _answer(self, query: dns.message.Message, act: Act, transport: str) -> bytes:
        if act.needs_edns is False and query.edns >= 0:
            query.use_edns(-1)
            act = Act(rcode=dns.rcode.FORMERR, bare=act.bare)
        question = query.question[0]
        response = dns.message.make_response(query, recursion_available=True, our_payload=1232)
        response.set_rcode(dns.rcode.Rcode(act.rcode))
        if act.ede >= 0 and query.edns >= 0:
            response.use_edns(0, response.ednsflags, 1232, options=[dns.edns.EDEOption(dns.edns.EDECode.make(act.ede))])
        records = _records(question, act)
        response.answer = [_rrset(text) for text in records]
        if act.soa or (not records and act.rcode == 0):
            parent = question.name if question.name == dns.name.root else question.name.parent()
            response.authority = [dns.rrset.from_text(parent, 60, "IN", "SOA", SOA)]
        if self.zones and question.rdtype == dns.rdatatype.NS and act.records is None:
            name = question.name
            while name != dns.name.root and name.to_text(omit_final_dot=True).lower() not in self.zones:
                name = name.parent()
            servers = self.zones.get(name.to_text(omit_final_dot=True).lower(), ())
            response.answer = []
            if name == question.name:
                response.answer = [dns.rrset.from_text(name, act.ttl, "IN", "NS", *(f"{each}." for each in servers))]
            response.authority = [] if response.answer else [dns.rrset.from_text(name, 60, "IN", "SOA", SOA)]
        if act.truncate and transport == "udp":
            response.flags |= dns.flags.TC
            response.answer, response.authority = [], []
        packet = response.to_wire(max_size=65535)
        if act.bare and act.rcode:
            packet = packet[:4] + bytes(8)
        if act.raw is not None:
            packet = packet[: 12 + len(question.name.to_wire() or b"") + 4] + act.raw
        return packet


def _context(certificate: Mapping[str, str], protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate["chain"], certificate["key"])
    context.set_alpn_protocols([protocol])
    return context


class _Http2(asyncio.Protocol):
    """One HTTP/2 connection to the server."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self._upstream = upstream
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._bodies: dict[int, bytes] = {}
        self._replies = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstream.connections += 1
        self._upstream.resumed += transport.get_extra_info("ssl_object").session_reused
        self._connection.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self._upstream.streams}
        )
        self._connection.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._connection.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.end()
            return
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                self._upstream.requests.append(_texts(event.headers))
                self._bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                self._bodies[event.stream_id] += event.data
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded) and event.stream_id is not None:
                self._take(event.stream_id)
        self._flush()

    def _take(self, stream: int) -> None:
        port = self._transport.get_extra_info("peername")[1]
        decided = self._upstream._decide(self._bodies.pop(stream), "https", port)
        if decided is not None:
            self._upstream._spawn(self._upstream._reply_https(self, stream, *decided))

    def reply(self, stream: int, status: int, body: bytes, *, cut: bool) -> None:
        headers = [(":status", str(status)), ("content-type", "application/dns-message")]
        try:
            self._connection.send_headers(stream, headers)
            if cut:
                self._connection.send_data(stream, body[: len(body) // 2])
            else:
                for at in range(0, len(body), 16_000):
                    self._connection.send_data(stream, body[at : at + 16_000], end_stream=at + 16_000 >= len(body))
        except h2.exceptions.ProtocolError:
            pass  # the client has gone, or has reset the stream
        self._flush()
        self._replies += 1
        if self._replies == self._upstream.goaway_after:
            self._transport.write(hyperframe.frame.GoAwayFrame(0, last_stream_id=stream).serialize())
            cut = True
        if cut:
            self.end()

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def end(self, *, abort: bool = False) -> None:
        if abort:
            self._transport.abort()
        else:
            self._transport.close()

    def _flush(self) -> None:
        self._transport.write(self._connection.data_to_send())


def _texts(headers: Any) -> dict[str, str]:
    return {bytes(name).decode(): bytes(value).decode() for name, value in headers}


def _rrset(text: str) -> dns.rrset.RRset:
    name, ttl, rdclass, rdtype, data = text.split(maxsplit=4)
    return dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data)


def _records(question: dns.rrset.RRset, act: Act) -> list[str]:
    if act.records is not None:
        return list(act.records)
    name = question.name.to_text()
    if act.size:
        return [f'{name} {act.ttl} IN TXT "{number:04}{"x" * 196}"' for number in range(act.size // 213 + 1)]
    if act.rcode == 0 and question.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
        kind = question.rdtype.name
        return [f"{name} {act.ttl} IN {kind} {address_of(name, kind == 'AAAA')}"]
    return []


def _forge(truth: bytes) -> bytes:
    """The same answer with another address at its end."""
    at = len(truth) - 4
    return truth[:at] + bytes(octet ^ 0xFF for octet in truth[at:])


def _lie(truth: bytes, lie: str) -> bytes:
    wire = bytearray(truth)
    end = 12
    while wire[end]:
        end += wire[end] + 1
    if lie == "id":
        wire[1] ^= 1
    elif lie == "qr":
        wire[2] &= 0x7F
    elif lie == "opcode":
        wire[2] |= 0x10
    elif lie == "question":
        wire[13] = ord("y") if wire[13] in b"xX" else ord("x")
    elif lie == "qtype":
        wire[end + 2] ^= 0x40
    elif lie == "case":
        wire[12:end] = (
            wire[12:end].upper() if any(97 <= octet <= 122 for octet in wire[12:end]) else wire[12:end].lower()
        )
    else:
        raise ValueError(f"no such lie: {lie}")
    return bytes(wire)


def _main() -> None:
    parser = argparse.ArgumentParser(description="a scriptable upstream server on loopback")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--chain", help="a certificate's chain, with --key: TLS and HTTPS as well")
    parser.add_argument("--key")
    options = parser.parse_args()
    certificate = {"chain": options.chain, "key": options.key} if options.chain else None
    with FakeUpstream(options.host, options.port, certificate=certificate) as upstream:
        print("ready", upstream.port, upstream.tls_port, upstream.https_port, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            if "count" in order:
                print(upstream.count(order["count"]), flush=True)
            elif "total" in order:
                print(len(upstream.seen), flush=True)
            else:
                upstream.on(order["name"], *(Act(**act) for act in order["acts"]))
                print("ok", flush=True)


if __name__ == "__main__":
    _main()
    os._exit(0)
