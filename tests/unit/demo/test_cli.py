# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from demo.cli import FAULTS, Act, UsageError, parse


def test_without_options_a_good_release_comes_before_a_bad_one() -> None:
    assert [(act.strategy, act.good) for act in parse([])] == [("canary", True), ("canary", False)]


def test_a_strategy_means_one_good_release() -> None:
    assert parse(["--strategy", "rolling"]) == [Act("rolling", "2.0.0", True)]


@pytest.mark.parametrize("strategy", ["canary", "blue_green", "rolling"])
def test_bad_means_one_bad_release(strategy: str) -> None:
    assert parse(["--bad", "--strategy", strategy]) == [Act(strategy, "2.1.0", False)]


def test_bad_alone_takes_the_first_strategy() -> None:
    assert parse(["--bad"]) == [Act("canary", "2.1.0", False)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_release_can_be_broken_in_several_ways(fault: str) -> None:
    assert parse(["--bad", "--fault", fault]) == [Act("canary", "2.1.0", False, fault)]


def test_a_bad_release_should_be_rolled_back() -> None:
    assert [act.wanted for act in parse([])] == ["promoted", "rolled_back"]


@pytest.mark.parametrize("lb", ["haproxy", "nginx", "nginx_lua"])
def test_all_releases_go_to_the_load_balancers_that_are_asked_for(lb: str) -> None:
    assert [act.lb for act in parse(["--lb", lb])] == [lb, lb]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lb", "varnish"], "--lb varnish is not known; there is haproxy, nginx and nginx_lua."),
        (["--strategy", "big_bang"], "--strategy big_bang is not known; there is canary, blue_green and rolling."),
        (["--bad", "--fault", "fire"], "--fault fire is not known; there is errors, crash, slow, unhealthy and late."),
        (
            ["--bad", "--fault", "slow", "--strategy", "rolling"],
            "--fault slow is found beside stable servers for some minutes; give it with --strategy canary.",
        ),
        (["--fault", "slow"], "--fault says how a bad release is broken; give it with --bad."),
        (["--worse"], "Unrecognized arguments: --worse; `./demo --help` shows what can be asked for."),
        (["--strategy"], "Argument --strategy: expected one argument; `./demo --help` shows what can be asked for."),
    ],
)
def test_what_is_not_there_is_refused_in_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(arguments)
    assert str(refused.value) == message
