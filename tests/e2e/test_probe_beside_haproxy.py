# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a probe from the load balancer sees, beside what HAProxy itself sees."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from local_fleet.fleet import Fleet


@pytest.mark.core
def test_a_probe_and_haproxys_own_view_are_compared_server_by_server(tmp_path: pathlib.Path) -> None:
    with Fleet() as fleet:
        fleet.deploy("web2", "2.0.0")
        fleet.deploy("web3", "1.0.0", "unhealthy")
        fleet.wait_up("web1", "web2", "web4", "web5", "web6")
        fleet.wait_status("DOWN", "web3")
        probe = {
            "targets": [{"name": name, "url": f"http://{fleet.endpoint(name)}/health"} for name in fleet.app_hosts],
            "expect": {"headers": {"X-Release": "1.0.0"}},
            "interval": 0.1,
            "deadline": 2,
        }
        info = {"socket": "{{ rollout_haproxy_socket }}", "backend": "shop"}
        compared = "{{ probe.targets | steady.rollout.health_differences(shop.servers) | to_json }}"
        tasks = [
            {"steady.rollout.http_probe": probe, "register": "probe", "failed_when": False},
            {"steady.rollout.haproxy_backend_info": info, "register": "shop"},
            {"ansible.builtin.copy": {"content": compared, "dest": str(tmp_path / "found.json"), "mode": "0600"}},
        ]
        (tmp_path / "play.json").write_text(json.dumps([{"hosts": "lb1", "gather_facts": False, "tasks": tasks}]))
        ansible = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
        command = [ansible, "-i", fleet.inventory(), str(tmp_path / "play.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    # web2 answers HAProxy's check, but not with the release that the probe expects; both find web3 down.
    assert json.loads((tmp_path / "found.json").read_text()) == [{"name": "web2", "probe": "down", "lb": "up"}]
