# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Files that are whole or not there: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import os
import stat
import tempfile


def replace_file(path: str, text: str, mode: int = 0o644) -> None:
    """Put ``text`` at ``path`` in one step; an existing regular file keeps its owner and mode. Raises OSError.

    A link at ``path`` is replaced, never followed: the directory may belong to a less trusted user.
    """
    directory = os.path.dirname(path) or "."
    handle, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            _take_over_owner(path, stream.fileno(), mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _flush_directory(directory)


def _take_over_owner(path: str, handle: int, mode: int) -> None:
    try:
        old = os.lstat(path)
    except FileNotFoundError:
        os.fchmod(handle, mode)
        return
    if stat.S_ISREG(old.st_mode):
        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(handle, old.st_uid, old.st_gid)
        mode = stat.S_IMODE(old.st_mode)
    os.fchmod(handle, mode)


def _flush_directory(directory: str) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
