"""Reads and writes files of checked sections: what run and index files have in common (the bytes: layout.py).

A file is written beside its place and renamed when it is whole and on the disk, so a reader sees all of it or nothing,
and one that is mapped never changes.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

from resolver.engine.engine import checksum
from resolver.lists.layout import ALIGN, CHECKSUM, PROLOGUE, SECTION, FileKind, Section

COPIED = 1 << 18  # octets at a time
Octets: TypeAlias = "bytes | bytearray | array[Any]"  # what a section is made of


class Damaged(ValueError):
    """A file is not what it should be; the text names the file and the fault."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes `path`'s place when the block ends without an exception, and is durable then."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class SectionWriter:
    """Writes the sections of a file in order, then its header. The file is at its place after `finish`."""

    def __init__(self, file: IO[bytes], kind: FileKind) -> None:
        self._file = file
        self._kind = kind
        self._sections: list[Section] = []
        self._file.seek(kind.start)

    def tell(self) -> int:
        """Where the next octet goes."""
        return self._file.tell()

    def add(self, octets: Octets) -> None:
        """Write a whole section."""
        start = self._align()
        # In pieces: one system call for all of it would hold up whoever else has this core, milliseconds at a time.
        with memoryview(octets).cast("B") as view:
            length = sum(self._file.write(view[at : at + COPIED]) for at in range(0, len(view), COPIED))
        self._sections.append(Section(start, length, checksum(octets)))

    def begin(self) -> None:
        """Begin a section that is written piece by piece, each with a checksum of its own."""
        self._sections.append(Section(self._align(), 0, 0))

    def write(self, piece: Octets) -> None:
        """Write a piece of the section begun."""
        written = self._file.write(piece)
        section = self._sections[-1]
        self._sections[-1] = section._replace(length=section.length + written)

    def copy(self, source: SectionReader, number: int) -> None:
        """Copy a section of another file; its checksum is taken over, and is what a reader finds damage by."""
        self.begin()
        section = source.sections[number]
        end = section.offset + section.length
        for at in range(section.offset, end, COPIED):
            self.write(source.octets_at(at, min(COPIED, end - at)))
        self._sections[-1] = self._sections[-1]._replace(checksum=section.checksum)

    def finish(self, *facts: object) -> int:
        """Write the header; returns the file's length in octets."""
        kind = self._kind
        length = self._file.tell()
        header = PROLOGUE.pack(kind.magic, kind.version, kind.sections, length) + kind.facts.pack(*facts)
        header += b"".join(SECTION.pack(*section) for section in self._sections)
        self._file.seek(0)
        self._file.write(header + CHECKSUM.pack(checksum(header)))
        return length

    def _align(self) -> int:
        at = self._file.tell()
        self._file.write(bytes(-at % ALIGN))
        return self._file.tell()


class SectionReader:
    """Opens a file of sections and verifies its header; a section is verified when it is read. Damaged if not."""

    def __init__(self, path: Path, kind: FileKind) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self._read_header(kind)
        except BaseException:
            self._file.close()
            raise

    def _read_header(self, kind: FileKind) -> None:
        header = self._file.read(kind.header)
        size = os.fstat(self._file.fileno()).st_size
        if len(header) < kind.header:
            raise Damaged(f"{self.path}: no {kind.word} file: shorter than its header")
        magic, version, sections, length = PROLOGUE.unpack_from(header)
        if magic != kind.magic:
            raise Damaged(f"{self.path}: no {kind.word} file: the magic number is wrong")
        if version != kind.version:
            raise Damaged(f"{self.path}: {kind.word} version {version}, expected {kind.version}: compile again")
        if CHECKSUM.unpack_from(header, kind.header - CHECKSUM.size)[0] != checksum(header[: -CHECKSUM.size]):
            raise Damaged(f"{self.path}: the header's checksum is wrong")
        if sections != kind.sections or length != size:
            raise Damaged(f"{self.path}: {size} octets long, the header says {length}")
        self.facts: tuple[object, ...] = kind.facts.unpack_from(header, PROLOGUE.size)
        table = PROLOGUE.size + kind.facts.size
        self.sections = [Section(*SECTION.unpack_from(header, table + SECTION.size * i)) for i in range(kind.sections)]
        for section in self.sections:
            if section.offset < kind.header or section.offset + section.length > size:
                raise Damaged(f"{self.path}: a section lies outside the file")

    def read(self, number: int) -> bytes:
        """A whole section."""
        section = self.sections[number]
        return self.read_at(section.offset, section.length, section.checksum)

    def read_at(self, offset: int, length: int, expected: int) -> bytes:
        """Some octets whose checksum is known."""
        octets = os.pread(self._file.fileno(), length, offset)
        if len(octets) != length or checksum(octets) != expected:
            raise Damaged(f"{self.path}: the checksum of {length} octets at {offset} is wrong")
        return octets

    def octets_at(self, offset: int, length: int) -> bytes:
        """Some octets that the caller need not trust yet; Damaged if the file has become shorter."""
        octets = os.pread(self._file.fileno(), length, offset)
        if len(octets) != length:
            raise self.damaged(f"cut off at {offset + len(octets)} octets")
        return octets

    def damaged(self, fault: object) -> Damaged:
        """An exception that names this file."""
        return Damaged(f"{self.path}: {fault}")

    def close(self) -> None:
        """Give the descriptor back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
