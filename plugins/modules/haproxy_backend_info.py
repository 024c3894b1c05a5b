#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_backend_info
short_description: Read the servers of an HAProxy backend
version_added: 0.1.0
description:
  - Reads weights, states, health, share of traffic, sessions and counters of all servers of one backend, over one connection
    to HAProxy's Runtime API.
  - Works with HAProxy 2.2 and newer, and with sockets of every level; a socket of level V(user) does not tell the algorithm
    and the addresses.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.haproxy_socket
attributes:
  check_mode:
    support: full
    details:
      - This module only reads.
  diff_mode:
    support: N/A
    details:
      - This module changes nothing.
  idempotent:
    support: full
options:
  backend:
    description:
      - The backend to read.
    type: str
    required: true
seealso:
  - module: steady.rollout.haproxy_backend
"""

EXAMPLES = r"""
- name: Read the backend
  steady.rollout.haproxy_backend_info:
    socket: /run/haproxy/admin.sock
    backend: shop
  register: shop

- name: Show who carries how much
  ansible.builtin.debug:
    msg: "{{ shop.servers | items2dict(key_name='name', value_name='share') }}"
"""

RETURN = r"""
servers:
  description: The servers of the backend in the order of the configuration. What HAProxy does not tell is null, never 0.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the server line.
      type: str
    address:
      description: IP address, or null where it has none.
      type: str
    port:
      description: TCP port.
      type: int
    weight:
      description: The wanted weight, 0 to 256, not scaled by slowstart.
      type: int
    initial_weight:
      description: The weight in the configuration.
      type: int
    effective_weight:
      description: The weight in use now, scaled by slowstart.
      type: int
    throttle:
      description: Percent of the weight that slowstart lets through now; null without slowstart.
      type: int
    state:
      description: V(ready), V(drain) or V(maint).
      type: str
    own_state:
      description: What the server itself was told to be, whatever it takes from a server that it tracks or from DNS.
      type: str
    health:
      description: V(up), V(down), or V(unchecked) where no health check looks.
      type: str
    settled:
      description: Whether it is UP, with no failed check outstanding.
      type: bool
    status:
      description: HAProxy's own words, such as V(UP 1/3).
      type: str
    last_check:
      description: Kind and code of the last health check's result, such as V(L7STS 503).
      type: str
    share:
      description:
        - Percent of new traffic by the weights in use. Null where weights do not tell, as with leastconn.
      type: float
    sessions:
      description: Current sessions.
      type: int
    max_sessions:
      description: How many it may have (C(maxconn) of its line); null where there is no limit.
      type: int
    queued:
      description: Requests waiting for this server.
      type: int
    requests:
      description: HTTP requests since the process started; sessions in TCP mode.
      type: int
    errors:
      description:
        - Counters since the process started, RV(servers[].errors.http_5xx), RV(servers[].errors.http_4xx), RV(servers[].errors.connect)
          and RV(servers[].errors.response). The first two are null in TCP mode.
      type: dict
      contains:
        http_5xx:
          description: Answers with status 500 to 599.
          type: int
        http_4xx:
          description: Answers with status 400 to 499.
          type: int
        connect:
          description: Connections that failed.
          type: int
        response:
          description: Answers that broke off or were invalid.
          type: int
    times:
      description:
        - Mean times of the last 1024 requests in milliseconds; null in TCP mode. They are no measure of a short time, and say nothing of
          a slow minority.
      type: dict
      contains:
        response:
          description: From the request to the first byte of the answer.
          type: int
        total:
          description: From the request to the last byte of the answer.
          type: int
    retries:
      description: Connection attempts that were repeated.
      type: int
    redispatches:
      description: Requests that went to another server after a failed connection.
      type: int
    server_aborts:
      description: Transfers that the server broke off.
      type: int
    backup:
      description: Whether it is a backup server.
      type: bool
    agent:
      description: V(enabled) or V(disabled); null where there is no agent-check.
      type: str
    tracks:
      description: The server, as backend/server, whose health and state this one follows; null where there is none.
      type: str
backend:
  description: Facts of the backend.
  returned: success
  type: dict
  contains:
    name:
      description: Its name.
      type: str
    algorithm:
      description: The load balancing algorithm; null where the socket's level does not show it.
      type: str
    mode:
      description: V(http) or V(tcp).
      type: str
process:
  description: The process that answered. A new pid means that counters started again and runtime changes may be lost.
  returned: success
  type: dict
  contains:
    pid:
      description: Process id of the worker.
      type: int
    version:
      description: HAProxy's version.
      type: str
    uptime:
      description: Seconds since the process started.
      type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import as_dicts, process_as_dict
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_module import SOCKET_OPTIONS
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_runtime import read_backend
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import parse_address
from ansible_collections.steady.rollout.plugins.module_utils._wait import checked_timeout


def main() -> None:
    module = AnsibleModule(
        argument_spec={**SOCKET_OPTIONS, "backend": {"type": "str", "required": True}},
        supports_check_mode=True,
    )
    params = module.params
    try:
        address = parse_address(params["socket"], params["allow_remote_socket"])
        process, backend = read_backend(address, params["backend"], checked_timeout(params["timeout"]))
    except LoadBalancerError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(
        changed=False,
        servers=as_dicts(backend),
        backend={"name": backend.name, "algorithm": backend.algorithm, "mode": backend.mode},
        process=process_as_dict(process),
    )


if __name__ == "__main__":
    main()
