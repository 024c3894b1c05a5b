#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_status
short_description: Tell where every backend stands
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - Out of two readings of the load balancers, and of their records.
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
  before:
    description:
      - What M(steady.rollout.rollout_info) returned for each load balancer some seconds earlier; what requests went where is told
        from there on, and a load balancer that is not among O(answers) is told by it.
    type: list
    elements: dict
    default: []
  answers:
    description:
      - What M(steady.rollout.rollout_info) returned for each load balancer, with records.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_status:
    targets: "{{ targets }}"
    answers: "{{ answers }}"
"""

RETURN = r"""
report:
  description:
    - The report as data.
    - C(reasons) are what needs attention, each with C(what) it is and what to C(do).
    - C(load_balancers) says which answer. C(backends) has, by name, C(servers) (for each load balancer what is wanted, what is
      true, the share of new requests in percent and the release last seen), the C(rollout) in progress or the last one, its last
      C(events), and of each load balancer the lock, the lease and the guard. What is not known is null.
  returned: success
  type: dict
lines:
  description: The report for a person.
  returned: success
  type: list
  elements: str
status:
  description: V(healthy), V(in_progress) or V(needs_attention).
  returned: success
  type: str
problem:
  description: Why it needs attention, in one line; empty where it does not.
  returned: success
  type: str
"""
