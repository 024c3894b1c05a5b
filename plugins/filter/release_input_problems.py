# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steady.rollout.plugins.module_utils._release_role_input import input_problems

DOCUMENTATION = r"""
name: release_input_problems
short_description: Find what cannot work among the variables of the role release
version_added: 0.1.0
description:
  - Takes the variables of the role P(steady.rollout.release#role), after their types were validated, and returns what is wrong with them, such
    as two sources of one release.
author:
  - steady.rollout developers (@steady-rollout)
options:
  _input:
    description:
      - The variables by their names, with C(rollout_release), what a rollout wants on the host or an empty text, and C(rollout_tracks), the
        names of the host's tracks.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse values that cannot work
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join(' ') }}"
  vars:
    problems: "{{ given | steady.rollout.release_input_problems }}"
"""

RETURN = r"""
_value:
  description: One sentence for each problem; empty when there is none.
  type: list
  elements: str
"""


def _filter(values: t.Any) -> list[str]:
    try:
        return input_problems(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"release_input_problems cannot read its input: {error!r}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"release_input_problems": _filter}
