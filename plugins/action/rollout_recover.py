# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of the way back for the hosts, once traffic is back: out of what the load balancers have recorded."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._conclusion import bad
from ansible_collections.steady.rollout.plugins.module_utils._executor import Run, turns
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._recovery import back_from
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "run": {"type": "dict", "required": True},
        "answers": {"type": "list", "elements": "dict", "required": True},
        "on_failure": {"type": "str", "required": True},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        run = Run.from_dict(options["run"])
        answers = {
            answer["item"]["lb"]: answer for answer in options["answers"] if "item" in answer and not bad(answer)
        }
        if options["on_failure"] == "hold":
            return {"run": None, "steps": [], "problem": "", "words": "Hosts stay as they are (hold)"}
        if not answers:
            return {
                "run": None,
                "steps": [],
                "problem": "no load balancer answered, so no host was undone",
                "words": "",
            }
        try:
            recovery = back_from(answers, run.plan.backends)
        except PlanError as exc:
            return {"run": None, "steps": [], "problem": f"{exc} No host was undone.", "words": ""}
        if recovery is None or recovery.rollout_id != run.rollout_id:
            return {
                "run": None,
                "steps": [],
                "problem": "the record of this rollout is gone; no host was undone",
                "words": "",
            }
        back = recovery.run(run.rollout_id, run.lbs, run.settings, answers, run.addresses)
        silent = [lb.name for lb in run.lbs if lb.name not in answers]
        if silent and back.plan.steps:
            problem = f"no host was undone, as {', '.join(silent)} may still send traffic to them"
            return {"run": None, "steps": [], "problem": problem, "words": ""}
        unknown = recovery.unknown(answers)
        lost = f"{', '.join(unknown)} keep the new release, as nobody knows what ran there before: set rollout_previous"
        return {
            "run": back.as_dict(),
            "steps": turns(back),
            "kinds": [step.kind for step in back.plan.steps],
            "problem": lost if unknown else "",
            "words": _words(back),
        }


def _words(back: Run) -> str:
    """Which hosts go back to which release."""
    groups = [step.members for step in back.plan.steps if step.kind == "deploy"]
    releases = {back.releases.get(key) for group in groups for key in group}
    to = f"release {releases.pop()}" if len(releases) == 1 and None not in releases else "their previous releases"
    return f"{'; '.join(', '.join(group) for group in groups)} to {to}"
