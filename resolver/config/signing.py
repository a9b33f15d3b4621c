"""The public keys that lists are signed with, as minisign writes them: 42 octets in base64, `Ed`, the key's id, the key."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

LENGTH = 42  # octets: 2 of the algorithm, 8 of the key's id, 32 of the key


class PublicKey(NamedTuple):
    """An Ed25519 key (RFC 8032) and the 8 octets that signatures name it by."""

    id: bytes
    octets: bytes


def parse_public_key(text: str) -> PublicKey:
    """The key in the second line of a file that `minisign -G` wrote. ValueError for anything else."""
    try:
        octets = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        octets = b""
    if len(octets) != LENGTH or octets[:2] != b"Ed":
        raise ValueError("expected a public key of minisign: the line in its .pub file that begins with RW")
    return PublicKey(octets[2:10], octets[10:])
