# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tasks of one step tell the load balancers and the hosts."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._conclusion import of_this, well_so_far
from ansible_collections.steady.rollout.plugins.module_utils._executor import FORWARD, Run, tell, without
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "run": {"type": "dict", "required": True},
        "index": {"type": "int", "required": True},
        "previous": {"type": "dict", "default": {}},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        run, previous = Run.from_dict(options["run"]), options["previous"]
        # Only a step of this very list counts: the way back begins after a failure. It goes on with those that can go.
        previous = of_this(previous, run.rollout_id, run.mode)
        run = without(run, previous.get("lost", ()))
        step = run.plan.steps[options["index"]]
        stopped = not well_so_far(previous, options["index"], run.first) if run.mode == FORWARD else not step.members
        at = time.time()
        # What a watch has found belongs to this very step, and to no earlier one of the same number.
        return {
            **tell(run, options["index"], stopped, previous),
            "at": at,
            "key": f"{run.mode}:{options['index']}:{at}",
        }
