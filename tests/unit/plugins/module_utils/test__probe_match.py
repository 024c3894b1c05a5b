# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _probe_match
from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import ProbeError
from ansible_collections.steady.rollout.plugins.module_utils._probe_match import Matcher, SlowMatch

# Seconds: what a search gets that is over at once, and one that never is.
ENOUGH, SHORT = 20.0, 0.5
# What a loaded machine may add to SHORT.
SLACK = 2.0
# Quadratic and exponential: hours and more.
ENDLESS = [(r"\s+ready", " " * 1_000_000), (r"(a+)+$", "a" * 64 + "b")]


@pytest.fixture
def matcher() -> t.Iterator[Matcher]:
    made = Matcher()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^(ok|ready)$", "ready", True),
        ("^(ok|ready)$", "not ready", False),
        ("(?i)größe", "die GRÖSSE, die Größe", True),
        ("a\nb", "a\nb", True),
        ("\ud800", "\ud800", True),
        ("end$", "x" * 1_000_000 + "end", True),
    ],
    ids=["found", "not found", "not ASCII", "two lines", "a surrogate", "a long text"],
)
def test_search_is_that_of_python(matcher: Matcher, pattern: str, text: str, found: bool) -> None:
    assert matcher.search(re.compile(pattern), text, ENOUGH) is found


@pytest.mark.parametrize(("pattern", "text"), ENDLESS, ids=["quadratic", "exponential"])
def test_endless_search_ends_in_its_time(matcher: Matcher, pattern: str, text: str) -> None:
    started = time.monotonic()
    with pytest.raises(SlowMatch, match=r"regular expression .* took longer than 0\.5 s"):
        matcher.search(re.compile(pattern), text, SHORT)
    assert time.monotonic() - started < SHORT + SLACK


def test_search_after_an_endless_one_is_made(matcher: Matcher) -> None:
    for _search in range(_probe_match.SHARED + 1):
        with pytest.raises(SlowMatch):
            matcher.search(re.compile(ENDLESS[1][0]), ENDLESS[1][1], 0.1)
    assert matcher.search(re.compile("a"), "a", ENOUGH)


def test_endless_searches_delay_no_other(matcher: Matcher) -> None:
    slow = []

    def search() -> None:
        with pytest.raises(SlowMatch):
            matcher.search(re.compile(ENDLESS[1][0]), ENDLESS[1][1], 6.0)
        slow.append(time.monotonic())

    threads = [threading.Thread(target=search) for _thread in range(2 * _probe_match.SHARED)]
    for thread in threads:
        thread.start()
    assert matcher.search(re.compile("a"), "a", ENOUGH)
    quick = time.monotonic()
    for thread in threads:
        thread.join()
    assert len(slow) == len(threads)
    assert quick < min(slow)


def test_one_process_serves_many_searches(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    assert matcher.search(re.compile("a"), "a", ENOUGH)
    monkeypatch.setattr(_probe_match.sys, "executable", "/nonexistent")
    assert not any(matcher.search(re.compile("a"), "b", ENOUGH) for _search in range(20))


def test_host_without_processes_is_told(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_probe_match.sys, "executable", "/nonexistent")
    with pytest.raises(ProbeError, match="lets no process be started"):
        matcher.search(re.compile("a"), "a", ENOUGH)


def test_search_ends_although_its_parent_is_gone() -> None:
    """Its standard output is a pipe that only ends when every process that holds it has."""
    program = f"""
import os, re, subprocess, threading, time
from ansible_collections.steady.rollout.plugins.module_utils import _probe_match
_probe_match.subprocess.DEVNULL = 1
matcher = _probe_match.Matcher()
search = re.compile({ENDLESS[1][0]!r}), {ENDLESS[1][1]!r}, 1.0
matcher.search(re.compile("a"), "a", 10.0)
threading.Thread(target=matcher.search, args=search, daemon=True).start()
while matcher._idle.qsize() == _probe_match.SHARED:
    pass
os._exit(0)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, timeout=ENOUGH, check=False
    )
    assert ended.returncode == 0
