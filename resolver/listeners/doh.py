"""DNS over HTTPS (RFC 8484), whichever version of HTTP: a request becomes a query, an answer becomes a response.

    begin(method, target, content type) → the query of a GET, or None: the body of a POST is it
    query(body)                         → the query, if it can be one
    headers(answer)                     → what stands above it; how long caches may keep it is said by its TTLs (section 5.1)

What cannot be answered is an HttpError with its status: 404 for another path, 405 for another method, 415 for another type
of content, 413 for more than a message can have, 400 for what is no query. A query that policy drops has no answer in HTTP
either: its stream is reset, or, in HTTP/1.1, its connection is closed.
"""

from __future__ import annotations

import binascii
import time

from resolver.engine.engine import freshness

MEDIA_TYPE = b"application/dns-message"
MAX_MESSAGE = 65535  # octets
MAX_HEADERS = 16384  # octets of a request's header section; the longest sensible GET is far below it
_HEADER = 12
_TO_BASE64 = bytes.maketrans(b"-_", b"+/")
_PADDING = (b"", b"", b"==", b"=")

Headers = list[tuple[bytes, bytes]]


class HttpError(Exception):
    """A request that is answered with a status alone."""

    def __init__(self, status: int, text: str, *, allow: bytes = b"") -> None:
        super().__init__(text)
        self.status = status
        self.body = text.encode() + b"\n"
        self.headers: Headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
        if allow:
            self.headers.append((b"allow", allow))


def begin(method: bytes, target: bytes, content_type: bytes, path: bytes) -> bytes | None:
    """The query of a GET; None for a POST, whose body it is. HttpError if it is neither, or for something else."""
    if not target.startswith(b"/"):  # absolute-form (RFC 9112 section 3.2.2)
        _, slash, rest = target.partition(b"://")[2].partition(b"/")
        target = slash + rest
    asked, _, parameters = target.partition(b"?")
    if asked != path:
        raise HttpError(404, "there is nothing here")
    if method == b"GET":
        for parameter in parameters.split(b"&"):
            if parameter.startswith(b"dns="):
                return query(_from_base64url(parameter[4:]))
        raise HttpError(400, "a GET needs its query in the parameter dns")
    if method != b"POST":
        raise HttpError(405, "only GET and POST", allow=b"GET, POST")
    if content_type.partition(b";")[0].strip().lower() != MEDIA_TYPE:
        raise HttpError(415, "a POST needs content of type application/dns-message")
    return None


def query(body: bytes) -> bytes:
    """`body`, if it has the form of a query. HttpError if not."""
    if len(body) > MAX_MESSAGE:
        raise HttpError(413, "a message has at most 65535 octets")
    if len(body) < _HEADER or body[2] & 0x80:
        raise HttpError(400, "this is no DNS query")
    return body


def headers(answer: bytes, alt_svc: bytes = b"") -> Headers:
    """What stands above an answer; `alt_svc`: what is said of another version of HTTP (RFC 7838), if anything."""
    said = [(b"content-type", MEDIA_TYPE), (b"cache-control", b"max-age=%d" % freshness(answer)), (b"date", date())]
    if alt_svc:
        said.append((b"alt-svc", alt_svc))
    return said


def date() -> bytes:
    """Now, as HTTP writes it (RFC 9110 section 5.6.7)."""
    global _date, _date_at
    now = int(time.time())
    if now != _date_at:
        _date_at, _date = now, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)).encode()
    return _date


_date, _date_at = b"", 0


def _from_base64url(text: bytes) -> bytes:
    """RFC 4648 section 5, without padding (RFC 8484 section 6); clients that pad are understood."""
    text = text.rstrip(b"=").replace(b"%3D", b"")
    if len(text) % 4 == 1:
        raise HttpError(400, "the parameter dns is no base64url")
    try:
        return binascii.a2b_base64(text.translate(_TO_BASE64) + _PADDING[len(text) % 4], strict_mode=True)
    except binascii.Error:
        raise HttpError(400, "the parameter dns is no base64url") from None
