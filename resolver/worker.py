"""One worker: an engine on an asyncio loop (uvloop), told what to do by the supervisor over one socket.

The loop watches the engine's descriptor and lets it work in bounded batches; what the engine cannot answer alone goes
to `Punts`. A generation is loaded in a thread, since that reads the whole index, and swapped between two batches. Until
the first one is in force no socket is read: queries wait in the kernel.

If the supervisor dies, the worker serves on by the generation it has: DNS must not end because its manager did. It has
no parent-death signal for that reason; it ends by SIGTERM, or by Drain. SIGINT is the supervisor's: a terminal sends it
to both.

A worker imports only what it uses: no pydantic, click, rich or prometheus-client.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from resolver import cachefile, control, counters, logs, overlay, ring, spawn
from resolver.channel import Channel
from resolver.control import ControlError
from resolver.decide import Decisions
from resolver.delegations import Delegations
from resolver.dnssec.link import Checked
from resolver.engine.engine import Engine, Index, Punt, Snapshot, SuffixTable
from resolver.listeners.connection import Door
from resolver.listeners.proxy import Trusted
from resolver.listeners.server import Limits, StreamServer
from resolver.listeners.stream import Stream
from resolver.local import Aliases
from resolver.punt import Alias, Decided, Punts
from resolver.snapshot import read_clients, read_policy
from resolver.transfer import notify
from resolver.upstream.health import Strategy
from resolver.upstream.native import Native
from resolver.upstream.pool import Pool, PoolConfig
from resolver.upstream.server import Server
from resolver.vocabulary import Transport

if TYPE_CHECKING:
    from resolver.listeners.quic import QuicServer
    from resolver.listeners.tls import Contexts

SWITCH_INTERVAL = 0.0005  # seconds: a thread that loads a generation yields to queries at once
GC_THRESHOLD = (20_000, 20, 100)  # young objects die by reference count; cycles are few
LOOK = 0.01  # seconds between looks whether a drain is done
OVERLAY_LOOK = 60.0  # seconds between looks at timed words, at most
TRANSPORTS = {"tls": Transport.TLS, "https": Transport.HTTPS}  # as which queries on sockets of a kind count
OTHER_FILES = 1024  # descriptors that are not connections of clients: mostly sockets to upstream servers
ROOM = 32_768  # descriptors for which there is room from the start: eight octets each
ROUNDS_AT_END = 1000  # batches that a drain may find waiting

_log = logging.getLogger(__name__)


class Worker:
    """What a worker holds for its lifetime, made once its Configure came in."""

    def __init__(
        self,
        configure: control.Configure,
        tell: Callable[[control.Message], None],
        contexts: Contexts | None = None,
    ) -> None:
        self.generation = 0
        memory = memoryview(mmap.mmap(configure.counters_fd, counters.SIZE))
        self.engine = Engine(counters=memory, cache_bytes=configure.cache_bytes)
        # All of it now: it goes round within minutes anyway, and no query is to wait for a page.
        ring = mmap.mmap(configure.ring_fd, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self.engine.set_ring(memoryview(ring))
        words = memory.cast("Q")
        self.pool = Pool(PoolConfig(routes={}), counters=words)
        self.checked = Checked(self.pool, words)
        self.native = Native(self.engine, self.pool, words, on_punts=lambda: self.punts.run())
        self.delegations = Delegations(self.checked)
        self._buckets = memoryview(mmap.mmap(configure.buckets_fd, 0))
        self._buckets_key = bytes.fromhex(configure.buckets_key)
        self._cookie_key = bytes.fromhex(configure.cookie_key)
        self._index: Index | None = None
        self._snapshots: list[Snapshot] = []  # the one in force
        self._policy = Path()
        self._overlay: list[overlay.Entry] = []
        self._tell = tell
        self._upstream: control.Upstream
        self._transferred: tuple[notify.Notifiable, ...] = ()
        self._overlay_timer: asyncio.TimerHandle | None = None
        self._cache_file = Path(configure.cache_file) if configure.cache_file else None
        self._keeping: asyncio.Future[int] | None = None
        self._certificate: control.Certificate | None = None
        self._https_path = configure.https_path.encode()
        self._trusted = Trusted(configure.proxy_from) if configure.proxy_from else None
        if self._trusted:
            self.engine.set_proxies(self._trusted.table())
        self._contexts = contexts  # of TLS, with what forks of one supervisor share
        self.punts = Punts(
            self.engine,
            self.checked,
            describe=self._describe,
            decide=self._decide,
            fits=lambda name: self._decisions.fits(name),
            seek=self.delegations.seek,
            asked=self.native.asked,
            notified=self._notified,
        )
        self.streams = StreamServer(self.engine, self.punts.run, self._drain)
        self._quic = self._make_quic(configure)
        self._sockets = [
            (
                bound,
                socket.socket(bound.family, socket.SOCK_STREAM if bound.stream else socket.SOCK_DGRAM, fileno=bound.fd),
            )
            for bound in configure.sockets
        ]

    async def swap(self, order: control.Swap) -> None:
        """Load a generation and enforce it; ValueError or OSError says why not, and then nothing has changed."""
        snapshot, aliases, decisions, self._zones = await asyncio.to_thread(_load, order, self._index)
        if self.generation and order.upstream.routes[1:] != self._upstream.routes[1:]:
            self.engine.flush(None, False)  # answers are found by their route's number, which may be another's now
        before, self._snapshots = self._snapshots, [snapshot]
        limits, self._upstream = order.cache, order.upstream
        self.pool.reconfigure(_pool_config(order.upstream))
        is_new_trust = self.checked.reconfigure(order.trust)
        self.native.reconfigure(asks=not self.checked.is_on)
        if is_new_trust:
            self.engine.flush()  # what is kept was not checked by it
        rate = order.rate_limit
        self.engine.set_limit(
            self._buckets,
            per_second=rate.per_second,
            prefix4=rate.prefix4,
            prefix6=rate.prefix6,
            key=self._buckets_key,
            responses=rate.responses,
            slip=rate.slip,
            action=rate.action,
        )
        edns = order.edns
        self.engine.configure_edns(
            cookies=edns.cookies,
            cookie_key=self._cookie_key,
            nsid=edns.nsid.encode(),
            version=edns.version.encode(),
            identity=edns.identity.encode(),
            structured=edns.structured,
            keepalive=edns.keepalive,
            ecs=edns.ecs,
            prefix4=edns.prefix4,
            prefix6=edns.prefix6,
        )
        self.engine.configure_cache(
            max_ttl=limits.max_ttl,
            min_ttl=limits.min_ttl,
            negative_ttl=limits.negative_ttl,
            stale_ttl=limits.serve_stale,
            prefetch=limits.prefetch,
        )
        self.engine.set_records(ring.WHAT.index(order.records))
        self.streams.limits = _limits(order.connections)
        if self._quic is not None:
            self._quic.limit(self.streams.limits)
        self.engine.swap(snapshot)
        self._transferred = tuple(notify.notifiable(zone.list, zone.zone, zone.sources) for zone in order.zones)
        self._aliases, self._decisions = aliases, decisions
        self._index, self._policy = snapshot.index, Path(order.policy)
        self.delegations.wants_addresses = self._index.speaks_of_server_addresses
        is_first, self.generation = self.generation == 0, order.number
        if is_first:
            await self._open()
            if self._cache_file:
                self._keeping = asyncio.ensure_future(cachefile.load(self._cache_file, self.engine, self._asked_whom()))
            gc.collect()
            gc.freeze()  # what is here now stays: the collector need not look at it again
        await asyncio.to_thread(_let_go, before)  # a large index takes milliseconds

    async def map_clients(self, order: control.Clients) -> None:
        """Enforce another client map with the generation in force; ValueError or OSError says why not.

        A map for another generation is passed over: that one came, or comes, with its own.
        """
        if order.number == self.generation and self._index is not None:
            self._snapshots = [await asyncio.to_thread(_remap, self._index, self._policy, order)]
            self.engine.swap(self._snapshots[0])

    def certify(self, order: control.Certificate) -> None:
        """Show this certificate from the next connection on; OSError if that cannot be done."""
        if self._contexts is None:
            self._contexts = prepare_tls()
        self._contexts.show(order.chain, order.key, order.algorithm)
        if self._quic is not None:
            self._quic.certify(order.chain, order.key)
        self._certificate = order

    def lay_over(self, order: control.Overlay) -> None:
        """Let the operators' words speak, and end those with a time limit when their time comes."""
        self._overlay = [overlay.Entry(entry.name, entry.word, entry.made, entry.until) for entry in order.entries]
        self._refresh_overlay()

    def _refresh_overlay(self) -> None:
        if self._overlay_timer is not None:
            self._overlay_timer.cancel()
        now = time.time()
        words = overlay.words(self._overlay, now)
        self.engine.set_overlay(SuffixTable(words) if words else None)
        ends_in = overlay.next_end(self._overlay, now)
        self._overlay_timer = None
        if ends_in is not None:  # a step of the clock is noticed within a minute
            wait = min(ends_in, OVERLAY_LOOK)
            self._overlay_timer = asyncio.get_running_loop().call_later(wait, self._refresh_overlay)

    async def _open(self) -> None:
        for bound, sock in self._sockets:
            match bound.kind:
                case "dns" if not bound.stream:
                    self.engine.add_udp(bound.fd, bound.family, bound.wildcard)
                case "dns" | "tls":
                    await self.streams.listen(sock, partial(Stream, self.streams, self._door(bound.kind)))
                case "https":
                    from resolver.listeners.https import Http  # here: it brings two libraries

                    door = self._door(bound.kind)
                    await self.streams.listen(
                        sock, partial(Http, self.streams, door, self._https_path, self._alt_svc(sock))
                    )
                case "quic" if self._quic is not None:
                    self._quic.listen_doq(sock, wildcard=bound.wildcard)
                case "https3" if self._quic is not None:
                    self._quic.listen_http3(sock, wildcard=bound.wildcard, path=self._https_path)
        asyncio.get_running_loop().add_reader(self.engine.fileno(), self._drain)

    def _make_quic(self, configure: control.Configure) -> QuicServer | None:
        if not any(bound.kind in ("quic", "https3") for bound in configure.sockets):
            return None
        from resolver.listeners.quic import QuicServer  # here: it brings aioquic
        from resolver.quic import Ids

        return QuicServer(self.engine, self.punts.run, Ids(self._buckets_key, configure.worker, configure.workers))

    def _alt_svc(self, sock: socket.socket) -> bytes:
        """What HTTP/1.1 and HTTP/2 say of HTTP/3 on the same port (RFC 7838); nothing where a load balancer stands before,
        as it passes on TCP alone."""
        return b"" if self._trusted else b'h3=":%d"; ma=86400' % sock.getsockname()[1]

    def _door(self, kind: str) -> Door:
        contexts = self._contexts
        if kind == "dns":
            return Door(Transport.TCP, None, self._trusted)
        assert contexts is not None  # the certificate comes before the first generation
        return Door(TRANSPORTS[kind], partial(contexts.of, kind), self._trusted)

    def _notified(self, punt: Punt) -> bytes:
        reply, lists = notify.answer(self._transferred, punt.packet, punt.qname, punt.qtype, punt.client)
        if lists:
            self._tell(control.Notified(tuple(lists)))
        return reply

    def _describe(self, punt: Punt) -> Alias | bytes:
        return self._aliases.describe(punt)

    def _decide(self, punt: Punt) -> Decided | bytes | None:
        return self._decisions.decide(punt)

    def _drain(self) -> int:
        count = self.engine.drain()
        self.punts.run()
        return count

    def inspect(self) -> control.Inspected:
        """The state that the supervisor asks for."""
        connections = self.streams.connections + (self._quic.connections if self._quic else 0)
        return control.Inspected(self.generation, self.punts.in_flight, connections)

    def flush(self, order: control.Flush) -> int:
        """Forget answers; how many."""
        if self._keeping and not self._keeping.done():
            self._keeping.cancel()  # what has not come back yet is forgotten too
        return self.engine.flush(order.name or None, order.subtree)

    def _asked_whom(self) -> str:
        """What cached answers depend on: they are found by the number of their route."""
        return json.dumps([self._upstream.routes, self._zones, self.checked.trust.anchors, self.checked.trust.negative])

    async def drain(self, seconds: float) -> None:
        """Answer what has come in and what waits for an upstream, for at most `seconds`; then close everything."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        drains = [self.streams.drain(seconds), *([self._quic.drain(seconds)] if self._quic else [])]
        listeners = asyncio.gather(*drains)
        if self.generation:
            for _ in range(ROUNDS_AT_END):
                if not self._drain():
                    break
        while loop.time() < end:
            waiting = self.engine.tick()
            self.punts.run()  # what the engine has just given up is not lost either
            if not waiting and not self.punts.in_flight:
                break
            await asyncio.sleep(LOOK)
        await listeners
        if self._cache_file and self.generation:
            with contextlib.suppress(OSError):  # the next start is without it, no more
                cachefile.save(self._cache_file, self.engine, self._asked_whom())
        self.native.close()
        self.delegations.close()
        await self.checked.close()
        self.pool.close()
        self.engine.close()


def _load(order: control.Swap, known: Index | None) -> tuple[Snapshot, Aliases, Decisions, dict[str, int]]:
    # An index file is never written again, so one that is mapped and verified need not be so twice.
    index = known
    if index is None or index.path != order.index:
        index = Index(order.index, patient=known is not None)  # who loads the first serves nobody yet
    policy = read_policy(Path(order.policy))
    if order.clients:
        policy = replace(policy, clients=read_clients(Path(order.clients)))
    decisions = Decisions(index, policy, order.number)
    return Snapshot(index, policy, order.number), Aliases(index, policy), decisions, dict(policy.routes)


@cache  # so it is said once, not at each reload
def _limits(wanted: control.Connections) -> Limits:
    """What may be kept of what is wanted: each connection is an open file."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(files - OTHER_FILES, files // 2)
    if wanted.per_worker > most:
        _log.info("connections.per_worker: %d at most, as %d files may be open (ulimit -n)", most, files)
    return Limits(min(wanted.per_worker, most), wanted.per_client, idle=wanted.idle)


def _let_go(snapshots: list[Snapshot]) -> None:
    snapshots.clear()
    spawn.give_back()  # what was allocated for both generations at once


def _remap(index: Index, policy: Path, order: control.Clients) -> Snapshot:
    return Snapshot(index, replace(read_policy(policy), clients=read_clients(Path(order.path))), order.number)


def _pool_config(upstream: control.Upstream) -> PoolConfig:
    return PoolConfig(
        routes={number: [Server.parse(text) for text in servers] for number, servers in enumerate(upstream.routes)},
        strategy=Strategy(upstream.strategy),
        timeout=upstream.timeout,
        slots=upstream.slots,
        bootstrap=[Server.parse(text) for text in upstream.bootstrap],
        authorities=Path(upstream.ca) if upstream.ca else None,
    )


async def _obey(worker: Worker, channel: Channel, ended: asyncio.Event, seconds: list[float]) -> None:
    """Do what the supervisor says, until it says Drain or is gone."""
    while message := await channel.receive():
        match message:
            case control.Swap():
                try:
                    await worker.swap(message)
                except (OSError, ValueError, MemoryError) as error:
                    channel.send(control.Failed(_said(error), message.number))
                    await channel.flush()
                    if not worker.generation:
                        raise WorkerError(_said(error)) from None
                else:
                    channel.send(control.Swapped(message.number))
            case control.Clients():
                await worker.map_clients(message)
                channel.send(control.Mapped(message.serial))
            case control.Certificate():
                worker.certify(message)
                channel.send(control.Certified(message.serial))
            case control.Overlay():
                worker.lay_over(message)
                channel.send(control.Overlaid(message.serial))
            case control.Inspect():
                channel.send(worker.inspect())
            case control.Flush():
                channel.send(control.Flushed(worker.flush(message)))
            case control.Drain():
                seconds[0] = message.seconds
                ended.set()
                return
            case _:
                raise ControlError(f"{type(message).__name__} is not for a worker")
    _log.warning("the supervisor is gone; serving on by generation %d until SIGTERM", worker.generation)


def _said(error: Exception) -> str:
    return str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)


class WorkerError(Exception):
    """The worker cannot serve; the text says why."""


async def _main(fd: int, contexts: Contexts | None) -> None:
    loop = asyncio.get_running_loop()
    channel = await Channel.over(socket.socket(fileno=fd))
    configure = await channel.receive()
    if not isinstance(configure, control.Configure):
        raise ControlError("the first message must be Configure")
    logs.set_up(f"worker {configure.worker}")
    ended = asyncio.Event()
    seconds = [5.0]
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    try:
        worker = Worker(configure, channel.send, contexts)
    except (OSError, ValueError, MemoryError) as error:
        channel.send(control.Failed(_said(error)))
        await channel.flush()
        raise WorkerError(_said(error)) from None
    channel.send(control.Ready())
    obeying = asyncio.ensure_future(_obey(worker, channel, ended, seconds))
    obeying.add_done_callback(lambda task: ended.set() if task.exception() else None)
    await ended.wait()
    if obeying.done():
        obeying.result()
    await worker.drain(seconds[0])
    obeying.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await obeying
    channel.close()


def _make_room(fd: int, files: int) -> None:
    """Have the kernel make its table of our descriptors large, while there is one thread. It would double when it is full,
    and with threads that waits until all processors have noticed, some 10 ms (expand_fdtable in Linux's fs/file.c)."""
    os.close(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, files - 1))


def prepare_tls() -> Contexts:
    """What workers that are forks of this process share of TLS."""
    from resolver.listeners.tls import Contexts  # here: a worker without encrypted listeners does not need it

    return Contexts()


def serve(fd: int, contexts: Contexts | None = None) -> None:
    """Be a worker until it is over; `fd` is the socket to the supervisor, `contexts` what prepare_tls() gave it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # upstream sockets and TCP clients
    _make_room(fd, min(most, ROOM))
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*GC_THRESHOLD)
    spawn.share_arena()
    spawn.take_short_turns()
    logs.set_up("worker")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(fd, contexts))
    except (WorkerError, ControlError) as error:
        _log.error("%s", error)
        sys.exit(1)
    except Exception:
        _log.exception("internal error")
        sys.exit(1)


def main() -> None:
    """The process: `python -m resolver.worker FD`, FD being the supervisor's socket."""
    serve(int(sys.argv[1]))


if __name__ == "__main__":
    main()
