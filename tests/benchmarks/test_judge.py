# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often the judge takes a good canary back, and how soon it finds a bad one, beside the rules of others on the same counts.

Each run is half an hour of polls of 10 seconds. The others are written from their documented rules: Flagger's check of a success rate
with five failed checks, Kayenta's Mann-Whitney judge on the error rates of the polls, asked every minute, and a z-test of pooled counts,
asked at every poll.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import typing as t
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _judge
from ansible_collections.steady.rollout.plugins.module_utils._error_evidence import Counts, Tolerance
from ansible_collections.steady.rollout.plugins.module_utils._judge import Poll, Settings

POLLS = 180
SECONDS = 10
SHARE = 0.1
SHARPER = Settings(fails=Tolerance(1.25, 0.0001), passes=Tolerance(2, 0.0005))

Row = tuple[int, int, int, int]  # canary requests and errors, stable requests and errors
Random = np.random.Generator


# ---------------------------------------------------------------------------------------------------------------------
# What happens


@dataclasses.dataclass(frozen=True)
class Case:
    """What both sides do.

    ``volume``: requests/s of the stable side, to which the canary's tenth of all comes. ``base``: the stable rate of errors, ``bad`` the
    canary's, ``since`` the poll from which it is bad. ``bursts``: the part of the polls in which one server of ten, which may be the
    canary, has 30 % errors. ``ramp``: the share grows, and errors drift on both sides.
    """

    volume: float
    base: float
    bad: float | None = None
    since: int = 0
    bursts: float = 0.0
    ramp: bool = False

    def rows(self, random: Random) -> list[Row]:
        rows = []
        for poll in range(POLLS):
            base, share = self.base, SHARE
            if self.ramp:
                base = 0.0005 + (0.02 - 0.0005) * poll / (POLLS - 1)
                share = (0.01, 0.05, 0.1, 0.25, 0.5)[poll * 5 // POLLS]
            requests = int(random.poisson(self.volume * SECONDS / (1 - SHARE)))
            canary = int(random.binomial(requests, share))
            rate = self.bad if self.bad is not None and poll >= self.since else base
            bad, stable_bad = random.binomial(canary, rate), random.binomial(requests - canary, base)
            if random.random() < self.bursts:
                if random.random() < 0.1:
                    bad = random.binomial(canary, 0.3)
                else:
                    one = (requests - canary) // 9
                    stable_bad += random.binomial(one, 0.3)
            rows.append((canary, int(bad), requests - canary, int(min(stable_bad, requests - canary))))
        return rows


# ---------------------------------------------------------------------------------------------------------------------
# Who judges it: the number of the poll, from 1, after which the canary is taken back; 0 for never


def ours(rows: t.Sequence[Row], settings: Settings = Settings()) -> int:  # noqa: B008
    state = _judge.begin(settings)
    for number, row in enumerate(rows, 1):
        state = _judge.take(settings, state, Poll({"errors": Counts(*row)}))
        if state.failed:
            return number
    return 0


def sharper(rows: t.Sequence[Row]) -> int:
    return ours(rows, SHARPER)


def flagger(rows: t.Sequence[Row]) -> int:
    """At least 99 % of the answers are good; no values fail a check, too; the fifth failed check is one too many."""
    failed = 0
    for number, (canary, bad, _stable, _stable_bad) in enumerate(rows, 1):
        failed += not canary or (canary - bad) / canary < 0.99
        if failed >= 5:
            return number
    return 0


def z_test(rows: t.Sequence[Row]) -> int:
    """Two proportions of all counts so far, at 1 %, again at every poll."""
    canary = bad = stable = stable_bad = 0
    for number, row in enumerate(rows, 1):
        canary, bad, stable, stable_bad = (x + y for x, y in zip((canary, bad, stable, stable_bad), row))
        pooled = (bad + stable_bad) / max(1, canary + stable)
        if not canary or not stable or not 0 < pooled < 1:
            continue
        z = (bad / canary - stable_bad / stable) / (pooled * (1 - pooled) * (1 / canary + 1 / stable)) ** 0.5
        if z > 2.326:
            return number
    return 0


def kayenta(rows: t.Sequence[Row]) -> int:
    """The rates of the polls so far, as two samples: fails where the interval of their difference lies above a quarter of its estimate."""
    for number in range(6, len(rows) + 1, 6):
        seen = [row for row in rows[:number] if row[0] and row[2]]
        if len(seen) < 5:
            continue
        canary, stable = (np.array([row[place + 1] / row[place] for row in seen]) for place in (0, 2))
        if _mann_whitney_is_high(canary, stable):
            return number
    return 0


def _mann_whitney_is_high(canary: t.Any, stable: t.Any) -> bool:
    if np.array_equal(np.sort(canary), np.sort(stable)) or len(np.unique(np.concatenate([canary, stable]))) == 1:
        return False
    differences = np.sort((canary[:, None] - stable[None, :]).ravel())
    m, n = len(canary), len(stable)
    # The interval from inverting the test: order statistics of the pairwise differences.
    z = statistics.NormalDist().inv_cdf(1 - 0.02 / 2)
    rank = int(m * n / 2 - z * (m * n * (m + n + 1) / 12) ** 0.5)
    low = differences[max(0, rank)]
    estimate = float(np.median(differences))
    ratio = canary.mean() / stable.mean() if stable.mean() else np.nan
    return bool(low > 0.25 * abs(estimate) and (np.isnan(ratio) or ratio >= 1.0))


JUDGES: dict[str, t.Callable[[t.Sequence[Row]], int]] = {
    "ours": ours,
    "sharper": sharper,
    "flagger": flagger,
    "kayenta": kayenta,
    "z-test": z_test,
}


def _one(task: tuple[Case, int, tuple[str, ...]]) -> dict[str, int]:
    case, seed, names = task
    rows = case.rows(np.random.default_rng(seed))
    return {name: JUDGES[name](rows) for name in names}


def judged(case: Case, runs: int, names: t.Sequence[str] = tuple(JUDGES)) -> dict[str, list[int]]:
    """Of each judge the polls at which it took the canary back."""
    tasks = [(case, 1000 * seed + hash((case.volume, case.base)) % 997, tuple(names)) for seed in range(runs)]
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(_one, tasks, chunksize=8))
    return {name: [one[name] for one in found] for name in names}


def told(what: str, found: t.Mapping[str, t.Sequence[int]], since: int = 0) -> None:
    """A line of the table: for each judge how many runs ended in a rollback, and after how many seconds at the median."""
    cells = []
    for name, polls in found.items():
        back = [poll for poll in polls if poll]
        late = f", {SECONDS * (statistics.median(back) - since):.0f} s" if back else ""
        cells.append(f"{name} {100 * len(back) / len(polls):.1f} %{late}")
    print(f"\n{what}: {'; '.join(cells)}")


def part(polls: t.Sequence[int]) -> float:
    return sum(map(bool, polls)) / len(polls)


# ---------------------------------------------------------------------------------------------------------------------


def test_a_canary_that_equals_the_stable_side_is_taken_back_in_at_most_one_of_200_runs() -> None:
    every: dict[str, list[int]] = {}
    for volume in (10, 100, 1000):
        for base in (0.0001, 0.001, 0.01):
            found = judged(Case(volume, base), 30)
            told(f"equal, {volume} requests/s, {100 * base:g} % errors", found)
            for name, polls in found.items():
                every.setdefault(name, []).extend(polls)
    told("equal, all of these", every)
    assert part(every["ours"]) <= 0.005


def test_bursts_of_one_server_are_taken_for_a_bad_canary_in_at_most_one_of_100_runs() -> None:
    every: dict[str, list[int]] = {}
    for volume in (100, 1000):
        for name, polls in judged(Case(volume, 0.001, bursts=0.02), 60).items():
            every.setdefault(name, []).extend(polls)
    told("one server of ten bursts", every)
    assert part(every["ours"]) <= 0.01


def test_a_rate_that_drifts_while_the_share_grows_is_no_difference() -> None:
    found = judged(Case(100, 0.0005, ramp=True), 100)
    told("ramp 1-5-10-25-50 % while errors drift from 0.05 to 2 %", found)
    assert part(found["ours"]) <= 0.005


@pytest.mark.parametrize("bad", [0.5, 1.0])
@pytest.mark.parametrize("volume", [10, 100, 1000])
def test_a_canary_that_is_mostly_broken_is_found_in_40_seconds_always(volume: int, bad: float) -> None:
    found = judged(Case(volume, 0.001, bad=bad), 30)
    told(f"{100 * bad:g} % errors, {volume} requests/s", found)
    assert all(found["ours"])
    assert SECONDS * max(found["ours"]) <= 40


def test_a_canary_that_is_20_times_worse_is_found_in_a_minute() -> None:
    found = judged(Case(100, 0.001, bad=0.02), 50)
    told("20 times worse than 0.1 %, 100 requests/s", found)
    assert all(found["ours"])
    assert SECONDS * statistics.median(found["ours"]) <= 60


def test_a_canary_that_is_5_times_worse_is_found_in_8_minutes_and_with_a_sharper_tolerance_in_5() -> None:
    found = judged(Case(100, 0.001, bad=0.005), 120)
    told("5 times worse than 0.1 %, 100 requests/s", found)
    assert SECONDS * statistics.median(poll or POLLS for poll in found["ours"]) <= 480
    assert SECONDS * statistics.median(poll or POLLS for poll in found["sharper"]) <= 300


def test_a_canary_that_breaks_after_15_good_minutes_is_found_in_a_minute() -> None:
    for volume in (100, 1000):
        found = judged(Case(volume, 0.001, bad=0.5, since=90), 30)
        told(f"50 % errors after 15 minutes, {volume} requests/s", found, since=90)
        assert all(poll > 90 and SECONDS * (poll - 90) <= 60 for poll in found["ours"])


# --- Latency


def _slow(task: tuple[float, float, int]) -> int:
    volume, factor, seed = task
    random, settings = np.random.default_rng(seed), Settings()
    state = _judge.begin(settings, latency=True)
    for number in range(1, POLLS + 1):
        requests = int(random.poisson(volume * SECONDS))
        canary = int(random.binomial(requests, SHARE))
        times = random.lognormal(3.0, 0.6, requests)
        mine, rest = factor * times[:canary], times[canary:]
        counts = Counts(canary, 0, requests - canary, 0)
        samples = [[(one, one, 1) for one in side.tolist()] for side in (mine, rest)]
        state = _judge.take(settings, state, Poll({"errors": counts}, samples[0], samples[1]))
        if state.failed:
            return number
    return 0


@pytest.mark.parametrize(("volume", "limit"), [(10.0, 120), (100.0, 60)])
def test_a_canary_of_twice_the_latency_is_found(volume: float, limit: int) -> None:
    with ProcessPoolExecutor(2) as pool:
        found = {"ours": list(pool.map(_slow, [(volume, 2.0, seed) for seed in range(30)]))}
    told(f"twice the latency, {volume:g} requests/s", found)
    assert all(found["ours"])
    assert SECONDS * statistics.median(found["ours"]) <= limit


def test_equal_latencies_are_taken_back_in_at_most_one_of_100_runs() -> None:
    tasks = [(10.0, 1.0, seed) for seed in range(100)] + [(100.0, 1.0, seed) for seed in range(6)]
    with ProcessPoolExecutor(2) as pool:
        found = {"ours": list(pool.map(_slow, tasks))}
    told("equal latencies", found)
    assert part(found["ours"]) <= 0.01


# --- What it costs


def test_a_poll_takes_well_under_a_millisecond() -> None:
    settings, state = Settings(), _judge.begin(Settings(), averages=True)
    rows = Case(100, 0.01).rows(np.random.default_rng(1))
    spent = []
    for row in rows:
        began = time.perf_counter()
        state = _judge.take(settings, state, Poll({"errors": Counts(*row)}))
        _judge.verdict(settings, state)
        spent.append(1000 * (time.perf_counter() - began))
    print(f"\na poll takes {statistics.median(spent):.3f} ms")
    assert statistics.median(spent) < 1
