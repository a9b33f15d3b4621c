"""Two network namespaces and a wire between them: a client's and a router's, the latter with the server under test.

    with Wire() as wire:
        wire.router("iptables", "-t", "mangle", …)
        wire.client("dig", "@192.0.2.53", …)

They are made with `ip netns`, have names of their own, reach nothing else and are gone at the end. The client is 10.98.0.2
and fd98::2, the router 10.98.0.1 and fd98::1; everything that is not the client's own goes to the router.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from types import TracebackType

CLIENT4, ROUTER4, CLIENT6, ROUTER6 = "10.98.0.2", "10.98.0.1", "fd98::2", "fd98::1"


def why_not() -> str:
    """Why there can be no namespaces here; "" if there can."""
    if os.geteuid():
        return "needs root for network namespaces"
    done = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    return f"no network namespaces here: {done.stderr.strip()}" if done.returncode else ""


class Wire:
    """See the module."""

    def __init__(self) -> None:
        self._names = [f"tampah-{os.getpid()}-{end}" for end in ("c", "r")]

    def __enter__(self) -> Wire:
        try:
            for name in self._names:
                _run(["ip", "netns", "add", name])
            one, other = (f"tp{os.getpid() % 100_000}{end}" for end in "cr")
            _run(
                [
                    "ip",
                    "link",
                    "add",
                    one,
                    "netns",
                    self._names[0],
                    "type",
                    "veth",
                    "peer",
                    other,
                    "netns",
                    self._names[1],
                ]
            )
            for name, link, own4, own6 in (
                (self._names[0], one, CLIENT4, CLIENT6),
                (self._names[1], other, ROUTER4, ROUTER6),
            ):
                for command in (
                    ["link", "set", "lo", "up"],
                    ["link", "set", link, "up"],
                    ["addr", "add", f"{own4}/24", "dev", link],
                    ["addr", "add", f"{own6}/64", "dev", link, "nodad"],
                ):
                    _run(["ip", "-n", name, *command])
            for gateway in (ROUTER4, ROUTER6):
                family = "-6" if ":" in gateway else "-4"
                _run(["ip", "-n", self._names[0], family, "route", "add", "default", "via", gateway])
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    @property
    def at_router(self) -> list[str]:
        """What makes a command run at the router's end."""
        return ["ip", "netns", "exec", self._names[1]]

    def router(self, *command: str) -> str:
        """Run a command at the router's end; what it prints."""
        return _run([*self.at_router, *command])

    def client(self, *command: str) -> str:
        """Run a command at the client's end; what it prints."""
        return _run(["ip", "netns", "exec", self._names[0], *command])


class WireError(Exception):
    """A command that failed, with what it said."""


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise WireError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
    return done.stdout
