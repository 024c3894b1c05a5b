"""Commands that cannot hang and cannot leave anything behind.

Each command is a process group of its own with a deadline. This process adopts whatever its commands abandon
(daemons, orphans), so that it can be found and stopped by its process id, never by a name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import typing as t
from pathlib import Path

STOP_GRACE = 10.0
ORPHAN_GRACE = 5.0
POLL_INTERVAL = 0.1
PR_SET_CHILD_SUBREAPER = 36

# A container's shim belongs to dockerd, even while it hangs below us.
NOT_OURS = ("containerd-shim",)


class TimedOut(Exception):
    """A command was stopped because its deadline passed."""


class Deadline:
    """A moment after which nothing of a stage may run any more."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._end - time.monotonic())


def run(command: t.Sequence[str | Path], *, env: t.Mapping[str, str], cwd: Path, deadline: Deadline) -> int:
    """Run a command with our output as its output and return its exit code; raise TimedOut at the deadline."""
    process = subprocess.Popen(list(command), env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait(timeout=deadline.remaining())
    except subprocess.TimeoutExpired:
        raise TimedOut(f"stopped: not done within the stage's {deadline.seconds:.0f} s") from None
    finally:
        stop_group(process)


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """Stop a process that runs, with all of its group: politely first, then for certain."""
    if process.poll() is not None:
        return
    for stop_signal in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_GRACE)
            return


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stop_orphans(keep: t.Collection[int]) -> list[str]:
    """Stop the adopted processes that do not end by themselves, and name them."""
    end = time.monotonic() + ORPHAN_GRACE
    while (orphans := _children(keep)) and time.monotonic() < end:
        time.sleep(POLL_INTERVAL)
    names = [f"{name} (pid {pid})" for pid, name in sorted(orphans.items())]
    end = time.monotonic() + STOP_GRACE
    while orphans and time.monotonic() < end:
        # The children of a stopped orphan become orphans in turn: look again until there are none.
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_INTERVAL)
        orphans = _children(keep)
    return names


def _children(keep: t.Collection[int]) -> dict[int, str]:
    """Our live children by process id, without `keep`; children that have ended are reaped on the way."""
    found = {}
    me = os.getpid()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in keep:
            continue
        try:
            status = (entry / "stat").read_text()
        except OSError:
            continue
        # The name stands in brackets and may hold any character.
        name = status[status.index("(") + 1 : status.rindex(")")]
        state, parent = status[status.rindex(")") + 1 :].split()[:2]
        if int(parent) != me:
            continue
        if state == "Z":
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(entry.name), os.WNOHANG)
        elif not name.startswith(NOT_OURS):
            found[int(entry.name)] = name
    return found
