"""The certificate of the encrypted listeners: read, held against its key, followed, and shown by every worker.

The files belong to root as a rule, and are renewed while the server runs as somebody else. So before the supervisor gives
up root it forks a `Reader`'s process, which keeps it, knows these two paths and does nothing but read them when asked; it
ends with the supervisor. Where no privilege is given up the supervisor reads them itself.

What is read is tried before a worker hears of it. A pair that is broken, does not fit or has expired changes nothing: the
one in force stays, the log says why and a metric counts it. A renewal replaces two files, so they are read once both have
stood still for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resolver import spawn
from resolver.facts import Facts

LOOK = 2.0  # seconds between looks at the files
SETTLE = 1.0  # seconds in which neither may change before they are read
PATIENCE = 5.0  # seconds for the reader's process to answer
MAX_FILE = 1 << 20  # octets
_LENGTH = struct.Struct(">I")
_NAMES = ("chain", "key")

_log = logging.getLogger(__name__)

_State = list[list[int] | None]  # of each file: mtime in ns, size, inode; None: it is not there


class CertificateError(ValueError):
    """The certificate cannot be shown; the text names key, path and reason."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with those that vouch for it, and its key: PEM text. `begins`, `expires`: seconds since the epoch.
    `algorithm`: the key's, a word."""

    chain: str
    key: str
    begins: float
    expires: float
    algorithm: str

    def fault(self, path: Path, now: float) -> str:
        """Why clients would not believe it now: "" if nothing is wrong with its time."""
        if now >= self.expires:
            return f"listen.certificate.chain: {path}: expired on {_day(self.expires)}; clients refuse it. Renew it"
        if now < self.begins:
            return (
                f"listen.certificate.chain: {path}: not valid before {_day(self.begins)}; clients refuse it until then"
            )
        return ""


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


class Reader:
    """Reads the two files, as who this process was when the reader was made, if `stays`."""

    def __init__(self, chain: Path, key: Path, *, stays: bool = False) -> None:
        self.paths = (chain, key)
        self._ours: socket.socket | None = None
        self._asking = threading.Lock()  # a look and a reload ask from different threads
        if stays:
            self._ours, theirs = socket.socketpair()
            self._ours.settimeout(PATIENCE)
            with theirs:
                self._process = spawn.fork(lambda: _serve(theirs, self.paths), [theirs.fileno()])

    def close(self) -> None:
        """End the process, if there is one."""
        if self._ours is not None:
            self._ours.close()
            self._ours = None
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            _ = self._process.returncode  # it is no zombie then

    def state(self) -> _State:
        """What the files look like: differs once one has changed."""
        found = self._ask(b"s")["state"]
        assert isinstance(found, list)
        return found

    def read(self) -> Pair:
        """The pair as it is in the files. CertificateError says what is wrong with it, its time apart."""
        found = self._ask(b"r")
        if "error" in found:
            raise CertificateError(found["error"])
        return examine(found["chain"], found["key"], self.paths)

    def _ask(self, what: bytes) -> dict[str, Any]:
        if self._ours is None:
            return _answer(what, self.paths)
        ours = self._ours
        with self._asking:
            try:
                ours.sendall(what)
                body = json.loads(_exactly(ours, _LENGTH.unpack(_exactly(ours, _LENGTH.size))[0]))
            except (OSError, EOFError, ValueError) as error:
                ours.close()  # for good: a late answer would be taken for the next one's
                raise CertificateError(f"listen.certificate: the process that reads it is gone ({error})") from None
        assert isinstance(body, dict)
        return body


def _serve(asked: socket.socket, paths: tuple[Path, Path]) -> None:
    """The reader's process: answers until the other end is gone."""
    for number in (signal.SIGINT, signal.SIGHUP):  # the supervisor's: a terminal sends them to both
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(ConnectionError):  # it did not wait for the answer
        while what := asked.recv(1):
            body = json.dumps(_answer(what, paths)).encode()
            asked.sendall(_LENGTH.pack(len(body)) + body)


def _answer(what: bytes, paths: tuple[Path, Path]) -> dict[str, Any]:
    if what == b"s":
        return {"state": [_stat(path) for path in paths]}
    found = {}
    for name, path in zip(_NAMES, paths, strict=True):
        try:
            with path.open("rb") as file:
                octets = file.read(MAX_FILE + 1)
        except OSError as error:
            return {"error": f"listen.certificate.{name}: {path}: {error.strerror or error}"}
        if len(octets) > MAX_FILE:
            return {"error": f"listen.certificate.{name}: {path}: larger than {MAX_FILE} octets"}
        found[name] = octets.decode("latin-1")
    return found


def _stat(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_mtime_ns, stat.st_size, stat.st_ino]


def _exactly(source: socket.socket, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        more = source.recv(count - len(octets))
        if not more:
            raise EOFError("closed")
        octets += more
    return octets


def examine(chain: str, key: str, paths: tuple[Path, Path]) -> Pair:
    """A pair from PEM text, found fit to be shown. CertificateError says what is wrong with it, its time apart."""
    from cryptography import x509  # here: only servers with encrypted listeners need it
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    where = [f"listen.certificate.{name}: {path}" for name, path in zip(_NAMES, paths, strict=True)]
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode("latin-1"))
        first = certificates[0]
        public = [
            each.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            for each in certificates
        ]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{where[0]}: no certificate in PEM form: {_first_line(error)}") from None
    try:
        private = serialization.load_pem_private_key(key.encode("latin-1"), None)
    except TypeError:
        raise CertificateError(f"{where[1]}: the key is encrypted; store it without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{where[1]}: no private key in PEM form: {_first_line(error)}") from None
    own = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if own not in public:
        raise CertificateError(f"{where[1]}: does not belong to the certificate in {paths[0]}")
    if own != public[0]:
        raise CertificateError(
            f"{where[0]}: the server's own certificate must stand first, those that vouch for it after"
        )
    from resolver.listeners import tls

    try:
        tls.show(tls.make_context(), chain, key)
    except OSError as error:  # ssl.SSLError is one: a key too short, say
        raise CertificateError(f"{where[0]}: TLS does not take it: {_first_line(error)}") from None
    begins, expires = (moment.timestamp() for moment in (first.not_valid_before_utc, first.not_valid_after_utc))
    return Pair(chain, key, begins, expires, type(private).__name__)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


class Keeper:
    """Keeps the workers on the newest good pair. `show` has every worker show one."""

    def __init__(self, reader: Reader, facts: Facts, show: Callable[[Pair], Awaitable[None]]) -> None:
        """Read the first pair; CertificateError if there is none that fits."""
        self._reader = reader
        self._facts = facts
        self._show = show
        self._known = reader.state()
        self.pair = reader.read()
        self._running = asyncio.Lock()
        self._fault = ""  # of the pair in the files, if it was not taken
        self._facts.certificate_expiry = self.pair.expires
        if fault := self.pair.fault(reader.paths[0], time.time()):
            _log.warning("%s", fault)

    async def follow(self) -> None:
        """Show what the files become; ends only by cancellation."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                before = await asyncio.to_thread(self._reader.state)
                if before == self._known:
                    continue
                await asyncio.sleep(SETTLE)
                if await asyncio.to_thread(self._reader.state) == before:
                    await self.renew()
            except CertificateError as error:  # the reader is gone: nothing will change any more
                _log.error("%s; a renewed certificate needs a restart", error)
                return

    async def renew(self) -> str:
        """Show the files' pair now if they have changed; "" or why the old one stays, which is logged and counted once."""
        async with self._running:
            state = self._known
            try:
                state = await asyncio.to_thread(self._reader.state)
                if state == self._known:
                    return self._fault
                pair = await asyncio.to_thread(self._reader.read)
                self._known, self._fault = state, ""
                if fault := pair.fault(self._reader.paths[0], time.time()):
                    raise CertificateError(fault)
                if pair == self.pair:
                    return ""
                await self._show(pair)
            except (ValueError, RuntimeError) as error:
                self._known, self._fault = state, str(error)
                self._facts.certificate_failures += 1
                _log.error("certificate not renewed, the old one stays: %s", error)
                return self._fault
            self.pair = pair
            self._facts.certificate_expiry = pair.expires
            self._facts.certificate_renewals += 1
            _log.info("certificate renewed: valid until %s", _day(pair.expires))
            return ""
