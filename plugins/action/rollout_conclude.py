# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a step did what it was to do, everywhere; else in one sentence what went wrong where."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _conclusion, _forward_only
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    FORWARD,
    WATCHES,
    Run,
    result_of,
    unknown_releases,
    without,
)
from ansible_collections.steady.rollout.plugins.plugin_utils._deploy_facts import forward_only_facts
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "run": {"type": "dict", "required": True},
        "told": {"type": "dict", "required": True},
        "acts": {"type": "list", "elements": "dict", "default": []},
        "watch": {"type": "dict", "default": {}},
        "deployed": {"type": "bool", "default": False},
        "previous": {"type": "dict", "default": {}},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        told, rollout_id = options["told"], options["run"]["rollout_id"]
        previous = _conclusion.of_this(options["previous"], rollout_id, told["mode"])
        if not told["lbs"] and previous.get("paused"):
            return dict(previous)  # nothing failed, and nothing more is done
        if not told["lbs"]:
            return _conclusion.left_out(told, rollout_id, previous)
        try:
            return self._conclude(options, previous, task_vars)
        except (ValueError, LookupError, TypeError) as exc:
            # All hosts ask for what is returned here, also on the way back, where nothing may fail.
            problem = f"{told['words']}: a defect: {type(exc).__name__}: {exc}"
            problems = [*previous.get("problems", ()), problem]
            known = {**previous, "problem": problem, "problems": problems, "results": [], "releases": {}}
            return _conclusion.left_out(told, rollout_id, known)

    def _conclude(
        self, options: dict[str, t.Any], previous: t.Mapping[str, t.Any], task_vars: dict[str, t.Any]
    ) -> dict[str, t.Any]:
        told = options["told"]
        run = without(Run.from_dict(options["run"]), previous.get("lost", ()))
        step = run.plan.steps[told["index"]]
        problems, failed_lbs = _conclusion.lb_problems(told, options["acts"])
        if told["watch"] and not problems:
            policy, canary = run.settings.inconclusive, run.plan.strategy == "canary"
            problems += _conclusion.watch_problems(told, options["watch"], policy, canary)
        failed_hosts = self._failed_hosts(run, told, task_vars) if options["deployed"] else {}
        unknown = unknown_releases(run, step) if options["deployed"] else []
        problems += [*failed_hosts.values(), *(f"nobody knows which release to put back on {key}" for key in unknown)]
        at = _conclusion.progress(told, previous)
        if run.mode == FORWARD and step.kind not in WATCHES:
            problems += _conclusion.overdue(at, time.time(), run.settings.progress_deadline)
        problem = "; ".join(problems)
        members = [run.members[key] for key in step.members]
        bad_hosts = {*failed_hosts, *(run.members[key].host for key in unknown)}
        lost = _conclusion.lost_members(members, options["acts"], bad_hosts) if problem else []
        said = self._forward_only(run, told, task_vars) if options["deployed"] else ()
        return {
            "ok": not problem,
            "rollout_id": run.rollout_id,
            "mode": run.mode,
            "index": told["index"],
            "problem": problem,
            "problems": [*previous.get("problems", ()), *([f"{told['words']}: {problem}"] if problem else ())],
            "lost": sorted({*previous.get("lost", ()), *lost}),
            "forward_only": list(_forward_only.joined(previous.get("forward_only", ()), said)),
            "failed_lbs": failed_lbs,
            "paused": self._pause(run, told, options["watch"]) if not problem else "",
            "hosts": [] if problem else sorted(told["hosts"]),
            "progress_at": time.time() if told["kind"] in ("admit", *WATCHES) and not problem else at,
            **result_of(run, told, problem, options["watch"], said),
        }

    def _forward_only(self, run: Run, told: dict[str, t.Any], task_vars: dict[str, t.Any]) -> tuple[str, ...]:
        """Also where the deploy failed: what was done before that is done."""
        return _forward_only.of_hosts(forward_only_facts(task_vars, told["hosts"]), run.rollout_id)

    def _pause(self, run: Run, told: dict[str, t.Any], watch: t.Mapping[str, t.Any]) -> str:
        return _conclusion.pause_of(told, watch, run.settings.inconclusive) if run.mode == FORWARD else ""

    def _failed_hosts(self, run: Run, told: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, str]:
        hostvars = task_vars["hostvars"]
        markers = {host: dict(hostvars[host].get("__rollout_deployed") or {}) for host in told["hosts"]}
        return _conclusion.host_problems(told, run.rollout_id, markers)
