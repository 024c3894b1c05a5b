# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from collections import Counter

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._canary import (
    Ramp,
    canary_in_place,
    canary_side_by_side,
    pause,
    read_stages,
)
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member, Plan, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from hypothesis import given
from hypothesis import strategies as st

from simulated_rollout import fleet

SIX = fleet(6)
EQUAL = {member.key: 100 / 6 for member in SIX}
ALL = [member.key for member in SIX]


def ramp(*stages: t.Any, **changes: t.Any) -> Ramp:
    known: dict[str, t.Any] = {
        "stages": read_stages(stages or (5, 25, 50)),
        "seconds": 300.0,
        "longest": 1800.0,
        "batches": "25%",
        "most": "25%",
        "watch_seconds": 10.0,
    }
    return Ramp(**{**known, **changes})


def told(steps: t.Sequence[Step]) -> list[str]:
    return [step.words() for step in steps]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Member], list[str], dict[str, float], t.Any, Ramp]:
    members = fleet(draw(st.integers(2, 12)))
    weights = {member.key: draw(st.integers(0, 4) | st.just(10)) for member in members}
    total = sum(weights.values()) or 1
    due = draw(st.lists(st.sampled_from([member.key for member in members]), unique=True, min_size=1))
    shares = sorted(draw(st.sets(st.integers(1, 99), min_size=1, max_size=4)))
    stages: list[t.Any] = []
    for share in shares:
        stages += [share, *([{"pause": {}}] if draw(st.booleans()) else [])]
    hosts = draw(st.integers(1, 4) | st.sampled_from(["10%", "50%"]))
    capacity = {key: 100.0 * weight / total for key, weight in weights.items()}
    return members, due, capacity, hosts, ramp(*stages)


# --- In place


def test_hosts_join_before_a_step_asks_for_more_than_the_canary_can_carry() -> None:
    assert told(canary_in_place(SIX, ALL, EQUAL, 1, ramp())) == [
        "drain web1",
        "deploy web1",
        "probe web1",
        "traffic canary 5 %, stable 95 % (web1)",
        "analyse canary (web1) for 5m",
        "drain web2",
        "deploy web2",
        "probe web2",
        "traffic canary 25 %, stable 75 % (web1, web2)",
        "analyse canary (web1, web2) for 5m",
        "drain web3",
        "deploy web3",
        "probe web3",
        "traffic canary 50 %, stable 50 % (web1, web2, web3)",
        "analyse canary (web1, web2, web3) for 5m",
        "admit web1, web2, web3, web4, web5, web6",
        *(
            words
            for host in ("web4", "web5", "web6")
            for words in (
                f"drain {host}",
                f"deploy {host}",
                f"probe {host}",
                f"admit {host}",
                f"analyse {host} for 10s",
            )
        ),
    ]


def test_what_is_done_carries_before_the_next_ones_that_join_are_taken_out() -> None:
    members = fleet(8)
    capacity = dict.fromkeys((member.key for member in members), 12.5)
    assert told(canary_in_place(members, list(capacity), capacity, 1, ramp(10, 50)))[5:13] == [
        "drain web2, web3",
        "deploy web2, web3",
        "probe web2, web3",
        "traffic canary 10 %, stable 90 % (web1, web2, web3)",
        "drain web4",
        "deploy web4",
        "probe web4",
        "traffic canary 50 %, stable 50 % (web1, web2, web3, web4)",
    ]


def test_a_canary_that_begins_with_several_batches_gets_its_share_bit_by_bit() -> None:
    traffic = [step.words() for step in canary_in_place(SIX, ALL, EQUAL, 2, ramp(10)) if step.kind == "traffic"]
    assert traffic == ["traffic canary 5 %, stable 95 % (web1)", "traffic canary 10 %, stable 90 % (web1, web2)"]


def test_only_the_last_share_before_all_asks_for_a_pass() -> None:
    steps = canary_in_place(SIX, ALL, EQUAL, 1, ramp(5, 25, {"pause": {}}))
    asked = [step.options["asks"] for step in steps if step.options.get("judged")]
    assert asked == [False, True]


def test_a_pause_stands_where_it_was_written() -> None:
    steps = canary_in_place(SIX, ALL, EQUAL, 1, ramp(5, {"pause": {"for": "10m"}}, 10))
    assert told(steps)[4:7] == [
        "analyse canary (web1) for 5m",
        "pause canary (web1) for 10m",
        "traffic canary 10 %, stable 90 % (web1)",
    ]


def test_what_runs_the_release_already_is_of_the_canary_without_a_deploy() -> None:
    steps = canary_in_place(SIX, ["web1", "web4", "web5", "web6"], EQUAL, 1, ramp(25))
    assert told(steps)[:2] == ["traffic canary 25 %, stable 75 % (web2, web3)", "analyse canary (web2, web3) for 5m"]


def test_the_canary_begins_with_the_hosts_that_are_named() -> None:
    assert told(canary_in_place(SIX, ALL, EQUAL, ["web5", "web2"], ramp(5)))[:2] == ["drain web5", "deploy web5"]
    steps = canary_in_place(SIX, ALL, EQUAL, ["web5", "web2"], ramp(5))
    assert next(step for step in steps if step.kind == "analyse").members == ("web5", "web2")


def test_a_host_that_is_out_of_rotation_gets_no_traffic_before_its_release() -> None:
    capacity = {**dict.fromkeys(ALL, 20.0), "web6": 0.0}
    steps = canary_in_place(SIX, ALL, capacity, 1, ramp(5))
    (admitted,) = (step.members for step in steps if step.kind == "admit" and len(step.members) > 1)
    assert "web6" not in admitted
    assert told(steps)[-5:] == ["drain web6", "deploy web6", "probe web6", "admit web6", "analyse web6 for 10s"]


@pytest.mark.parametrize(
    ("due", "capacity", "hosts", "stages", "message"),
    [
        (ALL[:2], {"web1": 50.0, "web2": 50.0}, 1, (60,), "leaves no stable host"),
        (ALL, EQUAL, 6, (5,), "leaves no stable host"),
        (ALL, EQUAL, 1, (90,), "leaves no stable host"),
        (ALL, EQUAL, ["web9"], (5,), "web9"),
        (ALL, EQUAL, [], (5,), "names nobody"),
        (ALL, EQUAL, 0, (5,), "canary_hosts has 0"),
        (ALL, EQUAL, "many", (5,), "canary_hosts has 'many'"),
    ],
)
def test_a_canary_that_cannot_be_is_refused(
    due: list[str], capacity: dict[str, float], hosts: t.Any, stages: tuple[float, ...], message: str
) -> None:
    members = [member for member in SIX if member.key in capacity]
    with pytest.raises(PlanError, match=message):
        canary_in_place(members, due, capacity, hosts, ramp(*stages))


@given(cases())
def test_every_member_that_is_due_gets_the_release_once_and_after_it_was_drained(case: t.Any) -> None:
    members, due, capacity, hosts, stages = case
    try:
        steps = canary_in_place(members, due, capacity, hosts, stages)
    except PlanError:
        return
    Plan("canary", "2.0.0", ("shop",), tuple(members), steps)
    deployed = Counter(key for step in steps if step.kind == "deploy" for key in step.members)
    assert deployed == dict.fromkeys(due, 1)
    out: set[str] = set()
    probed: set[str] = set()
    for step in steps:
        if step.kind == "drain":
            out |= set(step.members)
        elif step.kind == "deploy":
            assert set(step.members) <= out
        elif step.kind == "probe":
            probed |= set(step.members)
        elif step.kind in ("traffic", "admit"):
            out -= set(step.members)
            assert set(step.members) & set(due) <= probed | {key for key in due if capacity[key] > 0}


@given(cases())
def test_a_share_is_never_more_than_its_members_carry_by_their_weight_and_something_stable_is_left(case: t.Any) -> None:
    members, due, capacity, hosts, stages = case
    try:
        steps = canary_in_place(members, due, capacity, hosts, stages)
    except PlanError:
        return
    for step in steps:
        if step.kind == "traffic":
            carried = sum(capacity[key] for key in step.members)
            waiting = [member.key for member in members if member.key not in step.members]
            assert carried >= step.shares["canary"] - 1e-3 or not any(key in due for key in waiting)
            assert any(capacity[key] > 0 for key in waiting)


# --- Side by side


def test_side_by_side_only_weights_move() -> None:
    members = fleet(4, "bbgg")
    steps = canary_side_by_side(members[:2], members[2:], ramp(10, {"pause": {}}, 50))
    assert told(steps) == [
        "deploy green (web3, web4)",
        "probe green (web3, web4)",
        "traffic green 10 %, blue 90 %",
        "analyse green (web3, web4) for 5m",
        "pause green (web3, web4)",
        "traffic green 50 %, blue 50 %",
        "analyse green (web3, web4) for 5m",
        "traffic green 100 %, blue 0 %",
        "analyse green (web3, web4) for 10s",
    ]
    assert [step.options.get("asks") for step in steps if step.options.get("judged")] == [False, True]


# --- What a person writes


def test_a_last_share_of_100_is_what_comes_anyway() -> None:
    assert read_stages([5, "25%", 100]) == (5.0, 25.0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (5, "must be a list"),
        ("5", "must be a list"),
        ([], "must be a list"),
        ([0], "above 0"),
        ([101], "up to 100"),
        ([True], "above 0"),
        (["half"], "above 0"),
        ([5, 5], "greater than the one before"),
        ([{"pause": {}}, 5], "begins with a pause"),
        ([100], "below 100"),
        ([5, 100, {"pause": {}}], "nothing after 100"),
        ([5, {"wait": {}}], "only `pause`"),
        ([5, {"pause": 3}], "a pause has 3"),
        ([5, {"pause": {"for": "soon"}}], "not a duration"),
    ],
)
def test_steps_that_make_no_sense_are_refused(raw: t.Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_stages(raw)


@given(
    st.lists(
        st.one_of(
            st.integers(), st.floats(), st.text(max_size=4), st.none(), st.dictionaries(st.text(max_size=5), st.none())
        ),
        max_size=4,
    )
)
def test_whatever_is_written_is_read_or_refused(raw: list[t.Any]) -> None:
    try:
        stages = read_stages(raw)
    except PlanError:
        return
    assert all(isinstance(stage, Step) or 0 < stage < 100 for stage in stages)


def test_a_pause_waits_for_a_time_or_for_somebody() -> None:
    assert pause({}).seconds is None
    assert pause(None).seconds is None
    assert pause({"for": "2m"}).seconds == 120
