# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import math
import threading
import time
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _probe_run
from ansible_collections.steady.rollout.plugins.module_utils._probe import Rules, Target, Try
from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import Expectation, ProbeError
from ansible_collections.steady.rollout.plugins.module_utils._probe_run import run

from local_fleet.polling import poll

OK = Try(status=200, latency_ms=1.0)
BAD = Try(reason="answered 503 instead of 200", status=503, latency_ms=1.0)
# Far more than a loaded machine needs for what takes no time.
SOON = 5.0


def named(*names: str) -> list[Target]:
    return [
        Target(
            name=name,
            scheme="http",
            address="127.0.0.1",
            port=80,
            unix_socket=None,
            path="/",
            host="127.0.0.1",
            server_hostname="127.0.0.1",
            headers=(),
            expect=Expectation(statuses=((200, 200),)),
        )
        for name in names
    ]


def rules(rise: int = 1, fall: int = 0, interval: float = 0.01, timeout: float = 5, deadline: float = 30) -> Rules:
    return Rules(rise=rise, fall=fall, interval=interval, timeout=timeout, deadline=deadline)


def always(result: Try) -> t.Callable[[Target, float], Try]:
    return lambda _target, _seconds: result


class Hang:
    """Tries of targets named hang... end only when they are let go; all others are answered at once."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def attempt(self, target: Target, seconds: float) -> Try:
        if not target.name.startswith("hang"):
            return OK
        self.let_go.wait(seconds)
        return Try(reason=f"gave no answer within {seconds} s", cut=True)


@pytest.fixture
def hang() -> t.Iterator[Hang]:
    hanging = Hang()
    yield hanging
    hanging.let_go.set()


def test_run_ends_when_all_have_risen() -> None:
    progresses, elapsed = run(named("a", "b"), rules(rise=3), always(OK))
    assert [(progress.health, progress.tries) for progress in progresses] == [("up", 3), ("up", 3)]
    assert elapsed < SOON


def test_results_are_in_the_order_of_the_targets() -> None:
    names = [str(number) for number in range(50)]
    progresses, _elapsed = run(
        named(*names), rules(fall=1), lambda target, _seconds: OK if int(target.name) % 3 else BAD
    )
    assert [progress.risen for progress in progresses] == [number % 3 != 0 for number in range(50)]


def test_flapping_target_rises_only_after_successes_in_a_row() -> None:
    script = iter([OK, OK, BAD, OK, BAD, OK, OK, OK, BAD])
    (progress,), _elapsed = run(named("a"), rules(rise=3), lambda _target, _seconds: next(script))
    assert (progress.health, progress.tries, progress.last_failure) == ("up", 8, BAD)


def test_tries_of_a_target_are_an_interval_apart() -> None:
    starts = []

    def attempt(_target: Target, _seconds: float) -> Try:
        starts.append(time.monotonic())
        return OK

    run(named("a"), rules(rise=4, interval=0.1), attempt)
    assert all(later - earlier >= 0.1 for earlier, later in zip(starts, starts[1:]))


def test_run_fails_at_the_deadline() -> None:
    (progress,), elapsed = run(named("a"), rules(deadline=0.3), always(BAD))
    assert progress.health == "down"
    assert progress.tries > 1
    assert elapsed <= 0.3 + _probe_run.GRACE


def test_target_is_given_up_while_others_still_rise() -> None:
    progresses, elapsed = run(
        named("good", "bad"), rules(rise=20, fall=2), lambda target, _seconds: OK if target.name == "good" else BAD
    )
    assert [(progress.health, progress.tries) for progress in progresses] == [("up", 20), ("down", 2)]
    assert elapsed < SOON


def test_try_gets_no_more_time_than_the_deadline_leaves() -> None:
    given: list[float] = []

    def attempt(_target: Target, seconds: float) -> Try:
        given.append(seconds)
        return BAD

    run(named("a"), rules(timeout=5, deadline=0.2), attempt)
    assert max(given) <= 0.2


def test_timeout_that_was_not_shortened_is_a_failure_like_any_other(hang: Hang) -> None:
    (progress,), _elapsed = run(named("hang"), rules(timeout=0.05, fall=3), hang.attempt)
    assert progress.tries == 3


def test_hanging_targets_delay_no_other(hang: Hang) -> None:
    names = [f"hang{n}" for n in range(150)] + [f"good{n}" for n in range(100)]
    progresses, _elapsed = run(named(*names), rules(rise=3, timeout=30, deadline=3), hang.attempt)
    good = progresses[150:]
    assert all(progress.risen for progress in good)
    assert max(progress.elapsed for progress in good) < 2
    assert not any(progress.risen for progress in progresses[:150])


def test_more_targets_than_threads_are_all_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe_run, "MAX_THREADS", 4)
    busy = threading.Semaphore(4)

    def attempt(_target: Target, _seconds: float) -> Try:
        assert busy.acquire(blocking=False)
        try:
            return OK
        finally:
            busy.release()

    progresses, _elapsed = run(named(*map(str, range(40))), rules(rise=2), attempt)
    assert all(progress.risen for progress in progresses)


def test_try_that_never_ends_is_left_behind_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe_run, "GRACE", 0.1)
    let_go = threading.Event()

    def attempt(_target: Target, _seconds: float) -> Try:
        let_go.wait()
        return OK

    try:
        (progress,), elapsed = run(named("a"), rules(deadline=0.2), attempt)
    finally:
        let_go.set()
    assert (progress.health, progress.due, progress.tries) == ("down", None, 0)
    assert elapsed < SOON


def test_error_in_a_try_is_raised() -> None:
    def attempt(_target: Target, _seconds: float) -> Try:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(named("a"), rules(deadline=math.inf), attempt)


def test_host_with_few_threads_left_uses_those(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_threads(monkeypatch, 2)
    progresses, _elapsed = run(named(*map(str, range(10))), rules(), always(OK))
    assert all(progress.risen for progress in progresses)


def test_host_without_threads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_threads(monkeypatch, 0)
    with pytest.raises(ProbeError, match="lets no thread be started"):
        run(named("a"), rules(), always(OK))


def limit_threads(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    start = threading.Thread.start
    left = iter(range(most))

    def limited(thread: threading.Thread) -> None:
        if next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


def test_threads_end_with_the_run() -> None:
    before = threading.active_count()
    run(named(*map(str, range(30))), rules(), always(OK))
    poll(lambda: threading.active_count() <= before, "the threads have ended", SOON)
