# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Has systemd run, restart or stop a unit, and sees that it did."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.steady.rollout.plugins.module_utils._files import put, written_beside
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError, shown
from ansible_collections.steady.rollout.plugins.module_utils._release_unit import (
    PROPERTIES,
    RUNNING,
    STOP_GRACE,
    Acts,
    Aim,
    Progress,
    Unit,
    Waits,
    acts,
    main_of,
    progress,
    unit,
)

POLL_SECONDS = 0.1
JOURNAL_LINES = 20

# Runs a command: its exit code, its output and its errors. Raises FileNotFoundError where there is no such program.
Run = t.Callable[[list[str]], tuple[int, str, str]]


@dataclass(frozen=True)
class Outcome:
    before: Unit
    after: Unit
    acts: Acts


class Service:
    """A unit of systemd. ``name``: with or without its `.service`."""

    def __init__(self, run: Run, name: str) -> None:
        if not name or name.startswith("-") or any(one in name for one in "/ \n\t*?["):
            raise ReleaseError(f"{shown(name)} is no name of a unit. Nothing was changed.")
        self.name = name if name.endswith(".service") else f"{name}.service"
        self._run = run

    def read(self) -> Unit:
        output = self._systemctl("show", self.name, f"--property={','.join(PROPERTIES)}")
        found = unit(output)
        return replace(found, directory=working_directory(found.main_pid))

    def foreseen(self, aim: Aim) -> Outcome:
        """What ``bring`` would do. Nothing is changed."""
        found = self.read()
        return Outcome(found, found, acts(found, aim))

    def bring(self, aim: Aim, waits: Waits) -> Outcome:
        """Raises ReleaseError where the unit is not what it is to be, with what it said last."""
        if aim.directory is not None and aim.state == RUNNING and not os.path.isdir(aim.directory):
            raise ReleaseError(f"{aim.directory} is not there, so {self.name} cannot work in it. Nothing was changed.")
        before = found = self.read()
        planned = acts(before, aim)
        if not planned.any:
            return Outcome(before, before, planned)
        if planned.reload:
            self._systemctl("daemon-reload")
            found = self.read()
        self._check(found, aim)
        if planned.enable is not None:
            self._systemctl("enable" if planned.enable else "disable", self.name)
        if planned.stop:
            self._stop(waits)
        if planned.start or planned.restart:
            self._start(found, waits)
        after = self.read()
        self._check_after(after, aim)
        return Outcome(before, after, planned)

    def keep(self, path: str, done: Outcome, waits: Waits) -> bool:
        """Whether the unit's file was copied to ``path``, after ``bring``: not where that holds the same. Raises ReleaseError, OSError."""
        found = self.read()
        if not found.file:
            raise ReleaseError(f"{self.name} has no file that could be kept.")
        if not (done.acts.start or done.acts.restart or os.path.lexists(path)):
            # One that somebody else started, such as a run that was killed, may be about to end.
            self._await(found, Progress(main=main_of(found), restarts=found.restarts), waits)
        data = pathlib.Path(found.file).read_bytes()
        with contextlib.suppress(FileNotFoundError):
            if pathlib.Path(path).read_bytes() == data:
                return False
        with written_beside(path, data, 0o600) as temporary:
            put(temporary, path)
        return True

    def _check(self, found: Unit, aim: Aim) -> None:
        if aim.state != RUNNING:
            return
        if not found.is_there:
            raise ReleaseError(
                f"systemd knows no {self.name}. Write its file, such as /etc/systemd/system/{self.name}."
            )
        if found.load != "loaded":
            raise ReleaseError(
                f"systemd cannot use {self.name}: it is {found.load}. See: systemctl status {self.name}; systemd-analyze verify {self.name}"
            )

    def _check_after(self, after: Unit, aim: Aim) -> None:
        if aim.state == RUNNING and aim.directory is not None and after.directory != aim.directory:
            raise self._error(
                f"is active, and its main process {after.main_pid} works in {after.directory or 'a folder that cannot be read'}, not in "
                f"{aim.directory}: its WorkingDirectory must be the link `current` of the release"
            )
        if after.is_enabled != aim.enabled and after.is_there:
            raise self._error(
                f"is {after.file_state or 'not enabled'} after it was to be {'enabled' if aim.enabled else 'disabled'}"
            )

    def _start(self, old: Unit, waits: Waits) -> None:
        """Have systemd do it, which goes on where this call ends."""
        with contextlib.suppress(ReleaseError):
            # One that ended too often before is started no more otherwise, also not with another release.
            self._systemctl("reset-failed", self.name)
        self._systemctl("restart", "--no-block", self.name)
        self._await(old, Progress(), waits)

    def _await(self, old: Unit, last: Progress, waits: Waits) -> None:
        """Until one main process was there for the time to settle."""
        begun = time.monotonic()
        while not last.done:
            last = progress(old, self.read(), time.monotonic() - begun, last, waits)
            if last.problem:
                raise self._error(f"does not run: {last.problem}")
            if not last.done:
                time.sleep(POLL_SECONDS)

    def _stop(self, waits: Waits) -> None:
        self._systemctl("stop", "--no-block", self.name)
        deadline = time.monotonic() + waits.stop + STOP_GRACE
        while not self.read().is_down:
            if time.monotonic() >= deadline:
                raise self._error(f"is still stopping after {waits.stop + STOP_GRACE:g} s")
            time.sleep(POLL_SECONDS)

    def _error(self, problem: str) -> ReleaseError:
        return ReleaseError(f"{self.name} {problem}. {self._said()}")

    def _said(self) -> str:
        """The last lines of its journal. They are shown, and never read for anything."""
        with contextlib.suppress(OSError):
            code, output, _errors = self._run(
                ["journalctl", "--unit", self.name, f"--lines={JOURNAL_LINES}", "--no-pager", "--quiet", "--output=cat"]
            )
            lines = ["".join(one if one.isprintable() else " " for one in line)[:500] for line in output.splitlines()]
            if code == 0 and lines:
                return "\n".join(
                    [f"The last lines of its journal (journalctl -u {self.name}):", *lines[-JOURNAL_LINES:]]
                )
        return f"Its journal has no lines that can be read here. See: systemctl status {self.name}"

    def _systemctl(self, *arguments: str) -> str:
        try:
            code, output, errors = self._run(["systemctl", "--no-pager", *arguments])
        except FileNotFoundError as exc:
            raise ReleaseError(
                "there is no systemctl on this host. Nothing was changed. Run the release by other means."
            ) from exc
        if code != 0:
            raise ReleaseError(f"systemctl {' '.join(arguments)} failed with {code}: {(errors or output).strip()}")
        return output


def working_directory(pid: int) -> str | None:
    """The real path of the folder that a process works in; None where there is no such process, or it cannot be read."""
    if pid <= 0:
        return None
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/cwd")
    return None
