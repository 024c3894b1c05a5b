# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""An option that is neither logged nor returned."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule


def hide(module: AnsibleModule, option: str) -> None:
    """no_log alone would also mask its words wherever they occur in the result. To be called when the parameters were copied."""
    if module.params[option]:
        module.params[option] = "not shown"
        module.no_log_values.clear()
