"""Messages survive the wire, and nothing else does."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver import control
from resolver.control import ControlError

SWAP = control.Swap(
    7,
    "/s/index/7.index",
    "/s/policy/7.policy",
    control.CacheLimits(86400, 0, 3600),
    control.Upstream((("1.1.1.1", "9.9.9.9"), ("10.0.0.53",)), "fastest", 2.0, {"1.1.1.1": 0}),
    control.RateLimit(50, 24, 56),
    "blocked",
    control.Connections(1, 2, 3.0),
    "/s/clients/7.map",
    (control.Zone("feed", "rpz.example", ("192.0.2.1/32",)),),
)
EVERY = [
    control.Configure(
        1, (control.Bound(5, 2, False, True), control.Bound(6, 10, True, False, "tls")), 9, 11, 10, "00ff", 1 << 20
    ),
    control.Overlay(2, (control.OverlayEntry("x.example", 2, 1.5, 0.0),)),
    control.Overlaid(2),
    control.Certificate(1, "-----BEGIN CERTIFICATE-----\n", "-----BEGIN PRIVATE KEY-----\n", "RSAPrivateKey"),
    control.Certified(1),
    control.Override("x.example", 1, 3600.0),
    control.TakeBack("x.example"),
    SWAP,
    control.Clients(3, 7, "/s/clients/3.map"),
    control.Mapped(3),
    control.Pause("kids", 1800.0),
    control.Resume(""),
    control.Inspect(),
    control.Flush("x.example", True),
    control.Flushed(7),
    control.Drain(5.0),
    control.Ready(),
    control.Swapped(3),
    control.Inspected(3, 12, 1),
    control.Notified(("feed",)),
    control.Failed("the index is cut short — at octet 12\nsecond line", 4),
    control.Follow('{"file": null, "config": {}}'),
    control.Fetch(4, ("ads", "malware")),
    control.Fetched("ads", "failed", 120, 1.5, 2.5, 3, "HTTP 404", 99.0),
    control.Changed(("ads",)),
    control.Done(4, {"ads": "HTTP 404"}),
    control.Count("/s", "blocked", "prefix", (control.Counted(3, "ads", "general"),)),
    control.Write(5),
    control.Written(5, "no space left on device"),
    control.Asked(),
    control.Reload(),
    control.Reload(True, ("ads",), True),
    control.Decide("ads", True, ("co.id", "com"), "the ministry says so"),
    control.RollBack(3, "a bad update"),
    control.Status(),
    control.Statistics(),
    control.Report({"lists": [{"name": "x", "names": 3}], "ok": True}),
]


@pytest.mark.parametrize("message", EVERY, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_wire(message: control.Message) -> None:
    line = control.encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert control.decode(line) == message


def test_every_kind_is_tested() -> None:
    assert {type(message) for message in EVERY} == set(control._KINDS.values())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "not a JSON object"),
        (b"[1]\n", "not a JSON object"),
        (b"\xff\xfe\n", "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b"{}\n", "unknown kind"),
        (b'{"message":"Path"}\n', "unknown kind"),
        (b'{"message":["Swapped"]}\n', "unknown kind"),
        (b'{"message":"Swapped"}\n', "'number' is missing"),
        (b'{"message":"Swapped","number":"3"}\n', "Swapped.number: expected int, got str"),
        (b'{"message":"Swapped","number":true}\n', "expected int, got bool"),
        (b'{"message":"Swapped","number":3,"more":1}\n', "unknown field 'more'"),
        (b'{"message":"Drain","seconds":null}\n', "Drain.seconds: expected float"),
        (b'{"message":"Report","data":[]}\n', "Report.data: expected dict"),
        (
            b'{"message":"Configure","worker":0,"sockets":[{"fd":1}],"counters_fd":1,"cache_bytes":1}\n',
            r"Configure.sockets\[0\]: the field 'family' is missing",
        ),
        (b'{"message":"Configure","worker":0,"sockets":3,"counters_fd":1,"cache_bytes":1}\n', "expected an array"),
    ],
)
def test_bad_lines_say_what_is_wrong(line: bytes, says: str) -> None:
    with pytest.raises(ControlError, match=says):
        control.decode(line)


def test_a_line_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ControlError, match="longer than"):
        control.decode(b" " * (control.MAX_LINE + 1))


@given(st.binary(max_size=200))
def test_random_octets_are_an_error_and_nothing_worse(line: bytes) -> None:
    with pytest.raises(ControlError):
        control.decode(line)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_a_field_of_any_type_is_an_int_or_an_error(value: object) -> None:
    line = json.dumps({"message": "Swapped", "number": value}).encode()
    try:
        message = control.decode(line)
    except ControlError:
        assert type(value) is not int
    else:
        assert message == control.Swapped(value)  # type: ignore[arg-type]


def test_ask_without_a_server_says_so(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match=r"no server answers at .*tampah run"):
        control.ask(tmp_path / "control.sock", control.Status())


def _serve_once(path: Path, answer: bytes | None) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as peer:
            peer.recv(1000)
            if answer is None:
                peer.recv(1000)  # until the command gives up
            else:
                peer.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_ask_returns_the_answer(tmp_path: Path) -> None:
    thread = _serve_once(tmp_path / "s", control.encode(control.Report({"generation": 2})))
    assert control.ask(tmp_path / "s", control.Status(), 5) == control.Report({"generation": 2})
    thread.join()


@pytest.mark.parametrize(("answer", "says"), [(b"", "closed without an answer"), (None, "did not answer within")])
def test_ask_names_a_silent_server(tmp_path: Path, answer: bytes | None, says: str) -> None:
    thread = _serve_once(tmp_path / "s", answer)
    with pytest.raises(ControlError, match=says):
        control.ask(tmp_path / "s", control.Status(), 0.2)
    thread.join()
