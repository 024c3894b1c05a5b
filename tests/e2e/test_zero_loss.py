# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A weight change and a drain on two load balancers under load, as a user does them, with every request counted."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import typing as t

import pytest

from e2e.lab import haproxy_command
from local_fleet.fleet import Fleet
from local_fleet.layout import Options
from local_fleet.load import Load, Profile
from local_fleet.polling import poll

pytestmark = pytest.mark.alone

VERSIONS = [
    pytest.param("oldest", marks=[pytest.mark.containers, pytest.mark.long]),
    pytest.param("newest", marks=pytest.mark.containers),
]
# Long requests are in flight whenever something is changed.
PROFILE = Profile(rate=300, slow=0.02, slow_ms=1500)


def play(fleet: Fleet, folder: pathlib.Path, *servers: list[dict[str, t.Any]]) -> None:
    """One task for each list of servers, on both load balancers at once."""
    tasks = [
        {
            "name": f"change {number}",
            "steady.rollout.haproxy_backend": {
                "socket": "{{ rollout_haproxy_socket }}",
                "backend": "shop",
                "servers": wanted,
            },
        }
        for number, wanted in enumerate(servers)
    ]
    path = folder / "play.json"
    path.write_text(json.dumps([{"hosts": "lb", "gather_facts": False, "tasks": tasks}]))
    ansible = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    done = subprocess.run(
        [ansible, "-i", fleet.inventory(), str(path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_a_weight_change_and_a_drain_on_two_load_balancers_lose_no_request(
    version: str, tmp_path: pathlib.Path
) -> None:
    names = [f"web{i}" for i in range(1, 7)]
    with Fleet(Options(haproxy_command=haproxy_command(version))) as fleet:
        with Load(fleet, PROFILE) as load:
            poll(lambda: len(load.records()) > 600, "the load runs")
            weights = [{"name": name, "weight": 10 * number} for number, name in enumerate(names, 1)]
            play(fleet, tmp_path, weights, [{"name": "web2", "state": "maint"}])
            # Nothing may be on web2 any more: its process dies at once.
            fleet.kill("web2")
            fleet.start("web2")
            play(
                fleet, tmp_path, [{"name": "web2", "state": "ready"}], [{"name": name, "weight": 10} for name in names]
            )
            begun = len(load.records())
            poll(lambda: len(load.records()) > begun + 600, "the load goes on")
        summary = load.summary()
    print(f"{version}: {summary.line()}; p99 {summary.latency.p99:.1f} ms")
    assert summary.sent > 3000
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples
