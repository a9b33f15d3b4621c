"""TLS for the stream listeners: who may connect how, and the layer between a connection's octets and its text.

A context is made before the workers are forked, so that they share the keys of session tickets: a client resumes its
session with whichever worker takes its connection. A renewed certificate goes into the context that there is, and tickets
stay good; only where the new key is of another algorithm (OpenSSL would show the old certificate beside it) is a context
made anew, and then, as in a worker that was started again, older tickets lead to a full handshake and nothing else.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

RECORD = 16384  # octets of text in one record at most (RFC 8446 section 5.1)
# What is offered by ALPN on the sockets of each kind (RFC 7858 section 3.1, RFC 9113 section 3.1). A client that wants
# none of these, or does not ask, is served all the same.
PROTOCOLS = {"tls": ("dot",), "https": ("h2", "http/1.1")}


def make_context(protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """A server's context without a certificate yet: TLS 1.2 and later (RFC 8310 section 8, RFC 9325)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


class Contexts:
    """The contexts of a worker by kind of socket, and the certificate that all show."""

    def __init__(self) -> None:
        self._contexts = {kind: make_context(protocols) for kind, protocols in PROTOCOLS.items()}
        self._algorithm = ""

    def of(self, kind: str) -> ssl.SSLContext:
        """The context for a new connection."""
        return self._contexts[kind]

    def show(self, chain: str, key: str, algorithm: str) -> None:
        """Show this certificate from the next handshake on. OSError if that cannot be; then nothing has changed."""
        show(make_context(), chain, key)
        if self._algorithm not in ("", algorithm):
            self._contexts = {kind: make_context(protocols) for kind, protocols in PROTOCOLS.items()}
        for context in self._contexts.values():
            show(context, chain, key)
        self._algorithm = algorithm


def show(context: ssl.SSLContext, chain: str, key: str) -> None:
    """Have a context show a certificate from the next handshake on. OSError if it cannot.

    The key reaches OpenSSL by way of memory, as Python hands it files only.
    """
    fd = os.memfd_create("tampah-certificate")
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(f"{chain}\n{key}\n".encode("latin-1"))
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


class Tls:
    """The layer of one connection, a server's: octets in, text out, and back. No I/O happens here."""

    __slots__ = ("_in", "_object", "_out", "is_closed")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=True)
        self.is_closed = False  # the client will send no more

    @property
    def alpn(self) -> str:
        """The protocol that was agreed on; empty: none."""
        return self._object.selected_alpn_protocol() or ""

    @property
    def has_out(self) -> bool:
        """Whether `take` has something."""
        return self._out.pending > 0

    def take(self) -> bytes:
        """What is to be sent."""
        return self._out.read()

    def shake(self, octets: bytes) -> bool:
        """Go on with the handshake: whether it is done. ssl.SSLError if it cannot be; `take` has the alert then."""
        self._in.write(octets)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def read(self, octets: bytes) -> bytes:
        """The text of what has come in. ssl.SSLError if it is none."""
        incoming, source = self._in, self._object
        if self.is_closed:  # what follows would pile up unread
            return b""
        incoming.write(octets)
        text = b""
        while incoming.pending or source.pending():  # so that an exception for nothing to read is rare
            try:
                more = source.read(RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                more = b""
            if not more:
                self.is_closed = True
                break
            text = text + more if text else more
        return text

    def write(self, text: bytes) -> bytes:
        """What to send for a text."""
        sent = self._object.write(text)
        while sent < len(text):  # a record holds 16 KiB
            sent += self._object.write(memoryview(text)[sent:])
        return self._out.read()

    def close(self) -> bytes:
        """What to send at the end (RFC 8446 section 6.1)."""
        try:
            self._object.unwrap()
        except (ssl.SSLError, OSError):
            pass  # the peer has not closed, or is at odds with us
        return self._out.read()
