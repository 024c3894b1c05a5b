# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The judge of a canary: `fail`, `pass` or `inconclusive`, from what both sides did in the same polls. Pure, and plain data.

It may be asked after every poll, for as long as one likes: that it fails a canary that is as good as the tolerance allows has a
probability of at most alpha over all polls together, and that it passes one that is not, of at most beta. What it knows is in
``state``, a few kilobytes of JSON.
"""

from __future__ import annotations

import math
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.steady.rollout.plugins.module_utils import (
    _average_evidence,
    _error_evidence,
    _evidence,
    _latency_evidence,
)
from ansible_collections.steady.rollout.plugins.module_utils._error_evidence import Counts, Tolerance

FAIL, PASS, INCONCLUSIVE = "fail", "pass", "inconclusive"
# Polls in a row without a request to the canary, after which that is the reason.
QUIET = 6
# From this part of the evidence for a fail on it would mislead to say how far a pass is.
_LOOKS_BAD = 0.25
ERRORS = "errors"
VERSION = 1


DEFAULT = Tolerance(1.5, 0.0005)


class JudgeError(ValueError):
    """What the judge was given makes no sense; the message says what."""


@dataclass(frozen=True)
class Settings:
    """``fails`` and ``passes``: what is tolerated of errors before it is a fail, and what must be excluded for a pass.

    ``alpha`` and ``beta``: how probable a wrong fail and a wrong pass may be (0-1). ``horizon``: polls that are expected at most.
    ``latency``: how many times as long the canary may take. ``absolute_max``: the part of the canary's requests (0-1) that may fail
    where nothing is there to compare with. ``further``: other counts of bad answers, each with its own tolerance. ``canary`` and
    ``beside``: what the two sides are called in messages.
    """

    fails: Tolerance = DEFAULT
    passes: Tolerance = DEFAULT
    latency: float = 1.25
    alpha: float = 0.01
    beta: float = 0.05
    horizon: int = 180
    min_requests: int = 50
    absolute_max: float = 0.5
    further: t.Mapping[str, Tolerance] = field(default_factory=dict)
    canary: str = "the canary"
    beside: str = "the stable servers"

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "absolute_max"):
            if not 0 < getattr(self, name) < 1:
                raise JudgeError(f"{name} is {getattr(self, name)}, and must be between 0 and 1")
        for name, tolerance in {"tolerance": self.fails, "tolerance for a pass": self.passes, **self.further}.items():
            if not (0 < tolerance.ratio <= 1000 and 0 <= tolerance.delta < 1):
                raise JudgeError(
                    f"{name} is {tolerance.ratio} times and {tolerance.delta} more; the ratio must be above 0 and up to 1000, the delta "
                    "from 0 and below 1"
                )
        if not 0 < self.latency <= 1000:
            raise JudgeError(f"the tolerance of latency is {self.latency} times, and must be above 0 and up to 1000")
        if self.horizon < 2:
            raise JudgeError(f"horizon is {self.horizon}, and must be 2 polls at least")
        if self.min_requests < 0:
            raise JudgeError(f"min_requests is {self.min_requests}, and must be 0 or more")
        if ERRORS in self.further:
            raise JudgeError(f"{ERRORS} is the first of the counts already, and cannot be among the further ones")

    @property
    def caps(self) -> tuple[float, float]:
        """What one poll may bring: half of what is needed."""
        return _evidence.threshold(self.alpha) / 2, _evidence.threshold(self.beta) / 2

    def tolerances(self, name: str) -> tuple[Tolerance, Tolerance]:
        """What is tolerated of one count, for fail and for pass."""
        return (self.fails, self.passes) if name == ERRORS else (self.further[name], self.further[name])


class Averages(t.NamedTuple):
    """The mean times of both sides in milliseconds, and how many means of servers the canary's is made of."""

    canary: float | None
    stable: float | None
    servers: int = 1


class Poll(t.NamedTuple):
    """What both sides did in one span of time. ``counts``: by name, `errors` among them; the others as in Settings.further."""

    counts: t.Mapping[str, Counts]
    canary_ms: _latency_evidence.Samples = ()
    stable_ms: _latency_evidence.Samples = ()
    averages: Averages | None = None


@dataclass(frozen=True)
class State:
    """All that is known after some polls.

    ``absolute``: the evidence that the canary is bad whatever the stable side does. ``quiet``: the last polls without a request to the
    canary. ``latency`` and ``averages``: None where they are not judged. ``failed``: why, once it failed; it stays so.
    """

    polls: int = 0
    spent: float = 0.0
    counts: t.Mapping[str, _error_evidence.Record] = field(default_factory=dict)
    absolute: float = 0.0
    quiet: int = 0
    latency: _latency_evidence.Record | None = None
    averages: _average_evidence.Record | None = None
    failed: str = ""

    def as_dict(self) -> dict[str, t.Any]:
        return {
            "version": VERSION,
            "polls": self.polls,
            "spent": self.spent,
            "counts": {name: record.as_dict() for name, record in self.counts.items()},
            "absolute": self.absolute,
            "quiet": self.quiet,
            "latency": None if self.latency is None else self.latency.as_dict(),
            "averages": None if self.averages is None else self.averages.as_dict(),
            "failed": self.failed,
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> State:
        """Raises JudgeError for what ``as_dict`` did not make."""
        try:
            if data["version"] != VERSION:
                raise JudgeError(
                    f"the state is of version {data['version']!r:.20}, and this judge knows {VERSION}; begin anew"
                )
            latency, averages = data["latency"], data["averages"]
            return cls(
                int(data["polls"]),
                float(data["spent"]),
                {str(name): _error_evidence.Record.from_dict(one) for name, one in data["counts"].items()},
                float(data["absolute"]),
                int(data["quiet"]),
                None if latency is None else _latency_evidence.Record.from_dict(latency),
                None if averages is None else _average_evidence.Record.from_dict(averages),
                str(data["failed"]),
            )
        except JudgeError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise JudgeError(f"the state is not one that the judge returned: {type(exc).__name__} {exc!s:.80}") from exc


def begin(settings: Settings, latency: bool = False, averages: bool = False) -> State:
    """The state before the first poll. Which kinds of evidence there are is fixed from here on: their mean is what is judged by."""
    names = (ERRORS, *settings.further)
    return State(
        counts={name: _error_evidence.Record() for name in names},
        latency=_latency_evidence.Record() if latency else None,
        averages=_average_evidence.Record() if averages else None,
    )


def take(settings: Settings, state: State, poll: Poll) -> State:
    """The state with one more poll. Raises JudgeError where the poll is of another kind than the state."""
    counts = _checked(state, poll)
    number = state.polls + 1
    mass = _evidence.start_mass(number, settings.horizon, state.spent)
    errors = counts[ERRORS]
    taken = State(
        polls=number,
        spent=state.spent + mass,
        counts={
            name: _error_evidence.taken(record, counts[name], settings.tolerances(name), settings.caps, mass)
            for name, record in state.counts.items()
        },
        absolute=_absolute(settings, state.absolute, errors),
        quiet=0 if errors.canary else state.quiet + 1,
        latency=state.latency
        and _latency_evidence.taken(
            state.latency, poll.canary_ms, poll.stable_ms, settings.latency, settings.caps, mass
        ),
        averages=state.averages and _averages(settings, state.averages, poll, errors.canary),
        failed=state.failed,
    )
    return taken if taken.failed else replace(taken, failed=_failure(settings, taken))


def verdict(settings: Settings, state: State) -> str:
    """A fail stays; a pass does not, as a canary may break late: it is worth something only where the polls end."""
    if state.failed:
        return FAIL
    return PASS if _passes(settings, state) else INCONCLUSIVE


def reason(settings: Settings, state: State) -> str:
    """The verdict for a person, with its numbers."""
    if state.failed:
        return state.failed
    total = state.counts[ERRORS].total
    seen = _told(settings, total)
    if state.quiet >= QUIET:
        return f"no_data: {settings.canary} got no requests in the last {state.quiet} polls; {seen}"
    if _both_broken(settings, total):
        return (
            f"both sides fail more than {settings.absolute_max:.0%} of their requests, so that the release is not what is wrong; hold "
            f"until that is mended: {seen}"
        )
    if _passes(settings, state):
        return f"{settings.canary} is not worse than tolerated ({_tolerated(settings, settings.passes)}): {seen}"
    needed = requests_needed(settings, state)
    if total.canary and not total.stable:
        return f"there is no traffic of {settings.beside} to compare with: {seen}"
    if needed is not None:
        return (
            f"not enough evidence yet: {seen}; about {needed} more requests to {settings.canary} are needed for a pass"
        )
    if state.latency is not None and _errors_pass(settings, state):
        return f"not enough evidence yet of how long {settings.canary} takes: {seen}"
    if evidence(settings, state)["fail"] >= _LOOKS_BAD:
        return f"not enough evidence yet, and it looks worse than tolerated: {seen}"
    return f"not enough evidence yet: {seen}"


def requests_needed(settings: Settings, state: State) -> int | None:
    """About how many more requests to the canary a pass takes at the rates seen so far; None where that cannot be said, or
    where it looks as if it would not pass."""
    if state.failed or evidence(settings, state)["fail"] >= _LOOKS_BAD:
        return None
    if _passes(settings, state):
        return 0
    found = [
        _error_evidence.requests_needed(record, settings.tolerances(name)[1], settings.beta)
        for name, record in state.counts.items()
    ]
    if state.latency is not None:
        found.append(_latency_evidence.requests_needed(state.latency, settings.beta))
    known = [count for count in found if count is not None]
    return max(known) if len(known) == len(found) else None


def evidence(settings: Settings, state: State) -> dict[str, float]:
    """How far the evidence towards a fail and a pass has come, each from 0 to 1."""
    towards = max(
        _evidence.progress(_combined(settings, state), settings.alpha),
        _evidence.progress(state.absolute, settings.alpha),
    )
    passes = [_evidence.progress(_evidence.mean(record.good), settings.beta) for record in state.counts.values()]
    if state.latency is not None:
        passes.append(_evidence.progress(_latency_evidence.pass_evidence(state.latency), settings.beta))
    return {"fail": 1.0 if state.failed else towards, "pass": min(passes)}


# ---------------------------------------------------------------------------------------------------------------------


def _checked(state: State, poll: Poll) -> dict[str, Counts]:
    if set(poll.counts) != set(state.counts):
        raise JudgeError(
            f"a poll counts {', '.join(sorted(poll.counts))}, and those before it {', '.join(sorted(state.counts))}; begin with an empty state"
        )
    if state.latency is None and (poll.canary_ms or poll.stable_ms):
        raise JudgeError("a poll has latencies, and those before it had none; begin with an empty state")
    if state.averages is None and poll.averages is not None:
        raise JudgeError("a poll has averages, and those before it had none; begin with an empty state")
    return {name: _clamped(counts) for name, counts in poll.counts.items()}


def _clamped(counts: Counts) -> Counts:
    """More errors than requests are a skew of the counters: all of them failed."""
    if min(counts) < 0:
        raise JudgeError(
            f"a count is below 0: {', '.join(f'{name} {value}' for name, value in counts._asdict().items())}"
        )
    canary, canary_bad, stable, stable_bad = (min(_error_evidence.MOST, value) for value in counts)
    return Counts(canary, min(canary_bad, canary), stable, min(stable_bad, stable))


def _absolute(settings: Settings, known: float, poll: Counts) -> float:
    """Against the null that at most ``absolute_max`` of the canary's requests fail; asked where nothing else can be."""
    if not poll.canary or poll.stable:
        return known
    most = settings.absolute_max
    guess = (1 + most) / 2
    good = poll.canary - poll.canary_bad
    increment = poll.canary_bad * math.log(guess / most) + good * math.log((1 - guess) / (1 - most))
    return _evidence.rounded(known + min(settings.caps[0], increment))


def _averages(
    settings: Settings, known: _average_evidence.Record, poll: Poll, requests: int
) -> _average_evidence.Record:
    canary, stable, servers = poll.averages or Averages(None, None)
    return _average_evidence.taken(known, requests, canary, stable, servers, settings.latency, settings.caps[0])


def _kinds(settings: Settings, state: State) -> list[tuple[str, float | None]]:
    """Every kind of evidence for a fail with its logarithm; None where too few requests were seen to judge by."""
    kinds: list[tuple[str, float | None]] = [
        (name, _evidence.mean(record.fail) if record.enough(settings.min_requests) else None)
        for name, record in state.counts.items()
    ]
    if state.latency is not None:
        enough = state.latency.canary >= _latency_evidence.ENOUGH
        kinds.append(("latency", _latency_evidence.fail_evidence(state.latency) if enough else None))
    if state.averages is not None:
        kinds.append(("averages", _average_evidence.fail_evidence(state.averages)))
    return kinds


def _combined(settings: Settings, state: State) -> float | None:
    """The mean of all kinds is an e-process itself, and at least as strong as judging each at its part of alpha."""
    return _evidence.mean([log for _name, log in _kinds(settings, state)])


def _failure(settings: Settings, state: State) -> str:
    errors = state.counts[ERRORS]
    if errors.enough(settings.min_requests) and _evidence.reaches(state.absolute, settings.alpha):
        return (
            f"more than {settings.absolute_max:.0%} of the requests to {settings.canary} fail while there is no traffic of {settings.beside} to "
            "compare with: "
            f"{_told(settings, errors.total)}"
        )
    if not _evidence.reaches(_combined(settings, state), settings.alpha):
        return ""
    seen = _told(settings, errors.total)
    strongest = max(
        ((name, log) for name, log in _kinds(settings, state) if log is not None), key=lambda kind: kind[1]
    )[0]
    if strongest == "latency":
        return f"{settings.canary} is more than {settings.latency:g} times as slow as {settings.beside}: {seen}"
    if strongest == "averages":
        return f"the average times of {settings.canary} are more than {settings.latency:g} times those of {settings.beside}: {seen}"
    told = seen if strongest == ERRORS else f"{strongest}: {_told(settings, state.counts[strongest].total)}"
    return (
        f"{settings.canary} is worse than tolerated ({_tolerated(settings, settings.tolerances(strongest)[0])}): {told}"
    )


def _passes(settings: Settings, state: State) -> bool:
    if state.counts[ERRORS].total.canary < settings.min_requests:
        return False
    if not _errors_pass(settings, state):
        return False
    # Averages may fail a canary, but say too little to withhold a pass.
    return state.latency is None or _evidence.reaches(_latency_evidence.pass_evidence(state.latency), settings.beta)


def _errors_pass(settings: Settings, state: State) -> bool:
    return all(_evidence.reaches(_evidence.mean(record.good), settings.beta) for record in state.counts.values())


def _both_broken(settings: Settings, total: Counts) -> bool:
    most = settings.absolute_max
    return (
        total.canary >= settings.min_requests
        and total.canary_bad > most * total.canary
        and total.stable_bad > most * total.stable > 0
    )


def _tolerated(settings: Settings, tolerance: Tolerance) -> str:
    return f"up to {tolerance.ratio:g} times the rate of {settings.beside} and {100 * tolerance.delta:g} points more"


def _told(settings: Settings, total: Counts) -> str:
    """The counts of both sides, with their rates."""
    mine, other = _side(total.canary, total.canary_bad), _side(total.stable, total.stable_bad)
    return f"{mine} to {settings.canary} failed, of {settings.beside} {other}"


def _side(requests: int, bad: int) -> str:
    return f"{bad} of {requests} requests" + (f" ({percent(bad, requests)} %)" if requests else "")


def percent(bad: int, requests: int) -> str:
    """The part of requests that are bad, with as many digits as say something: `0.25`, `3.1`, `42`."""
    rate = 100 * min(bad, requests) / requests
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
