#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_config_file
short_description: Put a file of NGINX's configuration in its place, and prove that it serves
version_added: 0.1.0
description:
  - Writes a whole file that NGINX's configuration includes in C(http), if NGINX accepts it, and has a running NGINX read it. A reload is
    proved by new workers. Where none come, the file that was there is put back, and the module fails.
  - Servers of an upstream that are in the file already keep their weights and states, which rollouts change at run time. What O(content)
    says about these holds for servers that are new. Where O(content) has Lua choose the servers of an upstream, or has it no more, they
    move to where they are kept then.
  - Where the file is what it is to be, but a run that wrote it ended before NGINX read it, NGINX is reloaded, too.
  - Where NGINX does not run, O(config) is the file that it would read.
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
      - NGINX judges the change in check mode, too, in a view of the files that nobody else has. Where there can be no such view, as in
        some containers, a warning says that it was not tested.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  path:
    description:
      - The file. The configuration must include it in C(http).
    type: path
    required: true
  content:
    description:
      - What is to be in it.
    type: str
    required: true
  absent_links:
    description:
      - Links that are removed together with the change, such as C(/etc/nginx/sites-enabled/default). What is no link stays.
    type: list
    elements: path
    default: []
  others:
    description:
      - Files that O(content) has NGINX read, such as Lua. They are put in place in the same step, and taken back with it. Their folders
        must be there.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file.
        type: path
        required: true
      content:
        description: What is to be in it.
        type: str
        required: true
  lua_state:
    description:
      - The folder in which C(steady_rollout.lua) keeps weights and states. Needed where it is in O(content), or in the file that is there.
    type: path
  lua_socket:
    description:
      - Where its API listens.
    type: path
    default: /run/steady-rollout-nginx/api.sock
  backup:
    description:
      - Whether a file that is replaced is kept beside the new one.
    type: bool
    default: false
seealso:
  - module: steady.rollout.nginx_config_info
"""

EXAMPLES = r"""
- name: Write an upstream
  steady.rollout.nginx_config_file:
    path: /etc/nginx/conf.d/shop.conf
    content: |
      upstream shop {
          zone shop 64k;
          server 192.0.2.21:8080 weight=100;
          server 192.0.2.22:8080 weight=100;
      }
"""

RETURN = r"""
reloaded:
  description: Whether a running NGINX read its configuration anew; in check mode, whether it would.
  returned: success
  type: bool
is_new:
  description: Whether there was no such file.
  returned: success
  type: bool
removed_links:
  description: By the link that was removed, what it named.
  returned: success
  type: dict
backup_file:
  description: Where the file that was replaced is kept.
  returned: when O(backup=true) and a file was replaced
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_files import DiskFiles
from ansible_collections.steady.rollout.plugins.module_utils._nginx_module import CONFIG_OPTIONS
from ansible_collections.steady.rollout.plugins.module_utils._nginx_place import (
    File,
    Lua,
    Placed,
    Replaced,
    changes,
    foreseen,
    place,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_running import installed
from ansible_collections.steady.rollout.plugins.module_utils._wait import checked_timeout


def diff(own: str, placed: Placed) -> list[dict[str, str]]:
    shown = {**changes(placed.files), own: placed.files[own]}
    files = [{"before_header": path, "after_header": path, **_texts(one)} for path, one in shown.items()]
    gone = [
        {"before_header": link, "after_header": link, "before": f"-> {target}\n", "after": ""}
        for link, target in placed.links.items()
    ]
    return [*files, *gone]


def _texts(one: Replaced) -> dict[str, str]:
    return {"before": (one.before or b"").decode("utf-8", "replace"), "after": one.after.decode("utf-8", "replace")}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **CONFIG_OPTIONS,
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
            "absent_links": {"type": "list", "elements": "path", "default": []},
            "others": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                },
            },
            "lua_state": {"type": "path"},
            "lua_socket": {"type": "path", "default": "/run/steady-rollout-nginx/api.sock"},
            "backup": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    others = {os.path.abspath(one["path"]): one["content"].encode() for one in params["others"]}
    lua = Lua(params["lua_state"], params["lua_socket"]) if params["lua_state"] else None
    file = File(os.path.abspath(params["path"]), params["content"].encode(), params["absent_links"], others, lua)
    copy = module.backup_local(file.path) if params["backup"] and not module.check_mode else ""
    try:
        found = installed(params["config"], DiskFiles(params["config"]), checked_timeout(params["timeout"]))
        placed = (foreseen if module.check_mode else place)(found.nginx, file, found.master)
    except (LoadBalancerError, OSError) as exc:
        module.cleanup(copy)
        module.fail_json(msg=str(exc))
    if copy and file.path not in changes(placed.files):
        module.cleanup(copy)
        copy = ""
    if not placed.tested:
        module.warn(f"The change of {file.path} was not tested: there can be no private view of the files here.")
    module.exit_json(
        changed=placed.changed,
        reloaded=placed.reloads,
        removed_links=dict(placed.links),
        is_new=placed.files[file.path].before is None,
        diff=diff(file.path, placed),
        **({"backup_file": copy} if copy else {}),
    )


if __name__ == "__main__":
    main()
