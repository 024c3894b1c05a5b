# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Tries many targets at the same time until each has risen, was given up, or the deadline has passed.

Threads only make tries. What follows from a try is decided by one loop, so that nothing here needs a lock. A target
that hangs takes one thread: up to MAX_THREADS of them delay nobody.
"""

from __future__ import annotations

import heapq
import math
import queue
import threading
import time
import typing as t
from dataclasses import replace

from ansible_collections.steady.rollout.plugins.module_utils._probe import Progress, Rules, Target, Try, advance
from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import ProbeError

MAX_THREADS = 256
# Seconds after the deadline at which a try that did not end in its time is left behind.
GRACE = 1.0

Attempt = t.Callable[[Target, float], Try]
_Outcome = t.Union[Try, Exception]
_Work = t.Optional[int]  # the place of a target in the list; None: the thread may end
_Done = tuple[int, _Outcome, float]


def run(targets: t.Sequence[Target], rules: Rules, attempt: Attempt) -> tuple[list[Progress], float]:
    """The progress of each target when all are settled, and the seconds it took.

    `attempt` makes one try and keeps to the seconds it is given. What it raises is raised here.
    """
    probe = _Probe(targets, rules, attempt)
    started = probe.start_threads()
    try:
        return probe.settle(), probe.now()
    finally:
        probe.end_threads(started)


class _Probe:
    def __init__(self, targets: t.Sequence[Target], rules: Rules, attempt: Attempt) -> None:
        self._targets, self._rules, self._attempt = targets, rules, attempt
        self._start = time.monotonic()
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[_Done] = queue.SimpleQueue()

    def now(self) -> float:
        return time.monotonic() - self._start

    def start_threads(self) -> int:
        wanted = min(len(self._targets), MAX_THREADS)
        for number in range(wanted):
            try:
                threading.Thread(target=self._try_on, daemon=True).start()
            except RuntimeError as error:
                # A host that is short of processes: fewer threads are slower, but do the same.
                if number == 0:
                    raise ProbeError(f"This host lets no thread be started to probe with: {error}.") from error
                return number
        return wanted

    def end_threads(self, started: int) -> None:
        for _thread in range(started):
            self._work.put(None)

    def settle(self) -> list[Progress]:
        progresses = [Progress() for _target in self._targets]
        due = [(0.0, place) for place in range(len(progresses))]
        unsettled = len(progresses)
        while unsettled:
            self._hand_out(due)
            done = self._next_done(due)
            if done is None:
                if self.now() >= self._rules.deadline + GRACE:
                    return [_left_behind(progress, self.now()) for progress in progresses]
                continue
            place, outcome, ended = done
            if isinstance(outcome, Exception):
                raise outcome
            progresses[place] = progress = advance(progresses[place], outcome, ended, self._rules)
            if progress.due is None:
                unsettled -= 1
            else:
                heapq.heappush(due, (progress.due, place))
        return progresses

    def _hand_out(self, due: list[tuple[float, int]]) -> None:
        while due and due[0][0] <= self.now():
            self._work.put(heapq.heappop(due)[1])

    def _next_done(self, due: t.Sequence[tuple[float, int]]) -> _Done | None:
        """What the next try that ends came to, or None when another try is due first, or the deadline was."""
        until = min(due[0][0] if due else math.inf, self._rules.deadline + GRACE)
        try:
            return self._done.get(timeout=None if math.isinf(until) else max(0.0, until - self.now()))
        except queue.Empty:
            return None

    def _try_on(self) -> None:
        while True:
            place = self._work.get()
            if place is None:
                return
            try:
                outcome: _Outcome = self._try(self._targets[place])
            except Exception as error:  # told by the loop, which would wait for this target for ever
                outcome = error
            self._done.put((place, outcome, self.now()))

    def _try(self, target: Target) -> Try:
        left = self._rules.deadline - self.now()
        if left <= 0:
            return Try(reason="was not asked before the deadline", cut=True)
        result = self._attempt(target, min(self._rules.timeout, left))
        # A try that had its whole time is a failure like any other.
        return replace(result, cut=False) if left >= self._rules.timeout else result


def _left_behind(progress: Progress, now: float) -> Progress:
    return progress if progress.due is None else replace(progress, due=None, elapsed=now)
