#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_begun
short_description: See whether a rollout began on every load balancer
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - Where it did not, tells which locks to give back.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options:
  acts:
    description:
      - What M(steady.rollout.rollout_act) returned for each load balancer.
    type: list
    elements: dict
    required: true
  lenient:
    description:
      - Whether one load balancer is enough.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_begun:
    acts: "{{ acts }}"
"""

RETURN = r"""
"""
