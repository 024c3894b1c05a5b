# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every driver does, whatever the make of the load balancer: the contract of _driver, on real ones."""

from __future__ import annotations

import threading
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._driver import Changed, LoadBalancerError

from e2e.drivers import DRIVERS, Site, answers, hold
from local_fleet.polling import poll

Told = dict[str, t.Any]


@pytest.fixture(params=sorted(DRIVERS))
def site(request: pytest.FixtureRequest) -> t.Iterator[Site]:
    with DRIVERS[request.param]() as running:
        yield running


def told(site: Site, *servers: tuple[int, Told]) -> list[Told]:
    return [{"name": site.name(place), **values} for place, values in servers]


def change(site: Site, *servers: tuple[int, Told], **options: t.Any) -> Changed:
    return site.driver(**options).change("shop", told(site, *servers))


def read(site: Site) -> dict[int, Told]:
    servers = site.driver().read(["shop"]).backends["shop"]["servers"]
    places = {site.name(place): place for place in range(len(site.apps))}
    return {places[server["name"]]: server for server in servers}


def states(site: Site) -> dict[int, tuple[int, str]]:
    return {place: (server["weight"], server["state"]) for place, server in read(site).items()}


def alone(site: Site, place: int) -> None:
    """Have one server carry everything."""
    change(site, *((other, {"state": site.out}) for other in range(3) if other != place), drain_timeout=20.0)


def test_a_reading_tells_each_server_and_null_for_what_is_not_known(site: Site) -> None:
    reading = site.driver().read(["shop"])
    servers = reading.backends["shop"]["servers"]
    assert reading.admin
    assert reading.process["pid"]
    assert reading.process["version"]
    assert [one["name"] for one in servers] == [site.name(place) for place in range(3)]
    assert [(one["address"], one["port"]) for one in servers] == [(site.host, 8081 + place) for place in range(3)]
    assert {(one["weight"], one["state"], one["own_state"], one["backup"]) for one in servers} == {
        (10, "ready", "ready", False)
    }
    assert sum(one["share"] for one in servers) == pytest.approx(100, abs=0.001)
    assert all(one["sessions"] is None or one["sessions"] >= 0 for one in servers)


def test_servers_of_weights_get_their_shares_and_are_read_back(site: Site) -> None:
    changed = change(site, (0, {"weight": 30}), (1, {"weight": 10}), (2, {"weight": 20}))
    assert changed.changed
    assert [one["weight"] for one in changed.before] == [10, 10, 10]
    assert [one["weight"] for one in changed.after] == [30, 10, 20]
    assert states(site) == {0: (30, "ready"), 1: (10, "ready"), 2: (20, "ready")}
    found = answers(site, 120)
    assert [found[place] for place in range(3)] == pytest.approx([60, 20, 40], abs=6)


def test_a_server_out_of_rotation_gets_nothing_and_comes_back_with_its_weight(site: Site) -> None:
    change(site, (0, {"weight": 20}))
    change(site, (0, {"state": site.out}))
    assert states(site)[0] == (20, site.out)
    assert 0 not in answers(site, 40)
    change(site, (0, {"state": "ready"}))
    assert states(site)[0] == (20, "ready")
    assert answers(site, 40)[0] == pytest.approx(20, abs=4)


def test_a_server_that_is_drained_gets_nothing_new(site: Site) -> None:
    change(site, (0, {"state": "drain"}))
    assert states(site)[0][1] != "ready"
    assert 0 not in answers(site, 40)


def test_a_server_of_weight_0_gets_nothing_and_can_come_back(site: Site) -> None:
    change(site, (0, {"weight": 0}))
    assert read(site)[0]["share"] == 0
    assert 0 not in answers(site, 40)
    change(site, (0, {"weight": 10, "state": "ready"}))
    assert states(site)[0] == (10, "ready")


def test_what_is_so_already_is_no_change(site: Site) -> None:
    change(site, (0, {"weight": 20}), (1, {"state": site.out}))
    process = site.driver().read(["shop"]).process
    again = change(site, (0, {"weight": 20}), (1, {"state": site.out}))
    assert not again.changed
    assert again.before == again.after
    assert site.driver().read(["shop"]).process["pid"] == process["pid"]


def test_check_mode_tells_what_would_be_and_changes_nothing(site: Site) -> None:
    foreseen = change(site, (0, {"weight": 20}), (1, {"state": site.out}), check_mode=True)
    assert foreseen.changed
    assert [(one["weight"], one["state"]) for one in foreseen.after] == [(20, "ready"), (10, site.out)]
    assert states(site) == dict.fromkeys(range(3), (10, "ready"))
    safe = {site.name(0): {"weight": 10, "state": site.out}}
    assert site.driver(check_mode=True).restore("shop", safe).changed
    assert states(site) == dict.fromkeys(range(3), (10, "ready"))


@pytest.mark.parametrize(
    "servers",
    [
        [],
        [{"name": "nobody:80", "weight": 1}],
        [{"name": "first"}],
        [{"name": "first", "weight": -1}],
        [{"name": "first", "state": "asleep"}],
        [{"name": "first", "weight": 1}, {"name": "first", "weight": 2}],
    ],
    ids=["none", "unknown", "nothing to do", "weight", "state", "twice"],
)
def test_what_makes_no_sense_is_refused_and_nothing_changes(site: Site, servers: list[Told]) -> None:
    named = [{**one, "name": site.name(0) if one["name"] == "first" else one["name"]} for one in servers]
    with pytest.raises(LoadBalancerError):
        site.driver().change("shop", named)
    assert states(site) == dict.fromkeys(range(3), (10, "ready"))


def test_a_backend_that_is_not_there_is_told(site: Site) -> None:
    with pytest.raises(LoadBalancerError, match="nowhere"):
        site.driver().read(["nowhere"])
    with pytest.raises(LoadBalancerError, match="nowhere"):
        site.driver().change("nowhere", told(site, (0, {"weight": 1})))


def test_a_change_that_would_leave_no_server_is_refused(site: Site) -> None:
    with pytest.raises(LoadBalancerError, match="allow_empty"):
        change(site, *((place, {"state": site.out}) for place in range(3)))
    assert states(site) == dict.fromkeys(range(3), (10, "ready"))
    change(site, *((place, {"state": site.out}) for place in range(3)), policy={"allow_empty": True})
    assert {state for _weight, state in states(site).values()} == {site.out}


def test_a_server_that_does_not_answer_gains_no_traffic(site: Site) -> None:
    change(site, (0, {"state": site.out}))
    site.apps[0].shutdown()
    site.apps[0].server_close()
    with pytest.raises(LoadBalancerError, match=r"Nothing was changed|put back"):
        change(site, (0, {"state": "ready"}), (1, {"state": site.out}), health_timeout=1.0)
    assert states(site)[0][1] != "ready"
    assert states(site)[1] == (10, "ready")
    assert answers(site, 20).keys() == {1, 2}


def test_a_drain_waits_for_the_request_in_flight_which_is_answered(site: Site) -> None:
    alone(site, 0)
    client = hold(site, site.apps[0])
    changed: list[Changed] = []
    servers = ((0, {"state": site.out}), (1, {"state": "ready"}))
    waiting = threading.Thread(target=lambda: changed.append(change(site, *servers, drain_timeout=30.0)))
    waiting.start()
    poll(lambda: answers(site, 4).keys() == {1}, "new requests go elsewhere")
    assert waiting.is_alive()
    site.apps[0].held.release()
    waiting.join(20)
    assert client.answer() == 200
    assert changed
    assert changed[0].cut == 0


def test_a_drain_that_does_not_end_puts_everything_back(site: Site) -> None:
    alone(site, 0)
    client = hold(site, site.apps[0])
    with pytest.raises(LoadBalancerError, match="drain"):
        change(site, (0, {"state": site.out}), (1, {"state": "ready"}), drain_timeout=0.5)
    assert states(site) == {0: (10, "ready"), 1: (10, site.out), 2: (10, site.out)}
    site.apps[0].held.release()
    assert client.answer() == 200


def test_a_drain_may_leave_what_does_not_end(site: Site) -> None:
    alone(site, 0)
    client = hold(site, site.apps[0])
    servers = ((0, {"state": site.out}), (1, {"state": "ready"}))
    changed = change(site, *servers, drain_timeout=0.5, on_drain_timeout="continue")
    assert changed.cut == 0
    assert any("continue" in warning for warning in changed.warnings)
    site.apps[0].held.release()
    assert client.answer() == 200


def test_a_safe_state_is_restored(site: Site) -> None:
    before = {site.name(place): {"weight": 10, "state": "ready"} for place in range(3)}
    change(site, (0, {"weight": 90}), (1, {"state": site.out}), (2, {"state": "drain"}))
    restored = site.driver().restore("shop", before)
    assert restored.changed
    assert not restored.out
    assert states(site) == dict.fromkeys(range(3), (10, "ready"))
    assert not site.driver().restore("shop", before).changed


def test_what_does_not_answer_is_not_restored_but_told_and_comes_later(site: Site) -> None:
    change(site, (0, {"state": site.out}))
    site.apps[0].shutdown()
    site.apps[0].server_close()
    safe = {site.name(place): {"weight": 10 + place, "state": "ready"} for place in range(3)}
    restored = site.driver(health_timeout=1.0).restore("shop", safe)
    assert list(restored.out) == [site.name(0)]
    assert states(site)[0][1] != "ready"
    assert [states(site)[place] for place in (1, 2)] == [(11, "ready"), (12, "ready")]


def test_a_safe_state_that_would_leave_nothing_keeps_what_carries(site: Site) -> None:
    change(site, (0, {"state": site.out}), (1, {"state": site.out}))
    for place in (0, 1):
        site.apps[place].shutdown()
        site.apps[place].server_close()
    safe = {
        **{site.name(place): {"weight": 10, "state": "ready"} for place in (0, 1)},
        site.name(2): {"weight": 10, "state": site.out},
    }
    site.driver(health_timeout=1.0).restore("shop", safe)
    assert states(site)[2] == (10, "ready")
    assert answers(site, 10).keys() == {2}


def test_requests_and_errors_are_counted_for_each_server(site: Site) -> None:
    before = read(site)
    answers(site, 30)
    answers(site, 12, "/error")
    after = read(site)
    grown = {place: after[place]["requests"] - before[place]["requests"] for place in after}
    errors = {place: after[place]["errors"]["http_5xx"] - before[place]["errors"]["http_5xx"] for place in after}
    assert sum(grown.values()) == 42
    assert all(grown.values())
    assert sum(errors.values()) == 12
    assert all(errors.values())


def test_several_calls_at_once_leave_what_the_last_one_wanted_of_each(site: Site) -> None:
    """None is lost, though all are in the same file or behind the same socket."""
    calls = [threading.Thread(target=change, args=(site, (place, {"weight": 20 + place}))) for place in range(3)]
    for call in calls:
        call.start()
    for call in calls:
        call.join(60)
    assert states(site) == {place: (20 + place, "ready") for place in range(3)}
