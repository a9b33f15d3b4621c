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
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resolver import control, counters, decisions, snapshot, spawn
from resolver.config.addresses import Endpoint, Server
from resolver.config.load import load
from resolver.config.model import Config
from resolver.config.problem import ConfigError
from resolver.facts import Facts, ListFacts
from resolver.lists.report import Report
from resolver.lists.standing import standing
from resolver.watch import Watch, state_of
from resolver.workers import Workers, WorkersError

# What is read once, at the start: where a change of it has to wait for a restart.
AT_START: dict[str, Callable[[Config], object]] = {
    "listen": lambda config: config.listen,
    "workers": lambda config: config.worker_count,
    "state_dir": lambda config: config.state_path,
    "user": lambda config: config.user,
    "cache.size": lambda config: config.cache.size,
    "admin.listen": lambda config: config.admin.listen,
}

_log = logging.getLogger(__name__)


class ReloadError(Exception):
    """Nothing has changed; the text says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A reload that worked. `needs_restart`: changed keys that are read only at the start."""

    report: Report
    needs_restart: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**self.report.to_json(), "needs_restart": list(self.needs_restart), "reload_seconds": self.seconds}


class Builder:
    """Builds generations, each in a process of its own.

    Half of a small build would be the start of Python and its imports. So the process for the next build is started
    ahead, by prepare(), and waits for its config; its memory is the price.
    """

    def __init__(self) -> None:
        self._session = secrets.token_hex(8)  # within it no list's counter is given to another list
        self._process: asyncio.subprocess.Process | None = None

    async def prepare(self) -> None:
        """Start the process for the next build, if there is none."""
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *spawn.command("resolver.lists.compile", "--stdin", "--json", "--session", self._session),
                env=spawn.environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # a terminal's SIGINT goes to the supervisor, which ends the build
            )

    async def build(self, config: Config, *, force: bool = False, rollback: int = 0) -> Report:
        """Build the next generation, as compile.build_generation() does. ReloadError says why there is none."""
        await self.prepare()
        assert self._process is not None
        process = self._process
        order = {"force": force, "rollback": rollback}
        try:
            output, complaints = await process.communicate(f"{config.to_json()}\n{json.dumps(order)}".encode())
        finally:
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


class Reloader:
    """Keeps the workers on the newest generation. `started`: the config that the server was started with."""

    def __init__(self, path: Path, started: Config, workers: Workers, facts: Facts, watch: Watch) -> None:
        self._path = path
        self._started = started
        self._workers = workers
        self._facts = facts
        self._watch = watch
        self._state_dir = started.state_path
        self._server_slots: dict[str, int] = {}
        self._running = asyncio.Lock()
        self._next: asyncio.Task[Outcome] | None = None
        self._force_next = False
        self.builder = Builder()
        self.last_error = ""
        self.generation: snapshot.Generation | None = None

    async def request(self, *, force: bool = False) -> Outcome:
        """Wait for a reload that begins after this call; `force`: that reads every list. ReloadError if it fails."""
        self._force_next |= force
        if self._next is None:
            self._next = asyncio.create_task(self._turn())
        return await asyncio.shield(self._next)

    async def _turn(self) -> Outcome:
        async with self._running:
            self._next = None  # who asks from here on gets the next one
            try:
                return await self.reload()
            finally:
                await self.builder.prepare()

    async def roll_back(self, target: int, reason: str, who: decisions.Who) -> Outcome:
        """Enforce the lists as generation `target` (0: the one before that in force) had them. ReloadError if it fails."""
        async with self._running:
            try:
                return await self._told(lambda began: self._roll_back(began, target, reason, who))
            finally:
                await self.builder.prepare()

    async def reload(self) -> Outcome:
        """One reload, now. Counted and logged whichever way it ends."""
        return await self._told(self._reload)

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
        self.last_error = "; ".join(f"lists.{alarm.name}: {alarm.fault}" for alarm in outcome.report.alarms)
        if outcome.report.alarms:
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
        if outcome.needs_restart:
            _log.warning("changed, but read only at the start: %s; restart to apply", ", ".join(outcome.needs_restart))
        return outcome

    async def _reload(self, began: float) -> Outcome:
        known = state_of([str(self._path)])  # before it is read: a change meanwhile must show
        try:
            config = load(self._path)
        except ConfigError as error:
            raise ReloadError(str(error)) from None
        sources = [str(self._path), *(str(item.path) for item in config.lists if item.scheme == "file")]
        self._watch.follow(sources, {**state_of(sources), **known})
        for problem in config.warnings:
            _log.warning("%s", problem)
        here = config.model_copy(update={"state_dir": str(self._state_dir)})
        force, self._force_next = self._force_next, False
        generation = None if force else await asyncio.to_thread(standing, here, self._state_dir)
        if generation is None:
            report = await self.builder.build(here, force=force)
            generation = snapshot.read_generation(self._state_dir, report.generation)
        else:
            report = Report.from_json(generation.report)
        return await self._enforce(config, generation, report, began)

    async def _roll_back(self, began: float, target: int, reason: str, who: decisions.Who) -> Outcome:
        try:
            config = load(self._path)
        except ConfigError as error:
            raise ReloadError(str(error)) from None
        if not target:
            number = snapshot.in_force(self._state_dir)
            target = next((each.number for each in snapshot.generations(self._state_dir) if each.number < number), 0)
            if not target:
                raise ReloadError("there is no generation before this one")
        here = config.model_copy(update={"state_dir": str(self._state_dir)})
        report = await self.builder.build(here, rollback=target)
        generation = snapshot.read_generation(self._state_dir, report.generation)
        outcome = await self._enforce(config, generation, report, began)
        decisions.roll_back(self._state_dir, generation, target, reason, who)
        _log.warning("rolled back to generation %d by %s: %s", target, who.user or who.uid, reason or "no reason given")
        return outcome

    async def _enforce(self, config: Config, generation: snapshot.Generation, report: Report, began: float) -> Outcome:
        """Have every worker serve by a generation, and put it in force."""
        try:
            await self._workers.swap(self._order(config, generation))
        except WorkersError as error:
            raise ReloadError(str(error)) from None
        snapshot.put_in_force(self._state_dir, report.generation)
        self.generation = generation
        self._tell_facts(config, generation, report)
        changed = tuple(key for key, read in AT_START.items() if read(config) != read(self._started))
        return Outcome(report, changed, time.monotonic() - began)

    def _order(self, config: Config, generation: snapshot.Generation) -> control.Swap:
        upstream, cache = config.upstream, config.cache
        for server in upstream.all_servers:
            if len(self._server_slots) < counters.SERVERS:
                self._server_slots.setdefault(_text(server), len(self._server_slots))
        routes = (upstream.servers, *(route.servers for route in upstream.routes))
        return control.Swap(
            number=generation.number,
            index=str(generation.index_path(self._state_dir)),
            policy=str(generation.policy_path(self._state_dir)),
            cache=control.CacheLimits(cache.max_ttl, cache.min_ttl, cache.negative_ttl),
            upstream=control.Upstream(
                routes=tuple(tuple(_text(server) for server in servers) for servers in routes),
                strategy=upstream.strategy,
                timeout=upstream.timeout,
                slots=dict(self._server_slots),
            ),
            rate_limit=control.RateLimit(
                config.rate_limit.per_second, config.rate_limit.prefix4, config.rate_limit.prefix6
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
                category=categories.get(state.name, ""),
                slot=state.slot,
                names=state.names,
                refused=reports[state.name].refused if state.name in reports else 0,
                held=state.held == snapshot.HELD,
                quarantined=state.quarantined,
            )
            for state in generation.lists
        ]


def _text(server: Server) -> str:
    """A server as upstream/health.py reads it and as metrics name it: where to connect to, and how."""
    return f"{server.scheme}://{Endpoint(str(server.address), server.port)}"
