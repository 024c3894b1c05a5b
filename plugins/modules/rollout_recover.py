#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_recover
short_description: Plan the way back of the hosts
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - Out of what the load balancers have recorded.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options:
  run:
    description:
      - The rollout.
    type: dict
    required: true
  answers:
    description:
      - What M(steady.rollout.rollout_info) returned for each load balancer.
    type: list
    elements: dict
    required: true
  on_failure:
    description:
      - V(rollback), or V(hold) to leave the hosts as they are.
    type: str
    required: true
  concluded:
    description:
      - The last step that was concluded. What it tells of a change that cannot be taken back holds the hosts, whatever O(on_failure) says.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_recover:
    run: "{{ run }}"
    answers: "{{ answers }}"
    on_failure: "{{ on_failure }}"
"""

RETURN = r"""
"""
