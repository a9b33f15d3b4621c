from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from resolver.lists import source
from resolver.lists.rules import MAX_LINE
from resolver.lists.source import SettleWatch, SourceError, files_of, lines_of, open_source, sha256_of, stat_of

BODY = b"".join(b"name%d.example.com\n" % number for number in range(100_000))  # about 2.3 MB


def read(path: Path, limit: int = source.MAX_UNPACKED) -> bytes:
    return b"".join(open_source(path, limit=limit))


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(body: bytes) -> Path:
        path = tmp_path / "list"
        path.write_bytes(body)
        return path

    return write


# -- lines ----------------------------------------------------------------------------------------------------------


def naive(data: bytes) -> list[bytes]:
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line[: MAX_LINE + 1] for line in lines]


BLOCKS = st.lists(
    st.one_of(
        st.sampled_from([b"\n", b"\r", b"\r\n", b"", b"a.com", b"b" * MAX_LINE, b"c" * (MAX_LINE + 1)]),
        st.binary(max_size=5),
        st.integers(0, 3 * MAX_LINE).map(lambda size: b"d" * size),
    ),
    max_size=12,
)


@given(BLOCKS)
def test_lines_come_out_whole_wherever_blocks_are_cut(blocks: list[bytes]) -> None:
    chunks = list(lines_of(iter(blocks)))
    assert all(chunk.endswith(b"\n") for chunk in chunks)
    data = b"".join(chunks)
    assert data.split(b"\n")[:-1] == naive(b"".join(blocks))


def test_chunks_are_about_a_block_long(file: Callable[[bytes], Path]) -> None:
    chunks = list(open_source(file(BODY)))
    assert b"".join(chunks) == BODY
    assert max(len(chunk) for chunk in chunks) <= source.BLOCK + MAX_LINE


def test_a_line_of_a_gigabyte_is_never_held() -> None:
    block = b"x" * source.BLOCK

    def blocks() -> Iterator[bytes]:
        yield b"first.com\n"
        for _ in range(1024):
            yield block
        yield b"\nlast.com\n"

    tracemalloc.start()
    lines = b"".join(lines_of(blocks())).split(b"\n")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(line) for line in lines] == [9, MAX_LINE + 1, 8, 0]
    assert peak < 8 << 20


# -- encodings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_dropped(file: Callable[[bytes], Path], encoding: str) -> None:
    text = "bücher.de\r\nx.com\n"
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    assert read(file(mark + text.encode(encoding))).decode() == "bücher.de\nx.com\n"


def test_a_broken_utf16_text_still_gives_its_good_lines(file: Callable[[bytes], Path]) -> None:
    body = "a.com\n".encode("utf-16-le") + b"\x00\xd8" + "\nb.com".encode("utf-16-le") + b"\x00"
    assert read(file(b"\xff\xfe" + body)).splitlines()[0] == b"a.com"


@pytest.mark.parametrize("body", [b"", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_an_empty_file_has_no_chunks(file: Callable[[bytes], Path], body: bytes) -> None:
    assert read(file(body)) == b""


# -- compression ----------------------------------------------------------------------------------------------------


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return body.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip in members": lambda body: gzip.compress(body[:1000]) + gzip.compress(body[1000:]) + b"\0" * 512,
    "xz": lzma.compress,
    "xz in streams": lambda body: lzma.compress(body[:1000]) + b"\0" * 8 + lzma.compress(body[1000:]),
    "zstd": zstandard.ZstdCompressor().compress,
    "zstd in frames": lambda body: (
        zstandard.ZstdCompressor().compress(body[:1000]) + zstandard.ZstdCompressor(level=9).compress(body[1000:])
    ),
    "zip": lambda body: zipped(("list.txt", body)),
    "zip, stored": lambda body: zipped(("list.txt", body), method=zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("packer", PACKERS)
def test_a_packed_body_is_told_by_its_magic(file: Callable[[bytes], Path], packer: str) -> None:
    assert read(file(PACKERS[packer](BODY))) == BODY


@pytest.mark.parametrize("packer", PACKERS)
def test_a_packed_body_that_ends_early_is_refused(file: Callable[[bytes], Path], packer: str) -> None:
    packed = PACKERS[packer](BODY).rstrip(b"\0")
    for kept in (len(packed) - 6, len(packed) // 2, 12):
        with pytest.raises(SourceError, match=r"early|damaged"):
            read(file(packed[:kept]))


@pytest.mark.parametrize("packer", ["gzip", "xz", "zip"])  # zstd has no checksum unless asked for
def test_a_packed_body_with_a_flipped_bit_is_refused(file: Callable[[bytes], Path], packer: str) -> None:
    packed = bytearray(PACKERS[packer](BODY))
    packed[len(packed) // 2] ^= 4
    with pytest.raises(SourceError, match="damaged"):
        read(file(bytes(packed)))


@pytest.mark.parametrize("packer", PACKERS)
def test_a_bomb_stops_at_the_limit(file: Callable[[bytes], Path], packer: str) -> None:
    path = file(PACKERS[packer](b"\n" * (64 << 20)))
    tracemalloc.start()
    with pytest.raises(SourceError, match="more than 8388608 octets"):
        read(path, limit=8 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20


def test_a_bomb_of_one_line_stops_at_the_limit(file: Callable[[bytes], Path]) -> None:
    with pytest.raises(SourceError, match="octets once unpacked"):
        read(file(gzip.compress(b"x" * (16 << 20))), limit=8 << 20)


def test_a_zip_archive_gives_all_its_texts(file: Callable[[bytes], Path]) -> None:
    members = [
        ("a.txt", b"\xef\xbb\xbfa.com"),
        ("icon.png", b"\x89PNG\0\0"),
        ("__MACOSX/a.txt", b"no.com\n"),
        ("b.txt", "b.com".encode("utf-16")),
    ]
    assert read(file(zipped(*members))) == b"a.com\nb.com\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (zipped(), "empty zip archive"),
        (zipped(("a", b"\0"), ("b", b"\0")), "without a text"),
        (zipped(("a", b"x"), method=zipfile.ZIP_LZMA), "use deflate"),
        (zipped(*((str(number), b"x") for number in range(1001))), "at most 1000"),
    ],
)
def test_what_a_zip_archive_must_not_be(file: Callable[[bytes], Path], body: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=reason):
        read(file(body))


def test_an_encrypted_zip_archive_is_refused(file: Callable[[bytes], Path]) -> None:
    body = bytearray(zipped(("a", b"x.com")))
    body[6] |= 1
    body[body.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(SourceError, match="encrypted"):
        read(file(bytes(body)))


# -- files ----------------------------------------------------------------------------------------------------------


def test_a_source_is_a_path_or_a_glob(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.conf", ".hidden.txt", "sub/d.txt", "odd[1].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x.com\n")
    assert files_of("b.txt", tmp_path) == [tmp_path / "b.txt"]
    assert files_of(str(tmp_path / "b.txt"), Path("/elsewhere")) == [tmp_path / "b.txt"]
    assert files_of(f"file://{tmp_path}/b.txt", Path("/elsewhere")) == [tmp_path / "b.txt"]
    assert files_of("[ab].txt", tmp_path) == [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert files_of("odd[1].txt", tmp_path) == [tmp_path / "odd[1].txt"]
    assert [path.name for path in files_of("**/*.txt", tmp_path)] == ["a.txt", "b.txt", "odd[1].txt", "d.txt"]


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("none.txt", FileNotFoundError, "no such file"),
        ("*.none", FileNotFoundError, "no file matches"),
        (".", IsADirectoryError, r"write .*/\*"),
        ("https://x.com/list", ValueError, "https:// are not read yet"),
        ("axfr://ns.x.com/zone", ValueError, "axfr:// are not read yet"),
    ],
)
def test_a_source_that_is_not_there_says_so(tmp_path: Path, text: str, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        files_of(text, tmp_path)


def test_a_fingerprint_tells_a_changed_file(file: Callable[[bytes], Path]) -> None:
    path = file(b"x.com\n")
    before = stat_of(path)
    assert stat_of(path) == before
    assert sha256_of(path) == hashlib.sha256(b"x.com\n").hexdigest()
    path.write_bytes(b"x.com\ny.com\n")
    assert stat_of(path) != before
    assert sha256_of(path) == hashlib.sha256(b"x.com\ny.com\n").hexdigest()


def test_a_file_settles_once_two_looks_agree(file: Callable[[bytes], Path]) -> None:
    path = file(b"x.com\n")
    watch = SettleWatch(quiet=0.5)
    assert not watch.is_settled(path, 10.0)
    assert not watch.is_settled(path, 10.2)
    with path.open("ab") as out:
        out.write(b"y.com\n")
    assert not watch.is_settled(path, 10.6)
    assert not watch.is_settled(path, 11.0)
    assert watch.is_settled(path, 11.2)
    os.utime(path, ns=(1, 1))
    assert not watch.is_settled(path, 12.0)
    path.unlink()
    assert not watch.is_settled(path, 13.0)
    assert watch.is_settled(path, 13.5)
    watch.forget(path)
    assert not watch.is_settled(path, 14.0)
