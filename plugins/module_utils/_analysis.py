# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""One poll of a step that compares two sides: what load balancers counted goes to the judge, and its verdict to the step. Pure."""

from __future__ import annotations

import dataclasses
import statistics
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _judge
from ansible_collections.steady.rollout.plugins.module_utils._driver import BUCKET
from ansible_collections.steady.rollout.plugins.module_utils._duration import spelled
from ansible_collections.steady.rollout.plugins.module_utils._error_evidence import Counts, Tolerance
from ansible_collections.steady.rollout.plugins.module_utils._judge import ERRORS, Averages, Poll
from ansible_collections.steady.rollout.plugins.module_utils._judge_input import settings_of
from ansible_collections.steady.rollout.plugins.module_utils._watch import Times, requests_and_errors

# By load balancer, its servers as a poll tells them.
Servers = t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]]
Sides = t.Mapping[str, t.Collection[t.Sequence[str]]]

# The past is another time, in which less or more may have failed for reasons of its own: so many times the ratio, and a delta of at
# least so much.
PAST_RATIO, PAST_DELTA = 2.0, 0.005
BEFORE = "what carried before"


class Past(t.NamedTuple):
    """What carried before, where nothing carries beside: its counts are dealt out over the polls of a step, in equal parts, so that
    each request is compared once. ``parts``: how many there are, ``dealt`` of them already."""

    requests: int = 0
    errors: int = 0
    parts: int = 1
    dealt: int = 0

    def part(self) -> tuple[int, int]:
        """(requests, errors) of the next one; nothing once all are dealt out."""
        low, high = (min(self.parts, self.dealt + more) for more in (0, 1))
        totals = (self.requests - self.errors, self.errors)
        good, errors = (total * high // self.parts - total * low // self.parts for total in totals)
        return good + errors, errors


NO_PAST = Past()


class Analysis(t.NamedTuple):
    """What the judge says after a poll. ``state``: for the next one, plain data; ``means``: mean times of both sides, in words."""

    verdict: str
    reason: str
    needed: int | None
    fail: float  # how far the evidence has come, from 0 to 1
    good: float
    state: dict[str, t.Any]
    means: str
    past: Past = NO_PAST


def past_of(counts: t.Sequence[int], parts: int, dealt: int) -> Past:
    """From what servers that carry no more have counted, as _watch tells it."""
    return Past(*requests_and_errors(counts), max(1, parts), dealt)


def analyse(
    judge: t.Mapping[str, t.Any],
    known: t.Mapping[str, t.Any],
    grown: t.Mapping[str, t.Sequence[int]],
    servers: Servers,
    past: Past = NO_PAST,
    times: t.Mapping[str, Times] | None = None,
) -> Analysis:
    """One more poll. ``judge``: as a step tells it; ``known``: the state after the poll before; ``grown``, ``times``: as _watch tells
    them."""
    settings = dataclasses.replace(settings_of(judge["options"]), canary=judge["name"])
    stable = requests_and_errors(grown["stable"])
    if judge["past"]:
        settings = _against_the_past(settings)
        if any(grown["canary"]):
            stable, past = past.part(), past._replace(dealt=past.dealt + 1)
    slow = {} if times is None or judge["past"] else {side: _samples(histogram) for side, histogram in times.items()}
    state = _judge.State.from_dict(known) if known else _judge.begin(settings, bool(slow), averages=True)
    if state.latency is None:
        slow = {}
    averages = _averages(judge["sides"], servers)
    counts = Counts(*requests_and_errors(grown["canary"]), *stable)
    state = _judge.take(
        settings, state, Poll({ERRORS: counts}, slow.get("canary", ()), slow.get("stable", ()), averages)
    )
    evidence = _judge.evidence(settings, state)
    return Analysis(
        _judge.verdict(settings, state),
        _judge.reason(settings, state),
        _judge.requests_needed(settings, state),
        evidence["fail"],
        evidence["pass"],
        state.as_dict(),
        _means(averages),
        past,
    )


def _against_the_past(settings: _judge.Settings) -> _judge.Settings:
    wider = Tolerance(min(PAST_RATIO * settings.fails.ratio, 1000.0), max(PAST_DELTA, settings.fails.delta))
    return dataclasses.replace(settings, fails=wider, passes=wider, beside=BEFORE)


def at_end(
    judge: t.Mapping[str, t.Any],
    analysis: Analysis,
    watched: tuple[str, str],
    requests: int,
    elapsed: float,
    longest: float,
) -> tuple[str, str]:
    """(verdict, reason) once the time of the step is up. ``watched``: what the watch says of it, that nothing failed; ``requests``: of
    the canary in this step.

    A step that is prolonged is ``going``: where too few requests came, and where a pass is asked for that can still be reached.
    """
    if not judge["judged"]:
        return watched
    if watched[0] == "inconclusive":
        return watched if elapsed >= longest else ("going", "")
    if not judge["asks"]:
        return "pass", analysis.reason
    if analysis.verdict == _judge.PASS:
        return "pass", analysis.reason
    if analysis.needed is not None and requests and elapsed + analysis.needed * elapsed / requests <= longest:
        return "going", ""
    return "inconclusive", analysis.reason


def line(
    watch: t.Mapping[str, t.Any], analysis: Analysis, mine: t.Sequence[int], rest: t.Sequence[int], elapsed: float
) -> str:
    """How it looks, for a person. ``mine``, ``rest``: what was counted in this step, as _watch tells it."""
    left = watch["seconds"] - elapsed
    requests = mine[0] + rest[0]
    seen = f"{100 * mine[0] / requests:.1f} %" if requests else "nothing"
    time = f"{spelled(round(left))} left" if left >= 0.5 else f"{spelled(round(elapsed))} so far"
    past = analysis.past
    other = f"{watch['rest_name']} {_side(*requests_and_errors(rest))}"
    if watch["judge"]["past"]:
        other = f"{BEFORE} {_side(past.requests, past.errors)}" if past.requests else f"nothing is known of {BEFORE}"
    parts = [
        f"{watch['steps']}, {time}",
        f"{watch['name']} gets {seen} of the traffic, {watch['wanted_percent']:.1f} % wanted",
        f"{watch['name']} {_side(*requests_and_errors(mine))}, {other}",
        analysis.means,
        f"evidence for fail {100 * analysis.fail:.0f} %, for pass {100 * analysis.good:.0f} %",
    ]
    return "; ".join(part for part in parts if part)


def _side(requests: int, errors: int) -> str:
    rate = f" ({_judge.percent(errors, requests)} %)" if requests else ""
    return f"{requests} requests, {errors} errors{rate}"


def _averages(sides: Sides, servers: Servers) -> Averages:
    """The canary's mean over its servers, against the median of the stable ones. A server without requests has no mean."""
    means: dict[str, list[float]] = {"canary": [], "stable": []}
    places = {side: {(str(pair[0]), str(pair[1])) for pair in pairs} for side, pairs in sides.items()}
    for told in servers.values():
        for server in told:
            mean = (server.get("times") or {}).get("response")
            if not server.get("requests") or not isinstance(mean, (int, float)):
                continue
            for side, found in means.items():
                if (server["backend"], server["name"]) in places[side]:
                    found.append(float(mean))
    canary = statistics.fmean(means["canary"]) if means["canary"] else None
    stable = statistics.median(means["stable"]) if means["stable"] else None
    return Averages(canary, stable, max(1, len(means["canary"])))


def _samples(times: Times) -> list[tuple[float, float, int]]:
    """A histogram as the judge takes it: (longer than, at most, how many), in milliseconds."""
    bounds = sorted((float(bound), count) for bound, count in times.items())
    return [(max(0.0, min(bound - 1, bound / BUCKET)), bound, count) for bound, count in bounds]


def _means(averages: Averages) -> str:
    if averages.canary is None or averages.stable is None:
        return ""
    return f"mean times {averages.canary:.0f} and {averages.stable:.0f} ms"
