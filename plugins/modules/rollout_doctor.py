#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_doctor
short_description: Judge load balancers, their records and their configuration
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - Says what is wrong, what will hurt, what mends it, and what may be repaired without a person.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options:
  targets:
    description:
      - What M(steady.rollout.rollout_targets) returned.
    type: dict
    required: true
  answers:
    description:
      - What M(steady.rollout.rollout_info) returned for each load balancer.
    type: list
    elements: dict
    required: true
  configurations:
    description:
      - What M(steady.rollout.haproxy_config_info) returned for each load balancer.
    type: list
    elements: dict
    required: true
  before:
    description:
      - What was found before the repairs.
    type: list
    elements: dict
    default: []
  repairs:
    description:
      - What the repairs returned.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_doctor:
    targets: "{{ targets }}"
    answers: "{{ answers }}"
    configurations: "{{ configurations }}"
"""

RETURN = r"""
"""
