# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._executor import FORWARD, UNDO, Run, result_of, tell
from ansible_collections.steady.rollout.plugins.module_utils._forward_only import (
    LONGEST,
    gone_back,
    held,
    of_hosts,
    of_records,
)
from ansible_collections.steady.rollout.plugins.module_utils._preflight import Decision, decide
from ansible_collections.steady.rollout.plugins.module_utils._targets import Refused

from simulated_rollout import NEW, OLD, World, fleet, make_run, targets

MIGRATION = "the migration of 2.0.0"
OWN: dict[str, dict[str, t.Any]] = {f"web{i}": {"previous": OLD} for i in range(1, 4)}
FAILS_AT = 7  # the probe of web2


def fact(text: t.Any, rollout: str = "r1", mode: str = FORWARD) -> dict[str, t.Any]:
    return {"marker": {"rollout": rollout, "mode": mode, "step": 1}, "text": text}


def begun(says: str = MIGRATION) -> tuple[World, Run]:
    """A rolling release whose second host is out, with the new release, when it fails."""
    world = World(make_run(fleet(3), [], lbs=["lb1", "lb2"]))
    world.says = says
    decision = decide(targets(OWN), world.answers(), "r1", list(OWN))
    assert decision.run is not None
    world.begin(decision.run, decision.begin)
    for index in range(FAILS_AT):
        world.take(decision.run, index)
    told = tell(decision.run, FAILS_AT, False, world.concluded)
    world.tell(decision.run, told["lbs"])
    world.concluded = result_of(decision.run, told, "web2 did not answer")
    return world, decision.run


def held_world(outcome: str = "paused", says: str = MIGRATION) -> World:
    world, run = begun(says)
    world.hold(run, outcome)
    return world


def asked(world: World, action: str, **control: t.Any) -> Decision:
    return decide(targets(OWN, action=action, **control), world.answers(), "r2", list(OWN))


# --- What hosts say


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"web1": fact(MIGRATION), "web2": fact("")}, (MIGRATION,)),
        ({"web1": fact(MIGRATION), "web2": fact(MIGRATION)}, (MIGRATION,)),
        ({"web1": fact("a"), "web2": fact("b")}, ("a", "b")),
        ({"web1": fact(" of two\n lines ")}, ("of two lines",)),
        ({"web1": fact(True)}, ("what the deploy did",)),
        ({"web1": fact(None), "web2": fact(False)}, ()),
        ({"web1": fact(MIGRATION, rollout="r0")}, ()),
        ({"web1": fact(MIGRATION, mode=UNDO)}, ()),
        ({"web1": {"marker": {}, "text": MIGRATION}}, ()),
        ({"web1": {"marker": None, "text": MIGRATION}}, ()),
    ],
)
def test_only_what_the_deploys_of_this_rollout_said_counts(facts, expected):
    assert of_hosts(facts, "r1") == expected


def test_a_text_without_end_is_cut():
    (text,) = of_hosts({"web1": fact("x" * 10_000)}, "r1")
    assert len(text) == LONGEST


# --- Who is told to be the first


def test_one_host_of_a_rollout_is_the_first_and_it_is_the_first_of_the_first_deploy():
    _world, run = begun()
    told = [tell(run, index, False)["hosts"] for index in range(len(run.plan.steps))]
    assert [host for hosts in told for host, here in hosts.items() if here["first"]] == ["web1"]


def test_in_an_undo_nobody_is_the_first():
    world, _run = begun()
    back = asked(world, "rollback", steal="to see").run
    assert back is not None
    told = [tell(back, index, False)["hosts"] for index in range(len(back.plan.steps))]
    assert [host for hosts in told for host in hosts] == ["web2", "web1"]
    assert not [host for hosts in told for host, here in hosts.items() if here["first"]]


def test_who_goes_on_tells_the_same_host_that_it_is_the_first():
    world = World(make_run(fleet(3), [], lbs=["lb1", "lb2"]))
    decision = decide(targets(OWN), world.answers(), "r1", list(OWN))
    assert decision.run is not None
    world.begin(decision.run, decision.begin)
    world.take(decision.run, 0)
    on = asked(world, "resume").run
    assert on is not None
    assert on.first <= 1
    assert [host for host, here in tell(on, 1, False)["hosts"].items() if here["first"]] == ["web1"]


# --- What is on record


def test_it_is_on_record_with_the_result_of_the_deploy():
    world, run = begun()
    events = [record for record in world.lbs["lb2"].journal["shop"] if record.get("forward_only")]
    assert [(record["event"], record["step"], record["forward_only"]) for record in events] == [
        ("result", 1, [MIGRATION])
    ]
    assert world.recovery(run.plan.backends).forward_only == (MIGRATION,)


def test_who_goes_on_knows_it_and_records_it_once_more():
    world = held_world()
    on = asked(world, "resume")
    assert on.run is not None
    assert on.run.forward_only == (MIGRATION,)
    assert Run.from_dict(on.run.as_dict()).forward_only == (MIGRATION,)
    world.begin(on.run, on.begin, on.take_over)
    assert world.recovery(on.run.plan.backends).forward_only == (MIGRATION,)


def test_a_record_that_holds_something_else_there_says_nothing():
    assert of_records([{"begin": {"forward_only": "text"}, "events": [{"forward_only": 7}]}]) == ()


# --- The ways on


@pytest.mark.parametrize("outcome", ["paused", "rollback_failed"])
def test_a_rollout_that_is_held_can_go_on_to_its_end(outcome):
    world = held_world(outcome)
    on = asked(world, "resume")
    assert on.run is not None
    assert on.run.plan.steps[on.run.first].words() == "probe web2"
    world.begin(on.run, on.begin, on.take_over)
    world.carry_out(on.run)
    world.end(on.run, "promoted")
    assert set(world.running.values()) == {NEW}


def test_a_rollout_that_was_cut_off_while_it_returned_the_traffic_can_go_on():
    world, run = begun()
    world.restore(run)
    assert asked(world, "resume").kind == "run"


def test_without_such_a_change_a_failed_way_back_can_only_be_gone_again():
    with pytest.raises(Refused, match="it can only be taken back"):
        asked(held_world("rollback_failed", says=""), "resume")


def test_once_hosts_were_taken_back_on_purpose_it_cannot_go_on():
    world = held_world()
    back = asked(world, "rollback")
    assert back.run is not None
    world.begin(back.run, back.begin, back.take_over)
    with pytest.raises(Refused, match="it can only be taken back"):
        asked(world, "resume")


def test_a_rollback_on_purpose_goes_back_and_says_what_the_former_release_runs_on():
    world = held_world()
    back = asked(world, "rollback")
    assert back.kind == "recover"
    assert back.warnings == (gone_back([MIGRATION]),)
    assert f"{MIGRATION} cannot be taken back: the former release runs on what this left" in back.words[0]
    assert back.run is not None
    assert back.run.forward_only == (MIGRATION,)
    world.take_back(back)
    assert set(world.running.values()) == {OLD}


def test_a_new_release_is_told_that_a_rollout_that_is_held_can_go_on():
    with pytest.raises(Refused, match="rollout_action=resume"):
        asked(held_world("rollback_failed"), "run", release="3.0.0")


def test_the_ways_on_are_told_in_words():
    assert held([MIGRATION, "the second"])[0].startswith(f"{MIGRATION}, the second cannot be taken back")
    assert held([MIGRATION])[1] == (
        "mend what failed and go on by the same command and -e rollout_action=resume, or go back on purpose with the playbook "
        "steady.rollout.rollback: then the former release runs on what this left"
    )


def test_what_is_held_after_a_failure_is_resumed_and_not_promoted():
    world = held_world()
    with pytest.raises(
        Refused, match="was held after a failure, and does not wait to be promoted; go on with it by the same command"
    ):
        asked(world, "promote")
    with pytest.raises(Refused, match=r"it is paused; go on with it by the same command and -e rollout_action=resume"):
        asked(world, "run", release="3.0.0")
