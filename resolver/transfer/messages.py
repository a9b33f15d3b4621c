"""The messages that a secondary sends and what it makes of the answers; octets in, octets out.

A transfer may be signed message by message or only now and then (RFC 8945 section 5.3.1): the first and the last message
must be, and at most 99 in between may come without a signature.
"""

from __future__ import annotations

import secrets
import struct
import time

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.wire

from resolver.transfer.zone import Soa

HEADER = 12
MAX_UNSIGNED = 99  # messages in a row
FUDGE = 300  # seconds that clocks may differ by (RFC 8945 section 10)


class TransferError(Exception):
    """A message or a transfer that must not be used. `no_delta`: one of all records may do."""

    def __init__(self, text: str, *, no_delta: bool = False) -> None:
        super().__init__(text)
        self.no_delta = no_delta


def soa_of(rdata: dns.rdata.Rdata) -> Soa:
    """The numbers of a SOA."""
    text = rdata.to_text()
    serial, refresh, retry, expire, minimum = map(int, text.split()[2:])
    return Soa(serial, refresh, retry, expire, minimum, text)


class Request:
    """A query to a primary. `wire` is what is sent."""

    def __init__(
        self, zone: str, rdtype: str, key: dns.tsig.Key | None = None, *, base: Soa | None = None, now: float = 0.0
    ) -> None:
        self.zone = dns.name.from_text(zone)
        self.key = key
        query = dns.message.make_query(self.zone, rdtype, id=secrets.randbelow(1 << 16))
        query.flags = dns.flags.Flag(0)
        if base is not None:  # RFC 1995 section 3
            query.authority.append(dns.rrset.from_text(self.zone, 0, "IN", "SOA", base.text))
        if key is not None:
            query.use_tsig(key, fudge=FUDGE)
        self.id = query.id
        self.wire = query.to_wire()
        self.mac: bytes = (query.mac or b"") if key is not None else b""


def read_soa(request: Request, wire: bytes) -> Soa:
    """The SOA that a primary answered a probe with; TransferError says why it is none."""
    try:
        keyring = {request.key.name: request.key} if request.key else None
        answer = dns.message.from_wire(wire, keyring=keyring, request_mac=request.mac, ignore_trailing=False)
    except dns.exception.DNSException as error:
        raise TransferError(f"its answer for the SOA cannot be used: {_said(error)}") from None
    if answer.id != request.id or not answer.flags & dns.flags.QR:
        raise TransferError("an answer to another question")
    if request.key and not answer.had_tsig:
        raise TransferError("its answer for the SOA is not signed")
    if answer.rcode() != dns.rcode.NOERROR:
        raise TransferError(f"{dns.rcode.to_text(answer.rcode())} for the SOA")
    if answer.flags & dns.flags.TC:
        raise TransferError("its answer for the SOA is cut")
    for rrset in answer.answer:
        if rrset.name == request.zone and rrset.rdtype == dns.rdatatype.SOA:
            if not answer.flags & dns.flags.AA:
                raise TransferError("it does not speak for the zone (AA is 0)")
            return soa_of(rrset[0])
    raise TransferError("no SOA in its answer: it does not have the zone")


class Signatures:
    """Checks the signatures of a transfer's messages in order. Nothing is checked without a key."""

    def __init__(self, request: Request) -> None:
        self._key = request.key
        self._mac = request.mac
        self._context: object = None
        self._unsigned = 0
        self._begun = False

    def check(self, wire: bytes, tsig: int, now: float | None = None) -> None:
        """The next message; `tsig`: where its TSIG record begins, 0 if it has none. TransferError if it is wrong."""
        if self._key is None:
            return
        if not tsig:
            if not self._begun:
                raise TransferError("TSIG: its first message is not signed")
            self._unsigned += 1
            if self._unsigned > MAX_UNSIGNED:
                raise TransferError(f"TSIG: more than {MAX_UNSIGNED} messages without a signature")
            self._context.update(wire)  # type: ignore[attr-defined]  # dnspython has no type for it
            return
        try:
            parser = dns.wire.Parser(wire, tsig)
            owner = parser.get_name(decompress=True)
            _, _, _, length = parser.get_struct("!HHIH")
            rdata = dns.rdata.from_wire_parser(
                dns.rdataclass.ANY, dns.rdatatype.TSIG, parser_of(wire, parser.current, length)
            )
            self._context = dns.tsig.validate(  # type: ignore[no-untyped-call]
                wire,
                self._key,
                owner,
                rdata,
                int(time.time() if now is None else now),
                self._mac,
                tsig,
                self._context,
                multi=True,
            )
        except (dns.exception.DNSException, ValueError, struct.error) as error:
            raise TransferError(f"TSIG: {_said(error)}") from None
        self._begun, self._unsigned = True, 0

    def finish(self) -> None:
        """The transfer is whole; TransferError if its last message was not signed."""
        if self._key is not None and (self._unsigned or not self._begun):
            raise TransferError("TSIG: its last message is not signed")


def wire_of(name: dns.name.Name) -> bytes:
    """A name in wire form, lower-case."""
    wire = name.canonicalize().to_wire()
    assert wire is not None
    return wire


def parser_of(wire: bytes, at: int, length: int) -> dns.wire.Parser:
    """A parser of a record's data in its message; ValueError if that is cut off."""
    parser = dns.wire.Parser(wire, at)
    if length > parser.remaining():
        raise ValueError("cut off")
    parser.end = at + length
    return parser


def _said(error: Exception) -> str:
    """dnspython's fault in words, which never hold a key."""
    return str(error) or type(error).__name__
