"""Python's pass over what the engine hands up: forwards, aliases, and decisions that need more than the index.

`run` takes the engine's punts and starts each on its way; nothing here waits. Identical questions in flight share one
exchange: the first asks, the rest are appended to its waiters. When the answer comes the engine learns it once, then
finishes each waiter by itself, since each has its own id, case, size and policy. Where there is none, what is kept from
before serves (RFC 8767): after STALE_AFTER to those who wait, while the exchange goes on, and from then on to everybody at
once, while the engine has each such question asked anew for nobody in particular (PUNT_REFRESH). What the engine asked
upstream itself and gave up says so (`punt.after`): the exchange then begins where the engine's try ended.

A query from a stream carries in `punt.token` a callable that takes the reply's octets, or None where nothing is to be
sent; a query from UDP carries None, and the engine sends by itself.

Invariants: every punt is given back to the engine, whatever fails on its way; the waiters of one question and of all
are bounded, and where it gets narrow those clients get SERVFAIL at once that have most waiting.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from resolver.engine.engine import (
    AFTER_NOTHING,
    AFTER_TRUNCATED,
    PUNT,
    PUNT_CONDITIONAL,
    PUNT_DNS64,
    PUNT_LOCAL,
    PUNT_NOTIFY,
    PUNT_PATTERN,
    PUNT_REFRESH,
    PUNT_SERVERS,
    REPLY,
)
from resolver.upstream.message import HEADER, PAYLOAD_SIZE, Question, walk
from resolver.upstream.pool import Pool, Result
from resolver.upstream.server import Server
from resolver.vocabulary import EDE, Rcode, RRType, Transport

if TYPE_CHECKING:
    from resolver.delegations import Servers
    from resolver.dnssec.link import Checked
    from resolver.engine.engine import Engine, Punt

MAX_WAITERS = 1000  # for one question
MAX_ALL_WAITERS = 20_000
SHARE = 4  # times as many waiters as there are places left may be of one client: see engine/forward.pyx
MAX_ALIASES = 8  # of our own that follow each other
STALE_AFTER = 1.2  # seconds, with the engine's own try some 1.8 (RFC 8767 section 5): then what is kept has to do

_MAPPED = bytes(10) + b"\xff\xff"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alias:
    """Answer with `qname CNAME target` and what `target` resolves to.

    `target`: lower-case wire form. `ttl` in seconds, of the CNAME. `ede` (or -1) and `text` go to clients with EDNS.
    `zone`: name and data of the SOA of the policy zone that says so (rpz.md, 20), in wire form.
    """

    target: bytes
    ttl: int
    ede: int = -1
    text: str = ""
    zone: tuple[bytes, bytes] | None = None


class _Inner:
    """The token of a question that answering another led to: takes its reply. `depth`: how many led there.

    A client waits behind it, so it never raises: where `take` does, `fail` has that client answered.
    """

    __slots__ = ("_fail", "_take", "depth")

    def __init__(self, depth: int, take: Callable[[bytes | None], None], fail: Callable[[], None]) -> None:
        self.depth = depth
        self._take = take
        self._fail = fail

    def __call__(self, reply: bytes | None) -> None:
        try:
            self._take(reply)
        except Exception:
            self._fail()


class Decided(NamedTuple):
    """What was decided: a cell (engine/query.pxd), 8 octets, and by which listset."""

    cell: bytes
    listset: int


Describe = Callable[["Punt"], Alias | bytes]  # what to answer to a PUNT_LOCAL; bytes: a whole reply, sent as it stands
Notified = Callable[["Punt"], bytes]  # the reply to a NOTIFY
Decide = Callable[["Punt"], "Decided | bytes | None"]  # of a PUNT_CONDITIONAL; bytes: a whole reply; None: ask anew
Fits = Callable[[bytes], Sequence[int]]  # the listsets of the patterns that a name in wire form fits
Seek = Callable[[Sequence[bytes], int, Callable[[Sequence["Servers"]], None]], None]  # delegations.Delegations.seek
Asked = Callable[["Punt"], Server | None]  # which server the engine asked before it gave the question up
_Waiter = Callable[[Result], None]


def _seeks_nobody(names: Sequence[bytes], route: int, done: Callable[[Sequence[Servers]], None]) -> None:
    raise LookupError("no list wants servers looked up")


class Punts:
    """Runs the engine's punts along the pool, and gives streams the answers that the engine had them wait for.

    Call `run` after every Engine.drain(), Engine.tick() and after Engine.answer() with a PUNT or a WAIT.
    """

    def __init__(
        self,
        engine: Engine,
        pool: Pool | Checked,
        *,
        describe: Describe,
        decide: Decide,
        fits: Fits = lambda _: (),
        seek: Seek = _seeks_nobody,
        asked: Asked = lambda _: None,
        notified: Notified | None = None,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._describe = describe
        self._decide = decide
        self._fits = fits
        self._seek = seek
        self._asked = asked
        self._notified = notified
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Hashable, list[tuple[Punt, _Waiter]]] = {}
        self._waiters = 0
        self._of_client: dict[bytes, int] = {}  # waiters of each
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def in_flight(self) -> int:
        """Punts that are not answered yet."""
        return self._waiters

    def run(self) -> None:
        """Start whatever the engine has handed up."""
        for token, reply in self._engine.take_answers():
            try:
                if token is not None:
                    token(reply)  # type: ignore[operator]  # the border says object: see above
            except Exception:  # the others wait as well
                _log.exception("an answer could not be delivered")
        for question, answer in self._engine.take_late():
            if self._waiting.get(question):  # the exchange goes on, for nobody
                self._answered(question, Result(answer))
        for punt in self._engine.take_punts():
            try:
                self._start(punt)
            except Exception:
                self._fail(punt)

    async def drain(self, grace: float) -> bool:
        """Wait until all that is in flight is answered, at most `grace` seconds; whether it is."""
        try:
            async with asyncio.timeout(grace):
                await self._is_idle.wait()
        except TimeoutError:
            return False
        return True

    # -- one punt ---------------------------------------------------------------------------------------------------

    def _start(self, punt: Punt) -> None:
        if punt.reason == PUNT_LOCAL:
            local = self._describe(punt)
            if isinstance(local, bytes):
                self._deliver(punt, self._engine.send(punt, local))
            else:
                self._chase(punt, local)
        elif punt.reason == PUNT_NOTIFY:
            if self._notified is not None:
                self._deliver(punt, self._engine.send(punt, self._notified(punt)))
            else:
                reply = error_reply(punt.packet, len(punt.qname), Rcode.NOTIMP)
                self._deliver(punt, self._engine.send(punt, reply))
        elif punt.reason == PUNT_CONDITIONAL:
            decided = self._decide(punt)
            if isinstance(decided, bytes):
                self._deliver(punt, self._engine.send(punt, decided))
            else:
                cell, listset = decided or (None, 0)
                self._go_on(punt, *self._engine.decide(punt, cell, listset))
        elif punt.reason == PUNT_PATTERN:
            for name in punt.names:
                self._engine.remember(name, self._fits(name), punt.generation)
            self._go_on(punt, *self._engine.resume(punt))
        elif punt.reason == PUNT_SERVERS:
            self._seek_servers(punt)
        elif punt.reason == PUNT_DNS64:
            self._synthesise(punt)
        elif punt.reason == PUNT_REFRESH:
            if punt.question not in self._waiting:
                self._waiting[punt.question] = []
                self._ask(punt)
        else:
            self._forward(punt)

    def _forward(self, punt: Punt) -> None:
        key = punt.question
        waiter = partial(self._finish, punt)
        has_stale = self._engine.has_stale(punt)
        is_first = self._join(key, punt, waiter)
        if has_stale:
            self._loop.call_later(STALE_AFTER, self._give_up_waiting, key, punt, waiter)
        if is_first:
            self._ask(punt)

    def _ask(self, punt: Punt) -> None:
        try:
            asked = self._asked(punt) if punt.after != AFTER_NOTHING else None
            is_truncated = punt.after == AFTER_TRUNCATED
            self._pool.start(
                Question(punt.qname, punt.qtype, _qclass(punt), punt.do, punt.cd, punt.ecs),
                punt.route,
                partial(self._learn, punt.question, punt),
                # ANY is large and of use to reflection attacks: over TCP only (RFC 8482 section 4.4).
                tcp_only=is_truncated or punt.qtype == RRType.ANY,
                first=asked if is_truncated else None,
                last=None if is_truncated else asked,
            )
        except Exception:
            _log.exception("a question could not be asked")
            self._answered(punt.question, Result(None))

    def _chase(self, punt: Punt, alias: Alias) -> None:
        if punt.qtype in (RRType.CNAME, RRType.ANY):
            self._send_alias(punt, alias, None)
            return
        depth = punt.token.depth + 1 if isinstance(punt.token, _Inner) else 1
        if depth > MAX_ALIASES:
            self._chased(punt, alias, None)
            return
        # Without DO: a made-up answer has no signatures.
        target = inner_query(alias.target, punt.qtype, _qclass(punt), do=False, cd=punt.cd)
        self._ask_inner(target, punt, _Inner(depth, partial(self._chased, punt, alias), partial(self._fail, punt)))

    def _chased(self, punt: Punt, alias: Alias, answer: bytes | None) -> None:
        if answer is not None:
            self._send_alias(punt, alias, answer)
        else:
            reply = error_reply(punt.packet, len(punt.qname), Rcode.SERVFAIL)
            self._deliver(punt, self._engine.send(punt, reply))

    def _synthesise(self, punt: Punt) -> None:
        """Find the addresses that AAAA records are made from (DNS64)."""
        question = inner_query(punt.qname, RRType.A, _qclass(punt), do=punt.do, cd=punt.cd)
        self._ask_inner(question, punt, _Inner(0, partial(self._synthesised, punt), partial(self._fail, punt)))

    def _synthesised(self, punt: Punt, reply: bytes | None) -> None:
        self._go_on(punt, *self._engine.synthesise(punt, reply))

    def _ask_inner(self, packet: bytes, punt: Punt, inner: _Inner) -> None:
        """Ask what answering a punt needs: of the cache and of what is known here, then upstream. It comes to `inner`."""
        verdict, reply = self._engine.chase(packet, punt.client, inner)
        if verdict == PUNT:
            self._loop.call_soon(self.run)
        else:
            inner(reply if verdict == REPLY else None)

    def _seek_servers(self, punt: Punt) -> None:
        """Find out who the servers of a punt's names are; who waits for the same waits together."""
        key = ("servers", punt.names, punt.route, punt.generation)
        if self._join(key, punt, partial(self._sought, punt)):
            try:
                self._seek(punt.names, punt.route, partial(self._found_servers, key, punt))
            except Exception:
                _log.exception("servers could not be looked up")
                self._answered(key, Result(None, EDE.OTHER))

    def _found_servers(self, key: Hashable, punt: Punt, found: Sequence[Servers]) -> None:
        result = Result(None)
        try:
            for name, servers in zip(punt.names, found, strict=True):
                self._engine.remember_servers(name, servers.names, servers.addresses, servers.ttl, punt.generation)
        except Exception:  # an error of our own: those who wait shall hear of it
            _log.exception("the servers of a name could not be kept")
            result = Result(None, EDE.OTHER)
        self._answered(key, result)

    def _sought(self, punt: Punt, result: Result) -> None:
        if result.ede >= 0:  # Engine.finish() would find the answer in the cache and hand it up again
            reply = error_reply(punt.packet, len(punt.qname), Rcode.SERVFAIL)
            self._deliver(punt, self._engine.send(punt, reply))
        else:
            self._go_on(punt, *self._engine.resume(punt))

    def _join(self, key: Hashable, punt: Punt, waiter: _Waiter) -> bool:
        """Wait for the exchange of `key`; whether it is still to be started."""
        waiting = self._waiting.get(key)
        client = _client(punt)
        room = min(MAX_ALL_WAITERS - self._waiters, self._pool.room)
        is_full = waiting is not None and len(waiting) >= MAX_WAITERS
        if is_full or self._of_client.get(client, 0) >= SHARE * room:
            waiter(Result(None, EDE.NETWORK_ERROR, "too many queries in flight"))
            return False
        self._waiters += 1
        self._of_client[client] = self._of_client.get(client, 0) + 1
        self._is_idle.clear()
        if waiting is not None:
            waiting.append((punt, waiter))
            return False
        self._waiting[key] = [(punt, waiter)]
        return True

    def _leave(self, waiting: Sequence[tuple[Punt, _Waiter]]) -> None:
        """These wait no longer."""
        self._waiters -= len(waiting)
        for punt, _ in waiting:
            client = _client(punt)
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    def _give_up_waiting(self, key: Hashable, punt: Punt, waiter: _Waiter) -> None:
        """Answer one that has waited long enough by what is kept; the exchange goes on without it."""
        waiting = self._waiting.get(key, [])
        if (punt, waiter) not in waiting or not self._engine.has_stale(punt):
            return
        waiting.remove((punt, waiter))
        self._leave([(punt, waiter)])
        try:
            self._engine.fail(punt, EDE.NO_REACHABLE_AUTHORITY)
            waiter(Result(None))
        except Exception:
            self._fail(punt)
        if not self._waiters:
            self._is_idle.set()

    # -- answers ----------------------------------------------------------------------------------------------------

    def _learn(self, key: Hashable, punt: Punt, result: Result) -> None:
        if result.answer is not None:
            try:
                self._engine.learn(punt, result.answer)
            except ValueError as error:
                _log.debug("an answer from %s is not sound: %s", result.server, error)
                result = Result(None, EDE.NETWORK_ERROR, "no upstream server gave a usable answer")
            except Exception:  # an error of our own: those who wait shall hear of it
                _log.exception("an answer from %s could not be learned", result.server)
                self._answered(key, Result(None))
                return
        self._answered(key, result)
        if result.answer is None:
            try:
                self._engine.fail(punt, int(result.ede))
            except Exception:
                _log.exception("a failure could not be kept")

    def _answered(self, key: Hashable, result: Result) -> None:
        waiting = self._waiting.pop(key, [])  # none where the engine's own try was answered late
        self._leave(waiting)
        for punt, waiter in waiting:
            try:
                waiter(result)
            except Exception:
                self._fail(punt)
        if not self._waiters:
            self._is_idle.set()

    def _finish(self, punt: Punt, result: Result) -> None:
        self._go_on(punt, *self._engine.finish(punt, result.answer, int(result.ede), result.text))

    def _go_on(self, punt: Punt, verdict: int, reply: bytes | None) -> None:
        if verdict == PUNT:  # the policy has changed, or a decided block needs more: it is up again, with its token
            self._loop.call_soon(self.run)
        else:
            self._deliver(punt, reply)

    def _send_alias(self, punt: Punt, alias: Alias, answer: bytes | None) -> None:
        limit = PAYLOAD_SIZE if punt.transport == Transport.UDP else None
        reply = alias_reply(punt.packet, len(punt.qname), alias, answer, limit)
        self._deliver(punt, self._engine.send(punt, reply))

    def _fail(self, punt: Punt) -> None:
        """SERVFAIL after an error of our own. Not by Engine.finish(), which would hand a local answer up again."""
        _log.exception("a query could not be handled")
        reply = None
        try:
            reply = self._engine.send(punt, error_reply(punt.packet, len(punt.qname), Rcode.SERVFAIL))
        except Exception:  # who waits behind the token is to hear of it all the same
            _log.exception("an error could not be sent")
        try:
            self._deliver(punt, reply)
        except Exception:  # the others wait as well
            _log.exception("an answer could not be delivered")

    def _deliver(self, punt: Punt, reply: bytes | None) -> None:
        if punt.token is not None:
            punt.token(reply)  # type: ignore[operator]  # the border says object: see above


def _client(punt: Punt) -> bytes:
    """Who counts as one: an IPv4 address, or the first 56 bits of an IPv6 one."""
    return punt.client if punt.client.startswith(_MAPPED) else punt.client[:7]


def _qclass(punt: Punt) -> int:
    at = HEADER + len(punt.qname) + 2  # a client's question is not compressed: the engine has seen to that
    return int.from_bytes(punt.packet[at : at + 2], "big")


def inner_query(qname: bytes, qtype: int, qclass: int, *, do: bool, cd: bool) -> bytes:
    """A query for a name in wire form, as answering another leads to it."""
    flags = 0x0100 | (0x0010 if cd else 0)
    head = struct.pack(">HHHHHH", 0, flags, 1, 0, 0, 1) + qname + struct.pack(">HH", qtype, qclass)
    return head + struct.pack(">BHHIH", 0, RRType.OPT, PAYLOAD_SIZE, 0x8000 if do else 0, 0)


# -- replies -----------------------------------------------------------------------------------------------------------


def error_reply(packet: bytes, name_length: int, rcode: int) -> bytes:
    """A reply to `packet` (whose qname has `name_length` octets) with nothing but an rcode."""
    question_end = HEADER + name_length + 4
    ident, flags = struct.unpack_from(">HH", packet)
    opt = walk(packet, question_end)
    head = struct.pack(">HHHHHH", ident, 0x8080 | (flags & 0x0110) | rcode, 1, 0, 0, 1 if opt > 0 else 0)
    do = packet[opt + 7] & 0x80 if opt > 0 else 0
    tail = struct.pack(">BHHIH", 0, RRType.OPT, PAYLOAD_SIZE, do << 8, 0) if opt > 0 else b""
    return head + packet[HEADER:question_end] + tail


def alias_reply(packet: bytes, name_length: int, alias: Alias, answer: bytes | None, limit: int | None) -> bytes:
    """The reply to `packet` (whose qname has `name_length` octets) that sends the client to `alias`.

    `answer` is the upstream's to the question for the target, None where nobody asked for it: then the CNAME stands alone.
    The rcode is that of the last name (RFC 6604), SERVFAIL where its answer cannot be read; AD and AA are 0. `limit`: the
    most octets over UDP; the client's own size counts as well. Where that is too little the policy zone's SOA goes first,
    then the EDE's text, and then TC is set and the answer is empty.
    """
    import dnslib  # only here: most workers never need it

    question_end = HEADER + name_length + 4
    ident, flags = struct.unpack_from(">HH", packet)
    qtype, qclass = struct.unpack_from(">HH", packet, question_end - 4)
    opt = walk(packet, question_end)
    label = dnslib.DNSLabel(_labels(packet[HEADER : HEADER + name_length]))
    header = dnslib.DNSHeader(id=ident, qr=1, ra=1, rd=flags >> 8 & 1, cd=flags >> 4 & 1)

    def message(text: str = "") -> dnslib.DNSRecord:
        record = dnslib.DNSRecord(header, q=dnslib.DNSQuestion(label, qtype, qclass))
        if opt > 0:
            options = []
            if alias.ede >= 0:
                options.append(dnslib.EDNSOption(15, struct.pack(">H", alias.ede) + text.encode()))
            do = "do" if packet[opt + 7] & 0x80 else ""
            record.add_ar(dnslib.EDNS0(flags=do, udp_len=PAYLOAD_SIZE, opts=options))
        return record

    reply = message(alias.text)
    target = dnslib.DNSLabel(_labels(alias.target))
    reply.add_answer(dnslib.RR(label, RRType.CNAME, qclass, alias.ttl, dnslib.CNAME(target)))
    if answer is not None:
        try:
            resolved = dnslib.DNSRecord.parse(answer)
        except Exception:  # dnslib raises many kinds on octets that only look like a record's data
            _log.warning("the answer for an alias's target could not be read")
            header.rcode = Rcode.SERVFAIL
        else:
            reply.add_answer(*(record for record in resolved.rr if record.rtype in (RRType.CNAME, qtype)))
            passed_on = (Rcode.NXDOMAIN, Rcode.SERVFAIL)
            header.rcode = resolved.header.rcode if resolved.header.rcode in passed_on else Rcode.NOERROR
            reply.add_auth(*(record for record in resolved.auth if record.rtype == RRType.SOA))
    if alias.zone is not None:
        zone, soa = alias.zone
        reply.ar.insert(0, dnslib.RR(dnslib.DNSLabel(_labels(zone)), RRType.SOA, qclass, alias.ttl, dnslib.RD(soa)))
    wire = bytes(reply.pack())
    most = 65535 if limit is None else min(limit, max(512, _size(packet, opt)))
    if len(wire) > most and alias.zone is not None:
        del reply.ar[0]
        wire = bytes(reply.pack())
    if len(wire) > most and opt > 0:  # an EDE's text goes before TC is set for its sake
        reply.ar[-1] = message().ar[-1]
        wire = bytes(reply.pack())
    if limit is not None and len(wire) > most:
        header.tc, header.rcode = 1, Rcode.NOERROR
        wire = bytes(message().pack())
    return wire


def _size(packet: bytes, opt: int) -> int:
    return int.from_bytes(packet[opt + 3 : opt + 5], "big") if opt > 0 else 512


def _labels(wire: bytes) -> list[bytes]:
    labels, offset = [], 0
    while wire[offset]:
        labels.append(wire[offset + 1 : offset + 1 + wire[offset]])
        offset += wire[offset] + 1
    return labels
