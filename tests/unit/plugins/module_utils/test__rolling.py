# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._rolling import batched, rolling, undo_steps
from hypothesis import given
from hypothesis import strategies as st

COUNTS = st.integers(1, 30)
PERCENTS = st.integers(1, 100).map(lambda percent: f"{percent}%")
SIZES = COUNTS | PERCENTS
BATCHES = SIZES | st.lists(SIZES, min_size=1, max_size=4)


@st.composite
def fleets(draw: st.DrawFn) -> list[Member]:
    domains = draw(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=20))
    return [Member(f"web{i}", f"web{i}", "", {"shop": f"web{i}"}, domain) for i, domain in enumerate(domains)]


def fleet(count: int, domains: str = "") -> list[Member]:
    return [Member(f"web{i + 1}", f"web{i + 1}", "", {"shop": f"web{i + 1}"}, domains[i : i + 1]) for i in range(count)]


def size_of(value: int | str, count: int) -> int:
    return value if isinstance(value, int) else max(1, int(Fraction(value[:-1]) * count / 100))


def hosts(batches) -> list[list[str]]:
    return [[member.key for member in batch] for batch in batches]


@given(fleets(), BATCHES, SIZES | st.none(), st.booleans())
def test_every_member_is_in_exactly_one_batch(members, sizes, most, spread):
    made = batched(members, sizes, most, spread)
    assert Counter(member.key for batch in made for member in batch) == Counter(member.key for member in members)
    assert all(made)


@given(fleets(), BATCHES, SIZES, st.booleans())
def test_no_batch_is_above_max_unavailable(members, sizes, most, spread):
    made = batched(members, sizes, most, spread)
    assert max(len(batch) for batch in made) <= size_of(most, len(members))


@given(fleets(), st.lists(SIZES, min_size=1, max_size=4), st.booleans())
def test_no_batch_is_larger_than_its_size(members, sizes, spread):
    for place, batch in enumerate(batched(members, sizes, None, spread)):
        assert len(batch) <= size_of(sizes[min(place, len(sizes) - 1)], len(members))


@given(fleets(), BATCHES, SIZES | st.none())
def test_no_batch_has_two_members_of_one_failure_domain(members, sizes, most):
    for batch in batched(members, sizes, most, True):
        domains = [member.domain for member in batch if member.domain]
        assert len(domains) == len(set(domains))


@given(fleets(), BATCHES, SIZES | st.none())
def test_without_spreading_the_order_is_kept_and_only_the_last_batch_may_be_short(members, sizes, most):
    made = batched(members, sizes, most, False)
    assert [member for batch in made for member in batch] == members
    wanted = sizes if isinstance(sizes, list) else [sizes]
    for place, batch in enumerate(made[:-1]):
        size = size_of(wanted[min(place, len(wanted) - 1)], len(members))
        assert len(batch) == min(size, size_of(most, len(members)) if most is not None else size)


@given(fleets(), BATCHES)
def test_spreading_keeps_the_order_within_each_failure_domain(members, sizes):
    done = [member for batch in batched(members, sizes, None, True) for member in batch]
    for domain in {member.domain for member in members}:
        assert [m for m in done if m.domain == domain] == [m for m in members if m.domain == domain]


@pytest.mark.parametrize(
    ("count", "sizes", "most", "lengths"),
    [
        (6, 1, None, [1] * 6),
        (6, "25%", None, [1] * 6),
        (6, "50%", None, [3, 3]),
        (6, [1, 2, "50%"], None, [1, 2, 3]),
        (7, [1, 2], None, [1, 2, 2, 2]),
        (6, "100%", 2, [2, 2, 2]),
        (6, "100%", "34%", [2, 2, 2]),
        (6, "100%", "1%", [1] * 6),
        (10, "29%", None, [2] * 5),
        (1000, "4.1%", None, [41] * 24 + [16]),
        (3, "2", None, [2, 1]),
        (3, 99, None, [3]),
        (200, "0.1 %", "100%", [1] * 200),
    ],
)
def test_sizes_are_numbers_or_percents_rounded_down(count, sizes, most, lengths):
    assert [len(batch) for batch in batched(fleet(count), sizes, most, False)] == lengths


def test_members_of_a_domain_that_is_in_the_batch_already_wait_for_a_later_one():
    assert hosts(batched(fleet(6, "aabbcc"), 3, None, True)) == [["web1", "web3", "web5"], ["web2", "web4", "web6"]]


@pytest.mark.parametrize(
    "value", [0, -1, "0", "0%", "101%", "x", "", "%", "-5%", 1.5, None, True, {}, [[]], [0], b"1", "1e2"]
)
def test_what_is_no_size_is_refused(value):
    with pytest.raises(PlanError, match=r"rolling_batches has .*such as 25%"):
        batched(fleet(6), value, None, False)


@pytest.mark.parametrize("value", [0, "0%", [], "many"])
def test_what_is_no_limit_is_refused(value):
    with pytest.raises(PlanError, match="rolling_max_unavailable has"):
        batched(fleet(6), 1, value, False)


def test_an_empty_list_of_batches_is_refused():
    with pytest.raises(PlanError, match="empty list"):
        batched(fleet(6), [], None, False)


def test_an_empty_fleet_is_refused():
    with pytest.raises(PlanError, match="The fleet is empty"):
        batched([], 1, None, False)


def test_each_batch_is_drained_released_probed_put_back_and_watched():
    assert [step.words() for step in rolling(fleet(3), [1, 2], None, 10, False)] == [
        "drain web1",
        "deploy web1",
        "probe web1",
        "admit web1",
        "analyse web1 for 10s",
        "drain web2, web3",
        "deploy web2, web3",
        "probe web2, web3",
        "admit web2, web3",
        "analyse web2, web3 for 10s",
    ]


def test_a_batch_passes_without_requests():
    assert rolling(fleet(1), 1, None, 10, False)[-1].options == {"require_requests": False}


def test_without_a_time_to_be_healthy_nothing_is_watched():
    assert [step.kind for step in rolling(fleet(1), 1, None, 0, False)] == ["drain", "deploy", "probe", "admit"]


KEYS = st.sampled_from([f"web{i}" for i in range(8)])
GROUPS = st.lists(st.lists(KEYS, max_size=4, unique=True), max_size=6)


@given(GROUPS, st.sets(KEYS))
def test_the_way_back_touches_exactly_the_carried_members_that_were_deployed(deployed, carried):
    touched = {key for step in undo_steps(deployed, carried) for key in step.members}
    assert touched == {key for group in deployed for key in group} & carried


@given(GROUPS, st.sets(KEYS))
def test_the_way_back_deploys_each_member_once_from_the_last_group_to_the_first(deployed, carried):
    order = [key for step in undo_steps(deployed, carried) if step.kind == "deploy" for key in step.members]
    last = {key: place for place, group in enumerate(deployed) for key in group}
    assert len(order) == len(set(order))
    assert [last[key] for key in order] == sorted((last[key] for key in order), reverse=True)


@given(GROUPS, st.sets(KEYS))
def test_the_way_back_drains_before_it_deploys_and_probes_before_it_admits(deployed, carried):
    steps = undo_steps(deployed, carried)
    for start in range(0, len(steps), 4):
        group = steps[start : start + 4]
        assert [step.kind for step in group] == ["drain", "deploy", "probe", "admit"]
        assert len({step.members for step in group}) == 1


@given(fleets(), BATCHES, st.booleans())
def test_undoing_a_whole_rolling_release_is_its_batches_in_reverse(members, sizes, spread):
    groups = [step.members for step in rolling(members, sizes, None, 0, spread) if step.kind == "deploy"]
    undone = undo_steps(groups, {member.key for member in members})
    assert [step.members for step in undone if step.kind == "deploy"] == list(reversed(groups))
