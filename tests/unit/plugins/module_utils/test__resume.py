# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._blue_green import blue_green
from ansible_collections.steady.rollout.plugins.module_utils._executor import Run, carried, how_to_reach
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._preflight import (
    Decision,
    decide,
    planned_on,
)
from ansible_collections.steady.rollout.plugins.module_utils._resume import difference, first_step
from ansible_collections.steady.rollout.plugins.module_utils._rolling import rolling
from ansible_collections.steady.rollout.plugins.module_utils._targets import Refused
from hypothesis import assume, given
from hypothesis import strategies as st

from examples import examples
from simulated_rollout import RUNS, Killed, World, begin_of, carrying, fleet, make_run, server, targets

KILLS = st.integers(0, 100)
FEW = examples(40)
COLOURS = {"web1": {"track": "blue"}, "web2": {"track": "green"}}


def roll(**changes: t.Any) -> Run:
    """Two hosts, one after the other: drain 0, deploy 1, probe 2, admit 3, analyse 4, and the same from 5 on."""
    return make_run(fleet(2), rolling(fleet(2), 1, None, 10, False), lbs=["lb1", "lb2"], **changes)


def swap() -> Run:
    """deploy 0, probe 1, traffic 2, analyse 3."""
    made = fleet(2, "bg")
    found = {"shop": {"web1": server(), "web2": server("drain")}}
    run = make_run(made, blue_green(made[:1], made[1:], 300), found, lbs=["lb1", "lb2"])
    return dataclasses.replace(run, plan=dataclasses.replace(run.plan, strategy="blue_green"))


def killed(run: Run, at: int) -> World:
    """The world in which the rollout was killed before that act, after it began everywhere and before it ended anywhere."""
    whole = World(run)
    whole.roll_out(run, begin_of(run))
    ends = len(run.lbs)
    world = World(run, ends + at % (whole.acts - 2 * ends + 1))
    with contextlib.suppress(Killed):
        world.roll_out(run, begin_of(run))
    world.kill_at = None
    return world


def killed_in(run: Run, step: int) -> World:
    """Killed as soon as every load balancer has announced a step."""
    world = World(run)
    world.begin(run, begin_of(run))
    for index in range(step + 1):
        world.take(run, index)
        world.concluded = {} if index == step else world.concluded
    return world


def returned(run: Run, world: World) -> World:
    """Its guards have returned the traffic."""
    world.concluded = {}
    for lb in world.lbs.values():
        lb.act(run.rollout_id, {"act": "restore", "backends": list(run.plan.backends), "record": {"by": "guard"}})
    return world


def first(run: Run, world: World) -> int:
    answers = world.answers()
    records = {lb: [record["rollout"] for record in answer["records"].values()] for lb, answer in answers.items()}
    return first_step(run, records, answers)


def go_on(run: Run, world: World) -> Run:
    """Take the rollout over, and bring it to its end."""
    again = dataclasses.replace(run, rollout_id="r2", first=first(run, world))
    begin = {**begin_of(run), "resumed": {"of": run.rollout_id, "at": again.first}, "after": [run.rollout_id]}
    world.concluded = {}
    world.begin(again, begin, [run.rollout_id])
    world.carry_out(again)
    world.end(again, "promoted")
    return again


def reached(world: World) -> dict[str, t.Any]:
    """What everything comes to in the end: who carries how much, and what runs where."""
    weights = {
        (name, backend, key): one["weight"]
        for name, lb in world.lbs.items()
        for backend, servers in lb.states().items()
        for key, one in servers.items()
        if (backend, key) in carrying({backend: servers}) and one["weight"]
    }
    return {"weights": weights, "running": world.running}


# ---------------------------------------------------------------------------------------------------------------------
# properties


@given(RUNS, KILLS)
@FEW
def test_a_rollout_that_is_resumed_comes_to_where_it_was_going(run, at):
    whole = World(run)
    whole.roll_out(run, begin_of(run))
    world = killed(run, at)
    go_on(run, world)
    assert reached(world) == reached(whole)


@given(RUNS, KILLS)
@FEW
def test_so_does_one_whose_traffic_was_returned(run, at):
    whole = World(run)
    whole.roll_out(run, begin_of(run))
    world = returned(run, killed(run, at))
    # Where nothing is safe to carry, what was brought in meanwhile stays; the plan may not know such a state.
    assume(all(carrying({backend: safe}) for lb in world.lbs.values() for backend, safe in lb.safe.items()))
    go_on(run, world)
    assert reached(world) == reached(whole)


@given(RUNS, KILLS)
@FEW
def test_what_was_resumed_is_taken_back_as_a_whole(run, at):
    world = killed(run, at)
    go_on(run, world)
    recovery = world.recovery(run.plan.backends)
    deployed = {step.members for step in run.plan.steps if step.kind == "deploy"}
    assert (recovery.rollout_id, set(recovery.deployed)) == ("r2", deployed)


# ---------------------------------------------------------------------------------------------------------------------
# from which step


def test_a_deploy_that_was_begun_is_done_again():
    assert first(roll(), killed_in(roll(), 6)) == 6


def test_a_watch_that_was_begun_is_begun_again():
    assert first(swap(), killed_in(swap(), 3)) == 3


def test_a_swap_that_was_returned_begins_at_the_probe_before_it():
    assert first(swap(), returned(swap(), killed_in(swap(), 3))) == 1


def test_a_host_that_was_let_in_and_not_yet_watched_is_probed_again():
    assert first(roll(), returned(roll(), killed_in(roll(), 4))) == 2


def test_a_batch_that_was_done_stays_done():
    assert first(roll(), returned(roll(), killed_in(roll(), 6))) == 6


def test_nothing_but_a_begin_is_resumed_at_the_first_step():
    world = World(roll())
    world.begin(roll(), begin_of(roll()))
    assert first(roll(), world) == 0


def test_servers_that_somebody_changed_meanwhile_are_told():
    world = killed_in(roll(), 1)
    world.lbs["lb2"].servers["shop"]["web2"]["weight"] = 3
    with pytest.raises(PlanError, match=r"lb2 .*: web2 of shop is ready with weight 3, not ready with weight 10"):
        first(roll(), world)


# ---------------------------------------------------------------------------------------------------------------------
# the decision


def decided(world: World, **control: t.Any) -> Decision:
    given = {"action": "resume", "strategy": {"name": "blue_green", "bake": 300, "live": ""}, **control}
    return decide(targets(COLOURS, **given), world.answers(), "r2", list(COLOURS))


def test_a_rollout_goes_on_from_its_step_under_its_own_plan():
    decision = decided(killed_in(swap(), 3))
    assert decision.run is not None
    assert (decision.run.first, decision.run.plan) == (3, swap().plan)
    assert decision.take_over == ("r1",)
    assert decision.words == (
        "rollout r1 of release 2.0.0 is running; it goes on from step 4 of 4 (analyse green (web2) for 5m)",
    )


@pytest.mark.parametrize(
    ("control", "why"),
    [
        ({"release": "3.0.0"}, "its release was 2.0.0, and is 3.0.0 now"),
        (
            {"strategy": {"name": "blue_green", "bake": 60, "live": ""}},
            r"its step 4 was analyse green \(web2\) for 5m, and is analyse green \(web2\) for 1m now",
        ),
        ({"strategy": {"name": "rolling"}}, "its strategy was blue_green, and is rolling now"),
        (
            {"deploy": {"role": "shop.other"}},
            "deployed by role:shop.release, and rollout_deploy is role:shop.other now",
        ),
    ],
)
def test_another_plan_is_refused_with_what_differs(control, why):
    with pytest.raises(Refused, match=why):
        decided(killed_in(swap(), 3), **control)


def test_what_ended_is_not_resumed():
    world = World(swap())
    world.roll_out(swap(), begin_of(swap()))
    with pytest.raises(Refused, match="rollout r1 ended as promoted; there is nothing to resume"):
        decided(world)


def test_what_is_on_its_way_back_is_not_resumed():
    world = killed_in(swap(), 3)
    world.restore(swap())
    with pytest.raises(Refused, match="rollout r1 is rolling back; it can only be taken back"):
        decided(world)


def test_where_nothing_is_recorded_nothing_is_resumed():
    with pytest.raises(Refused, match="no rollout is recorded that could be resumed"):
        decided(World(swap()))


def test_a_run_that_finds_an_unfinished_rollout_names_the_ways_on():
    with pytest.raises(
        Refused, match=r"rollout_action=resume, or take it back with the playbook steady\.rollout\.rollback"
    ):
        decided(killed_in(swap(), 3), action="run")


def test_a_run_that_finds_one_on_its_way_back_names_the_way_back_only():
    world = killed_in(swap(), 3)
    world.restore(swap())
    with pytest.raises(Refused, match=r"let it end, or take it back with the playbook steady\.rollout\.rollback"):
        decided(world, action="run")


ROLLING = {"name": "rolling", "batches": 1, "min_healthy_time": 10}


def rolled(world: World, **control: t.Any) -> Decision:
    own: dict[str, dict[str, t.Any]] = {"web1": {}, "web2": {}}
    asked = targets(own, **{"action": "resume", "strategy": ROLLING, "min_capacity": 50, **control})
    return decide(asked, world.answers(), "r2", list(own))


def in_batches() -> Run:
    run = roll()
    return dataclasses.replace(run, plan=dataclasses.replace(run.plan, strategy="rolling"))


def test_the_host_that_was_in_deploy_counts_as_one_that_will_be_back():
    assert rolled(killed_in(in_batches(), 1)).run is not None


def test_what_was_in_deploy_is_not_safe_before_it_is_seen_to_be_good():
    world = killed_in(in_batches(), 6)
    for lb in world.lbs.values():
        lb.servers["shop"]["web2"]["state"] = "ready"  # a restart without its state
    decision = rolled(world)
    assert decision.run is not None
    assert (decision.run.first, decision.run.out) == (5, ("web2",))
    safe = decision.safe_to_begin(decision.run.lbs[0])
    assert safe is not None
    assert {name: one["state"] for name, one in safe["shop"].items()} == {"web1": "ready", "web2": "maint"}


def test_a_rollout_that_went_on_after_it_was_read_is_not_resumed_as_if_it_had_not():
    answers = killed_in(in_batches(), 1).answers()
    decision = rolled(killed_in(in_batches(), 1))
    events = len(answers["lb1"]["records"]["shop"]["rollout"]["events"])
    assert planned_on(answers["lb1"], decision) == {"shop": {"rollout_id": "r1", "ended": False, "events": events}}


def test_a_load_balancer_that_is_further_by_more_than_a_step_is_told():
    world = killed_in(in_batches(), 1)
    world.lbs["lb1"].servers["shop"]["web2"]["state"] = "maint"
    with pytest.raises(Refused, match="web2 of shop is maint with weight 10, not ready with weight 10"):
        rolled(world)


def test_what_took_a_rollout_over_is_the_last_word_also_where_the_other_one_holds_a_lock():
    run = in_batches()
    world = killed_in(run, 1)
    again = dataclasses.replace(run, rollout_id="r2", first=1, lbs=run.lbs[1:])
    begin = {**begin_of(run), "resumed": {"of": "r1", "at": 1}, "after": ["r1"]}
    world.begin(again, begin, ["r1"])
    found = world.recovery(["shop"])
    assert (found.rollout_id, found.holders, found.locked) == ("r2", ("r2", "r1"), True)
    assert (found.deployed, set(found.found)) == ((("web1",),), {"lb1", "lb2"})


def test_plans_that_are_the_same_have_no_difference():
    assert difference(swap().plan, swap().plan) == ""


def test_what_an_earlier_controller_saw_healthy_and_is_down_now_is_missed_in_the_plan():
    run = roll()
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, strategy="rolling"))
    answers = killed_in(run, 4).answers()
    asked_for = targets({"web1": {}, "web2": {}}, action="resume", strategy={"name": "rolling"})
    assert decide(asked_for, answers, "r2", ["web1", "web2"]).kind == "run"
    for answer in answers.values():
        answer["backends"]["shop"]["servers"][0]["health"] = "down"
    with pytest.raises(Refused, match=r"\(drain web2\): .*would leave no healthy server in rotation"):
        decide(asked_for, answers, "r2", ["web1", "web2"])


# ---------------------------------------------------------------------------------------------------------------------
# what waits to be promoted

# drain 0, deploy 1, probe 2, traffic 3, analyse 4, pause 5, traffic 6, analyse 7, admit 8, and the rest
CANARY = {"name": "canary", "hosts": 1, "steps": [10, {"pause": {}}, 25], "step_for": 60, "step_max": 120, "batches": 1}
FOUR: dict[str, dict[str, t.Any]] = {name: {"previous": "1.0.0"} for name in ("web1", "web2", "web3", "web4")}


def asked(world: World, rollout_id: str, **control: t.Any) -> Decision:
    given = {"strategy": CANARY, **control}
    return decide(targets(FOUR, **given), world.answers(), rollout_id, list(FOUR))


def paused(at: int) -> tuple[Run, World]:
    """A canary that was paused in a step."""
    world = World(make_run(fleet(4), rolling(fleet(4), 1, None, 10, False), lbs=["lb1", "lb2"]))
    decision = asked(world, "r1")
    run = decision.run
    assert run is not None
    world.begin(run, decision.begin)
    for index in range(at + 1):
        world.take(run, index)
    end = {"act": "end", "outcome": "paused", "keep_lock": True, **carried(world.concluded)}
    world.tell(run, [{**how_to_reach(lb), **end} for lb in run.lbs])
    world.concluded = {}
    return run, world


def promoted(world: World, **control: t.Any) -> Run:
    decision = asked(world, "r2", action="promote", **control)
    assert decision.kind == "run"
    assert decision.run is not None
    return decision.run


def test_a_pause_is_looked_at_once_more_and_then_the_next_step_is_taken():
    run, world = paused(5)
    again = promoted(world)
    assert (again.first, again.glance, again.full) == (5, 5, False)
    assert again.plan == run.plan
    assert again.plan.steps[5].words() == "pause canary (web1)"


def test_what_was_held_without_enough_evidence_is_looked_at_once_more_too():
    _run, world = paused(7)
    again = promoted(world, full=True)
    assert (again.first, again.glance, again.full) == (7, 7, True)


def test_what_the_judge_knew_goes_on():
    _run, world = paused(4)
    for lb in world.lbs.values():
        result = next(one for one in lb.journal["shop"] if one["event"] == "result" and one.get("step") == 4)
        result["analysis"] = {"polls": 7}
    assert promoted(world).analysis == {"polls": 7}


def test_what_the_judge_knew_when_it_was_taken_over_is_not_lost_with_whoever_died():
    _run, world = paused(4)
    for lb in world.lbs.values():
        lb.journal["shop"][0]["resumed"] = {"of": "r0", "at": 3, "analysis": {"polls": 5}}
    assert promoted(world).analysis == {"polls": 5}


def test_a_judgement_that_failed_is_begun_anew():
    _run, world = paused(4)
    for lb in world.lbs.values():
        result = next(one for one in lb.journal["shop"] if one["event"] == "result" and one.get("step") == 4)
        result["analysis"] = {"polls": 7, "failed": "worse"}
    assert promoted(world).analysis == {}


def test_what_was_held_is_looked_at_again_when_it_is_resumed():
    _run, world = paused(7)
    for lb in world.lbs.values():
        result = next(one for one in lb.journal["shop"] if one["event"] == "result" and one.get("step") == 7)
        result["verdict"] = "inconclusive"
    again = asked(world, "r2", action="resume").run
    assert again is not None
    assert again.first == 7


def test_a_canary_that_was_promoted_comes_to_its_end_with_the_weights_that_were_found():
    _run, world = paused(5)
    again = promoted(world)
    decision = asked(world, "r2", action="promote")
    world.begin(again, decision.begin, decision.take_over)
    world.carry_out(again)
    world.end(again, "promoted")
    assert world.running == dict.fromkeys(FOUR, "2.0.0")
    assert {one["weight"] for lb in world.lbs.values() for one in lb.states()["shop"].values()} == {10}


def test_a_canary_that_waits_can_be_taken_back():
    run, world = paused(5)
    decision = asked(world, "r2", action="rollback")
    world.take_back(decision)
    assert world.running == dict.fromkeys(FOUR, "1.0.0")
    for lb in world.lbs.values():
        assert lb.lock == {"shop": None}
        assert carrying(lb.states()) == {("shop", name) for name in FOUR}
    assert run.rollout_id == "r1"


def test_another_release_is_refused_while_one_waits():
    _run, world = paused(5)
    with pytest.raises(
        Refused, match=r"it is paused; go on with it by the playbook steady\.rollout\.promote, or take it back"
    ):
        asked(world, "r2", release="3.0.0")


def test_what_is_at_work_is_not_promoted():
    with pytest.raises(Refused, match="rollout r1 is running, and does not wait to be promoted"):
        decided(killed_in(swap(), 3), action="promote")


def test_what_waits_and_is_resumed_waits_again():
    _run, world = paused(5)
    again = asked(world, "r2", action="resume").run
    assert again is not None
    assert (again.first, again.glance) == (5, -1)


def test_a_pause_whose_lease_expired_is_resumed_and_not_promoted():
    run, world = paused(5)
    returned(run, world)
    with pytest.raises(Refused, match="is abandoned, and does not wait to be promoted"):
        asked(world, "r2", action="promote")
    again = asked(world, "r2", action="resume").run
    assert again is not None
    assert again.first <= 3
