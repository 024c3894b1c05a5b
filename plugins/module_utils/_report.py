# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The last message of a rollout that failed or was taken back: the cause with its numbers, what is true now, what to do."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils import _forward_only
from ansible_collections.steady.rollout.plugins.module_utils._conclusion import bad, why
from ansible_collections.steady.rollout.plugins.module_utils._executor import UNDO, Run, how_to_reach

Results = t.Sequence[t.Mapping[str, t.Any]]


@dataclass(frozen=True)
class Report:
    """``ok``: everything is as it was before; ``keep_lock``: a person has to decide before the next rollout."""

    outcome: str
    message: str
    ok: bool
    keep_lock: bool
    restored: tuple[str, ...] = ()  # load balancers whose traffic is safe


def make(
    run: Run,
    cause: str,
    restored: Results,
    recovery: t.Mapping[str, t.Any],
    concluded: t.Mapping[str, t.Any],
    on_failure: str,
) -> Report:
    """``restored``: what restoring traffic returned per load balancer; ``concluded``: the last step of the way back, if any."""
    back, left = _traffic(run, restored)
    undo = _undo_problem(recovery, concluded)
    problems = [*left, *([undo] if undo else [])]
    head = f"release {run.plan.release} ({run.plan.strategy}) failed: {cause}" if cause else ""
    traffic = (
        f"traffic is back to what was safe on {', '.join(back)}" if back else "traffic was restored on no load balancer"
    )
    gone = [_forward_only.gone_back(run.forward_only)]  # asked for by a person
    retry = "mend this, then run the playbook steady.rollout.rollback again"
    forward_only = recovery.get("forward_only") or ()
    if forward_only:
        words = [head, traffic, *problems, *_forward_only.held(forward_only)]
        return Report("paused" if not problems else "rollback_failed", _sentence(words), False, True, tuple(back))
    if on_failure == "hold" and run.action != "undo":
        words = [head, traffic, *problems, "the hosts are held as they are; take all back with steady.rollout.rollback"]
        return Report("paused" if not problems else "rollback_failed", _sentence(words), False, True, tuple(back))
    if problems:
        words = [head, traffic, *problems, *gone, retry]
        return Report("rollback_failed", _sentence(words), False, True, tuple(back))
    if run.action == "undo" and run.mode != UNDO:
        # A way back that failed is not rolled back: the release that was to go is still there.
        touched = any(step.kind == "deploy" for step in run.plan.steps)
        return Report("rollback_failed", _sentence([head, traffic, *gone, retry]), False, touched, tuple(back))
    hosts = f"hosts went back: {recovery['words']}" if recovery.get("steps") else "no host had to go back"
    return Report("rolled_back", _sentence([head, traffic, hosts, *gone]), True, False, tuple(back))


def last_acts(
    run: Run, report: Report, forward_only: t.Sequence[str], known: t.Mapping[str, t.Any]
) -> list[dict[str, t.Any]]:
    """What the load balancers are told in the end. ``known``: results that are not on record yet."""
    record = {"message": report.message, **_forward_only.on_record(forward_only)}
    ending = {"act": "end", "outcome": report.outcome, "keep_lock": report.keep_lock, **known}
    told = []
    for lb in run.lbs:
        # Where traffic was not restored the lock stays: whoever comes next must see it. What cannot be taken back it must know even where this
        # controller may act no more, or had no answer.
        if lb.name in report.restored or forward_only:
            act = ending if lb.name in report.restored else {"act": "note"}
            told.append({**how_to_reach(lb), **act, "record": record, "timeout": int(run.settings.lb_timeout)})
    return told


def _traffic(run: Run, restored: Results) -> tuple[list[str], list[str]]:
    """Load balancers whose traffic is safe; and what is wrong with the others, in words."""
    answers = {answer["item"]["lb"]: answer for answer in restored if isinstance(answer.get("item"), t.Mapping)}
    back, left = [], []
    for lb in run.lbs:
        answer = answers.get(lb.name)
        if answer and answer.get("abandoned"):
            left.append(f"{lb.name} listens to this controller no more: {answer['abandoned']}")
            continue
        if answer is None or bad(answer):
            left.append(f"TRAFFIC WAS NOT RESTORED on {lb.name}: {why(answer)}")
            continue
        back.append(lb.name)
        left += [
            f"{lb.name} leaves {backend}/{server} out of rotation: {reason}"
            for backend, servers in (answer.get("out") or {}).items()
            for server, reason in servers.items()
        ]
    return back, left


def _undo_problem(recovery: t.Mapping[str, t.Any], concluded: t.Mapping[str, t.Any]) -> str:
    if not recovery:
        return "what the hosts run was not looked at"
    if recovery.get("problem") or recovery.get("failed"):
        return str(recovery.get("problem") or f"what the hosts run could not be told: {why(recovery)}")
    if not recovery.get("steps"):
        return ""
    if concluded.get("mode") != UNDO or concluded.get("index") != recovery["steps"][-1]["index"]:
        return "the way back of the hosts did not come to its end"
    return "; ".join(concluded["problems"])


def _sentence(parts: t.Sequence[str]) -> str:
    return "; ".join(part for part in parts if part)
