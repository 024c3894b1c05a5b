#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_info
short_description: Read a load balancer's servers, and the records of rollouts kept on it
version_added: 0.1.0
description:
  - Reads everything that a rollout needs to know of one load balancer in one call. It reads the servers of any number of backends,
    whether they can be changed, whether that outlives a reload, who holds the backends, and what the last rollout did there.
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
      - This module only reads.
  diff_mode:
    support: N/A
    details:
      - This module changes nothing.
  idempotent:
    support: full
options:
  state_file:
    description:
      - Where the runtime state is saved so that a reload of HAProxy keeps it, as in M(steady.rollout.haproxy_backend).
    type: str
    default: auto
  records:
    description:
      - Read the records in O(state_dir), too.
    type: bool
    default: true
  await_free:
    description:
      - How many seconds to wait, before anything is read, while a rollout is at work on one of the O(backends). One that was abandoned, or whose
        lease has expired, is not waited for. What is true after that time is returned whether the backends are free or not.
    type: float
    default: 0
seealso:
  - module: steady.rollout.rollout_act
  - module: steady.rollout.haproxy_backend_info
"""

EXAMPLES = r"""
- name: Read the servers, and what rollouts did
  steady.rollout.rollout_info:
    backends: [shop]
  register: found

- name: Show who holds the backend
  ansible.builtin.debug:
    var: found.records.shop.lock
"""

RETURN = r"""
process:
  description: The process that answered, as in RV(steady.rollout.haproxy_backend_info#module:process).
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
admin:
  description: Whether servers can be changed over this O(socket).
  returned: success
  type: bool
survives_reload:
  description:
    - Whether a reload will keep the weights and states of all O(backends); null where this cannot be known, and with O(records=false).
  returned: success
  type: bool
survives_reload_reason:
  description: Why RV(survives_reload) is not true, and what to add to HAProxy's configuration.
  returned: success
  type: str
backends:
  description:
    - By name, each a dictionary of C(mode), C(algorithm) and C(servers), the latter as in
      RV(steady.rollout.haproxy_backend_info#module:servers).
  returned: success
  type: dict
records:
  description:
    - The records of each of the O(backends), by its name.
    - C(lock) is the rollout that holds the backend, as C(rollout_id), C(since), C(who) and C(abandoned), or null. C(abandoned) says why its
      controller may act no more; it is empty while it may.
    - C(lease) is until when its last act is trusted, as C(rollout_id), C(seconds) and C(left), the seconds that are left, or null.
      C(left) is negative once it expired.
    - C(guard) says whether the guard is V(running) or V(missing) that returns the traffic after that; null where there is no lease.
    - C(rollout) is what the last rollout did, or null. It has its C(rollout_id), C(at), what was recorded as it began (C(begin)), all
      that followed (C(events)), the last C(step), whether it has C(ended), and with which C(outcome).
    - C(safe) is the state that a restore goes back to, with its C(rollout_id) and C(servers), or null.
    - C(releases) is which release each server was last seen to run, by server and deploy key.
    - C(problem) says why the records cannot be read, trusted or written; null where they can.
  returned: O(records=true)
  type: dict
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._fence import Records, boot_time, looked_at
from ansible_collections.steady.rollout.plugins.module_utils._guard_lock import is_running
from ansible_collections.steady.rollout.plugins.module_utils._rollout_module import COMMON_OPTIONS, driver_of
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError
from ansible_collections.steady.rollout.plugins.module_utils._state_dir import unusable

OPTIONS: dict[str, dict[str, t.Any]] = {
    **COMMON_OPTIONS,
    "state_file": {"type": "str", "default": "auto"},
    "records": {"type": "bool", "default": True},
    "await_free": {"type": "float", "default": 0.0},
}
POLL_SECONDS = 1.0


def read_records(state_dir: str, backend: str) -> dict[str, t.Any]:
    found: dict[str, t.Any] = {
        "lock": None,
        "lease": None,
        "guard": None,
        "rollout": None,
        "safe": None,
        "releases": {},
        "problem": None,
    }
    try:
        with looked_at(state_dir, backend) as records:
            if records is not None:
                holder = records.holder()
                found["lock"] = holder.as_dict() if holder else None
                found["lease"] = read_lease(records)
                found["rollout"] = records.rollout()
                found["safe"] = records.safe()
                found["releases"] = records.releases()
        if found["lease"]:
            found["guard"] = "running" if is_running(state_dir) else "missing"
        found["problem"] = unusable(state_dir, backend)
    except StateError as exc:
        found["problem"] = str(exc)
    return found


def read_lease(records: Records) -> dict[str, t.Any] | None:
    lease = records.lease()
    if lease is None:
        return None
    return {
        "rollout_id": lease.rollout_id,
        "seconds": lease.seconds,
        "left": round(lease.left(*boot_time()), 1),
    }


def await_free(state_dir: str, backends: t.Sequence[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(is_at_work(state_dir, backend) for backend in backends):
        time.sleep(POLL_SECONDS)


def is_at_work(state_dir: str, backend: str) -> bool:
    """Whether a rollout holds the backend, and may still act. Records that cannot be read are for the reading to tell."""
    try:
        with looked_at(state_dir, backend) as records:
            holder = records.holder() if records else None
            lease = records.lease() if records else None
    except StateError:
        return False
    return holder is not None and not holder.abandoned and (lease is None or lease.left(*boot_time()) > 0)


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    params = module.params
    try:
        await_free(params["state_dir"], params["backends"], params["await_free"])
        driver = driver_of(params, True)
        read = driver.read_with_survival if params["records"] else driver.read
        reading = read(params["backends"])
    except LoadBalancerError as exc:
        module.fail_json(msg=str(exc))
    found: dict[str, t.Any] = {
        "process": reading.process,
        "admin": reading.admin,
        "survives_reload": reading.survives_reload,
        "survives_reload_reason": reading.survives_reload_reason,
        "backends": reading.backends,
    }
    if params["records"]:
        found["records"] = {backend: read_records(params["state_dir"], backend) for backend in params["backends"]}
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
