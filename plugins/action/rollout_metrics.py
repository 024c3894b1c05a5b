# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks for each metric once before anything changes: what cannot be read now could not be judged by later."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._metric import read_metrics
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.plugin_utils._metric_fetch import ask, missing
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "metrics": {"type": "raw", "default": []},
        "servers": {"type": "list", "elements": "str", "default": []},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        try:
            metrics = read_metrics(options["metrics"])
        except PlanError as exc:
            return {"refused": str(exc).rstrip(".")}
        if metrics and missing():
            return {"refused": missing()}
        answers = ask(metrics, {"canary": options["servers"], "stable": options["servers"]})
        errors = [f"metric {name} cannot be read: {answer.error}" for name, answer in answers.items() if answer.error]
        return {"refused": "; ".join(errors)} if errors else {"measured": sorted(answers)}
