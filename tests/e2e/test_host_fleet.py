# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases on hosts as people have them, under load: systemd, archives, and hosts that restart in the middle of it."""

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest

from e2e.host_fleet import APP_HOSTS, DEPLOY, DUO_PORT, LOAD_BALANCERS, HostFleet, cut_sessions
from e2e.rollouts import COARSE, Result
from local_fleet.load import Load
from local_fleet.polling import poll
from local_fleet.tally import Summary

# In one process, as the fleet takes a while to make. Every day Molecule's fleet shows a release that is good and one that is not.
pytestmark = [
    pytest.mark.containers,
    pytest.mark.xdist_group("test_host_fleet"),
    pytest.mark.alone,
    pytest.mark.long,
]

SECONDS = 240.0
LONG: dict[str, t.Any] = {"slow": 0.02, "slow_ms": 10_000}  # on each load balancer about eight are in flight
SOCKETS: dict[str, t.Any] = {"websockets": 4, "websocket_s": 10.0}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[HostFleet]:
    with HostFleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


@pytest.fixture
def shop(fleet: HostFleet) -> t.Iterator[HostFleet]:
    """The fleet at rest, as it is again when the test is over."""
    yield fleet
    fleet.expect_rest()


def release(shop: HostFleet, what: str, release: str, **variables: t.Any) -> Result:
    """Release on all hosts of the shop."""
    return shop.run(what, rollout_hosts="app", rollout_release=release, **variables)


def nothing_lost(load: Load) -> Summary:
    """Stop a load, and see that neither a request nor a WebSocket was lost."""
    load.stop()
    summary = load.summary()
    print(f"{summary.line()}; p99 {summary.latency.p99:.1f} ms; late p99 {summary.lateness.p99:.1f} ms")
    assert (summary.lost, summary.sockets.lost) == (0, 0), summary.examples
    return summary


def nothing_harmed(load: Load) -> None:
    summary = nothing_lost(load)
    assert (summary.harmed, summary.sockets.harmed) == (0, 0), summary.examples


# --- Rolling


def test_a_rolling_release_waits_for_long_requests_and_websockets(shop: HostFleet) -> None:
    before, new = shop.running("web1"), shop.new_release()
    with shop.load(before, new, **LONG, **SOCKETS) as load:
        result = release(shop, "rolling", new).expect(0, "promoted")
        nothing_harmed(load)
    assert cut_sessions(result) == 0
    assert load.summary().sockets.ok > 2 * SOCKETS["websockets"] * len(LOAD_BALANCERS)
    shop.expect_release(new)


def test_what_outlives_the_drain_timeout_is_cut_by_policy_and_counted(shop: HostFleet) -> None:
    before, new = shop.running("web1"), shop.new_release()
    with shop.load(before, new, **LONG, websockets=4, websocket_s=60.0) as load:
        variables = {"rollout_drain_timeout": 2, "rollout_on_drain_timeout": "cut"}
        result = release(shop, "rolling", new, **variables).expect(0, "promoted")
    summary = load.summary()
    print(f"{summary.line()}; {cut_sessions(result)} sessions cut")
    assert summary.sockets.lost == summary.sockets.cut > 0
    assert summary.lost > 0
    assert cut_sessions(result) == summary.lost + summary.sockets.cut
    assert (summary.harmed, summary.sockets.harmed) == (0, 0), summary.examples
    shop.expect_release(new)


@pytest.mark.parametrize(
    "behaviour",
    ["crash_on_start", "unhealthy"],
    ids=["never active", "unhealthy"],
)
def test_a_rolling_release_that_does_not_work_is_taken_back(shop: HostFleet, behaviour: str) -> None:
    before, bad = shop.running("web1"), shop.new_release(behaviour)
    with shop.load(before, **SOCKETS) as load:
        release(shop, "rolling", bad).expect(2, "rolled_back")
        nothing_harmed(load)
    shop.expect_release(before)


# --- Blue-green on one host


def test_two_colours_on_one_host_take_turns_and_the_way_back_is_one_command(shop: HostFleet) -> None:
    (live,) = shop.carrying("lb1", "duo")
    (before,) = shop.answering("lb1", DUO_PORT)
    new = shop.new_release()
    assert before
    with shop.load(before, new, port=DUO_PORT, **SOCKETS) as load:
        shop.duo.blue_green(new).expect(0, "promoted")
        assert all(shop.answering(name, DUO_PORT) == {new} for name in LOAD_BALANCERS)
        assert shop.carrying("lb1", "duo") == shop.carrying("lb2", "duo") != {live}
        shop.duo.rollback().expect(0, "rolled_back")
        nothing_harmed(load)
    assert all(shop.answering(name, DUO_PORT) == {before} for name in LOAD_BALANCERS)
    assert shop.carrying("lb1", "duo") == shop.carrying("lb2", "duo") == {live}


@pytest.mark.parametrize("behaviour", ["crash_on_start", "unhealthy", "errors"])
def test_a_colour_that_does_not_work_never_keeps_the_traffic(shop: HostFleet, behaviour: str) -> None:
    (live,) = shop.carrying("lb1", "duo")
    (before,) = shop.answering("lb1", DUO_PORT)
    bad = shop.new_release(behaviour)
    assert before
    with shop.load(before, bad, port=DUO_PORT, **SOCKETS) as load:
        shop.duo.blue_green(bad).expect(2, "rolled_back")
        summary = nothing_lost(load)
    assert (summary.harmed > 0) == (behaviour == "errors")
    assert all(shop.answering(name, DUO_PORT) == {before} for name in LOAD_BALANCERS)
    assert shop.carrying("lb1", "duo") == shop.carrying("lb2", "duo") == {live}


# --- Canary


def test_a_good_canary_is_promoted(shop: HostFleet) -> None:
    before, new = shop.running("web1"), shop.new_release()
    with shop.load(before, new, **SOCKETS) as load:
        release(shop, "canary", new, rollout_analysis=COARSE).expect(0, "promoted")
        nothing_harmed(load)
    shop.expect_release(new)


def test_a_bad_canary_is_taken_back(shop: HostFleet) -> None:
    before, bad = shop.running("web1"), shop.new_release("errors", rate=0.4)
    with shop.load(before, bad, **SOCKETS) as load:
        result = release(shop, "canary", bad, rollout_analysis=COARSE).expect(2, "rolled_back")
        summary = nothing_lost(load)
    assert summary.harmed > 0
    assert "to the canary failed" in result.message
    shop.expect_release(before)


# --- Hosts that restart


def test_a_load_balancer_that_restarts_in_a_rollout_is_safe_and_costs_the_other_nothing(shop: HostFleet) -> None:
    before, new = shop.running("web1"), shop.new_release()
    with shop.load(before, new, only=["lb1"]) as load:
        running = shop.start("rolling", rollout_hosts="app", rollout_release=new, rolling_min_healthy_time=5)
        poll(lambda: shop.running("web1") == new and shop.guarded("lb2"), "the first host is released to", SECONDS)
        shop.host("lb2").restart(0)
        # Its guard took the rollout from the controller, as a lease of another boot has expired.
        assert "the guard began to return the traffic" in running.result().expect(2, "rollback_failed").message
        assert shop.answering("lb1") == shop.answering("lb2") == {before}
        shop.rollback().expect(0, "rolled_back")
        nothing_harmed(load)
    shop.expect_release(before)


def deploying(folder: pathlib.Path, *tasks: t.Mapping[str, t.Any]) -> dict[str, str]:
    """A deploy that puts the release on a host, and then does more."""
    path = folder / "deploy.json"
    path.write_text(json.dumps([{"ansible.builtin.include_role": {"name": DEPLOY}}, *tasks]))
    return {"tasks": str(path)}


def test_hosts_that_reboot_as_part_of_their_deploy_are_let_in_when_they_are_up(
    shop: HostFleet, tmp_path: pathlib.Path
) -> None:
    before, new = shop.running("web1"), shop.new_release()
    reboot = {
        "name": "Reboot",
        "delegate_to": "localhost",
        "ansible.builtin.command": "docker restart {{ ansible_host }}",
    }
    wait = {"name": "Wait until it is up", "ansible.builtin.wait_for_connection": {"timeout": 60}}
    boots = {name: shop.host(name).boot_id() for name in APP_HOSTS}
    with shop.load(before, new, **SOCKETS) as load:
        release(shop, "rolling", new, rollout_deploy=deploying(tmp_path, reboot, wait)).expect(0, "promoted")
        nothing_harmed(load)
    shop.expect_release(new)
    assert all(shop.host(name).boot_id() != boot for name, boot in boots.items())


def test_a_host_that_loses_its_power_in_its_deploy_is_taken_back(shop: HostFleet, tmp_path: pathlib.Path) -> None:
    before, new = shop.running("web1"), shop.new_release()
    hold = {
        "name": "Take long",
        "ansible.builtin.command": "sleep 240",
        "when": f"inventory_hostname == 'web2' and rollout_deploy_release == '{new}'",
    }
    with shop.load(before, new, **SOCKETS) as load:
        deploy = deploying(tmp_path, hold)
        running = shop.start("rolling", rollout_hosts="app", rollout_release=new, rollout_deploy=deploy)
        poll(lambda: shop.host("web2").run("pgrep", "-x", "sleep", check=False).stdout, "web2 is at work", SECONDS)
        shop.host("web2").restart(0)
        result = running.result()
        print(result.message)
        nothing_harmed(load)
    result.expect(2, "rolled_back")
    shop.expect_release(before)
