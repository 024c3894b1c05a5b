# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard on a host with systemd: a unit while a lease is in force, also after a reboot, and nothing of it afterwards."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import typing as t

import pytest

from containers import docker
from e2e.hosts import Host, image_of
from local_fleet.polling import poll

pytestmark = pytest.mark.containers

UNIT = "steady-rollout-guard.service"
CONFIG = """
global
    stats socket /run/haproxy/admin.sock level admin mode 600
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
backend shop
    server web1 127.0.0.1:8081 weight 10
    server web2 127.0.0.1:8082 weight 10
"""
SAFE = {"shop": {"web1": {"weight": 10, "state": "ready"}, "web2": {"weight": 10, "state": "drain"}}}
SWAP = {"shop": [{"name": "web2", "state": "ready"}, {"name": "web1", "state": "drain"}]}
SHOW = """
import socket
with socket.socket(socket.AF_UNIX) as conn:
    conn.connect("/run/haproxy/admin.sock")
    conn.sendall(b"show servers state shop\\n")
    print(b"".join(iter(lambda: conn.recv(65536), b"")).decode())
"""


class Balancer:
    """A load balancer host, and acts of rollouts on it by Ansible."""

    def __init__(self, host: Host, folder: pathlib.Path) -> None:
        self.host = host
        self._inventory = folder / "inventory.json"
        self._inventory.write_text(json.dumps({"all": {"hosts": {"lb1": host.inventory}}}))

    def act(self, act: str, rollout_id: str = "r1", **options: t.Any) -> None:
        arguments = {"act": act, "rollout_id": rollout_id, "backends": ["shop"], "allow_unchecked": True, **options}
        program = pathlib.Path(sys.executable).with_name("ansible")
        command = [str(program), "-i", str(self._inventory), "lb1", "-m", "steady.rollout.rollout_act"]
        done = subprocess.run(
            [*command, "-a", json.dumps(arguments)],
            env={**os.environ, "ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "true"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def states(self) -> dict[str, str]:
        """{server: its admin state bits}; empty while HAProxy does not answer."""
        told = self.host.run("python3", "-c", SHOW, check=False).stdout
        rows = [line.split() for line in told.splitlines()[2:]]
        return {row[3]: row[6] for row in rows if row}

    def unit(self) -> str:
        return self.host.run("systemctl", "is-active", UNIT, check=False).stdout.strip()


READY, DRAIN = "0", "8"
BACK = {"web1": READY, "web2": DRAIN}
SWAPPED = {"web1": DRAIN, "web2": READY}


@pytest.fixture
def balancer(tmp_path: pathlib.Path) -> t.Iterator[Balancer]:
    """A rollout under way that has swapped web1 and web2."""
    with Host(image_of("bullseye")) as host:
        host.write("/etc/haproxy/haproxy.cfg", CONFIG)
        host.run("systemctl", "enable", "haproxy")
        host.run("systemctl", "restart", "haproxy")
        found = Balancer(host, tmp_path)
        poll(found.states, "HAProxy answers")
        found.act("begin", safe=SAFE, lease=60)
        found.act("shift", servers=SWAP, lease=20)
        assert found.states() == SWAPPED
        yield found


def test_the_guard_is_a_unit_that_is_started_again_and_goes_with_the_rollout(balancer: Balancer) -> None:
    assert balancer.unit() == "active"
    assert balancer.host.run("systemctl", "is-enabled", UNIT).stdout.strip() == "enabled"
    balancer.host.run("systemctl", "kill", "--signal=SIGKILL", UNIT)
    poll(lambda: balancer.unit() == "active", "systemd has started it again", 20)
    balancer.act("end", outcome="promoted")
    assert balancer.unit() == "inactive"
    assert UNIT not in balancer.host.run("ls", "/etc/systemd/system").stdout


def test_after_a_reboot_the_guard_returns_the_traffic(balancer: Balancer) -> None:
    docker("restart", balancer.host.id)
    poll(lambda: balancer.states() == BACK, "the traffic is back to what was safe", 90)
    journal = balancer.host.read("/var/lib/steady-rollout/shop/journal.jsonl")
    assert '"by":"guard"' in journal
    balancer.act("begin", "r2", take_over=["r1"])
    balancer.act("end", "r2", outcome="rolled_back")
    assert UNIT not in balancer.host.run("ls", "/etc/systemd/system").stdout
