# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges a canary by plain data; no rollout and no load balancer is needed."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible_collections.steady.rollout.plugins.module_utils import _judge
from ansible_collections.steady.rollout.plugins.module_utils._judge_input import polls_of, settings_of, state_of
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "polls": {"type": "list", "elements": "dict", "default": []},
        "latencies": {"type": "list", "elements": "dict", "default": []},
        "averages": {"type": "list", "elements": "dict", "default": []},
        "state": {"type": "dict", "default": {}},
        "tolerance": {"type": "dict", "default": {}},
        "further": {"type": "dict", "default": {}},
        "alpha": {"type": "float", "default": 0.01},
        "beta": {"type": "float", "default": 0.05},
        "horizon": {"type": "int", "default": 180},
        "min_requests": {"type": "int", "default": 50},
        "absolute_max": {"type": "float", "default": 0.5},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        try:
            settings = settings_of(options)
            state, polls = state_of(options, settings), polls_of(options)
            history = []
            for poll in polls:
                state = _judge.take(settings, state, poll)
                history.append(_judge.verdict(settings, state))
        except _judge.JudgeError as exc:
            raise AnsibleActionFail(f"{self._task.action}: {exc}") from exc
        return {
            "verdict": _judge.verdict(settings, state),
            "history": history,
            "reason": _judge.reason(settings, state),
            "requests_needed": _judge.requests_needed(settings, state),
            "evidence": _judge.evidence(settings, state),
            "state": state.as_dict(),
        }
