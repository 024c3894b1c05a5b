# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import typing as t
from collections import Counter

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._blue_green import blue_green
from ansible_collections.steady.rollout.plugins.module_utils._executor import FORWARD, UNDO, Run
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._preflight import decide
from ansible_collections.steady.rollout.plugins.module_utils._recovery import back_from
from ansible_collections.steady.rollout.plugins.module_utils._rolling import rolling
from ansible_collections.steady.rollout.plugins.module_utils._steps import parse_steps
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from simulated_rollout import (
    NEW,
    OLD,
    RUNS,
    Killed,
    World,
    begin_of,
    carrying,
    fleet,
    make_run,
    rolling_runs,
    server,
    targets,
)

KILLS = st.integers(0, 100)
# Each example is one or two rollouts from end to end.
FEW = examples(40)


def killed(run: Run, at: int) -> World:
    """The world in which the rollout was killed before that act, or went through."""
    world = World(run, at)
    with contextlib.suppress(Killed):
        world.roll_out(run, begin_of(run))
    return world


def killed_on_the_way(run: Run, at: int) -> World:
    """Killed before one of the acts that come after it began everywhere, and before it ended anywhere."""
    world = World(run)
    world.roll_out(run, begin_of(run))
    ends = len(run.lbs)
    return killed(run, ends + at % (world.acts - 2 * ends + 1))


def under_way(run: Run, world: World) -> bool:
    """Whether it was killed after it had begun everywhere, and before it ended anywhere."""
    return all(lock == run.rollout_id for lb in world.lbs.values() for lock in lb.lock.values())


def place_of(run: Run, keys: t.Collection[str]) -> set[tuple[str, str]]:
    return {place for key in keys for place in run.members[key].servers.items()}


def expect_as_before(run: Run, world: World) -> None:
    """What carried carries again, with the old release; in its backends nothing else does."""
    carried = begin_of(run)["carried"]
    assert all(world.running[key] == OLD for key in carried)
    for lb in run.lbs:
        now = carrying(world.lbs[lb.name].states())
        wanted = carrying(lb.found)
        assert wanted <= now
        served = {backend for backend, _name in wanted}
        by_agent = {
            (backend, name) for backend, servers in lb.found.items() for name in servers if servers[name]["agent"]
        }
        assert not {place for place in now - place_of(run, carried) - by_agent if place[0] in served}


@given(RUNS, KILLS)
@FEW
def test_a_rollout_that_fails_anywhere_goes_back_to_what_was_there(run, at):
    world = killed_on_the_way(run, at)
    world.kill_at = None
    world.rescue(run)
    expect_as_before(run, world)


@given(RUNS, KILLS)
@FEW
def test_after_a_way_back_nothing_is_left_to_take_back(run, at):
    world = killed_on_the_way(run, at)
    world.kill_at = None
    world.rescue(run)
    recovery = world.recovery(run.plan.backends)
    assert recovery.done
    left = {key for group in recovery.left(world.answers()) for key in group}
    assert not left & set(recovery.carried)


@given(RUNS, KILLS, KILLS)
@FEW
def test_a_way_back_that_was_killed_can_be_gone_again(run, at, again):
    world = killed_on_the_way(run, at)
    world.kill_at = world.acts + again
    with contextlib.suppress(Killed):
        world.rescue(run)
    if not under_way(run, world):
        return
    world.kill_at = None
    world.rescue(run)
    expect_as_before(run, world)


@given(rolling_runs(), KILLS)
def test_an_undo_covers_all_that_was_touched_and_carried_once(run, at):
    world = killed_on_the_way(run, at)
    touched = {key for key, release in world.running.items() if release == NEW}
    world.kill_at = None
    back = world.rescue(run)
    undone = Counter(key for step in back.plan.steps if step.kind == "deploy" for key in step.members)
    carried = set(begin_of(run)["carried"])
    assert touched & carried <= set(undone) <= carried
    assert set(undone.values()) <= {1}


@given(rolling_runs(), KILLS)
def test_groups_go_back_in_reverse_order(run, at):
    world = killed_on_the_way(run, at)
    forward = [key for step in run.plan.steps if step.kind == "deploy" for key in step.members]
    world.kill_at = None
    back = world.rescue(run)
    undone = [step.members for step in back.plan.steps if step.kind == "deploy"]
    firsts = [forward.index(group[0]) for group in undone]
    assert firsts == sorted(firsts, reverse=True)


@given(RUNS, KILLS)
@FEW
def test_while_it_goes_back_no_new_release_is_let_in(run, at):
    world = killed_on_the_way(run, at)
    world.kill_at = None
    world.restore(run)
    fleet_of = run.members
    carried = {lb: carrying(world.lbs[lb].states()) for lb in world.lbs}

    def look() -> None:
        for lb, before in carried.items():
            new = {p for key, release in world.running.items() if release == NEW for p in fleet_of[key].servers.items()}
            assert carrying(world.lbs[lb].states()) & new <= before

    world.watchers.append(look)
    world.carry_out(world.recovery(run.plan.backends).run("r1", run.lbs, run.settings, world.answers(), {}))
    look()


# ---------------------------------------------------------------------------------------------------------------------
# by example


OWN: dict[str, dict[str, t.Any]] = {f"web{i}": {"previous": OLD} for i in range(1, 4)}
COLOURS: dict[str, dict[str, t.Any]] = {
    f"web{i}": {"track": "blue" if i < 3 else "green", "previous": OLD} for i in range(1, 5)
}
BAKE = {"name": "blue_green", "bake": 300}


def roll(count: int = 3, healthy: float = 10, **changes: t.Any) -> Run:
    made = fleet(count)
    return make_run(made, rolling(made, 1, None, healthy, False), lbs=["lb1", "lb2"], **changes)


def swap() -> Run:
    made = fleet(4, "bbgg")
    found = {"shop": {f"web{i}": server("ready" if i < 3 else "drain") for i in range(1, 5)}}
    return make_run(made, blue_green(made[:2], made[2:], 300), found, lbs=["lb1", "lb2"])


def test_nothing_recorded_is_nothing_to_take_back():
    assert back_from(World(roll()).answers(), ["shop"]) is None


def test_the_holder_of_the_lock_is_taken_back_also_when_another_one_began_later():
    answers = killed(roll(), 10).answers()
    later = killed(roll(rollout_id="r2"), 1000).answers()
    answers["lb1"]["records"]["shop"]["rollout"] = {**later["lb1"]["records"]["shop"]["rollout"], "at": "2027"}
    answers["lb1"]["records"]["shop"]["lock"] = None
    recovery = back_from(answers, ["shop"])
    assert (recovery.rollout_id, recovery.unfinished) == ("r1", True)


def test_the_holder_of_one_backend_is_found_behind_the_record_of_another():
    made = [one._replace(servers={"api": one.host, "shop": one.host}) for one in fleet(2)]
    answers = killed(make_run(made, rolling(made, 1, None, 0, False)), 1000).answers()
    held = killed(make_run(fleet(2), rolling(fleet(2), 1, None, 0, False), rollout_id="r2"), 5).answers()
    answers["lb1"]["records"]["shop"] = held["lb1"]["records"]["shop"]
    assert back_from(answers, ["api", "shop"]).rollout_id == "r2"


def test_without_a_lock_the_last_rollout_is_taken_back():
    answers = killed(roll(), 1000).answers()
    later = killed(roll(rollout_id="r2"), 1000).answers()
    answers["lb2"]["records"]["shop"]["rollout"] = {**later["lb2"]["records"]["shop"]["rollout"], "at": "2027"}
    recovery = back_from(answers, ["shop"])
    assert (recovery.rollout_id, recovery.unfinished, recovery.outcome) == ("r2", False, "promoted")


def test_a_host_that_is_in_one_backend_only_is_undone_also_when_its_deploy_was_cut_short():
    made = fleet(2)
    made = [made[0]._replace(servers={"api": "web1", "shop": "web1"}), made[1]]
    run = make_run(made, rolling(made, 1, None, 0, False))
    world = World(run)
    world.watchers.append(lambda: setattr(world, "kill_at", world.acts if world.running["web2"] == NEW else None))
    with pytest.raises(Killed):
        world.roll_out(run, begin_of(run))
    assert world.recovery(["api", "shop"]).deployed == (("web1",), ("web2",))


def test_a_record_that_cannot_be_read_is_told():
    answers = killed(roll(), 10).answers()
    del answers["lb1"]["records"]["shop"]["rollout"]["begin"]["carried"]
    with pytest.raises(PlanError, match="The record of rollout r1 cannot be read: KeyError 'carried'"):
        back_from(answers, ["shop"])


def test_a_host_that_is_back_already_is_not_undone_again():
    world = killed(roll(healthy=0), 1000)
    recovery = world.recovery(["shop"])
    answers = world.answers()
    for lb in answers.values():
        lb["records"]["shop"]["releases"]["web2"] = {"role:shop.release": OLD}
    assert recovery.left(answers) == [("web1",), (), ("web3",)]


def test_a_host_that_is_out_on_one_load_balancer_is_not_back():
    world = killed(roll(healthy=0), 1000)
    answers = world.answers()
    for lb in answers.values():
        lb["records"]["shop"]["releases"] = {f"web{i}": {"role:shop.release": OLD} for i in (1, 2, 3)}
    answers["lb2"]["backends"]["shop"]["servers"][0]["state"] = "drain"
    assert world.recovery(["shop"]).left(answers) == [("web1",), (), ()]


def test_a_host_whose_release_nobody_knew_is_never_back():
    recovery = killed(roll(previous={"web1": None, "web2": OLD, "web3": OLD}), 1000).recovery(["shop"])
    assert recovery.target["web1"] is None
    assert recovery.left({}) == [("web1",), ("web2",), ("web3",)]


def test_the_way_back_from_an_unfinished_rollout_stops_at_nothing_and_keeps_out_what_is_out():
    world = killed(roll(), 8)
    back = world.recovery(["shop"]).run("r2", roll().lbs, roll().settings, world.answers(), {})
    assert (back.mode, back.action, back.out) == (UNDO, "undo", ("web1",))
    assert (back.releases["web1"], back.previous["web1"]) == (OLD, NEW)


def test_the_way_back_from_a_promoted_swap_moves_traffic_only():
    world = killed(swap(), 1000)
    back = world.recovery(["shop"]).run("r2", swap().lbs, swap().settings, world.answers(), {})
    assert [step.words() for step in back.plan.steps] == ["probe blue (web1, web2)", "traffic blue 100 %, green 0 %"]
    assert back.mode == FORWARD


def test_the_way_back_from_a_swap_that_failed_touches_no_host():
    world = killed(swap(), 12)
    world.kill_at = None
    assert world.rescue(swap()).plan.steps == ()
    expect_as_before(swap(), world)


def test_a_host_that_was_not_in_rotation_leaves_it_on_the_way_back():
    made = fleet(2)
    found = {"shop": {"web1": server(), "web2": server("maint")}}
    run = make_run(made, rolling(made, 1, None, 0, False), found)
    world = killed(run, 1000)
    back = world.recovery(["shop"]).run("r2", run.lbs, run.settings, world.answers(), {})
    assert [step.words() for step in back.plan.steps][-1] == "drain web2"


def test_a_host_that_was_only_let_in_leaves_again_on_the_way_back():
    made = fleet(2)
    found = {"shop": {"web1": server(), "web2": server("maint")}}
    raw = [{"probe": "web2"}, {"admit": "web2"}, {"probe": "web1"}]
    world = killed(run := make_run(made, parse_steps(raw, made, ["web1"]), found), 4)
    world.kill_at = None
    assert [step.words() for step in world.rescue(run).plan.steps] == ["drain web2"]


def test_a_host_that_was_let_in_on_one_load_balancer_only_is_in_on_both_after_the_way_back():
    made = [Member("web1", "web1", "", {"shop": "web1"}), Member("web2", "web2", "", {"api": "web2", "shop": "web2"})]
    found = {"shop": {"web1": server(), "web2": server(weight=0)}, "api": {"web2": server()}}
    steps = parse_steps([{"admit": "web2"}, {"probe": "web1"}], made, ["web1", "web2"])
    world = killed(run := make_run(made, steps, found, lbs=["lb1", "lb2"]), 5)
    world.kill_at = None
    assert [step.words() for step in world.rescue(run).plan.steps] == ["admit web2"]
    assert world.lbs["lb1"].states() == world.lbs["lb2"].states()


def test_a_swap_back_where_nothing_has_a_track_asks_for_steps():
    made = fleet(2)
    found = {"shop": {"web1": server(), "web2": server("maint")}}
    raw = [{"deploy": "web2"}, {"probe": "web2"}, {"admit": "web2"}]
    run = make_run(made, parse_steps(raw, made, ["web1"]), found)
    world = killed(run, 1000)
    with pytest.raises(PlanError, match="is no swap of two tracks"):
        world.recovery(["shop"]).run("r2", run.lbs, run.settings, world.answers(), {})


@pytest.mark.parametrize(("own", "control"), [(OWN, {}), (COLOURS, {"strategy": BAKE})])
@pytest.mark.parametrize("at", [*range(2, 40, 3)])
def test_the_rollback_playbook_takes_back_what_another_run_left(own, control, at):
    wanted = targets(own, **control)
    world = World(make_run(fleet(len(own)), [], lbs=["lb1", "lb2"]))
    if control:
        for lb in world.lbs.values():
            for name in ("web3", "web4"):
                lb.servers["shop"][name]["state"] = "drain"
    first = decide(wanted, world.answers(), "r1", list(own))
    world.kill_at = at
    try:
        world.roll_out(first.run, first.begin)
    except Killed:
        pass
    else:
        return
    back = decide(targets(own, action="rollback", **control), world.answers(), "r2", list(own))
    assert back.take_over == ("r1",)
    world.kill_at = None
    world.take_back(back)
    expect_as_before(first.run, world)
    again = decide(targets(own, action="rollback", **control), world.answers(), "r3", list(own))
    assert (again.kind, again.words) == ("unchanged", ("rollout r2 was rolled back already",))


@pytest.mark.parametrize(("own", "control"), [(OWN, {}), (COLOURS, {"strategy": BAKE})])
def test_the_rollback_playbook_takes_back_a_promoted_release(own, control):
    wanted = targets(own, **control)
    world = World(make_run(fleet(len(own)), [], lbs=["lb1", "lb2"]))
    if control:
        for lb in world.lbs.values():
            for name in ("web3", "web4"):
                lb.servers["shop"][name]["state"] = "drain"
    first = decide(wanted, world.answers(), "r1", list(own))
    world.roll_out(first.run, first.begin)
    back = decide(targets(own, action="rollback", **control), world.answers(), "r2", list(own))
    assert (back.kind, back.outcome, back.on_failure) == ("run", "rolled_back", "hold")
    world.begin(back.run, back.begin)
    world.carry_out(back.run)
    world.end(back.run, "rolled_back")
    expect_as_before(first.run, world)


def swapped_back(kill_at: int | None) -> World:
    """A swap that was promoted, and whose way back was asked for and killed, or failed."""
    world = World(make_run(fleet(4), [], lbs=["lb1", "lb2"]))
    for lb in world.lbs.values():
        for name in ("web3", "web4"):
            lb.servers["shop"][name]["state"] = "drain"
    first = decide(targets(COLOURS, strategy=BAKE), world.answers(), "r1", list(COLOURS))
    assert first.run is not None
    world.roll_out(first.run, first.begin)
    back = decide(targets(COLOURS, action="rollback", strategy=BAKE), world.answers(), "r2", list(COLOURS))
    assert back.run is not None
    world.kill_at = None if kill_at is None else world.acts + kill_at
    with contextlib.suppress(Killed):
        world.begin(back.run, back.begin)
        world.take(back.run, 0)
        if kill_at is None:
            world.restore(back.run)
            world.end(back.run, "rollback_failed")
            return world
        world.take(back.run, 1)
        world.end(back.run, "rolled_back")
    world.kill_at = None
    return world


@pytest.mark.parametrize("kill_at", [None, 2, 3, 4, 5, 6, 7])
def test_a_way_back_of_traffic_that_did_not_come_to_its_end_is_gone_again(kill_at):
    world = swapped_back(kill_at)
    again = decide(targets(COLOURS, action="rollback", strategy=BAKE), world.answers(), "r3", list(COLOURS))
    words = [step.words() for step in again.run.plan.steps]
    assert words == ["probe blue (web1, web2)", "traffic blue 100 %, green 0 %"]
    assert (again.kind, again.take_over) == ("run", () if kill_at is None else ("r2", "r1"))
    world.begin(again.run, again.begin, again.take_over)
    world.carry_out(again.run)
    world.end(again.run, "rolled_back")
    expect_as_before(swap(), world)
