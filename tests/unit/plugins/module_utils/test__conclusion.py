# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._conclusion import (
    bad,
    host_problems,
    lb_problems,
    left_out,
    lost_members,
    overdue,
    pause_of,
    progress,
    reasons,
    watch_problems,
    well_so_far,
    why,
)
from hypothesis import given
from hypothesis import strategies as st

from simulated_rollout import fleet

ASKED = [{"lb": "lb1"}, {"lb": "lb2"}]
OUTCOMES = st.sampled_from([None, {}, {"failed": True, "msg": "x"}, {"unreachable": True}, {"skipped": True}])


def told(**changes: t.Any) -> dict[str, t.Any]:
    known = {
        "key": "k",
        "mode": "forward",
        "index": 2,
        "lbs": ASKED,
        "hosts": {},
        "watch": None,
    }
    return {**known, **changes}


def answers(*found: dict[str, t.Any] | None) -> list[dict[str, t.Any]]:
    """One for each load balancer; None where there is none."""
    return [{"item": {"lb": f"lb{i}"}, **one} for i, one in enumerate(found, 1) if one is not None]


def probed(**healths: str | None) -> dict[str, t.Any]:
    """A probe of servers: None is up, a text is why it is down."""
    targets = [
        {"name": name, "health": "down" if reason else "up", "last_failure": {"reason": reason} if reason else None}
        for name, reason in healths.items()
    ]
    return {"ok": not any(healths.values()), "msg": "some are down", "targets": targets}


def test_all_good_is_no_problem():
    assert lb_problems(told(), answers({}, {})) == ([], [])


@given(OUTCOMES, OUTCOMES)
def test_every_load_balancer_without_a_good_answer_is_a_problem(one, other):
    problems, failed = lb_problems(told(), answers(one, other))
    wanted = [lb for lb, found in (("lb1", one), ("lb2", other)) if found != {}]
    assert sorted(failed) == wanted
    assert bool(problems) == bool(wanted)


def test_results_of_a_task_that_never_ran_are_failures():
    assert lb_problems(told(), []) == (["lb1, lb2: was not asked"], ["lb1", "lb2"])


def test_a_result_without_an_item_proves_nothing():
    assert lb_problems(told(), [{"skipped": True}])[1] == ["lb1", "lb2"]


def test_the_same_failure_is_told_once_with_all_load_balancers():
    problems, _failed = lb_problems(told(), answers(*[{"failed": True, "msg": "no server web9"}] * 2))
    assert problems == ["lb1, lb2: no server web9"]


@pytest.mark.parametrize("option", ["probe", "settle"])
def test_a_proof_that_was_asked_for_and_is_missing_is_a_problem(option):
    good = {"proof": probed(web1=None)}
    found = [{**answer, "item": {**answer["item"], option: ["web1"]}} for answer in answers(good, {})]
    assert lb_problems(told(), found) == (["lb2: its call returned without the probe that was asked for"], ["lb2"])


def test_what_a_load_balancer_does_not_see_healthy_is_a_problem():
    proof = {"ok": False, "msg": "web1 is DOWN", "targets": []}
    assert lb_problems(told(), answers({}, {"proof": proof})) == (["lb2: web1 is DOWN"], ["lb2"])


def test_servers_that_do_not_answer_a_probe_are_a_problem_each():
    proof = probed(web1="status 500", web2=None)
    assert lb_problems(told(), answers({}, {"proof": proof})) == (
        ["lb2: the probe of web1 failed: status 500"],
        ["lb2"],
    )


def test_an_act_that_failed_is_told_and_not_that_it_proved_nothing():
    (failed,) = answers({"failed": True, "msg": "no"})
    found = [{**failed, "item": {"lb": "lb1", "probe": {"path": "/"}}}]
    assert lb_problems({**told(), "lbs": ASKED[:1]}, found) == (["lb1: no"], ["lb1"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "was not asked"),
        ({"skipped": True}, "was not asked"),
        ({"failed": True, "msg": "no\n such  thing"}, "no such thing"),
        ({"failed": True}, "failed without a word"),
        ({"unreachable": True, "msg": "no route"}, "unreachable (no route)"),
    ],
)
def test_why_an_answer_is_bad_is_told_in_one_line(answer, words):
    assert why(answer) == words
    assert answer is None or bad(answer)


def test_a_long_reason_is_shortened():
    assert len(why({"failed": True, "msg": "x" * 5000})) == 600


def test_reasons_of_a_probe_name_the_servers_that_failed_alike():
    answer = probed(web1="status 500", web2=None, web3="status 500", web4="refused")
    assert reasons(answer) == ["the probe of web1, web3 failed: status 500", "the probe of web4 failed: refused"]


def test_a_target_without_an_answer_did_not_answer_in_time():
    assert reasons({"targets": [{"name": "web1", "health": None}]}) == [
        "the probe of web1 failed: did not answer in time"
    ]


@pytest.mark.parametrize(
    ("watch", "policy", "words"),
    [
        ({"key": "k", "verdict": "pass"}, "rollback", None),
        ({"key": "k", "verdict": "fail", "reason": "5 of 10 failed"}, "continue", "5 of 10 failed"),
        ({"key": "k", "verdict": "inconclusive", "reason": "few"}, "continue", None),
        ({"key": "k", "verdict": "inconclusive", "reason": "few"}, "hold", None),
        ({"key": "k", "verdict": "inconclusive", "reason": "few"}, "rollback", "few; raise its time"),
        ({"key": "k", "verdict": "going", "reason": ""}, "continue", "the watch did not come to an end"),
        ({"key": "another", "verdict": "pass"}, "rollback", "the watch did not come to an end"),
        ({}, "continue", "the watch did not come to an end"),
    ],
)
def test_only_the_verdict_of_this_very_watch_lets_a_step_pass(watch, policy, words):
    problems = watch_problems(told(), watch, policy)
    assert bool(problems) == bool(words)
    assert not words or problems[0].startswith(words)


def marker(**changes: t.Any) -> dict[str, t.Any]:
    return {"rollout": "r1", "mode": "forward", "step": 2, "ok": True, "reason": "", **changes}


def test_a_host_that_came_to_the_end_of_this_step_is_good():
    assert host_problems(told(hosts={"web1": {}}), "r1", {"web1": marker()}) == {}


def test_the_number_of_a_step_may_come_as_text():
    assert host_problems(told(hosts={"web1": {}}), "r1", {"web1": marker(step="2")}) == {}


@pytest.mark.parametrize("found", [{}, {"rollout": "r0"}, {"mode": "undo"}, {"step": 1}, {"step": None}])
def test_a_host_without_the_mark_of_this_step_is_lost(found):
    markers = {"web1": {**marker(), **found}} if found else {}
    problems = host_problems(told(hosts={"web1": {}}), "r1", markers)
    assert "did not come to the end of the deploy" in problems["web1"]


@pytest.mark.parametrize(("reason", "words"), [("no space left", "no space left"), ("", "without a word")])
def test_a_host_whose_deploy_failed_says_why(reason, words):
    problems = host_problems(told(hosts={"web1": {}}), "r1", {"web1": marker(ok=False, reason=reason)})
    assert problems == {"web1": f"web1: the deploy failed: {words}"}


def test_hosts_that_are_not_in_the_step_are_not_asked_for():
    assert host_problems(told(hosts={"web1": {}}), "r1", {"web1": marker(), "web2": {}}) == {}


def test_members_are_lost_by_their_host_or_by_their_probe():
    members = fleet(4)
    assert lost_members(members, answers({"proof": probed(web2="status 500", web3=None)}), ["web4"]) == ["web2", "web4"]


def test_all_members_are_lost_where_it_cannot_be_told_apart():
    assert lost_members(fleet(2), [], []) == ["web1", "web2"]


@pytest.mark.parametrize(("previous", "since"), [({}, 100.0), ({"progress_at": 50}, 50.0), ({"progress_at": 0}, 100.0)])
def test_progress_is_when_hosts_last_came_into_rotation(previous, since):
    assert progress({"at": 100}, previous) == since


@pytest.mark.parametrize(
    ("now", "deadline", "words"),
    [
        (160, 60, None),
        (161, 60, "no batch came into rotation for 61 s, more than rolling_progress_deadline (60 s)"),
        (9999, 0, None),
    ],
)
def test_a_rolling_release_without_progress_is_overdue(now, deadline, words):
    assert overdue(100, now, deadline) == ([words] if words else [])


@pytest.mark.parametrize(
    ("previous", "well"),
    [
        ({"ok": True, "index": 1}, True),
        ({"ok": True, "index": "1"}, True),  # ansible-core 2.17 makes text of numbers
        ({"ok": False, "index": 1}, False),
        ({"ok": True, "index": 0}, False),
        ({"failed": True, "msg": "a defect"}, False),
        ({}, False),
    ],
)
def test_a_step_is_taken_only_after_the_good_end_of_the_one_before(previous: dict[str, t.Any], well: bool) -> None:
    assert well_so_far(previous, 2, 0) is well
    assert well_so_far(previous, 2, 2)


def test_a_step_that_was_left_out_says_again_what_went_wrong_and_notes_nothing():
    before = {
        "ok": False,
        "index": 1,
        "problem": "web1: x",
        "problems": ["Step 2: web1: x"],
        "lost": ["web1"],
        "forward_only": ["the migration of 2.0.0"],
        "failed_lbs": ["lb1"],
        "progress_at": 7.0,
        "results": [{"step": 1, "ok": False}],
        "releases": {},
    }
    after = left_out(told(lbs=[]), "r1", before)
    assert after == {**before, "index": 2, "rollout_id": "r1", "mode": "forward", "hosts": [], "paused": ""}


def test_a_step_that_was_left_out_after_nothing_at_all_did_not_go_well():
    after = left_out(told(lbs=[], at=3.0), "r1", {})
    assert (after["ok"], after["problem"], after["lost"]) == (False, "", [])


# --- Pauses

WATCH = {"seconds": 10}


@pytest.mark.parametrize(
    ("told", "watch", "policy", "expected"),
    [
        ({"words": "Step 1", "kind": "pause", "key": "k", "watch": None}, {}, "rollback", "until it is promoted"),
        ({"words": "Step 1", "kind": "pause", "key": "k", "watch": WATCH}, {"key": "k", "verdict": "pass"}, "hold", ""),
        (
            {"words": "Step 1", "kind": "analyse", "key": "k", "watch": WATCH},
            {"key": "k", "verdict": "inconclusive", "reason": "few"},
            "hold",
            "few",
        ),
        (
            {"words": "Step 1", "kind": "analyse", "key": "k", "watch": WATCH},
            {"key": "k", "verdict": "inconclusive", "reason": "few"},
            "continue",
            "",
        ),
        (
            {"words": "Step 1", "kind": "analyse", "key": "k", "watch": WATCH},
            {"key": "old", "verdict": "inconclusive", "reason": "few"},
            "hold",
            "",
        ),
        ({"words": "Step 1", "kind": "deploy", "key": "k", "watch": None}, {}, "hold", ""),
    ],
)
def test_a_step_ends_in_a_pause_where_it_is_one_or_where_what_it_saw_is_held(told, watch, policy, expected) -> None:
    found = pause_of(told, watch, policy)
    assert expected in found if expected else not found


def test_after_a_pause_no_step_is_taken() -> None:
    assert well_so_far({"ok": True, "index": 3, "paused": ""}, 4, 0)
    assert not well_so_far({"ok": True, "index": 3, "paused": "it waits"}, 4, 0)
