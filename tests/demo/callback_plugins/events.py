# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells on standard output, in JSON, one event a line, what a run of Ansible does; `demo.story` makes words of it."""

from __future__ import annotations

import json
import sys
import typing as t

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: events
type: stdout
short_description: Tell what happens as JSON
description: Used by the demo.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc, unused-ignore]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "events"

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._tell_result("ok", result)

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        self._tell_result("ignored" if ignore_errors else "failed", result)

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._tell_result("ignored" if result._task.ignore_unreachable else "unreachable", result)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._tell(event="failed", task="", host="", message="no hosts matched")

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        self._tell(event="end", outcome=stats.custom.get("_run", {}).get("rollout_outcome"))

    def _tell_result(self, event: str, result: t.Any) -> None:
        # ansible-core before 2.19 has the former name only.
        told = result.result if hasattr(result, "result") else result._result
        task, host = result._task, result._host.get_name()
        self._tell(event=event, task=task.get_name(), action=task.action, host=host, message=told.get("msg", ""))

    def _tell(self, **event: t.Any) -> None:
        sys.stdout.write(json.dumps(event, default=str) + "\n")
        sys.stdout.flush()
