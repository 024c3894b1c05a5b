#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: release_files
short_description: Put the files of a release on a host, as a whole or not at all
version_added: 0.1.0
description:
  - Puts the files of one release into C(releases/RELEASE) below O(path), from an archive on the host or from a revision of a git repository.
    Nothing is switched to it; M(steady.rollout.release_current) does that.
  - The files are unpacked where nobody else may enter, and are published by one rename. A call that fails, or is killed, leaves nothing that
    could be taken for a release; what it left is removed by the next one.
  - Every member of an archive is judged before one byte is written. Refused are absolute paths, C(..), links that lead out of the release
    (also by way of other links), what is below a link, hard links to anything but a file before them, devices and pipes, and two members of
    one path. Setuid, setgid and sticky bits are dropped, and so is write access of others than the owner.
  - A release that is there is not put again. Where it is known to be made of something else than what is asked for, the module fails, as
    the name of a release is never used for other content.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
attributes:
  check_mode:
    support: full
    details:
      - The members of an archive are judged in check mode, too. An archive that is not there yet is taken for one that a task before would
        have put there. A repository is asked for the revision, and nothing is fetched.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  path:
    description:
      - The folder of the application, such as C(/opt/shop). It is made where it is not there. Nobody but its owner and root may be able to
        write to it.
    type: path
    required: true
  release:
    description:
      - The name of the release. Letters, digits and C(. _ + ~ -), beginning with a letter or a digit, at most 128 characters.
    type: str
    required: true
  archive:
    description:
      - A file on the host, a tar (also with gzip, bzip2 or xz) or a zip. It need not be there where the release is.
      - Only the owner of O(path), or root, should be able to write to it.
    type: path
  repository:
    description:
      - The URL or path of a git repository. A mirror of it is kept in C(repository) below O(path), so that a tag or commit that was fetched
        once needs no network.
      - A user and password in the URL are not recorded, and other users of the host may see them while git runs; a key, or a helper of git,
        is better.
      - Submodules and files of git LFS are not fetched.
    type: str
  revision:
    description:
      - A tag, a branch, or the hash of a commit. Where there is a tag of that name, the branch is not looked at. By default, O(release).
    type: str
  checksum:
    description:
      - What O(archive) must have, V(sha256:HEX) or V(sha512:HEX).
    type: str
  strip:
    description:
      - How many leading components of paths in the archive are left out. What has no more than these is left out as a whole.
    type: int
    default: 0
  shared_path:
    description:
      - The folder of what releases share. By default, C(shared) below O(path). It is made where it is not there.
    type: path
  shared_files:
    description:
      - Files that are the same for all releases, such as V(config/local.yml). The release has a link to the file in O(shared_path) instead of
        its own. A file that is not there gets the content that this release has for it.
      - Links are made when a release is put. A release that is there keeps those that it has.
    type: list
    elements: str
    default: []
  shared_directories:
    description:
      - Folders that are the same for all releases, such as V(uploads). They are made in O(shared_path) where they are not there, empty. What
        a release has in them itself is left out.
    type: list
    elements: str
    default: []
  owner:
    description:
      - Whose the files are, and what is made in O(shared_path); a name or a number. By default, the user that the task runs as.
    type: str
  group:
    description:
      - Their group. By default, that of O(owner).
    type: str
seealso:
  - module: steady.rollout.release_current
  - module: steady.rollout.release_info
"""

EXAMPLES = r"""
- name: Put a release from an archive
  steady.rollout.release_files:
    path: /opt/shop
    release: 2.0.0
    archive: /var/cache/shop/shop-2.0.0.tar.gz
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    strip: 1
    shared_directories: [log, uploads]
    owner: shop

- name: Put a release from a tag of a repository
  steady.rollout.release_files:
    path: /opt/shop
    release: 2.0.0
    repository: https://git.example.com/shop.git
    revision: v2.0.0
"""

RETURN = r"""
directory:
  description: Where the release is, or would be.
  returned: success
  type: str
sha256:
  description: Of the archive; null where the release comes from a repository, and in check mode where it cannot be known.
  returned: success
  type: str
revision:
  description: The commit; null where the release comes from an archive, and in check mode where it cannot be known.
  returned: success
  type: str
files:
  description: How many files the release has; null in check mode where it cannot be known.
  returned: success
  type: int
size:
  description: How many bytes they have; null in check mode where it cannot be known.
  returned: success
  type: int
shared:
  description: What was made in O(shared_path).
  returned: success
  type: list
  elements: str
"""

import functools
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError, checked_id
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base
from ansible_collections.steady.rollout.plugins.module_utils._release_put import (
    Source,
    checksum,
    foreseen,
    owner,
    put,
)
from ansible_collections.steady.rollout.plugins.module_utils._release_repository import ENVIRONMENT, Repository
from ansible_collections.steady.rollout.plugins.module_utils._release_shared import shared


def source(module: AnsibleModule, base: Base) -> Source:
    params = module.params
    if params["strip"] < 0:
        raise ReleaseError(f"strip is {params['strip']}; it must be 0 or more. Nothing was changed.")
    if params["archive"]:
        asked = checksum(params["checksum"]) if params["checksum"] else None
        return Source(archive=params["archive"], checksum=asked, strip=params["strip"])
    run = functools.partial(module.run_command, environ_update=ENVIRONMENT, handle_exceptions=False)
    repository = Repository(run, base.repository, params["repository"])
    return Source(repository=repository, revision=params["revision"] or params["release"], strip=params["strip"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "repository": {"type": "str"},
            "revision": {"type": "str"},
            "checksum": {"type": "str"},
            "strip": {"type": "int", "default": 0},
            "shared_path": {"type": "path"},
            "shared_files": {"type": "list", "elements": "str", "default": []},
            "shared_directories": {"type": "list", "elements": "str", "default": []},
            "owner": {"type": "str"},
            "group": {"type": "str"},
        },
        mutually_exclusive=[("archive", "repository"), ("archive", "revision"), ("repository", "checksum")],
        required_one_of=[("archive", "repository")],
        supports_check_mode=True,
    )
    params = module.params
    try:
        base = Base(params["path"])
        name = checked_id(params["release"])
        links = shared(
            params["shared_path"] or os.path.join(base.path, "shared"),
            params["shared_files"],
            params["shared_directories"],
        )
        before = base.present()
        wanted = source(module, base)
        if module.check_mode:
            done = foreseen(base, name, wanted, links)
        else:
            done = put(base, name, wanted, links, owner(params["owner"], params["group"]))
    except (ReleaseError, OSError) as exc:
        module.fail_json(msg=str(exc))
    release = done.release
    module.exit_json(
        changed=done.changed,
        directory=base.release(name),
        sha256=release.sha256 if release else None,
        revision=release.revision if release else None,
        files=release.files if release else None,
        size=release.size if release else None,
        shared=list(done.shared),
        diff={
            "before": {"releases": before, "shared": []},
            "after": {"releases": sorted({*before, name}), "shared": list(done.shared)},
        },
    )


if __name__ == "__main__":
    main()
