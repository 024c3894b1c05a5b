# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Crashes out of what a supervisor noted."""

from __future__ import annotations

import typing as t

from local_fleet.incidents import Crash, find_crashes, find_killed


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


def test_killed_requests_name_their_release_and_host() -> None:
    notes = [{"time": 1, "host": "web1", "release": "2.0.0", "requests": ["r1", "r2"]}]
    assert find_killed(notes) == {"r1": ("2.0.0", "web1"), "r2": ("2.0.0", "web1")}
