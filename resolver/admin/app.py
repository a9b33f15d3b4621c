"""The HTTP server on `admin.listen`: /metrics, /healthz, /readyz, and /api/v1/ (api.py), where alone state is changed.

It runs in threads of the supervisor, which answers no DNS; workers know nothing of it.
"""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from resolver.admin.api import PREFIX
from resolver.config.addresses import Endpoint
from resolver.facts import Source

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


class _Handler(wsgiref.simple_server.WSGIRequestHandler):
    timeout = 10  # seconds that a client may keep a thread waiting

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


class _Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

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
