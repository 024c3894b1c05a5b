# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the load balancers told to the plan, or to the sentence why there is none."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import time
import typing as t

from ansible.utils.display import Display
from ansible_collections.steady.rollout.plugins.module_utils import _preflight
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    coming_deploys,
    end_state,
    grant,
    how_to_reach,
    shifts,
    turns,
)
from ansible_collections.steady.rollout.plugins.module_utils._preflight import Decision
from ansible_collections.steady.rollout.plugins.module_utils._targets import Refused, Targets
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction

NOTHING: dict[str, t.Any] = {
    "kind": "refused",
    "run": None,
    "steps": [],
    "lbs": [],
    "words": "",
    "on_failure": "rollback",
}


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "targets": {"type": "dict", "required": True},
        "answers": {"type": "list", "elements": "dict", "required": True},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        targets = Targets.from_dict(options["targets"])
        answers = {answer["item"]["lb"]: answer for answer in options["answers"] if "item" in answer}
        rollout_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
        try:
            decision = _preflight.decide(targets, answers, rollout_id, task_vars["ansible_play_hosts"])
        except Refused as exc:
            return {**NOTHING, "refused": str(exc)}
        for warning in (*targets.warnings, *decision.warnings):
            Display().warning(warning)
        return self._result(decision, answers, task_vars)

    def _result(
        self, decision: Decision, answers: t.Mapping[str, t.Any], task_vars: dict[str, t.Any]
    ) -> dict[str, t.Any]:
        run = decision.run
        if run is None or decision.kind == "unchanged":
            return {**NOTHING, "kind": decision.kind, "words": "; ".join(decision.words)}
        lbs = [
            {
                **how_to_reach(lb),
                "record": {**decision.begin, "found": lb.found},
                "safe": decision.safe_to_begin(lb),
                "planned_on": _preflight.planned_on(answers.get(lb.name) or {}, decision),
                **grant(run.settings, "begin"),
                "timeout": int(run.settings.lb_timeout),
            }
            for lb in run.lbs
        ]
        return {
            "kind": decision.kind,
            "rollout_id": run.rollout_id,
            "run": run.as_dict(),
            "steps": turns(run),
            "deploys": coming_deploys(run),
            "words": "; ".join(decision.words),
            "plan": [
                f"{number}. {step.words()}" for number, step in enumerate(run.plan.steps, 1) if number > run.first
            ],
            "shifts": [
                {f"step {index + 1} ({step.kind}) on {lb.name}": shifts(run, lb, step)}
                for index, step in enumerate(run.plan.steps)
                for lb in run.lbs
                if index >= run.first and shifts(run, lb, step)
            ],
            "lbs": lbs,
            "restores": [
                {
                    **how_to_reach(lb),
                    "act": "restore",
                    **grant(run.settings, "restore"),
                    "health_timeout": run.settings.health_timeout,
                    "timeout": int(len(lb.found) * run.settings.health_timeout + run.settings.lb_timeout),
                }
                for lb in run.lbs
            ],
            "ends": [
                {
                    **how_to_reach(lb),
                    "act": "end",
                    "outcome": decision.outcome,
                    "safe": end_state(run, lb),
                    "timeout": int(run.settings.lb_timeout),
                }
                for lb in run.lbs
            ],
            # A pause keeps the lock, and what was safe in its step stays so.
            "pauses": [
                {
                    **how_to_reach(lb),
                    "act": "end",
                    "outcome": "paused",
                    "keep_lock": True,
                    "lease": run.settings.pause_lease,
                    "guard": run.settings.guard,
                    "timeout": int(run.settings.lb_timeout),
                }
                for lb in run.lbs
            ],
            "outcome": decision.outcome,
            "take_over": list(decision.take_over),
            "reason": decision.reason,
            "on_failure": decision.on_failure,
            "who": self._who(task_vars),
        }

    def _who(self, task_vars: dict[str, t.Any]) -> dict[str, str]:
        """Who runs this, for whoever finds the lock."""
        jobs = {name: task_vars.get(name) for name in ("awx_job_id", "awx_user_name", "tower_job_id")}
        found = {name: str(value) for name, value in jobs.items() if value}
        try:
            user = getpass.getuser()
        except (OSError, KeyError):
            user = str(os.geteuid())
        return {"user": user, "host": socket.gethostname(), **found}
