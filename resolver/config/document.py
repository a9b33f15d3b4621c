"""A YAML file as a tree that knows its lines, read so that no file can hurt.

PyYAML's composer recurses in C and resolves aliases to shared nodes that explode when walked, and libyaml takes
minutes for a hundred thousand nested brackets. So the tree is built here, from parse events, with a stack of its own:

- depth and the size an alias would expand to are counted as each node ends, and limited before anything is expanded;
- duplicate keys, tags, merge keys and aliases to themselves are faults;
- scalars that YAML 1.1 reads as something surprising (`1:30` is 90, `010` is 8, `2026-01-01` a date) are faults, as
  nobody who writes them means that.

What is wrong with the text as a whole raises `Unreadable`; what is wrong with one value is collected, and the rest is
read on. A key is always text (`no:` is the key "no").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from resolver.config.problem import Fault, Location

MAX_OCTETS = 1024 * 1024
MAX_DEPTH = 16  # the contract's deepest key lies at 5
MAX_NODES = 100_000  # after aliases are expanded

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FRACTION = re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+")
_BOOLEANS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
_TAG = "tag:yaml.org,2002:"


class Unreadable(ValueError):
    """The text is no YAML that is read here; `line` counts from 1, 0 where there is none."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


@dataclass(slots=True)
class Node:
    """A value with the line it begins in. Mappings have `keys` (name → line of the key) beside `children`."""

    kind: Literal["scalar", "list", "mapping"]
    line: int
    value: object = None  # of a scalar
    text: str = ""  # of a scalar, as written
    quoted: bool = False
    keys: dict[str, int] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    depth: int = 1
    nodes: int = 1

    def child(self, step: str | int) -> Node | None:
        """The value under a key or index."""
        if self.kind == "mapping" and step in self.keys:
            return self.children[list(self.keys).index(str(step))]
        if self.kind == "list" and isinstance(step, int) and 0 <= step < len(self.children):
            return self.children[step]
        return None

    def line_of(self, step: str | int) -> int:
        """The line of a key or of a list's item."""
        child = self.child(step)
        return self.line if child is None else self.keys.get(str(step), child.line)

    def data(self) -> Any:
        """The value as plain Python objects."""
        if self.kind == "mapping":
            return {key: child.data() for key, child in zip(self.keys, self.children, strict=True)}
        if self.kind == "list":
            return [child.data() for child in self.children]
        return self.value

    def shown(self) -> str:
        """What stands here, for a message."""
        if self.kind == "scalar":
            text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
            return f'"{text}"' if self.quoted else text if text else "nothing"
        return "an empty list" if not self.children and self.kind == "list" else f"a {self.kind}"


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    node: Node
    anchor: str | None
    key: tuple[str, int] | None = None  # the key whose value comes next


def parse(text: str) -> tuple[Node | None, list[Fault]]:
    """The tree of a text (None where it says nothing) and the faults of single values. Raises `Unreadable`."""
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise Unreadable(line, f"expected text, found the control character U+{ord(control[0]):04X}")
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise _explain(text, error) from error
    except yaml.YAMLError as error:
        raise Unreadable(0, f"not YAML: {' '.join(str(error).split())}") from error
    return builder.root, builder.faults


def _explain(text: str, error: yaml.MarkedYAMLError) -> Unreadable:
    """libyaml's message in words that help."""
    mark = error.problem_mark or error.context_mark
    lines = text.splitlines()
    number = min(mark.line + 1, len(lines)) if mark is not None else 0
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return Unreadable(number, "tabs cannot indent in YAML: use spaces")
    hint = ""
    if re.search(r"(^|[\s,\[])(\[[0-9A-Fa-f]*:[0-9A-Fa-f:]*\]|::)", line):
        hint = '; an address that begins with [ or : needs quotes: "[::1]:53"'
    elif re.search(r"(^|[\s\[,])\*[.\w]", line):
        hint = '; a name that begins with * needs quotes: "*.example"'
    begun = error.context_mark.line + 1 if error.context_mark is not None else number
    context = f" {error.context}, begun in line {begun}" if error.context and begun != number else ""
    return Unreadable(number, f"not YAML: {error.problem or 'syntax error'}{context}{hint}")


class _Builder:
    """Takes events in order; `root` and `faults` are there after the last."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.faults: list[Fault] = []
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0

    def take(self, event: Event) -> None:
        mark = event.start_mark
        line = mark.line + 1 if mark is not None else 0
        if isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise Unreadable(line, "expected one document, found a second one after ---")
        elif isinstance(event, MappingStartEvent | SequenceStartEvent):
            self._open(event, line)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            ended = self._stack.pop()
            self._add(ended.node, ended.anchor)
        elif isinstance(event, ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, AliasEvent):
            self._alias(event, line)

    def _here(self) -> Location:
        """The location of the value that is being read."""
        return tuple(_steps(self._stack))

    def _open(self, event: MappingStartEvent | SequenceStartEvent, line: int) -> None:
        is_mapping = isinstance(event, MappingStartEvent)
        self._expect_value(line, "a mapping" if is_mapping else "a list")
        if len(self._stack) >= MAX_DEPTH:
            raise Unreadable(line, f"expected at most {MAX_DEPTH} values inside each other")
        if event.tag is not None:
            self._fault(line, f"expected no YAML tag, found {event.tag}")
        self._stack.append(_Open(Node("mapping" if is_mapping else "list", line), event.anchor))

    def _expect_value(self, line: int, found: str) -> None:
        """Raises where a key has to stand."""
        if self._stack and self._stack[-1].node.kind == "mapping" and self._stack[-1].key is None:
            hint = '; an address in brackets needs quotes: "[::1]:53"' if found == "a list" else ""
            raise Unreadable(line, f"expected a key, found {found}{hint}")

    def _scalar(self, event: ScalarEvent, line: int) -> None:
        owner = self._stack[-1] if self._stack else None
        if owner is not None and owner.node.kind == "mapping" and owner.key is None:
            owner.key = (event.value, line)
            if event.value == "<<" and event.implicit[0]:
                raise Unreadable(line, "merge keys (<<) are not read: write the keys out")
            return
        node = Node("scalar", line, text=event.value, quoted=not event.implicit[0])
        if event.tag is not None and event.tag != "!":
            self._fault(line, f"expected no YAML tag, found {event.tag}")
        node.value = event.value if node.quoted else self._resolve(event.value, line)
        self._add(node, event.anchor)

    def _resolve(self, text: str, line: int) -> object:
        """What YAML 1.1 makes of an unquoted scalar, if that is no surprise."""
        table = yaml.SafeLoader.yaml_implicit_resolvers
        resolvers = table.get(text[:1], [])
        kind = next((name.removeprefix(_TAG) for name, pattern in resolvers if pattern.match(text)), "str")
        if kind == "null":
            return None
        if kind == "bool":
            return _BOOLEANS[text.lower()]
        if kind == "int" and _DECIMAL.fullmatch(text) and len(text) <= 30:
            return int(text)
        if kind == "float" and _FRACTION.fullmatch(text) and len(text) <= 30:
            return float(text)
        if kind in ("int", "float", "timestamp", "merge", "value"):
            meaning = {"timestamp": "a date", "merge": "a merge key", "value": "a default key"}.get(kind, "a number")
            if kind in ("int", "float") and ":" in text:
                meaning = "a number in base 60"
            self._fault(
                line, f"YAML reads {text[:60]} as {meaning}: write it in quotes if it is text, else differently"
            )
        return text

    def _alias(self, event: AliasEvent, line: int) -> None:
        self._expect_value(line, f"the alias *{event.anchor}")
        target = self._anchors.get(event.anchor or "")
        if target is None:
            inside = any(opened.anchor == event.anchor for opened in self._stack)
            what = "stands inside what it refers to" if inside else "refers to nothing"
            raise Unreadable(line, f"the alias *{event.anchor} {what}; a name that begins with * needs quotes")
        self._add(target, None, line)

    def _add(self, node: Node, anchor: str | None, alias_line: int = 0) -> None:
        """Put a finished value where it belongs."""
        line = alias_line or node.line
        if len(self._stack) + node.depth > MAX_DEPTH:
            raise Unreadable(line, f"expected at most {MAX_DEPTH} values inside each other")
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self.root = node
            return
        owner = self._stack[-1]
        owner.node.depth = max(owner.node.depth, node.depth + 1)
        owner.node.nodes += node.nodes
        if owner.node.nodes > MAX_NODES:
            raise Unreadable(line, f"expected at most {MAX_NODES} values, aliases expanded")
        if owner.node.kind == "mapping":
            assert owner.key is not None  # _expect_value and _scalar see to it
            (key, key_line), owner.key = owner.key, None
            if key in owner.node.keys:
                first = owner.node.keys[key]
                message = f"expected each key once, but it stands in lines {first} and {key_line}"
                self.faults.append(Fault((*self._here(), key), message, line=key_line))
                return
            owner.node.keys[key] = key_line
        owner.node.children.append(node)

    def _fault(self, line: int, message: str) -> None:
        self.faults.append(Fault(self._here(), message, line=line))


def _steps(stack: list[_Open]) -> Iterator[str | int]:
    for opened in stack:
        if opened.node.kind == "list":
            yield len(opened.node.children)
        elif opened.key is not None:
            yield opened.key[0]
