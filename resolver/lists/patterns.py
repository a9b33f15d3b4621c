"""Rules for names that fit a pattern, in RE2's syntax: linear in the name's length whatever an expression says.

A pattern's text is what stands in the list: `/expression/`, or adblock's own signs:

    /ads[0-9]+\\./    an expression in RE2's syntax, found anywhere in the name, whatever the case of letters
    ||x.com          the name, or a parent's labels before it, begins like this: also ads.x.com.evil
    |ads.  ads.|     the name begins, or ends, like this
    x.com^           ends like this: in a name nothing but its end is a separator
    ads*.x.com       any number of octets in place of *; found anywhere

All patterns of a generation make one RE2 set, so a name costs one pass however many there are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from resolver.lists.names import shown
from resolver.lists.rules import BadLine, Unsupported

MAX_PATTERN = 1000  # characters
MAX_PATTERNS = 100_000  # of all lists together
MAX_MEMORY = 64 << 20  # octets that a generation's set may take in a worker
_MAX_ONE = 1 << 20  # octets that one pattern may take
Pattern = tuple[str, int, tuple[str, ...]]  # text, listset, names below which it does not hold
_LITERAL = re.compile(r"[a-z0-9_.*-]+", re.ASCII)


def expression_of(pattern: str) -> str:
    """The RE2 expression of a pattern's text. BadLine if it is none, Unsupported if it cannot speak of names."""
    if len(pattern) > MAX_PATTERN:
        raise BadLine(f"a pattern of {len(pattern)} characters; at most {MAX_PATTERN}")
    if len(pattern) > 2 and pattern.startswith("/") and pattern.endswith("/"):
        return pattern[1:-1]
    body = pattern.lower()
    before = after = ""
    if body.startswith("||"):
        before, body = r"^(?:[a-z0-9_.-]+\.)?", body[2:]
    elif body.startswith("|") or body.startswith("://"):
        before, body = "^", body.removeprefix("|").removeprefix("://")
    if body.endswith(("^", "|")):
        after, body = "$", body.rstrip("^|")
    if not body.strip("*."):
        raise BadLine("a pattern for every name")
    if not body.isascii():
        raise BadLine("a pattern with letters beyond ASCII: write them as A-labels")
    if re.search(r"[/?]", body):
        raise Unsupported("a path: it speaks of a page, DNS knows only names")
    if ":" in body:
        raise Unsupported("a port: DNS knows only names")
    if re.search(r"\s", body):
        raise BadLine("a blank inside the rule")
    if not _LITERAL.fullmatch(body):
        raise Unsupported("a character in the pattern that no name has")
    return before + re.escape(body).replace(r"\*", ".*").replace(r"\-", "-").replace(r"\_", "_") + after


def canonical(pattern: str) -> str:
    """The one text of a pattern that is sound and says something; BadLine says what is wrong with it."""
    expression = expression_of(pattern)
    if any("\udc80" <= character <= "\udcff" for character in expression):
        raise BadLine("an octet that is no UTF-8")
    try:
        compiled = _re2().compile(expression, _options(_MAX_ONE))
    except _re2().error as error:
        text = error.args[0] if error.args else ""
        reason = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        raise BadLine(f"not an expression in RE2's syntax: {shown(reason, 120)}") from None
    if compiled.search("") is not None:
        raise BadLine("a pattern for every name")
    return pattern if pattern.startswith("/") else pattern.lower()


class TooLarge(ValueError):
    """The patterns of all lists together need more memory than they may."""


class PatternSet:
    """Many patterns, asked at once. TooLarge if they are too many."""

    def __init__(self, patterns: Sequence[str]) -> None:
        if len(patterns) > MAX_PATTERNS:
            raise TooLarge(f"{len(patterns)} patterns; at most {MAX_PATTERNS}")
        self._set = _re2().Set.SearchSet(_options(MAX_MEMORY))
        try:
            for pattern in patterns:
                self._set.Add(expression_of(pattern))
            self._set.Compile()
        except _re2().error as error:
            raise TooLarge(f"{len(patterns)} patterns do not fit {MAX_MEMORY >> 20} MiB: {error}") from None

    def matches(self, name: str) -> list[int]:
        """Which patterns fit a normal name, ascending; by their places in what the set was made of."""
        return sorted(self._set.Match(name) or ())


def fitting(patterns: Sequence[Pattern]) -> tuple[Pattern, ...]:
    """As many of the patterns, the first ones, as one set takes."""
    kept = tuple(patterns[:MAX_PATTERNS])
    while kept:
        try:
            PatternSet([text for text, _, _ in kept])
        except TooLarge:
            kept = kept[: len(kept) * 3 // 4]
        else:
            break
    return kept


def _re2() -> Any:
    import re2  # only here: most lists have no patterns

    return re2


def _options(memory: int) -> Any:
    options = _re2().Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = memory
    return options
