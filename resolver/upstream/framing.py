"""DNS messages on a stream, each behind its length (RFC 1035 section 4.2.2), pipelined (RFC 7766 section 6.2.1.1): sans-IO.

A Dialogue is what connection.py wants of the language spoken on a connection: queries to octets, octets to answers. Ids are
replaced by ones that are free on the connection, since independent exchanges pick theirs at random.
"""

from __future__ import annotations

import os
import struct
from typing import Final, Protocol

from resolver.upstream.carrier import Fault

_UINT16 = struct.Struct(">H")
PIPELINE: Final = 8192  # queries at a time on a connection


class Dialogue(Protocol):
    """What is spoken on one connection from its opening to its end. A broken protocol is a ProtocolError."""

    @property
    def has_room(self) -> bool:
        """Whether another query may be asked now."""

    @property
    def is_over(self) -> bool:
        """Whether the server takes no further queries here, so that a new connection has to be opened."""

    def ask(self, payload: bytes) -> int:
        """Ask; the key by which the answer comes. The octets are among the next `take`."""

    @property
    def can_cancel(self) -> bool:
        """Whether the server can be told that nobody waits for an answer any more."""

    def forget(self, key: int) -> None:
        """Nobody waits for this answer: the server is told, or has been silent for so long that it will not come."""

    def receive(self, data: bytes) -> list[tuple[int, bytes | Fault]]:
        """What the server's octets bring: (key, message or what came instead of one)."""

    def take(self) -> bytes:
        """The octets to send, once."""


class ProtocolError(Exception):
    """The server speaks something else."""


class Framing:
    """The Dialogue of plain TCP and of TLS."""

    def __init__(self) -> None:
        self._buffer = b""
        self._out: list[bytes] = []
        self._keys: set[int] = set()
        self.is_over = False
        self.can_cancel = False  # an id is not free before its answer has come

    @property
    def has_room(self) -> bool:
        """See Dialogue."""
        return len(self._keys) < PIPELINE

    def ask(self, payload: bytes) -> int:
        """See Dialogue; the key is the id on this connection."""
        key: int = _UINT16.unpack_from(payload)[0]
        while key in self._keys:
            key = int.from_bytes(os.urandom(2), "big")
        self._keys.add(key)
        self._out += (_UINT16.pack(len(payload)), _UINT16.pack(key), payload[2:])
        return key

    def forget(self, key: int) -> None:
        """See Dialogue."""
        self._keys.discard(key)

    def receive(self, data: bytes) -> list[tuple[int, bytes | Fault]]:
        """See Dialogue."""
        found: list[tuple[int, bytes | Fault]] = []
        buffer = self._buffer + data if self._buffer else data
        offset, end = 0, len(buffer)
        while end - offset >= 2:
            length = _UINT16.unpack_from(buffer, offset)[0]
            if end - offset - 2 < length:
                break
            offset += 2 + length
            if length >= 2:
                key = _UINT16.unpack_from(buffer, offset - length)[0]
                self._keys.discard(key)
                found.append((key, buffer[offset - length : offset]))
        self._buffer = buffer[offset:]
        return found

    def take(self) -> bytes:
        """See Dialogue."""
        octets = b"".join(self._out)
        self._out.clear()
        return octets
