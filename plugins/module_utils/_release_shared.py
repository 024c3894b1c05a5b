# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Files and folders that releases share: each release has links to them instead of its own.

The shared folder is often the application's, who may exchange what is in it at any time: what is made there is made through handles, and
no link is followed on the way.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError, Unfit, checked_parts
from ansible_collections.steady.rollout.plugins.module_utils._release_archive import (
    DIRECTORY,
    FILE,
    HARD_LINK,
    Entry,
    Parts,
)
from ansible_collections.steady.rollout.plugins.module_utils._release_unpack import Owner

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Shared:
    """``path``: where they are. ``files``, ``directories``: below it, and below each release."""

    path: str
    files: tuple[Parts, ...] = ()
    directories: tuple[Parts, ...] = ()

    def place(self, parts: Parts) -> str:
        return os.path.join(self.path, *parts)


def shared(path: str, files: t.Sequence[str], directories: t.Sequence[str]) -> Shared:
    """Raises ReleaseError where one of them is no path below a release, or is in another."""
    found = Shared(
        path,
        tuple(checked_parts("shared_files", one) for one in files),
        tuple(checked_parts("shared_directories", one) for one in directories),
    )
    names = sorted([*found.files, *found.directories])
    for one, following in zip(names, names[1:]):
        if following[: len(one)] == one:
            raise ReleaseError(
                f"{'/'.join(following)} is shared twice, or is in {'/'.join(one)}, which is shared itself. Nothing was changed. Name one of them."
            )
    return found


def missing_directories(wanted: Shared) -> list[Parts]:
    """Those that are not there yet. Raises ReleaseError where something else is."""
    for parts in wanted.directories:
        place = wanted.place(parts)
        if os.path.lexists(place) and not os.path.isdir(place):
            raise ReleaseError(
                f"{place} is to be a shared folder, and is something else. Nothing was changed. Move it away."
            )
    return [parts for parts in wanted.directories if not os.path.isdir(wanted.place(parts))]


def missing_files(wanted: Shared) -> list[Parts]:
    """Those that are not there yet. Raises ReleaseError where something else is."""
    for parts in wanted.files:
        place = wanted.place(parts)
        if os.path.lexists(place) and not os.path.isfile(place):
            raise ReleaseError(
                f"{place} is to be a shared file, and is something else. Nothing was changed. Move it away."
            )
    return [parts for parts in wanted.files if not os.path.isfile(wanted.place(parts))]


def check(wanted: Shared, missing: t.Sequence[Parts], entries: t.Sequence[Entry]) -> None:
    """Raises Unfit where the release has no place for a link, or nobody has the first content of a file."""
    tree = {entry.parts: entry for entry in entries}
    for parts in (*wanted.files, *wanted.directories):
        for length in range(1, len(parts)):
            above = tree.get(parts[:length])
            if above is not None and above.kind != DIRECTORY:
                raise Unfit(f"{'/'.join(parts)} is shared, and the release has a {above.kind} at {above.path}")
    for parts in missing:
        own = tree.get(parts)
        if own is None or own.kind not in (FILE, HARD_LINK):
            raise Unfit(
                f"the shared file {wanted.place(parts)} is not there, and the release has no {'/'.join(parts)} that could be its first content; "
                "put it there"
            )


def make(wanted: Shared, tree: str, owner: Owner) -> list[str]:
    """Make what is not there yet: empty folders, and files as the release in ``tree`` has them. Returns what was made."""
    made = []
    for parts in missing_directories(wanted):
        with _folder(wanted.path, parts, owner):
            made.append(wanted.place(parts))
    for parts in missing_files(wanted):
        with _folder(wanted.path, parts[:-1], owner) as folder:
            _copy(os.path.join(tree, *parts), folder, parts[-1], owner)
            made.append(wanted.place(parts))
    return made


def link(wanted: Shared, tree: str, release: str, owner: Owner) -> None:
    """Have the files in ``tree``, which will be at ``release``, lead to what is shared."""
    root = os.path.realpath(wanted.path)
    for parts in (*wanted.files, *wanted.directories):
        for length in range(1, len(parts)):
            above = os.path.join(tree, *parts[:length])
            with contextlib.suppress(FileExistsError):
                os.mkdir(above, 0o755)
                os.chown(above, owner.uid, owner.gid)
        place = os.path.join(tree, *parts)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(place).st_mode):
                shutil.rmtree(place)
            else:
                os.unlink(place)
        os.symlink(os.path.relpath(os.path.join(root, *parts), os.path.join(release, *parts[:-1])), place)
        os.chown(place, owner.uid, owner.gid, follow_symlinks=False)


@contextlib.contextmanager
def _folder(path: str, parts: Parts, owner: Owner) -> t.Iterator[int]:
    """A folder below ``path``, open; made where it is not there."""
    if not os.path.isdir(path):
        os.makedirs(path, 0o755)
        os.chown(path, owner.uid, owner.gid)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            below = _below(handle, part, owner)
            os.close(handle)
            handle = below
        yield handle
    except NotADirectoryError as exc:
        raise ReleaseError(
            f"{os.path.join(path, *parts)} cannot be made: {exc.filename} on the way there is a link, or no folder. Make it yourself."
        ) from exc
    finally:
        os.close(handle)


def _below(handle: int, name: str, owner: Owner) -> int:
    try:
        os.mkdir(name, 0o755, dir_fd=handle)
    except FileExistsError:
        return os.open(name, _DIRECTORY, dir_fd=handle)
    below = os.open(name, _DIRECTORY, dir_fd=handle)
    os.fchown(below, owner.uid, owner.gid)
    return below


def _copy(source: str, folder: int, name: str, owner: Owner) -> None:
    """The file is there as a whole, or not at all."""
    temporary = f".{secrets.token_hex(8)}"
    handle = os.open(temporary, _NEW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(handle, "wb") as written, open(source, "rb") as content:
            shutil.copyfileobj(content, written)
            written.flush()
            os.fchown(handle, owner.uid, owner.gid)
            os.fchmod(handle, stat.S_IMODE(os.fstat(content.fileno()).st_mode))
            os.fsync(handle)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise
