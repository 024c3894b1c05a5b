# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines of a Molecule scenario, as its tests see them."""

from __future__ import annotations

import collections
import http.client
import json
import os
import pathlib
import re
import sys
import tempfile
import typing as t

import testinfra
import yaml

import release_archives
from e2e.rollouts import RECORDING, Result, Running
from local_fleet.incidents import Incidents
from runtime_api import ask_command, parse_servers

LOAD_BALANCERS = ("lb1", "lb2")
MACHINES = ("app1", "app2", "app3")
ANSWER_SECONDS = 5
# What a rollout takes as a person has it, in seconds that suit a test on machines that share two processors.
QUICK: dict[str, t.Any] = {
    "rollout_probe": {"path": "/health", "interval": 0.5, "rise": 2, "timeout": 2},
    "rollout_drain_timeout": 20,
    "rollout_analysis": {
        "interval": 1,
        "min_requests": 20,
        "max_error_rate": 5,
        "tolerance": {"ratio": 2, "delta": 0.05},
    },
    "blue_green_bake": 5,
    "canary_steps": [20, 50],
    "canary_step_for": 5,
    "canary_step_max": 60,
    "canary_min_healthy_time": 1,
    "rolling_min_healthy_time": 1,
}
GENTLE = 40.0  # requests/s to each load balancer: enough to judge a release by


class Machines:
    """The containers of the scenario that Molecule runs now. A load can be sent to `port` of its load balancers."""

    load_balancers = LOAD_BALANCERS

    def __init__(self, port: int = 80) -> None:
        self.port = port
        self._run = os.environ.get("STEADY_MOLECULE_RUN") or "steady-molecule"
        self._addresses: dict[str, str] = {}
        self._started: list[Running] = []

    @property
    def inventory(self) -> pathlib.Path:
        """The inventory that Ansible reaches them by."""
        return pathlib.Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent

    def container(self, name: str) -> str:
        return f"{self._run}-{name}"

    def host(self, name: str) -> t.Any:
        """The machine for testinfra."""
        return testinfra.get_host(f"docker://{self.container(name)}")

    def address(self, name: str) -> str:
        """The address of a machine or of a host of the inventory."""
        if not self._addresses:
            told = yaml.safe_load((self.inventory / "zz_connection.yml").read_text())
            self._addresses = {host: values["ansible_host"] for host, values in told["all"]["hosts"].items()}
        return self._addresses[name]

    @property
    def service_address(self) -> str:
        """The address that the load balancers hand to each other."""
        told = yaml.safe_load((self.inventory / "zz_connection.yml").read_text())
        return str(told["all"]["vars"]["service_address"])

    def endpoint(self, host: str) -> str:
        """address:port of a load balancer."""
        return f"{self.address(host)}:{self.port}"

    def incidents(self) -> Incidents:
        """No crash is excused here: nobody watches the processes."""
        return Incidents()

    def ask(self, balancer: str, command: str) -> str:
        """HAProxy's answer on the admin socket."""
        done = self.host(balancer).run(" ".join("%s" for _word in ask_command(command)), *ask_command(command))
        assert done.rc == 0, done.stderr
        return str(done.stdout).strip()

    def servers(self, balancer: str, backend: str) -> dict[str, tuple[int, int, int]]:
        """(weight, admin mask, port) of each server of HAProxy."""
        return parse_servers(self.ask(balancer, f"show servers state {backend}"))

    def worker(self, balancer: str) -> str:
        """The pid of the HAProxy that answers."""
        found = re.search(r"^Pid: (\d+)", self.ask(balancer, "show info"), re.MULTILINE)
        assert found
        return found[1]

    def answers(self, balancer: str, requests: int) -> collections.Counter[tuple[int, str, str]]:
        """How often which (status, release, machine) answered requests to a load balancer, each on a connection of its own."""
        seen: collections.Counter[tuple[int, str, str]] = collections.Counter()
        for _number in range(requests):
            connection = http.client.HTTPConnection(self.address(balancer), self.port, timeout=ANSWER_SECONDS)
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                seen[response.status, response.getheader("X-Release", ""), response.getheader("X-Host", "")] += 1
            finally:
                connection.close()
        return seen

    # --- releases and rollouts

    def build(self, application: str, version: str, **behaviour: t.Any) -> None:
        """Leave the archive of a release where the inventory looks for it."""
        release_archives.write(self.inventory.parent / "artifacts", application, version, **behaviour)

    def start(self, playbook: str, hosts: str, **variables: t.Any) -> Running:
        """Start a playbook of the collection for an application, with extra variables."""
        folder = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self.inventory.parent))
        (folder / "variables.json").write_text(json.dumps({**QUICK, "rollout_hosts": hosts, **variables}))
        program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
        name = f"steady.rollout.{playbook}"
        command = [program, "-i", str(self.inventory), name, "-e", "@variables.json"]
        self._started.append(Running(command, folder, {**os.environ, **RECORDING}))
        return self._started[-1]

    def run(self, playbook: str, hosts: str, **variables: t.Any) -> Result:
        """Run one to the end."""
        return self.start(playbook, hosts, **variables).result()

    def stop(self) -> None:
        """Kill what was started and has not ended, as after a test that failed."""
        for running in self._started:
            running.kill()

    # --- what is true now

    def current(self, machine: str, base: str) -> str:
        """The release that `current` leads to in a folder of the role release."""
        link: str = self.host(machine).file(f"{base}/current").linked_to
        return pathlib.PurePath(link).name

    def recorded(self, hosts: str) -> dict[str, set[str | None]]:
        """The release of each server as the load balancers have it on record, by the playbook status."""
        result = self.run("status", hosts, status_format="json", status_sample=0)
        assert result.code == 0, result.output
        backends = result.entries[-1]["custom"]["rollout_status_report"]["backends"].values()
        servers = [item for backend in backends for item in backend["servers"].items()]
        return {name: {one["release"] for one in server["lbs"].values()} for name, server in servers}

    def guards(self) -> list[str]:
        """What is left of guards on the load balancers."""
        command = "ls -d /etc/systemd/system/steady-rollout-guard* /etc/systemd/system/*.wants/steady-rollout-guard*"
        left = [f"{name}: {self.host(name).run(command).stdout}" for name in LOAD_BALANCERS]
        running = "systemctl list-units --all --plain --no-legend 'steady-rollout-guard*'"
        left += [f"{name}: {self.host(name).run(running).stdout}" for name in LOAD_BALANCERS]
        return [line for line in left if not line.endswith(": ")]
