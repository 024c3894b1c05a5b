# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the result of every task, and in the end the statistics, to the file named by ROLLOUT_RECORD, one JSON a line."""

from __future__ import annotations

import json
import os
import typing as t

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: rollout_record
type: aggregate
short_description: Record what each task said
description: Used by the end-to-end tests of rollouts.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc, unused-ignore]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "rollout_record"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._note("ok", result, False)

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._note("skipped", result, False)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        self._note("failed", result, ignore_errors)

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._note("unreachable", result, bool(result._task.ignore_unreachable))

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        hosts = {host: stats.summarize(host) for host in stats.processed}
        self._write({"event": "stats", "hosts": hosts, "custom": stats.custom.get("_run", {})})

    def _note(self, event: str, result: t.Any, ignored: bool) -> None:
        # ansible-core before 2.19 has the former name only.
        told = result.result if hasattr(result, "result") else result._result
        self._write(
            {
                "event": event,
                "ignored": ignored,
                "host": result._host.get_name(),
                "task": result._task.get_name(),
                "action": result._task.action,
                "changed": bool(told.get("changed")),
                "message": str(told.get("msg", "")),
                "cut": sum(item.get("cut_sessions") or 0 for item in told.get("results", [told])),
            }
        )

    def _write(self, entry: dict[str, t.Any]) -> None:
        with open(os.environ["ROLLOUT_RECORD"], "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, default=str) + "\n")
