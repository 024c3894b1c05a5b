# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges one poll, and waits until the next one is due."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _metric, _surveillance
from ansible_collections.steady.rollout.plugins.module_utils._executor import Settings
from ansible_collections.steady.rollout.plugins.plugin_utils._metric_fetch import ask
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "settings": {"type": "dict", "required": True},
        "rollout_id": {"type": "str", "required": True},
        "key": {"type": "str", "required": True},
        "watch": {"type": "dict", "required": True},
        "readings": {"type": "list", "elements": "dict", "default": []},
        "previous": {"type": "dict", "default": {}},
        "metrics": {"type": "list", "elements": "dict", "default": []},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        records, verdict = self._measure(options)
        watch = _surveillance.poll(
            Settings(**options["settings"]),
            {name: options[name] for name in ("rollout_id", "key", "watch")},
            options["readings"],
            options["previous"],
            time.time(),
            verdict,
        )
        if not watch["done"]:
            time.sleep(max(0.0, watch["next"] - time.time()))
        return {**watch, "metrics": {name: list(record) for name, record in records.items()}}

    def _measure(self, options: dict[str, t.Any]) -> tuple[dict[str, _metric.Record], tuple[str, str]]:
        """The records of all metrics, those that are due asked for once more, and what they come to."""
        previous, judge = options["previous"], options["watch"]["judge"]
        metrics = _metric.read_metrics(options["metrics"]) if judge else ()
        known = previous.get("metrics") if previous.get("rollout_id") == options["rollout_id"] else {}
        records = {name: _metric.Record(*values) for name, values in (known or {}).items()}
        if previous.get("key") == options["key"] and previous.get("done"):
            return records, ("pass", "")
        now = time.time()
        due = [metric for metric in metrics if records.get(metric.name, _metric.Record()).due <= now]
        servers = {side: {name for _backend, name in pairs} for side, pairs in judge["sides"].items()} if judge else {}
        for name, answer in ask(due, servers).items():
            metric = next(one for one in due if one.name == name)
            records[name] = _metric.measured(metric, records.get(name, _metric.Record()), answer, now)
        return records, _metric.together(metrics, records)
