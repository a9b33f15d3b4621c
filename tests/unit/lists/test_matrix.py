"""Which list wins, held against the slow oracle on random rules, and told case by case."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.lists.matrix import (
    CONDITIONAL,
    NEEDS_ANSWER,
    NO_MEMBER,
    SHADOW,
    CategoryPolicy,
    GroupPolicy,
    ListPolicy,
    Matrix,
    Override,
    PolicyRules,
    Sinkhole,
    build_matrix,
    ranking,
)
from resolver.lists.merge import Kind, Member
from resolver.lists.reason import contact_uri, extra_text, mailbox, structured
from resolver.snapshot import MAX_STRUCTURED, MAX_STRUCTURED_BRIEF, NO_EDE, NO_SLOT, Profile
from resolver.vocabulary import EDE, Action, Rank, Verb
from tests import reference_policy as reference

BLOCK = Kind()
ALLOW = Kind(Verb.ALLOW)
IMPORTANT = Kind(important=True)
IMPORTANT_ALLOW = Kind(Verb.ALLOW, important=True)

# -- random rules -----------------------------------------------------------------------------------------------------
CATEGORIES = ["", "ads", "adult", "law"]
ACTIONS = [Action.ADDRESS, Action.ZERO, Action.NXDOMAIN, Action.NODATA, Action.REFUSED, Action.DROP]
overrides = st.one_of(
    st.none(),
    st.none(),
    st.builds(Override, st.sampled_from([Action.NXDOMAIN, Action.ALLOW, Action.DROP, Action.TCP_ONLY])),
    st.just(Override(Action.CNAME, "garden.example")),
    st.just(Override(disabled=True)),
)
kinds = st.builds(
    Kind,
    st.sampled_from(Verb),
    st.booleans(),
    st.sampled_from([None, None, Action.NXDOMAIN, Action.DATA, Action.ALLOW]),
    st.sampled_from([None, 60]),
    st.sampled_from(["", "", "dnstype=A"]),
)


@st.composite
def rules_and_shapes(draw: st.DrawFn) -> tuple[PolicyRules, list[tuple[Member, ...]]]:
    count = draw(st.integers(1, 6))
    lists = [
        ListPolicy(
            name=f"list{number}",
            category=draw(st.sampled_from(CATEGORIES)),
            slot=number,
            shadow=draw(st.sampled_from([False, False, False, True])),
            mandatory=draw(st.sampled_from([False, False, True])),
            rpz=draw(st.booleans()),
            answer_triggers=draw(st.booleans()),
            override=draw(overrides),
        )
        for number in range(count)
    ]
    some_categories = st.frozensets(st.sampled_from(CATEGORIES))
    some_lists = st.frozensets(st.sampled_from([source.name for source in lists]))
    groups = draw(
        st.lists(
            st.builds(
                GroupPolicy,
                name=st.just("group"),
                categories=st.one_of(st.none(), some_categories),
                lists=st.one_of(st.none(), some_lists),
                actions=st.dictionaries(st.sampled_from(CATEGORIES), st.sampled_from(ACTIONS)),
                overrides=st.dictionaries(st.sampled_from([source.name for source in lists]), overrides, max_size=2),
                shadow=st.sampled_from([False, False, True]),
            ),
            max_size=4,
        )
    )
    categories = draw(
        st.dictionaries(
            st.sampled_from(CATEGORIES[1:]),
            st.builds(
                CategoryPolicy,
                action=st.one_of(st.none(), st.sampled_from(ACTIONS)),
                ttl=st.sampled_from([None, 30]),
                ede=st.sampled_from([EDE.BLOCKED, EDE.CENSORED, NO_EDE]),
            ),
        )
    )
    members = st.builds(Member, st.integers(0, count - 1), kinds)
    shapes = [(), *draw(st.lists(st.lists(members, max_size=6).map(tuple), max_size=6))]
    return PolicyRules(lists, categories, groups, Sinkhole(draw(st.sampled_from(ACTIONS)))), shapes


@settings(max_examples=400, deadline=None)
@given(rules_and_shapes())
def test_every_cell_is_what_the_oracle_says(case: tuple[PolicyRules, list[tuple[Member, ...]]]) -> None:
    rules, shapes = case
    matrix = build_matrix(rules, shapes)
    classes = [(None, 0), *zip(rules.groups, matrix.group_classes, strict=True)]
    for group, policy_class in classes:
        for number, shape in enumerate(shapes):
            wanted = reference.decide(rules, group, shape)
            rank, action, flags, member, slot, profile = read_cell(matrix, policy_class, number)
            assert (rank, action) == (wanted.rank, wanted.action)
            assert member == (NO_MEMBER if wanted.member is None else wanted.member)
            assert slot == (NO_SLOT if wanted.member is None else rules.lists[shape[wanted.member].list].slot)
            assert bool(flags & NEEDS_ANSWER) is wanted.needs_answer
            assert bool(flags & CONDITIONAL) is wanted.conditional
            assert matrix.profiles[profile].action == action
            if wanted.ttl is not None:
                assert matrix.profiles[profile].ttl == wanted.ttl


@settings(max_examples=150, deadline=None)
@given(rules_and_shapes())
def test_what_only_counts_and_what_a_pause_leaves(case: tuple[PolicyRules, list[tuple[Member, ...]]]) -> None:
    rules, shapes = case
    matrix = build_matrix(rules, shapes)
    for group, policy_class, paused_class in zip(
        [*rules.groups, None], [*matrix.group_classes, 0], matrix.paused_classes, strict=True
    ):
        for number, shape in enumerate(shapes):
            assert shadow_claims(matrix, policy_class, number) == reference.would_win(rules, group, shape)
            wanted = reference.decide(
                reference.paused(rules, group), group and replace(group, shadow=False, overrides={}), shape
            )
            assert read_cell(matrix, paused_class, number)[:2] == (wanted.rank, wanted.action)
            assert not shadow_claims(matrix, paused_class, number)


def shadow_claims(matrix: Matrix, policy_class: int, shape: int) -> set[tuple[int, int]]:
    """(rank, slot) of the lists that would have won a cell."""
    at = policy_class * matrix.shapes + shape
    is_marked = bool(read_cell(matrix, policy_class, shape)[2] & SHADOW)
    start = struct.unpack_from("<H", matrix.shadows, 2 * at)[0] if matrix.shadows else 0
    assert is_marked is bool(start)
    found, is_last = set(), not start
    while not is_last:
        rank, is_last, slot = struct.unpack_from("<BBH", matrix.shadow_claims, 4 * start)
        found.add((rank, slot))
        start += 1
    return found


def read_cell(matrix: Matrix, policy_class: int, shape: int) -> tuple[int, ...]:
    """The layout that the engine reads, spelt out here on its own."""
    return struct.unpack_from("<BBBBHH", matrix.cells, (policy_class * matrix.shapes + shape) * 8)


# -- told case by case ------------------------------------------------------------------------------------------------
def winner(rules: PolicyRules, *members: tuple[int, Kind]) -> tuple[Rank, Action, int | None]:
    """(rank, action, list) that wins for a client in no group."""
    shape = tuple(Member(source, kind) for source, kind in members)
    rank, action, _, member, _, _ = read_cell(build_matrix(rules, [(), shape]), 0, 1)
    return Rank(rank), Action(action), None if member == NO_MEMBER else shape[member].list


def profile(rules: PolicyRules, kind: Kind = BLOCK, source: int = 0) -> Profile:
    matrix = build_matrix(rules, [(), (Member(source, kind),)])
    return matrix.profiles[read_cell(matrix, 0, 1)[5]]


def flags(rules: PolicyRules, *members: tuple[int, Kind]) -> int:
    return read_cell(build_matrix(rules, [(), tuple(Member(*member) for member in members)]), 0, 1)[2]


def test_the_order_of_ranks() -> None:
    rules = PolicyRules([ListPolicy("a"), ListPolicy("b"), ListPolicy("rpz", rpz=True)])
    everyone = [(0, BLOCK), (2, Kind(action=Action.NODATA)), (1, ALLOW), (0, IMPORTANT), (1, IMPORTANT_ALLOW)]
    order = [Rank.BLOCK, Rank.RPZ, Rank.ALLOW, Rank.IMPORTANT_BLOCK, Rank.IMPORTANT_ALLOW]
    for count, rank in enumerate(order, start=1):
        assert winner(rules, *everyone[:count])[0] is rank


def test_within_a_rank_the_first_list_of_the_config_wins() -> None:
    rules = PolicyRules([ListPolicy("a"), ListPolicy("b")])
    assert winner(rules, (1, BLOCK), (0, BLOCK))[2] == 0


def test_nobody_speaks() -> None:
    assert winner(PolicyRules([ListPolicy("a")])) == (Rank.NOBODY, Action.FORWARD, None)


def test_the_first_rpz_list_speaks_for_all_and_a_passthru_is_its_allow() -> None:
    rules = PolicyRules([ListPolicy("a"), ListPolicy("rpz1", rpz=True), ListPolicy("rpz2", rpz=True)])
    nxdomain = Kind(action=Action.NXDOMAIN)
    assert winner(rules, (0, BLOCK), (2, nxdomain), (1, ALLOW)) == (Rank.RPZ, Action.ALLOW, 1)
    assert winner(rules, (2, ALLOW), (1, nxdomain)) == (Rank.RPZ, Action.NXDOMAIN, 1)


def test_a_disabled_rpz_list_does_not_consume_the_match() -> None:
    disabled = ListPolicy("rpz1", rpz=True, override=Override(disabled=True))
    rules = PolicyRules([disabled, ListPolicy("rpz2", rpz=True)])
    assert winner(rules, (0, ALLOW), (1, Kind(action=Action.DROP))) == (Rank.RPZ, Action.DROP, 1)


def test_a_shadow_list_never_wins() -> None:
    rules = PolicyRules([ListPolicy("a", shadow=True), ListPolicy("b")])
    assert winner(rules, (0, IMPORTANT), (1, BLOCK))[2] == 1
    assert winner(rules, (0, IMPORTANT))[0] is Rank.NOBODY


def test_an_override_replaces_everything_in_an_rpz_list_and_only_blocks_elsewhere() -> None:
    override = Override(Action.NXDOMAIN)
    rules = PolicyRules([ListPolicy("rpz", rpz=True, override=override), ListPolicy("a", override=override)])
    assert winner(rules, (0, ALLOW)) == (Rank.RPZ, Action.NXDOMAIN, 0)
    assert winner(rules, (1, ALLOW)) == (Rank.ALLOW, Action.ALLOW, 1)
    assert winner(rules, (1, Kind(action=Action.DROP))) == (Rank.BLOCK, Action.NXDOMAIN, 1)


def test_override_passthru_turns_blocks_into_allows() -> None:
    rules = PolicyRules([ListPolicy("a"), ListPolicy("free", override=Override(Action.ALLOW))])
    assert winner(rules, (0, BLOCK), (1, BLOCK)) == (Rank.ALLOW, Action.ALLOW, 1)


def test_override_cname_gives_the_target_and_keeps_nothing_of_the_rule() -> None:
    rules = PolicyRules([ListPolicy("a", override=Override(Action.CNAME, "garden.example"))])
    assert profile(rules, Kind(action=Action.DATA)).target == "garden.example"
    assert profile(PolicyRules([ListPolicy("a")]), Kind(action=Action.CNAME)).target == ""


@pytest.mark.parametrize(
    ("rule", "group", "category", "expected"),
    [
        (None, None, None, Action.REFUSED),
        (None, None, Action.ADDRESS, Action.ADDRESS),
        (None, Action.NODATA, Action.ADDRESS, Action.NODATA),
        (Action.NXDOMAIN, Action.NODATA, Action.ADDRESS, Action.NXDOMAIN),
    ],
)
def test_whose_action_counts(
    rule: Action | None, group: Action | None, category: Action | None, expected: Action
) -> None:
    rules = PolicyRules(
        [ListPolicy("a", "ads")],
        {"ads": CategoryPolicy(action=category)},
        [GroupPolicy("kids", actions={"ads": group} if group else {})],
        Sinkhole(Action.REFUSED),
    )
    matrix = build_matrix(rules, [(), (Member(0, Kind(action=rule)),)])
    assert read_cell(matrix, matrix.group_classes[0], 1)[1] == expected


def test_whose_ttl_counts() -> None:
    lists = [ListPolicy("a", "ads"), ListPolicy("b")]
    rules = PolicyRules(lists, {"ads": CategoryPolicy(ttl=0)}, sinkhole=Sinkhole(ttl=7))
    assert profile(rules, Kind(ttl=99)).ttl == 99
    assert profile(rules).ttl == 0
    assert profile(rules, source=1).ttl == 7


def test_only_the_action_address_shows_the_sinkhole() -> None:
    sinkhole = Sinkhole(Action.ADDRESS, b"\xc0\0\2\x35", b"\x20" * 16)
    rules = PolicyRules([ListPolicy("a")], sinkhole=sinkhole)
    assert (profile(rules).ipv4, profile(rules).ipv6) == (sinkhole.ipv4, sinkhole.ipv6)
    zero = profile(rules, Kind(action=Action.ZERO))
    assert (zero.ipv4, zero.ipv6) == (bytes(4), bytes(16))


# -- needs-answer and conditional -------------------------------------------------------------------------------------
def test_an_earlier_rpz_list_with_answer_triggers_makes_a_hit_wait() -> None:
    triggers = ListPolicy("answers", rpz=True, answer_triggers=True)
    rules = PolicyRules([ListPolicy("early", rpz=True), triggers, ListPolicy("late", rpz=True), ListPolicy("a")])
    assert flags(rules, (0, BLOCK)) == 0
    assert flags(rules, (1, BLOCK)) == 0  # its own name triggers come before its own address triggers
    assert flags(rules, (2, BLOCK)) == NEEDS_ANSWER
    assert flags(rules, (3, BLOCK)) == NEEDS_ANSWER  # rank 4 outranks rank 5 wherever its list stands
    assert flags(rules, (3, ALLOW)) == flags(rules, (3, IMPORTANT)) == 0


def test_answer_triggers_of_a_list_that_a_group_does_not_see_do_not_matter() -> None:
    lists = [ListPolicy("answers", "law", rpz=True, answer_triggers=True), ListPolicy("a", "ads")]
    rules = PolicyRules(lists, groups=[GroupPolicy("kids", frozenset({"ads"}))])
    matrix = build_matrix(rules, [(), (Member(1, BLOCK),)])
    assert [read_cell(matrix, policy_class, 1)[2] for policy_class in (0, 1)] == [NEEDS_ANSWER, 0]


def test_conditional_only_if_a_condition_can_change_the_outcome() -> None:
    rules = PolicyRules([ListPolicy("a"), ListPolicy("b")])
    maybe = Kind(condition="dnstype=A")
    assert flags(rules, (0, maybe)) == CONDITIONAL
    assert flags(rules, (0, maybe), (1, BLOCK)) == CONDITIONAL
    assert flags(rules, (0, BLOCK), (1, maybe)) == 0
    assert flags(rules, (0, maybe), (1, ALLOW)) == 0


def test_ranking_gives_what_a_group_sees_in_order() -> None:
    rules = PolicyRules([ListPolicy("a", "ads"), ListPolicy("b", "law"), ListPolicy("c", shadow=True)])
    shape = (Member(0, BLOCK), Member(1, ALLOW), Member(2, BLOCK))
    assert [claim.source for claim in ranking(rules, shape, None)] == [1, 0]
    assert [claim.source for claim in ranking(rules, shape, GroupPolicy("kids", frozenset({"ads"})))] == [0]


# -- classes and limits -----------------------------------------------------------------------------------------------
def test_groups_that_agree_share_a_class() -> None:
    rules = PolicyRules(
        [ListPolicy("a", "ads"), ListPolicy("b", "law")],
        groups=[
            GroupPolicy("all", actions={"ads": Action.ZERO, "unknown": Action.DROP}),  # zero is the default anyway
            GroupPolicy("one", lists=frozenset({"a"})),
            GroupPolicy("same", categories=frozenset({"ads"}), actions={"law": Action.DROP}),
            GroupPolicy("other", lists=frozenset({"a"}), actions={"ads": Action.DROP}),
        ],
    )
    matrix = build_matrix(rules, [()])
    assert matrix.group_classes == (0, 1, 1, 2)
    assert matrix.paused_classes == (3,) * 5  # without mandatory lists a pause is the same for all
    assert matrix.classes == 4


def test_a_group_sees_a_list_if_both_its_name_and_its_category_are_the_groups() -> None:
    group = GroupPolicy("kids", categories=frozenset({"ads"}), lists=frozenset({"a", "b"}))
    assert group.sees(ListPolicy("a", "ads"))
    assert not group.sees(ListPolicy("a", "law"))
    assert not group.sees(ListPolicy("c", "ads"))
    assert GroupPolicy("all").sees(ListPolicy("c", "law"))


def test_a_rule_with_data_behind_255_others_is_refused_and_one_without_is_not() -> None:
    rules = PolicyRules([ListPolicy(f"list{number}") for number in range(300)])
    crowd = tuple(Member(number, Kind(condition="dnstype=A")) for number in range(300))
    assert read_cell(build_matrix(rules, [(), crowd]), 0, 1)[3] == 0
    last = (*crowd[:-1], Member(299, ALLOW))
    assert read_cell(build_matrix(rules, [(), last]), 0, 1)[:4] == (Rank.ALLOW, Action.ALLOW, 0, NO_MEMBER)
    with pytest.raises(ValueError, match="list299"):
        build_matrix(rules, [(), (*crowd[:-1], Member(299, Kind(action=Action.DATA, important=True)))])


# -- what the client is told ------------------------------------------------------------------------------------------
def test_the_text_names_list_order_and_contact() -> None:
    category = CategoryPolicy(
        ede=EDE.CENSORED,
        organisation="Kominfo",
        justification="online gambling",
        contact="mailto:help@isp.example",
        law="UU ITE 27(2)",
    )
    assert extra_text(ListPolicy("national", "gambling"), category) == (
        "blocked by list national (category gambling): "
        "online gambling, order UU ITE 27(2), by Kominfo, contact help@isp.example"
    )
    assert extra_text(ListPolicy("mine"), CategoryPolicy()) == "blocked by list mine"


def test_a_long_text_is_cut_between_characters() -> None:
    for shift in range(4):
        text = extra_text(ListPolicy("a" * shift), CategoryPolicy(justification="ü" * 300))
        assert len(text.encode()) in (199, 200)
        assert text.endswith("ü…")


def test_ede_none_tells_nothing() -> None:
    rules = PolicyRules([ListPolicy("a", "ads")], {"ads": CategoryPolicy(ede=NO_EDE)})
    assert (profile(rules).ede, profile(rules).text) == (NO_EDE, "")
    assert profile(PolicyRules([ListPolicy("a")])).ede == EDE.BLOCKED


def test_the_soa_names_the_contact() -> None:
    assert mailbox("mailto:first.last@isp.example") == b"\x0afirst.last\x03isp\x07example\x00"
    for nothing in (
        "",
        "https://isp.example/help",
        "tel:+62",
        "@",
        "a@b..c",
        "x" * 64 + "@isp.example",
        "ü@isp.example",
    ):
        assert mailbox(nothing) == b""
    rules = PolicyRules([ListPolicy("a", "ads")], {"ads": CategoryPolicy(contact="abuse@isp.example")})
    assert profile(rules).soa.endswith(b"\x05abuse\x03isp\x07example\x00")


# -- structured errors ------------------------------------------------------------------------------------------------
def test_a_structured_error_fits_whatever_the_words() -> None:
    for words in ("x" * 5000, "ü" * 5000, '"' * 5000, "\n" * 700):
        category = CategoryPolicy(justification=words, organisation=words, contact="a@b.example", sub_error=1)
        found = structured("", category)
        assert len(found.full.encode()) <= MAX_STRUCTURED and len(found.brief.encode()) <= MAX_STRUCTURED_BRIEF
        body = json.loads(found.full)
        assert list(body) == ["c", "j", "s", "o", "l"] and body["c"] == ["mailto:a@b.example"]
        assert body["j"] and words.startswith(body["j"].removesuffix("…"))


@pytest.mark.parametrize(
    ("contact", "uri"),
    [
        ("mailto:a@b.example", "mailto:a@b.example"),
        ("a@b.example", "mailto:a@b.example"),
        ("tel:+62-21-1", "tel:+62-21-1"),
        ("https://b.example/x", "https://b.example/x"),
        ("http://b.example/x", ""),
        ("mailto:a b", ""),
        ("somebody", ""),
        ("https://" + "x" * 400, ""),
    ],
)
def test_contacts_are_uris_of_three_schemes(contact: str, uri: str) -> None:
    assert contact_uri(contact) == uri


def test_without_words_of_its_own_a_category_has_ours() -> None:
    assert structured("ours", CategoryPolicy(language="id")) == ('{"j":"ours","l":"en"}', "")
    assert structured("ours", CategoryPolicy(law="UU 1", language="id")).full == '{"j":"UU 1","l":"id"}'


def test_censored_has_its_category_in_words_and_no_sub_error() -> None:
    category = CategoryPolicy(ede=EDE.CENSORED, justification="by order", sub_error=1)
    assert structured("", category, name="gambling") == ('{"j":"gambling: by order","l":"en"}', "")


def test_a_profile_has_both_texts_or_none() -> None:
    rules = PolicyRules([ListPolicy("a", "ads")], {"ads": CategoryPolicy(ede=EDE.FORGED_ANSWER, sub_error=3)})
    made = profile(rules)
    assert made.reason(structured=False) == (4, "blocked by list a (category ads)")
    assert made.reason(structured=True) == (15, made.structured) and '"s":3' in made.structured
    rules = PolicyRules([ListPolicy("a", "ads")], {"ads": CategoryPolicy(ede=NO_EDE)})
    assert profile(rules).reason(structured=True) == (NO_EDE, "")
