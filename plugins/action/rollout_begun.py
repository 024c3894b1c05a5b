# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a rollout began on every load balancer; else on which ones it must give back its lock."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._conclusion import bad, why
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "acts": {"type": "list", "elements": "dict", "required": True},
        "lenient": {"type": "bool", "default": False},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        failed = [answer for answer in options["acts"] if bad(answer)]
        begun = [answer["item"] for answer in options["acts"] if not bad(answer)]
        # One whose answer was lost may have begun, too; where it has not, its fence refuses this.
        asked = [answer["item"] for answer in options["acts"] if "item" in answer]
        # The way back goes as far as it can: what does not answer is told in the end. But it must be the way back from what is there.
        outdated = any(answer.get("outdated") for answer in failed)
        if not failed or (options["lenient"] and begun and not outdated):
            return {"ends": []}
        words = "; ".join(f"{answer.get('item', {}).get('lb', 'a load balancer')}: {why(answer)}" for answer in failed)
        ends = [
            {**item, "act": "end", "outcome": "refused", "record": {"message": words}, "safe": {}} for item in asked
        ]
        return {"ends": ends, "refused": words}
