# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Locks between processes of one host. The kernel frees them with the process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
import typing as t
import urllib.parse

POLL_SECONDS = 0.05
PID_LENGTH = 20  # bytes in a lock file


class LockError(Exception):
    """The lock was not to be had; the text says who holds it, as far as is known."""


@contextlib.contextmanager
def exclusive(name: str, seconds: float) -> t.Iterator[None]:
    """Hold the lock ``name`` against every process of this user on this host; wait for it up to ``seconds``."""
    try:
        path = os.path.join(folder(), urllib.parse.quote(name, safe=""))
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise LockError(f"the lock file cannot be made: {exc.strerror} ({exc.filename})") from exc
    try:
        take(handle, seconds)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def exclusive_folder(path: str, seconds: float) -> t.Iterator[None]:
    """Hold a folder against every other caller of this function, so that a file in it is replaced by one at a time."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _wait(handle, seconds)
        yield
    finally:
        os.close(handle)


def take(handle: int, seconds: float) -> None:
    """Lock an open file, until it is closed; wait for it up to ``seconds``. Raises LockError."""
    _wait(handle, seconds)
    # For the message of whoever waits in vain; a full disk is no reason not to hold it. Not cut short first: that waits for the disk.
    with contextlib.suppress(OSError):
        os.pwrite(handle, str(os.getpid()).ljust(PID_LENGTH).encode(), 0)


def _wait(handle: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockError(f"another call holds it, {_holder(handle)}, for more than {seconds:g} s") from None
            time.sleep(POLL_SECONDS)


def _holder(handle: int) -> str:
    try:
        pid = os.pread(handle, PID_LENGTH, 0).decode("ascii", "replace").strip()
    except OSError:
        pid = ""
    return f"process {pid}" if pid.isdigit() else "another process"


def folder() -> str:
    """The folder of the lock files, made where it is not there. Raises OSError and LockError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(_path(), 0o700)
    return known_folder()


def _path() -> str:
    return "/run/steady-rollout" if os.geteuid() == 0 else f"{tempfile.gettempdir()}/steady-rollout-{os.geteuid()}"


def known_folder() -> str:
    """A folder of this user alone. Raises FileNotFoundError, and LockError when somebody else made it first."""
    path = _path()
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LockError(f"{path} is not a folder of this user alone; remove it")
    return path
