"""One list of the config: its source becomes a run, or an earlier run serves on.

A source is looked at in three steps, each of which may end it: stat (the same files as last time, and old enough for
that to prove anything), digest (the same octets, read with the same options, are a run already), reading. Files that
change while they are read are read again.

Whatever goes wrong with one list is this list's alone: its last good run serves on and the report says so, or, where
there is none, it is missing and the others serve. Only a lack of memory ends the build.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resolver.config.model import ListConfig
from resolver.engine.engine import RunBuilder
from resolver.fetch.store import FOLDER, copy_of
from resolver.lists.layout import BLOCK_KEYS
from resolver.lists.parse import Options, read_files
from resolver.lists.records import encode_records
from resolver.lists.report import REFUSED_SHOWN, ListOutcome, ListReport, RefusedLine
from resolver.lists.rules import Trigger
from resolver.lists.runs import Refused, Run, RunHeader, count_triggers, run_digest, run_path, write_run
from resolver.lists.source import SourceStat, files_here, open_source, sha256_of, stat_of
from resolver.lists.standing import is_unchanged
from resolver.snapshot import RUNS, ListState

MAX_READINGS = 3  # of a source that changes while it is read
# Kinds of triggers that upstream's answers are held against; those that nobody looks for cannot outrank a name's.
ENFORCED_TRIGGERS = frozenset({"address", "nsdname", "nsip"})


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of a list: its state for the generation's record, and its report."""

    state: ListState
    report: ListReport


def take_list(
    listed: ListConfig, state_dir: Path, before: ListState | None, slot: int, *, force: bool = False
) -> Reading:
    """The run of a list of the config, and what is to be said about it.

    `before` is the list as it was read for the generation before (as_read). What changed is not in the report yet. `force`
    reads the source even if it looks unchanged.
    """
    started = time.perf_counter()
    options = options_of(listed)
    fresh = ListState(listed.name, "", slot, options=options.fingerprint(), kind=listed.kind, seen=time.time())
    error = ""
    header: RunHeader | None
    try:
        outcome, state, header = _take(listed, state_dir, options, fresh, before, force)
    except MemoryError:
        raise
    except Exception as fault:  # a list may hold anything, and no list may harm another
        error = _named(describe(fault), listed, state_dir)
        outcome, state, header = _serve_on(state_dir / RUNS, fresh, None if isinstance(fault, _Dropped) else before)
    report = _report(listed, outcome, header, error)
    age, seconds = max(0.0, time.time() - state.seen), time.perf_counter() - started
    return Reading(state, replace(report, age=age, seconds=seconds))


def as_read(before: ListState) -> ListState:
    """A list as it was read last, whatever the guard let through of it."""
    return replace(before, run=before.newest, pending="", held="", quarantined=0)


def mend_list(listed: ListConfig, state_dir: Path, before: ListState | None, reading: Reading) -> Reading:
    """The same reading if its run can be merged; else the source read anew, or what there is without it.

    For a merge that failed: until then a run's header is all that was looked at.
    """
    runs = state_dir / RUNS
    if fault_of(runs, reading.state) is None:
        return reading
    (runs / reading.state.run).unlink(missing_ok=True)
    again = take_list(listed, state_dir, before, reading.state.slot, force=True)
    fault = fault_of(runs, again.state)
    if fault is None:
        return again
    (runs / again.state.run).unlink(missing_ok=True)
    outcome, state, header = _serve_on(runs, replace(again.state, run="", names=0), before)
    return Reading(state, _report(listed, outcome, header, fault))


def check_list(listed: ListConfig, state_dir: Path) -> ListReport:
    """What reading a list would come to; nothing is written. A list from another machine is read from its copy."""
    started = time.perf_counter()
    try:
        stats = [stat_of(file) for file in files_here(listed, state_dir)]
        if listed.scheme == "axfr":
            with Run(Path(stats[0].path)) as run:
                return replace(_report(listed, ListOutcome.READ, run.header, ""), seconds=time.perf_counter() - started)
        builder, header, triggers = _parse(stats, options_of(listed), listed)
        builder.sort()
        while builder.take_block(BLOCK_KEYS):
            pass
        header = replace(
            header,
            names=builder.names,
            duplicates=header.duplicates + builder.duplicates,
            triggers=count_triggers(triggers),
        )
        report = _report(listed, ListOutcome.READ, header, "")
    except MemoryError:
        raise
    except Exception as fault:  # as in take_list
        report = _report(listed, ListOutcome.MISSING, None, _named(describe(fault), listed, state_dir))
    return replace(report, seconds=time.perf_counter() - started)


def options_of(listed: ListConfig) -> Options:
    """What of a list's config shapes how its lines are read."""
    return Options(format=listed.format, kind=listed.kind, subdomains=listed.subdomains, rewrite=listed.rewrite)


def describe(fault: BaseException) -> str:
    """An exception in words: what it says, after its kind where that is not one of ours."""
    if isinstance(fault, OSError) and fault.strerror:
        return f"{fault.filename}: {fault.strerror}" if fault.filename else fault.strerror
    if isinstance(fault, ValueError | OSError) and str(fault):
        return str(fault)
    return f"{type(fault).__name__}: {fault}"


def _named(error: str, listed: ListConfig, state_dir: Path) -> str:
    """An error in which a copy goes by the name of its source."""
    if not listed.is_remote:
        return error
    return re.sub(re.escape(str(state_dir / FOLDER / listed.name)) + r"/\S+?(?=: |$)", lambda _: listed.shown, error)


# -- from source to run -----------------------------------------------------------------------------------------------
def _take(
    listed: ListConfig, state_dir: Path, options: Options, fresh: ListState, before: ListState | None, force: bool
) -> tuple[ListOutcome, ListState, RunHeader]:
    runs = state_dir / RUNS
    if listed.scheme == "axfr":
        return _take_zone(listed, state_dir, fresh, before, force)
    marks = {"options": fresh.options}
    if listed.is_remote:
        marks["source"] = listed.shown  # which the run names its lines by
    for _ in range(MAX_READINGS):
        stats = [stat_of(file) for file in files_here(listed, state_dir)]
        state = replace(fresh, source=tuple((stat.path, stat.size, stat.mtime_ns, stat.inode) for stat in stats))
        known = before if before and not force and state.options == before.options else None
        if known and is_unchanged(state.source, known) and (header := _header_of(runs, known.run)):
            return ListOutcome.REUSED, _filled(state, known.run, header), header
        digest = _digest(stats)
        path = run_path(runs, run_digest(digest, marks))
        header = None if force else _header_of(runs, path.name)
        outcome, builder, triggers = ListOutcome.REUSED, None, list[Trigger]()
        if header is None:
            outcome, (builder, header, triggers) = ListOutcome.READ, _parse(stats, options, listed)
        if [stat_of(Path(stat.path)) for stat in stats] != stats:
            continue  # what was read may not be what the digest is of
        if builder is not None:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            header = write_run(path, builder, replace(header, source={"digest": digest}), triggers)
        return outcome, _filled(state, path.name, header), header
    raise ValueError(f"{listed.shown}: changes while it is read; it is taken once it stands still")


class _Dropped(ValueError):
    """The list's copy expired, and is to be enforced no more."""


def _take_zone(
    listed: ListConfig, state_dir: Path, fresh: ListState, before: ListState | None, force: bool
) -> tuple[ListOutcome, ListState, RunHeader]:
    """The run that a zone transfer left (resolver/transfer/), linked among the runs of lists that were read."""
    from resolver.transfer.zone import ZonePlace  # few have such lists

    path, place, runs = copy_of(listed, state_dir), ZonePlace(state_dir, listed.name), state_dir / RUNS
    record = place.read()
    if record is None or place.path(record) != path:
        raise ValueError(f"{listed.shown}: its copy is not whole; all of it is transferred again")
    if record.options != fresh.options:
        raise ValueError(f"{listed.shown}: its copy was read in another way; all of it is transferred again")
    if record.expired and listed.on_expire == "drop":
        raise _Dropped(f"{listed.shown}: expired, and on_expire is drop: no primary has answered for too long")
    stat = stat_of(path)
    target = run_path(runs, record.digest)
    state = replace(fresh, source=((stat.path, stat.size, stat.mtime_ns, stat.inode),), seen=record.checked)
    if force and (fault := fault_of(state_dir / FOLDER, replace(state, run=f"{listed.name}/{path.name}"))):
        place.forget()
        raise ValueError(fault)
    known = before is not None and before.run == target.name
    if force or not target.is_file():
        runs.mkdir(mode=0o750, parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        os.link(path, target)
    with Run(target) as run:
        return ListOutcome.REUSED if known else ListOutcome.READ, _filled(state, target.name, run.header), run.header


def _digest(stats: Sequence[SourceStat]) -> str:
    """A digest of all files of a source, and of where one ends and the next begins."""
    if len(stats) == 1:
        return sha256_of(Path(stats[0].path))
    return hashlib.sha256("".join(sha256_of(Path(stat.path)) for stat in stats).encode()).hexdigest()


def _parse(
    stats: Sequence[SourceStat], options: Options, listed: ListConfig
) -> tuple[RunBuilder, RunHeader, list[Trigger]]:
    """Read a source's files; the header still lacks what write_run() fills in. A copy goes by the name of its source."""
    builder = RunBuilder()
    named = ((listed.shown if listed.is_remote else stat.path, stat.path) for stat in stats)
    report = read_files(((name, open_source(Path(path))) for name, path in named), options, builder)
    builder.replaces = report.replaces
    facts = report.as_json()
    del facts["refused_lines"]
    header = RunHeader(
        outcomes=tuple(report.outcomes),
        replaces=report.replaces,
        lines=report.lines,
        duplicates=report.duplicates,
        refused_count=report.refused,
        refused=tuple(Refused(*refused) for refused in report.refused_lines),
        report=facts,
    )
    return builder, header, report.triggers


def _header_of(runs: Path, name: str) -> RunHeader | None:
    """The header of a run that is there and whole, as far as its header tells."""
    try:
        with Run(runs / name) as run:
            return run.header
    except (OSError, ValueError):
        return None


def _filled(state: ListState, run: str, header: RunHeader) -> ListState:
    return replace(
        state,
        run=run,
        names=header.names,
        digest=str(header.source.get("digest", "")),
        replaces=header.replaces,
        rpz=header.report.get("format") == "rpz",
        zone=str(header.report.get("zone", "")),
        soa=str(header.report.get("soa", "")),
        answer_triggers=not ENFORCED_TRIGGERS.isdisjoint(header.triggers),
    )


def fault_of(runs: Path, state: ListState) -> str | None:
    """What keeps a list's run from being merged: a damaged block, or data that is no record; None if nothing does."""
    if not state.run:
        return None
    try:
        with Run(runs / state.run) as run:
            for _ in run.reader():
                pass
            for outcome in run.header.outcomes:
                if outcome.data:
                    encode_records(outcome)
            run.triggers()
    except (OSError, ValueError) as error:
        return describe(error)
    return None


def _serve_on(
    runs: Path, fresh: ListState, before: ListState | None
) -> tuple[ListOutcome, ListState, RunHeader | None]:
    """The last good run, unless what was blocked in it is now to be allowed or the other way round."""
    if before and before.run and before.kind == fresh.kind and (header := _header_of(runs, before.run)):
        return ListOutcome.KEPT, _filled(replace(before, slot=fresh.slot), before.run, header), header
    return ListOutcome.MISSING, fresh, None


# -- what is to be said -----------------------------------------------------------------------------------------------
def _report(listed: ListConfig, outcome: ListOutcome, header: RunHeader | None, error: str) -> ListReport:
    """What a run's header tells, and how it came to serve."""
    report = ListReport(listed.name, outcome, shadow=listed.enabled == "shadow", error=error)
    if header is None:
        return report
    return replace(
        report,
        format=str(header.report.get("format", "")),
        names=header.names,
        triggers=dict(header.triggers),
        duplicates=header.duplicates,
        refused=header.refused_count,
        refused_lines=_first_refused(header),
    )


def _first_refused(header: RunHeader) -> tuple[RefusedLine, ...]:
    files: Sequence[Sequence[Any]] = header.report.get("files", ())
    shown = []
    for line, text, reason in header.refused[:REFUSED_SHOWN]:
        path, first = next(((file[0], file[1]) for file in reversed(files) if line >= file[1]), ("", 1))
        shown.append(RefusedLine(path, line - first + 1, text, reason))
    return tuple(shown)
