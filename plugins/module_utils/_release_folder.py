# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The folder in which the releases of one application are, one change at a time.

releases/ID     published by one rename, so that what is there is whole
current         a link to one of them, replaced in one step
releases.json   what was put there
.lock           held by whoever changes something
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import typing as t
from datetime import datetime, timezone

from ansible_collections.steady.rollout.plugins.module_utils._files import flush_directory, replace_file
from ansible_collections.steady.rollout.plugins.module_utils._lock import LockError, take
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError, checked_id, listed, shown
from ansible_collections.steady.rollout.plugins.module_utils._release_archive import Room
from ansible_collections.steady.rollout.plugins.module_utils._release_history import (
    History,
    existing,
    read,
    reconciled,
    written,
)

RELEASES, CURRENT, RECORD, LOCK, REPOSITORY = "releases", "current", "releases.json", ".lock", "repository"
# What is being written, and what is being removed. No release has such a name.
INCOMING, OUTGOING = ".incoming-", ".outgoing-"
NEW_LINK = ".current.new"
# How long another change may take: it may fetch a repository.
LOCK_SECONDS = 600.0
_LOCK_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Base:
    """Where the releases of one application are. Nothing of it needs to be there."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self.releases = os.path.join(self.path, RELEASES)
        self.current = os.path.join(self.path, CURRENT)
        self.record = os.path.join(self.path, RECORD)
        self.repository = os.path.join(self.path, REPOSITORY)

    def release(self, name: str) -> str:
        return os.path.join(self.releases, checked_id(name))

    @contextlib.contextmanager
    def locked(self) -> t.Iterator[None]:
        """Hold it against other changes; made where it is not there, and rid of what a call before left half-done."""
        with _usual_mask():
            os.makedirs(self.path, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.releases)
            self.check()
            handle = os.open(os.path.join(self.path, LOCK), _LOCK_FILE, 0o600)
            try:
                take(handle, LOCK_SECONDS)
                self._tidy()
                yield
            except LockError as exc:
                raise ReleaseError(f"{self.path} cannot be changed now: {exc}. Nothing was changed.") from exc
            finally:
                os.close(handle)

    def check(self) -> None:
        """Nobody else may exchange what is in it meanwhile. Raises ReleaseError."""
        for path in (self.path, self.releases):
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(path)
                if not stat.S_ISDIR(found.st_mode):
                    raise ReleaseError(f"{path} is no folder. Nothing was changed. Move it away.")
                if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
                    raise ReleaseError(
                        f"{path} can be changed by others than its owner and root (owner {found.st_uid}, mode "
                        f"{stat.S_IMODE(found.st_mode):04o}), who could have other files put there, or removed. Nothing was changed. "
                        f"chown root {path}; chmod go-w {path}"
                    )

    def history(self) -> History:
        """What is true now: of the records, and of what the link says. Raises ReleaseError and OSError."""
        return existing(reconciled(self._recorded(), self.linked()), self.present())

    def _recorded(self) -> History:
        try:
            with open(self.record, encoding="utf-8") as stream:
                return read(stream.read(), self.record)
        except FileNotFoundError:
            return History()

    def write(self, history: History) -> None:
        replace_file(self.record, written(history))

    def linked(self) -> str | None:
        """The release that `current` leads to; None where there is no such link. Raises ReleaseError where it leads elsewhere."""
        try:
            target = os.readlink(self.current)
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            raise ReleaseError(
                f"{self.current} is no link, so it cannot be switched in one step. Nothing was changed. Move it away."
            ) from exc
        folder, name = os.path.split(os.path.normpath(os.path.join(self.path, target)))
        if os.path.realpath(folder) != self.releases:
            raise ReleaseError(
                f"{self.current} leads to {shown(target)}, which is no release in {self.releases}. Nothing was changed. "
                "Remove the link, or give another path."
            )
        return checked_id(name)

    def present(self) -> list[str]:
        """The releases whose folders are there, by name."""
        try:
            with os.scandir(self.releases) as found:
                return sorted(
                    one.name for one in found if not one.name.startswith(".") and one.is_dir(follow_symlinks=False)
                )
        except FileNotFoundError:
            return []

    def has(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return stat.S_ISDIR(os.lstat(self.release(name)).st_mode)
        return False

    def missing(self, name: str, history: History) -> ReleaseError:
        there = in_order(self.present(), history)
        return ReleaseError(
            f"release {name} is not in {self.releases}; there are: {listed(there)}. Nothing was changed. "
            "Put it there with steady.rollout.release_files, or name one that is there."
        )

    @contextlib.contextmanager
    def incoming(self) -> t.Iterator[str]:
        """A folder for what is not whole yet, that only this user may enter. It is removed in the end."""
        path = tempfile.mkdtemp(prefix=INCOMING, dir=self.releases)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, tree: str, name: str) -> None:
        """In one step: from now on the release is there, as a whole."""
        os.rename(tree, self.release(name))
        flush_directory(self.releases)

    def link(self, name: str) -> None:
        """Have `current` lead to a release that is there, and see that it does. Whoever opens it gets the one before, or this one."""
        new = os.path.join(self.path, NEW_LINK)
        os.symlink(os.path.join(RELEASES, checked_id(name)), new)
        os.replace(new, self.current)
        flush_directory(self.path)
        if not os.path.samefile(self.current, self.release(name)):
            raise ReleaseError(
                f"{self.current} was made to lead to release {name}, and leads to {os.readlink(self.current)}."
            )

    def unlink(self) -> None:
        os.unlink(self.current)
        flush_directory(self.path)

    def withdraw(self, name: str) -> None:
        """In one step: the release is there no more. What it was is removed by ``remove_withdrawn``, or by the next change."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.release(name), os.path.join(self.releases, OUTGOING + name))

    def remove_withdrawn(self) -> list[str]:
        """What could not be removed, as sentences."""
        problems: list[str] = []
        with os.scandir(self.releases) as found:
            left = [one.path for one in found if one.name.startswith((INCOMING, OUTGOING))]
        for path in left:
            shutil.rmtree(path, onerror=lambda _what, where, info: problems.append(f"{where}: {info[1]}"))
        return problems

    def room(self) -> Room:
        """What is free for new files, also where nothing is there yet."""
        place = self.releases
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        found = os.statvfs(place)
        return Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)

    def _tidy(self) -> None:
        self.remove_withdrawn()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, NEW_LINK))


@contextlib.contextmanager
def _usual_mask() -> t.Iterator[None]:
    """Folders that are made may be entered by the application, whatever the mask of whoever runs the task."""
    mask = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(mask)


def in_order(names: t.Collection[str], history: History) -> list[str]:
    """Oldest first; those that nobody recorded before all others."""
    known = [one.id for one in history.releases if one.id in names]
    return [*sorted(set(names) - set(known)), *known]


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
