"""The config's `records`: resource records in the form of a zone file (RFC 1035 section 5.1), a line each."""

from __future__ import annotations

from typing import NamedTuple

from resolver.config import addresses

DEFAULT_TTL = 60  # seconds
MAX_DATA = 4096  # octets of one record's data
_META = frozenset({"OPT", "TSIG", "TKEY", "ANY", "AXFR", "IXFR", "MAILA", "MAILB", "RRSIG", "NSEC", "NSEC3", "TYPE0"})


class LocalRecord(NamedTuple):
    """A record: `owner` without the final dot, `*.` before it for what is below; TTL in seconds; data in zone file form."""

    owner: str
    ttl: int
    type: str
    data: str


def parse_record(text: object) -> LocalRecord:
    """The record of a line; names end where they end, with a final dot or without. ValueError says what was expected."""
    import dns.exception  # only where the config has records: it takes time to load
    import dns.name
    import dns.rdataclass
    import dns.rdatatype
    import dns.zonefile

    expected = "expected a record such as nas.lan. 300 IN MX 10 mail.lan."
    if not isinstance(text, str) or "\n" in text or text.lstrip().startswith("$"):
        raise ValueError(expected)
    try:
        found = dns.zonefile.read_rrsets(
            text.strip(), origin=dns.name.root, relativize=False, rdclass=None, default_ttl=DEFAULT_TTL
        )
    except (dns.exception.DNSException, ValueError) as error:
        said = str(error).removeprefix("<input>:1: ")
        raise ValueError(f"{expected}: {said}" if said else expected) from None
    if len(found) != 1 or len(found[0]) != 1 or found[0].rdclass != dns.rdataclass.IN:
        raise ValueError(expected)
    [rrset] = found
    rtype = dns.rdatatype.to_text(rrset.rdtype)
    if rtype in _META or dns.rdatatype.is_metatype(rrset.rdtype):
        raise ValueError(f"expected a type that a name can have, not {rtype}")
    if len(rrset[0].to_wire() or b"") > MAX_DATA:
        raise ValueError(f"expected at most {MAX_DATA} octets of data")
    owner = rrset.name.to_text(omit_final_dot=True).lower()
    addresses.parse_pattern(owner)
    return LocalRecord(owner, rrset.ttl, rtype, rrset[0].to_text(origin=None, relativize=False))


def check_record(text: object) -> str:
    """The line as it is, if it is a record; ValueError as parse_record."""
    parse_record(text)
    assert isinstance(text, str)
    return text.strip()
