#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_current
short_description: Make a release the current one, in one step
version_added: 0.1.0
description:
  - Has the link C(current) below O(path) lead to a release that is there, records which one was before, and removes releases that are not
    kept. Whoever opens C(current) gets the release before or this one, and never nothing.
  - A release that is not there is refused, and nothing is changed. No network is needed for a release that is there.
  - What runs is not restarted; M(steady.rollout.release_unit) does that.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
attributes:
  check_mode:
    support: full
    details:
      - A release that is not there is taken for one that a task before would have put there.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  path:
    description:
      - The folder of the application, such as C(/opt/shop).
    type: path
    required: true
  release:
    description:
      - The release.
    type: str
    required: true
  keep:
    description:
      - How many of the newest releases are kept. What is current, and what was before, is kept besides. What was put there by other means is
        never removed.
    type: int
    default: 5
  files:
    description:
      - Whether the release has a folder. A package or an image has none; then there is no link C(current), and only the record says what is
        current.
    type: bool
    default: true
  origin:
    description:
      - What the release is made of, for the record, such as the name and version of a package. Users and passwords in URLs are left out.
    type: dict
    default: {}
seealso:
  - module: steady.rollout.release_files
  - module: steady.rollout.release_info
  - module: steady.rollout.release_unit
"""

EXAMPLES = r"""
- name: Switch to a release
  steady.rollout.release_current:
    path: /opt/shop
    release: 2.0.0
    keep: 3

- name: Record the version of a package as the current release
  steady.rollout.release_current:
    path: /opt/shop
    release: 2.0.0
    files: false
    origin:
      package: shop
      version: 2.0.0-1
"""

RETURN = r"""
current:
  description: The release that is current, or would be.
  returned: success
  type: str
previous:
  description: What was current before it; null where nothing was.
  returned: success
  type: str
removed:
  description: The releases that were removed.
  returned: success
  type: list
  elements: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base
from ansible_collections.steady.rollout.plugins.module_utils._release_history import History
from ansible_collections.steady.rollout.plugins.module_utils._release_switch import Wanted, foreseen, switch


def shown(history: History) -> dict[str, t.Any]:
    return {
        "current": history.current,
        "previous": history.previous,
        "releases": {one.id: dict(one.origin) for one in history.releases},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "keep": {"type": "int", "default": 5},
            "files": {"type": "bool", "default": True},
            "origin": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        wanted = Wanted(params["release"], params["keep"], params["files"], params["origin"])
        done = (foreseen if module.check_mode else switch)(Base(params["path"]), wanted)
    except (ReleaseError, OSError) as exc:
        module.fail_json(msg=str(exc))
    for problem in done.problems:
        module.warn(
            f"A release that is not kept could not be removed as a whole; the next change tries again: {problem}"
        )
    module.exit_json(
        changed=done.changed,
        current=done.after.current,
        previous=done.after.previous,
        removed=list(done.removed),
        diff={"before": shown(done.before), "after": shown(done.after)},
    )


if __name__ == "__main__":
    main()
