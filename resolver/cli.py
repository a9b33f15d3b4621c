"""The commands. Each takes -c FILE and --json, and ends with 0 done, 1 failed, 2 misused.

A command is thin: it finds the config, asks the server or the files in state_dir, and prints. What it needs beyond
click is imported when it runs, so that `tampah --help` is quick. A user's mistake never shows a traceback: expected
failures are the exceptions in `_failures()`, printed as one message that says what happened, where, and what to do.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from resolver import __version__

if TYPE_CHECKING:
    from resolver.config.model import Config
    from resolver.lists.report import ListReport

_Command = TypeVar("_Command", bound=Callable[..., None])


class _Context:
    """What every command was called with."""

    def __init__(self, file: Path | None, as_json: bool) -> None:
        self.file = file
        self.as_json = as_json

    @property
    def path(self) -> Path:
        """The config file."""
        from resolver.config.places import search

        return self.file or search()

    def config(self) -> Config:
        """The config, its warnings printed."""
        from resolver.config.load import load

        config = load(self.path)
        for problem in config.warnings:
            click.echo(str(problem), err=True)
        return config

    @property
    def state_dir(self) -> Path:
        """Where the server's socket is, without the time it takes to check the whole config."""
        import yaml

        try:
            found = yaml.load(self.path.read_bytes(), Loader=yaml.CSafeLoader)
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            found = None
        folder = found.get("state_dir", "./state") if isinstance(found, dict) else None
        if not isinstance(folder, str) or folder.startswith("~"):
            return self.config().state_path  # or the error with its place
        return self.path.absolute().parent / folder

    def print(self, data: object, lines: Iterable[str]) -> None:
        """The result: as JSON, or as lines."""
        if self.as_json:
            click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
        else:
            for line in lines:
                click.echo(line)

    def table(self, data: object, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """The result: as JSON, as a table on a terminal, or as lines with tabs for other programs."""
        texts = [[str(cell) for cell in row] for row in rows]
        if self.as_json or not sys.stdout.isatty():
            self.print(data, ("\t".join(row) for row in [list(columns), *texts]))
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=SIMPLE_HEAD)
        numeric = [all(row[at].replace(",", "").isdecimal() for row in texts) for at in range(len(columns))]
        for name, is_number in zip(columns, numeric, strict=True):
            drawn.add_column(name, justify="right" if is_number else "left")
        for row in texts:
            drawn.add_row(*(Text(cell) for cell in row))
        Console().print(drawn)

    def finish(self, data: dict[str, Any], lines: Iterable[str], faults: Sequence[str]) -> None:
        """The result, and what is wrong in it, which makes the command fail."""
        if self.as_json:
            self.print({**data, "errors": faults}, ())
        for line in () if self.as_json else lines:
            click.echo(line)
        for fault in faults:
            click.echo(f"error: {fault}", err=True)
        if faults:
            sys.exit(1)

    def fail(self, problems: Sequence[str]) -> None:
        """Say what went wrong and end with 1."""
        if self.as_json:
            click.echo(json.dumps({"errors": list(problems)}, indent=2, ensure_ascii=False))
        for problem in problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(1)


def _failures() -> tuple[type[Exception], ...]:
    """What a user can cause or must know; anything else is a fault of this program and may show itself as such."""
    from resolver.config.problem import ConfigError
    from resolver.control import ControlError
    from resolver.overlay import OverlayError
    from resolver.pause import PauseError

    return (ConfigError, ControlError, OverlayError, PauseError, OSError, ValueError)


def complain(error: Exception, as_json: bool = False) -> None:
    """Say what a user can cause or must know, and end with 1; raise anything else again."""
    if not isinstance(error, _failures()):
        raise error
    problems = getattr(error, "problems", None)
    _Context(None, as_json).fail([str(problem) for problem in problems] if problems else [_said(error)])


def _said(error: Exception) -> str:
    """What an exception says, without Python's way of saying it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tampah")
def main() -> None:
    """Tampah: a filtering DNS forwarder."""


def _command(function: _Command) -> _Command:
    """Make a command with the options that all share."""

    @functools.wraps(function)
    def run(*, config_file: Path | None, as_json: bool, **options: object) -> None:
        context = _Context(config_file, as_json)
        try:
            function(context, **options)
        except BrokenPipeError:
            sys.stderr.close()  # or Python would complain as it flushes stdout
            sys.exit(1)
        except Exception as error:
            complain(error, as_json)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option(
            "-c",
            "--config",
            "config_file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="The config file  [default: ./config.yaml, then /etc/tampah/config.yaml]",
        ),
    ):
        run = option(run)
    name = function.__name__.removesuffix("_")
    return main.command(name=name)(run)  # type: ignore[return-value]


@_command
def run(context: _Context) -> None:
    """Serve DNS until SIGTERM; SIGHUP reloads."""
    from resolver import supervisor

    supervisor.run(context.path)


@_command
@click.option("--schema", is_flag=True, help="Print the config's JSON Schema instead.")
def check(context: _Context, schema: bool) -> None:
    """Read the config and every list; start nothing.

    A list from another machine is read from its copy; where there is none yet, it is fetched for this and not kept.
    """
    if schema:
        from resolver.config.schema import json_schema

        click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return
    from resolver.lists.compile import check_lists

    config = context.config()
    fetched = {}
    if any(listed.is_remote for listed in config.lists):
        from resolver.fetch.alone import check_fetched, without_copy

        fetched = check_fetched(config, without_copy(config))
    reports = [fetched.get(report.name, report) for report in check_lists(config)]
    data = {
        "warnings": [problem.as_dict() for problem in config.warnings],
        "lists": [dataclasses.asdict(report) for report in reports],
    }
    faults = [*_certificate_faults(config), *_trust_faults(config), *_faults(reports)]
    context.finish(data, [line for report in reports for line in report.lines()], faults)


@_command
def compile_(context: _Context) -> None:
    """Read changed lists and build the index, so that the next start or reload need not.

    Lists from other machines of which there is no copy yet are fetched first.
    """
    from resolver.lists.compile import build_generation
    from resolver.lists.report import Report
    from resolver.lists.runs import use_all_cores

    config = context.config()
    if any(listed.is_remote for listed in config.lists):
        from resolver.fetch.alone import fetch_lists, without_copy

        fetch_lists(config, without_copy(config))
    use_all_cores()
    report = Report.from_json(build_generation(config).report)
    context.finish(report.to_json(), report.lines(), _faults(report.alarms))


@_command
@click.option("--fetch", "fetches", is_flag=True, help="Ask the sources of lists from other machines first.")
@click.option("--force", is_flag=True, help="Read every list again, also those that a rollback holds.")
def reload(context: _Context, fetches: bool, force: bool) -> None:
    """Have the running server enforce config and lists as they are now; returns when every worker does.

    Lists from other machines are taken as they were fetched last, unless --fetch asks for newer ones.
    """
    from resolver import control

    _print_reload(context, _ask(context, control.Reload(fetch=fetches, force=force)))


@_command
@click.argument("names", metavar="[LIST]...", nargs=-1)
def fetch(context: _Context, names: tuple[str, ...]) -> None:
    """Have the running server ask the sources of lists from other machines now, and enforce what came.

    Without LIST: all of them. Returns when every worker enforces it.
    """
    from resolver import control

    _print_reload(context, _ask(context, control.Reload(fetch=True, lists=names)))


def _print_reload(context: _Context, data: dict[str, Any]) -> None:
    """What a reload by the running server came to, for commands that end in one."""
    from resolver.lists.report import Report

    restart, seconds, alarms, not_fetched = (
        data.pop(key) for key in ("needs_restart", "reload_seconds", "client_alarms", "not_fetched")
    )
    report = Report.from_json(data)
    lines = [*report.lines(), f"in force on every worker after {seconds:.2f} s"]
    if restart:
        lines.append(f"changed, but read only at the start: {', '.join(restart)}; restart the server to apply")
    faults = [*not_fetched, *(fault for fault in _faults(report.alarms) if fault not in not_fetched), *alarms]
    context.finish({**data, "needs_restart": restart, "reload_seconds": seconds}, lines, faults)


def _faults(reports: Iterable[ListReport]) -> list[str]:
    """What is wrong with lists, a message each."""
    return [f"lists.{report.name}: {report.fault}" for report in reports if report.fault]


def _trust_faults(config: Config) -> list[str]:
    """What is wrong with the file of trust anchors, if there is one."""
    from resolver.dnssec.trust import trust_of

    try:
        trust_of(config)
    except ValueError as error:
        return [str(error)]
    return []


def _certificate_faults(config: Config) -> list[str]:
    """What is wrong with the certificate of encrypted listeners, if there are any."""
    paths = config.certificate_paths
    if not config.is_encrypted or paths is None:
        return []
    from resolver.certificate import CertificateError, Reader

    try:
        fault = Reader(*paths).read().fault(paths[0], time.time())
    except CertificateError as error:
        fault = str(error)
    return [fault] if fault else []


@_command
@click.argument("name")
@click.option("--client", default="127.0.0.1", show_default=True, help="Address of the client that asks.")
@click.option("--type", "qtype", default="A", show_default=True, help="Record type that is asked for.")
@click.option(
    "--answer",
    "leads_to",
    multiple=True,
    help="An alias or address that the upstream is taken to answer; may be repeated.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    help="A name server, or the address of one, that NAME is taken to have; may be repeated.",
)
@click.option("--ask", "asks", is_flag=True, help="Ask upstream for NAME, and tell what becomes of its answer.")
def explain(
    context: _Context,
    name: str,
    client: str,
    qtype: str,
    leads_to: tuple[str, ...],
    servers: tuple[str, ...],
    asks: bool,
) -> None:
    """Say what happens to NAME and why: every list and line that speaks of it, and the answer. NAME may be an address."""
    from resolver.explain import explain_name

    found = explain_name(context.config(), name, client, qtype, leads_to, servers, asks=asks)
    context.print(found.to_json(), found.lines())


def _override(context: _Context, name: str | None, word: int, seconds: float, undo: bool) -> None:
    """What block and allow have in common."""
    from resolver import control, overlay
    from resolver.lists.names import normalise

    if name is None:
        entries = overlay.read(context.config().state_path)
        rows = ((entry.name, *overlay.said(entry)) for entry in entries)
        context.table([dataclasses.asdict(entry) for entry in entries], ("name", "word", "made", "until"), rows)
        return
    try:
        asked = normalise(name, allow_tld=True)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None
    message = control.TakeBack(asked) if undo else control.Override(asked, word, seconds)
    entry = overlay.Entry(**_ask(context, message))
    context.print(dataclasses.asdict(entry), [f"{overlay.told(entry, undo)}, on every worker"])


class _Duration(click.ParamType[float]):
    """A duration as in the config: 30s, 1h, 2d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from resolver.config.units import parse_duration

        if isinstance(value, int | float):
            return value
        try:
            return float(parse_duration(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_NAME = click.argument("name", required=False)
_FOR = click.option(
    "--for", "seconds", type=_Duration(), default=0.0, help="End by itself after this time, such as 1h."
)
_UNDO = click.option("--undo", is_flag=True, help="Take the operator's word on NAME back.")


@_command
@_NAME
@_FOR
@_UNDO
def block(context: _Context, name: str | None, seconds: float, undo: bool) -> None:
    """Block NAME and all below it at once, above every list. Without NAME: what was said by hand."""
    from resolver.overlay import BLOCK

    _override(context, name, BLOCK, seconds, undo)


@_command
@_NAME
@_FOR
@_UNDO
def allow(context: _Context, name: str | None, seconds: float, undo: bool) -> None:
    """Allow NAME and all below it at once, above every list. Without NAME: what was said by hand."""
    from resolver.overlay import ALLOW

    _override(context, name, ALLOW, seconds, undo)


@_command
@click.argument("name", required=False)
@click.option("--subtree", is_flag=True, help="And of every name below it.")
@click.option("--all", "everything", is_flag=True, help="Every cached answer.")
def flush(context: _Context, name: str | None, subtree: bool, everything: bool) -> None:
    """Forget the cached answers for NAME, of any type."""
    from resolver import control
    from resolver.lists import names

    if everything == (name is not None) or (everything and subtree):
        raise click.UsageError("expected NAME, or --all")
    try:
        asked = names.normalise(name, allow_tld=True) if name is not None else ""
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None
    data = _ask(context, control.Flush(asked, subtree))
    context.print(data, [f"{data['flushed']} cached answers forgotten"])


@_command
@click.argument("target", required=False)
@click.option("--for", "seconds", type=_Duration(), default=1800.0, help="How long  [default: 30m]")
def pause(context: _Context, target: str | None, seconds: float) -> None:
    """Switch filtering off at once for TARGET: a group, an address, a network, a MAC address, or all.

    It ends by itself. Mandatory lists stay enforced. Without TARGET: what is paused.
    """
    from resolver import control
    from resolver import pause as pauses

    if target is None:
        kept = pauses.read(context.config().state_path)
        rows = ((each.target, *pauses.said(each)) for each in kept)
        context.table([dataclasses.asdict(each) for each in kept], ("paused", "made", "until"), rows)
        return
    made = pauses.Pause(**_ask(context, control.Pause(target, seconds)))
    context.print(
        dataclasses.asdict(made),
        [f"filtering is paused for {made.target} until {pauses.said(made)[1]}, on every worker; mandatory lists stay"],
    )


@_command
@click.argument("target", required=False)
def resume(context: _Context, target: str | None) -> None:
    """End the pause of TARGET; without TARGET every pause."""
    from resolver import control

    data = _ask(context, control.Resume(target or ""))
    names = ", ".join(each["target"] for each in data["ended"])
    context.print(data, [f"filtering goes on for {names}, on every worker"])


@_command
@click.option("--value", is_flag=True, help="What each list has that no other has, what they share, and its hits.")
def lists(context: _Context, value: bool) -> None:
    """The state of every list, its hits, and those it would have had where it only counts."""
    from resolver.explain import list_states

    config = context.config()
    if value:
        cli_lint.print_values(context, config.state_path, _ask_if_running(context))
        return
    states = list_states(config, _ask_if_running(context))
    columns = ["list", "state", "names", "refused", "quarantined", "format", "age", "hits", "shadow"]
    if any(listed.is_remote for listed in config.lists):
        columns += ["next", "source"]
    if any(listed.scheme == "axfr" for listed in config.lists):
        columns += ["zone"]
    if any(state.error for state in states):
        columns += ["error"]
    context.table(
        [state.to_json() for state in states],
        columns,
        ([_shown(getattr(state, c)) for c in columns] for state in states),
    )
    for state in states:
        for line in state.guard:
            click.echo(f"{state.list}: {line}", err=True)


@_command
def stats(context: _Context) -> None:
    """What the running server has counted."""
    from resolver import control

    data = _ask(context, control.Statistics())
    context.table(data, ("count", "value"), _flat(data))


@_command
@click.argument("server", required=False)
@click.option("--names", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Names to ask for.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="How long to ask.")
@click.option("--rate", type=float, default=0.0, help="Queries a second  [default: as fast as answers come]")
@click.option("--outstanding", type=int, default=100, show_default=True, help="Queries under way without --rate.")
@click.option("--yes-remote", is_flag=True, help="Allow a server that is not on this machine.")
def bench(
    context: _Context,
    server: str | None,
    file: Path | None,
    seconds: float,
    rate: float,
    outstanding: int,
    yes_remote: bool,
) -> None:
    """Ask SERVER (address:port) many queries and measure. Without SERVER: the one of the config."""
    from resolver import bench
    from resolver.config.addresses import parse_endpoint

    where = parse_endpoint(server) if server else next(iter(context.config().listen.dns), None)
    if where is None:
        raise ValueError("the config has no listen.dns: name a server, such as 127.0.0.1:53")
    result = bench.run(
        where.host,
        where.port,
        bench.read_names(file) if file else (),
        seconds=seconds,
        rate=rate,
        outstanding=outstanding,
        yes_remote=yes_remote,
    )
    context.print(result.to_json(), result.lines())


def _shown(value: object) -> object:
    """A cell for a person: numbers with separators, nothing for what is not known."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else value


def _flat(data: Any, path: str = "") -> Iterable[tuple[str, object]]:
    """Nested data as one line a number."""
    if isinstance(data, dict) and "count" in data:  # an answer: its labels make the name
        labels = [str(value) for key, value in data.items() if key != "count" and value]
        yield f"{path} {' '.join(labels)}", f"{data['count']:,}"
    elif isinstance(data, dict):
        own = str(data.get("server", ""))
        for key, value in data.items():
            if key != "server":
                yield from _flat(value, " ".join(part for part in (path, own, key) if part))
    elif isinstance(data, list):
        for item in data:
            yield from _flat(item, path)
    else:
        yield path, f"{data:,}" if isinstance(data, int) else data


def _ask(context: _Context, message: Any) -> dict[str, Any]:
    """A command's answer from the running server. ControlError if there is none, or if it says no."""
    from resolver import control

    try:
        answer = control.ask(context.state_dir / control.SOCKET, message)
    except control.ControlError:
        context.config()  # if that is broken, it is the first thing to mend
        raise
    if isinstance(answer, control.Report):
        return answer.data
    raise control.ControlError(answer.text if isinstance(answer, control.Failed) else "an answer of the wrong kind")


def _ask_if_running(context: _Context) -> dict[str, Any] | None:
    """The server's state, or None if none runs."""
    from resolver import control

    try:
        return _ask(context, control.Status())
    except control.ControlError:
        return None


# Commands of other modules, which need what is above, join by being imported.
from resolver import cli_guard as cli_guard  # noqa: E402
from resolver import cli_lint as cli_lint  # noqa: E402
