# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rollout waits to be promoted: its strategy and its release, by the records."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _preflight
from ansible_collections.steady.rollout.plugins.module_utils._targets import Refused, Targets
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "targets": {"type": "dict", "required": True},
        "answers": {"type": "list", "elements": "dict", "required": True},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        answers = {answer["item"]["lb"]: answer for answer in options["answers"] if "item" in answer}
        try:
            return _preflight.waiting(Targets.from_dict(options["targets"]), answers)
        except Refused as exc:
            return {"refused": str(exc), "strategy": "", "release": ""}
