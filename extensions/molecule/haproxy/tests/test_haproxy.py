# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two load balancers that the role haproxy set up with the variables of inventories/example."""

from __future__ import annotations

import pytest

from local_fleet.polling import poll
from molecule_fleet import LOAD_BALANCERS, MACHINES, Machines

SHOP = {"shop1", "shop2", "shop3"}
API = {f"api{number}-{colour}" for number in (1, 2, 3) for colour in ("blue", "green")}
REQUESTS = 12

pytestmark = pytest.mark.parametrize("balancer", LOAD_BALANCERS)


def test_haproxy_runs_and_starts_with_the_machine(machines: Machines, balancer: str) -> None:
    service = machines.host(balancer).service("haproxy")
    assert service.is_running
    assert service.is_enabled


def test_the_admin_socket_is_open_to_root_only(machines: Machines, balancer: str) -> None:
    socket = machines.host(balancer).file("/run/haproxy/admin.sock")
    assert socket.is_socket
    assert (socket.user, socket.group, socket.mode) == ("root", "root", 0o600)


def test_the_configuration_is_not_open_to_others(machines: Machines, balancer: str) -> None:
    config = machines.host(balancer).file("/etc/haproxy/haproxy.cfg")
    assert (config.user, config.mode) == ("root", 0o640)
    assert machines.host(balancer).run("haproxy -c -q -f /etc/haproxy/haproxy.cfg").rc == 0


def test_the_unit_saves_weights_and_states(machines: Machines, balancer: str) -> None:
    host = machines.host(balancer)
    assert host.file("/etc/systemd/system/haproxy.service.d/steady-rollout.conf").mode == 0o644
    needed = host.run("systemctl show --property NeedDaemonReload --value haproxy")
    assert needed.stdout.strip() == "no"


def test_the_servers_are_those_of_the_inventory(machines: Machines, balancer: str) -> None:
    assert set(machines.servers(balancer, "shop")) == SHOP
    assert set(machines.servers(balancer, "api")) == API


@pytest.mark.parametrize("port", [80, 8000], ids=["shop", "api"])
def test_every_machine_answers_through_the_load_balancer(balancer: str, port: int) -> None:
    def seen() -> bool:
        answered = {(status, host) for status, _release, host in Machines(port).answers(balancer, REQUESTS)}
        return answered == {(200, name) for name in MACHINES}

    poll(seen, "all machines answer with 200, and nobody else does")


def test_a_weight_outlives_a_restart(machines: Machines, balancer: str) -> None:
    before, old = machines.servers(balancer, "shop"), machines.worker(balancer)
    machines.ask(balancer, "set server shop/shop1 weight 33; set server shop/shop2 state drain")
    changed = machines.servers(balancer, "shop")
    assert changed != before
    assert machines.host(balancer).run("systemctl restart haproxy").rc == 0
    assert machines.worker(balancer) != old
    assert machines.servers(balancer, "shop") == changed
    machines.ask(balancer, f"set server shop/shop1 weight {before['shop1'][0]}; set server shop/shop2 state ready")
    assert machines.servers(balancer, "shop") == before


def test_no_unit_has_failed(machines: Machines, balancer: str) -> None:
    failed = machines.host(balancer).run("systemctl --failed --no-legend --plain")
    assert failed.stdout == ""
