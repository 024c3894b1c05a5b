# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What is wrong with a plan, and how what a user wrote is quoted back to them."""

from __future__ import annotations

import reprlib
import typing as t

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxlevel = 3
_LONGEST = 160


class PlanError(Exception):
    """A plan, or what one is made from, makes no sense; the message says where, and what to write instead."""


def quoted(value: t.Any) -> str:
    """``value`` as it may stand in a message: short, whatever it is."""
    if isinstance(value, int) and not -(10**20) < value < 10**20:
        return "a very large number"  # thousands of digits cannot even be printed
    if isinstance(value, str):
        value = str(value)
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def listed(names: t.Iterable[str], most: int = 6) -> str:
    """``web1, web2 and 17 more``: at most ``most`` names, then how many are left out."""
    every = list(names)
    if len(every) <= most + 1:
        return ", ".join(every)
    return f"{', '.join(every[:most])} and {len(every) - most} more"
