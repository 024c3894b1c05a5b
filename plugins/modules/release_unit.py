#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_unit
short_description: Have systemd run a release, and see that it does
version_added: 0.1.0
description:
  - Starts a unit, restarts it where its main process does not work in the release, or stops it. What is as it is to be is left alone.
  - A start is done when the unit is active, and its main process was there for O(settle) seconds and did not end. Otherwise the module fails,
    with the state of the unit, how its main process ended, and the last 20 lines of its journal.
  - Systemd reads its files anew where they changed, and then the unit is restarted.
  - A unit that ended too often before is started nevertheless.
  - The unit must have a main process that stays; one of C(Type=oneshot) has none.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
attributes:
  check_mode:
    support: full
    details:
      - A unit that is not there is taken for one whose file a task before would have written.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - With O(restart=true) the unit is restarted each time.
options:
  name:
    description:
      - The unit, with or without its C(.service).
    type: str
    required: true
  state:
    description:
      - Whether it is to run.
    type: str
    choices: [running, stopped]
    default: running
  enabled:
    description:
      - Whether it is to be started when the host starts.
    type: bool
    default: true
  directory:
    description:
      - The folder of the release. The unit is restarted where its main process does not work in it, and this is read back. Its
        C(WorkingDirectory) should be the link C(current), and its program must not leave it.
      - By default, it does not matter where the main process works.
    type: path
  restart:
    description:
      - Whether it is restarted even where nothing else asks for that. With O(state=stopped) it means nothing.
    type: bool
    default: false
  kept:
    description:
      - Where the file of the unit is copied to once the unit runs, so that a release can run under it again. Its folder must be there.
      - It is the same call that starts the unit, so a controller that is gone meanwhile does not keep it from being noted.
    type: path
  start_timeout:
    description:
      - How long a start may take, seconds, from when the process before is gone.
    type: float
    default: 60
  stop_timeout:
    description:
      - How long a stop may take, seconds; 10 more are given to systemd, which kills what does not stop in the C(TimeoutStopSec) of the unit.
        It should be as long as that.
    type: float
    default: 90
  settle:
    description:
      - How long the main process must be there to be taken for one that runs, seconds.
    type: float
    default: 2
seealso:
  - module: steady.rollout.release_current
"""

EXAMPLES = r"""
- name: Run the current release
  steady.rollout.release_unit:
    name: shop
    directory: /opt/shop/releases/2.0.0
    stop_timeout: 30
    kept: /opt/shop/units/2.0.0.service

- name: Stop it, and do not start it with the host
  steady.rollout.release_unit:
    name: shop
    state: stopped
    enabled: false
"""

RETURN = r"""
before:
  description: The unit as it was.
  returned: success
  type: dict
  contains: &unit
    load:
      description: Whether systemd could load it, such as V(loaded) or V(not-found).
      type: str
    active:
      description: Its state, such as V(active) or V(failed).
      type: str
    sub:
      description: The state below that, such as V(running).
      type: str
    main_pid:
      description: Its main process; null where there is none.
      type: int
    directory:
      description: The folder that its main process works in; null where that is not known.
      type: str
    restarts:
      description: How often systemd restarted it by itself since it was started.
      type: int
    enabled:
      description: Whether it is started when the host starts.
      type: bool
after:
  description: The unit as it is; in check mode, as it was.
  returned: success
  type: dict
  contains: *unit
restarted:
  description: Whether it was started or restarted, or would be.
  returned: success
  type: bool
reason:
  description: Why it was started or restarted; empty where it was not.
  returned: success
  type: str
"""

import functools
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError
from ansible_collections.steady.rollout.plugins.module_utils._release_service import Outcome, Service
from ansible_collections.steady.rollout.plugins.module_utils._release_unit import RUNNING, STOPPED, Aim, Waits
from ansible_collections.steady.rollout.plugins.module_utils._wait import checked_wait


def diff(done: Outcome, aim: Aim) -> dict[str, t.Any]:
    before = {"state": RUNNING if done.before.is_up else STOPPED, "enabled": done.before.is_enabled}
    after: dict[str, t.Any] = {"state": aim.state, "enabled": aim.enabled}
    if aim.state == RUNNING and aim.directory:
        before["directory"], after["directory"] = done.before.directory, aim.directory
    if done.acts.restart or done.acts.start:
        after["restarted"] = done.acts.why
    return {"before": before, "after": after}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": [RUNNING, STOPPED], "default": RUNNING},
            "enabled": {"type": "bool", "default": True},
            "directory": {"type": "path"},
            "restart": {"type": "bool", "default": False},
            "kept": {"type": "path"},
            "start_timeout": {"type": "float", "default": 60},
            "stop_timeout": {"type": "float", "default": 90},
            "settle": {"type": "float", "default": 2},
        },
        supports_check_mode=True,
    )
    params = module.params
    directory = os.path.realpath(params["directory"]) if params["directory"] else None
    aim = Aim(params["state"], params["enabled"], directory, params["restart"])
    run = functools.partial(module.run_command, environ_update={"LC_ALL": "C"}, handle_exceptions=False)
    try:
        waits = Waits(*(checked_wait(name, params[name]) for name in ("start_timeout", "stop_timeout", "settle")))
        service = Service(run, params["name"])
        done = service.foreseen(aim) if module.check_mode else service.bring(aim, waits)
        keeps = bool(params["kept"]) and aim.state == RUNNING and not module.check_mode
        kept = keeps and service.keep(params["kept"], done, waits)
    except (ReleaseError, LoadBalancerError, OSError) as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(
        changed=done.acts.any or kept,
        before=done.before.as_dict(),
        after=done.after.as_dict(),
        restarted=done.acts.start or done.acts.restart,
        reason=done.acts.why,
        diff=diff(done, aim),
    )


if __name__ == "__main__":
    main()
