# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The options of modules that change a backend by themselves, while a rollout may hold it; documented in the fence fragment."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._state import DEFAULT_STATE_DIR

FENCE_OPTIONS: dict[str, dict[str, t.Any]] = {
    "fence": {
        "type": "dict",
        "options": {
            "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
            "rollout_id": {"type": "str", "required": True},
        },
    },
    "force": {"type": "bool", "default": False},
}


def within(
    fence: t.Mapping[str, str] | None, backend: str, patience: float, check_mode: bool
) -> contextlib.AbstractContextManager[object]:
    """Holds the fence of a rollout, where one is given, which raises StateError unless it holds the backend."""
    if not fence:
        return contextlib.nullcontext()
    # Only here: most calls have no fence, and what is imported is compiled anew at every call.
    from ansible_collections.steady.rollout.plugins.module_utils._fence import fenced, foresee

    if check_mode:
        foresee(fence["state_dir"], [backend], fence["rollout_id"])
        return contextlib.nullcontext()
    return fenced(fence["state_dir"], [backend], fence["rollout_id"], patience)
