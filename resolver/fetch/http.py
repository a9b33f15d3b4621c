"""Lists over http:// and https:// (RFC 9110): one fetch of one list.

    source, then mirrors ─ GET, conditional ─ 304: done
                                            ─ 200, 206 → part ─ digest, checksum ─ judge ─ adopt: the copy in force

- A copy that is there makes the request conditional (If-None-Match, If-Modified-Since: RFC 9110 section 13.1). A body that
  turns out to be the same octets counts as unchanged too.
- A body that was cut off is gone on with, by Range and If-Range (section 14.2, 13.1.5), at once and at the next fetch, where
  the server names its version by a strong validator; else it begins anew.
- Every step has a time limit (connection, TLS, first octet, each read), and a transfer as a whole has one: a drip ends. A
  body may not be longer than `max_size`. Redirects are followed by hand: a few, in no circle, never from https to http.
- Bodies are kept as they are sent. gzip is the only coding asked for, and readers know it by its magic octets.
- Nothing takes the place of a good copy before it was held against its checksum and signature and read as a list to its end.
- Addresses come from lookup.py; TLS holds the certificate against the URL's name.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import httpcore
import httpx

from resolver.config.addresses import shown_url
from resolver.config.model import Config, ListConfig
from resolver.config.signing import parse_public_key
from resolver.config.units import format_duration, format_size
from resolver.fetch.base import Fetched, FetchError
from resolver.fetch.judge import digests, judge, signed_octets
from resolver.fetch.lookup import Lookup, LookupFailed
from resolver.fetch.minisign import MAX_SIGNATURE_FILE, Signature, check_signature, parse_signature
from resolver.fetch.store import Meta, Part, Place, body_name
from resolver.lists.rules import NotAList

MAX_REDIRECTS = 8
RESUMES = 3  # times that a transfer is gone on with at once, as long as each brings something
MAX_CHECKSUM_FILE = 1 << 20  # octets
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_GNU = re.compile(r"\\?([0-9a-f]{64})(?:\s+\*?(.+))?", re.IGNORECASE)  # as sha256sum writes
_BSD = re.compile(r"SHA256 ?\((.+)\) ?= ?([0-9a-f]{64})", re.IGNORECASE)  # as sha256sum --tag writes
_STAGES = {  # what httpcore calls the steps, and what did not come where one takes too long
    "connect_tcp": "no connection",
    "start_tls": "no TLS handshake",
    "receive_response_headers": "no answer",
    "receive_response_body": "no further octets",
}


class _CutOff(FetchError):
    """A body ended early, or nothing more came."""


class _WrongPart(FetchError):
    """A server did not go on where it was asked to."""


@dataclass(slots=True)
class _Transfer:
    """What one attempt at one URL has come to: octets received, and the step it is at, in httpcore's words."""

    octets: int = 0
    stage: str = ""

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Told by httpcore of each step."""
        step = event.removesuffix(".started").rpartition(".")[2]
        if step in _STAGES:  # others are about cleaning up
            self.stage = step


class HttpFetcher:
    """Fetches lists over HTTP by a config's `fetch` and `upstream`."""

    def __init__(self, config: Config, lookup: Lookup | None = None) -> None:
        self._config = config
        self._fetch = config.fetch
        self._lookup = lookup or Lookup(config)
        self._judging = asyncio.Lock()  # one at a time: it takes a core

    async def close(self) -> None:
        """Nothing is kept between fetches."""

    async def fetch(self, listed: ListConfig, now: float) -> Fetched:
        """See Fetcher: the source is asked, then each mirror until one has the list."""
        faults: list[FetchError] = []
        octets = 0
        for url in (listed.source, *listed.mirrors):
            transfer = _Transfer()
            try:
                fetched = await self._fetch_from(url, listed, now, transfer)
                return replace(fetched, octets=octets + fetched.octets)
            except FetchError as fault:
                faults.append(fault)
            octets += transfer.octets
        retry_after = min(fault.retry_after for fault in faults)
        raise FetchError("; ".join(map(str, faults)), retry_after, octets)

    async def _fetch_from(self, url: str, listed: ListConfig, now: float, transfer: _Transfer) -> Fetched:
        """One fetch from one URL."""
        place = Place(self._config.state_path, listed.name)
        shown = shown_url(url)
        try:
            async with asyncio.timeout(self._fetch.deadline), self._client() as client:
                part = await self._receive(client, url, listed, place, transfer)
                expected = await self._expected(client, url, listed) if part else ""
                signed = await self._signature(client, url, listed) if part else None
        except TimeoutError:
            limit = format_duration(self._fetch.deadline)
            raise FetchError(f"{shown}: not done after {limit}, {transfer.octets} octets came") from None
        except NotAList as error:
            raise FetchError(f"{shown}: {error}") from None
        if part is None:
            place.drop_part()
            return Fetched(changed=False, octets=transfer.octets)
        try:
            changed = await self._take(part, url, listed, place, expected, signed, now)
        except NotAList as error:
            text = str(error)
            raise FetchError(text if text.startswith(listed.shown) else f"{shown}: {text}") from None
        finally:
            place.drop_part()  # whole: what is wrong with it does not get right by more of it
        return Fetched(changed=changed, octets=transfer.octets)

    async def _take(
        self,
        part: Part,
        url: str,
        listed: ListConfig,
        place: Place,
        expected: str,
        signed: Signature | None,
        now: float,
    ) -> bool:
        """Judge a whole body and make it the copy in force; whether it is another one than before."""
        async with self._judging:
            sha256, plain = await asyncio.to_thread(digests, place.part_path, part.encoding)
            if expected and expected not in (plain, sha256):
                raise NotAList(f"its SHA-256 is {plain}, its checksum says {expected}")
            if signed is not None:
                await asyncio.to_thread(_hold_against, signed, listed, place.part_path, part.encoding)
            meta = Meta(
                source=listed.source,
                url=url,
                file=body_name(sha256),
                sha256=sha256,
                size=place.part_path.stat().st_size,
                fetched=now,
                etag=part.etag,
                last_modified=part.last_modified,
                encoding=part.encoding,
                checksum=listed.checksum,
                signing=listed.signing,
            )
            before = place.meta()
            if before is not None and (before.sha256, before.source) == (sha256, listed.source):
                place.write_meta(replace(meta, fetched=before.fetched))
                return False
            await asyncio.to_thread(judge, place.part_path, listed)
            place.adopt(place.part_path, meta)
        return True

    # -- one body -----------------------------------------------------------------------------------------------------
    async def _receive(
        self, client: httpx.AsyncClient, url: str, listed: ListConfig, place: Place, transfer: _Transfer
    ) -> Part | None:
        """A whole body in `place.part_path`; None where the source says that the copy is what it has."""
        for attempt in range(RESUMES + 1):
            before = transfer.octets
            try:
                return await self._receive_once(client, url, listed, place, transfer)
            except _WrongPart:
                if attempt == RESUMES:
                    raise
            except _CutOff:
                if attempt == RESUMES or transfer.octets == before or _usable_part(place, url)[0] is None:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _receive_once(
        self, client: httpx.AsyncClient, url: str, listed: ListConfig, place: Place, transfer: _Transfer
    ) -> Part | None:
        part, have = _usable_part(place, url)
        conditions = _conditions(place.meta(), url, listed)
        headers = dict(conditions)
        if part is not None:
            headers |= {"Range": f"bytes={have}-", "If-Range": part.etag or part.last_modified}
            headers["Accept-Encoding"] = part.encoding or "identity"
        async with self._get(client, url, headers, transfer) as response:
            status = response.status_code
            if status == 304 and conditions:
                return None
            if part is not None and status in (206, 416):
                if status == 416 or _encoding(response) != part.encoding or _range_start(response) != have:
                    place.drop_part()
                    raise _WrongPart(f"{shown_url(url)}: HTTP {status} with another part than was asked for")
            elif status == 200:
                part = Part(
                    url,
                    response.headers.get("etag", ""),
                    response.headers.get("last-modified", ""),
                    _encoding(response),
                )
                have = 0
                place.begin_part(part)
            else:
                raise FetchError(
                    f"{shown_url(url)}: HTTP {status} {response.reason_phrase}".rstrip(), _retry_after(response)
                )
            await self._write(response, url, listed, place, transfer, have)
        return part

    async def _write(
        self, response: httpx.Response, url: str, listed: ListConfig, place: Place, transfer: _Transfer, have: int
    ) -> None:
        """The body's octets, behind the `have` that are there."""
        limit = listed.max_size if listed.max_size is not None else self._fetch.max_size
        announced = response.headers.get("content-length", "")
        size = have + (int(announced) if announced.isdecimal() and len(announced) < 19 else 0)
        try:
            with place.part_path.open("r+b") as file:
                file.truncate(have)
                file.seek(have)
                if size > limit:
                    raise FetchError(f"{shown_url(url)}: {size} octets, more than {format_size(limit)} (max_size)")
                size = have
                with self._faults(url, transfer, _CutOff):
                    async for octets in response.aiter_raw():
                        size += len(octets)
                        transfer.octets += len(octets)
                        if size > limit:
                            raise FetchError(f"{shown_url(url)}: more than {format_size(limit)} (max_size)")
                        file.write(octets)
        except _CutOff:
            raise
        except (FetchError, OSError):
            place.drop_part()  # too large, or no room for it
            raise

    @contextlib.asynccontextmanager
    async def _get(
        self, client: httpx.AsyncClient, url: str, headers: Mapping[str, str], transfer: _Transfer
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, redirects followed, its body not read yet."""
        seen: set[httpx.URL] = set()
        response = None
        try:
            with self._faults(url, transfer, FetchError):
                at = httpx.URL(url)
                while True:
                    if at in seen:
                        raise FetchError(f"{shown_url(url)}: a redirect loop, back to {shown_url(str(at))}")
                    if len(seen) > MAX_REDIRECTS:
                        raise FetchError(f"{shown_url(url)}: more than {MAX_REDIRECTS} redirects")
                    seen.add(at)
                    request = client.build_request("GET", at, headers=headers, extensions={"trace": transfer.trace})
                    response = await client.send(request, stream=True)
                    if response.status_code not in _REDIRECTS:
                        break
                    await response.aclose()
                    at = _next(url, at, response)
            yield response
        finally:
            if response is not None:
                await response.aclose()

    @contextlib.contextmanager
    def _faults(self, url: str, transfer: _Transfer, kind: type[FetchError]) -> Any:
        """Whatever goes wrong with the network, in words, as a FetchError of this kind."""
        shown = shown_url(url)
        try:
            yield
        except httpcore.TimeoutException:
            limit = format_duration(self._fetch.timeout)
            what = _STAGES.get(transfer.stage, "no answer")
            raise kind(f"{shown}: {what} within {limit}") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
            raise kind(f"{shown}: {_reason(error)}") from None
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, ValueError) as error:
            raise kind(f"{shown}: {error}") from None

    # -- the checksum -------------------------------------------------------------------------------------------------
    async def _expected(self, client: httpx.AsyncClient, url: str, listed: ListConfig) -> str:
        """The SHA-256 that the body must have, in hexadecimal; "" where the config asks for none."""
        if not listed.checksum:
            return ""
        if listed.checksum.startswith("sha256:"):
            return listed.checksum.removeprefix("sha256:")
        text = await self._small(client, listed.checksum, MAX_CHECKSUM_FILE, "file of checksums")
        found = find_digest(text.decode(errors="replace"), PurePosixPath(unquote(urlsplit(url).path)).name)
        if not found:
            shown = shown_url(listed.checksum)
            raise FetchError(f"{shown}: says no SHA-256 of {PurePosixPath(urlsplit(url).path).name or 'the list'}")
        return found

    async def _signature(self, client: httpx.AsyncClient, url: str, listed: ListConfig) -> Signature | None:
        """The signature that the body must fit; None where the config asks for none."""
        if not listed.signature:
            return None
        there = listed.signature
        if there == "auto":
            parts = urlsplit(url)
            there = parts._replace(path=f"{parts.path}.minisig").geturl()
        octets = await self._small(client, there, MAX_SIGNATURE_FILE, "signature of minisign")
        return parse_signature(octets)

    async def _small(self, client: httpx.AsyncClient, url: str, limit: int, what: str) -> bytes:
        """The whole of a small file that belongs to a list."""
        shown = shown_url(url)
        found, transfer = bytearray(), _Transfer()
        async with self._get(client, url, {"Accept-Encoding": "identity"}, transfer) as response:
            if response.status_code != 200 or _encoding(response):
                raise FetchError(f"{shown}: HTTP {response.status_code} {response.reason_phrase}".rstrip())
            with self._faults(url, transfer, FetchError):
                async for octets in response.aiter_raw():
                    found += octets
                    if len(found) > limit:
                        raise FetchError(f"{shown}: more than {format_size(limit)}, no {what}")
        return bytes(found)

    # -- connections --------------------------------------------------------------------------------------------------
    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=_Transport(self._trust(), _Backend(self._lookup), self._fetch.proxy),
            headers={"User-Agent": self._fetch.user_agent, "Accept": "*/*", "Accept-Encoding": "gzip"},
            timeout=self._fetch.timeout,
            follow_redirects=False,
            trust_env=False,
        )

    def _trust(self) -> ssl.SSLContext:
        """Who is believed: the system's authorities, or those that come with Python's libraries where it has none.

        Read for each fetch: authorities come and go while a server runs.
        """
        context = ssl.create_default_context()
        paths = ssl.get_default_verify_paths()
        if paths.cafile is None and not (paths.capath and any(Path(paths.capath).iterdir())):
            import certifi

            context.load_verify_locations(certifi.where())
        if ca := self._config.ca_path:
            try:
                context.load_verify_locations(ca)
            except (OSError, ssl.SSLError) as error:
                raise FetchError(f"fetch.ca: {ca}: {error}") from None
        return context


class _Transport(httpx.AsyncBaseTransport):
    """httpx over httpcore with a network backend of our own."""

    def __init__(self, tls: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend, proxy: str) -> None:
        self._pool: httpcore.AsyncConnectionPool
        if proxy:
            url = httpx.URL(proxy)
            self._pool = httpcore.AsyncHTTPProxy(
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=b"/"),
                proxy_auth=(url.username, url.password) if url.username else None,
                ssl_context=tls,
                proxy_ssl_context=tls if url.scheme == "https" else None,
                network_backend=backend,
            )
        else:
            self._pool = httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=backend)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; httpcore's exceptions come through as they are."""
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    """An answer's body as it comes."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for octets in self._answer.aiter_stream():
            yield octets

    async def aclose(self) -> None:
        """Let go of the connection, whatever is still to come."""
        await self._answer.aclose()


class _Backend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that our own look-up finds, one after the other."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore: the first address that answers."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._lookup.addresses(host)
        except LookupFailed as error:
            raise httpcore.ConnectError(str(error)) from None
        except TimeoutError:
            raise httpcore.ConnectError(f"{host}: its address is not known in time") from None
        fault: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                fault = error
        raise fault

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        await asyncio.sleep(seconds)


def _reason(error: BaseException) -> str:
    """What an exception says; where it only says that something failed, what the system said to that."""
    text, cause = str(error), error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror and cause.errno:
            text = cause.strerror if isinstance(cause, ssl.SSLError) else os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return text or type(error).__name__


def _hold_against(signed: Signature, listed: ListConfig, body: Path, encoding: str) -> None:
    """NotAList unless a body is as its signature says, as it came or, where the server packed it, unpacked."""
    key = parse_public_key(listed.public_key)
    check_signature(signed, key, signed_octets(body, encoding, signed.is_hashed))


# -- headers ----------------------------------------------------------------------------------------------------------
def _conditions(meta: Meta | None, url: str, listed: ListConfig) -> dict[str, str]:
    """What makes a request conditional: what the server called the copy in force, if that was judged as the config wants."""
    wanted = (listed.source, url, listed.checksum, listed.signing)
    if meta is None or (meta.source, meta.url, meta.checksum, meta.signing) != wanted:
        return {}
    headers = {"If-None-Match": meta.etag, "If-Modified-Since": meta.last_modified}
    return {name: value for name, value in headers.items() if value}


def _usable_part(place: Place, url: str) -> tuple[Part | None, int]:
    """The beginning of a body from this URL that can be gone on with, and its length in octets."""
    part = place.part()
    if part is None or part.url != url or part.etag.startswith("W/") or not (part.etag or part.last_modified):
        return None, 0
    have = place.part_path.stat().st_size
    return (part, have) if have else (None, 0)


def _encoding(response: httpx.Response) -> str:
    """The coding of a body: "gzip" or ""; FetchError for one that was not asked for."""
    coding: str = response.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return ""
    if coding in ("gzip", "x-gzip"):
        return "gzip"
    raise FetchError(f"{shown_url(str(response.url))}: sent as {coding[:40]!r}, which was not asked for")


def _range_start(response: httpx.Response) -> int:
    """Where in the body the octets of a 206 begin; −1 if it does not say."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    return int(match[1]) if match else -1


def _retry_after(response: httpx.Response) -> float:
    """Seconds of Retry-After (RFC 9110 section 10.2.3), 0 without one that can be read."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(min(int(text[:12]), 10**9))
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time()) if text else 0.0
    except ValueError:
        return 0.0


def _next(url: str, at: httpx.URL, response: httpx.Response) -> httpx.URL:
    """Where a redirect leads."""
    location = response.headers.get("location", "")
    if not location:
        raise FetchError(f"{shown_url(url)}: HTTP {response.status_code} that does not say where to go")
    there = at.join(location).copy_with(fragment=None)
    shown = shown_url(str(there))
    if there.scheme not in ("http", "https") or not there.host:
        raise FetchError(f"{shown_url(url)}: a redirect to {shown}, which is not http:// or https://")
    if at.scheme == "https" and there.scheme == "http":
        raise FetchError(
            f"{shown_url(url)}: a redirect from https:// to {shown}: give that address, if you trust the way there"
        )
    return there


def find_digest(text: str, name: str) -> str:
    """The SHA-256 of the file `name` in a file of checksums, or the only one there is; "" if there is none."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if match := _BSD.fullmatch(line.strip()):
            found.append((match[2].lower(), match[1]))
        elif match := _GNU.fullmatch(line.strip()):
            found.append((match[1].lower(), match[2] or ""))
    named = [digest for digest, path in found if PurePosixPath(path).name == name]
    if named:
        return named[0]
    return found[0][0] if len(found) == 1 else ""
