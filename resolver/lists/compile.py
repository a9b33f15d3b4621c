"""Builds a generation: lists → runs → index, config → matrix and client map → policy file, and the record of it all.

    lock ─ take each list ─ guard ─ index (only if a run or the lists' order changed) ─ policy file ─ record ─ delete the old

Where few names changed the index is the last one's, patched (patch.py); else, or asked to, all runs are merged (merge.py).
After patches the runs are merged while nobody waits (tidy_generation), so that no change has to wait for that.

Runs as a process of its own at low priority (`python -m resolver.lists.compile`), so that reading ten million names
does not disturb the workers. Nothing that is in use is touched: every file is new, and the record comes last. A build
that dies at any point leaves the generations as they were, and litter that the next build removes.

The generation is not in force by that: the supervisor swaps the workers and then calls `snapshot.put_in_force`.

A list's slot in shared memory belongs to its name for a supervisor's life (`session`): counters of a list that went
must not show under another's name.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from resolver import counters, decisions
from resolver.config.load import load
from resolver.config.model import Config, Group, ListConfig
from resolver.config.model import Guard as GuardConfig
from resolver.config.problem import ConfigError
from resolver.config.types import Override as OverrideRule
from resolver.engine.engine import Index
from resolver.fetch.store import has_copy
from resolver.lists import history
from resolver.lists.changes import Changes
from resolver.lists.clients import build_clients, outside
from resolver.lists.guard import Guard
from resolver.lists.guard import prepare as prepare_guard
from resolver.lists.matrix import (
    CategoryPolicy,
    GroupPolicy,
    ListPolicy,
    Override,
    PolicyRules,
    Sinkhole,
    build_matrix,
)
from resolver.lists.merge import ListRun, read_header, write_index
from resolver.lists.own import CATEGORIES, own_lists, own_policy, take_own
from resolver.lists.own.ddr import undesignated
from resolver.lists.patch import patch_index
from resolver.lists.patterns import fitting
from resolver.lists.reading import Reading, as_read, check_list, describe, fault_of, mend_list, take_list
from resolver.lists.reason import SUB_ERRORS
from resolver.lists.report import ListOutcome, ListReport, Report
from resolver.lists.runs import use_all_cores
from resolver.lists.standing import config_digest
from resolver.membership import membership_now
from resolver.pause import PauseError
from resolver.snapshot import (
    NO_EDE,
    NO_SLOT,
    REJECTED,
    RUNS,
    TEMPORARY,
    Dns64,
    Generation,
    ListState,
    Policy,
    base_of,
    generations,
    in_force,
    number_groups,
    number_routes,
    read_generation,
    write_generation,
    write_json,
    write_policy,
)
from resolver.vocabulary import Action

WELL_KNOWN_PREFIX = ip_network("64:ff9b::/96")
NOT_GLOBAL = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
    )
)
KEEP = 3  # the newest generations whose files are kept whatever their size, besides the one in force
LOCK_WAIT = 60.0  # seconds that a build waits for another to end
NICENESS = 10
_FOLDERS = {RUNS: ".run", "index": ".index", "policy": ".policy", "generations": ".json"}
_OVERRIDES = {
    "nxdomain": Action.NXDOMAIN,
    "nodata": Action.NODATA,
    "passthru": Action.ALLOW,
    "drop": Action.DROP,
    "tcp-only": Action.TCP_ONLY,
    "cname": Action.CNAME,
}


class BuildError(ValueError):
    """No generation came of a build; the text says why. What was in force stays so."""


def build_generation(
    config: Config, state_dir: Path | None = None, *, force: bool = False, session: str = "", rollback: int = 0
) -> Generation:
    """Build the next generation from the config and its lists as they are now; its `report` is a Report as JSON.

    `state_dir` is the config's if it is not given. `force` reads every list and writes a new index even where nothing
    seems to have changed. `session` names the life of a supervisor: within one, no list gets a slot that another had.
    `rollback`: the number of a generation whose lists the new one has, as they were; no list is read, and its index serves.
    BuildError says why nothing came of it.
    """
    started = time.perf_counter()
    state_dir = state_dir or config.state_path
    try:
        for folder in _FOLDERS:
            (state_dir / folder).mkdir(mode=0o750, parents=True, exist_ok=True)
        with _locked(state_dir):
            _remove_litter(state_dir)
            if rollback:
                return _roll_back(config, state_dir, rollback, session, started)
            return _build(config, state_dir, force, session, started)
    except BuildError:
        raise
    except (OSError, ValueError, PauseError) as error:
        raise BuildError(describe(error)) from error


def tidy_generation(config: Config, state_dir: Path | None = None) -> Generation:
    """Build a generation that comes to what the one in force does, with its index merged from all runs: no list is read.

    For after patches, when nobody waits. `config` is the one that the generation in force was built by. BuildError where
    there is none in force or a run is damaged; the next change then finds out what to do.
    """
    started = time.perf_counter()
    state_dir = state_dir or config.state_path
    try:
        with _locked(state_dir):
            current = read_generation(state_dir, in_force(state_dir))
            number = _next_number(state_dir)
            index, name = f"index/{number}.index", f"policy/{number}.policy"
            states = (*current.lists, *current.own)
            write_index(state_dir / index, _runs(state_dir, states))
            write_policy(state_dir / name, make_policy(config, state_dir / index, states))
            report = replace(
                Report.from_json(current.report),
                generation=number,
                parent=current.number,
                index="tidied",
                seconds=time.perf_counter() - started,
            )
            generation = replace(
                current,
                number=number,
                parent=current.number,
                created=time.time(),
                index=index,
                policy=name,
                report=report.to_json(),
                returns_to=0,
            )
            write_generation(state_dir, generation)
            history.write_generation(state_dir, generation)
            _remove_old(state_dir, config.guard)
            return generation
    except (OSError, ValueError) as error:
        raise BuildError(describe(error)) from error


def check_lists(config: Config) -> list[ListReport]:
    """What reading each list of the config would come to; nothing is written, and no lock is needed."""
    return [check_list(listed, config.state_path) for listed in config.lists if listed.enabled != "no"]


def _build(config: Config, state_dir: Path, force: bool, session: str, started: float) -> Generation:
    recorded = generations(state_dir)
    current = in_force(state_dir)
    parent = next((known for known in recorded if known.number == current), recorded[0] if recorded else None)
    number = _next_number(state_dir)
    before = {state.name: state for state in parent.lists} if parent else {}
    served = [listed for listed in config.lists if listed.enabled != "no"]
    wanted = own_lists(config)
    names = [*(listed.name for listed in served), *(each.name for each in wanted)]
    slots = _assign_slots(state_dir, names, session, recorded)
    own = take_own(wanted, state_dir / RUNS, slots)

    decided = decisions.read(state_dir)
    changes = Changes()
    guard = Guard(config, state_dir, decided, changes)
    read = [
        take_list(listed, state_dir, as_read(known) if known else None, slots[listed.name], force=force)
        for listed in served
        for known in [before.get(listed.name)]
    ]
    readings = _judge(guard, state_dir, served, before, read)
    index = None if force else _known_index(state_dir, recorded, readings, own)
    made = "reused"
    if index is None:
        index = f"index/{number}.index"
        if parent and not force and _patch(state_dir, parent.index, index, readings, own, changes):
            made = "patched"
        else:
            made = "built"
            readings = _write_index(state_dir, index, guard, served, before, read, readings, own)
    readings = history.write_changes(state_dir, number, before, readings, changes)
    states = tuple(reading.state for reading in readings)

    members, moment, _ = membership_now(config, state_dir)
    policy = make_policy(config, state_dir / index, (*states, *own))
    policy = replace(policy, clients=members.make(policy, moment))
    name = f"policy/{number}.policy"
    write_policy(state_dir / name, policy)
    warnings = (*_warnings(config, states), *_left_out(state_dir / index, policy), *guard.warnings)
    report = _report(number, parent, made, readings, before, warnings)
    report = replace(report, seconds=time.perf_counter() - started)
    generation = Generation(
        number=number,
        parent=parent.number if parent else 0,
        created=time.time(),
        config=config_digest(config),
        index=index,
        policy=name,
        lists=states,
        report=report.to_json(),
        own=own,
        decided=decided.serial,
    )
    write_generation(state_dir, generation)
    history.write_generation(state_dir, generation)
    _remove_old(state_dir, config.guard)
    return generation


def _judge(
    guard: Guard, state_dir: Path, served: Sequence[ListConfig], before: dict[str, ListState], read: Sequence[Reading]
) -> list[Reading]:
    """What the guard lets through. A run that turns out to be damaged there goes on to the merge, which mends it."""
    judged = []
    for listed, reading in zip(served, read, strict=True):
        old = before.get(listed.name)
        try:
            judged.append(guard.judge(listed, old, reading))
        except (OSError, ValueError):
            old = old if old and fault_of(state_dir / RUNS, old) is None else None
            again = mend_list(listed, state_dir, as_read(old) if old else None, reading)
            judged.append(guard.judge(listed, old, again))
    return judged


def _roll_back(config: Config, state_dir: Path, target: int, session: str, started: float) -> Generation:
    """A generation with the lists of an earlier one, and its index; what the config says of them is as it is now.

    Lists that the config has no more are switched off in it, those it had not yet are empty. What lists had since is
    kept as their pending version.
    """
    recorded = generations(state_dir)
    known = {each.number: each for each in recorded}
    if target not in known:
        numbers = ", ".join(map(str, sorted(known)))
        raise BuildError(f"generation {target} is not kept; there are {numbers or 'none'}")
    back = known[target]
    parent = known.get(in_force(state_dir), recorded[0])
    number = _next_number(state_dir)
    now = {state.name: state for state in parent.lists}
    then = {state.name: state for state in back.lists}
    added = [state for state in parent.lists if state.name not in then and state.run]
    names = [*then, *(state.name for state in added), *(state.name for state in back.own)]
    slots = _assign_slots(state_dir, names, session, recorded)
    states = [_returned(state, now.get(state.name), slots[state.name]) for state in back.lists]
    states += [
        replace(state, run="", names=0, pending=state.newest, held=REJECTED, quarantined=0, slot=slots[state.name])
        for state in added
    ]
    own = tuple(replace(state, slot=slots[state.name]) for state in back.own)
    policy = make_policy(config, state_dir / back.index, (*states, *own))
    name = f"policy/{number}.policy"
    write_policy(state_dir / name, policy)
    reports = {report.name: report for report in Report.from_json(back.report).lists}
    readings = [
        Reading(
            state,
            replace(
                reports.get(state.name) or ListReport(state.name, ListOutcome.REUSED),
                outcome=ListOutcome.REJECTED if state.held == REJECTED else ListOutcome.REUSED,
                names=state.names,
                added=0,
                removed=0,
                guard=f"rolled back to generation {target}" if state.held == REJECTED else "",
                quarantined=state.quarantined,
            ),
        )
        for state in states
    ]
    report = _report(number, parent, "reused", readings, {}, _warnings(config, states))
    generation = Generation(
        number=number,
        parent=parent.number,
        created=time.time(),
        config=config_digest(config),
        index=back.index,
        policy=name,
        lists=tuple(states),
        report=replace(report, seconds=time.perf_counter() - started).to_json(),
        decided=decisions.read(state_dir).serial + 1,  # the decision to roll back is recorded once this is in force
        returns_to=target,
        own=own,
    )
    write_generation(state_dir, generation)
    history.write_generation(state_dir, generation)
    _remove_old(state_dir, config.guard)
    return generation


def _returned(then: ListState, now: ListState | None, slot: int) -> ListState:
    """A list as it was, and what it has been since as its pending version."""
    if now is None or not now.newest or now.run == then.run:
        return replace(then, slot=slot)
    pending = now.newest if now.newest != base_of(then.run) else ""
    return replace(
        then,
        slot=slot,
        source=now.source,
        options=now.options,
        seen=now.seen,
        origin=now.origin,
        pending=pending,
        held=REJECTED if pending else "",
    )


def _next_number(state_dir: Path) -> int:
    """One more than the highest ever recorded, damaged records included."""
    numbers = [int(path.stem) for path in (state_dir / "generations").glob("*.json") if path.stem.isdecimal()]
    return max([*numbers, in_force(state_dir)], default=0) + 1


# -- the index --------------------------------------------------------------------------------------------------------
def _indexed(states: Sequence[ListState]) -> list[tuple[str, str]]:
    """What an index is made of, in its order; a list that is missing is not in it."""
    return [(state.name, state.run) for state in states if state.run]


def _known_index(
    state_dir: Path, recorded: Sequence[Generation], readings: Sequence[Reading], own: Sequence[ListState]
) -> str | None:
    """The index of an earlier generation that was made of the same runs and is whole, if there is one."""
    wanted = _indexed([*(reading.state for reading in readings), *own])
    for index in dict.fromkeys(known.index for known in recorded if _indexed((*known.lists, *known.own)) == wanted):
        with contextlib.suppress(OSError, ValueError):
            Index(str(state_dir / index))
            return index
    return None


def _write_index(
    state_dir: Path,
    index: str,
    guard: Guard,
    served: Sequence[ListConfig],
    before: dict[str, ListState],
    read: Sequence[Reading],
    readings: list[Reading],
    own: Sequence[ListState],
) -> list[Reading]:
    """Merge the runs; a list whose run turns out to be damaged is read again, or left out, and the others serve."""
    try:
        _merge(state_dir, index, readings, own)
    except ValueError:
        mended = []
        for listed, reading, judged in zip(served, read, readings, strict=True):
            if fault_of(state_dir / RUNS, judged.state) is None:
                mended.append(judged)
                continue
            known = before.get(listed.name)
            old = known if known and fault_of(state_dir / RUNS, known) is None else None
            again = mend_list(listed, state_dir, as_read(known) if known else None, reading)
            mended.append(guard.judge(listed, old, again))
        if mended == readings:
            raise
        _merge(state_dir, index, mended, own)
        return mended
    return readings


def _patch(
    state_dir: Path, old: str, index: str, readings: Sequence[Reading], own: Sequence[ListState], changes: Changes
) -> bool:
    """Make the index out of the last one, if that is quick; where a file is damaged, a merge finds out what to do."""
    try:
        runs = _runs_of(state_dir, readings, own)
        return patch_index(state_dir / old, state_dir / index, runs, changes) is not None
    except (OSError, ValueError):
        return False


def _merge(state_dir: Path, index: str, readings: Sequence[Reading], own: Sequence[ListState]) -> None:
    write_index(state_dir / index, _runs_of(state_dir, readings, own))


def _runs_of(state_dir: Path, readings: Sequence[Reading], own: Sequence[ListState]) -> list[ListRun]:
    return _runs(state_dir, [*(reading.state for reading in readings), *own])


def _runs(state_dir: Path, states: Sequence[ListState]) -> list[ListRun]:
    return [ListRun(state.name, state_dir / RUNS / state.run, state.replaces) for state in states if state.run]


# -- the policy -------------------------------------------------------------------------------------------------------
def make_policy(config: Config, index: Path, states: Sequence[ListState]) -> Policy:
    """What decides, from the config and the shapes of an index that was made of these lists.

    Its client map knows the groups' networks alone: membership.py has the whole of it.
    """
    header = read_header(index)
    matrix = build_matrix(policy_rules(config, states), header.shapes)
    groups = zip(config.groups, matrix.group_classes, strict=True)
    classes = {group.name: policy_class for group, policy_class in groups}
    return Policy(
        classes=matrix.classes,
        shapes=matrix.shapes,
        cells=matrix.cells,
        profiles=matrix.profiles,
        clients=build_clients(config.allow_from, [(group.networks, classes[group.name]) for group in config.groups]),
        withheld=_withheld(config, classes, {state.name for state in states if not state.run}, index.parent.parent),
        routes=number_routes([route.zones for route in config.upstream.routes]),
        groups=classes,
        order=matrix.order,
        variants=matrix.variants,
        zones=matrix.zones,
        guard=build_clients(config.rebinding.ranges, []) if config.rebinding.protect else None,
        dns64=_dns64(config),
        unguarded=config.rebinding.allow,
        decisions=matrix.decisions,
        patterns=fitting(header.patterns),
        paused=dict(zip([*classes, ""], matrix.paused_classes, strict=True)),
        shadows=matrix.shadows,
        shadow_claims=matrix.shadow_claims,
        class_routes=matrix.routes if any(matrix.routes) else (),
        seeks=matrix.seeks,
    )


def _dns64(config: Config) -> Dns64 | None:
    prefix, clients, exclude = config.dns64.prefix, config.dns64.clients, config.dns64.exclude
    if prefix is None:
        return None
    if prefix == WELL_KNOWN_PREFIX:  # it must not stand for addresses that are not global (RFC 6052 section 3.1)
        exclude += NOT_GLOBAL
    octets = prefix.network_address.packed[: prefix.prefixlen // 8]
    return Dns64(
        octets, build_clients(clients, []) if clients else None, build_clients(exclude, []) if exclude else None
    )


def _withheld(config: Config, classes: Mapping[str, int], missing: set[str], state_dir: Path) -> tuple[int, ...]:
    """The classes that are to get no answers without a zone that has never come; 0 is who is in no group."""
    cold = [
        listed
        for listed in config.lists
        if listed.on_cold_start == "servfail" and listed.name in missing and not has_copy(listed, state_dir)
    ]
    if not cold:
        return ()
    return tuple(sorted({0} | {classes[group.name] for group in config.groups if any(map(group.takes, cold))}))


def policy_rules(config: Config, states: Sequence[ListState]) -> PolicyRules:
    """What of the config decides between lists; lists that are missing have no place in the index and none here."""
    listed = {item.name: item for item in config.lists}
    wanted = own_lists(config)
    policies = (
        _list_policy(listed[state.name], state) if state.name in listed else own_policy(wanted, state)
        for state in states
        if state.run
    )
    return PolicyRules(
        lists=list(policies),
        categories=dict(CATEGORIES)
        | {
            name: CategoryPolicy(
                action=category.action,
                ttl=category.ttl,
                ede=NO_EDE if category.ede is None else category.ede,
                organisation=category.organisation,
                justification=category.justification,
                contact=category.contact,
                law=category.law,
                sub_error=SUB_ERRORS.get(category.sub_error, 0),
                language=category.language,
            )
            for name, category in config.categories.items()
        },
        groups=[
            group_policy(group, route)
            for group, route in zip(
                config.groups,
                number_groups(len(config.upstream.routes), [group.upstream for group in config.groups]),
                strict=True,
            )
        ],
        sinkhole=Sinkhole(
            action=config.sinkhole.action,
            ipv4=config.sinkhole.ipv4.packed,
            ipv6=config.sinkhole.ipv6.packed,
            ttl=config.sinkhole.ttl,
        ),
    )


def _list_policy(listed: ListConfig, state: ListState) -> ListPolicy:
    return ListPolicy(
        name=listed.name,
        category=listed.category,
        slot=state.slot,
        shadow=listed.enabled == "shadow",
        mandatory=listed.mandatory,
        rpz=state.rpz,
        answer_triggers=state.answer_triggers,
        ns_triggers=listed.ns_triggers,
        override=_override(listed.override),
        max_ttl=listed.max_ttl,
        recursive_only=listed.recursive_only,
        break_dnssec=listed.break_dnssec,
        soa=_soa(listed, state),
    )


def _soa(listed: ListConfig, state: ListState) -> tuple[bytes, bytes] | None:
    if not (state.rpz and listed.add_soa and state.soa):
        return None
    from resolver.lists.records import encode_soa  # dnspython takes time to load, and most lists are no zones

    return encode_soa(state.zone or state.name, state.soa)  # a zone file need not say what its zone is called


def _override(rule: OverrideRule) -> Override | None:
    if rule.word == "given":
        return None
    if rule.word == "disabled":
        return Override(disabled=True)
    return Override(_OVERRIDES[rule.word], rule.target)


def group_policy(group: Group, route: int = 0) -> GroupPolicy:
    """What of a group's config decides between lists, and the route to its own servers."""
    return GroupPolicy(
        name=group.name,
        categories=None if group.categories == "all" else frozenset(group.categories),
        lists=None if group.lists == "all" else frozenset(group.lists),
        actions=group.actions,
        tags=frozenset(group.tags),
        overrides={name: _override(rule) for name, rule in group.overrides.items()},
        shadow=group.shadow,
        route=route,
    )


def _warnings(config: Config, states: Sequence[ListState]) -> tuple[str, ...]:
    """What the config says that will not do what it seems to."""
    warnings = [
        f"groups.{group.name}: some of its clients are not in allow_from, so their queries are refused"
        for group in config.groups
        if outside(config.allow_from, group.networks)
    ]
    warnings += [
        f"lists.{state.name}: all {counters.NO_LIST} counters of lists are taken until a restart; it is not counted"
        for state in states
        if state.slot == NO_SLOT
    ]
    if undesignated(config):
        warnings.append(
            "listen.name: without it or a name in the certificate clients cannot find the encrypted listeners"
        )
    return tuple(warnings)


def _left_out(index: Path, policy: Policy) -> tuple[str, ...]:
    """That not all patterns are enforced, where they need too much memory."""
    found = len(read_header(index).patterns)
    if found == len(policy.patterns):
        return ()
    return (f"lists: {found - len(policy.patterns)} of {found} patterns are not enforced: together they are too large",)


# -- slots of counters ------------------------------------------------------------------------------------------------
def _assign_slots(
    state_dir: Path, names: Sequence[str], session: str, recorded: Sequence[Generation]
) -> dict[str, int]:
    """A slot for each list, the one it had; NO_SLOT where there are none left. Only a new session takes slots back.

    A build that no supervisor asked for has no session: one may run beside it, whose slots stay as they are.
    """
    path = state_dir / "slots.json"
    try:
        known = json.loads(path.read_bytes())
        slots = {str(name): int(slot) for name, slot in known["slots"].items()}
        last_session = str(known["session"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        slots = {name: slot for known in reversed(recorded) for name, slot in known.slots.items() if slot != NO_SLOT}
        last_session = ""
    session = session or last_session
    fresh = dict(slots) if session == last_session else {name: slots[name] for name in names if name in slots}
    free = iter(sorted(set(range(counters.REBINDING_SLOT)) - set(fresh.values())))
    for name in names:
        if name not in fresh and (slot := next(free, None)) is not None:
            fresh[name] = slot
    write_json(path, {"session": session, "slots": fresh})
    return {name: fresh.get(name, NO_SLOT) for name in names}


# -- the report -------------------------------------------------------------------------------------------------------
def _report(
    number: int,
    parent: Generation | None,
    index: str,
    readings: Sequence[Reading],
    before: dict[str, ListState],
    warnings: tuple[str, ...],
) -> Report:
    present = {reading.state.name for reading in readings}
    lists = [reading.report for reading in readings]
    lists += [
        ListReport(name=name, outcome=ListOutcome.GONE, removed=state.names)
        for name, state in before.items()
        if name not in present
    ]
    return Report(
        generation=number,
        parent=parent.number if parent else 0,
        index=index,
        names=sum(report.names for report in lists),
        added=sum(report.added for report in lists),
        removed=sum(report.removed for report in lists),
        refused=sum(report.refused for report in lists),
        seconds=0.0,
        lists=tuple(lists),
        warnings=warnings,
    )


# -- the state folder -------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Keep other builds out; BuildError if one does not end within LOCK_WAIT seconds."""
    with (state_dir / "build.lock").open("w") as lock:
        give_up = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    raise BuildError(f"{state_dir}: another build has been under way for {LOCK_WAIT:.0f} s") from None
                time.sleep(0.05)
        yield  # closing the file lets go of the lock


def _remove_litter(state_dir: Path) -> None:
    """Remove what builds that died left half written; under the lock nobody else writes there."""
    for folder in _FOLDERS:
        for path in (state_dir / folder).iterdir():
            if path.name.startswith(".") or path.name.endswith(TEMPORARY):
                path.unlink(missing_ok=True)
    for path in state_dir.glob(f"slots.json.*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def _remove_old(state_dir: Path, guard: GuardConfig) -> None:
    """Remove the files of all but the generations to go back to and the one in force."""
    recorded = generations(state_dir)
    current = in_force(state_dir)
    needed: set[str] = set()
    size = 0
    for place, known in enumerate(recorded):
        files = known.files() - needed
        if place >= KEEP and known.number != current:
            size += sum(_size_of(state_dir / file) for file in files)
            if place >= guard.keep_generations or size > guard.keep_size:
                continue
        elif known.number != current:
            size += sum(_size_of(state_dir / file) for file in files)
        needed |= files | {f"generations/{known.number}.json"}
    for folder, suffix in _FOLDERS.items():
        for path in (state_dir / folder).iterdir():
            if path.suffix == suffix and f"{folder}/{path.name}" not in needed:
                path.unlink(missing_ok=True)


def _size_of(path: Path) -> int:
    """Octets of a file; 0 if it has gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


# -- as a process -----------------------------------------------------------------------------------------------------
def main(arguments: Sequence[str] | None = None) -> int:
    """Build a generation and say what came of it; the last line on standard output is JSON if --json asks for it.

    That is the Report, or {"error": text} after which the process ends with 1. --stdin takes the config from the
    supervisor (Config.to_json) instead of reading it again, and on a second line `{"force": …, "rollback": …,
    "is_first": …}`. After a rollback it waits for the next two.
    """
    parser = argparse.ArgumentParser(prog="resolver.lists.compile", description="Build a generation from the lists.")
    parser.add_argument("-c", "--config", help="the config file")
    parser.add_argument(
        "--stdin", action="store_true", help="config, and then orders, as lines of JSON on standard input"
    )
    parser.add_argument("--json", action="store_true", help="the report as one line of JSON")
    parser.add_argument("--force", action="store_true", help="read every list again")
    parser.add_argument("--tidy", action="store_true", help="read no list; merge the index in force anew, when idle")
    parser.add_argument("--session", default="", help="name of the supervisor's life, for the slots of counters")
    options = parser.parse_args(arguments)
    os.nice(NICENESS)
    if options.tidy:
        with contextlib.suppress(OSError):  # nobody waits for it, so everybody else comes first
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        if options.stdin:
            Config()  # what takes time before a config can be read, while none is there yet
            prepare_guard()
        order: dict[str, Any] = {}
        if options.stdin:
            while True:
                config = Config.from_json(sys.stdin.readline())
                order = json.loads(sys.stdin.readline() or "{}")
                if not (target := int(order.get("rollback", 0))):
                    break
                back = build_generation(config, session=options.session, rollback=target)
                print(json.dumps(back.report, ensure_ascii=False), flush=True)
        else:
            config = load(options.config)
        if not options.stdin or order.get("is_first"):
            use_all_cores()
        if options.tidy:
            generation = tidy_generation(config)
        else:
            generation = build_generation(
                config,
                force=options.force or bool(order.get("force")),
                session=options.session,
            )
    except (ConfigError, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps({"error": str(error)}))
        return 1
    if options.json:
        print(json.dumps(generation.report, ensure_ascii=False))
    else:
        print("\n".join(Report.from_json(generation.report).lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
