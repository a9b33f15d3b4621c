"""TLS to upstream servers (RFC 8310 section 5, strict): sans-IO, over memory buffers.

The certificate must be from an authority that the system or `upstream.ca` trusts, be valid now and be for the server's
name or address; a server that cannot prove that gets no query. asyncio's own TLS cannot resume a session, hence this.

Resumption (RFC 8446 section 2.2): the session of the last connection to a server is offered to the next one. No early data,
which could be replayed. What a resumed session saves is the certificate; it was verified when the session was made, and
`forget_sessions` is called when what is trusted changes.
"""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from resolver.upstream.carrier import Fault
from resolver.upstream.server import Server

_READ: Final = 1 << 16
# OpenSSL's X509_V_ERR_…
_NOT_YET_VALID, _EXPIRED, _WRONG_NAMES = (9,), (10,), (62, 63, 64)


class TlsError(Exception):
    """A connection cannot be trusted, or has broken."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


def fault_of(error: ssl.SSLError) -> Fault:
    """What went wrong, for users."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return Fault.HANDSHAKE
    if error.verify_code in _EXPIRED:
        return Fault.EXPIRED
    if error.verify_code in _NOT_YET_VALID:
        return Fault.NOT_YET_VALID
    return Fault.WRONG_NAME if error.verify_code in _WRONG_NAMES else Fault.UNTRUSTED


class Trust:
    """Whom to believe, and the sessions to resume. `alpn`: the protocol to offer."""

    def __init__(self, authorities: Path | None, alpn: str) -> None:
        self._alpn = alpn
        self._authorities: Path | None = None
        self._state: object = None
        self._context: ssl.SSLContext
        self._sessions: dict[Server, ssl.SSLSession] = {}
        self.renew(authorities)

    def renew(self, authorities: Path | None) -> None:
        """Follow the file of authorities; one that cannot be read leaves the system's alone (the config was checked)."""
        state: object = (authorities, _stamp(authorities))
        if state == self._state:
            return
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8310 section 9.2
        context.set_alpn_protocols([self._alpn])
        if authorities is not None:
            try:
                context.load_verify_locations(authorities)
            except (OSError, ssl.SSLError):
                state = None  # to be looked at again
        self._context, self._state = context, state
        self._sessions.clear()

    def connect(self, server: Server) -> Tls:
        """A new connection's end, before its first octet."""
        return Tls(self._context, server.certificate, self._sessions.get(server), self._alpn)

    def remember(self, server: Server, session: ssl.SSLSession | None) -> None:
        """Resume this session the next time; None: none."""
        if session is None:
            self._sessions.pop(server, None)
        else:
            self._sessions[server] = session


def _stamp(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns) if found is not None else None


class Tls:
    """One connection: octets from the wire in, octets for the wire and plain text out."""

    def __init__(self, context: ssl.SSLContext, name: str, session: ssl.SSLSession | None, alpn: str) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_hostname=_peer(name), session=session)
        self._alpn = alpn
        self.is_open = False
        self.is_closed = False  # the server will say no more (RFC 8446 section 6.1)

    @property
    def session(self) -> ssl.SSLSession | None:
        """What the next connection may resume; under TLS 1.3 it is there once the server has sent something."""
        return self._object.session

    @property
    def is_resumed(self) -> bool:
        """Whether the server took the session that was offered."""
        return bool(self._object.session_reused)

    def start(self) -> None:
        """Say hello."""
        self._handshake()

    def receive(self, data: bytes) -> bytes:
        """The plain text in these octets; TlsError where the connection is over. Look at `take` afterwards."""
        self._in.write(data)
        if not self.is_open and not self._handshake():
            return b""
        found = []
        try:
            while part := self._object.read(_READ):
                found.append(part)
            self.is_closed = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_closed = True
        except ssl.SSLError as error:
            raise TlsError(Fault.RESET, str(error)) from None
        return b"".join(found)

    def send(self, data: bytes) -> bytes:
        """The octets for the wire of this plain text."""
        if data:
            self._object.write(data)
        return self.take()

    def take(self) -> bytes:
        """The octets for the wire, once."""
        return self._out.read()

    def _handshake(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TlsError(fault_of(error), str(error)) from None
        chosen = self._object.selected_alpn_protocol()
        if chosen != self._alpn and (chosen is not None or self._alpn == "h2"):
            raise TlsError(Fault.PROTOCOL, f"the server does not speak {self._alpn}")
        self.is_open = True
        return True


def _peer(name: str) -> str:
    """The name for OpenSSL: an address without its scope."""
    try:
        return str(ip_address(name.partition("%")[0]))
    except ValueError:
        return name
