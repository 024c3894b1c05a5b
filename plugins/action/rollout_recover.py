# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of the way back for the hosts, once traffic is back: out of what the load balancers have recorded."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _forward_only
from ansible_collections.steady.rollout.plugins.module_utils._conclusion import bad, of_this
from ansible_collections.steady.rollout.plugins.module_utils._executor import FORWARD, Run, turns
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._recovery import back_from
from ansible_collections.steady.rollout.plugins.plugin_utils._deploy_facts import forward_only_facts
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction

Answers = t.Mapping[str, t.Mapping[str, t.Any]]


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "run": {"type": "dict", "required": True},
        "answers": {"type": "list", "elements": "dict", "required": True},
        "on_failure": {"type": "str", "required": True},
        "concluded": {"type": "dict", "default": {}},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        run = Run.from_dict(options["run"])
        answers = {
            answer["item"]["lb"]: answer for answer in options["answers"] if "item" in answer and not bad(answer)
        }
        forward_only = self._forward_only(run, options["concluded"], answers, task_vars)
        # What a person asked to be taken back is taken back.
        if forward_only and run.action == "deploy":
            return {**_nothing(words="Hosts stay as they are"), "forward_only": list(forward_only)}
        if options["on_failure"] == "hold":
            return _nothing(words="Hosts stay as they are (hold)")
        if not answers:
            return _nothing("no load balancer answered, so no host was undone")
        try:
            recovery = back_from(answers, run.plan.backends)
        except PlanError as exc:
            return _nothing(f"{exc} No host was undone.")
        if recovery is None or recovery.rollout_id != run.rollout_id:
            return _nothing("the record of this rollout is gone; no host was undone")
        back = recovery.run(run.rollout_id, run.lbs, run.settings, answers, run.addresses)
        silent = [lb.name for lb in run.lbs if lb.name not in answers]
        if silent and back.plan.steps:
            return _nothing(f"no host was undone, as {', '.join(silent)} may still send traffic to them")
        unknown = recovery.unknown(answers)
        lost = f"{', '.join(unknown)} keep the new release, as nobody knows what ran there before: set rollout_previous"
        return {
            "run": back.as_dict(),
            "steps": turns(back),
            "kinds": [step.kind for step in back.plan.steps],
            "problem": lost if unknown else "",
            "words": _words(back),
        }

    def _forward_only(
        self, run: Run, concluded: t.Mapping[str, t.Any], answers: Answers, task_vars: dict[str, t.Any]
    ) -> tuple[str, ...]:
        """From all that knows of it: one load balancer that is silent, or one conclusion that is missing, must not lead to an undo."""
        rollouts = [record.get("rollout") or {} for answer in answers.values() for record in answer["records"].values()]
        hosts = sorted({member.host for member in run.plan.members})
        return _forward_only.joined(
            run.forward_only,
            of_this(concluded, run.rollout_id, FORWARD).get("forward_only", ()),
            _forward_only.of_records(one for one in rollouts if one.get("rollout_id") == run.rollout_id),
            _forward_only.of_hosts(forward_only_facts(task_vars, hosts), run.rollout_id),
        )


def _nothing(problem: str = "", words: str = "") -> dict[str, t.Any]:
    """No host is undone."""
    return {"run": None, "steps": [], "problem": problem, "words": words}


def _words(back: Run) -> str:
    """Which hosts go back to which release."""
    groups = [step.members for step in back.plan.steps if step.kind == "deploy"]
    releases = {back.releases.get(key) for group in groups for key in group}
    to = f"release {releases.pop()}" if len(releases) == 1 and None not in releases else "their previous releases"
    return f"{', then '.join(', '.join(group) for group in groups)} to {to}"
