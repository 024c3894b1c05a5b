# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether a rollout holds a backend, for calls without a fence, which know no state directory: a pointer leads there."""

from __future__ import annotations

import contextlib
import json
import os
import typing as t
import urllib.parse

from ansible_collections.steady.rollout.plugins.module_utils import _lock
from ansible_collections.steady.rollout.plugins.module_utils._files import replace_file
from ansible_collections.steady.rollout.plugins.module_utils._lock import LockError
from ansible_collections.steady.rollout.plugins.module_utils._state import (
    DEFAULT_STATE_DIR,
    LOCK,
    StateError,
    folder_name,
)


class Holder(t.NamedTuple):
    """The rollout that holds a backend. ``since``: UTC, ISO 8601. ``who``: user, host, job, as far as they were given.

    ``abandoned``: why its controller may act no more, as the guard wrote it; "" while it may. It still keeps others out.
    """

    rollout_id: str
    since: str
    who: t.Mapping[str, t.Any]
    abandoned: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        return {"rollout_id": self.rollout_id, "since": self.since, "who": dict(self.who), "abandoned": self.abandoned}

    def words(self) -> str:
        return f"rollout {self.rollout_id} ({self.origin()})"

    def origin(self) -> str:
        who = ", ".join(f"{key} {value}" for key, value in self.who.items() if value not in (None, ""))
        return f"{who}, since {self.since}" if who else f"since {self.since}"


# The pointer: where the records of the rollout are that holds what is locked under ``name`` (see _lock)


def point(name: str, state_dir: str, backend: str) -> None:
    text = json.dumps({"state_dir": state_dir, "backend": backend}) + "\n"
    try:
        path = _pointer(name, _lock.folder())
        if _pointed(name) != (state_dir, backend):
            replace_file(path, text, 0o600)
    except (OSError, LockError) as exc:
        raise StateError(f"calls without a fence cannot be kept out of backend {backend}: {exc}") from exc


def unpoint(name: str) -> None:
    with contextlib.suppress(OSError, LockError):
        os.unlink(_pointer(name, _lock.known_folder()))


def held_by(name: str, backend: str) -> Holder | None:
    """The rollout that holds ``backend``, locked under ``name``. A pointer to records that are gone, or free, is nothing.

    Pointers do not outlive a reboot; then the lock is found only in the folder where records are kept by default. A user
    who may not look there keeps none there.
    """
    pointed = _pointed(name)
    holder = _holder(name, *pointed) if pointed else None
    if holder is None and os.path.lexists(os.path.join(DEFAULT_STATE_DIR, folder_name(backend), LOCK)):
        with contextlib.suppress(StateError):
            holder = _holder(name, DEFAULT_STATE_DIR, backend)
    return holder


def _holder(name: str, state_dir: str, backend: str) -> Holder | None:
    # Only here: most backends are held by nobody, and what is imported is compiled anew at every call.
    from ansible_collections.steady.rollout.plugins.module_utils._fence import looked_at

    with looked_at(state_dir, backend) as records:
        return records.holder() if records and records.is_of(name) else None


def refuse_held(name: str, backend: str) -> None:
    """For calls without a fence. Raises StateError while a rollout holds the backend."""
    holder = held_by(name, backend)
    if holder:
        raise StateError(
            f"{holder.words()} holds backend {backend} on this load balancer. Wait for its end, or set force: true to "
            "change the backend all the same. Nothing was changed."
        )


def _pointed(name: str) -> tuple[str, str] | None:
    try:
        with open(_pointer(name, _lock.known_folder()), encoding="utf-8") as stream:
            found = json.load(stream)
        return str(found["state_dir"]), str(found["backend"])
    except (OSError, LockError, ValueError, KeyError, TypeError):
        return None


def _pointer(name: str, folder: str) -> str:
    return os.path.join(folder, urllib.parse.quote(name, safe="") + ".rollout")
