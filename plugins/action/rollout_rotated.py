# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether hosts left or entered rotation everywhere; else what to put back."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _rotation
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "acts": {"type": "list", "elements": "dict", "default": []},
        "probes": {"type": "list", "elements": "dict", "default": []},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        problem, back = _rotation.turned(options["acts"], options["probes"])
        return {"problem": problem, "back": back}
