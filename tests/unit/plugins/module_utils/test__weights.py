# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from fractions import Fraction

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._weights import MAX_WEIGHT, share_of, split
from hypothesis import example, given
from hypothesis import strategies as st

from examples import examples

# NGINX takes larger ones than are ever told.
weight = st.integers(min_value=0, max_value=MAX_WEIGHT) | st.integers(min_value=0, max_value=100_000)
percents = st.one_of(st.integers(min_value=0, max_value=100), st.floats(min_value=0, max_value=100))


def track(prefix: str) -> st.SearchStrategy[dict[str, int]]:
    weights = st.lists(weight, min_size=1, max_size=8).filter(any)
    return weights.map(lambda values: {f"{prefix}{i}": value for i, value in enumerate(values)})


def equal(prefix: str, count: int, value: int = 100) -> dict[str, int]:
    return {f"{prefix}{i}": value for i in range(count)}


@given(track("c"), track("s"), percents)
@examples(200)
@example({"c0": 256, "c1": 1}, {"s0": 255, "s1": 254}, 1e-9)
def test_weights_are_whole_numbers_in_range_for_every_server(canary, stable, percent):
    found = split(canary, stable, percent)
    assert found.weights.keys() == canary.keys() | stable.keys()
    most = max(MAX_WEIGHT, *canary.values(), *stable.values())  # of all traffic a side keeps its own
    assert all(isinstance(value, int) and 0 <= value <= most for value in found.weights.values())


@given(track("c"), track("s"), percents)
@examples(200)
def test_share_and_error_are_those_of_the_weights(canary, stable, percent):
    found = split(canary, stable, percent)
    assert found.share == pytest.approx(share_of(canary, found.weights), abs=1e-9)
    assert found.error == pytest.approx(found.share - percent, abs=1e-9)


@given(track("c"), track("s"), percents.filter(lambda percent: 0 < percent < 100))
@examples(200)
def test_only_servers_of_base_weight_zero_get_nothing(canary, stable, percent):
    found = split(canary, stable, percent)
    assert {name for name, value in found.weights.items() if not value} == {
        name for name, value in {**canary, **stable}.items() if not value
    }


@given(track("c"), track("s"), percents)
@examples(200)
def test_skew_bounds_how_far_a_server_strays_within_its_track(canary, stable, percent):
    found = split(canary, stable, percent)
    for base in (canary, stable):
        total = sum(found.weights[name] for name in base)
        for name, own in base.items():
            if total and own:
                part, before = Fraction(found.weights[name], total), Fraction(own, sum(base.values()))
                assert abs(part - before) / before * 100 <= found.skew + 1e-9


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 99))
@examples(60)
def test_no_weights_of_equal_servers_come_nearer(canaries, stables, percent):
    found = split(equal("c", canaries), equal("s", stables), percent)
    nearest = min(
        abs(100 * canaries * mine / (canaries * mine + stables * other) - percent)
        for mine in range(1, MAX_WEIGHT + 1)
        for other in range(1, MAX_WEIGHT + 1)
    )
    assert abs(found.error) == pytest.approx(nearest, abs=1e-9)


@given(track("c"), track("s"), percents, percents)
@examples(100)
def test_a_larger_share_is_never_answered_with_a_smaller_one(canary, stable, one, other):
    low, high = sorted((one, other))
    assert split(canary, stable, low).share <= split(canary, stable, high).share + 1e-9


def test_nothing_moves_when_the_share_is_the_one_the_base_weights_give():
    assert split({"web1": 100}, {"web2": 100}, 50).weights == {"web1": 100, "web2": 100}


def test_one_percent_on_one_of_ten_is_met_closely():
    found = split(equal("c", 1), equal("s", 9), 1)
    assert abs(found.error) < 0.005


def test_base_weights_in_the_ratio_one_to_three_keep_it_exactly():
    found = split({"small": 10, "large": 30}, equal("s", 4), 5)
    assert found.weights["large"] == 3 * found.weights["small"]
    assert abs(found.error) < 0.05


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, {"c0": 0, "c1": 0, "s0": 7}), (100, {"c0": 10, "c1": 20, "s0": 0})]
)
def test_the_side_that_carries_everything_keeps_its_base_weights(percent, expected):
    found = split({"c0": 10, "c1": 20}, {"s0": 7}, percent)
    assert (found.weights, found.share, found.error) == (expected, float(percent), 0.0)


@pytest.mark.parametrize(
    ("canary", "stable", "percent", "said"),
    [
        ({"a": 1}, {"b": 1}, 101, "from 0 to 100 percent, not 101"),
        ({"a": 1}, {"b": 1}, -1, "from 0 to 100 percent, not -1"),
        ({"a": 1}, {"b": 1}, float("nan"), "from 0 to 100 percent, not nan"),
        ({"a": -1}, {"b": 1}, 5, "-1 of a is below 0"),
        ({"a": 1}, {"a": 1}, 5, "a would be in both tracks"),
        ({"a": 0}, {"b": 1}, 5, "5 percent of the traffic cannot go to a track without"),
        ({}, {"b": 1}, 5, "5 percent of the traffic cannot go to a track without"),
        ({"a": 1}, {}, 5, "95 percent of the traffic cannot go to a track without"),
    ],
)
def test_what_cannot_be_split_is_refused_in_words(canary, stable, percent, said):
    with pytest.raises(ValueError, match=said):
        split(canary, stable, percent)


def test_an_empty_track_may_get_nothing():
    assert split({}, {"b": 3}, 0).weights == {"b": 3}
