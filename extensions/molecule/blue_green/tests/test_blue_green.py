# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Blue-green releases of the API, two colours on each machine, under load."""

from __future__ import annotations

import typing as t

import pytest

from local_fleet.load import Load, Profile
from molecule_fleet import GENTLE, LOAD_BALANCERS, MACHINES, Machines

API_PORT = 8000


@pytest.fixture
def api() -> t.Iterator[Machines]:
    """The machines, and the load balancers' port for the API."""
    machines = Machines(API_PORT)
    yield machines
    machines.stop()


def expect(api: Machines, colour: str, releases: dict[str, str]) -> None:
    """Assert which release each colour has on all machines, that one colour has the traffic, and that no guard is left."""
    for track, release in releases.items():
        assert {api.current(name, f"/opt/api/{track}") for name in MACHINES} == {release}
        assert all(api.host(name).service(f"api-{track}").is_running for name in MACHINES)
    for balancer in LOAD_BALANCERS:
        servers = api.servers(balancer, "api")
        carrying = {name for name, (weight, state, _port) in servers.items() if weight and not state}
        assert carrying == {f"api{number}-{colour}" for number in (1, 2, 3)}, servers
        assert {release for _status, release, _host in api.answers(balancer, 6)} == {releases[colour]}
    assert api.guards() == []


def test_a_good_release_takes_all_traffic_without_a_lost_request(api: Machines) -> None:
    api.build("api", "2.0.0")
    with Load(api, Profile(rate=GENTLE)) as load:
        # On load balancers that are new both colours are in rotation, though green has nothing to answer with.
        result = api.run("blue_green", "api", rollout_release="2.0.0", blue_green_live="blue")
    result.expect(0, "promoted")
    summary = load.summary()
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples
    expect(api, "green", {"blue": "1.0.0", "green": "2.0.0"})


def test_a_bad_release_goes_back_by_itself_without_a_lost_request(api: Machines) -> None:
    api.build("api", "3.0.0", behaviour="errors", rate=0.5)
    with Load(api, Profile(rate=GENTLE)) as load:
        result = api.run("blue_green", "api", rollout_release="3.0.0")
    result.expect(2, "rolled_back")
    summary = load.summary()
    assert summary.lost == 0, summary.examples
    assert summary.per_release["3.0.0"].harmed > 0
    # The colour that carries nothing keeps the bad release until the next one.
    expect(api, "green", {"blue": "3.0.0", "green": "2.0.0"})


def test_the_way_back_by_hand_costs_no_request(api: Machines) -> None:
    api.build("api", "4.0.0")
    with Load(api, Profile(rate=GENTLE)) as load:
        api.run("blue_green", "api", rollout_release="4.0.0").expect(0, "promoted")
        result = api.run("rollback", "api")
    result.expect(0, "rolled_back")
    summary = load.summary()
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples
    expect(api, "green", {"green": "2.0.0"})
