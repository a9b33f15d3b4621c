"""What a list would do to the names that were asked in the last day, before it goes live: `tampah preview`.

    names asked (asked.py) and those above them ─▶ of each list what it says of these ─▶ index and policy without the list
                                                                                         and with it ─▶ what differs

The two worlds are made as a build makes a generation, out of runs that are cut down to what can matter for the names
asked: so all that decides (other lists, their order, groups, overrides, patterns, conditions) decides here too, and it takes
as long as there are names asked, however large the lists are. Everything is made in a folder that is deleted; nothing of
the server's is touched.

Names are judged as questions for an address, asked by a client of the group in question at any time. What their answers
would lead to is not known: a rule that acts on aliases and addresses in answers alone shows nothing here.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from resolver import counters, decisions, overlay
from resolver.asked import Asked, Day, read_day
from resolver.config.model import Config, ListConfig
from resolver.decide import Decisions
from resolver.engine.engine import Index, RunBuilder
from resolver.lists.compile import make_policy
from resolver.lists.guard import Guard
from resolver.lists.merge import ListRun, write_index
from resolver.lists.patterns import PatternSet
from resolver.lists.reading import Reading, take_list
from resolver.lists.report import ListOutcome, ListReport
from resolver.lists.rules import Outcome, TriggerKind
from resolver.lists.runs import Run, RunRule, write_run
from resolver.snapshot import CELL, RUNS, Generation, ListState, base_of
from resolver.vocabulary import Action, RRType, Scope, Verb

NEW = "preview"  # what a list is called that the config does not have
_CLIENT = b"\0" * 10 + b"\xff\xff\x7f\0\0\1"  # for rules that ask for an address: nobody's
_PASSES = (Action.FORWARD, Action.ALLOW, Action.TCP_ONLY)


@dataclass(frozen=True, slots=True)
class Effect:
    """What the list does to a name asked: how often that was asked, by about how many clients, by which rule of which
    line, and which other list decides (before, or in spite of it; "overlay": an operator), "" for none."""

    name: str
    count: int
    clients: int
    rule: str = ""
    line: int = 0
    by: str = ""


@dataclass(frozen=True)
class Preview:
    """What a list would do. `blocked`: names that it would newly block, `freed`: that nobody would block any more,
    `already`: blocked before as they would be then, `allowed`: that it would block but for what allows them. `names` and
    `queries`: how many were asked since `since`."""

    list: str
    since: float
    written: float
    what: str
    group: str
    names: int
    queries: int
    report: ListReport
    blocked: tuple[Effect, ...] = ()
    freed: tuple[Effect, ...] = ()
    already: tuple[Effect, ...] = ()
    allowed: tuple[Effect, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def to_json(self, limit: int | None = None) -> dict[str, Any]:
        """As plain data, with the first `limit` names of each kind (None: all)."""
        kinds = {kind: getattr(self, kind) for kind in KINDS}
        return {
            **{key: getattr(self, key) for key in ("list", "since", "written", "what", "group", "names", "queries")},
            "report": asdict(self.report),
            "warnings": list(self.warnings),
            **{
                kind: {
                    "names": len(effects),
                    "queries": sum(effect.count for effect in effects),
                    "list": [asdict(effect) for effect in effects[:limit]],
                }
                for kind, effects in kinds.items()
            },
        }

    def lines(self, limit: int) -> Iterator[str]:
        """For a person."""
        yield f"{self.report.line()}"
        yield from (f"  {rule}" for rule in self.report.quarantined_rules)
        yield from (f"warning: {text}" for text in self.warnings)
        group = f"clients of group {self.group}" if self.group else "clients in no group"
        yield f"{self.names:,} names were asked {self.queries:,} times in the last day; for {group} the list"
        for kind, words in KINDS.items():
            effects: Sequence[Effect] = getattr(self, kind)
            queries = sum(effect.count for effect in effects)
            yield f"{words}: {len(effects):,} names, asked {queries:,} times"
            for effect in effects[:limit]:
                by = f", {effect.by}" if effect.by else ""
                rule = f", line {effect.line}: {effect.rule}" if effect.line else ""
                yield f"  {effect.name}: {effect.count:,} times, {effect.clients:,} clients{rule}{by}"
            if len(effects) > limit:
                yield f"  … {len(effects) - limit:,} more"


KINDS = {
    "blocked": "would newly block",
    "freed": "would free",
    "already": "names that are blocked already",
    "allowed": "names that stay allowed",
}


def preview(
    config: Config,
    state_dir: Path,
    generation: Generation,
    file: Path,
    *,
    form: str = "auto",
    replaces: str = "",
    group: str = "",
    by_clients: bool = False,
) -> Preview:
    """What the list in `file`, read as `form`, would have done; ValueError says why that cannot be said.

    `replaces`: the list of the config that it is a version of, else it is a new one, after all others. `group`: for whose
    clients, else for those in none.
    """
    day = read_day(state_dir)
    if day is None:
        raise ValueError(f"{state_dir / 'asked.json'}: nothing was counted here yet, or query_log.what is none")
    asked = list(day.names)
    listed = _listed(config, file, form, replaces)
    lists = [listed if other.name == replaces else other for other in config.lists]
    changed = config.model_copy(update={"lists": tuple(lists if replaces else [*lists, listed])})
    with tempfile.TemporaryDirectory(prefix="tampah-preview-") as name:
        folder = Path(name)
        (folder / RUNS).mkdir()
        old = next((state for state in generation.lists if state.name == replaces), None)
        slot = old.slot if old else _free_slot(generation)
        reading = take_list(listed, folder, None, slot)
        if reading.report.outcome is ListOutcome.MISSING:
            raise ValueError(reading.report.error)
        judged = _judged(changed, state_dir, folder, listed, old, reading)
        wanted = _with_parents(asked)
        before = [
            (state, _cut(state_dir / RUNS / state.run, wanted, folder / f"{place}.run"))
            for place, state in enumerate((*generation.lists, *generation.own))
            if state.run
        ]
        new = reading.state, _cut(folder / RUNS / reading.state.run, wanted, folder / "new.run")
        after = [new if state.name == replaces else (state, run) for state, run in before]
        if not any(state.name == listed.name for state, _ in after):
            after.insert(sum(bool(state.run) for state in generation.lists), new)
        worlds = (
            _World(config, folder / "before" / "1.index", before, group),
            _World(changed, folder / "after" / "1.index", after, group),
        )
        effects = _effects(asked, worlds, _Speaks(new[1]), listed.name, overlay.read(state_dir))
        found: dict[str, list[Effect]] = {kind: [] for kind in KINDS}
        for kind, effect in effects:
            found[kind].append(effect)
    if by_clients:
        for each in found.values():
            each.sort(key=lambda effect: (-effect.clients, -effect.count, effect.name))
    return Preview(
        list=listed.name,
        since=day.since,
        written=day.written,
        what=day.what,
        group=group,
        names=len(asked),
        queries=sum(each.count for each in asked),
        report=judged.report,
        warnings=tuple(_warnings(day)),
        **{kind: tuple(each) for kind, each in found.items()},
    )


def _warnings(day: Day) -> Iterator[str]:
    if day.what == "blocked":
        yield "query_log.what is blocked: only blocked names are counted, so what would newly be blocked is not known"
    if day.clients == "none":
        yield "query_log.clients is none: clients are not counted"
    if day.missed:
        yield f"names that were asked less than about {day.missed:,} times may be missing, and counts be lower by that"


def _listed(config: Config, file: Path, form: str, replaces: str) -> ListConfig:
    """The list as a config would have it; one that is switched off, or only counts, as if it did not."""
    source = glob.escape(str(file.absolute()))
    if not replaces:
        name = NEW
        while any(other.name == name for other in config.lists):
            name += "-"
        return ListConfig.model_validate({"name": name, "source": source, "format": form})
    listed = next((other for other in config.lists if other.name == replaces), None)
    if listed is None:
        known = ", ".join(other.name for other in config.lists)
        raise ValueError(f"the config has no list {replaces!r}; it has {known or 'none'}")
    update = {"source": source, "mirrors": (), "enabled": "yes"}
    return listed.model_copy(update={**update, **({"format": form} if form != "auto" else {})})


def _free_slot(generation: Generation) -> int:
    taken = set(generation.slots.values())
    return next(slot for slot in range(counters.REBINDING_SLOT) if slot not in taken)


def _judged(
    config: Config, state_dir: Path, folder: Path, listed: ListConfig, old: ListState | None, reading: Reading
) -> Reading:
    """What the guard would say of it. Its views go into the folder, beside links to the runs that it compares."""
    for run in {old.run, base_of(old.run)} - {""} if old else ():
        (folder / RUNS / run).symlink_to((state_dir / RUNS / run).absolute())
    (folder / "asked.json").symlink_to((state_dir / "asked.json").absolute())
    known = replace(old, origin="") if old else None  # another file is no other source here
    return Guard(config, folder, decisions.read(state_dir)).judge(listed, known, reading)


# -- what can matter --------------------------------------------------------------------------------------------------
def _with_parents(asked: Iterable[Asked]) -> set[str]:
    """The names, and all above them to the root."""
    wanted = {""}
    for each in asked:
        name = each.name
        while name and name not in wanted:
            wanted.add(name)
            name = name.partition(".")[2]
    return wanted


def _cut(run: Path, wanted: Iterable[str], target: Path) -> Path:
    """The same run with what it says of these names alone, and all its triggers."""
    with Run(run) as whole:
        builder = RunBuilder(whole.header.replaces)
        places = {outcome: place for place, outcome in enumerate(whole.header.outcomes)}
        for name, rules in whole.find_many(wanted):
            for rule in rules:
                builder.add(name.encode(), rule.scope, places[rule.outcome], rule.line)
        write_run(target, builder, replace(whole.header, duplicates=0), whole.triggers())
    return target


class _Speaks:
    """Which rule of the list covers a name and would block it, the nearest first."""

    def __init__(self, run: Path) -> None:
        with Run(run) as opened:
            self._rules: Mapping[str, Sequence[RunRule]] = dict(opened.names())
            patterns = [each for each in opened.triggers() if each.kind is TriggerKind.PATTERN]
        self._patterns = [each for each in patterns if _blocks(each.outcome)]
        self._set = PatternSet([each.text for each in self._patterns]) if self._patterns else None

    def of(self, name: str) -> tuple[str, int] | None:
        """The rule's name and line; None: it would block the name by none."""
        step = name
        while True:
            wanted = Scope.SELF if step == name else Scope.BELOW
            for rule in self._rules.get(step, ()):
                if rule.scope & wanted and _blocks(rule.outcome):
                    return step or ".", rule.line
            if not step:
                break
            step = step.partition(".")[2]
        if self._set and (fitting := sorted(self._set.matches(name))):
            return self._patterns[fitting[0]].text, self._patterns[fitting[0]].line
        return None


def _blocks(outcome: Outcome) -> bool:
    return outcome.verb is Verb.BLOCK and outcome.action not in (Action.ALLOW, Action.TCP_ONLY)


# -- what is decided --------------------------------------------------------------------------------------------------
class _World:
    """What is decided by these lists, each with its run, for the clients of a group."""

    def __init__(self, config: Config, path: Path, lists: Sequence[tuple[ListState, Path]], group: str) -> None:
        path.parent.mkdir()
        write_index(path, [ListRun(state.name, run, state.replaces) for state, run in lists])
        policy = make_policy(config, path, [state for state, _ in lists])
        if group and group not in policy.groups:
            raise ValueError(f"the config has no group {group!r}; it has {', '.join(policy.groups) or 'none'}")
        self._class = policy.groups[group] if group else 0
        self._index = Index(str(path))
        self._decisions = Decisions(self._index, policy, 1)
        self._names = {state.slot: state.name for state, _ in lists}

    def decide(self, name: str) -> tuple[bool, str]:
        """Whether a name is blocked, and the list that decides; "" for none."""
        wire = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".")) + b"\0"
        listsets = (self._index.find(name), *self._decisions.fits(wire))
        winners, _ = self._decisions.best(self._class, listsets, RRType.A, _CLIENT)
        _, action, _, _, slot, _ = CELL.unpack(winners[0].cell)
        return action not in _PASSES, self._names.get(slot, "")


def _effects(
    asked: Iterable[Asked],
    worlds: tuple[_World, _World],
    speaks: _Speaks,
    name: str,
    words: Sequence[overlay.Entry],
) -> Iterator[tuple[str, Effect]]:
    """Every name that the list changes something for, or speaks of, with the kind of effect."""
    before, after = worlds
    for each in asked:
        rule = speaks.of(each.name)
        was, who = before.decide(each.name)
        now, then = after.decide(each.name)
        by_hand = bool(overlay.covering(words, each.name))
        text, line = rule or ("", 0)
        effect = Effect(each.name, each.count, each.clients, text, line, "overlay" if by_hand else "")
        if by_hand:
            if rule:
                word = overlay.covering(words, each.name)[0].word
                yield "already" if word == overlay.BLOCK else "allowed", effect
        elif now and not was:
            yield "blocked", effect
        elif was and not now:
            yield "freed", replace(effect, by=who)
        elif now and (rule or name in (who, then)):
            yield "already", replace(effect, by=who)
        elif rule:
            yield "allowed", replace(effect, by=then)
