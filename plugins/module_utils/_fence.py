# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Who may change a backend: the lock of a rollout, and the fence around every change.

The lock belongs to a rollout, not to a process, and outlives all of them. The fence is a lock of the kernel, held by
one process for the time of one call: while it is held the rollout's lock does not change hands.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import typing as t
import urllib.parse

from ansible_collections.steady.rollout.plugins.module_utils import _journal as journal
from ansible_collections.steady.rollout.plugins.module_utils import _lock
from ansible_collections.steady.rollout.plugins.module_utils._held import Holder
from ansible_collections.steady.rollout.plugins.module_utils._lease import Lease
from ansible_collections.steady.rollout.plugins.module_utils._lock import LockError
from ansible_collections.steady.rollout.plugins.module_utils._state import LOCK, StateError
from ansible_collections.steady.rollout.plugins.module_utils._state_dir import (
    Folder,
    existing_folder,
    made_folder,
)

FENCE, JOURNAL, SAFE, RELEASES = "fence", "journal.jsonl", "safe.json", "releases.json"
LEASE = "lease"
# A journal keeps this many rollouts.
ROLLOUTS = 50

Releases = dict[str, dict[str, str]]


class Records:
    """The records of one backend. Those who write hold its fence."""

    def __init__(self, folder: Folder, backend: str) -> None:
        self._folder = folder
        self.backend = backend

    def holder(self) -> Holder | None:
        found = self._load(LOCK)
        if found is None:
            return None
        try:
            abandoned = str(found.get("abandoned") or "")
            return Holder(str(found["rollout_id"]), str(found["since"]), dict(found["who"]), abandoned)
        except (KeyError, TypeError, ValueError) as exc:
            raise self._damaged(LOCK) from exc

    def take(self, holder: Holder, name: str) -> None:
        """``name``: what the backend is locked under on this host (see _lock)."""
        self._store(LOCK, {**holder.as_dict(), "name": name})

    def is_of(self, name: str) -> bool:
        """Whether the lock is of the backend that is locked under ``name``: two HAProxy of a host may have the same backend."""
        return (self._load(LOCK) or {}).get("name") == name

    def abandon(self, why: str) -> None:
        """The rollout keeps its lock, and its controller may act no more."""
        found = self._load(LOCK)
        if found is not None:
            self._store(LOCK, {**found, "abandoned": why})

    def release(self) -> None:
        self._folder.remove(LOCK)

    def lease(self) -> Lease | None:
        found = self._load(LEASE)
        if found is None:
            return None
        try:
            return Lease.from_dict(found)
        except (KeyError, TypeError, ValueError) as exc:
            raise self._damaged(LEASE) from exc

    def grant(self, lease: Lease) -> None:
        self._store(LEASE, lease.as_dict())

    def drop_lease(self) -> None:
        self._folder.remove(LEASE)

    def safe(self) -> dict[str, t.Any] | None:
        """{rollout_id, servers: {name: {weight, state}}}"""
        found = self._load(SAFE)
        if found is not None and not isinstance(found.get("servers"), dict):
            raise self._damaged(SAFE)
        return found

    def keep_safe(self, rollout_id: str, servers: t.Mapping[str, t.Any]) -> bool:
        """Returns whether that is anything new."""
        wanted = {"rollout_id": rollout_id, "servers": dict(servers)}
        if self.safe() == wanted:
            return False
        self._store(SAFE, wanted)
        return True

    def releases(self) -> Releases:
        """{server: {deploy key: release}}: what was last seen to run there."""
        return self._load(RELEASES) or {}

    def keep_releases(self, seen: t.Mapping[str, t.Mapping[str, str]]) -> bool:
        """Add what was ``seen``, and keep the rest. Returns whether that is anything new."""
        known = self.releases()
        merged = {**known, **{server: {**known.get(server, {}), **keys} for server, keys in seen.items()}}
        if merged == known:
            return False
        self._store(RELEASES, merged)
        return True

    def rollout(self) -> dict[str, t.Any] | None:
        """The last rollout, as `_journal.fold` tells it."""
        return journal.fold(journal.parse(self._folder.read(JOURNAL) or b""))

    def forget_old_rollouts(self) -> None:
        """Make room in the journal for one more rollout."""
        data = self._folder.read(JOURNAL) or b""
        kept = journal.last_rollouts(data, ROLLOUTS - 1)
        if len(kept) < journal.whole(data):
            self._folder.replace(JOURNAL, kept)

    def write(self, event: str, rollout_id: str, payload: t.Mapping[str, t.Any]) -> None:
        """Add a line to the journal; it is on disk when this returns."""
        data = self._folder.read(JOURNAL) or b""
        record = {
            **payload,
            "seq": journal.next_number(data),
            "rollout": rollout_id,
            "at": now(),
            "boot": boot_time(),
            "event": event,
        }
        try:
            text = journal.line(record)
        except (TypeError, ValueError) as exc:
            raise StateError(f"the record of {event} cannot be written as JSON: {exc}") from exc
        self._folder.append(JOURNAL, text, journal.whole(data))

    def _load(self, name: str) -> dict[str, t.Any] | None:
        data = self._folder.read(name)
        if data is None:
            return None
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as exc:
            raise self._damaged(name) from exc
        if not isinstance(found, dict):
            raise self._damaged(name)
        return found

    def _store(self, name: str, value: t.Mapping[str, t.Any]) -> None:
        self._folder.replace(name, json.dumps(value, indent=1).encode() + b"\n")

    def _damaged(self, name: str) -> StateError:
        return StateError(
            f"{self._folder.path}/{name} does not hold what a rollout writes there; look at it, then remove it"
        )


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def boot_time() -> list[t.Any]:
    """Which boot this is, and the seconds since; wall clocks can be set."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return [stream.read().strip(), round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)]


# Opening


@contextlib.contextmanager
def looked_at(state_dir: str, backend: str) -> t.Iterator[Records | None]:
    """The records of ``backend`` to read, None where there are none. Raises StateError."""
    with existing_folder(state_dir, backend) as folder:
        yield None if folder is None else Records(folder, backend)


@contextlib.contextmanager
def fenced(
    state_dir: str, backends: t.Iterable[str], rollout_id: str, seconds: float, abandoned: bool = False
) -> t.Iterator[list[Records]]:
    """Hold the fences of ``backends``, which rollout ``rollout_id`` must hold, waiting up to ``seconds`` for each.

    ``abandoned``: also when its controller may act no more, as for the guard.
    """
    with contextlib.ExitStack() as stack:
        found = []
        for backend in sorted(set(backends)):
            folder = stack.enter_context(existing_folder(state_dir, backend))
            if folder is None:
                raise lost(rollout_id, backend, None)
            stack.enter_context(_fence(folder, backend, seconds))
            found.append(Records(folder, backend))
        for records in found:
            require(records, rollout_id, abandoned)
        yield found


@contextlib.contextmanager
def fenced_for_beginning(state_dir: str, backends: t.Iterable[str], seconds: float) -> t.Iterator[list[Records]]:
    """Hold the fences of ``backends``, whoever holds their locks; folders are made where there are none."""
    with contextlib.ExitStack() as stack:
        found = []
        for backend in sorted(set(backends)):
            folder = stack.enter_context(made_folder(state_dir, backend))
            stack.enter_context(_fence(folder, backend, seconds))
            found.append(Records(folder, backend))
        yield found


@contextlib.contextmanager
def fenced_as_found(state_dir: str, backend: str, seconds: float) -> t.Iterator[Records | None]:
    """Hold the fence of ``backend``, whoever holds its lock; None where nothing is recorded, and nothing is made."""
    with existing_folder(state_dir, backend) as folder:
        if folder is None:
            yield None
            return
        with _fence(folder, backend, seconds):
            yield Records(folder, backend)


@contextlib.contextmanager
def _fence(folder: Folder, backend: str, seconds: float) -> t.Iterator[None]:
    handle = _open_fence(folder)
    try:
        try:
            _lock.take(handle, seconds)
        except LockError as exc:
            raise StateError(f"the fence of backend {backend} is not to be had: {exc}. Nothing was changed.") from exc
        yield
    finally:
        os.close(handle)


def _open_fence(folder: Folder) -> int:
    try:
        return folder.open_file(FENCE, os.O_RDWR | os.O_CREAT)
    except StateError:
        # Traffic can be returned on a disk that cannot be written any more: a lock needs no writing.
        return folder.open_file(FENCE, os.O_RDONLY)


def require(records: Records, rollout_id: str, abandoned: bool = False) -> None:
    """Raises StateError unless the rollout holds the backend, and its controller may act or ``abandoned`` is enough."""
    holder = records.holder()
    if holder is None or holder.rollout_id != rollout_id or (holder.abandoned and not abandoned):
        raise lost(rollout_id, records.backend, holder)


class Lost(StateError):
    """The rollout may not act here any more. ``abandoned``: what the guard wrote, "" where another one holds the backend."""

    def __init__(self, text: str, abandoned: str) -> None:
        super().__init__(text)
        self.abandoned = abandoned


def lost(rollout_id: str, backend: str, holder: Holder | None) -> Lost:
    abandoned = holder.abandoned if holder and holder.rollout_id == rollout_id else ""
    whose = f"{holder.rollout_id} does ({holder.origin()})" if holder else "nobody does"
    return Lost(
        f"rollout {rollout_id} no longer holds backend {backend} on this load balancer: {abandoned or whose}. Nothing was changed.",
        abandoned,
    )


def armed_backends(state_dir: str) -> list[str]:
    """The backends for which a lease was granted there, each as its folder's name says."""
    try:
        names = sorted(os.listdir(state_dir))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise StateError(f"{state_dir} cannot be read: {exc.strerror or exc}") from exc
    return [urllib.parse.unquote(name) for name in names if os.path.lexists(os.path.join(state_dir, name, LEASE))]


def foresee(state_dir: str, backends: t.Iterable[str], rollout_id: str) -> None:
    """In check mode, where no rollout could take a lock: raises StateError only where another one holds a backend."""
    for backend in backends:
        with looked_at(state_dir, backend) as records:
            holder = records.holder() if records else None
        if holder and holder.rollout_id != rollout_id:
            raise lost(rollout_id, backend, holder)
