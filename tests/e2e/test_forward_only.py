# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release whose deploy did what cannot be taken back, and that fails then, is held until a person decides."""

from __future__ import annotations

import pathlib
import typing as t

import pytest
import yaml

from e2e.rollouts import RELEASE, Rollouts
from local_fleet.layout import LOAD_BALANCERS
from local_fleet.polling import poll
from readmes import example_of

BLUE, GREEN = {"web1", "web2"}, {"web3", "web4"}
THREE = ["web1", "web2", "web3"]
ONCE = "rollout_deploy_first"
MIGRATION = "the migration of 2.0.0"
UNHEALTHY = {"2.0.0": {"behaviour": "unhealthy"}}
# The role of somebody who keeps to what the manual says: it tells before it begins.
(SAY,) = yaml.safe_load(example_of("roles/rollout/README.md", "tasks").text)
MIGRATE: dict[str, t.Any] = {
    "name": "Migrate",
    "ansible.builtin.lineinfile": {
        "path": "{{ fleet_directory }}/migrations",
        "line": "{{ rollout_deploy_action }} {{ rollout_deploy_release }} on {{ inventory_hostname }}",
        "create": True,
        "mode": "0644",
    },
    "when": ONCE,
}
FAIL = {"name": "Fail", "ansible.builtin.fail": {"msg": "the disk is full"}, "when": [ONCE, "disk is undefined"]}


def start_shop(start_rollouts: t.Callable[..., Rollouts], *tasks: t.Mapping[str, t.Any], bad: str = "web2") -> Rollouts:
    """Three hosts that are rolled one by one, one of which never becomes healthy with the new release."""
    shop = start_rollouts(apps=3, variables={"rolling_batches": 1}, hosts={bad: {"fleet_behaviours": UNHEALTHY}})
    shop.write_deploy(*(tasks or (SAY, MIGRATE, RELEASE)))
    return shop


def deploys(shop: Rollouts) -> dict[str, t.Any]:
    """The variable of the deploy that was written."""
    return {"rollout_deploy": {"tasks": str(shop.folder / "deploy.json")}}


def migrated(shop: Rollouts) -> pathlib.Path:
    """Where it is written down what was migrated."""
    return pathlib.Path(shop.fleet.directory) / "migrations"


def expect_carrying(shop: Rollouts, servers: t.Collection[str]) -> None:
    assert [shop.carrying(name) for name in LOAD_BALANCERS] == [set(servers)] * 2, shop.states()


@pytest.mark.long
def test_a_release_that_fails_after_a_migration_is_held_and_goes_on_once_the_cause_is_mended(
    start_rollouts: t.Callable[..., Rollouts],
) -> None:
    shop = start_shop(start_rollouts)
    load = shop.load()
    result = shop.rolling("2.0.0", **deploys(shop)).expect(2, "paused")
    assert f"{MIGRATION} cannot be taken back" in result.message
    assert "web2" in result.message
    assert "503" in result.message
    assert "rollout_action=resume" in result.message
    assert shop.releases() == {"web1": "2.0.0", "web2": "2.0.0", "web3": "1.0.0"}
    expect_carrying(shop, {"web1", "web3"})
    shop.fleet.deploy("web2", "2.0.0")
    shop.rolling("2.0.0", rollout_action="resume", **deploys(shop)).expect(0, "promoted")
    shop.expect_traffic("2.0.0", THREE)
    assert migrated(shop).read_text() == "deploy 2.0.0 on web1\n"
    load.stop()
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


@pytest.mark.long
def test_a_release_that_is_held_goes_back_when_a_person_says_so(start_rollouts: t.Callable[..., Rollouts]) -> None:
    shop = start_shop(start_rollouts)
    load = shop.load()
    shop.rolling("2.0.0", **deploys(shop)).expect(2, "paused")
    status = shop.run("status", rollout_hosts="app")
    assert status.code == 2, status.output
    assert f"cannot be taken back: {MIGRATION}" in status.output
    back = shop.rollback(**deploys(shop)).expect(0, "rolled_back")
    assert f"{MIGRATION} cannot be taken back: the former release runs on what this left" in back.output
    shop.expect_traffic("1.0.0", THREE)
    assert set(shop.releases().values()) == {"1.0.0"}
    assert migrated(shop).read_text() == "deploy 2.0.0 on web1\n"
    load.stop()
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


@pytest.mark.long
@pytest.mark.core
@pytest.mark.pattern
def test_a_deploy_that_fails_in_its_migration_is_held_and_deployed_again(
    start_rollouts: t.Callable[..., Rollouts],
) -> None:
    shop = start_shop(start_rollouts, SAY, FAIL, MIGRATE, RELEASE, bad="web4")
    result = shop.rolling("2.0.0", **deploys(shop)).expect(2, "paused")
    assert f"{MIGRATION} cannot be taken back" in result.message
    assert "the disk is full" in result.message
    expect_carrying(shop, {"web2", "web3"})
    shop.rolling("2.0.0", rollout_action="resume", disk="new", **deploys(shop)).expect(0, "promoted")
    shop.expect_traffic("2.0.0", THREE)
    assert migrated(shop).read_text() == "deploy 2.0.0 on web1\n"


@pytest.mark.long
def test_a_host_that_is_lost_after_its_migration_holds_the_release(start_rollouts: t.Callable[..., Rollouts]) -> None:
    look = {"name": "Look", "ansible.builtin.ping": {}}
    shop = start_shop(start_rollouts, SAY, MIGRATE, look, RELEASE, bad="web4")
    shop.gate.at(lambda host: host == "web1" and migrated(shop).exists(), lambda: shop.gate.cut("web1"))
    result = shop.rolling("2.0.0", **deploys(shop)).expect(4, "paused")
    assert f"{MIGRATION} cannot be taken back" in result.message
    expect_carrying(shop, {"web2", "web3"})


@pytest.mark.long
def test_who_goes_on_with_a_release_whose_controller_died_holds_as_well(
    start_rollouts: t.Callable[..., Rollouts],
) -> None:
    shop = start_shop(start_rollouts)
    given = {"rollout_hosts": "app", "rollout_release": "2.0.0", **deploys(shop)}
    running = shop.start("rolling", **given)
    poll(lambda: ": drain web2" in running.output, "web1 is done", 120)
    running.kill()
    result = shop.rolling("2.0.0", rollout_action="resume", rollout_steal="it was killed", **deploys(shop))
    result.expect(2, "paused")
    assert f"{MIGRATION} cannot be taken back" in result.message
    assert shop.releases()["web1"] == "2.0.0"
    assert migrated(shop).read_text() == "deploy 2.0.0 on web1\n"


@pytest.mark.long
def test_a_swap_that_fails_after_a_migration_leaves_the_new_colour_as_it_is(
    start_blue_green: t.Callable[..., Rollouts],
) -> None:
    shop = start_blue_green()
    shop.write_deploy(SAY, MIGRATE, RELEASE)
    load = shop.load()
    bad = {"2.0.0": {"behaviour": "errors", "rate": 0.5}}
    shop.blue_green("2.0.0", fleet_behaviours=bad, blue_green_bake=20, **deploys(shop)).expect(2, "paused")
    shop.expect_traffic("1.0.0", BLUE)
    assert {shop.releases()[host] for host in GREEN} == {"2.0.0"}
    for host in sorted(GREEN):
        shop.fleet.deploy(host, "2.0.0")
    shop.blue_green("2.0.0", rollout_action="resume", blue_green_bake=20, **deploys(shop)).expect(0, "promoted")
    shop.expect_traffic("2.0.0", GREEN)
    load.stop()
    assert load.summary().lost == 0, load.summary().examples


@pytest.mark.long
@pytest.mark.core
def test_what_an_earlier_release_of_the_play_migrated_holds_no_later_one(
    start_rollouts: t.Callable[..., Rollouts],
) -> None:
    say = {**SAY, "when": [ONCE, "rollout_deploy_release == '2.0.0'"]}
    shop = start_rollouts(
        apps=3,
        variables={"rolling_batches": 1},
        hosts={"web2": {"fleet_behaviours": {"3.0.0": {"behaviour": "unhealthy"}}}},
    )
    shop.write_deploy(say, RELEASE)
    releases = [
        {
            "name": release,
            "ansible.builtin.include_role": {"name": "steady.rollout.rolling"},
            "vars": {"rollout_release": release},
        }
        for release in ("2.0.0", "3.0.0")
    ]
    result = shop.run([{"hosts": "app", "gather_facts": False, "tasks": releases}], **deploys(shop))
    result.expect(2, "rolled_back")
    shop.expect_traffic("2.0.0", THREE)
