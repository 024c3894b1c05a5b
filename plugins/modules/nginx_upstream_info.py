#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_upstream_info
short_description: Read the servers of an NGINX upstream
version_added: 0.1.0
description:
  - Reads weights, states and share of traffic of all servers of one upstream from the configuration of the running NGINX, and their
    counters from its access log, where that is in the format that M(steady.rollout.nginx_config_info) looks for.
  - Counters begin with the end of the log when it is read for the first time, and go on from there at each call. They are kept below
    C(/run/steady-rollout). Rotated logs are read to their end.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.nginx_config
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
  socket:
    description:
      - Where C(steady_rollout.lua) runs in NGINX, the path of its API, which is read then. O(config) tells only of the log.
      - RV(servers[].sessions) are then the requests in flight.
    type: path
  upstream:
    description:
      - The upstream to read. Where C(http) and C(stream) both have one of that name, V(http/NAME) or V(stream/NAME).
    type: str
    required: true
seealso:
  - module: steady.rollout.nginx_upstream
  - module: steady.rollout.nginx_config_info
"""

EXAMPLES = r"""
- name: Read the upstream
  steady.rollout.nginx_upstream_info:
    upstream: shop
  register: shop

- name: Show who carries how much
  ansible.builtin.debug:
    msg: "{{ shop.servers | items2dict(key_name='name', value_name='share') }}"
"""

RETURN = r"""
servers:
  description:
    - The servers of the upstream in the order of the configuration. What NGINX does not tell is null, never 0. Keys that only other
      load balancers know are null.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The address with its port, as NGINX understands it.
      type: str
    address:
      description: The address without the port.
      type: str
    port:
      description: TCP port; null for a unix socket.
      type: int
    weight:
      description: The weight, also of a server that is down.
      type: int
    state:
      description: V(ready), V(drain) or V(down).
      type: str
    own_state:
      description: The same.
      type: str
    health:
      description: V(unchecked), as NGINX checks nothing by itself.
      type: str
    share:
      description: Percent of new traffic by the weights. Null where weights do not tell, as with least_conn.
      type: float
    sessions:
      description: Null, as NGINX does not tell.
      type: int
    queued:
      description: Null, as NGINX has no queue.
      type: int
    max_sessions:
      description: How many connections it may have (C(max_conns) of its line); null where there is no limit.
      type: int
    requests:
      description: Tries of HTTP requests since the counters began; sessions in C(stream). Null without a log.
      type: int
    errors:
      description:
        - Counters, RV(servers[].errors.http_5xx), RV(servers[].errors.http_4xx), RV(servers[].errors.connect) and
          RV(servers[].errors.response). Null without a log.
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
          description: Requests that got no answer, or none in time.
          type: int
    latencies:
      description:
        - How many answers took how long, by the upper bound in ms; each answer is in one of them, and bounds lie 1 ms or 5 % apart. Null without
          a log.
      type: dict
    backup:
      description: Whether it is a backup server.
      type: bool
mode:
  description: V(http), or V(tcp) for an upstream of C(stream).
  returned: success
  type: str
algorithm:
  description: V(roundrobin), or the directive that says otherwise, such as V(least_conn).
  returned: success
  type: str
uncounted:
  description: Why there are no counters, and what to do; empty where there are.
  returned: success
  type: str
process:
  description: The running NGINX.
  returned: success
  type: dict
  contains:
    pid:
      description: Process id of the master.
      type: int
    version:
      description: NGINX's version.
      type: str
    uptime:
      description: Seconds since the master started.
      type: int
    loaded:
      description: Whether NGINX has read the files since this collection changed them last. Not so, a call was killed; the next one mends it.
      type: bool
    keeps_idle:
      description:
        - Whether clients may reuse connections over a reload. NGINX before 1.27.4, or without C(keepalive_min_timeout), closes those that are
          idle, with a request that may be on its way.
      type: bool
    counters:
      description: Another word each time that counters began anew.
      type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_driver import NginxDriver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_driver import NginxLuaDriver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_module import CONFIG_OPTIONS
from ansible_collections.steady.rollout.plugins.module_utils._wait import checked_timeout

OPTIONS: dict[str, dict[str, t.Any]] = {
    **CONFIG_OPTIONS,
    "socket": {"type": "path"},
    "upstream": {"type": "str", "required": True},
}


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    upstream, config, path = (module.params[name] for name in ("upstream", "config", "socket"))
    try:
        timeout = checked_timeout(module.params["timeout"])
        driver = NginxLuaDriver(path, timeout, config=config) if path else NginxDriver(config, timeout)
        reading = driver.read([upstream])
    except LoadBalancerError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(changed=False, process=reading.process, **reading.backends[upstream])


if __name__ == "__main__":
    main()
