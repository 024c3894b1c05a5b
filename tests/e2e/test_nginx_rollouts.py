# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The strategies on NGINX, end to end under load: good releases promoted, bad ones taken back, and no request lost."""

from __future__ import annotations

import contextlib
import typing as t

import pytest

from e2e.rollouts import COARSE, COLOURS, Rollouts, Seen, rest_green, see
from local_fleet.layout import LOAD_BALANCERS, Options

MAKES = ("nginx", "nginx_lua")


def on(*everyday: str) -> t.Any:
    """Every make of load balancers, those that are not named with --all only."""
    return pytest.mark.parametrize(
        "start",
        [pytest.param(make, marks=[] if make in everyday else [pytest.mark.long]) for make in MAKES],
        indirect=True,
    )


# Of some hundreds of requests no more can be said of how long one of a hundred takes.
TIMED: dict[str, t.Any] = {**COARSE, "tolerance": {**COARSE["tolerance"], "latency": 3}}
BAD = {"2.0.0": {"behaviour": "errors", "rate": 0.5}}


@pytest.fixture
def start(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> t.Iterator[t.Callable[..., Rollouts]]:
    """Start a fleet behind one make of load balancers."""
    with contextlib.ExitStack() as stack:

        def start_one(variables: t.Mapping[str, t.Any], **options: t.Any) -> Rollouts:
            folder = tmp_path_factory.mktemp(request.param)
            return stack.enter_context(Rollouts(folder, Options(lb=request.param, **options), variables, {}))

        yield start_one


def expect(seen: Seen, code: int, outcome: str, release: str, hosts: t.Collection[str]) -> None:
    """How it ended, that nothing was lost, and that each load balancer has just these hosts carry, with a release."""
    seen.result.expect(code, outcome)
    assert seen.summary.lost == 0, seen.summary.examples
    assert not seen.summary.starved
    for name in LOAD_BALANCERS:
        assert (seen.carrying[name], seen.answering[name]) == (set(hosts), {release})


def weights(seen: Seen) -> set[str]:
    return {weight for rows in seen.states.values() for _status, weight in rows.values()}


@on()
def test_rolling_promotes_a_good_release(start: t.Callable[..., Rollouts]) -> None:
    seen = see(start({"rolling_batches": 1}, apps=3), "rolling", "2.0.0")
    expect(seen, 0, "promoted", "2.0.0", ("web1", "web2", "web3"))
    assert seen.summary.harmed == 0
    assert seen.started == [(host, "2.0.0") for host in ("web1", "web2", "web3")]
    assert [out for out in seen.watch.out() if out] == [{"web1"}, {"web2"}, {"web3"}]


@on()
def test_rolling_takes_a_bad_release_back(start: t.Callable[..., Rollouts]) -> None:
    variables = {"rolling_batches": 1, "rolling_min_healthy_time": 5, "fleet_behaviours": BAD}
    seen = see(start(variables, apps=3), "rolling", "2.0.0")
    expect(seen, 2, "rolled_back", "1.0.0", ("web1", "web2", "web3"))


@on()
def test_blue_green_swaps_to_a_good_release(start: t.Callable[..., Rollouts]) -> None:
    shop = rest_green(start({}, apps=4, tracks=COLOURS))
    expect(see(shop, "blue_green", "2.0.0"), 0, "promoted", "2.0.0", ("web3", "web4"))


@on()
def test_blue_green_swaps_back_from_a_bad_release(start: t.Callable[..., Rollouts]) -> None:
    shop = rest_green(start({"fleet_behaviours": BAD, "blue_green_bake": 10}, apps=4, tracks=COLOURS))
    seen = see(shop, "blue_green", "2.0.0")
    expect(seen, 2, "rolled_back", "1.0.0", ("web1", "web2"))
    assert "failed" in seen.result.message


@on()
def test_a_good_canary_is_promoted_by_requests_and_latencies(start: t.Callable[..., Rollouts]) -> None:
    seen = see(
        start({"rollout_analysis": TIMED, "canary_steps": [10, 50], "canary_step_max": 300}, apps=2), "canary", "2.0.0"
    )
    expect(seen, 0, "promoted", "2.0.0", ("web1", "web2"))
    assert seen.summary.harmed == 0
    assert weights(seen) == {"10"}


@on("nginx_lua")
def test_a_bad_canary_is_taken_back(start: t.Callable[..., Rollouts]) -> None:
    variables = {"rollout_analysis": COARSE, "fleet_behaviours": BAD, "canary_step_for": 20}
    seen = see(start(variables, apps=2), "canary", "2.0.0")
    expect(seen, 2, "rolled_back", "1.0.0", ("web1", "web2"))
    assert "worse than tolerated" in seen.result.message
    assert weights(seen) == {"10"}


@on()
def test_a_canary_that_answers_slowly_is_taken_back(start: t.Callable[..., Rollouts]) -> None:
    variables = {
        "rollout_analysis": COARSE,
        "fleet_behaviours": {"2.0.0": {"behaviour": "slow", "delay_ms": 60}},
        "canary_step_for": 60,
    }
    seen = see(start(variables, apps=2), "canary", "2.0.0")
    expect(seen, 2, "rolled_back", "1.0.0", ("web1", "web2"))
    assert "times as slow" in seen.result.message
