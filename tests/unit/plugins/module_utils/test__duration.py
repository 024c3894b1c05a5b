# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._duration import LONGEST, duration, spelled
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from hypothesis import example, given
from hypothesis import strategies as st

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (30, 30),
        (0.5, 0.5),
        ("30", 30),
        (" 30s ", 30),
        ("1.5s", 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("2h5s", 7205),
        ("1d", 86400),
        ("366d", LONGEST),
    ],
)
def test_durations_are_read(value, seconds):
    assert duration(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        [],
        {},
        "",
        " ",
        "m",
        "5 m",
        "5x",
        "-5",
        "m5",
        "30s5m",
        "1h30",
        "5m5m",
        "1e3",
        "٣",
        "5m\n5s",
        ".5",
        "5.",
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(value):
    with pytest.raises(PlanError, match="1h30m"):
        duration(value)


@pytest.mark.parametrize("value", [-1, -0.1, "367d", 10**400, -(10**400), float("inf"), LONGEST + 1, "9" * 20])
def test_what_is_out_of_range_is_refused_with_the_range(value):
    with pytest.raises(PlanError, match="from 0 seconds to a year"):
        duration(value)


def test_not_a_number_is_no_duration():
    with pytest.raises(PlanError, match="is not a duration"):
        duration(float("nan"))


@given(ANYTHING)
@example(10**5000)
@example("9" * 5000)
def test_anything_is_a_duration_or_a_plan_error(value):
    try:
        seconds = duration(value)
    except PlanError:
        return
    assert 0 <= seconds <= LONGEST


@given(st.integers(0, LONGEST))
def test_whole_seconds_are_spelled_so_that_they_are_read_again(seconds):
    assert duration(spelled(seconds)) == seconds


@given(st.floats(0, 60))
def test_fractions_of_less_than_a_minute_are_spelled_to_the_millisecond(seconds):
    assert duration(spelled(seconds)) == pytest.approx(seconds, abs=0.00051)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "0.25s"), (10, "10s"), (59.9999, "1m"), (90, "1m30s"), (300, "5m"), (90000, "1d1h")],
)
def test_durations_are_spelled_for_people(seconds, text):
    assert spelled(seconds) == text
