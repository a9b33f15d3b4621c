"""Free ports for servers under test."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket

FIRST, LAST = 10_000, 16_000  # below what outgoing sockets are given, by the kernel and by our own forwarding

# Each port once before any is given again: one that was given may not be bound yet, and two servers must not get the same.
_ports = itertools.cycle(random.sample(range(FIRST, LAST), LAST - FIRST))


def free_port(host: str = "127.0.0.1") -> int:
    """A port of loopback that is free for UDP and TCP now, that no outgoing socket will take and nobody was given lately."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in itertools.islice(_ports, LAST - FIRST):
        with socket.socket(family, socket.SOCK_STREAM) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            with contextlib.suppress(OSError):
                tcp.bind((host, port))
                udp.bind((host, port))
                return port
    raise OSError(f"no free port from {FIRST} to {LAST}")
