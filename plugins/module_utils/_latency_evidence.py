# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether the canary is slower than the stable servers: the evidence of latencies, poll by poll. Pure.

A request is slow at a quantile q when it takes longer than T, the stable side's quantile of all polls before; the canary's may take
``margin`` times as long. Slow ones of both sides in one poll are two binomial counts, for which

    (pa / p)^k1 ((1 - pa) / (1 - p))^(n1 - k1) (pb / p)^k0 ((1 - pb) / (1 - p))^(n0 - k0),   p = (n1 pa + n0 pb) / (n1 + n0)

has an expectation of at most 1 while the canary is slow no more often (R. J. Turner, A. Ly, P. D. Grünwald: Generic E-variables for
exact sequential k-sample tests that allow for optional stopping). pb is guessed from the polls before, pa = logistic(logit pb + l).
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.steady.rollout.plugins.module_utils import _evidence
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import quoted

QUANTILES = (0.5, 0.9, 0.99)
SHIFTS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.5)
# So many slow requests beyond a quantile must be known of the stable side before it is asked.
_KNOWN_SLOW = 5
_CERTAIN = 1e-9  # no guess is nearer to 0 or 1 than this
_PRIOR = 20  # requests that the guess of pb starts with
# Canary requests without which slowness is no verdict.
ENOUGH = 100
# Buckets are 5 % wide, from about 8 microseconds to 3 minutes.
_WIDTH = math.log(1.05)
_LOWEST, _HIGHEST = -100, 248
# A bucket is narrow that is no wider than what a clock tells, in milliseconds, or than this many times its lower edge.
_CLOCK, _FINE = 1.0 + 1e-9, 1.0501
# Evidence for a pass, as a part of what is asked, from which on it says how much more is needed.
_TELLING = 0.05
# More stable requests than this are counted half, so that the histogram stays small and follows what happens.
_MOST_KNOWN = 1_000_000

# (longer than, at most, how many), in milliseconds.
Samples = t.Sequence[tuple[float, float, int]]
_NONE: tuple[float | None, ...] = (None,) * len(SHIFTS)
_ONE: tuple[float | None, ...] = (0.0,) * len(SHIFTS)


@dataclass(frozen=True)
class Quantile:
    """The evidence at one quantile, and how many stable requests were slow of how many, of the polls that were judged."""

    fail: tuple[float | None, ...] = _NONE
    good: tuple[float | None, ...] = _ONE
    slow: float = 0.0
    known: int = 0


@dataclass(frozen=True)
class Record:
    """What is known of latencies. ``histogram``: the stable side's, by bucket; ``canary``: requests of the canary."""

    quantiles: tuple[Quantile, ...] = (Quantile(),) * len(QUANTILES)
    histogram: t.Mapping[int, int] = field(default_factory=dict)
    canary: int = 0

    def as_dict(self) -> dict[str, t.Any]:
        """Plain data; the histogram as its lowest bucket, and the counts from there on."""
        known = dict(self.histogram)
        first, last = (min(known), max(known)) if known else (0, -1)
        return {
            "quantiles": [[list(one.fail), list(one.good), round(one.slow, 3), one.known] for one in self.quantiles],
            "histogram": [first, *(known.get(bucket, 0) for bucket in range(first, last + 1))],
            "canary": self.canary,
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Record:
        """Raises KeyError, TypeError and ValueError for what is no record."""
        first, *counts = (int(value) for value in data["histogram"])
        if len(data["quantiles"]) != len(QUANTILES) or len(counts) > _HIGHEST - _LOWEST + 1:
            raise ValueError("its numbers are not as many as they should be")
        quantiles = tuple(
            Quantile(_evidence.read(fail, len(SHIFTS)), _evidence.read(good, len(SHIFTS)), float(slow), int(known))
            for fail, good, slow, known in data["quantiles"]
        )
        return cls(
            quantiles, {first + place: count for place, count in enumerate(counts) if count}, int(data["canary"])
        )


def samples(given: t.Any) -> list[tuple[float, float, int]]:
    """From ``[ms, ...]``, or a histogram ``{upper edge in ms: count}``, of which it is only known between which edges they are.

    Raises ValueError for anything else, and for what is below 0.
    """
    if given is None:
        return []
    if isinstance(given, t.Mapping):
        edges = sorted((_latency(edge, "inf"), _count(count)) for edge, count in given.items())
        lower = [0.0, *(edge for edge, _count in edges)]
        return [(low, edge, count) for low, (edge, count) in zip(lower, edges) if count]
    if isinstance(given, (str, bytes)) or not isinstance(given, t.Sequence):
        raise ValueError(f"latencies are a list of milliseconds or a map of upper edges to counts, not {quoted(given)}")
    return [(value, value, 1) for value in (_latency(one) for one in given)]


def taken(
    record: Record, canary: Samples, stable: Samples, margin: float, caps: tuple[float, float], mass: float
) -> Record:
    """The record with the latencies of one more poll."""
    quantiles = tuple(
        _asked(one, _limit(record.histogram, q), q, canary, stable, margin, caps, mass)
        for q, one in zip(QUANTILES, record.quantiles)
    )
    seen = sum(count for _low, _high, count in canary)
    return replace(record, quantiles=quantiles, histogram=_with(record.histogram, stable), canary=record.canary + seen)


def fail_evidence(record: Record) -> float | None:
    """The logarithm of the evidence that the canary is slower than it may be."""
    return _evidence.mean([log for one in record.quantiles for log in one.fail])


def pass_evidence(record: Record) -> float | None:
    """The logarithm of the evidence that it is not: that of the quantile with the least."""
    return min((_evidence.mean(one.good) or 0.0) for one in record.quantiles)


def requests_needed(record: Record, beta: float) -> int:
    """About how many more canary requests a pass takes, by how much those so far have shown; as many again where that is next to nothing."""
    wanted, shown = -math.log(beta), pass_evidence(record) or 0.0
    if shown >= wanted:
        return 0
    more = record.canary * (wanted - shown) / shown if shown > _TELLING * wanted else record.canary
    return max(ENOUGH, math.ceil(more))


def median(record: Record) -> float | None:
    """About half of the stable requests took so many milliseconds at most; None before any was seen."""
    return _limit(record.histogram, 0.5, known_slow=0)


def _asked(
    known: Quantile,
    limit: float | None,
    q: float,
    canary: Samples,
    stable: Samples,
    margin: float,
    caps: tuple[float, float],
    mass: float,
) -> Quantile:
    """One quantile with one more poll; what starts at this poll starts also where it is too early to ask."""
    if limit is None or not canary or not stable:
        nothing = [0.0] * len(SHIFTS)
        return replace(known, fail=tuple(_evidence.grown(known.fail, nothing, caps[0], mass)))
    n1, n0 = _sum(canary), _sum(stable)
    k0 = sum(_above(limit, *one) for one in stable)
    # Of a histogram it is not known where in a bucket they are: it is what says less.
    longest = margin * limit
    surely = sum(count for low, high, count in canary if (low >= longest if low < high else high > longest))
    perhaps = sum(_above(longest, *one) for one in canary)
    pb = (known.slow + _PRIOR * (1 - q)) / (known.known + _PRIOR)
    fail = _evidence.grown(known.fail, [_log_ratio(surely, n1, k0, n0, pb, shift) for shift in SHIFTS], caps[0], mass)
    good = _evidence.grown(known.good, [_log_ratio(perhaps, n1, k0, n0, pb, -shift) for shift in SHIFTS], caps[1])
    return Quantile(tuple(fail), tuple(good), known.slow + k0, known.known + n0)


def _above(limit: float, low: float, high: float, count: int) -> float:
    """How many of a bucket may be above a limit: all of it, unless it is narrow. Those in a narrow one lie evenly, as a clock of whole
    milliseconds would else hide for good that both sides take the same time. (The mean over where they lie is an e-value, too.)"""
    if high <= limit:
        return 0.0
    narrow = low < high <= max(low + _CLOCK, low * _FINE)
    return count * (high - max(low, limit)) / (high - low) if narrow else float(count)


def _log_ratio(k1: float, n1: int, k0: float, n0: int, pb: float, shift: float) -> float:
    pb = min(max(pb, _CERTAIN), 1 - _CERTAIN)
    pa = 1 / (1 + math.exp(-(math.log(pb / (1 - pb)) + shift)))
    both = (n1 * pa + n0 * pb) / (n1 + n0)
    return (
        k1 * math.log(pa / both)
        + (n1 - k1) * math.log((1 - pa) / (1 - both))
        + k0 * math.log(pb / both)
        + (n0 - k0) * math.log((1 - pb) / (1 - both))
    )


def _limit(histogram: t.Mapping[int, int], q: float, known_slow: float = _KNOWN_SLOW) -> float | None:
    """The upper edge, in milliseconds, of the bucket of a quantile; None while too few requests are known."""
    known = histogram
    total = sum(known.values())
    # Less a rounding error: 100 requests leave 10 beyond q = 0.9.
    if not total or total * (1 - q) < known_slow - 1e-9:
        return None
    below = 0
    for bucket in sorted(known):
        below += known[bucket]
        if below >= q * total - 1e-9:
            return math.exp(_WIDTH * (bucket + 1))
    return None


def _with(histogram: t.Mapping[int, int], seen: Samples) -> dict[int, int]:
    known = dict(histogram)
    for _low, high, count in seen:
        bucket = _bucket(high)
        known[bucket] = known.get(bucket, 0) + count
    while sum(known.values()) > _MOST_KNOWN:
        known = {bucket: count // 2 for bucket, count in known.items() if count > 1}
    return known


def _bucket(ms: float) -> int:
    """The bucket whose upper edge is the first that is not below ``ms``."""
    if ms <= math.exp(_WIDTH * _LOWEST):
        return _LOWEST
    if math.isinf(ms):
        return _HIGHEST
    return min(_HIGHEST, math.ceil(math.log(ms) / _WIDTH - 1e-9) - 1)


def _sum(seen: Samples) -> int:
    return sum(count for _low, _high, count in seen)


def _latency(value: t.Any, also: str = "") -> float:
    text = str(value).strip().lower().lstrip("+") if isinstance(value, str) else ""
    if also and text == also:
        return math.inf
    try:
        number = -1.0 if isinstance(value, bool) else float(text or value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not number >= 0 or (math.isinf(number) and not also):
        raise ValueError(f"{quoted(value)} is no latency in milliseconds")
    return number


def _count(value: t.Any) -> int:
    text = value.strip() if isinstance(value, str) else ""  # a templated number, before ansible-core 2.19
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{quoted(value)} cannot be how many requests took so long")
    return min(value, 10**12)
