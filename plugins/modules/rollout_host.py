#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_host
short_description: Hand a host's variables to the executor of rollouts
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - "Also shows whether the host answers: an unreachable one leaves the play."
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options:
  control:
    description:
      - What must be the same on the whole fleet.
    type: dict
    required: true
  own:
    description:
      - What is this host's own.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_host:
    control: "{{ control }}"
    own: "{{ own }}"
"""

RETURN = r"""
"""
