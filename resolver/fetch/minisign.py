"""Signatures by minisign, held against a body (https://jedisct1.github.io/minisign/, "Signature format").

    untrusted comment: anything
    base64(algorithm, key's id, signature)       of the body, or, with ED, of its BLAKE2b-512
    trusted comment: anything
    base64(global signature)                     of the signature and the trusted comment

Both signatures must be right, and made by the key that the config names. Ed, the older way, signs the body itself, which
is mapped, not read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import NamedTuple

from resolver.config.signing import PublicKey
from resolver.lists.rules import NotAList

MAX_SIGNATURE_FILE = 16 << 10  # octets
_UNTRUSTED, _TRUSTED = "untrusted comment:", "trusted comment: "


class Signature(NamedTuple):
    """A signature file, taken apart."""

    is_hashed: bool
    key_id: bytes
    octets: bytes
    comment: bytes
    over_all: bytes


def parse_signature(octets: bytes) -> Signature:
    """The signature in a .minisig file. NotAList says why there is none."""
    try:
        lines = octets.decode().splitlines()
        if len(lines) < 4 or not lines[0].startswith(_UNTRUSTED) or not lines[2].startswith(_TRUSTED):
            raise ValueError
        made, over_all = (base64.b64decode(line, validate=True) for line in (lines[1], lines[3]))
        if len(made) != 74 or made[:2] not in (b"Ed", b"ED") or len(over_all) != 64:
            raise ValueError
    except (binascii.Error, ValueError):
        raise NotAList("its signature is no file of minisign") from None
    comment = lines[2].removeprefix(_TRUSTED).encode()
    return Signature(made[:2] == b"ED", made[2:10], made[10:], comment, over_all)


def check_signature(signature: Signature, key: PublicKey, messages: Iterable[bytes | memoryview]) -> None:
    """NotAList unless the signature is the key's, and of one of the messages: bodies, or their hashes if it is of such."""
    from cryptography.exceptions import InvalidSignature  # where lists are signed alone
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if signature.key_id != key.id:
        raise NotAList(f"its signature is by the key {_shown(signature.key_id)}, not by {_shown(key.id)} (public_key)")
    public = Ed25519PublicKey.from_public_bytes(key.octets)
    try:
        public.verify(signature.over_all, signature.octets + signature.comment)
    except InvalidSignature:
        raise NotAList("its signature is damaged, or its trusted comment was changed") from None
    for message in messages:
        try:
            public.verify(signature.octets, message)
        except InvalidSignature:
            continue
        return
    raise NotAList("its signature does not fit it: it was altered, or its signature is of another version")


def _shown(key_id: bytes) -> str:
    """A key's id as minisign prints it."""
    return key_id[::-1].hex().upper()
