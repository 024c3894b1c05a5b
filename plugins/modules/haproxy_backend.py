#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_backend
short_description: Change weights and states of servers in an HAProxy backend
version_added: 0.1.0
description:
  - Brings any number of servers of one backend to the wanted weight and state, over one connection to HAProxy's Runtime API,
    and reads everything back before it says so. Servers that are not listed are left alone.
  - Servers that gain traffic come first and must be UP; only then are the others lowered. At no moment is the backend without
    a usable server, and backup servers do not take over by accident. What cannot be done that way is refused before anything
    is changed.
  - A call that fails half-way puts back what it did, and says so. HAProxy has no transactions, so between two commands others
    may see a mixture of old and new weights.
  - Calls for the same socket and backend wait for each other.
  - A server never goes from maint straight to ready, as HAProxy would send traffic before the first health check. It goes to
    drain, its health is set down until checks pass (which HAProxy logs), and then it is let in.
  - When HAProxy is reloaded during the call, this is noticed and the change is done again on the new process.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.haproxy_socket
  - steady.rollout.fence
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  backend:
    description:
      - The backend whose servers are changed.
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
          - Name of the server line.
        type: str
        required: true
      weight:
        description:
          - The weight, 0 to 256. Left as it is when not given. A weight of 0 is not a drain, as cookies, stick tables and the
            server's queue still lead there.
          - With an agent-check, the configured weight is what the agent makes of it.
          - Static algorithms (static-rr, and hashes without C(hash-type consistent)) take only 0 and the configured weight.
        type: int
      state:
        description:
          - V(ready) takes traffic. V(drain) takes no new traffic, except what cookies or stick tables bind to it, and is still
            health-checked. V(maint) takes none and is not checked. Left as it is when not given.
        type: str
        choices: [ready, drain, maint]
  drain_timeout:
    description:
      - Seconds to wait, for servers with O(servers[].state=drain) or O(servers[].state=maint), until they have no sessions and
        no queue. Sessions that a worker from before a reload during this call still serves are waited for as well.
    type: float
    default: 30.0
  on_drain_timeout:
    description:
      - What to do with sessions that outlive O(drain_timeout).
      - V(fail) puts the servers back as they were and fails.
      - V(continue) leaves the sessions to end by themselves and warns. Where C(on-marked-down shutdown-sessions) is configured
        HAProxy itself ends them at maint; RV(cut_sessions) counts those.
      - V(cut) shuts them down; RV(cut_sessions) counts them.
    type: str
    choices: [fail, continue, cut]
    default: fail
  require_healthy:
    description:
      - A server that gains traffic must be UP, with no failed check outstanding. It is waited for up to O(health_timeout).
    type: bool
    default: true
  health_timeout:
    description:
      - Seconds to wait for servers that gain traffic to be UP.
    type: float
    default: 30.0
  allow_unchecked:
    description:
      - Let servers without a health check gain traffic, although nothing shows that they work.
    type: bool
    default: false
  allow_empty:
    description:
      - Allow a change after which no server of the backend can take traffic.
    type: bool
    default: false
  allow_backup:
    description:
      - Allow a change after which only backup servers are left to take traffic.
    type: bool
    default: false
  state_file:
    description:
      - Where to save the runtime state so that a reload of HAProxy keeps it. V(auto) finds the file that the running process
        is configured to load. An empty string saves nothing.
      - HAProxy forgets all runtime changes at a reload unless C(load-server-state-from-file) and C(server-state-file) are
        configured; RV(survives_reload) tells.
    type: str
    default: auto
notes:
  - With leastconn and first, weights are not shares of the traffic; a warning says so.
  - The agent-check of a server is switched off while the server is held away from ready or from its configured weight, as it
    would overwrite both. It is switched on again by the call that ends this.
  - A server that other servers track takes those along into drain and maint, in other backends too.
  - A drain counts the sessions of the running worker, and of workers replaced during the call. Workers replaced before it are
    out of reach of the Runtime API.
seealso:
  - module: steady.rollout.haproxy_backend_info
"""

EXAMPLES = r"""
- name: Send a tenth of the traffic to the new server
  steady.rollout.haproxy_backend:
    backend: shop
    servers:
      - {name: web1, weight: 10, state: ready}
      - {name: web2, weight: 90, state: ready}

- name: Take a server out of rotation, and wait until its last request has been answered
  steady.rollout.haproxy_backend:
    socket: /run/haproxy/admin.sock
    backend: shop
    servers:
      - {name: web1, state: maint}
    drain_timeout: 60
    on_drain_timeout: cut
"""

RETURN = r"""
changed:
  description: Whether a weight, a state, an agent-check or the state file was changed, or would be in check mode.
  returned: always
  type: bool
before:
  description:
    - The listed servers before the call, each as in RV(steady.rollout.haproxy_backend_info#module:servers).
  returned: success
  type: list
  elements: dict
after:
  description:
    - The listed servers as read back, each as in RV(steady.rollout.haproxy_backend_info#module:servers).
  returned: success
  type: list
  elements: dict
cut_sessions:
  description: How many sessions were cut after the drain timeout; a warning names the servers.
  returned: success
  type: int
survives_reload:
  description: Whether a reload of HAProxy will keep these weights and states; null where this cannot be known.
  returned: success
  type: bool
survives_reload_reason:
  description: Why RV(survives_reload) is not true, and what to add to HAProxy's configuration.
  returned: success
  type: str
state_file:
  description: The state file in use; null where there is none.
  returned: success
  type: str
process:
  description: The process that was changed, as in RV(steady.rollout.haproxy_backend_info#module:process).
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

import typing as t
from functools import partial

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._fence_option import FENCE_OPTIONS, within
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import as_dicts, process_as_dict
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_backend import (
    Outcome,
    Request,
    admit_all,
    change_backend,
    diff,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_module import SOCKET_OPTIONS, checked_state_file
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_plan import Policy
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import (
    Address,
    lock_name,
    parse_address,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import STATES, Wanted
from ansible_collections.steady.rollout.plugins.module_utils._held import refuse_held
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError
from ansible_collections.steady.rollout.plugins.module_utils._wait import checked_timeout, checked_wait

OPTIONS: dict[str, dict[str, t.Any]] = {
    **SOCKET_OPTIONS,
    "backend": {"type": "str", "required": True},
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
    "health_timeout": {"type": "float", "default": 30.0},
    "allow_unchecked": {"type": "bool", "default": False},
    "allow_empty": {"type": "bool", "default": False},
    "allow_backup": {"type": "bool", "default": False},
    "state_file": {"type": "str", "default": "auto"},
    **FENCE_OPTIONS,
}


def request(params: t.Mapping[str, t.Any], check_mode: bool) -> Request:
    """The module's parameters as one typed request. Raises LoadBalancerError for what no type can tell."""
    address = parse_address(params["socket"], params["allow_remote_socket"])
    unfenced = not params["fence"] and not params["force"]
    return Request(
        address=address,
        backend=params["backend"],
        wanted=tuple(Wanted(server["name"], server["weight"], server["state"]) for server in params["servers"]),
        policy=Policy(
            require_healthy=params["require_healthy"],
            allow_unchecked=params["allow_unchecked"],
            allow_empty=params["allow_empty"],
            allow_backup=params["allow_backup"],
        ),
        drain_timeout=checked_wait("drain_timeout", params["drain_timeout"]),
        on_drain_timeout=params["on_drain_timeout"],
        health_timeout=checked_wait("health_timeout", params["health_timeout"]),
        timeout=checked_timeout(params["timeout"]),
        state_file=checked_state_file(params["state_file"]),
        check_mode=check_mode,
        admit=partial(_refuse_held, address, params["backend"]) if unfenced else admit_all,
    )


def _refuse_held(address: Address, backend: str) -> None:
    refuse_held(lock_name(address, backend), backend)


def change(asked: Request, fence: t.Mapping[str, str] | None) -> Outcome:
    """Change the backend, with a fence while the rollout it names holds the backend. Raises LoadBalancerError and StateError."""
    with within(fence, asked.backend, asked.patience, asked.check_mode):
        return change_backend(asked)


def result(outcome: Outcome, names: t.Collection[str]) -> dict[str, t.Any]:
    return {
        "changed": outcome.changed,
        "before": as_dicts(outcome.before, names),
        "after": as_dicts(outcome.after, names),
        "diff": diff(outcome, names),
        "cut_sessions": sum(outcome.cut.values()),
        "survives_reload": outcome.survival.survives,
        "survives_reload_reason": outcome.survival.reason,
        "state_file": outcome.survival.path,
        "process": process_as_dict(outcome.process),
    }


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    try:
        outcome = change(request(module.params, module.check_mode), module.params["fence"])
    except (LoadBalancerError, StateError) as exc:
        module.fail_json(msg=str(exc))
    for warning in outcome.warnings:
        module.warn(warning)
    module.exit_json(**result(outcome, {server["name"] for server in module.params["servers"]}))


if __name__ == "__main__":
    main()
