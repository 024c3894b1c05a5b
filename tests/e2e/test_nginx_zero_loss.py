# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Twenty changes of NGINX's weights, a drain among them, under load: what each driver costs, with every request counted."""

from __future__ import annotations

import itertools
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._driver import Driver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_driver import NginxDriver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_driver import NginxLuaDriver

from local_fleet import nginx
from local_fleet.fleet import Fleet
from local_fleet.layout import LOAD_BALANCERS, Options
from local_fleet.load import Load, Profile
from local_fleet.polling import poll
from local_fleet.tally import Record

pytestmark = pytest.mark.alone

CHANGES = 20
# Long requests are in flight whenever something is changed.
KEPT = Profile(rate=150, slow=0.02, slow_ms=1500)
NOT_KEPT = Profile(rate=150, slow=0.02, slow_ms=1500, new_connections=1.0)


def driver(fleet: Fleet, name: str) -> Driver:
    if fleet.layout.options.lb == "nginx_lua":
        return NginxLuaDriver(nginx.socket_of(fleet.layout, name))
    return NginxDriver(fleet.path(name, "nginx.conf"))


def await_more(load: Load, requests: int) -> None:
    begun = len(load.records())
    poll(lambda: len(load.records()) >= begun + requests, f"{requests} more requests")


def changed_under_load(lb: str, profile: Profile) -> tuple[Fleet, list[Record], t.Any]:
    """Twenty changes of weights on each load balancer, then web2 drained, killed, and let in again."""
    with Fleet(Options(lb=lb)) as fleet:
        names = [fleet.endpoint(host) for host in fleet.app_hosts]
        with Load(fleet, profile) as load:
            await_more(load, 300)
            for number, name in itertools.product(range(CHANGES), LOAD_BALANCERS):
                weights = [{"name": one, "weight": 1 + (number + place) % 10} for place, one in enumerate(names)]
                driver(fleet, name).change("shop", weights)
                await_more(load, 30)
            for name in LOAD_BALANCERS:
                driver(fleet, name).change("shop", [{"name": names[1], "state": "down"}])
            # Nothing may be on web2 any more: its process dies at once.
            fleet.kill("web2")
            fleet.start("web2")
            for name in LOAD_BALANCERS:
                driver(fleet, name).change("shop", [{"name": names[1], "state": "ready"}])
            await_more(load, 300)
        summary = load.summary()
        print(f"\n{lb}, {'no ' if profile.new_connections == 1 else ''}reused connections: {summary.line()}")
        return fleet, load.records(), summary


def test_without_reloads_twenty_changes_lose_no_request() -> None:
    _fleet, records, summary = changed_under_load("nginx_lua", KEPT)
    assert any(record.reused for record in records)
    assert summary.sent > 1000
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples


def test_with_reloads_twenty_changes_lose_no_request_of_clients_that_reuse_no_connection() -> None:
    _fleet, _records, summary = changed_under_load("nginx", NOT_KEPT)
    assert summary.sent > 1000
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples


@pytest.mark.long
def test_with_reloads_only_idle_connections_that_are_reused_are_reset_and_only_before_1_27_4() -> None:
    """No answer is wrong, none is an error of the load balancer's own, and no connection breaks that is new or had begun to answer."""
    fleet, records, summary = changed_under_load("nginx", KEPT)
    bad = [record for record in records if record.broken or record.status != 200]
    print(f"{len(bad)} of {len(records)} requests were sent on a connection that was closed at that moment")
    assert {record.status for record in records} <= {200, 0}
    assert all(record.reused and record.broken and not record.status for record in bad), summary.examples
    assert len(bad) < 0.02 * len(records)
    if fleet.keeps_idle_connections:
        assert bad == []
