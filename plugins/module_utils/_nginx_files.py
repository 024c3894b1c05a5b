# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The files of NGINX's configuration on disk, found as nginx finds them."""

from __future__ import annotations

import glob
import os

from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import NginxConfigError

# A configuration of ten thousand servers has less than one megabyte.
LARGEST = 64 * 1024 * 1024
_WILD = "*?["


class DiskFiles:
    """Reads each file once, so that all that is done with it is about the same bytes. ``main``: the path of `nginx.conf`."""

    def __init__(self, main: str) -> None:
        self._folder = os.path.dirname(os.path.abspath(main))
        self._known: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        """Raises NginxConfigError."""
        if path not in self._known:
            self._known[path] = _read(path)
        return self._known[path]

    @property
    def paths(self) -> list[str]:
        """What was read."""
        return list(self._known)

    def included(self, pattern: str) -> list[str]:
        """The paths of what an ``include`` names, in nginx's order, which is that of their bytes. A name without a wildcard must be
        there; raises NginxConfigError where it is not."""
        path = os.path.join(self._folder, pattern)
        if any(sign in pattern for sign in _WILD):
            return sorted(glob.glob(path), key=os.fsencode)
        if not os.path.exists(path):
            raise NginxConfigError(f"{path} is included, and is not there")
        return [path]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST + 1)
    except OSError as exc:
        raise NginxConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    if len(data) > LARGEST:
        raise NginxConfigError(f"{path} is larger than {LARGEST // 1024 // 1024} MB, and no configuration")
    return data
