# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the attributes of this collection's modules mean; a module adds its own C(support)."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description:
      - Whether the module can run in C(check_mode), where it tells what it would change, and changes nothing.
  diff_mode:
    description:
      - Whether the module shows, in C(diff_mode), the state before and after the change.
  idempotent:
    description:
      - Whether a second run with the same arguments, when nothing else happened in between, changes nothing and says so.
  platform:
    description:
      - The systems on whose hosts the module runs.
    platforms: posix
    support: full
  action_group:
    description:
      - The action groups that the module belongs to.
        Arguments that all of a group's modules share can be set once with C(module_defaults).
"""

    ACTIONGROUP_ROLLOUT = r"""
options: {}
attributes:
  action_group:
    description:
      - Use C(group/steady.rollout.rollout) in C(module_defaults) to set arguments of all modules of this collection at once.
    support: full
    membership:
      - steady.rollout.rollout
"""

    # The parts of a role on the controller.
    PART = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - It changes nothing.
  diff_mode:
    support: N/A
    details:
      - It changes nothing.
  idempotent:
    support: full
"""
