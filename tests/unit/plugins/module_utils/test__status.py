# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import copy
import json
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._blue_green import blue_green
from ansible_collections.steady.rollout.plugins.module_utils._executor import Run
from ansible_collections.steady.rollout.plugins.module_utils._rolling import rolling
from ansible_collections.steady.rollout.plugins.module_utils._status import lines, message, report
from hypothesis import assume, given
from hypothesis import strategies as st

from examples import examples
from simulated_rollout import RUNS, Killed, World, begin_of, carrying, fleet, make_run, server, targets

KILLS = st.integers(0, 100)
FEW = examples(40)
LATER = 4e9  # when everything on record is long past
HOSTS: dict[str, dict[str, t.Any]] = {f"web{i}": {} for i in range(1, 5)}
COLOURS = {"web1": {"track": "blue"}, "web2": {"track": "blue"}, "web3": {"track": "green"}, "web4": {"track": "green"}}


# ---------------------------------------------------------------------------------------------------------------------
# worlds


def results(answers: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """What the loop over the load balancers returns."""
    return [{**answer, "item": {"lb": name}} for name, answer in answers.items()]


def look(world: World, now: float = LATER, **control: t.Any) -> dict[str, t.Any]:
    return tell(world.answers(), now, **control)


def tell(
    answers: t.Mapping[str, t.Any], now: float = LATER, before: t.Mapping[str, t.Any] | None = None, **control: t.Any
) -> dict[str, t.Any]:
    """The report, which JSON holds without loss, and which can be told to a person."""
    made = report(targets(HOSTS, **control), results(before or {}), results(answers), now)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert all(line.isprintable() for line in lines(made))
    return made


def whats(told: t.Mapping[str, t.Any]) -> list[str]:
    return [reason["what"] for reason in told["reasons"]]


def two_lbs(run: Run) -> Run:
    """All of the world's load balancers are asked."""
    names = [lb.name for lb in run.lbs]
    return run if len(names) == 2 else Run.from_dict({**run.as_dict(), "lbs": [*run.as_dict()["lbs"], _second(run)]})


def _second(run: Run) -> dict[str, t.Any]:
    return {**run.as_dict()["lbs"][0], "name": "lb2"}


def backends_of(run: Run) -> list[str]:
    return sorted(run.plan.backends)


def rolling_world(kill_at: int | None = None, **changes: t.Any) -> tuple[Run, World]:
    """Four hosts, one after the other."""
    run = make_run(fleet(4), rolling(fleet(4), 1, None, 10, False), lbs=["lb1", "lb2"], **changes)
    return run, World(run, kill_at)


def promoted() -> World:
    run, world = rolling_world()
    world.roll_out(run, begin_of(run))
    return world


def killed(at: int) -> tuple[Run, World]:
    run, world = rolling_world(at)
    with contextlib.suppress(Killed):
        world.roll_out(run, begin_of(run))
    world.kill_at = None
    return run, world


def idle() -> dict[str, t.Any]:
    """Answers of load balancers that never saw a rollout."""
    return rolling_world()[1].answers()


def server_of(answers: t.Mapping[str, t.Any], lb: str, name: str) -> dict[str, t.Any]:
    servers = answers[lb]["backends"]["shop"]["servers"]
    return next(one for one in servers if one["name"] == name)


def about_servers(told: t.Mapping[str, t.Any]) -> list[str]:
    """Reasons that say that what is true is not what is wanted. None in rotation may be just what was found."""
    return [what for what in whats(told) if not what.startswith("no server of")]


# ---------------------------------------------------------------------------------------------------------------------
# properties


@given(RUNS)
@FEW
def test_a_rollout_that_went_well_leaves_everything_as_wanted(run):
    run = two_lbs(run)
    world = World(run)
    world.roll_out(run, begin_of(run))
    told = look(world, backend=backends_of(run))
    assert about_servers(told) == []
    assert told["status"] == ("needs_attention" if told["reasons"] else "healthy")
    assert all(one["rollout"]["outcome"] == "promoted" for one in told["backends"].values())


@given(RUNS, KILLS)
@FEW
def test_a_rollout_on_its_way_needs_no_attention_at_any_moment(run, at):
    run = two_lbs(run)
    whole = World(run)
    whole.roll_out(run, begin_of(run))
    # Before one of the acts that come after it began everywhere, and before it ended anywhere.
    world = World(run, 2 + at % (whole.acts - 3))
    with contextlib.suppress(Killed):
        world.roll_out(run, begin_of(run))
    told = look(world, backend=backends_of(run))
    assert about_servers(told) == []
    assert told["status"] == ("needs_attention" if told["reasons"] else "in_progress")


@given(RUNS, KILLS)
@FEW
def test_a_rollout_that_went_back_by_itself_leaves_everything_as_it_was_found(run, at):
    run = two_lbs(run)
    whole = World(run)
    whole.roll_out(run, begin_of(run))
    world = World(run, 2 + at % (whole.acts - 3))
    with contextlib.suppress(Killed):
        world.roll_out(run, begin_of(run))
    # Where nothing is safe to carry, what was brought in meanwhile stays: there is nothing to go back to.
    assume(all(carrying({backend: safe}) for lb in world.lbs.values() for backend, safe in lb.safe.items()))
    world.kill_at = None
    world.rescue(run)
    told = look(world, backend=backends_of(run))
    assert about_servers(told) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def _paths(data: t.Any, path: tuple[t.Any, ...] = ()) -> list[tuple[t.Any, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(each for key, value in inner for each in _paths(value, (*path, key)))]


@given(st.data(), st.integers(2, 40), JSON)
@examples(150)
def test_whatever_a_journal_holds_there_is_a_report(data, at, strange):
    _run, world = killed(at)
    answers = world.answers()
    # What is around it is checked where the lines of the journal are read.
    inside = [path for path in _paths(answers["lb1"]["records"]["shop"]["rollout"]) if len(path) > 1]
    path = data.draw(st.sampled_from([each for each in inside if each[0] == "begin" or len(each) > 2]))
    if path[-1] in ("seq", "event") or path == ("begin", "plan"):
        return
    place = answers["lb1"]["records"]["shop"]["rollout"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = strange
    tell(answers)


# ---------------------------------------------------------------------------------------------------------------------
# the servers


def test_a_fleet_without_a_record_is_healthy_and_nothing_is_wanted_of_it():
    told = tell(idle())
    assert (told["status"], told["reasons"]) == ("healthy", [])
    web1 = told["backends"]["shop"]["servers"]["web1"]["lbs"]["lb1"]
    assert (web1["wanted"], web1["share"], web1["release"]) == (None, None, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": "maint"}, "should carry traffic and is in maint"),
        ({"weight": 0}, "should carry traffic and is in ready 0"),
        ({"health": "down", "status": "DOWN", "last_check": "L4CON"}, "should carry traffic and is down (DOWN, L4CON)"),
        ({"weight": 7}, "has weight 7 instead of 10"),
    ],
)
def test_a_server_that_is_not_as_the_last_rollout_left_it_is_told_once_with_all_its_load_balancers(change, words):
    answers = promoted().answers()
    for lb in ("lb1", "lb2"):
        for name in ("web2", "web3"):
            server_of(answers, lb, name).update(change)
    told = tell(answers)
    assert told["status"] == "needs_attention"
    assert whats(told) == [f"web2, web3 of shop {words} on lb1, lb2"]


def test_a_server_that_should_rest_and_carries_is_told():
    run = make_run(
        fleet(4, "bbgg"), blue_green(fleet(4, "bbgg")[:2], fleet(4, "bbgg")[2:], 300), _green_rests(), ["lb1", "lb2"]
    )
    world = World(run)
    world.roll_out(run, begin_of(run))
    answers = world.answers()
    server_of(answers, "lb2", "web1")["state"] = "ready"
    assert whats(tell(answers)) == ["web1 of shop carries traffic, and should be in drain on lb2"]


def _green_rests() -> dict[str, dict[str, dict[str, t.Any]]]:
    return {"shop": {f"web{i}": server("ready" if i < 3 else "drain") for i in range(1, 5)}}


def test_without_a_record_load_balancers_that_disagree_and_servers_in_rotation_that_are_down_are_told():
    answers = idle()
    server_of(answers, "lb2", "web1")["state"] = "drain"
    server_of(answers, "lb1", "web2")["health"] = "down"
    server_of(answers, "lb1", "web3")["state"] = "maint"
    server_of(answers, "lb2", "web3").update(state="maint", health="down")
    assert whats(tell(answers)) == [
        "web2 of shop should carry traffic and is down (UP) on lb1",
        "the load balancers disagree on web1 of shop: ready 10 on lb1; drain on lb2",
    ]


def test_a_server_that_one_load_balancer_lacks_is_told():
    answers = idle()
    del answers["lb2"]["backends"]["shop"]["servers"][0]
    assert whats(tell(answers)) == ["the load balancers disagree: lb2 lacks server web1 of shop"]


def test_a_backend_in_which_nothing_carries_is_told():
    answers = idle()
    for name in HOSTS:
        server_of(answers, "lb1", name)["health"] = "down"
        server_of(answers, "lb2", name)["health"] = "down"
    assert "no server of shop carries traffic on lb1, lb2" in whats(tell(answers))


def test_releases_that_the_records_disagree_on_are_told():
    answers = promoted().answers()
    answers["lb2"]["records"]["shop"]["releases"]["web1"] = {"role:shop.release": "1.0.0"}
    assert whats(tell(answers)) == ["the records disagree on the release of web1: 2.0.0 by lb1; 1.0.0 by lb2"]


def test_what_an_agent_makes_of_a_weight_is_as_wanted():
    run = make_run(
        fleet(2),
        rolling(fleet(2), 1, None, 0, False),
        {"shop": {"web1": server(agent=True), "web2": server()}},
        ["lb1", "lb2"],
    )
    world = World(run)
    world.roll_out(run, begin_of(run))
    answers = world.answers()
    server_of(answers, "lb1", "web1")["weight"] = 3
    assert tell(answers)["status"] == "healthy"


# ---------------------------------------------------------------------------------------------------------------------
# the share


def _later(counts: t.Mapping[str, t.Any], **process: t.Any) -> dict[str, t.Any]:
    answers = idle()
    answers["lb1"]["process"].update(process)
    for name, count in counts.items():
        server_of(answers, "lb1", name)["requests"] = count
    return answers


def shares(told: t.Mapping[str, t.Any]) -> list[float | None]:
    return [row["lbs"]["lb1"]["share"] for row in told["backends"]["shop"]["servers"].values()]


def test_the_share_is_of_the_requests_between_the_two_readings():
    assert shares(tell(_later({"web1": 30, "web2": 10}), before=idle())) == [75.0, 25.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, _later({"web1": 30})),
        (idle(), idle()),
        (idle(), _later({"web1": 30}, pid=2)),
        (_later({"web1": 30}), _later({"web1": 10})),
    ],
    ids=["one reading", "no requests", "another process", "counters cleared"],
)
def test_a_share_that_cannot_be_known_is_null(before, after):
    assert shares(tell(after, before=before)) == [None] * 4


def test_a_counter_that_is_not_told_is_no_zero():
    assert shares(tell(_later({"web1": None, "web2": 10}), before=idle())) == [None, 100.0, 0.0, 0.0]


# ---------------------------------------------------------------------------------------------------------------------
# the rollout, its lock and its lease


def _with(answers: dict[str, t.Any], **changes: t.Any) -> dict[str, t.Any]:
    for answer in answers.values():
        answer["records"]["shop"].update(copy.deepcopy(changes))
    return answers


def test_a_rollout_in_progress_tells_its_step_in_words():
    told = look(killed(9)[1])
    rollout = told["backends"]["shop"]["rollout"]
    assert told["status"] == "in_progress"
    assert (rollout["strategy"], rollout["release"], rollout["steps"]) == ("custom", "2.0.0", 20)
    assert rollout["step_words"].endswith("web1")
    assert f"in progress, step {rollout['step']} of 20" in "\n".join(lines(told))


def test_the_last_five_events_are_told_oldest_first():
    events = look(promoted())["backends"]["shop"]["events"]
    assert len(events) == 5
    assert events[-1]["words"] == "ended as promoted"
    assert events[-2]["words"] == "step 20 (analyse web4 for 10s) done"


def _end(world, outcome):
    """Its run ends, and keeps the lock."""
    end = {"backends": ["shop"], "act": "end", "outcome": outcome, "keep_lock": True}
    for lb in world.lbs.values():
        lb.act("r1", {**end, "record": {"message": "web3 is out."}})


def test_a_rollout_that_waits_to_be_promoted_is_in_progress():
    _run, world = killed(9)
    _end(world, "paused")
    told = look(world)
    assert (told["status"], told["reasons"]) == ("in_progress", [])


def test_a_pause_whose_lease_expired_needs_attention():
    _run, world = killed(9)
    _end(world, "paused")
    lease = {"rollout_id": "r1", "seconds": 86400, "left": -30}
    told = tell(_with(world.answers(), lease=lease, guard="running"))
    assert told["status"] == "needs_attention"


@pytest.mark.parametrize("outcome", ["rollback_failed", "paused"])
def test_a_rollout_that_did_not_come_to_a_good_end_needs_attention(outcome):
    run, world = killed(9)
    world.restore(run)
    _end(world, outcome)
    told = look(world)
    assert told["status"] == "needs_attention"
    assert "(web3 is out)" in whats(told)[0]
    assert "steady.rollout.rollback" in told["reasons"][0]["do"]


def _held(outcome: str) -> dict[str, t.Any]:
    """After a change that cannot be taken back, the second host failed its probe."""
    run, world = rolling_world()
    world.says = "the migration of 2.0.0"
    world.begin(run, begin_of(run))
    for index in range(7):
        world.take(run, index)
    world.hold(run, outcome)
    return tell(world.answers())


@pytest.mark.parametrize("outcome", ["rollback_failed", "paused"])
def test_what_cannot_be_taken_back_is_told_with_both_ways_on(outcome):
    told = _held(outcome)
    assert told["backends"]["shop"]["rollout"]["forward_only"] == ["the migration of 2.0.0"]
    assert "  cannot be taken back: the migration of 2.0.0" in lines(told)
    (reason,) = told["reasons"]
    assert "rollout_action=resume" in reason["do"]
    assert "steady.rollout.rollback" in reason["do"]


def test_a_lease_that_expired_says_that_nobody_works_on_the_rollout():
    answers = _with(killed(9)[1].answers(), lease={"rollout_id": "r1", "seconds": 120, "left": -30}, guard="running")
    told = tell(answers)
    assert whats(told) == [
        "rollout r1 of shop is unfinished and nobody works on it: its lease expired 30s ago on lb1, lb2"
    ]
    assert "-30 s of 120 s left, guard running" in "\n".join(lines(told))


def test_a_lease_in_force_is_progress():
    lease = {"rollout_id": "r1", "seconds": 120, "left": 90.5}
    assert tell(_with(killed(9)[1].answers(), lease=lease, guard="running"))["status"] == "in_progress"


def test_a_guard_that_is_missing_needs_attention():
    lease = {"rollout_id": "r1", "seconds": 120, "left": 90}
    told = tell(_with(killed(9)[1].answers(), lease=lease, guard="missing"))
    assert whats(told) == ["rollout r1 of shop has no guard on lb1, lb2"]


def test_a_rollout_that_its_guard_took_back_needs_attention():
    answers = killed(9)[1].answers()
    # Where a guard returned the traffic, what is safe is what is wanted.
    servers = {name: {"state": "ready", "weight": 10} for name in HOSTS}
    for answer in answers.values():
        answer["records"]["shop"]["lock"]["abandoned"] = "the lease expired"
        answer["records"]["shop"]["safe"] = {"rollout_id": "r1", "servers": servers}
    server_of(answers, "lb1", "web1").update(state="ready", weight=10)
    server_of(answers, "lb1", "web3").update(state="drain")
    server_of(answers, "lb2", "web1").update(state="ready", weight=10)
    told = tell(answers)
    assert whats(told) == [
        "rollout r1 of shop was abandoned, and lb1, lb2 returned its traffic: the lease expired",
        "web3 of shop should carry traffic and is in drain on lb1",
    ]
    assert "resume" in told["reasons"][0]["do"]


def test_a_rollout_that_was_silent_for_long_needs_attention_where_no_lease_tells():
    answers = killed(9)[1].answers()
    for answer in answers.values():
        answer["records"]["shop"]["rollout"]["events"][-1]["at"] = "2026-01-01T00:00:00Z"
    then = 1767225600.0
    assert tell(answers, then + 1800)["status"] == "in_progress"
    assert "nothing was heard of it for 33m20s" in whats(tell(answers, then + 2000))[0]


def test_a_lock_whose_rollout_has_ended_needs_attention():
    answers = promoted().answers()
    answers["lb2"]["records"]["shop"]["lock"] = {"rollout_id": "r1", "since": "", "who": {}}
    told = tell(answers)
    assert whats(told) == ["rollout r1 holds shop on lb2, although it ended as promoted"]


def test_a_rollout_that_has_just_ended_on_one_load_balancer_is_still_in_progress():
    answers = promoted().answers()
    answers["lb2"]["records"]["shop"]["lock"] = {"rollout_id": "r1", "since": "", "who": {}}
    answers["lb1"]["records"]["shop"]["rollout"]["events"][-1]["at"] = "2026-01-01T00:00:00Z"
    assert tell(answers, 1767225605.0)["status"] == "in_progress"


def test_a_lock_without_a_record_needs_attention():
    told = tell(_with(idle(), lock={"rollout_id": "r9", "since": "", "who": {}}))
    assert whats(told) == ["rollout r9 holds shop on lb1, lb2, and is not the last one on record"]


def test_a_load_balancer_that_did_not_take_part_is_told():
    answers = promoted().answers()
    answers["lb2"]["records"]["shop"]["rollout"] = None
    assert whats(tell(answers)) == ["the load balancers disagree: lb2 has no record of rollout r1 of shop"]


def test_a_record_that_cannot_be_read_needs_attention():
    told = tell(
        _with(idle(), problem="/var/x/lock does not hold what a rollout writes there; look at it, then remove it")
    )
    assert [what.split(":")[0] for what in whats(told)] == ["lb1", "lb2"]
    broken = promoted().answers()
    broken["lb1"]["records"]["shop"]["rollout"]["begin"]["plan"] = 3
    broken["lb2"]["records"]["shop"]["rollout"]["begin"]["plan"] = 3
    assert "cannot be" in whats(tell(broken))[0]


# ---------------------------------------------------------------------------------------------------------------------
# load balancers, and words


def test_a_load_balancer_that_does_not_answer_is_told_and_the_other_one_all_the_same():
    answers = idle()
    answers["lb2"] = {"unreachable": True, "msg": "no route to host"}
    told = tell(answers)
    assert whats(told) == ["lb2 does not answer: unreachable (no route to host)"]
    assert told["load_balancers"]["lb2"] == {
        "answers": False,
        "absent": False,
        "problem": "unreachable (no route to host)",
    }
    assert list(told["backends"]["shop"]["load_balancers"]) == ["lb1"]


def test_no_load_balancer_that_answers_is_a_report_too():
    told = tell({})
    assert told["status"] == "needs_attention"
    assert lines(told)[0] == "backend shop: no load balancer answered"


def test_one_that_failed_the_first_reading_is_told_by_it():
    silent = {"lb2": {"failed": True, "msg": "no HAProxy there"}}
    told = tell({"lb1": idle()["lb1"]}, before={"lb1": idle()["lb1"], **silent})
    assert whats(told) == ["lb2 does not answer: no HAProxy there"]


def test_a_load_balancer_that_is_left_out_is_no_trouble():
    told = tell({"lb1": idle()["lb1"]}, absent_lbs=["lb2"])
    assert told["status"] == "healthy"
    assert "left out (rollout_absent_lbs): lb2" in lines(told)


def test_load_balancers_that_agree_share_a_line():
    answers = promoted().answers()
    server_of(answers, "lb2", "web3")["state"] = "maint"
    table = lines(tell(answers))[:7]
    assert [line.split()[0:3] for line in table[2:]] == [
        ["web1", "ready", "10"],
        ["web2", "ready", "10"],
        ["web3", "on", "lb1"],
        ["web3", "on", "lb2"],
        ["web4", "ready", "10"],
    ]


def test_what_load_balancers_say_stays_on_its_line():
    answers = promoted().answers()
    for answer in answers.values():
        answer["records"]["shop"]["rollout"]["events"][-1]["message"] = "a\nb\x1b[31m{{ c }}"
    told = tell(answers)
    assert any(line.endswith("ended as promoted: a b [31m{{ c }}") for line in lines(told))


def test_the_message_has_every_reason_and_what_to_do():
    answers = idle()
    server_of(answers, "lb1", "web2")["health"] = "down"
    assert message(tell(answers)) == (
        "needs attention: web2 of shop should carry traffic and is down (UP) on lb1 (to do: see why its health check fails)"
    )
