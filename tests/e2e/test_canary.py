# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Canaries: a small share first, judged beside the stable servers, then more, then all; and back when it is worse."""

from __future__ import annotations

import typing as t

import pytest

from e2e.rollouts import COARSE, COLOURS, Rollouts, Seen, rest_green, see
from local_fleet.layout import LOAD_BALANCERS, Options

HOSTS = {"web1", "web2", "web3", "web4"}
ERRORS = {"behaviour": "errors", "rate": 0.5}


def held(shop: Rollouts) -> list[str]:
    """The load balancers on which a rollout holds the backend."""
    return [name for name in LOAD_BALANCERS if shop.place(name, "rollout/shop/lock").exists()]


# --- In place


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A good release."""
    with Rollouts(tmp_path_factory.mktemp("canary"), Options(apps=4), {"rollout_analysis": COARSE}, {}) as shop:
        return see(shop, "canary", "2.0.0")


@pytest.mark.xdist_group("test_canary_promoted")
def test_a_good_canary_is_promoted_and_no_request_is_lost(promoted: Seen) -> None:
    promoted.result.expect(0, "promoted")
    assert (promoted.summary.lost, promoted.summary.harmed) == (0, 0), promoted.summary.examples
    assert promoted.started == [(host, "2.0.0") for host in sorted(HOSTS)]


@pytest.mark.xdist_group("test_canary_promoted")
def test_after_a_canary_the_load_balancers_have_their_own_weights_again(promoted: Seen) -> None:
    for name in LOAD_BALANCERS:
        assert promoted.carrying[name] == HOSTS
        assert promoted.answering[name] == {"2.0.0"}
        assert len({weight for _status, weight in promoted.states[name].values()}) == 1, promoted.states


@pytest.mark.xdist_group("test_canary_promoted")
def test_each_poll_tells_the_step_the_shares_both_sides_and_the_evidence(promoted: Seen) -> None:
    for words in ("step 5 of", "of the traffic, 10.", "canary", "stable", "evidence for fail", "mean times"):
        assert words in promoted.result.output, words


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A release that answers half of its requests with errors."""
    variables = {"rollout_analysis": COARSE, "fleet_behaviours": {"2.0.0": ERRORS}, "canary_step_for": 20}
    with Rollouts(tmp_path_factory.mktemp("canary"), Options(apps=4), variables, {}) as shop:
        return see(shop, "canary", "2.0.0")


@pytest.mark.xdist_group("test_canary_rolled_back")
def test_a_canary_that_answers_badly_is_taken_back_by_itself(rolled_back: Seen) -> None:
    result = rolled_back.result.expect(2, "rolled_back")
    assert "worse than tolerated" in result.message
    assert rolled_back.summary.lost == 0, rolled_back.summary.examples
    assert rolled_back.started == [("web1", "2.0.0"), ("web1", "1.0.0")]


@pytest.mark.xdist_group("test_canary_rolled_back")
def test_after_a_bad_canary_all_is_as_it_was(rolled_back: Seen) -> None:
    for name in LOAD_BALANCERS:
        assert rolled_back.carrying[name] == HOSTS
        assert rolled_back.answering[name] == {"1.0.0"}
        assert len({weight for _status, weight in rolled_back.states[name].values()}) == 1, rolled_back.states


# --- Pauses


PAUSED = [25, {"pause": {}}, 40]


def test_a_canary_that_waits_goes_on_when_it_is_promoted(canary: Rollouts) -> None:
    load = canary.load()
    waiting = canary.canary("2.0.0", canary_steps=PAUSED).expect(0, "paused")
    assert "steady.rollout.promote" in waiting.output
    assert held(canary) == list(LOAD_BALANCERS)
    assert canary.releases() == {"web1": "2.0.0", **dict.fromkeys(("web2", "web3", "web4"), "1.0.0")}
    other = canary.canary("3.0.0").expect(2, "refused")
    assert "it is paused" in other.message
    canary.promote(canary_steps=PAUSED).expect(0, "promoted")
    load.stop()
    assert set(canary.releases().values()) == {"2.0.0"}
    assert held(canary) == []
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


@pytest.mark.long
def test_a_canary_that_waits_can_be_taken_back(canary: Rollouts) -> None:
    load = canary.load()
    canary.canary("2.0.0", canary_steps=PAUSED).expect(0, "paused")
    canary.rollback().expect(0, "rolled_back")
    load.stop()
    canary.expect_traffic("1.0.0", HOSTS)
    assert held(canary) == []
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


@pytest.mark.long
def test_too_little_traffic_for_a_pass_holds_with_the_requests_that_are_missing(canary: Rollouts) -> None:
    canary.load(rate=5.0)
    analysis = {"interval": 0.3, "min_requests": 5}
    held_back = canary.canary("2.0.0", rollout_analysis=analysis, canary_steps=[25]).expect(0, "paused")
    assert "more requests to the canary are needed" in held_back.output
    assert canary.releases()["web2"] == "1.0.0"
    canary.promote(rollout_analysis=analysis, canary_steps=[25], rollout_full=True).expect(0, "promoted")
    assert set(canary.releases().values()) == {"2.0.0"}


# --- Side by side


@pytest.mark.long
def test_side_by_side_only_weights_move(start_rollouts: t.Callable[..., Rollouts]) -> None:
    shop = rest_green(start_rollouts(apps=4, tracks=COLOURS, variables={"rollout_analysis": COARSE}))
    load = shop.load()
    shop.canary("2.0.0").expect(0, "promoted")
    load.stop()
    shop.expect_traffic("2.0.0", {"web3", "web4"})
    assert shop.releases()["web1"] == "1.0.0"
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


def test_check_mode_shows_the_plan_of_a_canary_and_changes_nothing(canary: Rollouts) -> None:
    started, states = canary.starts(), canary.states()
    result = canary.canary("2.0.0", "--check", "--diff")
    assert result.code == 0, result.output
    assert (canary.starts(), canary.states()) == (started, states)
    for words in ("drain web1", "traffic canary 10 %, stable 90 % (web1)", "analyse canary (web1)"):
        assert words in result.output, result.output
