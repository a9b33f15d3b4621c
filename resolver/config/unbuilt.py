"""What the configuration may ask for and this version does not do yet: one table, a row a feature.

Nothing is ignored in silence: a row is a warning, and the key is then read as if it were not there. Whoever builds a feature
deletes its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from resolver.config.problem import Fault, Location

EACH = "*"  # in a path: every item of a list


class _Row(NamedTuple):
    """A key and when what stands there is not built."""

    path: tuple[str, ...]
    asks: Callable[[Any], bool]
    what: str


def _not(*built: object) -> Callable[[Any], bool]:
    return lambda value: value is not None and value not in built


# The first row that matches speaks for a key and all beneath it.
ROWS = (
    _Row(("query_log", "keep"), _not("7d", "1w", 604_800), "the query log"),
    _Row(("query_log", "size"), _not("1GiB", 2**30), "the query log"),
)


def find(data: dict[str, Any]) -> Iterator[Fault]:
    """What the data asks for that is not built. A list that is switched off asks for nothing."""
    spoken: set[Location] = set()
    for row in ROWS:
        for at, value in _walk(data, row.path):
            if not row.asks(value) or any(at[:length] in spoken for length in range(1, len(at) + 1)):
                continue
            if at[0] == "lists" and len(at) > 1 and data["lists"][at[1]].get("enabled") in (False, "no"):
                continue
            spoken.add(at)
            message, shown = f"not built yet: ignored ({row.what})", not isinstance(value, list | dict)
            yield Fault(at, message, severity="warning", show=shown)


def without(data: dict[str, Any], faults: list[Fault]) -> None:
    """Take the keys of `faults` out of the data, so that their defaults hold."""
    for fault in sorted(
        faults, key=lambda each: [step if isinstance(step, int) else -1 for step in each.at], reverse=True
    ):
        owner: Any = data
        for step in fault.at[:-1]:
            owner = owner[step]
        del owner[fault.at[-1]]


def _walk(value: Any, path: tuple[str, ...], at: Location = ()) -> Iterator[tuple[Location, Any]]:
    """Every place that a path leads to."""
    if not path:
        yield at, value
    elif path[0] == EACH:
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield from _walk(item, path[1:], (*at, index))
    elif isinstance(value, dict) and path[0] in value:
        yield from _walk(value[path[0]], path[1:], (*at, path[0]))
