# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Evidence that may be looked at after every poll: running products of likelihood ratios, as logarithms. Pure.

Each number is an e-process: while its null hypothesis is true its expectation is at most 1 at any time, whenever one stops
to look. So by Ville's inequality it ever reaches 1/alpha with a probability of at most alpha, and so does a mean of such numbers.

A number that grows by a start-time mixture begins at 0, and gets a part of its mass at each poll: what breaks late is then found
about as fast as what is broken from the start. None is the logarithm of 0. Numbers are rounded down, which keeps them valid, so that
they are short in JSON and do not depend on how polls are grouped into calls.
"""

from __future__ import annotations

import math
import typing as t

Logs = t.Sequence[t.Optional[float]]

_STEP = 1e6  # six decimals
_LEAST = -1e9


def start_mass(poll: int, horizon: int, spent: float) -> float:
    """The part of the mass that starts at ``poll`` (from 1): half of it at the first, the rest evenly at those up to ``horizon``."""
    if poll > horizon:
        return 0.0
    mass = 0.5 if poll == 1 else 0.5 / (horizon - 1)
    return max(0.0, min(mass, 1.0 - spent))


def grown(logs: Logs, increments: t.Sequence[float], cap: float, mass: float = 0.0) -> list[float | None]:
    """One poll: each number gets ``mass`` and is then multiplied by exp of its increment, which is at most ``cap``.

    No single poll brings more than ``cap``: a burst of errors is no proof.
    """
    return [_multiplied(_with_mass(log, mass), min(increment, cap)) for log, increment in zip(logs, increments)]


def mean(logs: Logs) -> float | None:
    """The logarithm of the mean of the numbers."""
    known = [log for log in logs if log is not None]
    if not known:
        return None
    top = max(known)
    return top + math.log(math.fsum(math.exp(log - top) for log in known) / len(logs))


def reaches(log: float | None, level: float) -> bool:
    """Whether a number is at least 1/``level``."""
    return log is not None and log >= threshold(level)


def threshold(level: float) -> float:
    """The logarithm that a number must reach for errors of at most ``level`` (0-1)."""
    return -math.log(level)


def progress(log: float | None, level: float) -> float:
    """How far the evidence has come, from 0 to 1."""
    return 0.0 if log is None else min(1.0, max(0.0, log / threshold(level)))


def _with_mass(log: float | None, mass: float) -> float | None:
    if mass <= 0:
        return log
    if log is None:
        return math.log(mass)
    top, low = max(log, math.log(mass)), min(log, math.log(mass))
    return top + math.log1p(math.exp(low - top))


def _multiplied(log: float | None, increment: float) -> float | None:
    return None if log is None else rounded(log + increment)


def read(values: t.Sequence[t.Any], count: int) -> tuple[float | None, ...]:
    """Logarithms out of plain data. Raises ValueError where they are not so many, or no numbers."""
    found = tuple(None if value is None else float(value) for value in values)
    if len(found) != count or not all(value is None or math.isfinite(value) for value in found):
        raise ValueError("it holds what is no number, or not as many as it should")
    return found


def rounded(log: float) -> float:
    """A logarithm, rounded down."""
    return max(_LEAST, math.floor(log * _STEP) / _STEP)
