# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_role_input import input_problems, lua_problems

DOCUMENTATION = r"""
name: nginx_input_problems
short_description: Find upstreams and servers that NGINX could not load
version_added: 0.1.0
description:
  - Takes C(nginx_upstreams), C(nginx_servers), C(nginx_weight) and C(nginx_lua) of the role P(steady.rollout.nginx#role), after their
    types were validated, and returns what is wrong with them, such as a server that is there twice.
author:
  - steady.rollout developers (@steady-rollout)
positional: _servers, _weight, _lua
options:
  _input:
    description:
      - The upstreams.
    type: list
    elements: dict
    required: true
  _servers:
    description:
      - What NGINX listens on.
    type: list
    elements: dict
    required: true
  _weight:
    description:
      - The weight of servers that have none of their own.
    type: int
    required: true
  _lua:
    description:
      - Whether Lua chooses the servers, which does not know all that NGINX does.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Refuse what NGINX could not load
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join(' ') }}"
  vars:
    problems: "{{ nginx_upstreams | steady.rollout.nginx_input_problems(nginx_servers, nginx_weight, nginx_lua) }}"
"""

RETURN = r"""
_value:
  description: One sentence for each problem; empty when there is none.
  type: list
  elements: str
"""


def _filter(upstreams: t.Any, servers: t.Any, weight: t.Any, lua: t.Any = False) -> list[str]:
    try:
        found = input_problems(upstreams, servers, weight)
        return found or (lua_problems(upstreams, servers, weight) if lua else [])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"nginx_input_problems cannot read its input: {error!r}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"nginx_input_problems": _filter}
