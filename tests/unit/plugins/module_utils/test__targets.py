# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._targets import (
    PROBE_OPTIONS,
    Refused,
    check_play,
    control_of,
    lock_wait,
    make_targets,
)

from simulated_rollout import CONTROL, NEW, play, reach, targets

OWN: dict[str, dict[str, t.Any]] = {f"web{i}": {} for i in range(1, 4)}


def refused(message: str) -> t.Any:
    """The whole sentence; without a full stop, as more may follow it."""
    return pytest.raises(Refused, match=f"^{re.escape(message)}$")


# ---------------------------------------------------------------------------------------------------------------------
# the play


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"strategy": "free"},
            "the play uses strategy free, in which steps do not wait for each other; use strategy: linear",
        ),
        (
            {"batch": ("web1",)},
            "the play uses serial, so that a rollout would see a part of the fleet only, and never take back an earlier batch; "
            "remove serial, and use rolling_batches",
        ),
        (
            {"inherited": ("any_errors_fatal",)},
            "the play, or a block or role around the rollout, sets any_errors_fatal, which the rescue would inherit: one bad host would stop "
            "the undo on all; remove it",
        ),
        (
            {"extra_vars": {"rollout_deploy_release", "rollout_release"}},
            "rollout_deploy_release was given as extra var, which would beat what the rollout sets: an undo would install the new "
            "release again; give rollout_release instead",
        ),
        (
            {"extra_vars": {"rollout_deploy_first"}},
            "rollout_deploy_first was given as extra var, which would beat what the rollout sets: it would say the same of every host and "
            "of every rollout; leave it out",
        ),
        (
            {"alive": ("web1", "web3")},
            "web2 did not answer or failed earlier in the play, and a rollout needs the whole fleet; mend or remove it first",
        ),
        (
            {"alive": ("web3",)},
            "web1, web2 did not answer or failed earlier in the play, and a rollout needs the whole fleet; mend or remove them "
            "first",
        ),
    ],
)
def test_a_play_in_which_a_rescue_would_not_run_is_refused(changes, message):
    with refused(message):
        check_play(play(list(OWN), **changes), "run")


def test_only_a_release_waits_for_another_rollout():
    assert lock_wait("run", {"lock_wait": "2m"}) == 120.0
    assert lock_wait("rollback", {"lock_wait": "2m"}) == 0.0


def test_a_wait_that_is_no_time_is_refused():
    with pytest.raises(Refused, match="soon"):
        targets(OWN, lock_wait="soon")


def test_a_rollback_needs_not_the_whole_fleet():
    check_play(play(list(OWN), alive=("web1",)), "rollback")


@pytest.mark.parametrize("action", ["drain", "admit"])
def test_hosts_leave_and_enter_rotation_in_batches_too(action):
    check_play(play(list(OWN), batch=("web1",), inherited=("any_errors_fatal",)), action)


# ---------------------------------------------------------------------------------------------------------------------
# the variables


def test_control_variables_are_those_that_all_hosts_share():
    assert control_of({"web1": {"release": NEW}, "web2": {"release": NEW}}) == {"release": NEW}


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"release": "1"}, {"release": "2"}, "rollout_release differs between hosts: web1 has '1', web2 has '2'"),
        ({"release": "1"}, {}, "rollout_release differs between hosts: web1 has '1', web2 has None"),
        (
            {"strategy": {"name": "rolling", "batches": 1}},
            {"strategy": {"name": "rolling", "batches": 2}},
            "rolling_batches differs between hosts: web1 has 1, web2 has 2",
        ),
    ],
)
def test_control_variables_that_differ_are_refused(one, other, message):
    with refused(f"{message}; it must be the same on the whole fleet"):
        control_of({"web1": one, "web2": other})


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({"action": "abort"}, "rollout_action is 'abort'; it can be run, promote, resume or rollback"),
        ({"release": None}, "rollout_release is not set: say what to roll out, for example -e rollout_release=1.4.2"),
        ({"release": "  "}, "rollout_release is not set: say what to roll out, for example -e rollout_release=1.4.2"),
        (
            {"load_balancers": []},
            "rollout_load_balancers is empty; list the inventory hosts of the load balancers",
        ),
        (
            {"load_balancers": None},
            "rollout_load_balancers must be a list of names, the inventory hosts of the load balancers; it is None",
        ),
        (
            {"load_balancers": ["lb1", 3]},
            "rollout_load_balancers must be a list of names, the inventory hosts of the load balancers; it is ['lb1', 3]",
        ),
        ({"load_balancers": ["lb1", "lb1"]}, "rollout_load_balancers lists lb1 more than once"),
        (
            {"load_balancers": ["lb1", "lb9"]},
            "rollout_load_balancers names lb9, which is no host of the inventory",
        ),
        ({"backend": ""}, "rollout_backend must be a list of names, the backends that the fleet serves; it is ''"),
        ({"backend": []}, "rollout_backend is empty; list the backends that the fleet serves"),
        ({"absent_lbs": ["lb9"]}, "rollout_absent_lbs names lb9, which is not in rollout_load_balancers"),
        (
            {"absent_lbs": ["lb1", "lb2"]},
            "all load balancers are in rollout_absent_lbs; at least one must take part",
        ),
        (
            {"strategy": {"name": "shadow"}},
            "rollout_strategy must name one of blue_green, canary, rolling, custom, not {'name': 'shadow'}",
        ),
        (
            {"strategy": {"name": "canary", "steps": [25, 5]}},
            "canary_steps has [25, 5]; each share must be greater than the one before it",
        ),
        (
            {"strategy": {"name": "canary", "step_for": 0}},
            "canary_step_for is no time at all, so that nothing would be judged; write a time, such as 5m",
        ),
        (
            {"strategy": {"name": "canary", "inconclusive": "hope"}},
            "canary_inconclusive is 'hope'; it can be hold, continue, rollback",
        ),
        (
            {"pause_policy": "wait"},
            "rollout_pause_policy is 'wait'; it can be rollback or hold",
        ),
        ({"pause_timeout": 1}, "rollout_pause_timeout: a lease lasts from 5 to 604800 seconds, not 1"),
        (
            {"analysis": {"alpha": 2}},
            "rollout_analysis: alpha is 2.0, and must be between 0 and 1",
        ),
        (
            {"strategy": {"name": "custom"}},
            "there is no plan: set rollout_steps, or use the role steady.rollout.blue_green, steady.rollout.canary or steady.rollout.rolling",
        ),
        (
            {"strategy": {"name": "rolling", "on_failure": "panic"}},
            "rolling_on_failure is 'panic'; it can be rollback or hold",
        ),
        ({"analysis": [5]}, "rollout_analysis must be a map such as {max_error_rate: 5}, not [5]"),
        (
            {"analysis": {"max_errors": 5}},
            "rollout_analysis has max_errors, which it does not know; it knows interval, max_error_rate, min_requests, inconclusive, "
            "tolerance, alpha, beta, horizon, absolute_max",
        ),
        (
            {"analysis": {"inconclusive": "hope"}},
            "rollout_analysis.inconclusive is 'hope'; it can be hold, continue, rollback",
        ),
        (
            {"analysis": {"max_error_rate": 101}},
            "rollout_analysis.max_error_rate must be a number from 0 to 100 (percent), not 101",
        ),
        (
            {"analysis": {"min_requests": -1}},
            "rollout_analysis.min_requests must be a whole number from 0, not -1",
        ),
        (
            {"analysis": {"interval": "soon"}},
            "'soon' is not a duration; write seconds, or a text such as 30s, 5m or 1h30m",
        ),
        ({"on_restart": "wait"}, "rollout_on_restart is 'wait'; it can be reassert or rollback"),
        ({"on_drain_timeout": "wait"}, "rollout_on_drain_timeout is 'wait'; it can be fail, continue or cut"),
        (
            {"drain_timeout": "x"},
            "'x' is not a duration; write seconds, or a text such as 30s, 5m or 1h30m",
        ),
        ({"probe": "/health"}, "rollout_probe must be a map such as {path: /health}, not '/health'"),
        (
            {"probe": {"url": "x"}},
            f"rollout_probe has url, which it does not know; it knows {', '.join(PROBE_OPTIONS)}",
        ),
        ({"min_capacity": "half"}, "rollout_min_capacity must be a number from 0 to 100 (percent), not 'half'"),
        ({"headroom": True}, "rollout_headroom must be a number from 0 to 100 (percent), not True"),
        (
            {"share_tolerance": float("nan")},
            "rollout_share_tolerance must be a number from 0 to 100 (percent), not nan",
        ),
        ({"deploy": {}}, "rollout_deploy must be {role: NAME} or {tasks: PATH}, not {}"),
        ({"deploy": {"role": ""}}, "rollout_deploy must be {role: NAME} or {tasks: PATH}, not {'role': ''}"),
        ({"deploy": "shop"}, "rollout_deploy must be {role: NAME} or {tasks: PATH}, not 'shop'"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused_in_one_sentence(control, message):
    with refused(message):
        targets(OWN, **control)


def test_a_provider_that_this_version_does_not_know_is_refused():
    lbs = reach("lb1", "lb2")
    lbs["lb2"]["provider"] = "varnish"
    with refused("rollout_provider of lb2 is 'varnish'; this version knows haproxy, nginx, nginx_lua"):
        make_targets(play(list(OWN)), CONTROL, OWN, lbs)


def test_load_balancers_of_several_makes_are_refused():
    lbs = reach("lb1", "lb2")
    lbs["lb2"]["provider"] = "nginx"
    with refused(
        "the load balancers of a rollout must all be of one make, and these are not: lb1 is haproxy, lb2 is nginx"
    ):
        make_targets(play(list(OWN)), CONTROL, OWN, lbs)


@pytest.mark.parametrize(
    ("given", "server"),
    [
        ({"server": "10.0.0.9:80", "port": 8080}, "10.0.0.9:80"),
        ({"address": "10.0.0.1", "port": 8080}, "10.0.0.1:8080"),
        ({"host": "10.0.0.2", "port": "8080"}, "10.0.0.2:8080"),
        ({"port": 8080}, "web1:8080"),
    ],
)
def test_with_nginx_a_server_is_named_by_its_address_and_port(given, server):
    lbs = {name: {**reached, "provider": "nginx"} for name, reached in reach("lb1", "lb2").items()}
    made = make_targets(play(["web1"]), CONTROL, {"web1": given}, lbs)
    assert made.own["web1"]["server"] == server


def test_with_nginx_each_slot_of_a_host_is_named_by_its_port():
    lbs = {name: {**reached, "provider": "nginx_lua"} for name, reached in reach("lb1", "lb2").items()}
    slots = {"blue": {"port": 8081}, "green": {"server": "other:1"}}
    made = make_targets(play(["web1"]), CONTROL, {"web1": {"address": "10.0.0.1", "tracks": slots}}, lbs)
    assert {name: slot["server"] for name, slot in made.own["web1"]["tracks"].items()} == {
        "blue": "10.0.0.1:8081",
        "green": "other:1",
    }


def test_with_nginx_a_host_without_a_port_is_refused():
    lbs = {name: {**reached, "provider": "nginx"} for name, reached in reach("lb1", "lb2").items()}
    with refused(
        "web1: NGINX names its servers by address and port; set rollout_port, or rollout_server to such as web1:8080"
    ):
        make_targets(play(["web1"]), CONTROL, {"web1": {}}, lbs)


def test_load_balancers_are_in_sorted_order_without_those_that_are_absent():
    made = targets(OWN, load_balancers=["lb2", "lb1"], absent_lbs=[])
    assert [lb.name for lb in made.lbs] == ["lb1", "lb2"]
    made = targets(OWN, absent_lbs="lb1")
    assert [lb.name for lb in made.lbs] == ["lb2"]


def test_backends_are_in_sorted_order():
    assert targets(OWN, backend=["shop", "api"]).backends == ("api", "shop")


@pytest.mark.parametrize(
    ("deploy", "key"),
    [({"role": "shop.release"}, "role:shop.release"), ({"tasks": "/srv/kernel.yml"}, "tasks:kernel.yml")],
)
def test_releases_are_remembered_by_what_deploys_them(deploy, key):
    assert targets(OWN, deploy=deploy).deploy_key == key


def test_targets_survive_json():
    made = make_targets(play(list(OWN)), CONTROL, OWN, reach("lb1", "lb2"))
    assert targets(OWN) == made
