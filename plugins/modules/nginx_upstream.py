#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_upstream
short_description: Change weights and states of servers in an NGINX upstream
version_added: 0.1.0
description:
  - Brings any number of C(server) lines of one upstream, in C(http) or C(stream), to the wanted weight and state, has NGINX read them,
    and proves that it did. Servers that are not listed are left alone.
  - Of the configuration only the words concerned change, byte by byte, in whichever file they are. Includes are followed in NGINX's
    order. The owner, mode and labels of a file stay.
  - The change is tested by NGINX at its real place before it replaces anything, without anybody else seeing it, where the host allows
    a private view of the file system (root, not in every container); else it is put in place, tested, and taken back if refused.
  - Neither C(nginx -t) nor the exit code of a reload tells whether a configuration serves. The module waits for new worker processes;
    where none come in O(timeout), the old files are put back and read again, and the module fails.
  - A configuration that NGINX does not take as it is found is refused with NGINX's own message, and nothing is touched.
  - Killed at any moment it leaves a valid configuration, the old one or the new one. The next call has NGINX read it.
  - Calls for the same configuration wait for each other.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.nginx_config
  - steady.rollout.fence
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  socket:
    description:
      - Where C(steady_rollout.lua) runs in NGINX, the path of its API. Weights and states are then changed there, without a reload, and
        O(config) is not touched.
      - A server told to be V(drain) is then drained of its own requests, which are counted; O(on_drain_timeout=cut) cannot be had.
    type: path
  upstream:
    description:
      - The upstream whose servers are changed. Where C(http) and C(stream) both have one of that name, V(http/NAME) or V(stream/NAME).
    type: str
    required: true
  servers:
    description:
      - The servers to change, each at most once.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - The address as the C(server) line has it, with its port, such as V(10.0.0.1:8080) or V(unix:/run/app.sock). Without one it is 80.
        type: str
        required: true
      weight:
        description:
          - The weight, 0 to 100000. Left as it is when not given. NGINX takes no weight of 0, so such a server becomes V(down), and keeps
            the weight it had.
        type: int
      state:
        description:
          - V(ready) takes traffic. V(drain) takes no new traffic but what sticks to it, where NGINX has that (1.29.6) and the upstream
            is C(sticky); anywhere else, and for a server that is V(down), it is the same as V(down). V(down) takes none. Left as it
            is when not given.
        type: str
        choices: [ready, drain, down]
  drain_timeout:
    description:
      - Seconds to wait, when servers are told to be O(servers[].state=drain) or O(servers[].state=down), until no worker is left that
        began before the change. NGINX tells of no sessions of a server, so this is when they have all ended.
    type: float
    default: 30.0
  on_drain_timeout:
    description:
      - What to do with workers that outlive O(drain_timeout), such as those with a WebSocket or a long download.
      - V(fail) puts the servers back as they were and fails.
      - V(continue) leaves them to end by themselves and warns.
      - V(cut) ends them, with whatever they still serve, also from other servers. RV(cut_sessions) counts connections to the servers
        that go.
    type: str
    choices: [fail, continue, cut]
    default: fail
  require_healthy:
    description:
      - A server that gains traffic must answer O(probe), or accept a connection where that is not given. NGINX itself checks nothing. It is
        waited for up to O(health_timeout).
    type: bool
    default: true
  probe:
    description:
      - How a server that gains traffic is asked, with the options of M(steady.rollout.http_probe) but for C(targets).
    type: dict
  health_timeout:
    description:
      - Seconds to wait for servers that gain traffic.
    type: float
    default: 30.0
  allow_empty:
    description:
      - Allow a change after which no server of the upstream can take traffic.
    type: bool
    default: false
  allow_backup:
    description:
      - Allow a change after which only backup servers are left to take traffic.
    type: bool
    default: false
notes:
  - A reload on NGINX before 1.27.4 closes idle connections of clients. One that sends a request at that moment sees its connection
    reset, before any answer; most clients try again. From 1.27.4 on C(keepalive_min_timeout) prevents this.
  - A reload makes NGINX forget which servers failed of late.
  - With C(least_conn), C(least_time) and C(random) weights are not shares of the traffic.
  - Without C(zone) each worker has its own turn of the servers, and a small weight may get nothing for long.
seealso:
  - module: steady.rollout.nginx_upstream_info
  - module: steady.rollout.http_probe
"""

EXAMPLES = r"""
- name: Send a tenth of the traffic to the new server, once it answers
  steady.rollout.nginx_upstream:
    upstream: shop
    servers:
      - {name: "10.0.0.1:8080", weight: 10, state: ready}
      - {name: "10.0.0.2:8080", weight: 90, state: ready}
    probe:
      path: /health

- name: Take a server out of rotation, and wait until its last request has been answered
  steady.rollout.nginx_upstream:
    config: /etc/nginx/nginx.conf
    upstream: shop
    servers:
      - {name: "10.0.0.1:8080", state: down}
    drain_timeout: 60
    on_drain_timeout: cut
"""

RETURN = r"""
changed:
  description: Whether a weight or a state was changed, or would be in check mode.
  returned: always
  type: bool
before:
  description:
    - The listed servers before the call, each as in RV(steady.rollout.nginx_upstream_info#module:servers), without counters.
  returned: success
  type: list
  elements: dict
after:
  description:
    - The listed servers as read back, each as in RV(steady.rollout.nginx_upstream_info#module:servers), without counters.
  returned: success
  type: list
  elements: dict
cut_sessions:
  description: How many connections to the servers that go were cut after the drain timeout; a warning names them.
  returned: success
  type: int
process:
  description: The process that was changed, as in RV(steady.rollout.nginx_upstream_info#module:process).
  returned: success
  type: dict
"""

import typing as t
from dataclasses import replace
from functools import partial

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import Changed, LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._fence_option import FENCE_OPTIONS, within
from ansible_collections.steady.rollout.plugins.module_utils._held import refuse_held
from ansible_collections.steady.rollout.plugins.module_utils._nginx_driver import NginxDriver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_driver import NginxLuaDriver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_module import CONFIG_OPTIONS
from ansible_collections.steady.rollout.plugins.module_utils._nginx_reach import unreached
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import STATES, Server
from ansible_collections.steady.rollout.plugins.module_utils._no_log import hide
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError
from ansible_collections.steady.rollout.plugins.module_utils._wait import checked_timeout, checked_wait

OPTIONS: dict[str, dict[str, t.Any]] = {
    **CONFIG_OPTIONS,
    "socket": {"type": "path"},
    "upstream": {"type": "str", "required": True},
    "servers": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "weight": {"type": "int"},
            "state": {"type": "str", "choices": list(STATES)},
        },
    },
    "drain_timeout": {"type": "float", "default": 30.0},
    "on_drain_timeout": {"type": "str", "choices": ["fail", "continue", "cut"], "default": "fail"},
    "require_healthy": {"type": "bool", "default": True},
    # Headers may hold secrets.
    "probe": {"type": "dict", "no_log": True},
    "health_timeout": {"type": "float", "default": 30.0},
    "allow_empty": {"type": "bool", "default": False},
    "allow_backup": {"type": "bool", "default": False},
    **FENCE_OPTIONS,
}
POLICY = ("require_healthy", "allow_empty", "allow_backup")


Either = t.Union[NginxDriver, NginxLuaDriver]


def driver(params: t.Mapping[str, t.Any], check_mode: bool) -> Either:
    """The module's parameters as a driver. Raises LoadBalancerError for what no type can tell."""
    make = partial(NginxLuaDriver, params["socket"]) if params["socket"] else partial(NginxDriver, params["config"])
    asked = make(
        timeout=checked_timeout(params["timeout"]),
        drain_timeout=checked_wait("drain_timeout", params["drain_timeout"]),
        on_drain_timeout=params["on_drain_timeout"],
        health_timeout=checked_wait("health_timeout", params["health_timeout"]),
        policy={name: params[name] for name in POLICY},
        unproved=_prover(params["probe"]) if params["probe"] is not None else unreached,
        check_mode=check_mode,
    )
    if params["fence"] or params["force"]:
        return asked
    upstream = params["upstream"]
    return replace(asked, admit=partial(refuse_held, asked.lock_name(upstream), upstream))


def _prover(probe: t.Mapping[str, t.Any]) -> t.Callable[[t.Sequence[Server], float], str]:
    # Few calls probe, and what is imported is compiled anew at every call.
    from ansible_collections.steady.rollout.plugins.module_utils._nginx_probe import unproved

    return partial(unproved, probe)


def change(asked: Either, params: t.Mapping[str, t.Any]) -> Changed:
    """Change the upstream, with a fence while the rollout it names holds it. Raises LoadBalancerError and StateError."""
    upstream = params["upstream"]
    with within(params["fence"], upstream, asked.patience, asked.check_mode):
        return asked.change(upstream, params["servers"])


def result(changed: Changed) -> dict[str, t.Any]:
    return {
        "changed": changed.changed,
        "before": changed.before,
        "after": changed.after,
        "diff": {"before": _lines(changed.before), "after": _lines(changed.after)},
        "cut_sessions": changed.cut,
        "process": changed.process,
    }


def _lines(servers: t.Sequence[t.Mapping[str, t.Any]]) -> str:
    return "".join(f"{one['name']}: weight {one['weight']}, {one['state']}\n" for one in servers)


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    params = {**module.params}
    hide(module, "probe")
    try:
        changed = change(driver(params, module.check_mode), params)
    except (LoadBalancerError, StateError) as exc:
        module.fail_json(msg=str(exc))
    for warning in changed.warnings:
        module.warn(warning)
    module.exit_json(**result(changed))


if __name__ == "__main__":
    main()
