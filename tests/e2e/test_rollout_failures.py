# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever fails, traffic is on the old release on every load balancer that can be reached, and the last message says why."""

from __future__ import annotations

import os
import signal
import typing as t

import pytest

from e2e.rollouts import RELEASE, Rollouts, runs
from local_fleet.layout import LOAD_BALANCERS, TEMPLATE

BLUE, GREEN = {"web1", "web2"}, {"web3", "web4"}
HOSTS = ["web1", "web2", "web3", "web4"]
FAIL = {"name": "Fail", "ansible.builtin.fail": {"msg": "the disk is full"}}
SOON = {"rolling_batches": 1}


# --- The release


@pytest.mark.long
def test_a_release_that_is_never_healthy_gets_no_traffic(blue_green: Rollouts) -> None:
    load = blue_green.load()
    bad = {"2.0.0": {"behaviour": "unhealthy"}}
    result = blue_green.blue_green("2.0.0", fleet_behaviours=bad).expect(2, "rolled_back")
    blue_green.expect_traffic("1.0.0", BLUE)
    assert "503" in result.message
    assert "web3" in result.message
    load.stop()
    assert set(load.summary().per_release) == {"1.0.0"}


@pytest.mark.long
@pytest.mark.parametrize("then", ["unhealthy", "crash"])
def test_a_release_that_dies_in_the_bake_is_swapped_back(blue_green: Rollouts, then: str) -> None:
    load = blue_green.load()
    bad = {"2.0.0": {"behaviour": "bad_after", "after_s": 6, "then": then}}
    result = blue_green.blue_green("2.0.0", fleet_behaviours=bad, blue_green_bake=30).expect(2, "rolled_back")
    blue_green.expect_traffic("1.0.0", BLUE)
    assert "green" in result.message or "web3" in result.message or "web4" in result.message
    load.stop()
    # All that carried died at once: until the swap back nobody could answer. It ends with the swap back.
    assert {record.release for record in load.records()[-40:]} == {"1.0.0"}


# --- The user's tasks


@pytest.mark.core
@pytest.mark.pattern
def test_a_deploy_that_fails_on_one_host_moves_no_traffic(start_blue_green: t.Callable[..., Rollouts]) -> None:
    shop = start_blue_green(hosts={"web4": {"fleet_behaviours": {"2.0.0": {"behaviour": "crash_on_start"}}}})
    result = shop.blue_green("2.0.0").expect(2, "rolled_back")
    shop.expect_traffic("1.0.0", BLUE)
    assert "web4" in result.message
    # The undo of a colour that never carried brings its hosts back to the release they had.
    assert {shop.releases()[host] for host in BLUE} == {"1.0.0"}


@pytest.mark.pattern
def test_a_run_once_task_that_fails_fails_the_deploy(blue_green: Rollouts) -> None:
    deploy = blue_green.write_deploy(RELEASE, {**FAIL, "run_once": True})
    result = blue_green.blue_green("2.0.0", rollout_deploy=deploy).expect(2, "rolled_back")
    blue_green.expect_traffic("1.0.0", BLUE)
    assert "the disk is full" in result.message


@pytest.mark.long
@pytest.mark.pattern
def test_a_handler_that_fails_fails_the_deploy(blue_green: Rollouts) -> None:
    change = {"name": "Change", "ansible.builtin.debug": {}, "changed_when": True, "notify": "Fail"}
    when = "rollout_deploy_release == '2.0.0'"
    deploy = blue_green.write_role("shop_release", [RELEASE, {**change, "when": when}], [FAIL])
    result = blue_green.blue_green("2.0.0", rollout_deploy=deploy).expect(2, "rolled_back")
    blue_green.expect_traffic("1.0.0", BLUE)
    assert "the disk is full" in result.message


@pytest.mark.long
def test_a_handler_runs_in_its_step_and_not_again_after_the_undo(blue_green: Rollouts) -> None:
    change = {"name": "Change", "ansible.builtin.debug": {}, "changed_when": True, "notify": "Restart"}
    restart = {"name": "Restart", "ansible.builtin.debug": {"msg": "{{ rollout_deploy_release }}"}}
    deploy = blue_green.write_role("shop_release", [RELEASE, change], [restart])
    bad = {"2.0.0": {"behaviour": "unhealthy"}}
    result = blue_green.blue_green("2.0.0", "--force-handlers", rollout_deploy=deploy, fleet_behaviours=bad)
    result.expect(2, "rolled_back")
    handled = [
        (entry["host"], entry["message"]) for entry in result.entries if str(entry.get("task")).endswith("Restart")
    ]
    assert len([one for one in handled if one[1] == "2.0.0"]) == len(GREEN)
    assert handled[: len(GREEN)] == [one for one in handled if one[1] == "2.0.0"]


@pytest.mark.long
def test_the_second_host_of_a_batch_that_fails_takes_the_batch_back(
    start_rollouts: t.Callable[..., Rollouts],
) -> None:
    shop = start_rollouts(
        apps=4,
        variables={**SOON, "rolling_batches": 2},
        hosts={"web4": {"fleet_behaviours": {"2.0.0": {"behaviour": "crash_on_start"}}}},
    )
    result = shop.rolling("2.0.0").expect(2, "rolled_back")
    shop.expect_traffic("1.0.0", HOSTS)
    assert set(shop.releases().values()) == {"1.0.0"}
    assert "web4" in result.message


# --- Hosts that go away


def test_a_host_that_is_unreachable_from_the_start_stops_everything(blue_green: Rollouts) -> None:
    blue_green.gate.cut("web3")
    started = blue_green.starts()
    result = blue_green.blue_green("2.0.0").expect(4, "refused")
    blue_green.expect_traffic("1.0.0", BLUE)
    assert blue_green.starts() == started
    assert "web3" in result.message


@pytest.mark.long
def test_a_host_that_is_lost_in_the_deploy_of_a_colour_moves_no_traffic(blue_green: Rollouts) -> None:
    gate = blue_green.gate
    gate.at(lambda host: host == "web4" and runs(blue_green.fleet, "web3", "2.0.0"), lambda: gate.cut("web4"))
    deploy = blue_green.write_deploy(RELEASE, {"name": "Look", "ansible.builtin.ping": {}})
    result = blue_green.blue_green("2.0.0", rollout_deploy=deploy).expect(4, "rolled_back")
    blue_green.expect_traffic("1.0.0", BLUE)
    assert "web4" in result.message


@pytest.mark.pattern
def test_a_host_that_is_lost_in_its_batch_stays_out_and_the_others_go_back(rolling: Rollouts) -> None:
    gate = rolling.gate
    gate.at(lambda host: host == "web2" and runs(rolling.fleet, "web2", "2.0.0"), lambda: gate.cut("web2"))
    deploy = rolling.write_deploy(RELEASE, {"name": "Look", "ansible.builtin.ping": {}})
    result = rolling.rolling("2.0.0", rollout_deploy=deploy)
    assert result.code == 4, result.output
    rolling.expect_traffic("1.0.0", {"web1", "web3", "web4"})
    assert "web2" in result.message


@pytest.mark.long
def test_a_host_that_is_lost_in_the_undo_stays_out_and_the_others_go_back(
    start_rollouts: t.Callable[..., Rollouts],
) -> None:
    shop = start_rollouts(
        apps=4, variables=SOON, hosts={"web3": {"fleet_behaviours": {"2.0.0": {"behaviour": "unhealthy"}}}}
    )

    def undo_reached_web1(host: str) -> bool:
        return host == "web1" and shop.starts()[-1] == ("web2", "1.0.0")

    shop.gate.at(undo_reached_web1, lambda: shop.gate.cut("web1"))
    result = shop.rolling("2.0.0").expect(4, "rollback_failed")
    shop.expect_traffic("1.0.0", {"web2", "web3", "web4"})
    assert "web1" in result.message
    assert "web3" in result.message


# --- Load balancers that go away


def test_a_load_balancer_that_is_unreachable_from_the_start_stops_everything(blue_green: Rollouts) -> None:
    blue_green.gate.cut("lb2")
    started = blue_green.starts()
    result = blue_green.blue_green("2.0.0").expect(2, "refused")
    blue_green.expect_traffic("1.0.0", BLUE)
    assert blue_green.starts() == started
    assert "lb2" in result.message


@pytest.mark.long
def test_a_load_balancer_that_is_known_to_be_absent_is_done_without(blue_green: Rollouts) -> None:
    blue_green.gate.cut("lb2")
    blue_green.load(only="lb1")
    blue_green.blue_green("2.0.0", rollout_absent_lbs=["lb2"]).expect(0, "promoted")
    blue_green.expect_traffic("2.0.0", GREEN, on=["lb1"])


@pytest.mark.pattern
def test_a_load_balancer_that_is_lost_in_the_swap_takes_the_swap_back(blue_green: Rollouts) -> None:
    gate = blue_green.gate
    blue_green.load()
    lost: list[str] = []

    def other_has_swapped(host: str) -> bool:
        return host in LOAD_BALANCERS and bool(blue_green.carrying(other(host)) & GREEN)

    def lose() -> None:
        lost.append(gate.uses[-1])
        gate.cut(lost[0])

    gate.at(other_has_swapped, lose)
    result = blue_green.blue_green("2.0.0")
    assert result.code == 2, result.output
    assert result.outcome == "rollback_failed"
    blue_green.expect_traffic("1.0.0", BLUE, on=[other(lost[0])])
    assert lost[0] in result.message


@pytest.mark.long
def test_a_load_balancer_that_is_lost_in_the_rescue_does_not_keep_the_other_from_it(blue_green: Rollouts) -> None:
    gate = blue_green.gate
    blue_green.load()
    swapped: set[str] = set()
    lost: list[str] = []

    def other_is_back(host: str) -> bool:
        swapped.update(name for name in LOAD_BALANCERS if blue_green.carrying(name) == GREEN)
        return host in LOAD_BALANCERS and other(host) in swapped and blue_green.carrying(other(host)) == BLUE

    def lose() -> None:
        lost.append(gate.uses[-1])
        gate.cut(lost[0])

    gate.at(other_is_back, lose)
    bad = {"2.0.0": {"behaviour": "errors", "rate": 0.5}}
    result = blue_green.blue_green("2.0.0", fleet_behaviours=bad, blue_green_bake=20)
    result.expect(2, "rollback_failed")
    blue_green.expect_traffic("1.0.0", BLUE, on=[other(lost[0])])
    assert lost[0] in result.message


@pytest.mark.long
def test_a_load_balancer_that_is_silent_from_the_start_stops_everything(blue_green: Rollouts) -> None:
    blue_green.gate.silence("lb1")
    started = blue_green.starts()
    result = blue_green.blue_green("2.0.0").expect(2, "refused")
    assert blue_green.starts() == started
    assert "lb1" in result.message
    blue_green.expect_traffic("1.0.0", BLUE)


@pytest.mark.long
def test_a_load_balancer_that_falls_silent_in_the_swap_does_not_keep_the_other_from_the_rescue(
    blue_green: Rollouts,
) -> None:
    gate = blue_green.gate
    blue_green.load()
    lost: list[str] = []

    def other_has_swapped(host: str) -> bool:
        return host in LOAD_BALANCERS and bool(blue_green.carrying(other(host)) & GREEN)

    def lose() -> None:
        lost.append(gate.uses[-1])
        gate.silence(lost[0])

    gate.at(other_has_swapped, lose)
    result = blue_green.blue_green("2.0.0").expect(2, "rollback_failed")
    blue_green.expect_traffic("1.0.0", BLUE, on=[other(lost[0])])
    assert lost[0] in result.message


@pytest.mark.long
def test_an_haproxy_that_hangs_in_the_swap_does_not_keep_the_other_from_the_rescue(blue_green: Rollouts) -> None:
    hung: list[str] = []

    def other_has_swapped(host: str) -> bool:
        return host in LOAD_BALANCERS and bool(blue_green.carrying(other(host)) & GREEN)

    def hang() -> None:
        hung.append(blue_green.gate.uses[-1])
        os.kill(blue_green.fleet.worker_pid(hung[0]), signal.SIGSTOP)

    blue_green.gate.at(other_has_swapped, hang)
    result = blue_green.blue_green("2.0.0").expect(2, "rollback_failed")
    blue_green.expect_traffic("1.0.0", BLUE, on=[other(hung[0])])
    assert hung[0] in result.message


OPERATOR = TEMPLATE.replace(
    "    stats timeout 60s\n",
    "    stats timeout 60s\n    stats socket $dir/operator.sock mode 600 level operator\n",
)


def test_a_socket_that_may_not_change_servers_stops_everything(start_blue_green: t.Callable[..., Rollouts]) -> None:
    shop = start_blue_green(template=OPERATOR)
    socket = shop.fleet.path("lb2", "operator.sock")
    shop.write_inventory(
        lambda inventory: inventory["all"]["children"]["lb"]["hosts"]["lb2"].update(rollout_haproxy_socket=socket)
    )
    started = shop.starts()
    result = shop.blue_green("2.0.0").expect(2, "refused")
    shop.expect_traffic("1.0.0", BLUE)
    assert shop.starts() == started
    assert "lb2" in result.message
    assert "admin" in result.message


def other(load_balancer: str) -> str:
    """The other one of the two load balancers."""
    return next(name for name in LOAD_BALANCERS if name != load_balancer)
