"""The list guard: what a changed list may do before somebody has looked at it. Asked by the build, list by list.

Two questions, of a list that is not what it was in the generation before.

**Is it still this list?** One that shrinks or grows beyond its limits is *held*: its old run serves on, the new one is
kept as pending until somebody approves or rejects it, or the source becomes a list within the limits. A change of few
names is never held (`guard.floor`), unless it leaves none. The first version is not held, nor one that comes of another
`source`, format or kind: whoever changed the config meant to. Sizes are compared, not contents: lists of the newest
phishing names have others every day.

**Would a new rule block what nobody may block?** A rule that is not served already and covers a protected name is
*quarantined*: left out of what is served (view.py), while the rest of the list goes live. It covers a name if it stands at
the name, or at one above and speaks of what is below. Protected are

- public suffixes (`guard.public_suffixes`), and every top-level domain: names that strangers share. Here a rule at the name
  itself is enough, whomever it covers, and a pattern that fits the name or one below it. So `||zip^` waits for an approval
  too: nobody can tell a maintainer's judgement from a slip of the pen but who runs the resolver, and is asked once;
- names that the server itself needs: upstream servers, routes' zones, hosts of lists, its own host, contacts;
- the addresses of upstream servers, those it listens on, and the networks of its clients, from rules for addresses (of
  answers, clients or name servers) that hold them whole; and the address space from rules for more of it than MIN_PREFIX;
- `guard.protect`, and what is asked most here (asked.py), but for a first version: its very purpose may be to block that,
  as a first list of advertisers' names does.

Lists that are `mandatory` are reported on and served. Rules that allow are of no interest. In a first version every rule
is new. Decisions (decisions.py) are about content: what was approved or rejected is not asked about again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from resolver.asked import most_asked
from resolver.config.addresses import Address, Network
from resolver.config.model import Config, ListConfig
from resolver.config.types import NO_LIMIT
from resolver.decisions import APPROVED, ROLLED_BACK, Decisions, ListDecisions
from resolver.lists.changes import Changes
from resolver.lists.layout import name_of
from resolver.lists.names import normalise
from resolver.lists.patterns import PatternSet
from resolver.lists.reading import Reading, describe
from resolver.lists.report import ListOutcome, QuarantinedRule
from resolver.lists.rules import Outcome, Trigger, TriggerKind
from resolver.lists.runs import Item, Run
from resolver.lists.source import lines_at
from resolver.lists.view import LeftOut, rule_key, write_view
from resolver.snapshot import HELD, REJECTED, RUNS, ListState, base_of
from resolver.vocabulary import Action, Scope, Verb

MAX_LEFT_OUT = 100_000  # rules of a list; one with more that would block protected names is held as a whole
RULES_TOLD = 20  # quarantined rules that a report carries
MAX_PROTECTED_FILE = 1_000_000  # names
MIN_PREFIX = {4: 16, 6: 32}  # of a rule for addresses; one with a shorter prefix reaches too far, for `tampah lint` too
_HARMLESS = (Action.ALLOW, Action.TCP_ONLY)
_ADDRESSES = (TriggerKind.ADDRESS, TriggerKind.CLIENT, TriggerKind.NSIP)
_ANY = "some-name"  # stands for the names below a public suffix
_SUFFIX = "a public suffix: names of strangers are below it"
_SUFFIXES = "above public suffixes: names of strangers are below it"
_TLD = "a top-level domain"


# -- what is protected ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Protected:
    """Names that no new rule may block, each with why. All are in normal form.

    `zones`: what is below belongs to many, so any rule at the name counts; `names`: a rule that covers the name counts.
    `wild`: names all of whose children are zones, but for `exceptions`; `tlds`: every name of one label is one too.
    `networks`: a rule for addresses that holds one whole counts. `warnings`: what could not be read.
    """

    zones: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    wild: frozenset[str] = frozenset()
    exceptions: frozenset[str] = frozenset()
    tlds: bool = True
    networks: Mapping[Network, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @functools.cached_property
    def above(self) -> dict[str, str]:
        """Every name above a protected one, and that one; of several the one named first."""
        found: dict[str, str] = {}
        for name in (*self.names, *self.zones, *self.wild):
            parent = name
            while parent := parent.partition(".")[2]:
                if parent in found:
                    break
                found[parent] = name
            found.setdefault("", name)
        return found

    def hits(self, run: Run) -> Iterator[LeftOut]:
        """The rules of a run that would block something protected, in no order."""
        known = {*self.zones, *self.names, *self.above, *self.wild}
        for name, rules in run.find_many(known):
            for rule in rules:
                if _blocks(rule.outcome) and (found := self._why(name, rule.scope)):
                    yield LeftOut(name, rule.scope, rule.outcome, rule.line, *found)
        children = dict.fromkeys(run.children(""), _TLD) if self.tlds else {}
        for base in self.wild:
            children |= {name: _SUFFIX for name in run.children(base) if name not in self.exceptions}
        for name, rules in run.find_many(children.keys() - known):
            for rule in rules:
                if _blocks(rule.outcome):
                    yield LeftOut(name, rule.scope, rule.outcome, rule.line, name, children[name])

    def changed_hits(self, run: Run, items: Sequence[Item]) -> Iterator[LeftOut]:
        """Those rules at names of which the run before said something else (RunChanges.items)."""
        for key, _, tags, lines in items:
            name = name_of(key)
            for tag, line in zip(tags, lines, strict=True):
                scope, outcome = Scope(tag & 3), run.header.outcomes[tag >> 2]
                if _blocks(outcome) and (found := self._why(name, scope)):
                    yield LeftOut(name, scope, outcome, line, *found)

    def still_hit(self, left: Sequence[LeftOut], run: Run) -> Iterator[LeftOut]:
        """Those of the rules left out of another run that this one has too, and that still block something protected."""
        rules = {(rule.name, rule.scope, rule.outcome) for rule in left if not rule.trigger}
        for name, here in run.find_many({name for name, _, _ in rules}):
            for rule in here:
                if (name, rule.scope, rule.outcome) in rules and (found := self._why(name, rule.scope)):
                    yield LeftOut(name, rule.scope, rule.outcome, rule.line, *found)

    def pattern_hits(self, run: Run, before: Run | None) -> Iterator[LeftOut]:
        """The patterns of a run that `before` has not and that fit a protected name, or one below a public suffix."""
        if not run.header.triggers.get("pattern"):
            return
        fresh = _fresh(run, before, (TriggerKind.PATTERN,))
        patterns = PatternSet([each.text for each in fresh]) if fresh else None
        left = set(range(len(fresh)))
        for name, why in itertools.chain(self.names.items(), self.zones.items()):
            if patterns is None or not left:
                return
            asked = (name, f"{_ANY}.{name}") if name in self.zones else (name,)
            for place in sorted({place for each in asked for place in patterns.matches(each)} & left):
                left.discard(place)
                text, outcome, line = fresh[place].text, fresh[place].outcome, fresh[place].line
                yield LeftOut(text, Scope.SELF, outcome, line, name, why, trigger=TriggerKind.PATTERN.word)

    @functools.cached_property
    def _holding(self) -> dict[str, tuple[str, str]]:
        """Every prefix that holds a protected network, as a trigger's text: that network, and why it is protected."""
        return {
            str(network.supernet(new_prefix=length)): (str(network), why)
            for network, why in self.networks.items()
            for length in range(network.prefixlen + 1)
        }

    def address_hits(self, run: Run, before: Run | None) -> Iterator[LeftOut]:
        """The rules for addresses of a run that `before` has not and that reach too far or hold a protected network."""
        if not any(run.header.triggers.get(kind.word) for kind in _ADDRESSES):
            return
        for kind, text, outcome, line in _fresh(run, before, _ADDRESSES):
            found = self._holding.get(text)
            if int(text.rpartition("/")[2]) < MIN_PREFIX[6 if ":" in text else 4]:
                found = text, f"a network of {ip_network(text).num_addresses:,} addresses"
            if found:
                yield LeftOut(text, Scope.SELF, outcome, line, *found, trigger=kind.word)

    def _why(self, name: str, scope: Scope) -> tuple[str, str] | None:
        """The protected name that a rule here would block, and why that one is protected."""
        if name in self.names and scope & Scope.SELF:
            return name, self.names[name]
        if name in self.zones:
            return name, self.zones[name]
        if name in self.wild and scope & Scope.BELOW:
            return name, _SUFFIXES
        if name in self.above and scope & Scope.BELOW:
            below = self.above[name]
            return below, self.names.get(below) or self.zones.get(below, _SUFFIXES)
        if name.partition(".")[2] in self.wild and name not in self.exceptions:
            return name, _SUFFIX
        return (name, _TLD) if self.tlds and name and "." not in name else None


def _fresh(run: Run, before: Run | None, kinds: Sequence[TriggerKind]) -> list[Trigger]:
    """The triggers of some kinds by which a run blocks and `before` does not."""
    known = {(each.kind, each.text, each.outcome) for each in before.triggers()} if before else set()
    return [
        each
        for each in run.triggers()
        if each.kind in kinds and _blocks(each.outcome) and (each.kind, each.text, each.outcome) not in known
    ]


def _blocks(outcome: Outcome) -> bool:
    return outcome.verb is Verb.BLOCK and outcome.action not in _HARMLESS


def protected(config: Config) -> Protected:
    """What the config, this machine and the public suffix list say is to be protected, whatever is asked here."""
    names: dict[str, str] = {}
    zones: dict[str, str] = {}
    listed, warnings = _listed(config)
    for name in listed:
        names.setdefault(name, "named in guard.protect")
    for server in config.upstream_servers:
        for host in (server.host, server.name):
            _add(names, host, "the name of an upstream server")
    for item in config.lists:
        for source in (item.source, *item.mirrors, item.checksum, item.signature):
            if "://" in source:
                _add(names, _host(source), f"where list {item.name} comes from")
    _add(names, socket.gethostname(), "this machine's own name")
    _add(names, config.listen.name, "the name of this server (listen.name)")
    for name, category in config.categories.items():
        contact = category.contact
        host = contact.rpartition("@")[2].partition("?")[0] if contact.startswith("mailto:") else _host(contact)
        _add(names, host, f"the contact of category {name}")
    for route in config.upstream.routes:
        for zone in route.zones:
            zones.setdefault(zone, "a zone of upstream.routes")
    networks: dict[Network, str] = {}
    for server in config.upstream_servers:
        if server.address is not None:
            _add_network(networks, server.address, "the address of an upstream server")
    listen = config.listen
    for endpoint in (*listen.dns, *listen.tls, *listen.https, *listen.quic):
        _add_network(networks, endpoint.address, "an address of this server")
    for network in (*(each for group in config.groups for each in group.networks), *config.allow_from):
        _add_network(networks, network, "a network of this server's clients")
    suffixes = public_suffixes(config.guard.public_suffixes)
    for rule in suffixes:
        if rule[0] not in "*!":
            zones.setdefault(rule, _SUFFIX if "." in rule else _TLD)
    return Protected(
        zones,
        names,
        frozenset(rule[2:] for rule in suffixes if rule.startswith("*.")),
        frozenset(rule[1:] for rule in suffixes if rule.startswith("!")),
        config.guard.public_suffixes != "none",
        networks,
        tuple(warnings),
    )


def with_asked(known: Protected, config: Config, state_dir: Path) -> Protected:
    """The same, and the names most asked in the last day."""
    guard = config.guard
    names = dict(known.names)
    for asked in most_asked(state_dir, guard.asked, guard.asked_times, guard.asked_by):
        by = f" by {asked.clients:,} clients" if asked.clients else ""
        names.setdefault(asked.name, f"among the names most asked here: {asked.count:,} times{by}")
    return replace(known, names=names)


def prepare() -> None:
    """Load what takes time, while there is nothing to do yet."""
    public_suffixes("all")


@functools.cache
def public_suffixes(which: str) -> frozenset[str]:
    """The rules of the public suffix list that are A-labels: `co.id`, `*.ck`, `!www.ck`."""
    if which == "none":
        return frozenset()
    from publicsuffixlist import PublicSuffixList  # a megabyte of memory

    rules: frozenset[str] = PublicSuffixList(only_icann=which == "registries")._publicsuffix
    return frozenset(rule for rule in rules if rule.isascii())


def _listed(config: Config) -> tuple[Sequence[str], list[str]]:
    """The names of guard.protect, and what is wrong with its file."""
    path = config.protect_path
    if path is None:
        assert not isinstance(config.guard.protect, str)
        return config.guard.protect, []
    names, warnings = [], []
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                text = line.partition("#")[0].strip().removeprefix("*.")
                try:
                    names += [normalise(text)] if text else []
                except ValueError as error:
                    warnings.append(f"guard.protect: {path}:{number}: {error}")
                if len(names) > MAX_PROTECTED_FILE:
                    warnings.append(f"guard.protect: {path}: only the first {MAX_PROTECTED_FILE:,} names are taken")
                    break
    except OSError as error:
        warnings.append(f"guard.protect: {describe(error)}; its names are not protected")
    return names, warnings[:RULES_TOLD]


def _add(names: dict[str, str], host: str | None, why: str) -> None:
    """Protect a host if it is a name, not an address or nothing."""
    try:
        names.setdefault(normalise(host or ""), why)
    except ValueError:
        pass


def _add_network(networks: dict[Network, str], place: Address | Network, why: str) -> None:
    """Protect an address or a network, unless it is this machine's loopback: sinkholed names of others lead there."""
    network = ip_network(str(place).partition("%")[0])
    if network.version == 6 and network.prefixlen >= 96 and (mapped := network.network_address.ipv4_mapped):
        network = ip_network((mapped, network.prefixlen - 96))
    if not network.network_address.is_loopback and not network.network_address.is_unspecified:
        networks.setdefault(network, why)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


# -- the verdict ------------------------------------------------------------------------------------------------------
class Guard:
    """Judges the lists of one build. `before`, in its methods: the list as the generation before served it."""

    def __init__(self, config: Config, state_dir: Path, decisions: Decisions, changes: Changes | None = None) -> None:
        self._config = config
        self._state_dir = state_dir
        self._runs = state_dir / RUNS
        self._decisions = decisions
        self._changes = changes or Changes()
        self.warnings: tuple[str, ...] = ()

    @functools.cached_property
    def _always_protected(self) -> Protected:
        found = protected(self._config)
        self.warnings = found.warnings
        return found

    @functools.cached_property
    def _now_protected(self) -> Protected:
        return with_asked(self._always_protected, self._config, self._state_dir)

    def judge(self, listed: ListConfig, before: ListState | None, reading: Reading) -> Reading:
        """What of a reading is served: all, all but some rules, or what was served before. ValueError: a damaged run."""
        state = replace(reading.state, origin=listed.source)
        newest = state.run  # a run, never a view: as it was read
        old = before if before and before.run and before.kind == state.kind else None
        decided = self._decisions.of(listed.name)
        word = decided.runs.get(newest, "")
        is_new = old is None or newest != base_of(old.run)
        if not newest:
            return replace(reading, state=state)
        if word in (REJECTED, ROLLED_BACK) and is_new:
            return self._withheld(reading, state, old, decided, REJECTED, f"its newest version was {word}")
        note = self._beyond(listed, old, state) if is_new else ""
        if note and listed.mandatory:
            note += "; it is mandatory, so it serves"
        elif note and word == APPROVED:
            note = ""
        elif note:
            return self._withheld(reading, state, old, decided, HELD, note)
        found = self._new_hits(old, newest, decided) if is_new else self._known_hits(old, decided)
        if len(found) > MAX_LEFT_OUT and not listed.mandatory:
            note = f"more than {MAX_LEFT_OUT:,} of its rules would block protected names"
            return self._withheld(reading, state, old, decided, HELD, note)
        return self._without(listed, reading, state, found, note)

    def _beyond(self, listed: ListConfig, old: ListState | None, state: ListState) -> str:
        """In which way a list changed more than it may; "" if in none."""
        if old is None or old.options != state.options or (old.origin and old.origin != state.origin):
            return ""
        guard = self._config.guard
        shrink = guard.shrink if listed.max_shrink is None else listed.max_shrink
        grow = guard.grow if listed.max_grow is None else listed.max_grow
        (was, what), (now, _) = self._size(old), self._size(state)
        change = now - was
        if not was or (abs(change) <= guard.floor and now):
            return ""
        share = change / was
        sizes = f"{was:,} {what} became {now:,}"
        if shrink < NO_LIMIT and -share >= max(shrink, 1e-9):
            return f"{sizes}: {-share:.0%} fewer, where less than {shrink:.0%} is expected"
        if grow < NO_LIMIT and share >= max(grow, 1e-9):
            return f"{sizes}: {share:.0%} more, where less than {grow:.0%} is expected"
        return ""

    def _size(self, state: ListState) -> tuple[int, str]:
        """How many names a list has, with what else its rules speak of; and what to call them."""
        with Run(self._runs / state.run) as run:
            others = sum(run.header.triggers.values())
            return run.header.names + others, "rules" if others else "names"

    def _new_hits(self, old: ListState | None, newest: str, decided: ListDecisions) -> list[LeftOut]:
        """The rules of a new run that are not served already and would block protected names."""
        protected = self._now_protected if old else self._always_protected
        with contextlib.ExitStack() as stack:
            run = stack.enter_context(Run(self._runs / newest))
            was = stack.enter_context(Run(self._runs / old.run)) if old else None
            items = self._changes.between(self._runs / base_of(old.run), self._runs / newest).items if old else None
            if was and items is not None:
                found = [*protected.changed_hits(run, items), *protected.still_hit(was.left_out, run)]
            else:
                found = list(itertools.islice(protected.hits(run), MAX_LEFT_OUT + 1))
            if len(found) <= MAX_LEFT_OUT:
                served = dict(was.find_many({hit.name for hit in found})) if was and found else {}
                found = [
                    hit
                    for hit in found
                    if not any(
                        _blocks(rule.outcome) and hit.scope & ~rule.scope == 0 for rule in served.get(hit.name, ())
                    )
                ]
            found += protected.pattern_hits(run, was)
            found += protected.address_hits(run, was)
        return _undecided(found, decided)

    def _known_hits(self, old: ListState | None, decided: ListDecisions) -> list[LeftOut]:
        """The rules that were left out of the same run before and not approved since."""
        if old is None or old.run == base_of(old.run):
            return []
        with Run(self._runs / old.run) as run:
            return _undecided(run.left_out, decided)

    def _withheld(
        self, reading: Reading, state: ListState, old: ListState | None, decided: ListDecisions, held: str, note: str
    ) -> Reading:
        """What was served serves on, and the newest run is kept beside it."""
        kept = replace(state, run="", names=0)
        if old:
            left = self._known_hits(old, decided)
            run = write_view(self._runs, base_of(old.run), left) if left else base_of(old.run)
            with Run(self._runs / run) as served:
                names = served.header.names
            kept = replace(
                state,
                run=run,
                names=names,
                quarantined=sum(not rule.decided for rule in left),
                digest=old.digest,
                replaces=old.replaces,
                rpz=old.rpz,
                answer_triggers=old.answer_triggers,
                zone=old.zone,
                soa=old.soa,
            )
        outcome = ListOutcome.HELD if held == HELD else ListOutcome.REJECTED
        report = replace(
            reading.report,
            outcome=outcome,
            names=kept.names,
            guard=note,
            pending_names=state.names,
            quarantined=kept.quarantined,
        )
        return replace(reading, state=replace(kept, pending=state.run, held=held), report=report)

    def _without(
        self, listed: ListConfig, reading: Reading, state: ListState, found: Sequence[LeftOut], note: str
    ) -> Reading:
        """The reading without the rules found, and what is to be said of them."""
        waiting = [rule for rule in found if not rule.decided]
        report = replace(reading.report, guard=note)
        if found and listed.mandatory:
            text = f"{len(found):,} new rules would block protected names; it is mandatory, so they serve"
            report = replace(report, guard="; ".join(part for part in (note, text) if part))
        elif found:
            run = write_view(self._runs, state.run, sorted(found, key=lambda rule: (rule.line, rule.name)))
            with Run(self._runs / run) as view:
                names, triggers = view.header.names, dict(view.header.triggers)
            state = replace(state, run=run, names=names, quarantined=len(waiting))
            report = replace(report, names=names, triggers=triggers, quarantined=len(waiting))
        if waiting:
            with Run(self._runs / base_of(state.run)) as run_:
                files = run_.header.report.get("files", ())
            report = replace(
                report,
                quarantined_rules=_told(
                    waiting, files, state.source[0][0] if listed.is_remote and state.source else ""
                ),
            )
        return replace(reading, state=state, report=report)


def _undecided(rules: Sequence[LeftOut], decided: ListDecisions) -> list[LeftOut]:
    """The rules that are not approved; those rejected or rolled back say so."""
    return [
        rule._replace(decided=word) for rule in rules if (word := decided.rules.get(rule_key(rule), "")) != APPROVED
    ]


# -- what is to be said -----------------------------------------------------------------------------------------------
def _told(rules: Sequence[LeftOut], files: Sequence[Sequence[object]], copy: str) -> tuple[QuarantinedRule, ...]:
    """The first rules with file, line and text; `copy`: the file that a list from another machine is here."""
    places = []
    for rule in sorted(rules, key=lambda rule: rule.line)[:RULES_TOLD]:
        path, first = next(
            ((str(f[0]), int(str(f[1]))) for f in reversed(files) if rule.line >= int(str(f[1]))), ("", 1)
        )
        places.append((path, rule.line - first + 1, rule))
    texts: dict[tuple[str, int], str] = {}
    for path in {path for path, _, _ in places if path}:
        wanted = {line for other, line, _ in places if other == path}
        texts |= {(path, line): text for line, text in lines_at(Path(copy or path), wanted).items()}
    return tuple(
        QuarantinedRule(path, line, texts.get((path, line), ""), rule.name, rule.protected, rule.why)
        for path, line, rule in places
    )
