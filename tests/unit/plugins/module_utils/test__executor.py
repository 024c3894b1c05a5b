# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import json
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._blue_green import blue_green
from ansible_collections.steady.rollout.plugins.module_utils._canary import (
    Ramp,
    canary_in_place,
    canary_side_by_side,
    read_stages,
)
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    LOOK_SECONDS,
    UNDO,
    Run,
    admitted_at,
    coming_deploys,
    end_state,
    expected_at,
    out_at,
    result_of,
    safe_at,
    shifts,
    tell,
    turns,
    unknown_releases,
    wanted_share,
    watched,
)
from ansible_collections.steady.rollout.plugins.module_utils._plan import Step
from ansible_collections.steady.rollout.plugins.module_utils._rolling import rolling
from ansible_collections.steady.rollout.plugins.module_utils._steps import parse_steps
from hypothesis import given

from simulated_rollout import (
    NEW,
    OLD,
    RUNS,
    World,
    begin_of,
    blue_green_runs,
    carrying,
    fleet,
    make_run,
    rolling_runs,
    server,
    settings,
)

BLUE_GREEN = fleet(4, "bbgg")


def unproved(run: Run, index: int) -> set[str]:
    """The members that were deployed before or in step ``index``, and not let in and watched to the end since."""
    bad: set[str] = set()
    let_in: set[str] = set()
    for number, step in enumerate(run.plan.steps[: index + 1]):
        if step.kind not in ("analyse", "pause") or number == index:
            bad -= let_in if step.kind not in ("analyse", "pause") else set()
            let_in = set() if step.kind not in ("analyse", "pause") else let_in
        if step.kind == "deploy":
            bad |= set(step.members)
        elif step.kind == "admit":
            let_in |= set(step.members)
    return bad


@given(RUNS)
def test_no_unproved_release_is_ever_safe(run):
    for lb in run.lbs:
        for index in range(len(run.plan.steps)):
            safe = carrying(safe_at(run, lb, index))
            bad = {place for key in unproved(run, index) for place in run.members[key].servers.items()}
            assert not safe & bad, (index, [step.words() for step in run.plan.steps])


@given(RUNS)
def test_what_carried_and_was_not_touched_is_safe_all_the_time(run):
    touched = {key for step in run.plan.steps if step.kind == "deploy" for key in step.members}
    for lb in run.lbs:
        kept = {place for key, one in run.members.items() if key not in touched for place in one.servers.items()}
        for index in range(len(run.plan.steps)):
            assert carrying(safe_at(run, lb, -1)) & kept <= carrying(safe_at(run, lb, index))


@given(rolling_runs())
def test_in_a_rolling_release_something_is_safe_wherever_something_carried(run):
    for lb in run.lbs:
        for index in range(len(run.plan.steps)):
            for backend in lb.found:
                before, now = (
                    {p for p in carrying(expected_at(run, lb, i)) if p[0] == backend} for i in (index - 1, index)
                )
                safe = {place for place in carrying(safe_at(run, lb, index)) if place[0] == backend}
                assert safe or not (before and now) or run.plan.steps[index].kind in ("admit", "analyse")


@given(blue_green_runs())
def test_whatever_step_a_swap_dies_in_traffic_comes_back_to_the_colour_that_carried(run):
    blue = {place for one in run.plan.members if one.track == "blue" for place in one.servers.items()}
    for lb in run.lbs:
        for index in range(len(run.plan.steps)):
            assert carrying(safe_at(run, lb, index)) == carrying(safe_at(run, lb, -1)) & blue


@given(rolling_runs())
def test_after_the_last_step_of_a_rolling_release_all_is_as_it_was_found(run):
    for lb in run.lbs:
        end = end_state(run, lb)
        for backend, servers in lb.found.items():
            for name, found in servers.items():
                weight = None if found["agent"] else found["base"]
                assert end[backend][name] == {"weight": weight, "state": "ready"}
                assert found["state"] != "ready" or not found["weight"] or found["base"] == found["weight"]


@given(RUNS)
def test_a_server_is_told_only_what_the_load_balancer_has(run):
    for lb in run.lbs:
        for step in run.plan.steps:
            for backend, told in shifts(run, lb, step).items():
                assert {one["name"] for one in told} <= set(lb.found[backend])
                assert len({one["name"] for one in told}) == len(told)


@given(RUNS)
def test_a_run_survives_json(run):
    again = Run.from_dict(json.loads(json.dumps(run.as_dict())))
    assert again.as_dict() == run.as_dict()
    assert again.plan == run.plan
    assert again.lbs == run.lbs


@given(RUNS)
def test_what_a_step_tells_survives_json_and_does_not_depend_on_what_was_told_before(run):
    again = Run.from_dict(json.loads(json.dumps(run.as_dict())))
    for index in reversed(range(len(run.plan.steps))):
        assert json.loads(json.dumps(tell(again, index, False))) == json.loads(json.dumps(tell(run, index, False)))


@given(RUNS)
def test_only_probed_releases_are_recorded(run):
    for index, step in enumerate(run.plan.steps):
        found = result_of(run, tell(run, index, False), "")
        assert not found["releases"] or step.kind == "probe"


@given(RUNS)
def test_the_load_balancers_come_to_be_as_expected_after_each_step(run):
    world = World(run)
    world.begin(run, begin_of(run))
    for index in range(len(run.plan.steps)):
        world.take(run, index)
        for lb in run.lbs:
            states_now = world.lbs[lb.name].states()
            for backend, servers in expected_at(run, lb, index).items():
                for name, wanted in servers.items():
                    known = {key: value for key, value in wanted.items() if value is not None}
                    assert known.items() <= states_now[backend][name].items()


# ---------------------------------------------------------------------------------------------------------------------
# by example


def swap(bake: float = 300) -> Run:
    found = {"shop": {f"web{i}": server("ready" if i < 3 else "drain") for i in range(1, 5)}}
    return make_run(BLUE_GREEN, blue_green(BLUE_GREEN[:2], BLUE_GREEN[2:], bake), found)


def roll(batch: int = 1, healthy: float = 10, **changes: t.Any) -> Run:
    made = fleet(3)
    return make_run(made, rolling(made, batch, None, healthy, False), **changes)


def test_a_batch_is_safe_again_only_once_it_was_watched():
    run = roll()
    kinds = [step.kind for step in run.plan.steps[:6]]
    assert kinds == ["drain", "deploy", "probe", "admit", "analyse", "drain"]
    assert [sorted(out_at(run, index)) for index in range(6)] == [[], ["web1"], ["web1"], ["web1"], ["web1"], []]
    assert [sorted(admitted_at(run, index)) for index in range(6)] == [[], [], [], [], [], ["web1"]]


def test_a_host_in_deploy_is_in_maint_in_the_safe_state():
    run = roll()
    assert safe_at(run, run.lbs[0], 1)["shop"] == {
        "web1": {"weight": 10, "state": "maint"},
        "web2": {"weight": 10, "state": "ready"},
        "web3": {"weight": 10, "state": "ready"},
    }


def test_before_the_first_step_what_was_found_is_safe():
    run = swap()
    assert safe_at(run, run.lbs[0], -1)["shop"]["web4"] == {"weight": 10, "state": "drain"}


def test_an_agent_keeps_its_say_over_the_weight():
    found = {"shop": {f"web{i}": server(agent=True, weight=7) for i in range(1, 4)}}
    run = roll(found=found)
    assert safe_at(run, run.lbs[0], 0)["shop"]["web1"] == {"weight": None, "state": "ready"}
    assert shifts(run, run.lbs[0], run.plan.steps[3]) == {"shop": [{"name": "web1", "state": "ready"}]}


def test_a_server_whose_agent_says_0_is_not_safe_while_it_is_in_deploy():
    found = {"shop": {f"web{i}": server(agent=True, weight=0 if i == 1 else 7) for i in range(1, 4)}}
    run = roll(found=found)
    assert safe_at(run, run.lbs[0], 1)["shop"]["web1"]["state"] == "maint"


def test_a_server_of_weight_0_gets_its_configured_weight_when_it_is_let_in():
    found = {"shop": {f"web{i}": server(weight=0, base=20) for i in range(1, 4)}}
    run = roll(found=found)
    assert shifts(run, run.lbs[0], run.plan.steps[3]) == {"shop": [{"name": "web1", "weight": 20, "state": "ready"}]}


def test_a_swap_gives_all_to_one_side_and_drains_the_other():
    run = swap()
    assert shifts(run, run.lbs[0], run.plan.steps[2])["shop"] == [
        {"name": "web3", "weight": 10, "state": "ready"},
        {"name": "web4", "weight": 10, "state": "ready"},
        {"name": "web1", "state": "drain"},
        {"name": "web2", "state": "drain"},
    ]


def test_shares_become_weights_of_both_sides():
    run = make_run(BLUE_GREEN, [Step("traffic", shares={"green": 25.0, "blue": 75.0})])
    told = {one["name"]: one for one in shifts(run, run.lbs[0], run.plan.steps[0])["shop"]}
    green, blue = (sum(told[name]["weight"] for name in names) for names in (("web3", "web4"), ("web1", "web2")))
    assert 100 * green / (green + blue) == pytest.approx(25, abs=1)
    assert {one["state"] for one in told.values()} == {"ready"}


def test_a_side_that_carries_all_again_has_its_own_weights_again():
    run = make_run(BLUE_GREEN, [Step("traffic", shares={"green": s, "blue": 100 - s}) for s in (5.0, 0.0)])
    states_then = expected_at(run, run.lbs[0], 1)["shop"]
    assert [states_then[f"web{i}"]["state"] for i in range(1, 5)] == ["ready", "ready", "drain", "drain"]
    assert [states_then[f"web{i}"]["weight"] for i in (1, 2)] == [10, 10]


def test_members_that_were_out_when_the_way_back_began_stay_out_until_it_lets_them_in():
    run = roll(healthy=0, mode=UNDO, action="undo", out=("web1", "web2"))
    assert expected_at(run, run.lbs[0], -1)["shop"]["web2"]["state"] == "maint"
    assert safe_at(run, run.lbs[0], 3)["shop"]["web2"]["state"] == "maint"
    assert safe_at(run, run.lbs[0], 4)["shop"]["web1"]["state"] == "ready"


def test_a_step_that_follows_a_failure_tells_nothing():
    told = tell(roll(), 1, True)
    assert (told["lbs"], told["hosts"], told["polled"], told["watch"]) == ([], {}, [], None)
    assert told["words"].endswith("left out, as the step before it failed")


def test_each_host_of_a_deploy_step_is_told_what_to_put_there_and_what_was_there():
    told = tell(roll(batch=2), 1, False)["hosts"]
    assert told["web2"] == {
        "release": NEW,
        "previous": OLD,
        "action": "deploy",
        "track": "",
        "member": "web2",
        "first": False,
    }
    assert sorted(told) == ["web1", "web2"]


def test_only_hosts_that_are_still_to_be_deployed_on_are_foreseen_each_with_what_it_will_be_told():
    assert coming_deploys(swap()) == tell(swap(), 0, False)["hosts"]
    assert {host: told["track"] for host, told in coming_deploys(swap()).items()} == {"web3": "green", "web4": "green"}
    assert coming_deploys(dataclasses.replace(swap(), first=1)) == {}


def test_a_host_whose_release_nobody_knows_is_told_nothing_and_named():
    run = roll(batch=2, releases={"web1": OLD, "web2": None, "web3": OLD})
    assert list(tell(run, 1, False)["hosts"]) == ["web1"]
    assert unknown_releases(run, run.plan.steps[1]) == ["web2"]
    assert unknown_releases(run, run.plan.steps[2]) == []


@pytest.mark.parametrize(
    ("index", "act", "drain", "proof", "capacity"),
    [
        (0, "shift", 30.0, 0, True),
        (1, "shift", 30.0, 0, True),
        (2, "shift", 0.0, 300 + 30, False),
        (4, "note", 0.0, 0, False),
    ],
)
def test_a_step_says_how_long_a_load_balancer_may_take(index, act, drain, proof, capacity):
    (asked,) = tell(roll(), index, False)["lbs"]
    assert (asked["act"], asked["drain_timeout"], asked["capacity"] is not None) == (act, drain, capacity)
    # To settle, to come up, to answer a probe and be seen healthy, and what any call may take.
    assert asked["timeout"] == (drain + 2 * 30 if act == "shift" else 0) + proof + 30


def test_a_call_for_two_backends_may_take_twice_as_long():
    made = [one._replace(servers={"shop": one.host, "api": one.host}) for one in fleet(2)]
    found = {backend: {f"web{i}": server() for i in (1, 2)} for backend in ("shop", "api")}
    (asked,) = tell(make_run(made, [Step("drain", ("web1",))], found), 0, False)["lbs"]
    assert asked["timeout"] == 2 * (30 + 2 * 30) + 30


def test_a_probe_takes_nothing_out_of_rotation():
    made = fleet(3)
    steps = [Step("deploy", ("web1",)), Step("probe", ("web1", "web2"))]
    run = make_run(made, steps)
    assert shifts(run, run.lbs[0], steps[1]) == {"shop": [{"name": "web1", "state": "drain"}]}


def test_the_intent_of_a_step_names_it_and_its_mode():
    (asked,) = tell(roll(mode=UNDO), 1, False)["lbs"]
    assert asked["record"] == {"kind": "deploy", "members": ["web1"], "step": 1, "mode": UNDO}


def test_a_probe_is_of_each_address_once_and_patient():
    made = [one._replace(servers={"shop": one.host, "api": one.host}) for one in fleet(2)]
    found = {b: {f"web{i}": server(address=f"10.0.0.{i}", port=80) for i in (1, 2)} for b in ("shop", "api")}
    run = make_run(made, [Step("probe", ("web1", "web2"))], found, addresses={"web2": (None, 8080)})
    asked = tell(run, 0, False)["lbs"][0]["probe"]
    places = [(one["address"], one["port"]) for one in asked["targets"]]
    assert places == [("10.0.0.1", 80), ("10.0.0.2", 8080)]
    assert {**asked, "targets": []} == {"path": "/health", "rise": 3, "deadline": 300.0, "targets": []}


def test_a_port_of_the_probe_beats_all_others():
    run = roll(settings=settings(probe={"port": 9000}), addresses={"web1": ("10.9.9.9", 8080)})
    asked = tell(run, 2, False)["lbs"][0]["probe"]
    assert (asked["targets"][0]["address"], asked["targets"][0]["port"]) == ("10.9.9.9", 9000)
    assert "port" not in asked


def test_while_watching_one_good_answer_in_a_few_seconds_is_enough():
    asked = tell(roll(), 4, False)["polled"][0]["probe"]
    assert (asked["rise"], asked["deadline"]) == (1, LOOK_SECONDS)


@pytest.mark.parametrize(
    ("seconds", "interval", "polls"), [(10, 10, 2), (10, 3, 5), (10, 60, 2), (0.5, 10, 2), (300, 10, 31)]
)
def test_a_watch_reads_at_its_start_after_each_interval_and_at_its_end(seconds, interval, polls):
    run = roll(healthy=seconds, settings=settings(interval=interval, on_restart="rollback"))
    told = tell(run, 4, False)
    assert told["watch"]["polls"] == polls
    assert [poll for batch in told["polls"] for poll in batch] == list(range(polls))


def test_a_watch_may_read_once_more_for_each_load_balancer_that_is_told_again():
    watches = [
        tell(roll(settings=settings(on_restart=policy)), 4, False)["watch"] for policy in ("rollback", "reassert")
    ]
    assert watches[1]["polls"] - watches[0]["polls"] == len(roll().lbs)
    assert [sorted(watch["reassert"]) for watch in watches] == [[], [lb.name for lb in roll().lbs]]


def test_what_is_left_of_many_polls_is_passed_over_in_few_batches():
    told = tell(make_run(BLUE_GREEN, parse_steps([{"pause": {"for": 3000}}], BLUE_GREEN)), 0, False)
    assert told["watch"]["polls"] == 302
    assert len(told["polls"]) <= 18
    assert max(map(len, told["polls"])) <= 18


def test_the_hosts_are_stopped_after_a_step_but_not_on_the_way_back():
    run = make_run(BLUE_GREEN, parse_steps([{"deploy": "green"}, {"probe": "green"}], BLUE_GREEN))
    assert turns(run) == [{"index": 0, "file": "deploy.yml"}, {"index": 1, "file": "step.yml"}]
    back = turns(dataclasses.replace(run, mode="undo"))
    assert [turn["file"] for turn in back] == ["deploy.yml", "control.yml"]


def test_a_bake_watches_the_new_side_and_needs_requests():
    watch = tell(swap(), 3, False)["watch"]
    assert watch["track"] == [["shop", "web3"], ["shop", "web4"]]
    assert (watch["require_requests"], watch["of_share"], watch["name"], watch["wanted_percent"]) == (
        True,
        False,
        "green",
        100.0,
    )


def test_a_shift_observes_the_share():
    watch = tell(swap(), 2, False)["watch"]
    assert (watch["of_share"], watch["name"], watch["wanted_percent"]) == (True, "green", 100.0)


def test_the_share_that_is_wanted_follows_from_the_weights():
    run = roll()
    step = run.plan.steps[4]
    assert wanted_share(run, run.lbs[0].found, step, expected_at(run, run.lbs[0], 4)) == pytest.approx(100 / 3)


def test_a_pause_watches_what_was_brought_in_last():
    made = fleet(3)
    raw = [{"drain": "web1"}, {"deploy": "web1"}, {"probe": "web1"}, {"admit": "web1"}, {"pause": {"for": 5}}]
    run = make_run(made, parse_steps(raw, made))
    assert watched(run, run.plan.steps[4]) == [("shop", "web1")]


def test_a_pause_does_not_watch_what_carries_nothing():
    made = fleet(3)
    run = make_run(made, parse_steps([{"drain": "web1"}, {"deploy": "web1"}, {"pause": {"for": 5}}], made))
    assert watched(run, run.plan.steps[2]) == [("shop", "web2"), ("shop", "web3")]


def test_a_pause_does_not_watch_what_was_taken_out_again():
    made = fleet(4, "bbgg")
    raw = [*({kind: "green"} for kind in ("deploy", "probe")), {"traffic": {"green": 100}}, {"drain": "web4"}]
    run = make_run(made, parse_steps([*raw, {"pause": {"for": 5}}], made))
    assert watched(run, run.plan.steps[4]) == [("shop", "web3")]


def test_an_analysis_of_a_side_without_traffic_still_watches_its_health():
    raw = [{"deploy": "green"}, {"probe": "green"}, {"analyse": {"for": 5}}]
    run = make_run(BLUE_GREEN, parse_steps(raw, BLUE_GREEN))
    assert watched(run, run.plan.steps[2]) == [("shop", "web3"), ("shop", "web4")]


def test_a_release_that_took_all_traffic_is_judged_beside_what_carried_before():
    raw = [{"deploy": "green"}, {"probe": "green"}, {"traffic": {"green": 100}}, {"analyse": {"for": 5}}]
    run = make_run(BLUE_GREEN, parse_steps(raw, BLUE_GREEN))
    judge = tell(run, 3, False)["watch"]["judge"]
    assert judge["sides"] == {"canary": [["shop", "web3"], ["shop", "web4"]], "stable": []}
    assert judge["past"] == [["shop", "web1"], ["shop", "web2"]]


def test_the_next_step_takes_the_result_of_the_one_before_to_every_load_balancer():
    run = roll(lbs=["lb1", "lb2"])
    found = result_of(run, tell(run, 1, False), "web1: the deploy failed")
    wanted = {"step": 1, "mode": "forward", "kind": "deploy", "ok": False, "problem": "web1: the deploy failed"}
    asked = tell(run, 2, False, found)["lbs"]
    assert [(one["lb"], one["results"]) for one in asked] == [("lb1", [wanted]), ("lb2", [wanted])]


def test_the_result_of_a_change_of_traffic_is_recorded_by_the_act_itself():
    run = roll()
    moves = [number for number, step in enumerate(run.plan.steps) if step.kind in ("drain", "admit", "traffic")]
    assert [result_of(run, tell(run, number, False), "")["results"] for number in moves] == [[]] * len(moves)


def test_a_probe_that_failed_records_no_release():
    run = roll()
    assert result_of(run, tell(run, 2, False), "no answer")["releases"] == {}
    assert result_of(run, tell(run, 2, False), "")["releases"] == {"shop": {"web1": {"role:shop.release": NEW}}}


# --- A canary in place


def canary(stages=(10, 25), found=None, **changes):
    """Four hosts of equal weight: drain 0, deploy 1, probe 2, traffic 3, analyse 4, traffic 5, analyse 6, admit 7, then the rest."""
    ramp = Ramp(read_stages(stages), 60.0, 120.0, 1, 4, 10.0)
    made = fleet(4)
    return make_run(
        made,
        canary_in_place(
            made, [one.key for one in made], dict.fromkeys(("web1", "web2", "web3", "web4"), 25.0), 1, ramp
        ),
        found,
        **changes,
    )


def test_a_canary_in_place_gets_its_share_and_all_others_that_carry_the_rest():
    run = canary(found={"shop": {**{f"web{n}": server() for n in (1, 2, 3)}, "web4": server("maint")}})
    states = expected_at(run, run.lbs[0], 3)["shop"]
    weights = {name: one["weight"] for name, one in states.items() if one["state"] == "ready"}
    assert set(weights) == {"web1", "web2", "web3"}
    assert weights["web1"] / sum(weights.values()) == pytest.approx(0.1, abs=0.002)
    assert states["web4"]["state"] == "maint"


def test_a_canary_is_not_safe_before_the_last_verdict_and_is_after_it():
    run = canary()
    for index in range(8):
        safe = safe_at(run, run.lbs[0], index)["shop"]
        stable = {name: one["weight"] for name, one in safe.items() if one["state"] == "ready"}
        assert stable == dict.fromkeys(("web1", "web2", "web3", "web4") if not index else ("web2", "web3", "web4"), 10)
    assert safe_at(run, run.lbs[0], 8)["shop"]["web1"] == {"weight": 10, "state": "ready"}


def test_after_the_last_verdict_all_have_their_own_weights_again():
    run = canary()
    assert {one["weight"] for one in expected_at(run, run.lbs[0], 7)["shop"].values()} == {10}


def test_a_canary_is_compared_with_what_does_not_have_the_release_yet():
    run = canary()
    judge = tell(run, 6, False)["watch"]["judge"]
    assert judge["sides"] == {
        "canary": [["shop", "web1"]],
        "stable": [["shop", name] for name in ("web2", "web3", "web4")],
    }
    assert (judge["judged"], judge["asks"]) == (True, True)
    assert not tell(run, 4, False)["watch"]["judge"]["asks"]
    later = tell(run, 12, False)["watch"]["judge"]
    assert run.plan.steps[12].words() == "analyse web2 for 10s"
    assert later["sides"] == {
        "canary": [["shop", "web1"], ["shop", "web2"]],
        "stable": [["shop", "web3"], ["shop", "web4"]],
    }
    assert not later["judged"]


def test_a_swap_has_nothing_to_compare_with():
    run = make_run(BLUE_GREEN, blue_green(BLUE_GREEN[:2], BLUE_GREEN[2:], 300))
    assert tell(run, 3, False)["watch"]["judge"]["sides"]["stable"] == []


def test_what_runs_the_release_already_is_no_yardstick():
    made = fleet(3)
    run = make_run(made, rolling(made[:2], 1, None, 10, False), previous={"web1": OLD, "web2": OLD, "web3": NEW})
    assert tell(run, 4, False)["watch"]["judge"]["sides"] == {
        "canary": [["shop", "web1"]],
        "stable": [["shop", "web2"]],
    }


def test_errors_of_a_canary_have_a_limit_only_where_the_user_set_one():
    assert not tell(canary(), 4, False)["watch"]["limited"]
    assert tell(canary(settings=settings(limits_canary=True)), 4, False)["watch"]["limited"]
    assert tell(canary(), 12, False)["watch"]["limited"]


def test_errors_right_after_a_shift_are_for_the_judge_of_a_canary_too():
    run = canary()
    assert tell(run, 3, False)["watch"]["limited"]
    run = dataclasses.replace(run, plan=dataclasses.replace(run.plan, strategy="canary"))
    assert not tell(run, 3, False)["watch"]["limited"]


def test_a_step_may_be_prolonged_and_has_polls_for_it():
    watch = tell(canary(), 4, False)["watch"]
    assert (watch["seconds"], watch["longest"]) == (60.0, 120.0)
    assert watch["polls"] == 14  # one at the start, one each 10 s, one to tell the load balancer again


def test_a_pause_until_it_is_promoted_watches_nothing():
    run = canary(stages=(10, {"pause": {}}, 25))
    assert run.plan.steps[5].kind == "pause"
    assert tell(run, 5, False)["watch"] is None


def test_what_was_promoted_is_looked_at_before_more_traffic_moves():
    run = dataclasses.replace(canary(stages=(10, {"pause": {}}, 25)), first=5, glance=5)
    watch = tell(run, 5, False)["watch"]
    assert (watch["seconds"], watch["judge"]["judged"]) == (30.0, False)
    assert tell(run, 7, False)["watch"]["seconds"] == 60.0


def test_straight_to_the_end_every_watch_is_one_poll():
    run = dataclasses.replace(canary(stages=(10, {"pause": {}}, 25)), first=5, glance=5, full=True)
    assert tell(run, 7, False)["watch"]["seconds"] == 10.0


def test_what_the_judge_knows_goes_into_the_journal_with_the_result():
    run = canary()
    told = {**tell(run, 4, False), "key": "k"}
    seen = {"key": "k", "verdict": "pass", "reason": "good", "analysis": {"polls": 3}}
    (record,) = result_of(run, told, "", seen)["results"]
    assert (record["verdict"], record["reason"], record["analysis"]) == ("pass", "good", {"polls": 3})
    (other,) = result_of(run, told, "", {**seen, "key": "old"})["results"]
    assert "analysis" not in other


def test_a_host_that_is_out_on_one_load_balancer_is_no_part_of_the_stable_side_of_the_other():
    run = canary(lbs=["lb1", "lb2"])
    found = {"shop": {**run.lbs[1].found["shop"], "web4": server("drain")}}
    run = dataclasses.replace(run, lbs=(run.lbs[0], dataclasses.replace(run.lbs[1], found=found)))
    for lb in run.lbs:
        assert expected_at(run, lb, 3)["shop"]["web4"] == expected_at(run, lb, -1)["shop"]["web4"]


def test_a_share_brings_nothing_into_rotation_that_no_step_has_seen_to_be_good():
    made = fleet(4, "bbgg")
    steps = canary_side_by_side(made[:2], made[2:], Ramp(read_stages([5]), 60.0, 60.0, 1, 4, 10.0))
    found = {"shop": {"web1": server(), "web2": server("maint"), "web3": server("drain"), "web4": server("drain")}}
    run = make_run(made, steps, found)
    assert run.plan.steps[2].words() == "traffic green 5 %, blue 95 %"
    states = expected_at(run, run.lbs[0], 2)["shop"]
    assert {name: one["state"] for name, one in states.items()} == {
        "web1": "ready",
        "web2": "maint",
        "web3": "ready",
        "web4": "ready",
    }


def test_the_judge_expects_as_many_polls_as_the_plan_has():
    def horizon(**changes):
        return tell(canary(**changes), 4, False)["watch"]["judge"]["options"]["horizon"]

    assert horizon() == 180
    # Two steps of up to 120 s, and three of 10 s, a poll each 0.5 s.
    assert horizon(settings=settings(interval=0.5)) == 2 * 241 + 3 * 21 + 3
    assert horizon(settings=settings(judge={**settings().judge, "horizon": 99})) == 99


def test_a_pause_of_a_canary_has_no_limit_of_errors_of_its_own():
    run = canary(stages=(10, {"pause": {"for": 60}}, 25))
    assert run.plan.steps[5].kind == "pause"
    assert not tell(run, 5, False)["watch"]["limited"]


def test_what_comes_after_a_pause_is_left_out_and_says_why():
    run = canary(stages=(10, {"pause": {}}, 25))
    told = tell(run, 6, True, {"paused": "it waits"})
    assert told["lbs"] == []
    assert told["words"].endswith("left out, as the rollout waits to be promoted")
