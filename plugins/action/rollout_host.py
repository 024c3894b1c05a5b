# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host of the fleet is given; and whether it answers at all, which an unreachable host shows by leaving the play."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    _requires_connection = True
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "control": {"type": "dict", "required": True},
        "own": {"type": "dict", "required": True},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        answer = self._execute_module(module_name="ansible.builtin.ping", module_args={}, task_vars=task_vars)
        if answer.get("failed"):
            return dict(answer)
        return {"control": options["control"], "own": options["own"]}
