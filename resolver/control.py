"""The typed messages between supervisor and workers, and between commands and the supervisor.

A message is a frozen dataclass; on the wire it is one JSON object a line with its class's name under `message`. Both
ends are this program, yet nothing is believed: a line that is too long, no JSON, of an unknown kind, or has a field
missing, unknown or of the wrong type is a `ControlError` that says which. `_KINDS` is the whole vocabulary; a class
that is not in it cannot be received.

    supervisor → worker   Configure once, then Certificate, Overlay, Swap and Clients, each whenever it changes; Inspect;
                          Flush; Drain
    worker → supervisor   Ready once, Swapped or Failed for each Swap, Overlaid for each Overlay, Mapped for each
                          Clients, Certified for each Certificate; Inspected; Flushed; Notified
    supervisor → fetcher  Follow whenever the config changes, Fetch
    fetcher → supervisor  Fetched for each list at a Follow and after each attempt; Changed; Done for each Fetch
    supervisor → recorder Count whenever generation or config change, Write
    recorder → supervisor Written for each Write
    command → supervisor  Reload, Status, Statistics, Override, TakeBack, Flush, Pause, Resume, Decide, RollBack, Asked:
                          answered by Report or Failed, then the connection is closed

A command imports this as it starts: nothing here is slow to import. The supervisor's and workers' ends: channel.py.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET = "control.sock"  # below state_dir: where a server takes commands
MAX_LINE = 16 << 20  # octets; a report of a thousand lists is far below it


class ControlError(Exception):
    """A message that is none, or a peer that is gone; the text says what was wrong."""


# -- supervisor → worker --------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Bound:
    """A bound socket handed down: its descriptor, its family, `stream` for TCP, `wildcard` where an answer has to leave from
    the address that was asked, as it is not the socket's own.

    `kind`: what is spoken on it: "dns"; "tls" (DoT) and "https" (DoH over HTTP/1.1 and HTTP/2), both of TCP; "quic" (DoQ)
    and "https3" (DoH over HTTP/3), both of UDP.
    """

    fd: int
    family: int
    stream: bool
    wildcard: bool
    kind: str = "dns"


@dataclass(frozen=True, slots=True)
class Configure:
    """The first message: what a worker holds for its lifetime. `cache_bytes` is this worker's share; `buckets_fd` and
    `buckets_key` (hexadecimal) are what all workers share to limit clients' rates, `cookie_key` likewise to make cookies;
    `ring_fd`: ring.py. `cache_file`: where its cache is from its end to the next start ("": nowhere). `proxy_from`: networks
    whose PROXY headers count. `workers`: how many there are."""

    worker: int
    sockets: tuple[Bound, ...]
    counters_fd: int
    ring_fd: int
    buckets_fd: int
    buckets_key: str
    cache_bytes: int
    cache_file: str = ""
    cookie_key: str = "00" * 16
    https_path: str = "/dns-query"
    proxy_from: tuple[str, ...] = ()
    workers: int = 1


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """How long answers are kept, in seconds, and may serve once expired; `prefetch`: popular ones are renewed early."""

    max_ttl: int
    min_ttl: int
    negative_ttl: int
    serve_stale: int = 0
    prefetch: bool = False


@dataclass(frozen=True, slots=True)
class Upstream:
    """Whom to ask. `routes[0]` are the default servers, the others those of `upstream.routes` and then of groups; servers
    are written as upstream/server.py reads them. `timeout` in seconds; `slots`: server → its place in the counters;
    `bootstrap`: who knows where servers are; `ca`: the path of a PEM file of authorities, or nothing."""

    routes: tuple[tuple[str, ...], ...]
    strategy: str
    timeout: float
    slots: dict[str, int]
    bootstrap: tuple[str, ...] = ()
    ca: str = ""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """How many queries a second the clients of one prefix may send over UDP (0: no limit), and the prefixes' lengths; how
    many answers of one kind they get; `slip` and `action` as in the config."""

    per_second: int
    prefix4: int
    prefix6: int
    responses: int = 0
    slip: int = 2
    action: str = "truncate"


@dataclass(frozen=True, slots=True)
class Edns:
    """What is told and taken by EDNS: see Engine.configure_edns. `keepalive` in tenths of a second."""

    cookies: int = 0
    nsid: str = ""
    version: str = ""
    identity: str = ""
    structured: int = 0
    keepalive: int = 0
    ecs: str = "strip"
    prefix4: int = 24
    prefix6: int = 56


@dataclass(frozen=True, slots=True)
class Zone:
    """A list that comes by zone transfer: its zone, and the networks that NOTIFY is taken from."""

    list: str
    zone: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Connections:
    """How many connections a worker and a client may keep, and for how many seconds one may be idle."""

    per_worker: int = 20_000
    per_client: int = 64
    idle: float = 10.0


@dataclass(frozen=True, slots=True)
class Trust:
    """What answers are checked by. `anchors`: lines as dnssec.anchors.parse takes them, none to check nothing; `negative`:
    names below which nothing is checked."""

    anchors: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Swap:
    """Serve by generation `number` from now on; `index`, `policy` and `clients` are paths, the last of a client map to
    use instead of the policy's, "" for none; `records` is one of ring.WHAT."""

    number: int
    index: str
    policy: str
    cache: CacheLimits
    upstream: Upstream
    rate_limit: RateLimit
    records: str = "all"
    connections: Connections = Connections()
    clients: str = ""
    zones: tuple[Zone, ...] = ()
    trust: Trust = Trust()
    edns: Edns = Edns()


@dataclass(frozen=True, slots=True)
class Clients:
    """Let the client map at `path` take the place of the one that generation `number` came with; `serial` counts up."""

    serial: int
    number: int
    path: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """Show this certificate to who connects from now on: `chain` and `key` are PEM text, `algorithm` is the key's; `serial`
    counts up. The first one comes before the first Swap."""

    serial: int
    chain: str
    key: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class OverlayEntry:
    """An operator's word: overlay.Entry."""

    name: str
    word: int
    made: float
    until: float


@dataclass(frozen=True, slots=True)
class Overlay:
    """Let these words speak above every list from now on; `serial` counts up."""

    serial: int
    entries: tuple[OverlayEntry, ...]


@dataclass(frozen=True, slots=True)
class Inspect:
    """Asks for Inspected: a worker that answers has a loop that turns."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Forget what is cached of `name` ("": of every name), with `subtree` of all below it too. From a command as well."""

    name: str = ""
    subtree: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """Answer what is in flight, for at most `seconds`, and end."""

    seconds: float


# -- worker → supervisor --------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is up and waits for its first generation."""


@dataclass(frozen=True, slots=True)
class Swapped:
    """Every query from now on sees generation `number`."""

    number: int


@dataclass(frozen=True, slots=True)
class Overlaid:
    """Every query from now on sees the overlay `serial`."""

    serial: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """So many answers are forgotten."""

    count: int


@dataclass(frozen=True, slots=True)
class Mapped:
    """Every query from now on sees the client map `serial`."""

    serial: int


@dataclass(frozen=True, slots=True)
class Certified:
    """Who connects from now on sees the certificate `serial`."""

    serial: int


@dataclass(frozen=True, slots=True)
class Inspected:
    """A worker's state: the generation in force (0: none yet) and what waits for an upstream."""

    generation: int
    in_flight: int
    connections: int


@dataclass(frozen=True, slots=True)
class Notified:
    """A primary said that the zones of these lists have changed."""

    lists: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """What was asked was not done; nothing has changed. `number` is the generation that a Swap failed for."""

    text: str
    number: int = 0


# -- supervisor → fetcher -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Follow:
    """Keep the copies of this config's lists up to date from now on; `config` is its Config.to_json."""

    config: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the sources of these lists now (none: of all); asks for a Done with the same `serial`."""

    serial: int
    lists: tuple[str, ...]


# -- fetcher → supervisor -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Fetched:
    """How fetching a list goes. `outcome`: "changed", "unchanged", "failed", or "" where nothing was tried now; `octets`
    that came; `copied`: when the copy in force came (0: there is none); the rest as in fetch.store.State. Of a zone: its
    `serial` (-1: none), and of a transfer just done the `kind`, "axfr" or "ixfr", and the `seconds`."""

    list: str
    outcome: str
    octets: int
    copied: float
    checked: float
    failures: int
    error: str
    next_try: float
    serial: int = -1
    kind: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Changed:
    """The copies of these lists have changed: a reload is due."""

    lists: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """Every list of a Fetch was fetched, or failed: list → error."""

    serial: int
    failed: dict[str, str]


# -- supervisor → recorder ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Counted:
    """A list that query records may speak of by its slot."""

    slot: int
    name: str
    category: str


@dataclass(frozen=True, slots=True)
class Count:
    """Count queries by `what` and `clients` of query_log from now on, and keep what comes of it in `state_dir`."""

    state_dir: str
    what: str
    clients: str
    lists: tuple[Counted, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Write down what is known by now; asks for a Written with the same `serial`."""

    serial: int


# -- recorder → supervisor ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Written:
    """It is written; or not, with the `error`."""

    serial: int
    error: str


# -- command → supervisor -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Reload:
    """Build and enforce a generation that begins after this message came in; with `fetch`, after the sources of `lists`
    (none: of all lists from other machines) have been asked; with `force`, from lists that are all read again, also
    those that a rollback holds."""

    fetch: bool = False
    lists: tuple[str, ...] = ()
    force: bool = False


@dataclass(frozen=True, slots=True)
class Decide:
    """Asks to approve or reject what waits of a list: its rules for `names`, or all of it. See decisions.decide()."""

    list: str
    approve: bool
    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Asks for the lists as generation `number` had them; 0: the last one with other lists than those in force."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """Asks for the generation in force and the state of its lists."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Asks for the counters summed over all workers."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Asks for asked.json to say what is known by now."""


@dataclass(frozen=True, slots=True)
class Override:
    """Block or allow (overlay.BLOCK, overlay.ALLOW) a name at once, for `seconds` (0: for good)."""

    name: str
    word: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Forget the operator's word on a name."""

    name: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Switch filtering off at once for a group, a client, a network or "all", for `seconds`."""

    target: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Resume:
    """End a pause; "" ends all."""

    target: str


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to a command: plain data, for --json and for tables."""

    data: dict[str, Any]


Message = (
    Configure
    | Certificate
    | Overlay
    | Swap
    | Clients
    | Inspect
    | Flush
    | Drain
    | Ready
    | Swapped
    | Overlaid
    | Mapped
    | Certified
    | Inspected
    | Notified
    | Flushed
    | Failed
    | Follow
    | Fetch
    | Fetched
    | Changed
    | Done
    | Count
    | Write
    | Written
    | Asked
    | Reload
    | Status
    | Statistics
    | Override
    | TakeBack
    | Decide
    | RollBack
    | Pause
    | Resume
    | Report
)
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in typing.get_args(Message)}


def encode(message: Message) -> bytes:
    """One line, its newline included."""
    body = {"message": type(message).__name__, **dataclasses.asdict(message)}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of one line; ControlError says what is wrong with it."""
    if len(line) > MAX_LINE:
        raise ControlError(f"a message of {len(line)} octets is longer than {MAX_LINE}")
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"not a JSON object: {error}") from None
    if not isinstance(body, dict):
        raise ControlError("not a JSON object")
    kind = _KINDS.get(str(body.pop("message", "")))
    if kind is None:
        raise ControlError("a message of an unknown kind")
    return typing.cast(Message, _build(kind, body, kind.__name__))


def _build(kind: type[Any], body: Any, path: str) -> Any:
    """An instance of a dataclass from parsed JSON, every field checked against its annotation."""
    if not isinstance(body, dict):
        raise ControlError(f"{path}: expected an object")
    hints = typing.get_type_hints(kind)
    if unknown := body.keys() - hints.keys():
        raise ControlError(f"{path}: unknown field {min(unknown)!r}")
    values = {}
    for spec in dataclasses.fields(kind):
        if spec.name in body:
            values[spec.name] = _check(hints[spec.name], body[spec.name], f"{path}.{spec.name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ControlError(f"{path}: the field {spec.name!r} is missing")
    return kind(**values)


def _check(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotation wants it: a scalar, a tuple of one kind, a dict of plain data, or a dataclass."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), value, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise ControlError(f"{path}: expected an array")
        inner = typing.get_args(hint)[0]
        return tuple(_check(inner, item, f"{path}[{number}]") for number, item in enumerate(value))
    expected = float if hint is float else origin or hint
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ControlError(f"{path}: expected {expected.__name__}, got {type(value).__name__}")
    return value


def ask(path: Path, message: Message, timeout: float | None = None) -> Message:
    """Send a command to the server whose control socket is at `path` and return its answer.

    ControlError says why there is none: no server, no permission, no answer within `timeout` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(encode(message))
            with connection.makefile("rb") as lines:
                line = lines.readline(MAX_LINE + 1)
        except (FileNotFoundError, ConnectionRefusedError):
            raise ControlError(f"no server answers at {path}: start one with 'tampah run'") from None
        except PermissionError:
            raise ControlError(f"{path}: permission denied; run this as the user of the server") from None
        except TimeoutError:
            raise ControlError(f"the server at {path} did not answer within {timeout:g} s") from None
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror or error}") from None
    if not line:
        raise ControlError("the server closed without an answer: it is stopping, or see its log")
    return decode(line)
