"""What somebody decided about lists that the guard held or took rules from, and the record of every such decision.

    state_dir/guard.json         what is approved and rejected, by content: what a build goes by
    state_dir/decisions.jsonl    every decision in its order: when, who, which list, what, why, in which generation

A decision is about content: a run (lists/runs.py), named after a digest of what was read, or a rule as it stands. The
same content is not asked about again, another change is. `serial` counts the decisions: a generation remembers it, so
that a reload after a decision builds although no file has changed.

The record is only ever added to. Each line has the SHA-256 of the line before it, so that one that was altered, taken out
or put in shows; who may write in state_dir can still write the whole file anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from resolver.snapshot import REJECTED, RUNS, Generation, ListState, write_json

FILE = "guard.json"
LOG = "decisions.jsonl"
MAX_RUNS = 200  # decisions about runs that are remembered a list, the newest
MAX_REASON = 2000  # characters
RULES_TOLD = 1000  # of a decision's rules, in its record
APPROVED = "approved"
ROLLED_BACK = "rolled back"
_BEFORE = {True: APPROVED, False: REJECTED}  # how decisions about rules were written before they could be rolled back


class DecisionError(ValueError):
    """Nothing was decided; the text says why and what to do."""


class Who(NamedTuple):
    """Who decided: a user of this machine."""

    uid: int
    user: str

    @classmethod
    def of(cls, uid: int) -> Who:
        """The user with this number."""
        try:
            return cls(uid, pwd.getpwuid(uid).pw_name)
        except KeyError:
            return cls(uid, "")


@dataclass(frozen=True, slots=True)
class ListDecisions:
    """What is decided about a list. `runs`: run → APPROVED, REJECTED or ROLLED_BACK; `rules`: rule_key → one of these too.

    A rule that is ROLLED_BACK had been approved.
    """

    runs: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decisions:
    """Everything decided and still remembered; `serial` grows by one a decision, 0: none was ever made."""

    serial: int = 0
    lists: Mapping[str, ListDecisions] = field(default_factory=dict)

    def of(self, name: str) -> ListDecisions:
        """What is decided about a list."""
        return self.lists.get(name, ListDecisions())


def read(state_dir: Path) -> Decisions:
    """What is decided. A missing file: nothing yet; a damaged one too, so that what was approved is asked about again."""
    try:
        body = json.loads((state_dir / FILE).read_bytes())
        lists = {
            str(name): ListDecisions(
                {str(run): str(word) for run, word in decided["runs"].items()},
                {str(rule): str(_BEFORE.get(word, word)) for rule, word in decided["rules"].items()},
            )
            for name, decided in body["lists"].items()
        }
        return Decisions(int(body["serial"]), lists)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Decisions()


def decide(
    state_dir: Path, generation: Generation, name: str, names: Sequence[str], reason: str, who: Who, *, approve: bool
) -> dict[str, Any]:
    """Approve or reject what waits of a list: with `names` its rules for these, else the run that is held, else all rules.

    `generation` is what was seen when it was decided. Returns the record. DecisionError if nothing of it waits.
    """
    state = next((state for state in generation.lists if state.name == name), None)
    if state is None:
        known = ", ".join(state.name for state in generation.lists)
        raise DecisionError(f"generation {generation.number} has no list {name!r}; it has {known or 'none'}")
    word = APPROVED if approve else REJECTED
    with _deciding(state_dir) as log:
        decisions = read(state_dir)
        decided = decisions.of(name)
        runs, rules = dict(decided.runs), dict(decided.rules)
        what: dict[str, Any]
        if state.pending and not names:
            runs.pop(state.pending, None)
            runs[state.pending] = word
            what = {"run": state.pending}
        else:
            chosen = _chosen(state_dir, state, names, approve=approve)
            rules |= {rule["rule"]: word for rule in chosen}
            what = {"rules": len(chosen), "names": [rule["name"] for rule in chosen[:RULES_TOLD]]}
        changed = {**decisions.lists, name: ListDecisions(runs, rules)}
        return _decide(state_dir, log, Decisions(decisions.serial, changed), generation, word, name, what, reason, who)


def roll_back(state_dir: Path, generation: Generation, target: int, reason: str, who: Who) -> dict[str, Any]:
    """Record that `generation` went back to `target`: what its lists have pending, and what it leaves out of them although
    that was approved since, no reload may bring again by itself."""
    from resolver.lists.view import is_view, read_view, rule_key  # as in _chosen

    with _deciding(state_dir) as log:
        decisions = read(state_dir)
        lists = dict(decisions.lists)
        withheld = {state.name: state.pending for state in generation.lists if state.held == REJECTED}
        for name, run in withheld.items():
            known = lists.get(name, ListDecisions())
            runs = {each: word for each, word in known.runs.items() if each != run}
            word = REJECTED if known.runs.get(run) == REJECTED else ROLLED_BACK
            lists[name] = ListDecisions({**runs, run: word}, known.rules)
        for state in generation.lists:
            known = lists.get(state.name, ListDecisions())
            left = read_view(state_dir / RUNS / state.run).rules if is_view(state.run) and known.rules else ()
            if again := {
                key: ROLLED_BACK for rule in left if known.rules.get(key := rule_key(rule)) in (APPROVED, ROLLED_BACK)
            }:
                lists[state.name] = ListDecisions(known.runs, {**known.rules, **again})
        new = Decisions(decisions.serial, lists)
        what = {"to": target, "runs": withheld}
        return _decide(state_dir, log, new, generation, ROLLED_BACK, "", what, reason, who)


def release(state_dir: Path, generation: Generation, who: Who) -> dict[str, Any] | None:
    """Let go of what rollbacks hold, rules that were approved included; None where they hold nothing."""
    with _deciding(state_dir) as log:
        decisions = read(state_dir)
        runs = {name: _rolled_back(decided.runs) for name, decided in decisions.lists.items()}
        rules = {name: _rolled_back(decided.rules) for name, decided in decisions.lists.items()}
        runs, rules = ({name: some for name, some in held.items() if some} for held in (runs, rules))
        if not runs and not rules:
            return None
        lists = {
            name: ListDecisions(
                {run: word for run, word in decided.runs.items() if word != ROLLED_BACK},
                {**decided.rules, **dict.fromkeys(rules.get(name, ()), APPROVED)},
            )
            for name, decided in decisions.lists.items()
        }
        what = {"runs": runs, "approved": {name: [json.loads(key)[0] for key in keys] for name, keys in rules.items()}}
        new = Decisions(decisions.serial, lists)
        return _decide(state_dir, log, new, generation, "released", "", what, "reload --force", who)


def _rolled_back(words: Mapping[str, str]) -> list[str]:
    """What of a list's runs or rules rollbacks hold."""
    return [key for key, word in words.items() if word == ROLLED_BACK]


def _chosen(state_dir: Path, state: ListState, names: Sequence[str], *, approve: bool) -> list[dict[str, Any]]:
    """The rules left out of a list that a decision is about."""
    from resolver.lists.view import is_view, read_view, rule_key  # only here: a supervisor seldom decides

    left_out = read_view(state_dir / RUNS / state.run).rules if is_view(state.run) else ()
    if names:
        if unknown := set(names) - {rule.name for rule in left_out}:
            raise DecisionError(f"list {state.name}: no rule for {', '.join(sorted(unknown))} is quarantined")
        left_out = tuple(rule for rule in left_out if rule.name in names)
    else:
        waiting = tuple(rule for rule in left_out if not rule.decided)
        left_out = waiting or (left_out if approve else ())
    if not left_out:
        raise DecisionError(f"list {state.name}: nothing of it waits for a decision; 'tampah lists' shows what does")
    return [{"rule": rule_key(rule), "name": rule.name} for rule in left_out]


def _decide(
    state_dir: Path,
    log: IO[bytes],
    decisions: Decisions,
    generation: Generation,
    word: str,
    name: str,
    what: Mapping[str, Any],
    reason: str,
    who: Who,
) -> dict[str, Any]:
    """Write the record first, then what builds go by: a decision without a record cannot be."""
    last = b""
    log.seek(0)
    for line in log:
        last = line
    record = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "uid": who.uid,
        "user": who.user,
        "decision": word,
        "list": name,
        "what": what,
        "reason": reason[:MAX_REASON],
        "generation": generation.number,
        "previous": hashlib.sha256(last.rstrip(b"\n")).hexdigest() if last else "",
    }
    if last and not last.endswith(b"\n"):  # a write that was cut off stays, on a line of its own
        log.write(b"\n")
    log.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    log.flush()
    os.fsync(log.fileno())
    lists = {
        name: {"runs": dict(list(decided.runs.items())[-MAX_RUNS:]), "rules": dict(decided.rules)}
        for name, decided in decisions.lists.items()
    }
    write_json(state_dir / FILE, {"serial": decisions.serial + 1, "lists": lists})
    return record


@contextlib.contextmanager
def _deciding(state_dir: Path) -> Iterator[IO[bytes]]:
    """The record, open for appending; one decision at a time. A file that root makes belongs to who has the folder."""
    fd = os.open(state_dir / LOG, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    with os.fdopen(fd, "a+b") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        owner = state_dir.stat()
        if os.geteuid() == 0 and os.fstat(fd).st_uid != owner.st_uid:
            os.fchown(fd, owner.st_uid, owner.st_gid)
        yield log


class Record(NamedTuple):
    """A line of the record; `sound` unless it does not follow from the line before it."""

    body: dict[str, Any]
    sound: bool


def records(state_dir: Path) -> list[Record]:
    """Every decision, the oldest first; a line that is none has {} for its body and is not sound."""
    try:
        lines = (state_dir / LOG).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    previous = ""
    for line in lines:
        try:
            body = json.loads(line)
            sound = body["previous"] == previous
        except (ValueError, KeyError, TypeError):
            body, sound = {}, False
        found.append(Record(body if isinstance(body, dict) else {}, sound))
        previous = hashlib.sha256(line).hexdigest()
    return found
