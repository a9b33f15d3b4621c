"""The API of a running server: what it is told is enforced on every worker when it answers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.blackbox.harness import Server
from tests.fakes import FakeUpstream, address_of

TOKEN = "a-token-of-some-length"


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake


def make(folder: Path, upstream: FakeUpstream, **admin: Any) -> Server:
    (folder / "ads.txt").write_text("ads.example\none.example\ntwo.example\n")
    (folder / "token").write_text(TOKEN)
    server = Server(folder, {"lists": [{"name": "ads", "source": "ads.txt"}]}, upstream=upstream.port)
    server.configure(admin={"listen": f"127.0.0.1:{server.admin_port}", **admin})
    return server


def call(server: Server, method: str, what: str, members: object = None, token: str = TOKEN) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=120)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection.request(method, f"/api/v1/{what}", json.dumps(members or {}), headers)
    response = connection.getresponse()
    status, body = response.status, json.loads(response.read())
    connection.close()
    return status, body


def is_answered(server: Server, name: str) -> bool:
    return all(server.addresses(name) == [address_of(name)] for _ in range(16))


def test_what_is_told_is_enforced_when_the_answer_is_there(tmp_path: Path, upstream: FakeUpstream) -> None:
    with make(tmp_path, upstream, token_file="token") as server:
        assert is_answered(server, "www.new.example"), "and now it is in the caches"
        for _ in range(10):
            status, entry = call(server, "POST", "block", {"name": "new.example"})
            assert (status, entry["name"], entry["until"]) == (200, "new.example", 0)
            assert server.is_blocked("www.new.example")
            assert call(server, "POST", "allow", {"name": "new.example", "for": "1h"})[0] == 200
            assert is_answered(server, "www.new.example")
        assert call(server, "POST", "undo", {"name": "new.example"})[0] == 200
        status, said = call(server, "POST", "undo", {"name": "new.example"})
        assert status == 409 and "neither blocked nor allowed by hand" in said["errors"][0]

        assert call(server, "POST", "pause", {"target": "all", "for": "10m"})[0] == 200
        assert is_answered(server, "ads.example")
        assert call(server, "POST", "resume")[0] == 200
        assert server.is_blocked("ads.example")

        (tmp_path / "ads.txt").write_text("ads.example\none.example\ntwo.example\nmore.example\n")
        assert call(server, "POST", "reload")[0] == 200
        assert server.is_blocked("more.example")
        assert call(server, "POST", "flush", {"all": True})[1]["flushed"] > 0
        status, said = call(server, "POST", "fetch", {"lists": ["ads"]})
        assert status == 409 and "no list of the config" in said["errors"][0]
        status, said = call(server, "POST", "approve", {"list": "ads", "reason": "why not"})
        assert status == 409 and said["errors"]

        status, (ads,) = call(server, "GET", "lists")
        assert status == 200 and (ads["list"], ads["names"]) == ("ads", 4) and ads["hits"] > 0
        assert call(server, "GET", "stats")[1]["generation"] == call(server, "GET", "status")[1]["generation"]
        explained = call(server, "GET", "explain?name=x.more.example")[1]
        assert (explained["list"], explained["action"]) == ("ads", "zero")
        explained = call(server, "GET", "explain?name=www.fine.example&ask=yes")[1]
        assert any(address_of("www.fine.example") in line for line in explained["answer"])
        assert call(server, "GET", "explain?name=www.fine.example&ask=yes", token="")[0] == 401
        status, rolled = call(server, "POST", "rollback", {"reason": "more was too much"})
        assert status == 200 and is_answered(server, "more.example") and rolled["generation"]
        assert "api 127.0.0.1" in (server.state_dir / "decisions.jsonl").read_text()


def test_nobody_changes_anything_without_the_token(tmp_path: Path, upstream: FakeUpstream) -> None:
    with make(tmp_path, upstream, token_file="token") as server:
        assert call(server, "POST", "block", {"name": "new.example"}, token="")[0] == 401
        assert call(server, "POST", "pause", {"target": "all"}, token="wrong")[0] == 401
        assert server.is_blocked("ads.example") and is_answered(server, "new.example")
        assert call(server, "GET", "lists", token="")[0] == 200


def test_this_machine_is_trusted_only_if_the_config_says_so(tmp_path: Path, upstream: FakeUpstream) -> None:
    with make(tmp_path, upstream) as server:
        assert call(server, "POST", "block", {"name": "new.example"}, token="")[0] == 403
        server.configure(admin={"listen": f"127.0.0.1:{server.admin_port}", "trust_loopback": True})
        server.tampah("reload").check_returncode()
        assert call(server, "POST", "block", {"name": "new.example"}, token="")[0] == 200
        assert server.is_blocked("new.example")
