"""Files in which dialects are mixed: each line is read by the one whose shape it has.

Zone files take no part: their lines lean on each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from resolver.lists.parse.adblock import Adblock
from resolver.lists.parse.base import PLAIN, Dialect, Emit, ListReport, Options
from resolver.lists.parse.detect import UNKNOWN, shape_of
from resolver.lists.parse.dnsmasq import Dnsmasq
from resolver.lists.parse.domains import Domains
from resolver.lists.parse.hosts import Hosts
from resolver.lists.parse.unbound import Unbound
from resolver.lists.rules import Template


class Mixed(Dialect):
    """Every dialect but RPZ, a line at a time."""

    name = "mixed"

    def __init__(self, options: Options, report: ListReport, emit: Emit) -> None:
        super().__init__(options, report, emit)
        self._plain = Domains(options, report, emit, PLAIN)
        self._readers: dict[str, Dialect] = {Hosts.name: Hosts(options, report, emit, PLAIN)}
        for dialect in (Adblock, Dnsmasq, Unbound):
            self._readers[dialect.name] = dialect(options, report, emit)
        for shape in ("domains", "addresses", "rpz", UNKNOWN):  # addresses between names are the plain reader's too
            self._readers[shape] = self._plain

    def templates(self, chunk: bytes) -> Sequence[Template]:
        """Everybody's: no line fits two templates that differ in what they make of it."""
        templates = list(self._plain.templates(chunk))
        for reader in self._readers.values():
            if reader is not self._plain:
                templates += [template for template in reader.templates(chunk) if template.prefix or template.suffix]
        return templates

    def feed(self, line: int, text: str) -> None:
        """Read one line."""
        shape = shape_of(text)
        if shape is None:
            self.report.comments += 1
        else:
            self._readers[shape].feed(line, text)

    def finish(self) -> None:
        """Let each dialect emit what it gathered."""
        for reader in self._readers.values():
            reader.finish()
