# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Canaries: a small share first, judged beside the stable servers, then more, then all; and back when it is worse."""

from __future__ import annotations

import re
import typing as t

import pytest

from e2e.rollouts import COARSE, COLOURS, Result, Rollouts, Running, Seen, rest_green, see
from local_fleet.layout import LOAD_BALANCERS, TEMPLATE, Options
from local_fleet.polling import poll
from local_fleet.tally import Summary

HOSTS = {"web1", "web2"}
ERRORS = {"behaviour": "errors", "rate": 0.5}


def held(shop: Rollouts) -> list[str]:
    """The load balancers on which a rollout holds the backend."""
    return [name for name in LOAD_BALANCERS if shop.place(name, "rollout/shop/lock").exists()]


# --- In place


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A good release."""
    with Rollouts(
        tmp_path_factory.mktemp("canary"), Options(apps=len(HOSTS)), {"rollout_analysis": COARSE}, {}
    ) as shop:
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
    with Rollouts(tmp_path_factory.mktemp("canary"), Options(apps=len(HOSTS)), variables, {}) as shop:
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


@pytest.mark.long
def test_a_canary_that_waits_goes_on_when_it_is_promoted(canary: Rollouts) -> None:
    load = canary.load()
    waiting = canary.canary("2.0.0", canary_steps=PAUSED).expect(0, "paused")
    assert "steady.rollout.promote" in waiting.output
    assert held(canary) == list(LOAD_BALANCERS)
    assert canary.releases() == {"web1": "2.0.0", "web2": "1.0.0"}
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
def test_one_request_a_second_holds_before_all_traffic_with_the_requests_that_are_missing(
    start_rollouts: t.Callable[..., Rollouts],
) -> None:
    shop = start_rollouts(apps=3)
    load = shop.load(rate=0.5)
    # The tolerance is the default one.
    given = {"rollout_analysis": {"interval": 1, "min_requests": 5}, "canary_steps": [25, 50], "canary_step_max": 60}
    held_back = shop.canary("2.0.0", **given).expect(0, "paused")
    missing = re.search(r"about (\d+) more requests to the canary are needed", held_back.output)
    assert missing is not None, held_back.output
    assert 7000 < int(missing[1]) < 30000  # what the default tolerance takes without errors
    assert set(re.findall(r"step (\d+) of \d+, .* evidence", held_back.output)) == {"5", "10"}
    assert re.search(r"step 5 of \d+, \d+s so far", held_back.output), (
        "it was prolonged until there were enough requests"
    )
    assert shop.releases()["web3"] == "1.0.0"
    shop.promote(**given, rollout_full=True).expect(0, "promoted")
    load.stop()
    assert set(shop.releases().values()) == {"2.0.0"}
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


# --- What happens meanwhile


def judged(shop: Rollouts, **variables: t.Any) -> Running:
    """A canary that is being judged, for some seconds yet."""
    given = {"canary_steps": [25], "canary_step_for": 6, **variables}
    running = shop.start("canary", rollout_hosts="app", rollout_release="2.0.0", **given)
    poll(lambda: polls(running.output) != [], "the canary is judged", 120)
    return running


class Told(t.NamedTuple):
    """What a line of a poll says of both sides."""

    canary: int
    canary_errors: int
    stable: int
    stable_errors: int


def polls(output: str) -> list[Told]:
    """What each poll of the first step that is judged told."""
    sides = r"(step \d+ of \d+), .* canary (\d+) requests, (\d+) errors[^,;]*, stable (\d+) requests, (\d+) errors"
    told = re.findall(sides, output)
    return [Told(*map(int, counts)) for step, *counts in told if step == told[0][0]]


def trouble(shop: Rollouts) -> tuple[Result, Summary, int]:
    """A canary in whose first step a load balancer is reloaded, counters are cleared and the canary restarts, one after the other.

    Returns how it ended, what became of requests, and how many polls there were before the restart.
    """
    load = shop.load()
    running = judged(shop, canary_step_for=30)

    def wait_for_polls(count: int) -> int:
        enough = len(polls(running.output)) + count
        poll(lambda: len(polls(running.output)) >= enough, "the canary is polled", 60)
        return len(polls(running.output))

    shop.fleet.reload("lb1")
    wait_for_polls(2)
    for name in LOAD_BALANCERS:
        shop.fleet.ask(name, "clear counters all")
    before = wait_for_polls(2)
    assert shop.fleet.restart("web1")
    result = running.result()
    load.stop()
    return result, load.summary(), before


# A restart takes longer than three checks.
SLOW_CHECKS = TEMPLATE.replace("inter 200ms rise 2 fall 3", "inter 200ms rise 2 fall 100")


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Summary, int]:
    options = Options(apps=2, template=SLOW_CHECKS)
    with Rollouts(tmp_path_factory.mktemp("canary"), options, {"rollout_analysis": COARSE}, {}) as shop:
        return trouble(shop)


@pytest.mark.long
@pytest.mark.xdist_group("test_canary_troubled")
def test_neither_a_reload_nor_cleared_counters_nor_a_restart_fails_a_good_canary(
    troubled: tuple[Result, Summary, int],
) -> None:
    result, summary, before = troubled
    result.expect(0, "promoted")
    assert len(polls(result.output)) > before, "the canary restarted while it was judged"
    assert summary.lost == 0, summary.examples


@pytest.mark.long
@pytest.mark.xdist_group("test_canary_troubled")
def test_counters_that_begin_anew_are_no_errors_and_take_nothing_back(troubled: tuple[Result, Summary, int]) -> None:
    result, _summary, before = troubled
    told = polls(result.output)
    assert [one.canary_errors + one.stable_errors for one in told[:before]] == [0] * before
    requests = [one.canary + one.stable for one in told]
    assert requests == sorted(requests)


@pytest.mark.long
def test_a_load_balancer_without_traffic_neither_fails_a_canary_nor_keeps_it_from_passing(canary: Rollouts) -> None:
    load = canary.load(only="lb1")
    canary.canary("2.0.0", canary_steps=[25]).expect(0, "promoted")
    load.stop()
    canary.expect_traffic("2.0.0", HOSTS)
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


@pytest.mark.long
def test_a_canary_that_goes_down_is_taken_back_at_once(canary: Rollouts) -> None:
    load = canary.load()
    running = judged(canary, canary_step_for=120)
    # Not killed: what is in flight in a process that is killed is lost with it.
    canary.fleet.stop("web1")
    before = len(polls(running.output))
    result = running.result().expect(2, "rolled_back")
    load.stop()
    assert "shop/web1 down (DOWN" in result.message
    assert len(polls(result.output)) <= before + 3
    assert load.summary().lost == 0, load.summary().examples
    canary.expect_traffic("1.0.0", HOSTS)


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
