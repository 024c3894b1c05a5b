# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The local fleet does what it is asked, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import typing as t

import pytest

from e2e.lab import haproxy_command
from local_fleet import claims
from local_fleet.fleet import Fleet, RunningFleet
from local_fleet.layout import LOAD_BALANCERS, Options
from local_fleet.polling import poll
from local_fleet.supervisor import FleetError, is_running

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 30.0
DETACHED_NUMBERS = range(11, 20)  # below those that fleets pick from
VERSIONS = [
    "system",
    pytest.param("oldest", marks=[pytest.mark.containers, pytest.mark.long]),
    pytest.param("newest", marks=[pytest.mark.containers, pytest.mark.long]),
]

# Prints the pids of a fleet's processes and waits to be killed.
OWNER = """
import json, sys
from local_fleet.fleet import Fleet
from local_fleet.layout import Options
with Fleet(Options(haproxy_command=json.loads(sys.argv[1]))) as fleet:
    print(json.dumps({"directory": fleet.directory, "supervisor": fleet.supervisor_pids}), flush=True)
    sys.stdin.read()
"""


def get(endpoint: str, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    """The response to one request, its body read into `body`."""
    connection = http.client.HTTPConnection(endpoint, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.body = response.read()  # type: ignore[attr-defined]
        return response


class Owner:
    """A process that owns a fleet."""

    def __init__(self, command: t.Sequence[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, json.dumps(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        )
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.keeper, self.supervisor = told["supervisor"]
        self.fleet = RunningFleet.open(told["directory"])
        self.pids = [pid for host in self.fleet.status().values() for pid in host["pids"]]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def is_gone(self) -> bool:
        return not any(map(is_running, [*self.pids, self.keeper, self.supervisor]))


@pytest.fixture
def start_owner() -> t.Iterator[t.Callable[..., Owner]]:
    """Start owners in processes of their own, and end them."""
    with contextlib.ExitStack() as stack:

        def start(command: t.Sequence[str] = ("haproxy",)) -> Owner:
            owner = Owner(command)
            stack.callback(owner.kill)
            return owner

        yield start


# --- What it serves


def test_every_load_balancer_reaches_every_app_host(fleet: Fleet) -> None:
    for name in LOAD_BALANCERS:
        hosts = {get(fleet.endpoint(name)).getheader("X-Host") for _request in range(12)}
        assert hosts == set(fleet.app_hosts)


def test_two_fleets_run_side_by_side(start_fleet: t.Callable[..., Fleet]) -> None:
    first, second = start_fleet(apps=1, release="1"), start_fleet(apps=1, release="2")
    answers = [get(fleet.endpoint("lb1")).getheader("X-Release") for fleet in (first, second)]
    assert answers == ["1", "2"]


def test_options_change_the_fleet(start_fleet: t.Callable[..., Fleet]) -> None:
    fleet = start_fleet(
        apps=2,
        weights={"web2": 30},
        balance="leastconn",
        extra_global=["tune.bufsize 32768"],
        extra_frontend=["http-response set-header X-Extra yes"],
        server_options="maxconn 7",
    )
    rows = fleet.servers("lb1")
    assert {name: row["weight"] for name, row in rows.items()} == {"web1": "10", "web2": "30"}
    assert {row["slim"] for row in rows.values()} == {"7"}
    assert get(fleet.endpoint("lb1")).getheader("X-Extra") == "yes"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_error_of_the_load_balancer_names_the_server_but_no_release(
    start_fleet: t.Callable[..., Fleet], version: str
) -> None:
    fleet = start_fleet(
        apps=1, haproxy_command=haproxy_command(version), extra_defaults=["timeout server 200ms", "retries 0"]
    )
    late = get(fleet.endpoint("lb1"), "/slow?ms=5000")
    assert (late.status, late.getheader("X-Server"), late.getheader("X-Release")) == (504, "web1", None)
    fleet.stop("web1")
    fleet.wait_status("DOWN", "web1")
    nobody = get(fleet.endpoint("lb1"))
    assert (nobody.status, nobody.getheader("X-Server"), nobody.getheader("X-Release")) == (503, "<NOSRV>", None)


# --- Releases


def test_a_release_answers_errors_at_its_rate(fleet: Fleet) -> None:
    fleet.deploy("web1", "2.0.0", "errors", rate=0.5)
    statuses = [get(fleet.endpoint("web1")).status for _request in range(200)]
    assert set(statuses) == {200, 500}
    assert 60 <= statuses.count(500) <= 140
    assert get(fleet.endpoint("web1"), "/health").status == 200


def test_an_unhealthy_release_is_seen_down(fleet: Fleet) -> None:
    fleet.deploy("web1", "2.0.0", "unhealthy")
    fleet.wait_status("DOWN", "web1")
    assert get(fleet.endpoint("web1")).status == 200


def test_a_release_may_turn_bad_after_a_while(fleet: Fleet) -> None:
    fleet.deploy("web1", "2.0.0", "bad_after", after_s=0.6, then="unhealthy")
    assert get(fleet.endpoint("web1"), "/health").status == 200
    fleet.wait_status("DOWN", "web1")


def test_a_release_that_crashes_at_its_start_does_not_run(fleet: Fleet) -> None:
    assert not fleet.deploy("web1", "2.0.0", "crash_on_start")
    (crash,) = fleet.crashes()
    assert (crash.host, crash.release, crash.exit_code, crash.until) == ("web1", "2.0.0", 1, None)


def test_a_crash_is_recorded_until_a_good_release_replaces_it(fleet: Fleet) -> None:
    fleet.deploy("web1", "2.0.0", "crash")
    with pytest.raises((OSError, http.client.HTTPException)):
        get(fleet.endpoint("web1"), **{"X-Request-Id": "the-one"})
    poll(fleet.crashes, "the crash is recorded", SECONDS)
    assert fleet.deploy("web1", "2.0.1")
    fleet.wait_up("web1")
    incidents = fleet.incidents()
    assert [(crash.release, crash.exit_code) for crash in incidents.crashes] == [("2.0.0", 70)]
    assert incidents.crashes[0].until is not None
    assert incidents.killed == {"the-one": ("2.0.0", "web1")}
    assert get(fleet.endpoint("web1")).getheader("X-Release") == "2.0.1"


def test_what_was_asked_for_is_no_crash(fleet: Fleet) -> None:
    fleet.stop("web1")
    fleet.kill("web2")
    fleet.restart("web3")
    fleet.signal("web4", signal.SIGTERM)
    fleet.kill("lb1")
    poll(lambda: not fleet.pids("web4"), "web4 ends", SECONDS)
    assert fleet.crashes() == ()


def test_a_process_killed_by_nobody_of_ours_is_a_crash(fleet: Fleet) -> None:
    os.kill(fleet.pids("web1")[0], signal.SIGKILL)
    poll(fleet.crashes, "the crash is recorded", SECONDS)
    assert fleet.crashes()[0].exit_code == -signal.SIGKILL


def test_a_stopping_app_finishes_what_is_in_flight_and_ends_with_0(fleet: Fleet) -> None:
    answer = []
    client = threading.Thread(target=lambda: answer.append(get(fleet.endpoint("lb1"), "/slow?ms=1000")))
    client.start()

    def busy() -> str | None:
        return next((name for name, row in fleet.servers("lb1").items() if row["scur"] == "1"), None)

    host = poll(busy, "a request in flight", SECONDS)
    assert host is not None
    fleet.stop(host)
    client.join()
    assert answer[0].status == 200
    assert answer[0].getheader("X-Host") == host
    assert fleet.status()[host]["exit_code"] == 0


def test_a_stopping_app_answers_on_an_open_connection_and_closes_it(fleet: Fleet) -> None:
    with contextlib.closing(http.client.HTTPConnection(fleet.endpoint("web1"), timeout=20)) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()
        fleet.signal("web1", signal.SIGTERM)
        poll(lambda: _refuses(fleet.endpoint("web1")), "web1 accepts no connections", SECONDS)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("Connection") == "close"


def _refuses(endpoint: str) -> bool:
    address, _colon, port = endpoint.rpartition(":")
    try:
        socket.create_connection((address, int(port)), 5).close()
    except ConnectionRefusedError:
        return True
    return False


# --- Load balancers


@pytest.mark.parametrize("version", VERSIONS)
def test_a_reload_keeps_weights_that_were_saved(start_fleet: t.Callable[..., Fleet], version: str) -> None:
    fleet = start_fleet(apps=2, haproxy_command=haproxy_command(version))
    fleet.ask("lb1", "set server shop/web1 weight 3")
    fleet.save_state("lb1")
    fleet.reload("lb1")
    assert fleet.servers("lb1")["web1"]["weight"] == "3"


def test_a_reload_forgets_weights_that_were_not_saved(fleet: Fleet) -> None:
    fleet.ask("lb1", "set server shop/web1 weight 3")
    fleet.reload("lb1")
    assert fleet.servers("lb1")["web1"]["weight"] == "10"


def test_a_reload_with_a_broken_configuration_says_why(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_fleet.fleet.RELOAD_SECONDS", 1.0)
    pathlib.Path(fleet.path("lb1", "haproxy.cfg")).write_text("nonsense\n")
    with pytest.raises(FleetError, match="nonsense"):
        fleet.reload("lb1")


def test_a_killed_load_balancer_is_gone_with_its_workers(fleet: Fleet) -> None:
    pids = fleet.pids("lb1")
    fleet.kill("lb1")
    assert len(pids) == 2
    assert not any(map(is_running, pids))
    assert fleet.start("lb1")
    fleet.wait_up()


def test_a_fleet_whose_load_balancer_does_not_start_says_why_and_leaves_nothing() -> None:
    broken = Fleet(Options(extra_global=["nonsense"]))
    with pytest.raises(FleetError, match="unknown keyword 'nonsense'"):
        broken.__enter__()
    assert not os.path.exists(broken.directory)


# --- Nothing is left behind


@pytest.mark.parametrize("victim", ["owner", "supervisor", "keeper"])
def test_nothing_is_left_when_one_of_its_guards_is_killed(start_owner: t.Callable[..., Owner], victim: str) -> None:
    owner = start_owner()
    with socket.create_connection(tuple_of(owner.fleet.endpoint("lb1"))) as held:
        held.sendall(b"GET / HTTP/1.1\r\n")  # an old worker waits for the rest
        owner.fleet.reload("lb1")
        owner.fleet.signal("web1", signal.SIGSTOP)  # SIGTERM does not end it
        owner.pids += owner.fleet.pids("lb1")
        assert len(set(owner.pids)) == 11
        os.kill(
            {"owner": owner.process.pid, "supervisor": owner.supervisor, "keeper": owner.keeper}[victim], signal.SIGKILL
        )
        poll(owner.is_gone, f"the fleet is gone after its {victim} was killed", SECONDS)
    poll(lambda: not os.path.exists(owner.fleet.directory), "its directory is removed", SECONDS)


def tuple_of(endpoint: str) -> tuple[str, int]:
    address, _colon, port = endpoint.rpartition(":")
    return address, int(port)


def test_nothing_is_left_when_all_its_guards_are_killed_at_once(start_owner: t.Callable[..., Owner]) -> None:
    owner = start_owner()
    for pid in (owner.keeper, owner.supervisor, owner.process.pid):
        os.kill(pid, signal.SIGKILL)
    poll(owner.is_gone, "the fleet is gone after all its guards were killed", SECONDS)
    assert os.path.exists(owner.fleet.directory)
    claims.sweep()
    assert not os.path.exists(owner.fleet.directory)


def test_a_sweep_leaves_a_living_fleet_alone(fleet: Fleet) -> None:
    claims.sweep()
    assert fleet.status()


@pytest.mark.containers
@pytest.mark.parametrize("victim", ["owner", "supervisor"])
def test_no_container_is_left_when_a_guard_is_killed(start_owner: t.Callable[..., Owner], victim: str) -> None:
    owner = start_owner(haproxy_command("newest"))
    name = os.path.basename(owner.fleet.directory)
    assert len(containers(name)) == 2
    os.kill(owner.process.pid if victim == "owner" else owner.supervisor, signal.SIGKILL)
    poll(owner.is_gone, f"the fleet is gone after its {victim} was killed", SECONDS)
    poll(lambda: not containers(name), "its containers are removed", SECONDS)


@pytest.mark.containers
def test_a_sweep_removes_containers_of_fleets_whose_guards_were_all_killed(start_owner: t.Callable[..., Owner]) -> None:
    owner = start_owner(haproxy_command("newest"))
    name = os.path.basename(owner.fleet.directory)
    for pid in (owner.keeper, owner.supervisor, owner.process.pid):
        os.kill(pid, signal.SIGKILL)

    def swept() -> bool:
        claims.sweep_containers()  # the kernel may take a moment to give up the claim
        return not containers(name)

    poll(swept, "its containers are removed", SECONDS)
    poll(owner.is_gone, "the fleet is gone", SECONDS)
    claims.sweep()


def containers(name: str) -> list[str]:
    """The ids of all containers whose names begin with `name`."""
    command = ["docker", "ps", "--all", "--quiet", f"--filter=name=^{name}"]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.split()


# --- For a person and for Ansible


def ansible(program: str, *arguments: str, **environment: str) -> str:
    """The output of a program of Ansible from this virtual environment."""
    done = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), program), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false", **environment},
        timeout=120,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def cli(directory: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `python -m local_fleet` does with the fleet in a directory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "STEADY_FLEET": directory}
    command = [sys.executable, "-m", "local_fleet", *arguments]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        timeout=120,
        check=False,
        text=True,
    )


@pytest.mark.core
def test_every_host_of_the_generated_inventory_can_be_reached(fleet: Fleet) -> None:
    pinged = ansible("ansible", "-i", fleet.inventory(), "all", "-m", "ansible.builtin.ping", "--one-line")
    assert pinged.count("SUCCESS") == 8


def test_the_generated_inventory_knows_tracks_and_sockets(start_fleet: t.Callable[..., Fleet]) -> None:
    fleet = start_fleet(apps=2, tracks={"web1": "blue", "web2": "green"})
    told = json.loads(ansible("ansible-inventory", "-i", fleet.inventory(), "--list"))["_meta"]["hostvars"]
    assert [told[host]["rollout_track"] for host in ("web1", "web2")] == ["blue", "green"]
    assert told["lb1"]["rollout_haproxy_socket"] == fleet.socket("lb1")


def is_free(number: int) -> bool:
    """Whether no fleet has a number."""
    holder = claims.claim(number)
    if holder:
        holder.close()
    return holder is not None


def free_number() -> int:
    for number in random.sample(DETACHED_NUMBERS, len(DETACHED_NUMBERS)):
        if is_free(number):
            return number
    raise AssertionError(f"all of {DETACHED_NUMBERS} are taken")


@pytest.fixture
def detached() -> t.Iterator[str]:
    """The directory of a fleet started by `up`, with a number that no other test takes."""
    number = free_number()
    directory = f"/tmp/steady-up-{os.getpid()}"
    started = cli(directory, "up", "--apps=6", f"--number={number}")
    try:
        assert started.returncode == 0, started.stderr
        yield directory
    finally:
        cli(directory, "down")


@pytest.mark.xdist_group("detached")
def test_the_local_inventory_reaches_the_fleet_that_up_started(detached: str) -> None:
    inventory = str(ROOT / "inventories" / "local")
    listed = json.loads(ansible("ansible-inventory", "-i", inventory, "--list", STEADY_FLEET=detached))
    assert {name: len(listed[name]["hosts"]) for name in ("lb", "app")} == {"lb": 2, "app": 6}
    pinged = ansible(
        "ansible", "-i", inventory, "all", "-m", "ansible.builtin.ping", "--one-line", STEADY_FLEET=detached
    )
    assert pinged.count("SUCCESS") == 8
    command = "test -S {{ rollout_haproxy_socket }}"
    found = ansible(
        "ansible", "-i", inventory, "lb", "-m", "ansible.builtin.command", "-a", command, "-o", STEADY_FLEET=detached
    )
    assert found.count("rc=0") == 2


@pytest.mark.xdist_group("detached")
def test_the_command_line_deploys_tells_and_ends(detached: str) -> None:
    fleet = RunningFleet.open(detached)
    pids = [pid for host in fleet.status().values() for pid in host["pids"]]
    assert cli(detached, "deploy", "web1", "2.0.0").returncode == 0
    assert "web1  running  2.0.0" in cli(detached, "status").stdout
    failed = cli(detached, "deploy", "web1", "2.0.1", "--behaviour=crash_on_start")
    assert failed.returncode == 1
    assert "web1 does not run: crash" in failed.stderr
    loaded = cli(detached, "load", "--rate=50", "--seconds=0.5")
    assert (loaded.returncode, ", 0 lost, 0 harmed" in loaded.stdout) == (0, True), loaded
    assert cli(detached, "down").returncode == 0
    assert not any(map(is_running, pids))
    assert "no fleet runs" in cli(detached, "status").stderr


@pytest.mark.xdist_group("detached")
def test_up_does_not_take_over_a_running_fleet(detached: str) -> None:
    number = RunningFleet.open(detached).layout.number
    again = cli(detached, "up", f"--number={number}")
    assert (again.returncode, again.stderr) == (1, f"local_fleet: fleet number {number} is taken by another fleet.\n")
    assert RunningFleet.open(detached).status()["web1"]["running"]
