"""A worker's cache between its end and the next start: one file, written when it drains, read once it serves again.

    line of JSON (what this is, when it was written, whom the answers came from) │ records │ BLAKE2b of all before it

    record  u16 octets of the key │ u32 age in seconds │ u32 octets of the message │ key │ message

It is only a cache: a file that is damaged, of another version, or from other upstream servers is not used, and each
answer in it goes through the same checks as one from a server. It is taken away as it is read, so that a crash or
`tampah flush` cannot bring back what was forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from resolver.snapshot import write_whole

if TYPE_CHECKING:
    from resolver.engine.engine import Engine

VERSION = 1
AT_ONCE = 200  # answers taken back before queries get their turn
_RECORD = struct.Struct("<HII")
_DIGEST = 32

_log = logging.getLogger(__name__)


def save(path: Path, engine: Engine, asked_whom: str) -> int:
    """Write what the engine keeps; how many answers. OSError where that cannot be done.

    `asked_whom`: what the answers depend on, such as the servers; only a load with the same takes them.
    """
    kept = engine.kept()
    head = {"tampah cache": VERSION, "saved": time.time(), "from": asked_whom}
    parts = [json.dumps(head).encode() + b"\n"]
    for key, age, message in kept:
        parts += (_RECORD.pack(len(key), age, len(message)), key, message)
    body = b"".join(parts)
    write_whole(path, body + hashlib.blake2b(body, digest_size=_DIGEST).digest())
    return len(kept)


async def load(path: Path, engine: Engine, asked_whom: str) -> int:
    """Give the engine back what it kept, between its queries; how many answers it took. The file is gone afterwards."""
    try:
        octets = await asyncio.to_thread(_take, path)
    except FileNotFoundError:
        return 0
    except OSError as error:
        _log.warning("%s: the cache of the last run is not used: %s", path, error.strerror or error)
        return 0
    body, digest = octets[:-_DIGEST], octets[-_DIGEST:]
    line, _, records = body.partition(b"\n")
    try:
        if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
            raise ValueError("damaged")
        head = json.loads(line)
        if head["tampah cache"] != VERSION:
            raise ValueError(f"version {head['tampah cache']}")
        since = max(0, int(time.time() - head["saved"]))
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("%s: the cache of the last run is not used: %s", path, error)
        return 0
    if head["from"] != asked_whom:
        _log.info("the cache of the last run is not used: the upstream servers have changed")
        return 0
    return await _give_back(engine, records, since)


def _take(path: Path) -> bytes:
    octets = path.read_bytes()
    path.unlink()
    return octets


async def _give_back(engine: Engine, records: bytes, since: int) -> int:
    at = taken = number = 0
    while at < len(records):
        key_size, age, size = _RECORD.unpack_from(records, at)
        at += _RECORD.size
        end = at + key_size + size
        taken += engine.keep(records[at : at + key_size], age + since, records[at + key_size : end])
        at = end
        number += 1
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
    _log.info("%d of %d answers of the last run are in the cache again", taken, number)
    return taken
