"""One list over HTTP: what a good source gives, and that whatever a bad one does leaves the copy as it was."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resolver.config.model import Config, ListConfig
from resolver.fetch.base import Fetched, FetchError
from resolver.fetch.http import HttpFetcher, find_digest
from resolver.fetch.process import fetch_once
from resolver.fetch.store import Place, copy_of
from tests.listserver import Authority, Document, ListServer, Octets, Silence, Status, full_backlog

OLD = b"old.example\n"
NEW = b"".join(b"name%d.example\n" % number for number in range(20_000))  # about 320 kB
PAGE = b"<!DOCTYPE html><html><body>Moved to our shop</body></html>\n" * 50


class Site:
    """A config with one list, and what has come of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetch_options: dict[str, Any] = {"timeout": "300ms", "deadline": "5s"}
        self.list_options: dict[str, Any] = {}
        self.source = ""

    @property
    def config(self) -> Config:
        listed = {"name": "ads", "source": self.source, **self.list_options}
        return Config.model_validate(
            {"state_dir": str(self.folder), "lists": [listed], "fetch": self.fetch_options},
            context={"file": self.folder / "config.yaml"},
        )

    @property
    def listed(self) -> ListConfig:
        return self.config.lists[0]

    @property
    def place(self) -> Place:
        return Place(self.folder, "ads")

    def fetch(self) -> Fetched:
        async def go() -> Fetched:
            return await fetch_once(
                {"http": HttpFetcher(self.config), "https": HttpFetcher(self.config)}, self.place, self.listed
            )

        return asyncio.run(go())

    def fails(self) -> str:
        with pytest.raises(FetchError) as caught:
            self.fetch()
        return str(caught.value)

    def copy(self) -> bytes:
        return copy_of(self.listed, self.folder).read_bytes()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def maintainer(site: Site) -> Iterator[ListServer]:
    with ListServer() as server:
        server.serve("/old.txt", Document(OLD, etag='"old"'))
        site.source = server.url("/ads.txt")
        yield server


@pytest.fixture
def served(site: Site, maintainer: ListServer) -> ListServer:
    """A source from which a copy has come already."""
    maintainer.serve("/ads.txt", Document(OLD, etag='"1"'))
    assert site.fetch().changed
    assert site.copy() == OLD
    return maintainer


# -- what a good source gives -----------------------------------------------------------------------------------------
def test_what_has_not_changed_is_not_sent_again(site: Site, maintainer: ListServer) -> None:
    maintainer.serve("/ads.txt", Document(NEW, etag='"1"', last_modified="Tue, 03 Nov 2026 10:00:00 GMT"))
    assert site.fetch() == Fetched(changed=True, octets=len(NEW))
    path = copy_of(site.listed, site.folder)
    assert site.fetch() == Fetched(changed=False, octets=0)
    first, second = maintainer.seen
    assert (first.status, second.status, second.sent) == (200, 304, 0)
    assert second.headers["if-none-match"] == '"1"'
    assert second.headers["if-modified-since"] == "Tue, 03 Nov 2026 10:00:00 GMT"
    assert second.headers["user-agent"] == "tampah"
    assert copy_of(site.listed, site.folder) == path and path.read_bytes() == NEW


def test_the_same_octets_are_no_change_even_without_validators(site: Site, maintainer: ListServer) -> None:
    maintainer.serve("/ads.txt", Document(NEW))
    assert site.fetch().changed
    before = copy_of(site.listed, site.folder).stat()
    assert site.fetch() == Fetched(changed=False, octets=len(NEW))
    after = copy_of(site.listed, site.folder).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_packed_body_is_kept_as_it_is_sent(site: Site, maintainer: ListServer) -> None:
    maintainer.serve("/ads.txt", Document(NEW, packed=True, chunked=True))
    fetched = site.fetch()
    assert fetched.changed and fetched.octets < len(NEW) / 3
    assert site.copy()[:2] == b"\x1f\x8b"


def test_a_new_body_takes_the_place_of_the_old_and_the_one_before_is_kept(site: Site, served: ListServer) -> None:
    for number in range(3):
        served.serve("/ads.txt", Document(b"new%d.example\n" % number))
        assert site.fetch().changed
    assert site.copy() == b"new2.example\n"
    assert {path.read_bytes() for path in site.place.folder.glob("*.body")} == {b"new2.example\n", b"new1.example\n"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(site: Site, served: ListServer, status: int) -> None:
    served.serve("/ads.txt", Status(status, {"Location": "/new.txt#top"}))
    served.serve("/new.txt", Document(NEW))
    assert site.fetch().changed
    assert site.copy() == NEW


def test_user_and_password_go_to_their_server_and_nowhere_else(site: Site, maintainer: ListServer) -> None:
    with ListServer() as other:
        maintainer.serve("/ads.txt", Status(302, {"Location": other.url("/ads.txt")}))
        other.serve("/ads.txt", Document(NEW), Status(404))
        site.source = site.source.replace("http://", "http://me:secret@")
        assert site.fetch().changed
        assert maintainer.seen[0].headers["authorization"] == "Basic bWU6c2VjcmV0"
        assert "authorization" not in other.seen[0].headers
        assert "secret" not in site.fails()
        assert "secret" not in site.listed.shown


def test_a_proxy_is_asked_instead(site: Site, maintainer: ListServer) -> None:
    """In the proxy's hands the name is the proxy's to look up: it need not be known here."""
    site.source = "http://lists.example/ads.txt"
    site.fetch_options["proxy"] = maintainer.url("/").replace("http://", "http://me:secret@")
    maintainer.serve("http://lists.example/ads.txt", Document(NEW))
    assert site.fetch().changed
    assert maintainer.seen[0].headers["host"] == "lists.example"
    assert maintainer.seen[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"


# -- cut off ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stall", [False, True])
@pytest.mark.parametrize("validators", [{"etag": '"7"'}, {"last_modified": "Tue, 03 Nov 2026 10:00:00 GMT"}])
def test_only_the_rest_of_a_cut_body_is_fetched(
    site: Site, served: ListServer, validators: dict[str, Any], stall: bool
) -> None:
    cut = Document(NEW, cut=200_000, stall=stall, **validators)
    served.serve("/ads.txt", cut, Document(NEW, **validators))
    served.seen.clear()
    assert site.fetch() == Fetched(changed=True, octets=len(NEW))
    assert [(request.status, request.sent) for request in served.seen] == [(200, 200_000), (206, len(NEW) - 200_000)]
    assert site.copy() == NEW


def test_a_later_fetch_goes_on_too(site: Site, served: ListServer) -> None:
    served.serve("/ads.txt", Document(NEW, etag='"7"', cut=100_000), Status(503))
    assert "HTTP 503" in site.fails()
    served.serve("/ads.txt", Document(NEW, etag='"7"'))
    assert site.fetch() == Fetched(changed=True, octets=len(NEW) - 100_000)
    assert site.copy() == NEW


@pytest.mark.parametrize(
    "second",
    [
        Document(NEW, etag='"8"'),  # another version by now: 200
        Document(NEW, etag='"7"', ranges=False),
        Document(NEW[:100_000], etag='"7"'),  # shorter than what came: 416
    ],
)
def test_what_cannot_be_gone_on_with_begins_anew(site: Site, served: ListServer, second: Document) -> None:
    served.serve("/ads.txt", Document(b"x.example\n" * 20_000, etag='"7"', cut=150_000), second)
    assert site.fetch().changed
    assert site.copy() == second.body


def test_octets_from_elsewhere_in_the_body_are_not_taken(site: Site, served: ListServer) -> None:
    wrong = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-9/320000\r\nContent-Length: 5\r\n\r\nabcde"
    served.serve("/ads.txt", Document(NEW, etag='"7"', cut=100_000), Octets(wrong), Document(NEW, etag='"7"'))
    assert site.fetch().changed
    assert site.copy() == NEW


@pytest.mark.parametrize("validators", [{}, {"etag": 'W/"7"'}])
def test_without_a_strong_validator_nothing_is_pieced_together(
    site: Site, served: ListServer, validators: dict[str, Any]
) -> None:
    served.serve("/ads.txt", Document(NEW, cut=100_000, **validators), Document(NEW, **validators))
    served.seen.clear()
    assert "peer closed connection" in site.fails()
    assert site.fetch().changed
    assert [request.status for request in served.seen] == [200, 200]
    assert "range" not in served.seen[1].headers


# -- mirrors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fault", [Status(500), Silence(), Document(PAGE), Document(NEW, cut=10), Octets(b"SSH-2.0-x\r\n")]
)
def test_a_mirror_takes_over(site: Site, served: ListServer, fault: Any) -> None:
    with ListServer() as mirror:
        mirror.serve("/mirror.txt", Document(NEW, etag='"m"'))
        site.list_options["mirrors"] = [served.url("/missing.txt"), mirror.url("/mirror.txt")]
        served.serve("/ads.txt", fault)
        assert site.fetch().changed
        assert site.copy() == NEW
        assert not site.fetch().changed
        assert [request.status for request in mirror.seen] == [200, 304]


def test_where_all_fail_each_says_why(site: Site, served: ListServer) -> None:
    site.list_options["mirrors"] = [served.url("/a"), served.url("/b")]
    served.serve("/ads.txt", Status(500))
    served.serve("/b", Status(429, {"Retry-After": "120"}))
    assert [part.rpartition(": ")[2] for part in site.fails().split("; ")] == [
        "HTTP 500 Said",
        "HTTP 404 Said",
        "HTTP 429 Said",
    ]


# -- faults: each leaves the copy as it was ---------------------------------------------------------------------------
FAULTS: list[tuple[str, list[Any], str]] = [
    ("404", [Status(404)], "HTTP 404 Said"),
    ("500", [Status(500)], "HTTP 500 Said"),
    ("a part nobody asked for", [Status(206)], "HTTP 206 Said"),
    ("no answer", [Silence()], "no answer within 300ms"),
    ("half a head", [Octets(b"HTTP/1.1 200 OK\r\nContent-")], "Server disconnected without sending a response"),
    ("no HTTP", [Octets(b"220 ftp ready\r\n\r\n")], "illegal"),
    ("a head without end", [Octets(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000)], ""),
    ("body stalls", [Document(NEW, cut=1000, stall=True)], "no further octets within 300ms"),
    ("body cut", [Document(NEW, cut=1000)], "peer closed connection"),
    ("body cut, chunked", [Document(NEW, cut=1000, chunked=True)], "peer closed connection"),
    ("redirect loop", [Status(302, {"Location": "/ads.txt"})], "redirect loop"),
    ("redirect to nowhere", [Status(302)], "does not say where to go"),
    ("redirect to a file", [Status(302, {"Location": "file:///etc/passwd"})], "not http:// or https://"),
    ("HTML", [Document(PAGE, content_type="text/html")], "a page in HTML or XML, not a list"),
    ("empty", [Document(b"")], "empty list"),
    ("comments alone", [Document(b"# soon here again\n")], "empty list"),
    ("binary", [Document(b"\x7fELF\0\0\0\0" * 1000)], "binary data"),
    ("prose", [Document(b"This list has moved, see our blog.\n" * 40)], ""),
    (
        "gzip cut",
        [
            Document(gzip.compress(NEW)[:5000]),
        ],
        "the gzip data ends early",
    ),
    (
        "another coding",
        [Octets(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx")],
        "sent as 'br'",
    ),
]


@pytest.mark.parametrize(("acts", "says"), [(acts, says) for _, acts, says in FAULTS])
def test_a_fault_leaves_the_copy_as_it_was(site: Site, served: ListServer, acts: list[Any], says: str) -> None:
    before = copy_of(site.listed, site.folder)
    served.serve("/ads.txt", *acts)
    text = site.fails()
    assert says in text
    assert text.startswith(site.source)
    assert copy_of(site.listed, site.folder) == before and before.read_bytes() == OLD
    served.serve("/ads.txt", Document(NEW))
    assert site.fetch().changed and site.copy() == NEW


def test_no_connection_in_time(site: Site, served: ListServer) -> None:
    with full_backlog() as port:
        site.list_options["mirrors"] = [f"http://127.0.0.1:{port}/ads.txt"]
        served.serve("/ads.txt", Status(404))
        assert "no connection within 300ms" in site.fails()
    assert site.copy() == OLD


def test_nobody_listens(site: Site, served: ListServer) -> None:
    served.__exit__(None, None, None)
    assert "Connection refused" in site.fails()
    assert site.copy() == OLD


def test_a_drip_ends(site: Site, served: ListServer) -> None:
    site.fetch_options["deadline"] = "1s"
    served.serve("/ads.txt", Document(NEW, cut=100, drip=0.05))
    assert "not done after 1s, 1" in site.fails()
    assert site.copy() == OLD


def test_a_redirect_chain_has_an_end(site: Site, served: ListServer) -> None:
    for number in range(20):
        served.serve("/ads.txt" if not number else f"/{number}", Status(302, {"Location": f"/{number + 1}"}))
    assert "more than 8 redirects" in site.fails()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(site: Site, served: ListServer, chunked: bool) -> None:
    site.list_options["max_size"] = "100kB"
    served.serve("/ads.txt", Document(NEW, chunked=chunked))
    assert "more than 100kB (max_size)" in site.fails()
    assert site.copy() == OLD
    assert not site.place.part_path.exists()
    site.list_options["max_size"] = len(NEW)
    assert site.fetch().changed


def test_retry_after_is_passed_on(site: Site, served: ListServer) -> None:
    served.serve("/ads.txt", Status(503, {"Retry-After": "77"}))
    with pytest.raises(FetchError) as caught:
        site.fetch()
    assert caught.value.retry_after == 77


# -- TLS --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "authority"
    folder.mkdir()
    return Authority(folder)


def test_https_with_an_authority_of_the_config(site: Site, authority: Authority) -> None:
    site.fetch_options["ca"] = str(authority.path)
    with ListServer(authority.context("localhost")) as server:
        server.serve("/ads.txt", Document(NEW))
        site.source = server.url("/ads.txt", "localhost")
        assert site.fetch().changed
        assert server.seen[0].headers["host"] == f"localhost:{server.port}"


TLS_FAULTS: list[tuple[str, Callable[[Authority, Path], Any], str]] = [
    ("wrong name", lambda ca, folder: ca.context("other.example"), "certificate is not valid for 'localhost'"),
    ("expired", lambda ca, folder: ca.context("localhost", days=-1), "certificate has expired"),
    ("unknown", lambda ca, folder: Authority(folder, "Someone").context("localhost"), "unable to get local issuer"),
]


@pytest.mark.parametrize(("make", "says"), [(make, says) for _, make, says in TLS_FAULTS])
def test_a_certificate_that_is_not_to_be_trusted(
    site: Site, authority: Authority, tmp_path: Path, make: Callable[[Authority, Path], Any], says: str
) -> None:
    site.fetch_options["ca"] = str(authority.path)
    with ListServer(make(authority, tmp_path)) as server:
        server.serve("/ads.txt", Document(NEW))
        site.source = server.url("/ads.txt", "localhost")
        assert says in site.fails()
        assert server.seen == []


def test_a_server_that_says_nothing_of_tls(site: Site) -> None:
    with ListServer(silent_tls=True) as server:
        site.source = server.url("/ads.txt")
        assert "no TLS handshake within 300ms" in site.fails()


def test_a_server_without_tls(site: Site, maintainer: ListServer) -> None:
    site.source = maintainer.url("/ads.txt").replace("http://", "https://")
    assert "wrong version" in site.fails().lower()


def test_a_redirect_to_what_is_not_encrypted_is_not_followed(
    site: Site, authority: Authority, maintainer: ListServer
) -> None:
    site.fetch_options["ca"] = str(authority.path)
    maintainer.serve("/ads.txt", Document(NEW))
    with ListServer(authority.context()) as server:
        server.serve("/ads.txt", Status(301, {"Location": maintainer.url("/ads.txt")}))
        site.source = server.url("/ads.txt")
        assert "a redirect from https:// to" in site.fails()
    assert maintainer.seen == []


# -- checksums --------------------------------------------------------------------------------------------------------
DIGEST = hashlib.sha256(NEW).hexdigest()


SUMS = [
    DIGEST,
    f"{DIGEST}  ads.txt\n",
    f"{'0' * 64} *other.txt\n{DIGEST} *lists/ads.txt\n",
    f"SHA256 (ads.txt) = {DIGEST.upper()}\n",
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("said", SUMS)
def test_a_published_checksum_is_held_against_the_body(
    site: Site, maintainer: ListServer, said: str, packed: bool
) -> None:
    site.list_options["checksum"] = maintainer.url("/SHA256SUMS")
    maintainer.serve("/SHA256SUMS", Document(said.encode()))
    maintainer.serve("/ads.txt", Document(NEW, packed=packed))
    assert site.fetch().changed


@pytest.mark.parametrize(
    ("sums", "says"),
    [
        (Document(b"0" * 64 + b"  ads.txt\n"), f"its SHA-256 is {DIGEST}, its checksum says 0000"),
        (Document(b"0" * 64 + b"  a.txt\n" + b"1" * 64 + b"  b.txt\n"), "says no SHA-256 of ads.txt"),
        (Document(PAGE), "says no SHA-256 of ads.txt"),
        (Status(404), "HTTP 404"),
        (Silence(), "no answer within"),
        (Document(b"x" * (2 << 20)), "no file of checksums"),
    ],
)
def test_without_the_right_checksum_nothing_changes(site: Site, served: ListServer, sums: Any, says: str) -> None:
    site.list_options["checksum"] = served.url("/SHA256SUMS")
    served.serve("/SHA256SUMS", sums)
    served.serve("/ads.txt", Document(NEW))
    assert says in site.fails()
    assert site.copy() == OLD


def test_a_pinned_checksum(site: Site, served: ListServer) -> None:
    site.list_options["checksum"] = f"sha256:{DIGEST}"
    served.seen.clear()
    assert "its checksum says" in site.fails()
    assert "if-none-match" not in served.seen[0].headers  # the copy was never held against it
    served.serve("/ads.txt", Document(NEW))
    assert site.fetch().changed


def test_find_digest() -> None:
    assert find_digest(f"{DIGEST}  ./path/ads.txt", "ads.txt") == DIGEST
    assert find_digest(f"{DIGEST}  a\n{'1' * 64}  b", "c") == ""
    assert find_digest("nothing here", "a") == ""
    assert find_digest(f"# {DIGEST}", "a") == ""


# -- what lies on the disk --------------------------------------------------------------------------------------------
def test_a_damaged_store_is_fetched_anew(site: Site, served: ListServer) -> None:
    for damage in (b"", b"{", b"[]", b'{"source": 3}', b"\xff"):
        (site.place.folder / "meta.json").write_bytes(damage)
        assert site.place.meta() is None
        served.seen.clear()
        assert site.fetch().changed
        assert served.seen[0].status == 200
    copy_of(site.listed, site.folder).write_bytes(b"cut")
    assert site.place.meta() is None
    assert site.fetch().changed and site.copy() == OLD


def test_another_source_is_another_list(site: Site, served: ListServer) -> None:
    site.source = served.url("/missing.txt")
    with pytest.raises(FileNotFoundError, match=r"missing\.txt: waiting for the first copy"):
        site.copy()
    assert "HTTP 404" in site.fails()
    site.source = served.url("/ads.txt")
    assert site.copy() == OLD


def test_two_processes_do_not_fetch_one_list(site: Site, served: ListServer) -> None:
    with site.place.locked():
        assert "another process is fetching it" in site.fails()
    assert not site.fetch().changed
