# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Canary releases of the shop under load, and a failover of the load balancers in the middle of one."""

from __future__ import annotations

import typing as t

import pytest

from local_fleet.incidents import Incidents
from local_fleet.load import Load, Profile
from local_fleet.polling import poll
from local_fleet.tally import OK, Terms, classify
from molecule_fleet import GENTLE, LOAD_BALANCERS, MACHINES, Machines

SERVERS = ("shop1", "shop2", "shop3")
SHARE = 20  # percent
REQUESTS = 200
FAILOVER_SECONDS = 30

Weights = t.Mapping[str, t.Mapping[str, tuple[int, int, int]]]


class Service:
    """What clients see: one address, whoever has it."""

    load_balancers = ("service",)

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    def endpoint(self, _name: str) -> str:
        return f"{self._machines.service_address}:{self._machines.port}"

    def incidents(self) -> Incidents:
        return Incidents()


def weights(machines: Machines) -> Weights:
    return {name: machines.servers(name, "shop") for name in LOAD_BALANCERS}


def holders(machines: Machines) -> list[str]:
    """The load balancers that have the service's address."""
    address = f"inet {machines.service_address}/"
    return [name for name in LOAD_BALANCERS if address in machines.host(name).check_output("ip -4 address show eth0")]


@pytest.fixture
def first_has_the_address(machines: Machines) -> t.Iterator[None]:
    """lb1 has the service's address before the test, and again after it."""
    poll(lambda: holders(machines) == ["lb1"], "lb1 has the address", FAILOVER_SECONDS)
    yield
    machines.host("lb1").run("systemctl start keepalived")
    poll(lambda: holders(machines) == ["lb1"], "lb1 has the address again", FAILOVER_SECONDS)


def expect(machines: Machines, release: str) -> None:
    """Assert that a release is on all machines, in the records, and in the answers; and that no guard is left."""
    assert {machines.current(name, "/opt/shop") for name in MACHINES} == {release}
    assert machines.recorded("shop") == {name: {release} for name in SERVERS}
    for balancer in LOAD_BALANCERS:
        assert set(machines.answers(balancer, 6)) == {(200, release, name) for name in SERVERS}
        assert set(machines.servers(balancer, "shop").values()) == {(100, 0, 8080)}
    assert machines.guards() == []


def test_a_good_release_is_promoted_without_a_lost_request(machines: Machines) -> None:
    machines.build("shop", "2.0.0")
    with Load(machines, Profile(rate=GENTLE)) as load:
        result = machines.run("canary", "shop", rollout_release="2.0.0")
    result.expect(0, "promoted")
    summary = load.summary()
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples
    expect(machines, "2.0.0")


def test_a_bad_release_goes_back_by_itself_without_a_lost_request(machines: Machines) -> None:
    machines.build("shop", "3.0.0", behaviour="errors", rate=0.5)
    with Load(machines, Profile(rate=GENTLE)) as load:
        result = machines.run("canary", "shop", rollout_release="3.0.0")
    result.expect(2, "rolled_back")
    summary = load.summary()
    assert summary.lost == 0, summary.examples
    assert summary.per_release["3.0.0"].harmed > 0
    expect(machines, "2.0.0")


@pytest.mark.usefixtures("first_has_the_address")
def test_a_failover_in_the_middle_of_a_canary_changes_no_share(machines: Machines) -> None:
    machines.build("shop", "4.0.0")
    normal = weights(machines)
    service = Service(machines)
    # Connections that are kept end with the load balancer that has them, whatever a rollout does.
    with Load(service, Profile(rate=2 * GENTLE, new_connections=1.0)) as load:
        running = machines.start("canary", "shop", rollout_release="4.0.0", canary_steps=[SHARE], canary_step_for="40s")
        poll(lambda: _shares(machines) == {SHARE}, "the canary has its share", 180)
        before = weights(machines)
        machines.host("lb1").check_output("systemctl stop keepalived")
        poll(lambda: holders(machines) == ["lb2"], "lb2 has the address", FAILOVER_SECONDS)
        moved = len(load.records())
        poll(lambda: len(load.records()) >= moved + REQUESTS, "clients are served by lb2", 60)
        assert weights(machines) == before
        assert _shares(machines) == {SHARE}
        served = load.records()[moved + 20 :]
        result = running.result()
    result.expect(0, "promoted")
    assert before != normal
    share = 100 * sum(record.release == "4.0.0" for record in served) / len(served)
    assert SHARE - 8 <= share <= SHARE + 8, share
    assert {classify(record, Incidents(), Terms()).kind for record in served} == {OK}
    expect(machines, "4.0.0")


def _shares(machines: Machines) -> set[int]:
    """The percent of new traffic that goes to the canary, shop1, on each load balancer."""
    shares = set()
    for servers in weights(machines).values():
        usable = {name: weight for name, (weight, state, _port) in servers.items() if not state}
        shares.add(round(100 * usable.get("shop1", 0) / max(1, sum(usable.values()))))
    return shares
