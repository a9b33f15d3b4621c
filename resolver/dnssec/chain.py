"""The chain of trust: from an anchor down to the zone that holds a name, one delegation after the other (RFC 4035, 5).

Generators: each yields a `Need` and is sent the message that answers it, or None where there is none. Two ways lead to a
zone. `signer` goes by what a signature says: it asks for the DS records of the signer, and by whose signature is on these
finds the parent, up to a zone that is known. `walk` goes down label by label, for what has no signatures: somewhere on the
way there must be the proof that an unsigned zone begins, or there should have been signatures.

What is found is kept (`Zones`), bounded in number and by TTL and signatures' ends: keys, unsigned zones, names where no
zone begins, and for a moment zones that are broken, so that each name below one does not cost the same work again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.DNSKEY import DNSKEY
from dns.rdtypes.ANY.NSEC import NSEC
from dns.rdtypes.ANY.NSEC3 import NSEC3

from resolver.dnssec.anchors import Anchors
from resolver.dnssec.denial import MAX_ITERATIONS, ByHash, ByName, Cut, Denial, TooCostly
from resolver.dnssec.signatures import (
    Bogus,
    Budget,
    Indeterminate,
    Key,
    Verified,
    has_zone_key,
    keys_of,
    known_delegations,
    label_count,
    usable_keys,
    verify,
)
from resolver.vocabulary import EDE

MOST_ZONES: Final = 10_000
LONGEST: Final = 86_400  # seconds that anything is kept at most
LONGEST_UNSIGNED: Final = 3_600  # of these, that a zone is unsigned or none
BROKEN_FOR: Final = 5  # seconds that a broken zone is kept
MAX_DENIALS: Final = 12  # records of a denial that are looked at

_DS, _DNSKEY, _CNAME = dns.rdatatype.DS, dns.rdatatype.DNSKEY, dns.rdatatype.CNAME


class Need(NamedTuple):
    """A question that has to be asked, with DO and CD."""

    name: dns.name.Name
    rdtype: int


Answers = dns.message.Message | None


class State(IntEnum):
    """What a zone is (RFC 4035 section 4.3), or that a name is none."""

    SECURE = 0
    INSECURE = 1
    BOGUS = 2
    NO_CUT = 3


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone, as far as it is known. `expires`: seconds since the epoch; `ede` and `text`: why it is not secure."""

    name: dns.name.Name
    state: State
    expires: float
    keys: tuple[Key, ...] = ()
    ede: int = -1
    text: str = ""


class Zones:
    """What is known of zones, the longest unused forgotten first."""

    def __init__(self, most: int = MOST_ZONES) -> None:
        self._most = most
        self._zones: OrderedDict[dns.name.Name, Zone] = OrderedDict()

    def __len__(self) -> int:
        return len(self._zones)

    def get(self, name: dns.name.Name, now: float) -> Zone | None:
        """What is known of a name and still holds."""
        zone = self._zones.get(name)
        if zone is None or zone.expires <= now:
            return None
        self._zones.move_to_end(name)
        return zone

    def put(self, zone: Zone) -> None:
        """Keep a zone."""
        self._zones[zone.name] = zone
        self._zones.move_to_end(zone.name)
        if len(self._zones) > self._most:
            self._zones.popitem(last=False)


class Section:
    """A message's section by owner and type, with the signatures apart."""

    def __init__(self, rrsets: list[dns.rrset.RRset]) -> None:
        self.rrsets: dict[tuple[dns.name.Name, int], dns.rrset.RRset] = {}
        self._signatures: dict[tuple[dns.name.Name, int], dns.rrset.RRset] = {}
        for rrset in rrsets:
            if rrset.rdclass != dns.rdataclass.IN:
                continue
            if rrset.rdtype == dns.rdatatype.RRSIG:
                self._signatures[rrset.name, rrset.covers] = rrset
            else:
                self.rrsets[rrset.name, rrset.rdtype] = rrset

    def get(self, name: dns.name.Name, rdtype: int) -> dns.rrset.RRset | None:
        """Records."""
        return self.rrsets.get((name, rdtype))

    def signatures(self, name: dns.name.Name, rdtype: int) -> dns.rrset.RRset | None:
        """The signatures of records."""
        return self._signatures.get((name, rdtype))

    def signers(self, name: dns.name.Name, rdtype: int) -> list[dns.name.Name]:
        """Who has signed records and may have, each once. A zone's DS records are its parent's."""
        found: list[dns.name.Name] = []
        for signature in self.signatures(name, rdtype) or ():
            signer = signature.signer
            if name.is_subdomain(signer) and signer not in found and (rdtype != _DS or signer != name):
                found.append(signer)
        return found

    @property
    def denials(self) -> list[dns.rrset.RRset]:
        """The NSEC and NSEC3 records."""
        return [
            rrset for (_, rdtype), rrset in self.rrsets.items() if rdtype in (dns.rdatatype.NSEC, dns.rdatatype.NSEC3)
        ][:MAX_DENIALS]


class Session:
    """One question's way: what it may spend, when it is, and by which anchors and zones it goes.

    `afresh`: what was found broken before is looked at again.
    """

    def __init__(
        self,
        anchors: Anchors,
        negative: frozenset[dns.name.Name],
        zones: Zones,
        *,
        afresh: bool = False,
        now: float | None = None,
    ) -> None:
        self._anchors = anchors
        self._negative = negative
        self._zones = zones
        self._afresh = afresh
        self._now = now
        self.budget = Budget()

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() if self._now is None else self._now

    def verify(self, rrset: dns.rrset.RRset, signatures: dns.rrset.RRset, zone: Zone) -> Verified:
        """signatures.verify by a secure zone's keys, which limits the records' TTL to how long they may be kept."""
        verified = verify(rrset, signatures, zone.name, zone.keys, self.now, self.budget)
        rrset.ttl = signatures.ttl = verified.ttl
        return verified

    # -- what is known ------------------------------------------------------------------------------------------------

    def _known(self, name: dns.name.Name) -> Zone | None:
        zone = self._zones.get(name, self.now)
        return None if zone is not None and zone.state is State.BOGUS and self._afresh else zone

    def _closest(self, name: dns.name.Name) -> Generator[Need, Answers, Zone]:
        """The closest known zone at or above a name; the anchor's, asked for if need be."""
        above, anchor = name, None
        while True:
            if above in self._negative:
                return Zone(above, State.INSECURE, self.now)
            if above in self._anchors:
                anchor = above
                break
            if above == dns.name.root:
                return Zone(above, State.INSECURE, self.now)  # no anchor says anything of it
            above = above.parent()
        above = name
        while True:
            zone = self._known(above)
            if zone is not None and zone.state is not State.NO_CUT:
                return zone
            if above == anchor:
                break
            above = above.parent()
        return (yield from self._kept(anchor, self._keys(anchor, self._anchors[anchor], LONGEST)))

    def _kept(self, name: dns.name.Name, finding: Generator[Need, Answers, Zone]) -> Generator[Need, Answers, Zone]:
        """What is found of a name, kept; what is broken too."""
        try:
            zone = yield from finding
        except Bogus as error:
            zone = Zone(name, State.BOGUS, self.now + BROKEN_FOR, (), error.ede, error.text)
        self._zones.put(zone)
        return zone

    # -- ways to a zone -----------------------------------------------------------------------------------------------

    def walk(self, name: dns.name.Name) -> Generator[Need, Answers, Zone]:
        """The zone that holds a name: the closest secure one, or the unsigned one on the way. Bogus; Indeterminate."""
        zone = yield from self._closest(name)
        for depth in range(len(zone.name.labels) + 1, len(name.labels) + 1):
            if zone.state is not State.SECURE:
                break
            child = name.split(depth)[1]
            found = self._known(child)
            if found is None:
                reply = yield from self.ask(child, _DS)
                found = yield from self._kept(child, self._delegated(child, zone, reply))
            if found.state is not State.NO_CUT:
                zone = found
        return self._sound(zone)

    def signer(self, name: dns.name.Name) -> Generator[Need, Answers, Zone]:
        """The zone `name`, which a signature names; another one where it is unsigned or no zone. Bogus; Indeterminate."""
        zone = yield from self._closest(name)
        if zone.name == name or zone.state is not State.SECURE:
            return self._sound(zone)
        found = self._known(name)
        if found is None:
            reply = yield from self.ask(name, _DS)
            parent = self._parent(name, reply)
            if parent is None or not parent.is_subdomain(zone.name):
                return (yield from self.walk(name))
            if parent != zone.name:
                zone = yield from self.signer(parent)
                if zone.name != parent or zone.state is not State.SECURE:
                    return zone
            found = yield from self._kept(name, self._delegated(name, zone, reply))
        return self._sound(zone if found.state is State.NO_CUT else found)

    @staticmethod
    def _sound(zone: Zone) -> Zone:
        if zone.state is State.BOGUS:
            raise Bogus(EDE(zone.ede), zone.text)
        return zone

    @staticmethod
    def _parent(name: dns.name.Name, reply: dns.message.Message) -> dns.name.Name | None:
        """Who signed the answer to the question for the DS records of `name`."""
        answer, authority = Section(reply.answer), Section(reply.authority)
        found = answer.signers(name, _DS)
        for rrset in authority.denials if not found else ():
            found += authority.signers(rrset.name, rrset.rdtype)
        return next((signer for signer in found if signer != name and name.is_subdomain(signer)), None)

    def ask(self, name: dns.name.Name, rdtype: int) -> Generator[Need, Answers, dns.message.Message]:
        """Have a question asked. Indeterminate if there is no answer."""
        self.budget.ask()
        message = yield Need(name, rdtype)
        if message is None or message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise Indeterminate(f"no answer for {name} {dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rdtype))}")
        return message

    # -- one delegation -----------------------------------------------------------------------------------------------

    def _delegated(
        self, child: dns.name.Name, parent: Zone, reply: dns.message.Message
    ) -> Generator[Need, Answers, Zone]:
        """What the parent's answer to the question for DS records makes of `child`."""
        answer, authority = Section(reply.answer), Section(reply.authority)
        for rdtype in (_DS, _CNAME):
            rrset, signatures = answer.get(child, rdtype), answer.signatures(child, rdtype)
            if rrset is None:
                continue
            if signatures is None:
                raise Bogus(EDE.RRSIGS_MISSING, f"{child} {dns.rdatatype.to_text(rrset.rdtype)} has no signature")
            verified = self.verify(rrset, signatures, parent)
            if rdtype == _CNAME:  # an alias is no zone
                return self._unsigned(child, State.NO_CUT, verified.ttl)
            if verified.labels != label_count(child):
                raise Bogus(EDE.DNSSEC_BOGUS, f"{child} DS is a wildcard's")
            return (yield from self._keys(child, tuple(rrset), verified.ttl))
        denial, ttl = self.denial(authority, parent)
        if denial is None:
            raise Bogus(EDE.NSEC_MISSING, f"nothing proves that {child} is not signed")
        match denial.no_delegation(child):
            case Cut.TOO_COSTLY:
                return self._unsigned(child, State.INSECURE, ttl, EDE.UNSUPPORTED_NSEC3_ITERATIONS)
            case Cut.UNSIGNED:
                return self._unsigned(child, State.INSECURE, ttl)
            case Cut.NONE:
                return self._unsigned(child, State.NO_CUT, ttl)
        raise Bogus(EDE.NSEC_MISSING, f"nothing proves that {child} is not signed")

    def _unsigned(self, name: dns.name.Name, state: State, ttl: int, ede: int = -1) -> Zone:
        return Zone(name, state, self.now + min(ttl, LONGEST_UNSIGNED), (), ede)

    def denial(
        self, authority: Section, zone: Zone, kept: list[dns.rrset.RRset] | None = None
    ) -> tuple[Denial | None, int]:
        """What the NSEC or NSEC3 records of a zone prove, and for how many seconds; each is verified first.

        None where there are none. `kept` gets the records.
        """
        by_name: list[tuple[dns.name.Name, NSEC]] = []
        by_hash: list[tuple[dns.name.Name, NSEC3]] = []
        ttl, failure = LONGEST_UNSIGNED, None
        for rrset in authority.denials:
            signatures = authority.signatures(rrset.name, rrset.rdtype)
            if signatures is None:
                failure = failure or Bogus(EDE.RRSIGS_MISSING, f"{rrset.name} {rrset.rdtype.name} has no signature")
                continue
            if not any(signature.signer == zone.name for signature in signatures):
                continue
            verified = self.verify(rrset, signatures, zone)
            if verified.labels < label_count(rrset.name):
                raise Bogus(EDE.DNSSEC_BOGUS, f"{rrset.name} {rrset.rdtype.name} is a wildcard's")
            ttl = min(ttl, verified.ttl)
            if kept is not None:
                kept.append(rrset)
            for rdata in rrset:
                if isinstance(rdata, NSEC):
                    by_name.append((rrset.name, rdata))
                elif isinstance(rdata, NSEC3):
                    by_hash.append((rrset.name, rdata))
        if by_hash:
            hashed = ByHash(zone.name, by_hash, self.budget)
            return TooCostly() if hashed.iterations > MAX_ITERATIONS else hashed, ttl
        if by_name:
            return ByName(zone.name, by_name), ttl
        if failure is not None:
            raise failure
        return None, ttl

    def _keys(
        self, name: dns.name.Name, vouched: tuple[dns.rdata.Rdata, ...], ttl: int
    ) -> Generator[Need, Answers, Zone]:
        """The zone `name` with its keys, which DS records (or an anchor's DNSKEY records) vouch for."""
        delegations, why = known_delegations(vouched)
        anchored = [rdata for rdata in vouched if isinstance(rdata, DNSKEY)]
        if not delegations and not anchored:
            return self._unsigned(name, State.INSECURE, ttl, -1 if why is None else why)
        reply = yield from self.ask(name, _DNSKEY)
        answer = Section(reply.answer)
        rrset, signatures = answer.get(name, _DNSKEY), answer.signatures(name, _DNSKEY)
        if rrset is None:
            raise Bogus(EDE.DNSKEY_MISSING, f"{name} has no DNSKEY, though it is said to be signed")
        if not has_zone_key(rrset):
            raise Bogus(EDE.NO_ZONE_KEY_BIT_SET, f"no DNSKEY of {name} is a zone's")
        keys = usable_keys(name, rrset)
        trusted = keys_of(delegations, name, keys, self.budget)
        trusted += [key for key in keys if key.rdata in anchored and key not in trusted]
        if not trusted:
            raise Bogus(EDE.DNSKEY_MISSING, f"no DNSKEY of {name} is the one that is vouched for")
        if signatures is None:
            raise Bogus(EDE.RRSIGS_MISSING, f"{name} DNSKEY has no signature")
        verified = verify(rrset, signatures, name, trusted, self.now, self.budget)
        return Zone(name, State.SECURE, self.now + min(ttl, verified.ttl, LONGEST), tuple(keys))
