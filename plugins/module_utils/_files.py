# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Files that are whole or not there: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import typing as t


def replace_file(path: str, text: str, mode: int = 0o644) -> None:
    """Put ``text`` at ``path`` in one step; an existing regular file keeps its owner, mode and labels. Raises OSError.

    A link at ``path`` is replaced, never followed: the directory may belong to a less trusted user.
    """
    with written_beside(path, text.encode(), mode) as temporary:
        put(temporary, path)


@contextlib.contextmanager
def written_beside(path: str, data: bytes, mode: int = 0o644) -> t.Iterator[str]:
    """The path of a file with ``data`` that can be ``put`` at ``path``, and is removed where it was not. Raises OSError.

    Its name begins with a dot, so that nobody who reads all files of the directory reads it.
    """
    directory = os.path.dirname(path) or "."
    handle, temporary = tempfile.mkstemp(prefix="." + os.path.basename(path) + ".", dir=directory)
    try:
        with os.fdopen(handle, "wb") as stream:
            _take_over(path, stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def put(temporary: str, path: str) -> None:
    """In one step: whoever reads ``path`` reads all of the old file, or all of the new one. Raises OSError."""
    os.replace(temporary, path)
    flush_directory(os.path.dirname(path) or ".")


def _take_over(path: str, handle: int, mode: int) -> None:
    """Owner, mode and labels, such as SELinux's, of what is there."""
    try:
        old = os.lstat(path)
    except FileNotFoundError:
        os.fchmod(handle, mode)
        return
    if not stat.S_ISREG(old.st_mode):
        os.fchmod(handle, mode)
        return
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, stat.S_IMODE(old.st_mode))
    labels, known = _labels(path), _labels(handle)
    for name, value in labels.items():
        if known.get(name) != value:
            os.setxattr(handle, name, value)


def _labels(place: str | int) -> dict[str, bytes]:
    """Nothing where the file system has none."""
    with contextlib.suppress(OSError):
        return {name: os.getxattr(place, name) for name in os.listxattr(place)}
    return {}


def flush_directory(directory: str) -> None:
    """Have its entries on the disk: what was renamed into it, or made and removed in it."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
