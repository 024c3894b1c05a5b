# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._fleet import (
    FleetError,
    carries,
    check_servers,
    found,
    in_rotation,
    live_tracks,
    make_members,
    releases,
)
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member
from hypothesis import given
from hypothesis import strategies as st

from simulated_rollout import OLD, SimulatedLb, fleet, server

NAMES = st.sets(st.sampled_from([f"web{i}" for i in range(1, 6)]), min_size=1)


def reading(*names: str, backend: str = "shop", **states: dict[str, t.Any]) -> dict[str, t.Any]:
    return SimulatedLb("lb1", {backend: {**{name: server() for name in names}, **states}}).info()


def member(text: str, backend: str = "shop") -> Member:
    return Member(text, text, "", {backend: text})


def test_a_host_is_the_server_of_its_name_in_every_backend():
    (made,) = make_members({"web1": {}}, ["api", "shop"])
    assert made == Member("web1", "web1", "", {"api": "web1", "shop": "web1"}, "")


def test_a_host_may_have_a_name_of_its_own_in_each_backend_or_be_in_few_of_them():
    (made,) = make_members({"web1": {"server": {"shop": "s1"}, "track": "blue", "domain": 3}}, ["api", "shop"])
    assert made == Member("web1", "web1", "blue", {"shop": "s1"}, "3")


def test_a_host_with_two_slots_has_two_members():
    made = make_members({"web1": {"tracks": {"blue": {"server": "b1"}, "green": {}}}}, ["shop"])
    assert [(one.key, one.track, one.servers) for one in made] == [
        ("web1:blue", "blue", {"shop": "b1"}),
        ("web1:green", "green", {"shop": "web1-green"}),
    ]


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (
            {"web1": {"server": "x"}, "web2": {"server": "x"}},
            "web1 and web2 are both server x of backend shop; give each its own rollout_server",
        ),
        (
            {"web1": {"server": {"api": "x"}}},
            "web1: rollout_server names backend api, which is not in rollout_backend",
        ),
        ({"web1": {"server": ["x"]}}, "web1: rollout_server must be a name or a map of backends to names, not ['x']"),
        ({"web1": {"server": {"shop": ""}}}, "web1: rollout_server names no server in backend shop"),
        (
            {"web1": {"tracks": ["blue"]}},
            "web1: rollout_tracks must be like {blue: {server: web1-blue, port: 8081}, green: ...}",
        ),
        (
            {"web1": {"tracks": {"blue": {"server": {"api": 1}}}}},
            "web1: rollout_tracks.blue.server names backend api, which is not in rollout_backend",
        ),
    ],
)
def test_hosts_that_make_no_sense_are_refused(hosts, message):
    with pytest.raises(FleetError, match=f"^{re.escape(message)}$"):
        make_members(hosts, ["shop"])


@given(NAMES, st.lists(NAMES, min_size=1, max_size=3))
def test_servers_are_accepted_exactly_where_every_load_balancer_has_those_of_the_fleet(hosts, lbs):
    readings = {f"lb{i}": reading(*names) for i, names in enumerate(lbs)}
    members = [member(host) for host in sorted(hosts)]
    if all(names == hosts for names in lbs):
        check_servers(members, readings, "")
    else:
        with pytest.raises(FleetError):
            check_servers(members, readings, "")


@pytest.mark.parametrize(
    ("hosts", "lbs", "message"),
    [
        (
            ["web1", "web2"],
            {"lb1": ["web1", "web2"], "lb2": ["web1"]},
            "the load balancers differ: lb2 lacks server web2 of backend shop, which lb1 has; give all the same servers",
        ),
        (
            ["web1", "web2"],
            {"lb1": ["web1", "web2"], "lb2": ["web3"]},
            "the load balancers differ: lb1 lacks server web3 of backend shop, which lb2 has; give all the same servers",
        ),
        (
            ["web1", "web2"],
            {"lb1": ["web1"]},
            "1 host of the play (web2) would be server web2 of backend shop, which lb1 does not have; set rollout_server, or leave "
            "the host out of the play",
        ),
        (
            ["web1"],
            {"lb1": ["web1", "web2", "web3"]},
            "server web2, web3 of backend shop belongs to no host of this play (--limit web1 is in force); a rollout needs the whole "
            "fleet",
        ),
    ],
)
def test_what_does_not_fit_together_is_told(hosts, lbs, message):
    readings = {lb: reading(*names) for lb, names in lbs.items()}
    with pytest.raises(FleetError, match=f"^{re.escape(message)}$"):
        check_servers([member(host) for host in hosts], readings, " (--limit web1 is in force)")


def test_backup_servers_belong_to_nobody():
    told = reading("web1", "sorry")
    told["backends"]["shop"]["servers"][1]["backup"] = True
    check_servers([member("web1")], {"lb1": told}, "")
    assert list(found(told, ["shop"])["shop"]) == ["web1"]


def test_a_found_server_of_weight_0_has_its_configured_weight_as_base():
    states = found(reading(web1=server(weight=0, base=20), web2=server(weight=5)), ["shop"])["shop"]
    assert [states[name]["base"] for name in ("web1", "web2")] == [20, 5]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (server(), True),
        (server(weight=0), False),
        (server("drain"), False),
        (server("maint"), False),
        (server(weight=0, agent=True), True),
        (server("drain", weight=0, agent=True), False),
    ],
)
def test_what_is_ready_with_a_weight_or_an_agent_is_in_rotation(given, expected):
    assert carries(given) is expected


def test_a_member_is_in_rotation_where_any_load_balancer_sends_to_it():
    readings = {
        "lb1": reading(web1=server("maint"), web2=server("maint")),
        "lb2": reading("web1", web2=server("drain")),
    }
    assert in_rotation(fleet(2), readings) == ["web1"]


def test_live_tracks_are_told_for_each_load_balancer():
    readings = {"lb1": reading(web1=server(), web2=server("drain")), "lb2": reading(web1=server(), web2=server())}
    assert live_tracks(fleet(2, "bg"), readings) == {"lb1": {"blue"}, "lb2": {"blue", "green"}}


@pytest.mark.parametrize(
    ("first", "second", "release"),
    [
        (OLD, OLD, OLD),
        (OLD, "2.0.0", None),
        (OLD, None, None),
        (None, None, None),
    ],
)
def test_a_release_is_known_where_all_load_balancers_say_the_same(first, second, release):
    def record(value: str | None) -> dict[str, t.Any]:
        return {"shop": {"releases": {"web1": {"role:x": value, "role:y": "9"}} if value else {}}}

    assert releases(fleet(1), {"lb1": record(first), "lb2": record(second)}, "role:x") == {"web1": release}
