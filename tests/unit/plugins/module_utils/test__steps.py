# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._plan import KINDS, Member, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._steps import parse_steps
from hypothesis import example, given
from hypothesis import strategies as st

FLEET = [
    Member(f"web{i}", f"web{i}", "blue" if i <= 3 else "green", {"shop": f"web{i}"}, f"rack{i % 3}")
    for i in range(1, 7)
]
LIVE = ["web1", "web2", "web3"]
SWAP = [{"deploy": "green"}, {"probe": "green"}, {"traffic": {"green": 100}}]


def slots(*hosts: str) -> list[Member]:
    return [
        Member(f"{host}:{colour}", host, colour, {"shop": f"{host}-{colour}"})
        for host in hosts
        for colour in ("blue", "green")
    ]


def words(raw: t.Any, members: t.Sequence[Member] = FLEET, carrying: t.Collection[str] | None = None) -> list[str]:
    return [step.words() for step in parse_steps(raw, members, carrying)]


def test_a_plan_of_all_kinds_is_read():
    raw = [
        {"deploy": "green"},
        {"probe": "green"},
        {"traffic": {"green": 5}},
        {"analyse": {"for": "5m"}},
        {"pause": {"for": 600}},
        {"pause": {}},
        {"traffic": {"green": "100 %"}},
        {"drain": ["web1", "web2"]},
        {"admit": "web1"},
    ]
    assert words(raw, carrying=LIVE) == [
        "deploy green (web4, web5, web6)",
        "probe green (web4, web5, web6)",
        "traffic green 5 %, blue 95 %",
        "analyse green (web4, web5, web6) for 5m",
        "pause for 10m",
        "pause",
        "traffic green 100 %, blue 0 %",
        "drain web1, web2",
        "admit web1",
    ]


def test_a_host_with_two_slots_is_named_by_slot_track_or_host():
    raw = [{"probe": "web1:green"}, {"probe": "green"}, {"probe": "web2"}]
    assert [step.members for step in parse_steps(raw, slots("web1", "web2"))] == [
        ("web1:green",),
        ("web1:green", "web2:green"),
        ("web2:blue", "web2:green"),
    ]


def test_an_analysis_watches_all_that_was_deployed_before_it():
    raw = [{"deploy": "web4"}, {"deploy": "web6"}, {"analyse": {"for": 5}}, {"deploy": "web5"}]
    assert parse_steps(raw, FLEET)[2].members == ("web4", "web6")


def test_an_analysis_without_a_deploy_watches_what_came_into_rotation():
    assert parse_steps([{"admit": "web4"}, {"analyse": {"for": 5}}], FLEET)[1].members == ("web4",)


def test_an_analysis_needs_requests():
    assert parse_steps([*SWAP, {"analyse": {"for": 5}}], FLEET)[-1].options == {"require_requests": True}


@pytest.mark.parametrize(
    ("value", "shares"),
    [
        ({"green": 0}, {"green": 0, "blue": 100}),
        ({"green": 100}, {"green": 100, "blue": 0}),
        ({"green": "12.5"}, {"green": 12.5, "blue": 87.5}),
        ({"green": 30, "blue": "70%"}, {"green": 30, "blue": 70}),
    ],
)
def test_shares_name_every_track_and_one_gets_the_rest(value, shares):
    assert parse_steps([{"probe": "green"}, {"traffic": value}], FLEET)[1].shares == shares


def test_of_three_tracks_those_not_named_get_nothing_when_nothing_is_left():
    fleet = [*FLEET, Member("web7", "web7", "red", {"shop": "web7"})]
    assert parse_steps([{"traffic": {"red": 100}}], fleet)[0].shares == {"red": 100, "blue": 0, "green": 0}


WRONG: list[tuple[t.Any, str]] = [
    (None, "is None, and must be a list"),
    ("deploy: green", "must be a list"),
    ({"deploy": "green"}, "must be a list"),
    ([], "an empty list"),
    (["deploy"], r"Step 1 .*one word with what it is for"),
    ([{}], "Step 1 .*one word with what it is for"),
    ([{"probe": "green"}, {"deploy": "green", "probe": "green"}], "Step 2 .*one word with what it is for"),
    ([{"deplyo": "green"}], "Step 1 .*'deplyo' is no step; there are deploy, probe"),
    ([{True: "green"}], "Step 1 .*True is no step"),
    (
        [{"deploy": "gren"}],
        r"Step 1 \(deploy\).*'gren' is neither a track nor a host.*tracks blue, green and hosts web1",
    ),
    ([{"deploy": "canary"}], "no host is of the track canary; set rollout_track"),
    ([{"deploy": ""}], "'' is neither"),
    ([{"deploy": None}], "has None; name a track or a host"),
    ([{"deploy": ["web1", 2]}], "has 2; name a track or a host"),
    ([{"deploy": []}], "its list is empty"),
    ([{"deploy": {"hosts": "web1"}}], "name a track or a host"),
    ([{"probe": ["green", "web4"]}], "names web4 twice"),
    ([{"traffic": None}], "needs the percent of each track"),
    ([{"traffic": {}}], "needs the percent of each track"),
    ([{"traffic": 5}], "needs the percent of each track"),
    ([{"traffic": {"gren": 5}}], "'gren' is neither"),
    ([{"traffic": {"web1": 5}}], "web1 is a host; name its track"),
    ([{"traffic": {5: 5}}], "5 cannot be the name of a track"),
    ([{"traffic": {"green": -1}}], "share of green is -1, and must be from 0 to 100"),
    ([{"traffic": {"green": 101}}], "must be from 0 to 100"),
    ([{"traffic": {"green": "half"}}], "must be from 0 to 100"),
    ([{"traffic": {"green": float("nan")}}], "must be from 0 to 100"),
    ([{"traffic": {"green": True}}], "must be from 0 to 100"),
    ([{"traffic": {"green": None}}], "must be from 0 to 100"),
    ([{"traffic": {"green": 10**400}}], "a very large number, and must be from 0 to 100"),
    ([{"traffic": {"green": 60, "blue": 50}}], "110 percent together, and must be 100"),
    ([{"traffic": {"green": 40, "blue": 50}}], "90 percent together, and must be 100"),
    ([{"analyse": {"for": "5m"}}], "nothing to watch"),
    ([*SWAP, {"analyse": "5m"}], r"Step 4 \(analyse\).*needs a time, such as {for: 5m}"),
    ([*SWAP, {"analyse": {}}], "needs a time"),
    ([*SWAP, {"analyse": {"for": "soon"}}], "'soon' is not a duration"),
    ([*SWAP, {"analyse": {"for": 0}}], "no time at all"),
    ([*SWAP, {"analyse": {"for": 5, "until": 6}}], "has 'until'; there is only `for`"),
    ([{"pause": {"for": None}}], "None is not a duration"),
    ([{"pause": 10}], "a pause has 10"),
    ([{"pause": {"for": 0}}], "no time at all"),
]


@pytest.mark.parametrize(("raw", "message"), WRONG)
def test_a_mistake_is_told_with_its_step(raw, message):
    with pytest.raises(PlanError, match=message):
        parse_steps(raw, FLEET)


def test_the_rest_cannot_go_to_several_tracks():
    fleet = [*FLEET, Member("web7", "web7", "red", {"shop": "web7"})]
    with pytest.raises(PlanError, match="leaves 95 to several tracks"):
        parse_steps([{"traffic": {"red": 5}}], fleet)


def test_traffic_needs_a_track_of_every_host():
    with pytest.raises(PlanError, match="web7 has none; set its rollout_track"):
        parse_steps([{"traffic": {"green": 5}}], [*FLEET, Member("web7", "web7", "", {"shop": "web7"})])


def test_a_name_that_is_a_track_and_another_host_is_refused():
    with pytest.raises(PlanError, match="'blue' is a track and also a host"):
        parse_steps([{"probe": "blue"}], [*FLEET, Member("blue", "blue", "green", {"shop": "b"})])


def test_an_empty_fleet_has_nobody_to_name():
    with pytest.raises(PlanError, match="there are none"):
        parse_steps([{"probe": "web1"}], [])


UNSAFE: list[tuple[list[t.Any], str]] = [
    ([{"traffic": {"green": 5}}], r"Step 1 \(traffic green 5 %.*web4, web5, web6 would get traffic without a probe"),
    ([{"deploy": "green"}, {"traffic": {"green": 5}}], "Step 2 .*without a probe"),
    ([{"probe": "green"}, {"deploy": "web5"}, {"traffic": {"green": 5}}], "Step 3 .* web5 would get traffic without"),
    ([{"probe": "web4"}, {"traffic": {"green": 5}}], "web5, web6 would get traffic without"),
    ([{"admit": "web4"}], "Step 1 .*web4 would get traffic without"),
    ([{"drain": "web1"}, {"deploy": "web1"}, {"admit": "web1"}], "Step 3 .*web1 would get traffic without"),
    ([{"deploy": "blue"}], r"Step 1 \(deploy blue .* would leave no member in rotation"),
    ([{"drain": "web1"}, {"drain": ["web2", "web3"]}], "Step 2 .* would leave no member in rotation"),
    ([*SWAP, {"drain": "green"}], "Step 4 .* would leave no member in rotation"),
]


@pytest.mark.parametrize(("raw", "message"), UNSAFE)
def test_a_plan_that_would_lose_requests_is_refused(raw, message):
    with pytest.raises(PlanError, match=message):
        parse_steps(raw, FLEET, LIVE)


def test_a_member_that_is_drained_may_come_back_without_a_probe():
    assert words([{"drain": "web1"}, {"admit": "web1"}], carrying=LIVE) == ["drain web1", "admit web1"]


def test_a_member_that_is_out_does_not_hold_up_the_share_of_its_live_track():
    raw = [{"deploy": "green"}, {"probe": "green"}, {"traffic": {"green": 5}}]
    assert parse_steps(raw, FLEET, ["web1", "web2"])[2].shares == {"green": 5, "blue": 95}


def test_a_deploy_without_a_probe_is_refused_also_when_it_is_not_known_what_carries():
    with pytest.raises(PlanError, match="without a probe"):
        parse_steps([{"deploy": "green"}, {"traffic": {"green": 5}}], FLEET)


NAMES = st.sampled_from(["blue", "green", "web1", "web4", "for", "canary", "100", "5m", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.dictionaries(st.sampled_from(KINDS) | st.text(max_size=3), JSON, min_size=1, max_size=1)


@given(JSON | st.lists(ENTRIES | JSON, max_size=5), st.none() | st.lists(st.sampled_from(LIVE)))
@example([{"traffic": {"green": 10**5000}}], None)
@example([{"pause": {"for": 10**5000}}], None)
def test_anything_is_a_plan_or_a_plan_error(raw, carrying):
    try:
        steps = parse_steps(raw, FLEET, carrying)
    except PlanError:
        return
    assert steps
    assert all(isinstance(step, Step) and step == Step.from_dict(step.as_dict()) for step in steps)


VALID = st.one_of(
    st.sampled_from(["deploy", "probe", "drain", "admit"]).flatmap(
        lambda kind: st.fixed_dictionaries(
            {kind: st.lists(st.sampled_from([member.key for member in FLEET]), min_size=1, max_size=3, unique=True)}
        )
    ),
    st.fixed_dictionaries({"traffic": st.fixed_dictionaries({"green": st.sampled_from([0, 5, 100])})}),
)


@given(st.lists(VALID, min_size=1, max_size=8))
def test_no_plan_that_is_accepted_sends_traffic_to_a_release_nobody_probed(raw):
    try:
        steps = parse_steps(raw, FLEET, LIVE)
    except PlanError:
        return
    fresh: set[str] = set()
    for step in steps:
        fresh = fresh | set(step.members) if step.kind == "deploy" else fresh
        fresh = fresh - set(step.members) if step.kind == "probe" else fresh
        gets = step.members if step.kind == "admit" else [m.key for m in FLEET if step.shares.get(m.track)]
        assert not fresh & set(gets)


@given(st.lists(VALID, min_size=1, max_size=8))
def test_no_plan_that_is_accepted_empties_the_rotation(raw):
    try:
        steps = parse_steps(raw, FLEET, LIVE)
    except PlanError:
        return
    rotation = set(LIVE)
    for step in steps:
        if step.kind in ("drain", "deploy"):
            rotation -= set(step.members)
        if step.kind == "admit":
            rotation |= set(step.members)
        if step.kind == "traffic":
            rotation = {member.key for member in FLEET if step.shares[member.track]}
        assert rotation
