"""A rule of the program's own lists."""

from __future__ import annotations

from typing import NamedTuple

from resolver.lists.rules import Outcome
from resolver.vocabulary import Scope


class OwnRule(NamedTuple):
    """As rules.Rule; `place` says where it comes from, for `explain`."""

    name: str
    scope: Scope
    outcome: Outcome
    place: str
