"""Asks an engine, and answers it as an upstream would; what tests of inspection have in common."""

from __future__ import annotations

from typing import Protocol

import dns.message
import dns.rrset

from resolver.engine.engine import DROP, PUNT, REPLY, Engine
from resolver.vocabulary import Transport
from tests.unit.engine.world import client


class HasEngine(Protocol):
    """A World, or anything else with an engine."""

    engine: Engine


def answered(
    world: HasEngine,
    name: str,
    qtype: str = "A",
    *records: str,
    authority: tuple[str, ...] = (),
    additional: tuple[str, ...] = (),
    address: str = "127.0.0.1",
    do: bool = False,
    rd: bool = True,
    transport: Transport = Transport.TCP,
) -> dns.message.Message | None:
    """What a client gets where the upstream says this, and it is not kept; None: nothing."""
    query = dns.message.make_query(name, qtype, use_edns=0, want_dnssec=do, flags=0x100 if rd else 0)
    verdict, reply = world.engine.answer(query.to_wire(), client(address), transport)
    if verdict == PUNT:
        [punt] = world.engine.take_punts()
        upstream = dns.message.make_response(query, recursion_available=True)
        sections = ((upstream.answer, records), (upstream.authority, authority), (upstream.additional, additional))
        for section, lines in sections:
            for owner, ttl, _, kind, data in (line.split(None, 4) for line in lines):
                section.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
        wire = upstream.to_wire()
        world.engine.learn(punt, wire)
        verdict, reply = world.engine.finish(punt, wire)
    if verdict == DROP:
        return None
    assert verdict == REPLY and reply is not None
    return dns.message.from_wire(reply)


def says(message: dns.message.Message | None) -> str:
    """An answer in a word: its rcode if that is none, else its addresses."""
    if message is None:
        return "drop"
    if message.rcode():
        return {3: "nxdomain", 5: "refused"}[message.rcode()]
    return " ".join(item.to_text() for rrset in message.answer for item in rrset) or "nodata"
