# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_config import lua_servers

DOCUMENTATION = r"""
name: nginx_lua_servers
short_description: Tell Lua in NGINX of an upstream's servers
version_added: 0.1.0
description:
  - Takes the servers of an element of C(nginx_upstreams) of the role P(steady.rollout.nginx#role), and returns them as
    C(steady_rollout.lua) takes them.
author:
  - steady.rollout developers (@steady-rollout)
positional: _weight
options:
  _input:
    description:
      - The servers. Each must be an IP address with or without a port, or C(unix:/PATH).
    type: list
    elements: dict
    required: true
  _weight:
    description:
      - The weight of servers that have none of their own.
    type: int
    required: true
"""

EXAMPLES = r"""
- name: Show what Lua is told
  ansible.builtin.debug:
    msg: "{{ nginx_upstreams[0].servers | steady.rollout.nginx_lua_servers(nginx_weight) }}"
"""

RETURN = r"""
_value:
  description: For each server its C(name), C(address), C(port), which is null for a unix socket, and C(weight).
  type: list
  elements: dict
"""


def _filter(servers: t.Any, weight: t.Any) -> list[dict[str, t.Any]]:
    try:
        return lua_servers(servers, weight)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"nginx_lua_servers cannot read its input: {error!r}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"nginx_lua_servers": _filter}
