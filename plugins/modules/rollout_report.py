#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_report
short_description: Sum up a rollout that did not go on
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - The outcome, and one message with the cause, what is true now, and what to do.
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
  cause:
    description:
      - What failed.
    type: str
    default: ""
  restored:
    description:
      - What restoring traffic returned for each load balancer.
    type: list
    elements: dict
    default: []
  recovery:
    description:
      - What M(steady.rollout.rollout_recover) returned.
    type: dict
    default: {}
  concluded:
    description:
      - The last step of the way back.
    type: dict
    default: {}
  on_failure:
    description:
      - V(rollback), or V(hold).
    type: str
    default: rollback
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_report:
    run: "{{ run }}"
"""

RETURN = r"""
"""
