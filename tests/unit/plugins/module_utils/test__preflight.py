# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import re
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _preflight
from ansible_collections.steady.rollout.plugins.module_utils._preflight import (
    Decision,
    addresses_of,
    decide,
    held_by,
)
from ansible_collections.steady.rollout.plugins.module_utils._targets import Refused

from simulated_rollout import DEPLOY_KEY, NEW, OLD, World, fleet, make_run, targets

OWN: dict[str, dict[str, t.Any]] = {f"web{i}": {"previous": OLD} for i in range(1, 4)}
COLOURS: dict[str, dict[str, t.Any]] = {
    f"web{i}": {"track": "blue" if i < 3 else "green", "previous": OLD} for i in range(1, 5)
}
SWAP = {"name": "blue_green", "bake": "5m"}


def world(count: int = 3, drained: t.Collection[str] = ()) -> World:
    made = World(make_run(fleet(count), [], lbs=["lb1", "lb2"]))
    for lb in made.lbs.values():
        for name in drained:
            lb.servers["shop"][name]["state"] = "drain"
    return made


def refused(message: str) -> t.Any:
    """The whole sentence; without a full stop, as more may follow it."""
    return pytest.raises(Refused, match=f"^{re.escape(message)}$")


def ran(name: str, release: str, lbs: t.Iterable[dict[str, t.Any]]) -> None:
    for lb in lbs:
        lb["records"]["shop"]["releases"][name] = {DEPLOY_KEY: release}


# ---------------------------------------------------------------------------------------------------------------------
# what load balancers answer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"failed": True, "msg": "no backend shop"}, "load balancer lb2 cannot be used: no backend shop"),
        (
            {"unreachable": True, "msg": "no route"},
            "load balancer lb2 is unreachable (no route); mend it, or leave it out with rollout_absent_lbs",
        ),
        ({"admin": False}, "lb2: the socket /run/lb2.sock may not change servers; use one of `level admin`"),
        (
            {"survives_reload": False, "survives_reload_reason": "it loads no state file"},
            "lb2 would forget the rollout at a reload: it loads no state file; mend this (the role steady.rollout.haproxy does), or "
            "accept it with rollout_unpersisted: true",
        ),
    ],
)
def test_a_load_balancer_that_cannot_take_part_is_refused(changes, message):
    answers = world().answers()
    answers["lb2"].update(changes)
    with refused(message):
        decide(targets(OWN), answers, "r1", list(OWN))


def test_a_load_balancer_that_did_not_answer_at_all_is_refused():
    answers = world().answers()
    del answers["lb2"]
    with refused("load balancer lb2 cannot be used: did not answer"):
        decide(targets(OWN), answers, "r1", list(OWN))


def test_a_record_that_cannot_be_used_is_refused():
    answers = world().answers()
    answers["lb1"]["records"]["shop"]["problem"] = "the folder belongs to nobody"
    with refused("lb1: the record of backend shop cannot be used: the folder belongs to nobody"):
        decide(targets(OWN), answers, "r1", list(OWN))


def test_a_load_balancer_that_would_forget_may_be_accepted():
    answers = world().answers()
    answers["lb2"].update(survives_reload=False, survives_reload_reason="x")
    assert decide(targets(OWN, unpersisted=True), answers, "r1", list(OWN)).kind == "run"


def test_a_load_balancer_of_which_it_is_not_known_is_warned_of():
    answers = world().answers()
    answers["lb2"].update(survives_reload=None, survives_reload_reason="it cannot be read")
    decision = decide(targets(OWN), answers, "r1", list(OWN))
    assert decision.warnings == ("lb2: whether the rollout survives a reload is not known: it cannot be read",)


def test_another_rollout_that_holds_the_backend_is_named():
    answers = world().answers()
    for lb in answers.values():
        lb["records"]["shop"]["lock"] = {"rollout_id": "r0"}
    assert held_by(answers) == {"r0": ["lb1", "lb2"]}
    with refused(
        "rollout r0 holds shop on lb1, lb2: it is running, or did not end well; let it end, or take it back with the playbook "
        "steady.rollout.rollback"
    ):
        decide(targets(OWN), answers, "r1", list(OWN))


def test_a_share_of_servers_that_an_agent_weighs_is_refused():
    made = world(3)
    for lb in made.lbs.values():
        lb.servers["shop"]["web2"]["agent"] = True
    asked = targets(OWN, strategy={"name": "canary", "steps": [10]})
    with pytest.raises(Refused, match=r"lb1: server web2 of backend shop has an agent-check"):
        decide(asked, made.answers(), "r1", list(OWN))


def test_hosts_that_a_limit_left_out_are_missed():
    made = targets(OWN, limit="web1")
    with refused(
        "server web4 of backend shop belongs to no host of this play (--limit web1 is in force); a rollout needs the whole fleet"
    ):
        decide(made, world(4).answers(), "r1", list(OWN))


def test_a_server_that_could_never_carry_is_refused():
    answers = world().answers()
    for lb in answers.values():
        lb["backends"]["shop"]["servers"][0].update(weight=0, initial_weight=0)
    with refused(
        "lb1: server web1 of backend shop has weight 0, configured and now, so that it could never carry traffic; give it a weight"
    ):
        decide(targets(OWN), answers, "r1", list(OWN))


# ---------------------------------------------------------------------------------------------------------------------
# blue-green


@pytest.mark.parametrize(
    ("own", "drained", "live", "message"),
    [
        (
            OWN,
            (),
            None,
            "web1, web2, web3 has no colour; set rollout_track to blue or green, or rollout_tracks for two slots",
        ),
        (
            {host: {"track": "blue"} for host in OWN},
            (),
            None,
            "no host is green: the other colour is empty; set rollout_track of some hosts to green",
        ),
        (
            {host: {"track": colour} for host, colour in zip(OWN, ["blue", "green", "red"])},
            (),
            None,
            "there are 3 colours (blue, green, red); there must be two",
        ),
        (COLOURS, (), "red", "blue_green_live is 'red'; the colours of the fleet are blue and green"),
        (
            COLOURS,
            (),
            None,
            "both colours are live on lb1, lb2; say which one with blue_green_live: blue or green, and the rollout brings the fleet "
            "in order",
        ),
        (
            COLOURS,
            tuple(COLOURS),
            None,
            "neither colour is live on lb1, lb2; say which one with blue_green_live: blue or green, and the rollout brings the fleet "
            "in order",
        ),
    ],
)
def test_a_live_colour_that_is_not_clear_is_refused(own, drained, live, message):
    with refused(message):
        decide(targets(own, strategy={**SWAP, "live": live}), world(len(own), drained).answers(), "r1", list(own))


def test_load_balancers_that_disagree_on_the_live_colour_are_refused():
    found = world(4, ["web3", "web4"])
    for i in range(1, 5):
        found.lbs["lb2"].servers["shop"][f"web{i}"]["state"] = "drain" if i < 3 else "ready"
    with refused(
        "the load balancers disagree on the live colour: lb1 sends traffic to blue, lb2 to green; say which one with "
        "blue_green_live: blue or green"
    ):
        decide(targets(COLOURS, strategy=SWAP), found.answers(), "r1", list(COLOURS))


def words(decision: Decision) -> list[str]:
    assert decision.run is not None
    return [step.words() for step in decision.run.plan.steps]


def test_the_release_goes_to_the_idle_colour():
    decision = decide(targets(COLOURS, strategy=SWAP), world(4, ["web3", "web4"]).answers(), "r1", list(COLOURS))
    assert decision.words == ("blue is live; release 2.0.0 goes to green",)
    assert words(decision)[-1] == "analyse green (web3, web4) for 5m"


@pytest.mark.parametrize("drained", [(), tuple(COLOURS)])
def test_a_fleet_of_which_both_or_neither_colour_is_live_can_be_adopted(drained):
    made = targets(COLOURS, strategy={**SWAP, "live": "green"})
    decision = decide(made, world(4, drained).answers(), "r1", list(COLOURS))
    assert words(decision)[0] == "deploy blue (web1, web2)"


def test_a_second_run_of_the_live_release_changes_nothing():
    answers = world(4, ["web3", "web4"]).answers()
    ran("web1", NEW, answers.values())
    ran("web2", NEW, answers.values())
    decision = decide(targets(COLOURS, strategy=SWAP), answers, "r1", list(COLOURS))
    assert (decision.kind, decision.words) == ("unchanged", ("blue is live and runs 2.0.0 already",))
    assert decide(targets(COLOURS, strategy=SWAP, force=True), answers, "r1", list(COLOURS)).kind == "run"


# ---------------------------------------------------------------------------------------------------------------------
# rolling, and plans of a user's own


def test_a_rolling_release_is_for_those_that_do_not_run_it_yet():
    answers = world().answers()
    ran("web2", NEW, answers.values())
    decision = decide(targets(OWN), answers, "r1", list(OWN))
    assert decision.words == ("release 2.0.0 goes to 2 of 3 hosts in batches, 1 run it already",)
    assert [step.members for step in decision.run.plan.steps if step.kind == "deploy"] == [("web1",), ("web3",)]


def test_a_host_out_of_rotation_is_due_also_when_it_runs_the_release():
    found = world(3, ["web2"])
    answers = found.answers()
    for name in OWN:
        ran(name, NEW, answers.values())
    decision = decide(targets(OWN), answers, "r1", list(OWN))
    assert [step.members for step in decision.run.plan.steps if step.kind == "deploy"] == [("web2",)]


@pytest.mark.parametrize("steps", [None, [{"drain": "web1"}, {"deploy": "web1"}, {"probe": "web1"}, {"admit": "web1"}]])
def test_where_every_host_runs_the_release_nothing_is_to_be_done(steps):
    answers = world().answers()
    for name in OWN:
        ran(name, NEW, answers.values())
    decision = decide(targets(OWN, steps=steps), answers, "r1", list(OWN))
    assert (decision.kind, decision.words) == ("unchanged", ("every host runs 2.0.0 already",))
    assert decide(targets(OWN, steps=steps, force=True), answers, "r1", list(OWN)).kind == "run"


def test_a_mistake_in_the_steps_is_refused():
    with pytest.raises(Refused, match=r"^Step 1 of rollout_steps: 'paint' is no step"):
        decide(targets(OWN, steps=[{"paint": "web1"}]), world().answers(), "r1", list(OWN))


def test_a_host_of_which_nobody_knows_what_runs_there_is_warned_of():
    decision = decide(targets({host: {} for host in OWN}), world().answers(), "r1", list(OWN))
    assert decision.warnings[0].startswith("no rollout has recorded what runs on web1, web2, web3: if this one fails")


def test_what_was_recorded_beats_what_the_user_says_runs_there():
    answers = world().answers()
    ran("web1", "1.5.0", answers.values())
    decision = decide(targets(OWN), answers, "r1", list(OWN))
    assert dict(decision.run.previous) == {"web1": "1.5.0", "web2": OLD, "web3": OLD}


@pytest.mark.parametrize(
    ("batches", "capacity", "message"),
    [
        (1, 70, "lb1, step 1 (drain web1): Taking out web1 would leave 66.7 % of the capacity in rotation"),
        (
            3,
            0,
            "lb1, step 1 (drain web1, web2, web3): Taking out web1, web2, web3 would leave no healthy server in rotation",
        ),
    ],
)
def test_a_plan_that_takes_out_more_than_may_be_missed_is_refused(batches, capacity, message):
    made = targets(OWN, strategy={"name": "rolling", "batches": batches}, min_capacity=capacity)
    with pytest.raises(Refused, match=f"^{re.escape(message)}"):
        decide(made, world().answers(), "r1", list(OWN))


def test_servers_that_are_down_now_are_missed_in_the_plan():
    answers = world().answers()
    for name in (1, 2):
        answers["lb2"]["backends"]["shop"]["servers"][name]["health"] = "down"
    with pytest.raises(Refused, match=r"^lb2, step 1 \(drain web1\): .*would leave no healthy server"):
        decide(targets(OWN), answers, "r1", list(OWN))


def test_a_colour_that_has_nothing_yet_may_take_the_traffic_as_it_is_probed_before():
    answers = world(4).answers()
    for answer in answers.values():
        for name in (2, 3):
            answer["backends"]["shop"]["servers"][name]["health"] = "down"
    decision = decide(targets(COLOURS, strategy={"name": "blue_green", "live": "blue"}), answers, "r1", list(COLOURS))
    assert words(decision)[0] == "deploy green (web3, web4)"


def test_a_server_that_is_down_and_is_not_probed_first_is_missed_in_the_plan():
    made = targets({f"web{number}": {"previous": OLD} for number in range(1, 6)}, min_capacity=50)
    made.control["strategy"] = {
        "name": "canary",
        "hosts": 1,
        "steps": [5, 20],
        "step_for": 60,
        "step_max": 120,
        "batches": 2,
        "max_unavailable": 2,
    }
    answers = world(5).answers()
    decide(made, answers, "r1", list(made.own))
    for answer in answers.values():
        answer["backends"]["shop"]["servers"][4]["health"] = "down"
    with pytest.raises(Refused, match=r"\(drain web2, web3\): .*would leave 40 % of the capacity"):
        decide(made, answers, "r1", list(made.own))


def test_the_record_begins_with_all_that_a_way_back_needs():
    decision = decide(targets(OWN), world(3, ["web3"]).answers(), "r1", list(OWN))
    assert decision.begin["carried"] == ["web1", "web2"]
    assert decision.begin["hash"] == decision.run.plan.hash
    assert (decision.begin["previous"]["web1"], decision.begin["releases"]["web1"]) == (OLD, NEW)


def test_the_policy_of_a_rolling_release_is_taken_over():
    made = targets(OWN, strategy={"name": "rolling", "on_failure": "hold"})
    assert decide(made, world().answers(), "r1", list(OWN)).on_failure == "hold"


def test_addresses_of_slots_are_told_by_host_and_slot():
    own = {"web1": {"address": "10.0.0.1", "port": 80, "tracks": {"blue": {"port": 81}, "green": {}}}}
    made = targets(own)
    members = _preflight._fleet.make_members(own, ["shop"])
    assert addresses_of(made, members) == {"web1:blue": ("10.0.0.1", 81), "web1:green": ("10.0.0.1", 80)}


# ---------------------------------------------------------------------------------------------------------------------
# the way back


def promoted() -> World:
    made = world()
    first = decide(targets(OWN), made.answers(), "r1", list(OWN))
    assert first.run is not None
    made.roll_out(first.run, first.begin)
    return made


def back(own: t.Mapping[str, t.Any], answers: t.Mapping[str, t.Any], **control: t.Any) -> Decision:
    return decide(targets(own, action="rollback", **control), answers, "r2", list(own))


def test_where_nothing_is_recorded_nothing_is_taken_back():
    decision = back(OWN, world().answers())
    assert (decision.kind, decision.words) == ("unchanged", ("nothing is recorded that could be taken back",))


def test_where_no_load_balancer_answers_nothing_can_be_taken_back():
    with refused("no load balancer answered, so that nothing can be taken back: lb1 cannot be used: no socket"):
        back(OWN, {lb: {"failed": True, "msg": "no socket"} for lb in ("lb1", "lb2")})


def test_a_rollback_of_a_promoted_release_is_refused_where_a_load_balancer_is_silent():
    answers = promoted().answers()
    answers["lb2"] = {"unreachable": True, "msg": "no route"}
    with refused("load balancer lb2 is unreachable (no route); mend it, or leave it out with rollout_absent_lbs"):
        back(OWN, answers)


def test_a_rollout_that_did_not_end_is_taken_back_with_those_load_balancers_that_answer():
    made = promoted()
    for lb in made.lbs.values():
        lb.journal["shop"].pop()
        lb.lock["shop"] = "r1"
    answers = made.answers()
    answers["lb2"] = {"unreachable": True, "msg": "no route"}
    decision = back(OWN, answers)
    assert (decision.kind, decision.take_over, len(decision.run.lbs)) == ("recover", ("r1",), 2)
    assert decision.words == ("rollout r1 of release 2.0.0 did not end; it is taken back",)


def test_a_host_that_is_another_server_by_now_is_refused():
    own = copy.deepcopy(OWN)
    own["web1"]["server"] = "web9"
    with refused(
        "rollout r1 knew web1 as {'shop': 'web1'}, and now it is {'shop': 'web9'}; make the inventory as it was, and try again"
    ):
        back(own, promoted().answers())


def test_a_host_that_took_part_and_is_not_in_the_play_is_refused():
    with refused("rollout r1 took part on web3, which is not in this play"):
        back({host: OWN[host] for host in ("web1", "web2")}, promoted().answers())


def test_a_promoted_rolling_release_goes_back_in_reverse_order():
    decision = back(OWN, promoted().answers())
    assert [step.members for step in decision.run.plan.steps if step.kind == "deploy"] == [
        ("web3",),
        ("web2",),
        ("web1",),
    ]
    assert set(decision.run.releases.values()) == {OLD}
    assert decision.run.plan.release == OLD


def test_a_record_that_makes_no_sense_is_refused():
    answers = promoted().answers()
    for lb in answers.values():
        lb["records"]["shop"]["rollout"]["begin"] = {}
    with refused("The record of rollout r1 cannot be read: KeyError 'plan'"):
        back(OWN, answers)
