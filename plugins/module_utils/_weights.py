# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The integer weights that give one track a wanted share of the traffic, whatever the sizes of the tracks.

With weighted round robin a track's share is the sum of its weights over the sum of all weights. Weights are whole
numbers from 0 to 256, so a wanted share can often only be come near to; how near is told, not hidden.
"""

from __future__ import annotations

import math
import typing as t
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction

MAX_WEIGHT = 256
# How far a server may stray from its base share within its own track, as a fraction of it, to come nearer to the wanted
# share of the track. Tracks whose base weights cannot be kept this well at any scale use the scale that keeps them best.
SKEW = Fraction(5, 100)


@dataclass(frozen=True)
class Split:
    """``weights`` per server; ``share``, the percent of traffic the track really gets; ``error``, ``share`` minus the percent
    wanted; ``skew``, the farthest that any server strays from its base share within its own track, in percent of that share."""

    weights: dict[str, int]
    share: float
    error: float
    skew: float


@dataclass(frozen=True)
class _Scaling:
    """One track's base weights, scaled so that the largest of them becomes ``top``."""

    weights: tuple[int, ...]
    total: int
    skew: Fraction


def split(track: t.Mapping[str, int], rest: t.Mapping[str, int], percent: float) -> Split:
    """Weights that send ``percent`` (0-100) of the traffic to ``track`` and the remainder to ``rest``.

    Both map server names to base weights, whose proportions within each track are kept. A server with base weight
    0 stays at 0. At 0 and 100 percent the side that carries all keeps its base weights. Of all weights with the least error
    those are taken that skew least, then those nearest to the base weights of ``rest``, so that few servers change.

    Raises ValueError for weights or percents out of range, for names in both tracks, and for a track that is to carry traffic
    but has no server with a weight.
    """
    _check(track, rest, percent)
    if percent == 0:
        return _whole(rest, track, 0.0)
    if percent == 100:
        return _whole(track, rest, 100.0)
    wanted = Fraction(percent) / 100
    mine, others = _scalings(track), _scalings(rest)
    base = sum(rest.values())
    best = min(_pairs(mine, others, wanted), key=lambda pair: _cost(pair, wanted, base))
    share = Fraction(best[0].total, best[0].total + best[1].total)
    weights = {**dict(zip(track, best[0].weights)), **dict(zip(rest, best[1].weights))}
    return Split(
        weights, float(share * 100), float((share - wanted) * 100), float(max(best[0].skew, best[1].skew) * 100)
    )


def share_of(track: t.Collection[str], weights: t.Mapping[str, int]) -> float:
    """Percent of the traffic that the servers of ``track`` get with ``weights``; 0 when no weight is above 0."""
    total = sum(weights.values())
    return 100.0 * sum(weights[name] for name in track) / total if total else 0.0


def _check(track: t.Mapping[str, int], rest: t.Mapping[str, int], percent: float) -> None:
    if not 0 <= percent <= 100:
        raise ValueError(f"a share must be from 0 to 100 percent, not {percent}")
    for name, weight in [*track.items(), *rest.items()]:
        if weight < 0:
            raise ValueError(f"the base weight {weight} of {name} is below 0")
    both = sorted(set(track) & set(rest))
    if both:
        raise ValueError(f"{', '.join(both)} would be in both tracks")
    if percent > 0 and not any(track.values()):
        raise ValueError(f"{percent} percent of the traffic cannot go to a track without a server of weight above 0")
    if percent < 100 and not any(rest.values()):
        raise ValueError(
            f"{100 - percent} percent of the traffic cannot go to a track without a server of weight above 0"
        )


def _whole(carrying: t.Mapping[str, int], idle: t.Mapping[str, int], share: float) -> Split:
    return Split({**carrying, **dict.fromkeys(idle, 0)}, share, 0.0, 0.0)


def _scalings(base: t.Mapping[str, int]) -> list[_Scaling]:
    """The track at every scale that keeps its proportions well enough, by ascending and distinct totals."""
    largest = max(base.values())
    found: dict[int, _Scaling] = {}
    for top in range(1, MAX_WEIGHT + 1):
        # Half up, and never rounded away: a server with a base weight keeps some traffic.
        weights = tuple(
            max(1, (2 * weight * top + largest) // (2 * largest)) if weight else 0 for weight in base.values()
        )
        scaling = _Scaling(weights, sum(weights), _skew(base, weights))
        known = found.get(scaling.total)
        if known is None or scaling.skew < known.skew:
            found[scaling.total] = scaling
    limit = max(SKEW, min(scaling.skew for scaling in found.values()))
    return sorted((scaling for scaling in found.values() if scaling.skew <= limit), key=lambda scaling: scaling.total)


def _skew(base: t.Mapping[str, int], weights: t.Sequence[int]) -> Fraction:
    """The largest relative difference between a server's part of its track by ``weights`` and by ``base``."""
    before, after = sum(base.values()), sum(weights)
    # |w/after - b/before| / (b/before), over a common denominator: fractions are slow to make one by one.
    return max(
        Fraction(abs(weight * before - own * after), own * after) for own, weight in zip(base.values(), weights) if own
    )


def _pairs(
    mine: t.Sequence[_Scaling], others: t.Sequence[_Scaling], wanted: Fraction
) -> t.Iterator[tuple[_Scaling, _Scaling]]:
    """For every scale of the track the two scales of the rest around the ideal one: the best pair is among them."""
    totals = [scaling.total for scaling in others]
    for scaling in mine:
        place = bisect_left(totals, math.ceil(scaling.total * (1 - wanted) / wanted))
        for near in others[max(0, place - 1) : place + 1]:
            yield scaling, near


def _cost(pair: tuple[_Scaling, _Scaling], wanted: Fraction, base: int) -> tuple[Fraction, Fraction, int]:
    mine, others = pair
    error = abs(Fraction(mine.total, mine.total + others.total) - wanted)
    return error, max(mine.skew, others.skew), abs(others.total - base)
