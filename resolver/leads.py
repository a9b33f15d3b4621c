"""What an upstream's answer leads to, for `tampah explain`: asked for, made up, or read out of a message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import dns.message
import dns.name
import dns.rdatatype
import dns.rrset

from resolver.config.addresses import Address, Server, as_address
from resolver.config.model import Config
from resolver.fetch.lookup import Lookup, LookupFailed
from resolver.lists.names import normalise

PATIENCE = 15.0  # seconds, however many servers there are
_T = dns.rdatatype.RdataType
NOBODYS_NAME = "address.tampah.example"  # stands for whoever has an address that alone is told (RFC 6761 section 6.5)


class Leads(NamedTuple):
    """Where an answer leads: aliases and service targets in their order, and addresses; and its name servers."""

    steps: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()

    def message(self, query: dns.message.Message) -> dns.message.Message:
        """An answer that leads there: one alias after the other, all addresses for the last; and name servers."""
        made = dns.message.make_response(query, recursion_available=True)
        owner = query.question[0].name
        for step in self.steps:
            if (address := as_address(step)) is not None:
                made.answer.append(_addressed(owner, address))
                continue
            target = f"{as_name(step)}."
            made.answer.append(dns.rrset.from_text(owner, 60, "IN", "CNAME", target))
            owner = dns.name.from_text(target)
        server = f"{NOBODYS_NAME}."
        for step in self.servers:
            address = as_address(step)
            if address is None:
                server = f"{as_name(step)}."
            if address is None or not made.authority:
                made.authority.append(dns.rrset.from_text(owner, 60, "IN", "NS", server))
            if address is not None:
                made.additional.append(_addressed(dns.name.from_text(server), address))
        return made


def leads_of(message: dns.message.Message) -> Leads:
    """Where an upstream's answer leads."""
    steps = [step for rrset in message.answer for item in rrset for step in _steps(rrset.rdtype, item)]
    named = list(dict.fromkeys(item.target for rrset in message.authority if rrset.rdtype == _T.NS for item in rrset))
    servers = [_text(name) for name in named]
    servers += [
        item.address
        for rrset in message.additional
        if rrset.name in named and rrset.rdtype in (_T.A, _T.AAAA)
        for item in rrset
    ]
    return Leads(tuple(dict.fromkeys(steps)), tuple(dict.fromkeys(servers)))


def ask(config: Config, name: str, rdtype: dns.rdatatype.RdataType, own: Sequence[Server]) -> dns.message.Message:
    """What upstream says to a question (`own`: a group's servers); ValueError if nobody answers within PATIENCE."""
    try:
        return asyncio.run(asyncio.wait_for(Lookup(config).answer(name, rdtype, own), PATIENCE))
    except TimeoutError:
        raise ValueError(f"{name}: upstream: no answer within {PATIENCE:g} s") from None
    except LookupFailed as error:
        raise ValueError(f"{name}: {error}") from None


def as_name(text: str) -> str:
    """A name as the index has it, the root as the empty one; ValueError says why it is none."""
    return "" if text == "." else normalise(text, allow_tld=True)


def _addressed(owner: dns.name.Name, address: Address) -> dns.rrset.RRset:
    return dns.rrset.from_text(owner, 60, "IN", "AAAA" if address.version == 6 else "A", str(address))


def _steps(rdtype: dns.rdatatype.RdataType, item: Any) -> Iterator[str]:
    """Names and addresses that a record leads to."""
    match rdtype:
        case _T.A | _T.AAAA:
            yield item.address
        case _T.CNAME | _T.DNAME:
            yield _text(item.target)
        case _T.SVCB | _T.HTTPS:
            if item.target != dns.name.root:
                yield _text(item.target)
            for hint in (4, 6):  # ipv4hint, ipv6hint (RFC 9460 section 7.3)
                if hint in item.params:
                    yield from item.params[hint].addresses


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
