#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: haproxy_config_info
short_description: Read the settings of a running HAProxy that rollouts depend on
version_added: 0.1.0
description:
  - Finds the configuration files of the HAProxy that answers on O(socket) from its running process, and returns a few settings of them, each with
    the file and line where it stands.
  - What it says is what the files say now. A process that was started before they were changed may still run with others.
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
  backends:
    description:
      - The backends to tell about.
    type: list
    elements: str
    required: true
seealso:
  - module: steady.rollout.haproxy_backend_info
  - module: steady.rollout.rollout_info
"""

EXAMPLES = r"""
- name: Read the settings
  steady.rollout.haproxy_config_info:
    backends: [shop]
  register: found

- name: Show how long a reload leaves old connections alive
  ansible.builtin.debug:
    msg: "{{ found.settings.hard_stop_after.value }} s, set in {{ found.settings.hard_stop_after.where }}"
"""

RETURN = r"""
files:
  description: The configuration files, in the order in which HAProxy reads them. Empty where they cannot be read from here.
  returned: success
  type: list
  elements: str
problem:
  description: Why RV(settings) is null; null where it is not.
  returned: success
  type: str
settings:
  description:
    - Null where the files cannot be read from here.
    - A setting is a dictionary of C(known), C(value) and C(where). C(where) is V(FILE:LINE), or null for HAProxy's own default. C(value) is
      null where nothing is set, and where it is not C(known), because it is a variable or depends on a condition. Times are seconds.
  returned: success
  type: dict
  contains:
    sockets:
      description:
        - The C(stats socket) lines, each a dictionary of C(address), C(level), C(mode) (as written, or null), C(network) (whether it is open to the
          network) and C(where).
      type: list
      elements: dict
    stats_maxconn:
      description: How many connections the sockets take at once, as a setting.
      type: dict
    stats_timeout:
      description: After how long a silent connection to a socket is closed, as a setting.
      type: dict
    hard_stop_after:
      description: How long an old process may live after a reload, as a setting.
      type: dict
    backends:
      description:
        - By name, null for one that is not in the files by this name.
        - The settings C(balance), C(hash_type), C(timeout_server) and C(timeout_tunnel).
        - C(clients) are the frontends that name the backend, each a dictionary of C(proxy) and the setting C(timeout).
        - C(servers) are the servers that run, by name, each a dictionary of C(checked), C(fall_seconds) and C(rise_seconds) (how long checks take
          to find it down and up, null where it has none of its own) and C(where). A server that no line declares is null.
      type: dict
socket_mode:
  description: The permissions of O(socket) as octal digits, such as V(0600); null where it is no file.
  returned: success
  type: str
state_files:
  description:
    - By backend, what a reload would bring back. C(path) is the state file that HAProxy is configured to load, C(exists) tells whether it is there, and
      C(lagging) which servers would not come back as they are now. All are null where that cannot be known, or where no file is configured.
  returned: success
  type: dict
process:
  description: The process that answered, as in RV(steady.rollout.haproxy_backend_info#module:process).
  returned: success
  type: dict
"""

import os
import stat
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import Backend, process_as_dict
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_config import parse, restoration
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_module import SOCKET_OPTIONS
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_runtime import read_backends
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_settings import settings
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import (
    Address,
    HaproxyError,
    checked_name,
    parse_address,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_state_file import (
    Configuration,
    find_configuration,
    lagging,
)
from ansible_collections.steady.rollout.plugins.module_utils._wait import checked_timeout


def socket_mode(address: Address) -> str | None:
    try:
        return f"{stat.S_IMODE(os.stat(address).st_mode):04o}" if isinstance(address, str) else None
    except OSError:
        return None


def state_file(configuration: Configuration | None, backend: Backend) -> dict[str, t.Any]:
    found = restoration(parse(configuration.texts), backend.name, configuration.directory) if configuration else None
    if found is None or found.path is None:
        return {"path": None, "exists": None, "lagging": None}
    names = {server.name for server in backend.servers if found.declares(server.name)}
    return {"path": found.path, "exists": os.path.exists(found.path), "lagging": lagging(found.path, backend, names)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={**SOCKET_OPTIONS, "backends": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    params = module.params
    try:
        address = parse_address(params["socket"], params["allow_remote_socket"])
        names = [checked_name("backend", name) for name in params["backends"]]
        if not names:
            raise HaproxyError("backends is empty; name the backends to tell about")
        process, _level, backends = read_backends(address, names, checked_timeout(params["timeout"]))
    except LoadBalancerError as exc:
        module.fail_json(msg=str(exc))
    configuration = find_configuration(process.pid)
    running = {name: [server.name for server in backend.servers] for name, backend in backends.items()}
    module.exit_json(
        changed=False,
        files=[path for path, _text in configuration.files] if configuration else [],
        problem=None
        if configuration
        else f"the configuration of HAProxy's process {process.pid} cannot be read from here",
        settings=settings(configuration.files, running) if configuration else None,
        socket_mode=socket_mode(address),
        state_files={name: state_file(configuration, backend) for name, backend in backends.items()},
        process=process_as_dict(process),
    )


if __name__ == "__main__":
    main()
