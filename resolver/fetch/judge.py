"""Whether a body is a list: read to its end like a build would, with nothing kept, so that memory stays constant.

So an HTML page, an empty body, a damaged archive or a list full of bad lines never takes a good copy's place. Also the
digests of a body, which take as long as reading it.
"""

from __future__ import annotations

import gzip
import hashlib
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from resolver.config.model import ListConfig
from resolver.engine.engine import RunBuilder
from resolver.lists.parse import read_files
from resolver.lists.reading import options_of
from resolver.lists.rules import NotAList
from resolver.lists.source import BLOCK, MAX_UNPACKED, open_source, sha256_of


class _Nowhere:
    """A rule sink that keeps nothing."""

    def add(self, name: bytes, scope: int, outcome: int, line: int) -> None:
        """See RuleSink."""

    def scan(
        self, chunk: bytes, first_line: int, templates: Sequence[tuple[bytes, bytes, int, int]]
    ) -> tuple[int, list[tuple[int, bytes]]]:
        """See RuleSink: what the run builder says to this chunk, which goes with it."""
        return RunBuilder().scan(chunk, first_line, templates)


def judge(body: Path, listed: ListConfig) -> None:
    """NotAList, with the list's source in its text, where `body` is no list as its config describes it."""
    try:
        read_files([(listed.shown, open_source(body))], options_of(listed), _Nowhere())
    except NotAList as error:
        raise NotAList(str(error).replace(str(body), listed.shown)) from None


def digests(body: Path, encoding: str) -> tuple[str, str]:
    """The SHA-256 of the octets as they came, and of what they were before the server packed them ("gzip" or ""), in
    hexadecimal. NotAList where they cannot be unpacked."""
    as_sent = sha256_of(body)
    if not encoding:
        return as_sent, as_sent
    unpacked = hashlib.sha256()
    for block in unpacked_blocks(body):
        unpacked.update(block)
    return as_sent, unpacked.hexdigest()


def unpacked_blocks(body: Path) -> Iterator[bytes]:
    """What a body was before the server packed it. NotAList where it cannot be unpacked."""
    left = MAX_UNPACKED
    try:
        with gzip.open(body) as file:
            while block := file.read(BLOCK):
                yield block
                left -= len(block)
                if left < 0:
                    raise NotAList(f"more than {MAX_UNPACKED} octets once unpacked")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise NotAList(f"damaged gzip data: {error}") from None


def signed_octets(body: Path, encoding: str, is_hashed: bool) -> Iterator[bytes | memoryview]:
    """What a signature of a body may be of: the BLAKE2b-512 or the octets, of the body as it was before the server packed
    it, then as it came. Octets are mapped, those that were unpacked in a file that lasts as long as they are looked at."""
    for is_packed in (True, False) if encoding else (False,):
        blocks = unpacked_blocks(body) if is_packed else blocks_of(body)
        if is_hashed:
            state = hashlib.blake2b()
            for block in blocks:
                state.update(block)
            yield state.digest()
        elif not is_packed:
            yield from _mapped(body)
        else:
            with tempfile.NamedTemporaryFile(dir=body.parent) as file:
                file.writelines(blocks)
                file.flush()
                yield from _mapped(Path(file.name))


def _mapped(path: Path) -> Iterator[bytes | memoryview]:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as octets:
            yield octets


def blocks_of(path: Path) -> Iterator[bytes]:
    """A file's octets, a block at a time."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
