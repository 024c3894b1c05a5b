# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from dataclasses import replace

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._release_unit import (
    RUNNING,
    STOP_GRACE,
    STOPPED,
    Acts,
    Aim,
    Progress,
    Unit,
    Waits,
    acts,
    ending,
    progress,
    unit,
)
from hypothesis import given
from hypothesis import strategies as st

WAITS = Waits(start=60, stop=30, settle=2)
NOT_THERE = Unit("not-found", "inactive", "dead")
STOPPED_UNIT = Unit("loaded", "inactive", "dead", file_state="disabled")
OLD = Unit("loaded", "active", "running", main_pid=10, invocation="aa", file_state="enabled", directory="/r/1")
NEW = replace(OLD, main_pid=20, invocation="bb", directory="/r/2")
STOPPING = replace(OLD, active="deactivating", sub="stop-sigterm")
STARTING = replace(OLD, active="activating", sub="start", main_pid=20, invocation="bb")
FAILED = replace(OLD, active="failed", sub="failed", result="exit-code", main_pid=0, exit_code="1", exit_status="3")

UNITS = st.builds(
    Unit,
    load=st.sampled_from(["loaded", "not-found", "masked", ""]),
    active=st.sampled_from(["active", "reloading", "inactive", "failed", "activating", "deactivating"]),
    sub=st.sampled_from(["running", "dead", "auto-restart", "exited", "stop-sigterm"]),
    main_pid=st.integers(0, 2),
    restarts=st.integers(0, 2),
    needs_reload=st.booleans(),
    file_state=st.sampled_from(["enabled", "disabled", "static", "masked", ""]),
    invocation=st.sampled_from(["", "aa", "bb"]),
    directory=st.sampled_from([None, "/r/1", "/r/2"]),
)
AIMS = st.builds(
    Aim,
    state=st.sampled_from([RUNNING, STOPPED]),
    enabled=st.booleans(),
    directory=st.sampled_from([None, "/r/1", "/r/2"]),
    restart=st.booleans(),
)


def test_what_systemctl_shows_is_read() -> None:
    text = (
        "LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\nMainPID=42\nNRestarts=1\nExecMainCode=0\n"
        "ExecMainStatus=0\nNeedDaemonReload=yes\nUnitFileState=enabled\nInvocationID=ab\nDescription=a=b\n"
    )
    assert unit(text, "/r/1") == Unit(
        "loaded", "active", "running", "success", 42, 1, "0", "0", True, "enabled", "ab", "/r/1"
    )


@given(st.text())
def test_what_nobody_understands_is_no_unit_that_runs(text: str) -> None:
    assert not unit(text).is_up or "MainPID=" in text


@pytest.mark.parametrize(
    ("found", "aim", "wanted"),
    [
        (OLD, Aim(RUNNING), Acts()),
        (OLD, Aim(RUNNING, directory="/r/1"), Acts()),
        (OLD, Aim(RUNNING, directory="/r/2"), Acts(restart=True, why="it worked in /r/1")),
        (
            replace(OLD, directory="/r/1 (deleted)"),
            Aim(RUNNING, directory="/r/1"),
            Acts(restart=True, why="it worked in /r/1 (deleted)"),
        ),
        (
            replace(OLD, directory=None),
            Aim(RUNNING, directory="/r/1"),
            Acts(restart=True, why="it worked in a folder that is not known"),
        ),
        (OLD, Aim(RUNNING, restart=True), Acts(restart=True, why="that was asked for")),
        (
            replace(OLD, needs_reload=True),
            Aim(RUNNING),
            Acts(reload=True, restart=True, why="its files changed since systemd read them"),
        ),
        (STOPPED_UNIT, Aim(RUNNING), Acts(enable=True, start=True, why="it was inactive")),
        (NOT_THERE, Aim(RUNNING), Acts(reload=True, enable=True, start=True, why="it was inactive")),
        (replace(OLD, file_state="disabled"), Aim(RUNNING), Acts(enable=True)),
        (OLD, Aim(RUNNING, enabled=False), Acts(enable=False)),
        (replace(OLD, file_state="static"), Aim(RUNNING), Acts()),
        (FAILED, Aim(RUNNING), Acts(start=True, why="it was failed")),
        (OLD, Aim(STOPPED, enabled=False), Acts(enable=False, stop=True)),
        (STOPPED_UNIT, Aim(STOPPED, enabled=False, restart=True), Acts()),
        (FAILED, Aim(STOPPED), Acts()),
        (NOT_THERE, Aim(STOPPED, enabled=False), Acts()),
        (NOT_THERE, Aim(STOPPED), Acts()),
    ],
)
def test_what_is_done_is_what_is_needed(found: Unit, aim: Aim, wanted: Acts) -> None:
    assert acts(found, aim) == wanted


@given(UNITS, AIMS)
def test_what_is_as_it_is_to_be_is_left_alone(found: Unit, aim: Aim) -> None:
    runs_well = found.is_up and not found.needs_reload and not aim.restart and aim.directory in (None, found.directory)
    needed = acts(found, aim)
    if aim.state == RUNNING and runs_well:
        assert not any((needed.start, needed.restart, needed.stop))
    if aim.state == RUNNING and not runs_well:
        assert needed.start or needed.restart
    if aim.state == STOPPED:
        assert needed.stop is not found.is_down
        assert not any((needed.start, needed.restart))


def follow(old: Unit, readings: t.Sequence[tuple[float, Unit]], waits: Waits = WAITS) -> Progress:
    """Up to the first reading at which it is done, or has failed."""
    last = Progress()
    for seconds, found in readings:
        last = progress(old, found, seconds, last, waits)
        if last.done or last.problem:
            break
    return last


def test_a_restart_is_done_when_the_new_process_has_settled() -> None:
    readings = [(0.0, OLD), (0.5, STOPPING), (3.0, STARTING), (3.5, NEW), (5.4, NEW)]
    assert not follow(OLD, readings).done
    assert follow(OLD, [*readings, (5.5, NEW)]).done


def test_without_time_to_settle_a_process_is_still_seen_twice() -> None:
    waits = replace(WAITS, settle=0)
    assert not follow(OLD, [(0.1, NEW)], waits).done
    assert follow(OLD, [(0.1, NEW), (0.4, NEW)], waits).done


def test_the_process_before_is_given_its_time_to_stop_and_the_new_one_its_own_to_start() -> None:
    readings = [(39.0, STOPPING), (40.5, STARTING), (100.0, STARTING), (100.4, NEW), (102.4, NEW)]
    assert follow(OLD, readings).done


@pytest.mark.parametrize("found", [OLD, STOPPING])
def test_a_process_that_does_not_stop_is_told(found: Unit) -> None:
    last = follow(OLD, [(30.0 + STOP_GRACE, found), (30.1 + STOP_GRACE, found)])
    assert last.problem == "its main process 10 did not stop in 40 s"


def test_a_start_that_takes_too_long_is_told() -> None:
    last = follow(STOPPED_UNIT, [(0.0, STARTING), (60.1, STARTING)])
    assert last.problem == "it was not active 60 s after it was started: it is activating (start)"


@pytest.mark.parametrize(
    "end",
    [
        replace(FAILED, invocation="bb"),
        replace(FAILED, invocation="bb", active="activating", sub="auto-restart"),
        replace(NEW, main_pid=30, invocation="cc", restarts=1),
        replace(NEW, restarts=1),
        replace(NEW, active="deactivating"),
        replace(NEW, active="inactive", main_pid=0),
    ],
)
def test_a_process_that_ends_while_it_settles_is_told(end: Unit) -> None:
    last = follow(OLD, [(1.0, NEW), (1.5, NEW), (2.5, end)])
    assert last.problem.startswith("its main process 20 ended 1.5 s after it was active: ")


@pytest.mark.parametrize(
    "end",
    [
        replace(FAILED, invocation="bb"),
        replace(FAILED, invocation="bb", active="activating", sub="auto-restart"),
        replace(FAILED, invocation="bb", active="inactive", exit_status="0", result="success"),
    ],
)
@pytest.mark.parametrize("old", [OLD, STOPPED_UNIT, FAILED])
def test_a_process_that_ends_before_it_was_seen_is_told_at_once(old: Unit, end: Unit) -> None:
    last = follow(old, [(0.2, end)])
    assert last.problem.startswith("it ended right after it was started: ")


@pytest.mark.parametrize("old", [FAILED, replace(FAILED, active="activating", sub="auto-restart")])
def test_what_is_still_said_of_the_process_before_is_no_news(old: Unit) -> None:
    assert follow(old, [(0.1, old), (0.2, STARTING), (0.5, NEW), (2.6, NEW)]).done


def test_a_unit_that_systemd_does_not_start_again_is_told_in_the_end() -> None:
    limit = replace(FAILED, result="start-limit-hit")
    last = follow(FAILED, [(0.1, limit), (60.2, limit)])
    assert "ended too often in a short time" in last.problem


@given(UNITS, st.lists(UNITS, max_size=12))
def test_a_start_is_done_only_after_one_process_was_there_for_the_whole_time(old: Unit, readings: list[Unit]) -> None:
    last, times = Progress(), [float(number) for number in range(len(readings))]
    for seconds, found in zip(times, readings):
        last = progress(old, found, seconds, last, WAITS)
        if last.problem:
            return
        if last.done:
            index = int(seconds)
            settled = readings[index - 2 : index + 1]
            assert len(settled) == 3
            assert len({(one.main_pid, one.invocation) for one in settled}) == 1
            assert all(one.is_up for one in settled)
            return


@pytest.mark.parametrize("reading", [OLD, STOPPING, STARTING, FAILED, STOPPED_UNIT, NOT_THERE])
@given(old=UNITS)
def test_a_start_that_never_comes_ends(old: Unit, reading: Unit) -> None:
    last = follow(old, [(float(seconds), reading) for seconds in range(120)])
    assert last.done or last.problem


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (FAILED, "its main process ended with exit code 3 (state failed, result exit-code)"),
        (
            replace(FAILED, exit_status="203"),
            "exit code 203: its program cannot be run: it is not there, or not executable, or its interpreter is missing",
        ),
        (replace(FAILED, exit_code="2", exit_status="9", result="signal"), "its main process was killed by signal 9"),
        (replace(FAILED, exit_code="3", exit_status="11"), "its main process dumped its core after signal 11"),
    ],
)
def test_how_a_process_ended_is_told_to_a_person(found: Unit, words: str) -> None:
    assert ending(found).startswith(words)
