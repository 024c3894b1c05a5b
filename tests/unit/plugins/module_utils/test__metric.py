# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import math
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._metric import (
    Answer,
    Metric,
    Record,
    judge,
    measured,
    read_metrics,
    together,
    verdict,
)
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from hypothesis import given
from hypothesis import strategies as st

ONE = {"name": "errors", "url": "http://prom:9090", "query": "x", "success": "< 0.05"}
BOTH = {"name": "errors", "url": "http://prom:9090", "canary": "x{$canary}", "stable": "x{$stable}"}


def metric(**options: t.Any) -> Metric:
    (made,) = read_metrics([{**ONE, **options}])
    return made


def comparing(**options: t.Any) -> Metric:
    (made,) = read_metrics([{**BOTH, **options}])
    return made


def value(number: float | None) -> Answer:
    return Answer({"value": number})


def after(one: Metric, *answers: Answer) -> Record:
    record = Record()
    for answer in answers:
        record = measured(one, record, answer, 100.0)
    return record


@pytest.mark.parametrize(
    ("success", "failure", "number", "outcome"),
    [
        ("< 0.05", None, 0.01, "successful"),
        ("< 0.05", None, 0.05, "failed"),
        (None, ">= 0.1", 0.1, "failed"),
        (None, ">= 0.1", 0.05, "successful"),
        ("< 0.05", "> 0.1", 0.01, "successful"),
        ("< 0.05", "> 0.1", 0.07, "inconclusive"),
        ("< 0.05", "> 0.1", 0.2, "failed"),
        # Where both hold, the failure counts.
        ("< 0.5", "> 0.1", 0.2, "failed"),
        (" <= 1e-3 ", None, 0.001, "successful"),
        ("< 1", None, math.inf, "failed"),
    ],
)
def test_conditions_decide_what_a_measurement_is(
    success: str | None, failure: str | None, number: float, outcome: str
) -> None:
    assert judge(metric(success=success, failure=failure), value(number))[0] == outcome


@pytest.mark.parametrize(
    ("policy", "outcome"), [("inconclusive", "inconclusive"), ("fail", "failed"), ("error", "error"), ("ignore", "")]
)
@pytest.mark.parametrize("number", [None, math.nan])
def test_no_data_and_nan_are_what_the_policy_says(policy: str, outcome: str, number: float | None) -> None:
    assert judge(metric(no_data=policy), value(number))[0] == outcome


@pytest.mark.parametrize(
    ("canary", "stable", "outcome"),
    [
        (1.5, 1.0, "successful"),
        (1.7, 1.0, "failed"),
        (0.1, 0.0, "successful"),
        (0.11, 0.0, "failed"),
        (1.0, None, "inconclusive"),
    ],
)
def test_a_canary_is_compared_with_the_stable_servers(canary: float, stable: float | None, outcome: str) -> None:
    answer = Answer({"canary": canary, "stable": stable})
    assert judge(comparing(ratio=1.5, delta=0.1), answer)[0] == outcome


def test_one_failure_more_than_the_limit_fails() -> None:
    one = metric(failure_limit=1)
    assert verdict(one, after(one, value(1), value(0)))[0] == "pass"
    assert verdict(one, after(one, value(1), value(0), value(1)))[0] == "fail"


def test_errors_fail_only_when_they_come_in_a_row() -> None:
    one = metric(consecutive_error_limit=1)
    broken = Answer(error="no connection")
    assert verdict(one, after(one, broken, value(0), broken))[0] == "pass"
    worst, why = verdict(one, after(one, value(0), broken, broken))
    assert worst == "fail"
    assert "no connection" in why


def test_what_was_never_measured_is_no_pass() -> None:
    one = metric(no_data="ignore")
    assert verdict(one, Record())[0] == "inconclusive"
    assert verdict(one, after(one, value(None), value(None)))[0] == "inconclusive"


def test_an_error_is_asked_about_again_sooner() -> None:
    one = metric(interval=60)
    assert after(one, value(0)).due == 160.0
    assert after(one, Answer(error="x")).due == 110.0


def test_the_worst_metric_counts() -> None:
    good, bad, never = (metric(name=name) for name in ("good", "bad", "never"))
    records = {"good": after(good, value(0)), "bad": after(bad, value(1))}
    assert together([good], records)[0] == "pass"
    assert together([good, never], records)[0] == "inconclusive"
    worst, why = together([good, never, bad], records)
    assert (worst, "bad" in why) == ("fail", True)
    assert together([], {}) == ("pass", "")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("errors", "must be a list"),
        ([5], "must be a map"),
        ([{**ONE, "querry": "x"}], "querry"),
        ([{**ONE, "provider": "graphite"}], "provider 'graphite'"),
        ([{**ONE, "url": "prom:9090"}], "begins with http"),
        ([{**ONE, "name": ""}], "needs a name"),
        ([{**ONE, "success": None}], "neither success nor failure"),
        ([{**ONE, "success": "small"}], "a sign and a number"),
        ([{**ONE, "success": "< 0.05; import os"}], "a sign and a number"),
        ([{**BOTH, "stable": None}], "or both canary and stable"),
        ([{**BOTH, "success": "< 1"}], "for a single query"),
        ([{**ONE, "provider": "http"}], "needs either path"),
        ([{**ONE, "no_data": "pass"}], "no_data 'pass'"),
        ([{**ONE, "failure_limit": -1}], "failure_limit"),
        ([{**BOTH, "ratio": "much"}], "ratio"),
        ([{**ONE, "interval": "soon"}], "not a duration"),
        ([ONE, ONE], "more than once"),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(raw: t.Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        read_metrics(raw)


def test_what_is_secret_is_not_shown() -> None:
    assert "hush" not in repr(metric(password="hush", headers={"Authorization": "hush"}))


@given(st.lists(st.sampled_from([value(0), value(1), value(None), value(math.nan), Answer(error="x")]), max_size=12))
def test_without_a_successful_measurement_there_is_no_pass(answers: list[Answer]) -> None:
    one = metric(failure_limit=100, consecutive_error_limit=100, inconclusive_limit=100)
    record = after(one, *answers)
    assert (verdict(one, record)[0] == "pass") == (record.successful > 0)
