"""From a changed file to a generation that every worker enforces: the one way for a signal, a command and the watch.

    load config → build in a process of its own → swap in every worker → put in force

Where neither config nor lists have changed there is nothing to build, and the generation that stands is enforced.

Whatever fails on the way changes nothing: the workers go on by the generation they have, and the failure is told to
who asked, logged and counted. A single broken list fails alone: its last good copy serves on, the others are renewed.
One reload runs at a time. A request that comes in meanwhile waits for the next, together with all others that came in
meanwhile: each is answered by a reload that began after it, so what was on disk when it was made is in force when it
is answered.

The supervisor itself reads only the config; lists are read by the build process, whose memory ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import glob
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resolver import control, counters, decisions, snapshot, spawn
from resolver.config import kept
from resolver.config.addresses import Endpoint, Server
from resolver.config.problem import ConfigError
from resolver.dnssec.trust import trust_of
from resolver.facts import Facts, ListFacts
from resolver.lists.report import Report
from resolver.lists.standing import config_digest, standing
from resolver.switch import Switch
from resolver.transfer.notify import sources_of
from resolver.watch import State, Watch, state_of
from resolver.workers import Workers, WorkersError

if TYPE_CHECKING:
    from resolver.config.model import Config

# What is read once, at the start: where a change of it has to wait for a restart.
AT_START: dict[str, Callable[[Config], object]] = {
    "listen": lambda config: config.listen,
    "workers": lambda config: config.worker_count,
    "state_dir": lambda config: config.state_path,
    "user": lambda config: config.user,
    "cache.size": lambda config: config.cache.size,
    "admin.listen": lambda config: config.admin.listen,
}

# A patched index is merged anew when nothing has changed for so long, in seconds; soon, after so many patches: at
# patch.MAX_PATCHES a change would have to wait for it.
TIDY_AFTER, TIDY_SOON, TIDY_AT = 60.0, 1.0, 16

MAX_ANSWER = 1 << 26  # octets of a builder's report

_log = logging.getLogger(__name__)


class ReloadError(Exception):
    """Nothing has changed; the text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reload that worked. `needs_restart`: changed keys that are read only at the start. `client_alarms`: files of clients
    that serve by older content."""

    report: Report
    needs_restart: tuple[str, ...]
    seconds: float
    client_alarms: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            **self.report.to_json(),
            "needs_restart": list(self.needs_restart),
            "reload_seconds": self.seconds,
            "client_alarms": list(self.client_alarms),
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """A config as it was read, its key (kept.load), and what its file looked like before: a change meanwhile must show."""

    config: Config
    key: str
    state: State


def read_config(path: Path) -> Reading:
    """The config in a file. ConfigError says what is wrong with it."""
    state = state_of([str(path)])
    config, key = kept.load(path)
    return Reading(config, key, state)


class Builder:
    """Builds generations, each in a process of its own.

    Half of a small build would be the start of Python and its imports. So the process for the next build is started
    ahead, by prepare(), and waits for its config; its memory is the price. One that rolled back has read no list and
    serves for the next build too: who rolls back several times in a row does not wait for a new one each time.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._session = secrets.token_hex(8)  # within it no list's counter is given to another list
        self._process: asyncio.subprocess.Process | None = None

    async def prepare(self) -> None:
        """Start the process for the next build, if there is none."""
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *spawn.command(
                    "resolver.lists.compile", "--stdin", "--json", "--session", self._session, *self._options
                ),
                env=spawn.environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_ANSWER,
                process_group=0,  # a terminal's SIGINT goes to the supervisor, which ends the build
            )

    async def build(self, config: Config, *, force: bool = False, rollback: int = 0, is_first: bool = False) -> Report:
        """Build the next generation, as compile.build_generation() does. ReloadError says why there is none.

        `is_first`: nobody is answered before it is there.
        """
        await self.prepare()
        assert self._process is not None
        process = self._process
        order = {"force": force, "rollback": rollback, "is_first": is_first}
        text = f"{config.to_json()}\n{json.dumps(order)}\n".encode()
        stays = False
        try:
            if rollback:
                output, complaints = await _first_line(process, text), b""
                stays = bool(output) and not output.startswith(b'{"error"')
            if not rollback or not output:
                output, complaints = await process.communicate(b"" if rollback else text)
        finally:
            if not stays:
                await self.stop()
        try:
            answer = json.loads(output)
            if "error" not in answer:
                return Report.from_json(answer)
        except (ValueError, KeyError, TypeError):
            last = complaints.decode(errors="replace").strip().rpartition("\n")[2]
            raise ReloadError(f"the build ended with status {process.returncode} and no result: {last}") from None
        raise ReloadError(answer["error"])

    async def stop(self) -> None:
        """End the process, whatever it is at."""
        process, self._process = self._process, None
        if process and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _first_line(process: asyncio.subprocess.Process, text: bytes) -> bytes:
    """What a process says to a text, its input left open; b"" if it ends without a word."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(text)
        await process.stdin.drain()
    return await process.stdout.readline()


class Reloader:
    """Keeps the workers on the newest generation. `started`: the config that the server was started with."""

    def __init__(self, path: Path, started: Config, workers: Workers, facts: Facts, watch: Watch) -> None:
        self._path = path
        self._started = started
        self._config = started  # that of the generation in force
        self._workers = workers
        self._facts = facts
        self._watch = watch
        self._state_dir = started.state_path
        self._server_slots: dict[str, int] = {}
        self._running = asyncio.Lock()
        self._next: asyncio.Task[Outcome] | None = None
        self._force_next = False
        self.builder = Builder()
        self._tidier = Builder("--tidy")
        self._tidying: asyncio.Task[None] | None = None
        self._patches = 0  # of the index in force, since it was merged
        self.on_config: Callable[[Config], None] | None = None  # told of each config that was read
        self.on_generation: Callable[[Config, snapshot.Generation], None] | None = None  # and of what is in force by it
        self.before_build: Callable[[], Awaitable[object]] | None = None  # what a build that reads lists goes by
        self.switch = Switch(self._state_dir, workers, facts)
        self.last_error = ""
        self.generation: snapshot.Generation | None = None
        self._trust = control.Trust()

    @property
    def config(self) -> Config:
        """The config by which is served, with the state folder of the start."""
        return self._here(kept.real(self._config))

    async def request(self, *, force: bool = False) -> Outcome:
        """Wait for a reload that begins after this call; `force`: that reads every list. ReloadError if it fails."""
        self._force_next |= force
        if self._next is None:
            self._next = asyncio.create_task(self._turn())
        return await asyncio.shield(self._next)

    async def _turn(self) -> Outcome:
        async with self._running:
            await self._stop_tidying()  # here, as the reload before this one may have begun it
            self._next = None  # who asks from here on gets the next one
            try:
                return await self.reload()
            finally:
                await self.builder.prepare()
                # Of its own accord the collector comes once there is a quarter more to look at, and what a reload leaves
                # in cycles would pile up until then.
                gc.collect()

    async def roll_back(self, target: int, reason: str, who: decisions.Who) -> Outcome:
        """Enforce the lists as generation `target` had them (0: the last with other ones). ReloadError if it fails."""
        await self._stop_tidying()
        async with self._running:
            try:
                return await self._told(lambda began: self._roll_back(began, target, reason, who))
            finally:
                await self.builder.prepare()

    async def reload(self, read: Reading | None = None) -> Outcome:
        """One reload, now, by a config just `read` if there is one. Counted and logged whichever way it ends."""
        return await self._told(lambda began: self._reload(began, read))

    async def _told(self, how: Callable[[float], Awaitable[Outcome]]) -> Outcome:
        """A way to another generation, which is given the time when it began; counted and logged."""
        began = time.monotonic()
        try:
            outcome = await how(began)
        except ReloadError as error:
            self._facts.reload_failures += 1
            self.last_error = str(error)
            if self.generation:  # at the start the caller ends with this error
                _log.error("reload failed, nothing has changed: %s", error)
            raise
        faults = [f"lists.{alarm.name}: {alarm.fault}" for alarm in outcome.report.alarms]
        self.last_error = "; ".join([*faults, *outcome.client_alarms])
        if self.last_error:
            self._facts.reload_failures += 1
        self._facts.reloads += 1
        self._facts.reload_duration = outcome.seconds
        self._facts.last_success = time.time()
        for line in outcome.report.lines():
            _log.info("%s", line)
        for alarm in outcome.report.alarms:
            _log.error("%s", alarm.line())
        for listed in outcome.report.quarantines:
            _log.warning("%s", listed.line())
        for text in outcome.client_alarms:
            _log.error("%s", text)
        if outcome.needs_restart:
            _log.warning("changed, but read only at the start: %s; restart to apply", ", ".join(outcome.needs_restart))
        return outcome

    async def _reload(self, began: float, read: Reading | None) -> Outcome:
        if read is None:
            try:
                read = read_config(self._path)
            except ConfigError as error:
                raise ReloadError(str(error)) from None
            for problem in read.config.warnings:
                _log.warning("%s", problem)
        config = read.config
        sources = [str(self._path), *(str(item.path) for item in config.lists if item.scheme == "file")]
        clients = [path for group in config.groups for path in group.files]
        sources += [glob.escape(str(path)) for path in clients]
        if config.dnssec.anchor_path:
            sources.append(glob.escape(str(config.dnssec.anchor_path)))
        self._watch.follow(sources, {**state_of(sources), **read.state}, clients)
        digest = config.digest if isinstance(config, kept.Kept) else config_digest(self._here(config))
        force, self._force_next = self._force_next, False
        generation = None if force else await asyncio.to_thread(standing, config, digest, self._state_dir)
        report = Report.from_json(generation.report) if generation else None
        before = self.generation
        is_known = not self._follow_trust(config)
        if generation:
            try:
                if before and before.number == generation.number and is_known:
                    await self.switch.read_again(config)
                else:
                    await self._put_in_force(config, generation)
            except (WorkersError, OSError) as error:
                _log.warning("building anew, as generation %d is unfit: %s", generation.number, error)
                report = None
        if self.on_config:
            self.on_config(self._here(config) if any(listed.is_remote for listed in config.lists) else config)
        if generation is None or report is None:
            generation, report = await self._build(config, force=force)
        return await self._finish(read, digest, generation, report, before, began)

    async def _roll_back(self, began: float, target: int, reason: str, who: decisions.Who) -> Outcome:
        try:
            read = read_config(self._path)
            target = target or snapshot.previous(self._state_dir)
        except (ConfigError, ValueError) as error:
            raise ReloadError(str(error)) from None
        before = self.generation
        self._follow_trust(read.config)
        generation, report = await self._build(read.config, rollback=target)
        decisions.roll_back(self._state_dir, generation, target, reason, who)
        _log.warning("rolled back to generation %d by %s: %s", target, who.user or who.uid, reason or "no reason given")
        return await self._finish(read, generation.config, generation, report, before, began)

    async def _build(
        self, config: Config, *, force: bool = False, rollback: int = 0
    ) -> tuple[snapshot.Generation, Report]:
        """The next generation, in force on every worker."""
        if self.before_build and not rollback:
            await self.before_build()
        report = await self.builder.build(
            self._here(config), force=force, rollback=rollback, is_first=self.generation is None
        )
        generation = snapshot.read_generation(self._state_dir, report.generation)
        try:
            await self._put_in_force(config, generation)
        except (WorkersError, OSError) as error:
            raise ReloadError(str(error)) from None
        return generation, report

    async def _finish(
        self,
        read: Reading,
        digest: str,
        generation: snapshot.Generation,
        report: Report,
        before: snapshot.Generation | None,
        began: float,
    ) -> Outcome:
        """What is to be done and said once a generation is in force; `before`: the one before it."""
        self._config = config = read.config
        report = replace(report, warnings=(*report.warnings, *self.switch.warnings))
        self._tell_facts(config, generation, report)
        if self.on_generation:
            self.on_generation(config, generation)
        changed: tuple[str, ...] = ()
        if config is not self._started:
            now, then = kept.real(config), kept.real(self._started)
            changed = tuple(key for key, part in AT_START.items() if part(now) != part(then))
        await asyncio.to_thread(kept.keep, config, read.key, digest, self._state_dir)
        if report.index != "patched":
            self._patches = 0
        elif before is None or before.index != generation.index:
            self._patches += 1
        if self._patches:
            self._tidying = asyncio.create_task(self._tidy(config))
        return Outcome(report, changed, time.monotonic() - began, tuple(self.switch.alarms))

    async def _put_in_force(self, config: Config, generation: snapshot.Generation) -> None:
        """Swap every worker to a generation, together with the client map that fits it."""
        async with self.switch.lock:
            await self._workers.swap(await self.switch.fit(config, generation, self._order(config, generation)))
            self.switch.accept()
            snapshot.put_in_force(self._state_dir, generation.number)
            self.generation = generation

    async def _tidy(self, config: Config) -> None:
        """Merge the index in force anew, once there has been no change for a while; a change ends this."""
        await asyncio.sleep(TIDY_AFTER if self._patches < TIDY_AT else TIDY_SOON)
        try:
            report = await self._tidier.build(self._here(config))
        except ReloadError as error:
            _log.warning("the index stays as it is, patched: %s", error)
            return
        async with self._running:  # from here on it is a reload as others are
            self._tidying = None
            if self.generation is None or self.generation.number != report.parent:
                return  # it comes to what was in force, not to what is
            generation = snapshot.read_generation(self._state_dir, report.generation)
            try:
                await self._put_in_force(config, generation)
            except (WorkersError, OSError) as error:
                _log.warning("the index stays as it is, patched: %s", error)
                return
            self._tell_facts(config, generation, report)
            self._patches = 0
        _log.info("generation %d: index merged anew after patches, %.2f s", report.generation, report.seconds)

    async def _stop_tidying(self) -> None:
        """End what has not come to a swap yet."""
        task, self._tidying = self._tidying, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def stop(self) -> None:
        """End what is under way in other processes."""
        await self._stop_tidying()
        await self.builder.stop()

    def _follow_trust(self, config: Config) -> bool:
        """Have answers checked by what the config says; whether that is new. ReloadError if its file is of no use."""
        before = self._trust
        try:
            self._trust = trust_of(config)
        except ValueError as error:
            raise ReloadError(str(error)) from None
        return self._trust != before

    def _here(self, config: Config) -> Config:
        """The config with the state_dir that is locked, which a change of the key does not move."""
        return kept.real(config).model_copy(update={"state_dir": str(self._state_dir)})

    def _order(self, config: Config, generation: snapshot.Generation) -> control.Swap:
        upstream, cache = config.upstream, config.cache
        own = dict.fromkeys(group.upstream for group in config.groups if group.upstream)  # numbered by number_groups
        routes = (upstream.servers, *(route.servers for route in upstream.routes), *own)
        for server in dict.fromkeys((*(server for route in routes for server in route), *upstream.bootstrap)):
            if len(self._server_slots) < counters.SERVERS:
                self._server_slots.setdefault(_text(server), len(self._server_slots))
        return control.Swap(
            number=generation.number,
            index=str(generation.index_path(self._state_dir)),
            policy=str(generation.policy_path(self._state_dir)),
            cache=control.CacheLimits(
                cache.max_ttl, cache.min_ttl, cache.negative_ttl, cache.serve_stale, cache.prefetch
            ),
            trust=self._trust,
            upstream=control.Upstream(
                routes=tuple(tuple(_text(server) for server in servers) for servers in routes),
                strategy=upstream.strategy,
                timeout=upstream.timeout,
                slots=dict(self._server_slots),
                bootstrap=tuple(map(_text, upstream.bootstrap)),
                ca="" if not upstream.ca else str(config.upstream_ca),
            ),
            rate_limit=control.RateLimit(
                per_second=config.rate_limit.per_second,
                prefix4=config.rate_limit.prefix4,
                prefix6=config.rate_limit.prefix6,
                responses=config.rate_limit.responses_per_second,
                slip=config.rate_limit.slip,
                action=config.rate_limit.action,
            ),
            edns=control.Edns(
                cookies=config.cookies.enabled + config.cookies.require,
                nsid=config.identity.nsid,
                version=config.identity.version,
                identity=config.identity.id,
                structured=config.structured_errors.code,
                keepalive=int(config.connections.idle * 10),
                ecs=config.ecs.policy,
                prefix4=config.ecs.prefix4,
                prefix6=config.ecs.prefix6,
            ),
            zones=tuple(
                control.Zone(listed.name, listed.zone, sources_of(listed))
                for listed in config.lists
                if listed.scheme == "axfr" and listed.enabled != "no"
            ),
            records=config.query_log.what,
            connections=control.Connections(
                config.connections.per_worker, config.connections.per_client, config.connections.idle
            ),
        )

    def _tell_facts(self, config: Config, generation: snapshot.Generation, report: Report) -> None:
        categories = {item.name: item.category for item in config.lists}
        reports = {item.name: item for item in report.lists}
        facts = self._facts
        facts.generation = generation.number
        facts.servers = list(self._server_slots)
        facts.lists = [
            ListFacts(
                name=state.name,
                category=categories.get(state.name, "") or snapshot.own_category(state.name),
                slot=state.slot,
                names=state.names,
                refused=reports[state.name].refused if state.name in reports else 0,
                held=state.held == snapshot.HELD,
                quarantined=state.quarantined,
            )
            for state in (*generation.lists, *generation.own)
        ]


def _text(server: Server) -> str:
    """A server as upstream/server.py reads it and as metrics name it: where to connect to, and how."""
    if server.is_encrypted:
        return str(server)
    return f"{server.scheme}://{Endpoint(str(server.address), server.port)}"
