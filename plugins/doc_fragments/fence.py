# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the options in module_utils/_fence_option.py."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  fence:
    description:
      - Change servers only while this rollout holds them. See M(steady.rollout.rollout_act).
    type: dict
    suboptions:
      state_dir:
        description:
          - Where the rollout keeps its records on this host.
        type: path
        default: /var/lib/steady-rollout
      rollout_id:
        description:
          - The rollout.
        type: str
        required: true
  force:
    description:
      - Change servers although a rollout holds them. Without this a call without O(fence) is refused while a rollout on the same load
        balancer does.
    type: bool
    default: false
"""
