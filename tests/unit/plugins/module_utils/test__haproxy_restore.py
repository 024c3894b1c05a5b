# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the way back lets in, takes out, and leaves alone, whatever state the backend is in."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _haproxy_restore as restore
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import Backend, Server
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Target, targets
from hypothesis import given
from hypothesis import strategies as st

NAMES = [f"web{i}" for i in range(1, 5)]
WEIGHTS = st.sampled_from([0, 1, 10, 256])
TARGETS = st.builds(Target, st.none() | WEIGHTS, st.sampled_from(["ready", "drain", "maint"]))
SAFE = st.dictionaries(st.sampled_from([*NAMES, "gone"]), TARGETS)


@st.composite
def backends(draw: st.DrawFn) -> Backend:
    servers = [
        Server(
            name=name,
            address="127.0.0.1",
            port=80,
            weight=draw(WEIGHTS),
            initial_weight=10,
            admin=draw(st.sampled_from([0, 1, 8])),
            running=draw(st.booleans()),
            checked=draw(st.booleans()),
            check_health=draw(st.integers(0, 4)),
            agent=None,
            check_rise=2,
            check_fall=3,
            backup=draw(st.booleans()),
        )
        for name in NAMES
    ]
    return Backend("shop", 3, tuple(servers), "roundrobin", "http")


@given(backends(), SAFE)
def test_only_what_is_up_or_unchecked_is_let_in_and_never_from_maint(now: Backend, safe: dict[str, Target]) -> None:
    for wanted in restore.admissible(now, safe):
        server = now.server(wanted.name)
        assert safe[wanted.name].state == "ready"
        assert server.own_state != "maint"
        assert server.settled or server.health == "unchecked"


@given(backends(), SAFE)
def test_only_what_is_not_to_carry_is_taken_out(now: Backend, safe: dict[str, Target]) -> None:
    for wanted in restore.surplus(now, safe):
        assert safe[wanted.name].state != "ready"
        assert wanted.state in (None, "drain")
        assert wanted.state is None or now.server(wanted.name).own_state == "ready"


@given(backends(), SAFE)
def test_every_server_that_is_to_carry_is_let_in_waited_for_parked_or_back(
    now: Backend, safe: dict[str, Target]
) -> None:
    handled = {one.name for one in restore.admissible(now, safe)} | {
        *restore.awaited(now, safe),
        *restore.parked(now, safe),
    }
    back = {
        server.name
        for server in now.servers
        if server.name in safe and server.own_state == "ready" and safe[server.name].weight in (None, server.weight)
    }
    assert {server.name for server in now.servers if server.name in safe and safe[server.name].state == "ready"} <= (
        handled | back
    )


@given(backends(), SAFE)
def test_something_carries_only_where_a_server_of_the_safe_state_can_take_traffic(
    now: Backend, safe: dict[str, Target]
) -> None:
    if restore.carrying(now, safe):
        assert any(
            server.usable and safe.get(server.name, Target(0, "drain")).state == "ready" for server in now.servers
        )


@given(backends(), SAFE)
def test_a_server_that_is_back_is_not_told_to_be_out(now: Backend, safe: dict[str, Target]) -> None:
    for name in restore.not_back(now, safe):
        server = now.server(name)
        assert not (server.usable and server.settled)


@pytest.mark.parametrize(
    "given_safe",
    [
        {},
        {"weight": 1},
        {"weight": -1, "state": "ready"},
        {"weight": 257, "state": "ready"},
        {"state": "up"},
        "ready",
        None,
    ],
)
def test_what_is_no_safe_state_is_refused(given_safe: t.Any) -> None:
    with pytest.raises(HaproxyError, match="the safe state of server web1 is"):
        targets({"web1": given_safe})
