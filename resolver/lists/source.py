"""What a list's `source` names, and its bytes as chunks of whole lines.

A body runs through four generators, each of which holds at most a block: read, decompress (told by magic octets, never
by file name), decode (byte-order mark), cut into lines. So memory stays constant whatever the file holds: a bomb stops
at the limit of unpacked octets, and of a line longer than MAX_LINE only the first MAX_LINE + 1 octets are passed on,
enough for the reader to see that it is too long and refuse it.

Every chunk ends at a line's end; line ends are one LF whether written CRLF, CR or LF; the last line gets its LF.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import lzma
import re
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast

import zstandard

from resolver.fetch.store import copy_of
from resolver.lists.rules import MAX_LINE, NotAList

if TYPE_CHECKING:
    from resolver.config.model import ListConfig

BLOCK = 1 << 20  # octets asked for at a time; a chunk is about as long
MAX_UNPACKED = 4 << 30  # octets of a body once unpacked, by default
MAX_MEMBERS = 1000  # of a zip archive
MAX_LINE_SHOWN = 200  # characters of a line that is told of
_PACKED_BLOCK = 1 << 16  # octets read from a compressed file at a time
_MAX_WINDOW = 128 << 20  # octets of memory that an archive may ask of its unpacker
_TEXT_PROBE = 4096  # octets by which an archive's member is judged to be text

_GZIP = b"\x1f\x8b"
_XZ = b"\xfd7zXZ\x00"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_ZIP = b"PK\x03\x04"
_ZIP_EMPTY = b"PK\x05\x06"


class SourceError(NotAList):
    """A body that cannot be read to its end: damaged, cut off, too large, or packed in a way that is not read."""


# -- which files ----------------------------------------------------------------------------------------------------


def files_of(source: str, folder: Path) -> list[Path]:
    """The files that a list's `source` names, sorted: one path, or all that a glob finds (`**` for any depth).

    A relative path starts at `folder`. Hidden files and folders are left out of a glob's. FileNotFoundError when
    nothing is there; ValueError for a source that is no file.
    """
    if scheme := re.match(r"([a-z][a-z0-9+.-]*)://", source, re.IGNORECASE):
        if scheme[1].lower() != "file":
            raise ValueError(f"{source}: lists over {scheme[1].lower()}:// are not read yet; give a path or a glob")
        source = source[scheme.end() :]
    path = folder / source
    if path.exists():  # before globbing: a name may hold brackets
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; for every file in it write {path}/*")
        return [path]
    if not glob.has_magic(source):
        raise FileNotFoundError(f"{path}: no such file")
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob wants it relative)
    files = [file for file in found if file.is_file()]
    if not files:
        raise FileNotFoundError(f"{path}: no file matches")
    return files


def files_here(listed: ListConfig, state_dir: Path) -> list[Path]:
    """The files on this machine that hold a list: its source's own, or the copy of a list from another machine.

    FileNotFoundError when there are none (yet), as the text says.
    """
    if listed.is_remote:
        return [copy_of(listed, state_dir)]
    return files_of(str(listed.path), Path("/"))


@dataclass(frozen=True, slots=True)
class SourceStat:
    """What tells without reading that a file is the one seen before."""

    path: str
    size: int  # octets
    mtime_ns: int
    inode: int


def stat_of(path: Path) -> SourceStat:
    """The stat of a file now; OSError as from stat(2)."""
    stat = path.stat()
    return SourceStat(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's octets as they are on disk, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SettleWatch:
    """Tells whether files are still being written: a file has settled once two looks, `quiet` seconds apart, agree."""

    def __init__(self, quiet: float = 0.5) -> None:
        self._quiet = quiet
        self._looks: dict[Path, tuple[SourceStat | None, float]] = {}

    def is_settled(self, path: Path, now: float) -> bool:
        """Look at `path` at time `now` (seconds of any steady clock). A file that is gone settles like any other."""
        try:
            stat = stat_of(path)
        except OSError:
            stat = None
        before, since = self._looks.get(path, (stat, None))
        if since is None or before != stat:
            self._looks[path] = (stat, now)
            return False
        return now - since >= self._quiet

    def forget(self, path: Path) -> None:
        """Drop what is known of `path`: it is dealt with, or no longer watched."""
        self._looks.pop(path, None)


# -- its lines ------------------------------------------------------------------------------------------------------


def open_source(path: Path, *, limit: int = MAX_UNPACKED) -> Iterator[bytes]:
    """The body of a file as chunks of about 1 MiB, each a run of whole lines of UTF-8.

    SourceError when the body is damaged or longer than `limit` octets once unpacked; OSError as from open and read.
    """
    left = limit

    def counted(blocks: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal left
        for block in blocks:
            left -= len(block)
            if left < 0:
                raise SourceError(f"{path}: more than {limit} octets once unpacked")
            yield block

    for body in _bodies(path):
        yield from lines_of(_decoded(counted(body)))


def lines_of(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a stream of UTF-8 anywhere into chunks of whole lines; see the module's head for what is promised."""
    rest = b""  # a line's beginning, at most MAX_LINE + 1 octets
    dropping = False  # inside the part of an overlong line that nobody will see
    after_cr = False  # the last block ended in CR, and its line end is written already
    for block in blocks:
        if not block:
            continue
        if after_cr and block.startswith(b"\n"):
            block = block[1:]
        after_cr = False
        if b"\r" in block:
            after_cr = block.endswith(b"\r")
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if dropping:
            end = block.find(b"\n")
            if end < 0:
                continue
            block = block[end:]  # with the LF: it ends the line whose beginning is in `rest`
            dropping = False
        data, rest, dropping = _whole_lines(rest + block)
        if data:
            yield data
    if rest:
        yield rest + b"\n"


def _whole_lines(data: bytes) -> tuple[bytes, bytes, bool]:
    """Split into whole lines, the beginning of the next line, and whether that one is overlong already."""
    start = 0
    kept: list[bytes] = []  # pieces before `start`, where something had to be left out
    position = 0
    while len(data) - position > MAX_LINE:
        # A window that long holds a line's end, or the line that begins here is overlong.
        end = data.rfind(b"\n", position, position + MAX_LINE + 1)
        if end >= 0:
            position = end + 1
            continue
        stop = position + MAX_LINE + 1
        end = data.find(b"\n", stop)
        kept.append(data[start:stop])
        if end < 0:
            whole = b"".join(kept)
            cut = whole.rfind(b"\n") + 1
            return whole[:cut], whole[cut:], True
        start = end
        position = end + 1
    kept.append(data[start:])
    whole = b"".join(kept) if len(kept) > 1 else kept[0]
    cut = whole.rfind(b"\n") + 1
    return whole[:cut], whole[cut:], False


def _decoded(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The stream without its byte-order mark, UTF-16 made UTF-8."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= 3:
            break
    if head.startswith(codecs.BOM_UTF8):
        yield head[3:]
        yield from blocks
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16-le" if head.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        yield decoder.decode(head[2:]).encode()
        for block in blocks:
            yield decoder.decode(block).encode()
        yield decoder.decode(b"", final=True).encode()
    else:
        yield head
        yield from blocks


# -- its octets -----------------------------------------------------------------------------------------------------


def _bodies(path: Path) -> Iterator[Iterator[bytes]]:
    """The texts in a file: one, or of a zip archive each member that is text."""
    with path.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith((_ZIP, _ZIP_EMPTY)):
            yield from _zip_members(path, file)
        elif magic.startswith(_GZIP):
            yield _gunzipped(path, file)
        elif magic.startswith(_XZ):
            yield _xz_unpacked(path, file)
        elif magic.startswith(_ZSTD) or _ZSTD_SKIPPABLE.match(magic):
            yield _zstd_unpacked(path, file)
        else:
            yield _blocks(file, BLOCK)


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while block := file.read(size):
        yield block


def _gunzipped(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """All members of a gzip file (RFC 1952 section 2.2). What follows the last one is ignored, as gzip does."""
    unpacker = zlib.decompressobj(wbits=31)
    begun = False
    try:
        for packed in _blocks(file, _PACKED_BLOCK):
            while packed:
                if unpacker.eof:
                    packed = packed.lstrip(b"\0")
                    if not packed:
                        break
                    if not _GZIP.startswith(packed[:2]):
                        return
                    unpacker = zlib.decompressobj(wbits=31)
                begun = True
                yield unpacker.decompress(packed, BLOCK)
                packed = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            while not unpacker.eof and (block := unpacker.decompress(b"", BLOCK)):  # output held back at the bound
                yield block
    except zlib.error as error:
        raise SourceError(f"{path}: damaged gzip data: {error}") from None
    if not begun or not unpacker.eof:
        raise SourceError(f"{path}: the gzip data ends early")


def _xz_unpacked(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """All streams of an xz file, padding between them skipped."""
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_WINDOW)
    try:
        for packed in _blocks(file, _PACKED_BLOCK):
            while True:
                if unpacker.eof:
                    packed = packed.lstrip(b"\0")
                    if not packed:
                        break
                    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_WINDOW)
                yield unpacker.decompress(packed, BLOCK)
                packed = unpacker.unused_data if unpacker.eof else b""
                if not unpacker.eof and unpacker.needs_input:
                    break
    except lzma.LZMAError as error:
        raise SourceError(f"{path}: damaged xz data: {error}") from None
    if not unpacker.eof:
        raise SourceError(f"{path}: the xz data ends early")


class _WithEpilogue:
    """A file followed by some more octets."""

    def __init__(self, file: BinaryIO, epilogue: bytes) -> None:
        self._file = file
        self._epilogue = epilogue

    def read(self, size: int = -1) -> bytes:
        if data := self._file.read(size):
            return data
        data, self._epilogue = self._epilogue, b""
        return data


def _zstd_unpacked(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """All frames of a zstd file.

    The library's bounded reader takes a cut-off frame for a whole one without a word. So a frame with a nonce is
    appended: where the nonce does not come out at the end, the frame before was not complete.
    """
    nonce = secrets.token_bytes(16)
    unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    packed = cast(IO[bytes], _WithEpilogue(file, zstandard.ZstdCompressor().compress(nonce)))
    reader = unpacker.stream_reader(packed, read_size=_PACKED_BLOCK, read_across_frames=True)
    held = b""
    try:
        while block := reader.read(BLOCK):
            held += block
            yield held[: -len(nonce)]
            held = held[-len(nonce) :]
    except zstandard.ZstdError as error:
        raise SourceError(f"{path}: damaged or cut-off zstd data: {error}") from None
    if held != nonce:
        raise SourceError(f"{path}: the zstd data ends early")


_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


def _zip_members(path: Path, file: BinaryIO) -> Iterator[Iterator[bytes]]:
    """The only member, or those that look like text, in the archive's order."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
            if not members:
                raise SourceError(f"{path}: an empty zip archive")
            if len(members) > MAX_MEMBERS:
                raise SourceError(f"{path}: a zip archive of {len(members)} files; at most {MAX_MEMBERS}")
            texts = 0
            for member in members:
                if member.flag_bits & 1:
                    raise SourceError(f"{path}: {member.filename} is encrypted")
                if member.compress_type not in (
                    zipfile.ZIP_STORED,
                    zipfile.ZIP_DEFLATED,
                ):  # others unpack without bound
                    raise SourceError(
                        f"{path}: {member.filename} is packed by method {member.compress_type}; use deflate"
                    )
                with archive.open(member) as body:
                    if len(members) > 1 and not _looks_like_text(body.read(_TEXT_PROBE)):
                        continue
                with archive.open(member) as body:
                    texts += 1
                    yield _zip_blocks(path, member.filename, body)
            if not texts:
                raise SourceError(f"{path}: a zip archive without a text in it")
    except _ZIP_ERRORS as error:
        raise SourceError(f"{path}: damaged zip archive: {error}") from None


def _zip_blocks(path: Path, name: str, body: IO[bytes]) -> Iterator[bytes]:
    try:
        while block := body.read(BLOCK):
            yield block
    except _ZIP_ERRORS as error:
        raise SourceError(f"{path}: damaged zip archive: {name}: {error}") from None


def _looks_like_text(head: bytes) -> bool:
    return b"\0" not in head or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def lines_at(path: Path, wanted: Set[int]) -> dict[int, str]:
    """The text of some lines of a list's file, to be shown; without those that cannot be read now."""
    found: dict[int, str] = {}
    at, last = 1, max(wanted, default=0)
    try:
        for chunk in open_source(path):
            count = chunk.count(b"\n")
            if any(at <= line <= at + count for line in wanted):
                lines = chunk.split(b"\n")
                for line in wanted:
                    if at <= line <= at + count and lines[line - at]:
                        text = lines[line - at][:MAX_LINE_SHOWN].decode("utf-8", "backslashreplace").strip()
                        found[line] = "".join(c if c.isprintable() else "?" for c in text)
            at += count
            if at > last:
                break
    except (OSError, ValueError):
        pass
    return found
