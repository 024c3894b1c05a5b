#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_config_info
short_description: Read what an NGINX is configured to do, and what it lacks for rollouts
version_added: 0.1.0
description:
  - Reads the configuration of an NGINX with all its includes, as NGINX itself does, and what its program tells of itself.
  - Returns the upstreams, the logs that their requests can be counted in, and what the configuration lacks for rollouts, each lack with
    the line to add or change.
  - What it says is what the files say now. A process that has not read them since they were changed runs with others.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
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
requirements:
  - The program C(nginx) in the C(PATH), in C(/usr/sbin) or in C(/usr/local/nginx/sbin).
options:
  config:
    description:
      - The main file of the configuration.
    type: path
    default: /etc/nginx/nginx.conf
  upstreams:
    description:
      - The upstreams to judge. By default all that have servers.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Read the configuration
  steady.rollout.nginx_config_info:
  register: found

- name: Show what it lacks
  ansible.builtin.debug:
    msg: "{{ found.messages }}"

- name: Go on only where nothing is lacking that rollouts require
  ansible.builtin.assert:
    that: found.findings | selectattr('required') | length == 0
"""

RETURN = r"""
version:
  description: The version of the program, such as V(1.22.1).
  returned: success
  type: str
pid_file:
  description: The file that the master writes its pid to.
  returned: success
  type: str
running:
  description: Whether RV(pid_file) names a master that runs.
  returned: success
  type: bool
files:
  description: The files of the configuration, links followed, sorted by their paths.
  returned: success
  type: list
  elements: str
upstreams:
  description: The upstreams that were judged, in the order of the configuration.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    kind:
      description: The block that it is in, V(http) or V(stream).
      type: str
    path:
      description: The file that it is in.
      type: str
    algorithm:
      description: V(roundrobin), V(hash), V(ip_hash), V(least_conn), V(least_time) or V(random).
      type: str
    zone:
      description: Whether its workers share what they know of its servers.
      type: bool
    servers:
      description: The addresses of its servers as NGINX understands them, with the port also where it is 80.
      type: list
      elements: str
logs:
  description:
    - By upstream, the absolute path of the log that all its requests are in, in the format that they are counted by; null where there
      is none.
    - Of an upstream in C(stream) that has a namesake in C(http), that of C(stream) or of C(http), whichever comes last.
  returned: success
  type: dict
findings:
  description: What is lacking.
  returned: success
  type: list
  elements: dict
  contains:
    code:
      description:
        - What kind of lack it is.
        - One of V(not-running), V(log), V(log-late), V(server-twice), V(zone), V(algorithm), V(names), V(shutdown-timeout) and V(keepalive).
      type: str
    required:
      description: Whether rollouts do not work, or not safely, without it; V(false) where they only work less well.
      type: bool
    problem:
      description: What is wrong, in a sentence.
      type: str
    where:
      description: The place that the line belongs to; empty where no line mends it.
      type: str
    line:
      description: The line to add or change; empty where no line mends it.
      type: str
messages:
  description: The same as sentences.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_files import DiskFiles
from ansible_collections.steady.rollout.plugins.module_utils._nginx_readiness import readiness
from ansible_collections.steady.rollout.plugins.module_utils._nginx_running import installed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": "/etc/nginx/nginx.conf"},
            "upstreams": {"type": "list", "elements": "str"},
        },
        supports_check_mode=True,
    )
    config, names = module.params["config"], module.params["upstreams"]
    files = DiskFiles(config)
    try:
        found = installed(config, files)
        judged = readiness(config, files, found.version, found.prefix, names, found.silence)
    except LoadBalancerError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(
        changed=False,
        version=".".join(map(str, found.version)),
        pid_file=found.nginx.pid_file,
        running=found.master is not None,
        files=sorted({os.path.realpath(path) for path in files.paths}),
        **judged,
    )


if __name__ == "__main__":
    main()
