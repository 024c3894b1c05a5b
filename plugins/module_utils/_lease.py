# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The lease of a rollout on a load balancer: until when its last act is trusted, and how to reach the load balancer after that.

Times are seconds of the boot that is named with them, never of the wall clock: that can be set. Pure.
"""

from __future__ import annotations

import typing as t

SHORTEST = 5.0  # seconds
LONGEST = 7 * 86400.0


class Lease(t.NamedTuple):
    """``boot``: the id of the boot that ``until`` belongs to. ``reach``: the options of rollout_act that a restore needs."""

    rollout_id: str
    boot: str
    until: float
    seconds: float
    reach: t.Mapping[str, t.Any]

    def left(self, boot: str, now: float) -> float:
        """Seconds that are left, negative once it expired. What another boot granted is over: nobody knows for how long."""
        return self.until - now if boot == self.boot else -self.seconds

    def as_dict(self) -> dict[str, t.Any]:
        return self._asdict()

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Lease:
        """Raises KeyError, TypeError and ValueError for what is no lease."""
        return cls(
            str(data["rollout_id"]),
            str(data["boot"]),
            float(data["until"]),
            float(data["seconds"]),
            dict(data["reach"]),
        )


def granted(rollout_id: str, boot: str, now: float, seconds: float, reach: t.Mapping[str, t.Any]) -> Lease:
    return Lease(rollout_id, boot, now + seconds, seconds, reach)


def problem(seconds: float) -> str:
    """Why so many seconds cannot be granted, or ""."""
    if SHORTEST <= seconds <= LONGEST:
        return ""
    return f"a lease lasts from {SHORTEST:g} to {LONGEST:g} seconds, not {seconds:g}"
