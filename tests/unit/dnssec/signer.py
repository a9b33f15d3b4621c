"""Zones that are signed in memory."""

from __future__ import annotations

import dns.dnssec
import dns.name
import dns.rrset
from cryptography.hazmat.primitives.asymmetric import ed25519
from dns.rdtypes.ANY.DNSKEY import DNSKEY

NOW = 1_800_000_000
RRsets = list[dns.rrset.RRset]


def rrset(text: str) -> dns.rrset.RRset:
    owner, ttl, rdtype, rdata = text.split(maxsplit=3)
    return dns.rrset.from_text(owner, int(ttl), "IN", rdtype, *rdata.split(" | "))


class Signer:
    """A zone with one key. `flags`: of its DNSKEY; `now`: when it signs, seconds since the epoch."""

    def __init__(self, zone: str, flags: int = 257, now: int = NOW) -> None:
        self._now = now
        self.name = dns.name.from_text(zone)
        self._private = ed25519.Ed25519PrivateKey.generate()
        key = dns.dnssec.make_dnskey(self._private.public_key(), "ED25519", flags=flags)
        assert isinstance(key, DNSKEY)
        self.key = key

    def sign(self, *texts: str, owner: str = "") -> RRsets:
        """Records with their signatures. `owner`: expand the records of a wildcard to this name."""
        found = []
        for text in texts:
            records = rrset(text)
            signature = dns.dnssec.sign(
                records, self._private, self.name, self.key, inception=self._now - 100, expiration=self._now + 100_000
            )
            if owner:
                records = dns.rrset.from_rdata_list(dns.name.from_text(owner), records.ttl, list(records))
            found += [records, dns.rrset.from_rdata_list(records.name, records.ttl, [signature])]
        return found

    def keys(self) -> RRsets:
        return self.sign(f"{self.name} 3600 DNSKEY {self.key}")

    def ds(self) -> str:
        return f"{self.name} 3600 DS {dns.dnssec.make_ds(self.name, self.key, 'SHA256')}"
