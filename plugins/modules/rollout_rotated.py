#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_rotated
short_description: See whether hosts left or entered rotation everywhere
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - Where they did not, tells what to put back.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options:
  acts:
    description:
      - What M(steady.rollout.haproxy_backend) returned for each load balancer.
    type: list
    elements: dict
    default: []
  probes:
    description:
      - What M(steady.rollout.http_probe) returned from each load balancer.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_rotated:
    acts: "{{ acts.results }}"
"""

RETURN = r"""
"""
