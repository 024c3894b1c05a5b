# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether the canary answers more requests badly than the stable servers do: the evidence of counts, poll by poll. Pure.

A poll counts requests and bad answers of both sides in the same span of time. Nothing is pooled over polls, so neither a rate
that drifts on both sides nor a share that grows can be taken for a difference.

With n1 and e1 of the canary, n0 and e0 of the stable side, and the tolerance that p1 <= rho * p0 + delta: for an alternative
r = rho * g, D = r * n1 + n0 and N = rho * n1 + n0, let a = r * N / (rho * D) and b = N / D. Then

    exp(e1 ln a + e0 ln b - n1 delta (a - 1))

has an expectation of at most 1 under the tolerance for g > 1, whatever p0 is, and under its opposite for g < 1: by
(1 + x)^n <= exp(n x), and as rho n1 (a - 1) + n0 (b - 1) = 0.
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils import _evidence

FAIL_GRID = (1.25, 1.6, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
PASS_GRID = (0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.03, 0.001)
# Counts beyond it count as so many: nothing overflows, and nobody has seen more.
MOST = 10**15
# So many errors of the canary are enough to judge by, however few requests there were.
ENOUGH_ERRORS = 10


class Counts(t.NamedTuple):
    """Requests and bad answers of both sides in one poll, or summed up."""

    canary: int = 0
    canary_bad: int = 0
    stable: int = 0
    stable_bad: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*(min(MOST, mine + yours) for mine, yours in zip(self, other)))


NOTHING = Counts()


class Tolerance(t.NamedTuple):
    """A canary may answer badly up to ``ratio`` times the stable rate plus ``delta`` (of 1)."""

    ratio: float
    delta: float


@dataclass(frozen=True)
class Record:
    """What is known of one kind of bad answers: the evidence for `fail` and for `pass`, and the counts so far."""

    fail: tuple[float | None, ...] = (None,) * len(FAIL_GRID)
    good: tuple[float | None, ...] = (0.0,) * len(PASS_GRID)
    total: Counts = NOTHING

    def as_dict(self) -> dict[str, t.Any]:
        return {"fail": list(self.fail), "pass": list(self.good), "total": list(self.total)}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Record:
        """Raises KeyError, TypeError and ValueError for what is no record."""
        fail, good = _evidence.read(data["fail"], len(FAIL_GRID)), _evidence.read(data["pass"], len(PASS_GRID))
        return cls(fail, good, Counts(*(int(count) for count in data["total"])))

    def enough(self, min_requests: int) -> bool:
        return self.total.canary >= min_requests or self.total.canary_bad >= ENOUGH_ERRORS


def taken(
    record: Record, poll: Counts, tolerances: tuple[Tolerance, Tolerance], caps: tuple[float, float], mass: float
) -> Record:
    """The record with one more poll. ``tolerances`` and ``caps``: for fail and for pass; ``mass``: what starts at this poll."""
    fail = _evidence.grown(record.fail, _increments(poll, tolerances[0], FAIL_GRID), caps[0], mass)
    good = _evidence.grown(record.good, _increments(poll, tolerances[1], PASS_GRID), caps[1])
    return Record(tuple(fail), tuple(good), record.total.plus(poll))


def requests_needed(record: Record, tolerance: Tolerance, beta: float) -> int | None:
    """About how many canary requests are left until `pass`, if both sides go on with the rate and the shares that they had
    together; None where no number of them would do, or nothing was counted yet.
    """
    total = record.total
    if not total.canary or not total.stable:
        return None
    rate = (total.canary_bad + total.stable_bad) / (total.canary + total.stable)
    stable = total.stable / total.canary
    drifts = [
        rate * log_a + stable * rate * log_b - tolerance.delta * (a - 1)
        for log_a, log_b, a in (_factors(1.0, stable, tolerance.ratio, g) for g in PASS_GRID)
    ]

    def evidence(requests: float) -> float:
        logs = [(log or 0.0) + requests * drift for log, drift in zip(record.good, drifts)]
        return _evidence.mean(logs) or 0.0

    enough = _evidence.threshold(beta)
    if max(drifts) <= 0:
        return None
    few, many = 0.0, 1024.0
    while evidence(many) < enough:
        few, many = many, 2 * many
        if many > MOST:
            return None
    while many - few > 1 and many - few > many / 1000:
        middle = (few + many) / 2
        few, many = (middle, many) if evidence(middle) < enough else (few, middle)
    return math.ceil(many)


def _increments(poll: Counts, tolerance: Tolerance, grid: t.Sequence[float]) -> list[float]:
    """Without traffic on both sides there is nothing to compare, and nothing is added."""
    if not poll.canary or not poll.stable:
        return [0.0] * len(grid)
    found = []
    for g in grid:
        log_a, log_b, a = _factors(poll.canary, poll.stable, tolerance.ratio, g)
        found.append(poll.canary_bad * log_a + poll.stable_bad * log_b - poll.canary * tolerance.delta * (a - 1))
    return found


def _factors(canary: float, stable: float, rho: float, g: float) -> tuple[float, float, float]:
    """(ln a, ln b, a) of one alternative."""
    # b = N / D = 1 + (N - D) / D, which is exact also where nearly all requests are stable ones; and a = g * b.
    less = rho * (1 - g) * canary / (rho * g * canary + stable)
    log_b = math.log1p(less)
    return math.log(g) + log_b, log_b, g * (1 + less)
