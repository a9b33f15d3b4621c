"""The slow, obvious oracle of policy: who wins, and which class a client has, said once more without any cleverness.

It shares the vocabulary and the input types with `resolver.lists.matrix` and nothing else: no sorting key, no memo, no
classes, no profiles. Each rule of the total order is a loop of its own that asks: is there one of you?
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from resolver.lists.matrix import GroupPolicy, ListPolicy, Override, PolicyRules, Shape
from resolver.lists.merge import Member
from resolver.vocabulary import Action, Rank, Verb


@dataclass(frozen=True)
class Verdict:
    """What must come out for one group and one shape. `member` None: nobody speaks."""

    rank: Rank
    action: Action
    member: int | None
    ttl: int | None
    needs_answer: bool
    conditional: bool


def sees(group: GroupPolicy | None, source: ListPolicy) -> bool:
    """Whether a group (None: a client in none) sees a list."""
    if group is None:
        return True
    by_name = group.lists is None or source.name in group.lists
    by_category = group.categories is None or source.category in group.categories
    return by_name and by_category


def as_group_has_it(rules: PolicyRules, group: GroupPolicy | None) -> PolicyRules:
    """The rules with a group's overrides in place of the lists', and what only counts for it as shadow lists."""
    if group is None:
        return rules
    lists = []
    for policy in rules.lists:
        if policy.name in group.overrides:
            policy = replace(policy, override=group.overrides[policy.name])
        if group.shadow and not policy.mandatory:
            policy = replace(policy, shadow=True)
        lists.append(policy)
    return replace(rules, lists=lists)


def paused(rules: PolicyRules, group: GroupPolicy | None) -> PolicyRules:
    """The rules while filtering is off: others than mandatory lists are as if they were not."""
    lists = [
        policy if policy.mandatory else replace(policy, override=Override(disabled=True)) for policy in rules.lists
    ]
    own = {} if group is None else group.overrides
    lists = [
        replace(policy, override=own[policy.name]) if policy.mandatory and policy.name in own else policy
        for policy in lists
    ]
    return replace(rules, lists=lists, groups=[])


def would_win(rules: PolicyRules, group: GroupPolicy | None, shape: Shape) -> set[tuple[int, int]]:
    """(rank, slot) of each list that only counts and would win were it live: a shadow list beside the live ones alone,
    the lists of a shadow group all together. Rules with conditions do not count."""
    found = set()
    here = as_group_has_it(rules, group)
    members = tuple(member for member in shape if not (here.lists[member.list].shadow and member.kind.condition))
    for source, policy in enumerate(rules.lists):
        if here.lists[source].shadow:
            lists = [
                replace(each, shadow=rules.lists[number].shadow and number != source)
                for number, each in enumerate(here.lists)
            ]
            verdict = decide(replace(here, lists=lists), group and replace(group, shadow=False), members)
            if verdict.member is not None and members[verdict.member].list == source:
                found.add((int(verdict.rank), policy.slot))
    return found


def decide(rules: PolicyRules, group: GroupPolicy | None, shape: Shape) -> Verdict:
    """The winner among a shape's members for a group."""
    rules = as_group_has_it(rules, group)
    ranked = list(_in_order(rules, group, shape))
    if not ranked:
        return Verdict(Rank.NOBODY, Action.FORWARD, None, None, False, False)
    rank, number = ranked[0]
    winner = shape[number]
    conditional = False
    for _, candidate in ranked:
        if shape[candidate].kind.condition:
            conditional = True
        else:
            break
    action = _answer(rules, group, winner)
    ttl: int | None = None
    if action is not Action.ALLOW:
        category = rules.categories.get(rules.lists[winner.list].category)
        ttl = rules.sinkhole.ttl
        if category is not None and category.ttl is not None:
            ttl = category.ttl
        if winner.kind.ttl is not None:
            ttl = winner.kind.ttl
    return Verdict(rank, action, number, ttl, _needs_answer(rules, group, rank, winner), conditional)


def _in_order(rules: PolicyRules, group: GroupPolicy | None, shape: Shape) -> Iterator[tuple[Rank, int]]:
    """Every member that speaks, the strongest first: rank by rank, list by list, member by member."""
    for rank in (Rank.IMPORTANT_ALLOW, Rank.IMPORTANT_BLOCK, Rank.ALLOW, Rank.RPZ, Rank.BLOCK):
        for source, policy in enumerate(rules.lists):
            for number, member in enumerate(shape):
                if member.list != source or policy.shadow or not sees(group, policy):
                    continue
                if policy.override is not None and policy.override.disabled:
                    continue
                if _rank(policy, member) is rank:
                    yield rank, number


def _said(policy: ListPolicy, member: Member) -> Action | None:
    """What a member says once its list's override has spoken; None leaves it to the category."""
    says_allow = member.kind.verb is Verb.ALLOW or member.kind.action is Action.ALLOW
    if policy.override is not None and (policy.rpz or not says_allow):
        return policy.override.action
    return Action.ALLOW if says_allow else member.kind.action


def _rank(policy: ListPolicy, member: Member) -> Rank:
    if policy.rpz:
        return Rank.RPZ
    if _said(policy, member) is Action.ALLOW:
        return Rank.IMPORTANT_ALLOW if member.kind.important else Rank.ALLOW
    return Rank.IMPORTANT_BLOCK if member.kind.important else Rank.BLOCK


def _answer(rules: PolicyRules, group: GroupPolicy | None, member: Member) -> Action:
    policy = rules.lists[member.list]
    said = _said(policy, member)
    if said is not None:
        return said
    if group is not None and policy.category in group.actions:
        return group.actions[policy.category]
    category = rules.categories.get(policy.category)
    if category is not None and category.action is not None:
        return category.action
    return rules.sinkhole.action


def _needs_answer(rules: PolicyRules, group: GroupPolicy | None, rank: Rank, winner: Member) -> bool:
    """Whether an RPZ list that would outrank the winner could still find something in the upstream's answer."""
    for source, policy in enumerate(rules.lists):
        if not policy.rpz or not policy.answer_triggers or policy.shadow or not sees(group, policy):
            continue
        if policy.override is not None and policy.override.disabled:
            continue
        if rank is Rank.BLOCK or (rank is Rank.RPZ and source < winner.list):
            return True
    return False


def client_class(allow_from: Sequence[str], groups: Sequence[tuple[Sequence[str], int]], address: str) -> int:
    """The class of a client: 65535 outside of allow_from, else the first group's that holds it, else 0."""
    if not any(_holds(prefix, address) for prefix in allow_from):
        return 65535
    for prefixes, policy_class in groups:
        if any(_holds(prefix, address) for prefix in prefixes):
            return policy_class
    return 0


def _holds(prefix: str, address: str) -> bool:
    network = ipaddress.ip_network(prefix, strict=False)
    client = ipaddress.ip_address(address)
    if isinstance(client, ipaddress.IPv6Address) and client.ipv4_mapped:
        client = client.ipv4_mapped
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            network = ipaddress.ip_network((int(mapped), network.prefixlen - 96))
    return client.version == network.version and client in network
