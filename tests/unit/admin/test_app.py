"""The admin address answers over HTTP what it should, and nothing else."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from resolver import counters
from resolver.admin import app
from resolver.admin.app import AdminServer, make_app
from resolver.admin.listen import AdminError, bind
from resolver.config.addresses import Endpoint
from resolver.facts import Facts, Source
from resolver.sockets import has_ipv6


def api(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Stands for what is below /api/v1/."""
    start_response("418 I'm a Teapot", [])
    return [environ["PATH_INFO"].encode()]


class Admin:
    """A running admin server whose readiness the test sets."""

    def __init__(self) -> None:
        self.reason = ""
        self.server = AdminServer(bind(Endpoint("127.0.0.1", 0)))
        source = Source([memoryview(bytearray(counters.SIZE))], Facts(generation=3))
        self.server.start(make_app(source, lambda: self.reason, api))

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.server.address.host, self.server.address.port, timeout=10)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body


@pytest.fixture
def admin() -> Iterator[Admin]:
    running = Admin()
    yield running
    running.server.close()


def test_metrics_health_and_readiness(admin: Admin) -> None:
    status, body = admin.ask("/metrics")
    assert status == 200 and "\ntampah_generation 3.0\n" in body
    assert admin.ask("/healthz")[0] == 200
    assert admin.ask("/readyz")[0] == 200
    admin.reason = "worker 1 does not answer"
    assert admin.ask("/readyz") == (503, "worker 1 does not answer\n")
    assert admin.ask("/healthz")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/x", "/../metrics", "/api/v2/x"])
def test_other_paths_are_not_there(admin: Admin, path: str) -> None:
    assert admin.ask(path)[0] == 404


def test_only_reading(admin: Admin) -> None:
    assert admin.ask("/metrics", "POST")[0] == 405
    assert admin.ask("/healthz", "HEAD") == (200, "")


def test_a_client_that_says_nothing_holds_nobody_up(admin: Admin) -> None:
    address = admin.server.address
    with socket.create_connection((address.host, address.port)):
        assert admin.ask("/healthz")[0] == 200


def test_clients_that_say_nothing_cannot_take_more_than_the_threads_there_are(admin: Admin) -> None:
    address = admin.server.address
    with contextlib.ExitStack() as silent:
        for _ in range(app.THREADS):
            silent.enter_context(socket.create_connection((address.host, address.port)))
        with socket.create_connection((address.host, address.port), timeout=5) as beyond:
            assert beyond.recv(1) == b"", "one beyond is not hung up on"
    end = time.monotonic() + 20
    while True:  # their places are free again
        try:
            assert admin.ask("/healthz")[0] == 200
            break
        except (http.client.HTTPException, ConnectionError):
            assert time.monotonic() < end


def test_a_request_has_to_come_in_time_as_a_whole(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app._Handler, "timeout", 0.5)
    address = admin.server.address
    end = time.monotonic() + 20
    with socket.create_connection((address.host, address.port), timeout=0.1) as slow:
        while True:
            try:
                slow.sendall(b"G")
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                assert time.monotonic() < end, "an octet now and then keeps the thread"
            except ConnectionError:
                break


def test_an_occupied_address_is_named(admin: Admin) -> None:
    with pytest.raises(AdminError, match=rf"admin\.listen: {admin.server.address}: Address already in use"):
        bind(admin.server.address)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_it_listens_on_ipv6_and_can_be_closed_before_it_served() -> None:
    server = AdminServer(bind(Endpoint("::1", 0)))
    assert str(server.address).startswith("[::1]:")
    server.close()


def test_the_api_takes_what_is_below_it(admin: Admin) -> None:
    assert admin.ask("/api/v1/block", "POST") == (418, "/api/v1/block")
    assert admin.ask("/api")[0] == 404
