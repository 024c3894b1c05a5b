# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts crashed by themselves, for how long, and which requests that killed. Pure: no I/O."""

from __future__ import annotations

import dataclasses
import typing as t

SLACK = 0.3  # seconds by which the supervisor on a busy machine may note a crash after clients feel it
# Seconds after which no load balancer has an excuse to send requests to a host that crashed: its checks, which take 0.6 s,
# have failed by then, even on a busy machine.
DETECTED = 5.0


@dataclasses.dataclass(frozen=True)
class Crash:
    """The end of a process that nobody asked for. Times are Unix times in seconds; `until` is when it was replaced."""

    host: str
    release: str | None
    time: float
    exit_code: int
    until: float | None = None

    def covers(self, start: float, end: float) -> bool:
        """Whether the host was down by this crash, unknown to load balancers, at some moment from `start` to `end`."""
        known = self.time + DETECTED
        return end >= self.time - SLACK and start <= (known if self.until is None else min(self.until, known))


class Killer(t.NamedTuple):
    """The release, and the host it ran on, whose crash killed a request."""

    release: str
    host: str


@dataclasses.dataclass(frozen=True)
class Incidents:
    """The crashes of a fleet, and who killed a request, by request id."""

    crashes: tuple[Crash, ...] = ()
    killed: t.Mapping[str, Killer] = dataclasses.field(default_factory=dict)

    def crash_of(self, host: str | None, start: float, end: float) -> Crash | None:
        """The crash that explains what `host` did not answer from `start` to `end`."""
        return next((crash for crash in self.crashes if crash.host == host and crash.covers(start, end)), None)


def find_crashes(events: t.Iterable[t.Mapping[str, t.Any]]) -> tuple[Crash, ...]:
    """The crashes in a fleet's events, which are in the order of their times."""
    crashes: list[Crash] = []
    open_crash: dict[str, int] = {}
    for event in events:
        host = event["host"]
        if host in open_crash:
            index = open_crash.pop(host)
            crashes[index] = dataclasses.replace(crashes[index], until=event["time"])
        if event["event"] == "crashed":
            open_crash[host] = len(crashes)
            crashes.append(Crash(host, event["release"], event["time"], event["exit_code"]))
    return tuple(crashes)


def find_killed(notes: t.Iterable[t.Mapping[str, t.Any]]) -> dict[str, Killer]:
    """Who killed a request, by the id of each, from what crashing apps noted."""
    return {request: Killer(note["release"], note["host"]) for note in notes for request in note["requests"]}
