# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._analysis import (
    PAST_RATIO,
    Analysis,
    Past,
    analyse,
    at_end,
    line,
    past_of,
)
from hypothesis import given
from hypothesis import strategies as st

from simulated_rollout import JUDGE

SIDES = {"canary": [["shop", "web1"]], "stable": [["shop", "web2"], ["shop", "web3"]]}
TOLD: dict[str, t.Any] = {
    "sides": SIDES,
    "name": "the canary",
    "past": [],
    "options": {**JUDGE, "horizon": 180},
    "judged": True,
    "asks": True,
    "state": {},
}
GOOD = {"canary": [100, 0, 0, 0], "stable": [900, 0, 0, 0]}


def server(name: str, response: int | None = 10, requests: int = 1000) -> dict[str, t.Any]:
    return {"backend": "shop", "name": name, "requests": requests, "times": {"response": response, "total": response}}


def polls(*grown: t.Mapping[str, t.Sequence[int]], servers: t.Mapping[str, t.Any] | None = None) -> Analysis:
    """The analysis after some polls; its state goes by way of JSON."""
    known: dict[str, t.Any] = {}
    for one in grown:
        analysis = analyse(TOLD, known, one, servers or {})
        known = json.loads(json.dumps(analysis.state))
    return analysis


def test_a_failed_connection_is_a_request_and_an_error() -> None:
    refusing = {"canary": [50, 0, 50, 0], "stable": [900, 0, 0, 0]}
    analysis = polls(*[refusing] * 4)
    assert analysis.verdict == "fail"
    assert "150 of 150 requests (100 %)" in analysis.reason


def test_a_canary_that_answers_nothing_fails() -> None:
    assert polls(*[{"canary": [50, 0, 0, 50], "stable": [950, 0, 0, 0]}] * 4).verdict == "fail"


def test_a_tolerance_of_ones_own_is_not_widened_beyond_use_by_the_past() -> None:
    told = {**TOLD, "options": {**TOLD["options"], "tolerance": {"delta": 0.03}}, "past": [["shop", "web2"]]}
    known: dict[str, t.Any] = {}
    past = Past(100_000, 0, 10)
    for _poll in range(10):
        analysis = analyse(told, known, {"canary": [1000, 100, 0, 0], "stable": [0, 0, 0, 0]}, {}, past)
        known, past = analysis.state, analysis.past
    assert analysis.verdict == "fail"
    assert "3 points more" in analysis.reason


def test_answers_that_break_off_count_as_errors_too() -> None:
    assert polls(*[{"canary": [100, 20, 0, 30], "stable": [900, 0, 0, 0]}] * 4).verdict == "fail"


def test_a_slow_canary_is_found_by_the_means_that_load_balancers_tell() -> None:
    servers = {"lb1": [server("web1", 30), server("web2", 10), server("web3", 11)]}
    busy = {"canary": [1100, 0, 0, 0], "stable": [9000, 0, 0, 0]}
    analysis = polls(*[busy] * 14, servers=servers)
    assert analysis.verdict == "fail"
    assert "average times" in analysis.reason
    assert analysis.means == "mean times 30 and 10 ms" or analysis.means == "mean times 30 and 11 ms"


def test_a_server_without_requests_or_times_has_no_mean() -> None:
    servers = {"lb1": [server("web1", 30, requests=0), server("web2", None)]}
    assert polls(GOOD, servers=servers).means == ""


@pytest.mark.parametrize(
    ("judge", "watched", "requests", "elapsed", "expected"),
    [
        # A watch that only looks keeps its own verdict.
        ({"judged": False}, ("pass", "fine"), 100, 60.0, "pass"),
        ({"judged": False}, ("inconclusive", "few"), 1, 60.0, "inconclusive"),
        # Too few requests: prolonged, and then it is the policy's turn.
        ({}, ("inconclusive", "few"), 1, 60.0, "going"),
        ({}, ("inconclusive", "few"), 1, 600.0, "inconclusive"),
        # Before the last step no pass is asked for.
        ({"asks": False}, ("pass", "fine"), 100, 60.0, "pass"),
        # 7000 more requests at 1000 in a minute are not there in ten; at 2000 they are.
        ({}, ("pass", "fine"), 700, 60.0, "inconclusive"),
        ({}, ("pass", "fine"), 2000, 60.0, "going"),
        ({}, ("pass", "fine"), 0, 60.0, "inconclusive"),
    ],
)
def test_what_follows_when_the_time_of_a_step_is_up(
    judge: dict[str, t.Any], watched: tuple[str, str], requests: int, elapsed: float, expected: str
) -> None:
    analysis = Analysis("inconclusive", "not enough evidence yet", 7000, 0.0, 0.3, {}, "")
    assert at_end({**TOLD, **judge}, analysis, watched, requests, elapsed, 600.0)[0] == expected


def test_the_last_step_ends_with_a_pass() -> None:
    analysis = Analysis("pass", "not worse", 0, 0.0, 1.0, {}, "")
    assert at_end(TOLD, analysis, ("pass", "fine"), 100, 60.0, 600.0) == ("pass", "not worse")


def test_what_looks_bad_is_not_waited_for() -> None:
    analysis = Analysis("inconclusive", "it looks worse", None, 0.5, 0.0, {}, "")
    assert at_end(TOLD, analysis, ("pass", "fine"), 10_000, 60.0, 600.0) == ("inconclusive", "it looks worse")


def test_a_line_tells_all_that_a_person_wants_to_know() -> None:
    watch = {
        "seconds": 300.0,
        "steps": "step 5 of 12",
        "name": "canary",
        "rest_name": "stable",
        "wanted_percent": 10.0,
        "judge": TOLD,
    }
    analysis = Analysis("inconclusive", "", None, 0.03, 0.4, {}, "mean times 12 and 11 ms")
    assert line(watch, analysis, [121, 1, 1, 0], [1000, 0, 0, 0], 90.0) == (
        "step 5 of 12, 3m30s left; canary gets 10.8 % of the traffic, 10.0 % wanted; canary 121 requests, 2 errors (1.7 %), stable 1000 "
        "requests, 0 errors (0 %); mean times 12 and 11 ms; evidence for fail 3 %, for pass 40 %"
    )


# --- What carried before


def after(past: Past, *grown: t.Sequence[int]) -> Analysis:
    """The analysis of a release that got all traffic at once, after some polls."""
    told = {**TOLD, "past": [["shop", "web2"]], "judged": False, "asks": False}
    known: dict[str, t.Any] = {}
    for counts in grown:
        analysis = analyse(told, known, {"canary": counts, "stable": [0, 0, 0, 0]}, {}, past)
        known, past = json.loads(json.dumps(analysis.state)), Past(*json.loads(json.dumps(analysis.past)))
    return analysis


def test_a_release_that_fails_more_than_what_carried_before_fails() -> None:
    analysis = after(Past(100_000, 100, 10), *[[1000, 30, 0, 0]] * 10)
    assert analysis.verdict == "fail"
    assert "of what carried before" in analysis.reason


def test_a_release_that_fails_as_much_as_what_carried_before_does_not_fail() -> None:
    assert after(Past(100_000, 3000, 10), *[[1000, 30, 0, 0]] * 10).verdict != "fail"


def test_the_past_is_no_yardstick_as_sharp_as_what_carries_beside() -> None:
    # Halfway between what is tolerated of a canary beside and of this, at a rate where the delta says little.
    ratio = 1.5 * (PAST_RATIO + 1) / 2
    worse = int(1000 * 0.1 * ratio)
    assert after(Past(100_000, 10_000, 10), *[[1000, worse, 0, 0]] * 10).verdict != "fail"


def test_a_poll_without_requests_uses_up_nothing_of_the_past() -> None:
    assert after(Past(1000, 0, 10), [0, 0, 0, 0], [10, 0, 0, 0]).past.dealt == 1


def test_without_a_past_only_what_most_requests_do_is_judged() -> None:
    assert after(Past(), *[[1000, 100, 0, 0]] * 10).verdict == "inconclusive"
    assert after(Past(), *[[1000, 900, 0, 0]] * 10).verdict == "fail"


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 500))
def test_each_request_of_the_past_is_dealt_out_once(requests: int, errors: int, parts: int) -> None:
    past = past_of([requests, errors, 0, 0], parts, 0)
    dealt = [0, 0]
    for _number in range(parts + 3):
        part = past.part()
        assert 0 <= part[1] <= part[0]
        dealt = [dealt[0] + part[0], dealt[1] + part[1]]
        past = past._replace(dealt=past.dealt + 1)
    assert dealt == [max(requests, errors), errors]
