# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a condition, which is how everything here waits."""

from __future__ import annotations

import time
import typing as t

T = t.TypeVar("T")


def poll(
    condition: t.Callable[[], T],
    what: str | t.Callable[[], str],
    seconds: float = 15.0,
    error: type[Exception] = AssertionError,
    interval: float = 0.01,
) -> T:
    """The first true value of ``condition``. Raises ``error`` naming ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise error(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(interval)
    return value
