# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of the shop in batches, under load, by playbooks and inventory as a person has them."""

from __future__ import annotations

from local_fleet.load import Load, Profile
from molecule_fleet import GENTLE, LOAD_BALANCERS, MACHINES, Machines

SERVERS = ("shop1", "shop2", "shop3")


def expect(machines: Machines, release: str) -> None:
    """Assert that a release is on all machines, in the records, and in the answers; and that no guard is left."""
    assert {machines.current(name, "/opt/shop") for name in MACHINES} == {release}
    assert machines.recorded("shop") == {name: {release} for name in SERVERS}
    for balancer in LOAD_BALANCERS:
        assert set(machines.answers(balancer, 6)) == {(200, release, name) for name in SERVERS}
        assert {state for _weight, state, _port in machines.servers(balancer, "shop").values()} == {0}
    assert machines.guards() == []


def test_a_good_release_is_promoted_without_a_lost_request(machines: Machines) -> None:
    machines.build("shop", "2.0.0")
    with Load(machines, Profile(rate=GENTLE)) as load:
        result = machines.run("rolling", "shop", rollout_release="2.0.0")
    result.expect(0, "promoted")
    summary = load.summary()
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples
    expect(machines, "2.0.0")


def test_a_release_that_is_not_healthy_is_rolled_back_and_reaches_no_client(machines: Machines) -> None:
    machines.build("shop", "3.0.0", behaviour="unhealthy")
    with Load(machines, Profile(rate=GENTLE)) as load:
        result = machines.run("rolling", "shop", rollout_release="3.0.0", rolling_healthy_deadline=6)
    result.expect(2, "rolled_back")
    summary = load.summary()
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples
    assert set(summary.per_release) == {"2.0.0"}
    expect(machines, "2.0.0")
