# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Crashes out of what a supervisor noted."""

from __future__ import annotations

import typing as t

import pytest

from local_fleet.incidents import DETECTED, SLACK, Crash, find_crashes, find_killed


def event(time: float, host: str, name: str, **values: t.Any) -> dict[str, t.Any]:
    return {"time": time, "host": host, "event": name, "release": "2.0.0", **values}


def test_a_crash_lasts_until_the_host_is_started_again() -> None:
    events = [event(1, "web1", "started"), event(2, "web1", "crashed", exit_code=70), event(5, "web1", "started")]
    assert find_crashes(events) == (Crash("web1", "2.0.0", 2, 70, until=5),)


def test_a_crash_that_nobody_mended_has_no_end() -> None:
    events = [event(2, "web1", "crashed", exit_code=70), event(5, "web2", "started")]
    assert find_crashes(events) == (Crash("web1", "2.0.0", 2, 70, until=None),)


def test_every_crash_of_a_host_is_found() -> None:
    events = [event(float(time), "web1", name, exit_code=1) for time, name in enumerate(["crashed", "started"] * 3)]
    assert [(crash.time, crash.until) for crash in find_crashes(events)] == [(0, 1), (2, 3), (4, 5)]


def test_a_stop_is_no_crash() -> None:
    assert find_crashes([event(1, "web1", "started"), event(2, "web1", "stopped", exit_code=0)]) == ()


@pytest.mark.parametrize("until", [None, 1000.0])
@pytest.mark.parametrize(
    ("start", "end", "covered"),
    [
        (99.0, 100.0, True),
        (99.0, 100 - SLACK / 2, True),
        (99.0, 99.5, False),
        (100.5, 100.6, True),
        (99 + DETECTED, 2000.0, True),
        (101 + DETECTED, 102 + DETECTED, False),
    ],
)
def test_a_crash_covers_what_load_balancers_cannot_know_of(
    start: float, end: float, covered: bool, until: float | None
) -> None:
    assert Crash("web1", "2.0.0", 100.0, 70, until=until).covers(start, end) is covered


def test_a_crash_covers_nothing_after_the_host_is_started_again() -> None:
    assert not Crash("web1", "2.0.0", 100.0, 70, until=101.0).covers(101.1, 101.2)


def test_killed_requests_name_their_release_and_host() -> None:
    notes = [{"time": 1, "host": "web1", "release": "2.0.0", "requests": ["r1", "r2"]}]
    assert find_killed(notes) == {"r1": ("2.0.0", "web1"), "r2": ("2.0.0", "web1")}
