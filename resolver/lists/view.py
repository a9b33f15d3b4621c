"""A view: a run without some of its rules, which the guard keeps from what is served.

It is a small file beside its run that names the rules left out, and why. `Run` opens one like any run and reads the run
beneath it past those rules; so merge, patch and diff see what is served, and the run keeps everything for who decides
later. Its name tells the run and a digest of what it says:

    <run's digest>.<digest of the view>.view.run
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from resolver.lists.container import Damaged, replacing
from resolver.lists.layout import key_of
from resolver.lists.rules import Outcome
from resolver.lists.runs import Run, outcome_from_json, outcome_to_json
from resolver.snapshot import VIEW_SUFFIX
from resolver.vocabulary import Scope

_BEFORE = {False: "", True: "pattern"}  # what `trigger` was when only patterns could be left out


class LeftOut(NamedTuple):
    """A rule that is not served: the name it stands at, whom it covers, what it says and its line in the run.

    `protected` is the name that it would block, `why` why that one is protected; `decided` is "" while somebody has to
    decide, "rejected" or "rolled back" once somebody has. For a rule that is no name `trigger` is its kind's lower-case
    word, `name` its text, and the scope says nothing.
    """

    name: str
    scope: Scope
    outcome: Outcome
    line: int
    protected: str
    why: str
    decided: str = ""
    trigger: str = ""


class View(NamedTuple):
    """What a view says: the file name of its run, how many names nothing is left of, and the rules left out."""

    base: str
    names: int
    rules: tuple[LeftOut, ...]


def is_view(run: str) -> bool:
    """Whether a run's file name is a view's."""
    return run.endswith(VIEW_SUFFIX)


def write_view(folder: Path, base: str, rules: Sequence[LeftOut]) -> str:
    """Write a view of the run `base` without these rules, unless it is there; returns its file name."""
    gone = {(rule.name, rule.scope, rule.outcome) for rule in rules if not rule.trigger}
    with Run(folder / base) as run:
        names = sum(
            all((name, rule.scope, rule.outcome) in gone for rule in found)
            for name, found in run.find_many({rule.name for rule in rules if not rule.trigger})
        )
    lines = [[rule.name, int(rule.scope), outcome_to_json(rule.outcome), *rule[3:]] for rule in rules]
    octets = json.dumps({"base": base, "names": names, "rules": lines}, separators=(",", ":")).encode()
    name = f"{base.removesuffix('.run')}.{_digest(octets)}{VIEW_SUFFIX}"
    if not (folder / name).is_file():
        with replacing(folder / name) as file:
            file.write(octets)
    return name


def read_view(path: Path) -> View:
    """The view of a file; Damaged if it is not what was written, OSError if it is not there."""
    octets = path.read_bytes()
    base, digest, *_ = path.name.split(".")
    if _digest(octets) != digest:
        raise Damaged(f"{path}: no view of a run: its digest is wrong")
    try:
        body = json.loads(octets)
        rules = tuple(
            LeftOut(name, Scope(scope), outcome_from_json(said), line, of, why, decided, _BEFORE.get(trigger, trigger))
            for name, scope, said, line, of, why, decided, trigger in body["rules"]
        )
        if body["base"] != f"{base}.run":
            raise ValueError("it is of another run")
        return View(body["base"], body["names"], rules)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path}: no view of a run: {error!r}") from None


def skips(rules: Iterable[LeftOut], outcomes: Mapping[Outcome, int]) -> list[tuple[bytes, frozenset[int]]]:
    """The rules as RunReader's `skip`; `outcomes`: the run's table, outcome → id."""
    tags: dict[bytes, set[int]] = {}
    for rule in rules:
        if rule.outcome in outcomes and not rule.trigger:
            tags.setdefault(key_of(rule.name), set()).add(outcomes[rule.outcome] << 2 | rule.scope)
    return [(key, frozenset(tags[key])) for key in sorted(tags)]


def rule_key(rule: LeftOut) -> str:
    """What makes two rules of a list the same, whatever their lines."""
    kind = rule.trigger or int(rule.scope)
    return json.dumps([rule.name, kind, outcome_to_json(rule.outcome)], separators=(",", ":"))


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()[:16]
