# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Writes the members of an archive, judged before, into a new folder that nobody else may enter."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._release import Unfit, shown
from ansible_collections.steady.rollout.plugins.module_utils._release_archive import (
    DIRECTORY,
    FILE,
    HARD_LINK,
    LINK,
    Entry,
)
from ansible_collections.steady.rollout.plugins.module_utils._release_reader import CHUNK, Archive

# Beyond it, not every file system knows times: the year 2446.
LATEST = 15032385535.0
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Owner:
    """-1: left as it is."""

    uid: int = -1
    gid: int = -1


class Unpacked(t.NamedTuple):
    files: int
    size: int


def unpack(archive: Archive, entries: t.Sequence[Entry], folder: str, owner: Owner) -> Unpacked:
    """Write them into ``folder``, which is made, with the owner for all. Raises Unfit and OSError, and whatever a broken archive does."""
    os.mkdir(folder, 0o700)
    kinds: dict[str, list[Entry]] = {DIRECTORY: [], FILE: [], HARD_LINK: [], LINK: []}
    for entry in entries:
        kinds[entry.kind].append(entry)
    for entry in kinds[DIRECTORY]:
        os.mkdir(os.path.join(folder, entry.path), 0o700)
    # In the order of the archive: to go back in a compressed one is to read all of it again.
    for entry in sorted(kinds[FILE], key=lambda one: one.number):
        _write(archive, entry, os.path.join(folder, entry.path), owner)
    for entry in kinds[HARD_LINK]:
        os.link(os.path.join(folder, entry.target), os.path.join(folder, entry.path), follow_symlinks=False)
    for entry in kinds[LINK]:
        path = os.path.join(folder, entry.path)
        os.symlink(entry.target, path)
        os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    # Last, as one that is another's may be written to by that one.
    for entry in reversed(kinds[DIRECTORY]):
        _hand_over(os.path.join(folder, entry.path), entry.mode, owner)
    _hand_over(folder, 0o755, owner)
    files = len(kinds[FILE]) + len(kinds[HARD_LINK])
    return Unpacked(files, sum(entry.size for entry in kinds[FILE]))


def _write(archive: Archive, entry: Entry, path: str, owner: Owner) -> None:
    handle = os.open(path, _NEW, 0o600)
    with os.fdopen(handle, "wb") as stream, archive.content(entry.number) as content:
        written = 0
        while True:
            chunk = content.read(min(CHUNK, entry.size - written + 1))
            if not chunk:
                break
            written += len(chunk)
            if written > entry.size:
                break
            stream.write(chunk)
        if written != entry.size:
            raise Unfit(
                f"the archive is broken: {shown(entry.path)} does not have the {entry.size} bytes that it is said to have"
            )
        stream.flush()
        os.fchown(stream.fileno(), owner.uid, owner.gid)
        # After the owner, whose change takes bits of the mode away.
        os.fchmod(stream.fileno(), entry.mode)
        modified = archive.modified(entry.number)
        if modified is not None:
            with contextlib.suppress(OSError, OverflowError):
                os.utime(stream.fileno(), (min(max(modified, 0.0), LATEST),) * 2)


def _hand_over(path: str, mode: int, owner: Owner) -> None:
    os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    os.chmod(path, mode)


def flush(folder: str) -> None:
    """All of its file system is on disk when this returns, which for many files is much faster than each by itself. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), folder)
    finally:
        os.close(handle)


def is_full(exc: OSError) -> bool:
    return exc.errno in (errno.ENOSPC, errno.EDQUOT)
