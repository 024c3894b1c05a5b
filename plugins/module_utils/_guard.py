# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The guard: returns the traffic of a load balancer to its safe state when a lease expires, whatever became of the controller.

It runs on the load balancer as a process of its own, and ends when nothing is left to watch. It restores with the very act
that a rescue uses. What it cannot write down, on a full disk for example, does not keep it from returning the traffic.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils import _fence as fence
from ansible_collections.steady.rollout.plugins.module_utils import _guard_lock
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._lease import Lease
from ansible_collections.steady.rollout.plugins.module_utils._rollout_act import Act, perform
from ansible_collections.steady.rollout.plugins.module_utils._rollout_module import driver_of
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError

TICK = 0.5  # seconds between two looks at the leases
FENCE_SECONDS = 1.0  # an act under way goes first; it is asked for again at the next look
RETRY_SECONDS = 2.0
# Between two restores while nothing has changed: each of them leaves two lines in the journal.
LONGEST_PAUSE = 60.0


@dataclass
class _Trouble:
    """Why the traffic of a backend is not all back. ``settled``: the servers that were UP then; None where nobody could tell."""

    settled: frozenset[str] | None
    reason: str
    pause: float  # seconds until it is tried again with nothing changed
    at: float
    look_at: float


class Guard:
    """Watches the leases in one state directory. ``clock`` tells the boot and its seconds, as _fence.boot_time."""

    def __init__(self, state_dir: str, clock: t.Callable[[], t.Sequence[t.Any]] = fence.boot_time) -> None:
        self._state_dir = state_dir
        self._clock = clock
        self._trouble: dict[str, _Trouble] = {}
        self._over: set[tuple[str, str, float]] = set()  # leases that are done with, and could not be removed

    def look(self) -> bool:
        """Return the traffic of every backend whose lease has expired. Returns whether anything is left to watch."""
        left = False
        for backend in fence.armed_backends(self._state_dir):
            try:
                left |= self._look(backend)
            except (StateError, LoadBalancerError, OSError, LookupError, TypeError, ValueError) as exc:
                left = True
                _say(f"backend {backend}: {exc}")
        return left

    def _look(self, backend: str) -> bool:
        with fence.looked_at(self._state_dir, backend) as records:
            lease = records.lease() if records else None
            holder = records.holder() if records else None
        if lease is None or self._key(backend, lease) in self._over:
            return False
        if holder is None or holder.rollout_id != lease.rollout_id:
            return not self._drop(backend, lease)
        if lease.left(*self._clock()) > 0:
            self._trouble.pop(backend, None)
            return True
        trouble = self._trouble.get(backend)
        if trouble is None or time.monotonic() >= trouble.look_at:
            self._return_traffic(backend, lease, trouble)
        return self._key(backend, lease) not in self._over

    def _return_traffic(self, backend: str, lease: Lease, trouble: _Trouble | None) -> None:
        driver = driver_of({**lease.reach, "backends": [backend]}, False)
        if not self._abandon(backend, lease):
            return
        try:
            servers = driver.read([backend]).backends[backend]["servers"]
        except LoadBalancerError as exc:
            self._later(backend, None, str(exc), trouble)
            return
        settled = frozenset(str(one["name"]) for one in servers if one["settled"])
        if trouble and trouble.settled == settled and time.monotonic() < trouble.at + trouble.pause:
            trouble.look_at = time.monotonic() + RETRY_SECONDS
            return
        act = Act(
            act="restore",
            rollout_id=lease.rollout_id,
            backends=(backend,),
            state_dir=self._state_dir,
            patience=FENCE_SECONDS,
            record={"by": "guard"},
            abandoned=True,
        )
        try:
            done = perform(act, driver)
        except LoadBalancerError as exc:
            self._later(backend, settled, str(exc), trouble)
            return
        out = done.backends[backend].out
        if out:
            self._later(backend, settled, "; ".join(out.values()), trouble)
            return
        _say(f"backend {backend}: traffic is back to what was safe for rollout {lease.rollout_id}")
        self._trouble.pop(backend, None)
        self._drop(backend, lease)

    def _abandon(self, backend: str, lease: Lease) -> bool:
        """Keep the controller from acting again; False where it renewed its lease meanwhile."""
        with fence.fenced_as_found(self._state_dir, backend, FENCE_SECONDS) as records:
            found = records.lease() if records else None
            holder = records.holder() if records else None
            if records is None or found is None or holder is None or holder.rollout_id != lease.rollout_id:
                return False
            if found.left(*self._clock()) > 0:
                return False
            if not holder.abandoned:
                why = f"its lease of {lease.seconds:g} s expired, and at {fence.now()} the guard began to return the traffic"
                # Whoever cannot write here cannot act here either.
                with contextlib.suppress(StateError):
                    records.abandon(why)
        return True

    def _drop(self, backend: str, lease: Lease) -> bool:
        self._over.add(self._key(backend, lease))
        with (
            contextlib.suppress(StateError),
            fence.fenced_as_found(self._state_dir, backend, FENCE_SECONDS) as records,
        ):
            if records and records.lease() == lease:
                records.drop_lease()
        return True

    def _later(self, backend: str, settled: frozenset[str] | None, reason: str, before: _Trouble | None) -> None:
        if before is None or before.reason != reason:
            _say(f"backend {backend}: the traffic is not all back: {reason}; trying again")
        # After a load balancer that did not answer the first restore comes at once.
        longer = before is not None and before.settled is not None
        pause = min(2 * before.pause, LONGEST_PAUSE) if before and longer else RETRY_SECONDS
        now = time.monotonic()
        self._trouble[backend] = _Trouble(settled, reason, pause, now, now + RETRY_SECONDS)

    def _key(self, backend: str, lease: Lease) -> tuple[str, str, float]:
        return backend, lease.rollout_id, lease.until


def run(state_dir: str) -> None:
    """Watch until nothing is left to watch. Where another guard is at work, that one does it."""
    guard = Guard(state_dir)
    while True:
        with _guard_lock.exclusive(state_dir) as alone:
            if not alone:
                return
            while guard.look():
                time.sleep(TICK)
        # A lease that was granted since the last look found a guard that was about to end.
        if not guard.look():
            return


def _say(text: str) -> None:
    # A guard whose log is full or gone still guards.
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{fence.now()} {text}\n")
        sys.stderr.flush()


def main() -> int:
    """``guard.pyz STATE_DIR``"""
    os.chdir("/")
    run(sys.argv[1])
    return 0
