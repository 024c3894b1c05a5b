# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two load balancers that the role nginx set up."""

from __future__ import annotations

import collections

import pytest

from local_fleet.polling import poll
from molecule_fleet import LOAD_BALANCERS, MACHINES, Machines

REQUESTS = 12
FILE = "/etc/nginx/conf.d/steady-rollout.conf"
LOG = "/var/log/nginx/steady-rollout.log"

pytestmark = pytest.mark.parametrize("balancer", LOAD_BALANCERS)


def test_nginx_runs_and_starts_with_the_machine(machines: Machines, balancer: str) -> None:
    service = machines.host(balancer).service("nginx")
    assert service.is_running
    assert service.is_enabled


def test_the_file_is_roots_and_nginx_accepts_it(machines: Machines, balancer: str) -> None:
    host = machines.host(balancer)
    config = host.file(FILE)
    assert (config.user, config.group, config.mode) == ("root", "root", 0o644)
    assert host.run("nginx -t").rc == 0


def test_the_file_names_every_machine_of_the_shop(machines: Machines, balancer: str) -> None:
    text = machines.host(balancer).file(FILE).content_string
    for name in MACHINES:
        assert text.count(f"server {machines.address(name)}:8080 ") == 1, text


def test_debians_welcome_page_is_not_in_the_way(machines: Machines, balancer: str) -> None:
    assert not machines.host(balancer).file("/etc/nginx/sites-enabled/default").exists


def test_requests_are_spread_evenly_and_each_is_logged(machines: Machines, balancer: str) -> None:
    def lines() -> int:
        return int(machines.host(balancer).check_output(f"wc -l < {LOG}"))

    before = lines()
    answers = machines.answers(balancer, REQUESTS)
    served = collections.Counter((status, host) for status, _release, host in answers)
    assert served == {(200, name): REQUESTS // len(MACHINES) for name in MACHINES}
    # A line is written after its answer.
    poll(lambda: lines() - before >= REQUESTS, "every request has its line")
    assert lines() - before == REQUESTS


def test_no_unit_has_failed(machines: Machines, balancer: str) -> None:
    failed = machines.host(balancer).run("systemctl --failed --no-legend --plain")
    assert failed.stdout == ""
