# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rolling: host after host, out of rotation first, and back on the old release when one goes wrong."""

from __future__ import annotations

import re
import typing as t

import pytest

from e2e.rollouts import RELEASE, Result, Rollouts, Seen, carrying, see
from local_fleet.layout import LOAD_BALANCERS, Options

HOSTS = ["web1", "web2", "web3", "web4"]
THREE = HOSTS[:3]
UNHEALTHY = {"behaviour": "unhealthy"}


# --- A good release


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A good release, host by host."""
    with Rollouts(tmp_path_factory.mktemp("promoted"), Options(apps=3), {"rolling_batches": 1}, {}) as shop:
        return see(shop, "rolling", "2.0.0")


@pytest.mark.long
@pytest.mark.xdist_group("test_rolling_promoted")
def test_a_good_release_is_promoted(promoted: Seen) -> None:
    promoted.result.expect(0, "promoted")
    assert (promoted.summary.lost, promoted.summary.harmed) == (0, 0), promoted.summary.examples


@pytest.mark.long
@pytest.mark.xdist_group("test_rolling_promoted")
def test_every_host_gets_the_release_in_the_order_of_the_play(promoted: Seen) -> None:
    assert promoted.started == [(host, "2.0.0") for host in THREE]


@pytest.mark.long
@pytest.mark.xdist_group("test_rolling_promoted")
def test_every_host_is_out_of_rotation_one_by_one_and_back_in_the_end(promoted: Seen) -> None:
    assert [out for out in promoted.watch.out() if out] == [{host} for host in THREE]
    for name in LOAD_BALANCERS:
        assert promoted.carrying[name] == set(THREE)
        assert promoted.answering[name] == {"2.0.0"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rolling_batches": 2}, [{"web1", "web2"}, {"web3", "web4"}]),
        ({"rolling_batches": [1, "50%"]}, [{"web1"}, {"web2", "web3"}, {"web4"}]),
        ({"rolling_batches": 2, "rolling_max_unavailable": "49%"}, [{host} for host in HOSTS]),
    ],
)
@pytest.mark.long
def test_no_more_hosts_are_out_than_a_batch(
    rolling: Rollouts, given: dict[str, t.Any], expected: list[set[str]]
) -> None:
    watch = rolling.watch()
    rolling.rolling("2.0.0", **given).expect(0, "promoted")
    # On their way out and in, the hosts of a batch may be seen one by one.
    out = [out for out in watch.out() if out]
    assert all(any(seen <= batch for batch in expected) for seen in out), out
    assert [batch for batch in expected if batch in out] == expected


@pytest.mark.long
def test_no_batch_takes_two_hosts_of_one_domain(start_rollouts: t.Callable[..., Rollouts]) -> None:
    racks = {host: {"rack": rack} for host, rack in zip(HOSTS, ["a", "a", "b", "b"])}
    shop = start_rollouts(apps=4, hosts=racks, variables={"rolling_batches": 2, "rolling_spread_by": "rack"})
    watch = shop.watch()
    shop.rolling("2.0.0").expect(0, "promoted")
    assert not any(out >= pair for out in watch.out() for pair in ({"web1", "web2"}, {"web3", "web4"}))
    assert any(len(out) == 2 for out in watch.out())


@pytest.mark.long
def test_a_second_run_of_the_same_release_changes_nothing(rolling: Rollouts) -> None:
    rolling.rolling("2.0.0", rolling_batches=2).expect(0, "promoted")
    started, states = rolling.starts(), rolling.states()
    again = rolling.rolling("2.0.0", rolling_batches=2).expect(0, "unchanged")
    assert again.changed == {}, again.output
    assert rolling.starts() == started
    assert rolling.states() == states


@pytest.mark.long
def test_check_mode_shows_the_plan_and_changes_nothing(rolling: Rollouts) -> None:
    started, states = rolling.starts(), rolling.states()
    result = rolling.rolling("2.0.0", "--check", "--diff")
    assert result.code == 0, result.output
    assert rolling.starts() == started
    assert rolling.states() == states
    for word in ("drain", "deploy", "probe", "admit", *HOSTS):
        assert word in result.output, result.output


@pytest.mark.long
def test_check_mode_tells_the_deploy_what_the_run_would_tell_it(rolling: Rollouts) -> None:
    words = "told: {{ inventory_hostname }} {{ rollout_deploy_action }} {{ rollout_deploy_release }} for {{ rollout_deploy_previous }}"
    deploy = rolling.write_deploy({"name": "Tell", "ansible.builtin.debug": {"msg": words}}, RELEASE)

    def told(result: Result) -> list[str]:
        assert result.code == 0, result.output
        return sorted(re.findall(r"told: (\w+ \w+ \S+ for [\d.]+)", result.output))

    checks: dict[str, t.Any] = {"rollout_deploy": deploy, "rollout_check_deploy": True}
    foreseen = told(rolling.rolling("2.0.0", "--check", rolling_batches=2, **checks))
    assert foreseen == [f"{host} deploy 2.0.0 for 1.0.0" for host in HOSTS]
    assert told(rolling.rolling("2.0.0", rolling_batches=2, rollout_deploy=deploy)) == foreseen
    back = told(rolling.rollback("--check", **checks))
    assert back == [f"{host} undo 1.0.0 for 2.0.0" for host in HOSTS]
    rolling.expect_traffic("2.0.0", HOSTS)


# --- A bad one


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A release that does not become healthy on the second of three hosts."""
    hosts = {"web2": {"fleet_behaviours": {"2.0.0": UNHEALTHY}}}
    with Rollouts(tmp_path_factory.mktemp("rolled_back"), Options(apps=3), {"rolling_batches": 1}, hosts) as shop:
        return see(shop, "rolling", "2.0.0")


@pytest.mark.xdist_group("test_rolling_rolled_back")
@pytest.mark.pattern
def test_a_release_that_fails_on_a_host_is_rolled_back(rolled_back: Seen) -> None:
    result = rolled_back.result.expect(2, "rolled_back")
    assert "web2" in result.message
    assert "503" in result.message


@pytest.mark.xdist_group("test_rolling_rolled_back")
@pytest.mark.pattern
def test_hosts_already_done_go_back_in_reverse_order(rolled_back: Seen) -> None:
    new = [(host, "2.0.0") for host in ("web1", "web2")]
    old = [(host, "1.0.0") for host in ("web2", "web1")]
    assert rolled_back.started == [*new, *old]
    for name in LOAD_BALANCERS:
        assert rolled_back.carrying[name] == set(THREE)
        assert rolled_back.answering[name] == {"1.0.0"}


@pytest.mark.xdist_group("test_rolling_rolled_back")
@pytest.mark.pattern
def test_hosts_go_back_without_a_lost_request(rolled_back: Seen) -> None:
    # The host that failed is out, and one more while it goes back.
    assert all(len(out) <= 2 for out in rolled_back.watch.out()), rolled_back.watch.out()
    assert (rolled_back.summary.lost, rolled_back.summary.harmed) == (0, 0), rolled_back.summary.examples


@pytest.mark.long
def test_on_hold_the_hosts_already_done_stay_and_the_bad_one_is_out(start_rollouts: t.Callable[..., Rollouts]) -> None:
    shop = start_rollouts(
        apps=3,
        variables={"rolling_batches": 1, "rolling_on_failure": "hold"},
        hosts={"web2": {"fleet_behaviours": {"2.0.0": UNHEALTHY}}},
    )
    result = shop.rolling("2.0.0")
    assert result.code == 2, result.output
    assert shop.releases() == {"web1": "2.0.0", "web2": "2.0.0", "web3": "1.0.0"}
    for name in LOAD_BALANCERS:
        assert carrying(shop.fleet, name) == {"web1", "web3"}
    assert "web2" in result.message


@pytest.mark.long
def test_a_release_that_turns_bad_while_its_batch_is_watched_goes_back(rolling: Rollouts) -> None:
    load = rolling.load()
    bad = {"2.0.0": {"behaviour": "errors", "rate": 1.0}}
    result = rolling.rolling("2.0.0", fleet_behaviours=bad, rolling_min_healthy_time=10).expect(2, "rolled_back")
    rolling.expect_traffic("1.0.0", HOSTS)
    assert "web1" in result.message
    load.stop()
    assert load.summary().lost == 0, load.summary().examples


# --- The way back


@pytest.mark.long
def test_a_rollback_puts_the_previous_release_back_host_by_host(rolling: Rollouts) -> None:
    rolling.rolling("2.0.0", rolling_batches=2).expect(0, "promoted")
    watch = rolling.watch()
    rolling.rollback().expect(0, "rolled_back")
    rolling.expect_traffic("1.0.0", HOSTS)
    assert all(len(out) <= 2 for out in watch.out()), watch.out()


# --- Maintenance


@pytest.mark.long
def test_a_host_may_reboot_in_its_batch(rolling: Rollouts) -> None:
    fleet, gate = rolling.fleet, rolling.gate
    mark = {"path": "{{ fleet_directory }}/{{ inventory_hostname }}/off", "state": "touch"}
    off = {"name": "Go down", "ansible.builtin.file": mark}
    back = {"name": "Come back", "ansible.builtin.wait_for_connection": {"timeout": 30}}
    deploy = rolling.write_deploy(off, back, RELEASE)

    def goes_down() -> None:
        fleet.kill("web2")
        gate.cut("web2")
        refused = gate.uses.count("web2") + 2
        gate.at(lambda _host: gate.uses.count("web2") > refused, lambda: gate.heal("web2"))

    gate.at(lambda host: host == "web2" and rolling.place("web2", "off").exists(), goes_down)
    load = rolling.load()
    rolling.rolling("2.0.0", rollout_deploy=deploy).expect(0, "promoted")
    rolling.expect_traffic("2.0.0", HOSTS)
    load.stop()
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


def own_play(*tasks: dict[str, t.Any], **values: t.Any) -> list[dict[str, t.Any]]:
    return [{"hosts": "app", "gather_facts": False, "tasks": list(tasks), **values}]


def part(name: str) -> dict[str, t.Any]:
    return {"name": name, "ansible.builtin.include_role": {"name": "steady.rollout.rollout", "tasks_from": name}}


@pytest.mark.long
def test_a_user_takes_a_host_out_and_in_around_tasks_of_their_own(rolling: Rollouts) -> None:
    load, watch = rolling.load(), rolling.watch()
    fleet = {"PYTHONPATH": "{{ fleet_program }}"}
    argv = ["{{ ansible_playbook_python }}", "-m", "local_fleet", "--fleet", "{{ fleet_directory }}"]
    argv += ["ensure", "{{ inventory_hostname }}", '{"release": "maintained"}']
    work = {"name": "Work", "ansible.builtin.command": {"argv": argv}, "environment": fleet}
    result = rolling.run(own_play(part("drain"), work, part("admit"), serial=1))
    assert result.code == 0, result.output
    rolling.expect_traffic("maintained", HOSTS)
    assert [out for out in watch.out() if out] == [{host} for host in HOSTS]
    load.stop()
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


def test_more_hosts_than_the_others_can_stand_in_for_are_not_taken_out(rolling: Rollouts) -> None:
    result = rolling.run(own_play(part("drain")))
    assert result.code == 2, result.output
    assert "would leave no healthy server in rotation" in result.message
    rolling.expect_traffic("1.0.0", HOSTS)


@pytest.mark.long
def test_what_a_rollout_told_a_role_is_not_told_to_one_that_is_run_after_it(rolling: Rollouts) -> None:
    names = ("release", "previous", "action", "track")
    left = {"msg": "left: {{ [" + ", ".join(f"rollout_deploy_{name}" for name in names) + "] }}"}
    role = {"ansible.builtin.include_role": {"name": "steady.rollout.rolling"}}
    result = rolling.run(own_play(role, {"ansible.builtin.debug": left}), rollout_release="2.0.0")
    result.expect(0, "promoted")
    assert "left: ['', '', '', '']" in result.output
