# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines of a Molecule scenario, as its tests see them."""

from __future__ import annotations

import collections
import http.client
import os
import pathlib
import re
import typing as t

import testinfra
import yaml

from local_fleet.incidents import Incidents
from runtime_api import ask_command, parse_servers

LOAD_BALANCERS = ("lb1", "lb2")
MACHINES = ("app1", "app2", "app3")
ANSWER_SECONDS = 5


class Machines:
    """The containers of the scenario that Molecule runs now. A load can be sent to `port` of its load balancers."""

    load_balancers = LOAD_BALANCERS

    def __init__(self, port: int = 80) -> None:
        self.port = port
        self._run = os.environ.get("STEADY_MOLECULE_RUN") or "steady-molecule"
        self._addresses: dict[str, str] = {}

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
