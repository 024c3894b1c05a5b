# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_readiness import readiness

DOCUMENTATION = r"""
name: haproxy_readiness
short_description: Judge whether an HAProxy configuration is ready for rollouts
version_added: 0.1.0
description:
  - Takes the text of HAProxy's configuration files and returns what they lack for rollouts, each lack with the line to add or change.
  - Of the running process no more is looked at than is given. Whether it answers is for M(steady.rollout.haproxy_backend_info) to say.
author:
  - steady.rollout developers (@steady-rollout)
positional: _socket, _running
options:
  _input:
    description:
      - The texts of the configuration files, in the order in which HAProxy reads them.
    type: list
    elements: str
    required: true
  _socket:
    description:
      - The path where rollouts expect the admin socket.
    type: str
    required: true
  _running:
    description:
      - The servers of each backend that runs, as RV(steady.rollout.haproxy_backend_info#module:servers) has them, by the backend's name.
        A server of them that nothing checks is a lack.
    type: dict
seealso:
  - module: steady.rollout.haproxy_backend_info
"""

EXAMPLES = r"""
- name: Read the configuration
  ansible.builtin.slurp:
    src: /etc/haproxy/haproxy.cfg
  register: config

- name: Show what it lacks
  ansible.builtin.debug:
    msg: "{{ ([config.content | b64decode] | steady.rollout.haproxy_readiness('/run/haproxy/admin.sock')).messages }}"
"""

RETURN = r"""
_value:
  description: What was found.
  type: dict
  contains:
    findings:
      description: What is lacking.
      type: list
      elements: dict
      contains:
        required:
          description: Whether rollouts do not work, or not safely, without it; V(false) where they only work less well.
          type: bool
        problem:
          description: What is wrong, in a sentence.
          type: str
        where:
          description: The section that the line belongs to.
          type: str
        line:
          description: The line to add or change.
          type: str
    messages:
      description: The same as sentences.
      type: list
      elements: str
    backends:
      description: Names of the proxies that have servers.
      type: list
      elements: str
"""


def _filter(texts: t.Any, socket: t.Any, running: t.Any = None) -> dict[str, t.Any]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise AnsibleFilterError("haproxy_readiness takes a list of texts, one for each configuration file")
    return readiness(texts, socket, running)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"haproxy_readiness": _filter}
