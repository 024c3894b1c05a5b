# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._error_evidence import Counts, Tolerance
from ansible_collections.steady.rollout.plugins.module_utils._judge import JudgeError
from ansible_collections.steady.rollout.plugins.module_utils._judge_input import polls_of, settings_of, state_of
from hypothesis import given
from hypothesis import strategies as st

OPTIONS: dict[str, t.Any] = {
    "polls": [],
    "latencies": [],
    "averages": [],
    "state": {},
    "tolerance": {},
    "further": {},
    "alpha": 0.01,
    "beta": 0.05,
    "horizon": 180,
    "min_requests": 50,
    "absolute_max": 0.5,
}
POLL = {"canary": {"requests": 10, "errors": 1}, "stable": {"requests": 90, "errors": 2}}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_polls_are_read_with_what_is_counted_further() -> None:
    poll = {"canary": {"requests": 10, "errors": 1, "http_4xx": 4}, "stable": {"requests": "90"}}
    further = {"http_4xx": {"ratio": 2, "delta": 0.005}}
    (read,) = polls_of({**OPTIONS, "polls": [poll], "further": further})
    assert read.counts == {"errors": Counts(10, 1, 90, 0), "http_4xx": Counts(10, 4, 90, 0)}
    assert settings_of({**OPTIONS, "further": further}).further == {"http_4xx": Tolerance(2, 0.005)}


def test_a_pass_takes_the_tolerance_of_a_fail_unless_it_has_its_own() -> None:
    assert settings_of({**OPTIONS, "tolerance": {"ratio": 3}}).passes == Tolerance(3, 0.0005)
    sharper = {"ratio": 1.25, "delta": 0.0001, "pass_ratio": 2, "pass_delta": 0.0005}
    settings = settings_of({**OPTIONS, "tolerance": sharper})
    assert (settings.fails, settings.passes) == (Tolerance(1.25, 0.0001), Tolerance(2, 0.0005))


def test_latencies_are_judged_when_the_first_call_has_some() -> None:
    settings = settings_of(OPTIONS)
    with_them = {**OPTIONS, "polls": [POLL], "latencies": [{"canary": [1, 2], "stable": {"5": 3, "+Inf": 1}}]}
    assert state_of(with_them, settings).latency is not None
    assert state_of({**OPTIONS, "polls": [POLL]}, settings).latency is None
    assert [len(polls_of(with_them)[0].canary_ms), len(polls_of(with_them)[0].stable_ms)] == [2, 2]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"polls": [{"canary": {"requests": -1}}]}, r"polls\[0\].canary.requests"),
        ({"polls": [POLL, {"stable": {"requests": 1.5}}]}, r"polls\[1\].stable.requests"),
        ({"polls": [{"canary": {"request": 1}}]}, "'request'"),
        ({"polls": [{"blue": {}}]}, "'blue'"),
        ({"polls": [POLL], "latencies": [{}, {}]}, "2 entries for 1 polls"),
        ({"polls": [POLL], "latencies": [{"canary": [-1]}]}, r"latencies\[0\].canary"),
        ({"polls": [POLL], "latencies": [{"stable": {"5": -2}}]}, r"latencies\[0\].stable"),
        ({"polls": [POLL], "averages": [{"canary": -3}]}, r"averages\[0\].canary"),
        ({"tolerance": {"ratoi": 2}}, "'ratoi'"),
        ({"tolerance": {"ratio": "much"}}, "tolerance.ratio"),
        ({"further": {"http_4xx": {"ratio": 2}}}, "needs a ratio and a delta"),
        ({"alpha": 2}, "alpha"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(given: dict[str, t.Any], told: str) -> None:
    options = {**OPTIONS, **given}
    with pytest.raises(JudgeError, match=told):
        settings_of(options), polls_of(options)


@given(st.sampled_from(["polls", "latencies", "averages", "tolerance", "further"]), anything)
def test_anything_else_is_read_or_refused(name: str, value: t.Any) -> None:
    mapping = name in ("tolerance", "further")
    given = value if isinstance(value, dict) and mapping else {} if mapping else [value]
    options = {**OPTIONS, "polls": [POLL], name: given}
    with contextlib.suppress(JudgeError):
        settings_of(options), polls_of(options)
