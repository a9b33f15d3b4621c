"""What the configuration may ask for and this version does not do yet: one table, a row a feature.

Nothing is ignored in silence. A row that only takes something away from the operator is a warning, and the key is
then read as if it were not there; a row without which less would be filtered, or more be seen by others, is an error.
Whoever builds a feature deletes its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from resolver.config import addresses
from resolver.config.problem import Fault, Location

EACH = "*"  # in a path: every item of a list


class _Row(NamedTuple):
    """A key and when what stands there is not built. `weakens`: ignoring it would weaken filtering or privacy."""

    path: tuple[str, ...]
    asks: Callable[[Any], bool]
    what: str
    weakens: bool = False


def _given(value: Any) -> bool:
    return value not in (None, "", [], {})


def _not(*built: object) -> Callable[[Any], bool]:
    return lambda value: value is not None and value not in built


def _quic(server: Any) -> bool:
    try:
        return addresses.parse_server(server).scheme == "quic"
    except ValueError:
        return False


def _all_quic(servers: Any) -> bool:
    return isinstance(servers, list) and bool(servers) and all(map(_quic, servers))


# The first row that matches speaks for a key and all beneath it.
ROWS = (
    _Row(("listen", "quic"), _given, "DNS over QUIC"),
    _Row(("upstream", "servers"), _all_quic, "DNS over QUIC upstream", weakens=True),
    _Row(("upstream", "servers", EACH), _quic, "DNS over QUIC upstream"),
    _Row(("upstream", "routes", EACH, "servers"), _all_quic, "DNS over QUIC upstream", weakens=True),
    _Row(("upstream", "routes", EACH, "servers", EACH), _quic, "DNS over QUIC upstream"),
    _Row(("groups", EACH, "upstream"), _all_quic, "DNS over QUIC upstream", weakens=True),
    _Row(("groups", EACH, "upstream", EACH), _quic, "DNS over QUIC upstream"),
    _Row(("query_log", "what"), _not("all"), "the query log"),
    _Row(("query_log", "clients"), _not("full"), "the query log"),
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
            if row.weakens:
                message = f"not built yet: {row.what}; remove it, as going on without it would protect less"
            yield Fault(at, message, severity="error" if row.weakens else "warning", show=shown)


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
