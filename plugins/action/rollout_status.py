# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where every backend stands: the report as data, as lines for a person, and why it needs attention."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _status
from ansible_collections.steady.rollout.plugins.module_utils._targets import Targets
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "targets": {"type": "dict", "required": True},
        "before": {"type": "list", "elements": "dict", "default": []},
        "answers": {"type": "list", "elements": "dict", "required": True},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        targets = Targets.from_dict(options["targets"])
        report = _status.report(targets, options["before"], options["answers"], time.time())
        return {
            "report": report,
            "lines": _status.lines(report),
            "status": report["status"],
            "problem": _status.message(report) if report["reasons"] else "",
        }
