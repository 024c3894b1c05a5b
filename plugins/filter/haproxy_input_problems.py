# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_role_input import input_problems

DOCUMENTATION = r"""
name: haproxy_input_problems
short_description: Find frontends and backends that HAProxy could not load
version_added: 0.1.0
description:
  - Takes C(haproxy_backends) and C(haproxy_frontends) of the role P(steady.rollout.haproxy#role), after their types were validated,
    and returns what is wrong with them, such as a name that HAProxy refuses or that is there twice.
author:
  - steady.rollout developers (@steady-rollout)
positional: _frontends
options:
  _input:
    description:
      - The backends.
    type: list
    elements: dict
    required: true
  _frontends:
    description:
      - The frontends.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse what HAProxy could not load
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join(' ') }}"
  vars:
    problems: "{{ haproxy_backends | steady.rollout.haproxy_input_problems(haproxy_frontends) }}"
"""

RETURN = r"""
_value:
  description: One sentence for each problem; empty when there is none.
  type: list
  elements: str
"""


def _filter(backends: t.Any, frontends: t.Any) -> list[str]:
    try:
        return input_problems(frontends, backends)
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"haproxy_input_problems cannot read its input: {error!r}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"haproxy_input_problems": _filter}
