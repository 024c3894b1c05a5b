# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What else dies in the middle of a rollout: workers, load balancers, all hosts, records, disks. No request is lost, and there is
a way on.

Signals to the controller, one that hangs, and dying guards are in e2e/test_guard.py and test_guard_process.py, reboots in
test_guard_host.py, and load balancers that are lost or hang during the shift and in the rescue in test_rollout_failures.py.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import typing as t

import pytest

from e2e.rollouts import Rollouts, Running
from faults.kills import (
    ACT_SECONDS,
    LATER,
    NEW,
    NEXT,
    OLD,
    STRATEGIES,
    journal,
    kill_controller,
    unsafe,
    workers_of,
)
from local_fleet.layout import LOAD_BALANCERS
from local_fleet.load import Load
from local_fleet.polling import poll
from local_fleet.supervisor import is_running, send

BLUE_GREEN = STRATEGIES["blue_green"]
BLUE, GREEN = {"web1", "web2"}, {"web3", "web4"}
LEASE = 20.0


def in_the_bake(shop: Rollouts) -> Running:
    """A release whose new colour carries everywhere, and which stays so for long."""
    running = BLUE_GREEN.start(shop, NEW, LEASE, blue_green_bake=300)
    poll(lambda: ": analyse green" in running.output, "the bake has begun", 200)
    return running


def await_safe(shop: Rollouts, *load_balancers: str) -> None:
    """Wait for safe traffic, as long as the lease allows."""
    names = load_balancers or LOAD_BALANCERS

    def reasons() -> list[str]:
        return [f"{name}: {why}" for name in names if (why := unsafe(shop, BLUE_GREEN, name))]

    poll(lambda: not reasons(), lambda: f"traffic is safe: {reasons()}", LEASE + LATER)


def expect_a_way_back(shop: Rollouts) -> None:
    """Assert that a rollback leaves the old colour carrying, and nobody holding the load balancers."""
    shop.rollback().expect(0, "rolled_back")
    expect_as_before(shop)


def expect_as_before(shop: Rollouts) -> None:
    shop.expect_traffic(OLD, BLUE)
    for name in LOAD_BALANCERS:
        assert not shop.place(name, "rollout/shop/lock").exists(), name


def expect_nothing_lost(load: Load) -> None:
    load.stop()
    summary = load.summary()
    assert summary.lost == 0, (summary.starved, summary.examples)


# --- The controller


@pytest.mark.long
def test_a_killed_worker_leaves_the_old_colour_carrying(blue_green: Rollouts) -> None:
    load = blue_green.load()
    killed: list[int] = []

    def kill_worker() -> None:
        for pid in workers_of(running):
            send(pid, signal.SIGKILL)
            killed.append(pid)

    blue_green.gate.at(lambda host: host == "lb2" and blue_green.gate.acts[-1] == "look", kill_worker)
    running = BLUE_GREEN.start(blue_green, NEW, LEASE, blue_green_bake=30)
    result = running.result()
    assert killed
    assert result.code != 0, result.output
    await_safe(blue_green)
    if blue_green.place("lb1", "rollout/shop/lock").exists():
        expect_a_way_back(blue_green)
    expect_as_before(blue_green)
    expect_nothing_lost(load)


@pytest.mark.long
def test_of_two_releases_started_in_the_same_second_at_most_one_goes_through(blue_green: Rollouts) -> None:
    load = blue_green.load()
    runs = {release: BLUE_GREEN.start(blue_green, release, 120) for release in (NEW, NEXT)}
    results = {release: run.result() for release, run in runs.items()}
    promoted = [release for release, result in results.items() if result.outcome == "promoted"]
    refused = [result for result in results.values() if result.outcome == "refused"]
    assert len(promoted) <= 1, [result.output for result in results.values()]
    assert len(refused) == 2 - len(promoted), [result.output for result in results.values()]
    assert all(result.code == 2 for result in refused)
    if promoted:
        blue_green.expect_traffic(promoted[0], GREEN)
    else:
        expect_as_before(blue_green)
    for name in LOAD_BALANCERS:
        assert not blue_green.place(name, "rollout/shop/lock").exists(), name
    expect_nothing_lost(load)


# --- All hosts at once


@pytest.mark.long
def test_when_all_hosts_are_unreachable_at_once_the_guard_returns_the_traffic(blue_green: Rollouts) -> None:
    def halve(inventory: dict[str, t.Any]) -> None:
        hosts = inventory["all"]["children"]["app"]["hosts"]
        for host, (blue, green) in {"web1": ("web1", "web3"), "web2": ("web2", "web4")}.items():
            hosts[host]["rollout_tracks"] = {"blue": {"server": blue}, "green": {"server": green}}
            hosts[host]["fleet_slots"] = {"blue": blue, "green": green}
            hosts[host].pop("rollout_track", None)
        del hosts["web3"], hosts["web4"]

    # Two slots on each host: a step that deploys is for all of them.
    blue_green.write_inventory(halve)
    load = blue_green.load()
    gate = blue_green.gate
    deploy = blue_green.write_deploy({"name": "Look", "ansible.builtin.ping": {}})
    gate.at(lambda host: host in BLUE and journal(blue_green, "lb2").exists(), lambda: gate.cut("web1", "web2"))
    result = BLUE_GREEN.start(blue_green, NEW, LEASE, rollout_deploy=deploy).result()
    assert result.code == 4, result.output
    assert blue_green.place("lb1", "rollout/shop/lock").exists(), "there was a rescue"
    gate.heal("web1", "web2")
    await_safe(blue_green)
    expect_a_way_back(blue_green)
    expect_nothing_lost(load)


# --- Load balancers


@pytest.mark.long
def test_a_load_balancer_that_is_killed_and_started_again_ends_as_the_other_one(blue_green: Rollouts) -> None:
    load = blue_green.load(only="lb1")  # what a killed load balancer had accepted is beyond a rollout's reach
    running = BLUE_GREEN.start(blue_green, NEW, LEASE, blue_green_bake=10)
    poll(lambda: ": analyse green" in running.output, "the bake has begun", 200)
    blue_green.fleet.kill("lb2")
    blue_green.fleet.start("lb2")
    result = running.result()
    assert (result.code, result.outcome) in ((0, "promoted"), (2, "rolled_back")), result.output
    blue_green.expect_traffic(*((NEW, GREEN) if result.code == 0 else (OLD, BLUE)))
    expect_nothing_lost(load)


@pytest.mark.long
def test_a_load_balancer_that_stays_down_is_restored_by_its_guard_when_it_is_back(blue_green: Rollouts) -> None:
    load = blue_green.load(only="lb1")
    running = in_the_bake(blue_green)
    blue_green.fleet.kill("lb2")
    result = running.result().expect(2, "rollback_failed")
    assert "lb2" in result.message
    blue_green.expect_traffic(OLD, BLUE, on=["lb1"])
    blue_green.fleet.start("lb2")
    poll(lambda: blue_green.carrying("lb2") == BLUE, "blue carries on lb2", LEASE + LATER)
    expect_a_way_back(blue_green)
    expect_nothing_lost(load)


@pytest.mark.long
def test_a_load_balancer_that_is_cut_off_after_the_shift_is_restored_by_its_guard(blue_green: Rollouts) -> None:
    load = blue_green.load()
    running = in_the_bake(blue_green)
    blue_green.gate.cut("lb2")
    result = running.result().expect(2, "rollback_failed")
    assert "lb2" in result.message
    blue_green.expect_traffic(OLD, BLUE, on=["lb1"])
    await_safe(blue_green, "lb2")
    blue_green.gate.heal("lb2")
    expect_a_way_back(blue_green)
    expect_nothing_lost(load)


@pytest.mark.long
def test_a_socket_that_is_replaced_is_not_taken_for_the_load_balancer(blue_green: Rollouts) -> None:
    load = blue_green.load()
    running = in_the_bake(blue_green)
    path = pathlib.Path(blue_green.fleet.socket("lb2"))
    path.rename(path.with_suffix(".real"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        other.close()  # nobody answers there any more
        result = running.result().expect(2, "rollback_failed")
    assert "lb2" in result.message
    blue_green.expect_traffic(OLD, BLUE, on=["lb1"])
    path.with_suffix(".real").rename(path)
    poll(lambda: blue_green.carrying("lb2") == BLUE, "blue carries on lb2", LEASE + LATER)
    expect_a_way_back(blue_green)
    expect_nothing_lost(load)


# --- Records


def test_a_journal_that_was_cut_in_the_middle_of_a_record_is_rolled_back(blue_green: Rollouts) -> None:
    load = blue_green.load()
    running = in_the_bake(blue_green)
    modules = kill_controller(running)
    poll(lambda: not any(is_running(pid) for pid in modules), "the act under way comes to its end", ACT_SECONDS)
    with journal(blue_green, "lb1").open("r+b") as file:
        file.truncate(journal(blue_green, "lb1").stat().st_size - 20)
    await_safe(blue_green)
    expect_a_way_back(blue_green)
    expect_nothing_lost(load)


@contextlib.contextmanager
def small_disk(place: pathlib.Path) -> t.Iterator[None]:
    """A file system of its own, of 256 kB, in place of a folder."""
    place.mkdir(mode=0o700)
    options = ["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(place)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    assert mounted.returncode == 0, f"no file system can be mounted; run as root: {mounted.stderr.strip()}"
    try:
        yield
    finally:
        while place.is_mount():
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: pathlib.Path) -> None:
    with (place / "filler").open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(1024))


def make_read_only(place: pathlib.Path) -> None:
    """Mount it on itself: what the guard has open for writing would keep the file system as it is from becoming read-only."""
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)


@pytest.mark.long
@pytest.mark.parametrize("spoil", [fill, make_read_only])
def test_a_disk_that_can_no_longer_be_written_ends_with_traffic_on_the_old_colour(
    blue_green: Rollouts, spoil: t.Callable[[pathlib.Path], None]
) -> None:
    place = blue_green.place("lb2", "rollout")
    with small_disk(place):
        load = blue_green.load()
        running = in_the_bake(blue_green)
        spoil(place)
        result = running.result()
        assert result.code == 2, result.output
        assert "lb2" in result.message
        poll(lambda: all(blue_green.carrying(name) == BLUE for name in LOAD_BALANCERS), "blue carries", LEASE + LATER)
        expect_nothing_lost(load)
