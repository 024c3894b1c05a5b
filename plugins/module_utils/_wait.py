# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Options that are seconds, checked."""

from __future__ import annotations

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError

LONGEST_WAIT = 86400  # seconds


def checked_wait(name: str, seconds: float) -> float:
    if not 0 <= seconds <= LONGEST_WAIT:
        raise LoadBalancerError(f"{name} must be a number of seconds from 0 to {LONGEST_WAIT}, not {seconds}")
    return seconds


def checked_timeout(seconds: float) -> float:
    if not 0 < seconds <= LONGEST_WAIT:
        raise LoadBalancerError(f"timeout must be a number of seconds above 0 and up to {LONGEST_WAIT}, not {seconds}")
    return seconds
