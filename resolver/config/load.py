"""Reads a configuration file: all that is wrong with it at once, each finding with line, key path and expectation.

    octets → text → tree with lines (document) → data ─┬─ values (model)        ┐
                                                       ├─ references (checks)   ├→ ConfigError, or Config with warnings
                                                       └─ not built (unbuilt)   ┘

The three checks look at the same data and do not wait for each other. Only then are keys that are ignored with a
warning taken out, and the configuration is made from the rest. One location has one finding: the first in the order of
document, model, checks, unbuilt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from resolver.config import checks, document, unbuilt
from resolver.config.document import Node
from resolver.config.model import Config
from resolver.config.places import search
from resolver.config.problem import ConfigError, Fault, Location, Problem, spell
from resolver.config.types import nearest

_EXPECTED = {
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "bool_type": "expected yes or no",
    "tuple_type": "expected a list: values in brackets, or one a line after a dash",
    "dict_type": "expected a mapping: a key, a colon and a value a line",
    "model_type": "expected a mapping: a key, a colon and a value a line",
}
_TEXTS = ("expected text", "expected a word", "expected a domain name")


def load(path: Path | str | None = None) -> Config:
    """The configuration in a file (`search()` says which if none is given), with what it warns of in `.warnings`.

    Raises `ConfigError` with everything that is wrong, and nothing else.
    """
    file = search() if path is None else Path(path)
    try:
        root, faults = document.parse(_read(file))
    except document.Unreadable as error:
        raise ConfigError([Problem(str(file), error.line, "", str(error))]) from error
    data = {} if root is None or (root.kind == "scalar" and root.value is None) else root.data()
    if not isinstance(data, dict):
        assert root is not None
        message = "expected a mapping: a key, a colon and a value a line"
        raise ConfigError([Problem(str(file), root.line, "", message, found=root.shown())])
    context: dict[str, Any] = {"file": file.absolute()}
    config, found = _validate(data, context)
    faults += [*found, *checks.check(data), *unbuilt.find(data), *_unreadable(config)]
    problems = _report(str(file), root or Node("mapping", 1), faults)
    if config is None or any(problem.severity == "error" for problem in problems):
        raise ConfigError(problems)
    if not problems:
        return config
    unbuilt.without(data, [fault for fault in faults if fault.severity == "warning"])
    config, found = _validate(data, {**context, "warnings": problems})
    if config is None:  # taking something away left too little behind
        raise ConfigError([*problems, *_report(str(file), root or Node("mapping", 1), found)])
    return config


def _unreadable(config: Config | None) -> Iterator[Fault]:
    """Files that the configuration names and that would be missed only once they are needed."""
    if config is None or config.upstream_ca is None:
        return
    import ssl  # only where there is something to look at

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(config.upstream_ca)
    except (OSError, ValueError) as error:
        reason = (
            "no certificate in it" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None) or error
        )
        yield Fault(("upstream", "ca"), f"expected a file of certificates in PEM form ({reason})", show=True)


def _read(file: Path) -> str:
    """The text of a file; `Unreadable` says what is wrong with it."""
    try:
        with file.open("rb") as stream:
            octets = stream.read(document.MAX_OCTETS + 1)
    except OSError as error:
        raise document.Unreadable(0, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise document.Unreadable(0, f"cannot be read: {error}") from error
    if len(octets) > document.MAX_OCTETS:
        raise document.Unreadable(
            0, "expected a configuration of at most 1MiB; lists of names go in files of their own"
        )
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise document.Unreadable(
            line, f"expected text in UTF-8, found the byte 0x{octets[error.start]:02X}"
        ) from error


def _validate(data: dict[str, Any], context: dict[str, Any]) -> tuple[Config | None, list[Fault]]:
    try:
        return Config.model_validate(data, context=context), []
    except ValidationError as error:
        # Where all items of a list are wrong, pydantic says as well that too few are right.
        details = (each for each in error.errors(include_url=False) if each["type"] != "too_short" or not each["input"])
        return None, [_fault(detail) for detail in details]


def _fault(detail: ErrorDetails) -> Fault:
    """What pydantic found, in our words."""
    at: Location = tuple(step for step in detail["loc"] if step != "[key]")
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(at[:-1])
        near = nearest(str(at[-1]), known)
        return Fault(at, "unknown key" if near else f"unknown key; known here: {', '.join(known)}", near)
    if kind == "missing":
        return Fault(at, "expected this key, which has no default")
    if kind == "choice":
        return Fault(at, detail["msg"], context.get("nearest"), show=True)
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        near = nearest(detail["input"], words) if isinstance(detail["input"], str) else None
        return Fault(at, f"expected {'one of ' if len(words) > 1 else ''}{', '.join(words)}", near, show=True)
    if kind == "value_error":
        is_key = "[key]" in detail["loc"]
        return Fault(at, str(context["error"]), show=not is_key and not isinstance(detail["input"], list | dict))
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return Fault(at, f"expected {bound}", show=True)
    if kind in ("too_short", "string_too_short"):
        return Fault(at, "expected at least one value" if kind == "too_short" else "expected text", show=True)
    if kind == "too_long":
        return Fault(at, f"expected at most {context['max_length']} values")
    return Fault(at, _EXPECTED.get(kind, detail["msg"]), show=True)


def _known_keys(at: Location) -> list[str]:
    """The keys of the section at a location of the model."""
    section: type[BaseModel] = Config
    annotation: Any = Config
    for step in at:
        if get_origin(annotation) in (tuple, dict):  # an item of a list, or a value under a free key
            annotation = section
        elif isinstance(step, str) and step in section.model_fields:
            annotation = section.model_fields[step].annotation
            section = next(_sections(annotation), section)
    return [field.alias or name for name, field in section.model_fields.items()]


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _report(file: str, root: Node, faults: list[Fault]) -> list[Problem]:
    """The faults with their lines, in the order of the file, one a location."""
    first: dict[Location, Fault] = {}
    for fault in faults:
        first.setdefault(fault.at, fault)
    problems = [_problem(file, root, fault) for fault in first.values()]
    return sorted(problems, key=lambda problem: problem.line)


def _problem(file: str, root: Node, fault: Fault) -> Problem:
    node: Node | None = root
    line = root.line
    for step in fault.at:
        if node is None:
            break
        line = node.line_of(step)
        node = node.child(step)
    found = _shown(node, fault.message) if fault.show and node is not None else None
    return Problem(file, fault.line or line, spell(fault.at), fault.message, found, fault.nearest, fault.severity)


def _shown(node: Node, message: str) -> str:
    """What stands there, with what YAML took it for where that is not what the eye sees."""
    kind = None
    if node.kind == "scalar" and not node.quoted and message.startswith("expected"):
        if isinstance(node.value, bool) and node.text.lower() not in ("true", "false"):
            kind = "a boolean"
        elif isinstance(node.value, int | float) and not isinstance(node.value, bool) and message.startswith(_TEXTS):
            kind = "a number"
        elif node.value is None and node.text:
            kind = "nothing"
    return f'{node.shown()} (for YAML {kind}: write "{node.text}" if it is text)' if kind else node.shown()
