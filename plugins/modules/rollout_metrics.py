#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_metrics
short_description: Ask for each metric once before anything changes
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - What cannot be read now could not be judged by later.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options:
  metrics:
    description:
      - The metrics, as the user wrote them.
    type: raw
    default: []
  servers:
    description:
      - The names of all servers.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_metrics:
    metrics: "{{ metrics }}"
"""

RETURN = r"""
"""
