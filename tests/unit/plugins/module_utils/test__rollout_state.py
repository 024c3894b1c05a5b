# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._rollout_state import (
    TRANSITIONS,
    WAYS_ON,
    history,
    state_of,
    waits,
)

STEP = {"event": "intent", "step": 3, "mode": "forward"}
BACK = {"event": "intent", "step": 0, "mode": "undo"}
RESCUE = {"event": "intent", "act": "restore"}
EXPIRY = {"event": "intent", "act": "restore", "by": "guard"}


def end(outcome: str) -> dict[str, t.Any]:
    return {"event": "end", "outcome": outcome}


def state(*events: t.Mapping[str, t.Any], action: str = "deploy", abandoned: bool = False) -> str:
    return state_of({"begin": {"action": action}, "events": events}, abandoned)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], "running"),
        ([STEP, {"event": "result", "step": 3, "ok": True}], "running"),
        ([STEP, end("promoted")], "promoted"),
        ([STEP, RESCUE], "rolling_back"),
        ([STEP, RESCUE, BACK, end("rolled_back")], "rolled_back"),
        ([STEP, RESCUE, BACK, end("rollback_failed")], "rollback_failed"),
        ([STEP, RESCUE, end("paused")], "paused"),
        ([STEP, EXPIRY], "abandoned"),
        ([STEP, RESCUE, EXPIRY], "rolling_back"),
        ([STEP, end("paused")], "paused"),
        ([STEP, end("paused"), EXPIRY], "abandoned"),
        ([STEP, end("paused"), RESCUE], "rolling_back"),
    ],
)
def test_the_state_follows_from_the_journal(events, expected):
    assert state(*events) == expected


def test_a_rollback_is_on_its_way_back_from_the_start():
    assert state(action="undo") == "rolling_back"


def test_a_guard_that_could_not_write_into_the_journal_is_believed():
    assert state(STEP, abandoned=True) == "abandoned"
    assert state(STEP, RESCUE, abandoned=True) == "rolling_back"
    assert state(STEP, end("paused"), abandoned=True) == "abandoned"


def test_only_what_was_paused_on_its_way_forward_waits_to_be_promoted():
    def told(*events):
        return {"begin": {"action": "deploy"}, "events": events}

    assert waits(told(STEP, end("paused")))
    assert waits(told(STEP, end("paused"), end("paused")))
    assert not waits(told(STEP, RESCUE, end("paused")))
    assert not waits(told(STEP, end("paused"), EXPIRY))
    assert not waits(told(STEP))


def test_what_no_transition_is_for_changes_nothing():
    assert history({"begin": {}, "events": [end("promoted"), STEP]}) == [
        ("begin", "running"),
        ("promoted", "promoted"),
        ("step", "promoted"),
    ]


def test_every_state_has_transitions_and_ways_on_and_every_transition_leads_to_a_state():
    assert set(TRANSITIONS) == set(WAYS_ON)
    assert {after for known in TRANSITIONS.values() for after in known.values()} <= set(TRANSITIONS)


def test_only_what_is_rolled_back_leaves_nothing_to_do():
    assert [name for name, ways in WAYS_ON.items() if not ways] == ["rolled_back"]
