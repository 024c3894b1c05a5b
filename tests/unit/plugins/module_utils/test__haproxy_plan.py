# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of commands, proved on a simulated HAProxy; tests/e2e does the same on real ones."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import FORCED_DRAIN, FORCED_MAINT, Backend, Server
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_plan import (
    Plan,
    Policy,
    Unsettled,
    differences,
    emptied,
    make_plan,
    make_undo,
    refuse_unsafe_lowering,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Refused, Wanted
from hypothesis import given
from hypothesis import strategies as st

ADMIN = {"ready": 0, "drain": FORCED_DRAIN, "maint": FORCED_MAINT}


def server(name: str, weight: int = 10, state: str = "ready", **more: t.Any) -> Server:
    facts: dict[str, t.Any] = {
        "running": True,
        "checked": True,
        "check_health": 4,
        "agent": None,
        "check_rise": 2,
        "check_fall": 3,
    }
    return Server(
        name=name,
        address="127.0.0.1",
        port=80,
        weight=weight,
        initial_weight=10,
        admin=ADMIN[state],
        **{**facts, "status": "UP", **more},
    )


def backend(*servers: Server, algorithm: str = "roundrobin") -> Backend:
    return Backend("shop", 1, servers, algorithm, "http")


class Simulated:
    """Obeys commands as HAProxy does, and remembers the smallest sum of usable weights it ever had."""

    def __init__(self, start: Backend) -> None:
        self.backend = start
        self.lowest = self._usable()

    def _usable(self) -> int:
        return sum(server.weight for server in self.backend.servers if server.usable and not server.backup)

    def obey(self, commands: t.Iterable[str]) -> None:
        for command in commands:
            if command.endswith(" health down"):
                continue  # checks pass again at once
            name, verb, value = self._parse(command)
            self.backend = self.backend._replace(
                servers=tuple(
                    self._changed(server, verb, value) if server.name == name else server
                    for server in self.backend.servers
                ),
            )
            self.lowest = min(self.lowest, self._usable())

    @staticmethod
    def _parse(command: str) -> tuple[str, str, str]:
        match = re.fullmatch(r"set server shop/(\S+) (weight|state) (\S+)|(enable|disable) agent shop/(\S+)", command)
        assert match, command
        return (match[1], match[2], match[3]) if match[1] else (match[5], "agent", match[4] + "d")

    @staticmethod
    def _changed(old: Server, verb: str, value: str) -> Server:
        if verb == "weight":
            return old._replace(weight=int(value))
        if verb == "agent":
            return old._replace(agent=value)
        assert not (old.state == "maint" and value == "ready"), f"{old.name} went from maint straight to ready"
        return old._replace(admin=ADMIN[value])

    def carry_out(self, plan: Plan) -> None:
        for commands in (plan.park, plan.raises, plan.lowers, plan.close, plan.release):
            self.obey(commands)


NAMES = ["a", "b", "c", "d"]
weights = st.integers(0, 256)
states = st.sampled_from(["ready", "drain", "maint"])
agents = st.sampled_from([None, "enabled", "disabled"])
backends = st.tuples(*[st.builds(server, st.just(name), weights, states, agent=agents) for name in NAMES]).map(
    lambda servers: backend(*servers)
)
wishes = st.lists(
    st.builds(Wanted, st.sampled_from(NAMES), st.one_of(st.none(), weights), st.one_of(st.none(), states)).filter(
        lambda wanted: wanted.weight is not None or wanted.state is not None
    ),
    min_size=1,
    unique_by=lambda wanted: wanted.name,
)


def plan_or_none(start: Backend, wanted: list[Wanted]) -> Plan | None:
    try:
        return make_plan(start, wanted, Policy(), False)
    except Refused:
        return None


@given(backends, wishes)
def test_a_plan_ends_where_it_was_wanted_and_never_below_the_smaller_of_its_ends(
    start: Backend, wanted: list[Wanted]
) -> None:
    plan = plan_or_none(start, wanted)
    if plan is None:
        return
    haproxy = Simulated(start)
    first = haproxy.lowest
    haproxy.carry_out(plan)
    end = haproxy.backend.by_name()
    for item in wanted:
        reached = end[item.name]
        # Its own weight is for the agent of a server to say: what it makes of it is left alone.
        of_agent = reached.agent == "enabled" and item.weight == reached.initial_weight
        assert of_agent or item.weight in (None, reached.weight)
        assert item.state in (None, reached.state)
    assert haproxy.lowest >= min(first, haproxy._usable())
    assert not differences(haproxy.backend, plan)
    assert not make_plan(haproxy.backend, wanted, Policy(), False).changes


@given(backends, wishes, st.integers(0, 40))
def test_an_undo_restores_everything_from_any_point_of_a_plan(start: Backend, wanted: list[Wanted], point: int) -> None:
    plan = plan_or_none(start, wanted)
    if plan is None:
        return
    complete = Simulated(start)
    complete.carry_out(plan)
    haproxy = Simulated(start)
    haproxy.obey([*plan.park, *plan.raises, *plan.lowers, *plan.close, *plan.release][:point])
    haproxy.carry_out(make_undo(haproxy.backend, {change.name: change.server for change in plan.changes}))
    assert haproxy.backend == start
    assert haproxy.lowest >= complete.lowest


@given(backends, wishes)
def test_what_is_refused_lowers_something_and_would_leave_nothing_usable(start: Backend, wanted: list[Wanted]) -> None:
    if plan_or_none(start, wanted) is not None:
        return
    by_name = {item.name: item for item in wanted}
    for old in start.servers:
        item = by_name.get(old.name, Wanted(old.name))
        weight = old.weight if item.weight is None else item.weight
        assert not weight or (item.state or old.state) != "ready"
    assert any(
        old.state == "ready"
        and ((item.state or "ready") != "ready" or (item.weight is not None and item.weight < old.weight))
        for old in start.servers
        for item in [by_name.get(old.name, Wanted(old.name))]
    )


def test_the_new_side_is_raised_before_the_old_one_is_lowered() -> None:
    plan = make_plan(
        backend(server("blue", 10), server("green", 10, "drain")),
        [Wanted("blue", state="drain"), Wanted("green", state="ready")],
        Policy(),
        False,
    )
    assert plan.raises == ("set server shop/green state ready",)
    assert plan.lowers == ("set server shop/blue state drain",)
    assert plan.await_health == ("green",)


def test_a_server_leaves_maint_by_way_of_drain_and_must_be_proved() -> None:
    plan = make_plan(backend(server("a"), server("b", state="maint")), [Wanted("b", state="ready")], Policy(), False)
    assert plan.park == ("set server shop/b state drain", "set server shop/b health down")
    assert (plan.await_health, plan.raises) == (("b",), ("set server shop/b state ready",))


def test_a_server_that_leaves_maint_at_weight_zero_is_waited_for_as_cookies_lead_to_it() -> None:
    plan = make_plan(backend(server("a"), server("b", 0, "maint")), [Wanted("b", state="ready")], Policy(), False)
    assert plan.await_health == ("b",)


def test_a_server_that_tracks_one_that_leaves_does_not_count_as_left() -> None:
    start = backend(
        server("a"), server("b", tracks="shop/a", checked=False), server("c", tracks="shop/b", checked=False)
    )
    with pytest.raises(Refused, match="without any usable server"):
        make_plan(start, [Wanted("a", state="drain")], Policy(), False)


def test_followers_of_a_drained_server_must_be_empty_too() -> None:
    start = backend(server("a"), server("b", tracks="shop/a", checked=False), server("c"))
    assert make_plan(start, [Wanted("a", state="drain")], Policy(), False).drains == ("a", "b")


def test_a_server_and_the_one_that_it_tracks_can_come_back_in_one_call() -> None:
    held = [server("a", state="maint"), server("b", tracks="shop/a", checked=False)._replace(admin=FORCED_MAINT | 2)]
    plan = make_plan(
        backend(*held, server("c")), [Wanted("a", state="ready"), Wanted("b", state="ready")], Policy(), False
    )
    assert [command for command in plan.raises if command.endswith("ready")] == [
        "set server shop/a state ready",
        "set server shop/b state ready",
    ]


def test_an_inherited_maint_is_made_its_own_when_asked_for() -> None:
    start = backend(server("a", state="maint"), server("b", tracks="shop/a")._replace(admin=2), server("c"))
    plan = make_plan(start, [Wanted("b", state="maint")], Policy(), False)
    assert plan.close == ("set server shop/b state maint",)


def test_a_weight_alone_does_not_wait_for_a_drained_servers_sessions() -> None:
    start = backend(server("a", state="drain", sessions=3), server("b"))
    assert make_plan(start, [Wanted("a", 20)], Policy(), False).drains == ()


def test_servers_that_are_still_settling_are_told_from_an_outage() -> None:
    start = backend(server("a"), server("b", check_health=2, status="UP 1/3"))
    with pytest.raises(Unsettled):
        make_plan(start, [Wanted("a", state="drain")], Policy(), False)


def test_weights_of_a_backend_that_is_out_altogether_may_be_prepared() -> None:
    start = backend(server("a", state="maint"), server("b", state="maint"))
    assert make_plan(start, [Wanted("a", 20)], Policy(), False).raises == ("set server shop/a weight 20",)


def test_a_backend_of_backups_alone_is_changed_like_any_other() -> None:
    start = backend(server("a", backup=True), server("b", backup=True))
    assert make_plan(start, [Wanted("a", state="drain")], Policy(), False).lowers


def test_an_undo_that_would_leave_nothing_is_found_out() -> None:
    before = backend(server("old"), server("new", state="drain"))
    now = backend(server("old", state="drain", running=False, check_health=0), server("new"))
    plan = make_undo(now, before.by_name())
    assert plan.lowers == ("set server shop/new state drain",)
    assert emptied(now, plan)
    healthy = backend(server("old"), server("new"))
    assert not emptied(healthy, make_undo(healthy, before.by_name()))


def test_the_end_state_is_judged_again_before_anything_is_lowered() -> None:
    start = backend(server("a"), server("b", 0))
    plan = make_plan(start, [Wanted("a", state="drain"), Wanted("b", 10)], Policy(), False)
    died = backend(server("a"), server("b", 10, running=False, check_health=0))
    with pytest.raises(HaproxyError, match="b went down right after it was let in"):
        refuse_unsafe_lowering(died, plan, Policy())


def test_a_server_that_died_while_the_new_side_was_waited_for_does_not_count_as_left() -> None:
    start = backend(server("a"), server("b"), server("c"))
    plan = make_plan(start, [Wanted("a", state="drain"), Wanted("c", 0)], Policy(), False)
    died = backend(server("a"), server("b", running=False, check_health=0), server("c"))
    with pytest.raises(Refused, match="without any usable server"):
        refuse_unsafe_lowering(died, plan, Policy())


@pytest.mark.parametrize(
    ("agent", "weight", "state", "wanted", "park", "release"),
    [
        ("enabled", 10, "ready", Wanted("a", 20), ["disable"], []),
        ("enabled", 10, "ready", Wanted("a", state="drain"), ["disable"], []),
        ("enabled", 5, "ready", Wanted("a", 10), [], []),
        ("enabled", 5, "drain", Wanted("a", 10, "ready"), ["disable"], ["enable"]),
        ("enabled", 20, "ready", Wanted("a", 20), ["disable"], []),
        ("enabled", 5, "ready", Wanted("a", state="ready"), [], []),
        ("disabled", 20, "ready", Wanted("a", 10), [], ["enable"]),
        ("disabled", 5, "drain", Wanted("a", state="ready"), [], ["enable"]),
        ("disabled", 20, "drain", Wanted("a", 20, "ready"), [], []),
        ("disabled", 10, "ready", Wanted("a", 10, "ready"), [], []),
        (None, 10, "ready", Wanted("a", 20), [], []),
    ],
)
def test_an_agent_is_off_exactly_while_its_server_is_held(
    agent: str | None, weight: int, state: str, wanted: Wanted, park: list[str], release: list[str]
) -> None:
    plan = make_plan(backend(server("a", weight, state, agent=agent), server("b")), [wanted], Policy(), False)
    agents = [
        [command.split()[0] for command in commands if " agent " in command] for commands in (plan.park, plan.release)
    ]
    assert agents == [park, release]
