# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""From which step a rollout that another run left can go on: the last one where the journals and the servers agree. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    UNDO,
    WATCHES,
    LoadBalancer,
    Run,
    expected_at,
    is_in,
)
from ansible_collections.steady.rollout.plugins.module_utils._fleet import carries, servers_of
from ansible_collections.steady.rollout.plugins.module_utils._plan import Plan
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError

Rollouts = t.Sequence[t.Mapping[str, t.Any]]  # of each backend of one load balancer, as _journal.fold tells it
Readings = t.Mapping[str, t.Mapping[str, t.Any]]  # {lb: what rollout_info returned}


def first_step(run: Run, records: t.Mapping[str, Rollouts], readings: Readings) -> int:
    """The number of the step to go on with, from 0. ``records``: by load balancer, of the rollout and of those it took over.

    Raises PlanError where the servers are not as any step that was reached left them.
    """
    # No step is announced anywhere before the one before it went well everywhere.
    begun = max(announced(records.get(lb.name, ())) for lb in run.lbs)
    due = {lb.name: max(begun, due_step(run.plan, records.get(lb.name, ()))) for lb in run.lbs}
    reached = {lb.name: _reached(run, lb, readings[lb.name], due[lb.name]) for lb in run.lbs}
    first = min(reached.values())
    for lb in run.lbs:
        wrong = _differences(run, lb, readings[lb.name], first - 1, first)
        if wrong:
            others = ", ".join(name for name in reached if reached[name] == first)
            raise PlanError(f"{lb.name} is further than {others}: {'; '.join(wrong)}.")
    if len(set(reached.values())) > 1:
        # One load balancer was told the step, and the other was not: to tell it again changes nothing there.
        return first
    # Whatever gets traffic is seen to be good right before, however long ago it was seen the last time.
    steps, lbs = run.plan.steps, run.lbs
    gives = 0 < first < len(steps) and steps[first].kind in ("admit", "traffic")
    if gives and steps[first - 1].kind in ("probe", "analyse"):
        before = all(not _differences(run, lb, readings[lb.name], first - 2) for lb in lbs)
        return first - 1 if before else first
    return first


def paused_at(run: Run, records: t.Mapping[str, Rollouts]) -> int:
    """The step at which the rollout was paused; -1 where that is none that watches, or waits."""
    step = max(announced(records.get(lb.name, ())) for lb in run.lbs)
    return step if step < len(run.plan.steps) and run.plan.steps[step].kind in WATCHES else -1


def analysis_of(records: t.Mapping[str, Rollouts]) -> t.Mapping[str, t.Any]:
    """What the judge knew when it was last written down; {} where it never was, or had come to a fail."""
    rollouts = [one for each in records.values() for one in each]
    events = [event for one in rollouts for event in one["events"]]
    # What it took over comes first: it may have died before it wrote down anything itself.
    taken = [{"at": "", **(one["begin"].get("resumed") or {})} for one in rollouts]
    known = [event for event in (*taken, *events) if isinstance(event.get("analysis"), t.Mapping) and event["analysis"]]
    last = max(known, key=lambda event: str(event["at"]))["analysis"] if known else {}
    # A verdict that failed stays so; whoever goes on all the same begins anew.
    return {} if last.get("failed") else last


def due_step(plan: Plan, rollouts: Rollouts) -> int:
    """The first step that is not known to have gone well on a load balancer."""
    last = announced(rollouts)
    return last + 1 if _went_well(plan, last, rollouts) else last


def announced(rollouts: Rollouts) -> int:
    """The last step that was announced on a load balancer, or that a rollout went on from."""
    steps = [int((one["begin"].get("resumed") or {}).get("at", 0)) for one in rollouts]
    events = [event for one in rollouts for event in one["events"] if event.get("mode") != UNDO]
    steps += [
        int(event["step"]) for event in events if event["event"] == "intent" and isinstance(event.get("step"), int)
    ]
    return max(steps, default=0)


def _went_well(plan: Plan, step: int, rollouts: Rollouts) -> bool:
    """Whether the last step that was announced is on record as done; the share of traffic was seen only when the next one began."""
    if not 0 <= step < len(plan.steps) or plan.steps[step].kind == "traffic":
        return False
    if plan.steps[step].kind == "pause" and plan.steps[step].seconds is None:
        return False  # it is over when somebody promotes, and that is not for the record to say
    by_module = plan.steps[step].kind in ("drain", "admit")
    own = [[event for event in one["events"] if event.get("step") == step] for one in rollouts]
    concerned = [events for events in own if any(event["event"] == "intent" for event in events)]
    return bool(concerned) and all(any(_is_good(event, by_module) for event in events) for events in concerned)


def _is_good(event: t.Mapping[str, t.Any], by_module: bool) -> bool:
    """Whether it is the result of a step that went well; one that was held did not."""
    good = event["event"] == "result" and event.get("ok") and (by_module or "act" not in event)
    return bool(good) and event.get("verdict", "pass") == "pass"


def _reached(run: Run, lb: LoadBalancer, reading: t.Mapping[str, t.Any], due: int) -> int:
    """The last step up to ``due`` that can be taken as the servers are; one that was cut off may have moved some of them."""
    for step in range(due, -1, -1):
        if not _differences(run, lb, reading, step - 1, step):
            return step
    wrong = "; ".join(_differences(run, lb, reading, due - 1, due))
    left = f"step {due}, or any before it, left it" if due else "the rollout found it"
    raise PlanError(f"{lb.name} is not as {left}: {wrong}.")


def _differences(run: Run, lb: LoadBalancer, reading: t.Mapping[str, t.Any], *steps: int) -> list[str]:
    """Servers that are as none of ``steps`` leaves them, in words, with what the first one does. Out of rotation is out, in drain or
    in maint."""
    expected = [expected_at(run, lb, step) for step in steps]
    found = []
    for backend, states in expected[0].items():
        servers = servers_of(reading, backend)
        for name, wanted in states.items():
            server = servers.get(name)
            if server is None or not any(_is_as(server, each[backend][name]) for each in expected):
                now = f"{server['own_state']} with weight {server['weight']}" if server else "gone"
                found.append(f"{name} of {backend} is {now}, not {_words(wanted)}")
    return found


def _is_as(server: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any]) -> bool:
    is_now = carries({**server, "state": server["own_state"]})
    weighs = not is_now or wanted["weight"] in (None, server["weight"])
    return weighs and is_now == is_in(wanted)


def _words(wanted: t.Mapping[str, t.Any]) -> str:
    if not is_in(wanted):
        return "out of rotation"
    return "ready" if wanted["weight"] is None else f"ready with weight {wanted['weight']}"


def difference(old: Plan, new: Plan) -> str:
    """What makes two plans differ, in words; "" where they are the same."""
    if old.hash == new.hash:
        return ""
    for what, before, now in (
        ("its strategy was", old.strategy, new.strategy),
        ("its release was", old.release, new.release),
        ("its backends were", ", ".join(old.backends), ", ".join(new.backends)),
        ("its hosts were", _hosts(old), _hosts(new)),
    ):
        if before != now:
            return f"{what} {before}, and {'is' if what.endswith('was') else 'are'} {now} now"
    for number in range(max(len(old.steps), len(new.steps))):
        words = [plan.steps[number].words() if number < len(plan.steps) else "none" for plan in (old, new)]
        if words[0] != words[1]:
            return f"its step {number + 1} was {words[0]}, and is {words[1]} now"
    return "its hosts serve others than before, or a step has other options"


def _hosts(plan: Plan) -> str:
    return ", ".join(member.key for member in plan.members)
