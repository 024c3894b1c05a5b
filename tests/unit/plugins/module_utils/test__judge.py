# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections
import json
import math
import random
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _judge
from ansible_collections.steady.rollout.plugins.module_utils._error_evidence import Counts, Tolerance
from ansible_collections.steady.rollout.plugins.module_utils._judge import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    Averages,
    JudgeError,
    Poll,
    Settings,
    State,
)
from ansible_collections.steady.rollout.plugins.module_utils._latency_evidence import samples
from hypothesis import given
from hypothesis import strategies as st

SETTINGS = Settings()
GOOD = Counts(100, 0, 900, 0)
HALF_BAD = Counts(100, 50, 900, 1)

amounts = st.one_of(st.integers(0, 3), st.integers(0, 2000), st.integers(0, 10**20))
counts = st.builds(Counts, amounts, amounts, amounts, amounts)
milliseconds = st.one_of(st.integers(0, 10), st.floats(0, 1e7))
times = st.one_of(
    st.lists(milliseconds, max_size=30),
    st.dictionaries(st.one_of(milliseconds, st.just("+Inf")), st.integers(0, 10**6), max_size=8),
)


def of_errors(*polls: Counts) -> list[Poll]:
    return [Poll({"errors": poll}) for poll in polls]


@st.composite
def full_polls(draw: st.DrawFn) -> list[Poll]:
    return [
        Poll(
            {"errors": draw(counts), "http_4xx": draw(counts)},
            samples(draw(times)),
            samples(draw(times)),
            draw(
                st.none() | st.builds(Averages, st.none() | milliseconds, st.none() | milliseconds, st.integers(0, 9))
            ),
        )
        for _place in range(draw(st.integers(1, 6)))
    ]


FULL = Settings(further={"http_4xx": Tolerance(2, 0.005)}, horizon=4)


def judged(polls: t.Iterable[Poll], settings: Settings = SETTINGS, state: State | None = None) -> State:
    state = _judge.begin(settings) if state is None else state
    for poll in polls:
        state = _judge.take(settings, state, poll)
    return state


def verdict(polls: t.Iterable[Poll], settings: Settings = SETTINGS) -> str:
    return _judge.verdict(settings, judged(polls, settings))


def through_json(state: State) -> State:
    return State.from_dict(json.loads(json.dumps(state.as_dict(), allow_nan=False)))


# --- The specification, written down once more


def specified(polls: t.Sequence[Counts], horizon: int) -> list[tuple[str, float, float, float]]:
    """(verdict, ln E_fail, ln E_pass, ln of the absolute guard) after each poll, with the defaults, number by number."""
    rho, delta, alpha, beta = 1.5, 0.0005, 0.01, 0.05
    fail_grid = [1.25, 1.6, 2, 3, 5, 10, 30, 100, 1000]
    pass_grid = [0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.03, 0.001]
    fails, passes, absolute, used, sum_n, sum_e, failed = [-math.inf] * 9, [0.0] * 8, 0.0, 0.0, 0, 0, False
    told = []

    def increment(n1: int, e1: int, n0: int, e0: int, g: float) -> float:
        r = rho * g
        d, n = r * n1 + n0, rho * n1 + n0
        a, b = r * n / (rho * d), n / d
        return e1 * math.log(a) + e0 * math.log(b) - n1 * delta * (a - 1)

    def log_mean(logs: t.Sequence[float]) -> float:
        top = max(logs)
        return -math.inf if top == -math.inf else top + math.log(sum(math.exp(x - top) for x in logs) / len(logs))

    for k, poll in enumerate(polls, 1):
        n1, n0 = poll.canary, poll.stable
        e1, e0 = min(poll.canary_bad, n1), min(poll.stable_bad, n0)
        pi = min(0.5 if k == 1 else 0.5 / (horizon - 1), 1 - used) if k <= horizon else 0.0
        used += pi
        if pi > 0:
            fails = [math.log(math.exp(x) + pi) for x in fails]
        if n1 and n0:
            fails = [x + min(math.log(1 / alpha) / 2, increment(n1, e1, n0, e0, g)) for x, g in zip(fails, fail_grid)]
            passes = [x + min(math.log(1 / beta) / 2, increment(n1, e1, n0, e0, g)) for x, g in zip(passes, pass_grid)]
        elif n1:
            step = e1 * math.log(0.75 / 0.5) + (n1 - e1) * math.log(0.25 / 0.5)
            absolute += min(math.log(1 / alpha) / 2, step)
        sum_n, sum_e = sum_n + n1, sum_e + e1
        enough = sum_n >= 50 or sum_e >= 10
        failed = failed or (enough and max(log_mean(fails), absolute) >= math.log(1 / alpha))
        passed = sum_n >= 50 and log_mean(passes) >= math.log(1 / beta)
        told.append((FAIL if failed else PASS if passed else INCONCLUSIVE, log_mean(fails), log_mean(passes), absolute))
    return told


small = st.integers(0, 300)
few_counts = st.builds(Counts, small, st.integers(0, 12), small, st.integers(0, 12))


@given(st.lists(few_counts, min_size=1, max_size=12), st.integers(2, 12))
def test_the_numbers_are_those_of_the_specification(polls: list[Counts], horizon: int) -> None:
    settings = Settings(horizon=horizon)
    state = _judge.begin(settings)
    for poll, (_verdict, fail, good, absolute) in zip(polls, specified(polls, horizon)):
        state = _judge.take(settings, state, Poll({"errors": poll}))
        found = [_judge._evidence.mean(state.counts["errors"].fail), _judge._evidence.mean(state.counts["errors"].good)]
        assert found == pytest.approx([fail, good], abs=1e-4)
        assert state.absolute == pytest.approx(absolute, abs=1e-4)


def test_verdicts_come_at_the_polls_that_the_specification_says() -> None:
    polls = [GOOD] * 3 + [HALF_BAD] * 5
    told = [one[0] for one in specified(polls, 180)]
    assert [verdict(of_errors(*polls[:count])) for count in range(1, 9)] == told
    assert told[-1] == FAIL


# --- Whatever it is given


@given(full_polls(), st.data())
def test_verdicts_do_not_depend_on_how_polls_are_grouped_into_calls(polls: list[Poll], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(polls)))
    begun = _judge.begin(FULL, latency=True, averages=True)
    at_once = judged(polls, FULL, begun)
    in_two = judged(polls[cut:], FULL, through_json(judged(polls[:cut], FULL, begun)))
    assert in_two == at_once


@given(full_polls())
def test_any_counts_give_a_verdict_and_numbers(polls: list[Poll]) -> None:
    state = judged(polls, FULL, _judge.begin(FULL, latency=True, averages=True))
    assert _judge.verdict(FULL, state) in (FAIL, PASS, INCONCLUSIVE)
    assert all(0 <= value <= 1 for value in _judge.evidence(FULL, state).values())
    assert _judge.reason(FULL, state)
    needed = _judge.requests_needed(FULL, state)
    assert needed is None or needed >= 0
    assert through_json(state) == state


@given(full_polls())
def test_a_fail_stays(polls: list[Poll]) -> None:
    begun = _judge.begin(FULL, latency=True, averages=True)
    state = judged(polls, FULL, begun)
    later = judged([Poll({"errors": GOOD, "http_4xx": GOOD})] * 3, FULL, state)
    if _judge.verdict(FULL, state) == FAIL:
        assert _judge.verdict(FULL, later) == FAIL
        assert _judge.reason(FULL, later) == _judge.reason(FULL, state)


@given(st.lists(st.builds(Counts, st.integers(0, 10**6), st.just(0), amounts, st.just(0)), max_size=40))
def test_without_any_bad_answer_nothing_fails(polls: list[Counts]) -> None:
    assert verdict(of_errors(*polls)) != FAIL


@given(st.lists(st.builds(Counts, st.just(0), st.just(0), amounts, amounts), max_size=40))
def test_no_data_is_never_a_pass(polls: list[Counts]) -> None:
    assert verdict(of_errors(*polls)) == INCONCLUSIVE


def test_the_state_stays_below_four_kilobytes() -> None:
    settings = Settings(further={"http_4xx": Tolerance(2, 0.005)})
    state = _judge.begin(settings, latency=True, averages=True)
    # Every bucket there is, many times over.
    every = samples({1.05**power / 1000: 10**9 for power in range(420)})
    for _count in range(40):
        huge = Counts(*[10**14 + 12345] * 4)
        state = _judge.take(settings, state, Poll({"errors": huge, "http_4xx": huge}, every, every, Averages(1.0, 1.0)))
    assert len(json.dumps(state.as_dict(), separators=(",", ":"))) < 4096


# --- Verdicts


def test_a_canary_that_answers_half_its_requests_badly_fails_in_three_polls() -> None:
    assert verdict(of_errors(*[HALF_BAD] * 2)) == INCONCLUSIVE
    assert verdict(of_errors(*[HALF_BAD] * 3)) == FAIL


def test_one_burst_is_no_proof() -> None:
    assert verdict(of_errors(*[GOOD] * 10, Counts(1000, 1000, 9000, 0))) != FAIL


def test_a_canary_that_breaks_after_many_good_polls_fails_soon() -> None:
    assert verdict(of_errors(*[GOOD] * 90, *[HALF_BAD] * 6)) == FAIL


def test_a_pass_is_lost_again_when_the_canary_breaks() -> None:
    good = [Counts(1000, 0, 9000, 0)] * 20
    assert verdict(of_errors(*good)) == PASS
    assert verdict(of_errors(*good, *[HALF_BAD] * 6)) == FAIL


def test_a_rate_that_rises_on_both_sides_while_the_share_grows_is_no_fail() -> None:
    ramp = [(1, 0.0005), (5, 0.002), (10, 0.005), (25, 0.01), (50, 0.02)]
    polls = [
        Counts(100 * share, round(100 * share * rate), 100 * (100 - share), round(100 * (100 - share) * rate))
        for share, rate in ramp
        for _count in range(30)
    ]
    assert verdict(of_errors(*polls)) != FAIL


def test_few_errors_of_few_requests_are_no_verdict() -> None:
    assert verdict(of_errors(*[Counts(3, 3, 100, 0)] * 3)) == INCONCLUSIVE  # 9 requests, 9 errors
    assert verdict(of_errors(*[Counts(4, 4, 100, 0)] * 3)) == FAIL  # 12 errors


def test_both_sides_broken_is_not_the_release() -> None:
    state = judged(of_errors(*[Counts(100, 80, 900, 720)] * 30))
    assert _judge.verdict(SETTINGS, state) != FAIL
    assert "both sides" in _judge.reason(SETTINGS, state)


def test_without_a_stable_side_only_the_absolute_guard_speaks() -> None:
    assert verdict(of_errors(*[Counts(100, 30, 0, 0)] * 30)) == INCONCLUSIVE
    state = judged(of_errors(*[Counts(100, 90, 0, 0)] * 3))
    assert _judge.verdict(SETTINGS, state) == FAIL
    assert "no traffic of the stable servers" in _judge.reason(SETTINGS, state)


def test_six_polls_without_canary_requests_are_told_as_no_data() -> None:
    state = judged(of_errors(*[Counts(0, 0, 900, 0)] * 6))
    assert _judge.reason(SETTINGS, state).startswith("no_data")


def test_a_further_count_can_fail_a_canary_whose_errors_are_none() -> None:
    settings = Settings(further={"http_4xx": Tolerance(2, 0.005)})
    polls = [Poll({"errors": GOOD, "http_4xx": HALF_BAD})] * 4
    state = judged(polls, settings)
    assert _judge.verdict(settings, state) == FAIL
    assert "http_4xx" in _judge.reason(settings, state)


def test_the_requests_that_a_pass_still_takes_are_told() -> None:
    # The figures of the specification, at a share of 5 and 50 %.
    for total, expected in (
        (Counts(500_000, 0, 9_500_000, 0), 7_700),
        (Counts(500_000, 500, 9_500_000, 9_500), 14_700),
        (Counts(5_000_000, 5_000, 5_000_000, 5_000), 26_100),
        (Counts(500_000, 5_000, 9_500_000, 95_000), 4_400),
    ):
        record = _judge._error_evidence.Record(total=total)
        assert _judge._error_evidence.requests_needed(record, Tolerance(1.5, 0.0005), 0.05) == pytest.approx(
            expected, rel=0.01
        )


def test_as_many_requests_as_were_said_to_be_needed_pass() -> None:
    begun = of_errors(*[Counts(50, 0, 950, 0)] * 10)
    needed = _judge.requests_needed(SETTINGS, judged(begun))
    assert needed is not None
    more = of_errors(*[Counts(50, 0, 950, 0)] * math.ceil(needed / 50))
    assert verdict([*begun, *more]) == PASS
    assert verdict([*begun, *more[: len(more) * 9 // 10]]) == INCONCLUSIVE


def test_what_looks_bad_is_not_said_to_be_near_a_pass() -> None:
    assert _judge.requests_needed(SETTINGS, judged(of_errors(*[HALF_BAD] * 2))) is None


# --- Latency

EQUAL = [10.0 + place % 50 for place in range(200)]


def of_times(canary: t.Any, stable: t.Any) -> Poll:
    return Poll({"errors": Counts(len(canary), 0, len(stable), 0)}, samples(canary), samples(stable))


def latency_verdict(polls: t.Sequence[Poll]) -> str:
    return _judge.verdict(SETTINGS, judged(polls, SETTINGS, _judge.begin(SETTINGS, latency=True)))


def test_a_canary_that_takes_twice_as_long_fails() -> None:
    slow = [2 * one for one in EQUAL[:40]]
    assert latency_verdict([of_times(slow, EQUAL)] * 6) == FAIL


def test_a_canary_that_takes_as_long_does_not_fail() -> None:
    assert latency_verdict([of_times(EQUAL[:40], EQUAL)] * 100) != FAIL


@pytest.mark.parametrize(("factor", "seen"), [(1.0, False), (1.1, False), (2.0, True)])
def test_a_clock_of_whole_milliseconds_neither_hides_that_both_are_alike_nor_makes_them_differ(
    factor: float, seen: bool
) -> None:
    """Requests of some 2 ms, told as whole ones: what a clock cannot tell apart is no difference."""
    chance = random.Random(1)

    def whole(number: int, median: float) -> list[tuple[float, float, int]]:
        ends = collections.Counter(math.ceil(chance.lognormvariate(math.log(median), 0.5)) for _one in range(number))
        return [(end - 1.0, float(end), count) for end, count in ends.items()]

    polls = [Poll({"errors": Counts(50, 0, 450, 0)}, whole(50, 2.0 * factor), whole(450, 2.0)) for _one in range(180)]
    assert latency_verdict(polls) == (FAIL if seen else PASS)


def test_a_histogram_says_the_same_as_its_requests_where_its_buckets_are_fine() -> None:
    def histogram(values: t.Sequence[float]) -> dict[float, int]:
        return {edge: sum(edge - 1 < value <= edge for value in values) for edge in range(1, 130)}

    slow = [2 * one for one in EQUAL[:40]]
    polls = [Poll({"errors": Counts(40, 0, 200, 0)}, samples(histogram(slow)), samples(histogram(EQUAL)))] * 6
    assert latency_verdict(polls) == FAIL


def test_coarse_buckets_say_less_and_never_more() -> None:
    coarse = {20: 100, 100: 100}
    polls = [Poll({"errors": Counts(200, 0, 200, 0)}, samples({20: 40, 100: 160}), samples(coarse))] * 3
    assert latency_verdict(polls) == INCONCLUSIVE


def test_averages_of_twice_the_time_fail_after_enough_windows() -> None:
    polls = [Poll({"errors": Counts(1024, 0, 9000, 0)}, averages=Averages(20.0, 10.0))] * 13
    begun = _judge.begin(SETTINGS, averages=True)
    assert _judge.verdict(SETTINGS, judged(polls, SETTINGS, begun)) == FAIL
    assert _judge.verdict(SETTINGS, judged(polls[:6], SETTINGS, begun)) != FAIL


def test_averages_never_withhold_a_pass() -> None:
    polls = [Poll({"errors": Counts(1024, 0, 9000, 0)}, averages=Averages(None, None))] * 13
    assert _judge.verdict(SETTINGS, judged(polls, SETTINGS, _judge.begin(SETTINGS, averages=True))) == PASS


# --- What makes no sense


@pytest.mark.parametrize(
    "values",
    [
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"beta": math.nan},
        {"absolute_max": 1.0},
        {"fails": Tolerance(0, 0.1)},
        {"passes": Tolerance(1.5, -0.1)},
        {"fails": Tolerance(math.nan, 0)},
        {"latency": 0},
        {"horizon": 1},
        {"min_requests": -1},
        {"further": {"errors": Tolerance(1, 0)}},
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, t.Any]) -> None:
    with pytest.raises(JudgeError):
        Settings(**values)


def test_a_count_below_zero_is_refused() -> None:
    with pytest.raises(JudgeError, match="below 0"):
        judged(of_errors(Counts(1, 0, -1, 0)))


def test_a_poll_of_another_kind_than_those_before_is_refused() -> None:
    with pytest.raises(JudgeError, match="latencies"):
        judged([of_times(EQUAL, EQUAL)])
    with pytest.raises(JudgeError, match="averages"):
        judged([Poll({"errors": GOOD}, averages=Averages(1, 1))])
    with pytest.raises(JudgeError, match="http_4xx"):
        judged([Poll({"errors": GOOD, "http_4xx": GOOD})])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )
)
def test_a_state_of_anything_else_is_refused_in_one_sentence(data: t.Any) -> None:
    begun = _judge.begin(SETTINGS).as_dict()
    for given_state in (data, {**begun, "counts": data}, {**begun, "latency": {"quantiles": data, "histogram": [1]}}):
        try:
            State.from_dict(given_state)
        except JudgeError:
            continue
