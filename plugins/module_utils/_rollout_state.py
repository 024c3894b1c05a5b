# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The states of a rollout, as data: what leads from one to the next, and the ways on from each. Pure.

Nobody writes a state down: it follows from the journal, so that there is nothing that could differ from it.
"""

from __future__ import annotations

import typing as t

RUNNING, PAUSED, ABANDONED = "running", "paused", "abandoned"
ROLLING_BACK, ROLLBACK_FAILED, ROLLED_BACK = "rolling_back", "rollback_failed", "rolled_back"
PROMOTED = "promoted"

# {state: {what the journal says next: the state after it}}. A step is taken, the traffic is returned by the controller (rescue)
# or by the guard (expiry), or the rollout ends with an outcome.
TRANSITIONS: t.Mapping[str, t.Mapping[str, str]] = {
    RUNNING: {"step": RUNNING, "promoted": PROMOTED, "paused": PAUSED, "rescue": ROLLING_BACK, "expiry": ABANDONED},
    ROLLING_BACK: {
        "step": ROLLING_BACK,
        "rescue": ROLLING_BACK,
        # A way back that is interrupted can only be gone again.
        "expiry": ROLLING_BACK,
        "rolled_back": ROLLED_BACK,
        "rollback_failed": ROLLBACK_FAILED,
        "paused": PAUSED,
    },
    ABANDONED: {"expiry": ABANDONED},
    # A pause is trusted for a time, too.
    PAUSED: {"paused": PAUSED, "rescue": ROLLING_BACK, "expiry": ABANDONED},
    ROLLBACK_FAILED: {},
    ROLLED_BACK: {},
    PROMOTED: {},
}
# What a person can do with it. Each is another rollout, which takes this one over.
WAYS_ON: t.Mapping[str, tuple[str, ...]] = {
    RUNNING: ("resume", "rollback"),
    PAUSED: ("promote", "resume", "rollback"),
    ABANDONED: ("resume", "rollback"),
    ROLLING_BACK: ("rollback",),
    ROLLBACK_FAILED: ("rollback",),
    PROMOTED: ("rollback",),
    ROLLED_BACK: (),
}
OUTCOMES = ("promoted", "rolled_back", "rollback_failed", "paused")


def state_of(rollout: t.Mapping[str, t.Any], abandoned: bool = False) -> str:
    """The state of a rollout on one load balancer. ``rollout``: as _journal.fold tells it; ``abandoned``: what its lock says."""
    state = history(rollout)[-1][1]
    # On a full disk the guard cannot write into the journal.
    return ABANDONED if abandoned and state in (RUNNING, PAUSED) else state


def waits(rollout: t.Mapping[str, t.Any]) -> bool:
    """Whether it waits to be promoted: it was paused on its way forward, and not held on its way back."""
    states = [state for _what, state in history(rollout)]
    before = [state for state in states if state != PAUSED]
    return states[-1] == PAUSED and before[-1] == RUNNING


def history(rollout: t.Mapping[str, t.Any]) -> list[tuple[str, str]]:
    """What happened, and the state after it, from the begin on. What no transition is for changes nothing."""
    state = ROLLING_BACK if rollout["begin"].get("action") == "undo" else RUNNING
    told = [("begin", state)]
    for event in rollout["events"]:
        what = _what(event)
        if what:
            state = TRANSITIONS[state].get(what, state)
            told.append((what, state))
    return told


def _what(event: t.Mapping[str, t.Any]) -> str:
    if event["event"] == "end":
        return str(event["outcome"]) if event.get("outcome") in OUTCOMES else ""
    if event["event"] != "intent":
        return ""
    if event.get("act") == "restore":
        return "expiry" if event.get("by") == "guard" else "rescue"
    if event.get("mode") == "undo":
        return "rescue"
    return "step" if isinstance(event.get("step"), int) else ""
