# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import math

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._share import FEW, interval, observe, share_check
from hypothesis import given
from hypothesis import strategies as st

counts = st.integers(min_value=0, max_value=10**9)
confidences = st.floats(min_value=0.01, max_value=0.9999)


# --- The interval


def test_the_interval_is_wilsons() -> None:
    # Agresti and Coull (1998) give 95 % bounds of Wilson's interval for 0 of 10; for 5 of 10 it is symmetric.
    assert interval(0, 10, 0.95) == pytest.approx((0, 0.2775), abs=5e-4)
    low, high = interval(5, 10, 0.95)
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=5e-4)


def test_nothing_tried_says_nothing() -> None:
    assert interval(0, 0) == (0.0, 1.0)


@given(counts, counts, confidences)
def test_the_interval_holds_what_was_seen(successes: int, requests: int, confidence: float) -> None:
    low, high = interval(successes, requests, confidence)
    assert 0 <= low <= high <= 1
    if requests:
        assert low - 1e-9 <= min(successes, requests) / requests <= high + 1e-9


@given(st.integers(min_value=1, max_value=10**6), st.data())
def test_more_requests_with_the_same_share_narrow_the_interval(requests: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(min_value=0, max_value=requests))
    few, many = interval(successes, requests), interval(10 * successes, 10 * requests)
    assert many[1] - many[0] <= few[1] - few[0] + 1e-9


@given(st.integers(min_value=1, max_value=10**6), st.data())
def test_the_interval_of_failures_mirrors_that_of_successes(requests: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(min_value=0, max_value=requests))
    low, high = interval(successes, requests)
    other_low, other_high = interval(requests - successes, requests)
    assert (low, high) == pytest.approx((1 - other_high, 1 - other_low), abs=1e-9)


@given(st.integers(min_value=-5, max_value=40), st.integers(min_value=-5, max_value=20))
def test_impossible_counts_are_taken_to_the_nearest_possible(successes: int, requests: int) -> None:
    assert interval(successes, requests) == interval(min(max(successes, 0), max(requests, 0)), requests)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 2.0, math.nan])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval(1, 2, confidence)


# --- The share


def test_what_was_seen_is_told_in_words() -> None:
    assert share_check({"web1": 25, "web4": 575, "web5": 600}, {"web4", "web5"}, 100).words == (
        "97.9 % of 1200 requests (96.1-98.9 %) where 100 % is wanted"
    )


def test_a_share_within_the_tolerance_is_ok() -> None:
    assert share_check({"a": 4, "b": 9996}, ["b"], 100).verdict == "ok"
    assert share_check({"a": 9996, "b": 4}, ["b"], 0).verdict == "ok"
    assert share_check({"a": 530, "b": 470}, ["b"], 50).verdict == "ok"


def test_a_share_of_which_no_bound_is_within_the_tolerance_is_off() -> None:
    assert share_check({"a": 5000, "b": 5000}, ["b"], 100).verdict == "off"
    assert share_check({"a": 5000, "b": 5000}, ["b"], 0).verdict == "off"


def test_a_share_that_may_be_within_the_tolerance_is_ok() -> None:
    observed = share_check({"a": 8, "b": 52}, ["b"], 100)
    assert observed.share is not None
    assert observed.share < 95 < observed.high
    assert observed.verdict == "ok"


def test_few_requests_tell_little() -> None:
    observed = share_check({"a": FEW - 1, "b": 0}, ["b"], 100)
    assert observed.verdict == "few"
    assert observed.share == 0
    assert observed.words.endswith("where 100 % is wanted; fewer than 50 tell little")


def test_without_requests_there_is_no_share() -> None:
    observed = share_check({"a": 0, "b": 0}, ["b"], 5)
    assert (observed.requests, observed.share, observed.verdict) == (0, None, "few")
    assert observed.words == "no requests where 5 % is wanted"


servers = st.dictionaries(st.sampled_from("abcdef"), st.integers(min_value=-10, max_value=10**6))


@given(servers, st.sets(st.sampled_from("abcdefg")), st.floats(min_value=0, max_value=100))
def test_any_counts_give_a_share_that_lies_in_its_bounds(
    requests: dict[str, int], track: set[str], wanted: float
) -> None:
    observed = share_check(requests, track, wanted)
    assert observed.verdict in ("ok", "off", "few")
    assert json.loads(json.dumps(observed.as_dict())) == observed.as_dict()
    assert observed.requests == sum(max(0, count) for count in requests.values())
    if observed.share is not None:
        assert observed.low - 1e-6 <= observed.share <= observed.high + 1e-6


@given(servers, st.sets(st.sampled_from("abcdef")))
def test_the_share_of_a_track_and_of_the_rest_are_100_percent(requests: dict[str, int], track: set[str]) -> None:
    mine, others = share_check(requests, track, 50), share_check(requests, set("abcdef") - track, 50)
    if mine.share is not None:
        assert others.share is not None
        assert mine.share + others.share == pytest.approx(100)


@given(st.integers(min_value=FEW, max_value=10**6), st.data(), st.floats(min_value=0, max_value=100))
def test_a_wider_tolerance_never_makes_a_share_off(total: int, data: st.DataObject, wanted: float) -> None:
    mine = data.draw(st.integers(min_value=0, max_value=total))
    if observe(mine, total, wanted, 5).verdict == "ok":
        assert observe(mine, total, wanted, 10).verdict == "ok"
