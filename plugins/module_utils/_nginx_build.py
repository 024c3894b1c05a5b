# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What an nginx was built with, as `nginx -V` tells it: its version, and where it looks for its files. Pure."""

from __future__ import annotations

import os
import re
import shlex
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_tree import last, tree
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import Files

# What nginx takes where it was built without such an option.
DEFAULT_PREFIX = "/usr/local/nginx"
DEFAULT_CONF, DEFAULT_PID = "conf/nginx.conf", "logs/nginx.pid"
_VERSION = re.compile(r"nginx version: [^/\s]+/(\d+)\.(\d+)\.(\d+)")
_ARGUMENTS = re.compile(r"^configure arguments:(.*)$", re.MULTILINE)


class NginxBuildError(LoadBalancerError):
    """What `nginx -V` said is not understood; the message has its words."""


class Build(t.NamedTuple):
    """All paths are absolute, unless nginx was built with a relative prefix."""

    version: tuple[int, int, int]
    prefix: str
    conf_path: str
    pid_path: str


def build_of(text: str) -> Build:
    """What `nginx -V` wrote, which it does to its standard error. Raises NginxBuildError."""
    version = _VERSION.search(text)
    if version is None:
        raise NginxBuildError(f"nginx -V does not tell a version of nginx, it says: {text.strip()[:200] or 'nothing'}")
    arguments = _ARGUMENTS.search(text)
    try:
        words = shlex.split(arguments[1]) if arguments else []
    except ValueError as exc:
        raise NginxBuildError(f"nginx -V tells arguments that cannot be read ({exc}): {text.strip()[-200:]}") from exc
    options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    prefix = options.get("--prefix", DEFAULT_PREFIX)
    return Build(
        version=(int(version[1]), int(version[2]), int(version[3])),
        prefix=prefix,
        conf_path=os.path.join(prefix, options.get("--conf-path", DEFAULT_CONF)),
        pid_path=os.path.join(prefix, options.get("--pid-path", DEFAULT_PID)),
    )


def pid_file_of(main: str, files: Files, build: Build) -> str:
    """Where the master writes its pid: what `pid` says, else what it was built with. Raises NginxConfigError."""
    directive = last(tree(main, files), "pid")
    return os.path.join(build.prefix, directive.words[0]) if directive and directive.words else build.pid_path
