# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Test hosts leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from containers import OWNER, docker, remove_orphans
from e2e.hosts import Host, Network, image_of

pytestmark = pytest.mark.containers

KEEP_A_HOST = """
import sys
from e2e.hosts import Host, Network
with Network() as network, Host(sys.argv[1], ["--network=" + network.name, "--ip=" + network.address(9)]) as host:
    print(host.id, network.name, flush=True)
    sys.stdin.read()
"""


def is_there(container: str) -> bool:
    return bool(docker("ps", "--all", "--quiet", "--no-trunc", "--filter", f"id={container}"))


def networks(name: str) -> set[str]:
    """The networks of just this name."""
    return set(docker("network", "ls", "--format={{.Name}}", f"--filter=name=^{name}$").split())


def fail_on(host: Host) -> None:
    with host:
        assert is_there(host.id)
        raise ZeroDivisionError


def test_a_host_is_gone_after_its_test_failed() -> None:
    host = Host(image_of("forky"))
    with pytest.raises(ZeroDivisionError):
        fail_on(host)
    assert not is_there(host.id)


def test_a_host_that_restarts_has_its_address_and_a_boot_of_its_own() -> None:
    with Network() as network:
        options = [f"--network={network.name}", f"--ip={network.address(9)}", "--hostname=web1"]
        with Host(image_of("forky"), options) as host:
            boot = host.boot_id()
            host.restart(0)
            assert host.boot_id() != boot
            assert network.address(9) in host.run("hostname", "--all-ip-addresses").stdout.split()
            assert host.run("hostname").stdout.strip() == "web1"


def test_the_host_and_the_network_of_a_killed_owner_are_removed_by_the_next() -> None:
    command = [sys.executable, "-c", KEEP_A_HOST, image_of("forky")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert owner.stdout
        container, network = owner.stdout.readline().split()
        remove_orphans()
        assert is_there(container)
        assert networks(network) == {network}
    finally:
        owner.kill()
        owner.communicate()
    remove_orphans()
    assert not is_there(container)
    assert networks(network) == set()


def test_the_network_of_an_owner_that_is_gone_is_removed_with_what_is_attached_to_it() -> None:
    network = f"steady-test-{os.getpid()}"
    orphaned = f"--label={OWNER}=1-gone"
    docker("network", "create", orphaned, network)
    docker("create", orphaned, f"--network={network}", image_of("forky"), "/bin/true")
    remove_orphans()
    assert not docker("network", "ls", "--quiet", "--filter", f"name={network}")
    assert not docker("ps", "--all", "--quiet", "--filter", f"network={network}")
