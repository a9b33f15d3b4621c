"""What a QUIC server reads in, and says to, packets that belong to no connection: versions, Retry, stateless reset.

Whoever floods this server meets these lines, so they are few and cheap, and nothing here remembers anybody. A Retry's token
says when it was made and which id the client had chosen, and proves by a keyed hash that it was made here for this
address and this new id (RFC 9000 section 8.1.4). It need not be secret: all in it was on the wire already.
"""

from __future__ import annotations

import hmac
import os
from typing import NamedTuple

from aioquic.quic.packet import (
    RETRY_AEAD_KEY_VERSION_1,
    RETRY_AEAD_KEY_VERSION_2,
    RETRY_AEAD_NONCE_VERSION_1,
    RETRY_AEAD_NONCE_VERSION_2,
    encode_quic_version_negotiation,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SMALLEST = 1200  # octets of a datagram with a client's first packet (RFC 9000 section 14.1)
LIFETIME = 30.0  # seconds that a token counts
LONG = 0x80
_TYPE = 0x30
_MAC = 16
_SHORTEST_ID, _LONGEST_ID = 8, 20
# The first octet of an Initial and of a Retry, and what seals the latter (RFC 9001 section 5.8, RFC 9369 section 3).
_V1, _V2 = b"\0\0\0\1", b"\x6b\x33\x43\xcf"
_INITIAL = {_V1: 0x00, _V2: 0x10}
_RETRY = {_V1: b"\xf0", _V2: b"\xc0"}
_SEALS = {
    _V1: (AESGCM(RETRY_AEAD_KEY_VERSION_1), RETRY_AEAD_NONCE_VERSION_1),
    _V2: (AESGCM(RETRY_AEAD_KEY_VERSION_2), RETRY_AEAD_NONCE_VERSION_2),
}
_RESET_LEAST, _RESET_MOST = 21, 42  # octets of a stateless reset


class First(NamedTuple):
    """A client's packet with a long header: the ids as the client has them."""

    version: bytes
    destination: bytes
    source: bytes
    token: bytes
    is_initial: bool  # and sound, as far as can be seen here


def read(data: bytes) -> First | None:
    """The header of a packet with a long header (RFC 8999 section 5.1); None where nothing may be said to it."""
    if len(data) < SMALLEST:  # smaller ones would let us send more than we got
        return None
    version = data[1:5]
    at = 6 + data[5]
    destination, source = data[6:at], data[at + 1 : at + 1 + data[at]]
    if _INITIAL.get(version, -1) != data[0] & _TYPE:
        return First(version, destination, source, b"", False)
    at += 1 + data[at]
    octets = 1 << (data[at] >> 6)  # a variable-length integer (RFC 9000 section 16)
    length = int.from_bytes(data[at : at + octets], "big") & ((1 << 8 * octets - 2) - 1)
    token = data[at + octets : at + octets + length]
    # RFC 9000 sections 7.2 and 17.2
    is_sound = _SHORTEST_ID <= len(destination) <= _LONGEST_ID >= len(source) and len(token) == length
    return First(version, destination, source, token, is_sound)


def other_versions(first: First) -> bytes | None:
    """The answer to a version that is not spoken here; None: it is, or it was such an answer itself."""
    if first.version in _INITIAL or not any(first.version):  # else two servers could be set on each other
        return None
    versions = [int.from_bytes(each, "big") for each in _INITIAL]
    return encode_quic_version_negotiation(
        source_cid=first.destination, destination_cid=first.source, supported_versions=versions
    )


class Tokens:
    """Makes Retry packets and knows their tokens. `address`: whatever tells one client's address from another's."""

    def __init__(self) -> None:
        self._key = os.urandom(32)

    def retry(self, first: First, cid: bytes, address: bytes, now: float) -> bytes:
        """The Retry that has a client come back to the new id `cid`."""
        body = int(now).to_bytes(8, "big") + first.destination
        token = body + self._mac(body, cid, address)
        head = _RETRY[first.version] + first.version
        packet = head + bytes((len(first.source),)) + first.source + bytes((len(cid),)) + cid + token
        seal, nonce = _SEALS[first.version]
        return packet + seal.encrypt(nonce, b"", bytes((len(first.destination),)) + first.destination + packet)

    def proven(self, first: First, address: bytes, now: float) -> bytes | None:
        """The id that a client had chosen at first, if its token is good; None if it proves no address."""
        body, mac = first.token[:-_MAC], first.token[-_MAC:]
        if not 8 < len(body) <= 8 + _LONGEST_ID or not hmac.compare_digest(
            mac, self._mac(body, first.destination, address)
        ):
            return None
        return body[8:] if now - int.from_bytes(body[:8], "big") <= LIFETIME else None

    def _mac(self, body: bytes, cid: bytes, address: bytes) -> bytes:
        return hmac.digest(self._key, bytes((len(body),)) + body + cid + address, "sha256")[:_MAC]


def stateless_reset(token: bytes, length: int) -> bytes | None:
    """What ends a connection that is not known here, in answer to a packet of `length` octets (RFC 9000 section 10.3).

    Smaller than that packet, or two servers could go on for ever; None: there is no room.
    """
    size = min(length - 1, _RESET_MOST)
    if size < _RESET_LEAST:
        return None
    noise = os.urandom(size - len(token))
    return bytes((noise[0] & 0x3F | 0x40,)) + noise[1:] + token  # like a short header
