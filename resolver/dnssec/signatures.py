"""Signatures: which keys may be used, whether one of them signed a set of records, and how much of that is done at most.

What is signed comes from strangers, and a check costs them nothing: a zone with many keys of one tag and many signatures
makes a validator try each with each (CVE-2023-50387). So the work for one question has limits (`Budget`); keys of one tag
are tried up to MAX_COLLISIONS, and RSA keys whose size alone would make a check slow are not used.

All times are seconds since the epoch. Nothing here does I/O.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

import dns.dnssec
import dns.exception
import dns.name
import dns.node
import dns.rdata
import dns.rdataset
import dns.rdatatype
import dns.rrset
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from dns.rdtypes.ANY.DNSKEY import DNSKEY
from dns.rdtypes.ANY.DS import DS
from dns.rdtypes.ANY.RRSIG import RRSIG

from resolver.vocabulary import EDE

# RFC 8624 section 3.1, what may be validated: RSASHA1 (two), RSASHA256, RSASHA512, ECDSA P-256 and P-384, Ed25519, Ed448.
ALGORITHMS: Final = frozenset({5, 7, 8, 10, 13, 14, 15, 16})
DIGESTS: Final = frozenset({1, 2, 4})  # RFC 8624 section 3.3: SHA-1, SHA-256, SHA-384
_RSA: Final = frozenset({5, 7, 8, 10})
_SHA1: Final = 1
MAX_RSA_OCTETS: Final = 512  # RFC 3110 section 2: up to 4096 bits
MAX_EXPONENT_OCTETS: Final = 8
MAX_COLLISIONS: Final = 4  # keys of one tag and algorithm that are tried
MAX_KEYS: Final = 64  # of one zone
MAX_SIGNATURES: Final = 8  # of one set of records that are looked at
RECORDS_A_CHECK: Final = 64  # a larger set costs as many checks as it has so many records
_ZONE_KEY, _REVOKED, _PROTOCOL = 0x0100, 0x0080, 3
_ANY_ALGORITHM = dns.dnssec.allow_all_policy


class Bogus(Exception):
    """What was received cannot be what the zone's owner signed; `ede` says why (RFC 8914)."""

    def __init__(self, ede: EDE, text: str) -> None:
        super().__init__(text)
        self.ede = ede
        self.text = text


class Indeterminate(Exception):
    """It cannot be told, because something that is needed for it is not to be had."""


@dataclasses.dataclass(slots=True)
class Budget:
    """What may still be spent for one question; each method spends it and raises Bogus once there is none."""

    checks: int = 100  # signatures and digests
    failures: int = 16  # of these that come to nothing
    hashes: int = 64  # names hashed for NSEC3 (CVE-2023-50868)
    questions: int = 48  # asked upstream

    def check(self, cost: int = 1) -> None:
        """A signature or digest is about to be checked."""
        self.checks -= cost
        self._bound(self.checks, "signatures to check")

    def fail(self, cost: int = 1) -> None:
        """It did not fit."""
        self.failures -= cost
        self._bound(self.failures, "signatures that are wrong")

    def hash(self) -> None:
        """A name is about to be hashed."""
        self.hashes -= 1
        self._bound(self.hashes, "names to hash")

    def ask(self) -> None:
        """A question is about to be asked."""
        self.questions -= 1
        self._bound(self.questions, "zones between here and the trust anchor")

    @staticmethod
    def _bound(left: int, what: str) -> None:
        if left < 0:
            raise Bogus(EDE.DNSSEC_BOGUS, f"too many {what}")


class Key(NamedTuple):
    """A key that may sign; `sets` is it as dnspython takes it."""

    tag: int
    algorithm: int
    rdata: DNSKEY
    sets: dict[dns.name.Name, dns.node.Node | dns.rdataset.Rdataset]


def usable_keys(zone: dns.name.Name, rdatas: Iterable[dns.rdata.Rdata]) -> list[Key]:
    """The keys of a DNSKEY set that may sign the zone (RFC 4034 section 2.1), by an algorithm that is known here."""
    keys = []
    for rdata in rdatas:
        if isinstance(rdata, DNSKEY) and _is_usable(rdata):
            only = dns.rdataset.from_rdata(0, rdata)
            keys.append(Key(dns.dnssec.key_id(rdata), int(rdata.algorithm), rdata, {zone: only}))
            if len(keys) == MAX_KEYS:
                break
    return keys


def has_zone_key(rdatas: Iterable[dns.rdata.Rdata]) -> bool:
    """Whether one of the keys says that it is a zone's."""
    return any(isinstance(rdata, DNSKEY) and rdata.flags & _ZONE_KEY for rdata in rdatas)


def _is_usable(key: DNSKEY) -> bool:
    if not key.flags & _ZONE_KEY or key.flags & _REVOKED or key.protocol != _PROTOCOL:
        return False
    if key.algorithm not in ALGORITHMS:
        return False
    if key.algorithm not in _RSA:
        return True
    octets = key.key
    if len(octets) < 4:
        return False
    exponent, start = (octets[0], 1) if octets[0] else (int.from_bytes(octets[1:3], "big"), 3)  # RFC 3110 section 2
    return exponent <= MAX_EXPONENT_OCTETS and len(octets) - start - exponent <= MAX_RSA_OCTETS


def known_delegations(rdatas: Iterable[dns.rdata.Rdata]) -> tuple[list[DS], EDE | None]:
    """The DS records to go by; none, and why, where the zone is unsigned as far as is known here (RFC 4035 section 5.2)."""
    records = [rdata for rdata in rdatas if isinstance(rdata, DS)]
    known = [record for record in records if record.algorithm in ALGORITHMS]
    if not known:
        return [], EDE.UNSUPPORTED_ALGORITHM
    known = [record for record in known if record.digest_type in DIGESTS]
    if not known:
        return [], EDE.UNSUPPORTED_DIGEST
    better = [record for record in known if record.digest_type != _SHA1]  # RFC 4509 section 3
    return better or known, None


def keys_of(delegations: Sequence[DS], zone: dns.name.Name, keys: Sequence[Key], budget: Budget) -> list[Key]:
    """The keys that DS records speak of."""
    found = []
    for record in delegations:
        fitting = [key for key in keys if key.tag == record.key_tag and key.algorithm == record.algorithm]
        for key in fitting[:MAX_COLLISIONS]:
            if key in found:
                continue
            budget.check()
            digest = dns.dnssec.make_ds(zone, key.rdata, record.digest_type, policy=_ANY_ALGORITHM, validating=True)
            if digest.digest == record.digest:
                found.append(key)
            else:
                budget.fail()
    return found


class Verified(NamedTuple):
    """`ttl`: seconds that the records may be kept (RFC 4035 section 5.3.3). `labels`: of the name that was signed, fewer
    than the owner has where a wildcard was expanded."""

    ttl: int
    labels: int


def verify(
    rrset: dns.rrset.RRset,
    signatures: dns.rrset.RRset,
    zone: dns.name.Name,
    keys: Sequence[Key],
    now: float,
    budget: Budget,
) -> Verified:
    """Hold records against their signatures by the keys of a zone (RFC 4035 section 5.3). Bogus if none is right."""
    owner_labels = label_count(rrset.name)
    what = f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)}"
    failure: Bogus | None = None
    cost = 1 + len(rrset) // RECORDS_A_CHECK
    for rdata in list(signatures)[:MAX_SIGNATURES]:
        signature = cast(RRSIG, rdata)
        if signature.signer != zone or signature.labels > owner_labels or signature.algorithm not in ALGORITHMS:
            continue
        if signature.expiration < signature.inception:
            failure = failure or Bogus(
                EDE.SIGNATURE_EXPIRED_BEFORE_VALID, f"a signature of {what} ends before it begins"
            )
            continue
        if signature.expiration < now:
            failure = failure or Bogus(EDE.SIGNATURE_EXPIRED, f"the signature of {what} has expired")
            continue
        if signature.inception > now:
            failure = failure or Bogus(EDE.SIGNATURE_NOT_YET_VALID, f"the signature of {what} is not valid yet")
            continue
        fitting = [key for key in keys if key.tag == signature.key_tag and key.algorithm == signature.algorithm]
        for key in fitting[:MAX_COLLISIONS]:
            budget.check(cost)
            if _is_signed(rrset, signature, key, now):
                left = int(signature.expiration - now)
                ttl = min(rrset.ttl, signatures.ttl, signature.original_ttl, left)
                return Verified(ttl, int(signature.labels))
            budget.fail(cost)
            failure = Bogus(EDE.DNSSEC_BOGUS, f"the signature of {what} is wrong")
    raise failure or Bogus(EDE.DNSSEC_BOGUS, f"no key of {zone} has signed {what}")


def _is_signed(rrset: dns.rrset.RRset, signature: RRSIG, key: Key, now: float) -> bool:
    try:
        dns.dnssec.validate_rrsig(rrset, signature, key.sets, now=now, policy=_ANY_ALGORITHM)
    except (dns.exception.DNSException, InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def label_count(name: dns.name.Name) -> int:
    """The labels of a name as RRSIG counts them: without the root's and a wildcard's (RFC 4034 section 3.1.3)."""
    return len(name.labels) - 1 - (name.labels[0] == b"*")
