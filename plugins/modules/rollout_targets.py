#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_targets
short_description: Check the variables of a rollout and its play
version_added: 0.1.0
description:
  - A part of the role C(steady.rollout.rollout), of no use by itself; it may change at any time.
  - Refuses, before a load balancer is asked, what can be known to be wrong by then.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options: {}
"""

EXAMPLES = r"""
- name: See the role
  steady.rollout.rollout_targets:
"""

RETURN = r"""
"""
