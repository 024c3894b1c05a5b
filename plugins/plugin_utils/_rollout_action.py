# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This plugin util is private to the collection; it may change at any time.
"""What the action plugins of the executor share: options in, one decision on the controller, a result out."""

from __future__ import annotations

import abc
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class RolloutAction(ActionBase):  # type: ignore[misc]  # Ansible tells no types
    """An action that decides. It needs no connection and changes nothing, so it does the same in check mode."""

    TRANSFERS_FILES = False
    _requires_connection = False
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {}

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        _result, options = self.validate_argument_spec(argument_spec=self.OPTIONS)
        try:
            decided = self.decide(options, task_vars or {})
        except (ValueError, LookupError, TypeError) as exc:
            raise AnsibleActionFail(f"{self._task.action}: {type(exc).__name__}: {exc}") from exc
        return {**result, "changed": False, **decided}

    @abc.abstractmethod
    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """What the action returns for its options, besides `changed`."""
