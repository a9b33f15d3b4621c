"""A maintainer's HTTP server on loopback that misbehaves on command, with a certificate authority of its own.

    with ListServer() as maintainer:
        maintainer.serve("/ads.txt", Document(b"ads.example\n", etag='"1"'))
        … fetch maintainer.url("/ads.txt") …
        maintainer.serve("/ads.txt", Status(404), Document(b"ads.example\n"))   # in turn; the last one stays
        assert [request.status for request in maintainer.seen] == [200, 404]

One thread a connection on plain sockets: what is sent, and when, is what the test says.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests import certificates
from tests.ports import free_port

PATIENCE = 20.0  # seconds that a connection is held at most
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass
class Request:
    """What was asked: header names in lower case. `status` and `sent`: what was answered, body octets alone."""

    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


class Act:
    """What happens to a request."""

    def do(self, connection: Connection, request: Request) -> None:
        """Answer, or not."""
        raise NotImplementedError


@dataclass
class Document(Act):
    """A body, served as a good server does: 304 for a version that is known, 206 for the rest of one.

    `cut`: only so many octets of what should be sent, then the connection is closed; `chunked`: without a length;
    `stall`: after the cut nothing more comes, and the connection stays; `drip`: seconds before each octet after the cut;
    `packed`: with Content-Encoding gzip; `ranges`: False ignores Range.
    """

    body: bytes
    etag: str = ""
    last_modified: str = ""
    cut: int | None = None
    chunked: bool = False
    stall: bool = False
    drip: float = 0.0
    packed: bool = False
    ranges: bool = True
    content_type: str = "text/plain"

    def do(self, connection: Connection, request: Request) -> None:
        """See the class."""
        body = gzip.compress(self.body, mtime=0) if self.packed else self.body
        headers = {"Content-Type": self.content_type}
        headers |= {"ETag": self.etag} if self.etag else {}
        headers |= {"Last-Modified": self.last_modified} if self.last_modified else {}
        headers |= {"Content-Encoding": "gzip"} if self.packed else {}
        known = request.headers.get("if-none-match") or request.headers.get("if-modified-since")
        if known and known in (self.etag, self.last_modified):
            connection.head(request, 304, headers)
            return
        start, status = 0, 200
        asked = _RANGE.fullmatch(request.headers.get("range", ""))
        if asked and self.ranges and request.headers.get("if-range") in (self.etag or "-", self.last_modified or "-"):
            start, status = int(asked[1]), 206
            if start >= len(body):
                connection.head(request, 416, {"Content-Length": "0"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        rest = body[start:]
        headers |= {"Transfer-Encoding": "chunked"} if self.chunked else {"Content-Length": str(len(rest))}
        connection.head(request, status, headers)
        whole = self.cut is None and not self.drip and not self.stall
        for at in range(0, len(rest) if whole else self.cut or 0, 65536):
            connection.body(request, rest[at : min(at + 65536, len(rest) if whole else self.cut or 0)], self.chunked)
        if self.drip:
            for at in range(self.cut or 0, len(rest)):
                time.sleep(self.drip)
                connection.body(request, rest[at : at + 1], self.chunked)
        elif self.stall:
            connection.wait()
        elif whole and self.chunked:
            connection.send(b"0\r\n\r\n")


@dataclass
class Status(Act):
    """Only a status, with these headers."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)

    def do(self, connection: Connection, request: Request) -> None:
        """See the class."""
        connection.head(request, self.status, {"Content-Length": "0", **self.headers})


class Silence(Act):
    """No answer, and the connection stays."""

    def do(self, connection: Connection, request: Request) -> None:
        """See the class."""
        connection.wait()


@dataclass
class Octets(Act):
    """These octets, whatever they are."""

    octets: bytes

    def do(self, connection: Connection, request: Request) -> None:
        """See the class."""
        connection.send(self.octets)


class Connection:
    """One connection; it serves one request."""

    def __init__(self, server: ListServer, connected: socket.socket) -> None:
        self._server = server
        self._socket = connected

    def head(self, request: Request, status: int, headers: dict[str, str]) -> None:
        """Send status line and headers."""
        request.status = status
        lines = [f"HTTP/1.1 {status} Said", "Connection: close", *(f"{name}: {text}" for name, text in headers.items())]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def body(self, request: Request, octets: bytes, chunked: bool) -> None:
        """Send a piece of the body."""
        request.sent += len(octets)
        self.send(b"%x\r\n%b\r\n" % (len(octets), octets) if chunked else octets)

    def send(self, octets: bytes) -> None:
        """Send octets as they are."""
        self._socket.sendall(octets)

    def wait(self) -> None:
        """Hold the connection until the peer or the test ends it."""
        self._socket.settimeout(0.1)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not self._server.closing:
            with contextlib.suppress(TimeoutError):
                if not self._socket.recv(1024):
                    return

    def serve(self) -> None:
        """Read the request and do what is to be done with it."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self._socket.recv(65536)
            if not piece:
                return
            data += piece
            if data[:1] == b"\x16":  # a TLS handshake, and this is no TLS server
                self.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                return
        first, *lines = data.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
        path = first.split()[1]
        request = Request(path, headers)
        self._server.seen.append(request)
        self._server.act(path).do(self, request)


class ListServer:
    """See the module. `tls`: the context of an https server; `silent_tls`: it accepts and never says a word of TLS."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, silent_tls: bool = False, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = free_port()
        self.seen: list[Request] = []
        self.closing = False
        self._scheme = "https" if tls or silent_tls else "http"
        self._tls = tls
        self._silent = silent_tls
        self._acts: dict[str, list[Act]] = {}

    def url(self, path: str, host: str = "") -> str:
        """The URL of a path."""
        return f"{self._scheme}://{host or self.host}:{self.port}{path}"

    def serve(self, path: str, *acts: Act) -> None:
        """Do `acts` in turn when `path` is asked for; the last one stays."""
        self._acts[path] = list(acts)

    def act(self, path: str) -> Act:
        """What is to be done now."""
        acts = self._acts.get(path, [Status(404)])
        return acts.pop(0) if len(acts) > 1 else acts[0]

    def asked(self, path: str) -> list[Request]:
        """The requests for a path."""
        return [request for request in self.seen if request.path == path]

    def __enter__(self) -> ListServer:
        self._listener = socket.create_server((self.host, self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self.closing:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        with connected, contextlib.suppress(OSError):
            connected.settimeout(PATIENCE)
            if self._silent:
                Connection(self, connected).wait()
            elif self._tls:
                with self._tls.wrap_socket(connected, server_side=True) as wrapped:
                    Connection(self, wrapped).serve()
            else:
                Connection(self, connected).serve()


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port on loopback to which no connection comes about: its queue is full, so the kernel drops each SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", free_port()))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


class Authority:
    """A certificate authority; its own certificate is in `path`."""

    def __init__(self, folder: Path, name: str = "Authority of a test") -> None:
        self._folder = folder
        self._signer = certificates.Authority(name)
        self.path = folder / f"{name.replace(' ', '-')}.pem"
        self.path.write_text(self._signer.pem)

    def context(self, name: str = "127.0.0.1", *, days: int = 1) -> ssl.SSLContext:
        """The context of a server with a certificate for a name or address, valid for `days` from now (negative: it
        has expired)."""
        key = certificates.make_key()
        chain = self._signer.sign(key, [name], begins=-3 * certificates.DAY, ends=days * certificates.DAY)
        file = self._folder / f"{name}.{days}.pem".replace(":", "_")
        file.write_text(chain + certificates.key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context
