"""An answer, checked: what it is (RFC 4035 section 4.3), and what of it may be given to whom.

`validate` is a generator as those of chain.py. It follows the answer from the name that was asked along CNAME and DNAME
records, each set of records checked by the zone that signed it, to the records that were asked for or the proof that there
are none. One part that is unsigned makes the whole insecure; one that is wrong makes it bogus.

A secure answer is made anew from what was checked: other records in ANSWER and AUTHORITY and all of ADDITIONAL are left out,
since AD speaks for the first two and nothing for the third; TTLs are those of RFC 4035 section 5.3.3. An insecure one stays
as it came. Both are given in two forms: whole, and without the records of DNSSEC for clients that did not set DO (section
3.2.1). Of their OPT remains for which network they are (RFC 7871), and an EDE says why a signed zone counts as unsigned.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import IntEnum
from typing import Final, NamedTuple

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from resolver.dnssec.chain import Answers, Need, Section, Session, State, Zone
from resolver.dnssec.denial import Denial, Proof
from resolver.dnssec.signatures import Bogus, Indeterminate, label_count
from resolver.vocabulary import EDE

MAX_ALIASES: Final = 16  # CNAME and DNAME records that are followed
MAX_SIGNERS: Final = 3  # zones that claim one set of records
MAX_MESSAGE: Final = 65_535

_ANY, _CNAME, _DNAME, _DS, _NS, _RRSIG, _SOA = (
    dns.rdatatype.ANY,
    dns.rdatatype.CNAME,
    dns.rdatatype.DNAME,
    dns.rdatatype.DS,
    dns.rdatatype.NS,
    dns.rdatatype.RRSIG,
    dns.rdatatype.SOA,
)
_AUTHENTICATING = frozenset({dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3})


class Status(IntEnum):
    """What an answer is; the order is that of the counters in shared memory."""

    SECURE = 0
    INSECURE = 1
    BOGUS = 2
    INDETERMINATE = 3


class Outcome(NamedTuple):
    """What came of it. `ede` (or -1) and `text` say why it is not secure; `whole` and `plain` are the answer for clients
    with and without DO, empty where there is none to give."""

    status: Status
    ede: int = -1
    text: str = ""
    whole: bytes = b""
    plain: bytes = b""


def parse(octets: bytes) -> dns.message.Message:
    """A message. dns.exception.DNSException or ValueError for what is none."""
    return dns.message.from_wire(octets, ignore_trailing=True)


def validate(qname: dns.name.Name, qtype: int, answer: bytes, session: Session) -> Generator[Need, Answers, Outcome]:
    """Check an upstream's answer, with DO, to a question of class IN."""
    try:
        message = parse(answer)
    except (dns.exception.DNSException, ValueError) as error:
        return Outcome(Status.BOGUS, EDE.DNSSEC_BOGUS, f"the answer cannot be read: {error}")
    check = _Check(qname, qtype, message, session)
    try:
        yield from check.run()
    except Bogus as error:
        return Outcome(Status.BOGUS, error.ede, error.text)
    except Indeterminate as error:
        return Outcome(Status.INDETERMINATE, EDE.DNSSEC_INDETERMINATE, str(error))
    return check.outcome()


class _Check:
    """One answer's way."""

    def __init__(self, qname: dns.name.Name, qtype: int, message: dns.message.Message, session: Session) -> None:
        self._qname = qname
        self._qtype = qtype
        self._message = message
        self._session = session
        self._answer = Section(message.answer)
        self._authority = Section(message.authority)
        self._kept: list[dns.rrset.RRset] = []
        self._zones: dict[dns.name.Name, Zone] = {}  # that have signed something here
        self._denials: dict[dns.name.Name, Denial | None] = {}
        self._expanded: list[tuple[dns.rrset.RRset, int, Zone]] = []  # from a wildcard of so many labels
        self._is_secure = True
        self._ede = -1
        self._rcode = dns.rcode.NOERROR

    def run(self) -> Generator[Need, Answers, None]:
        """Returns if the answer is secure or insecure; else Bogus or Indeterminate."""
        name, seen = self._qname, set[dns.name.Name]()
        if self._qtype == _RRSIG and any(rrset.rdtype == _RRSIG for rrset in self._message.answer):
            self._is_secure = False  # signatures are not signed
            return
        while name not in seen and len(seen) < MAX_ALIASES:
            seen.add(name)
            found = self._asked_for(name)
            for rrset in found:
                yield from self._positive(rrset)
            if found:
                break
            dname = self._dname_above(name)
            cname = self._answer.get(name, _CNAME)
            if dname is not None:
                yield from self._positive(dname)
                target = _substitute(name, dname)
                if target is None:
                    self._rcode = dns.rcode.YXDOMAIN  # RFC 6672 section 2.2
                    break
                if cname is not None:  # made from the DNAME, and not signed (section 3.1)
                    if cname[0].target != target:
                        raise Bogus(EDE.DNSSEC_BOGUS, f"{name} CNAME is not what {dname.name} DNAME makes of it")
                    cname.ttl = min(cname.ttl, dname.ttl)
                    self._kept.append(cname)
                name = target
            elif cname is not None:
                yield from self._positive(cname)
                name = cname[0].target
            else:
                yield from self._negative(name)
                break
        self._prove_wildcards()
        self._check_name_servers()

    def _asked_for(self, name: dns.name.Name) -> list[dns.rrset.RRset]:
        if self._qtype == _ANY:
            return [rrset for (owner, _), rrset in self._answer.rrsets.items() if owner == name]
        rrset = self._answer.get(name, self._qtype)
        return [] if rrset is None else [rrset]

    def _dname_above(self, name: dns.name.Name) -> dns.rrset.RRset | None:
        for (owner, rdtype), rrset in self._answer.rrsets.items():
            if rdtype == _DNAME and owner != name and name.is_subdomain(owner):
                return rrset
        return None

    # -- what there is ----------------------------------------------------------------------------------------------

    def _positive(self, rrset: dns.rrset.RRset) -> Generator[Need, Answers, None]:
        """Check a set of records of ANSWER."""
        name, rdtype = rrset.name, rrset.rdtype
        self._kept.append(rrset)
        signatures = self._answer.signatures(name, rdtype)
        if signatures is None:
            yield from self._unsigned(name, rdtype, EDE.RRSIGS_MISSING, f"{name} {_text(rdtype)} has no signature")
            return
        failure = Bogus(EDE.DNSSEC_BOGUS, f"who signed {name} {_text(rdtype)} has no right to")
        for signer in self._answer.signers(name, rdtype)[:MAX_SIGNERS]:
            try:
                zone = yield from self._session.signer(signer)
                if zone.state is State.INSECURE:
                    self._insecure(zone.ede)
                    return
                if zone.name != signer:
                    continue
                verified = self._session.verify(rrset, signatures, zone)
            except Bogus as error:
                failure = error
                continue
            self._zones[zone.name] = zone
            if verified.labels < label_count(name):
                self._expanded.append((rrset, verified.labels, zone))
            return
        raise failure

    def _unsigned(self, name: dns.name.Name, rdtype: int, ede: EDE, text: str) -> Generator[Need, Answers, None]:
        """What has no signatures is insecure if its zone is, else bogus."""
        holder = name.parent() if rdtype == _DS and name != dns.name.root else name
        zone = yield from self._session.walk(holder)
        if zone.state is not State.INSECURE:
            raise Bogus(ede, f"{text}, and {zone.name} is signed")
        self._insecure(zone.ede)

    def _insecure(self, ede: int = -1) -> None:
        self._is_secure = False
        if self._ede < 0:
            self._ede = ede

    def _prove_wildcards(self) -> None:
        """What was expanded from a wildcard needs the proof that nothing is closer (RFC 4035 section 5.3.4)."""
        for rrset, labels, zone in self._expanded:
            failure = Bogus(EDE.NSEC_MISSING, f"nothing proves that {rrset.name} is a wildcard's")
            denial = self._denial(zone)
            if denial is None:
                raise failure
            self._weigh(denial.no_closer(rrset.name, labels), failure)

    def _check_name_servers(self) -> None:
        """AUTHORITY may have the zone's name servers: kept if they are what the zone signed."""
        for zone in self._zones.values() if self._is_secure else ():
            rrset, signatures = self._authority.get(zone.name, _NS), self._authority.signatures(zone.name, _NS)
            if rrset is not None and signatures is not None:
                try:
                    self._session.verify(rrset, signatures, zone)
                except Bogus:
                    continue
                self._kept.append(rrset)

    # -- what there is not --------------------------------------------------------------------------------------------

    def _negative(self, name: dns.name.Name) -> Generator[Need, Answers, None]:
        """Check the proof that `name`, or its records of the type asked for, do not exist."""
        signers: list[dns.name.Name] = []
        denials = self._authority.denials
        for rrset in denials:
            for signer in self._authority.signers(rrset.name, rrset.rdtype):
                is_child = self._qtype == _DS and signer == name and name != dns.name.root
                if name.is_subdomain(signer) and signer not in signers and not is_child:
                    signers.append(signer)
        what = f"{name} {_text(self._qtype)}"
        failure = Bogus(EDE.NSEC_MISSING, f"nothing proves that there is no {what}")
        for signer in signers[:MAX_SIGNERS]:
            try:
                zone = yield from self._session.signer(signer)
                if zone.state is State.INSECURE:
                    self._insecure(zone.ede)
                    return
                if zone.name != signer:
                    continue
                self._disprove(name, zone, failure)
            except Bogus as error:
                failure = error
                continue
            return
        if signers:
            raise failure
        is_unsigned = any(self._authority.signatures(rrset.name, rrset.rdtype) is None for rrset in denials)
        ede = EDE.RRSIGS_MISSING if is_unsigned else EDE.NSEC_MISSING
        yield from self._unsigned(name, self._qtype, ede, failure.text)

    def _disprove(self, name: dns.name.Name, zone: Zone, failure: Bogus) -> None:
        denial = self._denial(zone)
        if denial is None:
            raise failure
        soa, signatures = self._authority.get(zone.name, _SOA), self._authority.signatures(zone.name, _SOA)
        if soa is not None and signatures is not None:
            self._session.verify(soa, signatures, zone)
            self._kept.append(soa)
        proof = Proof.NONE
        if self._message.rcode() == dns.rcode.NXDOMAIN:
            proof = denial.no_name(name)
            if proof is not Proof.NONE:
                self._rcode = dns.rcode.NXDOMAIN
        if proof is Proof.NONE:  # some servers say NXDOMAIN of names with nothing of their own
            proof = denial.no_type(name, self._qtype)
        self._weigh(proof, failure)

    def _weigh(self, proof: Proof, failure: Bogus) -> None:
        match proof:
            case Proof.NONE:
                raise failure
            case Proof.OPT_OUT:
                self._insecure()
            case Proof.TOO_COSTLY:
                self._insecure(EDE.UNSUPPORTED_NSEC3_ITERATIONS)

    def _denial(self, zone: Zone) -> Denial | None:
        if zone.name not in self._denials:
            self._denials[zone.name], _ = self._session.denial(self._authority, zone, self._kept)
        return self._denials[zone.name]

    # -- what is given ------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        """What `run` has come to, where it did not raise."""
        message = self._message
        options: list[dns.edns.Option] = [
            option for option in message.options if isinstance(option, dns.edns.ECSOption)
        ]
        if self._ede >= 0:
            options.append(dns.edns.EDEOption(dns.edns.EDECode.make(self._ede)))
        message.use_edns(0, options=options)
        message.flags &= ~(dns.flags.AD | dns.flags.AA)
        if self._is_secure:
            message.flags |= dns.flags.AD
            message.set_rcode(self._rcode)  # nobody signs it: it is what was proven
            message.answer = self._checked(message.answer, self._answer)
            message.authority = self._checked(message.authority, self._authority)
            message.additional = []
        whole = message.to_wire(max_size=MAX_MESSAGE)
        if self._qtype != _ANY:
            for section in message.sections:
                section[:] = [
                    rrset for rrset in section if rrset.rdtype not in _AUTHENTICATING or rrset.rdtype == self._qtype
                ]
        plain = message.to_wire(max_size=MAX_MESSAGE)
        status = Status.SECURE if self._is_secure else Status.INSECURE
        return Outcome(status, -1 if self._is_secure else self._ede, "", whole, plain)

    def _checked(self, rrsets: list[dns.rrset.RRset], section: Section) -> list[dns.rrset.RRset]:
        """Of a section what was checked, in its order, with the signatures."""
        kept = {id(rrset) for rrset in self._kept}
        kept |= {id(section.signatures(rrset.name, rrset.rdtype)) for rrset in self._kept}
        return [rrset for rrset in rrsets if id(rrset) in kept]


def _text(rdtype: int) -> str:
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rdtype))


def _substitute(name: dns.name.Name, dname: dns.rrset.RRset) -> dns.name.Name | None:
    """What a DNAME makes of a name below it (RFC 6672 section 2.2); None if that is too long."""
    try:
        return name.relativize(dname.name).concatenate(dname[0].target)
    except dns.name.NameTooLong:
        return None
