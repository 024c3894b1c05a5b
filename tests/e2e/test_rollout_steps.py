# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of one's own: the steps are those that were asked for, in their order."""

from __future__ import annotations

import typing as t

import pytest

from e2e.rollouts import Rollouts
from local_fleet.layout import LOAD_BALANCERS

BLUE, GREEN = {"web1", "web2"}, {"web3", "web4"}
PLAY = [{"hosts": "app", "gather_facts": False, "roles": ["steady.rollout.rollout"]}]


@pytest.mark.long
def test_a_plan_of_ones_own_moves_traffic_step_by_step(blue_green: Rollouts) -> None:
    steps: list[dict[str, t.Any]] = [
        {"deploy": "green"},
        {"probe": "green"},
        {"traffic": {"green": 50, "blue": 50}},
        {"analyse": {"for": "2s"}},
        {"pause": {"for": "1s"}},
        {"traffic": {"green": 100, "blue": 0}},
    ]
    blue_green.load()
    watch = blue_green.watch()
    blue_green.run(PLAY, rollout_release="2.0.0", rollout_steps=steps).expect(0, "promoted")
    blue_green.expect_traffic("2.0.0", GREEN)
    for name in LOAD_BALANCERS:
        assert BLUE | GREEN in watch.seen[name]


@pytest.mark.long
def test_a_plan_of_ones_own_drains_and_admits(blue_green: Rollouts) -> None:
    steps: list[dict[str, t.Any]] = [
        {"drain": "web1"},
        {"deploy": "web1"},
        {"probe": "web1"},
        {"admit": "web1"},
    ]
    watch = blue_green.watch()
    blue_green.run(PLAY, rollout_release="2.0.0", rollout_steps=steps).expect(0, "promoted")
    assert blue_green.releases() == {"web1": "2.0.0", "web2": "1.0.0", "web3": "1.0.0", "web4": "1.0.0"}
    for name in LOAD_BALANCERS:
        assert {"web2"} in watch.seen[name]
        assert blue_green.carrying(name) == BLUE


@pytest.mark.long
def test_a_bad_release_in_a_plan_of_ones_own_goes_back(blue_green: Rollouts) -> None:
    steps: list[dict[str, t.Any]] = [
        {"deploy": "green"},
        {"probe": "green"},
        {"traffic": {"green": 50, "blue": 50}},
        {"analyse": {"for": "30s"}},
        {"traffic": {"green": 100, "blue": 0}},
    ]
    load = blue_green.load()
    bad = {"2.0.0": {"behaviour": "errors", "rate": 0.5}}
    result = blue_green.run(PLAY, rollout_release="2.0.0", rollout_steps=steps, fleet_behaviours=bad)
    result.expect(2, "rolled_back")
    blue_green.expect_traffic("1.0.0", BLUE)
    load.stop()
    assert load.summary().lost == 0, load.summary().examples
