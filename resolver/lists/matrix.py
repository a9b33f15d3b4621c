"""Which list wins: (policy class, shape) → cell, worked out once a generation so that the engine only looks it up.

A *shape* is what an index entry's listset looks like without its data (lists/merge.py): an ordered tuple of members,
each a list and a kind of outcome. A *class* is what a group of clients has filtered: which lists it sees and which of
the actions it changes; groups that agree on both share a class, and class 0, clients in no group, sees every list. All
that speaks about a name stands in one total order (vocabulary.Rank, then the config's order of lists, then the order of
members), and the first that a class sees wins:

    0 what the config itself says of a name (behind an operator's words, which the engine knows)
    1 important allow   2 important block   3 allow   4 RPZ   5 block          255 nobody speaks

- A member whose list a class does not see is not there. A shadow list, and one with `override: disabled`, never wins
  (rpz.md, 21: it does not consume the match). A cell whose shadow lists would have won, each beside the live ones alone,
  is marked *shadow*, and a second table says which lists those are and with what rank, for the engine to count. Rules
  with conditions are not counted so.
- A group that is a shadow has only its mandatory lists live; the list that would have won had all been is counted.
- Every class has a *paused* one beside it, for clients whose filtering is off: it sees mandatory lists alone.
- A group's own overrides take the place of the lists'.
- Rank 4: the first RPZ list in config order that has a match speaks for all of them, passthru being its allow (rpz.md,
  4 and 11). There, an `override` replaces every action, passthru too; elsewhere it says how blocks are answered and
  leaves the list's own exceptions alone, and with passthru its blocks become allows.
- The action of a block: the list's override, else the rule's own, else the group's for the category, else the
  category's, else the sinkhole's. The TTL: the rule's, else the category's, else the sinkhole's.
- *needs-answer*: the winner is found by name at rank 4 or 5, but an RPZ list before it (for rank 5: any) also has
  triggers on addresses or name servers, so the upstream's answer may hold something that outranks it (rpz.md, 19).
- Rewrites (`$dnsrewrite`) stand before the other important blocks, exceptions for them before those that they take back.
- A group's name and tags are known here: what a condition asks of them is settled, and groups share a class only if no
  condition tells them apart.
- *conditional*: the winner depends on type or address, or there are several (rewrites add up). The cell is then what
  holds if all conditions do; the engine hands the query up, and `Matrix.decisions` has the claims that Python is to try.

    cell  u8 rank │ u8 action │ u8 flags │ u8 member │ u16 list slot │ u16 profile        (snapshot.CELL)

A shape's claims are sorted once, as ranks do not depend on the class; each class then takes the first it sees. Fifty
classes by five thousand shapes take a third of a second. Pure functions throughout.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from resolver.counters import LIST_SLOTS
from resolver.lists import conditions, reason
from resolver.lists.conditions import NOTHING, Condition
from resolver.lists.merge import Kind, Member
from resolver.snapshot import CELL, MAX_PROFILES, NO_EDE, NO_SLOT, SHADOW_CLAIM, Profile
from resolver.vocabulary import EDE, Action, Rank, Verb

NEEDS_ANSWER = 1  # flags of a cell
CONDITIONAL = 2
KEEPS_SIGNED = 4
QUESTION_ONLY = 8
SHADOW = 0x80
OVERLAY_PROFILE = 2  # PROFILE_OVERLAY in engine/query.pxd
REBINDING_PROFILE = 3  # PROFILE_REBINDING there
NOT_RECURSIVE, SIGNED = 1, 2  # bits of a class's variants
NO_MEMBER = 0xFF  # nobody won, or the winner stands too far back to be named, which is well as long as it has no data

_ORDINARY = 4  # Claim.order of what is no rewrite
Decision = tuple[tuple[str, bytes], ...]  # (condition, cell) of the claims to try
Shape = Sequence[Member]  # what IndexHeader.shapes has; a member's `list` is its place in PolicyRules.lists

_MNAME = b"\x06tampah\x07invalid\x00"  # the SOA of made-up negative answers: no such server exists (RFC 6761)
_NOBODY = b"\x06nobody\x07invalid\x00"
_NOBODY_SPEAKS = CELL.pack(Rank.NOBODY, Action.FORWARD, 0, NO_MEMBER, NO_SLOT, 0)


@dataclass(frozen=True, slots=True)
class Override:
    """What a list's owner puts in place of what the list says (rpz.md, 21); `disabled`: it is only logged."""

    action: Action = Action.FORWARD
    target: str = ""
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class ListPolicy:
    """What of a list's config bears on policy.

    `slot` counts it; `shadow`: it only counts; `mandatory`: neither a pause nor a shadow group touches it;
    `rpz`: it decides at rank 4; `answer_triggers`: it speaks about addresses or name servers in answers too;
    `ns_triggers`: name servers are looked up for it. `max_ttl` caps the TTL of its answers, in seconds.
    `recursive_only`: an RPZ list that says nothing to queries without RD. `break_dnssec`
    no: it leaves signed answers alone where the client wants to verify them. `soa`: owner and data in wire form of the SOA
    that goes with its answers. `groups`: the groups that see it whatever their lists and categories are, "" for clients in
    none (None: as the groups say). `local`: what it says is the operator's own word, at rank 0. `question_only`: it speaks
    of names that are asked for, not of what answers lead to.
    """

    name: str
    category: str = ""
    slot: int = NO_SLOT
    shadow: bool = False
    mandatory: bool = False
    rpz: bool = False
    answer_triggers: bool = False
    ns_triggers: bool = False
    override: Override | None = None
    max_ttl: int | None = None
    recursive_only: bool = True
    break_dnssec: bool = True
    soa: tuple[bytes, bytes] | None = None
    groups: frozenset[str] | None = None
    local: bool = False
    question_only: bool = False

    def speaks(self) -> bool:
        """Whether a match in it can decide anything."""
        return not self.shadow and not (self.override and self.override.disabled)


@dataclass(frozen=True, slots=True)
class CategoryPolicy:
    """How what a category blocks is answered, and what the client is told.

    `ttl` in seconds, `ede` an INFO-CODE or NO_EDE. None: as the sinkhole says. `sub_error` and `language` are those of
    structured errors (reason.py), 0: none.
    """

    action: Action | None = None
    ttl: int | None = None
    ede: int = EDE.BLOCKED
    organisation: str = ""
    justification: str = ""
    contact: str = ""
    law: str = ""
    sub_error: int = 0
    language: str = reason.ENGLISH


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """What a group of clients has filtered: of these categories, these lists (None: all), answered like this.

    `overrides`: list → what it does for this group instead of what its own override says, None: what its rules say.
    `shadow`: nothing of it is enforced but mandatory lists, the rest is counted. `route`: to servers of its own, 0: none.
    """

    name: str
    categories: frozenset[str] | None = None
    lists: frozenset[str] | None = None
    actions: Mapping[str, Action] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    overrides: Mapping[str, Override | None] = field(default_factory=dict)
    shadow: bool = False
    route: int = 0

    def sees(self, source: ListPolicy) -> bool:
        """Whether a list is there for this group: both its name and its category must be among the group's."""
        if source.groups is not None:
            return self.name in source.groups
        by_name = self.lists is None or source.name in self.lists
        return by_name and (self.categories is None or source.category in self.categories)


@dataclass(frozen=True, slots=True)
class Sinkhole:
    """What blocks are answered with where no category says more; `ttl` in seconds, addresses in 4 and 16 octets."""

    action: Action = Action.ZERO
    ipv4: bytes = bytes(4)
    ipv6: bytes = bytes(16)
    ttl: int = 10


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """Everything of the config that decides between lists. `lists` is in config order, as the index header has them."""

    lists: Sequence[ListPolicy]
    categories: Mapping[str, CategoryPolicy] = field(default_factory=dict)
    groups: Sequence[GroupPolicy] = ()
    sinkhole: Sinkhole = Sinkhole()


class Claim(NamedTuple):
    """One member's claim on a query; claims sort as the total order says. `action` None: as the category says."""

    rank: Rank
    order: int  # within the rank: rewrites first
    source: int
    is_plain: bool  # a plain or hosts line between rules
    member: int
    action: Action | None
    ttl: int | None
    condition: Condition
    target: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Cells for every class and shape, the profiles they name, and which class each group has.

    `order`, `variants` and `zones` are Policy's. Variants of classes are behind the classes that groups have.
    `decisions`: for each conditional (class, shape) the claims to try, the strongest first, as (condition, cell).
    `paused_classes`: for each group, and behind them for clients in none, the class while filtering is off for them.
    `shadows` and `shadow_claims` are those of snapshot.Policy.
    """

    classes: int
    shapes: int
    cells: bytes
    profiles: tuple[Profile, ...]
    group_classes: tuple[int, ...]  # parallel to PolicyRules.groups
    decisions: Mapping[tuple[int, int], Decision]
    paused_classes: tuple[int, ...]
    shadows: bytes
    shadow_claims: bytes
    order: bytes
    variants: bytes
    zones: tuple[tuple[bytes, bytes], ...]
    routes: tuple[int, ...]  # by class
    seeks: bytes  # snapshot.Policy.seeks


class _PolicyClass(NamedTuple):
    """What tells classes apart: `visible` lists as bits, the actions that differ for their categories, the name and tags
    as far as a condition asks for them, overrides that differ from the lists' own, whether all but mandatory lists only
    count, and the route of what no zone's route speaks of."""

    visible: int
    actions: frozenset[tuple[str, Action]]
    name: str = ""
    tags: frozenset[str] = frozenset()
    overrides: frozenset[tuple[int, Override | None]] = frozenset()
    shadow: bool = False
    route: int = 0


def build_matrix(rules: PolicyRules, shapes: Sequence[Shape]) -> Matrix:
    """The cells for every class and every shape; `shapes[0]` is the empty one.

    ValueError says what does not fit: more profiles than a cell can number, or a rule with data behind too many others.
    """
    classes: dict[_PolicyClass, int] = {_every_list(rules): 0}
    asked = _asked_of_clients(shapes)
    own = [_class_of(rules, group, asked) for group in rules.groups]
    group_classes = tuple(classes.setdefault(policy_class, len(classes)) for policy_class in own)
    paused_classes = tuple(
        classes.setdefault(_paused(rules, policy_class), len(classes)) for policy_class in (*own, _every_list(rules))
    )
    variants = _variants(rules, classes)
    profiles: dict[Profile, int] = {
        _FORWARD: 0,
        _ALLOW: 1,
        _overlay_profile(rules): OVERLAY_PROFILE,
        _rebinding_profile(rules): REBINDING_PROFILE,
    }
    ranked: dict[frozenset[tuple[int, Override | None]], list[list[Claim]]] = {}
    decisions: dict[tuple[int, int], Decision] = {}
    shadow = _ShadowTable()
    rows = []
    seeks = bytearray()
    for policy_class, number in classes.items():
        overridden = _overridden(rules, policy_class.overrides)
        live, waiting = _split(overridden, policy_class)
        seeks.append(any(live[number] and each.rpz and each.ns_triggers for number, each in enumerate(rules.lists)))
        if policy_class.overrides not in ranked:
            ranked[policy_class.overrides] = [claims(overridden, shape, shadows=True) for shape in shapes]
        claimed = ranked[policy_class.overrides]
        row, winners, conditional = _row(overridden, policy_class, live, claimed, profiles)
        decisions |= {(number, shape): decision for shape, decision in conditional.items()}
        if waiting:
            row = shadow.mark(overridden, row, claimed, winners, waiting)
        else:
            shadow.skip(len(shapes))
        rows.append(b"".join(row))
    order = array("H", [0xFFFF]) * LIST_SLOTS
    for number, policy in enumerate(rules.lists):
        if policy.slot < LIST_SLOTS:
            order[policy.slot] = number
    return Matrix(
        classes=len(classes),
        shapes=len(shapes),
        cells=b"".join(rows),
        profiles=tuple(profiles),
        group_classes=group_classes,
        decisions=decisions,
        paused_classes=paused_classes,
        shadows=shadow.cells,
        shadow_claims=shadow.claims,
        order=order.tobytes(),
        variants=variants,
        zones=_zones(rules),
        routes=tuple(policy_class.route for policy_class in classes),
        seeks=bytes(seeks) if any(seeks) else b"",
    )


def _variants(rules: PolicyRules, classes: dict[_PolicyClass, int]) -> bytes:
    """For each class the ones that do not see the lists that leave such a query alone, added to `classes`."""
    masks = [0, 0, 0, 0]
    for number, policy in enumerate(rules.lists):
        if policy.rpz and policy.recursive_only:
            masks[NOT_RECURSIVE] |= 1 << number
        if not policy.break_dnssec:
            masks[SIGNED] |= 1 << number
    masks[NOT_RECURSIVE | SIGNED] = masks[NOT_RECURSIVE] | masks[SIGNED]
    if not any(masks):
        return b""
    found = array("H")
    for policy_class in list(classes):
        for mask in masks:
            variant = policy_class._replace(visible=policy_class.visible & ~mask)
            found.append(classes.setdefault(variant, len(classes)))
    return found.tobytes()


def _zones(rules: PolicyRules) -> tuple[tuple[bytes, bytes], ...]:
    """The SOAs that go with lists' answers, each once."""
    return tuple(dict.fromkeys(policy.soa for policy in rules.lists if policy.soa))


def claims(rules: PolicyRules, shape: Shape, *, shadows: bool = False) -> list[Claim]:
    """All that a shape's members claim, the strongest first, for a class that sees every list.

    `shadows`: what lists claim that only count too.
    """
    found = []
    denied = _denied(shape)
    for number, (source, kind) in enumerate(shape):
        policy = rules.lists[source]
        counts = shadows and policy.shadow and not (policy.override and policy.override.disabled)
        if (policy.speaks() or counts) and (source, kind) not in denied:
            condition = conditions.parse(kind.condition)
            if condition.is_denial or condition.is_badfilter or (policy.local and kind.action is Action.FORWARD):
                continue
            rank, action, target = _judge(policy, kind)
            order = _ORDINARY
            if condition.rewrite is not None:
                if kind.verb is Verb.BLOCK and policy.override:
                    condition = replace(condition, rewrite=None)  # a block like any other
                else:
                    rank = Rank.IMPORTANT_BLOCK
                    order = (0 if kind.important else 2) + (0 if kind.verb is Verb.ALLOW else 1)
            found.append(Claim(rank, order, source, condition.is_plain, number, action, kind.ttl, condition, target))
    found.sort(key=lambda claim: claim[:5])
    return found


def _denied(shape: Shape) -> set[tuple[int, Kind]]:
    """The members that others take back: `$denyallow`."""
    return {
        (source, replace(kind, condition=kind.condition.removeprefix("denied,")))
        for source, kind in shape
        if kind.condition.startswith("denied,")
    }


def ranking(rules: PolicyRules, shape: Shape, group: GroupPolicy | None) -> list[Claim]:
    """The claims that a group (None: a client in no group) sees, the strongest first.

    For explain, and for Python's choice between conditional members.
    """
    if group is None:
        return claims(rules, shape)
    policy_class = _class_of(rules, group, frozenset())
    live, _ = _split(overridden := _overridden(rules, policy_class.overrides), policy_class)
    return [claim for claim in claims(overridden, shape) if live[claim.source]]


def _judge(policy: ListPolicy, kind: Kind) -> tuple[Rank, Action | None, str]:
    """A member's rank, action and CNAME target once its list's override is taken in."""
    action, target = (Action.ALLOW if kind.verb is Verb.ALLOW else kind.action), ""
    if policy.override and (policy.rpz or action is not Action.ALLOW):
        action, target = policy.override.action, policy.override.target
    if policy.local:
        return Rank.OVERLAY, action, target
    if policy.rpz:
        return Rank.RPZ, action, target
    if action is Action.ALLOW:
        return (Rank.IMPORTANT_ALLOW if kind.important else Rank.ALLOW), action, target
    return (Rank.IMPORTANT_BLOCK if kind.important else Rank.BLOCK), action, target


# -- classes ----------------------------------------------------------------------------------------------------------
def _every_list(rules: PolicyRules) -> _PolicyClass:
    seen = (number for number, policy in enumerate(rules.lists) if policy.groups is None or "" in policy.groups)
    return _PolicyClass(sum(1 << number for number in seen), frozenset())


def _asked_of_clients(shapes: Sequence[Shape]) -> frozenset[str]:
    """The names and tags of clients that any condition asks for."""
    texts = {member.kind.condition for shape in shapes for member in shape if member.kind.condition}
    asked: set[str] = set()
    for condition in map(conditions.parse, texts):
        asked.update(condition.clients, condition.no_clients, condition.tags, condition.no_tags)
    return frozenset(asked)


def _class_of(rules: PolicyRules, group: GroupPolicy, asked: frozenset[str]) -> _PolicyClass:
    """A group's class; actions that change nothing do not make it another one, nor do names that no rule asks for."""
    seen = [number for number, policy in enumerate(rules.lists) if group.sees(policy)]
    categories = {rules.lists[number].category for number in seen}
    actions = frozenset(
        (category, action)
        for category, action in group.actions.items()
        if category in categories and action != _category_action(rules, category)
    )
    overrides = frozenset(
        (number, group.overrides[policy.name])
        for number, policy in enumerate(rules.lists)
        if number in set(seen) and policy.name in group.overrides and group.overrides[policy.name] != policy.override
    )
    name = group.name if group.name in asked else ""
    return _PolicyClass(
        sum(1 << number for number in seen), actions, name, group.tags & asked, overrides, group.shadow, group.route
    )


def _paused(rules: PolicyRules, policy_class: _PolicyClass) -> _PolicyClass:
    """The class of a class's clients while filtering is off for them."""
    kept = {number for number, policy in enumerate(rules.lists) if policy.mandatory and not policy.shadow}
    kept = {number for number in kept if policy_class.visible >> number & 1}
    categories = {rules.lists[number].category for number in kept}
    return _PolicyClass(
        sum(1 << number for number in kept),
        frozenset(pair for pair in policy_class.actions if pair[0] in categories),
        policy_class.name,
        policy_class.tags,
        frozenset(pair for pair in policy_class.overrides if pair[0] in kept),
        route=policy_class.route,
    )


def _overridden(rules: PolicyRules, overrides: frozenset[tuple[int, Override | None]]) -> PolicyRules:
    """The rules with a group's overrides in place of the lists' own."""
    if not overrides:
        return rules
    own = dict(overrides)
    lists = [
        replace(policy, override=own[number]) if number in own else policy for number, policy in enumerate(rules.lists)
    ]
    return replace(rules, lists=lists)


def _split(rules: PolicyRules, policy_class: _PolicyClass) -> tuple[list[bool], set[int]]:
    """(whether each list can win for a class, the numbers of those that only count for it)."""
    live: list[bool] = []
    waiting: set[int] = set()
    for number, policy in enumerate(rules.lists):
        is_visible = bool(policy_class.visible >> number & 1)
        counts = is_visible and (policy.shadow or (policy_class.shadow and not policy.mandatory))
        live.append(is_visible and policy.speaks() and not counts)
        if counts and not (policy.override and policy.override.disabled):
            waiting.add(number)
    return live, waiting


def _category_action(rules: PolicyRules, category: str) -> Action:
    chosen = rules.categories.get(category)
    return chosen.action if chosen and chosen.action is not None else rules.sinkhole.action


# -- cells ------------------------------------------------------------------------------------------------------------
def _row(
    rules: PolicyRules,
    policy_class: _PolicyClass,
    live: Sequence[bool],
    ranked: Sequence[Sequence[Claim]],
    profiles: dict[Profile, int],
) -> tuple[list[bytes], list[Claim | None], dict[int, Decision]]:
    """One class's cells, who won each, and what is to be decided by shape. What two claims of a list have in common is
    worked out once."""
    actions = dict(policy_class.actions)
    first_trigger = next(
        (number for number, policy in enumerate(rules.lists) if live[number] and policy.rpz and policy.answer_triggers),
        len(rules.lists),
    )
    known: dict[tuple[Claim, bool], bytes] = {}
    row: list[bytes] = []
    won: list[Claim | None] = []
    decisions: dict[int, Decision] = {}

    def cell_of(claim: Claim, conditional: bool) -> bytes:
        cell = known.get((claim, conditional))
        if cell is None:
            cell = known[claim, conditional] = _cell(rules, actions, first_trigger, claim, conditional, profiles)
        return cell

    for number, shape in enumerate(ranked):
        tried = _tried(policy_class, live, shape)
        if len(tried) == 1 and tried[0][1] is NOTHING:
            row.append(cell_of(tried[0][0], False))
            won.append(tried[0][0])
            continue
        winners = conditions.choose(tried, _judged)
        if any(condition.restricts for _, condition in tried):
            first = next((claim for claim, condition in tried if not _takes_back(claim, condition)), None)
        else:
            tried = winners
            first = winners[0][0] if winners else None
        won.append(first)
        if first is None:
            row.append(_NOBODY_SPEAKS)
        elif len(tried) == 1 and not tried[0][1].restricts:
            row.append(cell_of(first, False))
        else:
            row.append(cell_of(first, True))
            decisions[number] = tuple((str(condition), cell_of(claim, False)) for claim, condition in tried)
    return row, won, decisions


def _tried(policy_class: _PolicyClass, live: Sequence[bool], shape: Sequence[Claim]) -> list[tuple[Claim, Condition]]:
    """The claims that can win for a class, with what is left of their conditions, down to the first that is certain."""
    tried = []
    for claim in shape:
        if live[claim.source]:
            condition: Condition | None = claim.condition
            if claim.condition.restricts:
                condition = claim.condition.for_class(policy_class.name, policy_class.tags)
            if condition is not None:
                tried.append((claim, condition))
                if condition.rewrite is None and not condition.restricts:
                    break
    return tried


def _judged(tried: tuple[Claim, Condition]) -> tuple[Condition, bool]:
    claim, condition = tried
    return condition, claim.action is Action.ALLOW


def _takes_back(claim: Claim, condition: Condition) -> bool:
    """Whether a claim is an exception for rewrites, which decides nothing by itself."""
    return condition.rewrite is not None and claim.action is Action.ALLOW


def _cell(
    rules: PolicyRules,
    actions: Mapping[str, Action],
    first_trigger: int,
    winner: Claim,
    conditional: bool,
    profiles: dict[Profile, int],
) -> bytes:
    policy = rules.lists[winner.source]
    action = winner.action
    if action is None:
        action = actions.get(policy.category, _category_action(rules, policy.category))
    flags = CONDITIONAL if conditional else 0
    # A name's verdict may not be given before the answer is known if something in the answer can outrank it.
    if (winner.rank == Rank.RPZ and first_trigger < winner.source) or (
        winner.rank == Rank.BLOCK and first_trigger < len(rules.lists)
    ):
        flags |= NEEDS_ANSWER
    if not policy.break_dnssec and action >= Action.ADDRESS:
        flags |= KEEPS_SIGNED
    if policy.question_only:
        flags |= QUESTION_ONLY
    if winner.member >= NO_MEMBER and not winner.target and action in (Action.DATA, Action.CNAME, Action.LOCAL):
        raise ValueError(f"list {policy.name}: more than {NO_MEMBER} rules speak of a name before its rule with data")
    profile = _profile(rules, policy, action, winner.ttl, winner.target)
    number = profiles.setdefault(profile, len(profiles))
    if number >= MAX_PROFILES:
        raise ValueError(
            f"list {policy.name}: more than {MAX_PROFILES} different TTLs and actions in all lists together"
        )
    return CELL.pack(winner.rank, action, flags, min(winner.member, NO_MEMBER), policy.slot, number)


# -- what only counts -------------------------------------------------------------------------------------------------
class _ShadowTable:
    """Grows class by class, each with `mark` or `skip`: where each cell's claims begin, and the claims."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._claims = [SHADOW_CLAIM.pack(Rank.NOBODY, 1, NO_SLOT)]
        self._known: dict[tuple[bytes, ...], int] = {}

    def skip(self, shapes: int) -> None:
        """A class for which every list is live."""
        self._starts += [0] * shapes

    def mark(
        self,
        rules: PolicyRules,
        row: Sequence[bytes],
        ranked: Sequence[Sequence[Claim]],
        winners: Sequence[Claim | None],
        waiting: set[int],
    ) -> list[bytes]:
        """The cells of a class, those marked in which a list of `waiting` would have won."""
        marked = []
        for cell, shape, winner in zip(row, ranked, winners, strict=True):
            found = self._found(rules, shape, winner, waiting)
            self._starts.append(self._place(found) if found else 0)
            rank, action, flags, *rest = CELL.unpack(cell)
            marked.append(CELL.pack(rank, action, flags | SHADOW, *rest) if found else cell)
        return marked

    @staticmethod
    def _found(
        rules: PolicyRules, shape: Sequence[Claim], winner: Claim | None, waiting: set[int]
    ) -> tuple[bytes, ...]:
        """The claims that outrank the winner: each shadow list's first; of lists that a shadow group would enforce
        together only the first."""
        found: list[tuple[Rank, int]] = []
        seen: set[int] = set()
        is_taken = False
        for claim in shape:
            if claim.source in seen or claim.source not in waiting:
                continue
            if claim.condition.restricts or claim.condition.rewrite is not None:
                continue
            if winner is not None and claim[:5] > winner[:5]:
                break
            seen.add(claim.source)
            if not rules.lists[claim.source].shadow:
                if is_taken:
                    continue
                is_taken = True
            elif is_taken:
                continue  # behind a list that the group would enforce
            found.append((claim.rank, rules.lists[claim.source].slot))
        return tuple(SHADOW_CLAIM.pack(rank, at == len(found) - 1, slot) for at, (rank, slot) in enumerate(found))

    def _place(self, found: tuple[bytes, ...]) -> int:
        at = self._known.get(found)
        if at is None:
            at = self._known[found] = len(self._claims)
            if at + len(found) > 0xFFFF:
                raise ValueError("too many different sets of shadow lists speak of names together")
            self._claims += found
        return at

    @property
    def cells(self) -> bytes:
        """snapshot.Policy.shadows."""
        return struct.pack(f"<{len(self._starts)}H", *self._starts) if any(self._starts) else b""

    @property
    def claims(self) -> bytes:
        """snapshot.Policy.shadow_claims."""
        return b"".join(self._claims) if any(self._starts) else b""


# -- profiles ---------------------------------------------------------------------------------------------------------
_FORWARD = Profile(Action.FORWARD, 0, bytes(4), bytes(16), NO_EDE, "", _MNAME + _NOBODY)
_ALLOW = Profile(Action.ALLOW, 0, bytes(4), bytes(16), NO_EDE, "", _MNAME + _NOBODY)


def _profile(rules: PolicyRules, policy: ListPolicy, action: Action, ttl: int | None, target: str) -> Profile:
    if action is Action.ALLOW:
        return _ALLOW
    category = rules.categories.get(policy.category, CategoryPolicy())
    sinkhole = rules.sinkhole
    if ttl is None:
        ttl = sinkhole.ttl if category.ttl is None else category.ttl
    if policy.max_ttl is not None:
        ttl = min(ttl, policy.max_ttl)
    here = action is Action.ADDRESS
    told = reason.structured(reason.by_list(policy), category, name=policy.category)
    return Profile(
        action=action,
        ttl=ttl,
        ipv4=sinkhole.ipv4 if here else bytes(4),
        ipv6=sinkhole.ipv6 if here else bytes(16),
        ede=category.ede,
        text="" if category.ede == NO_EDE else reason.extra_text(policy, category),
        soa=_MNAME + (reason.mailbox(category.contact) or _NOBODY),
        target=target,
        zone=_zones(rules).index(policy.soa) + 1 if policy.soa else 0,
        structured="" if category.ede == NO_EDE else told.full,
        structured_brief="" if category.ede == NO_EDE else told.brief,
    )


def _overlay_profile(rules: PolicyRules) -> Profile:
    """How a name is answered that an operator blocked by hand: as the sinkhole says."""
    return _own(_profile(rules, ListPolicy("overlay"), rules.sinkhole.action, None, ""), "blocked by the operator")


def _rebinding_profile(rules: PolicyRules) -> Profile:
    """How a name outside is answered whose answer has an address inside."""
    answer = _profile(rules, ListPolicy("rebinding"), Action.NODATA, None, "")
    return _own(answer, "blocked by rebinding: a name outside with an address inside")


def _own(profile: Profile, words: str) -> Profile:
    """A profile of a block that no list speaks for."""
    told = reason.structured(words, CategoryPolicy(sub_error=reason.SUB_ERRORS["dns_policy"]))
    return replace(profile, text=words, structured=told.full, structured_brief=told.brief)
