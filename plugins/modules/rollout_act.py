#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_act
short_description: Do one act of a rollout on a load balancer, and record it there
version_added: 0.1.0
description:
  - Takes, keeps and frees the lock of a rollout on any number of backends, changes their servers, and brings them back to the safe
    state. Everything is written to the journal on the load balancer, the intent before the act and the result after it.
  - Every act but O(act=begin) is refused when the rollout does not hold all O(backends). While a call runs nobody can take them over.
  - One call at a time works on a backend; others wait.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.haproxy_socket
  - steady.rollout.rollout_records
attributes:
  check_mode:
    support: full
    details:
      - As O(act=begin) takes no lock in check mode, the other acts are refused only where another rollout holds a backend.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - Lines of the journal do not count as a change.
options:
  rollout_id:
    description:
      - The rollout that acts. 1 to 100 letters, digits and the characters C(_.:@-).
    type: str
    required: true
  act:
    description:
      - V(begin) takes the lock of all O(backends), or of none. It is refused while another rollout holds one of them, or one of the same
        backends and O(socket) with another O(state_dir). It changes nothing when the rollout holds them already, unless it takes itself
        over with O(take_over).
      - V(note) adds a line to the journal. One with O(event=note) and no O(lease) is written also after the guard has taken the rollout.
      - V(look) reads the servers, and prolongs the O(lease).
      - V(shift) changes O(servers) as M(steady.rollout.haproxy_backend) does.
      - V(restore) brings back the servers of the safe state. Those that are V(ready) there and in maint go to drain, with their
        health set down until checks pass. Those that are UP, or have no check, are made ready with their weight at once, and the others as they
        come UP, for up to O(health_timeout). Then, if one of the safe servers takes traffic, the servers that are not V(ready) in the safe
        state are taken out, to drain, and their sessions are left to end. Servers that the safe state does not name are left alone.
      - V(end) writes down the O(outcome) and frees the lock.
    type: str
    required: true
    choices: [begin, note, look, shift, restore, end]
  record:
    description:
      - What to write into the lines of the journal, besides what the act writes there itself.
    type: dict
    default: {}
  results:
    description:
      - Results of what was done before this act, each written into the journal as a line of its own before anything else.
    type: list
    elements: dict
    default: []
  probe:
    description:
      - After the act, and without holding up others, probe servers from here, with the options of M(steady.rollout.http_probe). Not in check mode.
      - What became of it is returned in RV(proof), and never makes the act fail.
    type: dict
  settle:
    description:
      - After the act and the O(probe), servers to wait for until the load balancer sees them UP with no failed check outstanding, or does
        not check them. Each is a list of backend and name.
    type: list
    elements: list
    default: []
  settle_timeout:
    description:
      - Seconds to wait for O(settle).
    type: float
    default: 30.0
  event:
    description:
      - What the line of O(act=note) is.
    type: str
    choices: [intent, result, note]
    default: note
  take_over:
    description:
      - With O(act=begin), the ids of the rollouts whose lock may be taken.
    type: list
    elements: str
    default: []
  who:
    description:
      - With O(act=begin), who begins, such as user, host and job. Shown to whoever finds the backend locked.
    type: dict
    default: {}
  safe:
    description:
      - The safe state by backend and server, each a dictionary of C(weight) (optional) and C(state). Kept on disk before anything else happens,
        until another one is given; backends that are not named keep theirs.
    type: dict
    default: {}
  releases:
    description:
      - The releases that servers were seen to run, by backend, server and deploy key. Added to those that are known.
    type: dict
    default: {}
  servers:
    description:
      - With O(act=shift), the servers to change by backend, each a list as in O(steady.rollout.haproxy_backend#module:servers).
    type: dict
    default: {}
  outcome:
    description:
      - With O(act=end), what became of the rollout.
    type: str
  keep_lock:
    description:
      - With O(act=end), leave the lock with this rollout.
    type: bool
    default: false
  capacity:
    description:
      - With O(act=shift), what must be left for the traffic, or the call is refused with nothing changed.
      - C(base) names, by backend, the servers that are meant to carry the traffic, each with its weight in full rotation.
      - At least C(min_percent) of that weight must stay healthy and in rotation, and no server that gains may come nearer to its limit
        of sessions than C(headroom_percent) of it. Both are percentages.
    type: dict
    default: {}
  drain_timeout:
    description:
      - As in M(steady.rollout.haproxy_backend), for O(act=shift).
    type: float
    default: 30.0
  on_drain_timeout:
    description:
      - As in M(steady.rollout.haproxy_backend), for O(act=shift).
    type: str
    choices: [fail, continue, cut]
    default: fail
  require_healthy:
    description:
      - As in M(steady.rollout.haproxy_backend), for O(act=shift).
    type: bool
    default: true
  health_timeout:
    description:
      - Seconds to wait for servers that gain traffic to be UP.
    type: float
    default: 30.0
  allow_unchecked:
    description:
      - As in M(steady.rollout.haproxy_backend), for O(act=shift).
    type: bool
    default: false
  allow_empty:
    description:
      - As in M(steady.rollout.haproxy_backend), for O(act=shift).
    type: bool
    default: false
  allow_backup:
    description:
      - As in M(steady.rollout.haproxy_backend), for O(act=shift).
    type: bool
    default: false
  state_file:
    description:
      - As in M(steady.rollout.haproxy_backend).
    type: str
    default: auto
  lease:
    description:
      - Until how many seconds after this act, 5 at least, the next one must come. When none does, the guard returns the traffic to the safe state,
        and the rollout can act no more until it is taken over. Without it no lease is granted, and one that runs goes on.
    type: float
  guard:
    description:
      - What watches the lease. V(systemd) is a unit that survives a reboot, V(process) a process of its own that does not, V(auto)
        the unit where there is systemd and the task is root's. With V(off) O(lease) is not granted.
    type: str
    choices: [auto, systemd, process, 'off']
    default: auto
  reason:
    description:
      - With O(act=begin) and O(take_over), why a rollout is taken over whose lease has not expired. Without one that is refused.
    type: str
    default: ""
  planned_on:
    description:
      - With O(act=begin), the last rollout that was read before this one was planned, by backend, as C(rollout_id) and C(ended); an empty dictionary where
        there was none. The call is refused when that is not true any more. Backends that are not named are not asked about.
    type: dict
    default: {}
notes:
  - A shift that fails for one backend puts that one back as it was. Backends that were changed before it in the same call stay as asked, and the
    message names them.
seealso:
  - module: steady.rollout.rollout_info
  - module: steady.rollout.haproxy_backend
"""

EXAMPLES = r"""
- name: Take the backend
  steady.rollout.rollout_act:
    act: begin
    rollout_id: r7
    backends: [shop]
    who: {user: alice}
    safe:
      shop:
        web1: {weight: 10, state: ready}
        web2: {weight: 10, state: drain}

- name: Swap
  steady.rollout.rollout_act:
    act: shift
    rollout_id: r7
    backends: [shop]
    record: {step: 3}
    servers:
      shop:
        - {name: web2, state: ready}
        - {name: web1, state: drain}
    on_drain_timeout: continue

- name: Go back
  steady.rollout.rollout_act:
    act: restore
    rollout_id: r7
    backends: [shop]

- name: Free the backend
  steady.rollout.rollout_act:
    act: end
    rollout_id: r7
    backends: [shop]
    outcome: rolled_back
"""

RETURN = r"""
changed:
  description: Whether servers, the lock, O(safe) or O(releases) were changed, or would be in check mode.
  returned: always
  type: bool
outdated:
  description: Whether the call was refused because of O(planned_on).
  returned: failure
  type: bool
abandoned:
  description: Why the rollout may act no more, as the guard has written it; empty when the call failed for another reason.
  returned: failure
  type: str
before:
  description:
    - With O(act=shift) and O(act=restore), by backend, the servers concerned before the call, each as in
      RV(steady.rollout.haproxy_backend_info#module:servers).
  returned: success
  type: dict
after:
  description: As RV(before), as read back after the call.
  returned: success
  type: dict
backends:
  description:
    - With O(act=look), by name, each a dictionary of C(servers), with what a poll needs of
      RV(steady.rollout.haproxy_backend_info#module:servers).
  returned: success
  type: dict
cut_sessions:
  description: How many sessions were cut after the drain timeout; a warning names the servers.
  returned: success
  type: int
out:
  description: With O(act=restore), by backend and server, why a server was not brought back. It is tried again by the next restore.
  returned: success
  type: dict
proof:
  description:
    - With O(probe) or O(settle), what was seen. C(ok) says whether all was as asked, C(msg) what was not, and C(targets) is what
      M(steady.rollout.http_probe) returns.
  returned: success
  type: dict
process:
  description: The process that was changed, as in RV(steady.rollout.haproxy_backend_info#module:process); null where HAProxy was not asked.
  returned: success
  type: dict
survives_reload:
  description: Whether a reload will keep what was changed; null where this cannot be known, or HAProxy was not asked.
  returned: success
  type: bool
survives_reload_reason:
  description: Why RV(survives_reload) is not true, and what to add to HAProxy's configuration.
  returned: success
  type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import Driver, LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._fence import Lost
from ansible_collections.steady.rollout.plugins.module_utils._guard_service import KINDS, Service
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_module import SOCKET_OPTIONS
from ansible_collections.steady.rollout.plugins.module_utils._no_log import hide
from ansible_collections.steady.rollout.plugins.module_utils._rollout_act import (
    ACTS,
    NOTED,
    Act,
    Outdated,
    perform,
    result,
)
from ansible_collections.steady.rollout.plugins.module_utils._rollout_module import (
    COMMON_OPTIONS,
    driver_of,
    read_safe,
    read_servers,
    read_tables,
)
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError

OPTIONS: dict[str, dict[str, t.Any]] = {
    **COMMON_OPTIONS,
    "rollout_id": {"type": "str", "required": True},
    "act": {"type": "str", "required": True, "choices": list(ACTS)},
    "record": {"type": "dict", "default": {}},
    "results": {"type": "list", "elements": "dict", "default": []},
    # Headers may hold secrets.
    "probe": {"type": "dict", "no_log": True},
    "settle": {"type": "list", "elements": "list", "default": []},
    "settle_timeout": {"type": "float", "default": 30.0},
    "event": {"type": "str", "choices": list(NOTED), "default": "note"},
    "take_over": {"type": "list", "elements": "str", "default": []},
    "who": {"type": "dict", "default": {}},
    "safe": {"type": "dict", "default": {}},
    "releases": {"type": "dict", "default": {}},
    "servers": {"type": "dict", "default": {}},
    "outcome": {"type": "str"},
    "keep_lock": {"type": "bool", "default": False},
    "capacity": {"type": "dict", "default": {}},
    "drain_timeout": {"type": "float", "default": 30.0},
    "on_drain_timeout": {"type": "str", "choices": ["fail", "continue", "cut"], "default": "fail"},
    "require_healthy": {"type": "bool", "default": True},
    "health_timeout": {"type": "float", "default": 30.0},
    "allow_unchecked": {"type": "bool", "default": False},
    "allow_empty": {"type": "bool", "default": False},
    "allow_backup": {"type": "bool", "default": False},
    "state_file": {"type": "str", "default": "auto"},
    "lease": {"type": "float"},
    "guard": {"type": "str", "choices": list(KINDS), "default": "auto"},
    "reason": {"type": "str", "default": ""},
    "planned_on": {"type": "dict", "default": {}},
}
# What the guard needs to reach the load balancer, and to restore.
REACH = ("provider", *SOCKET_OPTIONS, "config", "health_timeout", "state_file")


def act(params: t.Mapping[str, t.Any], check_mode: bool) -> Act:
    """The module's parameters as one act. Raises StateError for what no type can tell."""
    return Act(
        act=params["act"],
        rollout_id=params["rollout_id"],
        backends=tuple(params["backends"]),
        state_dir=params["state_dir"],
        patience=params["timeout"] + params["health_timeout"] + params["drain_timeout"],
        record=params["record"],
        results=params["results"],
        event=params["event"],
        take_over=tuple(params["take_over"]),
        who=params["who"],
        safe=read_safe(params["safe"]),
        releases=read_tables("releases", params["releases"]),
        servers=read_servers(params["servers"]) if params["act"] == "shift" else {},
        capacity=params["capacity"],
        outcome=params["outcome"],
        keep_lock=params["keep_lock"],
        check_mode=check_mode,
        lease=None if params["guard"] == "off" else params["lease"],
        reach={name: params[name] for name in REACH},
        reason=params["reason"],
        planned_on=params["planned_on"],
    )


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    params = {**module.params}
    hide(module, "probe")
    try:
        driver = driver_of(params, module.check_mode)
        service = Service(params["state_dir"], params["guard"], module.run_command)
        done = perform(act(params, module.check_mode), driver, service)
        proof = _prove(params, driver) if not module.check_mode else {}
    except (LoadBalancerError, StateError) as exc:
        abandoned = exc.abandoned if isinstance(exc, Lost) else ""
        module.fail_json(msg=str(exc), abandoned=abandoned, outdated=isinstance(exc, Outdated))
    for warning in done.warnings:
        module.warn(warning)
    for changed in done.backends.values():
        for warning in changed.warnings:
            module.warn(warning)
    module.exit_json(**result(done), **proof)


def _prove(params: t.Mapping[str, t.Any], driver: Driver) -> dict[str, t.Any]:
    if not params["probe"] and not params["settle"]:
        return {}
    # Few calls prove anything, and Python compiles anew at each call what a module imports.
    from ansible_collections.steady.rollout.plugins.module_utils._proof import prove

    wanted = ("backends", "probe", "settle", "settle_timeout")
    return {"proof": prove(driver, *(params[name] for name in wanted))}


if __name__ == "__main__":
    main()
