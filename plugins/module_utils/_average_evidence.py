# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether the canary is slower, where a load balancer only tells averages: the evidence of signs. Pure.

HAProxy's times are means over a server's last 1024 requests. While the canary's means are no higher than the margin allows more
often than not, prod(1 + l y) has an expectation of at most 1, y being +1 for a mean beyond it and -1 for another. Means are looked at
once all requests in them are new, so that no request is seen twice. A slow minority does not show in a mean.
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils import _evidence

BETS = (0.3, 0.6, 0.9)
WINDOW = 1024  # requests that a mean of HAProxy is over


@dataclass(frozen=True)
class Record:
    """The evidence; and the requests of the canary since its means were last looked at."""

    fail: tuple[float | None, ...] = (0.0,) * len(BETS)
    waiting: int = 0

    def as_dict(self) -> dict[str, t.Any]:
        return {"fail": list(self.fail), "waiting": self.waiting}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Record:
        """Raises KeyError, TypeError and ValueError for what is no record."""
        return cls(_evidence.read(data["fail"], len(BETS)), int(data["waiting"]))


def taken(
    record: Record, requests: int, canary: float | None, stable: float | None, servers: int, margin: float, cap: float
) -> Record:
    """The record with one more poll: the canary's new ``requests``, and the means of both sides in milliseconds.

    ``servers``: how many means the canary's is made of; all of them must be new.
    """
    waiting = record.waiting + requests
    if canary is None or stable is None or waiting < WINDOW * max(1, servers):
        return Record(record.fail, waiting)
    sign = 1 if canary > margin * stable else -1
    fail = _evidence.grown(record.fail, [math.log1p(bet * sign) for bet in BETS], cap)
    return Record(tuple(fail))


def fail_evidence(record: Record) -> float | None:
    """The logarithm of the evidence that the canary is slower than it may be."""
    return _evidence.mean(record.fail)
