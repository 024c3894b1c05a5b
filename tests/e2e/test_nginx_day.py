# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does with NGINX between releases: ask the doctor, ask for the status, take a host out and in."""

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest

from e2e.rollouts import Result, Rollouts
from local_fleet.layout import LOAD_BALANCERS, Options

MAKES = ["nginx", pytest.param("nginx_lua", marks=pytest.mark.long)]


@pytest.fixture(params=MAKES)
def shop(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> t.Iterator[Rollouts]:
    with Rollouts(tmp_path, Options(apps=3, lb=request.param), {}, {}) as running:
        yield running


def found(result: Result) -> dict[str, t.Mapping[str, t.Any]]:
    told = result.entries[-1]["custom"].get("doctor_findings")
    assert told is not None, result.output
    return {finding["code"]: finding for finding in told}


def part(name: str) -> dict[str, t.Any]:
    return {"name": name, "ansible.builtin.include_role": {"name": "steady.rollout.rollout", "tasks_from": name}}


@pytest.mark.long
def test_the_doctor_finds_no_error_in_a_fleet_that_is_ready_and_tells_of_idle_connections(shop: Rollouts) -> None:
    before = shop.states()
    result = shop.run("doctor", rollout_hosts="app", doctor_repair=True)
    told = found(result)
    assert result.code == 0, result.output
    assert [one for one in told.values() if one["severity"] == "error"] == []
    assert ("nginx-keepalive" in told) == (not shop.fleet.keeps_idle_connections)
    assert shop.states() == before


def test_the_doctor_tells_where_nothing_counts_requests_and_a_rollout_is_refused_there(shop: Rollouts) -> None:
    path = pathlib.Path(shop.fleet.path("lb1", "nginx.conf"))
    path.write_text(path.read_text().replace("access.log steady_rollout;", "access.log combined;"))
    shop.fleet.reload("lb1")
    result = shop.run("doctor", rollout_hosts="app")
    assert result.code == 2, result.output
    assert "steady_rollout" in found(result)["nginx-log"]["remedy"]
    refused = shop.rolling("2.0.0").expect(2, "refused")
    assert "lb1 does not count what becomes of requests" in refused.message
    assert set(shop.releases().values()) == {"1.0.0"}


@pytest.mark.long
def test_the_status_of_a_fleet_without_a_record_is_healthy(shop: Rollouts) -> None:
    result = shop.run("status", rollout_hosts="app", status_sample=0, status_format="json")
    assert result.code == 0, result.output
    messages = [entry["message"] for entry in result.entries if entry.get("task", "").endswith("Tell it to a machine")]
    servers = json.loads(messages[0])["backends"]["shop"]["servers"]
    web1 = servers[shop.fleet.endpoint("web1")]["lbs"]["lb1"]
    assert (web1["state"], web1["health"]) == ("ready", "unchecked")


def test_a_host_is_taken_out_and_let_in_around_tasks_of_ones_own(shop: Rollouts) -> None:
    load, watch = shop.load(), shop.watch()
    argv = ["{{ ansible_playbook_python }}", "-m", "local_fleet", "--fleet", "{{ fleet_directory }}"]
    argv += ["ensure", "{{ inventory_hostname }}", '{"release": "maintained"}']
    fleet = {"PYTHONPATH": "{{ fleet_program }}"}
    work = {"name": "Work", "ansible.builtin.command": {"argv": argv}, "environment": fleet}
    result = shop.run([{"hosts": "web2", "gather_facts": False, "tasks": [part("drain"), work, part("admit")]}])
    assert result.code == 0, result.output
    load.stop()
    assert [out for out in watch.out() if out] == [{"web2"}]
    assert all(shop.carrying(name) == {"web1", "web2", "web3"} for name in LOAD_BALANCERS)
    assert shop.releases()["web2"] == "maintained"
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples
