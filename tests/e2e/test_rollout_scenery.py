# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of rollouts stand on: the local fleet's deploy, hosts that go away, and what a run is said to have done."""

from __future__ import annotations

import typing as t

import pytest

from e2e.rollouts import RELEASE, Rollouts
from local_fleet.polling import poll

PING = {"name": "ping", "ansible.builtin.ping": {}}


def play(*tasks: dict[str, t.Any], hosts: str = "app", **values: t.Any) -> list[dict[str, t.Any]]:
    return [{"hosts": hosts, "gather_facts": False, "tasks": list(tasks), **values}]


@pytest.fixture
def shop(start_rollouts: t.Callable[..., Rollouts]) -> Rollouts:
    return start_rollouts(apps=2, variables={"fleet_behaviours": {"3.0.0": {"behaviour": "crash_on_start"}}})


def test_the_deploy_runs_a_release_once(shop: Rollouts) -> None:
    first = shop.run(play(RELEASE), rollout_deploy_release="2.0.0")
    again = shop.run(play(RELEASE), rollout_deploy_release="2.0.0")
    assert (first.code, first.changed) == (0, {"web1": 1, "web2": 1}), first.output
    assert (again.code, again.changed) == (0, {}), again.output
    assert shop.releases() == {"web1": "2.0.0", "web2": "2.0.0"}


def test_the_deploy_fails_when_the_release_does_not_start(shop: Rollouts) -> None:
    result = shop.run(play(RELEASE), rollout_deploy_release="3.0.0")
    assert result.code == 2, result.output
    assert {entry["host"] for entry in result.failures} == {"web1", "web2"}


def test_the_deploy_of_a_slot_is_that_of_its_process(shop: Rollouts) -> None:
    slots = {"blue": "web1", "green": "web2"}
    shop.run(
        play(RELEASE, hosts="web1"), rollout_deploy_release="2.0.0", rollout_deploy_track="green", fleet_slots=slots
    )
    assert shop.releases() == {"web1": "1.0.0", "web2": "2.0.0"}


def test_a_host_that_is_cut_off_is_unreachable_from_that_moment(shop: Rollouts) -> None:
    shop.gate.at(lambda host: host == "web2", lambda: shop.gate.cut("web2"))
    result = shop.run(play(PING))
    assert result.code == 4, result.output
    assert [(entry["event"], entry["host"]) for entry in result.failures] == [("unreachable", "web2")]


def test_a_load_balancer_that_is_silent_hangs_until_the_task_times_out(shop: Rollouts) -> None:
    shop.gate.silence("lb1")
    result = shop.run(play({**PING, "delegate_to": "lb1", "timeout": 2}, hosts="web1"))
    assert result.code == 2, result.output
    assert "2" in result.message


def test_a_host_that_has_healed_is_reached_again(shop: Rollouts) -> None:
    shop.gate.cut("web1")
    waiting = shop.start(play({"ansible.builtin.wait_for_connection": {"timeout": 30}}, hosts="web1"))
    shop.gate.at(lambda host: shop.gate.uses.count(host) > 2, lambda: shop.gate.heal("web1"))
    assert waiting.result().code == 0


def test_the_outcome_and_the_last_message_are_read(shop: Rollouts) -> None:
    stats = {"name": "tell", "ansible.builtin.set_stats": {"data": {"rollout_outcome": "refused"}}, "run_once": True}
    result = shop.run(play(stats, {"name": "fail", "ansible.builtin.fail": {"msg": "for {{ inventory_hostname }}"}}))
    assert (result.code, result.outcome) == (2, "refused")
    assert sorted(result.message.splitlines()) == ["for web1", "for web2"]


def test_who_carries_is_watched(shop: Rollouts) -> None:
    watch = shop.watch()
    shop.fleet.set_state("web2", "drain")
    poll(lambda: {"web2"} in watch.out(), "the watch sees that web2 is out")
    shop.fleet.set_state("web2", "ready")
    shop.expect_traffic("1.0.0", {"web1", "web2"})
