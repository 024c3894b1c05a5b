# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fleet under load looks like at a moment, in words for one line. Pure."""

from __future__ import annotations

import collections
import dataclasses
import re
import typing as t

from local_fleet.tally import HARMED, LOST, Outcome, Record

WAITS = ("UP", "no check")  # how the status of a server begins that may carry traffic


@dataclasses.dataclass(frozen=True)
class Sight:
    """What was seen at a moment: which servers carry on each load balancer, and what each app host runs now."""

    carrying: t.Mapping[str, t.Collection[str]]
    releases: t.Mapping[str, str | None]


@dataclasses.dataclass
class Traffic:
    """The requests of a span of time: by load balancer and release, and what became of them."""

    answers: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)
    sent: int = 0
    lost: int = 0
    harmed: int = 0

    def add(self, record: Record, outcome: Outcome) -> None:
        """Count a request."""
        self.sent += 1
        self.lost += outcome.kind == LOST
        self.harmed += outcome.kind == HARMED
        release = record.release or "no release"
        self.answers.setdefault(record.lb, collections.Counter())[release] += 1


def carrying(rows: t.Mapping[str, t.Mapping[str, str]]) -> list[str]:
    """The servers of `show stat` that get new requests."""
    return [name for name, row in rows.items() if row["status"].startswith(WAITS) and int(row["weight"])]


def places(sight: Sight) -> str:
    """Who carries and who does not, with their releases: `web1-3 (1.0.0) carry; web4-6 (2.0.0) out`."""
    told = []
    for lbs, hosts in _alike(sight.carrying):
        others = [host for host in sight.releases if host not in hosts]
        words = f"{_by_release(sight, sorted(hosts))} in rotation"
        if others:
            words += f", {_by_release(sight, others)} out"
        told.append(f"{' and '.join(lbs)}: {words}")
    return "; ".join(told)


def figures(traffic: Traffic, seconds: float, total: Traffic) -> str:
    """Which release answered how much on each load balancer, and the state of the load."""
    parts = []
    for lb, answers in sorted(traffic.answers.items()):
        whole = sum(answers.values())
        shares = ", ".join(f"{release} {100 * count / whole:.0f} %" for release, count in sorted(answers.items()))
        parts.append(f"{lb} {shares}")
    rate = traffic.sent / seconds if seconds > 0 else 0.0
    return "   ".join([*parts, f"{rate:.0f} requests/s, so far {total.lost} lost, {total.harmed} harmed"])


def short(hosts: t.Sequence[str]) -> str:
    """`web1-3, web5` for web1, web2, web3, web5."""
    runs: list[list[str]] = []
    for host in hosts:
        if runs and _follows(runs[-1][-1], host):
            runs[-1].append(host)
        else:
            runs.append([host])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}-{_number(run[-1])}" for run in runs)


def _by_release(sight: Sight, hosts: t.Sequence[str]) -> str:
    groups: dict[str, list[str]] = {}
    for host in hosts:
        groups.setdefault(sight.releases[host] or "stopped", []).append(host)
    return " and ".join(f"{short(group)} ({release})" for release, group in groups.items()) or "nobody"


def _alike(seen: t.Mapping[str, t.Collection[str]]) -> list[tuple[list[str], t.Collection[str]]]:
    """The load balancers, those on which the same servers carry together."""
    groups: list[tuple[list[str], t.Collection[str]]] = []
    for lb, hosts in seen.items():
        for lbs, known in groups:
            if set(known) == set(hosts):
                lbs.append(lb)
                break
        else:
            groups.append(([lb], hosts))
    return groups


def _number(host: str) -> str:
    found = re.search(r"\d+$", host)
    return found[0] if found else host


def _follows(one: str, other: str) -> bool:
    one_number, other_number = _number(one), _number(other)
    same = one[: -len(one_number)] == other[: -len(other_number)]
    return same and one_number.isdigit() and other_number.isdigit() and int(other_number) == int(one_number) + 1


def harm(release: str, outcomes: t.Sequence[tuple[float, Outcome]]) -> str:
    """How many requests a release harmed, and how long it took until it got no more. ``outcomes``: each with when it was due."""
    harmed = [due for due, outcome in outcomes if outcome.release == release and outcome.kind == HARMED]
    got = [due for due, outcome in outcomes if outcome.release == release]
    if not got:
        return f"release {release} harmed no request: it never got one"
    last = max(got)
    if not harmed:
        return f"release {release} harmed no request; {last - min(got):.1f} s after its first one it got no more"
    count = f"{len(harmed)} request{'' if len(harmed) == 1 else 's'}"
    return f"release {release} harmed {count}; {last - min(harmed):.1f} s after the first one it got no more"


# The part of the processors that the load, the load balancers and the apps may take; and the least load that shows anything.
SHARE = 0.35
LEAST_RATE = 30.0
_IDLE = slice(3, 5)  # idle and waiting for disks, of the numbers of /proc/stat


def busy(before: t.Sequence[int], after: t.Sequence[int]) -> float:
    """The part of the time, from 0 to 1, in which the processors were busy between two readings of /proc/stat."""
    spent = [late - early for early, late in zip(before, after)]
    return 1 - sum(spent[_IDLE]) / sum(spent) if sum(spent) > 0 else 1.0


def affordable(rate: float, busy_part: float) -> float:
    """The rate that keeps the processors no busier than SHARE, where ``rate`` made them so busy; in tens."""
    if busy_part <= SHARE:
        return rate
    return max(LEAST_RATE, 10 * int(rate * SHARE / busy_part / 10))
