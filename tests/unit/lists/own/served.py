"""A config built as a server builds it, and an engine that serves by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.message
import dns.name
import dns.rcode

from resolver import counters
from resolver.config.model import Config
from resolver.engine.engine import PUNT, PUNT_LOCAL, REPLY, Engine, Index, Punt, Snapshot, SuffixTable
from resolver.lists.compile import build_generation
from resolver.local import Aliases
from resolver.overlay import Entry, words
from resolver.punt import Alias
from resolver.snapshot import Generation, put_in_force, read_policy
from resolver.vocabulary import Transport
from tests.unit.engine.world import CLIENT, client, query


class Served:
    """`settings`: the config as its file has it. Lists: files beside it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.engine = Engine(counters=memoryview(bytearray(counters.SIZE)), cache_bytes=1 << 20)
        self.build(**settings)

    def build(self, **settings: Any) -> Generation:
        """Build a generation and put it in force."""
        self.config = Config.model_validate(settings, context={"file": self.folder / "config.yaml"})
        self.generation = build_generation(self.config)
        put_in_force(self.config.state_path, self.generation.number)
        self.index = Index(str(self.generation.index_path(self.config.state_path)))
        self.policy = read_policy(self.generation.policy_path(self.config.state_path))
        self.engine.swap(Snapshot(self.index, self.policy, self.generation.number))
        return self.generation

    def lay_over(self, name: str, word: int) -> None:
        """What an operator says of a name."""
        self.engine.set_overlay(SuffixTable(words([Entry(name, word, 1.0, 0.0)], 2.0)))

    def ask(self, name: str, rdtype: str = "A", *, by: str = "127.0.0.1", **options: Any) -> dns.message.Message | None:
        """The engine's own answer; None where it needs another question or the upstream."""
        asked = query(name, rdtype, **options)
        verdict, reply = self.engine.answer(asked.to_wire(), client(by), Transport.UDP)
        if verdict == PUNT:
            self.punts = self.engine.take_punts()
            return None
        assert verdict == REPLY and reply is not None
        message = dns.message.from_wire(reply)
        assert asked.is_response(message)
        return message

    def says(self, name: str, rdtype: str = "A", **options: Any) -> list[str]:
        """The answer in short: rcode, where it is none of the usual, and records as `TYPE DATA`; ["upstream"] for none."""
        message = self.ask(name, rdtype, **options)
        if message is None:
            [punt] = self.punts
            alias = self.alias(punt)
            if isinstance(alias, bytes):
                rcode = dns.message.from_wire(alias).rcode()
                return [dns.rcode.to_text(rcode) if rcode else "NODATA"]
            return ["upstream"] if alias is None else [f"CNAME {dns.name.from_wire(alias.target, 0)[0]}"]
        found = [f"{item.rdtype.to_text(item.rdtype)} {item}" for rrset in message.answer for item in rrset]
        return found or [dns.rcode.to_text(message.rcode()) if message.rcode() else "NODATA"]

    def alias(self, punt: Punt) -> Alias | bytes | None:
        """What a punt is an alias of, if that is why it was handed up."""
        return Aliases(self.index, self.policy).describe(punt) if punt.reason == PUNT_LOCAL else None


__all__ = ["CLIENT", "Served"]
