"""The HTTP server on `admin.listen`: /metrics, /healthz, /readyz, and /api/v1/ (api.py), where alone state is changed.

It runs in threads of the supervisor, which answers no DNS; workers know nothing of it.
"""

from __future__ import annotations

import io
import socket
import socketserver
import sys
import threading
import time
import wsgiref.simple_server
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from resolver.admin.api import PREFIX
from resolver.config.addresses import Endpoint
from resolver.facts import Source

THREADS = 32  # requests at a time; who comes beyond is hung up on
_TEXT = (("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store"))


def make_app(source: Source, why_not_ready: Callable[[], str], api: WSGIApplication) -> WSGIApplication:
    """The application. `why_not_ready`: "" when the server serves with its lists; called from a thread. `api`: takes what is
    below /api/v1/."""
    from prometheus_client import make_wsgi_app  # only here: it takes time to load, and the port is taken before
    from prometheus_client.registry import CollectorRegistry

    from resolver.metrics import TampahCollector

    registry = CollectorRegistry()
    registry.register(TampahCollector(source))
    metrics: WSGIApplication = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def text(status: str, body: str) -> Iterable[bytes]:
            start_response(status, list(_TEXT))
            return [body.encode() + b"\n"]

        if environ["PATH_INFO"].startswith(PREFIX):
            return api(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return text("405 Method Not Allowed", "only GET and HEAD")
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/healthz":
                return text("200 OK", "the process lives")
            case "/readyz":
                reason = why_not_ready()
                return text("503 Service Unavailable", reason) if reason else text("200 OK", "ready")
        return text("404 Not Found", "there are /metrics, /healthz, /readyz and /api/v1/")

    return app


class _Request(io.RawIOBase):
    """What a client sends, as long as all of it has come by `end` (time.monotonic()). TimeoutError then."""

    def __init__(self, connection: socket.socket, end: float) -> None:
        self._connection = connection
        self._end = end

    def readable(self) -> bool:
        """See io."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See io."""
        patience = self._connection.gettimeout()
        self._connection.settimeout(max(self._end - time.monotonic(), 0.001))
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(patience)


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    timeout = 10  # seconds that a client may take to send its request, and to take each part of the answer

    def setup(self) -> None:
        """Bound the time of the request as a whole: a socket's time-out starts anew with every octet."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Request(self.connection, time.monotonic() + self.timeout))

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places = threading.Semaphore(THREADS)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread, if there is a place for it."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What the thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """One line, no traceback: a client that went away is no event."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"tampah: admin: {error!r}", file=sys.stderr, flush=True)


class AdminServer:
    """Serves from start() to close()."""

    def __init__(self, bound: socket.socket) -> None:
        """Take over a socket that listens."""
        host, port = bound.getsockname()[:2]
        self._server = _Server((host, port), _Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = bound
        # Not server_bind(): it would ask the DNS for this machine's name.
        self._server.server_name, self._server.server_port = host, port
        self._server.setup_environ()
        self._thread = threading.Thread(target=self._server.serve_forever, name="admin", daemon=True)

    @property
    def address(self) -> Endpoint:
        """Where it listens, the port filled in where 0 was asked."""
        return Endpoint(self._server.server_name, self._server.server_port)

    def start(self, app: WSGIApplication) -> None:
        """Answer requests with `app` from now on."""
        self._server.set_app(app)
        self._thread.start()

    def close(self) -> None:
        """Stop, and close the socket."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
