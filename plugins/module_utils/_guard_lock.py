# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether a guard watches a state directory: it holds a lock of the kernel there, which ends with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import typing as t

# No folder of a backend has such a name: @ is encoded there.
LOCK = "@guard"
LOCK_SECONDS = 3.0
POLL_SECONDS = 0.05


@contextlib.contextmanager
def exclusive(state_dir: str) -> t.Iterator[bool]:
    """Be the guard; False where another one is. Whoever asks whether there is one holds the lock for a moment, too."""
    handle = os.open(os.path.join(state_dir, LOCK), os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield _taken(handle)
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)


def is_running(state_dir: str) -> bool:
    try:
        handle = os.open(os.path.join(state_dir, LOCK), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
