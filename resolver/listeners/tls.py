"""TLS for the stream listeners: who may connect how, and the layer between a connection's octets and its text.

A context is made before the workers are forked, so that they share the keys of session tickets: a client resumes its
session with whichever worker takes its connection. A renewed certificate goes into the context that there is, and tickets
stay good; only where the new key is of another algorithm (OpenSSL would show the old certificate beside it) is a context
made anew, and then, as in a worker that was started again, older tickets lead to a full handshake and nothing else.
"""

from __future__ import annotations

import os
import ssl


def make_context() -> ssl.SSLContext:
    """A server's context without a certificate yet: TLS 1.2 and later (RFC 8310 section 8, RFC 9325)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    return context


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
