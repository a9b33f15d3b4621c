"""What NSEC and NSEC3 records prove: that there is no such name, type or delegation (RFC 4035 section 5.4, 5155 section 8).

All records here are verified already and of one zone. Two rules of RFC 6840 section 4 stand behind every look: a record
from the parent's side of a delegation, or at a DNAME, says nothing of names below it; and that a type is absent at a
delegation is said by the parent for DS and by the child for everything else.

NSEC3 hashing is bounded by the question's Budget; with more than MAX_ITERATIONS a zone counts as unsigned (RFC 9276
section 3.2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

import dns.name
import dns.rdata
import dns.rdatatype
from dns.rdtypes.ANY.NSEC import NSEC
from dns.rdtypes.ANY.NSEC3 import NSEC3

from resolver.dnssec.signatures import Budget

MAX_ITERATIONS: Final = 100
_SHA1: Final = 1
_OPT_OUT: Final = 1
_NS, _CNAME, _SOA, _DNAME, _DS = (
    dns.rdatatype.NS,
    dns.rdatatype.CNAME,
    dns.rdatatype.SOA,
    dns.rdatatype.DNAME,
    dns.rdatatype.DS,
)


class Proof(Enum):
    """What the records come to."""

    NONE = auto()  # nothing
    PROVEN = auto()
    OPT_OUT = auto()  # an unsigned delegation may be there: what it is about is insecure (RFC 5155 section 9.2)
    TOO_COSTLY = auto()  # a proof, maybe, but the zone counts as unsigned


class Cut(Enum):
    """What the denial of a DS record says of a name."""

    UNPROVEN = auto()
    UNSIGNED = auto()  # an unsigned zone begins there, or may
    NONE = auto()  # no zone begins there
    TOO_COSTLY = auto()  # it cannot be told which, as the zone counts as unsigned


class Denial(Protocol):
    """The proofs of one kind of records."""

    def no_name(self, name: dns.name.Name) -> Proof:
        """That a name does not exist, and no wildcard stands for it."""

    def no_type(self, name: dns.name.Name, rdtype: int) -> Proof:
        """That a name, or the wildcard that stands for it, has no records of a type."""

    def no_closer(self, name: dns.name.Name, labels: int) -> Proof:
        """That nothing is closer to a name than a wildcard below a name of so many labels."""

    def no_delegation(self, name: dns.name.Name) -> Cut:
        """What there is instead of a DS record."""


def has_type(rdata: NSEC | NSEC3, rdtype: int) -> bool:
    """Whether the record's bitmap has a type."""
    for window, octets in rdata.windows:
        if window == rdtype >> 8:
            at = (rdtype & 0xFF) >> 3
            return at < len(octets) and bool(octets[at] & 0x80 >> (rdtype & 7))
    return False


def _is_delegation(rdata: NSEC | NSEC3) -> bool:
    return has_type(rdata, _NS) and not has_type(rdata, _SOA)


def _lacks(rdata: NSEC | NSEC3, name: dns.name.Name, rdtype: int) -> bool:
    """Whether the record of a name says that it has no records of a type, and may say so."""
    if has_type(rdata, rdtype) or has_type(rdata, _CNAME):
        return False
    if rdtype == _DS:
        return not has_type(rdata, _SOA) or name == dns.name.root
    return not _is_delegation(rdata)


def _cut(rdata: NSEC | NSEC3, name: dns.name.Name) -> Cut:
    """What the record of a name says of a delegation there."""
    if has_type(rdata, _CNAME) and not has_type(rdata, _NS):
        return Cut.NONE
    if not _lacks(rdata, name, _DS):
        return Cut.UNPROVEN
    return Cut.UNSIGNED if has_type(rdata, _NS) else Cut.NONE


class ByName:
    """NSEC records of a zone. Comparison of names is dnspython's, which is canonical (RFC 4034 section 6.1)."""

    def __init__(self, zone: dns.name.Name, records: Sequence[tuple[dns.name.Name, NSEC]]) -> None:
        self._zone = zone
        self._records = records

    def _at(self, name: dns.name.Name) -> NSEC | None:
        return next((rdata for owner, rdata in self._records if owner == name), None)

    def _covering(self, name: dns.name.Name) -> tuple[dns.name.Name, NSEC] | None:
        """A record that proves that there is no such owner name."""
        for owner, rdata in self._records:
            if name.is_subdomain(owner) and (name == owner or _is_delegation(rdata) or has_type(rdata, _DNAME)):
                continue
            is_last = rdata.next == self._zone
            if owner < name and (is_last or name < rdata.next):
                return owner, rdata
        return None

    @staticmethod
    def _encloser(name: dns.name.Name, owner: dns.name.Name, rdata: NSEC) -> dns.name.Name:
        """The closest name that exists above `name`, as the record that covers it says."""
        return name.split(max(name.fullcompare(owner)[2], name.fullcompare(rdata.next)[2]))[1]

    def no_name(self, name: dns.name.Name) -> Proof:
        """See Denial."""
        covering = self._covering(name)
        if covering is None or covering[1].next.is_subdomain(name):  # the latter: it exists, with nothing of its own
            return Proof.NONE
        wildcard = dns.name.Name([b"*"]).concatenate(self._encloser(name, *covering))
        return Proof.PROVEN if self._covering(wildcard) else Proof.NONE

    def no_type(self, name: dns.name.Name, rdtype: int) -> Proof:
        """See Denial."""
        if (own := self._at(name)) is not None:
            return Proof.PROVEN if _lacks(own, name, rdtype) else Proof.NONE
        covering = self._covering(name)
        if covering is None:
            return Proof.NONE
        if covering[1].next.is_subdomain(name):  # an empty non-terminal
            return Proof.PROVEN
        wildcard = dns.name.Name([b"*"]).concatenate(self._encloser(name, *covering))
        at_wildcard = self._at(wildcard)
        return Proof.PROVEN if at_wildcard is not None and _lacks(at_wildcard, wildcard, rdtype) else Proof.NONE

    def no_closer(self, name: dns.name.Name, labels: int) -> Proof:
        """See Denial."""
        covering = self._covering(name)
        if covering is None or len(self._encloser(name, *covering).labels) - 1 != labels:
            return Proof.NONE
        return Proof.PROVEN

    def no_delegation(self, name: dns.name.Name) -> Cut:
        """See Denial."""
        if (own := self._at(name)) is not None:
            return _cut(own, name)
        return Cut.NONE if self._covering(name) else Cut.UNPROVEN


class TooCostly:
    """Records of a zone in which a name would have to be hashed too often."""

    def no_name(self, name: dns.name.Name) -> Proof:
        """See Denial."""
        return Proof.TOO_COSTLY

    def no_type(self, name: dns.name.Name, rdtype: int) -> Proof:
        """See Denial."""
        return Proof.TOO_COSTLY

    def no_closer(self, name: dns.name.Name, labels: int) -> Proof:
        """See Denial."""
        return Proof.TOO_COSTLY

    def no_delegation(self, name: dns.name.Name) -> Cut:
        """See Denial."""
        return Cut.TOO_COSTLY


class _Hashed(NamedTuple):
    hash: bytes
    rdata: NSEC3


class ByHash:
    """NSEC3 records of a zone: those that share the parameters of the first; the others are ignored."""

    def __init__(self, zone: dns.name.Name, records: Iterable[tuple[dns.name.Name, NSEC3]], budget: Budget) -> None:
        self._zone = zone
        self._budget = budget
        self._known: dict[dns.name.Name, bytes] = {}
        self._records: list[_Hashed] = []
        self.iterations = 0
        self._salt = b""
        for owner, rdata in records:
            # RFC 5155 section 8.1 and 8.2: unknown hashes and flags are ignored, and so is what stands elsewhere.
            if rdata.algorithm != _SHA1 or rdata.flags & ~_OPT_OUT or owner.parent() != zone:
                continue
            if not self._records:
                self.iterations, self._salt = rdata.iterations, rdata.salt
            elif (rdata.iterations, rdata.salt) != (self.iterations, self._salt):
                continue
            try:
                self._records.append(_Hashed(base64.b32hexdecode(owner.labels[0].upper()), rdata))
            except binascii.Error:
                continue

    def _hash(self, name: dns.name.Name) -> bytes:
        found = self._known.get(name)
        if found is None:
            self._budget.hash()
            found = hashlib.sha1(name.to_digestable() + self._salt, usedforsecurity=False).digest()
            for _ in range(self.iterations):
                found = hashlib.sha1(found + self._salt, usedforsecurity=False).digest()
            self._known[name] = found
        return found

    def _at(self, name: dns.name.Name) -> NSEC3 | None:
        wanted = self._hash(name)
        return next((rdata for hashed, rdata in self._records if hashed == wanted), None)

    def _covering(self, name: dns.name.Name) -> NSEC3 | None:
        wanted = self._hash(name)
        for hashed, rdata in self._records:
            is_between = hashed < wanted < rdata.next
            is_last = hashed >= rdata.next and (wanted > hashed or wanted < rdata.next)
            if is_between or is_last:
                return rdata
        return None

    def _encloser(self, name: dns.name.Name) -> tuple[dns.name.Name, NSEC3] | None:
        """The closest name above `name` that exists, and the record that covers the next closer one (RFC 5155, 8.3)."""
        below = name
        while below != self._zone:
            above = below.parent()
            if (own := self._at(above)) is not None:
                if has_type(own, _DNAME) or (_is_delegation(own) and above != self._zone):
                    return None
                covering = self._covering(below)
                return (above, covering) if covering is not None else None
            below = above
        return None

    @staticmethod
    def _weight(rdata: NSEC3) -> Proof:
        return Proof.OPT_OUT if rdata.flags & _OPT_OUT else Proof.PROVEN

    def no_name(self, name: dns.name.Name) -> Proof:
        """See Denial."""
        found = self._encloser(name)
        if found is None or self._at(name) is not None:
            return Proof.NONE
        encloser, covering = found
        if self._covering(dns.name.Name([b"*"]).concatenate(encloser)) is None:
            return Proof.NONE
        return self._weight(covering)

    def no_type(self, name: dns.name.Name, rdtype: int) -> Proof:
        """See Denial."""
        if (own := self._at(name)) is not None:
            return Proof.PROVEN if _lacks(own, name, rdtype) else Proof.NONE
        found = self._encloser(name)
        if found is None:
            return Proof.NONE
        encloser, covering = found
        wildcard = dns.name.Name([b"*"]).concatenate(encloser)
        at_wildcard = self._at(wildcard)
        if at_wildcard is not None:
            return self._weight(covering) if _lacks(at_wildcard, wildcard, rdtype) else Proof.NONE
        # RFC 5155 section 8.6: an unsigned delegation may be there, or names that only lead to one.
        return Proof.OPT_OUT if covering.flags & _OPT_OUT else Proof.NONE

    def no_closer(self, name: dns.name.Name, labels: int) -> Proof:
        """See Denial."""
        next_closer = name.split(labels + 2)[1]  # one label more than the wildcard's parent, and the root's
        covering = self._covering(next_closer)
        return self._weight(covering) if covering is not None else Proof.NONE

    def no_delegation(self, name: dns.name.Name) -> Cut:
        """See Denial."""
        if (own := self._at(name)) is not None:
            return _cut(own, name)
        found = self._encloser(name)
        if found is None:
            return Cut.UNPROVEN
        return Cut.UNSIGNED if found[1].flags & _OPT_OUT else Cut.NONE
