"""The command `tampah lint`, and what `tampah lists --value` prints. See cli.py for how commands are made."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resolver.cli import _command, _Context, _shown

if TYPE_CHECKING:
    from resolver.lint.findings import Verdict

_FORMATS = ("auto", "hosts", "domains", "adblock", "dnsmasq", "unbound", "rpz", "addresses")


@_command
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
)
@click.option("--format", "dialect", type=click.Choice(_FORMATS), default="auto", show_default=True)
@click.option(
    "--examples", type=click.IntRange(min=0), default=5, show_default=True, help="At most so many of each kind."
)
@click.option("--all", "everything", is_flag=True, help="Every line of each kind.")
def lint(context: _Context, files: tuple[Path, ...], dialect: str, examples: int, everything: bool) -> None:
    """Say what the lines of lists mean here and elsewhere, and which are refused, of no use, or reach too far.

    FILEs are read as the server reads them, each as a list of its own. Ends with 1 if one of them would be refused.
    """
    from resolver.lint.findings import lint as lint_files
    from resolver.lint.read import EVERY
    from resolver.lists.parse import Options

    verdicts = lint_files(files, Options(format=dialect), EVERY if everything else examples)
    lines = (line for verdict in verdicts for line in _lines(verdict))
    context.print({"files": [verdict.to_json() for verdict in verdicts]}, lines)
    if any(verdict.file.fault for verdict in verdicts):
        sys.exit(1)


def _lines(verdict: Verdict) -> Iterator[str]:
    """A verdict for people: the summary first, then the forms of lines, then each kind of finding."""
    from resolver.lint.findings import KINDS

    report, path = verdict.file.report, verdict.file.path
    yield f"{path}: {'REFUSED' if verdict.file.fault else 'taken'}, {report.format or 'no list'}, {_counted(verdict)}"
    if verdict.file.fault:
        yield f"  {verdict.file.fault.removeprefix(f'{path}: ')}"
        yield "  the server would keep its last good copy"
    for kind, said in KINDS.items():
        if kind in verdict.counts:
            yield f"  {verdict.counts[kind]:,} {kind}: {said}"
    yield from _form_lines(verdict)
    for reason, count in report.reasons.most_common():
        yield f"  {count:,} refused: {reason}"
    for line in report.refused_lines if report.reasons else ():
        yield f"    line {line.line}: {line.text}: {line.reason}"
    if len(report.refused_lines) < report.refused:
        yield f"    … {report.refused - len(report.refused_lines):,} more"
    for kind in KINDS:
        if kind not in verdict.counts:
            continue
        yield f"  {kind}"
        for finding in verdict.findings[kind]:
            yield f"    line {finding.line}: {finding.text or finding.name}: {finding.why}"
        if (more := verdict.counts[kind] - len(verdict.findings[kind])) > 0 and kind != "no such TLD":
            yield f"    … {more:,} more"


def _counted(verdict: Verdict) -> str:
    report = verdict.file.report
    parts = [
        f"{report.lines:,} lines",
        f"{report.names + len(report.read_triggers):,} rules",
        f"{report.comments:,} comments",
        f"{report.refused:,} refused",
    ]
    parts += [f"{report.skipped:,} skipped"] if report.skipped else []
    parts += [f"{report.repaired:,} repaired"] if report.repaired else []
    return ", ".join(parts)


def _form_lines(verdict: Verdict) -> Iterator[str]:
    """What each form of line means, and who takes it for something else; those who agree with each other together."""
    from resolver.lint.forms import FORMS

    for key, tally in verdict.forms():
        form = FORMS.get(key)
        if form is None:
            continue
        first = tally.lines[0] if tally.lines else 0
        example = verdict.texts.get(first, "")
        yield f"  {tally.count:,} {'line is' if tally.count == 1 else 'lines are'} like line {first}, {example}"
        yield f"    here: {form.here}"
        readings: dict[str, list[str]] = {}
        for peer, reading in form.differing().items():
            readings.setdefault(reading, []).append(peer)
        for reading, peers in readings.items():
            yield f"    {', '.join(peers)}: {reading}"


def print_values(context: _Context, state_dir: Path, server: Mapping[str, Any] | None) -> None:
    """What each list of the generation in force is worth; then, for people, how much of each list another one has."""
    from resolver.explain import generation_of
    from resolver.lists.value import values_of

    values = values_of(state_dir, generation_of(state_dir).lists, server["hits"] if server else None)
    columns = ("list", "names", "unique", "other rules", "unique other rules", "hits")
    rows = (
        [_shown(cell) for cell in (each.list, each.names, each.unique, each.others, each.unique_others, each.hits)]
        for each in values
    )
    context.table([each.to_json() for each in values], columns, rows)
    if context.as_json or len(values) < 2:
        return
    click.echo("of the list in a line, how much the list in a column covers")
    context.table(
        None,
        ("list", *(each.list for each in values)),
        ([each.list, *(_shown(each.overlap.get(other.list)) for other in values)] for each in values),
    )
