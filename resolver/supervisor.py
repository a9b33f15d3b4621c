"""`tampah run`: desired against actual, from the first lock to the last worker.

The order of a start is its safety: the state is locked before anything in it is read, ports are taken before
privileges go, privileges go before any list is read, and no query is read before every worker enforces the first
generation. The first build and the workers' start run side by side.

An end is a drain: no new datagram is taken, what is queued and what waits for an upstream is answered, for GRACE
seconds at most. A second signal ends everything at once. If this process dies, its workers serve on (worker.py); the
next supervisor then finds the ports occupied and says by whom.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import logging
import mmap
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resolver import certificate, control, cookies, counters, decisions, logs, spawn
from resolver.admin import listen
from resolver.admin.listen import AdminError
from resolver.certificate import CertificateError
from resolver.channel import Channel
from resolver.config import kept
from resolver.config.problem import ConfigError
from resolver.control import ControlError
from resolver.decisions import DecisionError
from resolver.facts import Facts, Source
from resolver.fetch.link import Sources
from resolver.overlay import Entry, Overlay, OverlayError, told
from resolver.pause import PauseError
from resolver.privilege import PrivilegeError, drop_capabilities, drop_to
from resolver.records.link import Recorder
from resolver.reload import Reading, Reloader, ReloadError, read_config
from resolver.sockets import SocketError, Sockets
from resolver.watch import Watch
from resolver.workers import Workers, WorkersError, make_counters

if TYPE_CHECKING:
    from resolver.admin import api
    from resolver.admin.app import AdminServer
    from resolver.config.model import Config

ADMIN_AFTER = 1.0  # seconds after which HTTP is served although DNS is not yet
THREADS = 2  # for what would hold up the loop: reads of the state folder
GRACE = 5.0  # seconds to answer what is in flight

_log = logging.getLogger(__name__)


class StartError(ValueError):
    """The server cannot start; the text says why and what to do."""


class StateLock:
    """state_dir belongs to one server: an flock, so that a crash leaves nothing to clean up."""

    def __init__(self, state_dir: Path) -> None:
        """Make the folder if need be and lock it; StartError names the server that has it."""
        try:
            state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StartError(f"state_dir: {state_dir}: {error.strerror or error}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 20).decode(errors="replace").strip()
            os.close(self._fd)
            raise StartError(
                f"state_dir: {state_dir} is in use by the server with pid {holder or '?'}. Stop that one, or give this "
                "one a state_dir of its own"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another server have it."""
        os.close(self._fd)


class Supervisor:
    """One server. `path` is its config file, absolute."""

    def __init__(self, path: Path, read: Reading) -> None:
        self._path = path
        self._read = read
        self._config = config = read.config
        self._admin: AdminServer | None = None
        self._loop = asyncio.get_running_loop()
        self._facts = Facts()
        self._signals = 0
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        state_dir = config.state_path
        with contextlib.ExitStack() as undo:
            lock = StateLock(state_dir)
            undo.callback(lock.release)
            keys = {"dns": config.listen.dns, "tls": config.listen.tls, "https": config.listen.https}
            transparent = config.listen.transparent
            self._sockets = Sockets({**keys, "quic": config.listen.quic}, config.worker_count, transparent=transparent)
            undo.callback(self._sockets.close)
            self._admin_socket = listen.bind(config.admin.listen) if config.admin.listen else None
            if self._admin_socket:
                undo.callback(self._admin_socket.close)
            self._commands = _command_socket(state_dir / control.SOCKET)
            undo.callback(self._commands.close)
            reader = self._certificate_reader(config)
            if reader:
                undo.callback(reader.close)
            if config.user:
                drop_to(config.user, state_dir)
            self._overlay = Overlay(state_dir)
            fds = make_counters(config.worker_count)
            self._source = Source([memoryview(mmap.mmap(fd, counters.SIZE)) for fd in fds], self._facts)
            self._workers = Workers(
                self._sockets,
                fds,
                config.cache.size,
                self._facts,
                state_dir / "cache",
                cookies.key(state_dir),
                config.listen.https_path,
                tuple(map(str, config.listen.proxy_from)),
            )
            self._certificate = certificate.Keeper(reader, self._facts, self._certify) if reader else None
            self._watch = Watch(state_dir)
            self._reloader = Reloader(path, config, self._workers, self._facts, self._watch)
            if spawn.can_fork():
                from resolver import worker  # here, so that the forks share what it imports

                contexts = worker.prepare_tls() if self._certificate else None
                self._workers.fork(lambda fd: self._become(lambda end: worker.serve(end, contexts), fd))
            self._remote = Sources(self._facts, self._copies_changed)
            self._reloader.on_config = self._remote.follow
            self._workers.on_notify = self._remote.hurry
            self._recorder = Recorder(state_dir, self._workers.ring_fds, self._facts)
            self._reloader.on_generation = self._recorder.follow
            self._reloader.before_build = self._recorder.write
            self._undo = undo.pop_all()

    @staticmethod
    def _certificate_reader(config: Config) -> certificate.Reader | None:
        """Who reads the certificate of the encrypted listeners; None if there are none."""
        paths = config.certificate_paths
        if not config.is_encrypted or paths is None:
            return None
        return certificate.Reader(*paths, stays=bool(config.user) and os.geteuid() == 0)

    async def _certify(self, pair: certificate.Pair) -> None:
        await self._workers.certify(pair.chain, pair.key, pair.algorithm)

    def _become(self, serve: Callable[[int], None], fd: int) -> None:
        """What a forked worker does."""
        if self._config.user:
            drop_capabilities()
        serve(fd)

    async def run(self) -> None:
        """Serve until a signal. StartError if that cannot begin."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload_quietly("SIGHUP")))
        for warning in self._sockets.warnings:
            _log.warning("%s", warning)
        commands = await asyncio.start_unix_server(self._converse, sock=self._commands)
        try:
            serving = asyncio.ensure_future(self._serve())
            stopping = asyncio.ensure_future(self._stopping.wait())
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()  # StartError
                await stopping
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
            await self._end()
        finally:
            self._workers.kill()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(self._remote.stop(), self._recorder.stop())
            await self._reloader.stop()
            self._reloader.switch.close()
            commands.close()
            (self._config.state_path / control.SOCKET).unlink(missing_ok=True)
            if self._admin:
                await asyncio.to_thread(self._admin.close)
            await asyncio.to_thread(self._undo.close)

    async def _serve(self) -> None:
        """Bring everything up; returns when the first generation is in force."""
        began = time.monotonic()
        await self._workers.lay_over(self._overlay.entries)
        if self._certificate:
            await self._certify(self._certificate.pair)
        up = asyncio.Event()
        self._spawn(self._open_admin(up))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._workers.start())
                first = group.create_task(self._reloader.reload(self._read))
        except ExceptionGroup as group_error:
            known = group_error.subgroup((WorkersError, ReloadError))
            if known is None:
                raise
            raise StartError(str(known.exceptions[0])) from None
        up.set()
        self._spawn(self._follow_files())
        if self._certificate:
            self._spawn(self._certificate.follow())
        self._spawn(self._remote.run())
        self._spawn(self._recorder.run())
        self._spawn(self._reloader.switch.follow())
        self._spawn(self._reloader.builder.prepare())
        _log.info(
            "ready after %.2f s: generation %d, %d workers, DNS on %s, admin on %s",
            time.monotonic() - began,
            first.result().report.generation,
            len(self._workers.pids),
            ", ".join(self._sockets.names) or "no address",
            "{}:{}".format(*self._admin_socket.getsockname()) if self._admin_socket else "no address",
        )

    async def _open_admin(self, up: asyncio.Event) -> None:
        """Serve HTTP once DNS is served, or when that takes long: what it needs takes time to load."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(up.wait(), ADMIN_AFTER)
        if self._admin_socket:
            from resolver.admin.api import Api
            from resolver.admin.app import AdminServer, make_app

            self._admin = AdminServer(self._admin_socket)
            self._admin.start(make_app(self._source, self._why_not_ready, Api(self._for_api())))

    def _for_api(self) -> api.Server:
        """What the admin server's threads may ask."""
        from resolver.admin import api

        def config() -> Config:
            return self._reloader.config

        def settings() -> api.Settings:
            listen = config().admin.listen
            return api.Settings(config().token_path, config().admin.trust_loopback, listen.host if listen else "")

        def ask(message: control.Message, who: decisions.Who, patience: float) -> control.Message:
            return asyncio.run_coroutine_threadsafe(self._answer(message, who), self._loop).result(patience)

        def lists(status: Mapping[str, Any]) -> list[dict[str, Any]]:
            from resolver.explain import list_states  # when asked for: they take time to load

            return [state.to_json() for state in list_states(config(), status)]

        def explain(name: str, client: str, qtype: str, asks: bool) -> dict[str, Any]:
            from resolver.explain import explain_name

            return explain_name(config(), name, client, qtype, asks=asks).to_json()

        return api.Server(settings, ask, lists, explain)

    async def _end(self) -> None:
        """Answer what is in flight, then end the workers."""
        _log.info("stopping: answering what is in flight, for %g s at most", GRACE)
        self._sockets.refuse_new()
        await self._workers.stop(GRACE)
        _log.info("stopped")

    def _stop(self) -> None:
        self._signals += 1
        self._stopping.set()
        if self._signals > 1:
            _log.warning("second signal: ending at once")
            self._workers.kill()

    def _spawn(self, work: Awaitable[Any]) -> None:
        """Run something beside; a task is kept until it is done, or Python would forget it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.error("internal error", exc_info=error)

    # -- reload -------------------------------------------------------------------------------------------------------
    async def _reload_quietly(self, why: str) -> None:
        """A reload that nobody waits for; the reloader has logged how it ended."""
        _log.info("reloading: %s", why)
        with contextlib.suppress(ReloadError):
            await self._reloader.request()
        if self._certificate and why == "SIGHUP":
            await self._certificate.renew()

    def _copies_changed(self, lists: Sequence[str]) -> None:
        self._spawn(self._reload_quietly(f"fetched: {', '.join(lists)}"))

    async def _fetch(self, names: tuple[str, ...]) -> list[str]:
        """Have sources asked now, those of a config that nobody has read yet included; what is wrong, a line each."""
        config = kept.real(read_config(self._path).config)
        remote = {listed.name for listed in config.lists if listed.is_remote and listed.enabled != "no"}
        if unknown := set(names) - remote:
            raise ControlError(
                f"{min(unknown)}: no list of the config that comes from another machine and is switched on"
            )
        self._remote.follow(config.model_copy(update={"state_dir": str(self._config.state_path)}))
        failed = await self._remote.fetch(names)
        return [f"lists.{name}: {error}" for name, error in sorted(failed.items())]

    async def _follow_files(self) -> None:
        try:
            async with contextlib.aclosing(self._watch.changes()) as changes:
                async for changed in changes:
                    await self._reload_quietly(f"changed: {', '.join(changed)}")
        except OSError as error:
            _log.error("files are not watched: %s; use 'tampah reload' after a change", error)

    # -- commands and admin -------------------------------------------------------------------------------------------
    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One command: one message, one answer."""
        async with Channel(reader, writer) as channel:
            try:
                async with asyncio.timeout(10):
                    message = await channel.receive()
                if message:
                    peer: socket.socket = writer.get_extra_info("socket")
                    channel.send(await self._answer(message, decisions.Who.of(_user_of(peer))))
            except (ControlError, TimeoutError) as error:
                channel.send(control.Failed(str(error) or "no message within 10 s"))
            await channel.flush()

    async def _answer(self, message: control.Message, who: decisions.Who) -> control.Message:
        match message:
            case control.Reload() | control.Decide() | control.RollBack():
                try:
                    report = {"not_fetched": [], **await self._change_lists(message, who)}
                    if self._certificate and isinstance(message, control.Reload):
                        report["not_fetched"] += filter(None, [await self._certificate.renew()])
                    return control.Report(report)
                except (ReloadError, ConfigError, ControlError, DecisionError, OSError) as error:
                    return control.Failed(str(error))
            case control.Status():
                return control.Report(await self._status())
            case control.Override(name, word, seconds):
                return await self._change_overlay(lambda: self._overlay.put(name, word, seconds), who)
            case control.TakeBack(name):
                return await self._change_overlay(lambda: self._overlay.take_back(name), who, undone=True)
            case control.Flush():
                return await self._flush(message)
            case control.Pause(target, seconds):
                return await self._change_pauses(self._pause(target, seconds))
            case control.Resume(target):
                return await self._change_pauses(self._resume(target))
            case control.Statistics():
                from resolver import metrics  # not at the start: it takes time to load

                return control.Report(metrics.summary(self._source))
            case control.Asked():
                return control.Report({"written": await self._recorder.write()})
        return control.Failed(f"{type(message).__name__} is not for the supervisor")

    async def _change_lists(
        self, message: control.Reload | control.Decide | control.RollBack, who: decisions.Who
    ) -> dict[str, Any]:
        """Another generation: what was decided is kept first, then enforced on every worker, then answered."""
        state_dir, current = self._config.state_path, self._reloader.generation
        if isinstance(message, control.RollBack):
            return (await self._reloader.roll_back(message.number, message.reason, who)).to_json()
        record: dict[str, Any] = {}
        if current and isinstance(message, control.Decide):
            names, reason = message.names, message.reason
            record = decisions.decide(state_dir, current, message.list, names, reason, who, approve=message.approve)
            _log.info(
                "list %s %s by %s: %s", message.list, record["decision"], who.user or who.uid, reason or "no reason"
            )
        elif current and isinstance(message, control.Reload) and message.force:
            decisions.release(state_dir, current, who)
        if isinstance(message, control.Decide):
            return {**(await self._reloader.request()).to_json(), "decision": record}
        failed = await self._fetch(message.lists) if message.fetch else []
        return {**(await self._reloader.request(force=message.force)).to_json(), "not_fetched": failed}

    async def _change_overlay(
        self, change: Callable[[], Entry], who: decisions.Who, *, undone: bool = False
    ) -> control.Message:
        """An operator's word: kept first, then enforced on every worker, then answered."""
        try:
            entry = change()
            await self._workers.lay_over(self._overlay.entries)
        except (OverlayError, WorkersError) as error:
            return control.Failed(str(error))
        _log.info("%s, says %s", told(entry, undone), who.user or who.uid)
        return control.Report(dataclasses.asdict(entry))

    async def _flush(self, order: control.Flush) -> control.Message:
        try:
            count = await self._workers.flush(order)
        except WorkersError as error:
            return control.Failed(str(error))
        _log.info("cache flushed: %s, %d answers", order.name or "everything", count)
        return control.Report({"flushed": count})

    async def _pause(self, target: str, seconds: float) -> dict[str, Any]:
        return dataclasses.asdict(await self._reloader.switch.pause(target, seconds))

    async def _resume(self, target: str) -> dict[str, Any]:
        return {"ended": [dataclasses.asdict(each) for each in await self._reloader.switch.resume(target)]}

    async def _change_pauses(self, change: Awaitable[dict[str, Any]]) -> control.Message:
        """A pause or its end: kept first, then enforced on every worker, then answered."""
        try:
            return control.Report(await change)
        except (PauseError, WorkersError, OSError) as error:
            return control.Failed(str(error))

    async def _status(self) -> dict[str, Any]:
        from resolver import metrics  # as above

        states = await self._workers.inspect()
        pids = self._workers.pids
        return {
            "pid": os.getpid(),
            "generation": self._facts.generation,
            "last_error": self._reloader.last_error,
            "hits": metrics.hits(self._source),
            "shadow_hits": metrics.shadow_hits(self._source),
            "pauses": [dataclasses.asdict(each) for each in self._reloader.switch.pauses],
            "workers": [
                {
                    "worker": number,
                    "pid": pids.get(number, 0),
                    "generation": state.generation if state else 0,
                    "in_flight": state.in_flight if state else 0,
                    "connections": state.connections if state else 0,
                    "answers": state is not None,
                }
                for number, state in states.items()
            ],
        }

    def _why_not_ready(self) -> str:
        """For /readyz, from one of the admin server's threads: "" if lists are loaded and every worker answers."""
        try:
            return asyncio.run_coroutine_threadsafe(self._find_fault(), self._loop).result(5)
        except (TimeoutError, RuntimeError):
            return "the supervisor does not answer"

    async def _find_fault(self) -> str:
        if self._stopping.is_set():
            return "stopping"
        if not self._facts.generation:
            return "no generation is in force yet"
        for number, state in (await self._workers.inspect()).items():
            if state is None:
                return f"worker {number} does not answer"
            if state.generation != self._facts.generation:
                return f"worker {number} serves generation {state.generation}, not {self._facts.generation}"
        return ""


def _user_of(peer: socket.socket) -> int:
    """The uid at the other end of a Unix socket, as the kernel knows it."""
    credentials = struct.Struct("3i")  # pid, uid, gid: SO_PEERCRED in unix(7)
    uid: int = credentials.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[1]
    return uid


def _command_socket(path: Path) -> socket.socket:
    """The socket that commands talk to, for the server's own user alone."""
    path.unlink(missing_ok=True)  # of a server that crashed: the lock says that none runs
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen()
    except OSError as error:
        listener.close()
        raise StartError(f"state_dir: {path}: {error.strerror or error}") from None
    return listener


def run(path: Path) -> None:
    """Serve by the config file at `path` until a signal. ConfigError or StartError if that cannot begin."""
    logs.set_up("supervisor")
    spawn.share_arena()
    read = read_config(path)
    for problem in read.config.warnings:
        _log.warning("%s", problem)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, "helper"))
        if sys.version_info < (
            3,
            12,
        ):  # no thread for each process that is waited for; later versions choose so themselves
            watcher = asyncio.PidfdChildWatcher()
            watcher.attach_loop(loop)
            asyncio.set_child_watcher(watcher)
        try:
            supervisor = Supervisor(path.absolute(), read)
        except (SocketError, AdminError, CertificateError, PrivilegeError, OverlayError, PauseError) as error:
            raise StartError(str(error)) from None
        await supervisor.run()

    asyncio.run(main())
