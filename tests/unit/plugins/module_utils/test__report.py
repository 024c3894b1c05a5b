# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._executor import FORWARD, UNDO, Run
from ansible_collections.steady.rollout.plugins.module_utils._plan import Step
from ansible_collections.steady.rollout.plugins.module_utils._report import Report, last_acts, make

from simulated_rollout import fleet, make_run

CAUSE = "web2: the deploy failed: no space left"
RESTORED = [{"item": {"lb": "lb1"}, "out": {}}, {"item": {"lb": "lb2"}}]
BACK = {"steps": [{"index": 0}, {"index": 1}], "words": "drain web1; deploy web1"}
NO_STEPS: dict[str, t.Any] = {"steps": [], "words": "No host has to go back"}
MIGRATION = "the migration of 2.0.0"
HELD = {**NO_STEPS, "forward_only": [MIGRATION]}
DONE = {"mode": UNDO, "index": 1, "ok": True, "problems": []}


def run(**changes: t.Any) -> Run:
    return make_run(fleet(2), [], lbs=["lb1", "lb2"], **changes)


def report(**changes: t.Any) -> Report:
    known = {
        "run": run(),
        "cause": CAUSE,
        "restored": RESTORED,
        "recovery": BACK,
        "concluded": DONE,
        "on_failure": "rollback",
    }
    return make(**{**known, **changes})


# A way back that was asked for and failed: one that puts releases back, and one that only moves traffic.
ROLLED = make_run(fleet(2), [Step("deploy", ("web1",))], lbs=["lb1", "lb2"], action="undo")
SILENT = [RESTORED[0], {"item": {"lb": "lb2"}, "unreachable": True, "msg": "no route"}]
OUT = [{"item": {"lb": "lb1"}, "out": {"shop": {"web2": "web2 is not UP"}}}, RESTORED[1]]


@pytest.mark.parametrize(
    ("changes", "outcome", "ok", "keep_lock"),
    [
        ({}, "rolled_back", True, False),
        ({"recovery": NO_STEPS, "concluded": {}}, "rolled_back", True, False),
        ({"run": run(mode=UNDO, action="undo"), "cause": ""}, "rolled_back", True, False),
        ({"restored": SILENT}, "rollback_failed", False, True),
        ({"restored": []}, "rollback_failed", False, True),
        ({"restored": OUT}, "rollback_failed", False, True),
        ({"recovery": {}}, "rollback_failed", False, True),
        ({"recovery": {"problem": "no load balancer answered", "steps": []}}, "rollback_failed", False, True),
        ({"concluded": {}}, "rollback_failed", False, True),
        ({"concluded": {**DONE, "mode": FORWARD}}, "rollback_failed", False, True),
        ({"concluded": {**DONE, "index": 0}}, "rollback_failed", False, True),
        ({"concluded": {**DONE, "ok": False, "problems": ["no answer"]}}, "rollback_failed", False, True),
        ({"on_failure": "hold", "recovery": NO_STEPS}, "paused", False, True),
        ({"on_failure": "hold", "recovery": NO_STEPS, "restored": SILENT}, "rollback_failed", False, True),
        ({"recovery": HELD}, "paused", False, True),
        ({"recovery": HELD, "on_failure": "hold"}, "paused", False, True),
        ({"recovery": HELD, "restored": OUT}, "rollback_failed", False, True),
        ({"recovery": {"failed": True, "msg": "a defect"}}, "rollback_failed", False, True),
        ({"run": ROLLED, "recovery": NO_STEPS, "on_failure": "hold"}, "rollback_failed", False, True),
        ({"run": run(action="undo"), "recovery": NO_STEPS}, "rollback_failed", False, False),
        ({"run": run(action="undo"), "recovery": NO_STEPS, "on_failure": "hold"}, "rollback_failed", False, False),
    ],
)
def test_the_outcome_follows_from_traffic_hosts_and_policy(changes, outcome, ok, keep_lock):
    made = report(**changes)
    assert (made.outcome, made.ok, made.keep_lock) == (outcome, ok, keep_lock)


def test_the_message_tells_the_cause_and_what_is_true_now():
    assert report().message == (
        f"release 2.0.0 (custom) failed: {CAUSE}; traffic is back to what was safe on lb1, lb2; hosts went back: drain web1; "
        "deploy web1"
    )


def test_a_load_balancer_that_was_not_restored_is_named_loudly():
    made = report(restored=SILENT)
    assert "TRAFFIC WAS NOT RESTORED on lb2: unreachable (no route)" in made.message
    assert made.restored == ("lb1",)


def test_a_load_balancer_of_which_nothing_came_back_is_named():
    made = report(restored=[])
    assert "traffic was restored on no load balancer" in made.message
    assert "on lb1: was not asked" in made.message
    assert made.restored == ()


def test_a_server_that_did_not_come_back_is_named():
    assert "lb1 leaves shop/web2 out of rotation: web2 is not UP" in report(restored=OUT).message


def test_what_went_wrong_with_the_hosts_is_told():
    made = report(concluded={**DONE, "ok": False, "problems": ["Way back, step 2: web1: no answer"]})
    assert "Way back, step 2: web1: no answer" in made.message
    assert made.message.endswith("then run the playbook steady.rollout.rollback again")


def test_on_hold_the_way_back_is_named():
    assert report(on_failure="hold", recovery=NO_STEPS).message.endswith("take all back with steady.rollout.rollback")


def test_where_something_cannot_be_taken_back_the_cause_and_the_ways_on_are_told():
    assert report(recovery=HELD).message == (
        f"release 2.0.0 (custom) failed: {CAUSE}; traffic is back to what was safe on lb1, lb2; {MIGRATION} cannot be taken back, so the "
        "hosts are held as they are: none was put back to its former release, and what was not yet seen to be good stays out of rotation; "
        "mend what failed and go on by the same command and -e rollout_action=resume, or go back on purpose with the playbook "
        "steady.rollout.rollback: then the former release runs on what this left"
    )


def test_a_rollback_on_purpose_tells_what_cannot_be_taken_back():
    made = report(run=run(mode=UNDO, action="undo", forward_only=(MIGRATION,)), cause="")
    assert made.outcome == "rolled_back"
    assert made.message.endswith(f"{MIGRATION} cannot be taken back: the former release runs on what this left")


def test_a_rollback_that_was_asked_for_tells_no_failed_release():
    assert report(run=run(mode=UNDO, action="undo"), cause="").message.startswith("traffic is back")


def test_only_where_traffic_was_restored_is_a_record_closed():
    acts = last_acts(run(), report(restored=SILENT), (), {"results": [{"step": 1}]})
    assert [(act["lb"], act["act"], act["outcome"], act["keep_lock"], act["results"]) for act in acts] == [
        ("lb1", "end", "rollback_failed", True, [{"step": 1}])
    ]


def test_what_cannot_be_taken_back_is_told_to_every_load_balancer():
    acts = last_acts(run(), report(restored=SILENT, recovery=HELD), (MIGRATION,), {})
    assert [(act["lb"], act["act"], act["record"]["forward_only"]) for act in acts] == [
        ("lb1", "end", [MIGRATION]),
        ("lb2", "note", [MIGRATION]),
    ]
    assert "lease" not in acts[1]
