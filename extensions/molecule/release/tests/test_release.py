# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shop, put on three machines by the role release, behind two load balancers."""

from __future__ import annotations

import pytest

from local_fleet.polling import poll
from molecule_fleet import LOAD_BALANCERS, MACHINES, Machines

REQUESTS = 12


@pytest.mark.parametrize("machine", MACHINES)
def test_the_release_is_current_and_its_unit_runs_in_it(machines: Machines, machine: str) -> None:
    host = machines.host(machine)
    assert machines.current(machine, "/opt/shop") == "1.0.0"
    service = host.service("shop")
    assert service.is_running
    assert service.is_enabled
    pid = host.check_output("systemctl show --property MainPID --value shop")
    assert host.check_output(f"readlink /proc/{pid}/cwd") == "/opt/shop/releases/1.0.0"


@pytest.mark.parametrize("machine", MACHINES)
def test_the_process_is_the_applications_user(machines: Machines, machine: str) -> None:
    host = machines.host(machine)
    pid = host.check_output("systemctl show --property MainPID --value shop")
    assert host.check_output(f"stat --format %U /proc/{pid}") == "shop"


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_half_unpacked_is_left(machines: Machines, machine: str) -> None:
    assert machines.host(machine).check_output("ls -A /opt/shop/releases") == "1.0.0"


@pytest.mark.parametrize("balancer", LOAD_BALANCERS)
def test_every_host_answers_with_the_release_through_the_load_balancer(machines: Machines, balancer: str) -> None:
    def seen() -> bool:
        return set(machines.answers(balancer, REQUESTS)) == {(200, "1.0.0", f"shop{number}") for number in (1, 2, 3)}

    poll(seen, "all three answer", 30)
