#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Read which releases are on a host, and which one is current
version_added: 0.1.0
description:
  - Reads what M(steady.rollout.release_files) and M(steady.rollout.release_current) put into O(path), which need not be there.
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
options:
  path:
    description:
      - The folder of the application, such as C(/opt/shop).
    type: path
    required: true
seealso:
  - module: steady.rollout.release_current
  - module: steady.rollout.release_files
"""

EXAMPLES = r"""
- name: Read the releases
  steady.rollout.release_info:
    path: /opt/shop
  register: found

- name: Show where the way back leads
  ansible.builtin.debug:
    msg: "{{ found.current }} is current, and {{ found.previous }} was before"
"""

RETURN = r"""
releases:
  description: What is there, oldest first. What was put there by other means comes before all others, with null for what is not known.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Its name.
      type: str
    path:
      description: Its folder; null where it has none, as a package or an image.
      type: str
    files:
      description: How many files it had when it was put there; null where it has no folder.
      type: int
    size:
      description: How many bytes they had; null where it has no folder.
      type: int
    sha256:
      description: Of the archive that it was made of; null where it was made of something else.
      type: str
    sha512:
      description: The same, with SHA-512.
      type: str
    revision:
      description: The commit that it was made of; null where it was made of something else.
      type: str
    origin:
      description: What it was made of, as it was recorded.
      type: dict
    added:
      description: When it was put there, UTC, ISO 8601.
      type: str
current:
  description: The release that C(current) leads to, or that was made current and has no folder; null where there is none.
  returned: success
  type: str
previous:
  description: What was current before; null where there was none. It may be gone, and then it is not in RV(releases).
  returned: success
  type: str
free:
  description: How many bytes are free where releases are put.
  returned: success
  type: int
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base, in_order
from ansible_collections.steady.rollout.plugins.module_utils._release_history import History, Release


def releases(base: Base, history: History) -> list[dict[str, t.Any]]:
    present = base.present()
    known = {one.id: one for one in history.releases}
    return [
        {**known.get(name, Release(name)).as_dict(), "path": base.release(name) if name in present else None}
        for name in in_order({*present, *known}, history)
    ]


def main() -> None:
    module = AnsibleModule(argument_spec={"path": {"type": "path", "required": True}}, supports_check_mode=True)
    try:
        base = Base(module.params["path"])
        history = base.history()
        module.exit_json(
            changed=False,
            releases=releases(base, history),
            current=history.current,
            previous=history.previous,
            free=base.room().size,
        )
    except (ReleaseError, OSError) as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
