"""Asks a server very many names over UDP, and servers to compare it with: real ones."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

WINDOW = 256  # queries under way
QUESTION = struct.Struct(">HH")


class Reply(NamedTuple):
    """What a test compares: the rcode, and each answer record's type and data."""

    rcode: int
    answers: tuple[tuple[int, bytes], ...]


def wire_name(name: str) -> bytes:
    """A name in wire form."""
    return b"".join(bytes([len(label)]) + label for label in name.encode().split(b".")) + b"\0"


def ask_all(port: int, names: Sequence[str], qtype: int = 1, host: str = "127.0.0.1") -> list[Reply]:
    """The replies to all names, in their order. AssertionError if one stays away or answers another question."""
    replies: list[Reply | None] = [None] * len(names)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, selectors.DefaultSelector() as selector:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.connect((host, port))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
        waiting: dict[int, tuple[int, bytes]] = {}
        sent, done, progress = 0, 0, time.monotonic()
        while done < len(names):
            while sent < len(names) and len(waiting) < WINDOW:
                question = wire_name(names[sent]) + QUESTION.pack(qtype, 1)
                number = sent & 0xFFFF
                if number in waiting:
                    break
                sock.send(struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + question)
                waiting[number] = (sent, question)
                sent += 1
            if not selector.select(1.0):
                assert time.monotonic() - progress < 5, f"no answer to {[names[at] for at, _ in waiting.values()][:5]}"
                continue
            with contextlib.suppress(BlockingIOError):
                while True:
                    message = sock.recv(4096)
                    at, question = waiting.pop(QUESTION.unpack_from(message)[0])
                    assert message[12 : 12 + len(question)] == question, names[at]
                    replies[at] = _read(message, 12 + len(question))
                    done, progress = done + 1, time.monotonic()
    return [reply for reply in replies if reply is not None]


def _read(message: bytes, offset: int) -> Reply:
    answers = []
    for _ in range(int.from_bytes(message[6:8], "big")):
        while message[offset] and message[offset] < 0xC0:
            offset += message[offset] + 1
        offset += 2 if message[offset] else 1
        rtype, length = struct.unpack_from(">H6xH", message, offset)
        answers.append((rtype, message[offset + 10 : offset + 10 + length]))
        offset += 10 + length
    return Reply(message[3] & 0xF, tuple(sorted(answers)))


@contextlib.contextmanager
def nsd(folder: Path, port: int, records: Sequence[str]) -> Iterator[None]:
    """A real nsd that serves the root zone with these records (zone file lines)."""
    folder.mkdir()
    (folder / "root.zone").write_text(
        "$ORIGIN .\n$TTL 3600\n@ IN SOA a. b. 1 3600 600 86400 300\n@ IN NS a.\na. IN A 127.0.0.1\n"
        + "".join(f"{line}\n" for line in records)
    )
    (folder / "nsd.conf").write_text(
        f"""server:
  ip-address: 127.0.0.1@{port}
  zonesdir: "{folder}"
  database: ""
  pidfile: "{folder}/nsd.pid"
  xfrdfile: "{folder}/xfrd"
  xfrdir: "{folder}"
  zonelistfile: "{folder}/zones"
  logfile: "{folder}/log"
  username: ""
  server-count: 1
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "root.zone"
"""
    )
    process = subprocess.Popen(["nsd", "-d", "-c", str(folder / "nsd.conf")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(AssertionError, OSError):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.settimeout(0.1)
                    probe.connect(("127.0.0.1", port))
                    probe.send(struct.pack(">HHHHHH", 1, 0, 1, 0, 0, 0) + b"\0" + QUESTION.pack(6, 1))
                    probe.recv(512)
                    break
            assert process.poll() is None, "nsd ended"
            time.sleep(0.05)
        else:
            raise AssertionError("nsd does not answer")
        yield
    finally:
        process.terminate()
        process.wait(10)
