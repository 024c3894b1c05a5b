# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What systemd says of a unit, and what follows from it. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "ExecMainCode",
    "ExecMainStatus",
    "NeedDaemonReload",
    "UnitFileState",
    "InvocationID",
    "FragmentPath",
)
# Beyond stop_timeout: systemd itself kills what does not stop in the time that the unit has for it.
STOP_GRACE = 10.0
# Systemd calls a unit active before its process has entered its folder, let alone begun its program.
SHORTEST_SETTLE = 0.2
_ENABLED = ("enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "linked", "transient")
_KILLED = {"2": "was killed by signal", "3": "dumped its core after signal"}
# Exit codes of systemd itself, before the program runs.
_EXIT_CODES = {
    "200": "its WorkingDirectory cannot be entered",
    "203": "its program cannot be run: it is not there, or not executable, or its interpreter is missing",
    "216": "its group is not there",
    "217": "its user is not there",
    "226": "its namespace cannot be made, as when one of its paths is missing",
    "238": "its StateDirectory cannot be made",
}
RUNNING, STOPPED = "running", "stopped"


@dataclass(frozen=True)
class Unit:
    """A reading. ``main_pid``: 0 where there is none. ``directory``: the one that its main process works in; None where that is not known.
    ``file``: the path of what systemd read; empty where it has none.
    """

    load: str
    active: str
    sub: str
    result: str = "success"
    main_pid: int = 0
    restarts: int = 0
    exit_code: str = "0"
    exit_status: str = "0"
    needs_reload: bool = False
    file_state: str = ""
    invocation: str = ""
    directory: str | None = None
    file: str = ""

    @property
    def is_there(self) -> bool:
        return self.load not in ("not-found", "")

    @property
    def is_up(self) -> bool:
        return self.active in ("active", "reloading") and self.main_pid > 0

    @property
    def is_down(self) -> bool:
        return self.active in ("inactive", "failed") or not self.is_there

    @property
    def is_enabled(self) -> bool:
        return self.file_state in _ENABLED

    def as_dict(self) -> dict[str, t.Any]:
        return {
            "load": self.load,
            "active": self.active,
            "sub": self.sub,
            "main_pid": self.main_pid or None,
            "directory": self.directory,
            "restarts": self.restarts,
            "enabled": self.is_enabled,
        }


@dataclass(frozen=True)
class Aim:
    """What a unit is to be. ``directory``: the one that its main process is to work in; None where that does not matter."""

    state: str
    enabled: bool = True
    directory: str | None = None
    restart: bool = False


@dataclass(frozen=True)
class Waits:
    """Seconds."""

    start: float
    stop: float
    settle: float


@dataclass(frozen=True)
class Acts:
    """What is to be done, in this order. ``why``: of the start or restart."""

    reload: bool = False
    enable: bool | None = None
    stop: bool = False
    start: bool = False
    restart: bool = False
    why: str = ""

    @property
    def any(self) -> bool:
        return self.reload or self.enable is not None or self.stop or self.start or self.restart


def unit(text: str, directory: str | None = None) -> Unit:
    """Of `systemctl show`. What it does not say is as if nothing had happened."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def number(name: str) -> int:
        value = values.get(name, "")
        return int(value) if value.isdigit() else 0

    return Unit(
        load=values.get("LoadState", ""),
        active=values.get("ActiveState", ""),
        sub=values.get("SubState", ""),
        result=values.get("Result", ""),
        main_pid=number("MainPID"),
        restarts=number("NRestarts"),
        exit_code=values.get("ExecMainCode", "0"),
        exit_status=values.get("ExecMainStatus", "0"),
        needs_reload=values.get("NeedDaemonReload") == "yes",
        file_state=values.get("UnitFileState", ""),
        invocation=values.get("InvocationID", ""),
        file=values.get("FragmentPath", ""),
        directory=directory,
    )


def acts(found: Unit, aim: Aim) -> Acts:
    """What has to be done for the aim; nothing where all is as it is to be."""
    reload = found.needs_reload or not found.is_there
    enable = aim.enabled if found.is_enabled != aim.enabled and (found.is_there or aim.state == RUNNING) else None
    if aim.state == STOPPED:
        return Acts(found.needs_reload, enable, stop=not found.is_down)
    if not found.is_up:
        return Acts(reload, enable, start=True, why=f"it was {found.active or 'not there'}")
    if aim.restart:
        return Acts(reload, enable, restart=True, why="that was asked for")
    if found.needs_reload:
        return Acts(reload, enable, restart=True, why="its files changed since systemd read them")
    if aim.directory is not None and found.directory != aim.directory:
        return Acts(reload, enable, restart=True, why=f"it worked in {found.directory or 'a folder that is not known'}")
    return Acts(reload, enable)


@dataclass(frozen=True)
class Progress:
    """Of a start. ``since``: when the main process that is there was first seen, seconds; ``stopped``: when the one before was gone."""

    done: bool = False
    problem: str = ""
    main: tuple[int, str] | None = None
    since: float = 0.0
    stopped: float | None = None
    restarts: int = 0


def progress(old: Unit, now: Unit, seconds: float, last: Progress, waits: Waits) -> Progress:
    """Where a start is, ``seconds`` after it was asked for. It is done when one main process was there for the time to settle."""
    stop_limit = waits.stop + STOP_GRACE
    if last.main is not None:
        return _settling(now, seconds, last, waits)
    if (
        old.is_up
        and last.stopped is None
        and (now.active == "deactivating" or (now.is_up and main_of(now) == main_of(old)))
    ):
        if seconds <= stop_limit:
            return last
        return _failed(f"its main process {old.main_pid} did not stop in {stop_limit:g} s")
    stopped = seconds if last.stopped is None else last.stopped
    if now.is_up:
        return Progress(main=main_of(now), since=seconds, stopped=stopped, restarts=now.restarts)
    # What is said of the process before is no news.
    is_new = now.invocation != old.invocation or not old.invocation
    if is_new and (now.active in ("failed", "inactive") or now.sub.startswith("auto-restart")) and now.invocation:
        return _failed(f"it ended right after it was started: {ending(now)}")
    if seconds - stopped > waits.start:
        how = f": {ending(now)}" if now.active == "failed" else f": it is {now.active} ({now.sub})"
        return _failed(f"it was not active {waits.start:g} s after it was started{how}")
    return Progress(stopped=stopped)


def _settling(now: Unit, seconds: float, last: Progress, waits: Waits) -> Progress:
    if not now.is_up or main_of(now) != last.main or now.restarts > last.restarts:
        pid = last.main[0] if last.main else 0
        return _failed(f"its main process {pid} ended {seconds - last.since:.1f} s after it was active: {ending(now)}")
    return replace(last, done=seconds - last.since >= max(waits.settle, SHORTEST_SETTLE))


def _failed(problem: str) -> Progress:
    return Progress(False, problem)


def main_of(one: Unit) -> tuple[int, str]:
    """Its main process, as what no other one is."""
    return one.main_pid, one.invocation


def ending(one: Unit) -> str:
    """How its main process ended, for a person."""
    if one.result == "start-limit-hit":
        return "it ended too often in a short time, and systemd starts it no more"
    if one.exit_code in _KILLED:
        words = f"its main process {_KILLED[one.exit_code]} {one.exit_status}"
    elif one.exit_status in _EXIT_CODES:
        words = f"exit code {one.exit_status}: {_EXIT_CODES[one.exit_status]}"
    else:
        words = f"its main process ended with exit code {one.exit_status}"
    return f"{words} (state {one.active}, result {one.result})"
