# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of NGINX in memory, as the walk through its includes reads them."""

from __future__ import annotations

import fnmatch
import typing as t


class Tree:
    """{path: bytes}. ``read_paths``: what was read, in order."""

    def __init__(self, files: t.Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.read_paths: list[str] = []

    def read(self, path: str) -> bytes:
        self.read_paths.append(path)
        return self.files[path]

    def included(self, pattern: str) -> list[str]:
        return sorted(path for path in self.files if fnmatch.fnmatchcase(path, pattern))
