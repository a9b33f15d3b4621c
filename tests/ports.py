"""Free ports for servers under test."""

from __future__ import annotations

import contextlib
import random
import socket

FIRST, LAST = 10_000, 16_000  # below what outgoing sockets are given, by the kernel and by our own forwarding


def free_port(host: str = "127.0.0.1") -> int:
    """A port of loopback that is free for UDP and TCP now, and that no outgoing socket will take."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.sample(range(FIRST, LAST), 1_000):
        with socket.socket(family, socket.SOCK_STREAM) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            with contextlib.suppress(OSError):
                tcp.bind((host, port))
                udp.bind((host, port))
                return port
    raise OSError(f"no free port from {FIRST} to {LAST}")
