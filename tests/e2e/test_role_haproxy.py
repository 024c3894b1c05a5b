# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role haproxy on real hosts: Debian's oldest and newest, from a host without HAProxy to one that is ready."""

from __future__ import annotations

import copy
import pathlib
import re
import typing as t
from dataclasses import dataclass

import pytest

from e2e import role_runs
from e2e.hosts import Host, image_of
from e2e.role_runs import Run, written
from readmes import example_of
from runtime_api import SOCKET, ask_command, parse_servers

# In one process: making a host ready takes a minute and a half.
pytestmark = [pytest.mark.containers, pytest.mark.xdist_group("test_role_haproxy")]

OLDEST = pytest.param("bullseye", marks=[pytest.mark.core, pytest.mark.oldest_only])
NEWEST = "forky"
CONFIG = "/etc/haproxy/haproxy.cfg"
DROP_IN = "/etc/systemd/system/haproxy.service.d/steady-rollout.conf"
STATE_FILE = "/var/lib/haproxy/server-state"
SHOP: dict[str, t.Any] = {
    "haproxy_reload_timeout": 8,
    "haproxy_frontends": [{"name": "web", "bind": ["127.0.0.1:8000"], "default_backend": "shop"}],
    "haproxy_backends": [
        {
            "name": "shop",
            "check": {"path": "/health", "host": "shop.example"},
            "servers": [
                {"name": "web1", "address": "127.0.0.21", "port": 8080},
                {"name": "web2", "address": "127.0.0.22", "port": 8080, "weight": 50},
            ],
        }
    ],
}
FOREIGN = """
global
    stats socket /run/haproxy/own.sock level admin
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
backend shop
    balance leastconn
    server web1 127.0.0.21:8080
"""


def apply(host: Host, folder: pathlib.Path, variables: t.Mapping[str, t.Any], *flags: str) -> Run:
    return role_runs.apply("haproxy", host, folder, variables, *flags)


def shop_with(**server: t.Any) -> dict[str, t.Any]:
    """The shop, its first server changed."""
    variables = copy.deepcopy(SHOP)
    variables["haproxy_backends"][0]["servers"][0].update(server)
    return variables


def ask(host: Host, command: str) -> str:
    """HAProxy's answer on the admin socket."""
    return host.run(*ask_command(command)).stdout.strip()


def worker(host: Host) -> str:
    found = re.search(r"^Pid: (\d+)", ask(host, "show info"), re.MULTILINE)
    assert found
    return found[1]


def servers(host: Host) -> dict[str, tuple[int, int, int]]:
    """(weight, admin mask, port) of each server of the shop."""
    return parse_servers(ask(host, "show servers state shop"))


@dataclass
class Made:
    """A host that had no HAProxy, and what three runs of the role did to it."""

    host: Host
    checked: Run
    written_by_check: set[str]
    first: Run
    second: Run
    config: str


@pytest.fixture(scope="module", params=[OLDEST, NEWEST])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Made]:
    folder = tmp_path_factory.mktemp("role")
    with Host(image_of(request.param)) as host:
        host.run("apt-get", "purge", "--yes", "haproxy")
        host.run("rm", "-rf", "/etc/haproxy", "/var/lib/haproxy")
        before = written(host)
        checked = apply(host, folder, SHOP, "--check", "--diff")
        after = written(host)
        first, second = (apply(host, folder, SHOP, "--diff") for _run in range(2))
        yield Made(host, checked, after - before, first, second, host.read(CONFIG))


@pytest.fixture
def ready(made: Made) -> t.Iterator[Host]:
    """A host that the role made ready; afterwards it is so again."""
    yield made.host
    made.host.write(CONFIG, made.config)
    made.host.run("cp", "--preserve", CONFIG, f"{CONFIG}.ran")
    made.host.run("systemctl", "reload", "haproxy")
    for name, weight in (("web1", 100), ("web2", 50)):
        ask(made.host, f"set server shop/{name} state ready; set server shop/{name} weight {weight}")


def test_check_mode_on_a_host_without_haproxy_changes_nothing(made: Made) -> None:
    assert made.checked.code == 0, made.checked.output
    assert made.checked.changed == 1
    assert made.written_by_check == set()


def test_a_host_without_haproxy_becomes_ready(made: Made) -> None:
    assert made.first.code == 0, made.first.output
    assert "required:" not in made.first.output
    assert set(servers(made.host)) == {"web1", "web2"}
    assert made.host.run("systemctl", "is-enabled", "haproxy").stdout.strip() == "enabled"


def test_only_root_may_use_the_admin_socket_and_the_state_file(made: Made) -> None:
    modes = made.host.run("stat", "--format", "%a %U %G", SOCKET, STATE_FILE).stdout.splitlines()
    assert modes == ["600 root root", "600 root root"]


def test_a_second_run_changes_nothing(made: Made) -> None:
    assert made.second.code == 0, made.second.output
    assert made.second.changed == 0


def test_the_example_of_the_readme_makes_a_host_ready(ready: Host, tmp_path: pathlib.Path) -> None:
    run = role_runs.playbook(ready, tmp_path, example_of("roles/haproxy/README.md", "play").text)
    assert run.code == 0, run.output
    assert "required:" not in run.output
    assert ":80\n" in ready.read(CONFIG)
    rows = [line.split() for line in ask(ready, "show servers state shop").splitlines()[2:]]
    assert {(row[3], row[4], row[18]) for row in rows if row} == {
        ("web1", "192.0.2.21", "8080"),
        ("web2", "192.0.2.22", "8080"),
    }


@pytest.mark.parametrize("verb", ["reload", "restart"])
def test_weights_and_states_survive(ready: Host, verb: str) -> None:
    ask(ready, "set server shop/web1 weight 33; set server shop/web2 state drain")
    before, old = servers(ready), worker(ready)
    ready.run("systemctl", verb, "haproxy")
    assert worker(ready) != old
    assert servers(ready) == before == {"web1": (33, 0, 8080), "web2": (50, 8, 8080)}


@pytest.mark.long
def test_a_port_that_changes_in_the_configuration_changes(ready: Host, tmp_path: pathlib.Path) -> None:
    ask(ready, "set server shop/web1 weight 33")
    run = apply(ready, tmp_path, shop_with(port=8081))
    assert run.code == 0, run.output
    assert servers(ready)["web1"] == (33, 0, 8081)


@pytest.mark.long
def test_a_configuration_that_was_not_loaded_is_loaded_by_the_next_run(ready: Host, tmp_path: pathlib.Path) -> None:
    old = worker(ready)
    # As after a run that died between the two.
    ready.run("touch", CONFIG)
    run = apply(ready, tmp_path, SHOP)
    assert run.code == 0, run.output
    assert run.changed == 1
    assert worker(ready) != old


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        pytest.param(shop_with(name="web 1"), "'web 1'", id="name"),
        pytest.param(shop_with(options="no-such-word"), "no-such-word", id="word"),
    ],
)
def test_what_haproxy_cannot_load_is_refused_before_it_replaces_the_working_file(
    ready: Host, tmp_path: pathlib.Path, variables: dict[str, t.Any], message: str
) -> None:
    before = (ready.read(CONFIG), worker(ready))
    run = apply(ready, tmp_path, variables)
    assert run.code == 2
    assert message in run.output
    assert (ready.read(CONFIG), worker(ready)) == before


@pytest.mark.long
def test_a_configuration_that_does_not_run_is_taken_back(ready: Host, tmp_path: pathlib.Path) -> None:
    before, weights = ready.read(CONFIG), servers(ready)
    # It loads, and only binding fails.
    variables = copy.deepcopy(SHOP)
    variables["haproxy_frontends"][0]["bind"].append("192.0.2.1:8000")
    run = apply(ready, tmp_path, variables)
    assert run.code == 2
    assert "the last one is back" in run.output
    assert ready.read(CONFIG) == before
    assert servers(ready) == weights
    assert ready.run("systemctl", "is-active", "haproxy").stdout.strip() == "active"
    assert apply(ready, tmp_path, SHOP).changed == 0


@pytest.mark.long
def test_weights_and_states_survive_a_move_of_the_socket(ready: Host, tmp_path: pathlib.Path) -> None:
    ask(ready, "set server shop/web1 weight 33; set server shop/web2 state drain")
    # A drop-in that systemd has not read, as after a run that died between the two.
    ready.run("touch", DROP_IN)
    for socket in ("/run/haproxy/other.sock", SOCKET):
        run = apply(ready, tmp_path, {**SHOP, "haproxy_socket": socket})
        assert run.code == 0, run.output
    assert servers(ready) == {"web1": (33, 0, 8080), "web2": (50, 8, 8080)}
    needed = ready.run("systemctl", "show", "--property", "NeedDaemonReload", "--value", "haproxy").stdout.strip()
    assert needed == "no"


def test_a_server_with_a_host_name_gets_its_new_address_at_a_reload(ready: Host) -> None:
    hosts = ready.read("/etc/hosts")
    ready.write(CONFIG, ready.read(CONFIG).replace("127.0.0.21:", "web1.example:"))
    for address in ("127.0.0.31", "127.0.0.32"):
        ready.write("/etc/hosts", f"{hosts}\n{address} web1.example\n")
        ready.run("systemctl", "reload", "haproxy")
        assert f" web1 {address} " in ask(ready, "show servers state shop")
    ready.write("/etc/hosts", hosts)


@pytest.mark.parametrize("line", ["no-such-word", "listen more\n    bind 192.0.2.1:8000\n"], ids=["word", "bind"])
def test_a_reload_by_hand_fails_when_the_configuration_is_not_taken(ready: Host, line: str) -> None:
    old = worker(ready)
    ready.write(CONFIG, f"{ready.read(CONFIG)}\n{line}\n")
    assert ready.run("systemctl", "reload", "haproxy", check=False).returncode == 1
    assert worker(ready) == old


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Host]:
    """A host with a configuration that is not ours, and runs."""
    with Host(image_of(NEWEST)) as host:
        host.write(CONFIG, FOREIGN)
        host.run("systemctl", "start", "haproxy")
        yield host


def test_a_foreign_configuration_is_only_checked(foreign: Host, tmp_path: pathlib.Path) -> None:
    before = written(foreign)
    run = apply(foreign, tmp_path, SHOP)
    assert run.code == 0, run.output
    assert run.changed == 0
    assert foreign.read(CONFIG) == FOREIGN
    assert written(foreign) == before


@pytest.mark.parametrize(
    "line",
    [
        "In global: server-state-file /var/lib/haproxy/server-state",
        "In defaults: load-server-state-from-file global",
        "In backend shop: default-server check inter 2s fall 3 rise 2",
        "In backend shop: balance roundrobin",
        "In the inventory: haproxy_socket and rollout_haproxy_socket: /run/haproxy/own.sock",
    ],
)
def test_the_lines_that_a_foreign_configuration_lacks_are_told(foreign_check: Run, line: str) -> None:
    assert line in foreign_check.output


def test_strict_makes_the_lack_a_failure(foreign_check: Run) -> None:
    assert foreign_check.code == 2
    assert "lb1 is not ready for rollouts: required:" in foreign_check.output


@pytest.fixture(scope="module")
def foreign_check(foreign: Host, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return apply(foreign, tmp_path_factory.mktemp("strict"), {**SHOP, "haproxy_strict": True})


@pytest.mark.long
def test_a_foreign_configuration_is_replaced_when_asked_for_and_kept(tmp_path: pathlib.Path) -> None:
    with Host(image_of(NEWEST)) as host:
        host.write(CONFIG, FOREIGN)
        run = apply(host, tmp_path, {**SHOP, "haproxy_manage": True})
        assert run.code == 0, run.output
        assert set(servers(host)) == {"web1", "web2"}
        assert host.run("sh", "-c", f"cat {CONFIG}.*~").stdout == FOREIGN
