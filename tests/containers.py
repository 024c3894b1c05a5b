# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers and networks of test runs: each carries its owner, and is gone when that is, even if it was killed.

Standard library only: `./test` uses it before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import typing as t

OWNER = "steady-test.owner"
COMMAND_SECONDS = 120


class DockerError(Exception):
    """Docker refuses something; the message says what it said."""


def docker(*arguments: str) -> str:
    """What docker answers. Raises DockerError when it refuses."""
    command = ["docker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    if done.returncode != 0:
        raise DockerError(f"docker {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def identity(pid: int) -> str:
    """The process as PID-STARTTIME, since a pid alone is used again; PID-gone where there is none."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"{pid}-gone"
    return f"{pid}-{stat.rpartition(')')[2].split()[19]}"


def remove_orphans() -> None:
    """Remove what belongs to owners that are gone, as after a killed test run."""
    _remove(lambda owner: identity(int(owner.split("-")[0])) != owner)


def remove_own() -> None:
    """Remove what belongs to this process."""
    mine = identity(os.getpid())
    _remove(lambda owner: owner == mine)


def _remove(chosen: t.Callable[[str], bool]) -> None:
    for name in _labelled(chosen, "ps", "--all"):
        # Another run may be removing the same one.
        with contextlib.suppress(DockerError):
            docker("rm", "--force", "--volumes", name)
    # A network can go only when nothing is attached to it.
    for name in _labelled(chosen, "network", "ls"):
        with contextlib.suppress(DockerError):
            docker("network", "rm", name)


def _labelled(chosen: t.Callable[[str], bool], *listing: str) -> list[str]:
    """The ids of what `docker LISTING` lists and a chosen owner has."""
    form = '{{.ID}} {{.Label "' + OWNER + '"}}'
    lines = docker(*listing, "--filter", f"label={OWNER}", "--format", form).splitlines()
    return [name for name, owner in (line.split() for line in lines) if chosen(owner)]
