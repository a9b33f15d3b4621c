"""`/api/v1/` on the admin address: the commands over HTTP, as JSON, by the messages that commands send.

A change is a row of `CHANGES` (POST), a question one of `QUESTIONS` (GET); the answer to a POST comes once every worker
enforces what was asked. What guards them, as a page in a browser of the operator's must not get through:

- Host must be an address, localhost, this machine's name or that of admin.listen, unless the token is right: a foreign name
  that resolves to this machine (DNS rebinding) is refused.
- Origin, where there is one, must be this very server, and Sec-Fetch-Site say nothing else: no page of another site asks.
- A POST is JSON by its Content-Type, which a form of another site cannot send, and at most MAX_BODY octets.
- A change needs the token of admin.token_file (`Authorization: Bearer …`), compared in constant time; or, where the config
  says `trust_loopback: yes`, a client on this machine that is no proxy for another. So does `explain` with `ask=yes`, as
  that has the server send a question to upstream.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit
from wsgiref.types import StartResponse, WSGIEnvironment

from resolver import control, overlay
from resolver.config.units import parse_duration
from resolver.decisions import Who
from resolver.lists.names import normalise

PREFIX = "/api/v1/"
MAX_BODY = 64 << 10  # octets
MIN_TOKEN = 16  # characters; a shorter one is a slip, or can be guessed
MAX_TOKEN_FILE = 4096  # octets
_DRAINED = 1 << 20  # octets read of a body that is refused, so that the answer is seen
_QUICK, _SLOW = 30.0, 1800.0  # seconds that an answer is waited for: of most changes, of those that read lists


class Settings(NamedTuple):
    """What of the config counts here. `token_file` None: there is none."""

    token_file: Path | None
    trust_loopback: bool
    listen: str  # the host of admin.listen


class Server(NamedTuple):
    """What the API asks; all are called from threads. `ask` raises TimeoutError, the others ValueError and OSError."""

    settings: Callable[[], Settings]
    ask: Callable[[control.Message, Who, float], control.Message]
    lists: Callable[[Mapping[str, Any]], list[dict[str, Any]]]
    explain: Callable[[str, str, str, bool], dict[str, Any]]  # name, client, type, whether upstream is asked


class Refusal(Exception):
    """A request that is not served: the status, and why in words."""

    def __init__(self, status: HTTPStatus, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Field(NamedTuple):
    """A member of a POST's object: how it is read, and what it is where it is left out (`...`: it may not be)."""

    read: Callable[[Any], Any]
    default: Any = ...


class Change(NamedTuple):
    """A POST: its members, and the message that they make."""

    fields: Mapping[str, Field]
    make: Callable[..., control.Message]
    patience: float = _QUICK


# -- members -----------------------------------------------------------------------------------------------------------
def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def _name(value: Any) -> str:
    return normalise(_text(value), allow_tld=True)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("expected a duration such as 1h, or a number of seconds")
    return float(parse_duration(value))


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("expected a number")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("expected an array of texts")
    return tuple(map(_text, value))


def _flush(name: str, subtree: bool, all: bool) -> control.Message:
    if all == bool(name) or (all and subtree):
        raise ValueError("expected a name, or all: true")
    return control.Flush(name, subtree)


_WORD = {"name": Field(_name), "for": Field(_seconds, 0.0)}
_DECISION = {"list": Field(_text), "names": Field(_texts, ()), "reason": Field(_text, "")}
CHANGES: Mapping[str, Change] = {
    "block": Change(_WORD, lambda name, **rest: control.Override(name, overlay.BLOCK, rest["for"])),
    "allow": Change(_WORD, lambda name, **rest: control.Override(name, overlay.ALLOW, rest["for"])),
    "undo": Change({"name": Field(_name)}, control.TakeBack),
    "pause": Change(
        {"target": Field(_text), "for": Field(_seconds, 1800.0)},
        lambda target, **rest: control.Pause(target, rest["for"]),
    ),
    "resume": Change({"target": Field(_text, "")}, control.Resume),
    "flush": Change({"name": Field(_name, ""), "subtree": Field(_flag, False), "all": Field(_flag, False)}, _flush),
    "reload": Change({"fetch": Field(_flag, False)}, lambda fetch: control.Reload(fetch=fetch), _SLOW),
    "fetch": Change({"lists": Field(_texts, ())}, lambda lists: control.Reload(fetch=True, lists=lists), _SLOW),
    "approve": Change(_DECISION, lambda list, names, reason: control.Decide(list, True, names, reason), _SLOW),
    "reject": Change(_DECISION, lambda list, names, reason: control.Decide(list, False, names, reason), _SLOW),
    "rollback": Change(
        {"generation": Field(_number, 0), "reason": Field(_text, "")},
        lambda generation, reason: control.RollBack(generation, reason),
        _SLOW,
    ),
}
QUESTIONS = ("lists", "stats", "status", "explain")


class Api:
    """The WSGI application below PREFIX."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._explaining = threading.Lock()  # it reads runs: one at a time is enough

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            body = _body(environ) if environ["REQUEST_METHOD"] == "POST" else b""
            found = self._served(environ, body)
            status, headers = HTTPStatus.OK, dict[str, str]()
        except Refusal as refusal:
            found, status, headers = {"errors": [str(refusal)]}, refusal.status, refusal.headers
        text = json.dumps(found, ensure_ascii=False, default=str).encode() + b"\n"
        fixed = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        start_response(f"{status.value} {status.phrase}", [*fixed.items(), *headers.items()])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [text]

    def _served(self, environ: WSGIEnvironment, body: bytes) -> Any:
        what, method = environ["PATH_INFO"].removeprefix(PREFIX), environ["REQUEST_METHOD"]
        settings = self._server.settings()
        has_token = _has_token(environ, settings)
        _check_site(environ, settings, has_token)
        if what in CHANGES:
            _check_method(method, "POST")
            _check_type(environ)
            _check_right(environ, settings, has_token)
            return self._change(environ, CHANGES[what], body)
        if what in QUESTIONS:
            _check_method(method, "GET", "HEAD")
            return self._question(what, environ, settings, has_token)
        there = ", ".join([*CHANGES, *QUESTIONS])
        raise Refusal(HTTPStatus.NOT_FOUND, f"below {PREFIX} there are {there}")

    def _change(self, environ: WSGIEnvironment, change: Change, body: bytes) -> Any:
        members = _members(change.fields, body)
        try:
            message = change.make(**members)
        except ValueError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
        return self._ask(message, Who(-1, f"api {environ['REMOTE_ADDR']}"), change.patience)

    def _question(self, what: str, environ: WSGIEnvironment, settings: Settings, has_token: bool) -> Any:
        asked = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        known = {"name", "client", "type", "ask"} if what == "explain" else set()
        if unknown := asked.keys() - known:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{min(unknown)}: not known here")
        nobody = Who(-1, "api")
        if what == "stats":
            return self._ask(control.Statistics(), nobody, _QUICK)
        try:
            if what == "explain":
                if "name" not in asked:
                    raise ValueError("name: is missing")
                if asked.get("ask", "no") not in ("yes", "no"):
                    raise ValueError("ask: expected yes or no")
                if asks := asked.get("ask") == "yes":
                    _check_right(environ, settings, has_token)
                client, rtype = asked.get("client", "127.0.0.1"), asked.get("type", "A")
                with self._explaining:
                    return self._server.explain(asked["name"], client, rtype, asks)
            status = self._ask(control.Status(), nobody, _QUICK)
            return status if what == "status" else self._server.lists(status)
        except (ValueError, OSError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None

    def _ask(self, message: control.Message, who: Who, patience: float) -> Any:
        try:
            answer = self._server.ask(message, who, patience)
        except TimeoutError:
            raise Refusal(HTTPStatus.GATEWAY_TIMEOUT, f"not done after {patience:g} s; it may still be done") from None
        if isinstance(answer, control.Report):
            return answer.data
        text = answer.text if isinstance(answer, control.Failed) else "an answer of the wrong kind"
        raise Refusal(HTTPStatus.CONFLICT, text)


# -- what guards it ----------------------------------------------------------------------------------------------------
def _body(environ: WSGIEnvironment) -> bytes:
    """A POST's body, read before anything is refused, or the client would not see why."""
    length = environ.get("CONTENT_LENGTH", "")
    if environ.get("HTTP_TRANSFER_ENCODING") or (length and not (length.isascii() and length.isdecimal())):
        raise Refusal(HTTPStatus.LENGTH_REQUIRED, "expected a body with a Content-Length")
    size = int(length[:12] or "0")
    body: bytes = environ["wsgi.input"].read(min(size, _DRAINED))
    if size > MAX_BODY:
        raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of {size} octets; at most {MAX_BODY}")
    return body


def _check_site(environ: WSGIEnvironment, settings: Settings, has_token: bool) -> None:
    """Refuse what a page of another site could have its reader's browser ask."""
    host = environ.get("HTTP_HOST", "")
    if not has_token and not _is_own(_host_of(host), settings.listen):
        raise Refusal(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"the name {host!r} is not this server's: use its address, or send the token",
        )
    origin = environ.get("HTTP_ORIGIN", "")
    if origin and origin not in (f"http://{host}", f"https://{host}"):
        raise Refusal(HTTPStatus.FORBIDDEN, f"a request from the site {origin}")
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        raise Refusal(HTTPStatus.FORBIDDEN, "a request from another site")


def _host_of(host: str) -> str:
    """The host of a Host header, lower-case; "" if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_own(host: str, listen: str) -> bool:
    if host in ("localhost", listen.lower(), socket.gethostname().lower()):
        return bool(host)
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _check_method(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"only {' and '.join(allowed)}", Allow=", ".join(allowed))


def _check_type(environ: WSGIEnvironment) -> None:
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected Content-Type: application/json")


def _check_right(environ: WSGIEnvironment, settings: Settings, has_token: bool) -> None:
    """What does something needs the token, or trust in this machine's own users."""
    if has_token:
        return
    is_forwarded = any(environ.get(f"HTTP_{name}") for name in ("FORWARDED", "X_FORWARDED_FOR", "X_REAL_IP", "VIA"))
    is_here = ipaddress.ip_address(environ["REMOTE_ADDR"].partition("%")[0]).is_loopback
    if settings.trust_loopback and is_here and not is_forwarded and not environ.get("HTTP_AUTHORIZATION"):
        return
    if settings.token_file is None:
        raise Refusal(HTTPStatus.FORBIDDEN, "changes need a token: name its file in admin.token_file")
    raise Refusal(HTTPStatus.UNAUTHORIZED, "expected the token: Authorization: Bearer …", WWW_Authenticate="Bearer")


def _has_token(environ: WSGIEnvironment, settings: Settings) -> bool:
    """Whether the request carries the token. Refusal if it carries one and the file of the right one cannot be used."""
    scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer" or settings.token_file is None:
        return False
    try:
        with settings.token_file.open("rb") as file:
            token = file.read(MAX_TOKEN_FILE + 1).strip()
    except OSError as error:
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"admin.token_file: {error.strerror}") from None
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN_FILE:
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"admin.token_file: expected at least {MIN_TOKEN} characters")
    return hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)


def _members(fields: Mapping[str, Field], body: bytes) -> dict[str, Any]:
    """The members of a POST's object, each as it should be."""
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"no JSON: {error}") from None
    if not isinstance(given, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, "expected an object")
    if unknown := given.keys() - fields.keys():
        raise Refusal(HTTPStatus.BAD_REQUEST, f"{min(unknown)}: not known here; there are {', '.join(fields)}")
    found = {}
    for name, field in fields.items():
        if name not in given and field.default is ...:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{name}: is missing")
        try:
            found[name] = field.read(given[name]) if name in given else field.default
        except (ValueError, OverflowError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"{name}: {error}") from None
    return found
