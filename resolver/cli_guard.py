"""The commands around the list guard: approve, reject, decisions, rollback, diff, preview. See cli.py for how they are made.

Where a server runs, it decides and enforces at once; else the decision is kept in state_dir and the next start goes by it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resolver.cli import _ask, _command, _Context, _print_reload

if TYPE_CHECKING:
    from resolver.lists.differences import ListDifference

_REASON = click.option("--reason", default="", help="Why; it goes into the record of decisions.")
_NAMES = click.option("--name", "names", multiple=True, help="Decide only on the quarantined rules for this name.")


def _is_running(state_dir: Path) -> bool:
    """Whether a server holds the folder."""
    try:
        with (state_dir / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _decide(context: _Context, name: str, names: Sequence[str], reason: str, *, approve: bool) -> None:
    """What approve and reject have in common."""
    from resolver import control, decisions, snapshot

    state_dir = context.state_dir
    if _is_running(state_dir):
        data = _ask(context, control.Decide(name, approve, tuple(names), reason))
        record = data.pop("decision")
        if not context.as_json:
            click.echo(_described(record))
            _print_reload(context, data)
        else:
            context.print({"decision": record, **data}, ())
        return
    state_dir = context.config().state_path
    built = next(iter(snapshot.generations(state_dir)), None)
    if built is None:
        raise ValueError(f"{state_dir}: no generation there yet; 'tampah run' or 'tampah compile' makes one")
    who = decisions.Who.of(os.getuid())
    record = decisions.decide(state_dir, built, name, names, reason, who, approve=approve)
    context.print({"decision": record}, [_described(record), "no server runs: its next start goes by it"])


def _described(record: dict[str, Any]) -> str:
    """A decision in one line."""
    what = record.get("what", {})
    if "rules" in what:
        shown = ", ".join(what["names"][:5])
        about = f"{what['rules']} quarantined rules ({shown}{', …' if what['rules'] > 5 else ''})"
    elif "to" in what:
        about = f"to generation {what['to']}, {len(what['runs'])} lists"
    else:
        about = f"version {what['run'][:12]}" if "run" in what else "what rollbacks held"
    who = record.get("user") or f"uid {record.get('uid')}"
    reason = f": {record['reason']}" if record.get("reason") else ""
    name = f"list {record['list']} " if record.get("list") else ""
    decided = f"{name}{record.get('decision')} by {who}, generation {record.get('generation')}"
    return f"{record.get('time')} {decided}: {about}{reason}"


@_command
@click.argument("name", metavar="LIST")
@_NAMES
@_REASON
def approve(context: _Context, name: str, names: tuple[str, ...], reason: str) -> None:
    """Let go live what of LIST is held, or else its quarantined rules."""
    _decide(context, name, names, reason, approve=True)


@_command
@click.argument("name", metavar="LIST")
@_NAMES
@_REASON
def reject(context: _Context, name: str, names: tuple[str, ...], reason: str) -> None:
    """Keep out what of LIST is held, or else its quarantined rules, and speak of it no more."""
    _decide(context, name, names, reason, approve=False)


@_command
def decisions(context: _Context) -> None:
    """Print every decision about lists, the oldest first; fails if the record was tampered with."""
    from resolver.decisions import LOG, records

    path = context.state_dir / LOG
    found = records(context.state_dir)
    faults = [
        f"{path}:{line}: does not follow from the line before" for line, each in enumerate(found, 1) if not each.sound
    ]
    lines = [_described(record.body) if record.body else "(not a record)" for record in found]
    context.finish({"decisions": [record.body for record in found]}, lines, faults)


@_command
@click.argument("generation", type=click.IntRange(1), required=False)
@_REASON
def rollback(context: _Context, generation: int | None, reason: str) -> None:
    """Go back to the lists of GENERATION, by default the last one with other lists; no reload undoes it by itself."""
    from resolver import control

    if _is_running(context.state_dir):
        _print_reload(context, _ask(context, control.RollBack(generation or 0, reason)))
        return
    from resolver import decisions, snapshot
    from resolver.lists.compile import build_generation
    from resolver.lists.report import Report

    config = context.config()
    state_dir = config.state_path
    target = generation or snapshot.previous(state_dir)
    built = build_generation(config, rollback=target)
    decisions.roll_back(state_dir, built, target, reason, decisions.Who.of(os.getuid()))
    snapshot.put_in_force(state_dir, built.number)
    report = Report.from_json(built.report)
    context.print(report.to_json(), [*report.lines(), "no server runs: its next start serves this"])


@_command
@click.argument("old", required=False)
@click.argument("new", required=False)
@click.option("--all", "everything", is_flag=True, help="Every name, and not only the first of each list.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Names a list without --all.")
def diff(context: _Context, old: str | None, new: str | None, everything: bool, limit: int) -> None:
    """What changed from OLD to NEW: numbers of generations (by default the last two) or two list files."""
    from resolver.lists import differences

    if (old or "0").isdecimal() and (new or "0").isdecimal():
        state_dir = context.config().state_path
        pair = differences.generations(state_dir, int(old or 0), int(new or 0))
    elif old and new:
        pair = differences.files(Path(old), Path(new))
    else:
        raise ValueError("name two generations, or two list files")
    with pair as lists:
        if everything:
            for found in lists:
                for sign, name in found.stream():
                    line = json.dumps({"list": found.list, "change": _WORDS[sign], "name": name})
                    click.echo(line if context.as_json else f"{sign}\t{found.list}\t{name}")
            return
        told = [(found, found.first(limit)) for found in lists]
    context.print(
        {"lists": [{"list": found.list, **first} for found, first in told]},
        (line for found, first in told for line in _shown(found, first)),
    )


_WORDS = {"+": "added", "-": "removed", "~": "changed"}


def _shown(found: ListDifference, first: dict[str, Any]) -> Iterator[str]:
    counts = {word: first[word]["count"] for word in _WORDS.values()}
    yield f"{found.list}: {counts['added']:,} added, {counts['removed']:,} removed, {counts['changed']:,} changed"
    for sign, word in _WORDS.items():
        names = first[word]["names"]
        yield from (f"  {sign} {name}" for name in names)
        if counts[word] > len(names):
            yield f"  {sign} … {counts[word] - len(names):,} more"


@_command
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--list", "name", default="", metavar="LIST", help="FILE as the next version of this list, not as a new one."
)
@click.option(
    "--format",
    "form",
    default="auto",
    type=click.Choice(["auto", "hosts", "domains", "adblock", "dnsmasq", "unbound", "rpz", "addresses"]),
    help="How its lines are read.",
)
@click.option("--group", default="", help="For the clients of this group, not for those in none.")
@click.option("--by", type=click.Choice(["queries", "clients"]), default="queries", help="Which names come first.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Names of each kind.")
@click.option("--all", "everything", is_flag=True, help="Every name.")
def preview(
    context: _Context, file: Path, name: str, form: str, group: str, by: str, limit: int, everything: bool
) -> None:
    """Show what the list in FILE would have blocked of what was asked in the last day; nothing is changed."""
    from resolver import control
    from resolver.explain import generation_of
    from resolver.lists.preview import preview as look

    config = context.config()
    if _is_running(config.state_path):
        _ask(context, control.Asked())  # so that what was asked until now is known
    generation = generation_of(config.state_path)
    found = look(
        config, config.state_path, generation, file, form=form, replaces=name, group=group, by_clients=by == "clients"
    )
    shown = len(found.blocked) + len(found.freed) + len(found.already) + len(found.allowed) if everything else limit
    context.print(found.to_json(shown), found.lines(shown))
