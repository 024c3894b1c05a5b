# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What a rollout did that cannot be taken back, such as a migration: who said so, where it is on record, and its words. Pure.

A rollout that did such a thing is never undone by itself: that would put releases back that may not know what was changed.
"""

from __future__ import annotations

import typing as t

Facts = t.Mapping[str, t.Mapping[str, t.Any]]  # {host: {marker, text}}, as the deploy on each host left them

FIELD = "forward_only"  # of a begin, a result and an end in the journal
LONGEST = 200
RESUME = "the same command and -e rollout_action=resume"
ROLL_BACK = "the playbook steady.rollout.rollback"


def of_hosts(facts: Facts, rollout_id: str) -> tuple[str, ...]:
    """What the deploys of this very rollout said, each once. A fact of an earlier rollout, or of a way back, is none of it."""
    own = [fact for fact in facts.values() if _is_of(fact.get("marker"), rollout_id)]
    return joined([_text(fact.get("text")) for fact in own])


def of_records(rollouts: t.Iterable[t.Mapping[str, t.Any]]) -> tuple[str, ...]:
    """What is on record, also by the rollouts that these went on with. ``rollouts``: as _journal.fold tells them."""
    lines = (line for one in rollouts for line in (one["begin"], *one["events"]))
    told = (line.get(FIELD) for line in lines)
    return joined([str(text) for texts in told if isinstance(texts, (list, tuple)) for text in texts])


def joined(*many: t.Iterable[str]) -> tuple[str, ...]:
    """All of them, each once, in their order."""
    return tuple(dict.fromkeys(text for texts in many for text in texts if text))


def on_record(texts: t.Sequence[str]) -> dict[str, list[str]]:
    """The field of a line in the journal; nothing where there is nothing to tell."""
    return {FIELD: list(texts)} if texts else {}


def held(texts: t.Sequence[str]) -> list[str]:
    """Why hosts are held as they are, and the ways on."""
    return [
        f"{', '.join(texts)} cannot be taken back, so the hosts are held as they are: none was put back to its former release, and what "
        "was not yet seen to be good stays out of rotation",
        f"mend what failed and go on by {RESUME}, or go back on purpose with {ROLL_BACK}: then {_runs_on(texts)}",
    ]


def gone_back(texts: t.Sequence[str]) -> str:
    """What whoever takes the rollout back must know."""
    return f"{', '.join(texts)} cannot be taken back: {_runs_on(texts)}" if texts else ""


def _runs_on(texts: t.Sequence[str]) -> str:
    return f"the former release runs on what {'these' if len(texts) > 1 else 'this'} left"


def _is_of(marker: t.Any, rollout_id: str) -> bool:
    return isinstance(marker, t.Mapping) and (marker.get("rollout"), marker.get("mode")) == (rollout_id, "forward")


def _text(value: t.Any) -> str:
    """The fact as one line; where the role said only that it did something, as much."""
    if value in (None, False):
        return ""
    if value is True:
        return "what the deploy did"
    words = " ".join(str(value).split())
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 3]}..."
