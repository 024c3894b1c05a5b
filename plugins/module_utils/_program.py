# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Runs a program to its end, for whoever has no module at hand to do it: the guard, for example."""

from __future__ import annotations

import os
import tempfile
import typing as t


def run(command: t.Sequence[str]) -> tuple[int, str, str]:
    """(exit code, output, errors). A code below 0 is the signal that ended it. Raises FileNotFoundError where there is no such program."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, open(os.devnull, "rb") as nothing:
        # The guard is no module, and has no run_command.
        pid = os.posix_spawnp(  # pylint: disable=ansible-bad-function
            command[0],
            list(command),
            # What it says is read for its words.
            {**os.environ, "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
            ],
        )
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, _text(output), _text(errors)


def _text(stream: t.IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")
