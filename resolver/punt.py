"""Python's pass over what the engine hands up: forwards, aliases, and decisions that need more than the index.

`run` takes the engine's punts and starts each on its way; nothing here waits. Identical questions in flight share one
exchange: the first asks, the rest are appended to its waiters. When the answer comes the engine learns it once, then
finishes each waiter by itself, since each has its own id, case, size and policy.

A query from a stream carries in `punt.token` a callable that takes the reply's octets, or None where nothing is to be
sent; a query from UDP carries None, and the engine sends by itself.

Invariants: every punt is given back to the engine exactly once, whatever fails on its way; the waiters of one question
and of all are bounded, and those beyond the bound get SERVFAIL at once.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from resolver.engine.engine import AFTER_TRUNCATED, PUNT, PUNT_CONDITIONAL, PUNT_LOCAL
from resolver.upstream.message import HEADER, PAYLOAD_SIZE, Question, walk
from resolver.upstream.pool import Pool, Result
from resolver.vocabulary import EDE, Rcode, RRType, Transport

if TYPE_CHECKING:
    from resolver.engine.engine import Engine, Punt
    from resolver.upstream.health import Server
    from resolver.upstream.native import Native

MAX_WAITERS = 1000  # for one question
MAX_ALL_WAITERS = 20_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alias:
    """Answer with `qname CNAME target` and what `target` resolves to.

    `target`: lower-case wire form. `ttl` in seconds, of the CNAME. `ede` (or -1) and `text` go to clients with EDNS.
    `route`: where to ask for the target.
    """

    target: bytes
    ttl: int
    ede: int = -1
    text: str = ""
    route: int = 0


Local = Alias | bytes  # bytes: a whole reply, sent as it stands
Describe = Callable[["Punt"], Local]  # what to answer to a PUNT_LOCAL
Decide = Callable[["Punt"], Local | None]  # what to do with a PUNT_CONDITIONAL; None: forward it
_Waiter = Callable[[Result], None]


class Punts:
    """Runs the engine's punts along the pool. Call `run` after every Engine.drain() and Engine.answer() with punts."""

    def __init__(
        self, engine: Engine, pool: Pool, *, describe: Describe, decide: Decide, native: Native | None = None
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._native = native
        self._describe = describe
        self._decide = decide
        self._waiting: dict[Hashable, list[_Waiter]] = {}
        self._waiters = 0
        self._loop = asyncio.get_running_loop()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def in_flight(self) -> int:
        """Punts that are not answered yet."""
        return self._waiters

    def run(self) -> None:
        """Start whatever the engine has handed up, and pass on what it has for streams."""
        for token, reply in self._engine.take_answers():
            if token is not None:
                token(reply)  # type: ignore[operator]  # see the module's comment
        for punt in self._engine.take_punts():
            try:
                self._start(punt)
            except Exception:
                _log.exception("a query could not be handled")
                self._finish(punt, Result(None, EDE.OTHER, "internal error"))

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
        local: Local | None = None
        if punt.reason == PUNT_LOCAL:
            local = self._describe(punt)
        elif punt.reason == PUNT_CONDITIONAL:
            local = self._decide(punt)
        if isinstance(local, bytes):
            self._deliver(punt, self._engine.send(punt, local))
        elif local is None:
            self._forward(punt)
        elif punt.qtype in (RRType.CNAME, RRType.ANY):
            self._send_alias(punt, local, Result(None))
        else:
            target = Question(local.target, punt.qtype, _qclass(punt), False, punt.cd)
            self._ask((target, local.route), target, local.route, partial(self._send_alias, punt, local))

    def _forward(self, punt: Punt) -> None:
        key = punt.question
        waiter = partial(self._finish if key in self._waiting else self._learn_and_finish, punt)
        question = Question(punt.qname, punt.qtype, _qclass(punt), punt.do, punt.cd)
        # ANY is large and of use to reflection attacks: over TCP only (RFC 8482 section 4.4).
        tcp_only = punt.qtype == RRType.ANY or punt.after == AFTER_TRUNCATED
        failed = None
        if self._native is not None and punt.after and not tcp_only:
            self._native.gave_up(punt)
            failed = self._native.server_of(punt)
        self._ask(key, question, punt.route, waiter, tcp_only=tcp_only, after=failed)

    def _ask(
        self,
        key: Hashable,
        question: Question,
        route: int,
        waiter: _Waiter,
        *,
        tcp_only: bool = False,
        after: Server | None = None,
    ) -> None:
        """Share the exchange of `key` if there is one, else start it."""
        waiting = self._waiting.get(key)
        if self._waiters >= MAX_ALL_WAITERS or (waiting is not None and len(waiting) >= MAX_WAITERS):
            waiter(Result(None, EDE.NETWORK_ERROR, "too many queries in flight"))
            return
        self._waiters += 1
        self._is_idle.clear()
        if waiting is not None:
            waiting.append(waiter)
            return
        self._waiting[key] = [waiter]
        self._pool.start(question, route, partial(self._answered, key), tcp_only=tcp_only, after=after)

    def _answered(self, key: Hashable, result: Result) -> None:
        waiting = self._waiting.pop(key)
        self._waiters -= len(waiting)
        for waiter in waiting:
            try:
                waiter(result)
            except Exception:
                _log.exception("an answer could not be given")
        if not self._waiters:
            self._is_idle.set()

    def _learn_and_finish(self, punt: Punt, result: Result) -> None:
        if result.answer is not None:
            try:
                self._engine.learn(punt, result.answer)
            except ValueError:
                result = self._written_anew(punt, result.answer)
        self._finish(punt, result)

    def _written_anew(self, punt: Punt, answer: bytes) -> Result:
        """An answer whose OPT the engine cannot cut out, without it; a failure if it cannot be read at all."""
        import dns.exception  # only here: hardly any server puts OPT before other records
        import dns.message

        try:
            message = dns.message.from_wire(answer)
            message.use_edns(False)
            answer = message.to_wire(max_size=65535)
            self._engine.learn(punt, answer)
        except (dns.exception.DNSException, ValueError):
            return Result(None, EDE.NETWORK_ERROR, "the upstream server's answer could not be read")
        return Result(answer)

    def _finish(self, punt: Punt, result: Result) -> None:
        verdict, reply = self._engine.finish(punt, result.answer, int(result.ede), result.text)
        if verdict == PUNT:  # the generation has changed meanwhile, and now Python has to decide
            self._loop.call_soon(self.run)
        else:
            self._deliver(punt, reply)

    def _send_alias(self, punt: Punt, alias: Alias, result: Result) -> None:
        limit = None if punt.transport != Transport.UDP else PAYLOAD_SIZE
        reply = alias_reply(punt.packet, len(punt.qname), alias, result.answer, limit)
        self._deliver(punt, self._engine.send(punt, reply))

    def _deliver(self, punt: Punt, reply: bytes | None) -> None:
        if punt.token is not None:
            punt.token(reply)  # type: ignore[operator]  # the border says object: see the module's comment


def _qclass(punt: Punt) -> int:
    at = HEADER + len(punt.qname) + 2  # a client's question is not compressed: the engine has seen to that
    return int.from_bytes(punt.packet[at : at + 2], "big")


# -- aliases -----------------------------------------------------------------------------------------------------------


def alias_reply(packet: bytes, name_length: int, alias: Alias, answer: bytes | None, limit: int | None) -> bytes:
    """The reply to `packet` (whose qname has `name_length` octets) that sends the client to `alias`.

    `answer` is the upstream's to the question for the target, None if there is none: then the CNAME stands alone. The
    rcode is that of the last name (RFC 6604), AD and AA are 0. `limit`: the most octets over UDP; the client's own size
    counts as well, and beyond it TC is set and the answer empty.
    """
    import dnslib  # only here: most workers never need it

    question_end = HEADER + name_length + 4
    ident, flags = struct.unpack_from(">HH", packet)
    qtype, qclass = struct.unpack_from(">HH", packet, question_end - 4)
    opt = walk(packet, question_end)
    label = dnslib.DNSLabel(_labels(packet[HEADER : HEADER + name_length]))
    header = dnslib.DNSHeader(id=ident, qr=1, ra=1, rd=flags >> 8 & 1, cd=flags >> 4 & 1)

    def message() -> dnslib.DNSRecord:
        record = dnslib.DNSRecord(header, q=dnslib.DNSQuestion(label, qtype, qclass))
        if opt > 0:
            options = []
            if alias.ede >= 0:
                text = alias.text.encode()[:200].decode(errors="ignore").encode()
                options.append(dnslib.EDNSOption(15, struct.pack(">H", alias.ede) + text))
            do = "do" if packet[opt + 7] & 0x80 else ""
            record.add_ar(dnslib.EDNS0(flags=do, udp_len=PAYLOAD_SIZE, opts=options))
        return record

    reply = message()
    target = dnslib.DNSLabel(_labels(alias.target))
    reply.add_answer(dnslib.RR(label, RRType.CNAME, qclass, alias.ttl, dnslib.CNAME(target)))
    if answer is not None:
        try:
            resolved = dnslib.DNSRecord.parse(answer)
        except Exception:  # dnslib raises many kinds on octets that only look like a record's data
            _log.debug("the answer for an alias's target could not be read")
        else:
            reply.add_answer(*(record for record in resolved.rr if record.rtype in (RRType.CNAME, qtype)))
            header.rcode = resolved.header.rcode if resolved.header.rcode == Rcode.NXDOMAIN else Rcode.NOERROR
            reply.add_auth(*(record for record in resolved.auth if record.rtype == RRType.SOA))
    wire = bytes(reply.pack())
    if limit is not None and len(wire) > min(limit, max(512, _size(packet, opt))):
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
