# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes what every task cost to the file named by TASK_COSTS, one JSON object a line.

`at` and `wall` are seconds of the wall clock, `cpu` those of the processor for this process and its workers. `hosts` counts
the hosts that took part, those that left it out by a condition included, but none that Ansible did not even ask.
"""

from __future__ import annotations

import json
import os
import resource
import time
import typing as t

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: task_costs
type: aggregate
short_description: Record what each task costs
description: Used by the benchmarks.
"""


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class CallbackModule(CallbackBase):  # type: ignore[misc, unused-ignore]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_costs"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._task: dict[str, t.Any] = {}
        self._since = (0.0, 0.0)
        self._hosts: set[str] = set()

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        self._end()
        self._task = {"task": task.name or task.get_name(), "action": task.action, "at": time.time()}
        self._since = (time.monotonic(), cpu_seconds())

    def v2_playbook_on_handler_task_start(self, task: t.Any) -> None:
        self.v2_playbook_on_task_start(task, False)

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._hosts.add(result._host.get_name())

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        self._hosts.add(result._host.get_name())

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._hosts.add(result._host.get_name())

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._hosts.add(result._host.get_name())

    def v2_playbook_on_include(self, included_file: t.Any) -> None:
        self._hosts.update(host.get_name() for host in included_file._hosts)

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        self._end()

    def _end(self) -> None:
        if self._task:
            wall, cpu = self._since
            spent = {"wall": time.monotonic() - wall, "cpu": cpu_seconds() - cpu, "hosts": len(self._hosts)}
            with open(os.environ["TASK_COSTS"], "a", encoding="utf-8") as stream:
                stream.write(json.dumps({**self._task, **spent}) + "\n")
        self._task = {}
        self._hosts = set()
