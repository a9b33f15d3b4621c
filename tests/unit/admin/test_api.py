"""The API over real HTTP, the supervisor behind it a record of what it was asked: what passes, and what must not."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from resolver import control, counters
from resolver.admin.api import CHANGES, MAX_BODY, Api, Server, Settings
from resolver.admin.app import AdminServer, make_app
from resolver.admin.listen import bind
from resolver.config.addresses import Endpoint
from resolver.decisions import Who
from resolver.facts import Facts, Source

TOKEN = "a-token-of-some-length"
JSON = {"Content-Type": "application/json"}


class Running:
    """An admin server with an API; `asked` is what reached the supervisor."""

    def __init__(self, folder: Path) -> None:
        self.token_file: Path | None = folder / "token"
        self.token_file.write_text(f"{TOKEN}\n")
        self.trust = False
        self.asked: list[control.Message] = []
        self.who: list[Who] = []
        self.answer: control.Message | Exception = control.Report({"done": True})
        self.server = AdminServer(bind(Endpoint("127.0.0.1", 0)))
        source = Source([memoryview(bytearray(counters.SIZE))], Facts(generation=3))
        api = Api(Server(self._settings, self._ask, self._lists, self._explain))
        self.server.start(make_app(source, lambda: "", api))

    def _settings(self) -> Settings:
        return Settings(self.token_file, self.trust, "dns.lan")

    def _ask(self, message: control.Message, who: Who, patience: float) -> control.Message:
        self.asked.append(message)
        self.who.append(who)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _lists(self, status: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [{"list": "ads", "status": status}]

    def _explain(self, name: str, client: str, qtype: str, asks: bool) -> dict[str, Any]:
        if name == "bad..name":
            raise ValueError("no name")
        return {"name": name, "client": client, "type": qtype, "asks": asks}

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.address.port, timeout=30)
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text else None, response.headers

    def post(self, what: str, members: object = None, token: str | None = TOKEN, **headers: str) -> tuple[int, Any]:
        given = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        body = members if isinstance(members, bytes) else json.dumps(members or {}).encode()
        return self.request("POST", f"/api/v1/{what}", body, given)[:2]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.server.close()


# -- what it asks ------------------------------------------------------------------------------------------------------
ASKED: list[tuple[str, dict[str, Any], control.Message]] = [
    ("block", {"name": "X.Example."}, control.Override("x.example", 2, 0.0)),
    ("block", {"name": "x.example", "for": "1h"}, control.Override("x.example", 2, 3600.0)),
    ("allow", {"name": "x.example", "for": 90}, control.Override("x.example", 1, 90.0)),
    ("undo", {"name": "x.example"}, control.TakeBack("x.example")),
    ("pause", {"target": "kids"}, control.Pause("kids", 1800.0)),
    ("pause", {"target": "kids", "for": "10m"}, control.Pause("kids", 600.0)),
    ("resume", {}, control.Resume("")),
    ("resume", {"target": "kids"}, control.Resume("kids")),
    ("flush", {"all": True}, control.Flush("", False)),
    ("flush", {"name": "x.example", "subtree": True}, control.Flush("x.example", True)),
    ("reload", {}, control.Reload()),
    ("reload", {"fetch": True}, control.Reload(fetch=True)),
    ("fetch", {"lists": ["ads"]}, control.Reload(fetch=True, lists=("ads",))),
    ("approve", {"list": "ads", "names": ["a.example"], "reason": "ours"},
     control.Decide("ads", True, ("a.example",), "ours")),
    ("reject", {"list": "ads"}, control.Decide("ads", False, (), "")),
    ("rollback", {"reason": "too much"}, control.RollBack(0, "too much")),
    ("rollback", {"generation": 7}, control.RollBack(7, "")),
]  # fmt: skip


@pytest.mark.parametrize(("what", "members", "message"), ASKED)
def test_a_change_is_what_its_command_sends(
    running: Running, what: str, members: dict[str, Any], message: control.Message
) -> None:
    assert running.post(what, members) == (200, {"done": True})
    assert running.asked == [message]
    assert control.decode(control.encode(message)) == message
    assert running.who == [Who(-1, "api 127.0.0.1")]


def test_every_change_is_tried_here() -> None:
    assert {what for what, _, _ in ASKED} == set(CHANGES)


def test_questions(running: Running) -> None:
    def get(path: str) -> tuple[int, Any]:
        return running.request("GET", path)[:2]

    assert get("/api/v1/stats") == (200, {"done": True})
    assert get("/api/v1/lists") == (200, [{"list": "ads", "status": {"done": True}}])
    assert get("/api/v1/status") == (200, {"done": True})
    asked = {"name": "x.example", "client": "127.0.0.1", "type": "A", "asks": False}
    assert get("/api/v1/explain?name=x.example") == (200, asked)
    assert get("/api/v1/explain?name=x.example&client=192.0.2.1&type=AAAA") == (
        200,
        asked | {"client": "192.0.2.1", "type": "AAAA"},
    )
    assert get("/api/v1/explain?name=x.example&ask=no") == (200, asked)
    assert get("/api/v1/explain?name=x.example&ask=1") == (400, {"errors": ["ask: expected yes or no"]})
    assert get("/api/v1/explain?name=x.example&ask=yes")[0] == 401  # it has the server send a question
    token = {"Authorization": f"Bearer {TOKEN}"}
    assert running.request("GET", "/api/v1/explain?name=x.example&ask=yes", headers=token)[:2] == (
        200,
        asked | {"asks": True},
    )
    assert get("/api/v1/explain") == (400, {"errors": ["name: is missing"]})
    assert get("/api/v1/explain?name=bad..name") == (400, {"errors": ["no name"]})
    assert get("/api/v1/stats?colour=red")[0] == 400
    assert get("/api/v1/nothing")[0] == 404 and get("/api/v1/")[0] == 404
    assert running.request("HEAD", "/api/v1/stats")[:2] == (200, None)


def test_what_the_supervisor_refuses(running: Running) -> None:
    running.answer = control.Failed("neither blocked nor allowed by hand")
    assert running.post("undo", {"name": "x.example"}) == (409, {"errors": ["neither blocked nor allowed by hand"]})
    running.answer = TimeoutError()
    status, body = running.post("block", {"name": "x.example"})
    assert status == 504 and "not done after 30 s" in body["errors"][0]


@pytest.mark.parametrize(
    ("what", "members", "says"),
    [
        ("block", {}, "name: is missing"),
        ("block", {"name": "a..b"}, "name: an empty label"),
        ("block", {"name": 7}, "name: expected a text"),
        ("block", {"name": "x.example", "for": "soon"}, "for: "),
        ("block", {"name": "x.example", "for": True}, "for: expected a duration"),
        ("block", {"name": "x.example", "because": "so"}, "because: not known here"),
        ("flush", {}, "expected a name, or all: true"),
        ("flush", {"all": "yes"}, "all: expected true or false"),
        ("fetch", {"lists": "ads"}, "lists: expected an array"),
        ("rollback", {"generation": -1}, "generation: expected a number"),
        ("block", b"[1]", "expected an object"),
        ("block", b"{", "no JSON"),
        ("block", b"\xff", "no JSON"),
        ("block", b"[" * 60_000, "no JSON"),
    ],
)
def test_members_that_are_none(running: Running, what: str, members: Any, says: str) -> None:
    status, body = running.post(what, members)
    assert status == 400 and says in body["errors"][0]
    assert running.asked == []


# -- what guards it ----------------------------------------------------------------------------------------------------
def test_a_change_needs_the_token(running: Running) -> None:
    for token in (None, "", "another-token-as-long", TOKEN[:-1], TOKEN + "x", "ü" * 20):
        status, _, headers = running.request(
            "POST",
            "/api/v1/block",
            b'{"name": "x.example"}',
            JSON | ({} if token is None else {"Authorization": f"Bearer {token}".encode().decode("latin-1")}),
        )
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
    assert running.post("block", {"name": "x.example"}, None, Authorization=f"Basic {TOKEN}")[0] == 401
    assert running.asked == []
    assert running.post("block", {"name": "x.example"}, None, Authorization=f"bearer {TOKEN}")[0] == 200


def test_a_token_may_change_while_the_server_runs(running: Running) -> None:
    assert running.token_file
    running.token_file.write_text("another-token-as-long")
    assert running.post("block", {"name": "x.example"})[0] == 401
    assert running.post("block", {"name": "x.example"}, "another-token-as-long")[0] == 200


@pytest.mark.parametrize("content", [None, "", "short", "x" * 5000])
def test_a_token_file_that_is_of_no_use_lets_nobody_in(running: Running, content: str | None) -> None:
    assert running.token_file
    running.token_file.unlink()
    if content is not None:
        running.token_file.write_text(content)
    for token in ("", content or TOKEN):
        status, body = running.post("block", {"name": "x.example"}, token)
        assert status == 503 and "admin.token_file" in body["errors"][0]
    assert running.post("block", {"name": "x.example"}, None)[0] == 401
    assert running.asked == []


def test_without_a_token_file_nobody_changes_anything(running: Running) -> None:
    running.token_file = None
    status, body = running.post("block", {"name": "x.example"})
    assert status == 403 and "admin.token_file" in body["errors"][0] and running.asked == []


def test_this_machine_may_be_trusted(running: Running) -> None:
    running.trust = True
    assert running.post("block", {"name": "x.example"}, None)[0] == 200
    assert running.post("block", {"name": "x.example"}, "wrong-token-and-long")[0] == 401
    for header in ("X_Forwarded_For", "Forwarded", "X_Real_IP", "Via"):
        assert running.post("block", {"name": "x.example"}, None, **{header: "192.0.2.1"})[0] == 401, header
    running.token_file = None
    assert running.post("block", {"name": "x.example"}, None)[0] == 200
    assert len(running.asked) == 2


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8053", "localhost.evil.example", "", "127.0.0.1.evil.example"]
)
def test_a_foreign_name_that_leads_here_is_refused(running: Running, host: str) -> None:
    running.trust = True
    assert running.request("GET", "/api/v1/lists", headers={"Host": host})[0] == 421
    assert running.post("block", {"name": "x.example"}, None, Host=host)[0] == 421
    assert running.asked == []
    assert running.post("block", {"name": "x.example"}, Host=host)[0] == 200, "with the token it is no browser's"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:8053", "LOCALHOST", "[::1]:8053", "192.0.2.7", "dns.lan:8053", "dns.lan."]
)
def test_own_names(running: Running, host: str) -> None:
    assert running.request("GET", "/api/v1/lists", headers={"Host": host})[0] == 200


def test_pages_of_other_sites_are_refused(running: Running) -> None:
    running.trust = True
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999", "Host": "localhost:8053"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert running.post("block", {"name": "x.example"}, None, **headers)[0] == 403, headers
        assert running.post("block", {"name": "x.example"}, **headers)[0] == 403, headers
        plain = {name.replace("_", "-"): value for name, value in headers.items()}
        assert running.request("GET", "/api/v1/lists", headers=plain)[0] == 403, headers
    assert running.asked == []
    own = {"Origin": "http://localhost:8053", "Host": "localhost:8053", "Sec_Fetch_Site": "same-origin"}
    assert running.post("block", {"name": "x.example"}, None, **own)[0] == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
)
def test_only_json(running: Running, kind: str) -> None:
    assert running.post("block", {"name": "x.example"}, Content_Type=kind)[0] == 415
    assert running.asked == []
    assert running.post("block", {"name": "x.example"}, Content_Type="application/json; charset=utf-8")[0] == 200


def test_methods(running: Running) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD"):
        status, _, headers = running.request(method, "/api/v1/block", headers={"Authorization": f"Bearer {TOKEN}"})
        assert status == 405 and headers["Allow"] == "POST", method
        assert "Access-Control-Allow-Origin" not in headers
    assert running.post("lists")[0] == 405
    assert running.asked == []


def test_bodies_are_bounded(running: Running) -> None:
    padded = json.dumps({"name": "x.example"}).encode()
    assert running.post("block", padded + b" " * (MAX_BODY - len(padded)))[0] == 200
    assert running.post("block", padded + b" " * MAX_BODY)[0] == 413
    status = running.request(
        "POST",
        "/api/v1/block",
        b"15\r\n" + padded + b"\r\n0\r\n\r\n",
        JSON | {"Authorization": f"Bearer {TOKEN}", "Transfer-Encoding": "chunked"},
    )[0]
    assert status == 411
    assert len(running.asked) == 1


def test_answers_are_not_kept_or_guessed_at(running: Running) -> None:
    _, _, headers = running.request("GET", "/api/v1/lists")
    assert headers["Content-Type"] == "application/json"
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
