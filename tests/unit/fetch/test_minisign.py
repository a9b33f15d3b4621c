"""Lists that are signed with the real minisign, in either of its forms, and what must not pass for such."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resolver.config.load import load
from resolver.config.problem import ConfigError
from resolver.fetch.store import copy_of
from tests.listserver import Document, ListServer, Silence, Status
from tests.signer import Signer
from tests.unit.fetch.test_http import NEW, OLD, PAGE, Site

pytestmark = pytest.mark.peer("minisign")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("signer"))


@pytest.fixture
def site(tmp_path: Path, signer: Signer) -> Site:
    made = Site(tmp_path)
    made.list_options |= {"signature": "auto", "public_key": signer.public_key}
    return made


@pytest.fixture
def served(site: Site, signer: Signer) -> Iterator[ListServer]:
    """A source from which a signed copy has come already."""
    with ListServer() as server:
        site.source = server.url("/ads.txt")
        server.serve("/ads.txt", Document(OLD, etag='"1"'))
        server.serve("/ads.txt.minisig", Document(signer.sign(OLD)))
        assert site.fetch().changed and site.copy() == OLD
        yield server


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_signed_body_is_taken(site: Site, served: ListServer, signer: Signer, legacy: bool, packed: bool) -> None:
    served.serve("/ads.txt", Document(NEW, packed=packed))
    served.serve("/ads.txt.minisig", Document(signer.sign(NEW, legacy=legacy)))
    assert site.fetch().changed
    assert (gzip.decompress(site.copy()) if packed else site.copy()) == NEW


@pytest.mark.parametrize("legacy", [False, True])
def test_a_packed_file_may_be_signed_as_it_is(site: Site, served: ListServer, signer: Signer, legacy: bool) -> None:
    packed = gzip.compress(NEW)
    served.serve("/ads.txt", Document(packed))
    served.serve("/ads.txt.minisig", Document(signer.sign(packed, legacy=legacy)))
    assert site.fetch().changed and copy_of(site.listed, site.folder).read_bytes() == packed


def altered(octets: bytes, line: int, at: int) -> bytes:
    """A signature file with one bit of a base64 line turned."""
    lines = octets.splitlines()
    raw = bytearray(base64.b64decode(lines[line]))
    raw[at] ^= 1
    lines[line] = base64.b64encode(raw)
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("another body", "does not fit it"),
        ("a bit of the signature", "is damaged"),
        ("a bit of the global signature", "is damaged"),
        ("the trusted comment", "its trusted comment was changed"),
        ("another key", "is by the key"),
        ("another key under this id", "is damaged"),
        ("not there", "HTTP 404"),
        ("silence", "no answer within"),
        ("a page", "no file of minisign"),
        ("half of it", "no file of minisign"),
        ("empty", "no file of minisign"),
        ("endless", "no signature of minisign"),
    ],
)
def test_without_the_right_signature_nothing_changes(
    site: Site, served: ListServer, signer: Signer, tmp_path: Path, what: str, says: str, legacy: bool
) -> None:
    right = signer.sign(NEW, legacy=legacy)
    other = Signer(tmp_path / "other").sign(NEW, legacy=legacy)
    stolen = bytearray(base64.b64decode(other.splitlines()[1]))
    stolen[2:10] = base64.b64decode(right.splitlines()[1])[2:10]
    renamed = other.splitlines()
    renamed[1] = base64.b64encode(stolen)
    acts: dict[str, Any] = {
        "another body": Document(signer.sign(OLD, legacy=legacy)),
        "a bit of the signature": Document(altered(right, 1, 30)),
        "a bit of the global signature": Document(altered(right, 3, 30)),
        "the trusted comment": Document(right.replace(b"a list", b"a lift")),
        "another key": Document(other),
        "another key under this id": Document(b"\n".join(renamed)),
        "not there": Status(404),
        "silence": Silence(),
        "a page": Document(PAGE),
        "half of it": Document(b"\n".join(right.splitlines()[:2])),
        "empty": Document(b""),
        "endless": Document(b"x" * (64 << 10)),
    }
    served.serve("/ads.txt", Document(NEW))
    served.serve("/ads.txt.minisig", acts[what])
    assert says in site.fails()
    assert site.copy() == OLD
    assert not list(site.place.part_path.parent.glob("tmp*"))  # what was unpacked to look at it
    served.serve("/ads.txt.minisig", Document(right))
    assert site.fetch().changed and site.copy() == NEW


def test_the_signature_of_a_mirrors_body_is_beside_it(site: Site, served: ListServer, signer: Signer) -> None:
    site.list_options["mirrors"] = [served.url("/mirror/ads.txt?day=1")]
    served.serve("/ads.txt", Document(NEW))
    served.serve("/ads.txt.minisig", Document(signer.sign(OLD)))
    served.serve("/mirror/ads.txt?day=1", Document(NEW))
    served.serve("/mirror/ads.txt.minisig?day=1", Document(signer.sign(NEW)))
    assert site.fetch().changed and site.copy() == NEW


def test_a_signature_elsewhere(site: Site, served: ListServer, signer: Signer) -> None:
    site.list_options["signature"] = served.url("/signatures/ads")
    served.serve("/ads.txt", Document(NEW))
    served.serve("/signatures/ads", Document(signer.sign(NEW)))
    assert site.fetch().changed and site.copy() == NEW


def test_a_copy_that_was_never_held_against_this_key_is_asked_for_whole(
    site: Site, served: ListServer, signer: Signer, tmp_path: Path
) -> None:
    assert not site.fetch().changed
    assert served.seen[-1].status == 304
    site.list_options["public_key"] = Signer(tmp_path / "new").public_key
    assert "is by the key" in site.fails()
    assert "if-none-match" not in next(seen for seen in served.seen[-2:] if seen.path == "/ads.txt").headers
    assert site.copy() == OLD


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("signature: auto", "public key of minisign"),
        ("signature: auto, public_key: RWQnonsense", "public key of minisign"),
        ("public_key: KEY", "without a signature"),
        ("signature: ads.minisig, public_key: KEY", "expected auto"),
    ],
)
def test_the_config_says_what_is_missing(tmp_path: Path, signer: Signer, options: str, says: str) -> None:
    options = options.replace("KEY", signer.public_key)
    path = tmp_path / "config.yaml"
    path.write_text(f"lists: [{{name: ads, source: 'https://lists.example/ads.txt', {options}}}]\n")
    with pytest.raises(ConfigError, match=says):
        load(path)


def test_a_file_needs_no_signature(tmp_path: Path, signer: Signer) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"lists: [{{name: ads, source: ads.txt, signature: auto, public_key: {signer.public_key}}}]\n")
    with pytest.raises(ConfigError, match=r"lists.*signature.*only bodies from http"):
        load(path)
