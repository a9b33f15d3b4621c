"""Turns a rule's own records from text into the octets of the index's DATA section (the bytes: layout.py)."""

from __future__ import annotations

import struct

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from resolver.lists.layout import NO_TTL, RECORD, RECORDS, RecordsFlag
from resolver.lists.rules import Outcome
from resolver.vocabulary import Action, RRType

_MARKS = {"NXDOMAIN": RecordsFlag.NXDOMAIN, "MAPPED": RecordsFlag.MAPPED}


def encode_records(outcome: Outcome) -> bytes:
    """The records of an outcome with data. ValueError names the text that is no record.

    Action.CNAME: one target; `*.garden.` means that the qname goes before `garden.` (rpz.md 9). Otherwise each item is
    `TYPE RDATA` as in a zone file. Action.LOCAL: `TTL TYPE RDATA`, and the marks NXDOMAIN and MAPPED.
    """
    flags = RecordsFlag.TTLS if outcome.action is Action.LOCAL else RecordsFlag(0)
    records: list[tuple[int, bytes]] = []
    for text in outcome.data:
        try:
            if outcome.action is Action.CNAME:
                target = dns.name.from_text(text)
                if target.is_wild():
                    flags |= RecordsFlag.WILDCARD
                    target = target.parent()
                records.append((RRType.CNAME, target.to_wire() or b""))
            elif outcome.action is Action.LOCAL and text in _MARKS:
                flags |= _MARKS[text]
            else:
                lifetime = b""
                if outcome.action is Action.LOCAL:
                    ttl_text, _, text = text.partition(" ")
                    lifetime = struct.pack(">I", int(ttl_text))
                word, _, rest = text.partition(" ")
                rrtype = dns.rdatatype.from_text(word)
                rdata = dns.rdata.from_text(dns.rdataclass.IN, rrtype, rest, origin=dns.name.root, relativize=False)
                records.append((rrtype, lifetime + (rdata.to_wire() or b"")))
        except (dns.exception.DNSException, ValueError, struct.error) as error:
            raise ValueError(f"not a record: {text!r}: {error}") from error
    ttl = NO_TTL if outcome.ttl is None else outcome.ttl
    octets = RECORDS.pack(ttl, flags, len(records))
    return octets + b"".join(RECORD.pack(rrtype, len(rdata)) + rdata for rrtype, rdata in records)


def encode_soa(zone: str, soa: str) -> tuple[bytes, bytes]:
    """A policy zone's name and its SOA's data in wire form, from text. ValueError if they are none."""
    try:
        rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.SOA, soa, origin=dns.name.root, relativize=False)
        return dns.name.from_text(zone).to_wire() or b"", rdata.to_wire() or b""
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"not an SOA: {soa!r} of {zone!r}: {error}") from error
