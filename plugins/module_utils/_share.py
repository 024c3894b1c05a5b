# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether the traffic that was seen agrees with the share that was wanted. Pure.

Weights say where requests should go; the load balancers' counters say where they went. From a few requests little can
be told, so a share comes with its interval, and is off only when all of the interval is.
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import asdict, dataclass
from statistics import NormalDist

# Fewer requests than this say nothing that is worth acting on.
FEW = 50


@dataclass(frozen=True)
class Observed:
    """A track's share of ``requests``, and between which bounds it lies, in percent; ``share`` is None without requests.

    ``verdict`` is ``ok``, ``off``, or ``few`` when there are too few requests to tell; ``words`` says it to a person.
    """

    requests: int
    share: float | None
    low: float
    high: float
    verdict: str
    words: str

    def as_dict(self) -> dict[str, t.Any]:
        """The same as plain data."""
        return asdict(self)


def interval(successes: int, requests: int, confidence: float = 0.999) -> tuple[float, float]:
    """The bounds, from 0 to 1, between which the probability of a success lies; (0, 1) when nothing was tried.

    This is Wilson's score interval (E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    Journal of the American Statistical Association 22, 1927, pages 209-212). More successes than requests count as
    all, and less than none as none. Raises ValueError for a confidence that is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence is between 0 and 1, not {confidence}")
    if requests <= 0:
        return 0.0, 1.0
    successes = min(max(successes, 0), requests)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    part = successes / requests
    scale = 1 + z * z / requests
    middle = (part + z * z / (2 * requests)) / scale
    half = z / scale * math.sqrt(part * (1 - part) / requests + z * z / (4 * requests * requests))
    # At the ends the bounds are exact; rounding would put them a little off.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == requests else min(1.0, middle + half)
    return low, high


def share_check(
    requests: t.Mapping[str, int], track: t.Collection[str], wanted_percent: float, tolerance_points: float = 5.0
) -> Observed:
    """Compare the requests that each server got, of the same span of time, with the share wanted for ``track``.

    ``requests`` maps servers to what their counters grew by; what fell counts as none. The share is off when even the
    bound nearest to the wanted share is more than ``tolerance_points`` away from it.
    """
    counts = {server: max(0, count) for server, count in requests.items()}
    total = sum(counts.values())
    mine = sum(count for server, count in counts.items() if server in track)
    return observe(mine, total, wanted_percent, tolerance_points)


def observe(mine: int, total: int, wanted_percent: float, tolerance_points: float = 5.0) -> Observed:
    """``share_check`` of the sums: ``mine`` requests of ``total`` went to the track."""
    low, high = (100 * bound for bound in interval(mine, total))
    wanted = f"where {wanted_percent:g} % is wanted"
    if total <= 0:
        return Observed(0, None, low, high, "few", f"no requests {wanted}")
    share = 100 * min(mine, total) / total
    words = f"{share:.1f} % of {total} requests ({low:.1f}-{high:.1f} %) {wanted}"
    if total < FEW:
        return Observed(total, share, low, high, "few", f"{words}; fewer than {FEW} tell little")
    off = low > wanted_percent + tolerance_points or high < wanted_percent - tolerance_points
    return Observed(total, share, low, high, "off" if off else "ok", words)
