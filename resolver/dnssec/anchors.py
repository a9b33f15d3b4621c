"""Trust anchors: where trust begins, and where the operator says that it ends.

An anchor is a zone with DS or DNSKEY records that are known beforehand. Built in are the root's (trust.py). A file takes
their place: master file lines of DS and DNSKEY records, as `dnssec-keygen`, `dnssec-dsfromkey` and `unbound-anchor` write
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.zonefile

MOST = 100  # records in a file

Anchors = Mapping[dns.name.Name, tuple[dns.rdata.Rdata, ...]]


def read(path: Path) -> tuple[str, ...]:
    """The records of a file, a line each in the form that `parse` takes. OSError; ValueError says what is wrong."""
    anchors = parse(path.read_text(encoding="ascii", errors="replace").splitlines())
    return tuple(f"{zone} IN {rdata.rdtype.name} {rdata}" for zone, found in anchors.items() for rdata in found)


def parse(lines: Iterable[str]) -> Anchors:
    """The anchors in master file lines. ValueError says what is wrong: no line, another type, no master file."""
    try:
        rrsets = dns.zonefile.read_rrsets(
            "".join(f"{line}\n" for line in lines), rdclass=None, default_rdclass=dns.rdataclass.IN, default_ttl=0
        )
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"expected DS and DNSKEY records, a line each: {error}") from None
    found: dict[dns.name.Name, tuple[dns.rdata.Rdata, ...]] = {}
    for rrset in rrsets:
        if rrset.rdclass != dns.rdataclass.IN or rrset.rdtype not in (dns.rdatatype.DS, dns.rdatatype.DNSKEY):
            raise ValueError(f"expected DS and DNSKEY records, not {rrset.rdtype.name} of {rrset.name}")
        found[rrset.name] = (*found.get(rrset.name, ()), *rrset)
    if not 0 < sum(map(len, found.values())) <= MOST:
        raise ValueError(f"expected DS and DNSKEY records, from 1 to {MOST}")
    return found


def negative(names: Iterable[str]) -> frozenset[dns.name.Name]:
    """Names below which nothing is checked (RFC 7646). ValueError for what is no name."""
    try:
        return frozenset(dns.name.from_text(name) for name in names)
    except dns.exception.DNSException as error:
        raise ValueError(str(error)) from None
