# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The folder of one backend's records on a load balancer, and its files.

Nobody but its owner may have a hand in it, and no link is followed on the way there: what it says decides where traffic
goes. A file is whole or not there, and on disk before a call returns.
"""

from __future__ import annotations

import contextlib
import os
import stat
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._state import StateError, folder_name

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Folder:
    """An open folder. Files are reached through its handle only, so that nothing on the path can be exchanged meanwhile."""

    def __init__(self, handle: int, path: str) -> None:
        self._handle = handle
        self.path = path

    def open_file(self, name: str, flags: int) -> int:
        """Open a regular file that is the owner's, or root's. Raises FileNotFoundError and StateError."""
        try:
            handle = os.open(name, flags | _FILE, 0o600, dir_fd=self._handle)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise self._error(name, exc) from exc
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            os.close(handle)
            raise StateError(f"{self.path}/{name} is not a plain file of this user, as a rollout makes it; remove it")
        return handle

    def read(self, name: str) -> bytes | None:
        """The content, or None where there is no such file. Raises StateError."""
        try:
            with os.fdopen(self.open_file(name, os.O_RDONLY), "rb") as stream:
                return stream.read()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._error(name, exc) from exc

    def replace(self, name: str, data: bytes) -> None:
        """Put ``data`` at ``name`` in one step. Raises StateError, and then what was there is still there."""
        temporary = f".{name}.{os.urandom(8).hex()}"
        try:
            with os.fdopen(self.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, name, src_dir_fd=self._handle, dst_dir_fd=self._handle)
            os.fsync(self._handle)
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._handle)
            raise self._error(name, exc) from exc

    def append(self, name: str, data: bytes, keep: int) -> None:
        """Write ``data`` behind the first ``keep`` bytes of ``name``; what was behind them is cut off. Raises StateError."""
        try:
            with os.fdopen(self.open_file(name, os.O_RDWR | os.O_CREAT), "r+b") as stream:
                stream.truncate(keep)
                stream.seek(keep)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if not keep:
                os.fsync(self._handle)
        except OSError as exc:
            raise self._error(name, exc) from exc

    def remove(self, name: str) -> None:
        """Raises StateError. What is not there need not be removed."""
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._handle)
            os.fsync(self._handle)
        except OSError as exc:
            raise self._error(name, exc) from exc

    def writable(self) -> bool:
        return os.access(f"/proc/self/fd/{self._handle}", os.W_OK | os.X_OK)

    def _error(self, name: str, exc: OSError) -> StateError:
        return StateError(f"{self.path}/{name} cannot be read or written: {exc.strerror or exc}")


@contextlib.contextmanager
def existing_folder(state_dir: str, backend: str) -> t.Iterator[Folder | None]:
    """The folder of ``backend`` if it is there; nothing is made. Raises StateError where it cannot be trusted."""
    path = _checked(state_dir)
    handle = _walk(f"{path}/{folder_name(backend)}", path, _missing)
    if handle is None:
        yield None
        return
    try:
        yield Folder(handle, f"{path}/{folder_name(backend)}")
    finally:
        os.close(handle)


@contextlib.contextmanager
def made_folder(state_dir: str, backend: str) -> t.Iterator[Folder]:
    """The folder of ``backend``, made with mode 0700 where it is not there. Raises StateError."""
    path = _checked(state_dir)
    handle = _walk(f"{path}/{folder_name(backend)}", path, _make)
    if handle is None:  # for the type checker: _make makes it, or raises
        raise StateError(f"{path} cannot be made")
    try:
        yield Folder(handle, f"{path}/{folder_name(backend)}")
    finally:
        os.close(handle)


def unusable(state_dir: str, backend: str) -> str | None:
    """Why records of ``backend`` could not be kept there, without trying; None where they could."""
    try:
        path = _checked(state_dir)
        with existing_folder(path, backend) as folder:
            if folder is not None:
                return None if folder.writable() else f"{folder.path} cannot be written by this user"
    except StateError as exc:
        return str(exc)
    # What is missing would be made in the last folder that is there.
    above = path
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    return (
        None
        if os.access(above, os.W_OK | os.X_OK)
        else f"{path} cannot be made: {above} cannot be written by this user"
    )


def _checked(state_dir: str) -> str:
    if not state_dir.startswith("/") or ".." in state_dir.split("/"):
        raise StateError(f"state_dir must be an absolute path without .., not {state_dir!r}")
    path = os.path.normpath(state_dir)
    path = path[1:] if path.startswith("//") else path
    if path == "/":
        raise StateError("state_dir must be a folder of its own, not /")
    return path


def _walk(path: str, own: str, absent: t.Callable[[int, str, str], bool]) -> int | None:
    """Open ``path`` step by step; from ``own`` on nobody else may write. ``absent`` makes what is missing, or gives up."""
    handle = os.open("/", _DIRECTORY)
    done = ""
    try:
        for part in path.split("/")[1:]:
            try:
                child = _step(handle, part, f"{done}/{part}")
            except FileNotFoundError:
                if not absent(handle, part, f"{done}/{part}"):
                    os.close(handle)
                    return None
                child = _step(handle, part, f"{done}/{part}")
            os.close(handle)
            handle = child
            done = f"{done}/{part}"
            _refuse_others(os.fstat(handle), done, len(done) >= len(own))
        return handle
    except FileNotFoundError as exc:
        os.close(handle)
        raise StateError(f"{done} was removed just now; try again") from exc
    except BaseException:
        os.close(handle)
        raise


def _step(handle: int, part: str, path: str) -> int:
    try:
        return os.open(part, _DIRECTORY, dir_fd=handle)
    except FileNotFoundError:
        raise
    except OSError as exc:
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.lstat(part, dir_fd=handle).st_mode):
                raise StateError(
                    f"{path} is a symbolic link, which is not followed; give state_dir its real path"
                ) from exc
        raise StateError(f"{path} cannot be opened as a folder: {exc.strerror or exc}") from exc


def _refuse_others(found: os.stat_result, path: str, own: bool) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise StateError(
            f"{path} belongs to user id {found.st_uid}, who could change what is kept there; it must belong to root or to this user"
        )
    # In a sticky folder, such as /tmp, others can make files but not exchange ours.
    if found.st_mode & OTHERS_WRITE and (own or not found.st_mode & stat.S_ISVTX):
        raise StateError(
            f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}); take that away: chmod go-w {path}"
        )


def _missing(handle: int, part: str, path: str) -> bool:
    return False


def _make(handle: int, part: str, path: str) -> bool:
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o700, dir_fd=handle)
        os.fsync(handle)
    except OSError as exc:
        raise StateError(f"{path} cannot be made: {exc.strerror or exc}") from exc
    return True
