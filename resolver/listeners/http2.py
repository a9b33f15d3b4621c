"""HTTP/2 as far as a DNS server needs it (RFC 9113), without I/O: requests come in, whole responses go out.

The library h2 would do, at twenty times the cost of all else that an answer takes: it keeps a state machine for each stream,
for both ends and every use of HTTP. Here a stream is one request and one response:

    HEADERS … DATA … END_STREAM ─▶ query ─▶ HEADERS, DATA, END_STREAM        client's RST_STREAM: forgotten

so a stream is in `_bodies` while its request is not whole, in `_asked` while it waits for an answer, in `_unsent` while the
client's windows have no room for the rest of one, and nowhere else; streams beyond `depth` of these are refused. Header
blocks are decoded by the library hpack, and what a block meant is remembered while the table that it refers to stands, as a
client sends much the same again and again. Our own blocks refer to the static table alone (RFC 7541 appendix A).

What breaks the rules ends the connection by GOAWAY with its error code (section 5.4.1); a frame is never longer than FRAME,
a header block never longer than doh.MAX_HEADERS, in at most BLOCKS frames, before and after decompression. Deviations:
priorities are ignored, and frames on streams that are over are passed over, as they may have crossed our answer.
"""

from __future__ import annotations

import struct
from typing import Protocol

from hpack import Decoder, HPACKError

from resolver.listeners import doh
from resolver.listeners.doh import HttpError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = 16384  # octets of payload, in either direction (section 4.2)
WINDOW = 65535  # octets that a client may send of bodies before it hears of more room, all streams together
STREAM_WINDOW = 1 << 17  # and on one stream: more than a query may have, so that one too long is seen to be so
BODIES = 1 << 17  # octets of unfinished bodies that are kept
BLOCKS = 16  # frames of one header block
KNOWN = 64  # header blocks that are remembered
_MOST = (1 << 31) - 1  # of a window

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = range(10)
_ACK = _END_STREAM = 1
_END_HEADERS, _PADDED, _HAS_PRIORITY = 4, 8, 0x20
_MAX_STREAMS, _INITIAL_WINDOW, _MAX_LIST = 3, 4, 6  # settings (section 6.5.2)
_NO_ERROR, _PROTOCOL, _FLOW, _FRAME_SIZE, _REFUSED, _CANCEL, _COMPRESSION, _CALM = 0, 1, 3, 6, 7, 8, 9, 11
_HEAD = struct.Struct(">IBI")  # length and type, flags, stream


class Owner(Protocol):
    """The connection that this speaks for."""

    def say(self, octets: bytes) -> None:
        """Send octets."""

    def stop(self) -> None:
        """Take no more requests."""

    def ask(self, packet: bytes, request: int) -> tuple[bool, bytes | None]:
        """A query: (whether it is decided, the answer if there is one)."""

    def refused(self, error: HttpError) -> None:
        """A whole request came, and was no query."""


class BrokenError(Exception):
    """The client broke the rules; `code` says how (section 7)."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame (section 4.1)."""
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def string(octets: bytes) -> bytes:
    """A string literal as it is (RFC 7541 section 5.2)."""
    length = len(octets)
    if length < 127:
        return bytes((length,)) + octets
    rest, out = length - 127, bytearray((127,))
    while rest >= 128:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out) + octets


# How names and statuses are told by the static table, without a place in the client's (RFC 7541 section 6.2.2).
_NAMES = {b"content-type": b"\x0f\x10", b"cache-control": b"\x0f\x09", b"date": b"\x0f\x12", b"allow": b"\x0f\x07"}
_LENGTH = b"\x0f\x0d"  # content-length, which dig wants to know
_STATUS = {200: b"\x88", 400: b"\x8c", 404: b"\x8d"}


def block(status: int, headers: doh.Headers, length: int) -> bytes:
    """The header block of a response whose body has `length` octets."""
    parts = [_STATUS.get(status) or b"\x08\x03%d" % status, _LENGTH, string(b"%d" % length)]
    for name, value in headers:
        parts.append(_NAMES.get(name) or b"\x00" + string(name))
        parts.append(string(value))
    return b"".join(parts)


class Http2:
    """One connection, the server's end. `depth`: how many requests may be under way; `path`: where queries are taken;
    `alt_svc`: what is said of HTTP/3."""

    __slots__ = (
        "_alt_svc",
        "_asked",
        "_block",
        "_blocks",
        "_bodies",
        "_buffer",
        "_consumed",
        "_decoder",
        "_flags",
        "_held",
        "_initial",
        "_is_broken",
        "_is_over",
        "_is_set",
        "_known",
        "_last",
        "_owner",
        "_path",
        "_room",
        "_stream",
        "_table",
        "_unsent",
        "_wants_preface",
        "_windows",
        "depth",
    )

    def __init__(self, owner: Owner, depth: int, path: bytes, alt_svc: bytes) -> None:
        self._owner = owner
        self._path = path
        self._alt_svc = alt_svc
        self.depth = depth
        self._buffer = b""
        self._wants_preface = True
        self._is_set = False  # the client's first SETTINGS has come
        self._is_over = False  # GOAWAY was said: no request is taken any more
        self._is_broken = False  # the client broke the rules: nothing is taken any more
        self._last = 0  # the newest stream of the client
        self._bodies: dict[int, bytearray] = {}  # requests that are not whole
        self._held = 0  # octets of these
        self._asked: set[int] = set()  # requests that wait for their answer
        self._unsent: dict[int, bytes] = {}  # what of answers the client has no room for
        self._room = WINDOW  # of the client, for all streams
        self._initial = WINDOW  # of the client, for each new stream
        self._windows: dict[int, int] = {}  # what the client has added for single streams, less what was sent
        self._consumed = 0  # octets of DATA that the client has not been told of
        self._stream = 0  # whose header block is not whole; 0: none's
        self._flags = 0  # of its first frame
        self._block = b""
        self._blocks = 0
        self._decoder = Decoder(max_header_list_size=doh.MAX_HEADERS)
        self._known: dict[bytes, tuple[bytes, bytes, bytes]] = {}  # block → method, target, content type
        self._table: tuple[int, object] = (0, None)  # what the decoder's table was like then
        settings = ((_MAX_STREAMS, depth), (_INITIAL_WINDOW, STREAM_WINDOW), (_MAX_LIST, doh.MAX_HEADERS))
        owner.say(frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings)))

    @property
    def has_unsent(self) -> bool:
        """Whether the client has to make room for answers."""
        return bool(self._unsent)

    def receive(self, octets: bytes) -> None:
        """Take octets, and ask what is whole."""
        if self._is_broken:
            return
        buffer = self._buffer + octets if self._buffer else octets
        at, end = 0, len(buffer)
        try:
            if self._wants_preface:
                if not PREFACE.startswith(buffer[: len(PREFACE)]):
                    raise BrokenError(_PROTOCOL)
                if end < len(PREFACE):
                    self._buffer = buffer
                    return
                self._wants_preface, at = False, len(PREFACE)
            while end - at >= 9:
                head, flags, stream = _HEAD.unpack_from(buffer, at)
                size = head >> 8
                if size > FRAME:
                    raise BrokenError(_FRAME_SIZE)
                if end - at - 9 < size:
                    break
                at += 9
                self._frame(head & 0xFF, flags, stream & _MOST, buffer[at : at + size])
                at += size
        except BrokenError as error:
            self._end(error.code)
            return
        self._buffer = buffer[at:]

    def resume(self) -> None:
        """There is nothing that waits for another answer to go out."""

    def answer(self, request: int, reply: bytes | None) -> None:
        """The answer to a request that had to wait; None: there is none."""
        if request in self._asked:
            self._asked.discard(request)
            self._answer(request, reply)

    def goodbye(self) -> None:
        """Say which requests are answered before the connection ends (section 6.8)."""
        if not self._is_over:
            self._end(_NO_ERROR, at_once=False)

    def _end(self, code: int, *, at_once: bool = True) -> None:
        if not self._is_over:
            self._is_over = True
            self._owner.say(frame(_GOAWAY, 0, 0, struct.pack(">II", self._last, code)))
        if at_once:
            self._is_broken = True
            self._bodies.clear()
            self._asked.clear()
            self._unsent.clear()
            self._buffer = b""
            self._owner.stop()

    # -- frames -----------------------------------------------------------------------------------------------------

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if (self._stream and (kind != _CONTINUATION or stream != self._stream)) or not (
            self._is_set or kind == _SETTINGS
        ):
            raise BrokenError(_PROTOCOL)
        if kind == _HEADERS:
            self._headers(flags, stream, self._unpadded(flags, payload, 5 if flags & _HAS_PRIORITY else 0))
        elif kind == _DATA:
            self._data(flags, stream, payload)
        elif kind == _WINDOW_UPDATE:
            self._window_update(stream, payload)
        elif kind == _SETTINGS:
            self._settings(flags, stream, payload)
        elif kind == _CONTINUATION:
            if not self._stream:
                raise BrokenError(_PROTOCOL)
            self._continue(flags, payload)
        elif kind == _RST_STREAM:
            if not 0 < stream <= self._last:
                raise BrokenError(_PROTOCOL)
            self._sized(payload, 4)
            self._forget(stream)
        elif kind == _PING:
            self._sized(payload, 8)
            if stream:
                raise BrokenError(_PROTOCOL)
            if not flags & _ACK:
                self._owner.say(frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:  # what is under way is answered
            self._owner.stop()
        elif kind == _PUSH:
            raise BrokenError(_PROTOCOL)

    @staticmethod
    def _sized(payload: bytes, size: int) -> None:
        if len(payload) != size:
            raise BrokenError(_FRAME_SIZE)

    @staticmethod
    def _unpadded(flags: int, payload: bytes, skip: int) -> bytes:
        """A payload without its padding (section 6.1) and what stands before the rest."""
        start, end = skip, len(payload)
        if flags & _PADDED:
            if not payload:
                raise BrokenError(_FRAME_SIZE)
            start, end = start + 1, end - payload[0]
        if start > end:
            raise BrokenError(_PROTOCOL)
        return payload[start:end]

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise BrokenError(_PROTOCOL)
        if len(payload) % 6 or (flags & _ACK and payload):
            raise BrokenError(_FRAME_SIZE)
        self._is_set = True
        if flags & _ACK:
            return
        for code, value in struct.iter_unpack(">HI", payload):
            if code == _INITIAL_WINDOW:
                if value > _MOST:
                    raise BrokenError(_FLOW)
                self._initial = value
        self._owner.say(frame(_SETTINGS, _ACK, 0, b""))
        self._send_unsent()

    def _window_update(self, stream: int, payload: bytes) -> None:
        self._sized(payload, 4)
        more = int.from_bytes(payload, "big") & _MOST
        if not more or stream > self._last:
            raise BrokenError(_PROTOCOL)
        if not stream:
            self._room += more
            if self._room > _MOST:
                raise BrokenError(_FLOW)
        elif stream in self._bodies or stream in self._asked or stream in self._unsent:
            self._windows[stream] = self._windows.get(stream, 0) + more
            if self._initial + self._windows[stream] > _MOST:
                self._reset(stream, _FLOW)
                self._forget(stream)
        if self._unsent:
            self._send_unsent()

    # -- requests ---------------------------------------------------------------------------------------------------

    def _headers(self, flags: int, stream: int, octets: bytes) -> None:
        if not stream & 1:
            raise BrokenError(_PROTOCOL)
        self._stream, self._flags, self._block, self._blocks = stream, flags, b"", 0
        self._continue(flags, octets)

    def _continue(self, flags: int, octets: bytes) -> None:
        """More of a header block, which belongs to `_stream`."""
        self._block += octets
        self._blocks += 1
        if len(self._block) > doh.MAX_HEADERS or self._blocks > BLOCKS:
            raise BrokenError(_CALM)
        if not flags & _END_HEADERS:
            return
        stream, self._stream = self._stream, 0
        asked = self._read(self._block)  # always: the decoder's table has to follow
        is_whole = bool(self._flags & _END_STREAM)
        if stream in self._bodies:  # trailers (section 8.1)
            if not is_whole:
                raise BrokenError(_PROTOCOL)
            self._whole(stream)
            return
        if stream <= self._last:  # it is over
            return
        self._last = stream
        if self._is_over or len(self._bodies) + len(self._asked) + len(self._unsent) >= self.depth:
            self._reset(stream, _REFUSED)
        elif not asked[0] or not asked[1]:
            self._reset(stream, _PROTOCOL)  # no request (section 8.3.1)
        else:
            self._request(stream, *asked, is_whole=is_whole)

    def _read(self, octets: bytes) -> tuple[bytes, bytes, bytes]:
        """Method, target and content type of a header block; empty where they are missing or there more than once."""
        if found := self._known.get(octets):
            return found
        try:
            headers = self._decoder.decode(octets, raw=True)
        except HPACKError:
            raise BrokenError(_COMPRESSION) from None
        method = target = kind = b""
        for name, value in headers:
            if name == b":method":
                method = b"" if method else bytes(value)
            elif name == b":path":
                target = b"" if target else bytes(value)
            elif name == b"content-type":
                kind = bytes(value)
        entries = self._decoder.header_table.dynamic_entries
        table = (len(entries), entries[0] if entries else None)
        if table[0] != self._table[0] or table[1] is not self._table[1]:  # the same octets may mean something else now
            self._known.clear()
            self._table = table
        elif (
            len(self._known) < KNOWN and 0 < len(octets) < 256 and octets[0] & 0xE0 != 0x20
        ):  # which would change its size
            self._known[octets] = method, target, kind
        return method, target, kind

    def _request(self, stream: int, method: bytes, target: bytes, kind: bytes, *, is_whole: bool) -> None:
        try:
            packet = doh.begin(method, target, kind, self._path)
            if packet is None and is_whole:
                packet = doh.query(b"")
        except HttpError as error:
            self._refuse(stream, error)
            return
        if packet is None:
            self._bodies[stream] = bytearray()
        else:
            self._ask(stream, packet)

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        if not 0 < stream <= self._last:
            raise BrokenError(_PROTOCOL)
        text = self._unpadded(flags, payload, 0)
        self._consumed += len(payload)
        if self._consumed > WINDOW:
            raise BrokenError(_FLOW)
        if self._consumed > WINDOW // 2:
            self._owner.say(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._consumed)))
            self._consumed = 0
        body = self._bodies.get(stream)
        if body is None:
            return
        body += text
        self._held += len(text)
        if flags & _END_STREAM:
            self._whole(stream)
        elif len(body) > doh.MAX_MESSAGE or self._held > BODIES:
            self._forget(stream)
            self._refuse(stream, HttpError(413, "a message has at most 65535 octets"))
            self._reset(stream, _NO_ERROR)

    def _whole(self, stream: int) -> None:
        body = self._bodies.pop(stream)
        self._held -= len(body)
        try:
            packet = doh.query(bytes(body))
        except HttpError as error:
            self._refuse(stream, error)
            return
        self._ask(stream, packet)

    def _ask(self, stream: int, packet: bytes) -> None:
        self._asked.add(stream)
        is_decided, reply = self._owner.ask(packet, stream)
        if is_decided:
            self._asked.discard(stream)
            self._answer(stream, reply)

    def _forget(self, stream: int) -> None:
        """What is kept of a stream."""
        self._held -= len(self._bodies.pop(stream, b""))
        self._asked.discard(stream)
        self._unsent.pop(stream, None)
        self._windows.pop(stream, None)

    # -- responses --------------------------------------------------------------------------------------------------

    def _answer(self, stream: int, reply: bytes | None) -> None:
        if reply is None:
            self._windows.pop(stream, None)
            self._reset(stream, _CANCEL)
        else:
            self._respond(stream, block(200, doh.headers(reply, self._alt_svc), len(reply)), reply)

    def _refuse(self, stream: int, error: HttpError) -> None:
        self._owner.refused(error)
        self._respond(stream, block(error.status, error.headers, len(error.body)), error.body)

    def _respond(self, stream: int, octets: bytes, body: bytes) -> None:
        size = len(body)
        if size <= FRAME and size <= self._room and size <= self._initial + self._windows.get(stream, 0):
            self._room -= size
            self._windows.pop(stream, None)
            self._owner.say(
                _HEAD.pack(len(octets) << 8 | _HEADERS, _END_HEADERS, stream)
                + octets
                + _HEAD.pack(size << 8 | _DATA, _END_STREAM, stream)
                + body
            )
            return
        self._owner.say(frame(_HEADERS, _END_HEADERS, stream, octets))
        self._unsent[stream] = body
        self._send(stream)

    def _send(self, stream: int) -> None:
        """Send of a body what the client's windows and frames have room for."""
        body = self._unsent[stream]
        while body:
            room = min(self._room, self._initial + self._windows.get(stream, 0), FRAME)
            if room <= 0:
                self._unsent[stream] = body
                return
            part, body = body[:room], body[room:]
            self._room -= len(part)
            self._windows[stream] = self._windows.get(stream, 0) - len(part)
            self._owner.say(frame(_DATA, 0 if body else _END_STREAM, stream, part))
        del self._unsent[stream]
        self._windows.pop(stream, None)

    def _send_unsent(self) -> None:
        for stream in list(self._unsent):
            self._send(stream)

    def _reset(self, stream: int, code: int) -> None:
        self._owner.say(frame(_RST_STREAM, 0, stream, struct.pack(">I", code)))
