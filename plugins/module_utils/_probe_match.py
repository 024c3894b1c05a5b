# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Regular expressions on untrusted text, each search within a time limit.

Some searches take years on some texts, and Python runs nothing else meanwhile: no thread, no timer. So searches are made
by processes of their own, which can be killed. They outlive neither a search's time nor the process that asks.
"""

from __future__ import annotations

import json
import os
import queue
import re
import socket
import subprocess
import sys
import time

from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import ProbeError

# Reads [pattern, text, seconds] as lines of JSON and writes true or false for each. It imports nothing of the collection,
# which modules carry in an archive. The alarm ends a search that nobody waits for any more, because its parent is gone.
_PROGRAM = """
import json, re, signal, sys
signal.signal(signal.SIGALRM, signal.SIG_DFL)
for line in sys.stdin:
    pattern, text, seconds = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    found = re.search(pattern, text) is not None
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps(found), flush=True)
"""
# Seconds that a process has to end by itself before it is killed by its parent.
ALARM_AFTER = 0.5
# So many processes are shared. Only a search that had to wait PATIENCE seconds for one gets another.
SHARED = 4
PATIENCE = 0.1
LOWEST = 19  # priority


class SlowMatch(Exception):
    """The search was not over in its time; says so as the end of a sentence about the target."""


class Matcher:
    """Searches for regular expressions; safe to be used by many threads, of which none waits for another's long search."""

    def __init__(self) -> None:
        # None stands for a process that is not started yet. What was used last is used first.
        self._idle: queue.LifoQueue[_Searcher | None] = queue.LifoQueue()
        for _place in range(SHARED):
            self._idle.put(None)

    def search(self, pattern: re.Pattern[str], text: str, seconds: float) -> bool:
        """Whether the pattern is found in the text. Raises SlowMatch, and ProbeError where no process can be started."""
        ends = time.monotonic() + seconds
        searcher = self._take(min(PATIENCE, seconds)) or _Searcher()
        found = searcher.search(pattern.pattern, text, ends)
        if found is None:
            searcher.kill()
            self._idle.put(None)
            raise SlowMatch(
                f"answered, but the regular expression {pattern.pattern!r} took longer than {seconds:.3g} s"
                if time.monotonic() >= ends
                else f"answered, but the search for the regular expression {pattern.pattern!r} broke off"
            )
        self._idle.put(searcher)
        return found

    def close(self) -> None:
        """End the processes. One that is still searching ends by itself, when the time of its search has passed."""
        while True:
            try:
                searcher = self._idle.get_nowait()
            except queue.Empty:
                return
            if searcher is not None:
                searcher.kill()

    def _take(self, seconds: float) -> _Searcher | None:
        try:
            return self._idle.get(timeout=seconds)
        except queue.Empty:
            return None


class _Searcher:
    """A process that searches, one text after the other."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        try:
            # Texts go in and answers come out while it runs, for which run_command has no way.
            self._process = subprocess.Popen(  # pylint: disable=ansible-bad-function
                [sys.executable, "-I", "-S", "-c", _PROGRAM],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self._socket.close()
            raise ProbeError(
                f"This host lets no process be started to search for regular expressions with: {error}."
            ) from error
        finally:
            theirs.close()

    def search(self, pattern: str, text: str, ends: float) -> bool | None:
        """Whether the pattern is found, or None when the process came to nothing by `ends`, a time of the monotonic clock."""
        question = json.dumps([pattern, text, max(ends - time.monotonic(), 0) + ALARM_AFTER])
        try:
            self._allow(ends)
            self._socket.sendall(f"{question}\n".encode("ascii"))
            answer = self._receive(ends)
        except OSError:
            return None
        return bool(json.loads(answer)) if answer else None

    def _receive(self, ends: float) -> bytes:
        try:
            self._allow(min(ends, time.monotonic() + PATIENCE))
            return self._socket.recv(16)
        except socket.timeout:
            # Long searches leave the processors to short ones, and to the tries of other targets.
            os.setpriority(os.PRIO_PROCESS, self._process.pid, LOWEST)
        self._allow(ends)
        return self._socket.recv(16)

    def kill(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _allow(self, ends: float) -> None:
        left = ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
