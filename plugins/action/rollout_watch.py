# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges one poll, and waits until the next one is due."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _surveillance
from ansible_collections.steady.rollout.plugins.module_utils._executor import Settings
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "settings": {"type": "dict", "required": True},
        "rollout_id": {"type": "str", "required": True},
        "key": {"type": "str", "required": True},
        "watch": {"type": "dict", "required": True},
        "readings": {"type": "list", "elements": "dict", "default": []},
        "previous": {"type": "dict", "default": {}},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        watch = _surveillance.poll(
            Settings(**options["settings"]),
            {name: options[name] for name in ("rollout_id", "key", "watch")},
            options["readings"],
            options["previous"],
            time.time(),
        )
        if not watch["done"]:
            time.sleep(max(0.0, watch["next"] - time.time()))
        return watch
