"""Lists that come with the program or follow from the config: names that are answered here, by the machinery of all lists.

    built-in:local           rewrites, records and their reverse names, special names, DDR, DNS64 (local.py, special.py)
    built-in:canaries        names by which browsers and systems ask whether to go around this server
    built-in:encrypted-dns   names of public encrypted resolvers
    built-in:safe-search:X   a search engine's names, aliases of those that filter (search.py)

Each becomes a run like any list's and stands behind the config's lists in the index, so a name that none of them has costs
nothing and `explain` tells the place in the config. The first is the operator's own word: rank 0, behind the overlay, for
every client, also in a pause. The others are blocks like others, so an allow frees a name of theirs; who sees them is said
by keys of their own, not by `lists` and `categories` of groups. All but encrypted-dns speak of the name that is asked for,
not of what answers lead to.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from resolver.config.model import Config
from resolver.engine.engine import RunBuilder
from resolver.lists.matrix import CategoryPolicy, ListPolicy, Override
from resolver.lists.own.local import local_rules
from resolver.lists.own.rules import OwnRule
from resolver.lists.own.search import SERVICES, search_rules
from resolver.lists.own.special import special_rules
from resolver.lists.rules import Outcome
from resolver.lists.runs import Run, RunHeader, run_digest, run_path, write_run
from resolver.lists.source import stat_of
from resolver.snapshot import NO_EDE, OWN_PREFIX, ListState
from resolver.vocabulary import EDE, Action, Scope

PREFIX = OWN_PREFIX
LOCAL, CANARIES, ENCRYPTED_DNS = f"{PREFIX}local", f"{PREFIX}canaries", f"{PREFIX}encrypted-dns"
SEARCH = f"{PREFIX}safe-search:"
CATEGORIES: Mapping[str, CategoryPolicy] = {  # what the config says of the last two goes before
    LOCAL: CategoryPolicy(ede=NO_EDE),
    "encrypted-dns": CategoryPolicy(),
    "safe-search": CategoryPolicy(ede=EDE.FORGED_ANSWER),
}
_CANARIES = (
    ("firefox_canary", ("use-application-dns.net",)),
    ("icloud_relay", ("mask.icloud.com", "mask-h2.icloud.com")),
)
NOBODY = ""  # the group of clients in none


class OwnList(NamedTuple):
    """One of these lists: its rules, its category and the groups that see it, NOBODY among them for clients in none."""

    name: str
    category: str
    groups: frozenset[str]
    rules: Sequence[OwnRule]
    replaces: bool = False
    files: tuple[Path, ...] = ()


def own_lists(config: Config) -> list[OwnList]:
    """All that the config asks for."""
    everybody = frozenset((NOBODY, *(group.name for group in config.groups)))
    local, sources = special_rules(config, local_rules(config))
    found = [OwnList(LOCAL, LOCAL, everybody, local, True, sources)]
    canaries = [
        OwnRule(name, Scope.BOTH, Outcome(action=Action.NXDOMAIN), f"special_names.{key}")
        for key, names in _CANARIES
        if getattr(config.special_names, key)
        for name in names
    ]
    found.append(OwnList(CANARIES, LOCAL, everybody, canaries))
    if config.block_encrypted_dns or any(group.block_encrypted_dns for group in config.groups):
        place = "the list of public encrypted resolvers"
        rules = [OwnRule(name, Scope.BOTH, Outcome(), place) for name in shipped("encrypted-dns.txt")]
        seen = frozenset(name for name, blocks in _by_group(config, "block_encrypted_dns") if blocks)
        found.append(OwnList(ENCRYPTED_DNS, "encrypted-dns", seen, rules))
    for service in SERVICES:
        seen = frozenset(name for name, services in _by_group(config, "safe_search") if service in services)
        if seen:
            found.append(OwnList(SEARCH + service, "safe-search", seen, search_rules(service)))
    return [each for each in found if each.rules]


def _by_group(config: Config, key: str) -> Iterable[tuple[str, Any]]:
    """What a key says to each group, and to clients in none: what it says to all, but for groups that say otherwise."""
    general = getattr(config, key)
    yield NOBODY, general
    for group in config.groups:
        own = getattr(group, key)
        yield group.name, general if own is None else own


def shipped(name: str) -> list[str]:
    """The names in a file that comes with the program."""
    lines = files(__package__).joinpath(name).read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def take_own(wanted: Sequence[OwnList], runs: Path, slots: Mapping[str, int]) -> tuple[ListState, ...]:
    """The state of each list, its run written to the folder `runs` where it is not there yet."""
    return tuple(_take(each, runs, slots[each.name]) for each in wanted)


def _take(own: OwnList, runs: Path, slot: int) -> ListState:
    rules = [(rule.name, int(rule.scope), str(rule.outcome), rule.place) for rule in own.rules]
    digest = hashlib.sha256(json.dumps(rules).encode()).hexdigest()
    path = run_path(runs, run_digest(digest, {"own": own.name}))
    names = 0
    try:
        with Run(path) as run:
            names = run.header.names
    except (OSError, ValueError):
        names = _write(own, path, digest)
    source = tuple((stat.path, stat.size, stat.mtime_ns, stat.inode) for stat in map(stat_of, own.files))
    return ListState(own.name, path.name, slot, source=source, seen=time.time(), names=names, replaces=own.replaces)


def _write(own: OwnList, path: Path, digest: str) -> int:
    builder = RunBuilder(own.replaces)
    outcomes: dict[Outcome, int] = {}
    places: dict[str, int] = {}
    for rule in own.rules:
        line = places.setdefault(rule.place, len(places) + 1)
        builder.add(rule.name.encode(), rule.scope, outcomes.setdefault(rule.outcome, len(outcomes)), line)
    header = RunHeader(
        tuple(outcomes), own.replaces, source={"digest": digest}, report={"format": "own", "places": list(places)}
    )
    return write_run(path, builder, header).names


def own_policy(wanted: Sequence[OwnList], state: ListState) -> ListPolicy:
    """What decides about one of these lists; nothing where the config asks for it no more."""
    for own in wanted:
        if own.name == state.name:
            return ListPolicy(
                name=own.name,
                category=own.category,
                slot=state.slot,
                mandatory=own.category == LOCAL,
                groups=own.groups,
                local=own.name == LOCAL,
                question_only=own.name != ENCRYPTED_DNS,
            )
    return ListPolicy(state.name, slot=state.slot, override=Override(disabled=True))
