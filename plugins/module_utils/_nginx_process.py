# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The processes of a running NGINX, and a reload that is proved by them.

Neither `nginx -t` nor `nginx -s reload` tells whether a configuration serves: a master that cannot use it goes on with the old one and
says so only in its log. What it does when it can is start workers, and ask the old ones to leave: that is looked for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError

MASTER, WORKER, LEAVING = "nginx: master process", "nginx: worker process", "is shutting down"
LOOK_SECONDS = 0.02


class NginxProcessError(LoadBalancerError):
    """NGINX does not run, or did not do what it was told; the message says what was seen."""


class Process(t.NamedTuple):
    """``started``: in ticks since the boot, so that a number that is used again is another process."""

    pid: int
    parent: int
    started: int
    title: str

    @property
    def leaves(self) -> bool:
        """Whether it only finishes what it has."""
        return LEAVING in self.title


def master_of(pid_file: str) -> Process:
    """The master that wrote a pid file. Raises NginxProcessError where none runs."""
    try:
        with open(pid_file, encoding="ascii") as stream:
            text = stream.read().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise NginxProcessError(f"nginx does not run: {pid_file} cannot be read ({exc})") from exc
    found = _process(int(text)) if text.isdigit() else None
    if found is None or not found.title.startswith(MASTER):
        raise NginxProcessError(
            f"nginx does not run: {pid_file} names {text[:20] or 'nothing'}, which is no master of it"
        )
    return found


def workers_of(master: Process) -> list[Process]:
    """The workers of a master, those that leave included."""
    children = (_process(pid) for pid in _children(master.pid))
    return [one for one in children if one and one.parent == master.pid and one.title.startswith(WORKER)]


def is_running(process: Process) -> bool:
    now = _process(process.pid)
    return now is not None and now.started == process.started


def end(workers: t.Sequence[Process], seconds: float) -> None:
    """Have workers end now, whatever they still do. Raises NginxProcessError where they have not in time."""
    deadline = time.monotonic() + seconds
    for one in workers:
        if is_running(one):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGTERM)
    while any(is_running(one) for one in workers):
        if time.monotonic() >= deadline:
            raise NginxProcessError(
                f"workers {', '.join(str(one.pid) for one in workers)} of nginx were told to end, and did not"
            )
        time.sleep(LOOK_SECONDS)


def reload(master: Process, seconds: float, clock: t.Callable[[], float] = time.monotonic) -> list[Process]:
    """Have the configuration read again. Returns the new workers, once all old ones were asked to leave.

    Raises NginxProcessError where that is not seen in time: the old configuration serves on.
    """
    before = {(one.pid, one.started) for one in workers_of(master)}
    # A worker that the master was about to start anyway has read the old configuration.
    told = int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
    deadline = clock() + seconds
    try:
        os.kill(master.pid, signal.SIGHUP)
    except OSError as exc:
        raise NginxProcessError(f"the master {master.pid} of nginx cannot be told to reload: {exc.strerror}") from exc
    while True:
        active = [one for one in workers_of(master) if not one.leaves]
        if active and all(one.started >= told and (one.pid, one.started) not in before for one in active):
            return active
        if not is_running(master):
            raise NginxProcessError(f"the master {master.pid} of nginx ended while it reloaded")
        if clock() >= deadline:
            raise NginxProcessError(
                f"nginx was told to reload, and started no new workers in {seconds:g} s: it goes on with the configuration it had, and its "
                "error log says why"
            )
        time.sleep(LOOK_SECONDS)


def _process(pid: int) -> Process | None:
    """None for one that is gone, or ended and not yet taken notice of."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as stream:
            state, *fields = stream.read().rpartition(b")")[2].split()
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            title = stream.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        if state not in (b"Z", b"X"):
            return Process(pid, int(fields[0]), int(fields[18]), title)
    return None


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
        return [int(word) for word in stream.read().split()]
    # Not every kernel lists them.
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
