# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard returns the traffic when the controller dies, hangs or is cut off, and the next run finds a way on."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import typing as t

import pytest

from e2e.rollouts import Rollouts, Running
from local_fleet.layout import LOAD_BALANCERS
from local_fleet.polling import poll

BLUE, GREEN = {"web1", "web2"}, {"web3", "web4"}
LEASE = 20.0  # longer than anything between two acts takes here
SAFE_SECONDS = LEASE + 10.0  # what the design promises


def lease(shop: Rollouts, load_balancer: str) -> dict[str, t.Any] | None:
    """The lease that is granted on a load balancer."""
    path = shop.place(load_balancer, "rollout/shop/lease")
    try:
        found: dict[str, t.Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found


def in_the_bake(shop: Rollouts, seconds: float = 60) -> Running:
    """A blue-green release under way, whose new colour carries everywhere."""
    running = shop.start(
        "blue_green", rollout_hosts="app", rollout_release="2.0.0", rollout_lease_seconds=LEASE, blue_green_bake=seconds
    )
    poll(lambda: ": analyse green" in running.output, "the bake has begun", 120)
    assert all(shop.carrying(name) == GREEN for name in LOAD_BALANCERS)
    return running


def expect_back(shop: Rollouts) -> None:
    """Assert that blue alone carries everywhere before the design's time is over."""
    poll(
        lambda: all(shop.carrying(name) == BLUE for name in LOAD_BALANCERS), "the traffic is back on blue", SAFE_SECONDS
    )


def processes(shop: Rollouts) -> list[int]:
    """The guards of this fleet."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"@guard.pyz") and word.startswith(str(shop.fleet.directory).encode()) for word in words):
            found.append(int(path.parent.name))
    return found


@pytest.mark.long  # the faults show it every day
@pytest.mark.pattern
def test_a_killed_controller_leaves_its_traffic_to_the_guard(blue_green: Rollouts) -> None:
    load = blue_green.load()
    in_the_bake(blue_green).kill()
    expect_back(blue_green)
    refused = blue_green.blue_green("2.0.0").expect(2, "refused")
    assert "rollout_action=resume" in refused.message
    assert "steady.rollout.rollback" in refused.message
    blue_green.rollback().expect(0, "rolled_back")
    load.stop()
    assert load.summary().lost == 0, load.summary().examples


@pytest.mark.long
@pytest.mark.pattern
def test_a_controller_that_was_frozen_past_its_lease_changes_no_traffic_any_more(blue_green: Rollouts) -> None:
    running = in_the_bake(blue_green)
    running.send(signal.SIGSTOP)
    expect_back(blue_green)
    running.send(signal.SIGCONT)
    result = running.result()
    result.expect(2, "rollback_failed")
    assert "guard" in result.message
    blue_green.expect_traffic("1.0.0", BLUE)


@pytest.mark.long  # the faults show it every day
@pytest.mark.pattern
def test_a_rollout_whose_controller_died_is_resumed(blue_green: Rollouts) -> None:
    load = blue_green.load()
    in_the_bake(blue_green, 15).kill()
    expect_back(blue_green)
    started = blue_green.starts()
    looked = blue_green.blue_green("2.0.0", "--check", rollout_action="resume", blue_green_bake=15)
    assert looked.code == 0, looked.output
    again = blue_green.blue_green("2.0.0", rollout_action="resume", blue_green_bake=15).expect(0, "promoted")
    assert "goes on from step 2 of 4" in again.output
    blue_green.expect_traffic("2.0.0", GREEN)
    assert blue_green.starts() == started, "a host was deployed that had been"
    load.stop()
    assert load.summary().lost == 0, load.summary().examples


@pytest.mark.long
def test_a_guard_that_was_killed_is_started_by_the_next_act(blue_green: Rollouts) -> None:
    running = in_the_bake(blue_green)
    for pid in processes(blue_green):
        os.kill(pid, signal.SIGKILL)
    poll(lambda: len(processes(blue_green)) == len(LOAD_BALANCERS), "each load balancer has a guard again", 30)
    running.kill()
    expect_back(blue_green)


@pytest.mark.long
def test_nothing_is_left_of_a_lease_and_a_guard_when_a_rollout_has_ended(blue_green: Rollouts) -> None:
    blue_green.load()
    blue_green.blue_green("2.0.0", blue_green_bake=1).expect(0, "promoted")
    assert [lease(blue_green, name) for name in LOAD_BALANCERS] == [None, None]
    poll(lambda: not processes(blue_green), "the guards end", 10)


@pytest.mark.long
def test_a_rollout_at_work_is_taken_over_only_with_a_reason(blue_green: Rollouts) -> None:
    running = in_the_bake(blue_green)
    refused = blue_green.rollback().expect(2, "refused")
    assert "rollout_steal" in refused.message
    running.kill()
    blue_green.rollback(rollout_steal="its controller was killed").expect(0, "rolled_back")
    journal = blue_green.place("lb1", "rollout/shop/journal.jsonl").read_text()
    assert '"reason":"its controller was killed"' in journal


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_controller_ends_with_traffic_on_the_old_release(
    blue_green: Rollouts, number: signal.Signals
) -> None:
    running = in_the_bake(blue_green)
    os.killpg(running.process.pid, number)
    expect_back(blue_green)
