"""Keeps the workers' client map current: at the second a schedule switches or a pause ends, and at once when a pause is
made, a file of clients changes or a device gets another address.

The map is worked out in a thread from what is in memory, written below state_dir/clients, and swapped in every worker
beside the matrix and index that they have. A reload goes through `fit`, so that a new generation comes into force
together with the map that fits its classes.

The wall clock is looked at every LOOK seconds, so a step of it is noticed within that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resolver import control, pause
from resolver.facts import Facts, GroupFacts
from resolver.membership import FOLDER, ClientFiles, Membership, State
from resolver.neighbours import Neighbours
from resolver.pause import Pause, PauseError, Pauses
from resolver.snapshot import Generation, read_policy, write_clients
from resolver.workers import Workers, WorkersError

if TYPE_CHECKING:
    from resolver.config.model import Config

LOOK = 1.0  # seconds between looks at the clock, where anything depends on it
LOOK_AROUND = 60.0  # seconds between whole looks at the neighbour table
GATHER = 0.05  # seconds in which news of neighbours are gathered

_log = logging.getLogger(__name__)


class Switch:
    """The supervisor's. PauseError if the pauses that are kept cannot be read."""

    def __init__(self, state_dir: Path, workers: Workers, facts: Facts, clock: Callable[[], float] = time.time) -> None:
        self.lock = asyncio.Lock()  # held while workers get another generation or another map
        self._state_dir = state_dir
        self._workers = workers
        self._facts = facts
        self._clock = clock
        self._pauses = Pauses(state_dir, clock)
        self._files = ClientFiles(state_dir)
        self._neighbours: Neighbours | None = None
        self._neighbours_fault = ""
        self._wanted: frozenset[str] = frozenset()
        self._members: Membership | None = None
        self._state: State | None = None
        self._policy: Path | None = None
        self._path: Path | None = None  # the map in force
        self._serial = 0
        self._next: tuple[float, float | None] = (0.0, None)  # the next change, and when that was worked out
        self._known: tuple[Membership | None, tuple[Pause, ...]] = (None, ())  # and for whom
        self._candidate: tuple[Membership, Path]
        self._fitted: State
        self._wake = asyncio.Event()
        self._news: asyncio.TimerHandle | None = None

    # -- a reload -----------------------------------------------------------------------------------------------------
    async def fit(self, config: Config, generation: Generation, order: control.Swap) -> control.Swap:
        """The order with the map of this moment. Call it, swap, and then `accept`, under the lock."""
        members = await asyncio.to_thread(Membership, config, self._files)
        self._candidate = members, generation.policy_path(self._state_dir)
        self._want(members)
        path, self._fitted = await self._make(*self._candidate)
        return replace(order, clients=str(path))

    def accept(self) -> None:
        """What was fitted is in force."""
        (self._members, self._policy), self._state = self._candidate, self._fitted
        self._tell_facts()
        self._wake.set()

    @property
    def alarms(self) -> list[str]:
        """What somebody should look at."""
        return self._files.alarms + ([self._neighbours_fault] if self._neighbours_fault and self._wanted else [])

    @property
    def warnings(self) -> list[str]:
        """Lines of files that name no client."""
        return self._files.warnings

    async def read_again(self, config: Config) -> None:
        """Read changed files of clients and enforce them with the generation in force; WorkersError if that fails."""
        async with self.lock:
            members = await asyncio.to_thread(Membership, config, self._files)
            self._want(members)
            assert self._policy is not None
            await self._enforce(members, await self._make(members, self._policy))

    # -- pauses -------------------------------------------------------------------------------------------------------
    @property
    def pauses(self) -> tuple[Pause, ...]:
        """Those that last."""
        return self._pauses.pauses

    async def pause(self, target: str, seconds: float) -> Pause:
        """Pause filtering; kept first, then enforced on every worker. PauseError, WorkersError."""
        groups = [group.name for group in self._members.groups] if self._members else []
        made = self._pauses.put(pause.parse_target(target, groups), seconds)
        await self.refresh()
        _log.warning("filtering is paused for %s until %s", made.target, pause.said(made)[1])
        return made

    async def resume(self, target: str) -> list[Pause]:
        """End a pause, "" for all. PauseError, WorkersError."""
        if target:
            groups = [group.name for group in self._members.groups] if self._members else []
            with contextlib.suppress(PauseError):  # a group that has left the config is paused still
                target = pause.parse_target(target, groups)
        ended = self._pauses.take_back(target)
        await self.refresh()
        _log.info("filtering goes on for %s", ", ".join(each.target for each in ended))
        return ended

    # -- the map ------------------------------------------------------------------------------------------------------
    async def refresh(self) -> None:
        """Enforce the map of this moment if it is another. WorkersError if a worker does not take it."""
        async with self.lock:
            if self._members is None or self._policy is None:
                return
            self._want(self._members)
            if self._now(self._members) != self._state:
                await self._enforce(self._members, await self._make(self._members, self._policy))
            self._wake.set()

    async def _enforce(self, members: Membership, made: tuple[Path, State]) -> None:
        path, state = made
        await self._workers.map_clients(str(path))
        self._remove_all_but(path)
        before, self._state, self._members = self._state, state, members
        self._facts.client_maps += 1
        self._tell_facts()
        self._wake.set()
        if before is not None and len(before.applying) == len(state.applying):
            for group, was, applies in zip(members.groups, before.applying, state.applying, strict=True):
                if was is not applies:
                    _log.info("group %s %s by its schedule", group.name, "applies" if applies else "does not apply")

    async def _make(self, members: Membership, policy: Path) -> tuple[Path, State]:
        state = self._now(members)
        self._serial += 1
        path = self._state_dir / FOLDER / f"{self._serial}.map"

        def work() -> None:
            write_clients(path, members.make(read_policy(policy), state))

        await asyncio.to_thread(work)
        return path, state

    def _now(self, members: Membership) -> State:
        addresses = self._neighbours.table.addresses() if self._neighbours else {}
        return members.state(self._clock(), self._pauses.pauses, addresses)

    def _remove_all_but(self, kept: Path) -> None:
        for path in kept.parent.glob("*.map*"):
            if path != kept:
                path.unlink(missing_ok=True)

    def _tell_facts(self) -> None:
        if self._members is None or self._state is None:
            return
        paused = self._state.paused
        self._facts.groups = [
            GroupFacts(group.name, applies, bool(paused & {group.name, pause.EVERYBODY}))
            for group, applies in zip(self._members.groups, self._state.applying, strict=True)
        ]
        self._facts.pauses = {each.target: each.until for each in self._pauses.pauses}
        self._facts.client_files = self._files.counts

    # -- neighbours ---------------------------------------------------------------------------------------------------
    def _want(self, members: Membership) -> None:
        """Watch the neighbour table as far as it matters; without rtnetlink say so once."""
        wanted = members.macs(self._pauses.pauses)
        if wanted == self._wanted:
            return
        self._wanted = wanted
        try:
            if self._neighbours is None:
                self._neighbours = Neighbours()
                asyncio.get_running_loop().add_reader(self._neighbours.fileno(), self._hear)
            self._neighbours.want(wanted)
            self._neighbours_fault = ""
        except OSError as error:
            self._neighbours_fault = f"MAC addresses are not recognised: the neighbour table cannot be read: {error}"
            _log.error("%s", self._neighbours_fault)

    def _hear(self) -> None:
        """The kernel has news."""
        assert self._neighbours is not None
        try:
            is_other = self._neighbours.take()
        except OSError as error:
            _log.error("the neighbour table is only looked at every %g s: %s", LOOK_AROUND, error)
            asyncio.get_running_loop().remove_reader(self._neighbours.fileno())
            return
        if is_other and self._news is None:
            self._news = asyncio.get_running_loop().call_later(GATHER, self._wake_up)

    def _wake_up(self) -> None:
        self._news = None
        self._wake.set()

    # -- the task -----------------------------------------------------------------------------------------------------
    async def follow(self) -> None:
        """Switch at the right moments; ends only by cancellation."""
        around = time.monotonic() + LOOK_AROUND
        while True:
            self._wake.clear()  # before the work: what comes in meanwhile is another turn
            try:
                if not self._files.is_kept:
                    await asyncio.to_thread(self._files.keep)
                if self._neighbours and self._wanted and time.monotonic() >= around:
                    around = time.monotonic() + LOOK_AROUND
                    self._neighbours.look()
                await self._turn()
            except (WorkersError, OSError, ValueError) as error:
                _log.error("the client map could not be changed: %s", error)
                await asyncio.sleep(LOOK)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._wait())

    async def _turn(self) -> None:
        if self._members is not None and self._now(self._members) != self._state:
            await self.refresh()

    def _wait(self) -> float | None:
        """Seconds until the next look."""
        if self._members is None:
            return None
        now, pauses = self._clock(), self._pauses.pauses
        known = (self._members, pauses)
        worked_out, change = self._next
        if known != self._known or not worked_out <= now < (change or worked_out + 86_400):
            self._known, change = known, self._members.next_change(now, pauses)
            self._next = now, change
        longest = LOOK if pauses or any(group.schedule for group in self._members.groups) else None
        if longest is None:
            return LOOK_AROUND if self._wanted else None
        return min(longest, max(0.001, change - now + 0.001)) if change is not None else longest

    def close(self) -> None:
        """Let go of the netlink socket."""
        if self._neighbours is not None:
            asyncio.get_running_loop().remove_reader(self._neighbours.fileno())
            self._neighbours.close()
