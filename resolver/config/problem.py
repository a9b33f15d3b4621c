"""What is wrong with a configuration, said so that it can be put right: where, what was expected, what stood there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Location = tuple[str | int, ...]  # of a value: keys and indices from the top, ("lists", 2, "format")


@dataclass(frozen=True, slots=True)
class Fault:
    """A finding in the data. `message` says what was expected, `nearest` gives a known word like the one found.

    `line` 0: the line of `at`. `show`: what stands at `at` belongs into the message.
    """

    at: Location
    message: str
    nearest: str | None = None
    severity: Literal["error", "warning"] = "error"
    line: int = 0
    show: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding in a file. `line` counts from 1, 0 where there is none; `path` is empty for the file as a whole."""

    file: str
    line: int
    path: str
    message: str
    found: str | None = None
    nearest: str | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = ":".join(part for part in (self.file, str(self.line) if self.line else "") if part)
        text = f"{where}: {f'{self.path}: ' if self.path else ''}{self.message}"
        if self.found is not None:
            text += f", found {self.found}"
        return text + (f"; did you mean {self.nearest}?" if self.nearest is not None else "")

    def as_dict(self) -> dict[str, str | int | None]:
        """The same as plain data, for `--json`."""
        return asdict(self)


class ConfigError(Exception):
    """A configuration that cannot be used. `problems` holds every error and warning in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def spell(location: Location) -> str:
    """A location as people write it: `lists[2].format`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
