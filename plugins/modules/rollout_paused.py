#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_paused
short_description: See which rollout waits to be promoted
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - Tells its strategy and its release by the records of the load balancers.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options:
  targets:
    description:
      - What the variables say.
    type: dict
    required: true
  answers:
    description:
      - What M(steady.rollout.rollout_info) returned for each load balancer.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_paused:
    targets: "{{ targets }}"
    answers: "{{ answers }}"
"""

RETURN = r"""
"""
