# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a step did what it was to do, everywhere; else in one sentence what went wrong where."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _conclusion
from ansible_collections.steady.rollout.plugins.module_utils._executor import Run, notes, unknown_releases
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "run": {"type": "dict", "required": True},
        "told": {"type": "dict", "required": True},
        "acts": {"type": "list", "elements": "dict", "default": []},
        "probes": {"type": "list", "elements": "dict", "default": []},
        "looks": {"type": "list", "elements": "dict", "default": []},
        "watch": {"type": "dict", "default": {}},
        "deployed": {"type": "bool", "default": False},
        "previous": {"type": "dict", "default": {}},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        run, told = Run.from_dict(options["run"]), options["told"]
        step = run.plan.steps[told["index"]]
        problems, failed = _conclusion.lb_problems(told, options["acts"], options["probes"], options["looks"])
        if told["watch"] and told["lbs"] and not problems:
            problems += _conclusion.watch_problems(told, options["watch"], run.settings.inconclusive)
        if options["deployed"] and told["lbs"]:
            hostvars = task_vars["hostvars"]
            markers = {host: dict(hostvars[host].get("__rollout_deployed") or {}) for host in told["hosts"]}
            problems += _conclusion.host_problems(told, run.rollout_id, markers)
            problems += [f"nobody knows which release to put back on {key}" for key in unknown_releases(run, step)]
        stopped = not told["lbs"]
        at = _conclusion.progress(told, options["previous"], run.mode)
        problems += _conclusion.overdue(at, time.time(), run.settings.progress_deadline)
        problem = "; ".join(problems)
        return {
            "ok": not problem and not stopped,
            "mode": run.mode,
            "index": told["index"],
            "problem": problem or (options["previous"].get("problem", "") if stopped else ""),
            "words": told["words"],
            "failed_lbs": failed,
            "progress_at": time.time() if told["kind"] == "admit" and not problem else at,
            "notes": notes(run, told, problem),
        }
