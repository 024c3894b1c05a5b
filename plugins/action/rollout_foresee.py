# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollout would leave behind on each load balancer, as a diff; nothing is changed."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._executor import Run, end_state, expected_at
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {"run": {"type": "dict", "required": True}}

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        run = Run.from_dict(options["run"])
        diffs: list[dict[str, str]] = []
        for lb in run.lbs:
            before, after = _lines(expected_at(run, lb, -1)), _lines(end_state(run, lb))
            diffs.append({"before_header": lb.name, "after_header": lb.name, "before": before, "after": after})
        if run.action == "deploy":
            after = f"release: {run.plan.release}\n"
            diffs.append({"before_header": "hosts", "after_header": "hosts", "before": _running(run), "after": after})
        return {"changed": True, "diff": diffs}


def _lines(states: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]]) -> str:
    return "".join(
        f"{backend}/{name}: {state['state']}, weight {'of its agent' if state['weight'] is None else state['weight']}\n"
        for backend, servers in states.items()
        for name, state in servers.items()
    )


def _running(run: Run) -> str:
    """What the record says of the members that are deployed."""
    keys = [key for step in run.plan.steps if step.kind == "deploy" for key in step.members]
    found = sorted({str(run.previous.get(key) or "unknown") for key in keys})
    return f"release: {', '.join(found)}\n"
