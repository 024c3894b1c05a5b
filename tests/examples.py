# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many examples a property is tried on, where that is not Hypothesis's own number."""

from __future__ import annotations

from hypothesis import settings


def examples(count: int) -> settings:
    """So many; where the profile only has to show that this Python agrees, no more than it says."""
    profile = settings()
    few = profile.max_examples < settings.get_profile("default").max_examples
    return settings(max_examples=min(count, profile.max_examples) if few else count)
