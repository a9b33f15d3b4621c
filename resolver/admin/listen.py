"""The socket of `admin.listen`, taken before privileges go and long before there is a server for it (app.py)."""

from __future__ import annotations

import socket

from resolver.config.addresses import Endpoint
from resolver.sockets import family_of

BACKLOG = 64  # connections that may wait


class AdminError(Exception):
    """The admin address cannot be served; the text says why."""


def bind(address: Endpoint) -> socket.socket:
    """A socket that listens; AdminError says why there is none."""
    bound = socket.socket(family_of(address), socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.bind((address.host, address.port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise AdminError(
            f"admin.listen: {address}: {error.strerror or error}. Choose another address, or stop what holds it"
        ) from None
    return bound
