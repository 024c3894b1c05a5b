#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_step
short_description: Tell what one step of a rollout asks of load balancers and hosts
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
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
  index:
    description:
      - The number of the step, from 0.
    type: int
    required: true
  previous:
    description:
      - What the step before was concluded with.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_step:
    run: "{{ run }}"
    index: "{{ index }}"
"""

RETURN = r"""
"""
