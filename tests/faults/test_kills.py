# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wherever a controller is killed, traffic is safe in the time of the lease and 10 s, no request is lost, and there is a way on.

A point's time counts from the kill. Where an act was under way it goes on to its end, as over SSH, and the lease counts from then.
"""

from __future__ import annotations

import json
import pathlib
import time
import typing as t

import pytest

from e2e.rollouts import Rollouts
from faults.kills import (
    ACT_SECONDS,
    LATER,
    LEASES,
    NEW,
    NEXT,
    OLD,
    Killer,
    Strategy,
    lease_in_force,
    lines,
    unsafe,
    written,
)
from faults.points import Point
from local_fleet.layout import LOAD_BALANCERS
from local_fleet.polling import poll
from local_fleet.tally import Summary, Terms

Tell = t.Callable[[str, object], None]


@pytest.mark.timeout(1200)
def test_a_killed_controller_leaves_safe_traffic_and_a_way_on(
    strategy: Strategy,
    point: Point,
    ways: tuple[str, ...],
    tmp_path: pathlib.Path,
    record_property: Tell,
    request: pytest.FixtureRequest,
) -> None:
    told = None
    for lease in LEASES:
        folder = tmp_path / f"{lease:g}"
        folder.mkdir()
        with strategy.fleet(folder) as shop:
            told = kill(shop, strategy, point, lease, ways)
        if told:
            break
    assert told, f"the guard acted before the point also with a lease of {LEASES[-1]:g} s"
    seconds, limit, summary = told
    row = [strategy.name, point.name, f"{seconds:.1f} s", f"{limit:.1f} s", str(summary.lost)]
    record_property("kill", json.dumps([request.node.callspec.id, *row]))
    assert (summary.lost, summary.harmed) == (0, 0), (summary.starved, summary.examples)


def kill(
    shop: Rollouts, strategy: Strategy, point: Point, lease: float, ways: tuple[str, ...]
) -> tuple[float, float, Summary] | None:
    """Kill a release at a point, and go on or back. Returns the seconds to safety, those it had, and what became of requests; None
    where the lease was too short to come to that point."""
    strategy.rest(shop)
    load = shop.load(Terms(releases=[OLD, NEW, NEXT]))
    killer = Killer(shop, point)
    output = ""
    for running in strategy.runs(shop, NEW, lease):
        killer.watch(running)
        output += running.output
        if killer.at is not None or killer.late:
            break
    poll(lambda: not killer.is_busy(), "the act under way comes to its end", ACT_SECONDS)
    if killer.late:
        return None
    assert killer.at is not None, f"the run ended before the point:\n{output}"
    seconds, limit = safe_after(shop, strategy, killer.at)
    if "resume" in ways and may_go_on(shop):
        strategy.release(shop, NEW, rollout_action="resume")
        expect_promoted(shop, strategy)
    else:
        go_back(shop, strategy)
    if "next" in ways:
        strategy.release(shop, NEXT)
    load.stop()
    return seconds, limit, load.summary()


def safe_after(shop: Rollouts, strategy: Strategy, killed: float) -> tuple[float, float]:
    """The seconds from the kill to all load balancers being safe, and those that they had; asserts that they are in time."""
    lease = lease_in_force(shop)
    limit = lease + LATER
    began = time.monotonic()

    def reasons() -> list[str]:
        return [f"{name}: {why}" for name in LOAD_BALANCERS if (why := unsafe(shop, strategy, name))]

    poll(lambda: not reasons(), lambda: f"traffic is safe: {reasons()}, {shop.states()}", limit)
    return time.monotonic() - killed, began + limit - killed


def may_go_on(shop: Rollouts) -> bool:
    """Whether anything had begun, and nothing had ended."""
    records = [record for name in LOAD_BALANCERS for record in written(shop, name)]
    return bool(records) and all(record["event"] != "end" or record["outcome"] == "paused" for record in records)


def expect_promoted(shop: Rollouts, strategy: Strategy) -> None:
    """The new release carries everywhere, and nobody holds the load balancers."""
    carrying = strategy.hosts if strategy.in_place else strategy.hosts - strategy.carrying
    shop.expect_traffic(NEW, carrying)
    for name in LOAD_BALANCERS:
        assert not shop.place(name, "rollout/shop/lock").exists(), name


def go_back(shop: Rollouts, strategy: Strategy) -> None:
    """The playbook `rollback` brings back what was there; where nothing had begun it says so, and changes nothing."""
    shop.rollback().expect(0, "rolled_back" if any(lines(shop).values()) else "unchanged")
    shop.expect_traffic(OLD, strategy.carrying)
    if strategy.in_place:
        assert set(shop.releases().values()) == {OLD}
    for name in LOAD_BALANCERS:
        assert not shop.place(name, "rollout/shop/lock").exists(), name
