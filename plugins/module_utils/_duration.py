# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Durations as people write them: ``30``, ``30s``, ``5m``, ``1h30m``."""

from __future__ import annotations

import math
import re
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError, quoted

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
LONGEST = 366 * 86400  # more is surely a mistake, such as milliseconds

_NUMBER = r"([0-9]{1,20}(?:\.[0-9]{1,20})?)"
_PARTS = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in UNITS))
_PLAIN = re.compile(_NUMBER)


def duration(value: t.Any) -> float:
    """Seconds of ``value``: a number of seconds, or a text such as ``30``, ``30s``, ``5m`` or ``1h30m``.

    Raises PlanError for anything else, for less than nothing, and for more than a year.
    """
    seconds = _of_text(value.strip()) if isinstance(value, str) else _of_number(value)
    if seconds is None:
        raise PlanError(f"{quoted(value)} is not a duration; write seconds, or a text such as 30s, 5m or 1h30m.")
    if not 0 <= seconds <= LONGEST:
        raise PlanError(f"{quoted(value)} is not a duration from 0 seconds to a year.")
    return seconds


def spelled(seconds: float) -> str:
    """``seconds`` as people write them: ``90`` is ``1m30s``. Fractions of a second are kept, of more than a minute not."""
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s" if seconds < 59.9995 else "1m"
    left, text = round(seconds), ""
    for unit, length in UNITS.items():
        count, left = divmod(left, length)
        text += f"{count}{unit}" if count else ""
    return text


def _of_number(value: t.Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        return float(max(-1, min(value, LONGEST + 1)))  # a number too large for a float is out of range all the same
    return None if math.isnan(value) else value


def _of_text(text: str) -> float | None:
    if _PLAIN.fullmatch(text):
        return float(text)
    parts = _PARTS.fullmatch(text)
    if not text or parts is None:
        return None
    return float(sum(float(count) * unit for count, unit in zip(parts.groups(), UNITS.values()) if count))
