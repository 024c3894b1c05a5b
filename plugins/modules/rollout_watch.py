#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_watch
short_description: Judge one poll of a step that watches
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - Waits until the next poll is due.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options:
  settings:
    description:
      - What the user set.
    type: dict
    required: true
  rollout_id:
    description:
      - The id of the rollout.
    type: str
    required: true
  key:
    description:
      - What tells this watch from others of the rollout.
    type: str
    required: true
  watch:
    description:
      - How long to watch whom, and what is wanted.
    type: dict
    required: true
  readings:
    description:
      - What the load balancers told.
    type: list
    elements: dict
    default: []
  previous:
    description:
      - What the poll before returned.
    type: dict
    default: {}
  metrics:
    description:
      - What else to ask for, as the user wrote it.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_watch:
    settings: "{{ run.settings }}"
    rollout_id: "{{ run.rollout_id }}"
    key: "{{ told.key }}"
    watch: "{{ told.watch }}"
"""

RETURN = r"""
"""
