# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.steady.rollout.plugins.module_utils._health import HealthError, health_differences

DOCUMENTATION = r"""
name: health_differences
short_description: Compare the health that a probe found with that of a load balancer
version_added: 0.1.0
description:
  - Takes the C(targets) that M(steady.rollout.http_probe) returns and the C(servers) of a load balancer, and returns those about
    which the two disagree.
  - A server that is out of rotation for maintenance is not checked by HAProxy, and counts as V(down) there.
author:
  - steady.rollout developers (@steady-rollout)
positional: _servers
options:
  _input:
    description:
      - The RV(steady.rollout.http_probe#module:targets) of a probe.
    type: list
    elements: dict
    required: true
  _servers:
    description:
      - The RV(steady.rollout.haproxy_backend_info#module:servers) of the load balancer.
    type: list
    elements: dict
    required: true
seealso:
  - module: steady.rollout.http_probe
  - module: steady.rollout.haproxy_backend_info
"""

EXAMPLES = r"""
- name: Read what the load balancer thinks
  steady.rollout.haproxy_backend_info:
    socket: /run/haproxy/admin.sock
    backend: shop
  register: shop

- name: Ask the same servers from the same host
  steady.rollout.http_probe:
    targets:
      - name: web1
        address: 192.0.2.21
      - name: web2
        address: 192.0.2.22
    port: 8080
    path: /health
    deadline: 0
  register: probe
  failed_when: probe.targets is not defined

- name: Demand that both see the same
  ansible.builtin.assert:
    that: differences | length == 0
    fail_msg: "The probe and the load balancer disagree: {{ differences }}"
  vars:
    differences: "{{ probe.targets | steady.rollout.health_differences(shop.servers) }}"
"""

RETURN = r"""
_value:
  description: The servers about which the two disagree, in the order of the probe, then of the load balancer.
  type: list
  elements: dict
  contains:
    name:
      description: Name of the server.
      type: str
    probe:
      description: V(up) or V(down); null where the probe did not ask it.
      type: str
    lb:
      description:
        - V(up) or V(down); null where the load balancer does not know the server.
        - V(unchecked) where the load balancer has no health check for it. That agrees with nothing, so it is always listed.
      type: str
"""


def _filter(probed: t.Any, servers: t.Any) -> list[dict[str, str | None]]:
    try:
        return health_differences(probed, servers)
    except HealthError as exc:
        raise AnsibleFilterError(f"steady.rollout.health_differences: {exc}") from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"health_differences": _filter}
