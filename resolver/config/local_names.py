"""What `rewrites` and `records` say of the same name, held against each other: on the file's plain data, as checks.py."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

from resolver.config import addresses
from resolver.config.problem import Fault, Location
from resolver.config.records import parse_record

MAX_ALIASES = 8  # that follow each other


def check(data: dict[str, Any]) -> Iterator[Fault]:
    """A name that is rewritten twice, an alias beside other records, and aliases that lead nowhere but in a circle."""
    first: dict[str, Location] = {}
    aliases: dict[str, tuple[str, Location]] = {}
    for at, owner, target in _names(data):
        if owner not in first:
            first[owner] = at
            if target:
                aliases[owner] = (target, at)
        elif target or owner in aliases:
            yield Fault(at, f"expected nothing beside an alias, but {_shown(first[owner])} speaks of {owner} too")
        elif at[0] == first[owner][0] == "rewrites":
            yield Fault(
                (*at, "name"), f"expected a name of its own, but {_shown(first[owner])} has it already", show=True
            )
    for owner, (_, at) in aliases.items():
        if fault := _goes_round(owner, aliases, first):
            yield Fault(at, fault)


def _names(data: dict[str, Any]) -> Iterator[tuple[Location, str, str]]:
    """Where a name stands, the name, and what it is an alias of ("" for none)."""
    rewrites, records = data.get("rewrites"), data.get("records")
    for number, item in enumerate(rewrites if isinstance(rewrites, list) else ()):
        answers = item.get("answers") if isinstance(item, dict) else None
        if not isinstance(answers, list):
            continue
        try:
            name = addresses.parse_pattern(item.get("name"))
            targets = [each for each in map(addresses.parse_answer, answers) if isinstance(each, str)]
        except ValueError:
            continue
        yield ("rewrites", number), name, targets[0] if targets else ""
    for number, text in enumerate(records if isinstance(records, list) else ()):
        try:
            record = parse_record(text)
        except ValueError:
            continue
        yield (
            ("records", number),
            record.owner,
            record.data.lower().removesuffix(".") if record.type == "CNAME" else "",
        )


def _goes_round(owner: str, aliases: Mapping[str, tuple[str, Location]], known: Container[str]) -> str:
    """What is wrong with where an alias leads in the end; "" if nothing is."""
    name, steps = aliases[owner][0], 1
    while (found := _covering(name, known)) in aliases:
        if found == owner:
            return f"expected an alias of another name, but this leads to {name}, which it speaks of itself"
        if steps == MAX_ALIASES:
            return f"expected at most {MAX_ALIASES} aliases that follow each other"
        name, steps = aliases[found][0], steps + 1
    return ""


def _covering(name: str, known: Container[str]) -> str:
    """The entry that speaks of a name: its own, else the nearest wildcard above; "" if none does."""
    if name in known:
        return name
    while "." in name:
        name = name.partition(".")[2]
        if f"*.{name}" in known:
            return f"*.{name}"
    return ""


def _shown(at: Location) -> str:
    return f"{at[0]}[{at[1]}]"
