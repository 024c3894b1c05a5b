#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_conclude
short_description: Conclude a step of a rollout
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - Whether it did what it was to do everywhere, else what went wrong where.
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
  told:
    description:
      - The step at hand.
    type: dict
    required: true
  acts:
    description:
      - What the load balancers returned.
    type: list
    elements: dict
    default: []
  watch:
    description:
      - What the watch came to.
    type: dict
    default: {}
  deployed:
    description:
      - Whether hosts had to deploy.
    type: bool
    default: false
  previous:
    description:
      - What the step before was concluded with.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_conclude:
    run: "{{ run }}"
    told: "{{ told }}"
"""

RETURN = r"""
"""
