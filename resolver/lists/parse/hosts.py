"""Hosts files: an address and the names that it is given to. Each name is blocked, exactly, whatever the address;
where the list says `rewrite: yes`, one with the address of another machine is answered with that address instead.

The names by which every system's hosts file calls the machine itself are left out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace

from resolver.lists.names import normalise
from resolver.lists.parse.base import (
    BLOCK,
    Dialect,
    Emit,
    ListReport,
    Options,
    Several,
    address_outcome,
    is_address,
    without_comment,
)
from resolver.lists.rules import BadLine, Outcome, Template
from resolver.vocabulary import Action, Scope

_SINKS = frozenset({"0.0.0.0", "127.0.0.1", "::", "::1", "0"})  # nearly all lines; "0" is inet_aton's
_PREFIXES = (b"0.0.0.0 ", b"127.0.0.1 ", b"0.0.0.0\t", b"127.0.0.1\t", b":: ", b"::1 ")
_LOCAL = frozenset(
    {"localhost", "localhost.localdomain", "localhost4", "localhost4.localdomain4", "localhost6"}
    | {"localhost6.localdomain6", "local", "broadcasthost", "0.0.0.0", "127.0.0.1", "::1"}
)


class Hosts(Dialect):
    """`ADDRESS NAME [ALIAS…]`."""

    name = "hosts"

    def __init__(self, options: Options, report: ListReport, emit: Emit, says: Outcome = BLOCK) -> None:
        super().__init__(options, report, emit)
        self._says = says
        self._rewrites: dict[str, tuple[int, list[str]]] = {}  # name: the first line, its addresses' records
        self._scope = Scope.BOTH if options.subdomains == "yes" else Scope.SELF
        self._own = options.own_names
        self._own_dotted = [name.encode() for name in self._own if "." in name]
        self._templates = tuple(Template(prefix, b"", self._scope, says) for prefix in _PREFIXES)

    def templates(self, chunk: bytes) -> Sequence[Template]:
        """Every line stands for itself, but a template cannot know this machine's own name."""
        if self._own_dotted:
            lowered = chunk.lower()
            if any(name in lowered for name in self._own_dotted):
                return ()
        return self._templates

    def feed(self, line: int, text: str) -> None:
        """Read one line."""
        body = without_comment(text)
        if not body:
            self.report.comments += 1
        else:
            self.take(line, body)

    def take(self, line: int, body: str) -> None:
        """Take a line that has no comment."""
        address, *names = body.split()
        if address not in _SINKS and not is_address(address):
            raise BadLine("no address at the start, as a line of a hosts file has")
        if not names:
            raise BadLine("an address without a name")
        refused = Several()
        for name in names:
            if is_local(name.lower().removesuffix("."), self._own):
                self.report.skipped += 1
                continue
            try:
                self._give(normalise(name), address, line)
            except BadLine as error:
                refused.add(name, error)
        refused.check()

    def _give(self, name: str, address: str, line: int) -> None:
        if not self.options.rewrite or address in _SINKS or not is_routable(address):
            self.emit(name, self._scope, self._says, line)
            return
        _, records = self._rewrites.setdefault(name, (line, []))
        for record in address_outcome(address).data:
            if record not in records:
                records.append(record)

    def finish(self) -> None:
        """Emit the names with addresses of their own, each with all that its lines gave it."""
        for name, (line, records) in self._rewrites.items():
            outcome = replace(self._says, action=Action.DATA, data=tuple(records))
            self.emit(name, self._scope, outcome, line)
        self._rewrites.clear()


def is_local(name: str, own_names: frozenset[str]) -> bool:
    """Whether a name is one by which a machine calls itself."""
    return name in _LOCAL or name in own_names or (name.startswith("ip6-") and "." not in name)


def is_routable(text: str) -> bool:
    """Whether an address leads to another machine."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return not (address.is_unspecified or address.is_loopback or address.is_multicast or text == "255.255.255.255")
