# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the way back makes of servers in whatever state, and what is read out of the API's answers."""

from __future__ import annotations

import os
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_lua_driver as driver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_api import NginxLuaError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import Refused, Server, restored
from hypothesis import given
from hypothesis import strategies as st

NAMES = [f"10.0.0.{number}:80" for number in range(1, 5)]
STATES = st.sampled_from(["ready", "drain", "down"])
WEIGHTS = st.sampled_from([1, 10, 100_000])
SERVERS = st.tuples(
    *(st.builds(Server, st.just(name), st.just("10.0.0.1"), st.just(80), WEIGHTS, STATES) for name in NAMES)
)
TARGETS = st.fixed_dictionaries(
    {"weight": st.none() | WEIGHTS | st.just(0), "state": st.sampled_from(["ready", "drain", "down", "maint"])}
)
SAFE = st.dictionaries(st.sampled_from([*NAMES, "gone:80"]), TARGETS)
DEAD = st.sets(st.sampled_from(NAMES))

Safe = dict[str, dict[str, t.Any]]


def unreachable(servers: t.Sequence[Server], safe: Safe, dead: t.Collection[str]) -> dict[str, str]:
    return {one.name: f"no connection to {one.name}" for one in driver.carriers(servers, safe) if one.name in dead}


def works(server: Server, down: t.Collection[str]) -> bool:
    return server.usable and server.name not in down


@given(SERVERS, SAFE, DEAD)
def test_what_works_is_never_all_taken_away(servers: tuple[Server, ...], safe: Safe, dead: set[str]) -> None:
    down = unreachable(servers, safe, dead)
    after = restored(servers, safe, down)[0]
    if any(works(one, down) for one in servers):
        assert any(works(one, down) for one in after)


@given(SERVERS, SAFE, DEAD)
def test_what_does_not_accept_connections_stays_out_and_is_told(
    servers: tuple[Server, ...], safe: Safe, dead: set[str]
) -> None:
    down = unreachable(servers, safe, dead)
    after, out = restored(servers, safe, down)
    for before, one in zip(servers, after):
        if one.name in down:
            assert one.name in out
            assert one.state == before.state
    assert set(out) >= set(safe) - set(NAMES)


@given(SERVERS, SAFE)
def test_where_all_accept_connections_all_is_as_it_was_safe(servers: tuple[Server, ...], safe: Safe) -> None:
    after, out = restored(servers, safe, {})
    for before, one in zip(servers, after):
        if one.name not in safe:
            assert one == before
        elif one.name not in out:
            assert (one.state == "ready") is (safe[one.name]["state"] == "ready" and safe[one.name]["weight"] != 0)
            assert one.weight == (safe[one.name]["weight"] or before.weight)
    assert restored(after, safe, {})[0] == after


@given(SERVERS, SAFE, DEAD)
def test_the_first_step_lowers_nothing_and_raises_nothing_dead(
    servers: tuple[Server, ...], safe: Safe, dead: set[str]
) -> None:
    down = unreachable(servers, safe, dead)
    for before, one in zip(servers, driver.raises(servers, safe, down)):
        if one != before:
            assert one.name not in down
            assert one.state == "ready"
            assert before.state != "ready" or one.weight > before.weight


def answer(worker: int, **in_flight: int) -> dict[str, t.Any]:
    """What the API tells; the master is the parent of this process, which is no worker of nginx."""
    server = {
        "name": "unix:/a",
        "address": "unix:/a",
        "port": None,
        "weight": 7,
        "state": "drain",
        "in_flight": in_flight,
    }
    process = {"nginx": "1.22.1", "worker": worker, "master": os.getppid()}
    return {"process": process, "upstreams": {"shop": {"version": 3, "servers": [server]}}}


def test_requests_of_all_workers_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        driver, "workers_of", lambda master: [driver.Process(pid, master.pid, 0, "") for pid in (11, 12)]
    )
    state = driver.state_of("/api.sock", answer(11, **{"11": 2, "12": 3, "99": 5}), "shop")
    assert state.servers == [Server("unix:/a", "unix:/a", None, 7, "drain", sessions=5)], "99 does not run any more"
    assert state.process["version"] == "1.22.1"


def test_requests_of_workers_that_cannot_be_seen_count() -> None:
    assert driver.state_of("/api.sock", answer(11, **{"11": 2, "12": 3}), "shop").servers[0].sessions == 5


def test_an_upstream_that_is_not_known_is_told_with_those_that_are() -> None:
    with pytest.raises(NginxLuaError, match=r"no upstream blog at /api\.sock; it has shop"):
        driver.state_of("/api.sock", answer(11), "blog")


@pytest.mark.parametrize(
    "safe", [None, {}, {"weight": "10", "state": "ready"}, {"weight": 1, "state": "up"}, {"weight": -1}]
)
def test_what_is_no_safe_state_is_refused(safe: t.Any) -> None:
    with pytest.raises(Refused):
        driver.NginxLuaDriver("/api.sock").check_safe({"a": safe})


def test_the_lock_is_of_one_upstream_behind_one_socket() -> None:
    assert driver.NginxLuaDriver("/api.sock").lock_name("shop") == "/api.sock!shop"
