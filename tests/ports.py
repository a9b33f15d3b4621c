"""Free ports for servers under test."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket

FIRST, LAST = 10_000, 16_000  # below what outgoing sockets are given, by the kernel and by our own forwarding

# Processes that run tests beside each other (pytest-xdist) have every nth port each.
_COUNT = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OURS = range(FIRST + _NUMBER, LAST, _COUNT)

# Each port once before any is given again: one that was given may not be bound yet, and two servers must not get the same.
_ports = itertools.cycle(random.sample(_OURS, len(_OURS)))


def free_port(host: str = "127.0.0.1") -> int:
    """A port of loopback that is free for UDP and TCP now, that no outgoing socket will take and nobody was given lately."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in itertools.islice(_ports, len(_OURS)):
        with socket.socket(family, socket.SOCK_STREAM) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            with contextlib.suppress(OSError):
                tcp.bind((host, port))
                udp.bind((host, port))
                return port
    raise OSError(f"no free port from {FIRST} to {LAST}")
