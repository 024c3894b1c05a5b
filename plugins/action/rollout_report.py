# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a rollout that did not go on ended: the outcome, and one message with what failed and what was done about it."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _report
from ansible_collections.steady.rollout.plugins.module_utils._conclusion import of_this
from ansible_collections.steady.rollout.plugins.module_utils._executor import UNDO, Run, carried
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "run": {"type": "dict", "required": True},
        "cause": {"type": "str", "default": ""},
        "restored": {"type": "list", "elements": "dict", "default": []},
        "recovery": {"type": "dict", "default": {}},
        "concluded": {"type": "dict", "default": {}},
        "on_failure": {"type": "str", "default": "rollback"},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        run = Run.from_dict(options["run"])
        report = _report.make(
            run,
            options["cause"],
            options["restored"],
            options["recovery"],
            options["concluded"],
            options["on_failure"],
        )
        forward_only = options["recovery"].get("forward_only") or ()
        known = carried(of_this(options["concluded"], run.rollout_id, UNDO))
        return {
            "outcome": report.outcome,
            "message": report.message,
            "ok": report.ok,
            "ends": _report.last_acts(run, report, forward_only, known),
            "forward_only": list(forward_only),
            "host": task_vars["inventory_hostname"],
        }
